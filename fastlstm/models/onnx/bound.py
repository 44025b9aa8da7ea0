"""Bound: the work of a graph for inputs of one shape, with every array in place: a list of functions without arguments.

``bind`` makes one by running a plan once, ``ready`` keeps them, and the files ``ops_*`` say how their operators are bound
(``binder``). What is worked out by then costs a call nothing: shapes and what is computed from them, branches, views, arguments.
"""

from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .limits import Allowance, running
from .program import FAILURES, described, reason
from .registry import Call


class Node(NamedTuple):
    """One node to be bound. ``run``: its function; ``arrays``: its inputs, None for one that is left out, and ``fixed`` which of
    them never change (one that is left out among them); ``results``: where its outputs go, None for one that nobody asks for.

    All arrays hold their values of an example, so that a binder may look at shapes, and at numbers of what is fixed.
    """

    call: Call
    run: Callable[..., Any]
    arrays: tuple[np.ndarray | None, ...]
    fixed: tuple[bool, ...]
    results: tuple[np.ndarray | None, ...]

    @property
    def x(self) -> np.ndarray:
        """The first input, where there must be one."""
        assert self.arrays[0] is not None
        return self.arrays[0]

    @property
    def out(self) -> np.ndarray:
        """The result of a node that has one."""
        (out,) = self.results
        assert out is not None
        return out

    @property
    def operands(self) -> tuple[np.ndarray, ...]:
        """The inputs that are there."""
        return tuple(array for array in self.arrays if array is not None)


class Action(NamedTuple):
    """``run()`` reads some arrays and writes others, completely but for what never changes.

    ``moved(array)``: the same with another array of the same shape and dtype as its only result, None where it must stay.
    ``copied``: what it copies, where it does nothing else. ``asks``: it may ask ``limits`` for memory.
    """

    run: Callable[[], Any]
    reads: tuple[np.ndarray, ...]
    writes: tuple[np.ndarray, ...]
    moved: Callable[[np.ndarray], Action] | None = None
    copied: np.ndarray | None = None
    asks: bool = False


Binder = Callable[[Node], Sequence[Action] | None]
BINDERS: dict[tuple[str, str], Binder] = {}  # by (domain, operator)


def binder(*names: str, domain: str = "") -> Callable[[Binder], Binder]:
    """Registers what binds nodes of these operators; None from it means that the node is run as ever and its result copied."""

    def register(bind: Binder) -> Binder:
        BINDERS.update({(domain, name): bind for name in names})
        return bind

    return register


class Departed(Exception):
    """A result has another shape than at binding: it depends on more than the shapes of the inputs."""


# -- actions --------------------------------------------------------------------------------------------------------------
# Each number by itself and rounded correctly, so that the layout of the result cannot change a bit of it.
_EXACT = {np.add, np.subtract, np.multiply, np.divide, np.maximum, np.minimum, np.sqrt, np.square, np.absolute, np.negative}
_BY_NAME = {np.maximum, np.minimum}  # NumPy is about to refuse ``out`` as their third argument


def apply(ufunc: np.ufunc, *operands: np.ndarray, out: np.ndarray) -> Action:
    """``ufunc`` of operands whose dtypes are those it computes in."""
    named = ufunc in _BY_NAME
    run = functools.partial(ufunc, *operands, out=out) if named else functools.partial(ufunc, *operands, out)
    moved = (lambda other: apply(ufunc, *operands, out=other)) if ufunc in _EXACT else None
    return Action(run, operands, (out,), moved)


def copy(x: np.ndarray, out: np.ndarray) -> Action:
    """out = x, cast and broadcast where they differ."""
    same = x.shape == out.shape and x.dtype == out.dtype
    return Action(functools.partial(out.__setitem__, ..., x), (x,), (out,), lambda other: copy(x, other), x if same else None)


def kernel(run: Callable[[], None], reads: Sequence[np.ndarray], writes: Sequence[np.ndarray]) -> Action:
    """A compiled call that was bound to its arrays."""
    return Action(run, tuple(reads), tuple(writes))


def as_ever(node: Node) -> Action:
    """Runs a node and copies what it returns."""
    run, arrays, wanted = node.run, node.arrays, node.results

    def act() -> None:
        found = run(*arrays)
        for array, place in zip(found if type(found) is tuple else (found,), wanted, strict=False):
            if place is not None:
                if np.shape(array) != place.shape:
                    raise Departed
                place[...] = array

    return Action(act, node.operands, tuple(array for array in wanted if array is not None), asks=True)


def root(array: np.ndarray) -> int:
    """Which array holds the memory that this one looks at."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return id(array)


def without_copies(actions: Sequence[tuple[Action, Call]], kept: Iterable[np.ndarray]) -> list[tuple[Action, Call]]:
    """The actions, where a result that is only copied elsewhere is written there at once. ``kept``: arrays that others read."""
    left: dict[int, tuple[Action, Call]] = dict(enumerate(actions))
    touching = Counter(root(array) for array in kept)
    makers: dict[int, int] = {}  # of an array, by its id
    for place, (action, _) in left.items():
        touching.update({root(array) for array in (*action.reads, *action.writes)})
        if action.moved is not None:
            makers[id(action.writes[0])] = place
    for place, (copying, _) in enumerate(actions):
        target, source = copying.writes[0], copying.copied
        if source is None or (maker := makers.get(id(source))) is None:
            continue
        # Nobody but its maker and this copy knows what is copied, and where it goes nobody looks before: the node made it.
        if maker < place and touching[root(source)] == 2:
            action, call = left[maker]
            assert action.moved is not None
            left[maker], makers[id(target)] = (action.moved(target), call), maker
            del left[place]
    return list(left.values())


# -- a run ----------------------------------------------------------------------------------------------------------------
class Bound:
    """``inputs``: where the values of a run go, None for one that no action reads; ``outputs``: where its results are then.

    One thread at a time.
    """

    def __init__(
        self,
        inputs: Sequence[np.ndarray | None],
        actions: Sequence[tuple[Action, Call]],
        outputs: Sequence[np.ndarray],
        allowance: Allowance,
    ):
        self._inputs, self._outputs, self._allowance = list(inputs), list(outputs), allowance
        self._runs = [action.run for action, _ in actions]
        self._calls = [call for _, call in actions]
        self._asks = any(action.asks for action, _ in actions)

    def run(self, given: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs, arrays of their own. ValueError, naming the node, where one cannot be computed; Departed."""
        for place, value in zip(self._inputs, given, strict=True):
            if place is not None:
                place[...] = value
        with np.errstate(all="ignore"):
            if self._asks:
                self._allowance.taken = 0
                with running(self._allowance):
                    self._act()
            else:
                self._act()
        return [array.copy("K") for array in self._outputs]

    def _act(self) -> None:
        left = iter(self._runs)
        try:
            for run in left:
                run()
        except FAILURES as error:
            call = self._calls[len(self._calls) - operator.length_hint(left) - 1]
            raise ValueError(f"{described(call)}: {reason(error)}") from error
