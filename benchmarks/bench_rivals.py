"""Times fastlstm beside other libraries, each in a process of its own on one CPU and one thread: ``make bench-rivals``.

Each engine's answers are compared with fastlstm's reference backend in float64 first; a wrong answer is not timed. Where an
engine offers several ways to run a workload (compilers, unrolled or not), the fastest right one is taken. Then the engines are
asked in turn for many rounds, each for a burst of calls whose inputs change; the ratios are medians over the rounds. Every
engine has its inputs in its own tensors and layout beforehand, and outputs bound where it can. The results go to
benchmarks/results.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import fastlstm
from benchmarks import report
from benchmarks.bench import processor
from benchmarks.engines import OURS, RIVALS, ROOT, Engine, EngineError, write_tflite
from benchmarks.ratios import summarize
from benchmarks.rivals.workload import Workload
from benchmarks.workloads import WORKLOADS, write


def default_output() -> Path:
    """benchmarks/results/<machine>.json, of the processor's name and the instruction set."""
    words = re.sub(r"\W+", "-", f"{processor()} {fastlstm.config()['isa']}".lower()).strip("-")
    return ROOT / "benchmarks" / "results" / f"{words}.json"


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench_rivals", description="Times fastlstm beside other libraries.")
    names = list(WORKLOADS)
    parser.add_argument("--workloads", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--rivals", nargs="*", choices=RIVALS, default=list(RIVALS), metavar="NAME", help=", ".join(RIVALS))
    parser.add_argument("--rounds", type=int, default=15, help="turns of each engine at each workload (default: 15)")
    parser.add_argument("--seconds", type=float, default=0.1, help="length of a turn, about (default: 0.1)")
    help_clock = "cpu: time on the CPU, for a machine that others use, too (default: wall)"
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help=help_clock)
    parser.add_argument("--timeout", type=float, default=300, help="seconds that an engine may take to answer (default: 300)")
    parser.add_argument("--cpu", type=int, help="the CPU to run on (default: the last one)")
    parser.add_argument("--note", default="", help="a sentence about the circumstances, for the table")
    parser.add_argument("--add", action="store_true", help="keep the rows of other workloads that FILE has, from another run")
    parser.add_argument("--output", type=Path, default=default_output(), metavar="FILE", help="default: %(default)s")
    arguments = parser.parse_args(argv)
    if arguments.cpu is None:
        arguments.cpu = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    return arguments


def make(engine: Engine, request: dict[str, Any]) -> dict[str, Any]:
    """The engine's entry in the row: its ways and errors, the chosen one; ``why`` says why it cannot be timed."""
    try:
        answer = engine.ask(do="make", **request)
    except EngineError as failure:
        return {"why": str(failure), "seconds": []}
    if "unsupported" in answer:
        return {"why": answer["unsupported"], "unsupported": True, "seconds": []}
    entry: dict[str, Any] = {"ways": answer["ways"], "way": answer["chosen"], "seconds": [], "cpu_share": []}
    if answer["chosen"] is not None:
        entry["error"] = answer["ways"][answer["chosen"]]["error"]
        return entry
    reasons = {way: tried.get("failed", f"wrong by {tried.get('error', 0):.1e}") for way, tried in answer["ways"].items()}
    entry["why"] = "; ".join(f"{way}: {reason}" for way, reason in reasons.items())
    return entry


def measure(work: Workload, engines: list[Engine], arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One row: every engine's seconds a call, round for round; an engine that fails on the way keeps none of its times."""
    request = {"work": dataclasses.asdict(work), "data": str(folder / f"{work.name}.npz"), "folder": str(folder)}
    entries = {engine.name: make(engine, request) for engine in engines}
    ours = next(engine for engine in engines if engine.name == OURS)
    peak: list[float] = []
    for number in range(arguments.rounds):
        peak.append(ours.ask(do="peak", dtype=work.dtype))
        # Forth and back, so that the distance in time between two engines is the same on average.
        for engine in engines if number % 2 == 0 else engines[::-1]:
            entry = entries[engine.name]
            if "why" in entry:
                continue
            try:
                seconds, cpu_share = engine.ask(do="time", seconds=arguments.seconds, clock=arguments.clock)
                entry["seconds"].append(seconds)
                entry["cpu_share"].append(cpu_share)
            except EngineError as failure:
                entry |= {"why": str(failure), "seconds": []}
    row = {"work": dataclasses.asdict(work), "text": str(work), "peak": peak, "engines": entries}
    return summarize(row)


def versions_of(engines: list[Engine]) -> dict[str, str]:
    found = {}
    for engine in engines:
        try:
            found[engine.name] = engine.ask(do="versions")
        except EngineError as failure:
            found[engine.name] = str(failure)
    return found


def start_of(arguments: argparse.Namespace, engines: list[Engine], isa: str) -> dict[str, Any]:
    """The results without rows; with ``--add`` with those rows of the file that are not measured now."""
    machine = {"processor": processor(), "isa": isa, "cpu": arguments.cpu, "python": platform.python_version()}
    results: dict[str, Any] = {"machine": machine, "date": time.strftime("%Y-%m-%d"), "note": arguments.note}
    results |= {"versions": versions_of(engines), "rounds": arguments.rounds, "seconds": arguments.seconds}
    results |= {"clock": arguments.clock, "rows": []}
    if arguments.add and arguments.output.exists():
        old = json.loads(arguments.output.read_text("utf-8"))["rows"]
        results["rows"] = [row for row in old if row["work"]["name"] not in arguments.workloads]
    return results


def save(results: dict[str, Any], path: Path) -> None:
    """Writes the rows in the order of WORKLOADS: after each one, so that a run that is stopped leaves what it has."""
    order = {name: k for k, name in enumerate(WORKLOADS)}
    results["rows"].sort(key=lambda row: order[row["work"]["name"]])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", "utf-8")


def progress(row: dict[str, Any]) -> str:
    """A line about a finished workload."""
    if row["ratio"] is None:
        return f"{row['work']['name']}: no ratio"
    ours = row["engines"][OURS]["median_seconds"]
    return f"{row['work']['name']}: {1e6 * ours:.1f} µs, {row['best']} takes {row['ratio']:.2f} times as long"


def prepare(works: list[Workload], arguments: argparse.Namespace, folder: Path) -> None:
    """Writes inputs and expected outputs of all workloads, and the models for LiteRT."""
    for work in works:
        write(work, folder)
    requests = [
        {"work": dataclasses.asdict(work), "data": str(folder / f"{work.name}.npz"), "folder": str(folder)}
        for work in works
        if not work.training and work.dtype == "float32"
    ]
    if "litert" in arguments.rivals:
        failure = write_tflite(requests, folder / "write_tflite.log")
        if failure:
            print(f"litert: {failure}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    works = [WORKLOADS[name] for name in arguments.workloads]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(works, arguments, folder)
        isa = fastlstm.config()["isa"]
        engines = [
            Engine(engine, arguments.cpu, isa, folder / f"{engine}.log", arguments.timeout)
            for engine in (OURS, *arguments.rivals)
        ]
        try:
            results = start_of(arguments, engines, isa)
            for work in works:
                row = measure(work, engines, arguments, folder)
                results["rows"].append(row)
                print(progress(row), file=sys.stderr)
                save(results, arguments.output)
        finally:
            for engine in engines:
                engine.close()
    print(report.write(arguments.output))
    right = all(row["engines"][OURS].get("way") for row in results["rows"])
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
