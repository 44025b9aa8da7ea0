"""Times fastlstm beside other libraries, each in a process of its own, pinned to one CPU: ``make bench-rivals``.

Each engine's answers are compared with fastlstm's reference backend in float64 first; a wrong answer is not timed. Where an
engine offers several ways to run a workload (compilers, unrolled or not), the fastest right one is taken. Then the engines are
asked in turn for many rounds, each for a burst of calls whose inputs change; the ratios are medians over the rounds. Every
engine has its inputs in its own tensors and layout beforehand, and outputs bound where it can. One thread each, two in the
group ``threads``. The results go to benchmarks/results; with --write also into README.md and docs/performance.md.

A run can be cut in pieces: ``--cases GROUP --add`` keeps the rows that the file has of other workloads. What is measured in one
row always comes from one run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fastlstm
from benchmarks import report
from benchmarks.bench import processor
from benchmarks.engines import OURS, RIVALS, ROOT, Engine, EngineError, write_tflite
from benchmarks.ratios import SLOW, summarize
from benchmarks.rivals.workload import Workload
from benchmarks.workloads import GROUPS, WORKLOADS, write

SLOW_ROUNDS = 3  # after which a slow rival is not asked again
# Before a turn of two threads: those of OpenMP go on spinning for 0.2 s behind a turn, on the CPUs of whoever comes next.
REST = 0.3


def default_output() -> Path:
    """benchmarks/results/<machine>.json, of the processor's name and the instruction set."""
    words = re.sub(r"\W+", "-", f"{processor()} {fastlstm.config()['isa']}".lower()).strip("-")
    return ROOT / "benchmarks" / "results" / f"{words}.json"


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench_rivals", description="Times fastlstm beside other libraries.")
    names = [*GROUPS, *WORKLOADS]
    parser.add_argument("--cases", nargs="+", choices=names, default=GROUPS, metavar="NAME", help=", ".join(names))
    parser.add_argument("--rivals", nargs="*", choices=RIVALS, default=list(RIVALS), metavar="NAME", help=", ".join(RIVALS))
    parser.add_argument("--rounds", type=int, default=15, help="turns of each engine at each workload (default: 15)")
    parser.add_argument("--seconds", type=float, default=0.1, help="length of a turn, about (default: 0.1)")
    help_clock = "cpu: time on the CPU, for a machine that others use, too (default: wall)"
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help=help_clock)
    parser.add_argument("--timeout", type=float, default=300, help="seconds that an engine may take to answer (default: 300)")
    help_cpu = "the CPU to run on, and a second one for two threads (default: the last ones)"
    parser.add_argument("--cpu", type=int, nargs="+", metavar="CPU", help=help_cpu)
    parser.add_argument("--note", default="", help="a sentence about the circumstances, for the table")
    parser.add_argument("--add", action="store_true", help="keep the rows of other workloads that FILE has, from another run")
    parser.add_argument("--write", action="store_true", help="put table and chart into README.md and docs/performance.md")
    parser.add_argument("--output", type=Path, default=default_output(), metavar="FILE", help="default: %(default)s")
    arguments = parser.parse_args(argv)
    if arguments.cpu is None:
        arguments.cpu = sorted(os.sched_getaffinity(0), reverse=True) if hasattr(os, "sched_getaffinity") else [0]
    chosen = set(arguments.cases)
    arguments.cases = [name for name, work in WORKLOADS.items() if {name, work.group} & chosen]
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
        entry |= {"error": answer["ways"][answer["chosen"]]["error"], "remark": answer["remark"]}
        return entry
    reasons = {way: tried.get("failed", f"wrong by {tried.get('error', 0):.1e}") for way, tried in answer["ways"].items()}
    entry["why"] = "; ".join(f"{way}: {reason}" for way, reason in reasons.items())
    return entry


def time_in_turn(work: Workload, engines: list[Engine], entries: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Fills ``seconds`` of the entries, round for round; an engine that fails on the way keeps none of its times. Gives the peak
    of each round and, of two threads, what fastlstm takes with one.
    """
    ours = next(engine for engine in engines if engine.name == OURS)
    burst = {"do": "time", "seconds": arguments.seconds, "clock": arguments.clock}
    more: dict[str, Any] = {"peak": [], "one_thread": []}
    for number in range(arguments.rounds):
        more["peak"].append(ours.ask(do="peak", dtype=work.dtype))
        # Forth and back, so that the distance in time between two engines is the same on average.
        for engine in engines if number % 2 == 0 else engines[::-1]:
            entry = entries[engine.name]
            if "why" in entry or entry.get("slow"):
                continue
            try:
                if work.threads > 1:
                    time.sleep(REST)
                seconds, cpu_share = engine.ask(**burst)
                entry["seconds"].append(seconds)
                entry["cpu_share"].append(cpu_share)
            except EngineError as failure:
                entry |= {"why": str(failure), "seconds": []}
        if work.threads > 1 and "why" not in entries[OURS]:
            ours.ask(do="set_num_threads", count=1)
            more["one_thread"].append(ours.ask(**burst)[0])
            ours.ask(do="set_num_threads", count=work.threads)
        if number + 1 == SLOW_ROUNDS:
            mark_slow(entries, arguments.rounds)
    return more


def mark_slow(entries: dict[str, Any], rounds: int) -> None:
    """``slow`` for the rivals that are far behind the best one: their further rounds would only cost time."""
    medians = {name: statistics.median(e["seconds"]) for name, e in entries.items() if name != OURS and e["seconds"]}
    for name, median in medians.items():
        if rounds > SLOW_ROUNDS and median > SLOW * min(medians.values()):
            entries[name]["slow"] = True


def measure(work: Workload, engines: list[Engine], arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One row. Where fastlstm has no such thing as the workload asks for, nobody is timed and the row says why."""
    start = time.monotonic()
    request = request_for(work, folder)
    entries = {OURS: make(next(engine for engine in engines if engine.name == OURS), request)}
    more: dict[str, Any] = {"peak": [], "one_thread": []}
    if not entries[OURS].get("unsupported"):
        entries |= {engine.name: make(engine, request) for engine in engines if engine.name != OURS}
        ready = time.monotonic()
        more = time_in_turn(work, engines, entries, arguments)
        more |= {"seconds_to_prepare": ready - start, "seconds_to_time": time.monotonic() - ready}
    return row_of(work, arguments, entries, more)


def row_of(work: Workload, arguments: argparse.Namespace, entries: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """The row with its figures and the circumstances of its run."""
    run = {name: getattr(arguments, name) for name in ("rounds", "seconds", "clock", "note")}
    run |= {"cpu": arguments.cpu[: work.threads], "date": time.strftime("%Y-%m-%d"), "revision": revision()}
    return summarize({"work": dataclasses.asdict(work), "text": str(work), "run": run, "engines": entries, **more})


def revision() -> str:
    """The commit whose kernels are measured, with a + where their sources were changed since; empty outside a clone."""
    commands = (["rev-parse", "--short=10", "HEAD"], ["status", "--porcelain", "--", "setup.py", "include", "pyx", "fastlstm"])
    try:
        runs = [subprocess.run(["git", *c], cwd=ROOT, capture_output=True, text=True, check=False) for c in commands]
    except FileNotFoundError:  # no git here
        return ""
    return runs[0].stdout.strip() + "+" * bool(runs[1].stdout)


def versions_of(engines: list[Engine]) -> dict[str, str]:
    found = {}
    for engine in engines:
        try:
            found[engine.name] = engine.ask(do="versions")
        except EngineError as failure:
            found[engine.name] = str(failure)
    return found


def start_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The results without rows; with ``--add`` with those rows of the file that are not measured now.

    SystemExit if the file is of another machine: its rows do not belong into the same table.
    """
    machine = {"processor": processor(), "isa": fastlstm.config()["isa"], "python": platform.python_version()}
    results: dict[str, Any] = {"machine": machine, "versions": {}, "rows": []}
    if arguments.add and arguments.output.exists():
        old = json.loads(arguments.output.read_text("utf-8"))
        if old["machine"] != machine:
            raise SystemExit(f"--add: {arguments.output} was measured on {old['machine']}, this is {machine}")
        results["versions"] = old["versions"]
        results["rows"] = [row for row in old["rows"] if row["work"]["name"] not in arguments.cases]
    return results


def add_versions(results: dict[str, Any], versions: dict[str, str]) -> None:
    """SystemExit if rows that are kept were measured with other versions."""
    for name, version in versions.items():
        if results["rows"] and results["versions"].get(name, version) != version:
            raise SystemExit(f"--add: the rows of the file were measured with {results['versions'][name]}, now it is {version}")
    found = results["versions"] | versions
    results["versions"] = {name: found[name] for name in (OURS, *RIVALS) if name in found}


def save(results: dict[str, Any], path: Path) -> None:
    """Writes the rows in the order of WORKLOADS: after each one, so that a run that is stopped leaves what it has."""
    order = {name: k for k, name in enumerate(WORKLOADS)}
    results["rows"].sort(key=lambda row: order[row["work"]["name"]])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", "utf-8")


def progress(row: dict[str, Any]) -> str:
    """A line about a finished workload."""
    name, ours = row["work"]["name"], row["engines"][OURS]
    if ours.get("unsupported"):
        return f"{name}: left out, {ours['why']}"
    took = f" ({row['seconds_to_prepare']:.0f} s to prepare, {row['seconds_to_time']:.0f} s to time)"
    if row["ratio"] is None:
        return f"{name}: no ratio{took}"
    return f"{name}: {1e6 * ours['median_seconds']:.1f} µs, {row['best']} takes {row['ratio']:.2f} times as long{took}"


def request_for(work: Workload, folder: Path) -> dict[str, Any]:
    return {"work": dataclasses.asdict(work), "data": str(folder / f"{work.name}.npz"), "folder": str(folder)}


def prepare(works: Sequence[Workload], arguments: argparse.Namespace, folder: Path) -> None:
    """Writes inputs and expected outputs of all workloads, and the models for LiteRT."""
    for work in works:
        write(work, folder)
    requests = [request_for(work, folder) for work in works if not work.training and work.dtype == "float32"]
    if "litert" in arguments.rivals and requests:
        failure = write_tflite(requests, folder / "write_tflite.log")
        if failure:
            print(f"litert: {failure}", file=sys.stderr)


def run(works: Sequence[Workload], threads: int, arguments: argparse.Namespace, results: dict[str, Any], folder: Path) -> None:
    """Measures workloads of so many threads, in processes that have as many CPUs, and saves after each."""
    cpus, isa = arguments.cpu[:threads], results["machine"]["isa"]
    logs = {name: folder / f"{name}-{threads}.log" for name in (OURS, *arguments.rivals)}
    engines = [Engine(name, cpus, isa, log, arguments.timeout) for name, log in logs.items()]
    try:
        add_versions(results, versions_of(engines))
        for work in works:
            row = measure(work, engines, arguments, folder)
            results["rows"].append(row)
            print(progress(row), file=sys.stderr)
            save(results, arguments.output)
    finally:
        for engine in engines:
            engine.close()


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    results = start_of(arguments)
    works = [WORKLOADS[name] for name in arguments.cases]
    with tempfile.TemporaryDirectory() as name:
        for threads in sorted({work.threads for work in works}):
            own = [work for work in works if work.threads == threads]
            if len(arguments.cpu) < threads:
                entry = {"why": f"{threads} threads need {threads} CPUs (--cpu)", "unsupported": True, "seconds": []}
                results["rows"] += [row_of(work, arguments, {OURS: entry}, {"peak": []}) for work in own]
                print(*map(progress, results["rows"][-len(own) :]), sep="\n", file=sys.stderr)
                save(results, arguments.output)
                continue
            prepare(own, arguments, Path(name))
            run(own, threads, arguments, results, Path(name))
    print(report.write(arguments.output, into_documents=arguments.write))
    answers = [row["engines"][OURS] for row in results["rows"]]
    return 0 if all(answer.get("way") or answer.get("unsupported") for answer in answers) else 1


if __name__ == "__main__":
    sys.exit(main())
