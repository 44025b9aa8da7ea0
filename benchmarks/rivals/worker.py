"""One engine in its own process: ``python -m benchmarks.rivals.worker ADAPTER CPU[,CPU]``. Started by ``benchmarks.engines``.

Reads one JSON request a line from stdin and answers with one JSON line on stdout (what the engines print goes to stderr):
{"do": "versions"}; {"do": "make", "work", "data", "folder"} -> the ways to run it, each with its error or what failed, the
``chosen`` fastest right one and a ``remark`` for the table; {"do": "time", "seconds", "clock"} -> [seconds of a call of the
chosen one, share of the wall time that the process had the CPU]; {"do": "peak", "dtype"} and {"do": "set_num_threads", "count"}
(only fastlstm).

Clocks: "wall", and "cpu", the time that the process' threads had the CPU: on one CPU it is the same where nothing else runs, and
less disturbed where something does (but it does not count a wait for a thread to wake up). With two threads, or for a percentile,
it is always the wall clock.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.rivals.workload import COUNT, THREADS, TOLERANCE, Runner, Unsupported, Workload, error_of

TRIAL_SECONDS = 0.03
TRIALS = 5
SETTLE_SECONDS = 0.05  # before a burst of several threads: those of the engine before it may still spin for a moment


Calls = Iterator[Callable[[], Any]]  # without an end: the inputs come in turn, also from one burst to the next


CLOCKS = {"wall": time.perf_counter_ns, "cpu": time.process_time_ns}


def seconds_per_call(calls: Calls, count: int, clock: str = "wall") -> float:
    now = CLOCKS[clock]
    start = now()
    for call in itertools.islice(calls, count):
        call()
    return (now() - start) * 1e-9 / count


def single_calls(calls: Calls, count: int) -> list[float]:
    """Seconds of each of ``count`` calls."""
    now, times = time.perf_counter_ns, []
    for call in itertools.islice(calls, count):
        start = now()
        call()
        times.append(now() - start)
    return [t * 1e-9 for t in times]


def measure(calls: Calls, seconds: float, percentile: bool = False, clock: str = "wall") -> float:
    """Seconds of a call in a burst about ``seconds`` long; with ``percentile`` the 99th percentile of the burst's calls
    (always by the wall clock). calls before the burst bring the caches back after the other processes' turns.
    """
    once = seconds_per_call(calls, 1)
    for _ in range(2):
        if once * COUNT < 0.2 * seconds:
            once = seconds_per_call(calls, COUNT)
    count = max(1, round(seconds / once))
    gc.collect()
    gc.disable()
    try:
        if percentile:
            return float(np.percentile(single_calls(calls, max(count, 1000)), 99))
        return seconds_per_call(calls, count, clock if THREADS == 1 else "wall")
    finally:
        gc.enable()


def trial(runner: Runner) -> float:
    """The shortest of a few bursts, to choose between ways of running; one is enough where a call is long."""
    calls, start = itertools.cycle(runner.calls), time.perf_counter()
    shortest = float("inf")
    for _ in range(TRIALS):
        shortest = min(shortest, measure(calls, TRIAL_SECONDS, clock="cpu"))
        if time.perf_counter() - start > TRIALS * TRIAL_SECONDS * 2:
            break
    return shortest


def check(work: Workload, runner: Runner, expected: list[np.ndarray]) -> float:
    """The largest error of the calls that have an expected output (``expected``: all arrays, call after call)."""
    runner.reset()
    each = len(expected) // work.checked_calls
    errors = []
    for number, call in enumerate(itertools.islice(itertools.cycle(runner.calls), work.checked_calls)):
        errors.append(error_of(runner.result(call()), expected[number * each : (number + 1) * each]))
    return max(errors)


class Worker:
    """Holds the adapter and the way of running that was chosen for the workload at hand."""

    def __init__(self, adapter: Any):
        self.adapter = adapter
        self.work: Workload
        self.calls: Calls | None = None

    def versions(self) -> str:
        return self.adapter.versions()

    def make(self, work: dict, data: str, folder: str) -> dict:
        """Checks every way to run ``work`` and keeps the fastest right one. The files hold no pickled objects."""
        self.work, self.calls = Workload(**work), None
        gc.collect()
        with np.load(data) as stored:
            arrays = {name: stored[name] for name in stored.files}
        expected = [arrays.pop(f"expected_{k}") for k in range(sum(name.startswith("expected_") for name in arrays))]
        try:
            makers = self.adapter.make(self.work, arrays, folder)
        except Unsupported as reason:
            return {"unsupported": str(reason)}
        ways: dict[str, dict] = {}
        right: dict[str, Runner] = {}
        for name, maker in makers.items():
            try:
                runner = maker()
                ways[name] = {"error": check(self.work, runner, expected)}
                if ways[name]["error"] <= TOLERANCE[self.work.dtype]:
                    ways[name]["trial_seconds"] = trial(runner)
                    right[name] = runner
            except Exception as failure:  # whatever an engine raises is what the table must tell
                ways[name] = {"failed": f"{type(failure).__name__}: {failure}"[:600]}
        chosen = min(right, key=lambda name: ways[name]["trial_seconds"], default=None)
        if chosen is not None:
            self.calls = itertools.cycle(right[chosen].calls)
        remark = getattr(self.adapter, "remark", lambda work, way: "")
        return {"ways": ways, "chosen": chosen, "remark": remark(self.work, chosen) if chosen else ""}

    def time(self, seconds: float, clock: str) -> tuple[float, float]:
        assert self.calls is not None
        if THREADS > 1:
            time.sleep(SETTLE_SECONDS)
        wall, cpu = time.perf_counter_ns(), time.process_time_ns()
        result = measure(self.calls, seconds, self.work.percentile, clock)
        return result, (time.process_time_ns() - cpu) / (time.perf_counter_ns() - wall)

    def peak(self, dtype: str) -> float:
        return self.adapter.peak_gflops(dtype)

    def set_num_threads(self, count: int) -> None:
        self.adapter.set_num_threads(count)


def main(adapter: str, cpus: str) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(cpu) for cpu in cpus.split(",")})
    worker = Worker(importlib.import_module(f"benchmarks.rivals.{adapter}"))
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(getattr(worker, request.pop("do"))(**request)), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
