"""The call of ConvLSTM1D: values, initial states, masks, return forms, activations, inputs of every kind (keras-spec 4 to 6).

Expected numbers come from convlstm_formulas (float64, one row and tap at a time) or stand here. A later call of a layer takes a
shorter way than the first: ``twice`` runs both and wants the same bits.
"""

from __future__ import annotations

import numpy as np
import pytest
from convlstm_formulas import FLOAT32, FLOAT64, MASK, C, F, K, N, R, T, made, run, weights_for
from lstm_formulas import twice

from fastlstm import ConvLSTM1D, Masking, Sequential, selector

S = R - K + 1
FORMATS = [False, True]


@pytest.fixture(params=["cpu", "reference"])
def backend(request):
    with selector.use_backend(request.param):
        yield request.param


@pytest.fixture
def x():
    return np.random.default_rng(5).standard_normal((N, T, R, C)).astype(np.float32)


@pytest.fixture
def states():
    rng = np.random.default_rng(6)
    return [rng.standard_normal((N, S, F)).astype(np.float32) for _ in "hc"]


def turned(a, channels_first=True):
    """``a`` in the given data format: a view with the last two axes swapped, or itself."""
    return a.swapaxes(-1, -2) if channels_first else a


def format_of(channels_first):
    return {"data_format": "channels_first" if channels_first else "channels_last"}


# -- values and return forms ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("mask", [None, MASK], ids=["unmasked", "masked"])
@pytest.mark.parametrize("first", FORMATS, ids=["channels_last", "channels_first"])
def test_forward(backend, x, states, first, mask, start, backwards, zero):
    x, states = turned(x, first), [turned(s, first) for s in states]
    flags = {"go_backwards": backwards, "zero_output_for_mask": zero}
    outputs, last, h, c = run(x, weights_for(), *(states if start else (None, None)), mask, **flags, channels_first=first)
    for sequences, expected in ((True, outputs), (False, last)):
        layer = made(return_sequences=sequences, return_state=True, **flags, **format_of(first))
        result = twice(layer, x, initial_state=states if start else None, mask=mask)
        assert type(result) is tuple
        for got, want in zip(result, (expected, h, c), strict=True):
            assert got.dtype == np.float32
            assert got.flags.c_contiguous
            np.testing.assert_allclose(got, want, **FLOAT32)
        layer.return_state = False
        np.testing.assert_array_equal(twice(layer, x, states if start else None, mask), result[0])


@pytest.mark.parametrize("first", FORMATS, ids=["channels_last", "channels_first"])
def test_float64_is_real_float64(backend, x, states, first):
    x, states = turned(x, first).astype(float), [turned(s, first).astype(float) for s in states]
    outputs, _, h, c = run(x, weights_for(), *states, MASK, channels_first=first)
    layer = made(dtype="float64", return_sequences=True, return_state=True, **format_of(first))
    for got, want in zip(twice(layer, x, states, MASK), (outputs, h, c), strict=True):
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, want, **FLOAT64)


def test_without_bias_and_without_activations(backend, x):
    """Without squashing the states grow from step to step, and so do errors: two steps."""
    weights, x = weights_for(scale=0.3)[:2], x[:, :2]
    expected = run(x, weights, activation=lambda z: z, recurrent_activation=lambda z: z)[1]
    layer = made(weights, activation=None, recurrent_activation=None)
    np.testing.assert_allclose(twice(layer, x), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("options", [{"unroll": True}, {"unroll": True, "zero_output_for_mask": True, "go_backwards": True}])
def test_unroll_changes_no_number(x, options):
    expected = {name: value for name, value in options.items() if name != "unroll"}
    for mask in (None, MASK):
        layer = made(return_sequences=True, **options)
        np.testing.assert_allclose(twice(layer, x, mask=mask), run(x, weights_for(), mask=mask, **expected)[0], **FLOAT32)


def test_the_recurrent_convolution_has_stride_1_and_same_padding(backend, x):
    """With an input kernel of zeros nothing but the recurrent convolution and the bias act."""
    weights = weights_for()
    weights[0][...] = 0
    h = np.random.default_rng(1).standard_normal((N, 3, F)).astype(np.float32)
    options = {"strides": 2, "padding": "valid"}
    want = run(x, weights, h, 0 * h, **options)[1]
    np.testing.assert_allclose(twice(made(weights, **options), x, [h, 0 * h]), want, **FLOAT32)


def test_output_and_h_are_distinct_arrays(backend, x):
    for first in FORMATS:
        y, h, c = made(return_state=True, **format_of(first))(turned(x, first))
        np.testing.assert_array_equal(y, h)
        assert not any(np.shares_memory(a, b) for a, b in ((y, h), (y, c), (h, c)))


@pytest.mark.parametrize("first", FORMATS, ids=["channels_last", "channels_first"])
def test_leading_masked_step_gives_zeros_not_the_initial_state(backend, first):
    x, mask = turned(np.ones((1, 3, R, C), np.float32), first), np.array([[False, True, False]])
    state = [turned(np.full((1, S, F), value, np.float32), first) for value in (0.5, -0.5)]
    y = made(return_sequences=True, **format_of(first))(x, state, mask)
    assert not y[0, 0].any()
    assert y[0, 1].all()
    np.testing.assert_array_equal(y[0, 2], y[0, 1])
    y, h, c = made(return_state=True, **format_of(first))(x, state, np.zeros((1, 3), bool))
    assert not y.any()
    np.testing.assert_array_equal([h, c], state)


def test_go_backwards_returns_outputs_in_processing_order(backend, x):
    backwards = made(return_sequences=True, go_backwards=True)(x, mask=MASK)
    np.testing.assert_array_equal(backwards, made(return_sequences=True)(x[:, ::-1], mask=MASK[:, ::-1]))


def test_a_mask_is_per_step_where_batch_rows_and_steps_are_equal(backend):
    """5 samples of 5 steps and 5 rows: nothing but the meaning of the axes tells which of them the mask covers."""
    x = np.random.default_rng(2).standard_normal((5, 5, 5, C)).astype(np.float32)
    mask = np.random.default_rng(3).random((5, 5)) < 0.6
    expected = run(x, weights_for(), mask=mask, padding="same")[0]
    np.testing.assert_allclose(twice(made(return_sequences=True, padding="same", rows=5), x, mask=mask), expected, **FLOAT32)


def test_masking_layer_masks_steps_whose_rows_are_all_padding(x):
    """A Masking layer looks at the last axis alone, so the mask has a row axis: any row that counts makes the step count."""
    x[0, 3:], x[1, 0], x[2, 2, 1:] = 0, 0, 0
    valid = np.ones((N, T), bool)
    valid[0, 3:], valid[1, 0] = False, False
    model = Sequential([Masking(), made(return_sequences=True)])
    np.testing.assert_allclose(model(x), run(x, weights_for(), mask=valid)[0], **FLOAT32)


# -- sequences -----------------------------------------------------------------------------------------------------------------
FORMS = {
    "float16": lambda a: a.astype(np.float16),
    "float64": lambda a: a.astype(np.float64),
    "big-endian": lambda a: a.astype(">f4"),
    "fortran": np.asfortranarray,
    "strided": lambda a: np.repeat(np.repeat(a, 2, axis=0), 3, axis=-1)[::2, ..., ::3],
    "negative strides": lambda a: np.ascontiguousarray(a[:, ::-1])[:, ::-1],
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
    "masked array": np.ma.masked_array,
    "int8": lambda a: (a * 3).astype(np.int8),
    "bool": lambda a: a > 0,
}


@pytest.mark.parametrize("first", FORMATS, ids=["channels_last", "channels_first"])
@pytest.mark.parametrize("form", FORMS)
def test_input_forms(backend, x, states, form, first):
    x, *states = (FORMS[form](np.ascontiguousarray(turned(a, first))) for a in (x, *states))
    for array in (x, *states):
        array.flags.writeable = False
    before = [np.array(a) for a in (x, *states)]
    plain = [np.array(a, np.float32) for a in (x, *states)]
    outputs, _, h, c = run(plain[0], weights_for(), *plain[1:], mask=MASK, channels_first=first)
    layer = made(return_sequences=True, return_state=True, **format_of(first))
    layer(np.zeros(x.shape, np.float32))
    result = twice(layer, x, states, MASK)
    for got, want in zip(result, (outputs, h, c), strict=True):
        assert type(got) is np.ndarray
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=2e-6)
    for array, kept in zip((x, *states), before, strict=True):
        np.testing.assert_array_equal(array, kept)
    assert not any(np.shares_memory(a, b) for a in result for b in (x, *states))


def test_first_call_builds_and_later_calls_may_have_other_batches_and_lengths():
    layer = ConvLSTM1D(F, K)
    for batch, steps in ((2, 3), (5, 1), (1, 9)):
        assert layer(np.ones((batch, steps, R, C), np.float32)).shape == (batch, S, F)
    assert layer.kernel.shape == (K, C, 4 * F)


@pytest.mark.parametrize("first", FORMATS, ids=["channels_last", "channels_first"])
@pytest.mark.parametrize("sequences", [False, True])
def test_empty_batch(backend, sequences, first):
    x = turned(np.zeros((0, 4, R, C), np.float32), first)
    y, h, c = twice(made(return_sequences=sequences, return_state=True, **format_of(first)), x)
    state = (0, F, S) if first else (0, S, F)
    assert (y.shape, h.shape, c.shape) == ((0, 4, *state[1:]) if sequences else state, state, state)


@pytest.mark.parametrize("first", FORMATS, ids=["channels_last", "channels_first"])
def test_out(x, first):
    x = np.ascontiguousarray(turned(x, first))
    for sequences in (False, True):
        layer = made(return_sequences=sequences, return_state=True, **format_of(first))
        want = layer(x, mask=MASK)
        for _ in range(2):
            out = np.full_like(want[0], np.nan)
            got = layer(x, mask=MASK, out=out)
            assert got[0] is out
            for a, b in zip(got, want, strict=True):
                np.testing.assert_array_equal(a, b)
        for bad in (out[..., :1], out.astype(np.float64), np.empty((*out.shape, 2), np.float32)[..., 0]):
            with pytest.raises(ValueError, match="`out` must"):
                layer(x, out=bad)


BAD_SEQUENCES = [
    (np.zeros((N, R, C)), ValueError, "expected ndim=4, found ndim=3"),
    (np.zeros((N, T, R, C, 1)), ValueError, "expected ndim=4, found ndim=5"),
    (np.zeros((N, 0, R, C)), ValueError, r"`sequences` .* has no time steps. Received: sequences.shape=\(3, 0, 7, 2\)"),
    (np.zeros((N, T, R + 1, C)), ValueError, r"expected axis 2 .* value 7, but received input with shape \(3, 6, 8, 2\)"),
    (np.zeros((N, T, R - 1, C)), ValueError, r"expected axis 2 .* value 7, but received input with shape \(3, 6, 6, 2\)"),
    (np.zeros((N, T, R, C + 1)), ValueError, r"expected axis 3 .* value 2, but received input with shape \(3, 6, 7, 3\)"),
    (np.zeros((N, T, C, R)), ValueError, r"expected axis 2 .* value 7, but received input with shape \(3, 6, 2, 7\)"),
    (np.zeros((N, T, R, C), complex), TypeError, "`sequences` must be an array of numbers. Received: dtype=complex128"),
    (np.full((N, T, R, C), "1"), TypeError, "`sequences` must be an array of numbers. Received: dtype=<U1"),
    (np.zeros((N, T, R, C)).tolist(), ValueError, "Only input tensors .* `sequences` must be a NumPy array. Received: list"),
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


def test_another_number_of_rows_or_channels_channels_first(x):
    layer = made(**format_of(True))
    layer(turned(x))
    with pytest.raises(ValueError, match=r"expected axis 2 .* value 2, but received input with shape \(3, 6, 7, 2\)"):
        layer(x)
    with pytest.raises(ValueError, match=r"expected axis 3 .* value 7, but received input with shape \(3, 6, 2, 8\)"):
        layer(np.zeros((N, T, C, R + 1), np.float32))


# -- initial_state -----------------------------------------------------------------------------------------------------------
def test_initial_state_forms(backend, x, states):
    layer = made()
    expected = run(x, weights_for(), *states)[1]
    for given in (states, tuple(states), [s.astype(float) for s in states]):
        np.testing.assert_allclose(twice(layer, x, given), expected, **FLOAT32)
    one = [s[:1] for s in states]
    np.testing.assert_allclose(twice(layer, x, one), run(x, weights_for(), *[np.repeat(s, N, 0) for s in one])[1], **FLOAT32)


good = np.zeros((N, S, F), np.float32)
BAD_STATES = [
    (good, IndexError, "list of two arrays .* Received: ndarray"),
    ([good], IndexError, "Received: a list of 1"),
    ([good, good, good], ValueError, "Received: a list of 3"),
    ([None, None], ValueError, r"`initial_state\[0\]` must be a NumPy array. Received: NoneType"),
    ([good, good.astype(complex)], TypeError, r"`initial_state\[1\]` must be an array of numbers"),
    ([good, good[:, :-1]], ValueError, r"arrays of shape \(3, 5, 3\). Received: c.shape=\(3, 4, 3\)"),
    ([turned(good), good], ValueError, r"arrays of shape \(3, 5, 3\). Received: h.shape=\(3, 3, 5\)"),
    ([np.zeros((N, R, F)), good], ValueError, r"arrays of shape \(3, 5, 3\). Received: h.shape=\(3, 7, 3\)"),
    ([good[:2], good], ValueError, r"arrays of shape \(3, 5, 3\). Received: h.shape=\(2, 5, 3\)"),
    ([good[0], good], ValueError, r"Received: h.shape=\(5, 3\)"),
]


@pytest.mark.parametrize("warm", [False, True], ids=["first call", "later call"])
@pytest.mark.parametrize(("bad", "error", "message"), BAD_STATES)
def test_bad_initial_state(x, bad, error, message, warm):
    layer = made()
    if warm:
        layer(x)
    with pytest.raises(error, match="`initial_state.*" + message if "initial_state" not in message else message):
        layer(x, bad)


# -- masks ---------------------------------------------------------------------------------------------------------------------
ROWS = np.array([False, True, False, True, False, False, False])
MASK_FORMS = {
    "int": MASK.astype(int),
    "fractions": MASK * 0.3,
    "negative": MASK.astype(np.int8) * -1,
    "big-endian": MASK.astype(">f8"),
    "last axis": MASK[:, :, None],
    "any row": MASK[:, :, None] & ROWS,
    "any row and channel": MASK[:, :, None, None] & ROWS[:, None] & np.array([False, True]),
    "in a list": [MASK],
    "fortran": np.asfortranarray(MASK),
    "strided": np.repeat(MASK, 2, axis=1)[:, ::2],
}


@pytest.mark.parametrize("first", FORMATS, ids=["channels_last", "channels_first"])
@pytest.mark.parametrize("form", MASK_FORMS)
def test_mask_forms(backend, x, form, first):
    layer = made(return_sequences=True, **format_of(first))
    want = run(x, weights_for(), mask=MASK)[0]
    np.testing.assert_allclose(twice(layer, turned(x, first), mask=MASK_FORMS[form]), turned(want, first), **FLOAT32)


def test_mask_of_one_row_serves_the_batch(x):
    row = MASK[1:2]
    np.testing.assert_allclose(twice(made(), x, None, row), run(x, weights_for(), mask=np.repeat(row, N, 0))[1], **FLOAT32)


BAD_MASKS = [
    (np.ones(T, bool), IndexError, r"shape \(batch, timesteps\) = \(3, 6\). Received: mask.shape=\(6,\)"),
    ([[True] * T] * N, AttributeError, "Received: list"),
    (np.ones((N, R), bool), ValueError, r"Received: mask.shape=\(3, 7\)"),
    (np.ones((N + 1, T), bool), ValueError, r"Received: mask.shape=\(4, 6\)"),
    (np.full((N, T), "x"), TypeError, "must be an array of numbers. Received: dtype=<U1"),
]


@pytest.mark.parametrize("warm", [False, True], ids=["first call", "later call"])
@pytest.mark.parametrize(("bad", "error", "message"), BAD_MASKS)
def test_bad_masks(x, bad, error, message, warm):
    layer = made()
    if warm:
        layer(x)
    with pytest.raises(error, match="`mask` must.*" + message.removeprefix("must")):
        layer(x, mask=bad)


# -- NaN and infinities -----------------------------------------------------------------------------------------------------
def test_nan_at_masked_steps_is_ignored(backend, x):
    outputs, _, h, c = run(x, weights_for(), mask=MASK)
    x[~MASK] = np.nan
    for first in FORMATS:
        result = twice(made(return_sequences=True, return_state=True, **format_of(first)), turned(x, first), mask=MASK)
        for got, want in zip(result, (outputs, h, c), strict=True):
            np.testing.assert_allclose(turned(got, first), want, **FLOAT32)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_spread_through_the_rows_as_the_formulas_say(backend, x, value):
    """From row 3 to its neighbours within the kernel, one row further at every step; other samples see nothing."""
    x[1, 2, 3, 1] = value
    with np.errstate(all="ignore"):
        outputs, _, h, c = run(x, weights_for(), padding="same")
    result = twice(made(return_sequences=True, return_state=True, padding="same"), x)
    for got, want in zip(result, (outputs, h, c), strict=True):
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        np.testing.assert_allclose(got[~np.isnan(want)], want[~np.isnan(want)], **FLOAT32)


def test_nan_in_one_sample_stays_in_it(backend, x):
    whole = made(return_sequences=True)(x)
    x[1] = np.nan
    for _ in range(2):
        got = made(return_sequences=True)(x)
        np.testing.assert_array_equal(got[[0, 2]], whole[[0, 2]])
        assert np.isnan(got[1]).all()
