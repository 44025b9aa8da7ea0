"""Copies and pickles of models: they go on where the original stood, on their own."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from fit_models import data

from fastlstm import LSTM, Bidirectional, Dense, Dropout, Input, Model, Sequential, optimizers

TWINS = {"deepcopy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model))}


def sequential():
    return Sequential([Input((5, 4)), Bidirectional(LSTM(3, recurrent_dropout=0.2)), Dropout(0.3), Dense(2)])


def functional():
    x = Input((5, 4))
    return Model(x, Dense(2)(LSTM(3)(x)))


def averaging():
    return optimizers.AdamW(0.01, weight_decay=0.1, use_ema=True, gradient_accumulation_steps=2)


@pytest.mark.parametrize("twin", TWINS.values(), ids=TWINS)
@pytest.mark.parametrize("make", [sequential, functional])
@pytest.mark.parametrize("optimizer", [lambda: "adam", averaging, lambda: optimizers.SGD(0.1, momentum=0.9)])
def test_a_trained_model_trains_on(make, optimizer, twin):
    """The optimizer's moments, its variables without decay, and the draws of dropout come along."""
    model, (x, y) = make(), data()
    made = optimizer()
    if not isinstance(made, str):
        made.exclude_from_weight_decay(var_list=[model.layers[-1].bias])
    model.compile(made, "mse")
    model.fit(x, y, epochs=3, verbose=0)
    other = twin(model)
    before = model.get_weights()
    other.fit(x, y, epochs=2, shuffle=False, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))
    model.fit(x, y, epochs=2, shuffle=False, verbose=0)
    assert not np.array_equal(model.get_weights()[0], before[0])
    for mine, theirs in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
