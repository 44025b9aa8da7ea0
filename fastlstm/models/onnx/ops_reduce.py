"""Operators along axes: reductions, softmax, normalizations in inference, cumulative sums; and Dropout, which does nothing."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .bound import Action, Node, apply, binder
from .registry import ByRank, Call, computed, given, ints, maker, normal_axes, normal_axis, operator


# -- reductions -----------------------------------------------------------------------------------------------------------
def _highest(dtype: np.dtype, sign: int) -> Any:
    """The largest value of a dtype, or with sign -1 the smallest; infinity for floats."""
    if dtype.kind == "f":
        return sign * math.inf
    if dtype.kind == "b":
        return sign > 0
    return np.iinfo(dtype).max if sign > 0 else np.iinfo(dtype).min


def _extremum(run: Callable, sign: int) -> Callable:
    def reduce(x: np.ndarray, axis: Any, keepdims: bool) -> Any:
        """The maximum of nothing is the smallest value, the minimum the largest."""
        return run(x, axis=axis, keepdims=keepdims, initial=_highest(x.dtype, sign))

    return reduce


def _log_sum_exp(x: np.ndarray, axis: Any, keepdims: bool) -> Any:
    top = np.max(x, axis=axis, keepdims=True, initial=-math.inf)
    top = np.where(np.isfinite(top), top, np.zeros((), x.dtype))
    total = np.log(np.sum(np.exp(x - top), axis=axis, keepdims=True)) + top
    return total if keepdims else total.squeeze(axis if axis is not None else tuple(range(x.ndim)))


# NumPy adds these up in their own dtype.
_WIDE = {np.dtype("float32"), np.dtype("float64")}


def _count(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """How many numbers a mean is of."""
    return np.asarray(math.prod([x.shape[axis] for axis in axes]), x.dtype)


def _mean(x: np.ndarray, axis: Any, keepdims: bool) -> Any:
    """The mean; of integers cut towards zero."""
    if x.dtype in _WIDE:
        return np.add.reduce(x, axis, x.dtype, None, keepdims) / _count(x, axis)  # type: ignore[call-overload]
    mean = x.mean(axis=axis, keepdims=keepdims)
    return mean.astype(x.dtype) if x.dtype.kind in "iu" else mean


def _sum(x: np.ndarray, axis: Any, keepdims: bool) -> Any:
    return x.sum(axis=axis, keepdims=keepdims, dtype=x.dtype)


def _l2(x: np.ndarray, axis: Any, keepdims: bool) -> Any:
    squares = np.sum(np.square(x, dtype=np.float64 if x.dtype.kind in "iu" else x.dtype), axis=axis, keepdims=keepdims)
    return np.sqrt(squares).astype(x.dtype)


_REDUCTIONS: dict[str, tuple[int, Callable]] = {
    "ReduceSum": (13, _sum),
    "ReduceMean": (18, _mean),
    "ReduceMax": (20, _extremum(np.maximum.reduce, -1)),
    "ReduceMin": (20, _extremum(np.minimum.reduce, 1)),
    "ReduceProd": (18, lambda x, axis, keepdims: np.prod(x, axis=axis, keepdims=keepdims, dtype=x.dtype)),
    "ReduceL1": (18, lambda x, axis, keepdims: _sum(np.abs(x), axis, keepdims)),
    "ReduceL2": (18, _l2),
    "ReduceLogSum": (28, lambda x, axis, keepdims: np.log(_sum(x, axis, keepdims))),
    "ReduceLogSumExp": (28, _log_sum_exp),
    "ReduceSumSquare": (18, lambda x, axis, keepdims: _sum(np.square(x), axis, keepdims)),
}


class _Reduction:
    """Axes are an attribute in old versions, an input in new ones; none of them means all, or with noop_with_empty_axes none."""

    def __init__(self, reduce: Callable, call: Call, constants: Sequence[np.ndarray | None]):
        self._reduce = reduce
        self.keepdims, self._nothing = bool(call.attributes["keepdims"]), bool(call.attributes.get("noop_with_empty_axes"))
        told = constants[1] if given(call, 1) else call.attributes.get("axes")
        self._known = None if computed(call, constants, 1) else ByRank(lambda rank: self._axes_of(told, rank))

    def _axes_of(self, told: Any, rank: int) -> tuple[int, ...]:
        found = () if told is None else normal_axes(ints(told), rank)
        return found if found or self._nothing else tuple(range(rank))

    def axes(self, x: np.ndarray, axes: np.ndarray | None = None) -> tuple[int, ...]:
        """The axes of a call, counted from the front."""
        return self._known[x.ndim] if self._known is not None else self._axes_of(axes, x.ndim)

    def __call__(self, x: np.ndarray, axes: np.ndarray | None = None) -> Any:
        return self._reduce(x, self.axes(x, axes), self.keepdims)


@binder("ReduceSum", "ReduceMean")
def _bind_sum(node: Node) -> list[Action] | None:
    x, out, run = node.x, node.out, node.run
    assert isinstance(run, _Reduction)
    mean = node.call.op == "ReduceMean"
    if not all(node.fixed[1:]) or (mean and x.dtype not in _WIDE):
        return None
    axes = run.axes(*node.operands)
    add = functools.partial(np.add.reduce, x, axes, x.dtype, out, run.keepdims)
    total = Action(add, (x,), (out,))
    return [total, apply(np.divide, out, _count(x, axes), out=out)] if mean else [total]


for _name, (_latest, _run) in _REDUCTIONS.items():
    maker(_name, latest=_latest)(functools.partial(_Reduction, _run))


@operator("ArgMax", "ArgMin", latest=13)
def _arg(call: Call, x: np.ndarray) -> Any:
    axis = normal_axis(call.attributes["axis"], x.ndim)
    find = np.argmax if call.op == "ArgMax" else np.argmin
    last = bool(call.attributes.get("select_last_index"))
    found = x.shape[axis] - 1 - find(np.flip(x, axis), axis) if last else find(x, axis)
    return np.asarray(np.expand_dims(found, axis) if call.attributes["keepdims"] else found, np.int64)


@operator("CumSum", latest=14)
def _cumsum(call: Call, x: np.ndarray, axis: np.ndarray) -> Any:
    along = normal_axis(int(axis.reshape(())), x.ndim)
    turned = np.flip(x, along) if call.attributes["reverse"] else x
    total = np.cumsum(turned, along, dtype=x.dtype)
    if call.attributes["exclusive"]:
        total = np.roll(total, 1, along)
        total[tuple(slice(0, 1) if k == along else slice(None) for k in range(x.ndim))] = 0
    return np.flip(total, along) if call.attributes["reverse"] else total


# -- softmax --------------------------------------------------------------------------------------------------------------
def _softmax(x: np.ndarray, axis: int) -> np.ndarray:
    powers = np.exp(x - np.max(x, axis=axis, keepdims=True, initial=-math.inf))
    return powers / np.sum(powers, axis=axis, keepdims=True)


def _log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    shifted = x - np.max(x, axis=axis, keepdims=True, initial=-math.inf)
    return shifted - np.log(np.sum(np.exp(shifted), axis=axis, keepdims=True))


def _hardmax(x: np.ndarray, axis: int) -> np.ndarray:
    line = np.arange(x.shape[axis]).reshape([-1 if k == axis else 1 for k in range(x.ndim)])
    return (line == np.expand_dims(np.argmax(x, axis), axis)).astype(x.dtype)


_ALONG = {"Softmax": _softmax, "LogSoftmax": _log_softmax, "Hardmax": _hardmax}


@operator(*_ALONG, latest=13)
def _along(call: Call, x: np.ndarray) -> Any:
    """Along one axis; up to opset 12 over all axes from that one on, as one."""
    run = _ALONG[call.op]
    if call.since >= 13:
        return run(x, normal_axis(call.attributes["axis"], x.ndim))
    axis = call.attributes["axis"]
    axis = axis if axis == x.ndim else normal_axis(axis, x.ndim)
    rows = x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
    return run(rows, 1).reshape(x.shape)


# -- normalizations -------------------------------------------------------------------------------------------------------
def _trains(call: Call) -> str | None:
    if call.attributes.get("training_mode"):
        return "training_mode=1 is for training"
    if call.attributes.get("spatial", 1) != 1:
        return "spatial=0 is not supported"
    return "its running statistics are outputs for training" if any(call.outputs[1:]) else None


@operator("BatchNormalization", latest=15, refuses=_trains)
def _batch_normalization(
    call: Call, x: np.ndarray, scale: np.ndarray, bias: np.ndarray, mean: np.ndarray, variance: np.ndarray
) -> Any:
    """Channels stand on axis 1; the statistics [C] may be of another dtype than x."""
    parts = [scale, bias, mean, variance]
    if x.ndim < 2 or any(part.shape != x.shape[1:2] for part in parts):
        raise ValueError(f"x of shape {x.shape} does not fit statistics of the shapes {[part.shape for part in parts]}")
    compute = np.result_type(x.dtype, variance.dtype, np.float32)
    columns = [part.astype(compute).reshape(-1, *[1] * (x.ndim - 2)) for part in parts]
    factor = columns[0] / np.sqrt(columns[3] + np.asarray(call.attributes["epsilon"], compute))
    return ((x - columns[2]) * factor + columns[1]).astype(x.dtype)


@operator("LayerNormalization", latest=17, result=lambda call, given: [None, "float32", "float32"])
def _layer_normalization(call: Call, x: np.ndarray, scale: np.ndarray, bias: np.ndarray | None = None) -> Any:
    """Over all axes from ``axis`` on, in float32 or, for such inputs, in float64."""
    axes = tuple(range(normal_axis(call.attributes["axis"], x.ndim), x.ndim))
    wide = x.astype(np.result_type(x.dtype, np.float32), copy=False)
    mean = wide.mean(axis=axes, keepdims=True)
    centred = wide - mean
    variance = np.square(centred).mean(axis=axes, keepdims=True)
    inverse = 1 / np.sqrt(variance + np.asarray(call.attributes["epsilon"], wide.dtype))
    y = (centred * inverse).astype(x.dtype, copy=False) * scale
    y = y if bias is None else y + bias
    if y.shape != x.shape:
        raise ValueError(f"scale and bias make the shape {y.shape} of x of shape {x.shape}")
    return y, mean.astype(np.float32), inverse.astype(np.float32)


@operator("InstanceNormalization", latest=22)
def _instance_normalization(call: Call, x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> Any:
    if x.ndim < 3 or scale.shape != x.shape[1:2] or bias.shape != x.shape[1:2]:
        raise ValueError(f"x of shape {x.shape} does not fit scale and bias of the shapes {scale.shape}, {bias.shape}")
    axes, form = tuple(range(2, x.ndim)), (-1, *[1] * (x.ndim - 2))
    centred = x - x.mean(axis=axes, keepdims=True)
    deviation = np.sqrt(np.square(centred).mean(axis=axes, keepdims=True) + np.asarray(call.attributes["epsilon"], x.dtype))
    return scale.reshape(form) * centred / deviation + bias.reshape(form)


@maker("Dropout", latest=22)
def _dropout(call: Call, constants: Any) -> Callable[..., Any]:
    """Nothing is dropped in inference; the mask says so."""

    def run(x: np.ndarray, ratio: np.ndarray | None = None, training: np.ndarray | None = None) -> Any:
        if training is not None and bool(training.reshape(())):
            raise ValueError("its input training_mode is true: only inference is supported")
        return (x, np.ones(x.shape, x.dtype if call.since < 10 else bool)) if any(call.outputs[1:]) else x

    if len(constants) > 2 and constants[2] is not None:
        run(np.zeros(0), None, constants[2])  # said before anything runs
    return run
