"""Model files, one module a format: files <-> plain dicts and NumPy arrays. Knows no layer; used by ``models``.

Everything a file says is checked before it is believed: a damaged or hostile file raises ValueError or OSError with the
file's name in the message. Nothing from a file is executed, unpickled or unpacked outside memory.
"""

from . import safetensors, torch_file
from .hdf5 import read_arrays
from .keras_file import KerasFile, LayerArrays, read_config_file, read_keras_file, read_weights_file
from .model_file import OnnxBytes, read_model_file

__all__ = [
    "KerasFile",
    "LayerArrays",
    "OnnxBytes",
    "read_arrays",
    "read_config_file",
    "read_keras_file",
    "read_model_file",
    "read_weights_file",
    "safetensors",
    "torch_file",
]
