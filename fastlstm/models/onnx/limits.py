"""How much memory the values of one run may take: a few bytes in a file can ask for any size (Expand, Range, Pad, …).

``plan`` opens an ``Allowance`` for a run; operators whose result may be much larger than what they are given call ``allow``
before they make it, and every result is counted.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

# No real model comes near: an LSTM of U units makes U/D times its input [N,T,D], and holds 4U(U+D) weights.
FLOOR = 64 * 2**20
RATIO = 1000
# Numbers, of at most 8 bytes: a result that cannot have more is made without asking. It is counted right after.
UNASKED = 2**17

_thread = threading.local()


class TooLarge(ValueError):
    """What ``Allowance`` raises."""


class Allowance:
    """Bytes that the living values of a run may take: 1000 times what it was given, at least 64 MiB."""

    __slots__ = ("limit", "taken")

    def __init__(self, given: int, ratio: int = RATIO):
        self.limit = max(FLOOR, ratio * given)
        self.taken = 0

    def check(self, size: int) -> None:
        """TooLarge where ``size`` bytes more would be too many."""
        if self.taken + size > self.limit:
            needed = self.taken + size
            raise TooLarge(f"would need {needed} bytes for the values of this run, at most {self.limit} are accepted")


class running:
    """Inside ``with running(allowance)``, ``allow`` asks this allowance; in this thread alone."""

    __slots__ = ("_allowance", "_before")

    def __init__(self, allowance: Allowance):
        self._allowance = allowance

    def __enter__(self) -> Allowance:
        self._before = getattr(_thread, "allowance", None)
        _thread.allowance = self._allowance
        return self._allowance

    def __exit__(self, *exc: object) -> None:
        _thread.allowance = self._before


def current() -> Allowance:
    """The allowance of the run that this thread is in."""
    return _thread.allowance


def allow(shape: Sequence[int], dtype: Any) -> None:
    """ValueError where an array of ``shape`` would be too large for the run that this thread is in, or a size is negative."""
    sizes = [int(size) for size in shape]
    if any(size < 0 for size in sizes):
        raise ValueError(f"asks for an array of shape {tuple(sizes)}")
    if len(sizes) > 32:
        raise ValueError(f"asks for an array of {len(sizes)} axes, at most 32 are accepted")
    allowance = getattr(_thread, "allowance", None)
    if allowance is not None:
        allowance.check(math.prod(sizes) * np.dtype(dtype).itemsize)
