"""The differences between what the layers return here and in another runtime. Used by ``verify_command``."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..models.converting import largest_difference
from .layer_outputs import Outputs, Row
from .runtimes import Answer


class Difference(NamedTuple):
    """Of one array: ``error``: the largest |a - b|, ``relative``: the largest |a - b| / max(1, |b|); None where the other side
    has no such array."""

    row: Row
    error: float | None
    relative: float | None


class Compared(NamedTuple):
    """All arrays of the layers, and the largest ``relative`` difference of what the model returns (inf: it is not there)."""

    layers: list[Difference]
    overall: float


def compare(ours: Outputs, answer: Answer) -> Compared:
    """Row by row, NaN equal to NaN."""
    layers = []
    for row in ours.rows:
        other = next((answer.arrays[key] for key in row.keys if key in answer.arrays), None)
        if other is None:
            layers.append(Difference(row, None, None))
        else:
            layers.append(Difference(row, largest_error(row.array, other), largest_difference(row.array, other)))
    return Compared(layers, _overall(ours, answer))


def _overall(ours: Outputs, answer: Answer) -> float:
    own = {key: row.array for row in ours.rows for key in row.keys}
    if len(ours.outputs) != len(answer.outputs):
        return float("inf")
    pairs = [(own.get(one), answer.arrays.get(other)) for one, other in zip(ours.outputs, answer.outputs, strict=True)]
    if any(one is None or other is None for one, other in pairs):
        return float("inf")
    return max((largest_difference(one, other) for one, other in pairs), default=0.0)


def largest_error(one: np.ndarray, other: np.ndarray) -> float:
    """The largest |a - b|; equal infinities and NaN count as 0. inf where the shapes differ."""
    a, b = np.asarray(one, "float64"), np.asarray(other, "float64")
    if a.shape != b.shape:
        return float("inf")
    with np.errstate(invalid="ignore"):
        error = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return float(np.where(np.isnan(error), np.inf, error).max(initial=0.0))
