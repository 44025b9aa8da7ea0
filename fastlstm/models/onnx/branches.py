"""Branches: an If as a function of its condition and of the values that its branches take from around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from .limits import Allowance, current
from .program import Step


class Steps(Protocol):
    """What is read of a ``plan.Plan``."""

    steps: list[Step]
    inputs: list[str]
    outputs: list[str]

    @property
    def constants(self) -> Mapping[str, np.ndarray]: ...

    def run(self, given: Sequence[np.ndarray], allowance: Allowance) -> list[np.ndarray]: ...


class Branches:
    """``plans``: of the else branch and of the then branch; ``captured``: the names of the values that they take, in the order of
    the arguments of a call behind its condition."""

    def __init__(self, plans: Sequence[Steps], captured: Sequence[str]):
        self.plans, self.captured = tuple(plans), tuple(captured)
        self._places = [[self.captured.index(name) for name in plan.inputs] for plan in plans]

    def __call__(self, condition: np.ndarray, *arrays: np.ndarray) -> Any:
        taken = truth(condition)
        allowance = current()
        before = allowance.taken
        outputs = self.plans[taken].run([arrays[place] for place in self._places[taken]], allowance)
        allowance.taken = before  # what is left of the branch is counted as the outputs of this node
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def taken(self, condition: np.ndarray) -> Steps:
        """The plan of the branch that a condition takes."""
        return self.plans[truth(condition)]


def truth(condition: np.ndarray) -> bool:
    """ValueError for anything but one number."""
    if condition.size != 1:
        raise ValueError(f"needs one truth value as its condition. Received the shape {condition.shape}")
    return bool(condition.item())
