"""The losses' formulas on arrays: one value per sample or time step, and how to go back to the predictions.

Used by ``losses``. Every function takes labels and predictions (float32 or float64; labels of any real dtype) of fitting
rank and returns ``Evaluated``: the values, and a pullback c -> sum of c_i * d values_i / d y_pred, shaped like y_pred.
Probabilities are clipped to [epsilon, 1 - epsilon] (``settings.epsilon()``) as in Keras, and the derivative is that of the
clipped formula: 0 outside, 1 inside and at the two ends.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import settings
from ..devices import as_array
from .weighting import check_same_shape


class Evaluated(NamedTuple):
    """``values``; ``pullback`` (see above); ``mask``: False where a value shall not count, None where all count."""

    values: np.ndarray
    pullback: Callable[[np.ndarray], np.ndarray]
    mask: np.ndarray | None = None


def _same_shape(y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
    """The labels in the dtype of the predictions. ValueError unless the shapes agree."""
    check_same_shape(y_true, y_pred)
    return y_true.astype(y_pred.dtype, copy=False)


def _class_axis(axis: Any, ndim: int) -> int:
    """``axis`` counted from 0. ValueError unless it is an int within the axes of the predictions."""
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)) or not -ndim <= axis < ndim:
        raise ValueError(f"`axis` must be an int from {-ndim} to {ndim - 1}, an axis of `y_pred`. Received: axis={axis!r}")
    return int(axis) % ndim


def _smoothing(value: Any) -> float:
    """ValueError unless ``label_smoothing`` lies in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"`label_smoothing` must be a number from 0 to 1. Received: label_smoothing={value!r}")
    return float(value)


def _mean(elements: np.ndarray, derivative: Callable[[], np.ndarray], axis: int = -1) -> Evaluated:
    """Means over ``axis`` of a formula that is computed for each element; ``derivative`` gives d element / d prediction."""
    length = elements.shape[axis]

    def pullback(c: np.ndarray) -> np.ndarray:
        return np.expand_dims(c, axis) / elements.dtype.type(length) * derivative()

    return Evaluated(as_array(np.mean(elements, axis=axis)), pullback)


def mean_squared_error(y_true: np.ndarray, y_pred: np.ndarray) -> Evaluated:
    """mean (y_pred - y_true)^2 over the last axis."""
    error = y_pred - _same_shape(y_true, y_pred)
    return _mean(np.square(error), lambda: 2 * error)


def mean_absolute_error(y_true: np.ndarray, y_pred: np.ndarray) -> Evaluated:
    """mean |y_pred - y_true| over the last axis; derivative 0 where they are equal."""
    error = y_pred - _same_shape(y_true, y_pred)
    return _mean(np.abs(error), lambda: np.sign(error))


def huber(y_true: np.ndarray, y_pred: np.ndarray, delta: float = 1.0) -> Evaluated:
    """mean over the last axis of e^2 / 2 for |e| <= delta and delta |e| - delta^2 / 2 beyond."""
    if isinstance(delta, bool) or not isinstance(delta, (int, float)) or not delta > 0:
        raise ValueError(f"`delta` must be a number above 0. Received: delta={delta!r}")
    error = y_pred - _same_shape(y_true, y_pred)
    size, bound = np.abs(error), y_pred.dtype.type(delta)
    elements = np.where(size <= bound, np.square(error) / 2, bound * size - np.square(bound) / 2)
    return _mean(elements, lambda: np.clip(error, -bound, bound))


def _clipped(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities in [epsilon, 1 - epsilon], and where they were there already."""
    low, high = p.dtype.type(settings.epsilon()), p.dtype.type(1 - settings.epsilon())
    return np.clip(p, low, high), (p >= low) & (p <= high)


def binary_crossentropy(
    y_true: np.ndarray, y_pred: np.ndarray, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1
) -> Evaluated:
    """mean over ``axis`` of -t log p - (1 - t) log(1 - p), p = y_pred, or sigmoid(y_pred) for logits.

    ValueError for integer labels other than 0 and 1; labels of a float dtype may be anything, as in Keras.
    """
    target = _same_shape(y_true, y_pred)
    if y_true.dtype.kind in "iu" and not np.all((y_true == 0) | (y_true == 1)):
        raise ValueError(f"`y_true` must hold the labels 0 and 1. Received labels from {y_true.min()} to {y_true.max()}")
    axis, smoothing = _class_axis(axis, y_pred.ndim), _smoothing(label_smoothing)
    if smoothing:
        target = target * (1 - smoothing) + 0.5 * smoothing
    if from_logits:
        decay = np.exp(-np.abs(y_pred))
        elements = np.maximum(y_pred, 0) - y_pred * target + np.log1p(decay)
        return _mean(elements, lambda: np.where(y_pred >= 0, 1, decay) / (1 + decay) - target, axis)
    p, inside = _clipped(y_pred)
    elements = -(target * np.log(p) + (1 - target) * np.log(1 - p))
    return _mean(elements, lambda: np.where(inside, (1 - target) / (1 - p) - target / p, 0), axis)


def _log_softmax(logits: np.ndarray, axis: int) -> np.ndarray:
    shifted = logits - np.max(logits, axis=axis, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=axis, keepdims=True))


def _through_normalisation(d_share: np.ndarray, share: np.ndarray, total: np.ndarray, axis: int) -> np.ndarray:
    """Gradient with respect to p of share = p / total, total = sum of p over ``axis``."""
    return (d_share - np.sum(d_share * share, axis=axis, keepdims=True)) / total


def categorical_crossentropy(
    y_true: np.ndarray, y_pred: np.ndarray, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1
) -> Evaluated:
    """-sum over ``axis`` of t log p; p = y_pred / sum(y_pred), or softmax(y_pred) for logits.

    Smoothing spreads ``label_smoothing`` over the classes of ``axis``.
    """
    target = _same_shape(y_true, y_pred)
    axis, smoothing = _class_axis(axis, y_pred.ndim), _smoothing(label_smoothing)
    classes = y_pred.shape[axis]
    if classes == 1:
        warnings.warn(
            "categorical_crossentropy of a single class says nothing: y_pred.shape="
            f"{y_pred.shape}. For two classes with one output, take binary_crossentropy",
            SyntaxWarning,
            stacklevel=4,
        )
    if smoothing:
        target = target * (1 - smoothing) + smoothing / classes
    if from_logits:
        logs = _log_softmax(y_pred, axis)

        def from_scores(c: np.ndarray) -> np.ndarray:
            return np.expand_dims(c, axis) * (np.exp(logs) * np.sum(target, axis=axis, keepdims=True) - target)

        return Evaluated(-np.sum(target * logs, axis=axis), from_scores)
    total = np.sum(y_pred, axis=axis, keepdims=True)
    share = y_pred / total
    p, inside = _clipped(share)

    def from_probabilities(c: np.ndarray) -> np.ndarray:
        d_share = np.where(inside, -np.expand_dims(c, axis) * target / p, 0)
        return _through_normalisation(d_share, share, total, axis)

    return Evaluated(-np.sum(target * np.log(p), axis=axis), from_probabilities)


def _class_numbers(y_true: np.ndarray, classes: int, ignore_class: int | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels as int64 with 0 in place of ``ignore_class``, and where they count. ValueError for labels that are no class."""
    labels = y_true
    if labels.dtype.kind == "f" and not np.all(np.isfinite(labels) & (labels == np.rint(labels))):
        raise ValueError("`y_true` must hold class numbers. Received labels that are no whole numbers")
    labels = labels.astype(np.int64)
    valid = None
    if ignore_class is not None:
        valid = labels != ignore_class
        labels = np.where(valid, labels, 0)
    if labels.min() < 0 or labels.max() >= classes:
        besides = "" if ignore_class is None else f" (or ignore_class={ignore_class})"
        raise ValueError(
            f"`y_true` must hold class numbers from 0 to {classes - 1}{besides}: y_pred has {classes} classes. "
            f"Received labels from {labels.min()} to {labels.max()}"
        )
    return labels, valid


def sparse_categorical_crossentropy(
    y_true: np.ndarray,
    y_pred: np.ndarray,
    from_logits: bool = False,
    ignore_class: int | None = None,
    axis: int = -1,
) -> Evaluated:
    """-log p of the labelled class; y_true: class numbers, the shape of y_pred without ``axis`` (or with length 1 there).

    p as in ``categorical_crossentropy``. Labels equal to ``ignore_class`` give 0 and a mask.
    """
    if y_pred.ndim == 0:
        raise ValueError("`y_pred` must have an axis of classes. Received: y_pred.shape=()")
    axis = _class_axis(axis, y_pred.ndim)
    if y_true.ndim == y_pred.ndim and y_true.shape[axis] == 1:
        y_true = np.squeeze(y_true, axis=axis)
    expected = y_pred.shape[:axis] + y_pred.shape[axis + 1 :]
    if y_true.shape != expected:
        raise ValueError(
            f"`y_true` must have the shape of `y_pred` without the axis of classes, {expected}. "
            f"Received: y_true.shape={y_true.shape}, y_pred.shape={y_pred.shape}, axis={axis}"
        )
    labels, valid = _class_numbers(y_true, y_pred.shape[axis], ignore_class)
    chosen = np.expand_dims(labels, axis)

    def counted(c: np.ndarray) -> np.ndarray:
        return np.expand_dims(c if valid is None else np.where(valid, c, 0), axis)

    def finished(values: np.ndarray, pullback: Callable[[np.ndarray], np.ndarray]) -> Evaluated:
        values = np.squeeze(values, axis=axis)
        return Evaluated(values if valid is None else np.where(valid, values, values.dtype.type(0)), pullback, valid)

    if from_logits:
        logs = _log_softmax(y_pred, axis)

        def from_scores(c: np.ndarray) -> np.ndarray:
            gradient = np.exp(logs)
            np.put_along_axis(gradient, chosen, np.take_along_axis(gradient, chosen, axis) - 1, axis)
            return counted(c) * gradient

        return finished(-np.take_along_axis(logs, chosen, axis), from_scores)
    total = np.sum(y_pred, axis=axis, keepdims=True)
    share = y_pred / total
    p, inside = _clipped(np.take_along_axis(share, chosen, axis))

    def from_probabilities(c: np.ndarray) -> np.ndarray:
        d_share = np.zeros_like(share)
        np.put_along_axis(d_share, chosen, np.where(inside, -counted(c) / p, 0), axis)
        return _through_normalisation(d_share, share, total, axis)

    return finished(-np.log(p), from_probabilities)
