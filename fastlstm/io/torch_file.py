"""PyTorch's checkpoints without PyTorch: the zip files that ``torch.save`` writes since 1.6 -> dicts, lists, numbers and arrays.

Used by ``layers.torch_weights``. Such a file is an archive of one folder: ``data.pkl``, which says what there is, and
``data/0``, ``data/1`` …, the numbers of the storages that its tensors are views of. The pickle is read by ``torch_pickle``, which
builds tensors and containers and executes nothing.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import zipfile
from typing import IO, Any, NoReturn

import numpy as np

from .archive import check_members, open_zip, read_member
from .keras_file import opened
from .safetensors import MAX_AXES, bfloat16_values, is_safetensors, read_opened
from .torch_objects import OBJECTS
from .torch_pickle import Known, unpickle

# The arrays of a file may take 10 times its size, as views of few numbers can be of any shape; 64 MiB do no harm.
MAX_RATIO = 10
MIN_BYTES = 64 * 2**20
_DTYPES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "u2",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "b1",
}
_STATE_DICT = "save its tensors instead, with PyTorch: torch.save(model.state_dict(), path)"


@dataclasses.dataclass(frozen=True)
class _Storage:
    """The numbers behind tensors: an array of one axis in native byte order, and its type's name."""

    kind: str
    numbers: np.ndarray


def read_state_file(path: str | os.PathLike | IO[bytes]) -> Any:
    """What a ``.safetensors``, ``.pt`` or ``.pth`` file holds; the contents decide which it is. Errors as of the two readers."""
    with opened(path) as (stream, file):
        stream.seek(0)
        head = stream.read(9)
        if is_safetensors(head) or (file.endswith(".safetensors") and head[:2] != b"PK"):
            return read_opened(stream, file)[0]
        return _read_torch(stream, file)


def read_torch_file(path: str | os.PathLike | IO[bytes]) -> Any:
    """The object in a ``.pt`` or ``.pth`` file: mostly a dict of arrays by name; whatever else was saved beside them.

    ``path``: a path or a binary file object. Tensors become arrays, bfloat16 ones of float32; some are read-only and share
    memory, as tensors do that share a storage. OSError where the file cannot be opened; ValueError, naming the file, for damaged
    files, packed members, files of PyTorch before 1.6, TorchScript, and for every object but dicts, lists, tuples, numbers,
    texts, None and what ``torch_objects`` makes such of, by its name.
    """
    with opened(path) as (stream, file):
        return _read_torch(stream, file)


def _read_torch(stream: IO[bytes], file: str) -> Any:
    _refuse_others(stream, file)
    size = stream.seek(0, os.SEEK_END)
    with open_zip(stream, file, "is neither .safetensors nor a zip archive as torch.save writes it") as archive:
        folder = _folder(archive.namelist(), file)
        members = check_members(archive, file, size, (zipfile.ZIP_STORED,))
        reader = _Reader(archive, members, folder, file, max(MIN_BYTES, MAX_RATIO * size))
        data = read_member(archive, members[f"{folder}/data.pkl"], file)
        try:
            return unpickle(data, reader.find, reader.storage)
        except ValueError as error:
            text = str(error)
            raise ValueError(text if text.startswith(f"{file}: ") else f"{file}: {text}") from error


def _refuse_others(stream: IO[bytes], file: str) -> None:
    """ValueError for files that are known, but by others."""
    stream.seek(0)
    head = stream.read(512)
    if head[:1] == b"\x80":
        raise ValueError(
            f"{file}: is a pickle, as torch.save wrote it before PyTorch 1.6 (or with _use_new_zipfile_serialization=False), and "
            "is not opened here. Write it anew, with PyTorch: torch.save(torch.load(path), path)"
        )
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        raise ValueError(f"{file}: is an HDF5 file, not one of PyTorch: models of Keras are opened by load_model")


def _folder(members: list[str], file: str) -> str:
    """The folder of the archive that holds data.pkl."""
    found = [name.removesuffix("/data.pkl") for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(found) != 1:
        if "config.json" in members:
            raise ValueError(f"{file}: is a .keras file, not one of PyTorch: models of Keras are opened by load_model")
        raise ValueError(
            f"{file}: is no checkpoint of PyTorch: its archive has no data.pkl in a folder; it has {sorted(members)[:8]}"
        )
    code = next((name for name in members if name.startswith((f"{found[0]}/code/", f"{found[0]}/constants.pkl"))), None)
    if code is not None:
        raise ValueError(
            f"{file}: is TorchScript (it has {code!r}), whose code is not executed here; save the tensors instead, with PyTorch: "
            "torch.save(torch.jit.load(path).state_dict(), other_path)"
        )
    return found[0]


class _Reader:
    """Makes what the pickle names: storages of the archive, and the tensors that are views of them."""

    def __init__(self, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], folder: str, file: str, limit: int):
        self.archive, self.members, self.folder, self.file = archive, members, folder, file
        self.left = self.limit = limit
        self.raw: dict[str, bytes] = {}
        self.order = self._byte_order()
        self.known = {
            **OBJECTS,
            "collections.OrderedDict": Known("collections.OrderedDict", _ordered_dict),
            "torch._utils._rebuild_tensor_v2": Known("torch._utils._rebuild_tensor_v2", self._tensor),
            "torch._utils._rebuild_tensor": Known("torch._utils._rebuild_tensor", self._tensor),
            "torch._utils._rebuild_parameter": Known("torch._utils._rebuild_parameter", _parameter),
            "torch._utils._rebuild_parameter_with_state": Known("torch._utils._rebuild_parameter_with_state", _parameter),
            **{f"torch.{kind}": Known(kind) for kind in _DTYPES},
        }

    def _byte_order(self) -> str:
        """ "<" or ">" by the record "byteorder", which files of PyTorch before 2.1 lack: they were little-endian."""
        info = self.members.get(f"{self.folder}/byteorder")
        written = b"little" if info is None else read_member(self.archive, info, self.file)
        if written not in (b"little", b"big"):
            raise ValueError(f"{self.file}: the record 'byteorder' must be little or big. It is {written!r:.50}")
        return "<" if written == b"little" else ">"

    def find(self, name: str) -> Known:
        """One of the globals that tensors and state dicts are made of."""
        found = self.known.get(name)
        if found is None:
            why = "only tensors, dicts, lists, tuples, numbers and texts are read from a file"
            if name == "torch.ScriptObject" or re.search("_rebuild_qtensor|torch.Q", name):
                why = "the file holds quantised weights, which are not read: take those from before the quantisation"
            if name.startswith("torch.nn."):
                why = "the file holds a whole module, whose code is not in it"
            raise ValueError(f"refuses the global {name!r:.200}: {why}; {_STATE_DICT}")
        return found

    def storage(self, key: Any) -> _Storage:
        """The storage of a persistent id ("storage", type, key, location, count)."""
        texts = isinstance(key, tuple) and len(key) == 5 and key[0] == "storage" and isinstance(key[2], str)
        if not texts or not isinstance(key[1], Known) or key[1].make is not None or type(key[4]) is not int or key[4] < 0:
            raise ValueError("its pickle is damaged: a persistent id must be ('storage', type, key, location, count)")
        kind, number, count = key[1].name, key[2], key[4]
        member = f"{self.folder}/data/{number}"
        if number not in self.raw:
            if member not in self.members:
                raise ValueError(f"the archive has no member {member!r:.200}, the numbers of a tensor")
            self.raw[number] = read_member(self.archive, self.members[member], self.file)
        data, dtype = self.raw[number], np.dtype(self.order + _DTYPES[kind])
        if len(data) // dtype.itemsize != count:
            raise ValueError(f"member {member!r} has {len(data)} bytes, expected {count} numbers of {dtype.itemsize} bytes")
        return _Storage(kind, np.frombuffer(data, dtype, count))

    def _tensor(self, *arguments: Any) -> np.ndarray:
        """``torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])``."""
        if len(arguments) not in (4, 6, 7) or not isinstance(arguments[0], _Storage):
            _damaged("a tensor must be made of storage, offset, size and stride")
        storage, offset, shape, strides = arguments[:4]
        if not _is_counts(shape) or not _is_counts(strides) or not _is_counts((offset,)) or len(shape) != len(strides):
            _damaged("offset, size and stride of a tensor must be integers >= 0, as many sizes as strides")
        if len(shape) > MAX_AXES:
            raise ValueError(f"holds a tensor of {len(shape)} axes, at most {MAX_AXES} are accepted")
        if len(arguments) == 7 and arguments[6]:
            raise ValueError("holds a tensor with metadata (a conjugate or negative view), which is refused; save a copy of it")
        numbers = storage.numbers
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        total = math.prod(shape)
        if total and last >= numbers.size:
            raise ValueError(
                f"holds a tensor of size {shape}, stride {strides}, offset {offset}, which leaves its storage of {numbers.size}"
            )
        itemsize = 4 if storage.kind == "BFloat16Storage" else numbers.itemsize
        if math.prod(max(size, 1) for size in shape) * itemsize > self.limit or total * itemsize > self.left:
            raise ValueError(f"holds a tensor of size {shape}; all tensors of this file may take at most {self.limit} bytes")
        self.left -= total * itemsize
        return _as_numbers(storage, offset, shape, strides)


def _as_numbers(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    """The view of a storage as an array in C order and native byte order."""
    numbers = storage.numbers
    if not math.prod(shape):
        strides, offset = (0,) * len(shape), 0
    steps = [stride * numbers.itemsize for stride in strides]
    view = np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps, writeable=False)
    array = np.require(view, numbers.dtype.newbyteorder("="), "C")
    if storage.kind == "BoolStorage" and array.view(np.uint8).max(initial=0) > 1:
        raise ValueError("holds a tensor of bool with bytes other than 0 and 1")
    return bfloat16_values(array) if storage.kind == "BFloat16Storage" else array


def _is_counts(values: Any) -> bool:
    """Whether it is a tuple of integers >= 0 that a machine can count."""
    return isinstance(values, tuple) and all(type(value) is int and 0 <= value < 2**48 for value in values)


def _parameter(*arguments: Any) -> np.ndarray:
    """``torch._utils._rebuild_parameter(tensor, requires_grad, hooks[, attributes])``: the tensor."""
    if len(arguments) not in (3, 4) or not isinstance(arguments[0], np.ndarray):
        _damaged("a parameter must be made of a tensor")
    return arguments[0]


def _ordered_dict(*arguments: Any) -> dict:
    if arguments:
        _damaged("an OrderedDict must be made empty")
    return {}


def _damaged(what: str) -> NoReturn:
    raise ValueError(f"its pickle is damaged: {what}")
