"""Seeds and random number generators (terms of ``keras.random``; keras-spec 8 and 11). NumPy's own generators do the drawing.

Used by ``initializers`` (one seed, the same values at every call) and by everything with dropout (``SeedGenerator``: a
new draw at every call, the same sequence for the same seed). Keras' bits are specific to its backends; only the
statistics and the repeatability are the same here.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

# One lock for all counters: held for a few instructions, and generators stay copyable.
_counting = threading.Lock()


def check_seed(seed: Any) -> int | None:
    """``seed`` itself. ValueError unless it is a Python int or None."""
    if seed is not None and not isinstance(seed, int):
        raise ValueError(f"Argument `seed` must be an integer or None. Received: seed={seed!r} (of type {type(seed).__name__})")
    return seed


def default_seed() -> int:
    """A seed from Python's ``random``, so that ``random.seed(...)`` makes a whole program repeatable."""
    import random

    return random.randint(1, 10**9)


def generator(seed: int, counter: int = 0) -> np.random.Generator:
    """The Philox generator of (seed, counter): one stream for each pair; negative seeds count modulo 2^64."""
    return np.random.Generator(np.random.Philox(key=seed % 2**64, counter=[0, 0, 0, counter % 2**64]))


class SeedGenerator:
    """Numbers the draws of one layer: the state is [seed, counter], and every ``next`` adds 1 to the counter.

    ``seed``: int, or None for one random seed now. ValueError for anything else.
    """

    def __init__(self, seed: int | None = None):
        self._initial = check_seed(seed)
        self._seed = default_seed() if seed is None else int(seed)
        self._counter = 0

    @property
    def state(self) -> np.ndarray:
        """[seed, counter], two unsigned integers (a copy); a negative seed shows modulo 2^64."""
        return np.array([self._seed % 2**64, self._counter], np.uint64)

    def next(self) -> np.random.Generator:
        """The generator of this draw; the next call gives an independent one."""
        return generator(self._seed, self._count(1))

    def skip(self, draws: int) -> None:
        """Counts ``draws`` draws without making them: Keras also counts the masks that an inference call discards."""
        self._count(draws)

    def _count(self, draws: int) -> int:
        """Adds ``draws`` to the counter and returns what it was; two threads never get the same number."""
        with _counting:
            before = self._counter
            self._counter += draws
        return before

    def get_config(self) -> dict:
        return {"seed": self._initial}

    @classmethod
    def from_config(cls, config: dict) -> SeedGenerator:
        return cls(**config)


def dropout_mask(seeds: SeedGenerator, shape: tuple[int, ...], rate: float, dtype: Any = "float32") -> np.ndarray:
    """Inverted dropout of ones, one draw: entries 1 / (1 - rate) with probability 1 - rate, else 0, of ``shape``.

    A rate of 0 gives ones and a rate of 1 zeros; the draw is counted in any case. ValueError for a rate outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"Argument `rate` must be between 0 and 1. Received: rate={rate!r}")
    kept = seeds.next().random(shape) >= rate
    return np.where(kept, 1.0 / (1.0 - rate) if rate < 1 else 0.0, 0.0).astype(dtype)
