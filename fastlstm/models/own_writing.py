"""A model -> the ``.npz`` and ``.safetensors`` files of ``io.own_file``. Used by ``writing`` and ``converting``."""

from __future__ import annotations

import datetime
import os
from typing import TYPE_CHECKING, Any

from ..variable import Variable
from ..version import __version__
from .graph_config import writing_own

if TYPE_CHECKING:
    from .base import Model

FORMAT = "3.15.1"  # the version of Keras whose configs these are like


def metadata() -> dict[str, str]:
    """metadata.json of a file that is written now."""
    return {
        "keras_version": FORMAT,
        "date_saved": datetime.datetime.now().strftime("%Y-%m-%d@%H:%M:%S"),
        "written_by": f"fastlstm {__version__}",
    }


def save_own(model: Model, filepath: Any, placed: dict[str, Variable], layout: str = "keras") -> None:
    """Writes ``.npz`` or ``.safetensors``, as the suffix of ``filepath`` says.

    ``placed``: the variables by their paths in a .keras file. ``layout``: "torch" for the names and arrays of PyTorch, in a
    ``.safetensors`` file of a model that has them. ValueError where it has not.
    """
    from ..io.own_file import own_text, write_own_npz, write_own_safetensors
    from .writing import model_config

    with writing_own():
        config = model_config(model)
    if layout == "torch":
        from .torch_layout import torch_arrays

        arrays = torch_arrays(model)
        write_own_safetensors(filepath, arrays, own_text(config, metadata(), {name: name for name in arrays}, layout))
        return
    names = array_names(placed)
    arrays = {name: placed[path].value for name, path in names.items()}
    if os.fsdecode(filepath).endswith(".npz"):
        write_own_npz(filepath, config, metadata(), arrays, names)
    else:
        write_own_safetensors(filepath, arrays, own_text(config, metadata(), names))


def array_names(placed: dict[str, Variable]) -> dict[str, str]:
    """{name of an array: its path in a .keras file}: the variable's own path, as Keras has it, where that can be a name."""
    names: dict[str, str] = {}
    for path, variable in placed.items():
        parts = variable.path.split("/")
        plain = len(parts) > 1 and ".." not in parts and "" not in parts and not set(variable.path) & set(":\\\0")
        # A layer may be called as another's place in the file is: "layers/lstm/…"; such a name would be ambiguous.
        free = variable.path not in names and not variable.path.startswith("layers/")
        names[variable.path if plain and free else path] = path
    return names
