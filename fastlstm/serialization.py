"""Objects <-> the dicts that Keras writes: {"module", "class_name", "config", "registered_name"} (keras-spec 13).

Used by ``activations``, ``initializers``, ``regularizers``, ``constraints`` and the layers. Nothing named in a dict is
ever imported or executed: a class name is looked up in a table that the caller passes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def to_snake_case(name: str) -> str:
    """ "ConvLSTM1D" -> "conv_lstm1d", "BatchNormalization" -> "batch_normalization", as Keras names layers and groups."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def serialize_object(obj: Any, module: str) -> dict | None:
    """The 4-key dict of an object with ``get_config``; None stays None."""
    if obj is None:
        return None
    return {"module": module, "class_name": type(obj).__name__, "config": obj.get_config(), "registered_name": None}


def function_name_dict(function: Any) -> dict | None:
    """The dict that Keras writes for a plain function: its name, never its code. None for what is no named function."""
    name = getattr(function, "__name__", None)
    if not callable(function) or not isinstance(name, str) or hasattr(function, "get_config"):
        return None
    return {"module": "builtins", "class_name": "function", "config": name, "registered_name": "function"}


def deserialize_object(config: Any, table: Mapping[str, type], what: str) -> Any:
    """The object of a {"class_name", "config"} dict. ValueError for a malformed dict or a class name that ``table`` lacks."""
    if not isinstance(config, Mapping) or not isinstance(config.get("class_name"), str):
        raise ValueError(f"Cannot deserialize {what} from {config!r}: expected a dict with 'class_name' and 'config'")
    name = config["class_name"]
    if name not in table:
        raise ValueError(f"Unknown {what}: {name!r}. Known: {', '.join(sorted(table))}")
    inner = config.get("config") or {}
    if not isinstance(inner, Mapping):
        raise ValueError(f"Cannot deserialize {what} {name!r}: 'config' must be a dict. Received: {inner!r}")
    cls = table[name]
    return cls.from_config(dict(inner)) if hasattr(cls, "from_config") else cls(**inner)
