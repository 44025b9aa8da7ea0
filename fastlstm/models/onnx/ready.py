"""Ready: the Bounds of a plan, by the shapes of its inputs, and when one is made.

What a Bound answers depends on the shapes and on the numbers of the inputs that decide the condition of an If: both are its key.
Everything else goes through the plan, as do the first calls of every key.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from ... import selector
from .bind import bind
from .bound import Bound, Departed
from .branches import Branches, Steps
from .limits import Allowance

# A key is bound at this call: binding takes about as long as that many calls, so that shapes that keep changing cost little.
BOUND_AT = 8
# Keys that are bound at once; of each, threads that may call at once and gain from it; keys whose calls are counted.
MOST_KEYS, MOST_THREADS, MOST_COUNTED = 16, 4, 64
# Numbers of an input that may be a part of a key.
MOST_COMPARED = 8


class _Kept:
    """What is bound for one key: ``spare`` is not at work, ``made`` are all."""

    def __init__(self) -> None:
        self.spare: list[Bound] = []
        self.made = 0

    def give_up(self) -> None:
        """Nothing is gained for this key."""
        self.made = MOST_THREADS
        self.spare.clear()


class Ready:
    """``dtypes``: of the inputs; ``compared``: the places of those whose numbers count."""

    def __init__(self, plan: Steps, dtypes: Sequence[np.dtype], compared: Sequence[int], held: int):
        self._plan, self._dtypes, self._compared, self._held = plan, list(dtypes), list(compared), held
        self._kept: dict[tuple, _Kept] = {}
        self._counts: dict[tuple, int] = {}
        self._lock = threading.Lock()

    def run(self, given: Sequence[Any]) -> list[np.ndarray] | None:
        """The outputs, arrays of the caller's own; None where the plan must be run. ValueError as of ``Plan.run``."""
        if not self._kept or (key := self._key(given)) is None:
            return None
        kept = self._kept.get(key)
        if kept is None or selector.is_overridden():
            return None
        try:
            bound = kept.spare.pop()
        except IndexError:  # all are at work
            return None
        try:
            found = bound.run(given)
        except Departed:
            kept.give_up()
            return None
        except BaseException:
            kept.spare.append(bound)  # every run writes all anew
            raise
        kept.spare.append(bound)
        return found

    def _key(self, given: Sequence[Any]) -> tuple | None:
        """The key of a call, None where the arrays need a conversion or too many numbers count."""
        key: list[Any] = []
        for value, dtype in zip(given, self._dtypes, strict=True):
            if type(value) is not np.ndarray or value.dtype is not dtype:
                return None
            key.append(value.shape)
        for place in self._compared:
            if given[place].size > MOST_COMPARED:
                return None
            key.append(given[place].tobytes())
        return tuple(key)

    def ran(self, given: Sequence[np.ndarray]) -> None:
        """Told of every call that went through the plan, after it: binds what is worth it."""
        key = self._key(given)
        if key is None or selector.is_overridden() or (kept := self._due(key)) is None:
            return
        allowance = Allowance(sum([value.nbytes for value in given]) + self._held)
        bound = bind(self._plan, given, self._compared, allowance)
        if bound is None:
            kept.give_up()
        else:
            kept.spare.append(bound)

    def _due(self, key: tuple) -> _Kept | None:
        """Counts a call, and says where something is to be kept that is bound for it now, if so."""
        with self._lock:
            kept = self._kept.get(key)
            if kept is None:
                if key not in self._counts and len(self._counts) >= MOST_COUNTED:
                    self._counts.clear()
                self._counts[key] = self._counts.get(key, 0) + 1
                if self._counts[key] < BOUND_AT:
                    return None
                del self._counts[key]
                if len(self._kept) >= MOST_KEYS:
                    del self._kept[next(iter(self._kept))]
                kept = self._kept[key] = _Kept()
            if kept.spare or kept.made >= MOST_THREADS:
                return None
            kept.made += 1
            return kept


def deciding(plan: Steps, dtypes: Sequence[np.dtype]) -> list[int]:
    """The places of the inputs that decide the condition of an If, where it depends on integers and truth values alone."""
    known = {name: frozenset([place]) for place, name in enumerate(plan.inputs)}
    found: set[int] = set()
    _conditions(plan, known, found, {place for place, dtype in enumerate(dtypes) if dtype.kind in "iub"})
    return sorted(found)


def _conditions(plan: Steps, known: dict[str, frozenset[int]], found: set[int], whole: set[int]) -> None:
    """``known``: the places of the inputs that the numbers of a value depend on; what the plan makes enters it."""
    for step in plan.steps:
        sources = frozenset().union(*(known.get(name, frozenset()) for name in step.inputs))
        if isinstance(step.run, Branches):
            condition = known.get(step.inputs[0], frozenset())
            if condition <= whole:
                found.update(condition)
            for branch in step.run.plans:
                inner = dict(known)
                _conditions(branch, inner, found, whole)
                sources = sources.union(*(inner.get(name, frozenset()) for name in branch.outputs))
        if step.call.op in ("Shape", "Size"):
            sources = frozenset()
        known.update(dict.fromkeys(step.outputs, sources))
