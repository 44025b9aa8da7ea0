"""Zip archives, checked before anything is believed and read into memory only. Used by ``keras_file`` and ``torch_file``."""

from __future__ import annotations

import contextlib
import os
import stat
import zipfile
from collections.abc import Iterator
from typing import IO

from .hdf5 import unpacked_limit

MAX_MEMBERS = 10_000
_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}


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


def open_zip(stream: IO[bytes], name: str, otherwise: str) -> zipfile.ZipFile:
    """The archive in ``stream``. ``otherwise``: what the message says of a file that does not begin like one."""
    if not stream.seek(0, os.SEEK_END):
        raise ValueError(f"{name}: the file is empty")
    stream.seek(0)
    head = stream.read(8)
    with _naming(name, "the zip archive is truncated or damaged" if head[:2] == b"PK" else otherwise):
        return zipfile.ZipFile(stream)


def check_members(
    archive: zipfile.ZipFile, name: str, size: int, methods: tuple[int, ...] = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
) -> dict[str, zipfile.ZipInfo]:
    """The members by name. ValueError for names that leave the archive, duplicates, links, encryption, absurd sizes.

    ``size``: bytes of the file; ``methods``: how its members may be packed.
    """
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
        if info.compress_type not in methods:
            expected = " or ".join(_METHODS[method] for method in methods)
            raise ValueError(f"{name}: member {member!r} is packed by method {info.compress_type}, expected {expected}")
        members[member] = info
    total = sum(info.file_size for info in infos)
    limit = size if methods == (zipfile.ZIP_STORED,) else unpacked_limit(size)
    if total > limit:
        raise ValueError(f"{name}: the archive of {size} bytes declares {total} bytes unpacked, at most {limit} are accepted")
    return members


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> bytes:
    """The bytes of a member; never more than its checked, declared size."""
    member = info.filename
    with _naming(name, f"member {member!r} is damaged"), archive.open(info) as stream:
        data = stream.read(info.file_size)
        surplus = stream.read(1)  # also makes zipfile compare the CRC
    if len(data) != info.file_size or surplus:
        raise ValueError(f"{name}: member {member!r} is damaged: it does not hold the {info.file_size} bytes that it declares")
    return data
