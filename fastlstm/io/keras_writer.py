"""Writes the ``.keras`` format and ``.weights.h5`` files (keras-spec 13.2): plain dicts and arrays by HDF5 path -> a file.

Used by ``models.writing``. A file appears under its name only once it is complete: it is written beside it and moved there.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import secrets
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np

from .hdf5 import hdf5_bytes, import_h5py
from .keras_file import CONFIG, METADATA, WEIGHTS

_NO_DATE = (1980, 1, 1, 0, 0, 0)


def write_keras_file(
    path: str | os.PathLike | IO[bytes],
    config: Mapping[str, Any],
    metadata: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    names: Mapping[str, str],
) -> None:
    """Writes config.json, metadata.json and model.weights.h5 into one zip.

    ``path``: a path, or a binary file object; ``arrays``: by HDF5 path; ``names``: the attribute "name" of groups, by path.
    OSError where the file cannot be written (an existing one is then as it was); ImportError without h5py.
    """
    import_h5py()
    members = {
        METADATA: json.dumps(metadata).encode(),
        CONFIG: json.dumps(config).encode(),
        WEIGHTS: hdf5_bytes(arrays, names),
    }
    with replacing(path) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, _NO_DATE), data)


def write_weights_file(path: str | os.PathLike, arrays: Mapping[str, np.ndarray], names: Mapping[str, str]) -> None:
    """Writes the HDF5 file alone; arguments and errors as of ``write_keras_file``."""
    data = hdf5_bytes(arrays, names)
    with replacing(path) as stream:
        stream.write(data)


@contextlib.contextmanager
def replacing(path: Any) -> Iterator[IO[bytes]]:
    """A stream whose content becomes the file ``path`` at the end, all at once; on an error nothing is left behind."""
    if callable(getattr(path, "write", None)):
        buffer = io.BytesIO()
        yield buffer
        path.write(buffer.getvalue())
        return
    target = os.path.realpath(path)  # a link stays a link to the file that it names
    if os.path.isdir(target):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    temporary = f"{target}.{secrets.token_hex(4)}.tmp"
    try:
        stream = open(temporary, "xb")  # noqa: SIM115
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    try:
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if os.path.exists(target):
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
