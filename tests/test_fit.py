"""What fit learns, and what it refuses: steps, losses, metrics and weights against ``vjp`` and plain NumPy.

test_fit_loop.py has epochs, batches and events; test_fit_golden.py asks Keras.
"""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest
from fit_models import data, small

import fastlstm
from fastlstm import (
    LSTM,
    BatchNormalization,
    Bidirectional,
    ConvLSTM1D,
    Dense,
    Dropout,
    Flatten,
    InputLayer,
    Masking,
    Sequential,
    TimeDistributed,
)
from fastlstm.training import batches
from fastlstm.training.callbacks import LambdaCallback


@pytest.fixture(autouse=True)
def same_weights_every_time():
    random.seed(3)


# -- one step -----------------------------------------------------------------------------------------------------------
def test_a_step_is_gradient_descent_on_the_mean_squared_error():
    model, (x, y) = small(), data()
    before = model.get_weights()
    output, pullback = model.vjp(x)
    gradients = pullback(2 * (output - y) / y.size).weights
    loss = model.train_on_batch(x, y)
    assert loss == pytest.approx(float(np.mean((output.astype(np.float64) - y) ** 2)), rel=1e-6)
    for old, gradient, new in zip(before, gradients, model.get_weights(), strict=True):
        np.testing.assert_allclose(new, old - 0.01 * gradient, rtol=0, atol=1e-7)
        assert np.any(new != old)


REGULARIZED = {
    "weights": lambda: [LSTM(3, kernel_regularizer="l2", recurrent_regularizer="l1", bias_regularizer="l1l2"), Dense(2)],
    "activity": lambda: [
        LSTM(3, return_sequences=True, activity_regularizer="l2"),
        Flatten(),
        Dense(2, activity_regularizer="l1"),
    ],
    "inside": lambda: [Bidirectional(LSTM(3, activity_regularizer="l2"), activity_regularizer="l1"), Dense(2)],
    "sequential": lambda: [Sequential([LSTM(3, activity_regularizer="l2")]), Dense(2)],
    "time": lambda: [TimeDistributed(Dense(3, activity_regularizer="l2")), Flatten(), Dense(2)],
    "twice": lambda: [*[LSTM(4, return_sequences=True, activity_regularizer="l2")] * 2, Flatten(), Dense(2)],
}


@pytest.mark.parametrize("kind", list(REGULARIZED))
def test_penalties_count_in_the_loss_and_in_the_step(kind):
    """The step is minus the rate times the central differences of what evaluate says, in float64."""
    before = fastlstm.settings.floatx()
    fastlstm.settings.set_floatx("float64")
    try:
        model = Sequential([InputLayer((5, 4)), *REGULARIZED[kind]()])
    finally:
        fastlstm.settings.set_floatx(before)
    model.compile(fastlstm.training.optimizers.SGD(1.0), "mse")
    x, y = (a.astype(np.float64) for a in data(4))
    start = model.get_weights()
    model.train_on_batch(x, y)
    steps = [old - new for old, new in zip(start, model.get_weights(), strict=True)]
    rng = np.random.default_rng(1)
    for k, step in enumerate(steps):
        direction = rng.standard_normal(step.shape)
        values = []
        for sign in (1, -1):
            model.set_weights([w + sign * 1e-6 * direction if j == k else w for j, w in enumerate(start)])
            values.append(model.test_on_batch(x, y))
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(float(np.sum(step * direction)), rel=1e-5, abs=1e-8)


def test_activity_losses_join_only_while_a_model_trains():
    layer = LSTM(3, activity_regularizer="l2")
    x = data()[0]
    plain = LSTM(3)
    layer(x), plain(x)
    plain.set_weights(layer.get_weights())
    dy = np.ones((10, 3), np.float32)
    for one, other in zip(layer.vjp(x)[1](dy).weights, plain.vjp(x)[1](dy).weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_constraints_hold_after_every_step():
    model = Sequential([InputLayer((5, 4)), LSTM(3, kernel_constraint="non_neg"), Dense(2, kernel_constraint="unit_norm")])
    model.compile("sgd", "mse")
    x, y = data()
    model.fit(x, y, batch_size=4, verbose=0)
    assert model.layers[0].get_weights()[0].min() >= 0
    np.testing.assert_allclose(np.linalg.norm(model.layers[1].get_weights()[0], axis=0), 1, atol=1e-5)


def test_frozen_weights_stay_as_they_are():
    model, (x, y) = small(), data()
    model.layers[0].trainable = False
    before = model.get_weights()
    model.fit(x, y, verbose=0)
    after = model.get_weights()
    for k in range(3):
        np.testing.assert_array_equal(before[k], after[k])
    assert np.any(before[3] != after[3])


def test_normalization_learns_its_moving_statistics_and_evaluates_with_them():
    model = Sequential([InputLayer((4,)), BatchNormalization(momentum=0.5), Dense(1)])
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    x, y = (3 + 2 * rng.standard_normal((8, 4))).astype("float32"), np.zeros((8, 1), "float32")
    model.train_on_batch(x, y)
    mean, variance = (v.numpy() for v in model.layers[0].non_trainable_weights)
    np.testing.assert_allclose(mean, 0.5 * x.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(variance, 0.5 + 0.5 * x.var(axis=0), rtol=1e-5)
    assert model.evaluate(x, y, verbose=0) == pytest.approx(float(np.mean(model(x).astype(np.float64) ** 2)), rel=1e-5)
    np.testing.assert_array_equal(model.layers[0].non_trainable_weights[0].numpy(), mean)


# -- losses and metrics ------------------------------------------------------------------------------------------------------
def test_the_loss_of_an_epoch_is_the_mean_over_the_samples():
    """A batch of 4, 4 and 2: the last one counts half."""
    model, (x, y) = small(optimizer=fastlstm.training.optimizers.SGD(0.0), metrics=["mae"]), data()
    errors = model(x).astype(np.float64) - y
    history = model.fit(x, y, batch_size=4, verbose=0).history
    assert history["loss"] == [pytest.approx(np.mean(errors**2), rel=1e-5)]
    assert history["mae"] == [pytest.approx(np.mean(np.abs(errors)), rel=1e-5)]
    assert model.metrics_names == ["loss", "mae"]
    expected = [history["loss"][0], history["mae"][0]]
    assert model.evaluate(x, y, batch_size=3, verbose=0) == pytest.approx(expected, rel=1e-6)
    assert model.evaluate(x, y, verbose=0, return_dict=True).keys() == {"loss", "mae"}


@pytest.mark.parametrize(("shape", "classes", "expected"), [((8,), 3, "sparse"), ((8, 1), 1, "binary"), ((8, 3), 3, "plain")])
def test_accuracy_fits_the_shapes(shape, classes, expected):
    activation = "sigmoid" if classes == 1 else "softmax"
    model = Sequential([InputLayer((5, 4)), LSTM(3), Dense(classes, activation=activation)])
    model.compile("adam", "crossentropy", metrics=["accuracy"])
    rng = np.random.default_rng(0)
    labels = rng.integers(0, max(classes, 2), 8)
    y = np.eye(classes)[labels] if expected == "plain" else labels.reshape(shape)
    x = data(8)[0]
    prediction = model(x)
    decided = prediction[:, 0] > 0.5 if classes == 1 else prediction.argmax(axis=1)
    loss, accuracy = model.evaluate(x, y, verbose=0)
    assert accuracy == pytest.approx(np.mean(decided == labels))
    chosen = np.where(labels, prediction[:, 0], 1 - prediction[:, 0]) if classes == 1 else prediction[np.arange(8), labels]
    assert loss == pytest.approx(-np.mean(np.log(chosen)), rel=1e-5)


def test_metric_of_the_same_name_twice():
    model, (x, y) = small(metrics=["mae"], weighted_metrics=["mae", "mae"]), data()
    weight = np.arange(10, dtype="float32")
    logs = model.evaluate(x, y, sample_weight=weight, verbose=0, return_dict=True)
    errors = np.abs(model(x) - y).mean(axis=1)
    assert list(logs) == ["loss", "mae", "weighted_mae", "weighted_mae_1"]
    assert logs["mae"] == pytest.approx(errors.mean(), rel=1e-5)
    assert logs["weighted_mae"] == logs["weighted_mae_1"] == pytest.approx(np.average(errors, weights=weight), rel=1e-5)


def test_masked_steps_do_not_count():
    model = Sequential([InputLayer((5, 4)), Masking(), LSTM(3, return_sequences=True), Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    x = data(2)[0]
    x[0, 3:] = 0
    y = np.ones((2, 5, 1), "float32")
    errors = np.concatenate([(model(x) - y)[0, :3], (model(x) - y)[1]])
    before = model.evaluate(x, y, verbose=0)
    assert before == pytest.approx([np.mean(errors**2), np.abs(errors).mean()], rel=1e-5)
    y[0, 3:] = 1e6
    assert model.evaluate(x, y, verbose=0) == before
    model.train_on_batch(x, y)
    assert max(float(np.abs(w).max()) for w in model.get_weights()) < 10


def test_sample_and_class_weights():
    model, (x, _) = small(optimizer=fastlstm.training.optimizers.SGD(0.0), loss="sparse_categorical_crossentropy"), data(6)
    model.layers[1].activation = fastlstm.activations.get("softmax")
    y = np.array([0, 1, 1, 0, 1, 0])
    each = -np.log(model(x)[np.arange(6), y].astype(np.float64))
    weight = np.array([1, 2, 0, 1, 0.5, 3], "float32")
    assert model.fit(x, y, sample_weight=weight, verbose=0).history["loss"][0] == pytest.approx((each * weight).mean(), rel=1e-5)
    by_class = np.where(y == 1, 4.0, 1.0)
    assert model.train_on_batch(x, y, class_weight={1: 4.0}) == pytest.approx((each * by_class).mean(), rel=1e-5)
    np.testing.assert_array_equal(batches.class_weights(np.eye(3)[[2, 0]], {2: 5.0}), [5, 1])
    np.testing.assert_array_equal(batches.class_weights(np.array([[1], [0]]), {1: 3.0}), [3, 1])


# -- what does not fit --------------------------------------------------------------------------------------------------
def test_refusals():
    x, y = data()
    with pytest.raises(ValueError, match="compiled first"):
        Sequential([LSTM(2)]).fit(x, y)
    with pytest.raises(ValueError, match="no loss"):
        small(loss=None).fit(x, y)
    with pytest.raises(ValueError, match="nosuch"):
        small(loss="nosuch")
    with pytest.raises(ValueError, match="nosuch"):
        small(metrics=["nosuch"])
    with pytest.raises(ValueError, match="optimizer"):
        small(optimizer=None)
    with pytest.raises(ValueError, match="`loss` must be for one output"):
        small(loss=["mse", "mae"])
    with pytest.raises(ValueError, match="loss_weights"):
        small(loss_weights=[1, 2])
    model = small()
    for name, arguments in {
        "y": {"x": x, "y": y[:3]},
        "sample_weight": {"x": x, "y": y, "sample_weight": np.ones(3)},
        "class_weight": {"x": x, "y": y, "sample_weight": np.ones(10), "class_weight": {0: 1.0}},
        "`y` is missing": {"x": x},
        "validation_split": {"x": x, "y": y, "validation_split": 1.5},
        "validation_split.*'all'": {"x": x, "y": y, "validation_split": "all"},
        "validation_data": {"x": x, "y": y, "validation_data": x},
        "validation_data.*no samples": {"x": x, "y": y, "validation_data": (x[:0], y[:0])},
        "validation_freq": {"x": x, "y": y, "validation_data": (x, y), "validation_freq": 0},
        "validation_freq.*'often'": {"x": x, "y": y, "validation_data": (x, y), "validation_freq": "often"},
        "validation_steps": {"x": x, "y": y, "validation_data": (x, y), "validation_steps": 0},
        "steps_per_epoch": {"x": x, "y": y, "steps_per_epoch": 0},
        "`epochs`": {"x": x, "y": y, "epochs": 2.5},
        "initial_epoch": {"x": x, "y": y, "initial_epoch": -1},
        "class_weight.*number": {"x": x, "y": y, "class_weight": {0: "heavy"}},
        "`x` must be a NumPy array": {"x": {"x": x}, "y": y},
        "verbose": {"x": x, "y": y, "verbose": 7},
        "batch_size": {"x": x, "y": y, "batch_size": 0},
        "no samples": {"x": x[:0], "y": y[:0]},
    }.items():
        with pytest.raises(ValueError, match=name):
            model.fit(**{"verbose": 0, **arguments})
    with pytest.raises(TypeError, match="callbacks"):
        model.fit(x, y, callbacks=[print], verbose=0)
    several = Sequential([InputLayer((5, 4)), LSTM(3, return_state=True)])
    several.compile("sgd", "mse")
    with pytest.raises(ValueError, match="one output"):
        several.fit(x, y, verbose=0)


def test_what_is_compiled_for_the_only_output():
    """As Keras takes it: alone, in a list, or by the output's name; how a step is run changes nothing."""
    x, y = data()
    found = []
    for loss, metrics in (("mse", ["mae"]), (["mse"], [["mae"]]), ({"dense": "mse"}, {"dense": ["mae"]})):
        model = small(
            loss=loss, metrics=metrics, jit_compile=True, run_eagerly=True, steps_per_execution=4, auto_scale_loss=False
        )
        model.set_weights([np.full(w.shape, 0.1) for w in model.get_weights()])
        found.append(model.fit(x, y, verbose=0, shuffle=False).history)
    assert list(found[0]) == ["loss", "mae"]
    assert found[0] == found[1] == found[2]


def test_functions_without_a_derivative_are_named():
    x, y = data()
    for name, layer in (
        ("weights", Dense(2, kernel_regularizer=lambda w: w.sum())),
        ("outputs", Dense(2, activity_regularizer=lambda t: t.sum())),
    ):
        model = Sequential([InputLayer((5, 4)), LSTM(3), layer], name=name)
        model.compile("sgd", "mse")
        model.evaluate(x, y, verbose=0)
        with pytest.raises(NotImplementedError, match=r"regularizer '<lambda>'.*L1L2"):
            model.fit(x, y, verbose=0)


def test_steps_that_dropout_empties_are_masked_in_training():
    """Masking looks at what comes in, which is not what comes in when nothing is dropped."""
    dropout = Dropout(0.5, noise_shape=(None, None, 1), seed=4)
    model = Sequential([InputLayer((5, 4)), dropout, Masking(), LSTM(3, return_sequences=True), Dense(2)])
    model.compile(fastlstm.training.optimizers.SGD(0.0), "mse")
    x, y = data()[0], np.zeros((10, 5, 2), np.float32)
    again = Dropout.from_config(dropout.get_config())
    dropped = again(x, training=True)
    valid = (dropped != 0).any(-1)
    assert 0 < valid.sum() < valid.size
    outputs = model.layers[3](model.layers[2](dropped, mask=valid))
    assert model.train_on_batch(x, y) == pytest.approx(float((outputs**2).mean(-1)[valid].mean()), rel=1e-5)


@pytest.mark.parametrize("ends", ["by itself", "by Ctrl-C"])
def test_averaged_weights_are_what_fit_leaves(ends):
    model, (x, y) = small(optimizer=fastlstm.training.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)), data()
    seen = [None]

    def note(batch, logs):
        weights = model.get_weights()
        seen[0] = weights if seen[0] is None else [(a + w) / 2 for a, w in zip(seen[0], weights, strict=True)]
        if ends == "by Ctrl-C" and batch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) if ends == "by Ctrl-C" else contextlib.nullcontext():
        model.fit(x, y, batch_size=4, verbose=0, callbacks=[LambdaCallback(on_train_batch_end=note)])
    for average, weight in zip(seen[0], model.get_weights(), strict=True):
        np.testing.assert_allclose(weight, average, rtol=1e-5, atol=1e-7)


# -- learning -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "adamw"])
def test_learns_which_half_is_larger(optimizer):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 8, 1)).astype("float32")
    y = (x[:, :4].sum(axis=(1, 2)) > x[:, 4:].sum(axis=(1, 2))).astype("int64")
    model = Sequential([InputLayer((8, 1)), LSTM(8), Dense(1, activation="sigmoid")])
    rate = {"class_name": optimizer, "config": {"learning_rate": 0.03}}
    model.compile(rate, "binary_crossentropy", metrics=["accuracy"])
    model.fit(x, y, epochs=40, verbose=0)
    assert model.evaluate(x, y, verbose=0)[1] > 0.9


def test_learns_with_convlstm1d_by_a_schedule():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((32, 4, 6, 1)).astype("float32")
    y = (x.mean(axis=(1, 2, 3)) > 0).astype("int64")
    model = Sequential([InputLayer((4, 6, 1)), ConvLSTM1D(4, 3), Flatten(), Dense(2, activation="softmax")])
    schedule = fastlstm.training.schedules.ExponentialDecay(0.03, 40, 0.5)
    model.compile(fastlstm.training.optimizers.Adam(schedule), "crossentropy", metrics=["accuracy"])
    history = model.fit(x, y, batch_size=8, epochs=30, verbose=0).history
    assert history["accuracy"][-1] > 0.9
    assert history["loss"][-1] < history["loss"][0]
