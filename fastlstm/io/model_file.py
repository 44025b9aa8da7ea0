"""A file of any kind that holds a model -> what is in it: the contents decide, not the name. For ``models.saving``, ``cli``."""

from __future__ import annotations

import os
from typing import IO, Any, NamedTuple

from .keras_file import KerasFile, opened, read_keras_stream
from .onnx_file import is_onnx
from .own_file import is_own_npz, read_own_npz, read_own_safetensors
from .safetensors import is_safetensors


class OnnxBytes(NamedTuple):
    """The bytes of an ONNX file, its name for messages, and the folder where its external data may lie (None: nowhere)."""

    data: bytes
    name: str
    folder: str | None


def read_model_file(file: str | os.PathLike | IO[bytes]) -> KerasFile | OnnxBytes:
    """What is in a ``.keras``, ``.h5`` or ``.onnx`` file, or in an ``.npz`` or ``.safetensors`` file of fastlstm: a path or a
    binary file object.

    OSError where it cannot be opened; for files of Keras the errors of ``keras_file.read_keras_file``, for those of fastlstm
    the ones of ``own_file``.
    """
    with opened(file) as (stream, name):
        stream.seek(0)
        head = stream.read(16)
        stream.seek(0)
        if is_safetensors(head):
            return read_own_safetensors(stream, name)
        if head[:2] == b"PK" and is_own_npz(stream):
            return read_own_npz(stream, name)
        if is_onnx(stream):
            stream.seek(0)
            return OnnxBytes(stream.read(), name, _folder(file))
        return read_keras_stream(stream, name)


def _folder(file: Any) -> str | None:
    return os.path.dirname(os.path.abspath(os.fsdecode(file))) if isinstance(file, str | os.PathLike) else None
