"""The chart of a comparison as SVG text: a line for each workload, a dot for each engine at its ratio to fastlstm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from benchmarks.ratios import OURS

COLORS = {
    "onnxruntime": "#0072b2",
    "openvino": "#e69f00",
    "litert": "#009e73",
    "torch": "#d55e00",
    "keras_tensorflow": "#cc79a7",
    "keras_jax": "#56b4e9",
    "keras_torch": "#8c8c8c",
}
TICKS = (0.25, 0.5, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
LEFT, RIGHT, TOP, LINE, BOTTOM, WIDTH = 120, 30, 64, 22, 44, 860


def limits(ratios: Sequence[float]) -> tuple[float, float]:
    """Ends of the logarithmic axis: ticks that hold all ratios and 1."""
    low, high = min([1.0, *ratios]), max([2.0, *ratios])
    return max([t for t in TICKS if t <= low], default=low), min([t for t in TICKS if t >= high], default=high)


def position(ratio: float, ends: tuple[float, float]) -> float:
    """Where a ratio stands, in pixels from the left."""
    low, high = (math.log(end) for end in ends)
    return LEFT + (math.log(ratio) - low) / (high - low) * (WIDTH - LEFT - RIGHT)


def text(x: float, y: float, content: str, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(content)}</text>'


def axis(ends: tuple[float, float], bottom: float) -> list[str]:
    parts = []
    for tick in TICKS:
        if ends[0] <= tick <= ends[1]:
            x = position(tick, ends)
            look = 'stroke="#222" stroke-width="2"' if tick == 1 else 'stroke="#ddd"'
            parts.append(f'<line x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{bottom:.1f}" {look}/>')
            parts.append(text(x, bottom + 15, f"{tick:g}"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(text(middle, bottom + 33, "time of the rival / time of fastlstm (right of the line 1: fastlstm is faster)"))
    return parts


def legend(names: Sequence[str]) -> list[str]:
    parts = []
    step = (WIDTH - 20) / max(len(names), 1)
    for k, name in enumerate(names):
        x = 20 + k * step
        parts.append(f'<circle cx="{x:.1f}" cy="42" r="5" fill="{COLORS.get(name, "#000")}"/>')
        parts.append(text(x + 9, 46, name, "start"))
    return parts


def svg(results: dict[str, Any]) -> str:
    """The chart of all rows of ``results``; engines without a time are left out of a line, never a line."""
    rows, machine = results["rows"], results["machine"]
    names = [name for name in results["versions"] if name != OURS]
    ratios = [e["ratio"] for row in rows for n, e in row["engines"].items() if n != OURS and e["ratio"] is not None]
    ends = limits(ratios)
    bottom = TOP + LINE * len(rows)
    title = f"One call, one thread: {machine['processor']}, {machine['isa']}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{bottom + BOTTOM}" '
        f'viewBox="0 0 {WIDTH} {bottom + BOTTOM}" font-family="sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        text(20, 22, title, "start", ' font-size="15" font-weight="bold"'),
        *legend(names),
        *axis(ends, bottom),
    ]
    for k, row in enumerate(rows):
        y = TOP + LINE * (k + 0.5)
        parts.append(text(LEFT - 10, y + 4, row["work"]["name"], "end"))
        if row["ratio"] is not None:
            x = position(row["ratio"], ends)
            color = "#9bd19b" if row["ratio"] >= 1 else "#e8a0a0"
            left, right = sorted((position(1, ends), x))
            parts.append(f'<rect x="{left:.1f}" y="{y - 5:.1f}" width="{right - left:.1f}" height="10" fill="{color}"/>')
        for name in names:
            ratio = row["engines"].get(name, {}).get("ratio")
            if ratio is not None:
                hint = f"<title>{escape(name)}: {ratio:.2f}</title>"
                dot = f'<circle cx="{position(ratio, ends):.1f}" cy="{y:.1f}" r="4.5" fill="{COLORS.get(name, "#000")}"'
                parts.append(f"{dot}>{hint}</circle>")
    return "\n".join([*parts, "</svg>"]) + "\n"
