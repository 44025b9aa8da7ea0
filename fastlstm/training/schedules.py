"""Learning rates that depend on the step (terms of ``keras.optimizers.schedules``).

Used by ``optimizers``, which call ``schedule(step)`` with the number of steps taken so far; computed in float64.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from ..identifiers import Family

__all__ = [
    "CosineDecay",
    "ExponentialDecay",
    "LearningRateSchedule",
    "PiecewiseConstantDecay",
    "deserialize",
    "get",
    "serialize",
]


class LearningRateSchedule:
    """Base class: a subclass implements ``__call__(step) -> float`` and ``get_config``."""

    def __call__(self, step: Any) -> float:
        raise NotImplementedError(f"Learning rate schedule {type(self).__name__} does not implement __call__(step)")

    def get_config(self) -> dict:
        """Constructor arguments."""
        raise NotImplementedError(f"Learning rate schedule {type(self).__name__} has no get_config()")

    @classmethod
    def from_config(cls, config: dict) -> Any:
        """A new object from ``get_config``'s dict."""
        return cls(**config)


def _number(value: Any, name: str) -> Any:
    if not isinstance(value, numbers.Real):
        raise ValueError(f"Argument `{name}` must be a number. Received: {name}={value!r}")
    return value


def _positive(value: Any, name: str) -> Any:
    if not _number(value, name) > 0:
        raise ValueError(f"Argument `{name}` must be above 0. Received: {name}={value!r}")
    return value


class ExponentialDecay(LearningRateSchedule):
    """initial_learning_rate * decay_rate^(step / decay_steps); with ``staircase``, the exponent is rounded down."""

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        decay_rate: float,
        staircase: bool = False,
        name: str = "ExponentialDecay",
    ):
        self.initial_learning_rate = _number(initial_learning_rate, "initial_learning_rate")
        self.decay_rate = _number(decay_rate, "decay_rate")
        self.decay_steps, self.staircase, self.name = _positive(decay_steps, "decay_steps"), staircase, name

    def __call__(self, step: Any) -> float:
        exponent = float(step) / self.decay_steps
        return float(self.initial_learning_rate * self.decay_rate ** (math.floor(exponent) if self.staircase else exponent))

    def get_config(self) -> dict:
        names = ("initial_learning_rate", "decay_steps", "decay_rate", "staircase", "name")
        return {name: getattr(self, name) for name in names}


class CosineDecay(LearningRateSchedule):
    """Half a cosine from r to alpha * r over ``decay_steps`` steps, constant afterwards.

    r is ``initial_learning_rate``; with a ``warmup_target``, the rate first goes linearly from ``initial_learning_rate`` to the
    target within ``warmup_steps`` steps, and r is the target.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: float,
        alpha: float = 0.0,
        name: str = "CosineDecay",
        warmup_target: float | None = None,
        warmup_steps: float = 0,
    ):
        self.initial_learning_rate = _number(initial_learning_rate, "initial_learning_rate")
        self.alpha, self.name = _number(alpha, "alpha"), name
        self.decay_steps = _positive(decay_steps, "decay_steps")
        self.warmup_target, self.warmup_steps = warmup_target, warmup_steps

    def __call__(self, step: Any) -> float:
        position, top = float(step), self.initial_learning_rate
        if self.warmup_target is not None:
            if position < self.warmup_steps:
                return float(top + (self.warmup_target - top) * (position / self.warmup_steps))
            position, top = position - self.warmup_steps, self.warmup_target
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(position, self.decay_steps) / self.decay_steps))
        return float(top * ((1.0 - self.alpha) * cosine + self.alpha))

    def get_config(self) -> dict:
        names = ("initial_learning_rate", "decay_steps", "alpha", "name", "warmup_target", "warmup_steps")
        return {name: getattr(self, name) for name in names}


class PiecewiseConstantDecay(LearningRateSchedule):
    """values[i] for boundaries[i - 1] < step <= boundaries[i]. ValueError unless there is one value more than boundaries,
    which grow."""

    def __init__(self, boundaries: Sequence[float], values: Sequence[float], name: str = "PiecewiseConstant"):
        if not len(boundaries) or len(boundaries) != len(values) - 1:
            raise ValueError(
                "`values` must have one element more than `boundaries`, which has at least one. "
                f"Received: boundaries={boundaries!r}, values={values!r}"
            )
        if any(a >= b for a, b in pairwise(boundaries)):
            raise ValueError(f"`boundaries` must grow. Received: boundaries={boundaries!r}")
        self.boundaries, self.values, self.name = boundaries, values, name

    def __call__(self, step: Any) -> float:
        return float(self.values[sum(step > boundary for boundary in self.boundaries)])

    def get_config(self) -> dict:
        return {"boundaries": self.boundaries, "values": self.values, "name": self.name}


_CLASSES = (ExponentialDecay, CosineDecay, PiecewiseConstantDecay)
_family = Family("learning rate schedule", "keras.optimizers.schedules", _CLASSES)
get, serialize, deserialize = _family.get, _family.serialize, _family.deserialize
