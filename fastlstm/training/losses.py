"""Losses and their gradients with respect to the predictions (terms of ``keras.losses``).

Used by training (``resolve``, ``Loss.value_and_gradient``) and by callers with their own loop:

>>> import numpy as np, fastlstm
>>> loss = fastlstm.losses.MeanSquaredError()
>>> value, gradient = loss.value_and_gradient(np.zeros((2, 3)), np.ones((2, 3)))
>>> float(value), gradient.shape
(1.0, (2, 3))

A loss object returns one number for a batch, a loss function one number per sample or time step. float64 predictions are
computed in float64, everything else in float32, unless ``dtype`` says otherwise. The means divide by the number of values,
weighted or not, and by the number of unmasked ones where there is a mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..devices import as_array
from ..dtypes import get_policy
from ..identifiers import Family
from ..serialization import to_snake_case
from . import loss_formulas as formulas
from .weighting import as_labels, as_predictions, combined_weights, divisor_of, same_rank, standardize_reduction

__all__ = [
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "Huber",
    "Loss",
    "LossFunctionWrapper",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "SparseCategoricalCrossentropy",
    "binary_crossentropy",
    "categorical_crossentropy",
    "deserialize",
    "get",
    "huber",
    "mean_absolute_error",
    "mean_squared_error",
    "serialize",
    "sparse_categorical_crossentropy",
]


def _evaluate(formula: Callable[..., formulas.Evaluated], y_true: Any, y_pred: Any, **arguments: Any) -> formulas.Evaluated:
    """A formula on any two array-likes, after evening out a last axis of length 1."""
    labels, predictions = same_rank(as_labels(y_true), as_predictions(y_pred)[0])
    with np.errstate(all="ignore"):
        return formula(labels, predictions, **arguments)


def mean_squared_error(y_true: Any, y_pred: Any) -> np.ndarray:
    """mean (y_pred - y_true)^2 over the last axis: [..., D] and [..., D] -> [...]. ValueError for shapes that differ."""
    return _evaluate(formulas.mean_squared_error, y_true, y_pred).values


def mean_absolute_error(y_true: Any, y_pred: Any) -> np.ndarray:
    """mean |y_pred - y_true| over the last axis: [..., D] and [..., D] -> [...]. ValueError for shapes that differ."""
    return _evaluate(formulas.mean_absolute_error, y_true, y_pred).values


def huber(y_true: Any, y_pred: Any, delta: float = 1.0) -> np.ndarray:
    """mean over the last axis of e^2 / 2 up to |e| = ``delta`` and of the tangent there beyond: [..., D] -> [...]."""
    return _evaluate(formulas.huber, y_true, y_pred, delta=delta).values


def binary_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1
) -> np.ndarray:
    """mean over ``axis`` of -t log p - (1 - t) log(1 - p): labels and predictions [..., D] -> [...].

    p = y_pred, clipped by ``settings.epsilon()``, or sigmoid(y_pred) with ``from_logits``. ``label_smoothing`` s takes labels
    to t (1 - s) + s / 2. ValueError for shapes that differ and for integer labels other than 0 and 1.
    """
    options = {"from_logits": from_logits, "label_smoothing": label_smoothing, "axis": axis}
    return _evaluate(formulas.binary_crossentropy, y_true, y_pred, **options).values


def categorical_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1
) -> np.ndarray:
    """-sum over the classes of t log p: labels and predictions [..., C] -> [...]; ``axis`` is the axis of classes.

    p = y_pred / sum(y_pred), clipped by ``settings.epsilon()``, or softmax(y_pred) with ``from_logits``. ``label_smoothing`` s
    takes labels to t (1 - s) + s / C. ValueError for shapes that differ.
    """
    options = {"from_logits": from_logits, "label_smoothing": label_smoothing, "axis": axis}
    return _evaluate(formulas.categorical_crossentropy, y_true, y_pred, **options).values


def sparse_categorical_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool = False, ignore_class: int | None = None, axis: int = -1
) -> np.ndarray:
    """-log p of the labelled class: class numbers [...] or [..., 1] and predictions [..., C] -> [...].

    p as in ``categorical_crossentropy``; 0 where the label is ``ignore_class``. ValueError for labels that are no class number.
    """
    options = {"from_logits": from_logits, "ignore_class": ignore_class, "axis": axis}
    return _evaluate(formulas.sparse_categorical_crossentropy, y_true, y_pred, **options).values


_FORMULAS: dict[Callable, Callable[..., formulas.Evaluated]] = {
    mean_squared_error: formulas.mean_squared_error,
    mean_absolute_error: formulas.mean_absolute_error,
    huber: formulas.huber,
    binary_crossentropy: formulas.binary_crossentropy,
    categorical_crossentropy: formulas.categorical_crossentropy,
    sparse_categorical_crossentropy: formulas.sparse_categorical_crossentropy,
}


class Loss:
    """Base class. A subclass implements ``evaluate`` (values and pullback, for training) or ``call`` (values only).

    Args: ``reduction``: "sum_over_batch_size" and "mean" (sum divided by the number of values), "sum",
    "mean_with_sample_weight" (divided by the sum of the weights), "none" or None (one value per sample or time step);
    ``dtype``: a dtype policy or its name to compute in; None: that of the predictions. ValueError for another reduction.
    """

    def __init__(self, name: str | None = None, reduction: str | None = "sum_over_batch_size", dtype: Any = None):
        self.name = name or to_snake_case(type(self).__name__)
        self.reduction = standardize_reduction(reduction)
        self.dtype = None if dtype is None else get_policy(dtype).compute_dtype
        self._compute = None if dtype is None else get_policy(dtype).arithmetic_dtype

    def evaluate(self, y_true: np.ndarray, y_pred: np.ndarray) -> formulas.Evaluated:
        """``Evaluated`` of labels (any real dtype) and predictions (float32 or float64): values, pullback and mask or None."""
        raise NotImplementedError(f"Loss {type(self).__name__} has no gradient: it does not implement evaluate()")

    def call(self, y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
        """One value per sample or time step."""
        return self.evaluate(y_true, y_pred).values

    def _prepared(self, y_true: Any, y_pred: Any) -> tuple[np.ndarray, np.ndarray, np.dtype]:
        """Labels and predictions with the same rank, predictions in the dtype to compute in, and the predictions' own dtype."""
        predictions, dtype = as_predictions(y_pred)
        labels, predictions = same_rank(as_labels(y_true), predictions)
        return labels, predictions if self._compute is None else predictions.astype(self._compute, copy=False), dtype

    def _reduced(self, values: np.ndarray, sample_weight: Any, masks: list[Any]) -> tuple[Any, np.ndarray]:
        """The loss, and the factor that each value has in it."""
        weights = combined_weights(values.shape, sample_weight, masks, self.reduction, values.dtype)
        weighted = values if weights is None else values * weights
        factors = np.ones_like(values) if weights is None else np.broadcast_to(weights, values.shape)
        if self.reduction in (None, "none"):
            return weighted, factors
        divisor = values.dtype.type(divisor_of(values.shape, weights, self.reduction))
        if divisor == 0:
            return values.dtype.type(0), np.zeros_like(values)
        return values.dtype.type(float(np.sum(weighted) / divisor)), factors / divisor

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None, mask: Any = None) -> Any:
        """The loss of a batch: a NumPy scalar, or an array without reduction.

        ``sample_weight``, ``mask`` (true where a value counts): shaped like the values, or like their first axes ([N] for values
        [N,T]: one weight for all steps of a sample). ValueError for an empty batch or shapes that do not fit.
        """
        labels, predictions, _ = self._prepared(y_true, y_pred)
        with np.errstate(all="ignore"):
            if type(self).evaluate is Loss.evaluate:
                values, own = as_array(self.call(labels, predictions)), None
            else:
                values, _, own = self.evaluate(labels, predictions)
            return self._reduced(values, sample_weight, [mask, own])[0]

    def value_and_gradient(self, y_true: Any, y_pred: Any, sample_weight: Any = None, mask: Any = None) -> tuple[Any, np.ndarray]:
        """(loss, d loss / d y_pred); the gradient has shape and dtype of ``y_pred``. Arguments as in ``__call__``.

        ValueError if the loss is not reduced to one number.
        """
        if self.reduction in (None, "none"):
            raise ValueError(
                f"The gradient needs one number for the batch: `reduction` of {self.name} must be 'sum' or one of the means. "
                f"Received: reduction={self.reduction!r}"
            )
        labels, predictions, dtype = self._prepared(y_true, y_pred)
        with np.errstate(all="ignore"):
            values, pullback, own = self.evaluate(labels, predictions)
            loss, factors = self._reduced(values, sample_weight, [mask, own])
            return loss, pullback(factors).astype(dtype, copy=False).reshape(np.shape(y_pred))

    def get_config(self) -> dict:
        """Constructor arguments."""
        return {"name": self.name, "reduction": self.reduction}

    @classmethod
    def from_config(cls, config: dict) -> Any:
        """A new object from ``get_config``'s dict."""
        return cls(**config)


class LossFunctionWrapper(Loss):
    """A function ``fn(y_true, y_pred, **kwargs)`` -> one value per sample or time step, as a loss.

    Only the functions of this module have a gradient: training with another one raises ValueError (subclass ``Loss`` then).
    """

    def __init__(
        self,
        fn: Callable,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ):
        super().__init__(name or getattr(fn, "__name__", None), reduction, dtype)
        self.fn, self._arguments = fn, kwargs

    def evaluate(self, y_true: np.ndarray, y_pred: np.ndarray) -> formulas.Evaluated:
        if self.fn in _FORMULAS:
            return _FORMULAS[self.fn](y_true, y_pred, **self._arguments)
        values = as_array(self.fn(y_true, y_pred, **self._arguments), y_pred.dtype)
        return formulas.Evaluated(values, self._no_gradient)

    def _no_gradient(self, c: np.ndarray) -> np.ndarray:
        raise ValueError(
            f"The loss function {self.name!r} has no gradient: pass an instance of a subclass of Loss with evaluate(). "
            f"Functions with a gradient: {', '.join(f.__name__ for f in _FORMULAS)}"
        )

    def get_config(self) -> dict:
        """Constructor arguments; the function by its name."""
        return {**super().get_config(), "fn": serialize(self.fn), **self._arguments}

    @classmethod
    def from_config(cls, config: dict) -> Any:
        return cls(**{**config, "fn": deserialize(config["fn"])} if "fn" in config else config)


class MeanSquaredError(LossFunctionWrapper):
    """``mean_squared_error`` of a batch."""

    def __init__(self, reduction: str | None = "sum_over_batch_size", name: str | None = "mean_squared_error", dtype: Any = None):
        super().__init__(mean_squared_error, reduction, name, dtype)

    def get_config(self) -> dict:
        return Loss.get_config(self)


class MeanAbsoluteError(LossFunctionWrapper):
    """``mean_absolute_error`` of a batch."""

    def __init__(
        self, reduction: str | None = "sum_over_batch_size", name: str | None = "mean_absolute_error", dtype: Any = None
    ):
        super().__init__(mean_absolute_error, reduction, name, dtype)

    def get_config(self) -> dict:
        return Loss.get_config(self)


class Huber(LossFunctionWrapper):
    """``huber`` of a batch. The config holds ``delta`` too, which Keras leaves out."""

    def __init__(
        self,
        delta: float = 1.0,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "huber_loss",
        dtype: Any = None,
    ):
        super().__init__(huber, reduction, name, dtype, delta=delta)
        self.delta = delta

    def get_config(self) -> dict:
        return {**Loss.get_config(self), "delta": self.delta}


class _Crossentropy(LossFunctionWrapper):
    """Arguments of the crossentropies with labels like the predictions."""

    def __init__(self, fn: Callable, from_logits: bool, label_smoothing: float, axis: int, *args: Any):
        super().__init__(fn, *args, from_logits=from_logits, label_smoothing=label_smoothing, axis=axis)
        self.from_logits, self.label_smoothing, self.axis = from_logits, label_smoothing, axis

    def get_config(self) -> dict:
        own = {"from_logits": self.from_logits, "label_smoothing": self.label_smoothing, "axis": self.axis}
        return {**Loss.get_config(self), **own}


class BinaryCrossentropy(_Crossentropy):
    """``binary_crossentropy`` of a batch."""

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "binary_crossentropy",
        dtype: Any = None,
    ):
        super().__init__(binary_crossentropy, from_logits, label_smoothing, axis, reduction, name, dtype)


class CategoricalCrossentropy(_Crossentropy):
    """``categorical_crossentropy`` of a batch."""

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "categorical_crossentropy",
        dtype: Any = None,
    ):
        super().__init__(categorical_crossentropy, from_logits, label_smoothing, axis, reduction, name, dtype)


class SparseCategoricalCrossentropy(LossFunctionWrapper):
    """``sparse_categorical_crossentropy`` of a batch. The config holds ``axis`` where it is not -1; Keras leaves it out."""

    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        axis: int = -1,
        name: str | None = "sparse_categorical_crossentropy",
        dtype: Any = None,
    ):
        options = {"from_logits": from_logits, "ignore_class": ignore_class, "axis": axis}
        super().__init__(sparse_categorical_crossentropy, reduction, name, dtype, **options)
        self.from_logits, self.ignore_class, self.axis = from_logits, ignore_class, axis

    def get_config(self) -> dict:
        own = {"from_logits": self.from_logits, "ignore_class": self.ignore_class}
        return {**Loss.get_config(self), **own, **({} if self.axis == -1 else {"axis": self.axis})}


_CLASSES = (
    MeanSquaredError,
    MeanAbsoluteError,
    Huber,
    BinaryCrossentropy,
    CategoricalCrossentropy,
    SparseCategoricalCrossentropy,
    LossFunctionWrapper,
)
_ALIASES: dict[str, Any] = {
    "mse": mean_squared_error,
    "MSE": mean_squared_error,
    "mae": mean_absolute_error,
    "MAE": mean_absolute_error,
    "bce": binary_crossentropy,
    "BCE": binary_crossentropy,
}

_family = Family("loss", "keras.losses", _CLASSES, _ALIASES | {f.__name__: f for f in _FORMULAS})
del _family.table["loss_function_wrapper"]
get, serialize, deserialize = _family.get, _family.serialize, _family.deserialize


def is_binary_or_sparse(y_true: Any, y_pred: Any) -> tuple[bool, bool]:
    """Whether the predictions have one number in their last axis, and whether the labels look like class numbers."""
    labels, predictions = np.shape(y_true), np.shape(y_pred)
    if not labels or not predictions:
        raise ValueError(f"Expected batches. Received: y_true.shape={labels}, y_pred.shape={predictions}")
    sparse = len(labels) < len(predictions) or (labels[-1] == 1 and predictions[-1] > 1)
    return predictions[-1] == 1, sparse


def resolve(identifier: Any, y_true: Any = None, y_pred: Any = None) -> Loss:
    """The ``Loss`` that ``compile(loss=identifier)`` means; functions are wrapped.

    "crossentropy" and "ce" take the binary, sparse or plain one, as the shapes of the first batch say. ValueError for None.
    """
    if identifier is None:
        raise ValueError(f"`loss` must be given. Known names: {', '.join(sorted(_family.table))}")
    if isinstance(identifier, str) and identifier.lower() in ("crossentropy", "ce"):
        binary, sparse = is_binary_or_sparse(y_true, y_pred)
        chosen = sparse_categorical_crossentropy if sparse else categorical_crossentropy
        return LossFunctionWrapper(binary_crossentropy if binary else chosen, name=identifier)
    loss = get(identifier)
    if isinstance(loss, Loss):
        return loss
    return LossFunctionWrapper(loss, name=identifier if isinstance(identifier, str) else None)
