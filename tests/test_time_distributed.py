"""TimeDistributed against its inner layer applied step by step: masks, carried states, training, names, errors."""

from __future__ import annotations

import random

import numpy as np
import pytest

from fastlstm import LSTM, BatchNormalization, Dense, Embedding, TimeDistributed


@pytest.fixture(autouse=True)
def same_weights_every_time():
    random.seed(1)


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def test_time_distributed_dense(rng):
    layer = TimeDistributed(Dense(2, "relu", name="inner"), name="td")
    x = rng.normal(size=(3, 5, 4)).astype(np.float32)
    y = layer(x)
    assert [v.path for v in layer.weights] == ["td/inner/kernel", "td/inner/bias"]
    assert layer.weights[0].shape == (4, 2)
    for t in range(5):
        np.testing.assert_allclose(y[:, t], layer.layer(x[:, t]), atol=1e-6)
    np.testing.assert_allclose(layer(x, training=True), y, atol=1e-6)
    assert layer.compute_output_shape((None, 5, 4)) == (None, 5, 2)
    assert layer(x[:, :0]).shape == (3, 0, 2)


def test_time_distributed_recurrent_layer_gets_its_part_of_the_mask(rng):
    x, mask = rng.normal(size=(2, 3, 4, 5)).astype(np.float32), rng.random((2, 3, 4)) < 0.6
    layer = TimeDistributed(LSTM(3))
    y = layer(x, mask=mask)
    for t in range(3):
        np.testing.assert_allclose(y[:, t], layer.layer(x[:, t], mask=mask[:, t]), atol=1e-6)
    assert layer.compute_mask(x, mask) is mask


def test_time_distributed_stateful_layer_goes_on_from_step_to_step(rng):
    x = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    layer = TimeDistributed(LSTM(3, stateful=True))
    y = layer(x)
    whole = LSTM(3, return_sequences=True)
    whole.build((2, 12, 5))
    whole.set_weights(layer.get_weights())
    np.testing.assert_allclose(y, whole(x.reshape(2, 12, 5))[:, 3::4], atol=1e-6)


def test_time_distributed_batch_normalization_trains_on_each_step(rng):
    x = rng.normal(size=(50, 2, 3))
    layer = TimeDistributed(BatchNormalization(momentum=0.5, dtype="float64"), dtype="float64")
    layer(x, training=True)
    means = x.mean(0)
    np.testing.assert_allclose(layer.get_weights()[2], 0.25 * means[0] + 0.5 * means[1], atol=1e-12)


def test_time_distributed_keeps_indices_and_drops_inner_activity_losses():
    layer = TimeDistributed(Embedding(20, 2))
    assert layer(np.array([[[1, 2, 3]]])).shape == (1, 1, 3, 2)
    layer = TimeDistributed(Dense(2, activity_regularizer="l2", kernel_regularizer="l2"), activity_regularizer="l1")
    y = layer(np.ones((4, 2, 3), np.float32))
    expected = [0.01 * np.abs(y).sum() / 4, 0.01 * np.square(layer.weights[0].value).sum()]
    np.testing.assert_allclose(layer.losses, expected, rtol=1e-6)


def test_time_distributed_refuses():
    with pytest.raises(ValueError, match="layer="):
        TimeDistributed("dense")
    with pytest.raises(ValueError, match="3 axes"):
        TimeDistributed(Dense(2))(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"mask.shape=\(2, 4\)"):
        TimeDistributed(Dense(2))(np.zeros((2, 3, 4)), mask=np.ones((2, 4)))
    with pytest.raises(ValueError, match="one array"):
        TimeDistributed(LSTM(2, return_state=True))(np.zeros((2, 3, 4, 5)))
