"""Pad: numbers before and after each axis, a constant or copies of what is there."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .bound import Action, Node, binder, copy
from .limits import UNASKED, allow
from .registry import ByRank, Call, computed, given, ints, maker, normal_axes

MODES = ("constant", "reflect", "edge", "wrap")  # NumPy has them under the same names


def _unknown_mode(call: Call) -> str | None:
    mode = call.attributes["mode"]
    return None if mode in MODES else f"its mode {mode!r} is not one of {', '.join(MODES)}"


# Axes up to this long are padded by indices that are kept.
LONGEST_LINE = 2**14


class _Pad:
    """Pads are an attribute up to opset 10 and an input since; negative ones cut."""

    def __init__(self, call: Call, constants: Sequence[np.ndarray | None]):
        self._call, self.mode = call, call.attributes["mode"]
        self._fill = call.attributes["value"] if call.since < 11 else None
        self._known = None
        if not computed(call, constants, 1, 3):
            told = call.attributes["pads"] if call.since < 11 else constants[1] if given(call, 1) else []
            axes = constants[3] if given(call, 3) else None
            self._known = ByRank(lambda rank: _widths(rank, told, axes))

    def widths(self, x: np.ndarray, pads: Any = None, value: Any = None, axes: Any = None) -> list[tuple[int, int]]:
        """(before, after) of each axis, for the inputs of a call."""
        return self._known[x.ndim] if self._known is not None else _widths(x.ndim, [] if pads is None else pads, axes)

    def __call__(self, x: np.ndarray, pads: Any = None, value: np.ndarray | None = None, axes: np.ndarray | None = None) -> Any:
        pairs, mode = self.widths(x, pads, value, axes), self.mode
        sizes = [size + max(before, 0) + max(after, 0) for size, (before, after) in zip(x.shape, pairs, strict=True)]
        if math.prod(sizes) > UNASKED:
            allow(sizes, x.dtype)
        if min([min(pair) for pair in pairs], default=0) < 0:
            x = x[tuple(slice(max(-a, 0), max(n - max(-b, 0), 0)) for n, (a, b) in zip(x.shape, pairs, strict=True))]
        return _framed(x, pairs, self._fill if value is None else value) if mode == "constant" else _continued(x, pairs, mode)


maker("Pad", latest=25, refuses=_unknown_mode)(_Pad)

# More copies than that take longer than NumPy's own way.
MOST_COPIES = 8


@binder("Pad")
def _bind_pad(node: Node) -> list[Action] | None:
    """What surrounds x is there already or consists of parts of x, forwards, backwards or one number again and again."""
    x, out, run = node.x, node.out, node.run
    assert isinstance(run, _Pad)
    pairs = run.widths(x, *node.arrays[1:])
    if not all(node.fixed[1:]) or min([min(pair) for pair in pairs], default=0) < 0:
        return None
    inner = tuple(slice(before, before + size) for size, (before, _) in zip(x.shape, pairs, strict=True))
    padded = [axis for axis, pair in enumerate(pairs) if pair != (0, 0)]
    if run.mode == "constant" or not padded:
        return [copy(x, out[inner])]
    if len(padded) > 1:
        return None
    (axis,) = padded
    line = _line(x.shape[axis], *pairs[axis], run.mode)
    actions = [copy(x[(*[slice(None)] * axis, source)], out[(*[slice(None)] * axis, target)]) for target, source in _runs(line)]
    return actions if len(actions) <= MOST_COPIES else None


def _runs(line: np.ndarray) -> list[tuple[slice, slice]]:
    """``line`` in pieces of numbers that count up, count down or stay the same: where each stands, and the numbers as a slice."""
    found, start, numbers = [], 0, line.tolist()
    while start < len(numbers):
        end, step = start + 1, 1
        if end < len(numbers) and abs(numbers[end] - numbers[start]) <= 1:
            step = numbers[end] - numbers[start]
        while end < len(numbers) and numbers[end] - numbers[end - 1] == step:
            end += 1
        first, stop = numbers[start], numbers[end - 1] + step
        source = slice(first, stop if stop >= 0 else None, step) if step else slice(first, first + 1)
        found.append((slice(start, end), source))
        start = end
    return found


def _widths(rank: int, told: Any, axes: np.ndarray | None) -> list[tuple[int, int]]:
    """(before, after) of each axis. ValueError where there are too many or too few."""
    pads, which = ints(told), range(rank) if axes is None else normal_axes(ints(axes), rank)
    if len(pads) != 2 * len(which):
        raise ValueError(f"has {len(pads)} pads for {len(which)} axes")
    widths = [(0, 0)] * rank
    for axis, before, after in zip(which, pads, pads[len(which) :], strict=False):
        widths[axis] = (before, after)
    return widths


def _framed(x: np.ndarray, widths: Sequence[tuple[int, int]], value: Any) -> np.ndarray:
    """x with ``value`` (None: 0) around it; negative widths do nothing."""
    fill = np.asarray(0 if value is None else value)
    if fill.size != 1:
        raise ValueError(f"its constant_value has the shape {fill.shape}, expected a scalar")
    pairs = [(max(before, 0), max(after, 0)) for before, after in widths]
    y = np.empty([size + before + after for size, (before, after) in zip(x.shape, pairs, strict=True)], x.dtype)
    y[...] = fill.reshape(()).astype(x.dtype)
    y[tuple(slice(before, before + size) for size, (before, _) in zip(x.shape, pairs, strict=True))] = x
    return y


def _continued(x: np.ndarray, widths: Sequence[tuple[int, int]], mode: str) -> np.ndarray:
    """x with copies of its own numbers around it."""
    for axis, (before, after) in enumerate(widths):
        if before > 0 or after > 0:
            before, after, size = max(before, 0), max(after, 0), x.shape[axis]
            if before + size + after <= LONGEST_LINE:
                x = x.take(_line(size, before, after, mode), axis)
            else:
                x = np.pad(x, [(before, after) if k == axis else (0, 0) for k in range(x.ndim)], mode)  # type: ignore[call-overload]
    return x


@functools.lru_cache(32)
def _line(size: int, before: int, after: int, mode: str) -> np.ndarray:
    """Which numbers of an axis stand along the padded one."""
    line = np.pad(np.arange(size), (before, after), mode)  # type: ignore[call-overload]
    line.flags.writeable = False
    return line
