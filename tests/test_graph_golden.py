"""Functional models that Keras 3.15 saved answer as they did in Keras, from every kind of file (golden/make_graphs.py)."""

from __future__ import annotations

import os
import subprocess
import sys
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


IN_KERAS = """
import sys
import keras, numpy as np
for path in sys.argv[1:]:
    model = keras.saving.load_model(path + ".keras")
    with np.load(path + ".npz") as stored:
        inputs = [stored[f"in{k}"] for k in range(len(model.inputs))]
    outputs = model.predict(inputs if len(inputs) > 1 else inputs[0], verbose=0)
    np.savez(path + ".npz", **{f"out{k}": np.asarray(y) for k, y in enumerate(outputs)})
"""


def test_keras_opens_what_is_saved(tmp_path):
    """FASTLSTM_KERAS_PYTHON names a Python that has Keras, where this one has none."""
    python = os.environ.get("FASTLSTM_KERAS_PYTHON")
    if python is None:
        pytest.importorskip("keras", reason="needs Keras 3 here, or in the Python that FASTLSTM_KERAS_PYTHON names")
    for name in NAMES:
        fastlstm.load_model(DATA / f"{name}.h5").save(tmp_path / f"{name}.keras")
        np.savez(tmp_path / f"{name}.npz", **{f"in{k}": x for k, x in enumerate(stored(name)[0])})
    command = [python or sys.executable, "-c", IN_KERAS, *(str(tmp_path / name) for name in NAMES)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-3000:]
    for name in NAMES:
        with np.load(tmp_path / f"{name}.npz") as answers:
            for k, want in enumerate(stored(name)[1]):
                np.testing.assert_allclose(answers[f"out{k}"], want, rtol=0, atol=3e-6, err_msg=f"{name}, output {k}")
