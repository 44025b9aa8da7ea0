"""Program: the steps of a plan with numbers in place of names, so that a call costs little beside what its operators compute.

Every value has a slot in a list; slot 0 stands for an input that is left out, and holds None.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .limits import Allowance
from .registry import Call

# What NumPy and the kernels raise for shapes and indices that do not fit; a graph with such a node is what is wrong.
FAILURES = (ArithmeticError, AttributeError, LookupError, MemoryError, NotImplementedError, TypeError, ValueError)


class Step(NamedTuple):
    """One node to run, and the names of its inputs and outputs ("" for none). ``view``: as of an Operator, and it is one here."""

    call: Call
    run: Callable[..., Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    view: bool


class Program:
    """``inputs``: the names of the values that a run is given, in their order; ``outputs``: of those that it returns.

    Each value that a step makes is dropped after its last use. Views of views that nothing else uses run as one step.
    """

    def __init__(self, steps: Sequence[Step], constants: Mapping[str, np.ndarray], inputs: Sequence[str], outputs: Sequence[str]):
        steps = _with_chains(steps, outputs)
        made = [name for step in steps for name in step.outputs]
        slots = {name: k for k, name in enumerate(dict.fromkeys(["", *inputs, *constants, *made]))}
        self._values: list[Any] = [constants.get(name) for name in slots]
        self._given = slice(1, 1 + len(inputs))
        self._outputs = [slots[name] for name in outputs]
        last = _last_uses(steps, outputs)
        self._steps = []
        for step, used in zip(steps, last, strict=True):
            targets = tuple(slots[name] for name in step.outputs)
            dtypes = tuple(None if dtype is None else np.dtype(dtype) for dtype in step.call.dtypes)
            # The dtype of the only output; with several of them None, which no result has: ``_kept`` looks at each.
            only = dtypes[0] if len(targets) == 1 and targets[0] else None
            get = _getter([slots[name] for name in step.inputs])
            self._steps.append(
                (step.run, get, targets[0], only, tuple(slots[name] for name in used), (step.call, targets, dtypes))
            )

    def run(self, given: Sequence[np.ndarray], allowance: Allowance) -> list[np.ndarray]:
        """The outputs. ValueError, naming the node, where one cannot be computed."""
        values = self._values.copy()
        values[self._given] = given
        array, limit, taken = np.ndarray, allowance.limit, allowance.taken
        for run, get, target, dtype, last, rest in self._steps:
            try:
                result = run(*get(values))
                if type(result) is array and result.dtype is dtype:
                    taken += result.nbytes
                    if taken > limit:
                        allowance.check(result.nbytes)
                    allowance.taken = taken
                    values[target] = result
                else:
                    _keep(result, values, allowance, *rest[1:])
                    taken = allowance.taken
            except FAILURES as error:
                call, cause = (error.call, error.cause) if isinstance(error, InChain) else (rest[0], error)
                raise ValueError(f"{described(call)}: {reason(cause)}") from cause
            if last:
                for slot in last:
                    taken -= values[slot].nbytes
                    values[slot] = None
                allowance.taken = taken
        return [values[slot] for slot in self._outputs]


class InChain(ValueError):
    """What went wrong at one node of several that run as one step."""

    def __init__(self, call: Call, cause: Exception):
        super().__init__(str(cause))
        self.call, self.cause = call, cause


def _with_chains(steps: Sequence[Step], outputs: Iterable[str]) -> list[Step]:
    """The steps, where each chain of views became one; of a view's inputs only the first is left."""
    uses = Counter(name for step in steps for name in step.inputs)
    uses.update(outputs)
    chains: list[list[Step]] = []
    ends: dict[str, list[Step]] = {}  # by the name of its last value
    for step in steps:
        chain = ends.get(step.inputs[0]) if step.view else None
        if chain is None:
            chains.append(chain := [])
        chain.append(step)
        if step.view and uses[step.outputs[0]] == 1 and step.outputs[0] not in outputs:
            ends[step.outputs[0]] = chain
    return [_as_one(chain) for chain in chains]


def _as_one(chain: Sequence[Step]) -> Step:
    first, last = chain[0], chain[-1]
    if not first.view:
        return first
    if first is last:
        return first._replace(inputs=first.inputs[:1])
    views = [(step.run, step.call) for step in chain]

    def run(x: np.ndarray) -> Any:
        for view, call in views:
            try:
                x = view(x)
            except FAILURES as error:
                raise InChain(call, error) from error
        return x

    return Step(last.call, run, first.inputs[:1], last.outputs, True)


def _keep(
    result: Any, values: list[Any], allowance: Allowance, targets: Sequence[int], dtypes: Sequence[np.dtype | None]
) -> None:
    """Stores what a node returned: several arrays, and what NumPy makes beside arrays of the dtype that the standard says."""
    for array, slot in zip(arrays(result, dtypes), targets, strict=False):
        if slot:
            size = array.nbytes
            if allowance.taken + size > allowance.limit:
                allowance.check(size)
            allowance.taken += size
            values[slot] = array


def arrays(result: Any, dtypes: Sequence[Any]) -> list[np.ndarray]:
    """What a node returned as arrays of the dtypes that the standard says."""
    results = result if type(result) is tuple else (result,)
    return [
        array if type(array) is np.ndarray and array.dtype is dtype else np.asarray(array, dtype)
        for array, dtype in zip(results, dtypes, strict=False)
    ]


def _getter(slots: Sequence[int]) -> Callable[[list[Any]], Iterable[Any]]:
    """A function of a list that returns what is in these slots."""
    if not slots:
        return lambda values: ()
    return operator.itemgetter(slice(slots[0], slots[0] + 1)) if len(slots) == 1 else operator.itemgetter(*slots)


def _last_uses(steps: Sequence[Step], outputs: Iterable[str]) -> list[tuple[str, ...]]:
    """For each step the values made by steps that nothing uses after it."""
    seen, made = set(outputs), {name for step in steps for name in step.outputs if name}
    found = []
    for step in reversed(steps):
        used = dict.fromkeys(name for name in (*step.inputs, *step.outputs) if name in made and name not in seen)
        seen.update(used)
        found.append(tuple(used))
    return found[::-1]


def described(call: Call) -> str:
    return f"node {call.name!r} ({call.op})"


def reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
