"""Makes a Markdown table and an SVG chart of the results of ``bench_rivals``: ``python -m benchmarks.report FILE.json``."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.chart import svg
from benchmarks.ratios import OURS, geometric_means

BUSY = 0.95  # with less than this share of the CPU something else was running
TITLES = {"LSTM": "LSTM", "ConvLSTM1D": "ConvLSTM1D", "more": "More of the LSTM", "training": "Training (forward and backward)"}


def time_text(seconds: float | None) -> str:
    """Three digits and a unit; a dash of None."""
    if seconds is None:
        return "–"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size or unit == "µs":
            return f"{seconds / size:.3g} {unit}" if seconds < 999.5 * size else f"{seconds / size:.0f} {unit}"
    raise AssertionError("unreachable")


def ratio_text(ratio: float | None) -> str:
    """A row that is lost says so in words."""
    if ratio is None:
        return "–"
    return f"**{ratio:.2f}**" if ratio >= 1 else f"{ratio:.2f} (behind)"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """A Markdown table; the first ``left`` columns are aligned left, the others right."""
    marks = ["---" if k < left else "---:" for k in range(len(header))]
    return ["| " + " | ".join(cells) + " |" for cells in (header, marks, *rows)]


def main_row(row: dict[str, Any]) -> list[str]:
    ours = row["engines"][OURS]
    best = row["engines"].get(row["best"], {})
    gflops = "–"
    if row["share_of_peak"] is not None and not row["work"]["percentile"]:
        gflops = f"{row['gflops']:.3g} / {row['peak_gflops']:.0f} ({100 * row['share_of_peak']:.0f}%)"
    rival = "none" if row["best"] is None else f"{row['best']} {time_text(best['median_seconds'])}"
    error = "–" if "error" not in ours else f"{ours['error']:.0e}"
    time = time_text(ours["median_seconds"]) if "why" not in ours else "WRONG or failed"
    return [f"`{row['work']['name']}`", row["text"], time, rival, ratio_text(row["ratio"]), gflops, error]


HEADER = ("workload", "what", "fastlstm", "best rival", "rival / fastlstm", "GFLOP/s / peak", "max error")


def engine_cell(row: dict[str, Any], name: str, notes: list[str]) -> str:
    """Time and ratio of one engine; where there is none, a word and the number of a note."""
    entry = row["engines"].get(name)
    if entry is None:
        return "–"
    if entry["median_seconds"] is not None:
        ratio = "" if name == OURS or entry["ratio"] is None else f" ({entry['ratio']:.2f})"
        return time_text(entry["median_seconds"]) + ratio
    note = f"{name}: {entry['why']}"
    if note not in notes:
        notes.append(note)
    return f"{'no' if entry.get('unsupported') else 'failed'} [{notes.index(note) + 1}]"


def markdown(results: dict[str, Any]) -> str:
    """The whole page: circumstances, best rivals group by group, all engines, notes, versions."""
    machine, rows = results["machine"], results["rows"]
    lines = [f"# fastlstm beside other libraries on {machine['processor']} ({machine['isa']})", ""]
    lines.append(
        f"One process an engine, CPU {machine['cpu']}, one thread, {results['rounds']} rounds in turn of bursts of about "
        f"{results['seconds']:g} s by the {results['clock']} clock, inputs changing from call to call. Times are medians; ratios "
        "are medians over the rounds of the rival's time / fastlstm's. Training counts three times the forward's operations. "
        "Errors are against the reference backend in float64. "
        f"Measured on {results['date']}, Python {machine['python']}."
    )
    if results["note"]:
        lines += ["", f"**{results['note']}**"]
    shares = [share for row in rows for share in row["engines"][OURS].get("cpu_share", [])]
    if shares and statistics.median(shares) < BUSY:
        lines += ["", f"**The machine was busy: fastlstm had the CPU for {100 * statistics.median(shares):.0f}% of its turns.**"]
    means = geometric_means(rows)
    for group, title in TITLES.items():
        own = [row for row in rows if row["work"]["group"] == group]
        if own:
            lines += ["", f"## {title}", "", *table(HEADER, [main_row(row) for row in own], left=2)]
            if group in means:
                lines += ["", f"Geometric mean of the ratios: **{means[group]:.2f}**"]
    names = list(results["versions"])
    notes: list[str] = []
    cells = [[f"`{row['work']['name']}`", *(engine_cell(row, name, notes) for name in names)] for row in rows]
    lines += ["", "## All engines: time of a call (times as long as fastlstm)", "", *table(["workload", *names], cells)]
    if notes:
        lines += ["", *(f"{k}. {one_line(note)}" for k, note in enumerate(notes, 1))]
    lines += ["", "## Versions and the ways that were fastest", ""]
    for name, version in results["versions"].items():
        lines.append(f"- {name}: {version}{ways_of(rows, name)}")
    return "\n".join(lines) + "\n"


def one_line(text: str) -> str:
    """A note without line breaks or table bars, not too long."""
    return " ".join(text.replace("|", "/").split())[:400]


def ways_of(rows: Sequence[dict[str, Any]], name: str) -> str:
    """ "; graph, loop (n1, n8); ...": which way of running won where."""
    ways: dict[str, list[str]] = {}
    for row in rows:
        way = row["engines"].get(name, {}).get("way")
        if way:
            ways.setdefault(way, []).append(row["work"]["name"])
    return "".join(f"; {way} ({', '.join(where)})" for way, where in ways.items())


def write(path: Path) -> str:
    """Writes FILE.md and FILE.svg beside FILE.json and returns the Markdown."""
    results = json.loads(path.read_text("utf-8"))
    text = markdown(results)
    path.with_suffix(".md").write_text(text, "utf-8")
    path.with_suffix(".svg").write_text(svg(results), "utf-8")
    return text


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
