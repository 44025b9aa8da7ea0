"""Input and output arrays of the command line: .npy, .npz and .csv files. Used by ``cli``; pickled contents are refused."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import IO, NamedTuple

import numpy as np

READABLE = (".npy", ".npz", ".csv")
WRITABLE = (".npy", ".csv")
_MAGIC = {".npy": b"\x93NUMPY", ".npz": b"PK"}
# The arrays of an .npz that are shown beside a prediction; no other is read, they may be large.
BESIDE = ("y", "classes", "keras_prediction")


class DataFile(NamedTuple):
    """An input: ``x``, and the other arrays of an .npz by name (``y``, ``classes``, …). ``tabular``: x came as rows of a .csv."""

    name: str
    key: str
    x: np.ndarray
    others: dict[str, np.ndarray]
    tabular: bool


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """Adds the file's name to what NumPy raises for a damaged file.

    NumPy lets BadZipFile, EOFError, KeyError, MemoryError, SyntaxError and zlib.error through besides ValueError; the
    original stays attached as the cause. Errors of the operating system name the file already.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise ValueError(f"{path}: cannot read the file: {error}") from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if "allow_pickle" in reason:
            reason = "it holds Python objects (a pickle), which are never loaded from a file; expected numbers"
        raise ValueError(reason if reason.startswith(f"{path}: ") else f"{path}: cannot read the file: {reason}") from error


def suffix_of(path: str, known: Sequence[str], what: str) -> str:
    """The suffix of a path in lower case; ValueError unless it is one of ``known``."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in known:
        raise ValueError(f"{path}: {what} must end in {', '.join(known[:-1])}{' or ' if known[1:] else ''}{known[-1]}")
    return suffix


def read_data(path: str, key: str | None = None) -> DataFile:
    """Reads an input file.

    .npy: the array. .npz: the array ``key``, by default "x", else the only one. .csv: a table of numbers [rows, columns],
    separated by comma, semicolon, tab or blanks; a first row that is not all numbers is a header; lines after "#" are skipped.
    OSError where the file cannot be opened, ValueError (naming the file) for anything else that is wrong.
    """
    suffix = suffix_of(path, READABLE, "the input")
    if key is not None and suffix != ".npz":
        raise ValueError(f"{path}: --key names an array of an .npz file; this is a {suffix} file")
    with _naming(path):
        if suffix == ".csv":
            return DataFile(path, "", _read_csv(path), {}, True)
        with open(path, "rb") as stream:
            _check_magic(stream, path, suffix)
            loaded = np.load(stream, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return DataFile(path, "", _numbers(loaded, path, "the array"), {}, False)
            with loaded:
                return _from_npz(loaded, path, key)


def _check_magic(stream: IO[bytes], path: str, suffix: str) -> None:
    """ValueError unless the file begins as its suffix says: NumPy takes all else for a pickle, and says how to load it."""
    expected = _MAGIC[suffix]
    if stream.read(len(expected)) != expected:
        raise ValueError(f"{path}: is not a {suffix} file, whatever its name says (it does not begin with {expected!r})")
    stream.seek(0)


def _from_npz(archive: np.lib.npyio.NpzFile, path: str, key: str | None) -> DataFile:
    names = list(archive.files)
    chosen = key or ("x" if "x" in names or len(names) != 1 else names[0])
    if chosen not in names:
        listed = ", ".join(names) or "none"
        hint = "" if key else "; choose one with --key"
        raise ValueError(f"{path}: has no array {chosen!r}. Its arrays: {listed}{hint}")
    beside = [name for name in names if name in BESIDE and name != chosen]
    return DataFile(path, chosen, _numbers(archive[chosen], path, f"array {chosen!r}"), {n: archive[n] for n in beside}, False)


def _numbers(array: np.ndarray, path: str, what: str) -> np.ndarray:
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{path}: {what} must hold numbers. Received: dtype={array.dtype}, shape={array.shape}")
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"{path}: {what} is empty. Received: shape={array.shape}")
    return array


def _read_csv(path: str) -> np.ndarray:
    """A table of numbers as float64 [rows, columns]."""
    with open(path, encoding="utf-8-sig") as stream:
        lines = [line for line in stream if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise ValueError(f"{path}: the file has no rows")
    delimiter = next((mark for mark in (",", ";", "\t") if mark in lines[0]), None)
    if not all(_is_number(cell) for cell in lines[0].strip().split(delimiter)):
        del lines[0]
    if not lines:
        raise ValueError(f"{path}: the file has a header and no rows")
    return np.loadtxt(lines, delimiter=delimiter, ndmin=2, quotechar='"')


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip().strip('"'))
    except ValueError:
        return False
    return True


def check_writable(path: str, known: Sequence[str] = WRITABLE) -> None:
    """ValueError for an output of another suffix or in a folder that takes none: said before the work, not after it."""
    suffix_of(path, known, "the output")
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise ValueError(f"{path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{path}: the folder {folder} cannot be written to")
    if os.path.isdir(path):
        raise ValueError(f"{path}: is a folder, expected the name of a file")


def write_array(path: str, array: np.ndarray, columns: Sequence[str] | None = None) -> None:
    """Writes .npy, or .csv: a header of ``columns`` and one row for each index but the last axis (float32 is kept exactly)."""
    if suffix_of(path, WRITABLE, "the output") == ".npy":
        with open(path, "wb") as stream:
            np.save(stream, array, allow_pickle=False)
        return
    flat = array.reshape(-1, array.shape[-1]) if array.ndim > 1 else array.reshape(-1, 1)
    names = columns if columns is not None and len(columns) == flat.shape[1] else [f"output {k}" for k in range(flat.shape[1])]
    header = ",".join(_header_cell(name) for name in names)
    digits = "%.17g" if array.dtype == np.float64 else "%.9g"
    with open(path, "w", encoding="utf-8", newline="\n") as stream:
        np.savetxt(stream, flat, fmt=digits, delimiter=",", header=header, comments="")


def _header_cell(name: str) -> str:
    """A column's name such that ``read_data`` takes the row for a header and no name for two."""
    name = f"class {name}" if _is_number(name) else name
    return '"' + name.replace('"', '""') + '"' if "," in name or '"' in name else name
