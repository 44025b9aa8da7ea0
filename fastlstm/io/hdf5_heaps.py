"""A look at the heaps in which an HDF5 file keeps texts of any length, before the HDF5 library walks through them.

The library trusts the sizes in a heap: a free piece of size 0 makes it walk on the spot for ever. Used by ``hdf5``.
"""

from __future__ import annotations

import struct

_MAGIC = b"\x89HDF\r\n\x1a\n"
_START = b"GCOL\x01\x00\x00\x00"  # signature, version and three bytes of 0
_HEADER = 16  # of a heap, and of each piece in it, where lengths take eight bytes


def damaged_heap(data: bytes) -> str | None:
    """What is wrong with a heap in the HDF5 file ``data``; None where all are sound."""
    if data.startswith(_MAGIC) and len(data) > 16:
        lengths = data[14] if data[8] < 2 else data[10]
        if lengths != 8:
            return f"its lengths take {lengths} bytes, expected 8"
    at = data.find(_START)
    while at >= 0:
        wrong = _walk(data, at)
        if wrong is not None:
            return f"its heap of texts at byte {at} {wrong}"
        at = data.find(_START, at + 4)
    return None


def _walk(data: bytes, at: int) -> str | None:
    """What is wrong with the heap that begins at byte ``at``."""
    if at + _HEADER > len(data):
        return "is cut off"
    (size,) = struct.unpack_from("<Q", data, at + 8)
    end = at + size
    if size < _HEADER or end > len(data):
        return f"has the size {size}, which the file does not have"
    at += _HEADER
    while at + _HEADER <= end:
        (number,) = struct.unpack_from("<H", data, at)
        (size,) = struct.unpack_from("<Q", data, at + 8)
        # The size of a free piece, number 0, counts its header; the others are filled up to a multiple of eight.
        step = size if number == 0 else _HEADER + -(-size // 8) * 8
        if step < _HEADER or at + step > end:
            return f"has a piece of size {size}, which does not fit"
        at += step
    return None
