"""The models that packages bring along, each opened and run: `make test-packages` installs the packages and runs these tests.

Truth: what the packages' own tests and README say, and answers.json, what tf_keras and onnxruntime answered (make_answers.py).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from packages_inputs import (
    CHARACTERS,
    CHARS2VEC,
    ETHNICOLR,
    PEOPLE,
    RNNMORPH,
    SILERO,
    VOCABULARY,
    column,
    ethnicolr_input,
    kept,
    rnnmorph_inputs,
    silero_inputs,
    wave,
    whole,
)

import fastlstm
from fastlstm import LSTM, Dense, Embedding, Input, Model
from fastlstm.io.torch_pickle import unpickle
from fastlstm.models import model_from_json

ANSWERS = json.loads(Path(__file__).with_name("answers.json").read_text("utf-8"))
TOLERANCE = 1e-5


@pytest.fixture(scope="session")
def packages():
    """The folder of the packages."""
    folder = os.environ.get("FASTLSTM_TEST_PACKAGES")
    if not folder:
        pytest.skip("needs ethnicolr, chars2vec, textgenrnn, rnnmorph, silero-vad: `make test-packages` installs them")
    pytest.importorskip("h5py", reason="reading .h5 files needs h5py")
    return Path(folder)


def agree(name, outputs):
    """The arrays are finite, of the shapes and numbers that the original program answered with."""
    told = ANSWERS[name]["outputs"]
    listed = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    assert [list(y.shape) for y in listed] == [one["shape"] for one in told]
    for y, one in zip(listed, told, strict=True):
        assert np.isfinite(y).all()
        np.testing.assert_allclose(kept(y), one["kept"], rtol=0, atol=TOLERANCE)


# -- ethnicolr ----------------------------------------------------------------------------------------------------------
def ethnicolr(packages, name):
    return fastlstm.load_model(packages / "ethnicolr" / "models" / name)


def test_there_are_no_other_models_of_ethnicolr(packages):
    folder = packages / "ethnicolr" / "models"
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.h5")) == sorted(ETHNICOLR)


@pytest.mark.parametrize("name", ETHNICOLR)
def test_ethnicolr(packages, name):
    model = ethnicolr(packages, name)
    y = model.predict(ethnicolr_input(packages, name, PEOPLE), verbose=0)
    np.testing.assert_allclose(y.sum(axis=-1), 1, rtol=0, atol=1e-6)
    agree(f"ethnicolr/{name}", y)


@pytest.mark.parametrize("name", [name for name, told in ETHNICOLR.items() if told.people])
def test_ethnicolr_says_what_its_tests_and_readme_say(packages, name):
    told = ETHNICOLR[name]
    classes = column(packages / "ethnicolr" / "models" / told.classes, "race")
    y = ethnicolr(packages, name).predict(ethnicolr_input(packages, name, [person for person, _ in told.people]), verbose=0)
    assert [classes[k] for k in y.argmax(axis=-1)] == [expected for _, expected in told.people]


def test_ethnicolr_readme_in_numbers(packages):
    """``pred_nc_reg_name`` of the README, to its six digits. (Its numbers of the census models are those of older files.)"""
    name = "nc_voter_reg/lstm/nc_voter_name_lstm_oversample.h5"
    readme = {
        "hernandez hector": {
            "HL+A": 2.727371e-13,
            "HL+B": 6.542178e-04,
            "HL+I": 0.000032,
            "HL+M": 0.000541,
            "HL+O": 0.589440,
            "HL+W": 0.221309,
            "NL+A": 0.000044,
            "NL+B": 0.002199,
            "NL+I": 0.000004,
            "NL+M": 7.863581e-06,
            "NL+O": 0.184513,
            "NL+W": 0.001256,
        },
        "zhang simon": {
            "HL+A": 1.985421e-06,
            "HL+B": 8.708256e-09,
            "HL+I": 0.000049,
            "NL+M": 1.446786e-07,
            "NL+O": 0.003238,
            "NL+W": 0.000154,
        },
    }
    classes = column(packages / "ethnicolr" / "models" / ETHNICOLR[name].classes, "race")
    y = ethnicolr(packages, name).predict(ethnicolr_input(packages, name, list(readme)), verbose=0)
    for row, told in zip(y, readme.values(), strict=True):
        for key, value in told.items():
            assert row[classes.index(key)] == pytest.approx(value, rel=0, abs=2e-6), key  # float32 of then, printed to 1e-6


# -- chars2vec ----------------------------------------------------------------------------------------------------------
def chars2vec(packages, size):
    """As the package makes it; in Keras 2.2.0, which wrote the weights, an LSTM had the old hard_sigmoid by default."""
    x = Input((None, CHARACTERS))
    old = {"recurrent_activation": "hard_sigmoid_keras2"}
    model = Model(x, LSTM(size, **old)(LSTM(size, return_sequences=True, **old)(x)))
    model.load_weights(packages / "chars2vec" / "trained_models" / f"eng_{size}" / "weights.h5")
    return model


@pytest.mark.parametrize("size", CHARS2VEC)
def test_chars2vec(packages, size):
    agree(f"chars2vec/{size}", chars2vec(packages, size).predict(wave(2, 7, CHARACTERS), verbose=0))


def refused(name):
    raise ValueError(f"the file names {name}")


@pytest.mark.parametrize("size", CHARS2VEC)
def test_chars2vec_maps_similar_words_to_near_vectors(packages, size):
    """What the package promises. Its characters are in a pickle, which is read by a machine that makes lists and dicts alone."""
    data = (packages / "chars2vec" / "trained_models" / f"eng_{size}" / "model.pkl").read_bytes()
    dimensions, characters = unpickle(data, refused, refused)
    assert (dimensions, len(characters)) == (size, CHARACTERS)
    model = chars2vec(packages, size)

    def vector(word):
        x = np.zeros((1, len(word), CHARACTERS), np.float32)
        for k, character in enumerate(word.lower()):
            x[0, k, characters[character]] = 1
        return model.predict(x, verbose=0)[0]

    words = {"language": "lanquage", "understanding": "understandign", "natural": "naturall"}
    vectors = {word: vector(word) for word in [*words, *words.values()]}
    for word, similar in words.items():
        near = np.linalg.norm(vectors[word] - vectors[similar])
        others = [np.linalg.norm(vectors[word] - v) for other, v in vectors.items() if other not in (word, similar)]
        assert near < min(others) / 1.5


# -- textgenrnn ---------------------------------------------------------------------------------------------------------
class AttentionWeightedAverage(fastlstm.layers.Layer):
    """The package's own layer, written anew."""

    def _build(self, input_shape):
        self.W = self.add_weight((input_shape[2], 1), "uniform", "W")

    def call(self, x, mask=None, training=False):
        logits = (x @ self.W.value)[..., 0]
        e = np.exp(logits - logits.max(axis=-1, keepdims=True))
        weights = e / (e.sum(axis=1, keepdims=True) + 1e-7)
        return (x * weights[..., None]).sum(axis=1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[2])


def textgenrnn(packages):
    x = Input((40,), name="input")
    e = Embedding(VOCABULARY, 100, name="embedding")(x)
    one = LSTM(128, return_sequences=True, name="rnn_1")(e)
    two = LSTM(128, return_sequences=True, name="rnn_2")(one)
    mean = AttentionWeightedAverage(name="attention")(fastlstm.layers.concatenate([e, one, two], name="rnn_concat"))
    model = Model(x, Dense(VOCABULARY, activation="softmax", name="output")(mean))
    model.load_weights(packages / "textgenrnn" / "textgenrnn_weights.hdf5", by_name=True)
    return model


def test_textgenrnn(packages):
    agree("textgenrnn", textgenrnn(packages).predict(whole(VOCABULARY, 2, 40), verbose=0))


def test_textgenrnn_writes_words(packages):
    """The likeliest next characters from a beginning: what a model of English titles says, not what noise does."""
    vocabulary = json.loads((packages / "textgenrnn" / "textgenrnn_vocab.json").read_text("utf-8"))
    characters = {number: character for character, number in vocabulary.items()}
    assert len(vocabulary) + 1 == VOCABULARY
    model = textgenrnn(packages)
    text = ["<s>", *"How to "]
    for _ in range(20):
        numbers = [vocabulary[character] for character in text[-40:]]
        x = np.array([[0] * (40 - len(numbers)) + numbers], np.int32)
        text.append(characters[int(model.predict(x, verbose=0)[0].argmax())])
    words = "".join(text[8:]).split()
    assert len(words) >= 3
    assert set("".join(words).lower()) <= set("abcdefghijklmnopqrstuvwxyz'.?!,-")


# -- rnnmorph -----------------------------------------------------------------------------------------------------------
class ReversedLSTM(LSTM):
    """The package's own layer, written anew: backwards, and the outputs turned round again."""

    def __init__(self, units, **config):
        super().__init__(units, **{**config, "go_backwards": True})

    def __call__(self, sequences, *args, **kwargs):
        y = super().__call__(sequences, *args, **kwargs)
        return y[:, ::-1] if isinstance(y, np.ndarray) else y


@pytest.mark.parametrize("name", RNNMORPH)
def test_rnnmorph(packages, name):
    language, kind = name.split("/")
    folder = packages / "rnnmorph" / "models" / language
    model = model_from_json((folder / f"{kind}_model.json").read_text("utf-8"), {"ReversedLSTM": ReversedLSTM})
    model.load_weights(folder / f"{kind}_model.h5")
    grammemes = next(tensor.shape[-1] for tensor in model.inputs if tensor.name == "grammemes")
    agree(f"rnnmorph/{name}", model.predict(rnnmorph_inputs(model.input_names, grammemes), verbose=0))


# -- silero-vad ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", SILERO)
def test_silero_vad(packages, name):
    pytest.importorskip("onnx", reason="reading .onnx files needs onnx")
    model = fastlstm.load_model(packages / "silero_vad" / "data" / name)
    y = model(silero_inputs(name))
    agree(f"silero_vad/{name}", y)
    assert 0 < np.min(y[0]) <= np.max(y[0]) < 1


def test_silero_vad_weights(packages):
    """The LSTM among the weights for another library."""
    path = packages / "silero_vad" / "data" / "silero_vad_16k.safetensors"
    lstm = LSTM.from_torch(path, return_sequences=True)
    agree("silero_vad/silero_vad_16k.safetensors", lstm(wave(2, 5, 128)))


def test_silero_vad_torchscript_is_refused(packages):
    """A .jit holds code."""
    path = packages / "silero_vad" / "data" / "silero_vad.jit"
    for load in (fastlstm.load_model, LSTM.from_torch):
        with pytest.raises(ValueError, match=r"silero_vad\.jit"):
            load(path)


def test_there_are_no_other_models_of_silero_vad(packages):
    folder = packages / "silero_vad" / "data"
    kinds = {".onnx", ".safetensors", ".jit", ".pt", ".h5"}
    names = [*SILERO, "silero_vad_16k.safetensors", "silero_vad.jit"]
    assert sorted(path.name for path in folder.iterdir() if path.suffix in kinds) == sorted(names)
