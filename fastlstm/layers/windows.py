"""Windows that slide over the one axis of a sequence: how many there are, and what padding they need (keras-spec 4.1, 4.2).

Used by ``convolution`` and ``pooling``. A window has ``taps`` entries, ``dilation`` apart; the next one starts ``stride`` later.
"""

from __future__ import annotations

import numpy as np

from .. import devices
from ..spec import conv_rows

PADDINGS = ("valid", "same", "causal")


def count(size: int | None, taps: int, stride: int, dilation: int, padding: str, layer: str) -> int | None:
    """Number of windows over ``size`` entries, None for an unknown size. ValueError where "valid" windows do not fit once."""
    if size is None:
        return None
    if padding != "valid":
        return -(-size // stride)
    number = (size - dilation * (taps - 1) - 1) // stride + 1
    if number <= 0:
        raise ValueError(
            f'Computed output size of layer "{layer}" would be zero or negative. Received: {size} steps for windows of '
            f"{taps} with dilation {dilation}, stride {stride} and padding 'valid'"
        )
    return number


def pads(size: int, taps: int, stride: int, dilation: int, padding: str) -> tuple[int, int]:
    """Entries to add on the left and on the right; an odd one out goes to the right."""
    reach = dilation * (taps - 1)
    if padding == "valid":
        return 0, 0
    if padding == "causal":
        return reach, 0
    rows = conv_rows(size, taps, stride, dilation, "same")
    return rows.pad_left, rows.padded_rows - size - rows.pad_left


def padded(x: np.ndarray, left: int, right: int) -> np.ndarray:
    """x [N,R,C] with zeros around axis 1, C-contiguous; x itself where that is what it is already."""
    if not left and not right:
        return devices.contiguous(x)
    batch, size, channels = x.shape
    wide = devices.module_of(x).zeros((batch, left + size + right, channels), x.dtype)
    wide[:, left : left + size] = x
    return wide
