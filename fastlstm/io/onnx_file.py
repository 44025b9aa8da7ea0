"""ONNX files -> plain graphs of nodes and NumPy arrays, parsed by the package onnx (extra ``[onnx]``); used by ``models.onnx``.

What the bytes say is checked before it is believed: a tensor holds as many numbers as it declares, external data lies in the
model's own folder. What a file may say but fastlstm cannot run (other dtypes, sparse tensors, functions) is collected in
``problems``, so that ``models.onnx.checks`` names it together with everything else.
"""

from __future__ import annotations

import math
import os
from typing import IO, Any, NamedTuple

import numpy as np

# TensorProto.DataType -> NumPy's name. Strings, complex numbers and the types of 4 and 8 bits are not here.
DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
}
_FIELD_OF = {"float32": "float_data", "float64": "double_data", "int64": "int64_data", "uint32": "uint64_data"}
_FIELD_OF["uint64"] = "uint64_data"  # all other types: int32_data

MAX_FIELDS = 100_000  # of the outermost message: one for each function, operator set and piece of metadata
# Fields of ModelProto by number: 0 for a varint, 2 for bytes with a length. Field 7 is the graph.
_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
_KINDS = {"INT": "i", "FLOAT": "f", "STRING": "s", "INTS": "ints", "FLOATS": "floats", "STRINGS": "strings"}


class ValueInfo(NamedTuple):
    """A graph's input or output: NumPy's name of its dtype ("float32"; else the file's own word) and its shape.

    An axis is a size, the name of a size, or None; the shape is None where the file does not say it.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


class Node(NamedTuple):
    """One node as written. ``name`` is made up where the file has none. ``attributes``: int, float, str, lists, array, Graph."""

    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


class Graph(NamedTuple):
    """Nodes in order, the inputs that have no initializer, the outputs, and the initializers by name (read-only arrays)."""

    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[ValueInfo, ...]
    outputs: tuple[ValueInfo, ...]
    constants: dict[str, np.ndarray]


class OnnxFile(NamedTuple):
    """A model: ``opsets`` {domain: version}, ``metadata`` of the file, ``size`` in bytes, ``problems`` (see above)."""

    name: str
    graph: Graph
    opsets: dict[str, int]
    metadata: dict[str, str]
    size: int
    problems: list[str]


def import_onnx() -> Any:
    """The module onnx; ImportError that names the extra without it."""
    try:
        import onnx
    except ImportError as error:
        raise ImportError("reading .onnx files needs the package onnx: pip install 'fastlstm[onnx]'") from error
    return onnx


def is_onnx(stream: IO[bytes]) -> bool:
    """Whether the bytes look like a serialized ModelProto: its fields alone, to the end, a graph among them.

    A file that begins with the version of the format, as writers do, counts also where the rest is damaged.
    """
    stream.seek(0)
    head = stream.read(2)
    if len(head) == 2 and head[0] == 8 and 0 < head[1] < 32:
        return True
    size, position, graph = stream.seek(0, os.SEEK_END), 0, False
    for _ in range(MAX_FIELDS):
        if position >= size:
            break
        stream.seek(position)
        tag, start = _varint(stream.read(10))
        if not start or _FIELDS.get(tag >> 3) != tag & 7:
            return False
        graph = graph or tag >> 3 == 7
        stream.seek(position + start)
        length, width = _varint(stream.read(10))
        if not width:
            return False
        position += start + width + (length if tag & 7 == 2 else 0)
    return graph and position == size


def _varint(data: bytes) -> tuple[int, int]:
    """(value, bytes taken) of the number of variable length that ``data`` begins with; (0, 0) for none."""
    value = 0
    for count, byte in enumerate(data, 1):
        value |= (byte & 127) << 7 * (count - 1)
        if byte < 128:
            return value, count
    return 0, 0


def read_onnx(data: bytes, name: str, folder: str | None) -> OnnxFile:
    """The model in ``data``. ``name``: of the file, for messages; ``folder``: where external data may lie, None for nowhere.

    ImportError without onnx; ValueError for what is damaged, has absurd sizes or points out of the folder; OSError where
    external data cannot be read.
    """
    onnx = import_onnx()
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError, or what its other implementations raise
        raise ValueError(f"{name}: is no ONNX model, or a damaged one: {' '.join(str(error).split())}") from error
    if not model.HasField("graph"):
        raise ValueError(f"{name}: is no ONNX model, or a damaged one: it has no graph")
    reader = _Reader(onnx, name, folder)
    if len(model.functions):
        listed = ", ".join(repr(function.name) for function in model.functions[:8])
        reader.problems.append(f"the model has functions of its own ({listed}); inline them first, with onnx.inliner")
    opsets: dict[str, int] = {}
    for entry in model.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if opsets.setdefault(domain, entry.version) != entry.version:
            raise ValueError(f"{name}: the file imports two versions of the operators of domain {domain!r}")
    graph = reader.graph(model.graph, "")
    metadata = {
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "ir_version": str(model.ir_version),
        **{entry.key: entry.value for entry in model.metadata_props},
    }
    return OnnxFile(name, graph, opsets, metadata, len(data), reader.problems)


class _Reader:
    """Turns the messages of one file into plain data."""

    def __init__(self, onnx: Any, file: str, folder: str | None):
        self.onnx, self.file, self.folder = onnx, file, folder
        self.problems: list[str] = []
        self.external: dict[str, bytes] = {}

    def graph(self, proto: Any, place: str) -> Graph:
        """A graph; ``place`` says in messages which node it belongs to, "" for the outermost."""
        constants = {}
        for tensor in proto.initializer:
            array = self.tensor(tensor, f"{place}initializer {tensor.name!r}")
            if tensor.name in constants:
                raise ValueError(f"{self.file}: {place}two initializers are named {tensor.name!r}")
            if array is not None:
                constants[tensor.name] = array
        for sparse in proto.sparse_initializer:
            self.problems.append(f"{place}initializer {sparse.values.name!r} is a sparse tensor")
        inputs = tuple(self.value(info) for info in proto.input if info.name not in constants)
        nodes = tuple(self.node(node, number, place) for number, node in enumerate(proto.node, 1))
        return Graph(proto.name, nodes, inputs, tuple(self.value(info) for info in proto.output), constants)

    def value(self, info: Any) -> ValueInfo:
        kind = info.type.WhichOneof("value")
        if kind != "tensor_type":
            return ValueInfo(info.name, "untyped" if kind is None else kind.removesuffix("_type"), None)
        tensor = info.type.tensor_type
        shape = None
        if tensor.HasField("shape"):
            shape = tuple(self.axis(axis, info.name) for axis in tensor.shape.dim)
        return ValueInfo(info.name, self.dtype(tensor.elem_type), shape)

    def axis(self, axis: Any, name: str) -> int | str | None:
        kind = axis.WhichOneof("value")
        if kind == "dim_value" and axis.dim_value < 0:
            raise ValueError(f"{self.file}: an axis of {name!r} has the size {axis.dim_value}")
        return axis.dim_value if kind == "dim_value" else axis.dim_param or None

    def dtype(self, number: int) -> str:
        if number in DTYPES:
            return DTYPES[number]
        known = self.onnx.TensorProto.DataType
        return known.Name(number).lower() if number in known.values() else f"type {number}"

    def node(self, proto: Any, number: int, place: str) -> Node:
        name = proto.name or f"{number}, without a name"
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        where = f"{place}node {name!r} ({proto.op_type}): "
        attributes = {}
        for attribute in proto.attribute:
            if attribute.name in attributes:
                raise ValueError(f"{self.file}: {where}has the attribute {attribute.name!r} twice")
            value = self.attribute(attribute, where)
            if value is not None:
                attributes[attribute.name] = value
        return Node(name, proto.op_type, domain, tuple(proto.input), tuple(proto.output), attributes)

    def attribute(self, proto: Any, where: str) -> Any:
        """The value of an attribute; None, and a problem told, for kinds that no operator here has."""
        number, kinds = proto.type, self.onnx.AttributeProto.AttributeType
        kind = kinds.Name(number) if number in kinds.values() else f"kind {number}"
        if proto.ref_attr_name:
            kind = "reference"
        elif kind == "TENSOR":
            return self.tensor(proto.t, f"{where}attribute {proto.name!r}")
        elif kind == "GRAPH":
            return self.graph(proto.g, where)
        elif kind in _KINDS:
            value = getattr(proto, _KINDS[kind])
            if kind in ("STRING", "STRINGS"):
                texts = [text.decode("utf-8", "replace") for text in ([value] if kind == "STRING" else value)]
                return texts[0] if kind == "STRING" else texts
            return list(value) if kind in ("INTS", "FLOATS") else value
        self.problems.append(f"{where}the attribute {proto.name!r} is of kind {kind}")
        return None

    # -- tensors ------------------------------------------------------------------------------------------------------
    def tensor(self, proto: Any, what: str) -> np.ndarray | None:
        """A tensor as a read-only array; None, and a problem told, for a dtype that NumPy does not have."""
        dtype = self.dtype(proto.data_type)
        if proto.data_type not in DTYPES:
            self.problems.append(f"{what} is of dtype {dtype}")
            return None
        shape = tuple(proto.dims)
        if any(size < 0 for size in shape):
            raise ValueError(f"{self.file}: {what} has the shape {shape}")
        count, itemsize = math.prod(shape), np.dtype(dtype).itemsize
        if proto.data_location == self.onnx.TensorProto.EXTERNAL:
            array = np.frombuffer(self.outside(proto, what, count * itemsize), np.dtype(dtype).newbyteorder("<"))
            return _frozen(array.astype(dtype, copy=False).reshape(shape))
        raw = proto.HasField("raw_data")
        held = len(proto.raw_data) if raw else len(getattr(proto, _FIELD_OF.get(dtype, "int32_data")))
        if held != (count * itemsize if raw else count):
            unit = "bytes" if raw else "numbers"
            raise ValueError(f"{self.file}: {what} of shape {shape}, {dtype}, holds {held} {unit}")
        try:
            return _frozen(self.onnx.numpy_helper.to_array(proto))
        except (OverflowError, TypeError, ValueError) as error:
            raise ValueError(f"{self.file}: {what} cannot be read: {' '.join(str(error).split())}") from error

    def outside(self, proto: Any, what: str, size: int) -> bytes:
        """``size`` bytes of external data: from a file in the model's folder or below it, never through a link out of it."""
        told = {entry.key: entry.value for entry in proto.external_data}
        location = told.get("location", "")
        if self.folder is None:
            raise ValueError(
                f"{self.file}: {what} lies in another file, {location!r}: load the model by its path, not from a file object"
            )
        folder = os.path.realpath(self.folder)
        path = os.path.realpath(os.path.join(folder, location)) if "\0" not in location else ""
        inside = path.startswith(os.path.join(folder, ""))
        if not location or os.path.isabs(location) or ".." in location.replace("\\", "/").split("/") or not inside:
            raise ValueError(f"{self.file}: {what} lies in {location!r}, which is not in the model's folder")
        if not os.path.isfile(path):
            raise OSError(f"{self.file}: {what} lies in {location!r}, which is no file")
        try:
            offset, length = int(told.get("offset", 0)), int(told.get("length", size))
        except ValueError as error:
            raise ValueError(f"{self.file}: {what} gives a place in {location!r} that is no number") from error
        if length != size or offset < 0 or offset + length > os.path.getsize(path):
            raise ValueError(
                f"{self.file}: {what} needs {size} bytes, and says that they are {length} bytes from byte {offset} on of "
                f"{location!r}, which has {os.path.getsize(path)}"
            )
        with open(path, "rb") as stream:
            stream.seek(offset)
            data = stream.read(size)
        if len(data) != size:
            raise OSError(f"{self.file}: {location!r} was shortened while it was read")
        return data


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
