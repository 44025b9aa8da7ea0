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
    AveragePooling1D,
    AvgPool1D,
    BatchNormalization,
    Bidirectional,
    Conv1D,
    ConvLSTM1D,
    Convolution1D,
    Cropping1D,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    GlobalAveragePooling1D,
    GlobalAvgPool1D,
    GlobalMaxPool1D,
    GlobalMaxPooling1D,
    InputLayer,
    LayerNormalization,
    LSTMCell,
    Masking,
    MaxPool1D,
    MaxPooling1D,
    Permute,
    RepeatVector,
    Reshape,
    TimeDistributed,
    UpSampling1D,
    ZeroPadding1D,
)
from .models import Sequential, load_model
from .selector import config, device, show_config
from .version import __version__

__all__ = [
    "LSTM",
    "Activation",
    "AveragePooling1D",
    "AvgPool1D",
    "BatchNormalization",
    "Bidirectional",
    "Conv1D",
    "ConvLSTM1D",
    "Convolution1D",
    "Cropping1D",
    "Dense",
    "DeviceError",
    "Dropout",
    "Embedding",
    "Flatten",
    "GlobalAveragePooling1D",
    "GlobalAvgPool1D",
    "GlobalMaxPool1D",
    "GlobalMaxPooling1D",
    "InputLayer",
    "LSTMCell",
    "LayerNormalization",
    "Masking",
    "MaxPool1D",
    "MaxPooling1D",
    "Permute",
    "RepeatVector",
    "Reshape",
    "Sequential",
    "TimeDistributed",
    "UpSampling1D",
    "ZeroPadding1D",
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
