"""The weights of a whole model under PyTorch's names and in its layout, and back. Used by ``own_writing`` and ``weight_files``.

``<layer>.weight_ih_l0`` [4U,D], ``weight_hh_l0`` [4U,U], ``bias_ih_l0`` and ``bias_hh_l0`` [4U] of an LSTM, the same with
``_reverse`` of the backward half of a Bidirectional; ``weight`` [out,in] and ``bias`` of a Dense; ``weight`` of an Embedding.
LSTMs are written by ``layers.torch_weights``, which says what becomes of gates and biases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..layers import LSTM, Bidirectional, Dense, Embedding
from ..layers.base import Layer
from ..layers.torch_weights import torch_state_dict
from ..variable import Variable


def torch_arrays(model: Any) -> dict[str, np.ndarray]:
    """The arrays by PyTorch's names. ValueError, naming the layer, where PyTorch has none like it."""
    arrays: dict[str, np.ndarray] = {}
    for name, layer in _weighted(model, ""):
        if isinstance(layer, (LSTM, Bidirectional)):
            arrays |= _of_lstm(name, layer)
            continue
        for key, (variable, is_matrix) in _parts(name, layer).items():
            arrays[key] = np.ascontiguousarray(variable.value.T) if is_matrix else variable.value
    return arrays


def _of_lstm(name: str, layer: Layer) -> dict[str, np.ndarray]:
    try:
        return torch_state_dict(layer, name)
    except TypeError as error:
        raise ValueError(str(error)) from error


def torch_pairs(model: Any, arrays: Mapping[str, np.ndarray], file: str) -> list[tuple[Variable, np.ndarray]]:
    """(variable, its values) of all arrays. ValueError, naming the file, unless they fit the model one to one."""
    pairs, taken = [], set()
    for name, layer in _weighted(model, ""):
        where = f"{file}: layer {layer.name!r} of class {type(layer).__name__!r}"
        for key, (variable, is_matrix) in _parts(name, layer).items():
            summands = [key, key.replace("bias_ih", "bias_hh")] if ".bias_ih" in key else [key]
            shape = variable.shape[::-1] if is_matrix else variable.shape
            for one in summands:
                if one not in arrays:
                    raise ValueError(f"{where}: the file has no array {one!r} ({variable.name})")
                if arrays[one].shape != shape or arrays[one].dtype.kind != "f":
                    raise ValueError(
                        f"{where}: array {one!r} has shape {arrays[one].shape} and dtype {arrays[one].dtype}, expected {shape}"
                    )
            taken |= set(summands)
            value = arrays[key] if len(summands) == 1 else arrays[summands[0]] + arrays[summands[1]]
            pairs.append((variable, value.T if is_matrix else value))
    surplus = sorted(set(arrays) - taken)
    if surplus:
        raise ValueError(f"{file}: has arrays that no layer of the model takes: {surplus[:4]}")
    return pairs


def _weighted(model: Any, prefix: str) -> Iterator[tuple[str, Layer]]:
    """The layers that have weights, by their names in PyTorch: those of models inside the model as "inner.layer"."""
    for layer in model.layers:
        name = f"{prefix}{layer.name}"
        if hasattr(layer, "layers"):
            yield from _weighted(layer, f"{name}.")
        elif layer.weights:
            yield name, layer


def _parts(name: str, layer: Layer) -> dict[str, tuple[Variable, bool]]:
    """{name in PyTorch: (variable, whether it is transposed there)} of one layer."""
    halves: dict[str, Any] = (
        {"": layer.forward_layer, "_reverse": layer.backward_layer} if isinstance(layer, Bidirectional) else {"": layer}
    )
    if all(isinstance(half, LSTM) for half in halves.values()):
        parts: dict[str, tuple[Variable, bool]] = {}
        for suffix, half in halves.items():
            keys = (("weight_ih", True), ("weight_hh", True), ("bias_ih", False))
            for (key, is_matrix), variable in zip(keys, half.weights, strict=False):
                parts[f"{name}.{key}_l0{suffix}"] = variable, is_matrix
        return parts
    if isinstance(layer, Dense):
        return {f"{name}.{key}": (v, key == "weight") for key, v in zip(("weight", "bias"), layer.weights, strict=False)}
    if isinstance(layer, Embedding):
        return {f"{name}.weight": (layer.weights[0], False)}
    raise ValueError(f"layer {layer.name!r} of class {type(layer).__name__!r} cannot be written in the layout of PyTorch")
