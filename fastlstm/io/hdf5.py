"""HDF5 data in memory <-> NumPy arrays by path, through h5py; used by ``keras_file`` and ``keras_writer``.

HDF5 can point out of a file (external links, external storage, virtual datasets), declare terabytes in a few bytes, and
name filters that are loaded as plug-ins. All that is refused by looking at the declaration, before any data is read.
h5py is imported on first use only (extra ``[keras]``).
"""

from __future__ import annotations

import contextlib
import io
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from .hdf5_heaps import damaged_heap

# A weights file of real models unpacks to about its own size; whatever is smaller than MIN_UNPACKED does no harm.
MAX_RATIO = 100
MIN_UNPACKED = 64 * 2**20
MAX_DEPTH = 32
MAX_OBJECTS = 100_000
_DEFLATE, _SHUFFLE = 1, 2


def unpacked_limit(size: int) -> int:
    """How many bytes a file (or member) of ``size`` bytes may unpack to: 100 times its size, at least 64 MiB."""
    return max(MIN_UNPACKED, MAX_RATIO * size)


def import_h5py() -> Any:
    """The module h5py; ImportError that names the extra without it."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "reading and writing .keras and .h5 files needs the package h5py: pip install 'fastlstm[keras]'"
        ) from error
    return h5py


@contextlib.contextmanager
def _naming(file: str, what: str) -> Iterator[None]:
    """Turns whatever h5py raises inside into a ValueError that names the file and what was being read.

    The class of h5py's exception follows HDF5's internal error stack (KeyError, OSError, RuntimeError, TypeError, …) and says
    nothing to a caller, hence the wide ``except``; the original stays attached as the cause.
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{file}: cannot read {what}: {reason}") from error


class Tree(NamedTuple):
    """What is in a file: ``arrays`` by path, the wanted ``attributes`` of each group by its path ("" for the root), and the
    top-level groups that were ``skipped``."""

    arrays: dict[str, np.ndarray]
    attributes: dict[str, dict[str, Any]]
    skipped: tuple[str, ...] = ()


def read_arrays(data: bytes, file: str, skip: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """All datasets of the HDF5 file ``data`` as {"layers/lstm/cell/vars/0": array, …}; see ``read_tree``."""
    return read_tree(data, file, skip).arrays


def read_tree(data: bytes, file: str, skip: tuple[str, ...] = (), wanted: Callable[[str], bool] = lambda name: False) -> Tree:
    """All datasets of the HDF5 file ``data``, and those attributes of its groups whose name is ``wanted``, as str or list of str.

    ``file`` is the name for messages, ``skip`` names top-level groups that are not looked into.
    ValueError for damaged data and for everything that points out of the file or has an absurd size.
    """
    h5py = import_h5py()
    wrong = damaged_heap(data)
    if wrong is not None:
        raise ValueError(f"{file}: cannot read its HDF5 data: {wrong}")
    with _naming(file, "its HDF5 data"):
        handle = h5py.File(io.BytesIO(data), "r")
    try:
        return _read_tree(h5py, handle, _Source(file, len(data)), skip, wanted)
    finally:
        # Closing a damaged file may fail once more; the first error is the one to report.
        with contextlib.suppress(Exception):
            handle.close()


def hdf5_bytes(arrays: Mapping[str, np.ndarray], names: Mapping[str, str]) -> bytes:
    """An HDF5 file with ``arrays`` at their paths and the attribute "name" of the groups in ``names``, as bytes.

    bfloat16 is written as Keras does: opaque pairs of bytes with an attribute "dtype".
    """
    h5py = import_h5py()
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as handle:
        for path, name in names.items():
            handle.require_group(path).attrs["name"] = name
        for path, array in arrays.items():
            if array.dtype.name == "bfloat16":
                handle.create_dataset(path, data=array.view("V2")).attrs["dtype"] = "bfloat16"
            else:
                handle.create_dataset(path, data=array)
    return buffer.getvalue()


class _Source:
    """The file that is being read: its name, its size, and how many bytes its datasets may still unpack to."""

    def __init__(self, file: str, size: int):
        self.file, self.size = file, size
        self.limit = self.left = unpacked_limit(size)
        self.limits = f"all data of this file of {size} bytes may take at most {self.limit} bytes"

    def refuse(self, path: str, why: str) -> ValueError:
        return ValueError(f"{self.file}: HDF5 object '{path}' {why}")


def _read_tree(h5py: Any, root: Any, source: _Source, skip: tuple[str, ...], wanted: Callable[[str], bool]) -> Tree:
    """Walks all groups by hand: h5py's own visitors give no say in which links are followed."""
    arrays: dict[str, np.ndarray] = {}
    attributes: dict[str, dict[str, Any]] = {}
    skipped: tuple[str, ...] = ()
    pending: list[tuple[Any, str, int]] = [(root, "", 0)]
    seen = 0
    while pending:
        group, prefix, depth = pending.pop()
        with _naming(source.file, f"HDF5 group '{prefix or '/'}'"):
            names = [name for name in group if prefix or name not in skip]
            skipped += tuple(name for name in skip if not prefix and name in group)
            listed = [name for name in group.attrs if isinstance(name, str)]  # bytes: a damaged name
        attributes[prefix] = {str(name): _read_attribute(group, name, prefix, source) for name in listed if wanted(name)}
        for name in names:
            path = f"{prefix}/{name}" if prefix else str(name)
            seen += 1
            if depth >= MAX_DEPTH or seen > MAX_OBJECTS:
                raise source.refuse(path, f"is nested deeper than {MAX_DEPTH} groups, or is one of more than {MAX_OBJECTS}")
            item = _open_item(h5py, group, name, path, source)
            if isinstance(item, h5py.Group):
                pending.append((item, path, depth + 1))
            else:
                arrays[path] = _read_dataset(h5py, item, path, source)
    return Tree(arrays, attributes, skipped)


def _read_attribute(group: Any, name: str, path: str, source: _Source) -> Any:
    """A text or a list of texts. ValueError for anything else, and for more than the file can hold."""
    what = f"attribute '{name}' of HDF5 group '{path or '/'}'"
    with _naming(source.file, what):
        handle = group.attrs.get_id(name)
        kind, shape = handle.dtype.kind, handle.shape
        size = math.prod(shape or ()) * handle.dtype.itemsize
    if not size:
        return []  # h5py writes an empty list as an array of no floats
    if kind not in "OSU" or size > source.size:
        raise ValueError(f"{source.file}: {what} must be text within the file. It has dtype {handle.dtype} and {size} bytes")
    with _naming(source.file, what):
        value = group.attrs[name]
        if isinstance(value, np.ndarray):
            return [_text(entry) for entry in value.ravel().tolist()]
        return _text(value)


def _text(value: Any) -> str:
    """bytes or str as str; TypeError for anything else, UnicodeError for bytes that are no text."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if not isinstance(value, str):
        raise TypeError(f"expected text, found {type(value).__name__}")
    value.encode("utf-8")  # h5py hands damaged text on with stand-ins for what it cannot read
    return str(value)


def _open_item(h5py: Any, group: Any, name: str, path: str, source: _Source) -> Any:
    """The group or dataset behind a hard link; every other kind of link or object is refused."""
    with _naming(source.file, f"HDF5 object '{path}'"):
        link = group.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise source.refuse(path, f"is an external link to another file ({link.filename!r}); links are not followed")
    if not isinstance(link, h5py.HardLink):
        target = getattr(link, "path", "?")
        raise source.refuse(path, f"is a soft link (to {target!r}); links are not followed")
    with _naming(source.file, f"HDF5 object '{path}'"):
        item = group[name]
    if not isinstance(item, h5py.Group | h5py.Dataset):
        raise source.refuse(path, f"is a {type(item).__name__}, expected a group or a dataset")
    return item


def _read_dataset(h5py: Any, dataset: Any, path: str, source: _Source) -> np.ndarray:
    with _naming(source.file, f"HDF5 dataset '{path}'"):
        plist = dataset.id.get_create_plist()
        layout, external = plist.get_layout(), plist.get_external_count()
    # Before anything else is asked: HDF5 opens the source files of a virtual dataset to tell its shape.
    if layout == h5py.h5d.VIRTUAL:
        raise source.refuse(path, "is a virtual dataset, whose data lie in other files; it is not followed")
    if external:
        raise source.refuse(path, "keeps its data in external files; they are not opened")
    with _naming(source.file, f"HDF5 dataset '{path}'"):
        dtype, shape = dataset.dtype, dataset.shape
    bfloat16 = _check_dtype(dataset, dtype, path, source)
    if shape is None:
        raise source.refuse(path, "has no shape (null dataspace)")
    _check_size(h5py, dataset, plist, layout, path, source)
    with _naming(source.file, f"HDF5 dataset '{path}'"):
        array = np.empty(shape, dtype)
        if array.size:
            dataset.read_direct(array)
    return array.view(_bfloat16()) if bfloat16 else array


def _check_dtype(dataset: Any, dtype: np.dtype, path: str, source: _Source) -> bool:
    """ValueError unless the elements are plain numbers. True for bfloat16: 2 opaque bytes and an attribute that says so."""
    if dtype.kind in "fiub" and dtype.names is None and dtype.subdtype is None:
        return False
    if dtype.kind == "V" and dtype.itemsize == 2 and dtype.names is None and dtype.subdtype is None:
        with _naming(source.file, f"the attributes of HDF5 dataset '{path}'"):
            note = dataset.attrs.get("dtype")
        if note in ("bfloat16", b"bfloat16"):
            return True
    raise source.refuse(path, f"has dtype {dtype}, expected plain numbers")


def _bfloat16() -> np.dtype:
    from ..dtypes import as_dtype

    return as_dtype("bfloat16")


def _check_size(h5py: Any, dataset: Any, plist: Any, layout: int, path: str, source: _Source) -> None:
    """ValueError where the declared shape cannot be backed by the bytes of the file."""
    shape, itemsize = dataset.shape, dataset.dtype.itemsize
    needed = math.prod(shape) * itemsize
    declared = f"declares shape {shape} of {dataset.dtype} ({needed} bytes)"
    if needed > source.left:
        raise source.refuse(path, f"{declared}; {source.limits}")
    source.left -= needed
    if layout == h5py.h5d.CHUNKED:
        _check_chunks(dataset, plist, path, declared, source)
        return
    if needed > source.size:
        raise source.refuse(path, f"{declared}, but the file has {source.size} bytes")
    if layout == h5py.h5d.CONTIGUOUS and needed:
        with _naming(source.file, f"HDF5 dataset '{path}'"):
            offset, stored = dataset.id.get_offset(), dataset.id.get_storage_size()
        if offset is None or stored != needed or offset + needed > source.size:
            raise source.refuse(path, f"{declared}, but its data are not all in the file (truncated?)")


def _check_chunks(dataset: Any, plist: Any, path: str, declared: str, source: _Source) -> None:
    """ValueError unless all chunks are there and, where compressed, unpack to just the size of a chunk.

    HDF5 itself unpacks a chunk into as much memory as it asks for, so the chunks are unpacked here once, within bounds.
    """
    with _naming(source.file, f"HDF5 dataset '{path}'"):
        filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
        chunk_bytes = math.prod(dataset.chunks) * dataset.dtype.itemsize
        stored = dataset.id.get_num_chunks()
    expected = math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
    if filters not in ([], [_DEFLATE], [_SHUFFLE], [_SHUFFLE, _DEFLATE]):
        raise source.refuse(path, f"is stored with the HDF5 filters {filters}, known are 1 (gzip) and 2 (shuffle)")
    if max(expected, 1) * chunk_bytes > source.limit:
        raise source.refuse(path, f"{declared} in {expected} chunks of {chunk_bytes} bytes; {source.limits}")
    if stored != expected:
        raise source.refuse(path, f"{declared}, of which only {stored} of {expected} chunks are in the file")
    for index in range(stored):
        with _naming(source.file, f"HDF5 dataset '{path}'"):
            info = dataset.id.get_chunk_info(index)
            inside = info.byte_offset is not None and info.byte_offset + info.size <= source.size
            skipped, raw = dataset.id.read_direct_chunk(info.chunk_offset) if inside else (0, b"")
            length = len(raw)
            if inside and filters[-1:] == [_DEFLATE] and not skipped:
                length = len(zlib.decompressobj().decompress(raw, chunk_bytes + 1))
        if not inside or length != chunk_bytes:
            raise source.refuse(path, f"{declared}, but chunk {index} does not hold {chunk_bytes} bytes")
