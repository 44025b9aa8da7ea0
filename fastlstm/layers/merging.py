"""Merges of several arrays into one: Add, Subtract, Multiply, Average, Maximum, Minimum, Concatenate (terms of ``keras.layers``).

In terms of SeveralInputs. Arrays are broadcast as in Keras: one of fewer axes gets axes of 1 after the batch.
"""

from __future__ import annotations

import functools
import itertools
import operator
from typing import Any

import numpy as np

from .. import devices
from ..arrays import cast
from .several import SeveralInputs, summed_to


def _merged_shape(one: tuple, other: tuple) -> tuple:
    """The shape (without the batch) of two arrays put together. ValueError where they do not fit."""
    if len(one) < len(other):
        one, other = other, one
    shape = list(one[: len(one) - len(other)])
    for i, j in zip(one[len(one) - len(other) :], other, strict=True):
        if i is None or j is None:
            shape.append(None)
        elif i != j and 1 not in (i, j):
            raise ValueError(f"Inputs have incompatible shapes. Received: shapes {one} and {other} (without the batch)")
        else:
            shape.append(j if i == 1 else i)
    return tuple(shape)


class Merge(SeveralInputs):
    """Base: number by number. The mask goes on where all arrays have one: a step counts if it counts in any of them."""

    runs_on_gpu = True

    def compute_output_shape(self, input_shape: Any) -> tuple:
        self._check_list(input_shape, "inputs")
        batches = {shape[0] for shape in input_shape if len(shape)} - {None}
        if len(batches) > 1 and not (len(batches) == 2 and 1 in batches):
            raise ValueError(f"Cannot merge arrays of different batch sizes. Received: shapes {[tuple(s) for s in input_shape]}")
        rest = functools.reduce(_merged_shape, [tuple(shape[1:]) for shape in input_shape])
        return (max(batches) if batches else None, *rest)

    def _aligned(self, xs: list[np.ndarray]) -> list[np.ndarray]:
        """In the arithmetic dtype, of one number of axes."""
        ndim = max(x.ndim for x in xs)
        wide = (x.reshape(*x.shape[:1], *[1] * (ndim - x.ndim), *x.shape[1:]) for x in xs)
        return [cast(x, self.arithmetic_dtype) for x in wide]

    def call(self, xs: Any, mask: Any = None, training: bool = False) -> np.ndarray:
        return self._vjp(xs, mask, training)[0]

    def _vjp(self, xs: Any, mask: Any = None, training: bool = False) -> tuple[np.ndarray, Any]:
        aligned = self._aligned(xs)
        y, slopes = self._merge(aligned, mask)

        def pull(dy: np.ndarray) -> tuple[list, list]:
            with np.errstate(all="ignore"):
                parts = zip(slopes, aligned, xs, strict=True)
                return [summed_to(np.broadcast_to(s(dy), dy.shape), a.shape).reshape(x.shape) for s, a, x in parts], []

        return cast(y, self.storage_dtype), pull

    def _merge(self, xs: list[np.ndarray], masks: Any) -> tuple[np.ndarray, list[Any]]:
        """The result, and for each array the function dy -> its gradient, broadcast or not."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it merges")

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        masks = self._as_masks(mask, len(inputs))
        if masks is None or any(one is None for one in masks):
            return None
        return functools.reduce(np.logical_or, masks)  # type: ignore[arg-type]


def _sum(xs: list[np.ndarray]) -> np.ndarray:
    with np.errstate(all="ignore"):
        return functools.reduce(operator.add, xs)


class Add(Merge):
    """The sum of the arrays."""

    def _merge(self, xs: list[np.ndarray], masks: Any) -> tuple[np.ndarray, list[Any]]:
        return _sum(xs), [lambda dy: dy] * len(xs)


class Subtract(Merge):
    """The first of two arrays less the second. ValueError for another number of arrays."""

    _least = _most = 2

    def _merge(self, xs: list[np.ndarray], masks: Any) -> tuple[np.ndarray, list[Any]]:
        with np.errstate(all="ignore"):
            return xs[0] - xs[1], [lambda dy: dy, lambda dy: -dy]


class Average(Merge):
    """The mean of the arrays."""

    def _merge(self, xs: list[np.ndarray], masks: Any) -> tuple[np.ndarray, list[Any]]:
        count = xs[0].dtype.type(len(xs))
        return _sum(xs) / count, [lambda dy: dy / count] * len(xs)


def _laid_over(mask: Any, x: np.ndarray) -> np.ndarray | None:
    """A mask as an array that broadcasts to x [N,T,…,D], whose last axis it lacks."""
    return None if mask is None else np.broadcast_to(mask[..., None], x.shape)


class Multiply(Merge):
    """The product of the arrays. A masked step of an array counts as 1, one that all mask is 0 (as in Keras 3.15)."""

    def _merge(self, xs: list[np.ndarray], masks: Any) -> tuple[np.ndarray, list[Any]]:
        laid = [_laid_over(mask, x) for mask, x in zip(masks or [None] * len(xs), xs, strict=True)]
        factors = [x if m is None else np.where(m, x, x.dtype.type(1)) for m, x in zip(laid, xs, strict=True)]
        known: list[Any] = [m for m in laid if m is not None]
        valid = functools.reduce(np.logical_or, known) if len(known) == len(xs) else None
        with np.errstate(all="ignore"):
            y = functools.reduce(operator.mul, factors)
        y = y if valid is None else np.where(valid, y, y.dtype.type(0))

        def slope(k: int) -> Any:
            def of(dy: np.ndarray) -> np.ndarray:
                others = [factor for j, factor in enumerate(factors) if j != k]
                dx = functools.reduce(operator.mul, others, dy)
                for m in (valid, laid[k]):
                    dx = dx if m is None else np.where(m, dx, dx.dtype.type(0))
                return dx

            return of

        return y, [slope(k) for k in range(len(xs))]


class _Extreme(Merge):
    """Maximum and Minimum: number by number, of the arrays that are not masked there."""

    _function: Any = None

    def _merge(self, xs: list[np.ndarray], masks: Any) -> tuple[np.ndarray, list[Any]]:
        shape = np.broadcast_shapes(*(x.shape for x in xs))
        laid = [_laid_over(mask, x) for mask, x in zip(masks or [None] * len(xs), xs, strict=True)]
        output, output_mask = xs[0], laid[0]
        steps: list[tuple[np.ndarray, np.ndarray]] = []  # shares of the new array and of the result so far
        for x, mask in zip(xs[1:], laid[1:], strict=True):
            # As Keras has it: a masked entry takes the other's value, and the mask is given up once an array has none.
            new = x if mask is None else np.where(mask, x, output)
            old = output if output_mask is None else np.where(output_mask, output, new)
            share = np.where(new == old, 0.5, type(self)._function(new, old) == new).astype(x.dtype)
            own = np.ones_like(x, dtype=bool, shape=()) if mask is None else mask
            kept = np.ones_like(x, dtype=bool, shape=()) if output_mask is None else output_mask
            from_new, from_old = share + np.where(kept, 0, 1 - share), np.where(kept, 1 - share, 0)
            steps.append((np.where(own, from_new, 0), from_old + np.where(own, 0, from_new)))
            output_mask = None if mask is None or output_mask is None else output_mask | mask
            with np.errstate(all="ignore"):
                output = type(self)._function(old, new)
        shares, rest = [], np.ones_like(xs[0], shape=())
        for of_new, of_old in reversed(steps):
            shares.append(np.broadcast_to(of_new * rest, shape))
            rest = rest * of_old
        shares.append(np.broadcast_to(rest, shape))
        return output, [lambda dy, share=share: np.where(share != 0, dy * share, 0) for share in reversed(shares)]


class Maximum(_Extreme):
    """The largest number at each place; equal ones share its gradient."""

    _function = np.maximum


class Minimum(_Extreme):
    """The smallest number at each place; equal ones share its gradient."""

    _function = np.minimum


class Concatenate(SeveralInputs):
    """The arrays one behind the other along ``axis``; all other axes are alike. ValueError for shapes that do not fit.

    Integers stay what they are if all are of one dtype. The mask goes on where any array has one; a step counts if any of its
    masks says so, and arrays without one always count (as in Keras 3.15).
    """

    runs_on_gpu = True

    def __init__(self, axis: Any = -1, **kwargs: Any):
        super().__init__(**kwargs)
        self.axis = operator.index(axis)

    def _as_inputs(self, inputs: Any) -> list[np.ndarray]:
        self._check_list(inputs, "inputs")
        arrays = [devices.as_array(devices.adopt(x)) for x in inputs if hasattr(x, "__array__")]
        whole = len(arrays) == len(inputs) and {x.dtype for x in arrays} == {arrays[0].dtype} and arrays[0].dtype.kind in "iub"
        return [devices.contiguous(x) for x in arrays] if whole else super()._as_inputs(inputs)

    def compute_output_shape(self, input_shape: Any) -> tuple:
        self._check_list(input_shape, "inputs")
        shapes = [tuple(shape) for shape in input_shape]
        wrong = f"Layer {self.name!r} needs inputs of one shape but for axis {self.axis}. Received: shapes {shapes}"
        if len({len(shape) for shape in shapes}) > 1 or not -len(shapes[0]) <= self.axis < len(shapes[0]):
            raise ValueError(wrong)
        axis = self.axis % len(shapes[0])
        result: list[int | None] = []
        for k, sizes in enumerate(zip(*shapes, strict=True)):
            known = {size for size in sizes if size is not None}
            if k == axis:
                result.append(None if None in sizes else sum(sizes))
            elif len(known) > 1:
                raise ValueError(wrong)
            else:
                result.append(next(iter(known), None))
        return tuple(result)

    def call(self, xs: Any, mask: Any = None, training: bool = False) -> np.ndarray:
        return np.concatenate(xs, axis=self.axis)

    def _vjp(self, xs: Any, mask: Any = None, training: bool = False) -> tuple[np.ndarray, Any]:
        ends = list(itertools.accumulate(x.shape[self.axis] for x in xs))[:-1]
        return self.call(xs), lambda dy: (np.split(dy, ends, axis=self.axis), [])

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        masks = self._as_masks(mask, len(inputs))
        if masks is None:
            return None
        laid = []
        for x, one in zip(map(devices.as_array, inputs), masks, strict=True):
            if one is None:
                laid.append(np.ones_like(x, dtype=bool))
            else:
                laid.append(np.broadcast_to(one[..., None], x.shape) if one.ndim < x.ndim else one)
        return np.concatenate(laid, axis=self.axis).any(axis=-1)

    def get_config(self) -> dict:
        return {**super().get_config(), "axis": self.axis}


def add(inputs: Any, **kwargs: Any) -> Any:
    """``Add(**kwargs)(inputs)``; the functions below likewise."""
    return Add(**kwargs)(inputs)


def subtract(inputs: Any, **kwargs: Any) -> Any:
    return Subtract(**kwargs)(inputs)


def multiply(inputs: Any, **kwargs: Any) -> Any:
    return Multiply(**kwargs)(inputs)


def average(inputs: Any, **kwargs: Any) -> Any:
    return Average(**kwargs)(inputs)


def maximum(inputs: Any, **kwargs: Any) -> Any:
    return Maximum(**kwargs)(inputs)


def minimum(inputs: Any, **kwargs: Any) -> Any:
    return Minimum(**kwargs)(inputs)


def concatenate(inputs: Any, axis: int = -1, **kwargs: Any) -> Any:
    return Concatenate(axis=axis, **kwargs)(inputs)
