"""fit of models with several outputs: Keras' own numbers (golden/make_fit_outputs.py), ways to say it, and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import fastlstm
from fastlstm import LSTM, Dense, Flatten, Input, Model
from fastlstm.training import metrics

STORED = json.loads((Path(__file__).parent / "data" / "fit_outputs.json").read_text("utf-8"))["cases"]


def arrays(value):
    """The nested arrays of the JSON."""
    if isinstance(value, dict) and set(value) == {"dtype", "array"}:
        return np.array(value["array"], value["dtype"])
    if isinstance(value, dict):
        return {key: arrays(one) for key, one in value.items()}
    return [arrays(one) for one in value] if isinstance(value, list) else value


def restored(told):
    model = Model.from_config(told["config"])
    model.set_weights(arrays(told["before"]))
    model.compile(**told["compiled"])
    return model


@pytest.mark.parametrize("case", STORED)
def test_fit_ends_where_keras_ends(case):
    told = STORED[case]
    model, data = restored(told), arrays(told["data"])
    if "validation_data" in data:
        data["validation_data"] = tuple(data["validation_data"])
    history = model.fit(**data, **told["arguments"], shuffle=False, verbose=0).history
    assert set(history) == set(told["history"])
    for key, values in told["history"].items():
        np.testing.assert_allclose(history[key], values, rtol=2e-5, atol=2e-6, err_msg=key)
    for weight, want in zip(model.weights, arrays(told["after"]), strict=True):
        np.testing.assert_allclose(weight.value, want, rtol=1e-4, atol=2e-5, err_msg=weight.path)
    given = {key: data[key] for key in ("x", "y", "sample_weight") if key in data}
    found = model.evaluate(**given, batch_size=4, verbose=0, return_dict=True)
    assert set(found) == set(told["evaluated"]["dict"])
    for key, value in told["evaluated"]["dict"].items():
        assert found[key] == pytest.approx(value, rel=2e-5, abs=2e-6), key
    listed = model.evaluate(**given, batch_size=4, verbose=0)
    np.testing.assert_allclose(listed, told["evaluated"]["list"], rtol=2e-5, atol=2e-6)


# -- ways to say it -----------------------------------------------------------------------------------------------------
def small():
    x = Input((4, 3), name="x")
    y = LSTM(3, return_sequences=True, name="lstm")(x)
    return Model(x, [Dense(1, name="a")(Flatten()(y)), Dense(2, name="b")(Flatten()(y))])


def samples(count=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, 4, 3)), [rng.standard_normal((count, 1)), rng.standard_normal((count, 2))]


def trained(compiled, x, y, **arguments):
    """Weights after an epoch, and the history."""
    model = small()
    model.set_weights([0.1 * np.sin(1 + np.arange(v.size)).reshape(v.shape) for v in model.weights])
    model.compile("sgd", **compiled)
    history = model.fit(x, y, batch_size=3, shuffle=False, verbose=0, **arguments).history
    return model.get_weights(), history


def test_lists_dicts_and_iterables_say_the_same():
    x, y = samples()
    lists = {"loss": ["mse", "mae"], "loss_weights": [1.0, 0.5], "metrics": [["mae"], None]}
    dicts = {"loss": {"b": "mae", "a": "mse"}, "loss_weights": {"b": 0.5}, "metrics": {"a": "mae"}}
    want, history = trained(lists, x, y)
    assert set(history) == {"loss", "a_loss", "b_loss", "a_mae"}
    assert history["loss"][0] == pytest.approx(history["a_loss"][0] + 0.5 * history["b_loss"][0], rel=1e-6)
    batches = [(x[k : k + 3], tuple(one[k : k + 3] for one in y)) for k in (0, 3)]
    for compiled, data in ((dicts, (x, y)), (lists, (x, {"b": y[1], "a": y[0]})), (dicts, (x, tuple(y)))):
        found, told = trained(compiled, *data)
        assert told == history
        for one, other in zip(found, want, strict=True):
            np.testing.assert_array_equal(one, other)
    model = small()
    model.set_weights([0.1 * np.sin(1 + np.arange(v.size)).reshape(v.shape) for v in model.weights])
    model.compile("sgd", **lists)
    assert model.fit(iter(batches), verbose=0).history == history


def test_one_batch():
    x, y = samples()
    model = small()
    model.compile("sgd", ["mse", "mse"], metrics=[None, [metrics.MeanAbsoluteError(name="off")]])
    first = model.test_on_batch(x, y, return_dict=True)
    assert list(first) == ["loss", "a_loss", "b_loss", "b_off"]
    a, b = model(x)
    assert first["b_off"] == pytest.approx(np.abs(b - y[1]).mean(), rel=1e-5)
    assert first["a_loss"] == pytest.approx(np.square(a - y[0]).mean(), rel=1e-5)
    assert model.train_on_batch(x, y) == list(first.values())
    assert model.test_on_batch(x, y)[0] < first["loss"]
    weights = np.linspace(0, 1, 6)
    alone = model.test_on_batch(x, y, sample_weight=weights, return_dict=True)
    each = model.test_on_batch(x, y, sample_weight=[weights, weights], return_dict=True)
    assert alone == each
    assert alone["loss"] < model.test_on_batch(x, y)[0]


def test_the_gradient_of_the_sum():
    """A step of plain gradient descent against central differences of the loss, in float64."""
    x, y = samples()
    inputs = Input((4, 3), name="x", dtype="float64")
    h = LSTM(2, dtype="float64", return_sequences=True, name="lstm")(inputs)
    ends = [
        Dense(1, dtype="float64", name="a")(Flatten(dtype="float64")(h)),
        Dense(2, dtype="float64", name="b")(LSTM(2, dtype="float64", name="end")(h)),
    ]
    model = Model(inputs, ends)
    model.compile({"class_name": "SGD", "config": {"learning_rate": 1.0}}, ["mse", "mse"], loss_weights=[0.7, 1.5])
    before = model.get_weights()
    kernel = model.get_layer("lstm").cell.kernel
    slopes = np.zeros(kernel.shape)
    for index in np.ndindex(*kernel.shape):
        values = []
        for step in (1e-6, -1e-6):
            kernel[index] = before[0][index] + step
            values.append(model.test_on_batch(x, y)[0])
            kernel[index] = before[0][index]
        slopes[index] = (values[0] - values[1]) / 2e-6
    model.train_on_batch(x, y)
    np.testing.assert_allclose(before[0] - kernel.value, slopes, rtol=1e-6, atol=1e-8)


def test_saved_and_trained_further(tmp_path):
    x, y = samples()
    model = small()
    model.compile("sgd", {"a": "mse", "b": "mae"}, loss_weights={"a": 1.0, "b": 2.0}, metrics={"b": ["mae", "mse"]})
    for suffix in ("keras", "npz"):
        if suffix == "keras":
            pytest.importorskip("h5py", reason="writing .keras files needs h5py")
        model.save(tmp_path / f"m.{suffix}")
        again = fastlstm.load_model(tmp_path / f"m.{suffix}")
        assert again.evaluate(x, y, verbose=0, return_dict=True) == model.evaluate(x, y, verbose=0, return_dict=True)


# -- refusals -----------------------------------------------------------------------------------------------------------
def test_refusals():
    x, y = samples()
    for compiled, words in (
        ({"loss": ["mse"]}, "loss.*outputs"),
        ({"loss": {"a": "mse", "c": "mse"}}, "loss.*'a', 'b'"),
        ({"loss": {"a": "mse"}}, "loss.*'a', 'b'"),
        ({"loss": ["mse", "nosuch"]}, "nosuch"),
        ({"loss": "mse", "loss_weights": [1.0, 2.0, 3.0]}, "loss_weights"),
        ({"loss": "mse", "loss_weights": ["x", 1.0]}, "loss_weights"),
        ({"loss": "mse", "metrics": ["mae"]}, "metrics.*outputs"),
        ({"loss": "mse", "metrics": {"c": "mae"}}, "metrics.*'a', 'b'"),
        ({"loss": "mse", "metrics": [["nosuch"], None]}, "nosuch"),
    ):
        with pytest.raises(ValueError, match=words):
            small().compile("sgd", **compiled)
    model = small()
    model.compile("sgd", ["mse", "mse"])
    for arguments, words in (
        ({"x": x, "y": y[0]}, "each of the 2 outputs"),
        ({"x": x, "y": [*y, y[0]]}, "each of the 2 outputs"),
        ({"x": x, "y": {"a": y[0]}}, "lacks the outputs"),
        ({"x": x, "y": [y[0], y[1][:3]]}, "same number of samples"),
        ({"x": x, "y": y, "class_weight": {0: 1.0}}, "class_weight"),
        ({"x": x, "y": None}, "`y`"),
    ):
        with pytest.raises(ValueError, match=words):
            model.fit(**arguments, verbose=0)
