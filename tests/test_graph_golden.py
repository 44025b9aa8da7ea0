"""Functional models that Keras 3.15 saved answer as they did in Keras, from every kind of file (golden/make_graphs.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fastlstm

pytest.importorskip("h5py", reason="reading .keras files needs h5py")

DATA = Path(__file__).parent / "data" / "graphs"
NAMES = ["merges", "attention", "translator", "recurrent", "glue", "rows"]


def stored(name):
    with np.load(DATA / f"{name}.npz") as arrays:
        return tuple([arrays[f"{kind}{k}"] for k in range(sum(key.startswith(kind) for key in arrays))] for kind in ("in", "out"))


def check(model, name):
    inputs, outputs = stored(name)
    given = inputs if len(inputs) > 1 else inputs[0]
    for result in (model(given), model.predict(given, batch_size=4, verbose=0)):
        assert len(result) == len(outputs)
        for k, (got, want) in enumerate(zip(result, outputs, strict=True)):
            np.testing.assert_allclose(got, want, rtol=0, atol=3e-6, err_msg=f"output {k}, of {model.output_names[k]}")


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("name", NAMES)
def test_answers_as_in_keras(name, suffix):
    check(fastlstm.load_model(DATA / f"{name}.{suffix}"), name)


@pytest.mark.parametrize("name", NAMES)
def test_weights_alone(name):
    model = fastlstm.load_model(DATA / f"{name}.keras")
    model.set_weights([np.zeros_like(w) for w in model.get_weights()])
    model.load_weights(DATA / f"{name}.weights.h5")
    check(model, name)


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded_again(name, tmp_path):
    fastlstm.load_model(DATA / f"{name}.h5").save(tmp_path / "again.keras")
    check(fastlstm.load_model(tmp_path / "again.keras"), name)


@pytest.mark.parametrize("name", NAMES)
def test_config_round_trip(name):
    model = fastlstm.load_model(DATA / f"{name}.keras")
    again = fastlstm.Model.from_config(model.get_config())
    again.set_weights(model.get_weights())
    check(again, name)
