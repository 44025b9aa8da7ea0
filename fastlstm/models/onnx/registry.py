"""The table of operators: what each file ``ops_*`` registers and ``checks`` and ``plan`` look up.

An operator is a function that takes a ``Call`` (one node, checked) and the arrays of its inputs, None for one that is left out,
and returns an array, or a tuple where a node may have several outputs. It must not write into its inputs. A maker takes the
Call and those inputs that are constants and returns such a function: there weights are prepared once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...io.onnx_schemas import Schema

SUPPORTED = frozenset(
    "float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool".split()  # dtypes of values
)


class Call(NamedTuple):
    """One node, ready to be made: ``since`` is the version of its operator, ``attributes`` hold the defaults too.

    ``dtypes``: of its outputs, as ``checks`` found them.
    """

    name: str
    op: str
    domain: str
    since: int
    attributes: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dtypes: tuple[str | None, ...]

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the first output."""
        return np.dtype(self.dtypes[0])


class Operator(NamedTuple):
    """``latest``: the newest version that was read and written down here. ``make(call, constants)`` -> function of the arrays.

    ``refuses(call)``: why a node cannot be run, or None. ``result(call, given)``: dtypes of outputs that the schema
    leaves open, ``given`` those of the inputs, None where there is none.
    ``view``: where no node makes its other inputs, the function takes the first one alone and only looks at it in another way.
    ``heavy``: costs more than its result is large, so that constants are not computed from it when a file is loaded.
    """

    make: Callable[[Call, Sequence[np.ndarray | None]], Callable[..., Any]]
    latest: int
    refuses: Callable[[Call], str | None] | None
    result: Callable[[Call, Sequence[str | None]], Sequence[str | None]] | None
    heavy: bool
    schema: Schema | None
    view: bool


OPERATORS: dict[tuple[str, str], Operator] = {}


def maker(
    *names: str,
    latest: int,
    refuses: Callable[[Call], str | None] | None = None,
    result: Callable[[Call, Sequence[str | None]], Sequence[str | None]] | None = None,
    heavy: bool = False,
    domain: str = "",
    schema: Schema | None = None,
    view: bool = False,
) -> Callable[[Callable], Callable]:
    """Registers a maker under operator names; arguments as in ``Operator``."""

    def register(make: Callable) -> Callable:
        for name in names:
            OPERATORS[domain, name] = Operator(make, latest, refuses, result, heavy, schema, view)
        return make

    return register


def operator(*names: str, latest: int, **options: Any) -> Callable[[Callable], Callable]:
    """Registers a function ``run(call, *arrays)`` under operator names."""

    def register(run: Callable) -> Callable:
        maker(*names, latest=latest, **options)(lambda call, constants: functools.partial(run, call))
        return run

    return register


def plain(name: str, latest: int, run: Callable[..., Any]) -> None:
    """Registers a function of the arrays alone."""
    maker(name, latest=latest)(lambda call, constants: run)


class ByRank(dict[int, Any]):
    """What a node works out from the rank of an input (axes, an index), once for each rank: ``by_rank[x.ndim]``."""

    def __init__(self, find: Callable[[int], Any]):
        super().__init__()
        self._find = find

    def __missing__(self, rank: int) -> Any:
        self[rank] = found = self._find(rank)
        return found


def given(call: Call, k: int) -> bool:
    """Whether a node has an input ``k``."""
    return len(call.inputs) > k and bool(call.inputs[k])


def computed(call: Call, constants: Sequence[np.ndarray | None], *places: int) -> bool:
    """Whether one of these inputs is there and is no constant, so that what depends on it is not known before a call."""
    return any(given(call, k) and constants[k] is None for k in places)


def normal_axis(axis: int, rank: int) -> int:
    """An axis counted from the front. ValueError for one that is not there."""
    if not -rank <= axis < rank:
        raise ValueError(f"its axis {axis} is not one of {rank}")
    return axis % rank


def normal_axes(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Several axes, each once."""
    found = tuple(normal_axis(int(axis), rank) for axis in axes)
    if len(set(found)) != len(found):
        raise ValueError(f"its axes {[int(axis) for axis in axes]} name one twice")
    return found


def ints(array: np.ndarray | Sequence[int]) -> list[int]:
    """The numbers of a one-dimensional input such as ``axes`` or ``shape``. ValueError for absurdly many."""
    values = np.asarray(array).reshape(-1)
    if values.size > 64:
        raise ValueError(f"an input that has one number for an axis has {values.size}")
    return [int(value) for value in values]
