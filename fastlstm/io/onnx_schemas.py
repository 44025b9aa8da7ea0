"""What ONNX says about an operator in a version of the standard (``onnx.defs``), as plain data; for ``models.onnx.checks``."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from .onnx_file import import_onnx

_NAMES = {"float": "float32", "double": "float64"}


class Formal(NamedTuple):
    """One formal input or output: the dtypes it may have, and the name of the type that it shares with others ("" for none)."""

    name: str
    dtypes: frozenset[str]
    shared: str
    optional: bool = False
    variadic: bool = False


class Attribute(NamedTuple):
    """``kind`` as in AttributeProto ("INTS"), and the default, None for none."""

    kind: str
    required: bool
    default: Any


class Schema(NamedTuple):
    """An operator since the version ``since``; ``fewest`` and ``most``: how many (inputs, outputs) it may have."""

    since: int
    inputs: tuple[Formal, ...]
    outputs: tuple[Formal, ...]
    fewest: tuple[int, int]
    most: tuple[int, int]
    attributes: dict[str, Attribute]


def newest_opset() -> int:
    """The newest version of the standard that the installed package onnx knows."""
    return import_onnx().defs.onnx_opset_version()


@functools.cache
def schema_of(op: str, opset: int) -> Schema | None:
    """The schema that is in force for an operator of the standard domain in ``opset``; None for an unknown operator."""
    onnx = import_onnx()
    try:
        found = onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return None
    attributes = {name: _attribute(onnx, attribute) for name, attribute in found.attributes.items()}
    return Schema(
        found.since_version,
        tuple(_formal(onnx, parameter) for parameter in found.inputs),
        tuple(_formal(onnx, parameter) for parameter in found.outputs),
        (found.min_input, found.min_output),
        (found.max_input, found.max_output),
        attributes,
    )


def _formal(onnx: Any, parameter: Any) -> Formal:
    options = onnx.defs.OpSchema.FormalParameterOption
    variadic = parameter.option == options.Variadic
    dtypes = frozenset(map(_dtype, parameter.types))
    shared = "" if "(" in parameter.type_str or (variadic and not parameter.is_homogeneous) else parameter.type_str
    return Formal(parameter.name, dtypes, shared, parameter.option == options.Optional, variadic)


def _dtype(text: str) -> str:
    """ "float32" of "tensor(float)"; "seq(tensor(float))" stays what it is."""
    inner = text[7:-1] if text.startswith("tensor(") else text
    return _NAMES.get(inner, inner)


def _attribute(onnx: Any, attribute: Any) -> Attribute:
    proto = attribute.default_value
    default = onnx.helper.get_attribute_value(proto) if proto.type else None
    if isinstance(default, bytes):
        default = default.decode()
    elif isinstance(default, (list, tuple)):
        default = [item.decode() if isinstance(item, bytes) else item for item in default]
    return Attribute(attribute.type.name, attribute.required, default)
