"""Plain-text tables for the command line: aligned columns, no colour, no box drawing. Knows nothing but strings."""

from __future__ import annotations

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = (), right: Sequence[int] = (), indent: int = 0) -> str:
    """Rows of cells as lines of aligned columns, two spaces apart.

    ``right``: indices of columns that are aligned to the right (numbers); rows may be shorter than the longest one.
    """
    lines = [list(header), *map(list, rows)] if header else [list(row) for row in rows]
    columns = max((len(line) for line in lines), default=0)
    widths = [max(len(line[k]) for line in lines if k < len(line)) for k in range(columns)]
    padded = [[cell.rjust(widths[k]) if k in right else cell.ljust(widths[k]) for k, cell in enumerate(line)] for line in lines]
    return "\n".join((" " * indent + "  ".join(line)).rstrip() for line in padded)


def human_bytes(count: int) -> str:
    """1536 -> "1.5 kB": three figures, decimal units."""
    value, unit = float(count), "B"
    for bigger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, bigger
    return f"{count} B" if unit == "B" else f"{value:.3g} {unit}"


def human_seconds(seconds: float) -> str:
    """0.01234 -> "12.3 ms": three figures."""
    for factor, unit in ((1e6, "us"), (1e3, "ms")):
        if seconds * factor < 999.5:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds < 999.5 else f"{seconds:.0f} s"


def shape_text(shape: Sequence[int | None]) -> str:
    """(None, 29, 12) -> "(None, 29, 12)", whatever integer type the entries have."""
    inner = ", ".join("None" if n is None else str(int(n)) for n in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"


def printable(text: str) -> str:
    """Text from a file as it may go to a terminal: control characters, which could move the cursor, become "?"."""
    return "".join(c if c.isprintable() else "?" for c in text)
