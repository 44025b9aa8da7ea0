"""Times the workloads of ``cases`` on every instruction set and GEMM of this machine: ``make bench``.

One process for each pair (the environment variables are read when fastlstm is imported), all on one CPU with one thread, asked
in turn, so that a slow moment of the machine hits all alike. Outputs are compared with the reference backend in float64
before anything is timed; a wrong answer is not timed and makes the exit code 1. The peak is measured between the same rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import fastlstm
from benchmarks.cases import CASES, TRAINING, Case
from benchmarks.worker import run
from fastlstm import selector

ROOT = Path(__file__).resolve().parent.parent
GEMMS = ("auto", "blas", "packed")
# OpenBLAS does not know every processor with AVX-512 and would run AVX2 code on it: each ISA gets the BLAS of its own kind.
BLAS_CORE = {"avx512": "SKYLAKEX", "avx2": "HASWELL"}
TOLERANCE = {"float32": 2e-5, "float64": 1e-9}  # the largest error of a right answer


class Worker:
    """A process with one ISA and one GEMM (see ``worker``)."""

    def __init__(self, isa: str, gemm: str, cpu: int):
        self.isa, self.gemm = isa, gemm
        threads = {f"{name}_NUM_THREADS": "1" for name in ("FASTLSTM", "OMP", "OPENBLAS", "MKL")}
        environment = {**os.environ, **threads, "FASTLSTM_ISA": isa, "FASTLSTM_GEMM": gemm, "FASTLSTM_DEVICE": "cpu"}
        if isa in BLAS_CORE:
            environment.setdefault("OPENBLAS_CORETYPE", BLAS_CORE[isa])
        command = [sys.executable, "-m", "benchmarks.worker", str(cpu)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def ask(self, **request: Any) -> Any:
        """Sends one request and waits for the answer. RuntimeError if the process died; its message stands on stderr."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the empty answer below tells
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker for ISA {self.isa}, GEMM {self.gemm} ended with {self.process.wait()} at {request}")
        return json.loads(line)

    def close(self) -> None:
        self.process.communicate()


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    config = fastlstm.config()
    parser = argparse.ArgumentParser(prog="bench", description="Times fastlstm on this machine.")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), metavar="NAME", help=", ".join(CASES))
    parser.add_argument("--training", action="store_true", help=f"time forward and backward of {', '.join(TRAINING)} instead")
    parser.add_argument("--isa", nargs="+", choices=config["isa_available"], default=config["isa_available"])
    parser.add_argument("--gemm", nargs="+", choices=GEMMS, default=list(GEMMS))
    parser.add_argument("--rounds", type=int, default=7, help="turns of each process at each case (default: 7)")
    parser.add_argument("--seconds", type=float, default=0.1, help="length of a turn, about (default: 0.1)")
    parser.add_argument("--cpu", type=int, help="the CPU to run on (default: the last one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to FILE")
    arguments = parser.parse_args(argv)
    missing = [name for name in arguments.cases or () if arguments.training and name not in TRAINING]
    if missing:
        parser.error(f"argument --training: no training of {', '.join(missing)} (choose from {', '.join(TRAINING)})")
    if arguments.cpu is None:
        arguments.cpu = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    return arguments


def pairs(arguments: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """ISA and GEMM of each process. blas is left out, with a line that says so, where SciPy is missing."""
    have_scipy = fastlstm.config()["extras"]["scipy"] is not None
    if "blas" in arguments.gemm and not have_scipy:
        print("skipped: GEMM blas, because SciPy is not installed (extra [blas])")
    for isa in arguments.isa:
        for gemm in arguments.gemm:
            if gemm != "blas" or have_scipy:
                yield isa, gemm


def cases_of(arguments: argparse.Namespace) -> list[Case]:
    """The workloads asked for, by default all; those of training with --training."""
    cases = TRAINING if arguments.training else CASES
    return [cases[name] for name in arguments.cases or cases]


def write_truth(case: Case, folder: Path) -> str:
    """The outputs of the reference backend in float64, as a file for the workers."""
    path = folder / f"{case.name}.npz"
    with selector.use_backend("reference"):
        outputs = run(case, case.make_layer("float64"), case.inputs().astype(np.float64))
    np.savez(path, *outputs)
    return str(path)


def measure(case: Case, workers: list[Worker], arguments: argparse.Namespace, folder: Path) -> list[dict]:
    """One row for each worker; its time is None where the answer is wrong."""
    truth = write_truth(case, folder)
    rows: list[dict] = []
    for worker in workers:
        error = worker.ask(do="check", case=case.name, expected=truth)
        right = error <= TOLERANCE[case.dtype]
        rows.append({"case": case.name, "workload": str(case), "dtype": case.dtype, "flops": case.flops})
        rows[-1] |= {"isa": worker.isa, "gemm": worker.gemm, "error": error, "right": right, "seconds": [], "peak": []}
    for _ in range(arguments.rounds):
        for worker, row in zip(workers, rows, strict=True):
            if row["right"]:
                row["peak"].append(worker.ask(do="peak", dtype=case.dtype))
                row["seconds"] += worker.ask(do="time", case=case.name, seconds=arguments.seconds)
    for row in rows:
        median = statistics.median(row["seconds"]) if row["seconds"] else None
        peak = statistics.median(row["peak"]) if row["peak"] else None
        gflops = None if median is None else case.flops / median * 1e-9
        share = None if gflops is None or not peak else gflops / peak
        row |= {"median_seconds": median, "median_peak_gflops": peak, "gflops": gflops, "share_of_peak": share}
    return rows


HEADER = ("case", "ISA", "GEMM", "median µs", "GFLOP/s", "% of peak", "max error")


def line_of(row: dict) -> tuple[str, ...]:
    start = (row["case"], row["isa"], row["gemm"])
    if not row["right"]:
        return (*start, "WRONG", "-", "-", f"{row['error']:.1e}")
    share = "-" if row["share_of_peak"] is None else f"{100 * row['share_of_peak']:.1f}"
    return (*start, f"{1e6 * row['median_seconds']:.2f}", f"{row['gflops']:.2f}", share, f"{row['error']:.1e}")


def print_table(rows: list[tuple[str, ...]]) -> None:
    table = [HEADER, *rows]
    widths = [max(len(row[k]) for row in table) for k in range(len(HEADER))]
    for row in table:
        print("  ".join(f"{cell:<{w}}" if k < 3 else f"{cell:>{w}}" for k, (cell, w) in enumerate(zip(row, widths, strict=True))))


def processor() -> str:
    """The processor's name, from /proc/cpuinfo where there is one."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main(argv: list[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    cases = cases_of(arguments)
    workers = [Worker(isa, gemm, arguments.cpu) for isa, gemm in pairs(arguments)]
    rows: list[dict] = []
    try:
        configs = [worker.ask(do="config") for worker in workers]
        for worker, config in zip(workers, configs, strict=True):
            if (config["isa"], config["gemm"]) != (worker.isa, worker.gemm):
                raise RuntimeError(f"asked for ISA {worker.isa}, GEMM {worker.gemm}; got {config['isa']}, {config['gemm']}")
        print(f"{processor()}, CPU {arguments.cpu}, one thread; NumPy {np.__version__}, Python {platform.python_version()}")
        with tempfile.TemporaryDirectory() as folder:
            for case in cases:
                print(f"{case.name}: {case}, {case.dtype}", file=sys.stderr)
                rows += measure(case, workers, arguments, Path(folder))
    finally:
        for worker in workers:
            worker.close()
    print_table([line_of(row) for row in rows])
    peaks = {row["isa"]: row["median_peak_gflops"] for row in rows if row["median_peak_gflops"]}
    if peaks:
        print("peak of one core, measured: " + ", ".join(f"{isa} {peak:.0f} GFLOP/s" for isa, peak in peaks.items()))
    if arguments.json is not None:
        machine = {"processor": processor(), "cpu": arguments.cpu, "configs": configs}
        text = json.dumps({"machine": machine, "rounds": arguments.rounds, "rows": rows}, indent=1)
        arguments.json.write_text(text + "\n", "utf-8")
    return 0 if all(row["right"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
