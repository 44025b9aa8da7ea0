"""Operators that move numbers about: shapes, slices, gathering, padding, and arrays made of nothing but their sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .limits import allow
from .registry import Call, ints, normal_axes, normal_axis, operator, plain

plain("Identity", 25, lambda x: x)
plain("Size", 25, lambda x: np.asarray(x.size, np.int64))


# -- the same numbers in another shape ------------------------------------------------------------------------------------
@operator("Transpose", latest=25)
def _transpose(call: Call, x: np.ndarray) -> Any:
    axes = call.attributes["perm"]
    return x.transpose(range(x.ndim)[::-1] if axes is None else axes)


@operator("Reshape", latest=25)
def _reshape(call: Call, x: np.ndarray, shape: np.ndarray) -> Any:
    """A size of 0 is that of x, unless ``allowzero``; one size may be -1."""
    sizes = ints(shape)
    if not call.attributes.get("allowzero"):
        if any(size == 0 and axis >= x.ndim for axis, size in enumerate(sizes)):
            raise ValueError(f"cannot copy the sizes of {sizes} from the shape {x.shape}")
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    if any(size < -1 for size in sizes):
        raise ValueError(f"asks for the shape {sizes}")
    return x.reshape(sizes)


@operator("Flatten", latest=25)
def _flatten(call: Call, x: np.ndarray) -> Any:
    axis = call.attributes["axis"]
    if not -x.ndim <= axis <= x.ndim:
        raise ValueError(f"its axis {axis} is not one of {x.ndim}")
    axis += x.ndim if axis < 0 else 0
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _axes_of(call: Call, axes: np.ndarray | None) -> list[int] | None:
    """The axes of a node: an attribute up to opset 12, an input since; None where neither is there."""
    told = call.attributes.get("axes") if axes is None else ints(axes)
    return None if told is None else list(told)


@operator("Squeeze", latest=25)
def _squeeze(call: Call, x: np.ndarray, axes: np.ndarray | None = None) -> Any:
    told = _axes_of(call, axes)
    return x.squeeze(None if told is None else normal_axes(told, x.ndim))


@operator("Unsqueeze", latest=25)
def _unsqueeze(call: Call, x: np.ndarray, axes: np.ndarray | None = None) -> Any:
    told = _axes_of(call, axes)
    if told is None:
        raise ValueError("does not say its axes")
    return np.expand_dims(x, normal_axes(told, x.ndim + len(told)))


@operator("Shape", latest=25)
def _shape(call: Call, x: np.ndarray) -> Any:
    return np.asarray(x.shape[call.attributes.get("start") or 0 : call.attributes.get("end")], np.int64)


@operator("Expand", latest=13)
def _expand(call: Call, x: np.ndarray, shape: np.ndarray) -> Any:
    sizes = np.broadcast_shapes(x.shape, tuple(ints(shape)))
    allow(sizes, x.dtype)
    return np.broadcast_to(x, sizes)


# -- parts ----------------------------------------------------------------------------------------------------------------
@operator("Slice", latest=13)
def _slice(
    call: Call,
    x: np.ndarray,
    starts: np.ndarray | None = None,
    ends: np.ndarray | None = None,
    axes: np.ndarray | None = None,
    steps: np.ndarray | None = None,
) -> Any:
    """Attributes up to opset 9, inputs since; indices out of range are cut as Python does it."""
    if call.since < 10:
        first, last = call.attributes["starts"], call.attributes["ends"]
        told, strides = call.attributes.get("axes"), None
    else:
        if starts is None or ends is None:
            raise ValueError("needs both starts and ends")
        first, last = ints(starts), ints(ends)
        told, strides = (None if given is None else ints(given) for given in (axes, steps))
    told = list(range(len(first))) if told is None else told
    strides = [1] * len(first) if strides is None else strides
    if not len(first) == len(last) == len(told) == len(strides):
        raise ValueError(f"has {len(first)} starts, {len(last)} ends, {len(told)} axes and {len(strides)} steps")
    index = [slice(None)] * x.ndim
    for axis, start, end, step in zip(normal_axes(told, x.ndim), first, last, strides, strict=True):
        index[axis] = slice(start, end, step)
    return x[tuple(index)]


@operator("Concat", latest=13)
def _concat(call: Call, *arrays: np.ndarray) -> Any:
    axis = normal_axis(call.attributes["axis"], arrays[0].ndim)
    shape = list(arrays[0].shape)
    shape[axis] = sum(array.shape[axis] for array in arrays if array.ndim > axis)
    allow(shape, arrays[0].dtype)
    return np.concatenate(arrays, axis)


@operator("Split", latest=18)
def _split(call: Call, x: np.ndarray, split: np.ndarray | None = None) -> Any:
    axis = normal_axis(call.attributes["axis"], x.ndim)
    size, parts = x.shape[axis], call.attributes.get("num_outputs") or len(call.outputs)
    told = [int(part) for part in split] if split is not None else call.attributes.get("split")
    if told is None:
        if call.since < 18 and size % parts:
            raise ValueError(f"cannot split {size} into {parts} equal parts")
        chunk = -(-size // parts)
        told = [max(min(chunk, size - chunk * part), 0) for part in range(parts)]
    if len(told) != len(call.outputs) or sum(told) != size or min(told, default=0) < 0:
        raise ValueError(f"cannot split {size} into the parts {list(told)[:20]} for {len(call.outputs)} outputs")
    return tuple(np.split(x, np.cumsum(told)[:-1], axis))


@operator("Gather", latest=13)
def _gather(call: Call, x: np.ndarray, indices: np.ndarray) -> Any:
    axis = normal_axis(call.attributes["axis"], x.ndim)
    allow((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), x.dtype)
    return np.take(x, indices, axis)


@operator("GatherElements", latest=13)
def _gather_elements(call: Call, x: np.ndarray, indices: np.ndarray) -> Any:
    axis = normal_axis(call.attributes["axis"], x.ndim)
    if indices.ndim != x.ndim:
        raise ValueError(f"needs indices of {x.ndim} axes. Received the shape {indices.shape}")
    allow(indices.shape, x.dtype)
    part = tuple(slice(None) if k == axis else slice(0, size) for k, size in enumerate(indices.shape))
    return np.take_along_axis(x[part], indices, axis)


@operator("GatherND", latest=13)
def _gather_nd(call: Call, x: np.ndarray, indices: np.ndarray) -> Any:
    """The last axis of ``indices`` holds coordinates; the first ``batch_dims`` axes of both run together."""
    batch, depth = call.attributes.get("batch_dims") or 0, indices.shape[-1]
    if not 0 <= batch < min(x.ndim, indices.ndim) or depth > x.ndim - batch or x.shape[:batch] != indices.shape[:batch]:
        raise ValueError(f"cannot take indices of shape {indices.shape} out of {x.shape}, batch_dims={batch}")
    allow((*indices.shape[:-1], *x.shape[batch + depth :]), x.dtype)
    grid = [
        np.arange(size).reshape([-1 if k == axis else 1 for k in range(indices.ndim - 1)])
        for axis, size in enumerate(x.shape[:batch])
    ]
    return x[(*grid, *np.moveaxis(indices, -1, 0))]


@operator("ReverseSequence", latest=28)
def _reverse_sequence(call: Call, x: np.ndarray, lengths: np.ndarray) -> Any:
    """The first ``lengths[n]`` steps of each sample turned round, the rest as it is."""
    time, batch = call.attributes["time_axis"], call.attributes["batch_axis"]
    if sorted((time, batch)) != [0, 1] or x.ndim < 2 or lengths.shape != (x.shape[batch],):
        raise ValueError(f"cannot turn x of shape {x.shape} round with lengths of shape {lengths.shape}")
    steps, size = np.arange(x.shape[time]), x.shape[time]
    if (lengths < 0).any() or (lengths > size).any():
        raise ValueError(f"needs lengths of 0 to {size}")
    order = np.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)  # [N,T]
    order = order if time == 1 else order.T
    return np.take_along_axis(x, order.reshape(*order.shape, *[1] * (x.ndim - 2)), time)


# -- more numbers ---------------------------------------------------------------------------------------------------------
@operator("Tile", latest=13)
def _tile(call: Call, x: np.ndarray, repeats: np.ndarray) -> Any:
    counts = ints(repeats)
    if len(counts) != x.ndim:
        raise ValueError(f"has {len(counts)} repeats for {x.ndim} axes")
    allow([size * count for size, count in zip(x.shape, counts, strict=True)], x.dtype)
    return np.tile(x, counts)


def _fill(call: Call) -> np.ndarray:
    value = call.attributes.get("value")
    return np.zeros(1, np.float32) if value is None else value


@operator(
    "ConstantOfShape",
    latest=25,
    result=lambda call, given: [_fill(call).dtype.name],
    refuses=lambda call: None if _fill(call).size == 1 else f"its value has {_fill(call).size} numbers, expected one",
)
def _constant_of_shape(call: Call, shape: np.ndarray) -> Any:
    sizes = ints(shape)
    allow(sizes, call.dtype)
    return np.full(sizes, _fill(call).reshape(()))


@operator("Range", latest=27)
def _range(call: Call, start: np.ndarray, limit: np.ndarray, delta: np.ndarray) -> Any:
    """start + k delta for k below ceil((limit - start) / delta)."""
    first, last, step = (np.asarray(a).reshape(()).item() for a in (start, limit, delta))
    if step == 0 or not all(math.isfinite(number) for number in (first, last, step)):
        raise ValueError(f"cannot count from {first} to {last} by {step}")
    count = max(math.ceil((last - first) / step), 0)
    allow([count], np.int64)  # the numbers before they get their dtype
    return (first + np.arange(count) * step).astype(start.dtype)


@operator("OneHot", latest=28)
def _one_hot(call: Call, indices: np.ndarray, depth: np.ndarray, values: np.ndarray) -> Any:
    """A new axis of size ``depth``: values[1] where the index says, values[0] elsewhere; negative ones count from the end."""
    if depth.size != 1 or values.shape != (2,):
        raise ValueError(f"needs one depth and two values. Received {depth.size} and {values.size}")
    size = int(depth.reshape(()))
    axis = normal_axis(call.attributes["axis"], indices.ndim + 1)
    allow((*indices.shape, size), values.dtype)
    rows = np.expand_dims(np.asarray(indices), axis)
    line = np.arange(size).reshape([-1 if k == axis else 1 for k in range(rows.ndim)])
    return np.where((rows == line) | (rows == line - size), values[1], values[0])


@operator("Trilu", latest=14)
def _trilu(call: Call, x: np.ndarray, k: np.ndarray | None = None) -> Any:
    diagonal = 0 if k is None else int(k.reshape(()))
    diagonal = max(-sum(x.shape), min(diagonal, sum(x.shape)))
    return (np.triu if call.attributes["upper"] else np.tril)(x, diagonal)


@operator("NonZero", latest=13)
def _non_zero(call: Call, x: np.ndarray) -> Any:
    allow((max(x.ndim, 1), x.size), np.int64)
    return np.asarray(np.nonzero(np.atleast_1d(x)), np.int64)


# -- pad ------------------------------------------------------------------------------------------------------------------
_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}


def _unknown_mode(call: Call) -> str | None:
    mode = call.attributes["mode"]
    return None if mode in _PAD_MODES else f"its mode {mode!r} is not one of {', '.join(_PAD_MODES)}"


@operator("Pad", latest=25, refuses=_unknown_mode)
def _pad(
    call: Call,
    x: np.ndarray,
    pads: np.ndarray | None = None,
    value: np.ndarray | None = None,
    axes: np.ndarray | None = None,
) -> Any:
    """Pads are an attribute up to opset 10 and an input since; negative ones cut."""
    told = list(call.attributes["pads"]) if call.since < 11 else ints([] if pads is None else pads)
    which = list(range(x.ndim)) if axes is None else list(normal_axes(ints(axes), x.ndim))
    if len(told) != 2 * len(which):
        raise ValueError(f"has {len(told)} pads for {len(which)} axes")
    widths = [(0, 0)] * x.ndim
    for axis, before, after in zip(which, told, told[len(which) :], strict=False):
        widths[axis] = (before, after)
    allow([size + max(before, 0) + max(after, 0) for size, (before, after) in zip(x.shape, widths, strict=True)], x.dtype)
    cut = tuple(
        slice(max(-before, 0), max(size - max(-after, 0), 0)) for size, (before, after) in zip(x.shape, widths, strict=True)
    )
    return _padded(x[cut], [(max(before, 0), max(after, 0)) for before, after in widths], call, value)


def _padded(x: np.ndarray, widths: Sequence[tuple[int, int]], call: Call, value: np.ndarray | None) -> np.ndarray:
    if call.attributes["mode"] != "constant":
        return np.pad(x, widths, _PAD_MODES[call.attributes["mode"]])  # type: ignore[call-overload]
    fill: Any = call.attributes["value"] if call.since < 11 else 0
    if value is not None:
        if value.size != 1:
            raise ValueError(f"its constant_value has the shape {value.shape}, expected a scalar")
        fill = value.reshape(())
    return np.pad(x, widths, constant_values=np.asarray(fill).astype(x.dtype))
