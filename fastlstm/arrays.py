"""What comes in through the door: checks and conversions of caller's arrays, with errors that name the argument.

Strided, read-only, byte-swapped, half, double and integer arrays are accepted everywhere and converted here, once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import devices


def require_array(value: Any, name: str) -> np.ndarray:
    """``value`` as an ndarray without changing its dtype; CuPy arrays, and CUDA arrays of other libraries, stay on the device.

    ValueError for nested Python lists and scalars (Keras: "Only input tensors may be passed as positional arguments"),
    TypeError for object, complex, string and datetime arrays.
    """
    value = devices.adopt(value)
    if not hasattr(value, "__array__"):
        raise ValueError(
            f"Only input tensors may be passed as positional arguments. The argument `{name}` must be a NumPy array. "
            f"Received: {type(value).__name__}"
        )
    value = devices.as_array(value)  # also a plain view of masked arrays, matrices and memory maps
    if value.dtype.kind not in "fiub" and value.dtype.name != "bfloat16":
        raise TypeError(f"The argument `{name}` must be an array of numbers. Received: dtype={value.dtype}, shape={value.shape}")
    return value


def cast(value: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """C-contiguous, aligned, native-endian copy or view of ``value`` in ``dtype``; no copy where none is needed."""
    return devices.contiguous(value, dtype)


def check_rank(value: np.ndarray, ndim: int, layer: str) -> None:
    """ValueError unless ``value`` has ``ndim`` axes."""
    if value.ndim != ndim:
        raise ValueError(
            f'Input 0 of layer "{layer}" is incompatible with the layer: expected ndim={ndim}, found ndim={value.ndim}. '
            f"Full shape received: {value.shape}"
        )


def first_mask(mask: Any) -> Any:
    """The first entry of nested lists of masks, such as the [mask, None, None] of a layer that returns its states."""
    while isinstance(mask, (list, tuple)) and mask:
        mask = mask[0]
    return mask


def as_mask(mask: Any, batch: int, steps: int) -> np.ndarray | None:
    """A time mask as contiguous bool [N,T] (True: the step counts), or None.

    Accepts bool or numbers (``!= 0``), shape (N,T), (1,T) or (N,T,1…) (a step is masked iff all entries along the last
    axes are False), and a list or tuple that begins with one of these, as ``compute_mask`` returns. ValueError for another
    shape, TypeError for other dtypes; as in Keras (keras-spec 5) IndexError for fewer than two axes and AttributeError for
    nested Python lists.
    """
    first = first_mask(mask)
    if first is None:
        return None
    if not hasattr(first, "__array__"):
        raise AttributeError(f"The argument `mask` must be an array of shape (batch, timesteps). Received: {type(mask).__name__}")
    mask = require_array(first, "mask") != 0
    wrong = f"The argument `mask` must have shape (batch, timesteps) = ({batch}, {steps}). Received: mask.shape={mask.shape}"
    if mask.ndim < 2:
        raise IndexError(wrong)
    if mask.ndim >= 3:
        mask = mask.any(axis=tuple(range(2, mask.ndim)))
    if mask.ndim != 2 or mask.shape[0] not in (1, batch) or mask.shape[1] != steps:
        raise ValueError(wrong)
    return cast(np.broadcast_to(mask, (batch, steps)), np.dtype(bool))


def mask_of_lengths(lengths: Any, mask: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The mask [N,T] of sequences of ``shape`` [N,T,…] that end after ``lengths`` [N] steps.

    ValueError where a ``mask`` is given too, for another shape and for lengths outside 0 to T, TypeError for other than integers.
    """
    if mask is not None:
        raise ValueError("The arguments `mask` and `lengths` say the same thing: give one of them")
    array = devices.as_array(devices.adopt(lengths))
    if len(shape) < 2:
        raise ValueError(f"The argument `lengths` needs sequences of shape (batch, timesteps, …). Received: shape {shape}")
    if array.dtype.kind not in "iu":
        raise TypeError(f"The argument `lengths` must hold integers. Received: dtype={array.dtype}")
    if array.shape != shape[:1]:
        raise ValueError(f"The argument `lengths` must have shape (batch,) = {shape[:1]}. Received: lengths.shape={array.shape}")
    if array.size and not (array.min() >= 0 and array.max() <= shape[1]):
        raise ValueError(
            f"The argument `lengths` must lie between 0 and the {shape[1]} time steps. Received: {array.min()} to {array.max()}"
        )
    return devices.module_of(array).arange(shape[1]) < array[:, None]
