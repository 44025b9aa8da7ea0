"""Dropout of LSTM: when masks are drawn, how many, what they scale, and the counter of the seed generator (keras-spec 8)."""

from __future__ import annotations

import numpy as np
import pytest
from lstm_formulas import FLOAT32, MASK, D, N, T, U, made, run, weights_for

from fastlstm import LSTM, selector
from fastlstm.random import SeedGenerator, dropout_mask


@pytest.fixture
def x():
    return np.random.default_rng(5).standard_normal((N, T, D)).astype(np.float32)


def counter(layer):
    return layer.cell.seed_generator.state.tolist()


def see_through(units=400, **kwargs):
    """A layer of one feature whose outputs are its own scaled input: i = o = 1, f = 0, no activation, c = x * scale."""
    weights = [np.zeros((1, 4, units)), np.zeros((units, 4, units)), np.zeros((4, units))]
    weights[0][0, 2], weights[2][0], weights[2][3] = 1, 1, 1
    flat = [weights[0].reshape(1, -1), weights[1].reshape(units, -1), weights[2].reshape(-1)]
    return made(flat, activation=None, recurrent_activation=None, return_sequences=True, **kwargs)


# -- inference and counters -----------------------------------------------------------------------------------------------
def test_inference_ignores_dropout(kernel, x):
    layer = made(dropout=0.5, recurrent_dropout=0.25, return_sequences=True, **kernel)
    expected = run(x, weights_for(), mask=MASK)[0]
    for kwargs in ({}, {"training": False}, {"training": None}):
        np.testing.assert_allclose(layer(x, mask=MASK, **kwargs), expected, **FLOAT32)
    assert (layer(x, mask=MASK, training=True) != layer(x, mask=MASK)).any()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("kwargs", "draws"),
    [
        ({"dropout": 0.5, "recurrent_dropout": 0.5}, 8),
        ({"dropout": 0.5}, 1),
        ({"dropout": 0.5, "implementation": 1}, 4),
        ({"recurrent_dropout": 0.5}, 4),
        ({"recurrent_dropout": 0.5, "implementation": 1}, 4),
        ({"implementation": 1}, 0),
        ({"dropout": 1.0, "recurrent_dropout": 1.0}, 8),
    ],
    ids=str,
)
def test_every_call_advances_the_counter(x, kwargs, draws, training):
    layer = made(seed=7, **kwargs)
    seen = [counter(layer)]
    for _ in range(2):
        layer(x, training=training)
        seen.append(counter(layer))
    assert seen == [[7, 0], [7, draws], [7, 2 * draws]]
    assert layer.variables[-1].tolist() == [7, 2 * draws]


def test_a_refused_call_draws_nothing(x):
    layer = made(seed=7, dropout=0.5)
    with pytest.raises(ValueError, match="mask"):
        layer(x, mask=np.ones((N, T + 1)), training=True)
    assert counter(layer) == [7, 0]


def test_training_without_rates_is_inference(kernel, x):
    layer = made(**kernel)
    np.testing.assert_array_equal(layer(x, training=True), layer(x))


def test_training_runs_on_a_backend_that_applies_masks(x):
    layer = made(dropout=0.5)
    assert layer.explain(x).backend == "cpu"
    with selector.use_backend("cpu"):
        assert layer(x, training=True).shape == (N, U)


# -- what the masks do ------------------------------------------------------------------------------------------------------
def drawn(seed, skip, count, shape, rate):
    seeds = SeedGenerator(seed)
    seeds.skip(skip)
    return [dropout_mask(seeds, shape, rate, "float64") for _ in range(count)]


@pytest.mark.parametrize("mask", [None, MASK], ids=["unmasked", "masked"])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(
    ("kwargs", "inputs", "recurrent"),
    [
        ({"dropout": 0.5}, 1, 0),
        ({"dropout": 0.5, "implementation": 1}, 4, 0),
        ({"recurrent_dropout": 0.25}, 0, 4),
        ({"dropout": 0.5, "recurrent_dropout": 0.25}, 4, 4),
    ],
    ids=str,
)
def test_masks_scale_x_and_h_of_each_gate_in_order(x, kwargs, inputs, recurrent, backwards, mask):
    """One draw a call for all steps: input masks of i, f, c, o (or one for all gates), then recurrent masks of i, f, c, o."""
    layer = made(seed=11, return_sequences=True, return_state=True, go_backwards=backwards, **kwargs)
    for call in range(2):
        start = call * (inputs + recurrent)
        input_scales = drawn(11, start, inputs, (N, D), 0.5) * (4 // inputs if inputs else 0) or None
        recurrent_scales = drawn(11, start + inputs, recurrent, (N, U), 0.25) or None
        outputs, _, h, c = run(
            x, weights_for(), None, None, mask, backwards, input_scales=input_scales, recurrent_scales=recurrent_scales
        )
        for got, want in zip(layer(x, mask=mask, training=True), (outputs, h, c), strict=True):
            np.testing.assert_allclose(got, want, **FLOAT32)


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.9])
def test_kept_inputs_are_scaled_up_and_the_others_are_zero(rate):
    y = see_through(units=1, dropout=rate, seed=3)(np.ones((4000, 2, 1), np.float32), training=True)[..., 0]
    np.testing.assert_array_equal(y[:, 0], y[:, 1])  # one mask for all time steps
    kept = y[:, 0] != 0
    np.testing.assert_allclose(y[kept], 1 / (1 - rate), rtol=1e-6)
    deviation = np.sqrt(rate * (1 - rate) / len(kept))
    assert abs(kept.mean() - (1 - rate)) < 4 * deviation


def test_samples_calls_and_gates_have_their_own_masks():
    x = np.ones((200, 1, 1), np.float32)
    layer = see_through(units=1, dropout=0.5, seed=3)
    first, second = (layer(x, training=True)[:, 0, 0] for _ in range(2))
    assert 60 < np.count_nonzero(first) < 140
    assert 60 < np.count_nonzero(first != second) < 140
    gates = drawn(3, 0, 4, (200, 1), 0.5)
    assert all(60 < np.count_nonzero(gates[0] != other) < 140 for other in gates[1:])


def test_same_seed_same_sequence_of_masks(x):
    one, two, other = (made(dropout=0.5, recurrent_dropout=0.5, seed=seed) for seed in (4, 4, 5))
    for _ in range(3):
        a, b, c = (layer(x, training=True) for layer in (one, two, other))
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()


def test_inference_calls_move_the_sequence_on(x):
    one, two = made(dropout=0.5, seed=4), made(dropout=0.5, seed=4)
    first, second = one(x, training=True), one(x, training=True)
    two(x)
    np.testing.assert_array_equal(two(x, training=True), second)
    assert (first != second).any()


@pytest.mark.parametrize("kwargs", [{"dropout": 1.0}, {"recurrent_dropout": 1.0}, {"dropout": 1.0, "recurrent_dropout": 1.0}])
def test_a_rate_of_one_drops_nothing(x, kwargs):
    np.testing.assert_allclose(made(**kwargs)(x, training=True), run(x, weights_for())[1], **FLOAT32)


def test_dropout_of_a_16_bit_and_a_double_layer(x):
    scales = drawn(11, 0, 1, (N, D), 0.5) * 4
    expected = run(x, weights_for(), input_scales=scales)[1]
    for dtype, tolerance in (("float64", 1e-13), ("mixed_float16", 5e-3)):
        y = made(dropout=0.5, seed=11, dtype=dtype)(x, training=True)
        assert y.dtype == dtype.removeprefix("mixed_")
        np.testing.assert_allclose(y.astype(float), expected, rtol=0, atol=tolerance)


def test_empty_batch_in_training():
    assert LSTM(U, dropout=0.5)(np.zeros((0, 2, D), np.float32), training=True).shape == (0, U)
