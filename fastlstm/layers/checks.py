"""Checks that several glue layers share: counts, input shapes, and inputs whose integers must stay integers.

Used by all layers but the recurrent ones. Errors name argument and layer.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from .. import settings
from ..arrays import cast, require_array
from ..spec import MAX_NUMBERS


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


def int_tuple(value: Any, length: int, name: str, allow_zero: bool = False) -> tuple[int, ...]:
    """``value``, one integer or ``length`` of them, as a tuple. ValueError for anything else, negative numbers, and zeros.

    The kernels count in machine integers: a number above ``MAX_NUMBERS`` is refused here, where its argument is known.
    """
    try:
        numbers = tuple(value) if np.iterable(value) and not isinstance(value, (str, bytes)) else (value,) * length
        result = tuple(operator.index(number) for number in numbers)
    except TypeError:
        result = ()
    if len(result) != length or min(result) < (0 if allow_zero else 1):
        raise ValueError(
            f"The `{name}` argument must be an integer or a tuple of {length} integers {'>= 0' if allow_zero else '> 0'}. "
            f"Received: {name}={value!r}"
        )
    if max(result) > MAX_NUMBERS:
        raise ValueError(f"The `{name}` argument must not be above {MAX_NUMBERS}. Received: {name}={value!r}")
    return result


def one_of(value: Any, name: str, allowed: tuple[str, ...]) -> str:
    """``value`` in lower case. ValueError unless it is one of ``allowed``."""
    chosen = value.lower() if isinstance(value, str) else None
    if chosen not in allowed:
        raise ValueError(f"The `{name}` argument must be one of {allowed}. Received: {name}={value!r}")
    return chosen


def data_format_of(value: Any) -> str:
    """ "channels_last" or "channels_first", the default of ``settings`` for None. ValueError for anything else."""
    return one_of(settings.image_data_format() if value is None else value, "data_format", ("channels_last", "channels_first"))


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
