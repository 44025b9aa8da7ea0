"""The loop of fit: epochs, batches, their order, events, states between batches, the display, Ctrl-C.

test_fit.py has what a step does and what the numbers are.
"""

from __future__ import annotations

import io
import os
import random
import re
import signal
import threading

import numpy as np
import pytest
from fit_models import Seen, data, small

import fastlstm
from fastlstm import LSTM, Dense, Dropout, InputLayer, Sequential
from fastlstm.training import batches
from fastlstm.training.callbacks import CSVLogger, History, LambdaCallback, TerminateOnNaN


@pytest.fixture(autouse=True)
def same_weights_every_time():
    random.seed(3)


# -- what is shown ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("verbose", [0, 1, 2, "auto"])
def test_display(verbose, monkeypatch):
    monkeypatch.setattr("sys.stderr", out := io.StringIO())
    model, (x, y) = small(), data()
    model.fit(x, y, batch_size=5, epochs=2, validation_data=(x, y), verbose=verbose)
    text = out.getvalue()
    if verbose == 0:
        assert text == ""
        return
    assert "epoch 1/2" in text
    assert "epoch 2/2" in text
    assert re.search(r"loss \d\.\d+, val_loss \d\.\d+", text)
    if verbose in (2, "auto"):  # stderr is no terminal
        assert text.count("\n") == 2
    if verbose == 1:
        assert "2/2" in text
    out.truncate(0)
    model.evaluate(x, y, verbose=verbose)
    assert "evaluate" in out.getvalue()


def test_nan_is_shown_and_does_not_end_the_training(capsys):
    model, (x, y) = small(), data()
    y[3] = np.nan
    history = model.fit(x, y, epochs=2, verbose=2)
    assert np.isnan(history.history["loss"]).all()
    assert capsys.readouterr().err.count("loss nan") == 2


def test_nan_ends_the_training_when_asked(capsys):
    model, (x, y) = small(), data()
    y[3] = np.nan
    history = model.fit(x, y, batch_size=2, epochs=5, verbose=0, shuffle=False, callbacks=[TerminateOnNaN()])
    assert len(history.epoch) == 1
    assert "Batch 1: the loss is nan" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="loss is nan after batch 0"):
        model.fit(x, y, verbose=0, callbacks=TerminateOnNaN(raise_error=True))


@pytest.mark.parametrize("what", ["fit", "evaluate"])
def test_an_error_closes_the_bar_and_the_files(what, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.stderr", out := io.StringIO())
    monkeypatch.setattr("fastlstm.progress.Progress._open", lambda self: setattr(self, "_plain", True))
    model, (x, y) = small(), data()
    log = CSVLogger(tmp_path / "log.csv")

    def fail(batch, logs):
        raise OSError("the disk is full")

    failing = LambdaCallback(on_train_batch_end=fail, on_test_batch_end=fail)
    with pytest.raises(OSError, match="full"):
        getattr(model, what)(x, y, verbose=1, callbacks=[log, failing])
    assert out.getvalue().endswith("\n")
    assert log._file is None


# -- epochs, batches, order ---------------------------------------------------------------------------------------------
def test_order_of_events():
    model, (x, y) = small(), data(4)
    seen = Seen()
    model.fit(x, y, batch_size=2, epochs=2, verbose=0, callbacks=[seen], validation_data=(x[:2], y[:2]))
    epoch = ["train_batch_begin", "train_batch_end"] * 2
    test = ["test_begin", "test_batch_begin", "test_batch_end", "test_end"]
    expected = ["train_begin", *(["epoch_begin", *epoch, *test, "epoch_end"] * 2), "train_end"]
    assert [event[0] for event in seen.events] == expected
    assert [event[1] for event in seen.events if event[0] == "train_batch_end"] == [0, 1, 0, 1]
    assert [event[1] for event in seen.events if event[0] == "epoch_begin"] == [0, 1]


def test_initial_epoch():
    model, (x, y) = small(), data()
    assert model.fit(x, y, epochs=5, initial_epoch=3, verbose=0).epoch == [3, 4]
    assert model.history.epoch == [3, 4]
    assert isinstance(model.history, History)


def test_a_given_history_is_the_one_that_is_returned():
    model, (x, y) = small(), data()
    history = History()
    assert model.fit(x, y, epochs=2, verbose=0, callbacks=[history]) is history
    assert len(history.history["loss"]) == 2


def test_shuffle_makes_a_new_order_each_epoch_and_repeats_by_seed():
    made = batches.Batch(np.arange(20)[:, None], np.arange(20), np.arange(20) / 20)
    orders = []
    for _ in range(2):
        random.seed(11)
        passes = batches.ArrayBatches(made, 6, shuffle=True)
        orders.append([np.concatenate([batch.x[:, 0] for batch in passes]) for _ in range(2)])
        for batch in passes:
            np.testing.assert_array_equal(batch.x[:, 0], batch.y)
            np.testing.assert_array_equal(batch.y / 20, batch.weight)
    np.testing.assert_array_equal(orders[0], orders[1])
    first, second = orders[0]
    assert sorted(first) == sorted(second) == list(range(20))
    assert list(first) != list(second) != list(range(20))
    assert [len(b.x) for b in batches.ArrayBatches(made, 6)] == [6, 6, 6, 2]


def test_shuffle_within_batches():
    made = batches.Batch(np.arange(20)[:, None], np.arange(20), None)
    orders = [[batch.x[:, 0] for batch in passes] for passes in [batches.ArrayBatches(made, 6, shuffle="batch")] * 2]
    for order in orders:
        for k, part in enumerate(order):
            assert sorted(part) == list(range(6 * k, min(6 * k + 6, 20)))
    assert [list(part) for part in orders[0]] != [list(part) for part in orders[1]]
    with pytest.raises(ValueError, match="`shuffle`"):
        small().fit(*data(), shuffle="often", verbose=0)


def test_same_seed_same_training():
    finals = []
    for _ in range(2):
        random.seed(5)
        model = Sequential([InputLayer((5, 4)), LSTM(3, dropout=0.3), Dropout(0.2), Dense(2)])
        model.compile("adam", "mse")
        x, y = data()
        model.fit(x, y, batch_size=3, epochs=2, verbose=0)
        finals.append(model.get_weights())
    for one, other in zip(*finals, strict=True):
        np.testing.assert_array_equal(one, other)


def test_validation_split_takes_the_last_samples():
    model, (x, y) = small(optimizer=fastlstm.training.optimizers.SGD(0.0)), data(10)
    history = model.fit(x, y, validation_split=0.3, verbose=0).history
    assert history["val_loss"][0] == pytest.approx(model.evaluate(x[7:], y[7:], verbose=0), rel=1e-6)
    assert history["loss"][0] == pytest.approx(model.evaluate(x[:7], y[:7], verbose=0), rel=1e-6)


@pytest.mark.parametrize(("freq", "expected"), [(2, [2, 4]), ([1, 4], [1, 4])])
def test_validation_freq(freq, expected):
    model, (x, y) = small(), data()
    seen = []
    note = LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch + 1) if "val_loss" in logs else None)
    model.fit(x, y, epochs=5, validation_data=(x, y), validation_freq=freq, verbose=0, callbacks=[note])
    assert seen == expected


def test_steps_per_epoch_goes_on_through_the_samples():
    model, (x, y) = small(), data()
    stream = batches.Stream(batches.ArrayBatches(batches.Batch(x, y, None), 4), steps=2)
    lengths = [[len(batch.x) for batch in stream.epoch()] for _ in range(3)]
    assert lengths == [[4, 4], [2, 4], [4, 2]]
    history = model.fit(x, y, batch_size=4, steps_per_epoch=1, epochs=3, verbose=0)
    assert model.optimizer.iterations == 3
    assert len(history.epoch) == 3


def test_every_validation_sees_the_same_samples():
    model, (x, y) = small(optimizer=fastlstm.training.optimizers.SGD(0.0)), data()
    history = model.fit(x, y, epochs=3, verbose=0, validation_data=(x, y), validation_batch_size=4, validation_steps=2).history
    assert history["val_loss"] == [history["val_loss"][0]] * 3
    assert history["val_loss"][0] == pytest.approx(model.evaluate(x[:8], y[:8], verbose=0), rel=1e-6)
    assert model.evaluate(x, y, batch_size=4, steps=2, verbose=0) == pytest.approx(history["val_loss"][0], rel=1e-6)
    with pytest.warns(UserWarning, match="after 3 of 5 batches"):
        assert model.evaluate(x, y, batch_size=4, steps=5, verbose=0) == model.evaluate(x, y, batch_size=4, verbose=0)


def test_batches_that_somebody_else_makes():
    model, (x, y) = small(), data()
    made = [(x[:4], y[:4]), (x[4:], y[4:], np.ones(6))]

    class Twice:
        def __iter__(self):
            return iter(made)

    model.fit(Twice(), epochs=2, verbose=0, validation_data=Twice())
    assert model.optimizer.iterations == 4
    assert model.evaluate(Twice(), verbose=0) == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-6)
    with pytest.warns(UserWarning, match="no data"):
        history = model.fit((item for item in made), epochs=3, verbose=0)
    assert history.epoch == [0]  # there is nothing to tell of an epoch without batches
    with pytest.raises(ValueError, match="come with the batches"):
        model.fit(Twice(), y)
    with pytest.raises(ValueError, match="4 entries"):
        model.fit(iter([(x, y, None, None)]), verbose=0)


def test_batches_by_their_number():
    """What was a Sequence and is a PyDataset in Keras."""

    class ByNumber:
        asked, ends = [], 0

        def __len__(self):
            return 4

        def __getitem__(self, index):
            self.asked.append(index)
            return x[2 * index : 2 * index + 2], y[2 * index : 2 * index + 2]

        def on_epoch_end(self):
            self.ends += 1

    x, y = data(8)
    random.seed(5)
    one, other, given = small(), small(), ByNumber()
    other.set_weights(one.get_weights())
    seen = Seen()
    one.fit(given, epochs=2, shuffle=False, verbose=0, callbacks=[seen])
    other.fit(x, y, batch_size=2, epochs=2, shuffle=False, verbose=0)
    for mine, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert (given.asked, given.ends, seen.params["steps"]) == ([0, 1, 2, 3] * 2, 2, 4)
    assert one.evaluate(given, verbose=0) == pytest.approx(other.evaluate(x, y, verbose=0), rel=1e-6)
    np.testing.assert_array_equal(one.predict(given, verbose=0), one.predict(x, verbose=0))
    given.asked.clear()
    one.fit(given, epochs=20, verbose=0, validation_data=given)
    passes = [given.asked[k : k + 4] for k in range(0, 160, 4)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in passes)
    assert len({tuple(order) for order in passes[0::2]}) > 5
    assert {tuple(order) for order in passes[1::2]} == {(0, 1, 2, 3)}  # a validation is not shuffled


@pytest.mark.parametrize("what", ["x", "validation_data"])
@pytest.mark.filterwarnings("ignore:`x` has no data")
def test_iterables_without_batches_are_refused(what):
    model, (x, y) = small(), data()
    with pytest.raises(ValueError, match=f"`{what}` is an iterable without batches"):
        model.fit(iter(()), verbose=0) if what == "x" else model.fit(x, y, validation_data=iter(()), verbose=0)
    with pytest.raises(ValueError, match="`x` is an iterable without batches"):
        model.evaluate(iter(()), verbose=0)


def test_validation_by_a_generator_that_runs_dry():
    model, (x, y) = small(), data()
    with pytest.warns(UserWarning, match="no data"):
        history = model.fit(x, y, epochs=3, validation_data=(item for item in [(x, y)]), verbose=0).history
    assert (len(history["loss"]), len(history["val_loss"])) == (3, 1)


# -- stateful -----------------------------------------------------------------------------------------------------------
def test_states_go_on_from_batch_to_batch():
    model = Sequential([InputLayer(batch_shape=(2, 5, 4)), LSTM(3, stateful=True), Dense(2)])
    model.compile(fastlstm.training.optimizers.SGD(0.0), "mse")
    x, y = data(6)
    model.fit(x, y, shuffle=False, verbose=0)
    carried = [state.numpy() for state in model.layers[0].states]
    model.layers[0].reset_state()
    long = np.concatenate([x[0:2], x[2:4], x[4:6]], axis=1)
    _, h, c = _with_states(model.layers[0], long)
    np.testing.assert_allclose(carried[0], h, atol=1e-6)
    np.testing.assert_allclose(carried[1], c, atol=1e-6)
    with pytest.raises(ValueError, match="stateful"):
        model.fit(x[:5], y[:5], verbose=0)


def _with_states(layer, x):
    plain = LSTM(3, return_state=True)
    plain.build(x.shape)
    plain.set_weights(layer.get_weights())
    return plain(x)


# -- Ctrl-C -------------------------------------------------------------------------------------------------------------
def interrupt(batch, logs):
    if batch == 1:
        os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_ends_the_training_after_the_batch():
    model, (x, y) = small(), data()
    seen = Seen()
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, batch_size=2, epochs=3, verbose=0, callbacks=[LambdaCallback(on_train_batch_begin=interrupt), seen])
    assert model.optimizer.iterations == 2
    assert seen.events[-2:] == [("train_batch_end", 1), ("train_end",)]
    assert all(np.isfinite(w).all() for w in model.get_weights())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_does_not_wait():
    model, (x, y) = small(), data()

    def twice(batch, logs):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second signal was not delivered")

    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, batch_size=2, verbose=0, callbacks=[LambdaCallback(on_train_batch_begin=twice)])
    assert model.optimizer.iterations == 0


def test_fit_in_another_thread_leaves_signals_alone():
    model, (x, y) = small(), data()
    handlers = []
    note = LambdaCallback(on_epoch_end=lambda epoch, logs: handlers.append(signal.getsignal(signal.SIGINT)))
    thread = threading.Thread(target=lambda: model.fit(x, y, verbose=0, callbacks=[note]))
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]
