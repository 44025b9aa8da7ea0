"""ONNX models and vectors that other programs made, opened by ``load_model``.

The data lies in ${FASTLSTM_TEST_DATA}/models (nothing of it belongs to this project); without it these tests are skipped.
"""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="ONNX models are parsed by the package onnx")

import fastlstm
from fastlstm import selector

# max |a - b| / max(1, |b|), float32 on both sides, summed in other orders.
TOLERANCE = 2e-6


@pytest.fixture(autouse=True, params=["reference", "cpu", "bound"])
def backend(request):
    """A backend that is asked for, or none: then calls after the first ones of each shape run bound to their arrays."""
    with contextlib.nullcontext() if request.param == "bound" else selector.use_backend(request.param):
        yield request.param


def close(got, wanted, tolerance=TOLERANCE):
    assert got.shape == wanted.shape
    assert got.dtype == np.float32
    assert np.isfinite(got).all()
    assert (np.abs(got - wanted.astype("f8")) / np.maximum(1, np.abs(wanted))).max() <= tolerance


def opened(extra_data, name):
    """The model and the arrays that lie beside it."""
    path = extra_data(f"models/{name}.onnx")
    return fastlstm.load_model(path), np.load(path.with_suffix(".npz"), allow_pickle=False)


@pytest.mark.parametrize("name", ["defaults", "with_initial_bias", "with_peepholes", "reverse", "bidirectional", "batchwise"])
def test_node_tests(extra_data, name):
    """onnx/onnx, backend tests of the node LSTM; ``batchwise`` has layout 1."""
    model, data = opened(extra_data, f"onnx_node_tests/test_lstm_{name}")
    got = model({info.name: data[f"in_{info.name}"] for info in model.inputs})
    assert [info.name for info in model.outputs] == [key[4:] for key in data.files if key.startswith("out_")]
    for info, array in zip(model.outputs, got if isinstance(got, list) else [got], strict=True):
        close(array, data[f"out_{info.name}"])


@pytest.mark.parametrize("name", ["fwd_plain", "reverse", "bidir", "rev_lens", "peephole", "clip"])
def test_onnxruntime(extra_data, name):
    """The operator run by microsoft/onnxruntime on random weights, peepholes and clip among them."""
    model, data = opened(extra_data, f"ort_attr_grid/{name}")
    got = model({info.name: data[info.name] for info in model.inputs})
    assert [info.name for info in model.outputs] == ["Y", "Y_h", "Y_c"]
    for info, array in zip(model.outputs, got, strict=True):
        close(array, data[info.name])


def test_silero_vad(extra_data):
    """snakers4/silero-vad, 16 kHz: raw audio through STFT, convolutions and LSTM to the probability of speech, 400 frames."""
    model = fastlstm.load_model(extra_data("models/silero_vad/silero_vad_16k_sequence.onnx"))
    data = np.load(extra_data("models/silero_vad/ref_first400.npz"), allow_pickle=False)
    start = np.zeros((1, 1, 128), "f4")
    close(model([data["frames"], start, start])[0], data["speech_probs"])


def test_silero_vad_as_a_stream(extra_data):
    """The same frames one by one, with the states that came out."""
    model = fastlstm.load_model(extra_data("models/silero_vad/silero_vad_16k_sequence.onnx"))
    data = np.load(extra_data("models/silero_vad/ref_first400.npz"), allow_pickle=False)
    h = c = np.zeros((1, 1, 128), "f4")
    probabilities, states = [], []
    for frame in data["frames"]:
        p, h, c = model({"input": frame[None], "h": h, "c": c})
        probabilities.append(p[0])
        states.append([h[0], c[0]])
    close(np.array(probabilities, "f4"), data["stream_probs"], 5e-6)
    close(np.array(states)[:64], data["stream_states_first64"], 1e-5)


def test_dtln(extra_data):
    """breizhn/DTLN, model_1: the mask of 300 frames of noisy speech, frame after frame; states beyond 100."""
    model = fastlstm.load_model(extra_data("models/dtln/model_1.onnx"))
    data = np.load(extra_data("models/dtln/ref_first300.npz"), allow_pickle=False)
    state, masks, states = np.zeros((1, 2, 128, 2), "f4"), [], []
    for frame in data["mag"]:
        mask, state = model([frame[None, None], state])
        masks.append(mask[0, 0])
        states.append(state[0])
    close(np.array(masks), data["mask"])
    close(np.array(states), data["state1"], 3e-5)


# -- the package silero-vad -------------------------------------------------------------------------------------------------
SILERO = ["silero_vad", "silero_vad_16k_op15", "silero_vad_half", "silero_vad_op18_ifless", "silero_vad_openvino_16k"]


@pytest.mark.parametrize("name", SILERO)
def test_the_files_of_the_package_silero_vad(extra_data, name):
    """Exports of one network, with If on the sampling rate, opset 15 to 18: the same answers. ``half`` is another training."""
    found = importlib.util.find_spec("silero_vad")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the package silero-vad, whose models these are, is not installed")
    path = Path(found.submodule_search_locations[0]) / "data" / f"{name}.onnx"
    if not path.exists():
        pytest.skip(f"this version of silero-vad has no {path.name}")
    model = fastlstm.load_model(path)
    data = np.load(extra_data("models/silero_vad/ref_first400.npz"), allow_pickle=False)
    given, state, got = {"sr": np.array(16000)}, np.zeros((2, 1, 128), "f4"), []
    for frame in data["frames"][:100]:
        values = {**given, "input": frame[None], "state": state}
        p, state = model({info.name: values[info.name] for info in model.inputs})
        got.append(p[0, 0])
    if name == "silero_vad_half":
        assert 0 <= min(got) <= max(got) <= 1
    else:
        close(np.array(got, "f4"), data["stream_probs"][:100])
