"""The table that ``Model.summary`` prints: layers, output shapes, numbers of parameters. Knows layers, prints nothing."""

from __future__ import annotations

from typing import Any

from ..layers.base import Layer
from ..tables import human_bytes, shape_text, table

_HEADER = ("Layer (type)", "Output Shape", "Param #")


def summary_lines(
    model: Any, shapes: list | None, connected: list[str] | None = None, line_length: int | None = None
) -> list[str]:
    """Lines of the table of ``model.layers``.

    ``shapes``: output shape of each layer, None before the model is built ("?" then); ``connected``: what each layer is
    connected to, in a column of its own, or None; ``line_length``: width of the rules; longer lines are cut.
    """
    rows: list[tuple[str, ...]] = [_row(layer, None if shapes is None else shapes[k]) for k, layer in enumerate(model.layers)]
    header: tuple[str, ...] = _HEADER
    if connected is not None:
        rows = [(*row, source) for row, source in zip(rows, connected, strict=True)]
        header = (*_HEADER, "Connected to")
    lines = table(rows, header=header, right=(2,)).split("\n")
    totals = _totals(model)
    width = line_length or max(len(line) for line in lines + totals)
    body = [f'Model: "{model.name}"', "=" * width, lines[0], "-" * width, *lines[1:], "=" * width, *totals]
    return [line if len(line) <= width else line[: width - 1] + "…" for line in body]


def _row(layer: Layer, shape: Any) -> tuple[str, str, str]:
    label = f"{layer.name} ({type(layer).__name__})"
    if not layer.built:
        return label, "?", "0 (unbuilt)"
    if shape is None:
        text = "?"
    elif isinstance(shape, list):
        text = "[" + ", ".join(shape_text(one) for one in shape) + "]"
    else:
        text = shape_text(shape)
    return label, text, f"{layer.count_params():,}"


def _totals(model: Any) -> list[str]:
    groups = {"Total": model.weights, "Trainable": model.trainable_weights, "Non-trainable": model.non_trainable_weights}
    return [
        f"{name} params: {sum(v.size for v in variables):,} ({human_bytes(sum(v.size * v.dtype.itemsize for v in variables))})"
        for name, variables in groups.items()
    ]
