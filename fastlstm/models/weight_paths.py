"""Where Keras keeps the weights of a Sequential in a weights file (keras-spec 13.2). Used by ``saving`` and ``writing``."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any

from ..layers.base import Layer
from ..layers.subclassing import inner_attributes, is_own
from ..layers.time_major import TimeMajor
from ..serialization import to_snake_case
from ..variable import Variable

# Where Keras keeps a layer's inner layers: attribute here = group name in the weights file.
INNER = ("cell", "forward_layer", "backward_layer", "layer")


def groups(layers: list[Layer]) -> Iterator[tuple[str, Layer]]:
    """Group name of every layer: its class name in snake case, numbered in the order of the layers."""
    counts: collections.Counter[str] = collections.Counter()
    for layer in layers:
        name = to_snake_case(type(_kept(layer)).__name__)
        yield (f"{name}_{counts[name]}" if counts[name] else name), layer
        counts[name] += 1


def _kept(layer: Any) -> Any:
    """The layer whose place a file knows: to the Keras that had time-major layers they were LSTM, GRU, … like all others."""
    return layer.layer if isinstance(layer, TimeMajor) else layer


def holders(path: str, layer: Any) -> Iterator[tuple[str, Layer]]:
    """The path of a layer and of all layers inside it: each keeps its own variables in the group "<path>/vars"."""
    layer = _kept(layer)
    yield path, layer
    if hasattr(layer, "layers"):
        for name, inner in groups(layer.layers):
            yield from holders(f"{path}/layers/{name}", inner)
    for name, inner in groups(getattr(layer, "pieces", [])):  # TorchLSTM, which Keras does not have
        yield from holders(f"{path}/pieces/{name}", inner)
    for attribute in INNER:
        part = getattr(layer, attribute, None)
        if isinstance(part, Layer):
            yield from holders(f"{path}/{attribute}", part)
    if not is_own(type(layer)):  # a class of the caller's own: its attributes, as Keras finds them
        for attribute, part in inner_attributes(layer):
            if isinstance(part, (list, tuple)):
                for name, inner in groups(list(part)):
                    yield from holders(f"{path}/{attribute}/{name}", inner)
            elif attribute not in INNER:
                yield from holders(f"{path}/{attribute}", part)


def variables(path: str, layer: Layer) -> Iterator[tuple[str, Variable]]:
    """Dataset path of every variable of a layer and of its inner layers: own trainable ones first, as Keras saves them."""
    for group, holder in holders(path, layer):
        for index, variable in enumerate(holder._variables):
            yield f"{group}/vars/{index}", variable
