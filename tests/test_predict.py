"""Sequential.predict: batches of arrays and of iterables, callbacks, stateful models; and the progress bar."""

from __future__ import annotations

import builtins
import io
import random

import numpy as np
import pytest
from fit_models import Seen

import fastlstm
from fastlstm import LSTM, Dense, InputLayer, Masking, Sequential, progress


@pytest.fixture(autouse=True)
def same_weights_every_time():
    random.seed(1)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def small():
    return Sequential([InputLayer((5, 4)), Masking(), LSTM(3), Dense(2)])


@pytest.mark.parametrize("batch_size", [1, 3, 7, 32, None])
def test_predict_puts_batches_together(rng, batch_size):
    model, x = small(), rng.normal(size=(7, 5, 4)).astype(np.float32)
    y = model.predict(x, batch_size=batch_size, verbose=0)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, model(x), atol=1e-6)
    assert model.predict(x[:0]).shape == (0, 2)
    np.testing.assert_allclose(model.predict(x, batch_size=2, steps=2), y[:4], atol=1e-6)


def test_predict_of_a_stateful_model_needs_whole_batches(rng):
    model = Sequential([InputLayer(batch_shape=(2, 3, 4)), LSTM(3, stateful=True), Dense(1)])
    x = rng.normal(size=(6, 3, 4)).astype(np.float32)
    for arguments in ({"x": x, "batch_size": 32}, {"x": x[:5], "batch_size": 2}, {"x": x, "batch_size": 3}, {"x": x[:1]}):
        with pytest.raises(ValueError, match="stateful"):
            model.predict(**arguments)
    assert not model.layers[0].states[0].value.any()  # nothing ran
    y = model.predict(x, batch_size=2)
    model.layers[0].reset_state()
    np.testing.assert_array_equal(model.predict(x, batch_size=None), y)
    model.layers[0].reset_state()
    np.testing.assert_array_equal(np.concatenate([model(x[k : k + 2]) for k in (0, 2, 4)]), y)


def test_predict_of_batches_that_somebody_else_makes(rng):
    model, x = small(), rng.normal(size=(7, 5, 4)).astype(np.float32)
    y = model(x)
    for batches in ((part for part in (x[:3], x[3:])), zip((x[:3], x[3:]), (y[:3], y[3:]), strict=True)):
        np.testing.assert_allclose(model.predict(batches), y, atol=1e-6)

    def endless():
        while True:
            yield x[:2], y[:2]

    assert model.predict(endless(), steps=3).shape == (6, 2)
    with pytest.warns(UserWarning, match="after 2 of 4 batches"):
        model.predict(x, batch_size=4, steps=4)
    with pytest.warns(UserWarning, match="no data"), pytest.raises(ValueError, match="without batches"):
        model.predict(iter(()))
    with pytest.raises(ValueError, match="`x` must be a NumPy array"):
        model.predict({"x": x})


def test_predict_on_batch_is_one_call(rng):
    model, x = small(), rng.normal(size=(7, 5, 4)).astype(np.float32)
    np.testing.assert_array_equal(model.predict_on_batch(x), model(x))


def test_callbacks_hear_of_predict(rng):
    model, x = small(), rng.normal(size=(5, 5, 4)).astype(np.float32)
    seen = Seen()
    model.predict(x, batch_size=3, callbacks=[seen])
    batches = [(f"predict_batch_{when}", k) for k in (0, 1) for when in ("begin", "end")]
    assert seen.events == [("predict_begin",), *batches, ("predict_end",)]
    assert (seen.model, seen.params["steps"]) == (model, 2)


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"batch_size": 2.5}, {"steps": 0}, {"verbose": 3}, {"verbose": "yes"}])
def test_predict_refuses(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        small().predict(np.zeros((2, 5, 4)), **arguments)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("verbose", [1, True])
def test_progress_bar_on_request(monkeypatch, verbose):
    pytest.importorskip("tqdm", reason="draws the bar")
    monkeypatch.setattr("sys.stderr", out := io.StringIO())
    small().predict(np.zeros((5, 5, 4)), batch_size=1, verbose=verbose)
    assert "predict" in out.getvalue()
    assert "5/5" in out.getvalue()


def test_progress_without_tqdm_is_a_line_of_text(monkeypatch):
    real = builtins.__import__

    def without_tqdm(name, *rest):
        if name == "tqdm":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_tqdm)
    monkeypatch.setattr(progress, "_REDRAW", -1.0)
    monkeypatch.setattr("sys.stderr", out := io.StringIO())
    small().predict(np.zeros((3, 5, 4)), batch_size=1, verbose=1)
    assert out.getvalue() == "".join(f"\rpredict: {k}/3 (batch)" for k in range(4)) + "\n"


@pytest.mark.parametrize(
    ("patience", "terminal", "verbose", "drawn"),
    [
        (-1.0, True, "auto", True),
        (3600.0, True, "auto", False),
        (-1.0, False, "auto", False),
        (-1.0, True, 0, False),
        (3600.0, False, 2, True),
    ],
    ids=["long", "short", "no-terminal", "silent", "one-line"],
)
def test_progress_draws_only_when_it_should(monkeypatch, patience, terminal, verbose, drawn):
    monkeypatch.setattr(progress, "_PATIENCE", patience)
    monkeypatch.setattr("sys.stderr", out := Terminal() if terminal else io.StringIO())
    small().predict(np.zeros((4, 5, 4)), batch_size=1, verbose=verbose)
    assert bool(out.getvalue()) is drawn


def test_predict_on_batch_is_inference_whatever_a_layer_was_told():
    """As in Keras 3: a call of the model leaves ``training=True`` of a layer's call as it is, predict overrules it."""
    x = fastlstm.Input((6,))
    model = fastlstm.Model(x, fastlstm.Dropout(0.5, seed=1)(x, training=True))
    data = np.ones((4, 6), np.float32)
    assert set(np.unique(model(data))) == {0, 2}
    np.testing.assert_array_equal(model.predict_on_batch(data), data)
    np.testing.assert_array_equal(model.predict(data, verbose=0), data)
