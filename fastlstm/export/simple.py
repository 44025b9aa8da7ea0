"""Layers without weights as Operations of C: the activations that are layers, RepeatVector, and what TimeDistributed may hold.

In terms of ``pieces``; called by ``layers``, whose table names them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layers import ELU, Flatten, LeakyReLU, ReLU, Reshape
from .pieces import Input, Operation, Place, Unsupported, literal, positions


def rectified(layer: Any, name: str, given: Input, dtype: np.dtype) -> Operation:
    """ReLU and LeakyReLU: bends at a threshold, with a slope below it and a limit above."""
    is_relu = isinstance(layer, ReLU)
    most, slope = layer.max_value if is_relu else None, layer.negative_slope
    numbers = [literal(value, dtype) for value in (slope, layer.threshold if is_relu else 0.0, 0.0 if most is None else most)]
    width = given.shape[-1]

    def lines(place: Place) -> list[str]:
        arguments = f"{', '.join(numbers)}, {int(most is not None)}, {place.source}, {place.target}"
        return [f"PREFIX_rectify({positions(place, given) * width}, {arguments});"]

    return Operation(type(layer).__name__, given.shape, given.shape, lines, helpers=("rectify",))


def activated(layer: Any, name: str, given: Input, dtype: np.dtype) -> Operation:
    """ELU and Softmax: a function of the library, for ELU times alpha below 0."""
    is_elu, width = isinstance(layer, ELU), given.shape[-1]
    if not is_elu and layer.axis not in (-1, len(given.shape)):
        raise Unsupported(f"its axis is {layer.axis!r}, and not the last one")
    if not is_elu and given.masked:
        raise Unsupported("a mask arrives at it")
    function = "FASTLSTM_ELU" if is_elu else "FASTLSTM_SOFTMAX"

    def lines(place: Place) -> list[str]:
        count = positions(place, given)
        scale = [f"PREFIX_scale_below({count * width}, {literal(layer.alpha, dtype)}, {place.target});"] if is_elu else []
        return [
            f"memcpy({place.target}, {place.source}, {count * width} * sizeof(real));",
            f"TRY(fastlstm_activate_@({function}, {place.target}, {count}, {width}));",
            *scale,
        ]

    helpers = ("scale_below",) if is_elu else ()
    return Operation(type(layer).__name__, given.shape, given.shape, lines, helpers=helpers)


def repeated(layer: Any, name: str, given: Input, dtype: np.dtype) -> Operation:
    """RepeatVector: its axis of repetitions is not the model's time."""
    (width,) = given.shape

    def lines(place: Place) -> list[str]:
        return [f"PREFIX_repeat({layer.n}, {width}, {place.source}, {place.target});"]

    return Operation("RepeatVector", given.shape, (layer.n, width), lines, helpers=("repeat",))


def reshaped_each(inner: Any, given: Input) -> Operation:
    """TimeDistributed(Flatten) and TimeDistributed(Reshape): each step keeps its numbers in their order."""
    if getattr(inner, "data_format", "channels_last") != "channels_last" and len(given.shape) > 2:
        raise Unsupported('its data_format is "channels_first"')
    after = tuple(inner.compute_output_shape((None, *given.shape[1:]))[1:])
    return Operation(f"TimeDistributed({type(inner).__name__})", given.shape, (given.shape[0], *after))


RESHAPING = (Flatten, Reshape)
RECTIFIED = (ReLU, LeakyReLU)
