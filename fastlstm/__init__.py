"""fastlstm: LSTM and ConvLSTM1D as Keras defines them, fast on a CPU, with NumPy as the only dependency.

>>> import numpy as np, fastlstm
>>> layer = fastlstm.LSTM(128, return_sequences=True)
>>> layer(np.zeros((1, 100, 64), np.float32)).shape
(1, 100, 128)
"""

from . import activations, constraints, initializers, layers, models, regularizers
from .errors import DeviceError
from .layers import (
    LSTM,
    Activation,
    BatchNormalization,
    Bidirectional,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    InputLayer,
    LSTMCell,
    Masking,
    TimeDistributed,
)
from .models import Sequential, load_model
from .selector import config, device, show_config
from .version import __version__

__all__ = [
    "LSTM",
    "Activation",
    "BatchNormalization",
    "Bidirectional",
    "Dense",
    "DeviceError",
    "Dropout",
    "Embedding",
    "Flatten",
    "InputLayer",
    "LSTMCell",
    "Masking",
    "Sequential",
    "TimeDistributed",
    "__version__",
    "activations",
    "config",
    "constraints",
    "device",
    "initializers",
    "layers",
    "load_model",
    "models",
    "regularizers",
    "show_config",
]
