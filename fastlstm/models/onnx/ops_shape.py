"""Operators that move numbers about: shapes, slices, gathering, padding, and arrays made of nothing but their sizes."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .bound import Action, Node, binder, copy
from .limits import UNASKED, allow
from .registry import ByRank, Call, computed, given, ints, maker, normal_axes, normal_axis, operator, plain

Constants = Sequence[np.ndarray | None]

plain("Identity", 25, lambda x: x)
plain("Size", 25, lambda x: np.asarray(x.size, np.int64))


# -- the same numbers in another shape ------------------------------------------------------------------------------------
@maker("Transpose", latest=25, view=True)
def _make_transpose(call: Call, constants: Constants) -> Callable[..., Any]:
    axes = call.attributes["perm"]
    if axes is None:
        return lambda x: x.T
    order = tuple(axes)
    return lambda x: x.transpose(order)


@maker("Reshape", latest=25, view=True)
def _make_reshape(call: Call, constants: Constants) -> Callable[..., Any]:
    """A size of 0 is that of x, unless ``allowzero``; one size may be -1."""
    copies = not call.attributes.get("allowzero")
    if computed(call, constants, 1):
        return lambda x, shape: _reshaped(x, ints(shape), copies)
    told = constants[1]
    assert told is not None
    if told.size <= 64 and told.min(initial=0) >= -1 and not (copies and 0 in told):
        sizes = tuple(ints(told))
        return lambda x, *_: x.reshape(sizes)
    return lambda x, *_: _reshaped(x, ints(told), copies)


def _reshaped(x: np.ndarray, sizes: list[int], copies: bool) -> np.ndarray:
    if copies:
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


def _axes_of(call: Call, constants: Constants) -> Any:
    """The axes of a node, where no node makes them: an attribute up to opset 12, an input since; None for none."""
    return constants[1] if given(call, 1) else call.attributes.get("axes")


@maker("Squeeze", latest=25, view=True)
def _make_squeeze(call: Call, constants: Constants) -> Callable[..., Any]:
    if computed(call, constants, 1):
        return lambda x, axes: x.squeeze(normal_axes(ints(axes), x.ndim))
    told = _axes_of(call, constants)
    if told is None:
        return lambda x, *_: x.squeeze()
    places = ByRank(lambda rank: normal_axes(ints(told), rank))
    return lambda x, *_: x.squeeze(places[x.ndim])


@maker("Unsqueeze", latest=25, view=True)
def _make_unsqueeze(call: Call, constants: Constants) -> Callable[..., Any]:
    if computed(call, constants, 1):
        return lambda x, axes: x[_new_axes(ints(axes), x.ndim)]
    told = _axes_of(call, constants)
    index = ByRank(lambda rank: _new_axes(None if told is None else ints(told), rank))
    return lambda x, *_: x[index[x.ndim]]


def _new_axes(axes: list[int] | None, rank: int) -> tuple:
    """The index that makes axes of size 1 at the places ``axes`` of the result."""
    if axes is None:
        raise ValueError("does not say its axes")
    if rank + len(axes) > 64:
        raise ValueError(f"asks for an array of {rank + len(axes)} axes")
    places = normal_axes(axes, rank + len(axes))
    return (*(None if k in places else slice(None) for k in range(rank + len(axes))), ...)


@operator("Shape", latest=25)
def _shape(call: Call, x: np.ndarray) -> Any:
    return np.array(x.shape[call.attributes.get("start") or 0 : call.attributes.get("end")], np.int64)


@operator("Expand", latest=13)
def _expand(call: Call, x: np.ndarray, shape: np.ndarray) -> Any:
    sizes = np.broadcast_shapes(x.shape, tuple(ints(shape)))
    allow(sizes, x.dtype)
    return np.broadcast_to(x, sizes)


# -- parts ----------------------------------------------------------------------------------------------------------------
@maker("Slice", latest=13, view=True)
def _make_slice(call: Call, constants: Constants) -> Callable[..., Any]:
    """Attributes up to opset 9, inputs since; indices out of range are cut as Python does it."""
    told = [*constants, None, None, None, None][1:5]
    if call.since < 10:
        told = [call.attributes["starts"], call.attributes["ends"], call.attributes.get("axes"), None]
    elif computed(call, constants, 1, 2, 3, 4):
        return lambda x, *arrays: x[_slices(x.ndim, *arrays)]
    index = ByRank(lambda rank: _slices(rank, *told))
    return lambda x, *_: x[index[x.ndim]]


def _slices(rank: int, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None) -> tuple:
    """The index of a Slice."""
    if starts is None or ends is None:
        raise ValueError("needs both starts and ends")
    first, last = ints(starts), ints(ends)
    told = list(range(len(first))) if axes is None else ints(axes)
    strides = [1] * len(first) if steps is None else ints(steps)
    if not len(first) == len(last) == len(told) == len(strides):
        raise ValueError(f"has {len(first)} starts, {len(last)} ends, {len(told)} axes and {len(strides)} steps")
    index = [slice(None)] * rank
    for axis, start, end, step in zip(normal_axes(told, rank), first, last, strides, strict=True):
        index[axis] = slice(start, end, step)
    return (*index, ...)


@maker("Concat", latest=13)
def _make_concat(call: Call, constants: Constants) -> Callable[..., Any]:
    along = ByRank(lambda rank: normal_axis(call.attributes["axis"], rank))

    def run(*arrays: np.ndarray) -> Any:
        axis = along[arrays[0].ndim]
        if sum([array.size for array in arrays]) > UNASKED:
            shape = list(arrays[0].shape)
            shape[axis] = sum(array.shape[axis] for array in arrays if array.ndim > axis)
            allow(shape, arrays[0].dtype)
        return np.concatenate(arrays, axis)

    return run


# More parts are copied faster by NumPy than one by one.
MOST_PARTS = 8


@binder("Concat")
def _bind_concat(node: Node) -> list[Action] | None:
    """Each part that changes is copied to its place."""
    out = node.out
    axis, actions, end = normal_axis(node.call.attributes["axis"], out.ndim), [], 0
    for part, fixed in zip(node.operands, node.fixed, strict=True):
        start, end = end, end + part.shape[axis]
        if not fixed:
            actions.append(copy(part, out[(*[slice(None)] * axis, slice(start, end))]))
    return actions if len(actions) <= MOST_PARTS else None


@maker("Split", latest=18)
def _make_split(call: Call, constants: Constants) -> Callable[..., Any]:
    """Parts of x as views; without ``split`` they are equal, since version 18 but for the last one."""
    if computed(call, constants, 1):
        return lambda x, split: _parts(call, x.ndim, x.shape[normal_axis(call.attributes["axis"], x.ndim)], split)(x)
    told = constants[1] if given(call, 1) else call.attributes.get("split")
    cut = functools.lru_cache(8)(lambda rank, size: _parts(call, rank, size, told))
    along = ByRank(lambda rank: normal_axis(call.attributes["axis"], rank))
    return lambda x, *_: cut(x.ndim, x.shape[along[x.ndim]])(x)


def _parts(call: Call, rank: int, size: int, split: Any) -> Callable[[np.ndarray], tuple[np.ndarray, ...]]:
    """What takes the parts out of an array of ``rank`` axes whose axis to be split has ``size`` numbers."""
    axis, count = normal_axis(call.attributes["axis"], rank), call.attributes.get("num_outputs") or len(call.outputs)
    told = None if split is None else [int(part) for part in split]
    if told is None:
        if call.since < 18 and size % count:
            raise ValueError(f"cannot split {size} into {count} equal parts")
        chunk = -(-size // count)
        told = [max(min(chunk, size - chunk * part), 0) for part in range(count)]
    if len(told) != len(call.outputs) or sum(told) != size or min(told, default=0) < 0:
        raise ValueError(f"cannot split {size} into the parts {told[:20]} for {len(call.outputs)} outputs")
    ends = [0, *itertools.accumulate(told)]
    indices = [(*[slice(None)] * axis, slice(a, b)) for a, b in itertools.pairwise(ends)]
    return lambda x: tuple([x[index] for index in indices])


@maker("Gather", latest=13)
def _make_gather(call: Call, constants: Constants) -> Callable[..., Any]:
    along = ByRank(lambda rank: normal_axis(call.attributes["axis"], rank))

    def run(x: np.ndarray, indices: np.ndarray) -> Any:
        axis = along[x.ndim]
        if x.size * indices.size > UNASKED:
            allow((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), x.dtype)
        return x.take(indices, axis)

    return run


@binder("Gather")
def _bind_gather(node: Node) -> list[Action] | None:
    """What stands at one constant index is copied as it lies."""
    x, indices = node.operands
    if not node.fixed[1] or indices.size != 1:
        return None
    axis = normal_axis(node.call.attributes["axis"], x.ndim)
    part = x[(*[slice(None)] * axis, indices.item())]
    return [copy(part.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])), node.out)]


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
