"""The ``.h5`` files of Keras 1 to 3: whole models and weights by layer name (keras-spec 13.3) -> plain dicts and arrays.

In terms of ``hdf5``; used by ``keras_file``. The root (weights only) or its group "model_weights" has the attribute
``layer_names``, each layer's group the attribute ``weight_names``, in order; long lists are cut into ``layer_names0``, ….
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .hdf5 import Tree

MODEL_WEIGHTS = "model_weights"
# Optimizer state is not read.
SKIPPED = ("optimizer_weights", "optimizer")
_ATTRIBUTES = ("layer_names", "weight_names")


class LayerArrays(NamedTuple):
    """The weights of one layer in their order, and its name."""

    name: str
    arrays: list[np.ndarray]


def wanted(name: str) -> bool:
    """Whether an attribute of this name is read: the ones of Keras, also ``layer_names0``."""
    return name in ("model_config", "training_config", "keras_version", "backend") or name.rstrip("0123456789") in _ATTRIBUTES


def is_by_layer(tree: Tree) -> bool:
    """Whether the file keeps weights by layer name, and not by Keras 3's paths."""
    return MODEL_WEIGHTS in tree.attributes or bool(_listed(tree, "", "layer_names"))


def layers_of(tree: Tree, file: str) -> list[LayerArrays]:
    """The weights of all layers, in the order of the file. ValueError where a name leads nowhere."""
    root = MODEL_WEIGHTS if MODEL_WEIGHTS in tree.attributes else ""
    layers = []
    for layer in _listed(tree, root, "layer_names"):
        group = f"{root}/{layer}" if root else layer
        if group not in tree.attributes:
            raise ValueError(f"{file}: layer {layer!r} is listed in 'layer_names', but the file has no group '{group}'")
        names = _listed(tree, group, "weight_names")
        missing = next((name for name in names if f"{group}/{name}" not in tree.arrays), None)
        if missing is not None:
            raise ValueError(f"{file}: the file has no dataset '{group}/{missing}', which 'weight_names' of {layer!r} lists")
        layers.append(LayerArrays(layer, [tree.arrays[f"{group}/{name}"] for name in names]))
    return layers


def _listed(tree: Tree, group: str, name: str) -> list[str]:
    """An attribute that holds a list of names, whole or in numbered pieces."""
    attributes = tree.attributes.get(group, {})
    pieces = [attributes[name]] if name in attributes else []
    while f"{name}{len(pieces)}" in attributes and name not in attributes:
        pieces.append(attributes[f"{name}{len(pieces)}"])
    return [str(entry) for piece in pieces for entry in ([piece] if isinstance(piece, str) else piece)]


def text_of(tree: Tree, name: str) -> str | None:
    """A text attribute of the root or of the group of weights."""
    for group in ("", MODEL_WEIGHTS):
        value: Any = tree.attributes.get(group, {}).get(name)
        if isinstance(value, str):
            return value
    return None
