"""What every layer of a model returns in one call. Used by ``child`` and ``verify_command``, in terms of ``functional``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..dtypes import get_policy
from ..layers import Layer
from ..layers.nest import flatten
from ..models.functional import Functional
from ..models.sample_inputs import as_functional
from ..report import class_text
from .child import keys_of


class Row(NamedTuple):
    """One array that a call returns: ``keys`` as ``child.keys_of`` makes them, ``label`` and ``class_name`` for people."""

    keys: list[str]
    label: str
    class_name: str
    array: np.ndarray


class Outputs(NamedTuple):
    """All arrays in the order of the calls, and the keys of those that the model returns."""

    rows: list[Row]
    outputs: list[str]


def layer_outputs(model: Any, inputs: list[np.ndarray]) -> Outputs:
    """Runs a Sequential or functional model once, as ``predict`` does. ``inputs``: one array for each input.

    Models inside it count as one layer.
    ValueError where the inputs do not fit.
    """
    graph = as_functional(model)
    nodes = graph._graph.nodes
    calls = [(node.layer.name, [id(t) for t in node.sources], [id(t) for t in node.outputs]) for node in nodes]
    keys = keys_of(calls, [id(tensor) for tensor in graph.inputs])
    tensors = [tensor for node in nodes for tensor in node.outputs]
    given = inputs if len(inputs) > 1 else inputs[0]
    arrays = flatten(Functional(list(graph.inputs), tensors, name=graph.name)(given, training=False)) if tensors else []
    found = dict(zip(map(id, tensors), arrays, strict=True))
    count: dict[str, int] = {}
    rows = []
    for node in nodes:
        count[node.layer.name] = number = count.get(node.layer.name, 0) + 1
        for tensor in node.outputs:
            label = node.layer.name + (f" (call {number})" if number > 1 else "")
            label += f"[{tensor.index}]" if len(node.outputs) > 1 else ""
            rows.append(Row(keys[id(tensor)], label, class_text(node.layer), np.asarray(found[id(tensor)])))
    return Outputs(rows, [keys[id(tensor)][0] for tensor in graph.outputs])


def in_float64(model: Any) -> Any:
    """The same model with its layers and weights turned into float64: for a model that was just built and never called."""
    policy = get_policy("float64")
    for layer in _tree(model):
        layer.dtype_policy = policy
        for variable in [*layer._variables, *(getattr(layer, "states", None) or [])]:
            variable._replace(np.array(variable.value, dtype="float64", order="C"))
    return model


def _tree(layer: Layer) -> Iterator[Layer]:
    yield layer
    for inner in layer._layers:
        yield from _tree(inner)
