"""Pooling over time: MaxPooling1D, AveragePooling1D and their global kin (terms of ``keras.layers``).

In terms of Layer and ``windows``. Maxima keep the dtype of integers, averages are of the layer's dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import devices
from ..arrays import as_mask, cast, check_rank
from . import windows
from .base import Layer
from .checks import data_format_of, floats_to, int_tuple, one_of


class _Pooling1D(Layer):
    """Base of the two that slide a window; the mask ends here, as in Keras."""

    def __init__(
        self,
        pool_size: Any,
        strides: Any = None,
        padding: Any = "valid",
        data_format: Any = None,
        name: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(name=name, **kwargs)
        self.pool_size = int_tuple(pool_size, 1, "pool_size")
        self.strides = self.pool_size if strides is None else int_tuple(strides, 1, "strides")
        self.padding = one_of(padding, "padding", ("valid", "same"))
        self.data_format = data_format_of(data_format)
        self.built = True

    @property
    def _axis(self) -> int:
        """The axis of the steps."""
        return 1 if self.data_format == "channels_last" else 2

    def _count(self, size: int | None) -> int | None:
        return windows.count(size, self.pool_size[0], self.strides[0], 1, self.padding, self.name)

    def _by_steps(self, x: np.ndarray) -> np.ndarray:
        """A view of x with the steps as axis 1; applied twice, x itself."""
        return x if self._axis == 1 else x.swapaxes(1, 2)

    def _geometry(self, size: int) -> tuple[int, int, int]:
        """How many windows there are over ``size`` steps, steps from one to the next, steps that the first begins too early."""
        number = self._count(size)
        assert number is not None
        left, _ = windows.pads(size, self.pool_size[0], self.strides[0], 1, self.padding)
        return number, self.strides[0], left

    def _taps(self, size: int) -> Iterator[tuple[slice, slice]]:
        """For every place in a window: the windows that have a step there, and those steps."""
        number, stride, left = self._geometry(size)
        # Of a window far wider than the input only the places that ever lie inside.
        for offset in range(max(-left, -(number - 1) * stride), min(self.pool_size[0] - left, size)):
            low, high = max(0, -(offset // stride)), min(number, (size - 1 - offset) // stride + 1)
            if low < high:
                start = low * stride + offset
                yield slice(low, high), slice(start, start + (high - low - 1) * stride + 1, stride)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        if len(input_shape) != 3:
            raise ValueError(f'Layer "{self.name}" needs an input of 3 axes. Received: input_shape={tuple(input_shape)}')
        shape = list(input_shape)
        shape[self._axis] = self._count(shape[self._axis])
        return tuple(shape)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "pool_size": self.pool_size,
            "padding": self.padding,
            "strides": self.strides,
            "data_format": self.data_format,
        }


class MaxPooling1D(_Pooling1D):
    """[N,T,C] -> [N,S,C] (channels_first: [N,C,T] -> [N,C,S]): the largest of each window of ``pool_size`` steps.

    Arguments as in Keras 3. ``strides`` None: ``pool_size``. ``padding`` "same" adds no values: windows at the ends are shorter.
    A NaN is larger than all. ValueError for sizes that are no positive integers, and inputs without three axes or, with "valid",
    shorter than a window.
    """

    runs_on_gpu = True

    def __init__(
        self,
        pool_size: Any = 2,
        strides: Any = None,
        padding: Any = "valid",
        data_format: Any = None,
        name: str | None = None,
        **kwargs: Any,
    ):
        super().__init__(pool_size, strides, padding, data_format, name, **kwargs)

    def _as_input(self, inputs: Any, name: str = "inputs") -> np.ndarray:
        return floats_to(inputs, name, self.storage_dtype)

    def call(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        check_rank(x, 3, self.name)
        dtype = x.dtype
        x = self._by_steps(x if dtype.kind in "iub" else cast(x, self.arithmetic_dtype))
        number, stride, left = self._geometry(x.shape[1])
        y = np.take(x, np.maximum(devices.module_of(x).arange(number) * stride - left, 0), axis=1)  # one step of each window
        for inside, steps in self._taps(x.shape[1]):
            np.maximum(y[:, inside], x[:, steps], out=y[:, inside])
        return cast(self._by_steps(y), dtype)

    def _vjp(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> tuple[np.ndarray, Any]:
        """Of several equal largest values the first one has the gradient."""
        y = self.call(x)
        values, largest = self._by_steps(x), self._by_steps(y).copy()

        def pull(dy: np.ndarray) -> tuple[np.ndarray, list]:
            dy, dx = self._by_steps(dy), np.zeros_like(dy, shape=values.shape)
            free = np.ones_like(dy, dtype=bool)
            for inside, steps in self._taps(values.shape[1]):
                step = values[:, steps]
                here = free[:, inside] & ((step == largest[:, inside]) | (step != step))  # only a NaN differs from itself
                dx[:, steps] += np.where(here, dy[:, inside], 0)
                free[:, inside] &= ~here
            return self._by_steps(dx), []

        return y, pull


class AveragePooling1D(_Pooling1D):
    """As MaxPooling1D, with the mean of each window, of those steps that lie inside the input; ``pool_size`` has no default."""

    runs_on_gpu = True

    def call(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        check_rank(x, 3, self.name)
        x = self._by_steps(cast(x, self.arithmetic_dtype))
        number, _, _ = self._geometry(x.shape[1])
        xp = devices.module_of(x)
        y, found = xp.zeros((len(x), number, x.shape[2]), x.dtype), xp.zeros((number, 1), x.dtype)
        with np.errstate(all="ignore"):  # overflow and NaN propagate silently, as in the recurrent layers
            for inside, steps in self._taps(x.shape[1]):
                y[:, inside] += x[:, steps]
                found[inside] += 1
            y /= found
            return cast(self._by_steps(y), self.storage_dtype)

    def _vjp(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> tuple[np.ndarray, Any]:
        shape = self._by_steps(x).shape

        def pull(dy: np.ndarray) -> tuple[np.ndarray, list]:
            dy, dx = self._by_steps(dy), np.zeros_like(dy, shape=shape)
            found = np.zeros_like(dy, shape=(dy.shape[1], 1))
            for inside, _ in self._taps(shape[1]):
                found[inside] += 1
            for inside, steps in self._taps(shape[1]):
                dx[:, steps] += dy[:, inside] / found[inside]
            return self._by_steps(dx), []

        return self.call(x), pull


class _GlobalPooling1D(Layer):
    """Base of the two that reduce all steps to one."""

    def __init__(self, data_format: Any = None, keepdims: Any = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.data_format = data_format_of(data_format)
        self.keepdims = keepdims
        self.built = True

    @property
    def _axis(self) -> int:
        """The axis of the steps."""
        return 1 if self.data_format == "channels_last" else 2

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        return None

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        if len(input_shape) != 3:
            raise ValueError(f'Layer "{self.name}" needs an input of 3 axes. Received: input_shape={tuple(input_shape)}')
        before, after = tuple(input_shape[: self._axis]), tuple(input_shape[self._axis + 1 :])
        return (*before, 1, *after) if self.keepdims else before + after

    def get_config(self) -> dict:
        return {**super().get_config(), "data_format": self.data_format, "keepdims": self.keepdims}


class GlobalAveragePooling1D(_GlobalPooling1D):
    """[N,T,C] -> [N,C] (channels_first: [N,C,T] -> [N,C]): the mean of all steps, those that a ``mask`` [N,T] keeps.

    ``keepdims``: the steps remain as an axis of size 1. NaN where no step counts. ValueError for inputs without three axes and
    a mask of another shape. No mask goes on to the next layer.
    """

    supports_masking = True
    runs_on_gpu = True

    def call(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        check_rank(x, 3, self.name)
        axis, keep = self._axis, bool(self.keepdims)
        x = cast(x, self.arithmetic_dtype)
        valid, number = self._valid(x, mask)
        x = x if valid is None else np.where(valid, x, x.dtype.type(0))
        with np.errstate(all="ignore"):
            return cast(x.sum(axis=axis, keepdims=keep) / (number if keep else number.squeeze(axis)), self.storage_dtype)

    def _vjp(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> tuple[np.ndarray, Any]:
        y, shape = self.call(x, mask), x.shape
        valid, number = self._valid(x, mask)

        def pull(dy: np.ndarray) -> tuple[np.ndarray, list]:
            dy = dy if self.keepdims else np.expand_dims(dy, self._axis)
            with np.errstate(all="ignore"):
                dx = np.broadcast_to(dy / number.astype(dy.dtype), shape)
            return dx if valid is None else np.where(valid, dx, dy.dtype.type(0)), []

        return y, pull

    def _valid(self, x: np.ndarray, mask: Any) -> tuple[np.ndarray | None, np.ndarray]:
        """The mask as [N,T,1] (channels_first [N,1,T]) or None, and how many steps count, [N,1,1] or [1,1,1]."""
        valid = as_mask(mask, len(x), x.shape[self._axis])
        if valid is None:
            return None, devices.module_of(x).full((1, 1, 1), x.shape[self._axis], self.arithmetic_dtype)
        valid = np.expand_dims(valid, 3 - self._axis)
        return valid, valid.sum(axis=self._axis, keepdims=True, dtype=self.arithmetic_dtype)


class GlobalMaxPooling1D(_GlobalPooling1D):
    """[N,T,C] -> [N,C] (channels_first: [N,C,T] -> [N,C]): the largest of all steps; the mask plays no part, as in Keras.

    ``keepdims``: the steps remain as an axis of size 1. ValueError for inputs without three axes or without steps.
    """

    runs_on_gpu = True

    def _as_input(self, inputs: Any, name: str = "inputs") -> np.ndarray:
        return floats_to(inputs, name, self.storage_dtype)

    def call(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        check_rank(x, 3, self.name)
        if not x.shape[self._axis]:
            raise ValueError(f'Layer "{self.name}" needs at least one step. Received: inputs.shape={x.shape}')
        return x.max(axis=self._axis, keepdims=bool(self.keepdims))

    def _vjp(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> tuple[np.ndarray, Any]:
        """Several equal largest values share the gradient."""
        y = self.call(x)
        largest = x == x.max(axis=self._axis, keepdims=True)

        def pull(dy: np.ndarray) -> tuple[np.ndarray, list]:
            dy = dy if self.keepdims else np.expand_dims(dy, self._axis)
            shares = np.maximum(largest.sum(axis=self._axis, keepdims=True, dtype=dy.dtype), 1)
            return np.where(largest, dy / shares, dy.dtype.type(0)), []

        return y, pull


MaxPool1D, AvgPool1D = MaxPooling1D, AveragePooling1D
GlobalMaxPool1D, GlobalAvgPool1D = GlobalMaxPooling1D, GlobalAveragePooling1D
