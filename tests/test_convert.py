"""fastlstm convert: the new file answers like the old one, what is lost is said, and a wrong file is never left behind."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from legacy_files import layer, lstm_config, sequential, write_model
from test_cli import refused, run
from test_legacy_h5 import draw, lstm_weights, translator, translator_weights

import fastlstm
from fastlstm import LSTM, Dense, GaussianNoise, InputLayer, Sequential
from fastlstm.io.safetensors import write_safetensors
from fastlstm.models import converting
from fastlstm.models.converting import convert, largest_difference
from fastlstm.models.sample_inputs import sample_inputs

pytest.importorskip("h5py", reason="reading .keras files needs h5py")

ROOT = Path(__file__).resolve().parent.parent
SPEAKERS = ROOT / "examples" / "speakers.keras"
DATA = ROOT / "tests" / "data"
SUFFIXES = (".keras", ".weights.h5", ".npz", ".safetensors")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_speakers(suffix, capsys, tmp_path):
    out = tmp_path / f"m{suffix}"
    code, text, err = run(capsys, "convert", SPEAKERS, out)
    assert (code, err) == (0, "")
    assert "17,769 parameters" in text
    assert float(re.search(r"read back +the same weights; answers to a random input differ by (\S+) at most", text)[1]) == 0
    assert "not kept   the state of the optimizer" in text
    assert ("holds weights alone" in text) == (suffix == ".weights.h5")
    assert os.listdir(tmp_path) == [out.name]
    if suffix == ".weights.h5":
        model = fastlstm.load_model(SPEAKERS)
        model.set_weights([0 * w for w in model.get_weights()])
        model.load_weights(out)
    else:
        model = fastlstm.load_model(out)
        assert model.loss == fastlstm.load_model(SPEAKERS).loss
    with np.load(ROOT / "examples" / "speakers.npz") as recordings:
        want = recordings["keras_prediction"]
        np.testing.assert_allclose(model.predict(recordings["x"], verbose=0), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ["keras3/stateful.h5", "keras3/functional_init_state.h5", "graphs/translator.keras"])
def test_other_models(name, suffix, tmp_path):
    done = convert(DATA / name, str(tmp_path / f"m{suffix}"))
    assert done.difference == 0
    again = convert(tmp_path / f"m{suffix}", str(tmp_path / "again.keras")) if suffix != ".weights.h5" else done
    assert again.difference == 0
    assert largest_difference(again.model.get_weights(), done.model.get_weights()) == 0


def test_layout_of_torch(capsys, tmp_path):
    out = tmp_path / "m.safetensors"
    code, text, _ = run(capsys, "convert", "--layout", "torch", DATA / "keras3" / "bidi_masking_stack.keras", out)
    assert code == 0
    assert "under PyTorch's names" in text
    assert "PyTorch" in refused(capsys, "convert", "--layout", "torch", SPEAKERS, tmp_path / "m.npz")
    assert "conv_lstm1d" in refused(capsys, "convert", "--layout", "torch", DATA / "keras3" / "convlstm_stack.keras", out)


# -- what cannot be kept ------------------------------------------------------------------------------------------------
def old_lstm(path):
    entry = layer("LSTM", "lstm", units=4, batch_input_shape=[None, 6, 2], **lstm_config(recurrent_activation="hard_sigmoid"))
    return write_model(path, sequential(entry), {"lstm": lstm_weights(2, 4)}, optimizer_config="x")


def test_the_hard_sigmoid_of_keras_2(capsys, tmp_path):
    old_lstm(tmp_path / "old.h5")
    x = draw(3, 6, 2)
    want = fastlstm.load_model(tmp_path / "old.h5")(x)
    for suffix in (".keras", ".npz", ".safetensors"):
        code, text, _ = run(capsys, "convert", tmp_path / "old.h5", tmp_path / f"m{suffix}")
        assert code == 0
        assert ("not kept   that Keras 3 opens it: lstm has the hard_sigmoid of Keras 2" in text) == (suffix == ".keras")
        np.testing.assert_array_equal(fastlstm.load_model(tmp_path / f"m{suffix}")(x), want)


def test_masks_beside_states(capsys, tmp_path):
    """Keras 3's config cannot say what Keras 2 did; fastlstm's own files can."""
    write_model(tmp_path / "old.h5", translator(), translator_weights())
    message = refused(capsys, "convert", tmp_path / "old.h5", tmp_path / "m.keras")
    assert "mask beside its initial state" in message
    assert ".npz" in message
    ids = np.array([[1, 2, 0, 0, 0], [3, 4, 5, 1, 0]], np.int32)
    inputs = [ids, draw(2, 4), draw(2, 4, seed=1)]
    want = fastlstm.load_model(tmp_path / "old.h5")(inputs)
    dropped = fastlstm.load_model(tmp_path / "old.h5")
    for node in dropped._graph.nodes:
        node.options.pop("keeps_mask", None)
    assert np.abs(dropped(inputs) - want).max() > 1e-3
    for suffix in (".npz", ".safetensors"):
        assert convert(tmp_path / "old.h5", str(tmp_path / f"m{suffix}")).difference == 0
        np.testing.assert_array_equal(fastlstm.load_model(tmp_path / f"m{suffix}")(inputs), want)
    assert sorted(os.listdir(tmp_path)) == ["m.npz", "m.safetensors", "old.h5"]


def test_dropout_that_is_always_on(capsys, tmp_path):
    write_model(tmp_path / "old.h5", translator(training=True), translator_weights())
    code, text, _ = run(capsys, "convert", tmp_path / "old.h5", tmp_path / "m.npz")
    assert code == 0
    assert "the model draws random numbers in inference" in text
    model = fastlstm.load_model(tmp_path / "m.npz")
    inputs = [np.array([[1, 2, 3, 4, 5]] * 2, np.int32), draw(2, 4), draw(2, 4)]
    assert np.abs(model.predict(inputs, verbose=0) - model.predict(inputs, verbose=0)).max() > 0


def test_what_the_file_says_of_training_and_nobody_understands(capsys, tmp_path):
    model = Sequential([InputLayer((5, 4)), LSTM(3)])
    model.set_compile_config({"optimizer": {"class_name": "NoSuch", "config": {}}, "loss": "mse"}, "m.keras")
    model.save(tmp_path / "m.keras")
    code, text, _ = run(capsys, "convert", tmp_path / "m.keras", tmp_path / "m.npz")
    assert code == 0
    assert "NoSuch" in text
    assert fastlstm.load_model(tmp_path / "m.npz").compile_config()["optimizer"]["class_name"] == "NoSuch"


# -- no wrong file ------------------------------------------------------------------------------------------------------
def test_a_wrong_file_is_never_left_behind(capsys, tmp_path, monkeypatch):
    out = tmp_path / "m.npz"
    out.write_bytes(b"what was there")
    real, spoiling = converting.load_model, []

    def broken(path):
        """What is read back is another one."""
        model = real(path)
        spoiling[-1](model)
        return model

    def spoil_weights(model):
        model.weights[0][0, 0] = 3

    def spoil_answers(model):
        model.layers[-1].activation = fastlstm.activations.get("linear")

    monkeypatch.setattr(converting, "load_model", broken)
    for spoil, words in ((spoil_weights, "the weight"), (spoil_answers, "answers differently by")):
        spoiling.append(spoil)
        message = refused(capsys, "convert", SPEAKERS, out)
        assert "m.npz: was not written: read back" in message
        assert words in message
        assert out.read_bytes() == b"what was there"
        assert os.listdir(tmp_path) == ["m.npz"]
    spoiling.append(lambda model: None)
    assert run(capsys, "convert", SPEAKERS, out)[0] == 0
    assert out.read_bytes() != b"what was there"


def test_wrong_usage(capsys, tmp_path):
    assert "must end in" in refused(capsys, "convert", SPEAKERS, tmp_path / "m.onnx")
    assert "must end in" in refused(capsys, "convert", SPEAKERS, tmp_path / "m.h5")
    assert "no folder" in refused(capsys, "convert", SPEAKERS, tmp_path / "none" / "m.npz")
    assert "No such file" in refused(capsys, "convert", tmp_path / "none.keras", tmp_path / "m.npz")
    shutil.copy(DATA / "keras3" / "stateful.weights.h5", tmp_path / "w.h5")
    assert "weights only" in refused(capsys, "convert", tmp_path / "w.h5", tmp_path / "m.npz")
    (tmp_path / "folder.npz").mkdir()
    assert "folder" in refused(capsys, "convert", SPEAKERS, tmp_path / "folder.npz")
    assert sorted(os.listdir(tmp_path)) == ["folder.npz", "w.h5"]


def test_the_difference():
    a = np.array([1.0, np.nan, np.inf, -5.0])
    assert largest_difference([a], [a.copy()]) == 0
    assert largest_difference(a, a + np.array([0, 0, 0, 1])) == pytest.approx(1 / 4)
    assert largest_difference(a, a + np.array([0.5, 0, 0, 0])) == pytest.approx(0.5 / 1.5)
    assert largest_difference(a, np.array([1.0, 2.0, np.inf, -5.0])) == np.inf
    assert largest_difference(a, a[:2]) == np.inf


# -- inputs -------------------------------------------------------------------------------------------------------------
def test_sample_inputs():
    model = fastlstm.load_model(DATA / "keras3" / "embed_mask_lstm.keras")
    (ids,) = sample_inputs(model)
    size = model.layers[0].input_dim
    assert ids.dtype == np.int32
    assert 0 <= ids.min() < ids.max() < size
    assert (ids[0] != 0).any()
    assert (ids[-1, -1], ids[1, -1]) == (0, 0)
    np.testing.assert_array_equal(ids, sample_inputs(model)[0])
    masked = fastlstm.load_model(DATA / "keras3" / "bidi_masking_stack.keras")
    (x,) = sample_inputs(masked, samples=3)
    assert x.shape == (3, *masked.input_shape[1:])
    assert not (x[1, -1] != masked.layers[0].mask_value).any()
    assert x[0].all()
    stateful = fastlstm.load_model(DATA / "keras3" / "stateful.keras")
    assert sample_inputs(stateful)[0].shape[0] == stateful.input_shape[0]
    inner = Sequential([fastlstm.Embedding(3, 2), LSTM(2)])
    x = fastlstm.Input((None, 4), name="rows")
    nested = fastlstm.Model(x, fastlstm.TimeDistributed(inner)(GaussianNoise(0.1)(x)))
    (ids,) = sample_inputs(nested)
    assert ids.shape == (4, 16, 4)
    assert set(np.unique(ids)) == {0, 1, 2}
    numbers = sample_inputs(Sequential([InputLayer((5, 4)), Dense(3)]))[0]
    assert numbers.dtype == np.float32
    assert numbers.std() > 0.5


# -- weights of PyTorch -------------------------------------------------------------------------------------------------
def torch_weights(path, layers=2, more=()):
    """The weights of a bidirectional torch.nn.LSTM(4, 3, layers)."""
    tensors = {}
    for number in range(layers):
        for half in ("", "_reverse"):
            shapes = {"weight_ih": (12, 6 if number else 4), "weight_hh": (12, 3), "bias_ih": (12,), "bias_hh": (12,)}
            for k, (name, shape) in enumerate(shapes.items()):
                tensors[f"rnn.{name}_l{number}{half}"] = draw(*shape, seed=k + 7 * number)
    write_safetensors(path, {**tensors, **dict(more)})
    return tensors


@pytest.mark.parametrize("suffix", [".keras", ".npz", ".weights.h5"])
def test_weights_of_pytorch_become_a_model(suffix, capsys, tmp_path):
    tensors = torch_weights(tmp_path / "w.safetensors")
    code, text, _ = run(capsys, "convert", tmp_path / "w.safetensors", tmp_path / f"m{suffix}")
    assert code == 0
    assert "2 layers" in text
    assert "tensors in the file" not in text
    if suffix == ".weights.h5":
        return
    model = fastlstm.load_model(tmp_path / f"m{suffix}")
    x = draw(2, 5, 4)
    want = LSTM.from_torch(tensors, return_sequences=True)(x)
    assert want.shape == (2, 5, 6)
    np.testing.assert_allclose(model(x), want, rtol=0, atol=1e-6)


def test_other_weights_in_the_file_are_told(capsys, tmp_path):
    torch_weights(tmp_path / "w.safetensors", more={"conv.weight": draw(2, 2), "lstm.weight_ih": draw(4, 2)})
    assert "prefix" in refused(capsys, "convert", tmp_path / "w.safetensors", tmp_path / "m.npz")
    torch_weights(tmp_path / "w.safetensors", more={"conv.weight": draw(2, 2)})
    code, text, _ = run(capsys, "convert", "--prefix", "rnn", tmp_path / "w.safetensors", tmp_path / "m.npz")
    assert code == 0
    assert "not kept   1 of the 17 tensors in the file" in text
    assert "prefix" in refused(capsys, "convert", "--prefix", "rnn", SPEAKERS, tmp_path / "m.npz")


def test_onnx_graphs_are_not_converted(capsys, tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08")
    assert "graph of ONNX operators" in refused(capsys, "convert", tmp_path / "m.onnx", tmp_path / "m.npz")
