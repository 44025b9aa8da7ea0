"""The call of LSTM: inputs, initial states, masks, return forms, numbers that are not finite (keras-spec 5 and 6).

Expected numbers come from lstm_formulas (float64, one sample and step at a time) or stand here. A later call of a layer takes a
shorter way than the first: ``twice`` runs both and wants the same bits.
"""

from __future__ import annotations

import numpy as np
import pytest
from lstm_formulas import FLOAT32, FLOAT64, MASK, D, N, T, U, made, run, twice, weights_for

from fastlstm import LSTM


@pytest.fixture
def x():
    return np.random.default_rng(5).standard_normal((N, T, D)).astype(np.float32)


@pytest.fixture
def states():
    rng = np.random.default_rng(6)
    return [rng.standard_normal((N, U)).astype(np.float32) for _ in "hc"]


# -- values and return forms ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("mask", [None, MASK], ids=["unmasked", "masked"])
def test_forward(kernel, x, states, mask, start, backwards, zero):
    flags = {"go_backwards": backwards, "zero_output_for_mask": zero}
    h0, c0 = states if start else (None, None)
    outputs, last, h, c = run(x, weights_for(), h0, c0, mask, **flags)
    for sequences, expected in ((True, outputs), (False, last)):
        layer = made(return_sequences=sequences, return_state=True, **flags, **kernel)
        result = twice(layer, x, initial_state=states if start else None, mask=mask)
        assert type(result) is tuple
        for got, want in zip(result, (expected, h, c), strict=True):
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, want, **FLOAT32)
        layer.return_state = False
        np.testing.assert_array_equal(twice(layer, x, states if start else None, mask), result[0])


def test_float64_is_real_float64(kernel, x, states):
    outputs, _, h, c = run(x, weights_for(), *states, MASK)
    layer = made(dtype="float64", return_sequences=True, return_state=True, **kernel)
    for got, want in zip(twice(layer, x.astype(float), [s.astype(float) for s in states], MASK), (outputs, h, c), strict=True):
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, want, **FLOAT64)


def test_without_bias_and_without_activations(kernel, x):
    weights = weights_for(scale=0.3)[:2]
    _, last, _, _ = run(x, weights, activation=lambda z: z, recurrent_activation=lambda z: z)
    np.testing.assert_allclose(twice(made(weights, activation=None, recurrent_activation=None, **kernel), x), last, **FLOAT32)


def test_activation_over_an_axis_acts_on_each_gate(kernel, x):
    def softmax(z):
        return np.exp(z) / np.exp(z).sum()

    _, last, _, _ = run(x, weights_for(), activation=softmax)
    np.testing.assert_allclose(twice(made(activation="softmax", **kernel), x), last, **FLOAT32)


def test_own_function_as_activation(x):
    _, last, _, _ = run(x, weights_for(), mask=MASK, activation=np.sin, recurrent_activation=np.cos)
    layer = made(activation=np.sin, recurrent_activation=np.cos)
    np.testing.assert_allclose(twice(layer, x, mask=MASK), last, **FLOAT32)


@pytest.mark.parametrize("option", [{"unroll": True}, {"use_cudnn": False}, {"implementation": 1}])
def test_options_that_change_no_number(x, option):
    for mask in (None, MASK):
        outputs, _, _, _ = run(x, weights_for(), mask=mask)
        layer = made(return_sequences=True, **option)
        np.testing.assert_allclose(twice(layer, x, mask=mask), outputs, **FLOAT32)


def test_output_and_h_are_distinct_arrays(kernel, x):
    y, h, c = made(return_state=True, **kernel)(x)
    np.testing.assert_array_equal(y, h)
    assert not any(np.shares_memory(a, b) for a, b in ((y, h), (y, c), (h, c)))


def test_leading_masked_step_gives_zeros_not_the_initial_state(kernel):
    x, mask = np.ones((1, 3, D), np.float32), np.array([[False, True, False]])
    h0, c0 = np.full((1, U), 0.5, np.float32), np.full((1, U), -0.5, np.float32)
    y = made(return_sequences=True, **kernel)(x, [h0, c0], mask)
    np.testing.assert_array_equal(y[0, 0], np.zeros(U))
    np.testing.assert_array_equal(y[0, 2], y[0, 1])
    layer = made(return_state=True, **kernel)
    y, h, c = layer(x, [h0, c0], np.zeros((1, 3), bool))
    np.testing.assert_array_equal(y, np.zeros((1, U)))
    np.testing.assert_array_equal(h, h0)
    np.testing.assert_array_equal(c, c0)


def test_go_backwards_returns_outputs_in_processing_order(kernel, x):
    backwards = made(return_sequences=True, go_backwards=True, **kernel)(x, mask=MASK)
    turned = made(return_sequences=True, **kernel)(x[:, ::-1], mask=MASK[:, ::-1])
    np.testing.assert_array_equal(backwards, turned)


# -- sequences ----------------------------------------------------------------------------------------------------------
def unaligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)
    view = raw[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


FORMS = {
    "float16": lambda a: a.astype(np.float16),
    "float64": lambda a: a.astype(np.float64),
    "longdouble": lambda a: a.astype(np.longdouble),
    "big-endian": lambda a: a.astype(">f4"),
    "big-endian float64": lambda a: a.astype(">f8"),
    "fortran": np.asfortranarray,
    "strided": lambda a: np.repeat(np.repeat(a, 2, axis=0), 3, axis=1)[::2, ::3],
    "negative strides": lambda a: np.ascontiguousarray(a[:, ::-1])[:, ::-1],
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
    "unaligned": unaligned,
    "masked array": np.ma.masked_array,
    "int8": lambda a: (a * 3).astype(np.int8),
    "int64": lambda a: (a * 3).astype(np.int64),
    "big-endian int": lambda a: (a * 3).astype(">i2"),
    "uint8": lambda a: np.abs(a * 3).astype(np.uint8),
    "bool": lambda a: a > 0,
}


@pytest.mark.parametrize("form", FORMS)
def test_input_forms(kernel, x, states, form):
    change = FORMS[form]
    x, states = change(x), [change(s) for s in states]
    for array in (x, *states):
        array.flags.writeable = False
    before = [a.copy() for a in (x, *states)]
    plain = [np.array(a, np.float32) for a in (x, *states)]
    outputs, _, h, c = run(plain[0], weights_for(), *plain[1:], mask=MASK)
    layer = made(return_sequences=True, return_state=True, **kernel)
    layer(np.zeros((N, T, D), np.float32))
    result = twice(layer, x, states, MASK)
    for got, want in zip(result, (outputs, h, c), strict=True):
        assert type(got) is np.ndarray
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=2e-6)
    for array, kept in zip((x, *states), before, strict=True):
        np.testing.assert_array_equal(array, kept)
    assert not any(np.shares_memory(a, b) for a in result for b in (x, *states))


def test_first_call_builds_and_later_calls_may_have_other_sizes():
    layer = LSTM(U)
    for shape in ((2, 3, D), (5, 1, D), (1, 9, D)):
        assert layer(np.ones(shape, np.float32)).shape == (shape[0], U)
    assert layer.kernel.shape == (D, 4 * U)


@pytest.mark.parametrize("sequences", [False, True])
def test_empty_batch(kernel, sequences):
    y, h, c = twice(made(return_sequences=sequences, return_state=True, **kernel), np.zeros((0, 4, D), np.float32))
    assert (y.shape, h.shape, c.shape) == ((0, 4, U) if sequences else (0, U), (0, U), (0, U))


def test_no_features_leaves_the_recurrence(kernel):
    weights = [np.zeros((0, 4 * U), np.float32), *weights_for()[1:]]
    x = np.zeros((2, 3, 0), np.float32)
    np.testing.assert_allclose(twice(made(weights, **kernel), x), run(x, weights)[1], **FLOAT32)


BAD_SEQUENCES = [
    (np.zeros((N, D)), ValueError, "expected ndim=3, found ndim=2"),
    (np.zeros((N, T, D, 1)), ValueError, "expected ndim=3, found ndim=4"),
    (np.float32(1), ValueError, "expected ndim=3, found ndim=0"),
    (np.zeros((N, 0, D)), ValueError, r"`sequences` .* has no time steps. Received: sequences.shape=\(3, 0, 4\)"),
    (np.zeros((N, T, D + 1)), ValueError, r"expected axis 2 .* value 4, but received input with shape \(3, 6, 5\)"),
    (np.zeros((N, T, D), complex), TypeError, "`sequences` must be an array of numbers. Received: dtype=complex128"),
    (np.zeros((N, T, D), object), TypeError, "`sequences` must be an array of numbers. Received: dtype=object"),
    (np.full((N, T, D), "1"), TypeError, "`sequences` must be an array of numbers. Received: dtype=<U1"),
    (np.zeros((N, T, D), "M8[s]"), TypeError, "`sequences` must be an array of numbers. Received: dtype=datetime64"),
    (np.zeros((N, T, D), [("a", "f4")]), TypeError, "`sequences` must be an array of numbers"),
    ([[[0.0] * D] * T] * N, ValueError, "Only input tensors .* `sequences` must be a NumPy array. Received: list"),
    ([np.zeros((N, T, D)), np.zeros((N, U)), np.zeros((N, U))], ValueError, "Only input tensors"),
    (None, ValueError, "`sequences` must be a NumPy array. Received: NoneType"),
]


@pytest.mark.parametrize("warm", [False, True], ids=["first call", "later call"])
@pytest.mark.parametrize(("bad", "error", "message"), BAD_SEQUENCES)
def test_bad_sequences(x, bad, error, message, warm):
    layer = made()
    if warm:
        layer(x)
    with pytest.raises(error, match=message):
        layer(bad)


# -- initial_state --------------------------------------------------------------------------------------------------------
def test_initial_state_forms(kernel, x, states):
    layer = made(**kernel)
    expected = run(x, weights_for(), *states)[1]
    for given in (states, tuple(states), [s.astype(float) for s in states]):
        np.testing.assert_allclose(twice(layer, x, given), expected, **FLOAT32)
    one = [s[:1] for s in states]
    np.testing.assert_allclose(twice(layer, x, one), run(x, weights_for(), *[np.repeat(s, N, 0) for s in one])[1], **FLOAT32)
    np.testing.assert_allclose(
        twice(layer, x, [states[0], np.zeros((N, U), int)]), run(x, weights_for(), states[0])[1], **FLOAT32
    )


good = np.zeros((N, U), np.float32)
BAD_STATES = [
    (good, IndexError, "list of two arrays .* Received: ndarray"),
    ([good], IndexError, "Received: a list of 1"),
    ([], IndexError, "Received: a list of 0"),
    (0.5, IndexError, "Received: float"),
    ([good, good, good], ValueError, "Received: a list of 3"),
    ([None, None], ValueError, r"`initial_state\[0\]` must be a NumPy array. Received: NoneType"),
    ([good, [0.0] * U], ValueError, r"`initial_state\[1\]` must be a NumPy array. Received: list"),
    ([good, good.astype(complex)], TypeError, r"`initial_state\[1\]` must be an array of numbers"),
    ([good.astype(object), good], TypeError, r"`initial_state\[0\]` must be an array of numbers"),
    ([good, good[:, :-1]], ValueError, r"arrays of shape \(3, 5\). Received: c.shape=\(3, 4\)"),
    ([good[:2], good], ValueError, r"arrays of shape \(3, 5\). Received: h.shape=\(2, 5\)"),
    ([good[0], good], ValueError, r"Received: h.shape=\(5,\)"),
    ([good, good[None]], ValueError, r"Received: c.shape=\(1, 3, 5\)"),
    ([good, good[:0]], ValueError, r"Received: c.shape=\(0, 5\)"),
]


@pytest.mark.parametrize("warm", [False, True], ids=["first call", "later call"])
@pytest.mark.parametrize(("bad", "error", "message"), BAD_STATES)
def test_bad_initial_state(x, bad, error, message, warm):
    layer = made()
    if warm:
        layer(x)
    with pytest.raises(error, match="`initial_state.*" + message if "initial_state" not in message else message):
        layer(x, bad)


# -- masks ------------------------------------------------------------------------------------------------------------------
MASK_FORMS = {
    "int": MASK.astype(int),
    "fractions": MASK * 0.3,
    "negative": MASK.astype(np.int8) * -1,
    "nan": np.where(MASK, np.nan, 0),
    "big-endian": MASK.astype(">f8"),
    "float16": MASK.astype(np.float16),
    "last axis": MASK[:, :, None],
    "any of the last axis": MASK[:, :, None] & np.array([False, True, False]),
    "in a list": [MASK],
    "in a tuple": (MASK,),
    "fortran": np.asfortranarray(MASK),
    "strided": np.repeat(MASK, 2, axis=1)[:, ::2],
}


@pytest.mark.parametrize("form", MASK_FORMS)
def test_mask_forms(kernel, x, form):
    given = MASK_FORMS[form]
    layer = made(return_sequences=True, **kernel)
    np.testing.assert_allclose(twice(layer, x, mask=given), run(x, weights_for(), mask=MASK)[0], **FLOAT32)


def test_mask_of_one_row_serves_the_batch(x):
    layer, row = made(), MASK[1:2]
    np.testing.assert_allclose(twice(layer, x, None, row), run(x, weights_for(), mask=np.repeat(row, N, 0))[1], **FLOAT32)


BAD_MASKS = [
    (np.ones(T, bool), IndexError, r"shape \(batch, timesteps\) = \(3, 6\). Received: mask.shape=\(6,\)"),
    (np.True_, IndexError, r"Received: mask.shape=\(\)"),
    ([[True] * T] * N, AttributeError, "Received: list"),
    (True, AttributeError, "Received: bool"),
    (np.ones((N, T + 1), bool), ValueError, r"Received: mask.shape=\(3, 7\)"),
    (np.ones((N, 1), bool), ValueError, r"Received: mask.shape=\(3, 1\)"),
    (np.ones((N + 1, T), bool), ValueError, r"Received: mask.shape=\(4, 6\)"),
    (np.ones((T, N), bool), ValueError, r"Received: mask.shape=\(6, 3\)"),
    (np.ones((N, T + 1, 1), bool), ValueError, r"Received: mask.shape=\(3, 7, 1\)"),
    (np.full((N, T), "x"), TypeError, "must be an array of numbers. Received: dtype=<U1"),
    (np.ones((N, T), object), TypeError, "must be an array of numbers. Received: dtype=object"),
    (np.ones((N, T), complex), TypeError, "must be an array of numbers. Received: dtype=complex128"),
    ([[]], AttributeError, "Received: list"),
]


@pytest.mark.parametrize("warm", [False, True], ids=["first call", "later call"])
@pytest.mark.parametrize(("bad", "error", "message"), BAD_MASKS)
def test_bad_masks(x, bad, error, message, warm):
    layer = made()
    if warm:
        layer(x)
    with pytest.raises(error, match="`mask` must.*" + message.removeprefix("must")):
        layer(x, mask=bad)
    with pytest.raises(error, match="`mask`"):
        layer.explain(x, mask=bad)


@pytest.mark.parametrize("mask", [[MASK], (MASK,), [[MASK]], [MASK, None, None], [MASK, ~MASK]], ids=str)
def test_of_a_list_of_masks_the_first_counts(x, mask):
    """``compute_mask`` of a layer that returns its states gives such a list."""
    layer = made(return_sequences=True)
    expected = layer(x, mask=MASK)
    np.testing.assert_array_equal(layer(x, mask=mask), expected)
    np.testing.assert_array_equal(layer.compute_mask(x, mask), MASK)
    np.testing.assert_array_equal(layer(x, mask=[None, MASK]), layer(x))


@pytest.mark.parametrize("name", ["activation", "recurrent_activation"])
def test_an_activation_that_changes_the_shape_is_refused_by_name(x, name):
    """glu halves the last axis: with two units it would broadcast (keras-spec 2)."""

    def first_column(z):
        return z[:, :1]

    for units, activation, word in ((2, "glu", "'glu'"), (4, "glu", "'glu'"), (3, first_column, "'first_column'")):
        with pytest.raises(ValueError, match=rf"activation {word} must keep the shape"):
            LSTM(units, **{name: activation})(x)


# -- NaN, infinities, tiny numbers --------------------------------------------------------------------------------------------
def test_nan_at_masked_steps_is_ignored(kernel, x):
    outputs, _, h, c = run(x, weights_for(), mask=MASK)
    x[~MASK] = np.nan
    result = twice(made(return_sequences=True, return_state=True, **kernel), x, mask=MASK)
    for got, want in zip(result, (outputs, h, c), strict=True):
        np.testing.assert_allclose(got, want, **FLOAT32)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_spread_as_the_formulas_say(kernel, x, value):
    x[1, 2, 3] = value
    with np.errstate(all="ignore"):
        outputs, _, h, c = run(x, weights_for())
    result = twice(made(return_sequences=True, return_state=True, **kernel), x)
    for got, want in zip(result, (outputs, h, c), strict=True):
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        np.testing.assert_allclose(got, want, **FLOAT32)
    assert np.isfinite(result[0][[0, 2]]).all()
    assert np.isnan(result[0][1, 2:]).all() == np.isnan(value)


def test_large_pre_activations_saturate(kernel):
    weights = [np.full((D, 4), 1e30, np.float32), np.zeros((1, 4), np.float32), np.zeros(4, np.float32)]
    layer = made(weights, return_state=True, **kernel)
    y, _, c = layer(np.stack([np.ones((2, D)), -np.ones((2, D))]).astype(np.float32))
    np.testing.assert_allclose(c, [[2], [0]], rtol=1e-6, atol=1e-37)
    np.testing.assert_allclose(y, [[np.tanh(2)], [0]], rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_state_that_decays_through_the_smallest_numbers(kernel, dtype):
    """c halves at every step, through the subnormal numbers to zero; a result may be flushed to zero but never be wrong."""
    bias = np.array([-1e4, 0, 0, 0], np.float32)  # i = 0, f = o = 1/2
    weights = [np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32), bias]
    steps = 160 if dtype == "float32" else 1100
    layer = made(weights, dtype=dtype, return_sequences=True, return_state=True, **kernel)
    y, _, c = twice(layer, np.zeros((1, steps, 1), dtype), [np.zeros((1, 1), dtype), np.ones((1, 1), dtype)])
    expected = 0.5 * np.tanh(np.ldexp(1.0, -np.arange(1, steps + 1)))
    np.testing.assert_allclose(y[0, :, 0], expected, rtol=4 * np.finfo(dtype).eps * 4, atol=np.finfo(dtype).tiny)
    assert c[0, 0] == 0
    assert np.isfinite(y).all()
