"""Times the GPU backend beside cuDNN (torch.nn.LSTM, no TF32) and Keras' own ConvLSTM1D on one device: ``make bench-gpu``.

Arrays live on the device; calls are timed by device events (Keras, whose stream is its own: by the clock, its results waited
for), the median of many after a warm-up. Every answer is compared with the reference backend in float64 first; a wrong one is not
timed and makes the exit code 1. ``moved``: the same call on NumPy arrays, transfers included, and ``cpu``: without the GPU; from
these two come the figures of ``selector.CROSSOVER``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fastlstm
from benchmarks.cases import BY_NAME, Case
from fastlstm import devices, selector

TOLERANCE = {"float32": 2e-5, "float64": 1e-9}
# What the GPU path must reach is said for these: float32, T 100, D = U.
GRID = {
    f"n{n}-u{u}": Case(f"n{n}-u{u}", batch=n, steps=100, features=u, units=u)
    for u in (128, 256, 512)
    for n in (1, 4, 8, 64, 128, 256)
}
ALL = GRID | BY_NAME


def device_seconds(call: Callable[[], Any], repeats: int, before: Callable[[], Any] = lambda: None) -> float:
    """Median seconds of a call between two events on the current CuPy stream; ``before``: what comes before each, untimed."""
    cuda = devices.cupy_module().cuda
    start, stop = cuda.Event(), cuda.Event()
    found = []
    for number in range(repeats + 3):
        before()
        start.record()
        call()
        stop.record()
        stop.synchronize()
        if number >= 3:
            found.append(cuda.get_elapsed_time(start, stop) / 1e3)
    return statistics.median(found)


def clock_seconds(call: Callable[[], Any], repeats: int) -> float:
    """Median seconds of a call whose result is there when it returns."""
    found = []
    for number in range(repeats + 3):
        start = time.perf_counter()
        call()
        if number >= 3:
            found.append(time.perf_counter() - start)
    return statistics.median(found)


def error_of(case: Case, outputs: Any) -> float:
    """max |a - b| / max(1, |b|) of the first output to the reference backend in float64."""
    with selector.use_backend("reference"):
        want = case.make_layer("float64")(case.inputs().astype("float64"))
    first = [a[0] if isinstance(a, (tuple, list)) else a for a in (outputs, want)]
    return float(np.max(np.abs(devices.to_cpu(first[0]) - first[1]) / np.maximum(1, np.abs(first[1]))))


def ours(case: Case, repeats: int) -> dict[str, Any]:
    """Seconds of this library's call on the device, moved, and on the CPU; the kernel; the error."""
    layer, x, cupy = case.make_layer(), case.inputs(), devices.cupy_module()
    there = cupy.asarray(x)
    outputs = layer(there)
    kernel, error = layer.explain(there), error_of(case, outputs)
    row: dict[str, Any] = {"kernel": kernel.reason.rpartition("; ")[2].partition(":")[0], "error": error}
    if error > TOLERANCE[case.dtype]:
        return row
    dy = cupy.ones_like(outputs[0] if isinstance(outputs, tuple) else outputs)

    def train() -> None:
        layer.vjp(there)[1](dy)

    row["gpu"] = device_seconds(train if case.training else lambda: layer(there), repeats)
    if not case.training:
        with fastlstm.device("gpu"):
            row["moved"] = clock_seconds(lambda: layer(x), repeats)
        with fastlstm.device("cpu"):
            row["cpu"] = clock_seconds(lambda: layer(x), max(3, repeats // 10))
    return row


def cudnn(case: Case, repeats: int) -> float | None:
    """Seconds of torch.nn.LSTM, time-major, in its own layout; None where it cannot run the case."""
    if case.layer != "LSTM" or case.carries_states or importlib.util.find_spec("torch") is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    layer = torch.nn.LSTM(case.features, case.units, dtype=getattr(torch, case.dtype)).cuda()
    x = torch.from_numpy(np.ascontiguousarray(case.inputs().swapaxes(0, 1))).cuda().requires_grad_(case.training)
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    found = []
    for number in range(repeats + 3):
        start.record()
        with torch.set_grad_enabled(case.training):
            y, _ = layer(x)
            if case.training:
                y.backward(torch.ones_like(y))
        stop.record()
        stop.synchronize()
        if number >= 3:
            found.append(start.elapsed_time(stop) / 1e3)
    return statistics.median(found)


def keras(case: Case, repeats: int) -> float | None:
    """Seconds of Keras' ConvLSTM1D, compiled by its ``predict_on_batch``; None where it cannot run the case."""
    if case.layer != "ConvLSTM1D" or case.training or importlib.util.find_spec("keras") is None:
        return None
    import keras as library

    layer = library.layers.ConvLSTM1D(case.units, case.kernel_size, padding=case.padding, return_sequences=case.return_sequences)
    model = library.Sequential([library.Input(case.input_shape[1:]), layer])
    layer.set_weights(case.weights())
    x = library.ops.convert_to_tensor(case.inputs())
    return clock_seconds(lambda: model.predict_on_batch(x), repeats)


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """One row of the table."""
    row = {"case": case.name, "sizes": str(case), **ours(case, repeats)}
    return row | {"cudnn": cudnn(case, repeats), "keras": keras(case, repeats)}


def line_of(row: dict[str, Any]) -> str:
    """A row in microseconds."""
    times = [row.get(name) for name in ("gpu", "cudnn", "keras", "moved", "cpu")]
    cells = ["         -" if seconds is None else f"{1e6 * seconds:10.1f}" for seconds in times]
    return f"{row['case']:<16}{row['kernel']:<12}{''.join(cells)}   {row['error']:.0e}"


def crossover(rows: list[dict[str, Any]]) -> str:
    """From how many multiply-adds on the moved call was faster than the CPU in all larger cases of a kind."""
    found = []
    for kind in ("LSTM", "ConvLSTM1D"):
        timed = [row for row in rows if "moved" in row and ALL[row["case"]].layer == kind]
        known = [(ALL[row["case"]].flops / 2, row["moved"] < row["cpu"]) for row in timed]
        ahead = [work for work, faster in known if faster and all(other for size, other in known if size >= work)]
        found.append(f"{kind}: {f'{min(ahead):.1e} multiply-adds' if ahead else 'not reached'}")
    return f"crossover, transfers included: {', '.join(found)}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cases", nargs="*", help=f"names of workloads; without them all of: {' '.join(ALL)}")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--write", type=Path, help="a JSON file for the rows")
    options = parser.parse_args(arguments)
    refusal = devices.gpu_refusal()
    if refusal is not None:
        print(f"there is nothing to measure: {refusal}", file=sys.stderr)
        return 2
    print(fastlstm.config()["gpu"])
    print(f"{'µs a call':<16}{'kernel':<12}{'gpu':>10}{'cudnn':>10}{'keras':>10}{'moved':>10}{'cpu':>10}   error")
    rows = []
    for name in options.cases or ALL:
        rows.append(measure(ALL[name], options.repeats))
        print(line_of(rows[-1]), flush=True)
    print(crossover(rows))
    if options.write:
        options.write.write_text(json.dumps({"device": fastlstm.config()["gpu"], "rows": rows}, indent=1) + "\n", "utf-8")
    return int(any(row["error"] > TOLERANCE[ALL[row["case"]].dtype] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
