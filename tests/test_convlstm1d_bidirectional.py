"""Bidirectional(ConvLSTM1D): merging, masks, states, data formats, custom backward layers, against convlstm_formulas."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from convlstm_formulas import FLOAT32, MASK, C, F, K, N, R, T, run, weights_for

from fastlstm import LSTM, Bidirectional, ConvLSTM1D, Sequential, TimeDistributed, selector

S = R - K + 1
WEIGHTS = [*weights_for(seed=1), *weights_for(seed=2)]
MERGES = {
    "concat": lambda a, b: np.concatenate([a, b], -1),
    "sum": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "ave": lambda a, b: (a + b) / 2,
}


@pytest.fixture(params=["cpu", "reference"], autouse=True)
def backend(request):
    with selector.use_backend(request.param):
        yield request.param


@pytest.fixture
def x():
    return np.random.default_rng(5).standard_normal((N, T, R, C)).astype(np.float32)


def made(x, merge_mode="concat", **kwargs):
    layer = Bidirectional(ConvLSTM1D(F, K, **kwargs), merge_mode=merge_mode)
    layer.build(x.shape)
    layer.set_weights(WEIGHTS)
    return layer


def both(x, mask=None, states=(None,) * 4, zero=False, **options):
    """((outputs, last, h, c) forwards, the same backwards): outputs of both in the order of time."""
    forward = run(x, WEIGHTS[:3], *states[:2], mask, False, zero, **options)
    backward = run(x, WEIGHTS[3:], *states[2:], mask, True, zero, **options)
    return forward, (backward[0][:, ::-1], *backward[1:])


@pytest.mark.parametrize("first", [False, True], ids=["channels_last", "channels_first"])
@pytest.mark.parametrize("mask", [None, MASK], ids=["unmasked", "masked"])
@pytest.mark.parametrize("merge_mode", MERGES)
def test_sequences(x, merge_mode, mask, first):
    """With return_sequences masked steps are zeros; concat joins the last axis: the filters, channels first the rows."""
    x = x.swapaxes(2, 3) if first else x
    forward, backward = both(x, mask, zero=True, channels_first=first)
    data_format = "channels_first" if first else "channels_last"
    layer = made(x, merge_mode, return_sequences=True, data_format=data_format, zero_output_for_mask=False)
    y = layer(x, mask=mask)
    np.testing.assert_allclose(y, MERGES[merge_mode](forward[0], backward[0]), **FLOAT32)
    assert layer.compute_output_shape(x.shape) == y.shape
    assert layer.compute_mask(x, mask) is mask


@pytest.mark.parametrize("merge_mode", MERGES)
def test_last_outputs_repeat_the_last_valid_one(x, merge_mode):
    forward, backward = both(x, MASK)
    layer = made(x, merge_mode, zero_output_for_mask=True)
    y = layer(x, mask=MASK)
    np.testing.assert_allclose(y, MERGES[merge_mode](forward[1], backward[1]), **FLOAT32)
    assert layer.compute_output_shape(x.shape) == y.shape


@pytest.mark.parametrize("merge_mode", ["concat", None])
def test_states(x, merge_mode):
    states = list(np.random.default_rng(6).standard_normal((4, N, S, F)).astype(np.float32))
    forward, backward = both(x, MASK, states, zero=True)
    layer = made(x, merge_mode, return_sequences=True, return_state=True)
    outputs = layer(x, states, MASK)
    merged = (forward[0], backward[0]) if merge_mode is None else (MERGES[merge_mode](forward[0], backward[0]),)
    for got, want in zip(outputs, (*merged, *forward[2:], *backward[2:]), strict=True):
        np.testing.assert_allclose(got, want, **FLOAT32)
    assert list(layer.compute_output_shape(x.shape)) == [a.shape for a in outputs]
    with pytest.raises(IndexError, match="four arrays"):
        layer(x, states[:2])


def test_stateful(x):
    layer = made(x, return_sequences=True, stateful=True)
    start = layer(x)
    states = [s.numpy() for s in layer.states]
    forward, backward = both(x, None, states)
    np.testing.assert_allclose(layer(x), MERGES["concat"](forward[0], backward[0]), **FLOAT32)
    layer.reset_state()
    np.testing.assert_array_equal(layer(x), start)


def test_names_paths_and_a_round_trip(x):
    layer = Bidirectional(ConvLSTM1D(F, K, strides=2, name="conv"), name="both")
    layer.build(x.shape)
    paths = [
        f"both/{way}_conv/conv_lstm_cell/{name}" for way in ("forward", "backward") for name in ("kernel", "recurrent_kernel")
    ]
    assert [v.path for v in layer.weights if v.name != "bias"] == paths
    assert layer.backward_layer.strides == (2,)
    twin = Bidirectional.from_config(layer.get_config())
    twin.build(x.shape)
    twin.set_weights(layer.get_weights())
    for other in (twin, copy.deepcopy(layer)):
        np.testing.assert_array_equal(other(x), layer(x))


def test_a_backward_layer_of_its_own(x):
    """Another activation backwards; a difference in the flags is refused."""
    backward = ConvLSTM1D(F, K, activation="relu", go_backwards=True, return_sequences=True)
    layer = Bidirectional(ConvLSTM1D(F, K, return_sequences=True), backward_layer=backward)
    layer.build(x.shape)
    layer.set_weights(WEIGHTS)
    other = run(x, WEIGHTS[3:], go_backwards=True, activation=lambda z: np.maximum(z, 0))[0][:, ::-1]
    np.testing.assert_allclose(layer(x), MERGES["concat"](run(x, WEIGHTS[:3])[0], other), rtol=2e-6, atol=2e-6)
    for flags in ({}, {"go_backwards": True}, {"go_backwards": True, "return_sequences": True, "return_state": True}):
        with pytest.raises(ValueError, match="must"):
            Bidirectional(ConvLSTM1D(F, K, return_sequences=True), backward_layer=ConvLSTM1D(F, K, **flags))


def test_in_a_stack(x):
    """Rows and filters go on as the next layer's rows and channels; TimeDistributed sees each step's rows as a sequence."""
    model = Sequential(
        [
            Bidirectional(ConvLSTM1D(2, 3, padding="same", return_sequences=True)),
            ConvLSTM1D(3, 2, return_sequences=True),
            TimeDistributed(Bidirectional(LSTM(2))),
        ]
    )
    assert model(x).shape == (N, T, 4)
    y = x
    for layer in model.layers:
        y = layer(y)
    np.testing.assert_array_equal(model.predict(x, verbose=0), y)
