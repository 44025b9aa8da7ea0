"""What initializers, regularizers and constraints have in common: names and dicts <-> objects (keras-spec 11-13).

One ``Family`` each in ``initializers``, ``regularizers`` and ``constraints``; the bound methods are their ``get``,
``serialize`` and ``deserialize``. Nothing named in a dict is imported or executed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .serialization import deserialize_object, function_name_dict, serialize_object, to_snake_case


class Family:
    """The classes of one kind, by name.

    Args: ``kind`` ("initializer", for messages), ``module`` ("keras.initializers", written into dicts), ``classes`` (known
    by class name and its snake_case form), ``aliases`` (further names).
    """

    def __init__(self, kind: str, module: str, classes: tuple[type, ...], aliases: Mapping[str, type] | None = None):
        self.kind, self.module = kind, module
        self.table: dict[str, type] = {c.__name__: c for c in classes}
        self.table |= {to_snake_case(c.__name__): c for c in classes} | dict(aliases or {})

    def get(self, identifier: Any) -> Any:
        """The object of None (None), a name (case-sensitive), a serialized dict, a class (called without arguments), an
        instance or any other callable (returned as it is). ValueError for anything else."""
        if identifier is None:
            return None
        if isinstance(identifier, Mapping):
            return self.deserialize(identifier)
        if isinstance(identifier, str):
            return self.deserialize({"class_name": identifier, "config": {}})
        if isinstance(identifier, type):
            return identifier()
        if callable(identifier):
            return identifier
        raise ValueError(
            f"Could not interpret {self.kind} identifier: {identifier!r}. Known names: {', '.join(sorted(self.table))}"
        )

    def deserialize(self, config: Any, custom_objects: Mapping[str, Callable] | None = None) -> Any:
        """The object of a dict with ``class_name`` and ``config``, or of a name; None stays None.

        ``custom_objects``: the caller's classes and functions by name; they come first. ValueError for an unknown name, a
        malformed dict, or arguments that the class does not take.
        """
        if config is None:
            return None
        if isinstance(config, str):
            config = {"class_name": config, "config": {}}
        if isinstance(config, Mapping) and config.get("class_name") == "function":  # Keras' dict for a plain function
            config = {"class_name": config.get("config"), "config": {}}
        table: dict[str, Any] = {**self.table, **(custom_objects or {})}
        name = config.get("class_name") if isinstance(config, Mapping) else None
        if isinstance(name, str) and name not in table:
            unqualified = name.rpartition(">")[2]  # Keras registers a caller's class as "package>name"
            if unqualified in table:
                table[name] = table[unqualified]
        if isinstance(name, str) and name in table and not isinstance(table[name], type):
            return table[name]
        try:
            return deserialize_object(config, table, self.kind)
        except TypeError as error:
            raise ValueError(f"Cannot build the {self.kind} {name!r} from {config!r}: {error}") from error

    def serialize(self, obj: Any) -> Any:
        """The 4-key dict of an object with ``get_config``; None stays None; a function becomes a dict with its name only.

        TypeError for an object without ``get_config``.
        """
        if obj is None:
            return None
        named = function_name_dict(obj)
        if named is not None:
            return named
        if not hasattr(obj, "get_config"):
            raise TypeError(
                f"Cannot serialize the {self.kind} {obj!r}: it is neither a function nor has it a get_config() method"
            )
        known = self.table.get(type(obj).__name__) is type(obj)
        return serialize_object(obj, self.module if known else type(obj).__module__)
