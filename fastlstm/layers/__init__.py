"""The layers, under Keras' names. ``LAYERS`` is the table that turns a class name in a file into a class.

Used by ``models`` and by everybody: ``fastlstm.layers.LSTM`` is ``fastlstm.LSTM``.
"""

from .base import Layer
from .bidirectional import Bidirectional
from .convlstm1d import ConvLSTM1D
from .convolution import Conv1D, Convolution1D
from .core import Activation, Dropout, Flatten, Input, InputLayer, Masking
from .dense import Dense
from .embedding import Embedding
from .lstm import LSTM, LSTMCell
from .normalization import BatchNormalization, LayerNormalization
from .pooling import (
    AveragePooling1D,
    AvgPool1D,
    GlobalAveragePooling1D,
    GlobalAvgPool1D,
    GlobalMaxPool1D,
    GlobalMaxPooling1D,
    MaxPool1D,
    MaxPooling1D,
)
from .reshaping import Cropping1D, Permute, RepeatVector, Reshape, UpSampling1D, ZeroPadding1D
from .time_distributed import TimeDistributed
from .wrapper import deserialize, serialize

# Class name -> class, for ``deserialize`` and the readers of model files. ``models.sequential`` adds Sequential.
LAYERS: dict[str, type[Layer]] = {
    cls.__name__: cls
    for cls in (
        LSTM,
        ConvLSTM1D,
        Activation,
        AveragePooling1D,
        BatchNormalization,
        Bidirectional,
        Conv1D,
        Cropping1D,
        Dense,
        Dropout,
        Embedding,
        Flatten,
        GlobalAveragePooling1D,
        GlobalMaxPooling1D,
        InputLayer,
        LSTMCell,
        LayerNormalization,
        Masking,
        MaxPooling1D,
        Permute,
        RepeatVector,
        Reshape,
        TimeDistributed,
        UpSampling1D,
        ZeroPadding1D,
    )
}

__all__ = [
    "LAYERS",
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
    "Dropout",
    "Embedding",
    "Flatten",
    "GlobalAveragePooling1D",
    "GlobalAvgPool1D",
    "GlobalMaxPool1D",
    "GlobalMaxPooling1D",
    "Input",
    "InputLayer",
    "LSTMCell",
    "Layer",
    "LayerNormalization",
    "Masking",
    "MaxPool1D",
    "MaxPooling1D",
    "Permute",
    "RepeatVector",
    "Reshape",
    "TimeDistributed",
    "UpSampling1D",
    "ZeroPadding1D",
    "deserialize",
    "serialize",
]
