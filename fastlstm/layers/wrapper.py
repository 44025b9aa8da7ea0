"""What layers that hold other layers share: building the inner layer with its place in the path, config dicts of layers.

Used by Bidirectional, TimeDistributed and ``models.Sequential``, in terms of Layer and of the table ``layers.LAYERS``.
"""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..serialization import deserialize_object, serialize_object
from .base import Layer

# Where Keras keeps its models; everything else is in keras.layers.
_MODULES = {"Sequential": "keras", "Functional": "keras.src.models.functional"}


class _Sharing(threading.local):
    """Layers that stand in two places of a model: Keras gives both dicts one ``shared_object_id``."""

    written: frozenset[int] = frozenset()
    read: dict[int, Layer] | None = None


_sharing = _Sharing()


@contextlib.contextmanager
def writing_shared(model: Layer) -> Iterator[None]:
    """Inside, ``serialize`` marks the layers that ``model`` holds in more than one place."""
    before, counts, pending = _sharing.written, collections.Counter[int](), [model]
    while pending:
        for inner in pending.pop()._layers:
            counts[id(inner)] += 1
            if counts[id(inner)] == 1:
                pending.append(inner)
    _sharing.written = before | {key for key, count in counts.items() if count > 1}
    try:
        yield
    finally:
        _sharing.written = before


@contextlib.contextmanager
def reading_shared() -> Iterator[None]:
    """Inside, dicts with one ``shared_object_id`` become one layer."""
    before, _sharing.read = _sharing.read, {} if _sharing.read is None else _sharing.read
    try:
        yield
    finally:
        _sharing.read = before


def restored(entry: Any, make: Callable[[], Layer]) -> Layer:
    """The layer that ``make`` makes of a dict, or the one that was made of another dict with the same ``shared_object_id``."""
    key = entry.get("shared_object_id") if isinstance(entry, Mapping) else None
    if _sharing.read is None or type(key) is not int:
        return make()
    if key not in _sharing.read:
        _sharing.read[key] = make()
    return _sharing.read[key]


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
    if class_name == "Functional":
        config["registered_name"] = "Functional"
    if id(layer) in _sharing.written:
        config["shared_object_id"] = id(layer)
    return config


def deserialize(config: Any) -> Layer:
    """The layer of a {"class_name", "config"} dict, not built yet; other keys (``build_config``, …) are ignored.

    ValueError for a malformed dict and for a class that ``layers.LAYERS`` does not list.
    """
    from . import LAYERS  # at call time: the table names the modules that import this one

    return restored(config, lambda: deserialize_object(config, LAYERS, "layer"))


def inner_layer(value: Any) -> Layer:
    """``value`` if it is a layer, else the layer of its config dict."""
    return value if isinstance(value, Layer) else deserialize(value)
