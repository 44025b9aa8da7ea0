"""Constraints: what an optimizer applies to a weight after each update (terms of ``keras.constraints``, keras-spec 12).

Used by the layers (``get``, ``serialize``); called as ``constraint(w) -> w`` by training. Norms are Euclidean over ``axis``
(default 0, for convolution kernels [width, in, out] too: give [0, 1] there), and ``epsilon`` is ``settings.epsilon()``.
Results keep shape and dtype of the weight; 16-bit weights are computed in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import settings
from .devices import as_array
from .identifiers import Family
from .numerics import as_real


class Constraint:
    """Base class: a subclass implements ``__call__(w)`` on an array of any shape, and ``get_config``."""

    def __call__(self, w: Any) -> np.ndarray:
        raise NotImplementedError(f"Constraint {type(self).__name__} does not implement __call__")

    def get_config(self) -> dict:
        """Constructor arguments."""
        return {}

    @classmethod
    def from_config(cls, config: dict) -> Any:
        """A new object from ``get_config``'s dict."""
        return cls(**config)


def _norm(w: np.ndarray, axis: Any) -> np.ndarray:
    """Euclidean norm over ``axis`` (int, or list of ints), which is kept with length 1."""
    axes = tuple(axis) if isinstance(axis, (list, tuple)) else axis
    return np.sqrt(np.sum(np.square(w), axis=axes, keepdims=True))


def _rescaled(w: Any, axis: Any, target: Any) -> np.ndarray:
    """``w`` with its norms n over ``axis`` taken to target(n): w * target(n) / (epsilon + n)."""
    real, dtype = as_real(w)
    norm = _norm(real, axis)
    return as_array(real * (target(norm) / (settings.epsilon() + norm)), dtype)


class MaxNorm(Constraint):
    """Norms of at most ``max_value``."""

    def __init__(self, max_value: float = 2, axis: Any = 0):
        self.max_value, self.axis = max_value, axis

    def __call__(self, w: Any) -> np.ndarray:
        return _rescaled(w, self.axis, lambda norm: np.clip(norm, 0, self.max_value))

    def get_config(self) -> dict:
        return {"max_value": self.max_value, "axis": self.axis}


class NonNeg(Constraint):
    """Negative weights become 0."""

    def __call__(self, w: Any) -> np.ndarray:
        real, dtype = as_real(w)
        return as_array(np.maximum(real, 0.0), dtype)


class UnitNorm(Constraint):
    """Norms of 1."""

    def __init__(self, axis: Any = 0):
        self.axis = axis

    def __call__(self, w: Any) -> np.ndarray:
        return _rescaled(w, self.axis, np.ones_like)

    def get_config(self) -> dict:
        return {"axis": self.axis}


class MinMaxNorm(Constraint):
    """Norms taken towards [min_value, max_value]: rate * clip(norm) + (1 - rate) * norm."""

    def __init__(self, min_value: float = 0.0, max_value: float = 1.0, rate: float = 1.0, axis: Any = 0):
        self.min_value, self.max_value, self.rate, self.axis = min_value, max_value, rate, axis

    def __call__(self, w: Any) -> np.ndarray:
        def target(norm: np.ndarray) -> np.ndarray:
            return self.rate * np.clip(norm, self.min_value, self.max_value) + (1 - self.rate) * norm

        return _rescaled(w, self.axis, target)

    def get_config(self) -> dict:
        return {"min_value": self.min_value, "max_value": self.max_value, "rate": self.rate, "axis": self.axis}


max_norm, non_neg, unit_norm, min_max_norm = MaxNorm, NonNeg, UnitNorm, MinMaxNorm

_family = Family("constraint", "keras.constraints", (MaxNorm, NonNeg, UnitNorm, MinMaxNorm))
get, serialize, deserialize = _family.get, _family.serialize, _family.deserialize
