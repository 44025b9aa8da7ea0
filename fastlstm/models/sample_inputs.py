"""Inputs for trying a model out: random, the same every time, of the shapes and kinds that its layers take.

Used by ``converting`` and by the commands that compare models.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layers import Embedding, Layer, Masking
from ..layers.nest import flatten
from ..layers.symbolic import KerasTensor, Node
from .functional import Functional
from .sequential import Sequential

SAMPLES, STEPS, SEED = 4, 16, 0
# Other than these, layers without weights are looked through for an Embedding that the numbers end in.
_MAX_LAYERS = 10_000


def as_functional(model: Any) -> Functional:
    """The model itself, or the functional model of a Sequential: the same layers, every output within reach."""
    return model if isinstance(model, Functional) else Functional(model.input, model.output, name=model.name)


def sample_inputs(model: Any, samples: int = SAMPLES, seed: int = SEED) -> list[np.ndarray]:
    """One array for each input of a built model, batch axis first; free sizes are 16 (of time-major models ``samples``).

    Numbers are from N(0, 1); for an Embedding they are integers that it takes. Where a mask is made of the values, some
    sequences are padded at their end.
    """
    draw = np.random.default_rng(seed)
    # Axis 1 is the batch of a time-major model; states of one come batch first, so that all free sizes must be the same.
    free = samples if model.time_major else STEPS
    graph = as_functional(model)
    arrays = []
    for tensor in graph.inputs:
        ends = _ends(graph, tensor)
        shape = [tensor.shape[0] or samples, *(free if size is None else size for size in tensor.shape[1:])]
        arrays.append(_padded(_drawn(draw, shape, tensor, ends), ends))
    return arrays


def _drawn(draw: np.random.Generator, shape: list[int], tensor: KerasTensor, ends: list[Layer]) -> np.ndarray:
    vocabularies = [int(layer.input_dim) for layer in ends if isinstance(layer, Embedding)]
    if vocabularies:
        return draw.integers(0, min(vocabularies), shape).astype("int32")
    kind = tensor.dtype if tensor.dtype in ("float64", "int32", "int64", "bool") else "float32"
    return draw.standard_normal(shape).astype(kind)


def _padded(x: np.ndarray, ends: list[Layer]) -> np.ndarray:
    """``x`` [N,T,…] with the last steps of all samples but the first replaced by what the layers take for padding."""
    marks = [layer.mask_value for layer in ends if isinstance(layer, Masking)]
    marks += [0 for layer in ends if isinstance(layer, Embedding) and layer.mask_zero]
    if not marks or x.ndim < 2:
        return x
    steps = x.shape[1]
    for k in range(1, len(x)):
        x[k, steps - k * steps // (len(x) + 1) :] = marks[0]
    return x


def _ends(graph: Any, tensor: KerasTensor) -> list[Layer]:
    """The layers that the numbers of an input come to, looking through those that only move them."""
    found: list[Layer] = []
    pending = [(graph, tensor)]
    for _ in range(_MAX_LAYERS):
        if not pending:
            break
        graph, tensor = pending.pop()
        for node in graph._graph.nodes:
            if any(source is tensor for source in node.sources):
                pending += _behind(graph, node, tensor, found)
    return found


def _behind(graph: Any, node: Node, tensor: KerasTensor, found: list[Layer]) -> list[tuple[Any, KerasTensor]]:
    """Where the tensor goes on from one layer: into a model's own inputs, or out of a layer without weights."""
    layer = node.layer
    while type(layer).__name__ == "TimeDistributed":
        layer = layer.layer
    if isinstance(layer, (Functional, Sequential)):
        inner = as_functional(layer)
        given = [leaf for leaf in flatten(node.inputs) if isinstance(leaf, KerasTensor)]
        return [(inner, end) for end, source in zip(inner.inputs, given, strict=False) if source is tensor]
    found.append(layer)
    return [] if layer.weights or isinstance(layer, Masking) else [(graph, output) for output in node.outputs]
