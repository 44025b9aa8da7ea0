"""The backward of the reference backend against central differences of its forward in float64: all inputs, states and weights.

Every entry of dx is compared, so every time step is. The verbs are called directly: no layer, no selector.
"""

from __future__ import annotations

import central_differences
import numpy as np
import pytest

from fastlstm import activations
from fastlstm.backends import reference
from fastlstm.spec import ConvLSTM1DSpec, RecurrentSpec

N, T, D, U = 3, 4, 2, 3
NC, TC, R, C, F = 2, 3, 5, 2, 2  # the convolutions, which take longer, have NC samples of TC steps

MASKS = {
    "unmasked": None,
    "padded": np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], bool),
    "holes": np.array([[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]], bool),
    "nothing": np.array([[1, 1, 0, 1], [0, 0, 0, 0], [0, 0, 0, 1]], bool),
}
FLAGS = [
    {"return_sequences": s, "go_backwards": b, "zero_output_for_mask": z}
    for s in (False, True)
    for b in (False, True)
    for z in (False, True)
]
ONE_ARGUMENT = [name for name in activations.names() if name not in ("threshold", "glu")]


def flag_id(flags):
    return "-".join(name for name, value in flags.items() if value) or "plain"


def lstm_spec(activation="tanh", recurrent_activation="sigmoid", **flags):
    return RecurrentSpec(U, activations.get(activation), activations.get(recurrent_activation), storage="float64", **flags)


def lstm_arrays(seed=0, bias=True, scale=0.7):
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal(shape) * scale for shape in ((D, 4 * U), (U, 4 * U), (4 * U,))]
    return weights[: 2 + bias], rng.standard_normal((N, T, D)), rng.standard_normal((N, U)), rng.standard_normal((N, U))


def conv_spec(activation="tanh", recurrent_activation="sigmoid", taps=2, **options):
    functions = activations.get(activation), activations.get(recurrent_activation)
    return ConvLSTM1DSpec(F, *functions, storage="float64", kernel_size=taps, **options)


def conv_arrays(spec, seed=0, bias=True):
    rng = np.random.default_rng(seed)
    taps, rows = spec.kernel_size, spec.rows(R).rows_out
    weights = [rng.standard_normal(shape) * 0.6 for shape in ((taps, C, 4 * F), (taps, F, 4 * F), (4 * F,))]
    x, h, c = rng.standard_normal((NC, TC, R, C)), rng.standard_normal((NC, rows, F)), rng.standard_normal((NC, rows, F))
    if spec.channels_first:
        x, h, c = (np.ascontiguousarray(a.swapaxes(-1, -2)) for a in (x, h, c))
    return weights[: 2 + bias], x, h, c


def check(verb, spec, arrays, mask=None, dropout=None, cotangents="ydhdc", seed=1):
    """All gradients against differences; ``cotangents``: which of dy, dh, dc are there. Returns what the backward returned."""
    forward, backward = getattr(reference, f"{verb}_forward"), getattr(reference, f"{verb}_backward")
    weights, x, h, c = arrays
    mask = None if mask is None else mask[: len(x), : x.shape[1]]
    prepared = reference.prepare(weights)
    y, last_h, last_c, tape = forward(spec, prepared, x, h, c, mask, dropout, record=True)
    plain = forward(spec, prepared, x, h, c, mask, dropout)
    for got, want in zip((y, last_h, last_c), plain, strict=True):
        np.testing.assert_array_equal(got, want)
    rng = np.random.default_rng(seed)
    given = [rng.standard_normal(a.shape) if name in cotangents else None for name, a in (("y", y), ("dh", h), ("dc", c))]

    def loss():
        returned = forward(spec, prepared, x, h, c, mask, dropout)
        return sum(float(np.sum(a * d)) for a, d in zip(returned, given, strict=True) if d is not None)

    dx, dh, dc, dweights = backward(spec, prepared, tape, *given)
    assert len(dweights) == len(weights)
    names = ("x", "h", "c", "kernel", "recurrent_kernel", "bias")
    for name, got, array in zip(names, (dx, dh, dc, *dweights), (x, h, c, *weights), strict=False):
        central_differences.check(got, central_differences.gradient(loss, array), name)
    return dx, dh, dc, dweights


# -- LSTM -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("flags", FLAGS, ids=flag_id)
def test_lstm(flags, mask):
    check("lstm", lstm_spec(**flags), lstm_arrays(), MASKS[mask])


@pytest.mark.parametrize("t", range(T))
@pytest.mark.parametrize("backwards", [False, True])
def test_one_output_alone(t, backwards):
    """A cotangent at one output: steps after it get nothing, all steps up to it get something."""
    spec, (weights, x, h, c) = lstm_spec(return_sequences=True, go_backwards=backwards), lstm_arrays()
    prepared = reference.prepare(weights)
    y, _, _, tape = reference.lstm_forward(spec, prepared, x, h, c, record=True)
    dy = np.zeros_like(y)
    dy[:, t] = np.random.default_rng(2).standard_normal((N, U))
    dx, *_ = reference.lstm_backward(spec, prepared, tape, dy, None, None)

    def loss():
        return float(np.sum(reference.lstm_forward(spec, prepared, x, h, c)[0] * dy))

    central_differences.check(dx, central_differences.gradient(loss, x), "x")
    processed = dx[:, ::-1] if backwards else dx
    assert not processed[:, t + 1 :].any()
    assert processed[:, : t + 1].any(axis=(0, 2)).all()


@pytest.mark.parametrize("cotangents", ["y", "dh", "dc", "dhdc", ""])
def test_cotangents_that_are_absent_are_zeros(cotangents):
    _, _, _, dweights = check("lstm", lstm_spec(return_sequences=True), lstm_arrays(), MASKS["holes"], cotangents=cotangents)
    assert any(d.any() for d in dweights) == bool(cotangents)


@pytest.mark.parametrize("role", ["activation", "recurrent_activation"])
@pytest.mark.parametrize("name", ONE_ARGUMENT)
def test_activations(name, role):
    weights, x, h, c = lstm_arrays(seed=5, scale=0.2 if name == "exponential" else 0.7)
    if name == "exponential":
        h, c = 0.1 * h, 0.1 * c  # exp(exp(…)) soon leaves the range of float64
    check("lstm", lstm_spec(return_sequences=True, **{role: name}), (weights, x, h, c), MASKS["holes"])


def test_no_bias():
    check("lstm", lstm_spec(), lstm_arrays(bias=False), MASKS["holes"])


def scales(shape, count, rng):
    return [rng.choice([0.0, 2.0], shape) for _ in range(count)]


@pytest.mark.parametrize("mask", ["unmasked", "holes"])
@pytest.mark.parametrize(("inputs", "recurrent"), [(1, 0), (4, 0), (0, 4), (1, 4), (4, 4)])
def test_dropout_masks(inputs, recurrent, mask):
    rng = np.random.default_rng(3)
    dropout = reference.DropoutMasks(scales((N, D), inputs, rng), scales((N, U), recurrent, rng))
    check("lstm", lstm_spec(return_sequences=True), lstm_arrays(), MASKS[mask], dropout)


# -- ConvLSTM1D -----------------------------------------------------------------------------------------------------------
GEOMETRIES = [
    {"padding": "valid", "taps": 3},
    {"padding": "valid", "channels_first": True},
    {"padding": "same", "taps": 3},
    {"padding": "same"},
    {"padding": "valid", "strides": 2},
    {"padding": "same", "strides": 2},
    {"padding": "same", "strides": 3, "taps": 4, "channels_first": True},
    {"padding": "valid", "dilation_rate": 2},
    {"padding": "same", "dilation_rate": 2, "taps": 3, "channels_first": True},
    {"padding": "same", "taps": 6},
    {"padding": "valid", "strides": 3, "taps": 1},
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda g: "-".join(f"{k}={v}" for k, v in g.items()))
def test_convolutions(geometry):
    spec = conv_spec(return_sequences=True, **geometry)
    check("convlstm1d", spec, conv_arrays(spec), MASKS["holes"])


@pytest.mark.parametrize("flags", FLAGS, ids=flag_id)
def test_convlstm1d(flags):
    spec = conv_spec(**flags)
    check("convlstm1d", spec, conv_arrays(spec), MASKS["nothing"])


@pytest.mark.parametrize("channels_first", [False, True], ids=["last", "first"])
@pytest.mark.parametrize("name", ["softmax", "sparsemax"])
def test_convlstm1d_activations(name, channels_first):
    """An axis is the last one of the arrays as they lie there: the rows in channels_first (keras-spec 4.2)."""
    spec = conv_spec(name, "softmax", channels_first=channels_first, padding="same", return_sequences=True)
    check("convlstm1d", spec, conv_arrays(spec, seed=4), MASKS["holes"])


@pytest.mark.parametrize("channels_first", [False, True], ids=["last", "first"])
@pytest.mark.parametrize(("inputs", "recurrent"), [(4, 0), (4, 4)])
def test_convlstm1d_dropout_masks(inputs, recurrent, channels_first):
    spec, rng = conv_spec(channels_first=channels_first), np.random.default_rng(3)
    arrays = conv_arrays(spec, bias=False)
    dropout = reference.DropoutMasks(scales(arrays[1][:, 0].shape, inputs, rng), scales(arrays[2].shape, recurrent, rng))
    check("convlstm1d", spec, arrays, MASKS["holes"], dropout)


# -- both -----------------------------------------------------------------------------------------------------------------
def problem(verb, **flags):
    spec = lstm_spec(**flags) if verb == "lstm" else conv_spec(padding="same", **flags)
    return spec, lstm_arrays() if verb == "lstm" else conv_arrays(spec)


def run(verb, spec, arrays, mask=None, dtype=np.float64, dropout=None):
    weights, *rest = [a.astype(dtype) for a in arrays[0]], *(a.astype(dtype) for a in arrays[1:])
    prepared = reference.prepare(weights)
    y, h, c, tape = getattr(reference, f"{verb}_forward")(spec, prepared, *rest, mask, dropout, record=True)
    rng = np.random.default_rng(6)
    given = [rng.standard_normal(a.shape).astype(dtype) for a in (y, h, c)]
    return lambda: getattr(reference, f"{verb}_backward")(spec, prepared, tape, *given)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("verb", ["lstm", "convlstm1d"])
@pytest.mark.parametrize("hole", [np.nan, np.inf])
def test_masked_inputs_get_exactly_zero_whatever_they_hold(verb, hole, backwards):
    spec, (weights, x, h, c) = problem(verb, return_sequences=True, go_backwards=backwards)
    mask = MASKS["nothing"][: len(x), : x.shape[1]]
    clean = run(verb, spec, (weights, x, h, c), mask)()
    dirty = run(verb, spec, (weights, np.where(mask.reshape(*mask.shape, *[1] * (x.ndim - 2)), x, hole), h, c), mask)()
    assert not clean[0][~mask].any()
    assert clean[0][mask].all()
    for got, want in zip((*dirty[:3], *dirty[3]), (*clean[:3], *clean[3]), strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_sample_of_nan_states_spoils_no_other_samples_inputs():
    spec, (weights, x, h, c) = problem("lstm", return_sequences=True)
    clean = run("lstm", spec, (weights, x, h, c))()
    dirty = run("lstm", spec, (weights, x, np.where(np.arange(N)[:, None] == 1, np.nan, h), c))()
    np.testing.assert_array_equal(dirty[0][[0, 2]], clean[0][[0, 2]])
    assert np.isnan(dirty[0][1]).all()


@pytest.mark.parametrize("verb", ["lstm", "convlstm1d"])
def test_float32_stays_float32_and_near_float64(verb):
    spec, arrays = problem(verb, return_sequences=True)
    single, double = run(verb, spec, arrays, dtype=np.float32)(), run(verb, spec, arrays)()
    for got, want in zip((*single[:3], *single[3]), (*double[:3], *double[3]), strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("verb", ["lstm", "convlstm1d"])
def test_a_tape_can_be_read_twice(verb):
    spec, arrays = problem(verb)
    backward = run(verb, spec, arrays, MASKS["holes"][: len(arrays[1]), : arrays[1].shape[1]])
    first, second = backward(), backward()
    for got, want in zip((*first[:3], *first[3]), (*second[:3], *second[3]), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
def test_rounding_counts_as_the_identity(storage):
    """The derivative is taken at the rounded states: the gradients are near those without rounding, and float32."""
    options = {"return_sequences": True}
    rounded = RecurrentSpec(U, activations.tanh, activations.sigmoid, storage=storage, **options)
    got = run("lstm", rounded, lstm_arrays(), dtype=np.float32)()
    want = run("lstm", lstm_spec(**options), lstm_arrays())()
    for a, b in zip((*got[:3], *got[3]), (*want[:3], *want[3]), strict=True):
        assert a.dtype == np.float32
        assert 0 < np.abs(a - b).max() < 0.03 * np.abs(b).max()


def test_a_callers_own_activation_is_named():
    def wave(x):
        return np.sin(x)

    weights, *rest = lstm_arrays()
    spec = RecurrentSpec(U, wave, activations.sigmoid, storage="float64")
    with pytest.raises(NotImplementedError, match="wave"):
        reference.lstm_forward(spec, reference.prepare(weights), *rest, record=True)
    reference.lstm_forward(spec, reference.prepare(weights), *rest)


def test_glu_has_no_gradient_here():
    weights = [np.ones((D, 8)), np.ones((2, 8)), np.ones(8)]
    spec = RecurrentSpec(2, activations.glu, activations.sigmoid, storage="float64")
    with pytest.raises(ValueError, match="glu"):
        reference.lstm_forward(
            spec, reference.prepare(weights), np.ones((N, T, D)), np.ones((N, 2)), np.ones((N, 2)), record=True
        )
