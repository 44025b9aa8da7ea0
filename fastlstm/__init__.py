"""fastlstm: LSTM and ConvLSTM1D as Keras defines them, fast on a CPU, with NumPy as the only dependency.

>>> import numpy as np, fastlstm
>>> layer = fastlstm.LSTM(128, return_sequences=True)
>>> layer(np.zeros((1, 100, 64), np.float32)).shape
(1, 100, 128)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import activations, constraints, initializers, layers, models, regularizers, training
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
    "get_include",
    "get_num_threads",
    "initializers",
    "layers",
    "load_model",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "regularizers",
    "set_num_threads",
    "show_config",
    "torch_state_dict",
    "training",
]


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
    """``fastlstm.losses`` is ``fastlstm.training.losses``, loaded at first use."""
    if name in ("callbacks", "losses", "metrics", "optimizers"):
        return getattr(training, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
