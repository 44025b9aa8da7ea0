"""A checked graph -> the order of work: what depends on constants alone is computed, weights are prepared, the rest are steps.

``program`` runs the steps.
"""

from __future__ import annotations

import copy
from collections import ChainMap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .branches import Branches, truth
from .checks import Checked
from .limits import Allowance, TooLarge, running
from .program import FAILURES, Program, Step, arrays, described, reason
from .ready import Ready
from .registry import OPERATORS, Call, computed

FOLD_RATIO = 4


class Plan:
    """The steps of one graph. ``problems`` lists what makers and constants said against it.

    ``inputs``: the names of the values that ``run`` is given, in their order; a branch of an If finds out itself what it needs.
    ``ready``: the short way that the plan of a model has.
    """

    ready: Ready | None = None

    def __init__(self, checked: Checked, outer: ChainMap[str, np.ndarray], fold: Allowance, inputs: Sequence[str] | None = None):
        self.outputs = [value.name for value in checked.graph.outputs]
        self.problems: list[str] = []
        self._fold = fold
        self.steps: list[Step] = []
        visible = ChainMap(dict(checked.graph.constants), *outer.maps)
        for call in checked.calls:
            self._add(call, visible)
        made = {name for step in self.steps for name in step.outputs}
        used = [*(name for step in self.steps for name in step.inputs), *self.outputs]
        needs = {name for name in used if name and name not in made}
        # Of the constants only those that steps and outputs ask for at run time are kept.
        self.constants = {name: visible[name] for name in needs if name in visible}
        self.inputs = sorted(needs - set(self.constants)) if inputs is None else list(inputs)
        if not self.problems and needs <= {*self.constants, *self.inputs}:  # a graph with problems is not run
            self._program = Program(self.steps, self.constants, self.inputs, self.outputs)

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
        view = operator.view and not computed(call, constants, *range(1, len(call.inputs)))
        self.steps.append(Step(call, run, call.inputs, call.outputs, view))

    def _folded(self, call: Call, run: Callable, constants: Sequence[Any], visible: ChainMap[str, np.ndarray]) -> bool:
        """Computes a node of constants; False where the result is too large to be kept."""
        try:
            with running(self._fold), np.errstate(all="ignore"):
                for name, array in zip(call.outputs, arrays(run(*constants), call.dtypes), strict=False):
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
            branches = [branches[truth(condition)]] * 2
        captured = sorted({*branches[0].inputs, *branches[1].inputs})
        self.steps.append(Step(call, Branches(branches, captured), (call.inputs[0], *captured), call.outputs, False))

    def run(self, given: Sequence[np.ndarray], allowance: Allowance) -> list[np.ndarray]:
        """The outputs for the values of ``inputs``. ValueError, naming the node, where one cannot be computed."""
        return self._program.run(given, allowance)

    def with_outputs(self, names: Sequence[str]) -> Plan:
        """A plan of the same steps that returns other values, those that the steps make among them."""
        plan = copy.copy(self)
        plan.ready = None
        plan.outputs = list(names)
        plan._program = Program(self.steps, self.constants, self.inputs, plan.outputs)
        return plan
