"""The layers, under Keras' names. ``LAYERS`` is the table that turns a class name in a file into a class.

Used by ``models`` and by everybody: ``fastlstm.layers.LSTM`` is ``fastlstm.LSTM``.
"""

from .advanced_activations import ELU, LeakyReLU, PReLU, ReLU, Softmax
from .attention import AdditiveAttention, Attention, Dot, dot
from .base import Layer
from .bidirectional import Bidirectional
from .convlstm1d import ConvLSTM1D
from .convlstm2d import ConvLSTM2D
from .convolution import Conv1D, Convolution1D
from .core import Activation, Dropout, Flatten, Input, InputLayer, Masking
from .dense import Dense
from .embedding import Embedding
from .lstm import LSTM, LSTMCell
from .merging import (
    Add,
    Average,
    Concatenate,
    Maximum,
    Minimum,
    Multiply,
    Subtract,
    add,
    average,
    concatenate,
    maximum,
    minimum,
    multiply,
    subtract,
)
from .noise import GaussianDropout, GaussianNoise, SpatialDropout1D
from .normalization import BatchNormalization, LayerNormalization
from .plain_recurrent import GRU, SimpleRNN
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
from .projected_lstm import ProjectedLSTM
from .reshaping import Cropping1D, Permute, RepeatVector, Reshape, UpSampling1D, ZeroPadding1D
from .time_distributed import TimeDistributed
from .time_major import TimeMajor
from .torch_lstm import TorchLSTM
from .torch_weights import torch_state_dict
from .wrapper import deserialize, serialize

# Class name -> class, for ``deserialize`` and the readers of model files. ``models.sequential`` adds Sequential.
LAYERS: dict[str, type[Layer]] = {
    cls.__name__: cls
    for cls in (
        LSTM,
        ConvLSTM1D,
        ConvLSTM2D,
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
        TimeMajor,
        UpSampling1D,
        ZeroPadding1D,
        ELU,
        LeakyReLU,
        PReLU,
        ReLU,
        Softmax,
        AdditiveAttention,
        Attention,
        Dot,
        Add,
        Average,
        Concatenate,
        Maximum,
        Minimum,
        Multiply,
        Subtract,
        GaussianDropout,
        GaussianNoise,
        SpatialDropout1D,
        GRU,
        SimpleRNN,
        ProjectedLSTM,
        TorchLSTM,
    )
}

__all__ = [
    "ELU",
    "GRU",
    "LAYERS",
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
    "Layer",
    "LayerNormalization",
    "LeakyReLU",
    "Masking",
    "MaxPool1D",
    "MaxPooling1D",
    "Maximum",
    "Minimum",
    "Multiply",
    "PReLU",
    "Permute",
    "ReLU",
    "RepeatVector",
    "Reshape",
    "SimpleRNN",
    "Softmax",
    "SpatialDropout1D",
    "Subtract",
    "TimeDistributed",
    "TimeMajor",
    "TorchLSTM",
    "UpSampling1D",
    "ZeroPadding1D",
    "add",
    "average",
    "concatenate",
    "deserialize",
    "dot",
    "maximum",
    "minimum",
    "multiply",
    "serialize",
    "subtract",
    "torch_state_dict",
]
