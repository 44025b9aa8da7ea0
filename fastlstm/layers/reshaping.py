"""Layers that move numbers and calculate nothing: Reshape, Permute, RepeatVector, UpSampling1D, ZeroPadding1D, Cropping1D.

Terms of ``keras.layers``, in terms of Layer. Integers stay what they are, the mask ends here, as in Keras.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from .. import devices
from ..arrays import check_rank
from .base import Layer
from .checks import check_min_rank, data_format_of, floats_to, int_tuple


class _Reshaping(Layer):
    """Base: no weights, inputs of ``_ndim`` axes (None: of any number)."""

    _ndim: int | None = 3

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.built = True

    def _as_input(self, inputs: Any, name: str = "inputs") -> np.ndarray:
        x = floats_to(inputs, name, self.storage_dtype)
        if self._ndim is None:
            check_min_rank(x.shape, 1, self.name)
        else:
            check_rank(x, self._ndim, self.name)
        return x

    def _backward(self, dy: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """dy -> dx for an input of ``shape``."""
        raise NotImplementedError

    def _vjp(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> tuple[np.ndarray, Any]:
        shape = x.shape
        return self.call(x), lambda dy: (self._backward(dy, shape), [])

    def _checked(self, input_shape: Any) -> tuple:
        """``input_shape`` as a tuple. ValueError for the wrong number of axes."""
        shape = tuple(input_shape)
        if self._ndim is not None and len(shape) != self._ndim:
            raise ValueError(f'Layer "{self.name}" needs an input of {self._ndim} axes. Received: input_shape={shape}')
        return shape


class Reshape(_Reshaping):
    """[N, …] -> [N, *target_shape]. One entry of ``target_shape`` may be -1 (or None): it takes what is left.

    ValueError for more than one such entry, other negative or non-integer ones, and inputs that do not fill the shape.
    """

    runs_on_gpu = True

    _ndim = None

    def __init__(self, target_shape: Any, **kwargs: Any):
        super().__init__(**kwargs)
        wrong = f"Received: target_shape={target_shape!r}"
        try:
            shape = tuple(None if size is None else operator.index(size) for size in target_shape)
        except TypeError:
            raise ValueError(f"The argument `target_shape` must be a tuple of integers. {wrong}") from None
        if any(size is not None and size < -1 for size in shape):
            raise ValueError(f"Each entry of `target_shape` must be a size, or -1 for the one that is unknown. {wrong}")
        if sum(size in (-1, None) for size in shape) > 1:
            raise ValueError(f"There must be at most one unknown size (-1) in `target_shape`. {wrong}")
        self.target_shape = shape

    def _resolved(self, rest: tuple) -> tuple:
        """``target_shape`` for an input of axes ``rest``; None where a size stays unknown."""
        target = tuple(None if size == -1 else size for size in self.target_shape)
        if None in rest:
            return target
        known = math.prod(size for size in target if size is not None)
        size = math.prod(rest)
        fits = size == known if None not in target else known > 0 and size % known == 0
        if not fits:
            raise ValueError(
                f'The total size of the input of layer "{self.name}" must be unchanged. Received: input_shape={rest} '
                f"(without the batch), target_shape={self.target_shape}"
            )
        return tuple(size // known if entry is None else entry for entry in target)

    def call(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        return x.reshape(len(x), *self._resolved(x.shape[1:]))

    def _backward(self, dy: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return dy.reshape(shape)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        batch, *rest = self._checked(input_shape)
        return (batch, *self._resolved(tuple(rest)))

    def get_config(self) -> dict:
        return {**super().get_config(), "target_shape": self.target_shape}


class Permute(_Reshaping):
    """[N, …] with its axes in the order ``dims``; they count from 1, the batch stays in front.

    ValueError unless ``dims`` holds 1, 2, … once each, as many as the input has axes beside the batch.
    """

    runs_on_gpu = True

    def __init__(self, dims: Any, **kwargs: Any):
        super().__init__(**kwargs)
        self.dims = tuple(dims)
        if sorted(self.dims) != list(range(1, len(self.dims) + 1)):
            raise ValueError(
                f"The argument `dims` of Permute must hold each of 1, 2, … up to the number of axes once. Received: dims={dims!r}"
            )
        self._ndim = len(self.dims) + 1

    def call(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        return devices.contiguous(x.transpose(0, *self.dims))

    def _backward(self, dy: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return dy.transpose([int(axis) for axis in np.argsort((0, *self.dims))])

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        shape = self._checked(input_shape)
        return (shape[0], *(shape[dim] for dim in self.dims))

    def get_config(self) -> dict:
        return {**super().get_config(), "dims": self.dims}


def _repeats(value: Any, name: str) -> int:
    """``value``. TypeError unless it is an int, ValueError unless it is above 0: as Keras has it for these two layers."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"Expected an integer value for `{name}`. Received: {name}={value!r} of {type(value)}")
    if value <= 0:
        raise ValueError(f"The argument `{name}` must be a positive integer. Received: {name}={value!r}")
    return value


class RepeatVector(_Reshaping):
    """[N,C] -> [N,n,C]: the same vector ``n`` times. TypeError unless ``n`` is an int, ValueError unless it is above 0."""

    runs_on_gpu = True

    _ndim = 2

    def __init__(self, n: Any, **kwargs: Any):
        super().__init__(**kwargs)
        self.n = _repeats(n, "n")

    def call(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        return np.repeat(x[:, None], self.n, axis=1)

    def _backward(self, dy: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return dy.sum(axis=1)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        batch, channels = self._checked(input_shape)
        return (batch, self.n, channels)

    def get_config(self) -> dict:
        return {**super().get_config(), "n": self.n}


class UpSampling1D(_Reshaping):
    """[N,T,C] -> [N,T*size,C]: every step ``size`` times. TypeError unless it is an int, ValueError unless it is above 0."""

    runs_on_gpu = True

    def __init__(self, size: Any = 2, **kwargs: Any):
        super().__init__(**kwargs)
        self.size = _repeats(size, "size")

    def call(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        return np.repeat(x, self.size, axis=1)

    def _backward(self, dy: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        batch, steps, channels = shape
        return dy.reshape(batch, steps, self.size, channels).sum(axis=2)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        batch, steps, channels = self._checked(input_shape)
        return (batch, None if steps is None else steps * self.size, channels)

    def get_config(self) -> dict:
        return {**super().get_config(), "size": self.size}


class ZeroPadding1D(_Reshaping):
    """[N,T,C] -> [N,left+T+right,C] with zeros at the ends; channels_first: [N,C,T] -> [N,C,left+T+right].

    ``padding``: (left, right), or one integer for both. ValueError for anything else and for negative numbers.
    """

    runs_on_gpu = True

    def __init__(self, padding: Any = 1, data_format: Any = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.data_format = data_format_of(data_format)
        self.padding = int_tuple(padding, 2, "padding", allow_zero=True)

    @property
    def _axis(self) -> int:
        return 1 if self.data_format == "channels_last" else 2

    def call(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        y = devices.module_of(x).zeros(self.compute_output_shape(x.shape), x.dtype)
        left, size = self.padding[0], x.shape[self._axis]
        np.moveaxis(y, self._axis, 1)[:, left : left + size] = np.moveaxis(x, self._axis, 1)
        return y

    def _backward(self, dy: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        inside = slice(self.padding[0], self.padding[0] + shape[self._axis])
        return dy[:, inside] if self._axis == 1 else dy[:, :, inside]

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        shape = list(self._checked(input_shape))
        if shape[self._axis] is not None:
            shape[self._axis] += sum(self.padding)
        return tuple(shape)

    def get_config(self) -> dict:
        return {**super().get_config(), "padding": self.padding, "data_format": self.data_format}


class Cropping1D(_Reshaping):
    """[N,T,C] -> [N,T-left-right,C]: the ends taken away. ``cropping``: (left, right), or one integer for both.

    ValueError for anything else, for negative numbers, and where no step would remain.
    """

    runs_on_gpu = True

    def __init__(self, cropping: Any = (1, 1), **kwargs: Any):
        super().__init__(**kwargs)
        self.cropping = int_tuple(cropping, 2, "cropping", allow_zero=True)

    def call(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        _, steps, _ = self.compute_output_shape(x.shape)
        return devices.contiguous(x[:, self.cropping[0] : self.cropping[0] + steps])

    def _backward(self, dy: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        dx = np.zeros_like(dy, shape=shape)
        dx[:, self.cropping[0] : self.cropping[0] + dy.shape[1]] = dy
        return dx

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        batch, steps, channels = self._checked(input_shape)
        if steps is not None and steps <= sum(self.cropping):
            raise ValueError(
                f'The argument `cropping` of layer "{self.name}" must leave at least one step. Received: '
                f"input_shape={tuple(input_shape)}, cropping={self.cropping}"
            )
        return (batch, None if steps is None else steps - sum(self.cropping), channels)

    def get_config(self) -> dict:
        return {**super().get_config(), "cropping": self.cropping}
