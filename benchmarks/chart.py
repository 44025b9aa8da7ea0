"""The chart of a comparison as SVG text: a bar for each workload, as long as the best rival takes compared with fastlstm.

The axis is logarithmic: twice as fast and half as fast are equally far from the line at 1. Used by ``report``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from benchmarks.ratios import geometric_means

TITLES = {
    "LSTM": "LSTM",
    "ConvLSTM1D": "ConvLSTM1D",
    "more": "More of the LSTM",
    "training": "Training (forward and backward)",
    "threads": "Two threads",
}
TICKS = (0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 50, 100)
INK, PALE, GRID, BAND, AHEAD, BEHIND = "#1f2933", "#697586", "#dfe3e8", "#f1f4f7", "#2a9d8f", "#d1495b"
WIDTH, LEFT, RIGHT, TOP, LINE, HEADING, BOTTOM = 860, 130, 190, 86, 21, 34, 52


def limits(ratios: Sequence[float]) -> tuple[float, float]:
    """Ends of the logarithmic axis: ticks that hold all ratios, 0.5 and 2."""
    low, high = min([0.5, *ratios]), max([2.0, *ratios])
    return max([t for t in TICKS if t <= low], default=low), min([t for t in TICKS if t >= high], default=high)


def position(ratio: float, ends: tuple[float, float]) -> float:
    """Where a ratio stands, in pixels from the left."""
    low, high = (math.log(end) for end in ends)
    return LEFT + (math.log(ratio) - low) / (high - low) * (WIDTH - LEFT - RIGHT)


def text(x: float, y: float, content: str, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(content)}</text>'


def axis(ends: tuple[float, float], bottom: float) -> list[str]:
    """The numbers of the ticks above and below, and what they mean."""
    parts = []
    for tick in TICKS:
        if ends[0] <= tick <= ends[1]:
            parts += [text(position(tick, ends), y, f"{tick:g}×", more=f' fill="{PALE}"') for y in (TOP - 4, bottom + 17)]
    middle = position(1, ends)
    parts.append(text(middle + 8, bottom + 38, "fastlstm is faster →", "start", f' fill="{AHEAD}"'))
    parts.append(text(middle - 8, bottom + 38, "← slower", "end", f' fill="{BEHIND}"'))
    return parts


def grid(ends: tuple[float, float], top: float, bottom: float) -> list[str]:
    """The lines at the ticks behind the bars of a group; the one at 1 is drawn after them."""
    xs = [position(tick, ends) for tick in TICKS if ends[0] <= tick <= ends[1] and tick != 1]
    return [f'<line x1="{x:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{bottom:.1f}" stroke="{GRID}"/>' for x in xs]


def bar(row: dict[str, Any], y: float, ends: tuple[float, float]) -> list[str]:
    """The bar from 1 to the ratio, its number and the name of the best rival; a word where there is no ratio."""
    work, ratio = row["work"], row["ratio"]
    parts = [text(LEFT - 10, y + 4, work["name"], "end", f' fill="{INK}"')]
    if ratio is None:
        return [*parts, text(position(1, ends) + 8, y + 4, "no ratio", "start", f' fill="{PALE}"')]
    x, middle = position(ratio, ends), position(1, ends)
    left, width = min(x, middle), abs(x - middle)
    color = AHEAD if ratio >= 1 else BEHIND
    hint = f"<title>{escape(row['text'])}: {escape(row['best'])} takes {ratio:.2f} times as long</title>"
    parts.append(f'<rect x="{left:.1f}" y="{y - 7:.1f}" width="{width:.1f}" height="14" rx="2" fill="{color}">{hint}</rect>')
    number = f'<tspan font-weight="bold" fill="{INK}">{ratio:.2f}</tspan> <tspan fill="{PALE}">{escape(row["best"])}</tspan>'
    parts.append(f'<text x="{max(x, middle) + 7:.1f}" y="{y + 4:.1f}">{number}</text>')
    return parts


def svg(results: dict[str, Any]) -> str:
    """The chart of all rows of ``results``, group by group; a row without a ratio keeps its line."""
    rows, machine = results["rows"], results["machine"]
    ends = limits([row["ratio"] for row in rows if row["ratio"] is not None])
    means = geometric_means(rows)
    parts: list[str] = []
    y = float(TOP)
    for group, title in TITLES.items():
        own = [row for row in rows if row["work"]["group"] == group]
        if not own:
            continue
        parts.append(f'<rect x="20" y="{y + 7:.1f}" width="{WIDTH - 40}" height="20" rx="3" fill="{BAND}"/>')
        parts.append(text(28, y + 21, title, "start", f' font-weight="bold" fill="{INK}"'))
        if group in means:
            mean = f"geometric mean {means[group]:.2f}"
            parts.append(text(WIDTH - 28, y + 21, mean, "end", f' fill="{INK}"'))
        y += HEADING
        top, bottom, middle = y - 3, y + LINE * len(own) + 1, position(1, ends)
        parts += grid(ends, top, bottom)
        for row in own:
            parts += bar(row, y + LINE / 2, ends)
            y += LINE
        line = f'<line x1="{middle:.1f}" y1="{top:.1f}" x2="{middle:.1f}" y2="{bottom:.1f}" stroke="{INK}" stroke-width="1.5"/>'
        parts.append(line)
    height = y + BOTTOM
    start = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}" '
        'font-family="system-ui, -apple-system, \'Segoe UI\', \'DejaVu Sans\', sans-serif" font-size="12" role="img">',
        "<title>Time of the best rival / time of fastlstm</title>",
        '<rect width="100%" height="100%" rx="6" fill="#fff"/>',
        text(20, 28, "Time of the best rival / time of fastlstm", "start", f' font-size="16" font-weight="bold" fill="{INK}"'),
        text(20, 48, f"{machine['processor']}, {machine['isa']}", "start", f' fill="{PALE}"'),
        *axis(ends, y + 6),
    ]
    return "\n".join([*start, *parts, "</svg>"]) + "\n"
