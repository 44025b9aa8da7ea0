"""Bidirectional against a float64 LSTM written out here: merge modes, masks, states, names, errors (keras-spec 1.3 and 16)."""

from __future__ import annotations

import copy
import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest

from fastlstm import LSTM, Bidirectional, Dense

DATA = Path(__file__).parent / "data"
N, T, D, U = 3, 5, 4, 2
TOLERANCE = 2e-6


def lstm(x, weights, mask=None, h=None, c=None):
    """LSTM in float64 -> (outputs [N,T,U] with zeros at masked steps, last output before zeroing, h, c)."""
    kernel, recurrent, bias = (np.asarray(w, np.float64) for w in weights)
    units = recurrent.shape[0]
    h = np.zeros((len(x), units)) if h is None else h
    c = np.zeros((len(x), units)) if c is None else c
    outputs, last = [], np.zeros((len(x), units))
    for t in range(x.shape[1]):
        i, f, g, o = np.split(x[:, t] @ kernel + h @ recurrent + bias, 4, axis=1)
        new_c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        new_h = np.tanh(new_c) / (1 + np.exp(-o))
        valid = np.ones((len(x), 1), bool) if mask is None else mask[:, t, None]
        h, c, last = np.where(valid, new_h, h), np.where(valid, new_c, c), np.where(valid, new_h, last)
        outputs.append(np.where(valid, new_h, 0))
    return np.stack(outputs, 1), last, h, c


MERGES = {
    "concat": lambda a, b: np.concatenate([a, b], -1),
    "sum": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "ave": lambda a, b: (a + b) / 2,
}


@pytest.fixture(autouse=True)
def same_weights_every_time():
    random.seed(1)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def x(rng):
    return rng.normal(size=(N, T, D)).astype(np.float32)


MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 0, 1, 0]], bool)


def made(rng, x, merge_mode="concat", dtype=None, **kwargs):
    layer = Bidirectional(LSTM(U, dtype=dtype, **kwargs), merge_mode=merge_mode, dtype=dtype)
    layer.build(x.shape)
    layer.set_weights([rng.normal(size=w.shape).astype(w.dtype) for w in layer.get_weights()])
    return layer


@pytest.mark.parametrize("merge_mode", list(MERGES))
@pytest.mark.parametrize("mask", [None, MASK], ids=["unmasked", "masked"])
def test_sequences_are_merged_with_the_backward_output_turned_round(rng, x, merge_mode, mask):
    layer = made(rng, x, merge_mode, return_sequences=True)
    weights = layer.get_weights()
    forward = lstm(x, weights[:3], mask)[0]
    backward = lstm(x[:, ::-1], weights[3:], None if mask is None else mask[:, ::-1])[0][:, ::-1]
    y = layer(x, mask=mask)
    assert y.dtype == np.float32
    assert y.flags.c_contiguous
    np.testing.assert_allclose(y, MERGES[merge_mode](forward, backward), atol=TOLERANCE)
    assert layer.compute_output_shape((N, T, D)) == y.shape


@pytest.mark.parametrize("merge_mode", list(MERGES))
def test_last_outputs_repeat_the_last_valid_one(rng, x, merge_mode):
    """Without return_sequences zero_output_for_mask is off, so a masked end keeps the output of the last valid step."""
    layer = made(rng, x, merge_mode, zero_output_for_mask=True)
    weights = layer.get_weights()
    expected = MERGES[merge_mode](lstm(x, weights[:3], MASK)[1], lstm(x[:, ::-1], weights[3:], MASK[:, ::-1])[1])
    np.testing.assert_allclose(layer(x, mask=MASK), expected, atol=TOLERANCE)


def test_merge_mode_none_returns_both_outputs(rng, x):
    layer = made(rng, x, None, return_sequences=True)
    weights = layer.get_weights()
    outputs = layer(x)
    assert isinstance(outputs, tuple)
    np.testing.assert_allclose(outputs[0], lstm(x, weights[:3])[0], atol=TOLERANCE)
    np.testing.assert_allclose(outputs[1], lstm(x[:, ::-1], weights[3:])[0][:, ::-1], atol=TOLERANCE)
    assert layer.compute_output_shape((None, T, D)) == ((None, T, U), (None, T, U))


@pytest.mark.parametrize("merge_mode", ["concat", None])
def test_initial_and_returned_states_stand_forward_first(rng, x, merge_mode):
    layer = made(rng, x, merge_mode, return_state=True, return_sequences=True, dtype="float64")
    weights, states = layer.get_weights(), [rng.normal(size=(N, U)) for _ in range(4)]
    forward = lstm(x, weights[:3], MASK, *states[:2])
    backward = lstm(x[:, ::-1], weights[3:], MASK[:, ::-1], *states[2:])
    outputs = layer(x, states, MASK)
    for got, expected in zip(outputs[-4:], (*forward[2:], *backward[2:]), strict=True):
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, expected, atol=1e-12)
    both = (forward[0], backward[0][:, ::-1])
    merged = both if merge_mode is None else (np.concatenate(both, -1),)
    for got, expected in zip(outputs[:-4], merged, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-12)
    shapes = layer.compute_output_shape(x.shape)
    assert list(shapes) == [o.shape for o in outputs]


def golden():
    cases = json.loads((DATA / "bidirectional.json").read_text("utf-8"))
    return [case for case in cases if case["layer"] == "LSTM"]


@pytest.mark.parametrize("case", [c for c in golden() if "backward_kwargs" in c["bidirectional"]], ids=lambda c: c["id"])
def test_given_backward_layer_matches_keras(case):
    """Keras' own numbers for a backward layer with other activations; it is used as it is, name and all."""
    with np.load(DATA / "bidirectional.npz") as archive:
        arrays = {k.split("/")[1]: archive[k] for k in archive.files if k.startswith(case["id"] + "/")}
    kwargs = {**case["kwargs"], "dtype": case["dtype"], "return_state": True}
    backward = LSTM(**{**kwargs, **case["bidirectional"]["backward_kwargs"]}, name="mine")
    layer = Bidirectional(LSTM(**kwargs), case["bidirectional"]["merge_mode"], backward_layer=backward, dtype=case["dtype"])
    assert layer.backward_layer is backward
    assert backward.name == "mine"
    layer.build(arrays["x0"].shape)
    layer.set_weights([arrays[f"w{k}"] for k in range(6)])
    init = [arrays[f"init{k}"] for k in range(4)] if case["has_initial_state"] else None
    outputs = layer(arrays["x0"], initial_state=init, mask=arrays.get("mask0"))
    expected = [arrays["out0"], *(arrays[f"state0_{k}"] for k in range(4))]
    for got, value in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(got, value, atol=1e-9 if case["dtype"] == "float64" else 2e-5)


def test_names_and_paths():
    layer = Bidirectional(LSTM(U, name="reader"), name="both")
    assert layer.weights == []
    layer.build((None, T, D))
    names = [
        f"both/{way}_reader/lstm_cell/{name}"
        for way in ("forward", "backward")
        for name in ("kernel", "recurrent_kernel", "bias")
    ]
    assert [v.path for v in layer.weights] == names
    assert [v.shape for v in layer.weights] == 2 * [(D, 4 * U), (U, 4 * U), (4 * U,)]
    again = Bidirectional.from_config(layer.get_config())
    assert (again.forward_layer.name, again.backward_layer.name) == ("forward_reader", "backward_reader")


def test_layers_are_made_fresh_from_the_config(x):
    inner = LSTM(U, kernel_initializer="ones", use_cudnn=False)
    inner.build(x.shape)
    inner.set_weights([np.full_like(w, 5) for w in inner.get_weights()])
    layer = Bidirectional(inner)
    layer.build(x.shape)
    assert layer.forward_layer is not inner
    assert (layer.get_weights()[0] == 1).all()
    assert layer.forward_layer.use_cudnn is False
    assert layer.backward_layer.use_cudnn is False


def test_a_callers_own_activation_survives(x):
    def twice(z):
        return 2 * z

    layer = Bidirectional(LSTM(U, activation=twice))
    assert layer.forward_layer.activation is twice
    assert layer.backward_layer.activation is twice


@pytest.mark.parametrize("sequences", [True, False])
def test_zero_output_for_mask_is_forced(sequences):
    backward = LSTM(U, return_sequences=sequences, go_backwards=True, zero_output_for_mask=not sequences)
    layer = Bidirectional(LSTM(U, return_sequences=sequences, zero_output_for_mask=not sequences), backward_layer=backward)
    assert layer.forward_layer.zero_output_for_mask is sequences
    assert layer.backward_layer.zero_output_for_mask is sequences


def test_stateful(rng, x):
    layer = made(rng, x, stateful=True)
    weights = layer.get_weights()
    assert [s.shape for s in layer.states] == 4 * [(N, U)]
    first = layer(x)
    forward, backward = lstm(x, weights[:3]), lstm(x[:, ::-1], weights[3:])
    for state, value in zip(layer.states, (*forward[2:], *backward[2:]), strict=True):
        np.testing.assert_allclose(state.value, value, atol=TOLERANCE)
    forward, backward = lstm(x, weights[:3], None, *forward[2:]), lstm(x[:, ::-1], weights[3:], None, *backward[2:])
    np.testing.assert_allclose(layer(x), np.concatenate([forward[1], backward[1]], -1), atol=TOLERANCE)
    layer.reset_state()
    np.testing.assert_array_equal(layer(x), first)
    with pytest.raises(ValueError, match="batch size"):
        layer(x[:1])


def test_reset_state_needs_a_stateful_layer():
    layer = Bidirectional(LSTM(U))
    assert layer.states is None
    with pytest.raises(AttributeError, match="stateful"):
        layer.reset_state()


def test_compute_mask():
    mask = np.ones((N, T), bool)
    assert Bidirectional(LSTM(U, return_sequences=True)).compute_mask(None, mask) is mask
    assert Bidirectional(LSTM(U, return_sequences=True)).compute_mask(None, [mask]) is mask
    assert Bidirectional(LSTM(U)).compute_mask(None, mask) is None
    assert Bidirectional(LSTM(U, return_sequences=True), None).compute_mask(None, mask) == (mask, mask)
    assert Bidirectional(LSTM(U), None).compute_mask(None, mask) == (None, None)
    with_states = Bidirectional(LSTM(U, return_sequences=True, return_state=True, stateful=True))
    assert with_states.compute_mask(None, mask)[0] is mask
    assert with_states.compute_mask(None, mask)[1:] == [None] * 4


def test_config_has_the_keys_of_keras_in_their_order_and_comes_back(rng, x):
    layer = made(rng, x, "sum", return_sequences=True, dropout=0.25, seed=3)
    config = layer.get_config()
    assert list(config) == ["name", "trainable", "dtype", "merge_mode", "layer", "backward_layer"]
    assert config["layer"]["module"] == "keras.layers"
    assert config["backward_layer"]["config"]["go_backwards"] is True
    before = copy.deepcopy(config)
    again = Bidirectional.from_config(json.loads(json.dumps(config)))
    assert again.get_config() == before
    again.build(x.shape)
    again.set_weights(layer.get_weights())
    np.testing.assert_array_equal(again(x), layer(x))


def test_activity_losses_of_the_whole_and_of_the_halves(rng, x):
    layer = Bidirectional(LSTM(U, activity_regularizer="l2", kernel_regularizer="l1"), activity_regularizer="l1")
    y = layer(x)
    halves = np.split(y, 2, axis=-1)
    kernels = [layer.forward_layer.cell.kernel.value, layer.backward_layer.cell.kernel.value]
    expected = [
        0.01 * np.abs(y).sum() / N,
        *(0.01 * np.square(h).sum() / N for h in halves),
        *(0.01 * np.abs(k).sum() for k in kernels),
    ]
    np.testing.assert_allclose(layer.losses, expected, rtol=1e-5)


def test_16_bit_policy_rounds_the_merged_output(rng, x):
    layer = made(rng, x, "ave", dtype="mixed_float16", return_sequences=True)
    forward, backward = layer.forward_layer(x), layer.backward_layer(x)[:, ::-1]
    y = layer(x)
    assert y.dtype == np.float16
    np.testing.assert_array_equal(y, ((forward.astype(np.float32) + backward) / 2).astype(np.float16))


def test_copies_and_pickles_give_the_same_numbers(rng, x):
    layer = made(rng, x)
    y = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        np.testing.assert_array_equal(other(x), y)
        other.set_weights([0 * w for w in other.get_weights()])
        assert not other(x).any()
    np.testing.assert_array_equal(layer(x), y)


def test_trainable_reaches_the_inner_layers(x):
    layer = Bidirectional(LSTM(U))
    layer.build(x.shape)
    assert len(layer.trainable_weights) == 6
    layer.trainable = False
    assert layer.trainable_weights == []
    assert len(layer.non_trainable_weights) == 6
    assert layer.backward_layer.trainable is False
    assert layer.count_params() == 2 * 4 * (D * U + U * U + U)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"layer": "LSTM"}, "`layer`"),
        ({"layer": Dense(2)}, "`layer`"),
        ({"layer": Bidirectional(LSTM(2))}, "`layer`"),
        ({"layer": LSTM(2), "merge_mode": "Concat"}, "merge_mode='Concat'"),
        ({"layer": LSTM(2), "merge_mode": 0}, "merge_mode=0"),
        ({"layer": LSTM(2, go_backwards=True)}, "`go_backwards`"),
        ({"layer": LSTM(2), "backward_layer": LSTM(2)}, "`go_backwards`"),
        ({"layer": LSTM(2), "backward_layer": 3}, "`backward_layer`"),
        ({"layer": LSTM(2), "backward_layer": LSTM(2, go_backwards=True, stateful=True)}, "`stateful`"),
        ({"layer": LSTM(2), "backward_layer": LSTM(2, go_backwards=True, return_state=True)}, "`return_state`"),
        ({"layer": LSTM(2), "backward_layer": LSTM(2, go_backwards=True, return_sequences=True)}, "`return_sequences`"),
        ({"layer": LSTM(2), "time_major": False}, "time_major"),
    ],
)
def test_construction_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        Bidirectional(**arguments)


@pytest.mark.parametrize(
    ("states", "error"),
    [(2, IndexError), (3, IndexError), (5, ValueError), (np.zeros((N, U)), IndexError)],
    ids=["two", "three", "five", "array"],
)
def test_initial_state_must_be_four_arrays(x, states, error):
    states = [np.zeros((N, U))] * states if isinstance(states, int) else states
    with pytest.raises(error, match="initial_state"):
        Bidirectional(LSTM(U))(x, initial_state=states)


def test_inputs_are_checked(x):
    layer = Bidirectional(LSTM(U))
    with pytest.raises(ValueError, match="sequences"):
        layer([x, x])
    with pytest.raises(ValueError, match="ndim"):
        layer(x[0])
    layer(x)
    with pytest.raises(ValueError, match="axis 2"):
        layer(x[..., :2])


def test_backward_layer_of_another_width(x):
    other = LSTM(U + 1, go_backwards=True, return_sequences=True, return_state=True)
    layer = Bidirectional(LSTM(U, return_sequences=True, return_state=True), backward_layer=other)
    shapes = [y.shape for y in layer(x)]
    assert shapes == [(N, T, 2 * U + 1), (N, U), (N, U), (N, U + 1), (N, U + 1)]
    assert list(layer.compute_output_shape(x.shape)) == shapes
    layer = Bidirectional(LSTM(U), merge_mode=None, backward_layer=LSTM(U + 1, go_backwards=True))
    assert [y.shape for y in layer(x)] == list(layer.compute_output_shape(x.shape)) == [(N, U), (N, U + 1)]
    for mode in ("sum", "mul", "ave"):
        layer = Bidirectional(LSTM(U), merge_mode=mode, backward_layer=LSTM(U + 1, go_backwards=True))
        with pytest.raises(ValueError, match=rf"cannot be merged.*\(3, 2\) and \(3, 3\), merge_mode='{mode}'"):
            layer(x)


class Half:
    """An initializer of a caller's own, with a config that no table knows."""

    def __call__(self, shape, dtype=None):
        return np.full(shape, 0.5, dtype)

    def get_config(self):
        return {}


def half(shape, dtype=None):
    return np.full(shape, 0.5, dtype)


@pytest.mark.parametrize("initializer", [Half(), half], ids=["object", "function"])
def test_functions_of_the_callers_own_serve_both_directions(x, initializer):
    def penalty(w):
        return np.sum(w) * 2

    layer = Bidirectional(
        LSTM(U, activation=np.tanh, kernel_initializer=initializer, kernel_regularizer=penalty, bias_constraint=np.abs)
    )
    expected = Bidirectional(LSTM(U))
    expected.build(x.shape)
    layer.build(x.shape)
    expected.set_weights(layer.get_weights())
    np.testing.assert_allclose(layer(x), expected(x), atol=TOLERANCE)
    assert [w[0, 0] for w in layer.get_weights()[::3]] == [0.5, 0.5]
    assert layer.losses == [D * 4 * U, D * 4 * U]
    assert layer.backward_layer.bias_constraint is np.abs


def test_both_directions_draw_weights_of_their_own(x):
    layer = Bidirectional(LSTM(U))
    layer.build(x.shape)
    weights = layer.get_weights()
    assert (weights[0] != weights[3]).all()
    assert (weights[1] != weights[4]).all()
