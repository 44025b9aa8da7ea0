"""What today's Keras would make of an old file without saying so, in numbers. Used by ``verify_command``.

In terms of ``models.saving``, which can build a model with each meaning as the file has it and as Keras 3 has it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..io import KerasFile
from ..models.converting import largest_difference
from ..models.layer_configs import MEANINGS
from ..models.saving import build_model, old_meanings


class Change(NamedTuple):
    """One meaning of ``MEANINGS``: the layers that have it, and by how much the answers of the model change with it.

    ``difference`` None: ``why`` says why Keras 3 would not open the file so.
    """

    meaning: str
    text: str
    layers: list[str]
    difference: float | None
    why: str = ""


def changes(file: KerasFile, inputs: list[np.ndarray]) -> list[Change]:
    """The meanings that occur in the file, each alone. Answers of random numbers (training=True) are compared once."""
    met = old_meanings(file)
    given = inputs if len(inputs) > 1 else inputs[0]
    # Random numbers in both would hide what else differs.
    base = ("training",) if "training" in met else ()
    want = build_model(file, today=base)(given, training=False) if met else None
    found = []
    for meaning, layers in met.items():
        difference, why = None, ""
        try:
            if meaning == "training":
                difference = largest_difference(build_model(file)(given, training=False), want)
            else:
                difference = largest_difference(build_model(file, today=(*base, meaning))(given, training=False), want)
        except ValueError as error:  # weights of another shape: Keras 3 refuses them too
            why = " ".join(str(error).split())
        found.append(Change(meaning, MEANINGS[meaning], sorted(set(layers)), difference, why))
    return found


def as_today(file: KerasFile) -> Any:
    """The model with every meaning of Keras 3, None where its weights do not fit then."""
    try:
        return build_model(file, today=tuple(MEANINGS))
    except ValueError:
        return None
