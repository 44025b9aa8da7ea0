"""Training on the device: the numbers of a training on the CPU, weights moved once, and every transfer accounted for."""

from __future__ import annotations

import random

import fake_cupy
import numpy as np
import pytest

import fastlstm
from fastlstm import devices, losses, optimizers
from fastlstm.initializers import GlorotUniform

RNG = np.random.default_rng(3)
COUNT, STEPS, FEATURES, CLASSES = 20, 6, 4, 3
X = RNG.standard_normal((COUNT, STEPS, FEATURES)).astype(np.float32)
X[3, 2:] = 9.0
LABELS = RNG.integers(0, CLASSES, COUNT)
OPTIMIZERS = {
    "sgd": lambda: optimizers.SGD(0.1),
    "momentum": lambda: optimizers.SGD(0.05, momentum=0.9, nesterov=True, weight_decay=0.01, clipvalue=0.5),
    "adam": lambda: optimizers.Adam(0.01, clipnorm=1.0),
    "amsgrad": lambda: optimizers.Adam(0.01, amsgrad=True, use_ema=True, ema_overwrite_frequency=2, global_clipnorm=1.0),
    "adamw": lambda: optimizers.AdamW(0.01, gradient_accumulation_steps=2),
    "rmsprop": lambda: optimizers.RMSprop(0.01, momentum=0.5, centered=True),
}


def lstm(units, **kwargs):
    return fastlstm.LSTM(units, kernel_initializer=GlorotUniform(seed=2), recurrent_initializer=GlorotUniform(seed=3), **kwargs)


def model(dropout=False):
    """Masks, both directions, normalization, a regularizer, a constraint; with ``dropout`` every kind of it."""
    rates = {"dropout": 0.3, "recurrent_dropout": 0.2, "seed": 3} if dropout else {}
    body = [
        fastlstm.Masking(9.0),
        lstm(5, return_sequences=True, kernel_regularizer="l2", kernel_constraint="max_norm", **rates),
        fastlstm.Bidirectional(lstm(3, return_sequences=True)),
        fastlstm.BatchNormalization(),
        *([fastlstm.Dropout(0.2, seed=1)] if dropout else []),
        fastlstm.TimeDistributed(fastlstm.Dense(4, "gelu", kernel_initializer=GlorotUniform(seed=1))),
        fastlstm.Flatten(),
        fastlstm.Dense(CLASSES, "softmax", kernel_initializer=GlorotUniform(seed=2)),
    ]
    return fastlstm.Sequential([fastlstm.Input((STEPS, FEATURES)), *body])


def fit(net, x, y, optimizer="adam", loss="sparse_categorical_crossentropy", **options):
    random.seed(5)
    net.compile(OPTIMIZERS[optimizer](), loss, metrics=["accuracy"])
    return net.fit(x, y, batch_size=8, verbose=0, **{"epochs": 2, **options})


def check_same(ours, theirs, history=None, expected=None):
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
    if history is not None:
        for name, values in expected.history.items():
            np.testing.assert_allclose(history.history[name], values, rtol=2e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_fit_as_on_the_cpu(device, optimizer):
    here, there, moved = model(dropout=True), model(dropout=True), model(dropout=True)
    expected = fit(here, X, LABELS, optimizer, validation_split=0.2)
    history = fit(there, device.asarray(X), device.asarray(LABELS), optimizer, validation_split=0.2)
    check_same(there, here, history, expected)
    with fastlstm.device("gpu"):
        check_same(moved, here, fit(moved, X, LABELS, optimizer, validation_split=0.2), expected)
        np.testing.assert_allclose(moved.evaluate(X, LABELS, verbose=0), here.evaluate(X, LABELS, verbose=0), rtol=1e-3)
    got = there.evaluate(device.asarray(X), device.asarray(LABELS), verbose=0)
    np.testing.assert_allclose(got, here.evaluate(X, LABELS, verbose=0), rtol=1e-3)


LOSSES = {
    "mse": ("mean_squared_error", 1),
    "mae": ("mean_absolute_error", 1),
    "huber": (losses.Huber(0.5), 1),
    "binary": ("binary_crossentropy", 1),
    "binary logits": (losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1), 1),
    "categorical": ("categorical_crossentropy", CLASSES),
    "categorical logits": (losses.CategoricalCrossentropy(from_logits=True), CLASSES),
    "sparse logits": (losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=1), 0),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weighted", [None, "sample_weight", "class_weight"])
def test_every_loss(device, name, weighted):
    loss, columns = LOSSES[name]
    y = LABELS if not columns else np.eye(CLASSES, dtype=np.float32)[LABELS]
    if columns == 1:
        y = (LABELS[:, None] > 0).astype(np.float32)
    weights = {
        None: {},
        "sample_weight": {"sample_weight": np.linspace(0, 2, COUNT)},
        "class_weight": {"class_weight": {0: 2.0, 1: 0.5}},
    }
    nets = [
        fastlstm.Sequential(
            [
                fastlstm.Input((STEPS, FEATURES)),
                lstm(4),
                fastlstm.Dense(columns or CLASSES, "sigmoid", kernel_initializer=GlorotUniform(seed=1)),
            ]
        )
        for _ in range(2)
    ]
    expected = fit(nets[0], X, y, loss=loss, **weights[weighted])
    options = {key: value if key == "class_weight" else device.asarray(value) for key, value in weights[weighted].items()}
    history = fit(nets[1], device.asarray(X), device.asarray(y), loss=loss, **options)
    check_same(nets[1], nets[0], history, expected)


def test_masked_steps_do_not_count(device):
    nets = [
        fastlstm.Sequential([fastlstm.Input((STEPS, FEATURES)), fastlstm.Masking(9.0), lstm(2, return_sequences=True)])
        for _ in "ab"
    ]
    y = RNG.standard_normal((COUNT, STEPS, 2)).astype(np.float32)
    expected = fit(nets[0], X, y, loss="mse")
    check_same(nets[1], nets[0], fit(nets[1], device.asarray(X), device.asarray(y), loss="mse"), expected)


# -- transfers --------------------------------------------------------------------------------------------------------------
def test_fit_moves_the_weights_once_and_the_order_of_each_epoch(cupy):
    net, x, y = model(), cupy.asarray(X), cupy.asarray(LABELS)
    epochs, batches = 3, 3
    fake_cupy.transfers.reset()
    fit(net, x, y, epochs=epochs)
    uploads, downloads, scalars = fake_cupy.transfers.counts()
    assert uploads == len(net.weights) + epochs
    assert downloads == 0
    # A step reads the loss, the penalty, whether the labels are classes (smallest and largest), the metric, three gradient norms…
    norms = len(net.trainable_weights)  # clipnorm=1.0
    assert scalars <= epochs * batches * (5 + norms)
    fake_cupy.transfers.reset()
    fit(net, x, y, epochs=1)
    assert fake_cupy.transfers.counts()[:2] == (1, 0)
    fake_cupy.transfers.reset()
    net.get_weights()
    assert fake_cupy.transfers.counts() == (0, len(net.weights), 0)


def test_dropout_masks_are_drawn_on_the_host_and_moved(cupy):
    net, x, y = model(dropout=True), cupy.asarray(X), cupy.asarray(LABELS)
    fit(net, x, y, epochs=1)
    fake_cupy.transfers.reset()
    fit(net, x, y, epochs=1)
    masks = 8 + 1  # four gates of x and of h; the Dropout layer
    assert fake_cupy.transfers.counts()[:2] == (1 + 3 * masks, 0)


def test_fit_under_a_device_moves_each_batch_once(cupy):
    net = model()
    with fastlstm.device("gpu"):
        fit(net, X, LABELS, epochs=1)
        fake_cupy.transfers.reset()
        fit(net, X, LABELS, epochs=2)
        assert fake_cupy.transfers.counts()[:2] == (2 * 3 * 2, 0)  # epochs, batches, x and y
        assert all(variable.home == "gpu" for variable in net.trainable_weights)


def test_training_goes_on_on_the_other_side(cupy):
    here, there = model(), model()
    for net, sides in ((here, [lambda a: a] * 3), (there, [cupy.asarray, lambda a: a, cupy.asarray])):
        random.seed(5)
        net.compile("adam", "sparse_categorical_crossentropy")
        for side in sides:
            net.fit(side(X), side(LABELS), batch_size=8, verbose=0, shuffle=False)
    check_same(there, here)


def test_data_on_both_sides_is_refused(cupy):
    net = model()
    net.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(TypeError, match="`y` must live where `x` does"):
        net.fit(cupy.asarray(X), LABELS, verbose=0)
    with pytest.raises(TypeError, match="`sample_weight` must live where `x` does"):
        net.fit(X, LABELS, sample_weight=cupy.ones(COUNT), verbose=0)


def test_a_trained_model_is_saved_and_loaded(device, tmp_path):
    net = model()
    fit(net, device.asarray(X), device.asarray(LABELS))
    net.save(tmp_path / "model.keras")
    loaded = fastlstm.load_model(tmp_path / "model.keras")
    want = devices.to_cpu(net.predict(device.asarray(X), verbose=0))
    np.testing.assert_allclose(loaded.predict(X, verbose=0), want, rtol=1e-5, atol=1e-6)
