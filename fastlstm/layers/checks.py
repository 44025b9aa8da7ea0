"""Checks that several glue layers share: counts, input shapes, and inputs whose integers must stay integers.

Used by ``core``, ``dense``, ``embedding``, ``normalization`` and ``time_distributed``. Errors name argument and layer.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from ..arrays import cast, require_array


def positive_int(value: Any, name: str) -> int:
    """``value`` as an int. ValueError unless it is an integer above 0."""
    try:
        count = operator.index(value)
    except TypeError:
        count = 0
    if count <= 0:
        raise ValueError(
            f"Received an invalid value for argument `{name}`, expected a positive integer. Received: {name}={value!r}"
        )
    return count


def refuse(layer: str, **arguments: Any) -> None:
    """ValueError for the first argument that is not None: Keras options that are accepted as None only."""
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(f"The argument `{name}` of {layer} is not supported and must be None. Received: {name}={value!r}")


def check_min_rank(shape: tuple, ndim: int, layer: str) -> None:
    """ValueError unless ``shape`` has at least ``ndim`` entries."""
    if len(shape) < ndim:
        raise ValueError(
            f'Input 0 of layer "{layer}" is incompatible with the layer: expected min_ndim={ndim}, found ndim={len(shape)}. '
            f"Full shape received: {tuple(shape)}"
        )


def check_axis(shape: tuple, axis: int, size: int, layer: str) -> None:
    """ValueError unless ``shape[axis]`` is ``size``."""
    if shape[axis] != size:
        raise ValueError(
            f'Input 0 of layer "{layer}" is incompatible with the layer: expected axis {axis} of input shape to have value '
            f"{size}, but received input with shape {tuple(shape)}"
        )


def known_size(shape: tuple, axis: int, layer: str) -> int:
    """``shape[axis]``. ValueError where it is None: the variables need it."""
    if shape[axis] is None:
        raise ValueError(f'Axis {axis} of the input of layer "{layer}" must be known. Received: input_shape={tuple(shape)}')
    return int(shape[axis])


def floats_to(inputs: Any, name: str, dtype: np.dtype) -> np.ndarray:
    """``inputs`` as a C-contiguous array: floating numbers cast to ``dtype``, integers and bool as they are.

    Keras casts floating inputs only; indices on their way to an Embedding must not pass through float32.
    """
    array = require_array(inputs, name)
    return cast(array, array.dtype.newbyteorder("=") if array.dtype.kind in "iub" else dtype)
