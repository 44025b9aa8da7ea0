"""What layers that hold other layers share: building the inner layer with its place in the path, config dicts of layers.

Used by Bidirectional, TimeDistributed and ``models.Sequential``, in terms of Layer and of the table ``layers.LAYERS``.
"""

from __future__ import annotations

from typing import Any

from ..serialization import deserialize_object, serialize_object
from .base import Layer

# Where Keras keeps its models; everything else is in keras.layers.
_MODULES = {"Sequential": "keras", "Functional": "keras.src.models.functional"}


def build_inner(owner: Layer, layer: Layer, input_shape: Any) -> None:
    """Builds ``layer`` inside ``owner``: the paths of its variables get the owner's name in front.

    A layer that was built before it came here keeps its variables and their paths.
    """
    if layer.built:
        return
    layer.build(input_shape)
    for variable in layer.weights:
        variable.path = f"{owner.name}/{variable.path}"


def serialize(layer: Layer) -> dict:
    """The 4-key dict of a layer: module, class_name, config, registered_name (keras-spec 13)."""
    class_name = type(layer).__name__
    config = serialize_object(layer, _MODULES.get(class_name, "keras.layers"))
    assert config is not None
    return {**config, "registered_name": "Functional"} if class_name == "Functional" else config


def deserialize(config: Any) -> Layer:
    """The layer of a {"class_name", "config"} dict, not built yet; other keys (``build_config``, …) are ignored.

    ValueError for a malformed dict and for a class that ``layers.LAYERS`` does not list.
    """
    from . import LAYERS  # at call time: the table names the modules that import this one

    return deserialize_object(config, LAYERS, "layer")


def inner_layer(value: Any) -> Layer:
    """``value`` if it is a layer, else the layer of its config dict."""
    return value if isinstance(value, Layer) else deserialize(value)
