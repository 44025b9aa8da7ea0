"""The figures of a comparison: medians of per-round ratios, the best rival, geometric means. Pure Python."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

OURS = "fastlstm"
SLOW = 5  # so many times the time of the best rival: a rival that takes longer is not asked in every round


def median_ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    """The median over the rounds of their time / our time: what a slow moment does to both drops out."""
    return statistics.median(t / o for t, o in zip(theirs, ours, strict=True))


def summarize(row: dict[str, Any]) -> dict[str, Any]:
    """Adds the figures to a row {"work", "peak": [...], "engines": {name: {"seconds": [...], ...}}}.

    Each engine that was timed gets ``median_seconds`` and, where fastlstm was timed, ``ratio``; the row gets ``best`` (the rival
    with the smallest ratio, None without one), ``ratio`` (that rival's), ``gflops`` and ``share_of_peak`` of fastlstm, and
    ``speedup``: how much longer its times with ``one_thread`` are, None without them. An engine that is ``slow`` has times of the
    first rounds only.
    """
    engines = row["engines"]
    ours = engines.get(OURS, {}).get("seconds") or None
    for engine in engines.values():
        seconds = engine.get("seconds") or None
        engine["median_seconds"] = None if seconds is None else statistics.median(seconds)
        engine["ratio"] = None
        if seconds is not None and ours is not None:
            engine["ratio"] = median_ratio(seconds, ours[: len(seconds)] if engine.get("slow") else ours)
    rivals = {name: e["ratio"] for name, e in engines.items() if name != OURS and e["ratio"] is not None}
    best = min(rivals, key=rivals.__getitem__) if rivals else None
    gflops = None if ours is None else row["work"]["flops"] / statistics.median(ours) * 1e-9
    peak = statistics.median(row["peak"]) if row["peak"] else None
    share = None if gflops is None or not peak else gflops / (peak * row["work"]["threads"])
    row |= {"best": best, "ratio": None if best is None else rivals[best]}
    row |= {"gflops": gflops, "peak_gflops": peak, "share_of_peak": share}
    row["speedup"] = median_ratio(row["one_thread"], ours) if ours and row.get("one_thread") else None
    return row


def geometric_mean(ratios: Iterable[float]) -> float | None:
    """None of nothing."""
    logs = [math.log(ratio) for ratio in ratios]
    return math.exp(sum(logs) / len(logs)) if logs else None


def geometric_means(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Group -> geometric mean of the ratios to the best rival, over the rows that have one."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        if row["ratio"] is not None:
            groups.setdefault(row["work"]["group"], []).append(row["ratio"])
    means = {group: geometric_mean(ratios) for group, ratios in groups.items()}
    return {group: mean for group, mean in means.items() if mean is not None}
