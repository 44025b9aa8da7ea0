"""``.safetensors`` files <-> arrays by name: 8 bytes with the length of a JSON header, the header, then the numbers themselves.

Used by ``models.torch_state`` and whoever keeps weights in this format; needs NumPy only. Every offset of a header is checked
against the file before anything is allocated, and the tensors must cover its data without gaps and overlaps, as the format says.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import IO, Any, NamedTuple

import numpy as np

from .keras_file import opened, parse_json
from .keras_writer import replacing

# Name in the header -> dtype of the bytes. NumPy has no bfloat16: it is read as float32, which holds every such number exactly.
_DTYPES = {
    "BOOL": "|b1",
    "U8": "|u1",
    "I8": "|i1",
    "U16": "<u2",
    "I16": "<i2",
    "F16": "<f2",
    "BF16": "<u2",
    "U32": "<u4",
    "I32": "<i4",
    "F32": "<f4",
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
}
_CODES = {np.dtype(code).newbyteorder("="): name for name, code in _DTYPES.items() if name != "BF16"}
_METADATA = "__metadata__"
MAX_HEADER_BYTES = 4 * 2**20  # some 40 000 tensors; parsed JSON takes up to 25 times its size
MAX_AXES = 32
MAX_SIZE = 2**48  # bytes of a tensor; no offset in a real file comes near


class _Entry(NamedTuple):
    """A tensor of the header: its numbers lie at bytes ``begin`` to ``end`` behind the header."""

    name: str
    code: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_safetensors(path: str | os.PathLike | IO[bytes]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """``(tensors, metadata)``: the arrays by name, in the order of the header, and the texts of ``__metadata__``.

    ``path``: a path or a binary file object. bfloat16 comes as float32 (the same values); the arrays are the caller's own.
    OSError where the file cannot be opened; ValueError, naming the file, for anything malformed: a header longer than the file
    or than 4 MiB, a name twice, an unknown dtype, offsets that leave the file, overlap or leave gaps, a size that is not that
    of the shape.
    """
    with opened(path) as (stream, file):
        return read_opened(stream, file)


def read_opened(stream: IO[bytes], file: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """``read_safetensors`` of a seekable stream; ``file``: its name for messages."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    header, start = _read_header(stream, size, file)
    metadata = _metadata_of(header.pop(_METADATA, {}), file)
    entries = [_entry(name, described, file) for name, described in header.items()]
    _check_cover(entries, size - start, file)
    return {entry.name: _read(stream, start, entry, file) for entry in entries}, metadata


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins with these (at least 9) bytes can be one: a header of bearable length that is a JSON object."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES


def _read_header(stream: IO[bytes], size: int, file: str) -> tuple[dict[str, Any], int]:
    """The JSON object and the place where the data begin."""
    if size < 8:
        raise ValueError(f"{file}: is no .safetensors file: it has {size} bytes, fewer than the 8 of the header's length")
    length = int.from_bytes(stream.read(8), "little")
    if length > size - 8:
        raise ValueError(f"{file}: declares a header of {length} bytes, but the file has {size} (truncated, or no .safetensors)")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"{file}: declares a header of {length} bytes, at most {MAX_HEADER_BYTES} are accepted")
    data = stream.read(length)
    if data[:1] != b"{":
        raise ValueError(f"{file}: the header must begin with '{{'. It begins with {data[:8]!r}")
    return parse_json(data, length, f"{file}: the header", hook=_unique), 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs of a JSON object as a dict. ValueError for a name that stands twice: readers would differ in what it means."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {name!r:.200} stands twice")
        found[name] = value
    return found


def _metadata_of(value: Any, file: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError(f"{file}: {_METADATA} must be a JSON object of texts")
    return value


def _entry(name: str, described: Any, file: str) -> _Entry:
    """One tensor of the header, checked by itself."""
    if not isinstance(described, dict) or set(described) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(
            f"{file}: tensor {name!r} must be described by dtype, shape and data_offsets. Received: {described!r:.200}"
        )
    code, shape, offsets = (described[key] for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(code, str) or code not in _DTYPES:
        raise ValueError(f"{file}: tensor {name!r} has dtype {code!r:.50}, known are {', '.join(_DTYPES)}")
    if not _is_counts(shape) or len(shape) > MAX_AXES:
        raise ValueError(f"{file}: tensor {name!r} has shape {shape!r:.200}, expected at most {MAX_AXES} integers >= 0")
    if not _is_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{file}: tensor {name!r} has data_offsets {offsets!r:.200}, expected [begin, end]")
    itemsize = np.dtype(_DTYPES[code]).itemsize
    if math.prod(max(count, 1) for count in shape) * itemsize > MAX_SIZE:
        raise ValueError(f"{file}: tensor {name!r} has shape {shape!r:.200}, more than {MAX_SIZE} bytes")
    needed = math.prod(shape) * itemsize
    if offsets[1] - offsets[0] != needed:
        raise ValueError(
            f"{file}: tensor {name!r} has shape {shape} of {code}, which takes {needed} bytes, but its data_offsets {offsets} "
            f"span {offsets[1] - offsets[0]}"
        )
    return _Entry(name, code, tuple(shape), *offsets)


def _is_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(count) is int and count >= 0 for count in value)


def _check_cover(entries: list[_Entry], size: int, file: str) -> None:
    """ValueError unless the tensors, in order of their offsets, cover the ``size`` bytes of data without gap or overlap."""
    end = 0
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != end:
            what = "overlaps the tensor before it" if entry.begin < end else f"leaves {entry.begin - end} bytes before it unused"
            raise ValueError(f"{file}: tensor {entry.name!r} begins at byte {entry.begin} of the data and {what}")
        end = entry.end
        if end > size:
            raise ValueError(
                f"{file}: tensor {entry.name!r} ends at byte {end} of the data, of which the file has {size} (truncated?)"
            )
    if end != size:
        raise ValueError(f"{file}: the file has {size} bytes of data, of which its tensors use {end}")


def _read(stream: IO[bytes], start: int, entry: _Entry, file: str) -> np.ndarray:
    """The numbers of a tensor, in native byte order."""
    stream.seek(start + entry.begin)
    stored = np.empty(entry.shape, _DTYPES[entry.code])
    data = stream.read(stored.nbytes)
    if len(data) != stored.nbytes:  # the file was cut while it was being read
        raise ValueError(f"{file}: tensor {entry.name!r} is truncated")
    stored.reshape(-1).view(np.uint8)[:] = np.frombuffer(data, np.uint8)
    if entry.code == "BF16":
        return bfloat16_values(stored)
    if entry.code == "BOOL" and stored.view(np.uint8).max(initial=0) > 1:
        raise ValueError(f"{file}: tensor {entry.name!r} is BOOL and holds bytes other than 0 and 1")
    return stored.astype(stored.dtype.newbyteorder("="), copy=False)


def bfloat16_values(bits: np.ndarray) -> np.ndarray:
    """float32 of bfloat16's bits (uint16): its upper half."""
    return np.asarray(bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def write_safetensors(
    path: str | os.PathLike | IO[bytes], tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes arrays by name, and ``metadata``, texts by name. An existing file is replaced only once the new one is complete.

    bool, (u)int8 to 64, float16, 32, 64, and ml_dtypes' bfloat16. Widest dtypes first, so that every tensor is aligned.
    TypeError for other dtypes, names and metadata that are no text; ValueError for a tensor named "__metadata__" and for more
    names than ``read_safetensors`` takes; OSError where the file cannot be written.
    """
    if metadata is not None and not all(isinstance(text, str) for pair in metadata.items() for text in pair):
        raise TypeError(f"The argument `metadata` must map texts to texts. Received: {dict(metadata)!r:.200}")
    arrays = {name: _writable(name, tensor) for name, tensor in tensors.items()}
    ordered = sorted(arrays, key=lambda name: (-arrays[name][1].itemsize, name))
    header: dict[str, Any] = {} if metadata is None else {_METADATA: dict(metadata)}
    begin = 0
    for name in ordered:
        code, array = arrays[name]
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [begin, begin + array.nbytes]}
        begin += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(f"The argument `tensors` needs a header of {len(text)} bytes, at most {MAX_HEADER_BYTES} are accepted")
    with replacing(path) as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in ordered:
            stream.write(arrays[name][1].tobytes())


def _writable(name: Any, tensor: Any) -> tuple[str, np.ndarray]:
    """The code of a dtype, and the array in the byte order of the file."""
    if not isinstance(name, str):
        raise TypeError(f"The argument `tensors` must have texts as names. Received: {name!r}")
    if name == _METADATA:
        raise ValueError(f"The argument `tensors` has a tensor named {_METADATA!r}, which the format keeps for the metadata")
    array = np.asarray(tensor)
    if array.dtype.name == "bfloat16":
        return "BF16", np.ascontiguousarray(array).view(np.uint16).astype("<u2").reshape(array.shape)
    code = _CODES.get(array.dtype.newbyteorder("="))
    if code is None:
        raise TypeError(f"The tensor {name!r} has dtype {array.dtype}, which a .safetensors file cannot hold here")
    return code, array.astype(_DTYPES[code], copy=False)
