"""What an exported model consists of: layers with packed weights (Piece) and the steps of the calculation (Operation).

Made by ``layers``, written as C by ``c_text``. Shapes have no batch axis: the exported functions take one sample. The first axis
of a ``timed`` operation's input is time; in ``<name>_step`` its size is 1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

ALIGNMENT = 64
PROJECTION_BYTES = 256 * 1024  # FASTLSTM_PROJECTION_BYTES where there are vectors
NEAR_BYTES = 40 * 1024  # single_row.h: panels up to here need no projected inputs
GAPS = (128 * 1024, 640 * 1024)  # c_sequence.h: panels of 64-byte vectors that get gaps


class Place(NamedTuple):
    """Where an operation stands: C expressions of its input and output, its steps, and whether one step is taken at a time."""

    source: str
    target: str
    steps: int
    masked: bool
    stepping: bool


class Unsupported(ValueError):
    """A layer that the C export does not know, or an option of one."""


class Input:
    """What arrives at a layer: ``shape`` without batch axis, whether its first axis is time, whether a mask comes with it."""

    def __init__(self, shape: tuple[int, ...], timed: bool, masked: bool):
        self.shape, self.timed, self.masked = shape, timed, masked


@dataclasses.dataclass
class Piece:
    """One layer of the C library: ``kind`` "lstm", "convlstm1d", "dense" or "conv1d"; ``sizes`` go to its defaults function.

    ``fields``: what differs from the defaults, as C. ``arrays``: the weights by Keras' names, in the order of the pack function.
    """

    kind: str
    name: str
    sizes: tuple[int, ...]
    fields: dict[str, str | int]
    arrays: dict[str, np.ndarray | None]
    rows: tuple[int, int, int] = (1, 1, 1)  # R, S, padded rows of a convolution

    @property
    def taps(self) -> int:
        return self.sizes[3] if self.kind in ("convlstm1d", "conv1d") else 1

    @property
    def depth(self) -> int:
        """C, the channels or features."""
        return self.sizes[1] if self.kind in ("convlstm1d", "conv1d") else self.sizes[0]

    @property
    def width(self) -> int:
        """F, the filters or units."""
        return self.sizes[2] if self.kind in ("convlstm1d", "conv1d") else self.sizes[1]

    @property
    def is_recurrent(self) -> bool:
        return self.kind in ("lstm", "convlstm1d")

    @property
    def states(self) -> int:
        """Numbers of h, and of c."""
        return self.rows[1] * self.width if self.is_recurrent else 0

    def packed_for_one_lane(self) -> np.ndarray:
        """The packed weights as one lane reads them, zeros between the parts: what the pack function would write."""
        parts = list(self.arrays.values())
        given = next(array for array in parts if array is not None)
        parts[-1] = np.zeros(self.width * (4 if self.is_recurrent else 1), given.dtype) if parts[-1] is None else parts[-1]
        panels = [self._panel(np.asarray(part).reshape(-1, np.asarray(part).shape[-1])) for part in parts]
        aligned = [np.pad(panel, (0, -panel.size % (ALIGNMENT // given.itemsize))) for panel in panels]
        return np.concatenate(aligned)

    def _panel(self, matrix: np.ndarray) -> np.ndarray:
        """matrix [P,4F] -> [F,P,4], or [P,F] -> [blocks,P,columns of a block], flat (gate_panel.h, with vectors of one lane)."""
        depth, columns = matrix.shape
        if self.is_recurrent:
            return matrix.reshape(depth, 4, self.width).transpose(2, 0, 1).ravel()
        wide = 4 if columns > 2 else columns
        padded = np.pad(matrix, ((0, 0), (0, -columns % wide)))
        return padded.reshape(depth, -1, wide).transpose(1, 0, 2).ravel()

    def packed_bytes(self, real: int, vector: int) -> int:
        """Bytes of the packed weights for vectors of ``vector`` bytes (0: one lane) of numbers of ``real`` bytes."""
        lanes = max(1, vector // real)
        if not self.is_recurrent:
            vectors = 4 if self.width > 2 * lanes else 2 if self.width > lanes else 1
            row = -(-self.width // (4 * lanes)) * vectors * lanes * real
            return rounded(self.taps * self.depth * row) + rounded(row)
        blocks, pitch = -(-self.width // lanes), 4 * lanes * real
        bytes_of_all = blocks * self.taps * (self.depth + self.width) * pitch
        gap = 64 if vector == 64 and GAPS[0] <= bytes_of_all <= GAPS[1] else 0
        parts = [rounded(blocks * self.taps * depth * (pitch + gap)) for depth in (self.depth, self.width)]
        return sum(parts) + rounded(blocks * pitch)

    def workspace_bytes(self, real: int, vector: int, steps: int, word: int = 8) -> int:
        """Bytes of the workspace for one sample; ``word``: bytes of an offset."""
        R, S, padded = self.rows
        if self.kind == "dense":
            return 0
        if self.kind == "conv1d":
            return rounded(1 if padded == R else padded * self.depth * real)
        halo = (S + self.taps - 1) * self.width * real
        size = 2 * rounded(halo) + 2 * rounded(self.states * real)
        if (R, S, padded, self.taps) != (1, 1, 1, 1):
            return size + rounded(0 if padded == R else padded * self.depth * real) + 7 * rounded(S * word)
        lanes = max(1, vector // real)
        width = -(-self.width // lanes) * 4 * lanes
        if steps == 1 or width * (self.depth + self.width) <= NEAR_BYTES // real:
            return size
        room = (PROJECTION_BYTES if vector else 1) // (width * real)
        return size + rounded(min(max(1, room), steps) * width * real)


@dataclasses.dataclass
class Operation:
    """One layer of the model. ``lines(place)`` gives its C; None: nothing is to be done (Dropout, Flatten)."""

    title: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    lines: Callable[[Place], list[str]] | None = None
    pieces: list[Piece] = dataclasses.field(default_factory=list)
    constants: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    helpers: tuple[str, ...] = ()
    whole: str | None = None  # why it needs the whole sequence, or None where it takes one step after the other
    scratch: int = 0  # numbers of the third buffer
    ends_time: bool = False  # the time axis is gone behind it
    makes_mask: bool = False
    ends_mask: bool = False


def rounded(size: int) -> int:
    """``size`` bytes as the library lays them out."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def numbers(shape: tuple[int, ...]) -> int:
    return math.prod(shape)


def positions(place: Place, given: Input) -> int:
    """How many rows of the last axis a call has."""
    return numbers(given.shape[1:-1]) * place.steps if given.timed else numbers(given.shape[:-1])


def literal(value: Any, dtype: np.dtype) -> str:
    """A number of C, every bit of it; beyond the dtype's range it is infinite."""
    with np.errstate(over="ignore"):
        number = float(np.asarray(value).astype(dtype))
    if math.isfinite(number):
        return f"(real){number.hex()}"
    return "(real)NAN" if math.isnan(number) else f"(real){'-' if number < 0 else ''}INFINITY"
