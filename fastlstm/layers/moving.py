"""Calls on arrays that must be moved first: under ``device("gpu")`` NumPy arrays, under ``device("cpu")`` CuPy arrays.

Used by every layer's ``__call__`` and ``vjp``, once for the outermost layer: the layers inside see arrays in their place.
"""

from __future__ import annotations

from typing import Any

from .. import devices


def moved_call(layer: Any, place: str, inputs: Any, **options: Any) -> Any:
    """``layer(inputs, **options)`` at ``place``, what it returns back where ``inputs`` lives."""
    back = "cpu" if place == "gpu" else "gpu"
    return devices.moved(layer(devices.moved(inputs, place), **_moved_options(options, place)), back)


def moved_vjp(layer: Any, place: str, inputs: Any, **options: Any) -> tuple[Any, Any]:
    """``layer.vjp`` at ``place``; outputs, cotangents and gradients live where ``inputs`` does."""
    back = "cpu" if place == "gpu" else "gpu"
    outputs, pullback = layer.vjp(devices.moved(inputs, place), **_moved_options(options, place))

    def pullback_from_here(dy: Any) -> Any:
        return devices.moved(pullback(devices.moved(dy, place)), back)

    return devices.moved(outputs, back), pullback_from_here


def _moved_options(options: dict[str, Any], place: str) -> dict[str, Any]:
    return {name: devices.moved(value, place) for name, value in options.items()}
