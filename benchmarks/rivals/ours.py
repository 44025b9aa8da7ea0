"""fastlstm itself, as a user calls it: ``layer(x)``, with a given output array, or ``layer.vjp``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import fastlstm
from benchmarks.rivals.workload import THREADS, Data, Runner, Unsupported, Workload, mask_of
from fastlstm import _core


def versions() -> str:
    config = fastlstm.config()
    return f"fastlstm {config['fastlstm']}, NumPy {config['numpy']}, {config['isa']}, GEMM {config['gemm']}"


def peak_gflops(dtype: str) -> float:
    """The multiply-adds that one core can do, as measured by a loop of nothing else."""
    return _core.peak_gflops(dtype)


def set_num_threads(count: int) -> None:
    """How many threads a call may use. Unsupported: this version of fastlstm has one only."""
    if hasattr(fastlstm, "set_num_threads"):
        fastlstm.set_num_threads(count)
    elif count > 1:
        raise Unsupported("this version of fastlstm has no set_num_threads")


def make_layer(work: Workload, data: Data, dtype: str | None = None) -> Any:
    """The built layer, in ``dtype`` (default: the workload's own)."""
    dtype = dtype or work.dtype
    options: dict[str, Any] = {"return_sequences": work.return_sequences, "return_state": work.carries_states, "dtype": dtype}
    layer: Any
    if work.is_lstm:
        layer = fastlstm.LSTM(work.units, **options)
    else:
        layer = fastlstm.ConvLSTM1D(work.units, work.kernel_size, padding=work.padding, **options)
    if work.bidirectional:
        layer = fastlstm.Bidirectional(layer, dtype=dtype)
    layer.build(data["inputs"].shape[1:])
    names = [f"{name}{end}" for end in ("", "_b") for name in ("kernel", "recurrent_kernel", "bias")]
    layer.set_weights([data[name].astype(dtype) for name in names if name in data])
    return layer


def make(work: Workload, data: Data, folder: str) -> dict[str, Callable[[], Runner]]:
    set_num_threads(THREADS)
    layer, inputs = make_layer(work, data), list(data["inputs"])
    if work.training:
        return {"vjp": lambda: Runner([partial(_train, layer, x, data["cotangent"]) for x in inputs], _gradients)}
    if work.carries_states:
        return {"layer(x, [h, c])": lambda: _stream(work, layer, inputs)}
    masks = [{"mask": mask_of(work, lengths)} for lengths in data["lengths"]] if work.ragged else [{}] * len(inputs)
    calls = [partial(layer, x, **mask) for x, mask in zip(inputs, masks, strict=True)]
    ways = {"layer(x)": lambda: Runner(calls, lambda y: [y])}
    if not work.bidirectional:
        out = np.empty_like(layer(inputs[0]))
        ways["layer(x, out=y)"] = lambda: Runner([partial(call, out=out) for call in calls], lambda y: [y])
    return ways


def _stream(work: Workload, layer: Any, inputs: list[np.ndarray]) -> Runner:
    states: list[np.ndarray] = []

    def reset() -> None:
        states[:] = [np.zeros((work.batch, work.units), work.dtype) for _ in range(2)]

    def call(x: np.ndarray) -> np.ndarray:
        y, states[0], states[1] = layer(x, states)
        return y

    reset()
    return Runner([partial(call, x) for x in inputs], lambda y: [y], reset)


def _train(layer: Any, x: np.ndarray, cotangent: np.ndarray) -> Any:
    y, pullback = layer.vjp(x)
    return y, pullback(cotangent)


def _gradients(returned: Any) -> list[np.ndarray]:
    y, gradients = returned
    return [y, gradients.inputs, *gradients.weights]
