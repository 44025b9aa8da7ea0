"""LSTM and Bidirectional against vectors that other programs computed, with the weights stored next to them.

The data lies in ${FASTLSTM_TEST_DATA}/models (nothing of it belongs to this project); without it every test here is skipped.
Each group says in its docstring whose vectors they are and how the weights become Keras' own layout: kernel [D,4U],
recurrent_kernel [U,4U], bias [4U] with the gates in order i, f, c, o. Left out are the vectors with peepholes or with a clip
inside the cell, which Keras' LSTM does not have.
"""

from __future__ import annotations

import json
import os

import golden_cases as golden
import numpy as np
import pytest

import fastlstm
from fastlstm import selector

# In the measure max |a - b| / max(1, |b|). Both sides are float32 and sum in different orders: about 1e-7 a step, which the
# longest sequences bring to 6e-6. A wrong gate order or state is off by more than 1e-2.
TOLERANCE = 1e-5

pytestmark = pytest.mark.skipif(
    not os.environ.get("FASTLSTM_TEST_DATA"),
    reason="FASTLSTM_TEST_DATA does not name a folder of extra test data, whose folder models holds other programs' vectors",
)


@pytest.fixture(autouse=True, params=["reference", "cpu"])
def backend(request):
    with selector.use_backend(request.param):
        yield request.param


@pytest.fixture
def load(extra_data):
    """``load("folder/name.npz")``: the arrays of an .npz below models; it refuses pickled objects."""
    return lambda name: np.load(extra_data(f"models/{name}"), allow_pickle=False)


def close(got, expected, tolerance=TOLERANCE):
    assert got.shape == expected.shape
    assert got.dtype == np.float32
    assert np.isfinite(got).all()
    distance = golden.distance(got, expected.astype("f8"))
    assert distance <= tolerance


def lstm(weights, **arguments):
    """An LSTM that returns its whole sequence and both states, built for ``weights`` of Keras' layout."""
    kernel, recurrent = weights[:2]
    arguments = {"return_sequences": True, "return_state": True, "use_bias": len(weights) == 3} | arguments
    layer = fastlstm.LSTM(len(recurrent), **arguments)
    layer.build((1 if layer.stateful else None, None, len(kernel)))
    layer.set_weights(weights)
    return layer


def bidirectional(forward, backward, **arguments):
    """Both directions unmerged; a call returns y, y_rev, forward h and c, backward h and c."""
    inner = fastlstm.LSTM(len(forward[1]), return_sequences=True, return_state=True, **arguments)
    layer = fastlstm.Bidirectional(inner, merge_mode=None)
    layer.build((None, None, len(forward[0])))
    layer.set_weights([*forward, *backward])
    return layer


def from_torch(weight_ih, weight_hh, *biases):
    """PyTorch: [4U,D], [4U,U], gates i, f, g, o as in Keras (g is c), and two biases that are added."""
    return [weight_ih.T, weight_hh.T, *([biases[0] + biases[1]] if biases else [])]


def from_onnx(w, r, b=None):
    """ONNX, one direction: W [4U,D], R [4U,U], B [8U] (two biases, input then recurrent), gates i, o, f, c."""

    def reorder(gates):
        i, o, f, c = np.split(gates, 4)
        return np.concatenate([i, f, c, o]).T

    bias = np.zeros(2 * len(w), w.dtype) if b is None else b
    return [reorder(w), reorder(r), reorder(sum(np.split(bias, 2)))]


# -- keras-js -------------------------------------------------------------------------------------------------------------
def keras2_hard_sigmoid(x):
    """The hard_sigmoid of Keras 1 and 2; that of Keras 3 has slope 1/6."""
    return np.clip(0.2 * x + 0.5, 0, 1)


def keras2_arguments(config):
    hard = config["recurrent_activation"] == "hard_sigmoid"
    return {**config, "recurrent_activation": keras2_hard_sigmoid if hard else config["recurrent_activation"]}


@pytest.mark.parametrize("case", range(9))
def test_kerasjs_lstm(load, case):
    """transcranial/keras-js, layer tests of LSTM, computed by Keras 2; layout and gates are those of Keras 3.

    The stateful cases hold the output of the second call on the same input.
    """
    data = load("kerasjs/kerasjs_LSTM.npz")
    config = json.loads(str(data[f"{case}_cfg"]))["attrs"]
    weights = [data[f"{case}_w{k}"] for k in range(3)]
    assert config.pop("units") == len(weights[1])
    layer = lstm(weights, **keras2_arguments(config), return_state=False)
    x = data[f"{case}_x"][None]
    if layer.stateful:
        layer(x)
    close(layer(x)[0], data[f"{case}_y"])


def test_kerasjs_bidirectional(load):
    """transcranial/keras-js, layer tests of Bidirectional: the one case of an LSTM (the others wrap SimpleRNN and GRU)."""
    data = load("kerasjs/kerasjs_Bidirectional.npz")
    configs = {key: json.loads(str(data[key]))["attrs"] for key in data.files if key.endswith("_cfg")}
    (key,) = [key for key, config in configs.items() if config["layer"]["class_name"] == "LSTM"]
    case, config = key.removesuffix("_cfg"), configs[key]
    inner = fastlstm.LSTM(**keras2_arguments(config["layer"]["config"]))
    layer = fastlstm.Bidirectional(inner, merge_mode=config["merge_mode"])
    x = data[f"{case}_x"][None]
    layer.build(x.shape)
    layer.set_weights([data[f"{case}_w{k}"] for k in range(6)])
    close(layer(x)[0], data[f"{case}_y"])


# -- CMSIS-NN -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["small", "medium"])
def test_cmsis_f32(load, name):
    """ARM-software/CMSIS-NN, unit tests of arm_lstm_unidirectional_f32: [4U,D] and [4U,U], gates i, f, cell, o; [T,N,D]."""
    data = load(f"cmsis_f32/lstm_{name}_f32_ready.npz")
    assert data["time_major"] == 1
    layer = lstm([data["W_ifgo"].T, data["U_ifgo"].T, data["b_ifgo"]])
    y, h, _ = layer(data["X"].swapaxes(0, 1))
    close(y.swapaxes(0, 1), data["Y"])
    close(h, data["Y"][-1])


# -- Silero VAD -----------------------------------------------------------------------------------------------------------
def silero_weights(data):
    return from_onnx(*(data[part][0] for part in "WRB"))


def test_silero_vad_sequence(load):
    """snakers4/silero-vad, 16 kHz (ONNX model): the inputs of its LSTM for 400 frames of speech at once; ONNX' layout.

    The file silero_vad_16k.safetensors is another training of the same network, for which no outputs are stored.
    """
    data = load("silero_vad/ref_first400.npz")
    y, h, _ = lstm(silero_weights(data))(data["lstm_X"].swapaxes(0, 1))
    close(y[0], data["lstm_Y"][:, 0, 0])
    close(h[0], data["lstm_Y"][-1, 0, 0])


def test_silero_vad_stream(load):
    """The same frames one by one through a stateful layer: states [h, c] after each of the first 64, outputs of all."""
    data = load("silero_vad/ref_first400.npz")
    layer = lstm(silero_weights(data), stateful=True)
    returned = [layer(x[None]) for x in data["lstm_X"]]
    close(np.array([y for y, _, _ in returned])[:, 0], data["lstm_Y"][:, 0])
    close(np.array([[h, c] for _, h, c in returned[:64]]), data["stream_states_first64"])


# -- DTLN -----------------------------------------------------------------------------------------------------------------
def dtln_weights(data, number):
    return from_onnx(*(data[f"lstm_{number}_{part}"][0] for part in "WRB"))


@pytest.mark.parametrize("number", [4, 5])
def test_dtln_sequence(load, number):
    """breizhn/DTLN, model_1 (noise suppression): each of its two LSTM layers over 300 frames; ONNX' layout."""
    data = load("dtln/ref_first300.npz")
    y, h, c = lstm(dtln_weights(data, number))(data[f"x{number}"][None])
    close(y[0], data[f"y{number}"])
    last = data["state1"][-1, number - 4]
    close(h[0], last[:, 0])
    close(c[0], last[:, 1])


def test_dtln_stream(load):
    """Both layers as the model runs them, frame after frame with carried states: c grows beyond 100, tanh saturates.

    Near such states float32 itself is coarse: the stored ones lie 1.3e-5 from a calculation in float64.
    """
    data = load("dtln/ref_first300.npz")
    layers = [lstm(dtln_weights(data, number), stateful=True) for number in (4, 5)]
    assert np.abs(data["state1"]).max() > 100
    got = []
    for frame in data["x4"]:
        y, h4, c4 = layers[0](frame[None, None])
        _, h5, c5 = layers[1](y)
        got.append([np.stack([h[0], c[0]], axis=-1) for h, c in ((h4, c4), (h5, c5))])
    close(np.array(got), data["state1"], tolerance=3e-5)


# -- ethnicolr ------------------------------------------------------------------------------------------------------------
def test_ethnicolr(load, extra_data):
    """appeler/ethnicolr, census2010_ln_lstm (saved by Keras 2): layout and gates are those of Keras 3."""
    h5py = pytest.importorskip("h5py", reason="reading the weights needs h5py")
    data = load("ethnicolr/ref_census2010.npz")
    with h5py.File(extra_data("models/ethnicolr/census2010_ln_lstm.h5"), "r") as file:
        stored = file["model_weights/lstm/lstm/lstm_cell"]
        layer = lstm([stored[f"{name}:0"][()] for name in ("kernel", "recurrent_kernel", "bias")], return_sequences=False)
    y, h, _ = layer(data["census2010_ln_lstm_lstm_in"])
    close(y, data["census2010_ln_lstm_lstm_out"])
    np.testing.assert_array_equal(y, h)


# -- RTNeural -------------------------------------------------------------------------------------------------------------
def rtneural(extra_data, name):
    """The model and the columns x, y of one of RTNeural's tests, as sequences [1,T,1]."""
    model = json.loads(extra_data(f"models/rtneural/{name}.json").read_text())
    x, y = (np.loadtxt(extra_data(f"models/rtneural/{name}_{axis}_python.csv"), dtype="f4") for axis in "xy")
    return model, x[None, :, None], y[None, :, None]


def arrays(lists):
    return [np.array(numbers, "f4") for numbers in lists]


@pytest.mark.parametrize("name", ["lstm", "lstm_1d"])
def test_rtneural_keras(extra_data, name):
    """jatinchowdhury18/RTNeural, models/lstm.json and lstm_1d.json: written by Keras, layout and gates of Keras."""
    model, x, expected = rtneural(extra_data, name)
    layers = []
    for entry in model["layers"]:
        weights, units = arrays(entry["weights"]), entry["shape"][-1]
        if entry["type"] == "lstm":
            layers.append(lstm(weights, activation=entry["activation"], return_state=False))
            continue
        layers.append(fastlstm.Dense(units, activation=entry["activation"] or None))
        layers[-1].build((None, None, len(weights[0])))
        layers[-1].set_weights(weights)
    assert sum(isinstance(layer, fastlstm.LSTM) for layer in layers) == 1
    for layer in layers:
        x = layer(x)
    close(x, expected)


def test_rtneural_torch(extra_data):
    """jatinchowdhury18/RTNeural, models/lstm_torch.json: PyTorch's layout; four LSTM layers and a Dense over 1000 samples."""
    model, x, expected = rtneural(extra_data, "lstm_torch")
    parts = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    for name, number in (("lstm", 0), ("lstm2", 0), ("lstm2", 1), ("lstm2", 2)):
        x = lstm(from_torch(*arrays(model[f"{name}.{part}_l{number}"] for part in parts)), return_state=False)(x)
    dense = fastlstm.Dense(1)
    dense.build(x.shape)
    dense.set_weights([np.array(model["dense.weight"], "f4").T, np.array(model["dense.bias"], "f4")])
    close(dense(x), expected)


def test_rtneural_weights_that_do_not_fit(extra_data):
    """jatinchowdhury18/RTNeural, models/bad_lstm.json: it declares 16 units and holds the weights of 20."""
    entry = json.loads(extra_data("models/rtneural/bad_lstm.json").read_text())["layers"][0]
    layer = fastlstm.LSTM(entry["shape"][-1], name="bad")
    layer.build((None, None, 1))
    before = layer.get_weights()
    with pytest.raises(ValueError, match=r"bad weight shape \(1, 64\) is not compatible with provided weight shape \(1, 80\)"):
        layer.set_weights(arrays(entry["weights"]))
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


# -- PyTorch --------------------------------------------------------------------------------------------------------------
def torch_layer(data, number, suffix):
    names = (f"{part}_l{number}{suffix}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    return from_torch(*(data[name] for name in names if name in data.files))


@pytest.mark.parametrize("name", ["plain", "nobias", "timefirst", "packed", "l3", "bi_l2"])
def test_torch(load, name):
    """torch.nn.LSTM run by PyTorch; layout as in ``from_torch``, states h0, c0 [layers*directions,N,U].

    A packed sequence of lengths ``lens`` is a mask with zeros as outputs of masked steps.
    """
    data = load(f"torch_grid/{name}.npz")
    config = json.loads(str(data["cfg"]))
    x = data["x"] if config["batch_first"] else data["x"].swapaxes(0, 1)
    mask = None if config["lens"] is None else np.arange(x.shape[1]) < np.array(config["lens"])[:, None]
    states = []
    for number in range(config["L"]):
        if config["bi"]:
            layer = bidirectional(torch_layer(data, number, ""), torch_layer(data, number, "_reverse"))
            first, last = 2 * number, 2 * number + 2
        else:
            layer = lstm(torch_layer(data, number, ""), zero_output_for_mask=True)
            first, last = number, number + 1
        start = [data[key][k] for k in range(first, last) for key in ("h0", "c0")]
        outputs = layer(x, initial_state=start, mask=mask)
        x, ends = (np.concatenate(outputs[:2], axis=-1), outputs[2:]) if config["bi"] else (outputs[0], outputs[1:])
        states += ends
    close(x if config["batch_first"] else x.swapaxes(0, 1), data["y"])
    close(np.stack(states[::2]), data["hn"])
    close(np.stack(states[1::2]), data["cn"])


# -- ONNX -----------------------------------------------------------------------------------------------------------------
def run_onnx(given, direction):
    """Y [T,D,N,U], Y_h and Y_c [D,N,U] of the ONNX operator for its named inputs, X [T,N,I]; D directions.

    ``sequence_lens`` is a mask with zeros as outputs of masked steps; a reversed sequence begins at its own last valid step,
    which is where a masked layer with go_backwards begins. Keras leaves a reversed output in order of processing.
    """
    x = given["X"].swapaxes(0, 1)
    lengths = given.get("sequence_lens")
    mask = None if lengths is None else np.arange(x.shape[1]) < lengths[:, None]
    biases = given.get("B", [None] * len(given["W"]))
    weights = [from_onnx(w, r, b) for w, r, b in zip(given["W"], given["R"], biases, strict=True)]
    if direction == "bidirectional":
        y, y_rev, *states = bidirectional(*weights, zero_output_for_mask=True)(x, mask=mask)
        directions = np.stack([y, y_rev])
    else:
        layer = lstm(weights[0], go_backwards=direction == "reverse", zero_output_for_mask=True)
        y, *states = layer(x, mask=mask)
        directions = (y[:, ::-1] if direction == "reverse" else y)[None]
    return {"Y": directions.transpose(2, 0, 1, 3), "Y_h": np.stack(states[::2]), "Y_c": np.stack(states[1::2])}


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("defaults", "forward"),
        ("with_initial_bias", "forward"),
        ("reverse", "reverse"),
        ("bidirectional", "bidirectional"),
        ("batchwise", "forward"),
    ],
)
def test_onnx_node(load, name, direction):
    """onnx/onnx, backend tests of the node LSTM; gates and biases as in ``from_onnx``. ``batchwise`` has the batch axis first."""
    data = load(f"onnx_node_tests/test_lstm_{name}.npz")
    given = {key.removeprefix("in_"): data[key] for key in data.files if key.startswith("in_")}
    expected = {key.removeprefix("out_"): data[key] for key in data.files if key.startswith("out_")}
    if name == "batchwise":
        given["X"] = given["X"].swapaxes(0, 1)
        expected = {"Y": expected["Y"].transpose(1, 2, 0, 3), "Y_h": expected["Y_h"].swapaxes(0, 1)}
    got = run_onnx(given, direction)
    assert expected
    for key, value in expected.items():
        close(got[key], value)


@pytest.mark.parametrize(
    ("name", "direction"),
    [("fwd_plain", "forward"), ("reverse", "reverse"), ("bidir", "bidirectional"), ("rev_lens", "reverse")],
)
def test_onnxruntime(load, name, direction):
    """The LSTM operator run by microsoft/onnxruntime on random weights; gates and biases as in ``from_onnx``."""
    data = load(f"ort_attr_grid/{name}.npz")
    got = run_onnx(dict(data), direction)
    for key in ("Y", "Y_h", "Y_c"):
        close(got[key], data[key])
