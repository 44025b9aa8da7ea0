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
import zipfile
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

import numpy as np

from .archive import check_members, open_zip, read_member
from .hdf5 import import_h5py, read_tree
from .legacy_h5 import SKIPPED, LayerArrays, is_by_layer, layers_of, text_of, wanted
from .onnx_file import is_onnx

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
MAX_JSON_BYTES = 16 * 2**20  # a config.json is some kilobytes; parsed JSON takes tens of times its size
MAX_JSON_DEPTH = 100
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


class KerasFile(NamedTuple):
    """What a file holds: ``name`` for messages, ``config`` and ``metadata`` as written, ``arrays`` by HDF5 path.

    ``layers``: in files that keep weights by layer name, the arrays of each layer; None in those that go by path. ``layout``:
    "torch" where names and arrays are those of PyTorch. ``left_out``: groups of the file that are not read (optimizer state).
    """

    name: str
    config: dict[str, Any]
    metadata: dict[str, Any]
    arrays: dict[str, np.ndarray]
    layers: list[LayerArrays] | None = None
    layout: str = "keras"
    left_out: tuple[str, ...] = ()


def read_keras_file(file: str | os.PathLike | IO[bytes]) -> KerasFile:
    """Reads a ``.keras`` file or an ``.h5`` file of a whole model: a path or a binary file object.

    OSError where the file cannot be opened; ValueError where its contents are malformed, truncated, of absurd size, or point
    out of it; ImportError without h5py. Optimizer state is not read.
    """
    import_h5py()  # first, so that the answer to a missing package does not depend on the file
    with opened(file) as (stream, name):
        return read_keras_stream(stream, name)


def read_keras_stream(stream: IO[bytes], name: str) -> KerasFile:
    """As ``read_keras_file``, from a stream that ``opened`` made."""
    import_h5py()
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
    if is_onnx(stream):
        raise ValueError(f"{name}: is an ONNX model, where a file of Keras is needed; `load_model` opens it")
    with open_zip(stream, name, "is neither a .keras file (no zip archive) nor HDF5 nor ONNX") as archive:
        members = check_members(archive, name, _size(stream))
        for required in (CONFIG, WEIGHTS):
            if required not in members:
                raise ValueError(f"{name}: the archive has no member {required!r}; it has {sorted(members)[:8]}")
        config = _read_json(archive, members, CONFIG, name)
        metadata = _read_json(archive, members, METADATA, name) if METADATA in members else {}
        weights = read_member(archive, members[WEIGHTS], name)
    tree = read_tree(weights, f"{name}: {WEIGHTS}", skip=("optimizer",))
    return KerasFile(name, config, metadata, tree.arrays, left_out=tree.skipped)


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
    return KerasFile(name, config, metadata, tree.arrays, layers, left_out=tree.skipped)


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


def read_config_file(path: str | os.PathLike) -> dict[str, Any]:
    """A .json file with the config of a model. OSError where it cannot be opened, ValueError where it holds no JSON object."""
    with opened(path) as (stream, name):
        size = _size(stream)
        stream.seek(0)
        return parse_json(stream.read(MAX_JSON_BYTES + 1), size, name)


def _read_json(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], member: str, name: str) -> dict[str, Any]:
    """A JSON member as a dict."""
    size = members[member].file_size
    data = b"" if size > MAX_JSON_BYTES else read_member(archive, members[member], name)
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
