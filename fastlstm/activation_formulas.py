"""The activation formulas y = f(x) in plain NumPy, each with its derivative beside it, and the table of them (keras-spec 10).

Used by ``activations``, which is the public door: names, serialization, ``derivative`` and ``vjp``. Each function takes an
array of any shape and returns one of the same shape (``glu``: half of its axis). float64 and float32 are computed as they
are, float16 and bfloat16 in float32 and rounded back, integers become float32. NaN stays NaN, infinity goes through the
formula, no warnings.

At a kink the derivative is the one of the left side (relu 0, leaky_relu its slope, elu and celu alpha and 1, selu
scale * alpha), and 0 at both ends of hard_sigmoid, relu6, sparse_sigmoid and the shrinks, but 1 at both ends of hard_tanh.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .devices import as_array, module_of
from .numerics import as_real, erfc

_SELU_ALPHA = 1.6732632423543772
_SELU_SCALE = 1.0507009873554805
_GELU_TANH = 0.7978845608028654  # sqrt(2 / pi)
_GELU_CUBE = 0.044715
_NORMAL_PEAK = 0.3989422804014327  # 1 / sqrt(2 pi)


class Row(NamedTuple):
    """One line of the table. ``gradient`` is f'(x, y, **options), or vjp(x, y, dy, **options) where not elementwise."""

    name: str
    function: Callable[..., np.ndarray]
    gradient: Callable[..., Any]
    elementwise: bool


TABLE: dict[str, Row] = {}


def _activation(gradient: Callable[..., Any], elementwise: bool = True) -> Callable[[Callable], Callable[..., np.ndarray]]:
    """Decorator: enters a formula into the table, with its gradient, and gives it the dtype rules of this module."""

    def register(formula: Callable) -> Callable[..., np.ndarray]:
        @functools.wraps(formula)
        def function(x: Any, *args: Any, **options: Any) -> np.ndarray:
            real, dtype = as_real(x)
            with np.errstate(all="ignore"):
                return as_array(formula(real, *args, **options), dtype)

        TABLE[formula.__name__] = Row(formula.__name__, function, gradient, elementwise)
        return function

    return register


# -- building blocks: arrays in the arithmetic dtype ------------------------------------------------------------------
def _sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1.0 + e)


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


def _step(condition: np.ndarray, x: np.ndarray) -> np.ndarray:
    """1 where ``condition`` holds and 0 elsewhere, in the dtype of x; NaN where x is."""
    return np.where(np.isnan(x), x, condition)


# -- smooth -----------------------------------------------------------------------------------------------------------
@_activation(lambda x, y: np.ones_like(x))
def linear(x: Any) -> Any:
    """x."""
    return x.copy()


@_activation(lambda x, y: y * (1.0 - y))
def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return _sigmoid(x)


@_activation(lambda x, y: 1.0 - y * y)
def tanh(x: Any) -> Any:
    """Hyperbolic tangent."""
    return np.tanh(x)


@_activation(lambda x, y: np.square(np.tanh(x)))
def tanh_shrink(x: Any) -> Any:
    """x - tanh(x)."""
    return x - np.tanh(x)


@_activation(lambda x, y: y)
def exponential(x: Any) -> Any:
    """exp(x)."""
    return np.exp(x)


@_activation(lambda x, y: _sigmoid(x))
def softplus(x: Any) -> Any:
    """log(1 + exp(x))."""
    return _softplus(x)


@_activation(lambda x, y: np.square(1.0 / (1.0 + np.abs(x))))
def softsign(x: Any) -> Any:
    """x / (1 + |x|)."""
    return x / (1.0 + np.abs(x))


@_activation(lambda x, y: _sigmoid(-x))
def log_sigmoid(x: Any) -> Any:
    """log(sigmoid(x))."""
    return -_softplus(-x)


def _d_silu(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    s = _sigmoid(x)
    return s * (1.0 + x * _sigmoid(-x))


@_activation(_d_silu)
def silu(x: Any) -> Any:
    """x sigmoid(x); also named ``swish``."""
    return x * _sigmoid(x)


def _d_mish(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    t = np.tanh(_softplus(x))
    return t + x * (1.0 - t * t) * _sigmoid(x)


@_activation(_d_mish)
def mish(x: Any) -> Any:
    """x tanh(softplus(x))."""
    return x * np.tanh(_softplus(x))


def _d_gelu(x: np.ndarray, y: np.ndarray, approximate: bool = False) -> np.ndarray:
    if approximate:
        x = np.clip(x, -100.0, 100.0)  # the derivative is constant out there, and x^3 must not overflow
        t = np.tanh(_GELU_TANH * (x + _GELU_CUBE * x * x * x))
        return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * _GELU_TANH * (1.0 + 3.0 * _GELU_CUBE * x * x)
    return 0.5 * erfc(x * -(0.5**0.5)) + x * (_NORMAL_PEAK * np.exp(-0.5 * x * x))


@_activation(_d_gelu)
def gelu(x: Any, approximate: bool = False) -> Any:
    """x Phi(x), Phi the normal distribution function; ``approximate``: its tanh form."""
    if approximate:
        return 0.5 * x * (1.0 + np.tanh(_GELU_TANH * (x + _GELU_CUBE * x * x * x)))
    return x * (0.5 * erfc(x * -(0.5**0.5)))


def _root(x: np.ndarray, b: float) -> np.ndarray:
    """sqrt(x^2 + b) without overflow of x^2."""
    return np.hypot(x, b**0.5) if b >= 0 else np.sqrt(x * x + b)


@_activation(lambda x, y, b=4: y / _root(x, b))
def squareplus(x: Any, b: float = 4) -> Any:
    """(x + sqrt(x^2 + b)) / 2, for negative x as b / (2 (sqrt(x^2 + b) - x)), which does not cancel."""
    root = _root(x, b)
    return np.where(x < 0, 0.5 * b / (root - x), 0.5 * x + 0.5 * root)


# -- with kinks -------------------------------------------------------------------------------------------------------
def _d_relu(
    x: np.ndarray, y: np.ndarray, negative_slope: float = 0.0, max_value: float | None = None, threshold: float = 0.0
) -> np.ndarray:
    rising = x > threshold
    if max_value is not None:
        rising &= (x >= 0) & (x < max_value)
    return _step(rising + negative_slope * (x <= threshold), x)


@_activation(_d_relu)
def relu(x: Any, negative_slope: float = 0.0, max_value: float | None = None, threshold: float = 0.0) -> Any:
    """x above ``threshold``, else 0, clipped to [0, max_value] where given, minus negative_slope max(threshold - x, 0)."""
    y = np.where(x <= threshold, 0.0, x)
    if max_value is not None:
        y = np.clip(y, 0.0, max_value)
    return y - negative_slope * np.maximum(threshold - x, 0.0) if negative_slope else y


@_activation(lambda x, y: _step((x > 0) & (x < 6), x))
def relu6(x: Any) -> Any:
    """x clipped to [0, 6]."""
    return np.clip(x, 0.0, 6.0)


@_activation(lambda x, y, negative_slope=0.2: _step(np.where(x > 0, 1.0, negative_slope), x))
def leaky_relu(x: Any, negative_slope: float = 0.2) -> Any:
    """x, below 0 times ``negative_slope``."""
    return np.where(x < 0, negative_slope * x, x)


@_activation(lambda x, y, alpha=1.0: _step(np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0.0))), x))
def elu(x: Any, alpha: float = 1.0) -> Any:
    """x, below 0 alpha (exp(x) - 1)."""
    return np.where(x < 0, alpha * np.expm1(np.minimum(x, 0.0)), x)


@_activation(lambda x, y: _SELU_SCALE * _step(np.where(x > 0, 1.0, _SELU_ALPHA * np.exp(np.minimum(x, 0.0))), x))
def selu(x: Any) -> Any:
    """elu with a fixed alpha of 1.673, times 1.0507."""
    return _SELU_SCALE * np.where(x < 0, _SELU_ALPHA * np.expm1(np.minimum(x, 0.0)), x)


@_activation(lambda x, y, alpha=1.0: np.exp(np.minimum(x, 0.0) / alpha))
def celu(x: Any, alpha: float = 1.0) -> Any:
    """x, below 0 alpha (exp(x / alpha) - 1)."""
    return np.maximum(x, 0.0) + alpha * np.expm1(np.minimum(x, 0.0) / alpha)


def _hard_sigmoid(x: np.ndarray) -> np.ndarray:
    return np.clip(x / 6.0 + 0.5, 0.0, 1.0)


@_activation(lambda x, y: _step((x > -3) & (x < 3), x) / 6.0)
def hard_sigmoid(x: Any) -> Any:
    """x / 6 + 1/2 clipped to [0, 1] (Keras 1 and 2 had 0.2 x + 0.5)."""
    return _hard_sigmoid(x)


@_activation(lambda x, y: _step((x > -2.5) & (x < 2.5), x) * 0.2)
def hard_sigmoid_keras2(x: Any) -> Any:
    """0.2 x + 1/2 clipped to [0, 1]: what files of Keras 1 and 2 mean by "hard_sigmoid"."""
    return np.clip(0.2 * x + 0.5, 0.0, 1.0)


@_activation(lambda x, y: _hard_sigmoid(x) + np.where((x > -3) & (x < 3), x / 6.0, 0.0))
def hard_silu(x: Any) -> Any:
    """x hard_sigmoid(x); also named ``hard_swish``."""
    return x * _hard_sigmoid(x)


@_activation(lambda x, y: _step((x >= -1) & (x <= 1), x))
def hard_tanh(x: Any) -> Any:
    """x clipped to [-1, 1]."""
    return np.clip(x, -1.0, 1.0)


@_activation(lambda x, y, threshold=0.5: _step(np.abs(x) > threshold, x))
def hard_shrink(x: Any, threshold: float = 0.5) -> Any:
    """x where |x| > threshold, else 0."""
    return np.where(np.abs(x) <= threshold, 0.0, x)


@_activation(lambda x, y, threshold=0.5: _step(np.abs(x) > threshold, x))
def soft_shrink(x: Any, threshold: float = 0.5) -> Any:
    """x moved towards 0 by ``threshold``, 0 within it."""
    return np.sign(x) * np.maximum(np.abs(x) - threshold, 0.0)


@_activation(lambda x, y: np.clip(0.5 * (x + 1.0), 0.0, 1.0))
def sparse_plus(x: Any) -> Any:
    """0 up to -1, (x + 1)^2 / 4 up to 1, then x."""
    return np.where(x <= -1, 0.0, np.where(x < 1, 0.25 * np.square(x + 1.0), x))


@_activation(lambda x, y: 0.5 * _step((x > -1) & (x < 1), x))
def sparse_sigmoid(x: Any) -> Any:
    """(x + 1) / 2 clipped to [0, 1]."""
    return np.clip(0.5 * (x + 1.0), 0.0, 1.0)


def _d_threshold(x: np.ndarray, y: np.ndarray, threshold: float, default_value: float) -> np.ndarray:
    return _step(x > threshold, x)


@_activation(_d_threshold)
def threshold(x: Any, threshold: float, default_value: float) -> Any:
    """x above ``threshold``, else ``default_value``. Both are required: selected by name it raises TypeError when called."""
    return np.where(x <= threshold, default_value, x)


# -- along an axis ----------------------------------------------------------------------------------------------------
def _vjp_softmax(x: np.ndarray, y: np.ndarray, dy: np.ndarray, axis: Any = -1) -> np.ndarray:
    return y * (dy - np.sum(y * dy, axis=axis, keepdims=True))


@_activation(_vjp_softmax, elementwise=False)
def softmax(x: Any, axis: Any = -1) -> Any:
    """exp(x) over its sum along ``axis``."""
    e = np.exp(x - np.max(x, axis=axis, keepdims=True))
    return e / np.sum(e, axis=axis, keepdims=True)


def _vjp_log_softmax(x: np.ndarray, y: np.ndarray, dy: np.ndarray, axis: Any = -1) -> np.ndarray:
    return dy - np.exp(y) * np.sum(dy, axis=axis, keepdims=True)


@_activation(_vjp_log_softmax, elementwise=False)
def log_softmax(x: Any, axis: Any = -1) -> Any:
    """log(softmax(x)) along ``axis``."""
    shifted = x - np.max(x, axis=axis, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=axis, keepdims=True))


def _vjp_sparsemax(x: np.ndarray, y: np.ndarray, dy: np.ndarray, axis: int = -1) -> np.ndarray:
    support = y > 0
    mean = np.sum(np.where(support, dy, 0.0), axis=axis, keepdims=True) / np.sum(support, axis=axis, keepdims=True, dtype=x.dtype)
    return np.where(support, dy - mean, 0.0)


@_activation(_vjp_sparsemax, elementwise=False)
def sparsemax(x: Any, axis: int = -1) -> Any:
    """Euclidean projection of the rows along ``axis`` onto the simplex. Keras up to 3.15.1 computes another, wrong thing."""
    z = np.moveaxis(x - np.max(x, axis=axis, keepdims=True), axis, -1)
    ordered = -np.sort(-z, axis=-1)
    total = np.cumsum(ordered, axis=-1)
    count = module_of(z).arange(1, z.shape[-1] + 1)
    size = np.maximum(np.sum(1.0 + count * ordered > total, axis=-1, keepdims=True), 1)
    tau = (np.take_along_axis(total, size - 1, axis=-1) - 1.0) / size
    return np.moveaxis(np.maximum(z - tau, 0.0), -1, axis)


def _halves(x: np.ndarray, axis: int) -> list[np.ndarray]:
    if x.shape[axis] % 2:
        raise ValueError(f"glu needs an even number of entries along axis {axis}. Received: x.shape={x.shape}")
    return np.split(x, 2, axis=axis)


def _vjp_glu(x: np.ndarray, y: np.ndarray, dy: np.ndarray, axis: int = -1) -> np.ndarray:
    a, b = _halves(x, axis)
    s = _sigmoid(b)
    return np.concatenate([dy * s, dy * a * s * (1.0 - s)], axis=axis)


@_activation(_vjp_glu, elementwise=False)
def glu(x: Any, axis: int = -1) -> Any:
    """a sigmoid(b) for the two halves a, b of ``axis``. ValueError for an odd size."""
    a, b = _halves(x, axis)
    return a * _sigmoid(b)
