"""model.save, save_weights, load_weights: what is written is what Keras writes; real Keras opens it where it is installed."""

from __future__ import annotations

import io
import json
import os
import random
import stat
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import fastlstm
from fastlstm import (
    LSTM,
    Activation,
    BatchNormalization,
    Bidirectional,
    Conv1D,
    ConvLSTM1D,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    InputLayer,
    LayerNormalization,
    Masking,
    MaxPooling1D,
    Permute,
    Sequential,
    TimeDistributed,
)

h5py = pytest.importorskip("h5py", reason="writing .keras files needs h5py")

from keras_files import CONFIG, DATA, METADATA, WEIGHTS, members_of, refusal  # noqa: E402

FILES = ["bidi_masking_stack", "conv1d_lstm_mix", "convlstm_stack", "embed_mask_lstm", "stateful"]


@pytest.fixture(autouse=True)
def same_weights_every_time():
    random.seed(2)


def small():
    return Sequential([InputLayer((5, 4)), LSTM(3, name="one"), Dense(2, name="two")], name="small")


MODELS = {
    "bidirectional": lambda: [
        InputLayer((6, 3)),
        Masking(),
        Bidirectional(LSTM(4, return_sequences=True, dropout=0.2, recurrent_regularizer="l2")),
        Bidirectional(LSTM(3), merge_mode="sum"),
        Dense(2, activation="softmax"),
    ],
    "convlstm": lambda: [
        InputLayer((4, 8, 2)),
        ConvLSTM1D(3, 3, padding="same", strides=1, return_sequences=True, activation="relu"),
        BatchNormalization(),
        ConvLSTM1D(2, 3, go_backwards=True),
        Flatten(),
        Dense(2),
    ],
    "embedding": lambda: [
        InputLayer((7,), dtype="int32"),
        Embedding(9, 4, mask_zero=True),
        LSTM(5, return_sequences=True, kernel_constraint="unit_norm", unit_forget_bias=False),
        TimeDistributed(Dense(3, activation="tanh")),
        LSTM(2, recurrent_dropout=0.1, seed=4),
    ],
    "mixed": lambda: [
        InputLayer((12, 3)),
        Conv1D(4, 3, activation="relu"),
        LayerNormalization(),
        MaxPooling1D(2),
        Dropout(0.3),
        Permute((2, 1)),
        Sequential([LSTM(3, return_sequences=True), Activation("sigmoid")], name="inside"),
        LSTM(3, activity_regularizer="l1"),
    ],
    "stateful": lambda: [InputLayer(batch_shape=(2, 3, 4)), LSTM(3, stateful=True), Dense(1)],
}


def sample(model, seed=0):
    """An input that fits the model."""
    rng = np.random.default_rng(seed)
    shape = (model.input_shape[0] or 5, *model.input_shape[1:])
    if isinstance(model.layers[0], Embedding):
        return rng.integers(0, 9, shape)
    return rng.standard_normal(shape).astype("float32")


def stirred(name):
    """A model whose weights are all different from what a fresh one has."""
    model = Sequential(MODELS[name](), name=name)
    rng = np.random.default_rng(5)
    model.set_weights([w + rng.uniform(0.01, 0.2, w.shape).astype(w.dtype) for w in model.get_weights()])
    return model


def without_ids(value):
    """Without Keras' object ids, which are addresses in its memory."""
    if isinstance(value, dict):
        return {key: without_ids(inner) for key, inner in value.items() if key != "shared_object_id"}
    return [without_ids(inner) for inner in value] if isinstance(value, list) else value


def listing(members):
    """Every group and dataset of the weights member: its attributes, and what it holds."""
    found = {}
    with h5py.File(io.BytesIO(members[WEIGHTS]), "r") as handle:
        handle.visititems(lambda path, item: found.update({path: (dict(item.attrs), item)}))
        return {
            path: (attributes, None if isinstance(item, h5py.Group) else (item.shape, item.dtype, item[()].tobytes()))
            for path, (attributes, item) in found.items()
            if path.split("/")[0] != "optimizer"
        }


# -- what Keras wrote and what is written here --------------------------------------------------------------------------
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_keras_comes_out_as_it_went_in(name, tmp_path):
    """Loaded and saved again: the same config, key by key in the same order, and the same groups, names and numbers."""
    path = DATA / f"{name}.keras"
    fastlstm.load_model(path).save(tmp_path / "again.keras")
    before, after = members_of(path), members_of(tmp_path / "again.keras")
    assert list(after) == list(before)
    told, ours = (without_ids(json.loads(members[CONFIG])) for members in (before, after))
    assert ours == told
    assert json.dumps(ours) == json.dumps(told)
    assert listing(after) == listing(before)
    assert {"keras_version", "date_saved"} <= set(json.loads(after[METADATA]))


def test_compile_config_of_a_file_is_kept_and_used(tmp_path):
    path = DATA.parents[2] / "examples" / "speakers.keras"
    model = fastlstm.load_model(path)
    assert model.compiled
    model.save(tmp_path / "a.keras")
    told = json.loads(members_of(path)[CONFIG])["compile_config"]
    assert json.loads(members_of(tmp_path / "a.keras")[CONFIG])["compile_config"] == told
    assert type(model.optimizer).__name__ == "Adam"
    assert model.loss == "sparse_categorical_crossentropy"
    model.save(tmp_path / "b.keras")
    assert json.loads(members_of(tmp_path / "b.keras")[CONFIG])["compile_config"] == told


def test_compile_config_that_makes_no_sense_is_told_when_somebody_trains():
    model = small()
    model.set_compile_config({"optimizer": {"class_name": "NoSuch", "config": {}}, "loss": "mse"}, "m.keras")
    model(np.zeros((1, 5, 4)))
    with pytest.raises(ValueError, match=r"m\.keras: .*NoSuch"):
        model.fit(np.zeros((1, 5, 4)), np.zeros((1, 2)), verbose=0)


def test_compile_config_with_a_callers_function_is_left_out(tmp_path):
    model = small()
    model.compile("sgd", "mse", metrics=[lambda y_true, y_pred: y_pred])
    with pytest.warns(UserWarning, match="not saved"):
        model.save(tmp_path / "m.keras")
    assert not fastlstm.load_model(tmp_path / "m.keras").compiled


# -- and back -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", list(MODELS))
def test_round_trip(name, tmp_path):
    model = stirred(name)
    x = sample(model)
    expected = model(x)
    model.save(tmp_path / "m.keras")
    again = fastlstm.load_model(tmp_path / "m.keras")
    if name != "mixed":  # a Sequential inside comes back without its own InputLayer
        assert again.get_config() == model.get_config()
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    if name != "stateful":  # the file holds no carried states
        np.testing.assert_array_equal(again(x), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "mixed_float16"])
def test_dtypes(dtype, tmp_path):
    if "bfloat16" in dtype:
        pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    model = Sequential([InputLayer((5, 4)), LSTM(3, dtype=dtype)])
    model.save(tmp_path / "m.keras")
    again = fastlstm.load_model(tmp_path / "m.keras")
    for one, other in zip(model.weights, again.weights, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.parametrize("name", list(MODELS))
def test_weights_alone(name, tmp_path):
    model, other = stirred(name), Sequential(MODELS[name](), name="other")
    model.save_weights(tmp_path / "m.weights.h5")
    other.load_weights(tmp_path / "m.weights.h5")
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", FILES)
def test_weights_files_of_keras(name):
    """The .weights.h5 that Keras wrote holds what its .keras file holds."""
    model = fastlstm.load_model(DATA / f"{name}.keras")
    expected = model.get_weights()
    model.set_weights([0 * w for w in expected])
    model.load_weights(DATA / f"{name}.weights.h5")
    for one, two in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(one, two)


def test_load_weights_takes_all_or_nothing(tmp_path):
    model = Sequential([InputLayer((5, 4)), LSTM(3), Dense(7)])
    small().save_weights(tmp_path / "m.weights.h5")
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"m\.weights\.h5.*layers/dense/vars/0"):
        model.load_weights(tmp_path / "m.weights.h5")
    for one, two in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, two)
    with pytest.raises(ValueError, match="filepath"):
        model.load_weights(tmp_path / "m.npz")
    with pytest.raises(FileNotFoundError, match="none"):
        model.load_weights(tmp_path / "none.weights.h5")
    with pytest.raises(ValueError, match="build"):
        Sequential([LSTM(3)]).load_weights(tmp_path / "m.weights.h5")


# -- files --------------------------------------------------------------------------------------------------------------
def test_file_objects(tmp_path):
    buffer = io.BytesIO()
    model = small()
    model.save(buffer)
    buffer.seek(0)
    assert fastlstm.load_model(buffer).get_config() == model.get_config()


def test_an_existing_file_is_replaced_at_once_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "m.keras"
    small().save(path)
    os.chmod(path, 0o600)
    first = path.read_bytes()
    model = small()
    with pytest.raises(FileExistsError, match=r"m\.keras"):
        model.save(path, overwrite=False)
    with monkeypatch.context() as broken:
        broken.setattr(zipfile.ZipFile, "writestr", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            model.save(path)
    assert path.read_bytes() == first
    assert os.listdir(tmp_path) == ["m.keras"]
    model.save(path)
    assert path.read_bytes() != first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["m.keras"]


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no symbolic links here")
def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link.keras").symlink_to(tmp_path / "real.keras")
    small().save(tmp_path / "link.keras")
    assert (tmp_path / "link.keras").is_symlink()
    assert fastlstm.load_model(tmp_path / "real.keras").name == "small"


def test_what_cannot_be_saved(tmp_path):
    model = small()
    for wrong in ("m.h5", "m", tmp_path / "m.weights.h5"):
        with pytest.raises(ValueError, match=r"filepath.*\.keras"):
            model.save(wrong)
    with pytest.raises(ValueError, match=r"filepath.*\.weights\.h5"):
        model.save_weights(tmp_path / "m.keras")
    with pytest.raises(TypeError, match="filepath"):
        model.save(3)
    with pytest.raises(ValueError, match="build"):
        Sequential([LSTM(3)]).save(tmp_path / "m.keras")
    with pytest.raises(FileNotFoundError, match="no_folder"):
        model.save(tmp_path / "no_folder" / "m.keras")
    (tmp_path / "folder.keras").mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder\.keras"):
        model.save(tmp_path / "folder.keras")
    shared = Dense(4)
    with pytest.raises(ValueError, match="two places"):
        Sequential([InputLayer((4,)), shared, shared]).save(tmp_path / "m.keras")
    assert os.listdir(tmp_path) == ["folder.keras"]


def test_a_damaged_copy_is_refused(tmp_path):
    small().save(tmp_path / "m.keras")
    data = (tmp_path / "m.keras").read_bytes()
    (tmp_path / "m.keras").write_bytes(data[: len(data) // 2])
    refusal(tmp_path / "m.keras", "damaged")


# -- Keras itself -------------------------------------------------------------------------------------------------------
IN_KERAS = """
import pathlib
import sys
import keras, numpy as np
for path in map(pathlib.Path, sys.argv[1:]):
    model = keras.saving.load_model(path)
    other = keras.Sequential.from_config(model.get_config())
    other.load_weights(path.with_suffix(".weights.h5"))
    x = np.load(path.with_suffix(".npy"))
    np.save(path.with_suffix(".npy"), np.stack([np.asarray(m.predict(x, batch_size=len(x), verbose=0)) for m in (model, other)]))
"""


@pytest.mark.parametrize("name", MODELS)
def test_json_text(name, tmp_path):
    model = stirred(name)
    model.compile("adam", "mse", metrics=["mae"])
    text = model.to_json(indent=1)
    model.save(tmp_path / "m.keras")
    assert json.loads(text) == json.loads(members_of(tmp_path / "m.keras")[CONFIG])
    other = fastlstm.models.model_from_json(text)
    other.set_weights(model.get_weights())
    x = sample(model)
    np.testing.assert_array_equal(other(x), model(x))
    assert other.optimizer.name == "adam"
    with pytest.raises(ValueError, match="built first"):
        Sequential([LSTM(2)]).to_json()


def test_keras_opens_what_is_saved(tmp_path):
    """FASTLSTM_KERAS_PYTHON names a Python that has Keras, where this one has none."""
    python = os.environ.get("FASTLSTM_KERAS_PYTHON")
    if python is None:
        pytest.importorskip("keras", reason="needs Keras 3 here, or in the Python that FASTLSTM_KERAS_PYTHON names")
    expected = {}
    for name in MODELS:
        model = stirred(name)
        model.compile("adam", "mse", metrics=["mae"])
        x = sample(model)
        model.save(tmp_path / f"{name}.keras")
        model.save_weights(tmp_path / f"{name}.weights.h5")
        np.save(tmp_path / f"{name}.npy", x)
        expected[name] = model(x)
    paths = [str(tmp_path / f"{name}.keras") for name in MODELS]
    run = subprocess.run([python or sys.executable, "-c", IN_KERAS, *paths], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    for name, ours in expected.items():
        for answer in np.load(tmp_path / f"{name}.npy"):
            np.testing.assert_allclose(ours, answer, rtol=0, atol=2e-6, err_msg=name)
