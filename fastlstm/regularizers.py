"""Regularizers: penalties on weights and outputs, sums without a half (terms of ``keras.regularizers``, keras-spec 12).

Used by the layers (``get``, ``serialize``, ``losses``); called as ``regularizer(w) -> penalty``, an array without axes in
the dtype of w. ``regularizer.gradient(w)``, shaped like w, is for training.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .devices import as_array
from .identifiers import Family
from .numerics import as_real

_SMALLEST_SQUARE = 1e-12  # of a row's norm, so that a row of zeros stays zero


class Regularizer:
    """Base class: a subclass implements ``_penalty`` and ``_gradient`` on an array of any shape, and ``get_config``."""

    def __call__(self, x: Any) -> np.ndarray:
        """The penalty, in the dtype of x."""
        real, dtype = as_real(x)
        with np.errstate(all="ignore"):
            return as_array(self._penalty(real), dtype)

    def gradient(self, x: Any) -> np.ndarray:
        """d penalty / dx, shape and dtype of x; 0 for an L1 term at 0."""
        real, dtype = as_real(x)
        with np.errstate(all="ignore"):
            return as_array(self._gradient(real), dtype)

    def _penalty(self, x: np.ndarray) -> Any:
        raise NotImplementedError(f"Regularizer {type(self).__name__} has no penalty")

    def _gradient(self, x: np.ndarray) -> Any:
        raise NotImplementedError(f"Regularizer {type(self).__name__} has no gradient")

    def get_config(self) -> dict:
        """Constructor arguments."""
        raise NotImplementedError(f"Regularizer {type(self).__name__} has no get_config()")

    @classmethod
    def from_config(cls, config: dict) -> Any:
        """A new object from ``get_config``'s dict."""
        return cls(**config)


def _coefficient(value: Any, name: str, default: float) -> float:
    """``value``, or ``default`` for None. ValueError unless it is a finite Python number of at least 0."""
    value = default if value is None else value
    if not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise ValueError(f"Invalid value for argument `{name}`: expected a non-negative float. Received: {name}={value!r}")
    return float(value)


class L1L2(Regularizer):
    """l1 * sum |x| + l2 * sum x^2. ValueError for coefficients that are negative, not finite or no Python number."""

    def __init__(self, l1: float | None = 0.0, l2: float | None = 0.0):
        self.l1, self.l2 = _coefficient(l1, "l1", 0.0), _coefficient(l2, "l2", 0.0)

    def _penalty(self, x: np.ndarray) -> Any:
        penalty = x.dtype.type(0)
        if self.l1:
            penalty = penalty + self.l1 * np.sum(np.abs(x))
        if self.l2:
            penalty = penalty + self.l2 * np.sum(np.square(x))
        return penalty

    def _gradient(self, x: np.ndarray) -> Any:
        return self.l1 * np.sign(x) + 2.0 * self.l2 * x

    def get_config(self) -> dict:
        return {"l1": self.l1, "l2": self.l2}


class L1(Regularizer):
    """l1 * sum |x|. The config holds the coefficient rounded to float32, as Keras writes it."""

    def __init__(self, l1: float | None = 0.01):
        self.l1 = _coefficient(l1, "l1", 0.01)

    def _penalty(self, x: np.ndarray) -> Any:
        return self.l1 * np.sum(np.abs(x))

    def _gradient(self, x: np.ndarray) -> Any:
        return self.l1 * np.sign(x)

    def get_config(self) -> dict:
        return {"l1": float(np.float32(self.l1))}


class L2(Regularizer):
    """l2 * sum x^2."""

    def __init__(self, l2: float | None = 0.01):
        self.l2 = _coefficient(l2, "l2", 0.01)

    def _penalty(self, x: np.ndarray) -> Any:
        return self.l2 * np.sum(np.square(x))

    def _gradient(self, x: np.ndarray) -> Any:
        return 2.0 * self.l2 * x

    def get_config(self) -> dict:
        return {"l2": self.l2}


class OrthogonalRegularizer(Regularizer):
    """factor * mean of |r_i . r_j| over the pairs i < j of unit-length rows (``mode="rows"``) or columns of a matrix.

    ValueError for another mode, or when called on anything but a matrix. A single row has no pairs: NaN, as in Keras.
    The config holds the factor rounded to float32, as Keras writes it.
    """

    def __init__(self, factor: float | None = 0.01, mode: str = "rows"):
        self.factor = _coefficient(factor, "factor", 0.01)
        if mode not in ("rows", "columns"):
            raise ValueError(f"Invalid value for argument `mode`: expected 'rows' or 'columns'. Received: mode={mode!r}")
        self.mode = mode

    def _rows(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """Unit rows [n,m], their norms [n,1], their products without the diagonal [n,n], and the number of pairs."""
        if x.ndim != 2:
            raise ValueError(f"OrthogonalRegularizer takes arrays with two axes only. Received: shape={x.shape}")
        x = x if self.mode == "rows" else x.T
        norm = np.sqrt(np.maximum(np.sum(np.square(x), axis=1, keepdims=True), _SMALLEST_SQUARE))
        unit = x / norm
        products = unit @ unit.T
        np.fill_diagonal(products, 0)
        return unit, norm, products, len(x) * (len(x) - 1) / 2

    def _penalty(self, x: np.ndarray) -> Any:
        *_, products, pairs = self._rows(x)
        return np.divide(self.factor * 0.5 * np.sum(np.abs(products)), pairs)

    def _gradient(self, x: np.ndarray) -> Any:
        unit, norm, products, pairs = self._rows(x)
        d_unit = np.divide(self.factor, pairs) * (np.sign(products) @ unit)
        radial = np.where(norm**2 > _SMALLEST_SQUARE, np.sum(d_unit * unit, axis=1, keepdims=True), 0.0)
        gradient = (d_unit - radial * unit) / norm
        return gradient if self.mode == "rows" else gradient.T

    def get_config(self) -> dict:
        return {"factor": float(np.float32(self.factor)), "mode": self.mode}


def gradient(regularizer: Any, x: Any) -> np.ndarray:
    """``regularizer.gradient(x)``. NotImplementedError for a caller's own function, whose derivative nobody knows."""
    if not isinstance(regularizer, Regularizer):
        known = ", ".join(c.__name__ for c in (L1, L2, L1L2, OrthogonalRegularizer))
        raise NotImplementedError(
            f"No derivative is known for the regularizer {getattr(regularizer, '__name__', regularizer)!r}: "
            f"training needs one of {known} or a subclass of Regularizer"
        )
    return regularizer.gradient(x)


l1, l2, l1_l2, orthogonal_regularizer = L1, L2, L1L2, OrthogonalRegularizer

_family = Family("regularizer", "keras.regularizers", (L1, L2, L1L2, OrthogonalRegularizer))
get, serialize, deserialize = _family.get, _family.serialize, _family.deserialize
