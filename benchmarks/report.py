"""Makes Markdown tables and an SVG chart of the results of ``bench_rivals``: ``python -m benchmarks.report FILE.json [--write]``.

With --write tables and chart also go into README.md and docs/performance.md, between the two marks that stand there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.chart import TITLES, svg
from benchmarks.ratios import OURS, SLOW, geometric_means

ROOT = Path(__file__).resolve().parent.parent
MARKS = ("<!-- bench-rivals: begin -->", "<!-- bench-rivals: end -->")

BUSY = 0.95  # with less than this share of the CPU something else was running


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
        gflops = f"{row['gflops']:.3g} / {row['peak_gflops'] * row['work']['threads']:.0f} ({100 * row['share_of_peak']:.0f}%)"
    rival = "none" if row["best"] is None else f"{row['best']} {time_text(best['median_seconds'])}"
    error = "–" if "error" not in ours else f"{ours['error']:.0e}"
    if ours.get("unsupported"):
        time = "left out"
    else:
        time = time_text(ours["median_seconds"]) if "why" not in ours else "WRONG or failed"
    cells = [f"`{row['work']['name']}`", row["text"], time, rival, ratio_text(row["ratio"]), gflops, error]
    if row["work"]["threads"] > 1:
        cells.append("–" if row["speedup"] is None else f"{row['speedup']:.2f}")
    return cells


HEADER = ("workload", "what", "fastlstm", "best rival", "rival / fastlstm", "GFLOP/s / peak", "max error")


def main_tables(rows: Sequence[dict[str, Any]], level: str) -> list[str]:
    """A heading, a table and the geometric mean of each group."""
    means, lines = geometric_means(rows), []
    for group, title in TITLES.items():
        own = [row for row in rows if row["work"]["group"] == group]
        if own:
            header = (*HEADER, "one thread / two") if own[0]["work"]["threads"] > 1 else HEADER
            lines += ["", f"{level} {title}", "", *table(header, [main_row(row) for row in own], left=2)]
            lines += [line for row in own for line in remark_lines(row)]
            if group in means:
                lines += ["", f"Geometric mean of the ratios: **{means[group]:.2f}**"]
    return lines[1:]


def remark_lines(row: dict[str, Any]) -> list[str]:
    """What must be said of the best rival, and which one is the best of those that nothing must be said of."""
    remarks = {name: entry.get("remark") for name, entry in row["engines"].items()}
    remark = remarks.get(row["best"])
    if not remark:
        return []
    ratios = {n: e["ratio"] for n, e in row["engines"].items() if n != OURS and e["ratio"] is not None and not remarks[n]}
    next_best = min(ratios, key=ratios.__getitem__, default=None)
    text = f"`{row['work']['name']}`: {row['best']} {remark}"
    if next_best is not None:
        text += f"; the next is {next_best}: {time_text(row['engines'][next_best]['median_seconds'])} ({ratios[next_best]:.2f})"
    return ["", f"{text}."]


def engine_cell(row: dict[str, Any], name: str, notes: list[str]) -> str:
    """Time and ratio of one engine; where there is none, a word and the number of a note."""
    entry = row["engines"].get(name)
    if entry is None:
        return "–"
    if entry["median_seconds"] is not None:
        ratio = "" if name == OURS or entry["ratio"] is None else f" ({entry['ratio']:.2f})"
        return time_text(entry["median_seconds"]) + ratio + ("°" if entry.get("slow") else "")
    note = f"{name}: {entry['why']}"
    if note not in notes:
        notes.append(note)
    return f"{'no' if entry.get('unsupported') else 'failed'} [{notes.index(note) + 1}]"


def circumstances(results: dict[str, Any]) -> str:
    """How the rows were measured; where they come from several runs, all of them."""
    machine, runs = results["machine"], [row["run"] for row in results["rows"]]

    def of_all(key: str) -> str:
        return ", ".join(dict.fromkeys(f"{run[key]:g}" if isinstance(run[key], float) else str(run[key]) for run in runs))

    revisions = of_all("revision")
    return (
        f"{machine['processor']}, {machine['isa']}. One process an engine, one thread pinned to a CPU, {of_all('rounds')} rounds "
        f"in turn of bursts of about {of_all('seconds')} s by the {of_all('clock')} clock, inputs changing from call to call. "
        "Times are medians; ratios are medians over the rounds of the rival's time / fastlstm's. Training counts three times "
        "the forward's operations. The peak was measured between the rounds. Errors are against the reference in float64. "
        f"Measured on {of_all('date')}{f' at {revisions}' if revisions else ''}, Python {machine['python']}."
    )


def warnings(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Notes of the runs, and that the machine was busy."""
    notes = dict.fromkeys(row["run"]["note"] for row in rows if row["run"]["note"])
    lines = [f"**{note}**" for note in notes]
    shares = [share for row in rows if row["work"]["threads"] == 1 for share in row["engines"][OURS].get("cpu_share", [])]
    if shares and statistics.median(shares) < BUSY:
        lines.append(f"**The machine was busy: fastlstm had the CPU for {100 * statistics.median(shares):.0f}% of its turns.**")
    return [line for text in lines for line in ("", text)]


def engines_table(results: dict[str, Any]) -> list[str]:
    """The time of every engine, and numbered reasons where there is none."""
    rows, names = results["rows"], list(results["versions"])
    notes: list[str] = []
    cells = [[f"`{row['work']['name']}`", *(engine_cell(row, name, notes) for name in names)] for row in rows]
    lines = table(["workload", *names], cells)
    if any(entry.get("slow") for row in rows for entry in row["engines"].values()):
        lines += ["", f"° in the first rounds more than {SLOW} times as slow as the best rival, and not asked again"]
    if notes:
        lines += ["", *(f"{k}. {one_line(note)}" for k, note in enumerate(notes, 1))]
    return lines


def versions_list(results: dict[str, Any]) -> list[str]:
    return [f"- {name}: {version}{ways_of(results['rows'], name)}" for name, version in results["versions"].items()]


def markdown(results: dict[str, Any], level: str = "##") -> str:
    """Circumstances, best rivals group by group, all engines, notes, versions; ``level``: of the headings."""
    lines = [circumstances(results), *warnings(results["rows"]), "", *main_tables(results["rows"], level)]
    lines += ["", f"{level} All engines: time of a call (times as long as fastlstm)", "", *engines_table(results)]
    lines += ["", f"{level} Versions and the ways that were fastest", "", *versions_list(results)]
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


def put_between_marks(document: Path, content: str) -> None:
    """Replaces what stands between the marks. ValueError where they are not there, once and in order."""
    text = document.read_text("utf-8")
    before, begin, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not begin or not end or MARKS[0] in after or MARKS[1] in after:
        raise ValueError(f"{document}: expected {MARKS[0]} and then {MARKS[1]}, once each")
    document.write_text(f"{before}{begin}\n{content.strip()}\n{end}{after}", "utf-8")


def picture(chart: Path, document: Path) -> str:
    """The chart, as seen from a document."""
    link = Path(os.path.relpath(chart, document.parent)).as_posix()
    return f"![Time of the best rival / time of fastlstm for each workload]({link})"


def write(path: Path, into_documents: bool = False, root: Path = ROOT) -> str:
    """Writes FILE.md and FILE.svg beside FILE.json and returns the Markdown; ``into_documents``: see above."""
    results = json.loads(path.read_text("utf-8"))
    chart, text = path.with_suffix(".svg"), markdown(results)
    chart.write_text(svg(results), "utf-8")
    path.with_suffix(".md").write_text(f"# fastlstm beside other libraries\n\n{picture(chart, path)}\n\n{text}", "utf-8")
    if into_documents:
        readme, performance = root / "README.md", root / "docs" / "performance.md"
        short = [picture(chart, readme), "", circumstances(results), *warnings(results["rows"]), ""]
        put_between_marks(readme, "\n".join([*short, *main_tables(results["rows"], "###")]))
        put_between_marks(performance, f"{picture(chart, performance)}\n\n{markdown(results, '###')}")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(prog="report", description="Tables and chart of a comparison.")
    parser.add_argument("file", type=Path, metavar="FILE.json")
    parser.add_argument("--write", action="store_true", help="put table and chart into README.md and docs/performance.md, too")
    arguments = parser.parse_args()
    print(write(arguments.file, arguments.write))


if __name__ == "__main__":
    main()
