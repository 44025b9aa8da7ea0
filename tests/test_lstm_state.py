"""LSTM: carried states of stateful layers, and the policies that round to 16 bits (keras-spec 7 and 19)."""

from __future__ import annotations

import numpy as np
import pytest
from lstm_formulas import FLOAT32, MASK, D, N, T, U, made, run, twice, weights_for

from fastlstm import LSTM
from fastlstm.dtypes import as_dtype


@pytest.fixture
def x():
    return np.random.default_rng(5).standard_normal((N, T, D)).astype(np.float32)


def carried(layer):
    return [s.numpy() for s in layer.states]


# -- stateful -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("backwards", [False, True])
def test_a_sequence_in_three_calls_is_one_sequence(kernel, x, backwards):
    outputs, _, h, c = run(x, weights_for(), mask=MASK, go_backwards=backwards)
    layer = made(stateful=True, return_sequences=True, go_backwards=backwards, **kernel)
    cuts = [slice(0, 1), slice(1, 4), slice(4, 6)]
    parts = [layer(x[:, cut], mask=MASK[:, cut]) for cut in (cuts[::-1] if backwards else cuts)]
    valid = MASK[:, ::-1] if backwards else MASK
    # Each call starts its outputs anew: at masked steps before the first valid one they are zeros.
    np.testing.assert_allclose(np.concatenate(parts, axis=1)[valid], outputs[valid], **FLOAT32)
    for got, want in zip(carried(layer), (h, c), strict=True):
        np.testing.assert_allclose(got, want, **FLOAT32)


def test_states_are_zeros_at_build_and_after_reset(kernel, x):
    layer = made(stateful=True, **kernel)
    first = layer(x)
    assert [s.name for s in layer.states] == [f"{layer.name}_state_h", f"{layer.name}_state_c"]
    assert (layer(x) != first).any()
    layer.reset_state()
    np.testing.assert_array_equal(carried(layer), np.zeros((2, N, U)))
    np.testing.assert_array_equal(layer(x), first)
    layer.reset_states()
    np.testing.assert_array_equal(layer(x), first)
    layer.build((N, None, D))
    np.testing.assert_array_equal(carried(layer), np.zeros((2, N, U)))


def test_explicit_initial_state_overrides_and_its_final_states_are_kept(kernel, x):
    start = [np.full((N, U), value, np.float32) for value in (0.25, -0.5)]
    layer = made(stateful=True, return_state=True, **kernel)
    layer(x)
    y, h, c = layer(x, start)
    for got, want in zip((y, h, c), run(x, weights_for(), *start)[1:], strict=True):
        np.testing.assert_allclose(got, want, **FLOAT32)
    np.testing.assert_array_equal(carried(layer), [h, c])
    np.testing.assert_allclose(layer(x)[0], run(x, weights_for(), h, c)[1], **FLOAT32)


def test_outputs_and_carried_states_share_no_memory(kernel, x):
    layer = made(stateful=True, return_state=True, **kernel)
    for _ in range(3):
        outputs = layer(x)
        before = carried(layer)
        for array in outputs:
            array += 1
        np.testing.assert_array_equal(carried(layer), before)
    with pytest.raises(ValueError, match="read-only"):
        layer.states[0].value[0] = 1


@pytest.mark.parametrize("batch", [0, 1, N - 1, N + 1])
def test_another_batch_size_is_refused(x, batch):
    layer = LSTM(U, stateful=True)
    for _ in range(2):
        layer(x)
        before = carried(layer)
        with pytest.raises(ValueError, match=rf"built for batch size 3. Received: sequences.shape=\({batch}, 2, 4\)"):
            layer(np.zeros((batch, 2, D), np.float32))
        np.testing.assert_array_equal(carried(layer), before)


def test_a_refused_call_leaves_the_states_alone(x):
    layer = made(stateful=True)
    layer(x)
    before = carried(layer)
    for bad in ({"mask": np.ones((N, T + 1))}, {"initial_state": [np.zeros((N, U + 1))] * 2}):
        with pytest.raises(ValueError, match="shape"):
            layer(x, **bad)
    np.testing.assert_array_equal(carried(layer), before)


def test_reset_state_elsewhere():
    layer = LSTM(U)
    assert (layer.reset_state(), layer.reset_states(), layer.states) == (None, None, None)
    stateful = LSTM(U, stateful=True)
    assert (stateful.reset_state(), stateful.states) == (None, None)
    with pytest.raises(TypeError, match="states"):
        stateful.reset_state(states=[1, 2])


def test_states_are_no_weights(x):
    layer = made(stateful=True)
    layer(x)
    assert [v.name for v in layer.weights] == ["kernel", "recurrent_kernel", "bias"]
    assert [np.shape(v) for v in layer.variables] == [(D, 4 * U), (U, 4 * U), (4 * U,), (2,)]
    assert len(layer.get_weights()) == 3


@pytest.mark.parametrize(
    ("dtype", "carried_dtype"), [("float64", "float64"), ("mixed_float16", "float32"), ("bfloat16", "bfloat16")]
)
def test_dtype_of_carried_states(x, dtype, carried_dtype):
    layer = made(stateful=True, return_state=True, dtype=dtype)
    for _ in range(2):
        _, h, c = layer(x)
        assert {s.dtype.name for s in layer.states} == {carried_dtype}
        np.testing.assert_array_equal(np.array(carried(layer), float), np.array([h, c], float))
    np.testing.assert_allclose(h.astype(float), run(np.tile(x, (1, 2, 1)), weights_for())[2], rtol=0, atol=0.03)


# -- rounding to 16 bits --------------------------------------------------------------------------------------------------
def linear_layer(kernel, columns, recurrent=(0, 0, 0, 0), bias=(1, 0, 0, 1), **kwargs):
    """One unit without activations: i = o = 1 and f = 0 from the bias; ``columns`` [D][4] is the kernel."""
    weights = [np.array(columns, float), np.array([recurrent], float), np.array(bias, float)]
    kwargs = {"return_sequences": True, "return_state": True, "activation": None, "recurrent_activation": None} | kwargs
    return made([w.reshape(-1, 4) if w.ndim == 2 else w for w in weights], **kwargs, **kernel)


def ones(steps=1, features=1):
    return np.ones((1, steps, features), np.float32)


@pytest.mark.parametrize(
    ("dtype", "start", "expected"),
    [
        ("float32", 2048, [2049, 2050, 2051]),
        ("float16", 2048, [2048, 2048, 2048]),  # numbers between 2048 and 4096 lie 2 apart; ties go to even
        ("mixed_float16", 2048, [2048, 2048, 2048]),
        ("bfloat16", 256, [256, 256, 256]),
        ("mixed_bfloat16", 256, [256, 256, 256]),
        ("float16", 256, [257, 258, 259]),
    ],
)
def test_c_is_rounded_at_every_step(kernel, dtype, start, expected):
    layer = linear_layer(kernel, [[0, 0, 1, 0]], bias=(1, 1, 0, 1), dtype=dtype)
    state = [np.zeros((1, 1)), np.full((1, 1), start)]
    y, h, c = twice(layer, ones(3), state)
    assert {a.dtype for a in (y, h, c)} == {as_dtype(layer.compute_dtype)}
    assert y[0, :, 0].astype(float).tolist() == expected
    assert (float(h[0, 0]), float(c[0, 0])) == (expected[-1], expected[-1])


@pytest.mark.parametrize(("dtype", "expected"), [("float32", 1), ("float16", 0), ("mixed_float16", 0), ("mixed_bfloat16", 0)])
def test_h_is_rounded_before_it_enters_the_next_step(kernel, dtype, expected):
    """h1 = c1 * o with o = 1 + 2^-12; then c2 = 4096 * h1 - 4096, which is 1, or 0 where h1 was rounded to 1."""
    layer = linear_layer(kernel, [[0, 0, 64, 2**-6], [0, 0, -4096, 0]], recurrent=(0, 0, 4096, 0), dtype=dtype)
    x = np.array([[[2**-6, 0], [0, 1]]], np.float32)
    assert layer(x)[2].astype(float).tolist() == [[expected]]


@pytest.mark.parametrize(("dtype", "expected"), [("float32", 1), ("mixed_float16", 0), ("mixed_bfloat16", 0), ("float16", 0)])
def test_weights_inputs_and_initial_states_are_rounded_to_the_compute_dtype(kernel, dtype, expected):
    fine = 1 + 2**-12
    for weights, x, h in [
        ({"columns": [[0, 0, fine, 0], [0, 0, -4096, 0]]}, [4096, 1], 0),
        ({"columns": [[0, 0, 4096, 0], [0, 0, -4096, 0]]}, [fine, 1], 0),
        ({"columns": [[0, 0, 0, 0], [0, 0, -4096, 0]], "recurrent": (0, 0, 4096, 0)}, [0, 1], fine),
    ]:
        layer = linear_layer(kernel, dtype=dtype, **weights)
        _, _, c = layer(np.array([[x]]), [np.full((1, 1), h), np.zeros((1, 1))])
        assert float(c[0, 0]) == expected


def test_sums_between_two_roundings_are_float32(kernel):
    layer = linear_layer(kernel, [[0, 0, 1, 0]] * 3, dtype="float16")
    assert layer(np.array([[[2048, 1, 1]]]))[2].astype(float).tolist() == [[2050]]  # 2048 in 16-bit sums


@pytest.mark.parametrize("dtype", ["float16", "mixed_float16", "bfloat16", "mixed_bfloat16"])
def test_16_bit_layers_follow_the_rounded_formulas(kernel, x, dtype):
    half = as_dtype(dtype.removeprefix("mixed_"))

    def rounded(a):
        return np.asarray(a).astype(half).astype(np.float64)

    start = [np.full((N, U), value, np.float32) for value in (0.25, -0.5)]
    weights = [rounded(w) for w in weights_for()]
    outputs, _, h, c = run(rounded(x), weights, *start, MASK, rounded=rounded)
    layer = made(dtype=dtype, return_sequences=True, return_state=True, **kernel)
    ulps = np.finfo(np.float16).eps if half == np.float16 else 2.0**-7
    for got, want in zip(twice(layer, x, start, MASK), (outputs, h, c), strict=True):
        assert got.dtype == half
        # A sum that float32 and float64 round to different sides of a tie may cost an ulp, now and then two.
        np.testing.assert_allclose(got.astype(float), want, rtol=2 * ulps, atol=ulps)
        assert (got.astype(float) == want).mean() > 0.9


def test_overflow_of_16_bits_is_infinite(kernel):
    layer = linear_layer(kernel, [[0, 0, 300, 0]], dtype="float16")
    y, h, c = layer(np.full((1, 1, 1), 300.0))
    assert [float(a.ravel()[0]) for a in (y, h, c)] == [np.inf] * 3


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_get_initial_state(batch):
    layer = LSTM(U, dtype="float16")
    for owner in (layer, layer.cell):
        h, c = owner.get_initial_state(batch_size=batch)
        assert h.shape == c.shape == (batch, U)
        assert h.dtype == c.dtype == np.float16
        assert not h.any()
        assert not c.any()
