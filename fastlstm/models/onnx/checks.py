"""Everything that can be wrong with a graph before it runs: operators, versions, attributes, inputs, dtypes, order.

Compared with what the standard says of each operator (``io.onnx_schemas``) and with what is in the table of ``registry``. All
problems are collected; ``plan`` adds its own and ``model`` tells them together.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import MutableMapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...io.onnx_file import Graph, Node, OnnxFile
from ...io.onnx_schemas import Attribute, Formal, Schema, newest_opset, schema_of
from . import lstm, ops_constant, ops_math, ops_matrix, ops_pad, ops_reduce, ops_shape, ops_window  # noqa: F401 (they fill OPERATORS)
from .registry import OPERATORS, SUPPORTED, Call

OLDEST_OPSET = 7
Types = MutableMapping[str, str | None]  # None: not known, because of a problem that was told


class Checked(NamedTuple):
    """A graph, its nodes as Calls, in order, and the dtypes of its outputs; the attributes of an If hold such graphs too."""

    graph: Graph
    calls: tuple[Call, ...]
    dtypes: tuple[str | None, ...]


def check(file: OnnxFile) -> tuple[Checked, list[str]]:
    """The graph of a file, and all that keeps it from running here (an empty list: nothing)."""
    checker = _Checker(file)
    return checker.graph(file.graph, ChainMap({}), ""), checker.problems


class _Checker:
    """Walks through a graph and the graphs in it."""

    def __init__(self, file: OnnxFile):
        self.file, self.problems = file, list(file.problems)
        self.opset = file.opsets.get("", 1)
        newest = newest_opset()
        if not OLDEST_OPSET <= self.opset <= newest:
            self.problems.append(f"the file is of opset {self.opset}, expected {OLDEST_OPSET} to {newest} (of the package onnx)")
            self.opset = min(max(self.opset, OLDEST_OPSET), newest)

    def graph(self, graph: Graph, outer: ChainMap[str, str | None], place: str) -> Checked:
        """Checks a graph inside one that knows the names in ``outer``; ``place`` says in messages where it is."""
        types: ChainMap[str, str | None] = outer.new_child()
        for name, array in graph.constants.items():
            types.maps[0][name] = array.dtype.name
        for value in graph.inputs:
            if value.dtype not in SUPPORTED:
                self.problems.append(f"{place}the input {value.name!r} is of dtype {value.dtype}")
            types.maps[0][value.name] = value.dtype if value.dtype in SUPPORTED else None
        calls = []
        for node in graph.nodes:
            call = self.node(node, types, place)
            if call is not None:
                calls.append(call)
        for value in graph.outputs:
            found = types.get(value.name, "")
            if found == "":
                self.problems.append(f"{place}the output {value.name!r} is not made by any node")
            elif found is not None and value.dtype in SUPPORTED and value.dtype != found:
                self.problems.append(f"{place}the output {value.name!r} is declared {value.dtype}, its node makes {found}")
        return Checked(graph, tuple(calls), tuple(types.get(value.name) for value in graph.outputs))

    def node(self, node: Node, types: ChainMap[str, str | None], place: str) -> Call | None:
        """One node; its outputs enter ``types``. None where it cannot be run."""
        where = f"{place}node {node.name!r} ({node.op}): "
        told = len(self.problems)
        call = self._checked(node, types, where)
        for k, name in enumerate(node.outputs):
            if name and name in types:
                self.problems.append(f"{where}makes {name!r}, which is there already")
            if name:
                types.maps[0][name] = call.dtypes[k] if call is not None and k < len(call.dtypes) else None
        return call if len(self.problems) == told else None

    def _checked(self, node: Node, types: ChainMap[str, str | None], where: str) -> Call | None:
        for name in node.inputs:
            if name and name not in types:
                self.problems.append(f"{where}uses {name!r}, which nothing before it makes")
        operator = OPERATORS.get((node.domain, node.op))
        if operator is None:
            domain = f" of domain {node.domain!r}" if node.domain else ""
            self.problems.append(f"{where}the operator {node.op}{domain} is not supported")
            return None
        schema = operator.schema or schema_of(node.op, self.opset)
        if schema is None:
            self.problems.append(f"{where}opset {self.opset} has no operator {node.op}")
            return None
        if schema.since > operator.latest:
            self.problems.append(
                f"{where}version {schema.since} of {node.op} is not supported, the newest known is {operator.latest}"
            )
            return None
        wrong = [*_wrong_counts(node, schema), *_wrong_attributes(node, schema)]
        if wrong:
            self.problems += [f"{where}{problem}" for problem in wrong]
            return None
        attributes = {name: node.attributes.get(name, told.default) for name, told in schema.attributes.items()}
        for name, value in attributes.items():
            if isinstance(value, Graph):
                attributes[name] = self.graph(value, types, f"{where}{name}: ")
        call = Call(node.name, node.op, node.domain, schema.since, attributes, node.inputs, node.outputs, ())
        if operator.refuses is not None and (reason := operator.refuses(call)) is not None:
            self.problems.append(f"{where}{reason}")
            return None
        dtypes, wrong = _dtypes(call, schema, types, operator.result)
        self.problems += [f"{where}{problem}" for problem in wrong]
        return call._replace(dtypes=tuple(dtypes))


def _wrong_counts(node: Node, schema: Schema) -> list[str]:
    """What is wrong with the number of inputs and outputs of a node."""
    wrong = []
    for k, (what, names) in enumerate((("inputs", node.inputs), ("outputs", node.outputs))):
        if not schema.fewest[k] <= len(names) <= schema.most[k]:
            wrong.append(f"has {len(names)} {what}, expected {schema.fewest[k]} to {schema.most[k]}")
    for k, name in enumerate(node.inputs):
        formal = _formal(schema.inputs, k)
        if not name and formal is not None and not formal.optional:
            wrong.append(f"its input {formal.name} is missing")
    if not any(node.outputs):
        wrong.append("has no output")
    return wrong


def _formal(formals: Sequence[Formal], k: int) -> Formal | None:
    """The formal input or output that stands at place ``k``; the last one stands for all others where it is variadic."""
    if k < len(formals):
        return formals[k]
    return formals[-1] if formals and formals[-1].variadic else None


def _wrong_attributes(node: Node, schema: Schema) -> list[str]:
    wrong = []
    for name, value in node.attributes.items():
        if name not in schema.attributes:
            wrong.append(f"the attribute {name!r} is not known in version {schema.since} of {node.op}")
        elif not _is_kind(value, schema.attributes[name]):
            wrong.append(
                f"its attribute {name!r} must be of kind {schema.attributes[name].kind}. Received: {type(value).__name__}"
            )
    missing = [name for name, told in schema.attributes.items() if told.required and name not in node.attributes]
    return wrong + [f"its attribute {name!r} is missing" for name in missing]


_KINDS: dict[str, type] = {"INT": int, "FLOAT": float, "STRING": str, "TENSOR": np.ndarray, "GRAPH": Graph}


def _is_kind(value: Any, attribute: Attribute) -> bool:
    kind = attribute.kind
    if kind.endswith("S") and kind != "S":
        return isinstance(value, list) and all(isinstance(item, _KINDS.get(kind[:-1], ())) for item in value)
    return isinstance(value, _KINDS.get(kind, ()))


def _dtypes(call: Call, schema: Schema, types: Types, result: Any) -> tuple[list[str | None], list[str]]:
    """The dtypes of a node's outputs, and what is wrong with those of its inputs."""
    bound: dict[str, str] = {}
    wrong: list[str] = []
    known = True
    for k, name in enumerate(call.inputs):
        formal, dtype = _formal(schema.inputs, k), types.get(name) if name else None
        if not name or formal is None:
            continue
        if dtype is None:
            known = False
        elif dtype not in formal.dtypes:
            allowed = ", ".join(sorted(formal.dtypes & SUPPORTED))
            wrong.append(f"its input {formal.name} ({name!r}) is of dtype {dtype}, expected one of {allowed}")
        elif formal.shared and bound.setdefault(formal.shared, dtype) != dtype:
            wrong.append(f"its input {formal.name} ({name!r}) is of dtype {dtype}, another one is {bound[formal.shared]}")
    given = [types.get(name) if name else None for name in call.inputs]
    own = list(result(call, given)) if result is not None else []
    dtypes: list[str | None] = []
    for k in range(len(call.outputs)):
        formal = _formal(schema.outputs, k)
        assert formal is not None
        if formal.shared in bound:
            dtypes.append(bound[formal.shared])
        elif len(formal.dtypes) == 1:
            dtypes.append(next(iter(formal.dtypes)))
        elif k < len(own) and own[k] is not None:
            dtypes.append(own[k])
        else:
            dtypes.append(None)
            if known and not wrong and call.op != "If":
                wrong.append(f"the dtype of its output {formal.name} is not known")
    return dtypes, wrong
