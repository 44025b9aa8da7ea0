"""A checked graph -> the order of work: what depends on constants alone is computed, weights are prepared, the rest are steps.

``Plan.run`` takes the values of the inputs by name and returns those of the outputs; each value is dropped after its last use.
"""

from __future__ import annotations

import functools
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .checks import Checked
from .limits import Allowance, TooLarge, current, running
from .registry import OPERATORS, Call

# What NumPy and the kernels raise for shapes and indices that do not fit; a graph with such a node is what is wrong.
FAILURES = (ArithmeticError, AttributeError, LookupError, MemoryError, NotImplementedError, TypeError, ValueError)
FOLD_RATIO = 4


class Step(NamedTuple):
    """One node to run: the names of its inputs and outputs ("" for none), and the names that no later step uses."""

    call: Call
    run: Callable[..., Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dtypes: tuple[str | None, ...]
    last: tuple[str, ...]


class Plan:
    """The steps of one graph. ``problems`` lists what makers and constants said against it."""

    def __init__(self, checked: Checked, outer: ChainMap[str, np.ndarray], fold: Allowance):
        self.outputs = [value.name for value in checked.graph.outputs]
        self.problems: list[str] = []
        self._fold = fold
        self.steps: list[Step] = []
        visible = ChainMap(dict(checked.graph.constants), *outer.maps)
        for call in checked.calls:
            self._add(call, visible)
        self.steps = _with_last_uses(self.steps, self.outputs)
        made = {name for step in self.steps for name in step.outputs}
        used = [*(name for step in self.steps for name in step.inputs), *self.outputs]
        self.needs = {name for name in used if name and name not in made}
        # Of the constants only those that steps and outputs ask for at run time are kept.
        self.constants = {name: visible[name] for name in self.needs if name in visible}
        self.needs -= set(self.constants)

    def _add(self, call: Call, visible: ChainMap[str, np.ndarray]) -> None:
        operator = OPERATORS[call.domain, call.op]
        constants = [visible.get(name) if name else None for name in call.inputs]
        try:
            if call.op == "If":
                self._add_if(call, visible)
                return
            run = operator.make(call, constants)
            known = all(value is not None or not name for name, value in zip(call.inputs, constants, strict=True))
            if known and not operator.heavy and self._folded(call, run, constants, visible):
                return
        except FAILURES as error:
            self.problems.append(f"{described(call)}: {reason(error)}")
            return
        self.steps.append(Step(call, run, call.inputs, call.outputs, call.dtypes, ()))

    def _folded(self, call: Call, run: Callable, constants: Sequence[Any], visible: ChainMap[str, np.ndarray]) -> bool:
        """Computes a node of constants; False where the result is too large to be kept."""
        try:
            with running(self._fold), np.errstate(all="ignore"):
                for name, array in zip(call.outputs, _arrays(run(*constants), call.dtypes), strict=False):
                    if name:
                        self._fold.check(array.nbytes)
                        self._fold.taken += array.nbytes
                        visible[name] = array.view()
                        visible[name].flags.writeable = False
        except TooLarge:
            return False
        return True

    def _add_if(self, call: Call, visible: ChainMap[str, np.ndarray]) -> None:
        """The plans of both branches; of a constant condition the one that counts."""
        branches = [Plan(call.attributes[name], visible, self._fold) for name in ("else_branch", "then_branch")]
        for branch in branches:
            self.problems += [f"{described(call)}: {problem}" for problem in branch.problems]
        condition = visible.get(call.inputs[0])
        if condition is not None:
            branches = [branches[_truth(condition)]] * 2
        captured = tuple(sorted(branches[0].needs | branches[1].needs))
        inputs = (call.inputs[0], *captured)
        self.steps.append(Step(call, functools.partial(_run_if, branches, captured), inputs, call.outputs, call.dtypes, ()))

    def run(self, given: Mapping[str, np.ndarray], allowance: Allowance) -> list[np.ndarray]:
        """The outputs for the values in ``given``. ValueError, naming the node, where one cannot be computed."""
        values: dict[str, np.ndarray] = {**self.constants, **given}
        for step in self.steps:
            try:
                results = _arrays(step.run(*[values[name] if name else None for name in step.inputs]), step.dtypes)
                for name, array in zip(step.outputs, results, strict=False):
                    if name:
                        allowance.check(array.nbytes)
                        allowance.taken += array.nbytes
                        values[name] = array
            except FAILURES as error:
                raise ValueError(f"{described(step.call)}: {reason(error)}") from error
            for name in step.last:
                allowance.taken -= values.pop(name).nbytes
        return [values[name] for name in self.outputs]


def _run_if(branches: Sequence[Plan], captured: Sequence[str], condition: np.ndarray, *arrays: np.ndarray) -> tuple:
    chosen = branches[_truth(condition)]
    given = {name: array for name, array in zip(captured, arrays, strict=True) if name in chosen.needs}
    allowance = current()
    before = allowance.taken
    outputs = chosen.run(given, allowance)
    allowance.taken = before  # what is left of the branch is counted as the outputs of this node
    return tuple(outputs)


def _truth(condition: np.ndarray) -> bool:
    if condition.size != 1:
        raise ValueError(f"needs one truth value as its condition. Received the shape {condition.shape}")
    return bool(condition.reshape(()))


def _arrays(result: Any, dtypes: Sequence[str | None]) -> list[np.ndarray]:
    """What a node returned as arrays of the dtypes that the standard says: NumPy makes scalars, and others of small integers."""
    results = result if isinstance(result, tuple) else (result,)
    return [np.asarray(array, dtype) for array, dtype in zip(results, dtypes, strict=False)]


def described(call: Call) -> str:
    return f"node {call.name!r} ({call.op})"


def reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _with_last_uses(steps: Sequence[Step], outputs: Iterable[str]) -> list[Step]:
    """The steps, each with the values made by steps that are not used after it."""
    seen, made = set(outputs), {name for step in steps for name in step.outputs if name}
    found = []
    for step in reversed(steps):
        used = dict.fromkeys(name for name in (*step.inputs, *step.outputs) if name in made and name not in seen)
        seen.update(used)
        found.append(step._replace(last=tuple(used)))
    return found[::-1]
