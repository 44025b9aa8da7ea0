"""Metrics: running means over the batches of an epoch (terms of ``keras.metrics``).

Used by training (``resolve``) and by callers with their own loop:

>>> import fastlstm
>>> metric = fastlstm.metrics.BinaryAccuracy()
>>> metric.update_state([[1], [0]], [[0.9], [0.8]])
>>> metric.result()
0.5

Sums are kept in float64. Samples count equally, or by their weights; masked time steps do not count.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import settings
from ..dtypes import get_policy
from ..identifiers import Family
from ..numerics import as_real
from ..serialization import to_snake_case
from . import losses
from .weighting import as_labels, as_predictions, check_same_shape, combined_weights, same_rank

__all__ = [
    "Accuracy",
    "BinaryAccuracy",
    "BinaryCrossentropy",
    "CategoricalAccuracy",
    "CategoricalCrossentropy",
    "Mean",
    "MeanAbsoluteError",
    "MeanMetricWrapper",
    "MeanSquaredError",
    "Metric",
    "RootMeanSquaredError",
    "SparseCategoricalAccuracy",
    "SparseCategoricalCrossentropy",
    "accuracy",
    "binary_accuracy",
    "categorical_accuracy",
    "deserialize",
    "get",
    "serialize",
    "sparse_categorical_accuracy",
]


def accuracy(y_true: Any, y_pred: Any) -> np.ndarray:
    """1 where label and prediction are equal, else 0: [...] and [...] -> [...], float32. ValueError for shapes that differ."""
    labels, predictions = same_rank(as_labels(y_true), as_predictions(y_pred)[0])
    check_same_shape(labels, predictions)
    return (labels == predictions).astype(np.float32)


def binary_accuracy(y_true: Any, y_pred: Any, threshold: float = 0.5) -> np.ndarray:
    """1 where (prediction > ``threshold``) is the label, else 0: [...] and [...] -> [...]. ValueError for shapes that differ."""
    labels, predictions = same_rank(as_labels(y_true), as_predictions(y_pred)[0])
    check_same_shape(labels, predictions)
    return (labels == (predictions > threshold)).astype(np.float32)


def categorical_accuracy(y_true: Any, y_pred: Any) -> np.ndarray:
    """1 where labels and predictions are largest at the same class: [..., C] and [..., C] -> [...].

    ValueError for shapes that differ.
    """
    labels, predictions = as_labels(y_true), as_predictions(y_pred)[0]
    check_same_shape(labels, predictions)
    return (np.argmax(labels, axis=-1) == np.argmax(predictions, axis=-1)).astype(np.float32)


def sparse_categorical_accuracy(y_true: Any, y_pred: Any) -> np.ndarray:
    """1 where the prediction is largest at the labelled class: class numbers [...] or [..., 1] and predictions [..., C] -> [...].

    ValueError for shapes that do not fit.
    """
    labels, predictions = as_labels(y_true), as_predictions(y_pred)[0]
    if labels.ndim == predictions.ndim and labels.shape[-1:] == (1,):
        labels = labels[..., 0]
    if labels.shape != predictions.shape[:-1] or predictions.ndim == 0:
        raise ValueError(
            f"`y_true` must have the shape of `y_pred` without its last axis, {predictions.shape[:-1]}. "
            f"Received: y_true.shape={np.shape(y_true)}, y_pred.shape={predictions.shape}"
        )
    return (labels == np.argmax(predictions, axis=-1)).astype(np.float32)


class Metric:
    """Base class: a subclass implements ``update_state``, ``result`` and ``reset_state``.

    Args: ``name``; ``dtype``: a dtype policy or its name, kept for the config only.
    """

    def __init__(self, dtype: Any = None, name: str | None = None):
        self.name = name or to_snake_case(type(self).__name__)
        self.dtype = get_policy(dtype or settings.floatx()).compute_dtype

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        """Takes note of a batch."""
        raise NotImplementedError(f"Metric {type(self).__name__} does not implement update_state()")

    def result(self) -> float:
        """The value over everything since the last ``reset_state``."""
        raise NotImplementedError(f"Metric {type(self).__name__} does not implement result()")

    def reset_state(self) -> None:
        """Starts over."""
        raise NotImplementedError(f"Metric {type(self).__name__} does not implement reset_state()")

    def __call__(self, *args: Any, **kwargs: Any) -> float:
        """``update_state``, then ``result``."""
        self.update_state(*args, **kwargs)
        return self.result()

    def get_config(self) -> dict:
        """Constructor arguments."""
        return {"name": self.name, "dtype": self.dtype}

    @classmethod
    def from_config(cls, config: dict) -> Any:
        """A new metric, without state, from ``get_config``'s dict."""
        return cls(**config)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}>"


class Mean(Metric):
    """Weighted mean of all values; 0 before the first one.

    A sample counts once, or as its weight: values and weights with more axes than one are averaged over the others first.
    """

    def __init__(self, name: str | None = "mean", dtype: Any = None):
        super().__init__(dtype, name)
        self._total, self._count = 0.0, 0.0

    def update_state(self, values: Any, sample_weight: Any = None) -> None:  # type: ignore[override]
        """``values``: a number or an array [N, ...]; ``sample_weight``: a number, or of the shape of the first axes of values.

        ValueError for an empty array and for weights that do not fit.
        """
        self._add(as_real(values)[0].astype(np.float64), sample_weight, [])

    def _add(self, values: np.ndarray, sample_weight: Any, masks: list[Any]) -> None:
        if values.size == 0:
            raise ValueError(f"There are no values to average. Received: an array of shape {values.shape}")
        weights = combined_weights(values.shape, sample_weight, masks, "sum", values.dtype)
        one_weight = sample_weight is not None and np.ndim(sample_weight) == 0 and not any(mask is not None for mask in masks)
        samples = values.shape[0] if values.ndim and not one_weight else 1  # one weight: the array counts as one sample
        share = samples / values.size  # the mean within a sample
        if weights is None:
            self._total += float(np.sum(values)) * share
            self._count += samples
        else:
            weights = np.broadcast_to(weights, values.shape)
            self._total += float(np.sum(values * weights)) * share
            self._count += float(np.sum(weights)) * share

    def result(self) -> float:
        return self._total / self._count if self._count else 0.0

    def reset_state(self) -> None:
        self._total, self._count = 0.0, 0.0


class MeanMetricWrapper(Mean):
    """Mean of a function ``fn(y_true, y_pred, **kwargs)`` -> one value per sample or time step."""

    def __init__(self, fn: Callable, name: str | None = None, dtype: Any = None, **kwargs: Any):
        super().__init__(name or getattr(fn, "__name__", None) or to_snake_case(type(self).__name__), dtype)
        self._fn, self._arguments = fn, kwargs

    def update_state(  # type: ignore[override]
        self, y_true: Any, y_pred: Any, sample_weight: Any = None, mask: Any = None
    ) -> None:
        """Labels and predictions as the function takes them. ``sample_weight``, ``mask`` (true where a value counts): of the
        shape of its values, or of their first axes. ValueError for an empty batch and shapes that do not fit."""
        values = as_real(self._fn(y_true, y_pred, **self._arguments))[0]
        self._add(values.astype(np.float64), sample_weight, [mask])

    def get_config(self) -> dict:
        """Constructor arguments; the function by its name."""
        if type(self) is not MeanMetricWrapper:
            return {**super().get_config(), **self._arguments}
        return {**super().get_config(), "fn": serialize(self._fn), **self._arguments}

    @classmethod
    def from_config(cls, config: dict) -> Any:
        return cls(**{**config, "fn": deserialize(config["fn"])} if "fn" in config else config)


class Accuracy(MeanMetricWrapper):
    """How often predictions equal labels. ``compile(metrics=["accuracy"])`` takes a metric that fits the shapes: ``resolve``."""

    def __init__(self, name: str | None = "accuracy", dtype: Any = None):
        super().__init__(accuracy, name, dtype)


class BinaryAccuracy(MeanMetricWrapper):
    """Mean of ``binary_accuracy``."""

    def __init__(self, name: str | None = "binary_accuracy", dtype: Any = None, threshold: float = 0.5):
        super().__init__(binary_accuracy, name, dtype, threshold=threshold)


class CategoricalAccuracy(MeanMetricWrapper):
    """Mean of ``categorical_accuracy``."""

    def __init__(self, name: str | None = "categorical_accuracy", dtype: Any = None):
        super().__init__(categorical_accuracy, name, dtype)


class SparseCategoricalAccuracy(MeanMetricWrapper):
    """Mean of ``sparse_categorical_accuracy``."""

    def __init__(self, name: str | None = "sparse_categorical_accuracy", dtype: Any = None):
        super().__init__(sparse_categorical_accuracy, name, dtype)


class MeanSquaredError(MeanMetricWrapper):
    """Mean of ``losses.mean_squared_error``."""

    def __init__(self, name: str | None = "mean_squared_error", dtype: Any = None):
        super().__init__(losses.mean_squared_error, name, dtype)


class RootMeanSquaredError(MeanMetricWrapper):
    """Square root of the mean of ``losses.mean_squared_error``."""

    def __init__(self, name: str | None = "root_mean_squared_error", dtype: Any = None):
        super().__init__(losses.mean_squared_error, name, dtype)

    def result(self) -> float:
        return math.sqrt(super().result())


class MeanAbsoluteError(MeanMetricWrapper):
    """Mean of ``losses.mean_absolute_error``."""

    def __init__(self, name: str | None = "mean_absolute_error", dtype: Any = None):
        super().__init__(losses.mean_absolute_error, name, dtype)


class BinaryCrossentropy(MeanMetricWrapper):
    """Mean of ``losses.binary_crossentropy``."""

    def __init__(
        self,
        name: str | None = "binary_crossentropy",
        dtype: Any = None,
        from_logits: bool = False,
        label_smoothing: float = 0,
    ):
        super().__init__(losses.binary_crossentropy, name, dtype, from_logits=from_logits, label_smoothing=label_smoothing)


class CategoricalCrossentropy(MeanMetricWrapper):
    """Mean of ``losses.categorical_crossentropy``."""

    def __init__(
        self,
        name: str | None = "categorical_crossentropy",
        dtype: Any = None,
        from_logits: bool = False,
        label_smoothing: float = 0,
        axis: int = -1,
    ):
        options = {"from_logits": from_logits, "label_smoothing": label_smoothing, "axis": axis}
        super().__init__(losses.categorical_crossentropy, name, dtype, **options)


class SparseCategoricalCrossentropy(MeanMetricWrapper):
    """Mean of ``losses.sparse_categorical_crossentropy``; as in Keras, labels equal to ``ignore_class`` count, as 0."""

    def __init__(
        self,
        name: str | None = "sparse_categorical_crossentropy",
        dtype: Any = None,
        from_logits: bool = False,
        ignore_class: int | None = None,
        axis: int = -1,
    ):
        options = {"from_logits": from_logits, "ignore_class": ignore_class, "axis": axis}
        super().__init__(losses.sparse_categorical_crossentropy, name, dtype, **options)


_CLASSES = (
    Mean,
    MeanMetricWrapper,
    Accuracy,
    BinaryAccuracy,
    CategoricalAccuracy,
    SparseCategoricalAccuracy,
    MeanSquaredError,
    RootMeanSquaredError,
    MeanAbsoluteError,
    BinaryCrossentropy,
    CategoricalCrossentropy,
    SparseCategoricalCrossentropy,
)
_ALIASES = {
    "mse": MeanSquaredError,
    "MSE": MeanSquaredError,
    "mae": MeanAbsoluteError,
    "MAE": MeanAbsoluteError,
    "bce": BinaryCrossentropy,
    "BCE": BinaryCrossentropy,
}
_FUNCTIONS = (
    accuracy,
    binary_accuracy,
    categorical_accuracy,
    sparse_categorical_accuracy,
    losses.mean_squared_error,
    losses.mean_absolute_error,
    losses.huber,
    losses.binary_crossentropy,
    losses.categorical_crossentropy,
    losses.sparse_categorical_crossentropy,
)


class _Metrics(Family):
    """A name gives an object; in a dict of Keras for a function, the name gives the function."""

    def deserialize(self, config: Any, custom_objects: Any = None) -> Any:
        if isinstance(config, dict) and config.get("class_name") == "function":
            found = {f.__name__: f for f in _FUNCTIONS} | dict(custom_objects or {})
            if config.get("config") in found:
                return found[config["config"]]
        return super().deserialize(config, custom_objects)


_family = _Metrics("metric", "keras.metrics", _CLASSES, _ALIASES)
del _family.table["mean_metric_wrapper"]
get, serialize, deserialize = _family.get, _family.serialize, _family.deserialize


def resolve(identifier: Any, y_true: Any = None, y_pred: Any = None) -> Metric:
    """The ``Metric`` that ``compile(metrics=[identifier])`` means; functions are wrapped. A name becomes the metric's name.

    "accuracy" and "acc": ``BinaryAccuracy`` for predictions [..., 1], ``SparseCategoricalAccuracy`` for labels with fewer axes
    (or length 1 in the last one), else ``CategoricalAccuracy``; the shapes are those of the first batch. ValueError for None.
    """
    if identifier is None:
        raise ValueError(f"A metric must not be None. Known names: {', '.join(sorted(_family.table))}")
    if isinstance(identifier, str) and identifier.lower() in ("accuracy", "acc"):
        binary, sparse = losses.is_binary_or_sparse(y_true, y_pred)
        chosen = SparseCategoricalAccuracy if sparse else CategoricalAccuracy
        return BinaryAccuracy(name=identifier) if binary else chosen(name=identifier)
    metric = get(identifier)
    if not isinstance(metric, Metric):
        metric = MeanMetricWrapper(metric)
    if isinstance(identifier, str):
        metric.name = identifier
    return metric
