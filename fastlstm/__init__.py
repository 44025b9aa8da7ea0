"""fastlstm: LSTM and ConvLSTM1D as Keras defines them, fast on a CPU, with NumPy as the only dependency.

>>> import numpy as np, fastlstm
>>> layer = fastlstm.LSTM(128, return_sequences=True)
>>> layer(np.zeros((1, 100, 64), np.float32)).shape
(1, 100, 128)
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    from . import _core as _core
except ImportError as error:
    if error.name != __name__:  # the core is there, and says itself why it cannot be loaded
        raise
    raise ImportError(
        f"fastlstm in {Path(__file__).parent} has no compiled core for this Python: it runs where it was built or installed "
        "(`pip install .`, in a clone `make demo`), neither from bare sources nor from a zip"
    ) from None

from . import activations, constraints, initializers, layers, models, regularizers, settings, training
from .backends.threads import get_num_threads, set_num_threads
from .errors import DeviceError
from .layers import (
    ELU,
    GRU,
    LSTM,
    Activation,
    Add,
    AdditiveAttention,
    Attention,
    Average,
    AveragePooling1D,
    AvgPool1D,
    BatchNormalization,
    Bidirectional,
    Concatenate,
    Conv1D,
    ConvLSTM1D,
    ConvLSTM2D,
    Convolution1D,
    Cropping1D,
    Dense,
    Dot,
    Dropout,
    Embedding,
    Flatten,
    GaussianDropout,
    GaussianNoise,
    GlobalAveragePooling1D,
    GlobalAvgPool1D,
    GlobalMaxPool1D,
    GlobalMaxPooling1D,
    Input,
    InputLayer,
    LayerNormalization,
    LeakyReLU,
    LSTMCell,
    Masking,
    Maximum,
    MaxPool1D,
    MaxPooling1D,
    Minimum,
    Multiply,
    Permute,
    PReLU,
    ReLU,
    RepeatVector,
    Reshape,
    SimpleRNN,
    Softmax,
    SpatialDropout1D,
    Subtract,
    TimeDistributed,
    TorchLSTM,
    UpSampling1D,
    ZeroPadding1D,
    torch_state_dict,
)
from .models import Model, Sequential, load_model
from .selector import config, device, show_config
from .version import __version__

if TYPE_CHECKING:
    from . import export, io, utils
    from .training import callbacks, losses, metrics, optimizers

__all__ = [
    "ELU",
    "GRU",
    "LSTM",
    "Activation",
    "Add",
    "AdditiveAttention",
    "Attention",
    "Average",
    "AveragePooling1D",
    "AvgPool1D",
    "BatchNormalization",
    "Bidirectional",
    "Concatenate",
    "Conv1D",
    "ConvLSTM1D",
    "ConvLSTM2D",
    "Convolution1D",
    "Cropping1D",
    "Dense",
    "DeviceError",
    "Dot",
    "Dropout",
    "Embedding",
    "Flatten",
    "GaussianDropout",
    "GaussianNoise",
    "GlobalAveragePooling1D",
    "GlobalAvgPool1D",
    "GlobalMaxPool1D",
    "GlobalMaxPooling1D",
    "Input",
    "InputLayer",
    "LSTMCell",
    "LayerNormalization",
    "LeakyReLU",
    "Masking",
    "MaxPool1D",
    "MaxPooling1D",
    "Maximum",
    "Minimum",
    "Model",
    "Multiply",
    "PReLU",
    "Permute",
    "ReLU",
    "RepeatVector",
    "Reshape",
    "Sequential",
    "SimpleRNN",
    "Softmax",
    "SpatialDropout1D",
    "Subtract",
    "TimeDistributed",
    "TorchLSTM",
    "UpSampling1D",
    "ZeroPadding1D",
    "__version__",
    "activations",
    "callbacks",
    "config",
    "constraints",
    "device",
    "export",
    "get_include",
    "get_num_threads",
    "initializers",
    "io",
    "layers",
    "load_model",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "regularizers",
    "set_num_threads",
    "settings",
    "show_config",
    "torch_state_dict",
    "training",
    "utils",
]

# Modules that are loaded when somebody asks for them: those who only predict do not wait for them.
_LOADERS = {
    "callbacks": lambda: import_module("fastlstm.callbacks"),
    "export": lambda: import_module("fastlstm.export"),
    "io": lambda: import_module("fastlstm.io"),
    "losses": lambda: import_module("fastlstm.losses"),
    "metrics": lambda: import_module("fastlstm.metrics"),
    "optimizers": lambda: import_module("fastlstm.optimizers"),
    "utils": lambda: import_module("fastlstm.utils"),
}


def get_include() -> str:
    """The folder for a C compiler's -I: programs then write ``#include <fastlstm/fastlstm.h>`` (docs/c_api.md).

    FileNotFoundError where the installation has lost its headers.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "include", package.parent / "include"):  # installed; a clone that is installed editable
        if (folder / "fastlstm" / "fastlstm.h").is_file():
            return str(folder)
    raise FileNotFoundError(f"the C headers of fastlstm are not in {package / 'include'}: install fastlstm again")


def __getattr__(name: str) -> Any:
    if name in _LOADERS:
        return _LOADERS[name]()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, for completion."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
