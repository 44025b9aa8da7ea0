"""ConvLSTM1D: carried states, stepping by its cell, the policies that round to 16 bits, dropout (keras-spec 4.2, 7, 8 and 19)."""

from __future__ import annotations

import numpy as np
import pytest
from convlstm_formulas import FLOAT32, MASK, C, F, K, N, R, T, geometry, made, run, weights_for
from lstm_formulas import twice

from fastlstm import ConvLSTM1D, selector
from fastlstm.dtypes import as_dtype
from fastlstm.layers.convlstm1d import ConvLSTM1DCell
from fastlstm.random import SeedGenerator, dropout_mask

S = R - K + 1
LAST_FIRST = pytest.mark.parametrize("first", [False, True], ids=["channels_last", "channels_first"])


@pytest.fixture(params=["cpu", "reference"])
def backend(request):
    with selector.use_backend(request.param):
        yield request.param


@pytest.fixture
def x():
    return np.random.default_rng(5).standard_normal((N, T, R, C)).astype(np.float32)


def in_format(a, first):
    return np.ascontiguousarray(a.swapaxes(-1, -2)) if first else a


def format_of(first):
    return {"data_format": "channels_first" if first else "channels_last"}


def carried(layer):
    return [s.numpy() for s in layer.states]


# -- stateful -------------------------------------------------------------------------------------------------------------------
@LAST_FIRST
@pytest.mark.parametrize("backwards", [False, True])
def test_a_sequence_in_three_calls_is_one_sequence(backend, x, backwards, first):
    x = in_format(x, first)
    outputs, _, h, c = run(x, weights_for(), mask=MASK, go_backwards=backwards, channels_first=first)
    layer = made(stateful=True, return_sequences=True, go_backwards=backwards, **format_of(first))
    cuts = [slice(0, 1), slice(1, 4), slice(4, 6)]
    parts = [layer(x[:, cut], mask=MASK[:, cut]) for cut in (cuts[::-1] if backwards else cuts)]
    valid = MASK[:, ::-1] if backwards else MASK
    # Each call starts its outputs anew: at masked steps before the first valid one they are zeros.
    np.testing.assert_allclose(np.concatenate(parts, axis=1)[valid], outputs[valid], **FLOAT32)
    for got, want in zip(carried(layer), (h, c), strict=True):
        np.testing.assert_allclose(got, want, **FLOAT32)


@LAST_FIRST
def test_states_are_zeros_at_build_and_after_reset(backend, x, first):
    x, shape = in_format(x, first), (N, F, S) if first else (N, S, F)
    layer = made(stateful=True, **format_of(first))
    np.testing.assert_array_equal(carried(layer), np.zeros((2, *shape)))
    start = layer(x)
    assert [s.name for s in layer.states] == [f"{layer.name}_state_h", f"{layer.name}_state_c"]
    assert (layer(x) != start).any()
    for reset in (layer.reset_state, layer.reset_states, lambda: layer.build(geometry(R, N, C, first))):
        reset()
        np.testing.assert_array_equal(carried(layer), np.zeros((2, *shape)))
        np.testing.assert_array_equal(layer(x), start)


def test_explicit_initial_state_overrides_and_its_final_states_are_kept(backend, x):
    start = [np.full((N, S, F), value, np.float32) for value in (0.25, -0.5)]
    layer = made(stateful=True, return_state=True)
    layer(x)
    y, h, c = layer(x, start)
    for got, want in zip((y, h, c), run(x, weights_for(), *start)[1:], strict=True):
        np.testing.assert_allclose(got, want, **FLOAT32)
    np.testing.assert_array_equal(carried(layer), [h, c])
    np.testing.assert_allclose(layer(x)[0], run(x, weights_for(), h, c)[1], **FLOAT32)


@pytest.mark.parametrize("batch", [0, 1, N + 1])
def test_another_batch_size_is_refused(x, batch):
    layer = made(stateful=True)
    for _ in range(2):
        layer(x)
        before = carried(layer)
        with pytest.raises(ValueError, match=rf"built for batch size 3. Received: sequences.shape=\({batch}, 2, 7, 2\)"):
            layer(np.zeros((batch, 2, R, C), np.float32))
        np.testing.assert_array_equal(carried(layer), before)


def test_states_are_no_weights(x):
    layer = made(stateful=True)
    layer(x)
    assert [v.name for v in layer.weights] == ["kernel", "recurrent_kernel", "bias"]
    assert [np.shape(v) for v in layer.variables] == [(K, C, 4 * F), (K, F, 4 * F), (4 * F,), (2,)]


# -- the cell -------------------------------------------------------------------------------------------------------------------
@LAST_FIRST
def test_steps_of_the_cell_are_the_layer(backend, x, first):
    x, options = in_format(x, first), {"strides": 2, "padding": "same", **format_of(first)}
    cell = ConvLSTM1DCell(F, K, **options)
    cell.build((None, *x.shape[2:]))
    for variable, value in zip(cell.weights, weights_for(), strict=True):
        variable.assign(value)
    states, outputs = cell.get_initial_state(N), []
    for t in range(T):
        h, states = cell(x[:, t], states)
        outputs.append(h)
        np.testing.assert_array_equal(h, states[0])
    expected, _, h, c = run(x, weights_for(), strides=2, padding="same", channels_first=first)
    np.testing.assert_allclose(np.stack(outputs, 1), expected, **FLOAT32)
    for got, want in zip(states, (h, c), strict=True):
        np.testing.assert_allclose(got, want, **FLOAT32)
    with pytest.raises(ValueError, match="expected axis"):
        cell(x[:, 0, :, :1], states)
    with pytest.raises(ValueError, match="`states` must hold arrays of shape"):
        cell(x[:, 0], [s[..., :1] for s in states])


# -- 16 bits --------------------------------------------------------------------------------------------------------------------
@LAST_FIRST
@pytest.mark.parametrize("dtype", ["float16", "mixed_float16", "bfloat16", "mixed_bfloat16"])
def test_16_bit_layers_follow_the_rounded_formulas(backend, x, dtype, first):
    half = as_dtype(dtype.removeprefix("mixed_"))

    def rounded(a):
        return np.asarray(a).astype(half).astype(np.float64)

    x = in_format(x, first)
    start = [in_format(np.full((N, S, F), value, np.float32), first) for value in (0.25, -0.5)]
    weights = [rounded(w) for w in weights_for()]
    outputs, _, h, c = run(rounded(x), weights, *start, MASK, rounded=rounded, channels_first=first)
    layer = made(dtype=dtype, return_sequences=True, return_state=True, **format_of(first))
    ulps = np.finfo(np.float16).eps if half == np.float16 else 2.0**-7
    for got, want in zip(twice(layer, x, start, MASK), (outputs, h, c), strict=True):
        assert got.dtype == half
        # A sum that float32 and float64 round to different sides of a tie may cost an ulp, now and then two.
        np.testing.assert_allclose(got.astype(float), want, rtol=2 * ulps, atol=ulps)
        assert (got.astype(float) == want).mean() > 0.9


@pytest.mark.parametrize(("dtype", "kept"), [("float64", "float64"), ("mixed_float16", "float32"), ("bfloat16", "bfloat16")])
def test_dtype_of_carried_states(x, dtype, kept):
    layer = made(stateful=True, return_state=True, dtype=dtype)
    for _ in range(2):
        _, h, c = layer(x)
        assert {s.dtype.name for s in layer.states} == {kept}
        np.testing.assert_array_equal(np.array(carried(layer), float), np.array([h, c], float))


# -- dropout --------------------------------------------------------------------------------------------------------------------
def drawn(seed, skip, count, shape, rate):
    seeds = SeedGenerator(seed)
    seeds.skip(skip)
    return [dropout_mask(seeds, shape, rate, "float64") for _ in range(count)]


@LAST_FIRST
@pytest.mark.parametrize("mask", [None, MASK], ids=["unmasked", "masked"])
@pytest.mark.parametrize(
    ("kwargs", "inputs", "recurrent"),
    [({"dropout": 0.5}, 4, 0), ({"recurrent_dropout": 0.25}, 0, 4), ({"dropout": 0.5, "recurrent_dropout": 0.25}, 4, 4)],
    ids=str,
)
def test_masks_scale_x_and_h_of_each_gate_in_order(backend, x, kwargs, inputs, recurrent, mask, first):
    """One draw a call for all steps: four input masks [N,R,C] for i, f, c, o, then four recurrent ones [N,S,F]."""
    x, state = in_format(x, first), (N, F, S) if first else (N, S, F)
    layer = made(seed=11, return_sequences=True, return_state=True, **kwargs, **format_of(first))
    for call in range(2):
        start = call * (inputs + recurrent)
        scales = {
            "input_scales": drawn(11, start, inputs, (N, *x.shape[2:]), 0.5) or None,
            "recurrent_scales": drawn(11, start + inputs, recurrent, state, 0.25) or None,
        }
        outputs, _, h, c = run(x, weights_for(), mask=mask, channels_first=first, **scales)
        for got, want in zip(layer(x, mask=mask, training=True), (outputs, h, c), strict=True):
            np.testing.assert_allclose(got, want, **FLOAT32)
    assert layer.cell.seed_generator.state.tolist() == [11, 2 * (inputs + recurrent)]


def test_inference_ignores_dropout_and_advances_the_counter(backend, x):
    layer = made(dropout=0.5, recurrent_dropout=0.25, seed=7)
    np.testing.assert_allclose(twice(layer, x), run(x, weights_for())[1], **FLOAT32)
    assert layer.cell.seed_generator.state.tolist() == [7, 16]


def test_a_rate_of_one_drops_nothing(backend, x):
    layer = made(dropout=1.0, recurrent_dropout=1.0)
    np.testing.assert_allclose(layer(x, training=True), run(x, weights_for())[1], **FLOAT32)


def test_training_of_a_layer_without_dropout_is_inference(x):
    layer = ConvLSTM1D(F, K)
    np.testing.assert_array_equal(layer(x, training=True), layer(x))
