"""One process with one instruction set and one GEMM: checks a workload against stored truth, then times it. Started by ``bench``.

Reads one JSON request a line from stdin and answers with one JSON line on stdout:
{"do": "config"}, {"do": "peak", "dtype"}, {"do": "check", "case", "expected"}, {"do": "time", "case", "seconds"}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fastlstm
from benchmarks.cases import BY_NAME, Case
from fastlstm import _core

STREAM_STEPS = 8  # calls whose states are passed on before a stream is compared with the truth
SAMPLES = 5  # of one round


def run(case: Case, layer: Any, x: np.ndarray) -> list[np.ndarray]:
    """The outputs of a case: of one call, or of STREAM_STEPS calls that pass h and c on; in training y and all gradients."""
    if case.training:
        y, pullback = layer.vjp(x)
        gradients = pullback(case.cotangent(y.shape).astype(y.dtype))
        return [y, gradients.inputs, *gradients.weights]
    if not case.carries_states:
        return [layer(x)]
    output, h, c = layer(x)
    for _ in range(STREAM_STEPS - 1):
        output, h, c = layer(x, initial_state=[h, c])
    return [output, h, c]


def call_of(case: Case) -> Callable[[], Any]:
    """What is timed: one call of the built layer, in training with its pullback. A stream passes its states on."""
    layer, x = case.make_layer(), case.inputs()
    if case.training:
        dy = case.cotangent(layer(x).shape)
        return lambda: layer.vjp(x)[1](dy)
    if not case.carries_states:
        return lambda: layer(x)
    states = list(layer(x)[1:])

    def step() -> None:
        _, states[0], states[1] = layer(x, initial_state=states)

    return step


def error_of(case: Case, expected: list[np.ndarray]) -> float:
    """Largest |difference| / max(1, |expected|) of all outputs; NaN counts as infinite.

    In training the largest number of an array stands for |expected|: a weight's gradient is a sum over all steps and samples,
    whose rounding errors are those of its large terms also where they cancel.
    """
    errors = []
    for got, want in zip(run(case, case.make_layer(), case.inputs()), expected, strict=True):
        scale = np.abs(want).max() if case.training else np.abs(want)
        error = np.abs(got.astype(np.float64) - want) / np.maximum(1.0, scale)
        errors.append(float(np.max(np.where(np.isnan(error), np.inf, error))))
    return max(errors)


def seconds_per_call(call: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter_ns()
    for _ in range(calls):
        call()
    return (time.perf_counter_ns() - start) * 1e-9 / calls


def samples(call: Callable[[], Any], seconds: float) -> list[float]:
    """Up to SAMPLES measurements of the seconds a call takes, together about ``seconds`` long, at least one."""
    once = seconds_per_call(call, 1)  # also brings the caches back after the other processes' turns
    calls = max(1, int(seconds / SAMPLES / once))
    count = max(1, min(SAMPLES, int(seconds / once)))
    return [seconds_per_call(call, calls) for _ in range(count)]


def main() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(sys.argv[1])})
    calls: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        request = json.loads(line)
        answer: Any
        if request["do"] == "config":
            answer = fastlstm.config()
        elif request["do"] == "peak":
            answer = _core.peak_gflops(request["dtype"])
        elif request["do"] == "check":
            with np.load(request["expected"]) as stored:
                answer = error_of(BY_NAME[request["case"]], [stored[name] for name in stored.files])
        else:
            name = request["case"]
            if name not in calls:
                calls[name] = call_of(BY_NAME[name])
                calls[name]()
            answer = samples(calls[name], request["seconds"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
