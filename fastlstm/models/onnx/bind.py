"""A plan and an example of its inputs -> Bound: what depends on shapes alone is computed, the branches that count are laid out.

A value is fixed where it depends on nothing but constants, shapes and the inputs that ``Ready`` compares number by number. A node
of fixed values is computed here. Of an If with a fixed condition the branch that counts takes its place; any other If stays a
node like all others.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from .bound import BINDERS, Action, Bound, Node, as_ever, without_copies
from .branches import Branches, Steps
from .limits import Allowance, running
from .program import Step, arrays
from .registry import OPERATORS, Call

# Bytes of all values of a call that is bound. Beyond, arithmetic takes so long that nothing is gained, and copies cost more.
MOST_BYTES = 2**18
# Operators, beside those that the registry knows as views, whose result may be their first input seen in another way.
_LOOKS = {"Identity", "Flatten", "Cast", "CastLike", "Split", "Expand", "Dropout"}
# What a node says of its first input is known from the shape alone.
_OF_SHAPES = {"Shape", "Size"}


class Value(NamedTuple):
    """An array, and whether its numbers are the same at every call."""

    array: np.ndarray
    fixed: bool


_ABSENT = Value(None, True)  # type: ignore[arg-type]
Values = ChainMap[str, Value]


class TooMuch(Exception):
    """The values of a call take more than MOST_BYTES."""


def bind(plan: Steps, given: Sequence[np.ndarray], fixed: Collection[int], allowance: Allowance) -> Bound | None:
    """The plan bound for inputs like ``given``, at the places ``fixed`` with these numbers; None where they are too large."""
    binder = _Binder()
    values: Values = ChainMap({})
    try:
        for place, (name, array) in enumerate(zip(plan.inputs, given, strict=True)):
            values[name] = binder.kept(np.array(array), place in fixed)
        with running(allowance), np.errstate(all="ignore"):
            binder.follow(plan, values)
    except TooMuch:
        return None
    outputs = [values[name].array for name in plan.outputs]
    actions = without_copies(binder.actions, [*outputs, *(values[name].array for name in plan.inputs)])
    inputs = [None if values[name].fixed else values[name].array for name in plan.inputs]
    return Bound(inputs, actions, outputs, allowance)


class _Binder:
    """Collects the actions of a plan and of the branches in it."""

    def __init__(self) -> None:
        self.actions: list[tuple[Action, Call]] = []
        self._bytes = 0

    def kept(self, array: np.ndarray, fixed: bool) -> Value:
        """A new value. TooMuch."""
        self._bytes += array.nbytes
        if self._bytes > MOST_BYTES:
            raise TooMuch
        return Value(array, fixed)

    def follow(self, plan: Steps, values: Values) -> None:
        """Computes the steps of a plan; what they make enters ``values``."""
        for name, array in plan.constants.items():
            values[name] = Value(array, True)
        for step in plan.steps:
            given = [values[name] if name else _ABSENT for name in step.inputs]
            if isinstance(step.run, Branches) and given[0].fixed:
                self._follow_branch(step, step.run, values)
                continue
            for name, value in zip(step.outputs, self._computed(step, given), strict=False):
                if name:
                    values[name] = value

    def _follow_branch(self, step: Step, branches: Branches, values: Values) -> None:
        """The branch of an If whose condition is fixed."""
        branch = branches.taken(values[step.inputs[0]].array)
        inner = values.new_child()
        self.follow(branch, inner)
        for name, made in zip(step.outputs, branch.outputs, strict=True):
            if name:
                values[name] = inner[made]

    def _computed(self, step: Step, given: Sequence[Value]) -> list[Value]:
        """What a node makes; unless that is fixed or a view, with the actions that make it again."""
        call, inputs = step.call, tuple(value.array for value in given)
        found = arrays(step.run(*inputs), call.dtypes)
        if call.op in _OF_SHAPES or all(value.fixed for value in given):
            return [self.kept(array, True) for array in found]
        looks = OPERATORS[call.domain, call.op].view or call.op in _LOOKS
        if looks and all(value.fixed for value in given[1:]) and all(np.may_share_memory(a, inputs[0]) for a in found):
            return [Value(array, False) for array in found]
        named = [bool(name) for name in call.outputs]
        results = tuple(np.array(a, order="K") if named[k] else None for k, a in enumerate(found[: len(named)]))
        made = [_ABSENT if array is None else self.kept(array, False) for array in results]
        node = Node(call, step.run, inputs, tuple(value.fixed for value in given), results)
        bind_node = BINDERS.get((call.domain, call.op))
        actions = bind_node(node) if bind_node is not None else None
        self.actions += [(action, call) for action in (actions if actions is not None else [as_ever(node)])]
        return made
