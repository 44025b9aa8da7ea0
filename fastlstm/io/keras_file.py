"""Files of Keras -> plain dicts and arrays (keras-spec 13.2): the ``.keras`` format, a zip with config.json, metadata.json and
model.weights.h5, and the HDF5 files of whole models and of weights (``legacy_h5``).

Used by ``models.saving`` and ``fastlstm info``. The contents decide what a file is, not its name. Members are read into memory by
name; nothing is unpacked to disk.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import zipfile
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

import numpy as np

from .hdf5 import import_h5py, read_arrays, read_tree, unpacked_limit
from .legacy_h5 import SKIPPED, LayerArrays, is_by_layer, layers_of, text_of, wanted

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
MAX_JSON_BYTES = 16 * 2**20  # a config.json is some kilobytes; parsed JSON takes tens of times its size
MAX_JSON_DEPTH = 100
MAX_MEMBERS = 10_000
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


class KerasFile(NamedTuple):
    """What a file holds: ``name`` for messages, ``config`` and ``metadata`` as written, ``arrays`` by HDF5 path.

    ``layers``: in files that keep weights by layer name, the arrays of each layer; None in those that go by path.
    """

    name: str
    config: dict[str, Any]
    metadata: dict[str, Any]
    arrays: dict[str, np.ndarray]
    layers: list[LayerArrays] | None = None


def read_keras_file(file: str | os.PathLike | IO[bytes]) -> KerasFile:
    """Reads a ``.keras`` file or an ``.h5`` file of a whole model: a path or a binary file object.

    OSError where the file cannot be opened; ValueError where its contents are malformed, truncated, of absurd size, or point
    out of it; ImportError without h5py. Optimizer state is not read.
    """
    import_h5py()  # first, so that the answer to a missing package does not depend on the file
    with opened(file) as (stream, name):
        if _is_hdf5(stream):
            found = _from_hdf5(stream, name)
            if not found.config:
                raise ValueError(
                    f"{name}: holds weights only, no model: make the model and call `model.load_weights`. The arrays in it: "
                    f"{', '.join(sorted(found.arrays)[:4])}, …"
                )
            return found
        return _from_zip(stream, name)


def _from_zip(stream: IO[bytes], name: str) -> KerasFile:
    with _open_zip(stream, name) as archive:
        members = _check_members(archive, name, _size(stream))
        config = _read_json(archive, members, CONFIG, name)
        metadata = _read_json(archive, members, METADATA, name) if METADATA in members else {}
        weights = _read_member(archive, members, WEIGHTS, name)
    arrays = read_arrays(weights, f"{name}: {WEIGHTS}", skip=("optimizer",))
    return KerasFile(name, config, metadata, arrays)


def read_weights_file(path: str | os.PathLike) -> KerasFile:
    """The weights in a ``.weights.h5``, ``.h5`` or ``.keras`` file; the config may be empty. Errors as of ``read_keras_file``."""
    import_h5py()
    with opened(path) as (stream, name):
        return _from_zip(stream, name) if not _is_hdf5(stream) and name.endswith(".keras") else _from_hdf5(stream, name)


def _is_hdf5(stream: IO[bytes]) -> bool:
    stream.seek(0)
    return stream.read(8) == _HDF5_MAGIC


def _from_hdf5(stream: IO[bytes], name: str) -> KerasFile:
    """A file of weights, by path or by layer, or of a whole model with its ``model_config``."""
    stream.seek(0)
    tree = read_tree(stream.read(), name, SKIPPED, wanted)
    layers = layers_of(tree, name) if is_by_layer(tree) else None
    metadata = {key: text for key in ("keras_version", "backend") if (text := text_of(tree, key)) is not None}
    texts = {key: text_of(tree, key) for key in ("model_config", "training_config")}
    config, training = (
        {} if text is None else parse_json(text.encode(), len(text), f"{name}: {key}") for key, text in texts.items()
    )
    if training:
        config = {**config, "training_config": training}
    return KerasFile(name, config, metadata, tree.arrays, layers)


@contextlib.contextmanager
def opened(file: Any) -> Iterator[tuple[IO[bytes], str]]:
    """The file as a seekable binary stream, and its name for messages."""
    if isinstance(file, str | os.PathLike):
        with open(file, "rb") as stream:
            yield stream, os.fsdecode(file)
    elif callable(getattr(file, "read", None)):
        label = getattr(file, "name", None)
        name = label if isinstance(label, str) else "<file object>"
        seekable = callable(getattr(file, "seekable", None)) and file.seekable()
        if seekable and not isinstance(file, io.TextIOBase):
            yield file, name
            return
        data = file.read()
        if not isinstance(data, bytes):
            raise TypeError(f"{name}: the file object must be opened in binary mode")
        yield io.BytesIO(data), name
    else:
        raise TypeError(f"`filepath` must be a str, an os.PathLike or a binary file object. Received: {type(file).__name__}")


def _size(stream: IO[bytes]) -> int:
    return stream.seek(0, os.SEEK_END)


@contextlib.contextmanager
def _naming(name: str, what: str) -> Iterator[None]:
    """Turns whatever the zip module raises inside into a ValueError that names the file.

    zipfile lets BadZipFile, EOFError, NotImplementedError, RuntimeError, struct.error, zlib.error and UnicodeDecodeError
    through for one and the same thing, a damaged archive; the original stays attached as the cause.
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name}: {what}: {reason}") from error


def _open_zip(stream: IO[bytes], name: str) -> zipfile.ZipFile:
    if not _size(stream):
        raise ValueError(f"{name}: the file is empty")
    stream.seek(0)
    head = stream.read(8)
    what = (
        "the zip archive is truncated or damaged" if head[:2] == b"PK" else "is neither a .keras file (no zip archive) nor HDF5"
    )
    with _naming(name, what):
        return zipfile.ZipFile(stream)


def _check_members(archive: zipfile.ZipFile, name: str, size: int) -> dict[str, zipfile.ZipInfo]:
    """The members by name. ValueError for names that leave the archive, duplicates, links, encryption, absurd sizes."""
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise ValueError(f"{name}: the archive has {len(infos)} members, at most {MAX_MEMBERS} are accepted")
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        member = info.filename
        parts = member.replace("\\", "/").split("/")
        if not member or parts[0] == "" or ".." in parts or ":" in parts[0]:
            raise ValueError(f"{name}: the archive has a member with an unsafe name: {member!r}")
        if member in members:
            raise ValueError(f"{name}: the archive has the member {member!r} twice")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise ValueError(f"{name}: member {member!r} is a symbolic link")
        if info.flag_bits & 0x1:
            raise ValueError(f"{name}: member {member!r} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{name}: member {member!r} is packed by method {info.compress_type}, expected stored or deflated")
        members[member] = info
    total, limit = sum(info.file_size for info in infos), unpacked_limit(size)
    if total > limit:
        raise ValueError(f"{name}: the archive of {size} bytes declares {total} bytes unpacked, at most {limit} are accepted")
    for required in (CONFIG, WEIGHTS):
        if required not in members:
            raise ValueError(f"{name}: the archive has no member {required!r}; it has {sorted(members)[:8]}")
    return members


def _read_member(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], member: str, name: str) -> bytes:
    """The bytes of a member; never more than its checked, declared size."""
    info = members[member]
    with _naming(name, f"member {member!r} is damaged"), archive.open(info) as stream:
        data = stream.read(info.file_size)
        surplus = stream.read(1)  # also makes zipfile compare the CRC
    if len(data) != info.file_size or surplus:
        raise ValueError(f"{name}: member {member!r} is damaged: it does not hold the {info.file_size} bytes that it declares")
    return data


def read_config_file(path: str | os.PathLike) -> dict[str, Any]:
    """A .json file with the config of a model. OSError where it cannot be opened, ValueError where it holds no JSON object."""
    with opened(path) as (stream, name):
        size = _size(stream)
        stream.seek(0)
        return parse_json(stream.read(MAX_JSON_BYTES + 1), size, name)


def _read_json(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], member: str, name: str) -> dict[str, Any]:
    """A JSON member as a dict."""
    size = members[member].file_size
    data = b"" if size > MAX_JSON_BYTES else _read_member(archive, members, member, name)
    return parse_json(data, size, f"{name}: {member}")


def parse_json(data: bytes, size: int, what: str, hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> dict[str, Any]:
    """JSON text as a dict. ValueError for anything else, endless nesting included. ``hook``: json's ``object_pairs_hook``."""
    if size > MAX_JSON_BYTES:
        raise ValueError(f"{what} declares {size} bytes, at most {MAX_JSON_BYTES} are accepted")
    try:
        value = json.loads(data, object_pairs_hook=hook)
    except RecursionError as error:
        raise ValueError(f"{what} is nested too deeply, at most {MAX_JSON_DEPTH} levels are accepted") from error
    except ValueError as error:
        raise ValueError(f"{what} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{what} must hold a JSON object. Received: {type(value).__name__}")
    level: list[Any] = [value]
    for _ in range(MAX_JSON_DEPTH):
        children = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
        level = [child for child in children if isinstance(child, dict | list)]
        if not level:
            return value
    raise ValueError(f"{what} is nested too deeply, at most {MAX_JSON_DEPTH} levels are accepted")
