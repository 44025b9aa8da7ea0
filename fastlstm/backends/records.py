"""What a recorded forward of the reference backend leaves for its backward, and the plain tuples that both share.

Used by ``reference`` (writes tapes) and ``reference_backward`` (reads them). Letters: N batch, T time, D input features, U units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Weights(NamedTuple):
    """kernel [D,4U], recurrent_kernel [U,4U], bias [4U] or None, in the arithmetic dtype."""

    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray | None


class DropoutMasks(NamedTuple):
    """Scales of one call: ``inputs`` 0, 1 or 4 arrays [N,D], ``recurrent`` 0 or 4 arrays [N,U] (gate order i, f, c, o)."""

    inputs: Sequence[np.ndarray] = ()
    recurrent: Sequence[np.ndarray] = ()


class Cell(NamedTuple):
    """All that the cell computes in one step, each [N,U]: c = f*old c + i*candidate, squashed = act(c), h = o*squashed."""

    i: np.ndarray
    f: np.ndarray
    candidate: np.ndarray
    o: np.ndarray
    c: np.ndarray
    squashed: np.ndarray
    h: np.ndarray


class Step(NamedTuple):
    """One time step: its input x [N,D], the states before it, the pre-activations of i, f, c, o, what the cell made of them,
    and which samples it counts for (``valid`` [N,1], None: all)."""

    x: np.ndarray
    h: np.ndarray
    c: np.ndarray
    gates: list[np.ndarray]
    cell: Cell
    valid: np.ndarray | None


class Tape(NamedTuple):
    """The steps in processing order, and the dropout scales of the call."""

    steps: list[Step]
    scales: DropoutMasks
