"""Operators on each number by itself: arithmetic, comparisons, logic, activations, casts, with ONNX's rules for dtypes.

Arrays are combined by NumPy's broadcasting, which is ONNX's; both operands have one dtype, which ``checks`` saw to.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ...io.onnx_file import DTYPES
from ...numerics import erf
from .bound import Action, Binder, Node, apply, binder, copy
from .limits import UNASKED, allow
from .registry import SUPPORTED, Call, maker, operator, plain


def _broadcasting(run: Callable[[np.ndarray, np.ndarray], Any]) -> Callable[..., Any]:
    """``run`` for two arrays, once the size of their broadcast result is allowed."""

    def checked(a: np.ndarray, b: np.ndarray) -> Any:
        if a.shape != b.shape and a.size * b.size > UNASKED:
            allow(np.broadcast_shapes(a.shape, b.shape), a.dtype)
        return run(a, b)

    return checked


def _bind_ufunc(ufunc: np.ufunc) -> Binder:
    return lambda node: [apply(ufunc, *node.operands, out=node.out)]


def _divide(a: np.ndarray, b: np.ndarray) -> Any:
    """a / b; integers are cut towards zero, as in C, and a division by 0 gives 0."""
    if a.dtype.kind == "f":
        return np.divide(a, b)
    quotient = np.floor_divide(a, b)
    if a.dtype.kind == "i":  # floor is one too low where the signs differ and something is left
        quotient = quotient + ((np.remainder(a, b) != 0) & ((a < 0) != (b < 0))).astype(a.dtype)
    return quotient


def _power(a: np.ndarray, b: np.ndarray) -> Any:
    """a ** b in the dtype of a, whatever that of b."""
    if a.dtype.kind in "iu" and (b.dtype.kind == "f" or bool((b < 0).any())):
        return np.power(a.astype(np.float64), b).astype(a.dtype)
    if a.dtype == b.dtype or a.dtype.kind in "iu":
        return np.power(a, b).astype(a.dtype, copy=False)
    return np.power(a, b.astype(np.result_type(a.dtype, b.dtype))).astype(a.dtype)


for _name, _latest, _run in (
    ("Add", 14, np.add),
    ("Sub", 14, np.subtract),
    ("Mul", 14, np.multiply),
    ("Div", 14, _divide),
    ("Pow", 15, _power),
    ("Equal", 19, np.equal),
    ("Greater", 13, np.greater),
    ("Less", 13, np.less),
    ("GreaterOrEqual", 16, np.greater_equal),
    ("LessOrEqual", 16, np.less_equal),
    ("And", 7, np.logical_and),
    ("Or", 7, np.logical_or),
    ("Xor", 7, np.logical_xor),
    ("PRelu", 16, lambda x, slope: np.where(x < 0, x * slope, x)),
):
    plain(_name, _latest, _broadcasting(_run))
    if isinstance(_run, np.ufunc):
        binder(_name)(_bind_ufunc(_run))


@binder("Div")
def _bind_divide(node: Node) -> list[Action] | None:
    return [apply(np.divide, *node.operands, out=node.out)] if node.out.dtype.kind == "f" else None


@binder("Pow")
def _bind_power(node: Node) -> list[Action] | None:
    """x ** 2 is a product, and so is NumPy's."""
    x, exponent = node.operands
    squares = node.fixed[1] and exponent.size == 1 and exponent.item() == 2 and x.dtype.kind == "f" and x.shape == node.out.shape
    return [apply(np.square, x, out=node.out)] if squares else None


_ZERO_AND_ONE = {np.dtype(name): (np.zeros((), name), np.ones((), name)) for name in ("float16", "float32", "float64")}


def _sigmoid(x: np.ndarray) -> Any:
    """1 / (1 + exp(-x)) without an overflow on either side."""
    zero, one = _ZERO_AND_ONE[x.dtype]
    above = np.asarray(np.exp(np.minimum(x, zero)))  # exp(x) or 1
    below = np.asarray(np.abs(x))
    np.exp(np.negative(below, out=below), out=below)
    below += one
    return np.divide(above, below, out=above)


@binder("Sigmoid")
def _bind_sigmoid(node: Node) -> list[Action]:
    x, out = node.x, node.out
    zero, one = _ZERO_AND_ONE[x.dtype]
    below, above = np.empty_like(out), np.empty_like(out)
    return [
        apply(np.minimum, x, zero, out=above),
        apply(np.exp, above, out=above),
        apply(np.copysign, x, np.negative(one), out=below),
        apply(np.exp, below, out=below),
        apply(np.add, below, one, out=below),
        apply(np.divide, above, below, out=out),
    ]


for _name, _latest, _unary in (
    ("Sqrt", 13, np.sqrt),
    ("Neg", 13, np.negative),
    ("Exp", 13, np.exp),
    ("Log", 13, np.log),
    ("Abs", 13, np.abs),
    ("Floor", 13, np.floor),
    ("Ceil", 13, np.ceil),
    ("Round", 22, np.rint),
    ("Sign", 13, np.sign),
    ("Reciprocal", 13, np.reciprocal),
    ("Sin", 22, np.sin),
    ("Cos", 22, np.cos),
    ("Tan", 22, np.tan),
    ("Not", 1, np.logical_not),
    ("IsNaN", 20, np.isnan),
    ("Erf", 13, lambda x: erf(x).astype(x.dtype, copy=False)),
    ("Tanh", 13, np.tanh),
    ("Sigmoid", 13, _sigmoid),
    ("Softplus", 22, lambda x: np.logaddexp(x, np.zeros((), x.dtype))),
    ("Softsign", 22, lambda x: x / (1 + np.abs(x))),
    ("HardSwish", 22, lambda x: x * np.clip(x / 6 + np.asarray(0.5, x.dtype), 0, 1)),
    ("Mish", 22, lambda x: x * np.tanh(np.logaddexp(x, np.zeros((), x.dtype)))),
):
    plain(_name, _latest, _unary)
    if isinstance(_unary, np.ufunc):
        binder(_name)(_bind_ufunc(_unary))


@maker("Relu", latest=14)
def _make_relu(call: Call, constants: Any) -> Callable[..., Any]:
    zero = np.zeros((), call.dtype)
    return lambda x: np.maximum(x, zero)


@binder("Relu")
def _bind_relu(node: Node) -> list[Action]:
    return [apply(np.maximum, node.x, np.zeros((), node.out.dtype), out=node.out)]


def _scalars(call: Call, x: np.ndarray, *names: str) -> list[np.ndarray]:
    """Attributes as scalars of x's dtype."""
    return [np.asarray(call.attributes[name], x.dtype) for name in names]


@operator("LeakyRelu", latest=16)
def _leaky_relu(call: Call, x: np.ndarray) -> Any:
    (alpha,) = _scalars(call, x, "alpha")
    return np.where(x < 0, alpha * x, x)


@operator("ThresholdedRelu", latest=22)
def _thresholded_relu(call: Call, x: np.ndarray) -> Any:
    (alpha,) = _scalars(call, x, "alpha")
    return np.where(x > alpha, x, np.zeros((), x.dtype))


@operator("Elu", latest=22)
def _elu(call: Call, x: np.ndarray) -> Any:
    (alpha,) = _scalars(call, x, "alpha")
    return np.where(x < 0, alpha * np.expm1(x), x)


@operator("Celu", latest=28)
def _celu(call: Call, x: np.ndarray) -> Any:
    (alpha,) = _scalars(call, x, "alpha")
    return np.maximum(x, 0) + np.minimum(alpha * np.expm1(x / alpha), 0)


@operator("Selu", latest=22)
def _selu(call: Call, x: np.ndarray) -> Any:
    alpha, gamma = _scalars(call, x, "alpha", "gamma")
    return np.where(x > 0, gamma * x, gamma * alpha * np.expm1(x))


@operator("HardSigmoid", latest=22)
def _hard_sigmoid(call: Call, x: np.ndarray) -> Any:
    alpha, beta = _scalars(call, x, "alpha", "beta")
    return np.clip(alpha * x + beta, 0, 1)


@operator("Swish", latest=24)
def _swish(call: Call, x: np.ndarray) -> Any:
    (alpha,) = _scalars(call, x, "alpha")
    return x * _sigmoid(alpha * x)


@operator("Gelu", latest=20)
def _gelu(call: Call, x: np.ndarray) -> Any:
    half, one = np.asarray(0.5, x.dtype), np.asarray(1, x.dtype)
    if call.attributes["approximate"] == "tanh":
        inner = np.asarray(np.sqrt(2 / np.pi), x.dtype) * (x + np.asarray(0.044715, x.dtype) * x * x * x)
        return half * x * (one + np.tanh(inner))
    if call.attributes["approximate"] != "none":
        raise ValueError(f"its attribute 'approximate' is {call.attributes['approximate']!r}, expected 'none' or 'tanh'")
    return half * x * (one + erf(x / np.asarray(np.sqrt(2.0), x.dtype)).astype(x.dtype, copy=False))


@operator("IsInf", latest=20)
def _is_inf(call: Call, x: np.ndarray) -> Any:
    negative, positive = call.attributes["detect_negative"], call.attributes["detect_positive"]
    return np.isinf(x) & (((x < 0) & bool(negative)) | ((x > 0) & bool(positive)))


@operator("Mod", latest=28)
def _mod(call: Call, a: np.ndarray, b: np.ndarray) -> Any:
    """fmod=0: the sign of the divisor, up to opset 27 for integers only; fmod=1: the sign of the dividend, as in C."""
    if call.since < 28 and not call.attributes["fmod"] and a.dtype.kind == "f":
        raise ValueError("fmod=0 is for integers")
    return _broadcasting(np.fmod if call.attributes["fmod"] else np.mod)(a, b)


# -- any number of operands -----------------------------------------------------------------------------------------------
def _folded(run: Callable[[Any, Any], Any], *arrays: np.ndarray) -> Any:
    return functools.reduce(_broadcasting(run), arrays)


@operator("Sum", latest=13)
def _sum(call: Call, *arrays: np.ndarray) -> Any:
    return _folded(np.add, *arrays)


@operator("Mean", latest=13)
def _mean(call: Call, *arrays: np.ndarray) -> Any:
    return _folded(np.add, *arrays) / np.asarray(len(arrays), arrays[0].dtype)


@operator("Max", latest=13)
def _max(call: Call, *arrays: np.ndarray) -> Any:
    return _folded(np.maximum, *arrays)


@operator("Min", latest=13)
def _min(call: Call, *arrays: np.ndarray) -> Any:
    return _folded(np.minimum, *arrays)


@operator("Clip", latest=13)
def _clip(call: Call, x: np.ndarray, low: np.ndarray | None = None, high: np.ndarray | None = None) -> Any:
    """Bounds are attributes up to opset 10, scalar inputs since. Where they cross, the upper one counts."""
    if call.since < 11:
        low, high = _scalars(call, x, "min", "max")
    for bound in (low, high):
        if bound is not None and bound.size != 1:
            raise ValueError(f"its bounds must be scalars, one has the shape {bound.shape}")
    y = x if low is None else np.maximum(x, low.reshape(()))
    return y if high is None else np.minimum(y, high.reshape(()))


@operator("Where", latest=16)
def _where(call: Call, condition: np.ndarray, a: np.ndarray, b: np.ndarray) -> Any:
    if condition.size * a.size * b.size > UNASKED:
        allow(np.broadcast_shapes(condition.shape, a.shape, b.shape), a.dtype)
    return np.where(condition, a, b)


# -- casts ----------------------------------------------------------------------------------------------------------------
def _target(call: Call, given: Any = ()) -> list[str]:
    return [DTYPES.get(call.attributes["to"], f"type {call.attributes['to']}")]


def _unknown_target(call: Call) -> str | None:
    (target,) = _target(call)
    return None if target in SUPPORTED else f"casts to {target}, which is not supported"


@maker("Cast", latest=28, result=_target, refuses=_unknown_target)
def _make_cast(call: Call, constants: Any) -> Callable[..., Any]:
    """Floats are cut towards zero on their way to integers."""
    dtype = call.dtype
    return lambda x: x if x.dtype is dtype else x.astype(dtype)


@binder("Cast")
def _bind_cast(node: Node) -> list[Action]:
    return [copy(node.x, node.out)]


plain("CastLike", 25, lambda x, like: x.astype(like.dtype, copy=False))
