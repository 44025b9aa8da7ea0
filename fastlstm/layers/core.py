"""The small layers without weights: InputLayer, Masking, Dropout, Flatten, Activation (terms of ``keras.layers``).

In terms of Layer and ``checks``; Sequential puts them between the layers that calculate.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import activations, devices
from ..arrays import cast, require_array
from ..backends import reference
from ..random import SeedGenerator, dropout_mask
from .base import Layer
from .checks import check_min_rank, data_format_of, floats_to
from .gradients import activated
from .symbolic import KerasTensor, input_tensor


def _shape(value: Any, name: str) -> tuple[int | None, ...]:
    """``value`` as a tuple of counts and None. ValueError for anything else."""
    if not isinstance(value, (tuple, list)):
        raise ValueError(f"The argument `{name}` must be a tuple of integers and None. Received: {name}={value!r}")
    try:
        shape = tuple(None if size is None else operator.index(size) for size in value)
    except TypeError:
        raise ValueError(f"The argument `{name}` must hold integers and None only. Received: {name}={value!r}") from None
    if any(size is not None and size < 0 for size in shape):
        raise ValueError(f"The argument `{name}` cannot hold a negative size. Received: {name}={value!r}")
    return shape


class InputLayer(Layer):
    """States the shape and dtype of a model's input; hands its input on as it came.

    Args: ``shape`` (without the batch axis) and ``batch_size``, or ``batch_shape``; ``dtype``, ``name``, ``optional``.
    ``input_shape`` and ``batch_input_shape`` of older files are accepted in their place. ValueError without a shape, with both
    kinds, and for ``sparse`` or ``ragged`` inputs.
    """

    supports_masking = True
    runs_on_gpu = True

    def __init__(
        self,
        shape: Any = None,
        batch_size: int | None = None,
        dtype: Any = None,
        sparse: Any = None,
        ragged: Any = None,
        batch_shape: Any = None,
        input_tensor: Any = None,
        optional: bool = False,
        name: str | None = None,
        **kwargs: Any,
    ):
        shape = kwargs.pop("input_shape", shape)
        batch_shape = kwargs.pop("batch_input_shape", batch_shape)
        super().__init__(dtype=dtype, name=name, **kwargs)
        if input_tensor is not None:
            raise ValueError("The argument `input_tensor` of InputLayer must be None: a new symbolic tensor is always made")
        if sparse or ragged:
            raise ValueError(f"InputLayer takes dense arrays only. Received: sparse={sparse!r}, ragged={ragged!r}")
        if batch_shape is not None and (shape is not None or batch_size is not None):
            raise ValueError("InputLayer takes either `batch_shape` or `shape` and `batch_size`, not both")
        if batch_shape is None and shape is None:
            raise ValueError("InputLayer needs a `shape` argument")
        self.batch_shape = _shape(batch_shape, "batch_shape") if shape is None else (batch_size, *_shape(shape, "shape"))
        self.optional = bool(optional)
        self.built = True

    def _as_input(self, inputs: Any, name: str = "inputs") -> np.ndarray:
        return require_array(inputs, name)

    def call(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        return x

    def _vjp(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> tuple[np.ndarray, Any]:
        return x, lambda dy: (dy, [])

    def get_config(self) -> dict:
        return {
            "batch_shape": self.batch_shape,
            "dtype": self.dtype_policy.name,
            "sparse": False,
            "ragged": False,
            "name": self.name,
            "optional": self.optional,
        }


def Input(
    shape: Any = None,
    batch_size: int | None = None,
    dtype: Any = None,
    sparse: Any = None,
    ragged: Any = None,
    batch_shape: Any = None,
    name: str | None = None,
    tensor: Any = None,
    optional: bool = False,
) -> KerasTensor:
    """A symbolic tensor: the input of a ``Model``, also ``Sequential([Input(shape=(10, 4)), …])``. Arguments as InputLayer's."""
    return input_tensor(InputLayer(shape, batch_size, dtype, sparse, ragged, batch_shape, tensor, optional, name))


class Masking(Layer):
    """Masks every time step all of whose features equal ``mask_value``, and sets its features to 0.

    [N,…,F] -> the same shape; ``compute_mask`` gives [N,…], False where masked. NaN equals nothing. ValueError for a
    ``mask_value`` that is no number.
    """

    supports_masking = True
    runs_on_gpu = True

    def __init__(self, mask_value: Any = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        if not isinstance(mask_value, (int, float, np.number)):
            raise ValueError(f"The argument `mask_value` must be a number. Received: mask_value={mask_value!r}")
        self.mask_value = mask_value.item() if isinstance(mask_value, np.generic) else mask_value
        self.built = True

    def _as_input(self, inputs: Any, name: str = "inputs") -> np.ndarray:
        return floats_to(inputs, name, self.storage_dtype)

    def _valid(self, x: np.ndarray) -> np.ndarray:
        """[N,…] bool: True where any feature differs from the mask value, compared in the dtype of a floating ``x``."""
        check_min_rank(x.shape, 2, self.name)
        value = self.mask_value if x.dtype.kind in "iub" else x.dtype.type(self.mask_value)
        return (x != value).any(axis=-1)

    def call(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        return np.where(self._valid(x)[..., None], x, x.dtype.type(0))

    def _vjp(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> tuple[np.ndarray, Any]:
        valid = self._valid(x)[..., None]
        return self.call(x), lambda dy: (np.where(valid, dy, dy.dtype.type(0)), [])

    def compute_mask(self, inputs: Any, mask: Any = None) -> np.ndarray:
        return self._valid(self._as_input(inputs))

    def get_config(self) -> dict:
        return {**super().get_config(), "mask_value": self.mask_value}


class Dropout(Layer):
    """With ``training=True`` zeroes a share ``rate`` of the inputs and scales the rest by 1/(1-rate); else the identity.

    ``noise_shape``: shape of the mask, None entries taken from the input and 1 broadcast; ``seed``: int or None.
    ValueError for a rate outside [0, 1], a bad ``noise_shape`` or a seed that is no int.
    """

    supports_masking = True
    runs_on_gpu = True

    def __init__(self, rate: Any, noise_shape: Any = None, seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        if isinstance(rate, str) or not hasattr(rate, "__le__") or not 0 <= rate <= 1:
            raise ValueError(
                f"Invalid value received for argument `rate`. Expected a float value between 0 and 1. Received: rate={rate!r}"
            )
        self.rate, self.seed = rate, seed
        self.noise_shape = _noise_shape(noise_shape)
        self.seed_generator = SeedGenerator(seed)
        self.built = True

    def _as_input(self, inputs: Any, name: str = "inputs") -> np.ndarray:
        return floats_to(inputs, name, self.storage_dtype)

    def call(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        return self._scaled(x, self._draw(x, training))

    def _vjp(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> tuple[np.ndarray, Any]:
        scale = self._draw(x, training)
        return self._scaled(x, scale), lambda dy: (dy if scale is None else np.where(scale != 0, dy * scale, 0), [])

    def _scaled(self, x: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
        if scale is None:
            return x
        return cast(np.where(scale != 0, cast(x, self.arithmetic_dtype) * scale, 0), self.storage_dtype)

    def _draw(self, x: np.ndarray, training: bool) -> np.ndarray | None:
        """The scales of one call, which broadcast to x; None where nothing is dropped. Drawn on the host, moved to x's home."""
        if not training or self.rate == 0:
            return None
        noise = shape = x.shape
        if self.noise_shape is not None:
            if len(self.noise_shape) != len(shape):
                raise ValueError(
                    f"The argument `noise_shape` must have as many entries as the input has axes. Received: "
                    f"noise_shape={self.noise_shape}, inputs.shape={shape}"
                )
            noise = tuple(own if size is None else size for size, own in zip(self.noise_shape, shape, strict=True))
            if any(size not in (1, own) for size, own in zip(noise, shape, strict=True)):
                raise ValueError(f"`noise_shape`={self.noise_shape} does not broadcast to the input's shape {shape}")
        if self.rate == 1:  # unlike the dropout inside a recurrent cell, where a rate of 1 drops nothing
            return devices.module_of(x).zeros(noise, self.arithmetic_dtype)
        return devices.moved(dropout_mask(self.seed_generator, noise, float(self.rate), self.arithmetic_dtype), devices.home(x))

    def get_config(self) -> dict:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed, "noise_shape": self.noise_shape}


def _noise_shape(value: Any) -> tuple[int | None, ...] | None:
    """A tuple of positive ints and None. ValueError for anything else."""
    if value is None:
        return None
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"Invalid value received for argument `noise_shape`. Expected a tuple. Received: noise_shape={value!r}")
    for size in value:
        if size is not None and (not isinstance(size, int) or size <= 0):
            raise ValueError(
                "Invalid value received for argument `noise_shape`. Expected positive integers or None. "
                f"Received: noise_shape={value!r}"
            )
    return tuple(value)


class Flatten(Layer):
    """[N, …] -> [N, product of the rest]; [N] -> [N, 1]. With "channels_first" the channels are moved last before.

    ``data_format``: "channels_last", "channels_first" or None (the default of ``settings``); ValueError for another.
    """

    runs_on_gpu = True

    def __init__(self, data_format: Any = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.data_format = data_format_of(data_format)

    def _as_input(self, inputs: Any, name: str = "inputs") -> np.ndarray:
        return floats_to(inputs, name, self.storage_dtype)

    def call(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        check_min_rank(x.shape, 1, self.name)
        if self.data_format == "channels_first" and x.ndim > 2:
            x = np.moveaxis(x, 1, -1)
        return devices.contiguous(x).reshape(self.compute_output_shape(x.shape))

    def _vjp(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> tuple[np.ndarray, Any]:
        y, shape = self.call(x), x.shape
        channels_first = self.data_format == "channels_first" and x.ndim > 2

        def pull(dy: np.ndarray) -> tuple[np.ndarray, list]:
            if not channels_first:
                return dy.reshape(shape), []
            return np.moveaxis(dy.reshape(shape[0], *shape[2:], shape[1]), -1, 1), []

        return y, pull

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        rest = tuple(input_shape[1:])
        return (input_shape[0], None if None in rest else math.prod(rest))

    def get_config(self) -> dict:
        return {**super().get_config(), "data_format": self.data_format}


class Activation(Layer):
    """Applies an activation: a name, a callable or None (linear). Shape unchanged; ValueError for an unknown name."""

    supports_masking = True
    runs_on_gpu = True

    def __init__(self, activation: Any, **kwargs: Any):
        super().__init__(**kwargs)
        self.activation = activations.get(activation)
        self.built = True

    def call(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        return cast(devices.as_array(self.activation(cast(x, self.arithmetic_dtype))), self.storage_dtype)

    def _vjp(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> tuple[np.ndarray, Any]:
        y, backward = activated(reference, self.activation, cast(x, self.arithmetic_dtype))
        return cast(y, self.storage_dtype), lambda dy: (backward(dy), [])

    def get_config(self) -> dict:
        return {**super().get_config(), "activation": activations.serialize(self.activation)}
