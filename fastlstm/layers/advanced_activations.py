"""Activations that are layers: ReLU, LeakyReLU, ELU, PReLU, Softmax (terms of ``keras.layers``).

In terms of ``activations`` and their backwards, with the options that the layers hold.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from .. import activations, constraints, initializers, regularizers
from ..arrays import cast
from ..variable import Variable
from .base import Layer
from .checks import known_size


def _slope(value: Any, name: str, layer: str) -> Any:
    """``value``. ValueError unless it is a number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not value >= 0:
        raise ValueError(f"The {name} of a {layer} layer must be a number of at least 0. Received: {name}={value!r}")
    return value


class _Elementwise(Layer):
    """Base: an activation with options."""

    supports_masking = True
    _name = "relu"

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.built = True

    def _options(self) -> dict[str, Any]:
        return {}

    def call(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        return cast(activations.get(self._name)(cast(x, self.arithmetic_dtype), **self._options()), self.storage_dtype)

    def _vjp(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> tuple[np.ndarray, Any]:
        z, options = cast(x, self.arithmetic_dtype), self._options()
        y = activations.get(self._name)(z, **options)
        return cast(y.copy(), self.storage_dtype), lambda dy: (activations.vjp(self._name)(z, y, dy, **options), [])

    def get_config(self) -> dict:
        return {**super().get_config(), **self._options()}


class ReLU(_Elementwise):
    """x above ``threshold``, else negative_slope * (x - threshold); at most ``max_value``. ValueError for negative arguments."""

    def __init__(self, max_value: Any = None, negative_slope: Any = 0.0, threshold: Any = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.max_value = None if max_value is None else _slope(max_value, "max_value", "ReLU")
        self.negative_slope = _slope(negative_slope, "negative_slope", "ReLU")
        self.threshold = _slope(threshold, "threshold", "ReLU")

    def _options(self) -> dict[str, Any]:
        return {"max_value": self.max_value, "negative_slope": self.negative_slope, "threshold": self.threshold}


class LeakyReLU(_Elementwise):
    """x above 0, else negative_slope * x. ``alpha``: its name before Keras 3. ValueError for a negative slope."""

    _name = "leaky_relu"

    def __init__(self, negative_slope: Any = 0.3, **kwargs: Any):
        if "alpha" in kwargs:
            negative_slope = kwargs.pop("alpha")
            warnings.warn("Argument `alpha` is deprecated. Use `negative_slope` instead.", stacklevel=2)
        super().__init__(**kwargs)
        self.negative_slope = _slope(negative_slope, "negative_slope", "LeakyReLU")

    def _options(self) -> dict[str, Any]:
        return {"negative_slope": self.negative_slope}


class ELU(_Elementwise):
    """x above 0, else alpha * (exp(x) - 1)."""

    _name = "elu"

    def __init__(self, alpha: Any = 1.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.alpha = alpha

    def _options(self) -> dict[str, Any]:
        return {"alpha": self.alpha}


class PReLU(Layer):
    """x above 0, else alpha * x with trained slopes alpha: one for each place, axes in ``shared_axes`` (from 1) share theirs."""

    supports_masking = True
    alpha: Variable

    def __init__(
        self,
        alpha_initializer: Any = "Zeros",
        alpha_regularizer: Any = None,
        alpha_constraint: Any = None,
        shared_axes: Any = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.alpha_initializer = initializers.get(alpha_initializer)
        self.alpha_regularizer = regularizers.get(alpha_regularizer)
        self.alpha_constraint = constraints.get(alpha_constraint)
        shared = [shared_axes] if isinstance(shared_axes, int) else shared_axes
        if shared is not None and not all(isinstance(axis, int) and axis > 0 for axis in shared):
            raise ValueError(f"The argument `shared_axes` must hold axes, counted from 1. Received: shared_axes={shared_axes!r}")
        self.shared_axes = None if shared is None else list(shared)

    def _build(self, input_shape: Any) -> None:
        shared = self.shared_axes or []
        if any(axis >= len(input_shape) for axis in shared):
            raise ValueError(f"Layer {self.name!r} has no axes {shared} to share. Received: input_shape={tuple(input_shape)}")
        shape = tuple(1 if k in shared else known_size(input_shape, k, self.name) for k in range(1, len(input_shape)))
        self._variables = []
        options = {"regularizer": self.alpha_regularizer, "constraint": self.alpha_constraint}
        self.alpha = self.add_weight(shape, self.alpha_initializer, "alpha", **options)

    def _checked(self, x: np.ndarray) -> np.ndarray:
        fits = x.ndim == self.alpha.ndim + 1 and all(n in (1, m) for n, m in zip(self.alpha.shape, x.shape[1:], strict=True))
        if not fits:
            raise ValueError(f"Layer {self.name!r} has slopes of shape {self.alpha.shape}. Received: inputs.shape={x.shape}")
        return cast(x, self.arithmetic_dtype)

    def call(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        z = self._checked(x)
        with np.errstate(all="ignore"):
            return cast(np.maximum(z, 0) - self.weight_value(self.alpha) * np.maximum(-z, 0), self.storage_dtype)

    def _vjp(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> tuple[np.ndarray, Any]:
        z, alpha = self._checked(x), self.weight_value(self.alpha).copy()
        axes = (0, *(k for k, size in enumerate(alpha.shape, 1) if size == 1 and z.shape[k] != 1))

        def pull(dy: np.ndarray) -> tuple[np.ndarray, list]:
            with np.errstate(all="ignore"):
                slopes = (dy * np.minimum(z, 0)).sum(axis=axes, keepdims=True)[0]
                return np.where(z > 0, dy, np.where(z < 0, dy * alpha, 0)), [slopes.reshape(alpha.shape)]

        return self.call(x), pull

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "alpha_initializer": initializers.serialize(self.alpha_initializer),
            "alpha_regularizer": regularizers.serialize(self.alpha_regularizer),
            "alpha_constraint": constraints.serialize(self.alpha_constraint),
            "shared_axes": self.shared_axes,
        }


class Softmax(Layer):
    """softmax along ``axis`` (one or several). ``mask``: broadcasts to the input; the result is 0 where it is False."""

    supports_masking = True

    def __init__(self, axis: Any = -1, **kwargs: Any):
        super().__init__(**kwargs)
        axes = axis if isinstance(axis, (list, tuple)) else (axis,)
        if not axes or not all(isinstance(one, int) for one in axes):
            raise ValueError(f"The argument `axis` must be an axis or several. Received: axis={axis!r}")
        self.axis = axis
        self.built = True

    def call(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        return cast(self._shares(x, mask)[0], self.storage_dtype)

    def _shares(self, x: np.ndarray, mask: Any) -> tuple[np.ndarray, tuple[int, ...]]:
        """The result, in the arithmetic dtype, and the axes."""
        axes = tuple(self.axis) if isinstance(self.axis, (list, tuple)) else (self.axis,)
        z = cast(x, self.arithmetic_dtype)
        if mask is not None:
            mask = np.asarray(mask) != 0
            fits = mask.ndim <= z.ndim and all(n in (1, m) for n, m in zip(mask.shape[::-1], z.shape[::-1], strict=False))
            if not fits:
                raise ValueError(f"The `mask` must be broadcastable to `inputs`. Received: shapes {mask.shape} and {z.shape}")
            z = np.where(mask, z, z.dtype.type(-3e4 if self.compute_dtype == "float16" else -1e9))
        with np.errstate(all="ignore"):
            e = np.exp(z - z.max(axis=axes, keepdims=True))
            y = e / e.sum(axis=axes, keepdims=True)
        return (y if mask is None else np.where(mask, y, y.dtype.type(0))), axes

    def _vjp(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> tuple[np.ndarray, Any]:
        y, axes = self._shares(x, mask)
        # Masked places do not depend on the input: their result is 0, and with it their gradient.
        return cast(y.copy(), self.storage_dtype), lambda dy: (y * (dy - (dy * y).sum(axis=axes, keepdims=True)), [])

    def get_config(self) -> dict:
        return {**super().get_config(), "axis": self.axis}
