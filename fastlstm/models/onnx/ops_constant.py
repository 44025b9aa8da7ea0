"""Constant, and If, whose branches are graphs: ``plan`` makes them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .registry import Call, maker, operator

_NUMBERS = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}


def value_of(call: Call) -> np.ndarray | None:
    """The one value of a Constant, None where it has none or several, or one that is no number."""
    told = {name: value for name, value in call.attributes.items() if value is not None}
    if len(told) != 1:
        return None
    ((name, value),) = told.items()
    if isinstance(value, np.ndarray):
        return value
    return np.asarray(value, _NUMBERS[name]) if name in _NUMBERS else None


def _no_number(call: Call) -> str | None:
    return "its value is no array of numbers" if value_of(call) is None else None


def _dtype(call: Call, given: Any) -> list[str]:
    value = value_of(call)
    assert value is not None
    return [value.dtype.name]


@operator("Constant", latest=25, refuses=_no_number, result=_dtype)
def _constant(call: Call) -> Any:
    return value_of(call)


def _branch_dtypes(call: Call, given: Any) -> list[str | None]:
    """What either branch makes; None where that is not known."""
    branches = [call.attributes[name].dtypes for name in ("then_branch", "else_branch")]
    return [a or b for a, b in zip(*branches, strict=False)]


def _branches_differ(call: Call) -> str | None:
    graphs = [call.attributes[name].graph for name in ("then_branch", "else_branch")]
    counts = [len(graph.outputs) for graph in graphs]
    if any(count != len(call.outputs) for count in counts):
        return f"has {len(call.outputs)} outputs, its branches have {counts[0]} and {counts[1]}"
    if any(graph.inputs for graph in graphs):
        return "its branches have inputs"
    branches = [call.attributes[name].dtypes for name in ("then_branch", "else_branch")]
    differ = [k for k, (a, b) in enumerate(zip(*branches, strict=True)) if a and b and a != b]
    return f"its branches make different dtypes for the outputs {differ}" if differ else None


@maker("If", latest=25, refuses=_branches_differ, result=_branch_dtypes, heavy=True)
def _make_if(call: Call, constants: Any) -> Any:
    raise NotImplementedError("plan makes the branches of an If")
