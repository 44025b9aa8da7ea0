"""Callbacks: when they act and what they do, on trainings whose course is known; History.plot; the display's numbers."""

from __future__ import annotations

import csv
import os
import random

import numpy as np
import pytest

import fastlstm
from fastlstm import Dense, InputLayer, Sequential
from fastlstm.training.callback import CallbackList
from fastlstm.training.callbacks import (
    Callback,
    CSVLogger,
    EarlyStopping,
    History,
    LambdaCallback,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TerminateOnNaN,
)


@pytest.fixture(autouse=True)
def same_weights_every_time():
    random.seed(4)


def model_of(rate=0.1):
    model = Sequential([InputLayer((3,)), Dense(1)])
    model.compile(fastlstm.optimizers.SGD(rate), "mse")
    return model


def data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 3)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


class Course:
    """A model in name only: callbacks see ``values`` of one quantity, epoch after epoch."""

    metrics: tuple = ()

    def __init__(self, callback, values, key="val_loss"):
        self.stop_training = False
        self.optimizer = fastlstm.optimizers.SGD(1.0)
        self.weights, self.saved, self.rates = [0.0], [], []
        callbacks = CallbackList([callback], self, {"epochs": len(values)})
        callbacks.call("on_train_begin", {})
        for self.epoch, value in enumerate(values):
            self.weights = [float(self.epoch)]
            callbacks.call("on_epoch_begin", self.epoch, {})
            callbacks.call("on_epoch_end", self.epoch, {"loss": 0.0, key: value})
            self.rates.append(self.optimizer.learning_rate)
            if self.stop_training:
                break
        callbacks.call("on_train_end", {})

    def get_weights(self):
        return list(self.weights)

    def set_weights(self, weights):
        self.weights = weights

    def save(self, path, overwrite=True):
        self.saved.append(path)

    save_weights = save


# -- EarlyStopping ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "values", "last"),
    [
        ({}, [1.0, 0.9, 0.95, 0.8], 2),
        ({"patience": 2}, [1.0, 0.9, 0.95, 0.94, 0.1], 3),
        ({"patience": 2}, [1.0, 0.9, 0.95, 0.8, 0.9, 0.7], 5),
        ({"patience": 2, "min_delta": 0.2}, [1.0, 0.9, 0.85, 0.1], 2),
        ({"patience": 2, "mode": "max"}, [1.0, 0.9, 0.95, 3.0], 2),
        ({"patience": 1, "start_from_epoch": 2}, [1.0, 2.0, 3.0, 4.0, 0.0], 3),
        ({"patience": 2, "baseline": 0.5}, [1.0, 0.9, 0.8, 0.9, 0.1], 3),
        ({"patience": 2, "baseline": 0.95}, [1.0, 0.9, 0.8, 0.85, 0.85, 0.1], 4),
        ({}, [float("nan"), 1.0, 2.0], 1),
    ],
)
def test_early_stopping(arguments, values, last):
    callback = EarlyStopping(**arguments)
    course = Course(callback, values)
    assert course.epoch == last
    assert callback.stopped_epoch == (last if course.stop_training else 0)


def test_early_stopping_restores_the_best_weights(capsys):
    course = Course(EarlyStopping(patience=2, restore_best_weights=True, verbose=1), [1.0, 0.5, 0.7, 0.8, 0.1])
    assert course.epoch == 3
    assert course.weights == [1.0]
    assert capsys.readouterr().err == "Epoch 4: early stopping\nThe weights of epoch 2, the best one, are restored\n"
    # Also where nothing stopped the training early.
    assert Course(EarlyStopping(patience=9, restore_best_weights=True), [1.0, 0.5, 0.7]).weights == [1.0]
    assert Course(EarlyStopping(patience=9), [1.0, 0.5, 0.7]).weights == [2.0]


def test_early_stopping_in_a_real_training():
    model, (x, y) = model_of(), data()
    history = model.fit(x, y, epochs=50, verbose=0, callbacks=[EarlyStopping("loss", min_delta=10.0, patience=3)])
    assert len(history.epoch) == 4


def test_what_is_watched():
    with pytest.warns(UserWarning, match=r"'val_accuracy', which is not there\. There are: loss, val_loss"):
        Course(EarlyStopping("val_accuracy"), [1.0])
    with pytest.warns(UserWarning, match="mode 'up' is unknown"):
        assert EarlyStopping(mode="up").mode == "auto"
    assert Course(EarlyStopping("val_accuracy"), [0.5, 0.6, 0.55], "val_accuracy").epoch == 2
    assert Course(EarlyStopping("val_mean_absolute_error"), [0.5, 0.4, 0.45], "val_mean_absolute_error").epoch == 2
    with pytest.raises(ValueError, match="mode='max'"):
        Course(EarlyStopping("val_cleverness"), [0.5, 0.6], "val_cleverness")


# -- learning rates -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "values", "rates"),
    [
        ({"patience": 2}, [1, 1, 1, 1, 1], [1, 1, 0.1, 0.1, 0.01]),
        ({"patience": 1, "factor": 0.5, "min_lr": 0.3}, [1, 1, 1, 1], [1, 0.5, 0.3, 0.3]),
        ({"patience": 1, "cooldown": 2, "factor": 0.5}, [1, 1, 1, 1, 1], [1, 0.5, 0.5, 0.25, 0.25]),
        ({"patience": 1}, [1, 0.9999, 0.8, 0.7], [1, 0.1, 0.1, 0.1]),
        ({"patience": 1, "min_delta": 0}, [1, 0.9999, 0.8], [1, 1, 1]),
    ],
)
def test_reduce_lr_on_plateau(arguments, values, rates):
    assert Course(ReduceLROnPlateau(**arguments), values).rates == pytest.approx(rates, rel=1e-6)


def test_reduce_lr_tells_and_refuses(capsys):
    Course(ReduceLROnPlateau(patience=1, verbose=1), [1, 1])
    assert capsys.readouterr().err == "Epoch 2: ReduceLROnPlateau reduces the learning rate to 0.1\n"
    with pytest.raises(ValueError, match="factor"):
        ReduceLROnPlateau(factor=1.0)


def test_learning_rate_scheduler(capsys):
    model, (x, y) = model_of(1e-3), data()
    callback = LearningRateScheduler(lambda epoch, rate: rate * 0.5 if epoch else rate, verbose=1)
    history = model.fit(x, y, epochs=3, verbose=0, callbacks=[callback])
    assert history.history["learning_rate"] == pytest.approx([1e-3, 5e-4, 2.5e-4], rel=1e-5)
    assert "Epoch 3: LearningRateScheduler sets the learning rate to 0.00025" in capsys.readouterr().err
    with pytest.raises(ValueError, match="schedule"):
        model.fit(x, y, verbose=0, callbacks=[LearningRateScheduler(lambda epoch, rate: "fast")])


def test_learning_rate_scheduler_of_the_epoch_alone():
    """The older form, which most tutorials have."""
    model, (x, y) = model_of(), data()
    history = model.fit(x, y, epochs=3, verbose=0, callbacks=[LearningRateScheduler(lambda epoch: 0.1 / (epoch + 1))])
    assert history.history["learning_rate"] == pytest.approx([0.1, 0.05, 0.1 / 3], rel=1e-6)

    def wrong(epoch, rate):
        return rate + "1"

    with pytest.raises(TypeError, match="unsupported operand"):
        model.fit(x, y, verbose=0, callbacks=[LearningRateScheduler(wrong)])


# -- files --------------------------------------------------------------------------------------------------------------
def test_csv_logger(tmp_path):
    path = tmp_path / "log.csv"
    model, (x, y) = model_of(), data()
    history = model.fit(x, y, epochs=3, validation_data=(x, y), validation_freq=2, verbose=0, callbacks=[CSVLogger(path)])
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert [float(row["loss"]) for row in rows] == history.history["loss"]
    assert [row["val_loss"] for row in rows] == ["NA", repr(history.history["val_loss"][0]), "NA"]
    model.fit(x, y, epochs=1, verbose=0, callbacks=[CSVLogger(path, append=True)])
    assert len(list(csv.DictReader(path.read_text().splitlines()))) == 4
    model.fit(x, y, epochs=1, verbose=0, callbacks=[CSVLogger(path, separator=";")])
    assert path.read_text().splitlines()[0] == "epoch;loss;val_loss"
    with pytest.raises(OSError, match="nowhere"):
        model.fit(x, y, verbose=0, callbacks=[CSVLogger(tmp_path / "nowhere" / "log.csv")])


@pytest.mark.parametrize(
    ("arguments", "saved"),
    [
        ({"filepath": "{epoch:02d}-{val_loss:.1f}.keras"}, ["01-0.9.keras", "02-0.5.keras", "03-0.7.keras", "04-0.4.keras"]),
        ({"filepath": "{epoch}.keras", "save_best_only": True}, ["1.keras", "2.keras", "4.keras"]),
        ({"filepath": "{epoch}.keras", "save_best_only": True, "mode": "max"}, ["1.keras"]),
        ({"filepath": "{epoch}.keras", "save_best_only": True, "initial_value_threshold": 0.6}, ["2.keras", "4.keras"]),
        ({"filepath": "a.weights.h5", "save_weights_only": True}, ["a.weights.h5"] * 4),
    ],
)
def test_model_checkpoint(arguments, saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Course(ModelCheckpoint(**arguments), [0.9, 0.5, 0.7, 0.4]).saved == saved


def test_model_checkpoint_in_a_real_training(tmp_path, capsys):
    pytest.importorskip("h5py", reason="writing .keras files needs h5py")
    model, (x, y) = model_of(), data()
    best = ModelCheckpoint(tmp_path / "new" / "best.keras", "loss", save_best_only=True, verbose=1)
    each = ModelCheckpoint(tmp_path / "{epoch}-{batch}.weights.h5", save_weights_only=True, save_freq=3)
    model.fit(x, y, batch_size=4, epochs=3, verbose=0, callbacks=[best, each])
    assert sorted(os.listdir(tmp_path)) == ["2-1.weights.h5", "3-2.weights.h5", "new"]
    assert f"Epoch 1: saved to {tmp_path / 'new' / 'best.keras'}" in capsys.readouterr().err
    again = fastlstm.load_model(tmp_path / "new" / "best.keras")
    np.testing.assert_array_equal(again(x), model(x))
    fresh = model_of()
    fresh.load_weights(tmp_path / "3-2.weights.h5")
    np.testing.assert_array_equal(fresh(x), model(x))


def test_model_checkpoint_refuses(tmp_path):
    for arguments in ({"filepath": "m.h5"}, {"filepath": "m.keras", "save_weights_only": True}):
        with pytest.raises(ValueError, match="filepath"):
            ModelCheckpoint(**arguments)
    for freq in ("batch", 0, True):
        with pytest.raises(ValueError, match="save_freq"):
            ModelCheckpoint("m.keras", save_freq=freq)
    with pytest.raises(KeyError, match="accuracy"):
        Course(ModelCheckpoint(str(tmp_path / "{accuracy}.keras")), [1.0])


# -- the others ---------------------------------------------------------------------------------------------------------
def test_lambda_callback():
    seen = []
    model, (x, y) = model_of(), data()
    callback = LambdaCallback(
        on_train_begin=lambda logs: seen.append("begin"),
        on_epoch_end=lambda epoch, logs: seen.append((epoch, logs["loss"])),
        on_train_end=None,
    )
    history = model.fit(x, y, epochs=2, verbose=0, callbacks=callback)
    assert seen == ["begin", *enumerate(history.history["loss"])]
    with pytest.raises(TypeError, match="on_epoch"):
        LambdaCallback(on_epoch=print)


def test_the_older_names_of_the_batch_events():
    seen = []

    class Old(Callback):
        def on_batch_begin(self, batch, logs=None):
            seen.append(("begin", batch))

        def on_batch_end(self, batch, logs=None):
            seen.append(("end", batch, "loss" in logs))

    model, (x, y) = model_of(), data()
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[Old()])
    assert seen == [("begin", 0), ("end", 0, True), ("begin", 1), ("end", 1, True)]


def test_a_callback_knows_the_model_and_the_training():
    seen = {}

    class Curious(Callback):
        def on_train_begin(self, logs=None):
            seen.update(self.params, model=self.model)

    model, (x, y) = model_of(), data()
    model.fit(x, y, batch_size=3, epochs=2, verbose=0, callbacks=[Curious()])
    assert seen == {"verbose": 0, "epochs": 2, "steps": 3, "model": model}


def test_stopping_within_an_epoch():
    model, (x, y) = model_of(), data()

    class Stop(Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    assert len(model.fit(x, y, batch_size=2, epochs=4, verbose=0, callbacks=[Stop()]).epoch) == 1
    assert model.optimizer.iterations == 2


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_terminate_on_nan(loss, capsys):
    callback = TerminateOnNaN()
    callback.set_model(model_of())
    callback.on_train_batch_end(3, {"loss": 1.0})
    assert not callback.model.stop_training
    callback.on_train_batch_end(4, {"loss": loss})
    assert callback.model.stop_training
    assert f"Batch 4: the loss is {loss}" in capsys.readouterr().err


# -- history ------------------------------------------------------------------------------------------------------------
def test_plot(tmp_path):
    pytest.importorskip("matplotlib", reason="draws the picture")
    history = History()
    for epoch in range(4):
        logs = {"loss": 1.0 / (epoch + 1), "accuracy": 0.1 * epoch}
        history.on_epoch_end(epoch, {**logs, **({"val_loss": 2.0 * epoch} if epoch % 2 else {})})
    figure = history.plot(path=tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
    panels = figure.axes
    assert [panel.get_title() for panel in panels] == ["loss", "accuracy"]
    lines = {line.get_label(): line.get_xydata().tolist() for line in panels[0].lines}
    assert lines["val_loss"] == [[2, 2.0], [4, 6.0]]
    assert [x for x, _ in lines["loss"]] == [1, 2, 3, 4]
    assert [panel.get_title() for panel in history.plot("accuracy").axes] == ["accuracy"]
    with pytest.raises(ValueError, match="keys"):
        history.plot(["cleverness"])
    with pytest.raises(ValueError, match="keys"):
        History().plot()


def test_plot_without_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"fastlstm\[plot\]"):
        History().plot()


def test_predict_calls_its_callbacks():
    class Counting(Callback):
        def __init__(self):
            super().__init__()
            self.events = []

        def on_predict_begin(self, logs=None):
            self.events.append(("begin", self.params["steps"]))

        def on_predict_batch_begin(self, batch, logs=None):
            self.events.append(("batch", batch))

        def on_predict_batch_end(self, batch, logs=None):
            self.events.append(("output", logs["outputs"].shape))

        def on_predict_end(self, logs=None):
            self.events.append(("end", None))

    model = fastlstm.Sequential([fastlstm.Dense(2)])
    counting = Counting()
    model.predict(np.ones((5, 3), np.float32), batch_size=3, callbacks=[counting])
    batches = [("batch", 0), ("output", (3, 2)), ("batch", 1), ("output", (2, 2))]
    assert counting.events == [("begin", 2), *batches, ("end", None)]
    assert counting.model is model
    with pytest.raises(TypeError, match="callbacks"):
        model.predict(np.ones((5, 3), np.float32), callbacks=[3])
