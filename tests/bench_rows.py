"""Rows and results of a comparison, made up: what the tests of ``benchmarks`` put into ratios, tables and charts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import ratios

RUN = {"rounds": 3, "seconds": 0.1, "clock": "wall", "note": "", "cpu": [3], "date": "2001-02-03", "revision": "abc"}


def row_of(name: str, seconds: dict[str, list[float]], group: str = "LSTM", **work: Any) -> dict[str, Any]:
    """A summarized row as ``measure`` makes it."""
    entries = {engine: {"seconds": list(times), "error": 1e-7, "way": "a way"} for engine, times in seconds.items()}
    one_thread = work.pop("one_thread", [])
    work = {"name": name, "group": group, "flops": 2_000_000_000, "percentile": False, "threads": 1} | work
    row = {"work": work, "text": f"text of {name}", "run": dict(RUN), "peak": [100.0, 300.0, 200.0], "one_thread": one_thread}
    return ratios.summarize(row | {"engines": entries})


def results_of(rows: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    machine = {"processor": "a <fast> processor", "isa": "avx2", "python": "3.11.0"}
    return {"machine": machine, "versions": {name: f"{name} 1.0" for name in names}, "rows": rows}
