"""The graph of a functional model: which calls lie between its inputs and outputs, in which order they run, and what runs them.

In terms of ``layers.symbolic``; used by ``functional``. The order of the layers is that of ``keras.Model.layers``: weights in
files are numbered by it.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

from ..layers import InputLayer, Layer
from ..layers.nest import flatten, mapped
from ..layers.symbolic import KerasTensor, Node

# (layer, inputs, mask, the call's other arguments) -> what the layer returns
Run = Callable[[Node, Any, Any, dict[str, Any]], Any]


class Graph:
    """The calls that lead from ``inputs`` to ``outputs`` (lists of symbolic tensors).

    Attributes: ``nodes`` in the order they run (those of the inputs left out), ``all_nodes`` with them, ``layers`` in Keras'
    order.
    ValueError where an output does not follow from the inputs alone, and for two layers of one name.
    """

    def __init__(self, inputs: list[KerasTensor], outputs: list[KerasTensor]):
        self.inputs, self.outputs = inputs, outputs
        found, first_seen = _in_depth_first_order(inputs, outputs)
        depths, layer_depths = _depths(found)
        for tensor in inputs:  # an input that nothing is made of still belongs to the model
            if isinstance(tensor.node.layer, InputLayer) and tensor.node not in depths:
                depths[tensor.node] = layer_depths[tensor.node.layer] = 0
                first_seen[tensor.node.layer] = -1
                found.append(tensor.node)
        self.all_nodes = sorted(found, key=lambda node: -depths[node])
        self.layers: list[Layer] = sorted(layer_depths, key=lambda layer: (-layer_depths[layer], first_seen[layer]))
        own = {id(tensor.node) for tensor in inputs}
        self.nodes = [node for node in self.all_nodes if id(node) not in own and node.inputs is not None]
        self._check()

    def _check(self) -> None:
        known = {id(tensor) for tensor in self.inputs}
        for node in self.nodes:
            for tensor in node.sources:
                if id(tensor) not in known:
                    raise ValueError(
                        f'The graph is disconnected: the input {tensor!r} of layer "{node.layer.name}" does not follow from the '
                        "inputs of the model"
                    )
            known |= {id(tensor) for tensor in node.outputs}
        for tensor in self.outputs:
            if id(tensor) not in known:
                raise ValueError(f"The output {tensor!r} does not follow from the inputs of the model")
        counts = collections.Counter(layer.name for layer in self.layers)
        name, count = max(counts.items(), key=lambda item: item[1])
        if count > 1:
            raise ValueError(f'The name "{name}" is used {count} times in the model: layers need names of their own')

    def run(self, arrays: list[Any], masks: list[Any], run: Run, calls: bool = True) -> dict[int, tuple[Any, Any]]:
        """``run(node, inputs, mask, options)`` for each call, in order. Returns {id of a tensor: (array, mask)}.

        A mask goes with its array. A layer gets it unless other arrays are given beside its inputs (an initial state), as in
        Keras 3; the layer's outputs get theirs from it all the same (keras-spec 5). ``calls=False``: ``run`` does
        not call all layers, and may return None for an array.
        """
        known: dict[int, tuple[Any, Any]] = {
            id(tensor): (array, mask) for tensor, array, mask in zip(self.inputs, arrays, masks, strict=True)
        }
        for node in self.nodes:
            inputs, options = filled(node.inputs, known), filled(node.options, known)
            mask = given = options.pop("mask", None)
            if given is None:
                mask = mapped(lambda leaf: known[id(leaf)][1] if isinstance(leaf, KerasTensor) else None, node.inputs)
                if all(leaf is None for leaf in flatten(mask)):
                    mask = None
                alone = not any(isinstance(leaf, KerasTensor) for leaf in flatten(node.options))
                given = mask if alone or options.pop("keeps_mask", False) else None
            options.pop("keeps_mask", None)
            outputs = run(node, inputs, given, options)
            after = (node.layer.mask_after_call if calls else node.layer.compute_mask)(inputs, mask)
            self._keep(node, outputs, after, known)
        return known

    def _keep(self, node: Node, outputs: Any, after: Any, known: dict[int, tuple[Any, Any]]) -> None:
        arrays = flatten(outputs)
        masks = flatten(after) if isinstance(after, (list, tuple)) else [after]
        masks += [None] * (len(arrays) - len(masks))
        for tensor, array, one in zip(node.outputs, arrays, masks[: len(arrays)], strict=True):
            known[id(tensor)] = (array, one)


def filled(structure: Any, known: dict[int, tuple[Any, Any]]) -> Any:
    """The structure with its symbolic tensors replaced by their arrays."""
    return mapped(lambda leaf: known[id(leaf)][0] if isinstance(leaf, KerasTensor) else leaf, structure)


def _in_depth_first_order(inputs: list[KerasTensor], outputs: list[KerasTensor]) -> tuple[list[Node], dict[Layer, int]]:
    """All nodes behind ``outputs``, sources first, and when each layer was met; by hand, as graphs may be deeper than Python's
    stack."""
    stops = {id(tensor) for tensor in inputs}
    finished: dict[int, Node] = {}
    first_seen: dict[Layer, int] = {}
    for output in outputs:
        pending: list[tuple[KerasTensor, bool]] = [(output, False)]
        under_way: set[int] = set()
        while pending:
            tensor, done = pending.pop()
            node = tensor.node
            if done:
                finished[id(node)] = node
                under_way.discard(id(node))
                continue
            inner_input = node.inputs is not None and id(tensor) in stops
            if id(node) in finished or id(node) in under_way or inner_input:
                continue
            first_seen.setdefault(node.layer, len(first_seen))
            under_way.add(id(node))
            pending.append((tensor, True))
            pending += [(source, False) for source in reversed(node.sources)]
    return list(finished.values()), first_seen


def _depths(nodes: list[Node]) -> tuple[dict[Node, int], dict[Layer, int]]:
    """How many calls lie between a node and the outputs, at most, and the same of each layer; as Keras counts them."""
    depths: dict[Node, int] = {}
    layer_depths: dict[Layer, int] = {}
    among = {id(node) for node in nodes}
    for node in reversed(nodes):
        depth = max(depths.get(node, 0), layer_depths.get(node.layer, 0))
        depths[node] = layer_depths[node.layer] = depth
        for parent in {id(tensor.node): tensor.node for tensor in node.sources}.values():
            if id(parent) in among:
                depths[parent] = max(depths.get(parent, 0), depth + 1)
    return depths, layer_depths
