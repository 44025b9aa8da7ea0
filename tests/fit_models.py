"""A small model, its data and a recorder of events, for the tests of fit."""

from __future__ import annotations

import numpy as np

from fastlstm import LSTM, Dense, InputLayer, Sequential
from fastlstm.training.callbacks import Callback


def small(**compiled):
    model = Sequential([InputLayer((5, 4)), LSTM(3), Dense(2)])
    model.compile(**{"optimizer": "sgd", "loss": "mse", **compiled})
    return model


def data(count=10, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, 5, 4)).astype("float32"), rng.standard_normal((count, 2)).astype("float32")


class Seen(Callback):
    """The events of a training, with their numbers."""

    def __init__(self):
        super().__init__()
        self.events = []

    def __getattribute__(self, name):
        if name.startswith("on_") and name not in ("on_batch_begin", "on_batch_end"):
            events = object.__getattribute__(self, "events")
            return lambda *a: events.append((name[3:], *(x for x in a if isinstance(x, int))))
        return object.__getattribute__(self, name)
