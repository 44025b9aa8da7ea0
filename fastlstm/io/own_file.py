"""Whole models in ``.npz`` and ``.safetensors`` files: arrays by name, and one JSON text that says what model they belong to.

The text is the array "fastlstm" of an .npz (which ``numpy.load(path, allow_pickle=False)`` opens), the entry "fastlstm" of the
metadata of a .safetensors file. Needs NumPy only. Used by ``model_file`` and ``models.writing``; what a file says is checked as
in ``keras_file``.
"""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from .archive import check_members, open_zip, read_member
from .keras_file import MAX_JSON_BYTES, KerasFile, opened, parse_json
from .keras_writer import replacing
from .safetensors import bfloat16_values, read_opened, write_safetensors

KEY = "fastlstm"
VERSION = 1
LAYOUTS = ("keras", "torch")
_MEMBER = f"{KEY}.npy"
_NO_DATE = (1980, 1, 1, 0, 0, 0)
_MAX_HEADER = 10_000  # bytes of the header of an array; NumPy's own take about a hundred


def own_text(
    config: Mapping[str, Any], metadata: Mapping[str, Any], names: Mapping[str, str], layout: str = "keras", **more: Any
) -> str:
    """The JSON text. ``config`` and ``metadata`` as in a .keras file; ``names``: {name of an array: its path in one, or, in the
    layout "torch", the name itself}."""
    told = {"format": KEY, "version": VERSION, "layout": layout, "config": config, "metadata": metadata, "names": names, **more}
    return json.dumps(told)


def _told(text: str, file: str) -> dict[str, Any]:
    """The JSON text, checked. ValueError for anything that ``own_text`` does not write."""
    told = parse_json(text.encode(), len(text), f"{file}: the text {KEY!r}")
    version, layout = told.get("version"), told.get("layout")
    if told.get("format") != KEY or type(version) is not int or version < 1:
        raise ValueError(f"{file}: the text {KEY!r} must say its format and version. Received: {sorted(told)[:8]}")
    if version > VERSION:
        raise ValueError(f"{file}: was written by a newer fastlstm (format version {version}, known is {VERSION})")
    if layout not in LAYOUTS:
        raise ValueError(f"{file}: has the layout {layout!r:.50}, known are {', '.join(LAYOUTS)}")
    if not all(isinstance(told.get(key), dict) for key in ("config", "metadata", "names")):
        raise ValueError(f"{file}: the text {KEY!r} must hold the objects 'config', 'metadata' and 'names'")
    if not all(isinstance(path, str) for path in told["names"].values()):
        raise ValueError(f"{file}: the text {KEY!r} must give each array a path in 'names'")
    return told


def _keras_file(text: str, arrays: dict[str, np.ndarray], file: str) -> KerasFile:
    told = _told(text, file)
    names = told["names"]
    if set(names) != set(arrays) or len(set(names.values())) < len(names):
        odd = sorted(set(names) ^ set(arrays))[:4]
        raise ValueError(f"{file}: the arrays are not those that its text {KEY!r} lists, each once: {odd}")
    halves = told.get("bfloat16", [])
    if not isinstance(halves, list) or any(not isinstance(name, str) for name in halves):
        raise ValueError(f"{file}: the text {KEY!r} must list the names of arrays under 'bfloat16'")
    arrays = {n: bfloat16_values(a) if n in halves and a.dtype == np.uint16 else a for n, a in arrays.items()}
    by_path = {names[name]: array for name, array in arrays.items()}
    return KerasFile(file, told["config"], told["metadata"], by_path, layout=told["layout"])


# -- .safetensors -------------------------------------------------------------------------------------------------------
def is_own_safetensors(path: str | os.PathLike) -> bool:
    """Whether a .safetensors file says in its metadata that a model of fastlstm is in it. Errors as of its reader."""
    with opened(path) as (stream, file):
        return KEY in read_opened(stream, file)[1]


def read_own_safetensors(stream: IO[bytes], file: str) -> KerasFile:
    """The model in a .safetensors file. Errors as of ``safetensors.read_safetensors``; ValueError where it holds weights only."""
    arrays, metadata = read_opened(stream, file)
    if KEY not in metadata:
        raise ValueError(
            f"{file}: holds weights only, no model (its metadata have no entry {KEY!r}). The arrays in it: "
            f"{', '.join(sorted(arrays)[:4])}, …"
        )
    return _keras_file(metadata[KEY], arrays, file)


def write_own_safetensors(path: str | os.PathLike | IO[bytes], arrays: Mapping[str, np.ndarray], text: str) -> None:
    """Writes arrays by name and the JSON text. Errors as of ``write_safetensors``."""
    write_safetensors(path, arrays, {"format": "pt" if json.loads(text)["layout"] == "torch" else KEY, KEY: text})


# -- .npz ---------------------------------------------------------------------------------------------------------------
def is_own_npz(stream: IO[bytes]) -> bool:
    """Whether a zip archive holds the array "fastlstm"; False for what is no archive."""
    try:
        with zipfile.ZipFile(stream) as archive:
            return _MEMBER in archive.namelist()
    except Exception:  # whatever is wrong with the archive is told by the reader that opens it next
        return False
    finally:
        stream.seek(0)


def read_own_npz(stream: IO[bytes], file: str) -> KerasFile:
    """The model in an .npz file named ``file``, which ``is_own_npz``.

    ValueError, naming the file, for a damaged archive, arrays that are no plain numbers or not as long as they say, and a text
    that does not fit them.
    """
    size = stream.seek(0, os.SEEK_END)
    with open_zip(stream, file, "is no .npz file") as archive:
        members = check_members(archive, file, size)
        foreign = next((member for member in members if not member.endswith(".npy")), None)
        if foreign is not None:
            raise ValueError(f"{file}: the archive has a member {foreign!r}, which is no array")
        arrays = {
            member.removesuffix(".npy"): _array(read_member(archive, info, file), f"{file}: array {member!r}")
            for member, info in members.items()
        }
    text = arrays.pop(KEY)
    if text.dtype.kind != "U" or text.ndim or text.nbytes > 4 * MAX_JSON_BYTES:
        raise ValueError(f"{file}: the array {KEY!r} must be one text of at most {MAX_JSON_BYTES} characters")
    try:
        plain = str(text.item())
        plain.encode()
    except ValueError as error:  # code points that no text has
        raise ValueError(f"{file}: the array {KEY!r} is no text: {error}") from error
    wrong = next((name for name, array in arrays.items() if array.dtype.kind not in "fu"), None)
    if wrong is not None:
        raise ValueError(f"{file}: array {wrong!r} has dtype {arrays[wrong].dtype}, expected numbers")
    return _keras_file(plain, arrays, file)


def _array(data: bytes, what: str) -> np.ndarray:
    """The array of an .npy member, in native byte order; never of another size than the member's."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = readers[version](stream, max_header_size=_MAX_HEADER)
    except Exception as error:  # the class follows from what is damaged: SyntaxError, KeyError, ValueError, …
        raise ValueError(f"{what} is damaged: {' '.join(str(error).split()) or type(error).__name__}") from error
    if dtype.kind not in "fuU" or dtype.names is not None or dtype.subdtype is not None:
        raise ValueError(f"{what} has dtype {dtype}, expected plain numbers")
    start = stream.tell()
    needed = math.prod(shape) * dtype.itemsize
    if any(not 0 <= n < 2**48 for n in shape) or len(shape) > 32 or needed != len(data) - start:
        raise ValueError(f"{what} declares shape {shape!s:.200} of {dtype}, which its {len(data) - start} bytes are not")
    if not needed:
        return np.zeros(shape, dtype.newbyteorder("="))
    array = np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="), order="C")


def write_own_npz(
    path: str | os.PathLike | IO[bytes],
    config: Mapping[str, Any],
    metadata: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    names: Mapping[str, str],
) -> None:
    """Writes ``arrays`` by name, and the text. ``names`` as of ``own_text``. OSError where the file cannot be written.

    bfloat16, which NumPy's format does not know, is written as the uint16 of its bits, and the text says so.
    """
    halves = [name for name, array in arrays.items() if array.dtype.name == "bfloat16"]
    text = own_text(config, metadata, names, bfloat16=halves)
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(f"the config of the model takes {len(text)} bytes, at most {MAX_JSON_BYTES} are accepted")
    plain = {name: array.view(np.uint16) if name in halves else array for name, array in arrays.items()}
    with replacing(path) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, array in {KEY: np.array(text), **plain}.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", _NO_DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED if name == KEY else zipfile.ZIP_STORED
            archive.writestr(entry, buffer.getvalue())
