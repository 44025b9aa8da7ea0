"""Makes .keras files out of a good one, piece by piece; used by the tests of damaged and hostile files."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import h5py
import pytest

import fastlstm

DATA = Path(__file__).parent / "data" / "keras3"
VALID = DATA / "embed_mask_lstm.keras"
CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
KERNEL = "layers/lstm/cell/vars/0"


def members_of(path=VALID):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(path, members):
    """A zip of (name, bytes) pairs or of a dict."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items() if isinstance(members, dict) else members:
            archive.writestr(name, data)
    return path


def weights_with(change):
    """The HDF5 member of the valid file after ``change(h5py file)``."""
    buffer = io.BytesIO(members_of()[WEIGHTS])
    with h5py.File(buffer, "r+") as handle:
        change(handle)
    return buffer.getvalue()


def config_with(change):
    config = json.loads(members_of()[CONFIG])
    config = change(config) or config
    return json.dumps(config).encode()


def refusal(path, *words):
    """The message of the error that loading ends in; it names the file and holds all ``words``."""
    with pytest.raises((ValueError, OSError)) as caught:
        fastlstm.load_model(path)
    # The very class counts: UnicodeDecodeError, JSONDecodeError and the like say nothing to a caller.
    assert type(caught.value) in (ValueError, OSError, FileNotFoundError, IsADirectoryError, PermissionError)
    message = str(caught.value)
    assert os.fspath(path) in message
    for word in words:
        assert word in message, message
    return message
