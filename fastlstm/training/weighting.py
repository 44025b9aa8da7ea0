"""Shapes of labels, sample weights, masks and reductions, in terms of arrays; used by ``losses`` and ``metrics``.

A loss or a metric has one number per sample or per time step, "values" of shape [N] or [N,T]. Weights and masks are laid
over them from the left: a weight of shape [N] counts for all time steps of its sample.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..devices import as_array
from ..numerics import as_real

REDUCTIONS = ("sum_over_batch_size", "sum", "mean", "mean_with_sample_weight", "none", None)
_MEANS = ("sum_over_batch_size", "mean")


def standardize_reduction(reduction: Any) -> str | None:
    """``reduction`` itself. ValueError for anything that is not in ``REDUCTIONS``."""
    if not (reduction is None or isinstance(reduction, str)) or reduction not in REDUCTIONS:
        raise ValueError(f"Invalid value for argument `reduction`: expected one of {REDUCTIONS}. Received: {reduction!r}")
    return reduction


def as_predictions(y_pred: Any) -> tuple[np.ndarray, np.dtype]:
    """``y_pred`` in the dtype to compute in (float32 or float64), and its own dtype. ValueError where it is empty."""
    real, dtype = as_real(y_pred)
    if real.size == 0:
        raise ValueError(f"`y_pred` is empty, there is nothing to compare. Received: y_pred.shape={real.shape}")
    return real, dtype


def as_labels(y_true: Any) -> np.ndarray:
    """``y_true`` as an array of real numbers of any dtype. TypeError for anything else."""
    array = as_array(y_true)
    return array if array.dtype.kind in "fiub" else as_real(array)[0]


def same_rank(y_true: np.ndarray, y_pred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both with equally many axes, where they differ by one axis of length 1 at the end: [N] and [N,1] become [N,1]."""
    if y_true.ndim == y_pred.ndim + 1 and y_true.shape[-1] == 1:
        return (y_true, y_pred[:, None]) if y_pred.ndim == 1 else (y_true[..., 0], y_pred)
    if y_pred.ndim == y_true.ndim + 1 and y_pred.shape[-1] == 1:
        return (y_true[:, None], y_pred) if y_true.ndim == 1 else (y_true, y_pred[..., 0])
    return y_true, y_pred


def check_same_shape(y_true: np.ndarray, y_pred: np.ndarray) -> None:
    """ValueError unless both have one shape, of at least one axis."""
    if y_true.shape != y_pred.shape or y_pred.ndim == 0:
        raise ValueError(
            "`y_true` and `y_pred` must have the same shape, with at least one axis. "
            f"Received: y_true.shape={y_true.shape}, y_pred.shape={y_pred.shape}"
        )


def _laid_over(weight: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    """``weight`` with as many axes as ``shape``, each as long as there or 1. ValueError where it does not fit."""
    array = as_labels(weight)
    given = array.shape
    if array.ndim == len(shape) + 1 and array.shape[-1] == 1:
        array = array[..., 0]
    array = array.reshape(array.shape + (1,) * (len(shape) - array.ndim))
    fits = array.ndim == len(shape) and all(array.shape[i] in (1, n) for i, n in enumerate(shape))
    if not fits:
        raise ValueError(f"`{name}` of shape {given} does not fit the values of shape {shape}, one per sample or time step")
    return array


def combined_weights(
    shape: tuple[int, ...], sample_weight: Any, masks: list[Any], reduction: str | None, dtype: np.dtype
) -> np.ndarray | None:
    """Sample weights times masks, as factors of values of shape ``shape``; None where there are neither.

    ``masks``: arrays (true where a value counts) or None. For the means over the batch, the entries that are left count for
    the masked ones too: the sum is divided by the number of unmasked values. All masked: weights of 0.
    """
    weights = None if sample_weight is None else _laid_over(sample_weight, shape, "sample_weight").astype(dtype)
    present = [_laid_over(mask, shape, "mask").astype(bool) for mask in masks if mask is not None]
    if not present:
        return weights
    mask = present[0] if len(present) == 1 else np.logical_and(*present)
    factors = mask.astype(dtype)
    valid = int(np.count_nonzero(mask))
    if reduction in _MEANS and valid:
        factors *= dtype.type(mask.size / valid)
    return factors if weights is None else weights * factors


def divisor_of(shape: tuple[int, ...], weights: np.ndarray | None, reduction: str | None) -> float:
    """What the sum of the weighted values is divided by; 0 (for "mean_with_sample_weight" only) stands for a loss of 0."""
    if shape == () or reduction not in (*_MEANS, "mean_with_sample_weight"):
        return 1.0
    if reduction == "mean_with_sample_weight" and weights is not None:
        return float(np.sum(weights))
    return float(math.prod(shape))
