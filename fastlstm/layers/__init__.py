"""The layers, under Keras' names. ``LAYERS`` is the table that turns a class name in a file into a class.

Used by ``models`` and by everybody: ``fastlstm.layers.LSTM`` is ``fastlstm.LSTM``.
"""

from .base import Layer
from .bidirectional import Bidirectional
from .core import Activation, Dropout, Flatten, Input, InputLayer, Masking
from .dense import Dense
from .embedding import Embedding
from .lstm import LSTM, LSTMCell
from .normalization import BatchNormalization
from .time_distributed import TimeDistributed
from .wrapper import deserialize, serialize

# Class name -> class, for ``deserialize`` and the readers of model files. ``models.sequential`` adds Sequential.
LAYERS: dict[str, type[Layer]] = {
    cls.__name__: cls
    for cls in (
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
}

__all__ = [
    "LAYERS",
    "LSTM",
    "Activation",
    "BatchNormalization",
    "Bidirectional",
    "Dense",
    "Dropout",
    "Embedding",
    "Flatten",
    "Input",
    "InputLayer",
    "LSTMCell",
    "Layer",
    "Masking",
    "TimeDistributed",
    "deserialize",
    "serialize",
]
