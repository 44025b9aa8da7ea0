"""What an adapter is given and what it answers: Workload, the arrays, Runner. Used by ``worker`` and by every adapter.

Imports nothing but NumPy: it runs in the environments of all engines. Letters as in ``benchmarks.cases``.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

COUNT = 4  # inputs that the calls take in turn; even, so that two buffers for the states of a stream take turns with them
THREADS = int(os.environ.get("BENCH_THREADS", "1"))  # of this process: what every adapter asks its engine to use
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}  # the largest error of a right answer
Data = dict[str, np.ndarray]


class Unsupported(Exception):
    """The engine has no such thing; the text says what is missing and stands in the table's notes."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """One workload. ``features`` is D of an LSTM and C of a ConvLSTM1D, ``units`` U or F; inputs [N,T,D] or [N,T,R,C].

    ``carries_states``: each call takes the h and c of the call before. ``training``: the output and the gradients of the
    inputs and of all weights for a given cotangent. ``ragged``: ``data["lengths"]`` [COUNT,N] says how many steps of each sample
    count. ``percentile``: the 99th percentile of single calls is reported in place of the mean of a burst. ``threads``: how many
    each engine may use, each on a CPU of its own.

    The arrays of ``data``: inputs [COUNT,...], kernel, recurrent_kernel, bias (``_b``: those of the backward direction),
    lengths (ragged), cotangent (training: like the output).
    """

    name: str
    group: str
    batch: int
    steps: int
    features: int
    units: int
    flops: int
    layer: str = "LSTM"
    rows: int = 1
    kernel_size: int = 1
    padding: str = "same"
    return_sequences: bool = True
    carries_states: bool = False
    dtype: str = "float32"
    training: bool = False
    bidirectional: bool = False
    ragged: bool = False
    percentile: bool = False
    threads: int = 1

    @property
    def is_lstm(self) -> bool:
        return self.layer == "LSTM"

    @property
    def rows_out(self) -> int:
        """S: what the input convolution leaves of R."""
        return self.rows if self.padding == "same" else self.rows - self.kernel_size + 1

    @property
    def checked_calls(self) -> int:
        """How many calls, from the first one, have an expected output."""
        return 8 if self.carries_states else 2

    def __str__(self) -> str:
        sizes = f"N{self.batch} T{self.steps} "
        if self.is_lstm:
            text = f"LSTM {sizes}D{self.features} U{self.units}"
        else:
            text = f"{self.layer} {sizes}R{self.rows} C{self.features} F{self.units} K{self.kernel_size} {self.padding}"
        words = {"Bidirectional": self.bidirectional, "lengths 10-100": self.ragged, "h, c in and out": self.carries_states}
        words |= {"forward and backward": self.training, "float64": self.dtype == "float64", "p99": self.percentile}
        words |= {f"{self.threads} threads": self.threads > 1}
        return ", ".join([text, *(word for word, holds in words.items() if holds)])


@dataclasses.dataclass
class Runner:
    """One way of an engine to run a workload.

    ``calls``: COUNT functions without arguments, the k-th runs input k on what was bound beforehand and returns when the output
    is there. ``result`` makes of what a call returned the arrays to compare, in Keras' layout: [output], for training [output,
    gradient of the inputs, of kernel, of recurrent_kernel, of bias]. ``reset`` puts the states of a stream back to zero.
    """

    calls: Sequence[Callable[[], Any]]
    result: Callable[[Any], list[np.ndarray]]
    reset: Callable[[], None] = lambda: None


def mask_of(work: Workload, lengths: np.ndarray) -> np.ndarray:
    """lengths [N] -> mask [N,T], True for the steps that count."""
    return np.arange(work.steps) < lengths[:, None]


def error_of(got: Sequence[np.ndarray], want: Sequence[np.ndarray]) -> float:
    """Largest |difference| / max(1, largest |wanted|) over all arrays; NaN where ``want`` holds one means "not compared".

    Infinite where an array has another shape or holds a NaN of its own.
    """
    if len(got) != len(want):
        return float("inf")
    errors = [0.0]
    for value, wanted in zip(got, want, strict=True):
        if value.shape != wanted.shape:
            return float("inf")
        compared = ~np.isnan(wanted)
        difference = np.abs(value.astype(np.float64) - wanted)[compared]
        scale = np.max(np.abs(wanted[compared]), initial=1.0)
        errors.append(float(np.max(np.where(np.isnan(difference), np.inf, difference), initial=0.0) / scale))
    return max(errors)
