"""``LSTM.from_torch`` and ``torch_state_dict``: names, layouts, prefixes, files, against PyTorch's answers and formulas."""

from __future__ import annotations

import json

import numpy as np
import pytest
from torch_formulas import CLOSE, DATA, FLOAT32, D, N, T, U, X, run, single

import fastlstm
from fastlstm import LSTM, Bidirectional, TorchLSTM, torch_state_dict
from fastlstm.io.safetensors import read_safetensors, write_safetensors


# -- what PyTorch answered ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["packed_bi_l2", "proj", "packed_proj_bi_l2"])
def test_outputs_and_gradients_of_pytorch(name):
    """PyTorch's outputs and its autograd's gradients, packed sequences among them; see ``data/torch/make.py``."""
    data = np.load(DATA / f"{name}.npz")
    lengths = json.loads(str(data["settings"]))["lengths"]
    layer = LSTM.from_torch(DATA / f"{name}.safetensors", return_sequences=True, return_state=True, state_layout="torch")
    given = {"initial_state": (data["h0"], data["c0"]), "lengths": lengths}
    called = layer(data["x"], **given)
    recorded, pullback = layer.vjp(data["x"], **given)
    for key, one, other in zip(("y", "hn", "cn"), called, recorded, strict=True):
        np.testing.assert_allclose(one, data[key], **FLOAT32)
        np.testing.assert_allclose(other, data[key], **FLOAT32)
    found = pullback((data["dy"], data["dhn"], data["dcn"]))
    np.testing.assert_allclose(found.inputs, data["grad_x"], rtol=0, atol=2e-6)
    for got, key in zip(found.initial_state, ("grad_h0", "grad_c0"), strict=True):
        np.testing.assert_allclose(got, data[key], rtol=0, atol=2e-6)
    np.testing.assert_allclose(in_order_of_torch(layer, found.weights), data["grad_weights"], rtol=0, atol=1e-5)


def in_order_of_torch(layer, gradients):
    """Gradients in the order of ``layer.weights`` as one row in PyTorch's order: the two biases have the same gradient."""
    row, per = [], 2 + layer.use_bias + bool(layer.proj_size)
    for k in range(0, len(gradients), per):
        kernel, recurrent, *rest = gradients[k : k + per]
        bias = [rest.pop(0)] * 2 if layer.use_bias else []
        row += [kernel.T, recurrent.T, *bias, *(projection.T for projection in rest)]
    return np.concatenate([array.ravel() for array in row])


@pytest.mark.parametrize("name", ["plain", "nobias", "timefirst", "packed", "l3", "bi_l2"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_vectors_of_pytorch(name, suffix, extra_data, tmp_path):
    """torch.nn.LSTM run by PyTorch, states given, one of them packed; from its .pt and from a .safetensors of it."""
    data = np.load(extra_data(f"models/torch_grid/{name}.npz"))
    config = json.loads(str(data["cfg"]))
    path = extra_data(f"models/torch_grid/{name}.pt")
    if suffix == "safetensors":
        weights = {key: data[key] for key in data.files if key.startswith(("weight", "bias"))}
        write_safetensors(path := tmp_path / "x.safetensors", weights)
    flags = {"batch_first": config["batch_first"], "return_sequences": True, "return_state": True, "state_layout": "torch"}
    layer = LSTM.from_torch(path, **flags)
    outputs = layer(data["x"], (data["h0"], data["c0"]), lengths=config["lens"])
    for got, key in zip(outputs, ("y", "hn", "cn"), strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, data[key], **FLOAT32)
    if config["batch_first"]:
        y, *states = LSTM.from_torch(path, return_sequences=True, return_state=True)(
            data["x"], [data[key][k] for k in range(len(data["h0"])) for key in ("h0", "c0")], lengths=config["lens"]
        )
        np.testing.assert_allclose(y, data["y"], **FLOAT32)
        np.testing.assert_allclose(np.stack(states[::2]), data["hn"], **FLOAT32)
        np.testing.assert_allclose(np.stack(states[1::2]), data["cn"], **FLOAT32)


def test_silero_vad(extra_data):
    """snakers4/silero-vad, 16 kHz: its LSTMCell, found among the convolutions, against the formulas in float64."""
    path = extra_data("models/silero_vad/silero_vad_16k.safetensors")
    layer = LSTM.from_torch(path, return_sequences=True, return_state=True)
    assert (type(layer), layer.units) == (LSTM, 128)
    tensors, _ = read_safetensors(path)
    state = {f"{name.removeprefix('lstm_cell.')}_l0": array for name, array in tensors.items() if name.startswith("lstm_cell.")}
    x = np.random.default_rng(2).standard_normal((2, 6, 128)).astype("f4")
    for got, expected in zip(layer(x), run(state, x), strict=True):
        np.testing.assert_allclose(got, expected.reshape(got.shape), rtol=0, atol=2e-6)


def test_rtneural(extra_data):
    """jatinchowdhury18/RTNeural, models/lstm_torch.json: two LSTMs, of one and of three layers, with a Dense behind them."""
    model = json.loads(extra_data("models/rtneural/lstm_torch.json").read_text())
    state = {name: np.array(value, "f4") for name, value in model.items()}
    x, y = (np.loadtxt(extra_data(f"models/rtneural/lstm_torch_{axis}_python.csv"), dtype="f4") for axis in "xy")
    with pytest.raises(ValueError, match=r"holds 2 LSTMs.*'lstm', 'lstm2'"):
        LSTM.from_torch(state)
    one = LSTM.from_torch(state, prefix="lstm", return_sequences=True)
    two = LSTM.from_torch(state, prefix="lstm2.", return_sequences=True)
    assert (type(one), two.num_layers) == (LSTM, 3)
    got = two(one(x[None, :, None])) @ state["dense.weight"].T + state["dense.bias"]
    np.testing.assert_allclose(got[0, :, 0], y, rtol=0, atol=1e-5)


def test_a_checkpoint_with_a_model_in_it():
    data = np.load(DATA / "nested.npz")
    layer = LSTM.from_torch(DATA / "nested.pt", return_sequences=True)
    assert type(layer) is LSTM
    np.testing.assert_allclose(layer(data["x"]), data["y"], **FLOAT32)
    for prefix in ("model.encoder.rnn", "encoder.rnn", "rnn", "rnn."):
        again = LSTM.from_torch(str(DATA / "nested.pt"), prefix=prefix, return_sequences=True)
        np.testing.assert_array_equal(again(data["x"]), layer(data["x"]))
    with open(DATA / "nested.pt", "rb") as stream:
        np.testing.assert_array_equal(LSTM.from_torch(stream, return_sequences=True)(data["x"]), layer(data["x"]))


def test_a_checkpoint_of_a_training():
    """With an optimizer, a MultiStepLR and what else scripts save."""
    assert LSTM.from_torch(DATA / "training.pt").units == U


@pytest.mark.parametrize("name", ["old", "new", "columns", "one", "pruned"])
def test_weights_in_parts(name):
    """weight_norm, by rows, by columns and of the whole, and pruning: y of PyTorch."""
    data = np.load(DATA / "parts.npz")
    layer = LSTM.from_torch(DATA / "parts.pt", prefix=name, return_sequences=True)
    np.testing.assert_allclose(layer(data["x"]), data[name], **FLOAT32)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("spectral", r"'spectral\.parametrizations\.weight_hh_l0\.original' is a parametrization that is not read"),
        ("orthogonal", r"remove_parametrizations\(lstm, 'weight_hh_l0'\)"),
        ("old_spectral", r"'old_spectral\.weight_hh_l0_orig' is a part of it"),
    ],
)
def test_other_parametrizations_are_told(name, message):
    with pytest.raises(ValueError, match=rf"has no '{name}\.weight_hh_l0', which goes with .*{message}"):
        LSTM.from_torch(DATA / "parts.pt", prefix=name)


def test_parts_that_do_not_fit():
    state = single()
    v = state.pop("weight_hh_l0")
    with pytest.raises(ValueError, match=r"'weight_hh_l0_g' has shape \(4, 1\), which is no norm of 'weight_hh_l0_v', \(16, 4\)"):
        LSTM.from_torch({**state, "weight_hh_l0_g": np.ones((4, 1)), "weight_hh_l0_v": v})
    with pytest.raises(ValueError, match=r"'weight_hh_l0_orig' has shape \(16, 4\), but 'weight_hh_l0_mask' \(16, 1\)"):
        LSTM.from_torch({**state, "weight_hh_l0_mask": np.ones((16, 1)), "weight_hh_l0_orig": v})
    for parts in ({"weight_hh_l0_v": v}, {"weight_hh_l0_g": np.ones((16, 1))}):
        with pytest.raises(ValueError, match="has no 'weight_hh_l0'"):
            LSTM.from_torch({**state, **parts})


# -- the plain layer ---------------------------------------------------------------------------------------------------
def test_one_layer_is_a_plain_lstm():
    state = single()
    layer = LSTM.from_torch(state)
    assert type(layer) is LSTM
    assert layer.built
    assert (layer.units, layer.dtype, layer.return_sequences, layer.return_state) == (U, "float64", False, False)
    kernel, recurrent, bias = layer.get_weights()
    np.testing.assert_array_equal(kernel, state["weight_ih_l0"].T)
    np.testing.assert_array_equal(recurrent, state["weight_hh_l0"].T)
    np.testing.assert_array_equal(bias, state["bias_ih_l0"] + state["bias_hh_l0"])
    y, h_n, _ = run(state, X)
    np.testing.assert_allclose(layer(X), y[:, -1], **CLOSE)
    np.testing.assert_allclose(layer(X), h_n[0], **CLOSE)


def test_lengths_of_a_plain_lstm():
    """Outputs behind the end are 0, or, alone, the last that counts; states are those of the last step."""
    state, lengths = single(), [2, 5, 1]
    y, h_n, c_n = run(state, X, lengths=lengths)
    layer = LSTM.from_torch(state, return_sequences=True, return_state=True)
    for outputs in (layer(X, lengths=lengths), layer(X, lengths=np.array(lengths, "u1")), layer.vjp(X, lengths=lengths)[0]):
        for got, expected in zip(outputs, (y, h_n[0], c_n[0]), strict=True):
            np.testing.assert_allclose(got, expected, **CLOSE)
    np.testing.assert_allclose(LSTM.from_torch(state)(X, lengths=lengths), h_n[0], **CLOSE)


def test_lengths_of_a_convlstm():
    layer = fastlstm.ConvLSTM1D(2, 3, return_sequences=True, seed=1)
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 3))
    expected = layer(x, mask=np.array([[1, 1, 0, 0], [1, 1, 1, 1]], bool))
    np.testing.assert_array_equal(layer(x, lengths=[2, 4]), expected)


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([1, 2], ValueError, r"shape \(batch,\) = \(3,\)"),
        ([[1], [2], [3]], ValueError, r"Received: lengths\.shape=\(3, 1\)"),
        ([1, 2, 6], ValueError, "between 0 and the 5 time steps. Received: 1 to 6"),
        ([-1, 2, 3], ValueError, "Received: -1 to 3"),
        ([1.0, 2.0, 3.0], TypeError, "must hold integers"),
    ],
)
def test_bad_lengths(lengths, error, message):
    for layer in (LSTM.from_torch(single()), LSTM.from_torch(single(layers=2))):
        for run_it in (layer, layer.vjp):
            with pytest.raises(error, match=message):
                run_it(X, lengths=lengths)
    with pytest.raises(ValueError, match="`mask` and `lengths` say the same thing"):
        LSTM.from_torch(single())(X, mask=np.ones((N, T), bool), lengths=[1, 2, 3])


def test_options_go_to_the_layer():
    class Mine(LSTM):
        pass

    layer = Mine.from_torch(single(), name="mine", trainable=False, stateful=True, batch_size=2, dtype="float32")
    assert type(layer) is Mine
    assert (layer.name, layer.trainable, layer.dtype) == ("mine", False, "float32")
    y, _, _ = run(single(), X[:2])
    layer(X[:2, :2])
    np.testing.assert_allclose(layer(X[:2, 2:]), y[:, -1], **FLOAT32)
    with pytest.raises(ValueError, match="batch size must be static"):
        LSTM.from_torch(single(), stateful=True)
    with pytest.raises(ValueError, match=r"Unrecognized keyword arguments passed to TorchLSTM: .*dropout"):
        LSTM.from_torch(single(layers=2), dropout=0.5)


def test_dtypes():
    for given, expected in (("f2", "float32"), ("f4", "float32"), ("f8", "float64")):
        layer = LSTM.from_torch({name: array.astype(given) for name, array in single().items()})
        assert layer.dtype == expected
        np.testing.assert_array_equal(layer.get_weights()[0], single()["weight_ih_l0"].astype(given).T)


def test_names_of_a_cell():
    state = {name.removesuffix("_l0"): array for name, array in single().items()}
    y, _, _ = run(single(), X)
    for names in (state, {f"decoder.cell.{name}": array for name, array in state.items()}):
        np.testing.assert_allclose(LSTM.from_torch(names)(X), y[:, -1], **CLOSE)
    del state["bias_hh"]
    with pytest.raises(ValueError, match="has no 'bias_hh'"):
        LSTM.from_torch(state)


# -- the way back ------------------------------------------------------------------------------------------------------
SHAPES = [{}, {"bias": False}, {"directions": 2}, {"layers": 3}, {"layers": 2, "directions": 2}]
SHAPES += [{"proj": 2}, {"proj": 3, "layers": 2, "directions": 2}]


@pytest.mark.parametrize("options", SHAPES, ids=str)
def test_there_and_back(options):
    state = single(**options)
    layer = LSTM.from_torch(state)
    back = torch_state_dict(layer, "encoder.rnn")
    assert list(back) == [f"encoder.rnn.{name}" for name in state]
    for name, array in state.items():
        if "bias" not in name:
            np.testing.assert_array_equal(back[f"encoder.rnn.{name}"], array)
        elif "bias_hh" in name:
            assert not back[f"encoder.rnn.{name}"].any()
    for one, other in zip(LSTM.from_torch(back).get_weights(), layer.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_layers_of_keras_as_one_of_pytorch():
    stack = fastlstm.Sequential([Bidirectional(LSTM(U, return_sequences=True)) for _ in range(2)])
    x = X.astype("f4")
    y = stack(x)
    state = torch_state_dict(stack.layers)
    np.testing.assert_allclose(run(state, x)[0], y, **FLOAT32)
    np.testing.assert_allclose(LSTM.from_torch(state, return_sequences=True)(x), y, **FLOAT32)


def built(layer, features=D):
    layer.build((None, None, features))
    return layer


REFUSED = {
    "activation": (lambda: built(LSTM(2, activation="relu")), ValueError, "tanh and sigmoid only"),
    "go_backwards": (lambda: built(LSTM(2, go_backwards=True)), ValueError, "no go_backwards=True"),
    "merge_mode": (lambda: built(Bidirectional(LSTM(2), merge_mode="sum")), ValueError, "merge_mode='sum'"),
    "unbuilt": (lambda: LSTM(2), ValueError, "has no weights yet"),
    "another layer": (lambda: built(fastlstm.GRU(2)), TypeError, "Received: GRU"),
    "nothing": (list, ValueError, "at least one layer"),
    "units": (lambda: [built(LSTM(2)), built(LSTM(3), 2)], ValueError, "cannot follow"),
    "features": (lambda: [built(LSTM(2)), built(LSTM(2), 3)], ValueError, "cannot follow"),
    "directions": (lambda: [built(Bidirectional(LSTM(2))), built(LSTM(2), 4)], ValueError, "cannot follow"),
    "biases": (lambda: [built(LSTM(2)), built(LSTM(2, use_bias=False), 2)], ValueError, "cannot follow"),
    "unlike directions": (
        lambda: built(Bidirectional(LSTM(2), backward_layer=LSTM(3, go_backwards=True))),
        ValueError,
        "differ in their units",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_pytorch_cannot_hold(name):
    make, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        torch_state_dict(make())


def test_the_class_is_public():
    assert fastlstm.TorchLSTM is TorchLSTM is fastlstm.layers.TorchLSTM
    assert fastlstm.torch_state_dict is torch_state_dict
