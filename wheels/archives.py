"""Archives whose bytes depend on nothing but their contents: wheels (zip) and sdists (tar.gz), sorted, every file of one date.

In terms of {name: bytes}; used by build.py.
"""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import io
import os
import subprocess
import tarfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

# Where neither SOURCE_DATE_EPOCH nor git says when the sources are from: 2026-01-01. A zip cannot hold dates before 1980.
FIXED_DATE = 1767225600
OLDEST = 315532800


def source_date(root: Path) -> int:
    """SOURCE_DATE_EPOCH, else the date of the last commit of ``root``, else FIXED_DATE; seconds since 1970."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return max(int(given), OLDEST)
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "log", "-1", "--format=%ct"]
        return max(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout), OLDEST)
    return FIXED_DATE


# -- wheels ----------------------------------------------------------------------------------------------------------------
def read_wheel(path: Path) -> dict[str, bytes]:
    """{name: bytes} of every file in a zip."""
    with zipfile.ZipFile(path) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist() if not entry.is_dir()}


def record(files: Mapping[str, bytes], name: str) -> bytes:
    """The RECORD of a wheel: name, hash and size of every file; of itself the ``name`` alone."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for path in sorted(set(files) - {name}):
        digest = base64.urlsafe_b64encode(hashlib.sha256(files[path]).digest()).rstrip(b"=").decode()
        writer.writerow([path, f"sha256={digest}", len(files[path])])
    writer.writerow([name, "", ""])
    return text.getvalue().encode()


def write_wheel(path: Path, files: Mapping[str, bytes], date: int) -> None:
    """Writes a wheel with a RECORD of its own; metadata stands last, as PEP 427 advises."""
    (name,) = (entry for entry in files if entry.endswith(".dist-info/RECORD"))
    complete = {**files, name: record(files, name)}
    order = sorted(complete, key=lambda entry: (".dist-info/" in entry, entry == name, entry))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for entry in order:
            info = zipfile.ZipInfo(entry, time.gmtime(date)[:6])
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3  # Unix, wherever it is built
            info.external_attr = (0o100755 if entry.endswith(".so") else 0o100644) << 16
            archive.writestr(info, complete[entry])


def retagged(text: bytes, tags: list[str]) -> bytes:
    """A WHEEL file with these tags in place of its own."""
    lines = [line for line in text.decode().splitlines() if line and not line.startswith("Tag:")]
    return "\n".join([*lines, *(f"Tag: {tag}" for tag in tags), ""]).encode()


# -- sdists ----------------------------------------------------------------------------------------------------------------
def read_sdist(path: Path) -> dict[str, bytes]:
    """{name: bytes} of every file in a .tar.gz."""
    with tarfile.open(path) as archive:
        return {entry.name: archive.extractfile(entry).read() for entry in archive if entry.isfile()}  # type: ignore[union-attr]


def unpack_sdist(path: Path, to: Path) -> Path:
    """Writes the files of an sdist below ``to`` and returns the one folder that they are in."""
    for name, content in read_sdist(path).items():
        place = to / name
        if not place.resolve().is_relative_to(to.resolve()):
            raise ValueError(f"{path.name} holds {name}, which leads out of its folder")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return to / path.name.removesuffix(".tar.gz")


def write_sdist(path: Path, files: Mapping[str, bytes], date: int) -> None:
    """Writes a .tar.gz of files that belong to nobody."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(files[name]), date
            entry.mode = 0o755 if files[name].startswith(b"#!") else 0o644
            archive.addfile(entry, io.BytesIO(files[name]))
    with open(path, "wb") as file, gzip.GzipFile("", "wb", compresslevel=9, fileobj=file, mtime=date) as packed:
        packed.write(plain.getvalue())
