"""Operators that slide a window: Conv, MaxPool, AveragePool, and the global pools; channels first, any number of axes.

A convolution over one axis with constant weights runs on a backend's packed matrix; everything else in NumPy.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ... import selector
from ...backends import cpu
from .bound import Action, Node, binder, copy, kernel
from .limits import UNASKED, allow
from .ops_matrix import PackedMatrix, packs
from .registry import Call, maker, operator, plain


class Axis(NamedTuple):
    """One axis that a window slides along: sizes, padding before and after, and what ceil_mode adds behind it."""

    size: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int
    beyond: int
    out: int


def window_axes(call: Call, sizes: Sequence[int], kernel: Sequence[int]) -> list[Axis]:
    """The geometry of a node over axes of ``sizes``. ValueError where attributes make no sense or the window does not fit."""
    count = len(sizes)
    strides, dilations = (list(call.attributes.get(key) or [1] * count) for key in ("strides", "dilations"))
    pads = list(call.attributes.get("pads") or [0] * 2 * count)
    if not len(kernel) == len(strides) == len(dilations) == len(pads) / 2 == count:
        raise ValueError(f"has kernel {list(kernel)}, strides {strides}, dilations {dilations}, pads {pads} for {count} axes")
    if min([*kernel, *strides, *dilations], default=1) < 1 or min(pads, default=0) < 0:
        raise ValueError(f"has kernel {list(kernel)}, strides {strides}, dilations {dilations}, pads {pads}")
    auto = call.attributes.get("auto_pad") or "NOTSET"
    if auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise ValueError(f"its auto_pad {auto!r} is not known")
    axes = []
    for k, size in enumerate(sizes):
        step, reach = strides[k], (kernel[k] - 1) * dilations[k] + 1
        before, after, beyond = pads[k], pads[count + k], 0
        if auto.startswith("SAME"):
            out = -(-size // step)
            total = max((out - 1) * step + reach - size, 0)
            before = total // 2 if auto == "SAME_UPPER" else total - total // 2
            after = total - before
        else:
            before, after = (0, 0) if auto == "VALID" else (before, after)
            room = size + before + after - reach
            out = room // step + 1
            if call.attributes.get("ceil_mode") and room % step and out * step < size + before:
                out, beyond = out + 1, step - room % step
        if out < 1 or size < 1:
            raise ValueError(f"a window of {reach} does not fit an axis of {size} with padding {before} and {after}")
        axes.append(Axis(size, kernel[k], step, dilations[k], before, after, beyond, out))
    return axes


def _padded(x: np.ndarray, axes: Sequence[Axis], value: Any, beyond: Any) -> np.ndarray:
    """x [N,C,…] with ``value`` in the padding and ``beyond`` in what ceil_mode adds."""
    if not any(axis.before or axis.after or axis.beyond for axis in axes):
        return x
    allow([*x.shape[:2], *(axis.size + axis.before + axis.after + axis.beyond for axis in axes)], x.dtype)
    padded = np.pad(x, [(0, 0), (0, 0), *((axis.before, axis.after) for axis in axes)], constant_values=value)
    if any(axis.beyond for axis in axes):
        padded = np.pad(padded, [(0, 0), (0, 0), *((0, axis.beyond) for axis in axes)], constant_values=beyond)
    return padded


def windows(padded: np.ndarray, axes: Sequence[Axis]) -> np.ndarray:
    """[N,C,out…,kernel…] as a view. ValueError where the numbers in it are too many, as they will all be read."""
    allow([*padded.shape[:2], *(axis.out for axis in axes), *(axis.kernel for axis in axes)], padded.dtype)
    reach = tuple((axis.kernel - 1) * axis.dilation + 1 for axis in axes)
    view = sliding_window_view(padded, reach, axis=tuple(range(2, padded.ndim)))
    outer = [slice(0, (axis.out - 1) * axis.stride + 1, axis.stride) for axis in axes]
    return view[(slice(None), slice(None), *outer, *(slice(None, None, axis.dilation) for axis in axes))]


# -- convolution ----------------------------------------------------------------------------------------------------------
def _check_weights(call: Call, weights: np.ndarray) -> None:
    """ValueError for weights [M,C/group,k…] that do not fit the attributes."""
    told, group = call.attributes.get("kernel_shape"), call.attributes["group"]
    if weights.ndim < 3 or (told is not None and tuple(told) != weights.shape[2:]):
        raise ValueError(f"weights of shape {weights.shape} do not fit kernel_shape={told}")
    if group < 1 or weights.shape[0] % group or weights.size == 0:
        raise ValueError(f"weights of shape {weights.shape} do not fit group={group}")


def _check_input(call: Call, x: np.ndarray, weights: np.ndarray, bias: np.ndarray | None) -> None:
    channels = weights.shape[1] * call.attributes["group"]
    if x.ndim != weights.ndim or x.shape[1] != channels:
        raise ValueError(f"x of shape {x.shape} does not fit weights of shape {weights.shape}, group={call.attributes['group']}")
    if bias is not None and bias.shape != weights.shape[:1]:
        raise ValueError(f"a bias of shape {bias.shape} does not fit weights of shape {weights.shape}")


def _convolve(call: Call, x: np.ndarray, weights: np.ndarray, bias: np.ndarray | None = None) -> Any:
    """x [N,C,…], weights [M,C/group,k…], bias [M] -> [N,M,…]: the windows of each group times its weights."""
    _check_weights(call, weights)
    _check_input(call, x, weights, bias)
    group, filters = call.attributes["group"], weights.shape[0]
    axes = window_axes(call, x.shape[2:], weights.shape[2:])
    view = windows(_padded(x, axes, 0, 0), axes)
    out, count = [axis.out for axis in axes], len(axes)
    view = view.reshape(len(x), group, -1, *view.shape[2:])
    order = (0, 1, *range(3, 3 + count), 2, *range(3 + count, 3 + 2 * count))
    columns = view.transpose(order).reshape(len(x), group, math.prod(out), -1)
    allow((len(x), filters, *out), x.dtype)
    y = columns @ weights.reshape(group, filters // group, -1).swapaxes(1, 2)
    y = y.swapaxes(2, 3).reshape(len(x), filters, *out)
    return y if bias is None else y + bias.reshape(-1, *[1] * count)


@maker("Conv", latest=22, heavy=True)
def _make_conv(call: Call, constants: Sequence[np.ndarray | None]) -> Callable[..., Any]:
    weights, bias = constants[1], constants[2] if len(constants) > 2 else None
    if weights is not None:
        _check_weights(call, weights)
    constant_bias = bias is not None or not call.inputs[2:3] or not call.inputs[2]
    if weights is None or weights.ndim != 3 or call.attributes["group"] != 1 or not constant_bias:
        return lambda x, w, b=None: _convolve(call, x, w, b)
    matrix = weights.transpose(2, 1, 0).reshape(-1, len(weights))  # [k C, M]
    if not packs(matrix) or (bias is not None and bias.shape != weights.shape[:1]):
        return lambda x, w, b=None: _convolve(call, x, w, b)
    return _Convolution(call, weights, PackedMatrix(matrix, bias))


class _Convolution:
    """A convolution over one axis with constant weights [M,C,k] and bias, which ``packed`` holds."""

    def __init__(self, call: Call, weights: np.ndarray, packed: PackedMatrix):
        self._call, self.packed = call, packed
        self.filters, self.channels, self.kernel = weights.shape
        self.axis_of = functools.lru_cache(8)(lambda size: window_axes(call, (size,), (self.kernel,))[0])

    def __call__(self, x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None) -> Any:
        if x.ndim != 3 or x.shape[1] != self.channels:
            _check_input(self._call, x, w, b)
        axis = self.axis_of(x.shape[2])
        if len(x) * self.filters * axis.out > UNASKED:
            allow((len(x), self.filters, axis.out), x.dtype)
        backend = selector.glue_backend()
        prepared, rows = self.packed.prepared(backend), _rows(x, axis)
        return backend.conv1d(prepared, rows, axis.out, self.kernel, axis.stride, axis.dilation).swapaxes(1, 2)


@binder("Conv")
def _bind_conv(node: Node) -> list[Action] | None:
    """The padding stays where it is, x is copied into its midst, or read where it lies if it lies right."""
    x, out, run = node.x, node.out, node.run
    if not isinstance(run, _Convolution):
        return None
    prepared, z, axis = run.packed.prepared(cpu), out.swapaxes(1, 2), run.axis_of(x.shape[2])
    if isinstance(prepared, tuple) or not z.flags.c_contiguous:
        return None
    rows, actions = x.swapaxes(1, 2), []
    if axis.before or axis.after or not rows.flags.c_contiguous:
        shape = len(x), axis.before + axis.size + axis.after, run.channels
        if math.prod(shape) > UNASKED:
            return None
        rows = np.zeros(shape, x.dtype)
        actions = [copy(x, rows[:, axis.before : axis.before + axis.size].swapaxes(1, 2))]
    product = prepared.bound(rows, z, run.kernel, axis.stride, axis.dilation)
    return [*actions, kernel(product, (rows,), (out,))]


def _rows(x: np.ndarray, axis: Axis) -> np.ndarray:
    """x [N,C,size] -> [N,before + size + after,C], C-contiguous, zeros in the padding."""
    if not axis.before and not axis.after:
        return np.ascontiguousarray(x.swapaxes(1, 2))
    count, channels, size = x.shape
    length = axis.before + size + axis.after
    if count * channels * length > UNASKED:
        allow((count, channels, length), x.dtype)
    rows = np.zeros((count, length, channels), x.dtype)
    rows[:, axis.before : axis.before + size] = x.swapaxes(1, 2)
    return rows


# -- pooling --------------------------------------------------------------------------------------------------------------
def _pool_axes(call: Call, x: np.ndarray) -> list[Axis]:
    if x.ndim < 3:
        raise ValueError(f"needs x [N,C,…] of at least three axes. Received the shape {x.shape}")
    return window_axes(call, x.shape[2:], call.attributes["kernel_shape"])


def _no_indices(call: Call) -> str | None:
    return "its output Indices is not supported" if any(call.outputs[1:]) else None


@operator("MaxPool", latest=22, refuses=_no_indices)
def _max_pool(call: Call, x: np.ndarray) -> Any:
    axes = _pool_axes(call, x)
    lowest = -math.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    view = windows(_padded(x, axes, lowest, lowest), axes)
    return view.max(axis=tuple(range(2 + len(axes), view.ndim)))


@operator("AveragePool", latest=22)
def _average_pool(call: Call, x: np.ndarray) -> Any:
    """The mean over what a window sees of x, with count_include_pad of the padding too; never of what ceil_mode adds."""
    axes = _pool_axes(call, x)
    last = tuple(range(2 + len(axes), 2 + 2 * len(axes)))
    seen = np.ones((1, 1, *x.shape[2:]), x.dtype)
    counted = windows(_padded(seen, axes, int(bool(call.attributes["count_include_pad"])), 0), axes).sum(axis=last)
    return windows(_padded(x, axes, 0, 0), axes).sum(axis=last) / counted


plain("GlobalAveragePool", 22, lambda x: x.mean(axis=tuple(range(2, x.ndim)), keepdims=True))
plain("GlobalMaxPool", 22, lambda x: x.max(axis=tuple(range(2, x.ndim)), keepdims=True))
