"""The command ``fastlstm train``: what it trains, writes and prints, and what it refuses with one line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import fastlstm
from fastlstm import LSTM, Dense, InputLayer, Sequential, cli

pytest.importorskip("h5py", reason="writing .keras files needs h5py")

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run(capsys, *arguments):
    """(exit code, stdout, stderr) of one ``fastlstm train``."""
    try:
        code = cli.main(["train", *(str(a) for a in arguments)])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(capsys, *arguments):
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert err.startswith("fastlstm: error: ")
    assert err.count("\n") == 1
    return err


@pytest.fixture
def folder(tmp_path):
    """data.npz, whose classes are the sign of the sum, config.json and model.keras of a small model."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((48, 5, 2)).astype("float32")
    y = (x.sum(axis=(1, 2)) > 0).astype("int64")
    np.savez(tmp_path / "data.npz", x=x[:32], y=y[:32], classes=np.array(["minus", "plus"]))
    np.savez(tmp_path / "test.npz", x=x[32:], y=y[32:])
    entries = [
        ("InputLayer", {"batch_shape": [None, 5, 2]}),
        ("LSTM", {"units": 6}),
        ("Dense", {"units": 2, "activation": "softmax"}),
    ]
    layers = [{"class_name": name, "config": config} for name, config in entries]
    (tmp_path / "config.json").write_text(json.dumps({"layers": layers}))
    Sequential([InputLayer((5, 2)), LSTM(6), Dense(2, activation="softmax")]).save(tmp_path / "model.keras")
    return tmp_path


def test_trains_a_config(folder, capsys):
    out = folder / "out.keras"
    code, text, err = run(
        capsys, folder / "config.json", folder / "data.npz", "-o", out, "--epochs", 25, "--learning-rate", 0.03,
        "--batch-size", 8, "--validation", folder / "test.npz", "--seed", 1,
    )  # fmt: skip
    assert code == 0
    assert err.count("\n") == 25
    assert re.search(r"epoch 25/25: .*loss \S+, accuracy \S+, val_loss \S+, val_accuracy \S+", err)
    assert "32 sequences of 5 x 2, float32" in text
    assert re.search(r"trained +25 epochs in", text)
    assert re.search(rf"written +{out}", text)
    model, test = fastlstm.load_model(out), np.load(folder / "test.npz")
    accuracy = float(np.mean(model(test["x"]).argmax(axis=1) == test["y"]))
    assert accuracy > 0.85
    assert float(re.search(r"held out +loss \S+, accuracy (\S+)", text)[1]) == pytest.approx(accuracy, abs=1e-3)
    assert model.optimizer.learning_rate == pytest.approx(0.03)


def test_goes_on_from_a_file_or_starts_from_scratch(folder, capsys):
    before = fastlstm.load_model(folder / "model.keras").get_weights()
    distance = {}
    for extra in ((), ("--from-scratch",)):
        arguments = [folder / "model.keras", folder / "data.npz", "-o", folder / "out.keras", "--epochs", 1, "--quiet", *extra]
        code, _, err = run(capsys, *arguments, "--learning-rate", 1e-6)
        assert (code, err) == (0, "")
        after = fastlstm.load_model(folder / "out.keras").get_weights()
        distance[extra] = max(float(np.abs(a - b).max()) for a, b in zip(before, after, strict=True))
    assert 0 < distance[()] < 1e-4
    assert distance["--from-scratch",] > 0.05


def test_the_output_may_be_the_input(folder, capsys):
    code, *_ = run(capsys, folder / "model.keras", folder / "data.npz", "-o", folder / "model.keras", "--epochs", 1)
    assert code == 0
    assert fastlstm.load_model(folder / "model.keras").optimizer.iterations == 0  # a file holds no optimizer state


def test_same_seed_same_weights(folder, capsys):
    weights = []
    for seed in (7, 7, 8):
        run(
            capsys,
            folder / "config.json",
            folder / "data.npz",
            "-o",
            folder / "o.keras",
            "--epochs",
            2,
            "--seed",
            seed,
            "--quiet",
        )
        weights.append(fastlstm.load_model(folder / "o.keras").get_weights()[0])
    np.testing.assert_array_equal(weights[0], weights[1])
    assert np.any(weights[0] != weights[2])


def test_validation_split_and_early_stopping(folder, capsys):
    code, text, err = run(
        capsys, folder / "config.json", folder / "data.npz", "-o", folder / "o.keras", "--epochs", 300, "--learning-rate", 0.05,
        "--validation-split", 0.25, "--early-stopping", 3, "--seed", 1,
    )  # fmt: skip
    assert code == 0
    assert "early stopping" in err
    epochs = int(re.search(r"trained +(\d+) epochs", text)[1])
    assert 4 <= epochs < 300
    assert re.search(r"held out +loss \S+, accuracy", text)
    assert "24 sequences of" in text


@pytest.mark.parametrize(
    ("layers", "y", "loss"),
    [
        ([Dense(3, activation="softmax")], np.array([0, 1, 2, 1]), "sparse_categorical_crossentropy"),
        ([Dense(3, activation="softmax")], np.eye(3)[[0, 1, 2, 1]], "categorical_crossentropy"),
        ([Dense(1, activation="sigmoid")], np.array([0, 1, 1, 0]), "binary_crossentropy"),
        ([Dense(1)], np.array([0.5, 1.5, 2.5, 3.5]), "mse"),
        ([Dense(2)], np.ones((4, 2)), "mse"),
    ],
    ids=["classes", "one-hot", "binary", "numbers", "vectors"],
)
def test_the_loss_fits_the_data(layers, y, loss, tmp_path, capsys):
    Sequential([InputLayer((5, 2)), LSTM(3), *layers]).save(tmp_path / "m.keras")
    np.savez(tmp_path / "d.npz", x=np.zeros((4, 5, 2)), y=y)
    code, text, _ = run(capsys, tmp_path / "m.keras", tmp_path / "d.npz", "-o", tmp_path / "o.keras", "--epochs", 1)
    assert code == 0
    assert fastlstm.load_model(tmp_path / "o.keras").loss == loss
    assert ("accuracy" in text) == ("crossentropy" in loss)


# -- refusals -----------------------------------------------------------------------------------------------------------
def test_refusals(folder, capsys):
    model, data, out = folder / "config.json", folder / "data.npz", folder / "o.keras"
    assert "o.h5: the output must end in .keras" in refused(capsys, model, data, "-o", folder / "o.h5")
    assert "there is no folder" in refused(capsys, model, data, "-o", folder / "none" / "o.keras")
    assert "data.npy: training data must end in .npz\n" in refused(capsys, model, folder / "data.npy", "-o", out)
    assert "none.npz" in refused(capsys, model, folder / "none.npz", "-o", out)
    assert "none.json" in refused(capsys, folder / "none.json", data, "-o", out)
    assert "nosuch" in refused(capsys, model, data, "-o", out, "--optimizer", "nosuch")
    assert "nosuch" in refused(capsys, model, data, "-o", out, "--loss", "nosuch")
    assert "a positive number" in refused(capsys, model, data, "-o", out, "--learning-rate", "-1")
    assert "between 0 and 1" in refused(capsys, model, data, "-o", out, "--validation-split", "2")
    assert "not allowed with" in refused(capsys, model, data, "-o", out, "--validation-split", ".2", "--validation", data)
    assert "-o" in refused(capsys, model, data)
    x = np.load(data)["x"]
    for name, arrays in {
        "has no array 'y'": {"x": x},
        "for each of the 32 sequences": {"x": x, "y": np.zeros(3)},
        "class numbers from 0 to 1": {"x": x, "y": np.arange(32)},
        "the model cannot be trained on this": {"x": x[:, :, :1], "y": np.zeros(32, int)},
    }.items():
        np.savez(folder / "bad.npz", **arrays)
        assert name in refused(capsys, model, folder / "bad.npz", "-o", out)
    assert "leaves no sequences" in refused(capsys, model, data, "-o", out, "--validation-split", "0.001")
    for text in ("{", "[1]", '{"a": 1}', '{"layers": [{"class_name": "Lambda", "config": {}}]}'):
        (folder / "bad.json").write_text(text)
        assert "bad.json" in refused(capsys, folder / "bad.json", data, "-o", out)
    assert not out.exists()


def test_what_cannot_be_written_is_refused_before_the_training(folder, capsys, monkeypatch):
    monkeypatch.setattr(Sequential, "fit", lambda *_, **__: pytest.fail("the training began"))
    model, data = folder / "config.json", folder / "data.npz"
    (folder / "folder.keras").mkdir()
    assert "is a folder" in refused(capsys, model, data, "-o", folder / "folder.keras")
    assert "o.KERAS: the output must end in .keras" in refused(capsys, model, data, "-o", folder / "o.KERAS")
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "h5py" in refused(capsys, model, data, "-o", folder / "o.keras")


def test_a_loss_that_is_not_finite_ends_the_training(folder, capsys):
    x = np.load(folder / "data.npz")["x"]
    np.savez(folder / "nan.npz", x=x, y=np.full((32, 2), np.nan))
    assert "The loss is nan" in refused(
        capsys, folder / "config.json", folder / "nan.npz", "-o", folder / "o.keras", "--quiet", "--loss", "mse"
    )


def test_help(capsys):
    code, text, _ = run(capsys, "--help")
    assert code == 0
    for option in (
        "--epochs",
        "--batch-size",
        "--learning-rate",
        "--optimizer",
        "--loss",
        "--validation",
        "--seed",
        "--from-scratch",
    ):
        assert option in text


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_ctrl_c_writes_what_was_learnt(folder):
    command = [sys.executable, "-m", "fastlstm", "train", folder / "config.json", folder / "data.npz", "-o", folder / "o.keras"]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    process = subprocess.Popen(
        [*map(str, command), "--epochs", "1000000"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stderr is not None
        for _ in range(3):
            assert process.stderr.readline().startswith("epoch ")
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.endswith("fastlstm: interrupted\n")
    assert "Traceback" not in err
    assert re.search(r"trained +\d+ epochs", out)
    assert fastlstm.load_model(folder / "o.keras").built


# -- the examples -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "epochs", "batch_size"), [("activity", 60, 8), ("speakers", 15, 32)])
def test_the_examples_learn_from_scratch(name, epochs, batch_size, tmp_path, capsys):
    code, text, _ = run(
        capsys, EXAMPLES / f"{name}.json", EXAMPLES / f"{name}_train.npz", "-o", tmp_path / "m.keras", "--epochs", epochs,
        "--batch-size", batch_size, "--learning-rate", 0.005, "--validation", EXAMPLES / f"{name}.npz", "--seed", 1, "--quiet",
    )  # fmt: skip
    assert code == 0
    assert float(re.search(r"held out +loss \S+, accuracy (\S+)", text)[1]) >= 0.9
    kept = fastlstm.load_model(EXAMPLES / f"{name}.keras")
    assert [type(layer) for layer in fastlstm.load_model(tmp_path / "m.keras").layers] == [type(layer) for layer in kept.layers]
