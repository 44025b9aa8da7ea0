"""The structs of the CUDA sources beside this file as NumPy dtypes: kernels take them by value.

Pointers are unsigned 64-bit numbers, 0 for NULL. ``filled`` makes one; tests compare the sizes with the compiler's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_POINTER = np.uint64


def _struct(pointers: str = "", longs: str = "", ints: str = "", first: list[tuple] | None = None) -> np.dtype:
    """A struct of members in that order, aligned as C aligns it."""
    fields = list(first or [])
    fields += [(name, _POINTER) for name in pointers.split()]
    fields += [(name, np.int64) for name in longs.split()] + [(name, np.int32) for name in ints.split()]
    return np.dtype(fields, align=True)


CELL_IO = _struct(
    "h_in c_in h_out c_out output y gates mask",
    "y_stride",
    "rows units sample_rows zero_output activation recurrent_activation rounding",
)
BACK_IO = _struct(
    "gates c_before c dy dh dc doutput dz mask mask_after",
    "dy_stride",
    "rows units sample_rows zero_output activation recurrent_activation",
)
Z_PART = _struct("z", "row gate")
GEOMETRY = _struct(ints="rows_in rows_out channels taps stride dilation pad")
TILING = _struct("arrived", ints="taps pad pitch groups group_rows group_tiles quad_bits thread_rows slab slab_pitch")
PACKED = _struct("at", ints="channels quads")
SEQUENCE_IO = _struct(
    "z bias x exchange",
    ints="begin end h_slots c_slots x_pitch",
    first=[("cell", CELL_IO), ("tiles", TILING), ("recurrent_kernel", PACKED), ("kernel", PACKED)],
)
SEQUENCE_BACK_IO = _struct("exchange", ints="steps", first=[("cell", BACK_IO), ("tiles", TILING), ("turned_kernel", PACKED)])
BY_NAME = {
    "cell_io": CELL_IO,
    "back_io": BACK_IO,
    "z_part": Z_PART,
    "geometry": GEOMETRY,
    "tiling": TILING,
    "packed": PACKED,
    "sequence_io": SEQUENCE_IO,
    "sequence_back_io": SEQUENCE_BACK_IO,
}


def pointer(array: Any) -> int:
    """The address of a CuPy array, 0 for None."""
    return 0 if array is None else int(array.data.ptr)


def place(array: Any, offset: int) -> int:
    """The address ``offset`` bytes into a CuPy array, 0 for None."""
    return 0 if array is None else pointer(array) + offset


def filled(dtype: np.dtype, **members: Any) -> np.ndarray:
    """One struct [1]; CuPy arrays stand for their addresses, None for NULL, members that are not named are 0."""
    struct = np.zeros(1, dtype)
    for name, value in members.items():
        struct[name] = pointer(value) if value is None or (hasattr(value, "data") and hasattr(value.data, "ptr")) else value
    return struct
