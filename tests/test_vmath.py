"""Elementwise activations and derivatives of include/fastlstm (vmath.h, vactivation.h), on every instruction set.

Truth is decimal arithmetic with 60 digits (exact_activations), or NumPy in float64 for the dense float32 samples. Limits are in
ulp of the result where the function keeps relative accuracy; derivatives and tanh_shrink, which have zeros by cancellation, are
held to a multiple of eps * max(1, |result|). Beside each limit stands what was measured.
"""

from __future__ import annotations

import numpy as np
import pytest
from exact_activations import SLOPE, VALUE, exact
from vmath_runs import DTYPES, INPUTS, KINKS, NAMES, RUN, TINY, points, results

from fastlstm import _core


@pytest.fixture(params=_core.isa_available())
def outputs(request):
    made = results(request.param)
    assert made["isa"] == request.param
    return made


@pytest.fixture(scope="module")
def truth():
    """truth(table, name, dtype): the exact results for the finite points, as a float64 head and the rest."""
    known = {}

    def of(table, name, dtype):
        key = (table is VALUE, name, dtype)
        if key not in known:
            known[key] = exact(table[name], points(dtype))
        return known[key]

    return of


def difference(got, want):
    """|got - want| in float64; 0 where both are the same infinity."""
    head, rest = want
    got = got.astype("f8")
    with np.errstate(invalid="ignore"):
        return np.where(got == head, np.abs(rest), np.abs((got - head) - rest))


def ulp(size, dtype):
    """The distance between neighbours of the dtype at ``size`` > 0, that of the smallest normal number below it."""
    _, exponent = np.frexp(np.maximum(size, TINY[dtype]))
    return np.ldexp(1.0, exponent - (24 if dtype == "f4" else 53))


# -- values ---------------------------------------------------------------------------------------------------------------
ULPS = {
    "linear": 0,
    "tanh": 2,  # 1.98 in float32
    "sigmoid": 2,  # 1.999
    "relu": 0,
    "relu6": 0,
    "leaky_relu": 1,  # 0.8
    "elu": 2,  # 1.1
    "selu": 3,  # 2.1
    "celu": 2,  # 1.1
    "exponential": 2,  # 1.06
    "gelu": 9,  # 7.2
    "hard_sigmoid": 2,  # 1.4
    "silu": 3,  # 2.5
    "hard_silu": 3,  # 2.2
    "hard_tanh": 0,
    "hard_shrink": 0,
    "soft_shrink": 0.5,
    "softplus": 2,  # 1.6
    "softsign": 2,  # 1.5
    "squareplus": 3,  # 2.5
    "sparse_plus": 2,  # 1.9
    "sparse_sigmoid": 1,  # 0.5
    "log_sigmoid": 2,  # 1.6
    "mish": 5,  # 3.6
}
ULPS_FLOAT64 = {"tanh": 2.5}  # 2.2: ln2 is further from its nearest float64, in ulp, than from its nearest float32
# Products of x and a factor that underflows before them: below so many times the smallest normal number they may be off by it.
UNDERFLOW = {"silu": 1024, "mish": 1024, "gelu": 64}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ULPS)
def test_value(name, dtype, outputs, truth):
    want = truth(VALUE, name, dtype)
    got = outputs[f"value_{dtype}_{NAMES.index(name)}"][: len(want[0])]
    size = np.abs(want[0])
    ulps = ULPS_FLOAT64.get(name, ULPS[name]) if dtype == "f8" else ULPS[name]
    limit = ulps * ulp(size, dtype)
    floor = UNDERFLOW.get(name, 1) * TINY[dtype]
    limit = np.where(size < floor, np.maximum(limit, floor), limit)
    largest = float(np.finfo(dtype).max)
    fits = size <= largest
    assert np.all(got[~fits] == np.copysign(np.inf, want[0][~fits]))
    over = (difference(got, want) > limit) & fits
    assert not over.any(), list(zip(points(dtype)[over][:5], got[over][:5], want[0][over][:5], strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_tanh_shrink(dtype, outputs, truth):
    """x - tanh(x) cancels as the formula does: 2 eps of 1 or the result (measured 1.1)."""
    want = truth(VALUE, "tanh_shrink", dtype)
    got = outputs[f"value_{dtype}_{NAMES.index('tanh_shrink')}"][: len(want[0])]
    assert np.all(difference(got, want) <= 2 * np.finfo(dtype).eps * np.maximum(1, np.abs(want[0])))


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "exponential"])
def test_dense_float32_is_within_two_ulp(name, outputs):
    x = INPUTS["dense_f4"]
    got = outputs[f"dense_f4_{NAMES.index(name)}"]
    with np.errstate(all="ignore"):
        wide = x.astype("f8")
        want = {"tanh": np.tanh, "sigmoid": lambda v: 1 / (1 + np.exp(-v)), "exponential": np.exp}[name](wide)
        size = np.abs(want)
        off = np.abs(got.astype("f8") - want)
    assert np.array_equal(np.isnan(got), np.isnan(x))
    normal_results = (size >= TINY["f4"]) & (size <= float(np.finfo("f4").max))
    assert normal_results.sum() > 200000
    assert np.max(off[normal_results] / ulp(size[normal_results], "f4")) <= 2
    assert np.all(got[size > 3.41e38] == np.inf)
    assert np.all(off[size < TINY["f4"]] <= TINY["f4"])
    assert np.all(got[want == 0] == 0)


def test_tanh_is_odd_and_the_identity_near_zero(outputs):
    x, y = INPUTS["dense_f4"], outputs["dense_f4_1"]
    near = (np.abs(x) < 1e-8) & (np.abs(x) >= TINY["f4"])
    assert near.sum() > 100000
    assert np.array_equal(y[near], x[near])
    assert np.array_equal(np.signbit(y[x == 0]), np.signbit(x[x == 0]))
    half = RUN * 8
    assert np.array_equal(x[-half:], -x[-2 * half : -half])
    assert np.array_equal(y[-half:], -y[-2 * half : -half])


# Formulas as NumPy has them: infinity times 0 and infinity over infinity are NaN.
AT_INFINITY = {
    "linear": (-np.inf, np.inf),
    "tanh": (-1, 1),
    "sigmoid": (0, 1),
    "relu": (0, np.inf),
    "relu6": (0, 6),
    "leaky_relu": (-np.inf, np.inf),
    "elu": (-1, np.inf),
    "selu": (-1.7580993408473766, np.inf),
    "celu": (-1, np.inf),
    "exponential": (0, np.inf),
    "gelu": (np.nan, np.inf),
    "hard_sigmoid": (0, 1),
    "silu": (np.nan, np.inf),
    "hard_silu": (np.nan, np.inf),
    "hard_tanh": (-1, 1),
    "tanh_shrink": (-np.inf, np.inf),
    "hard_shrink": (-np.inf, np.inf),
    "soft_shrink": (-np.inf, np.inf),
    "softplus": (0, np.inf),
    "softsign": (np.nan, np.nan),
    "squareplus": (0, np.inf),
    "sparse_plus": (0, np.inf),
    "sparse_sigmoid": (0, 1),
    "log_sigmoid": (-np.inf, 0),
    "mish": (np.nan, np.inf),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_nan_and_infinity(name, dtype, outputs):
    start = len(points(dtype))
    value = outputs[f"value_{dtype}_{NAMES.index(name)}"][start : start + 3]
    slope = outputs[f"slope_{dtype}_{NAMES.index(name)}"][start : start + 3]
    assert np.isnan(value[0])
    np.testing.assert_allclose(value[1:], AT_INFINITY[name], rtol=1e-6)
    assert name == "linear" or np.isnan(slope[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_a_number_does_not_depend_on_its_neighbours(name, dtype, outputs):
    """Every prefix of a row gives the bits of the whole row: tails run through the same arithmetic."""
    rows = outputs[f"tail_{dtype}_{NAMES.index(name)}"]
    for n, row in enumerate(rows):
        assert np.array_equal(row[:n], rows[-1][:n])


# -- derivatives ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_derivative(name, dtype, outputs, truth):
    """3 eps of 1 or the result (measured 2.1)."""
    want = truth(SLOPE, name, dtype)
    got = outputs[f"slope_{dtype}_{NAMES.index(name)}"][: len(want[0])]
    size = np.abs(want[0])
    fits = size <= float(np.finfo(dtype).max)
    assert np.all(got[~fits] == np.inf)
    over = (difference(got, want) > 3 * np.finfo(dtype).eps * np.maximum(1, size)) & fits
    assert not over.any(), list(zip(points(dtype)[over][:5], got[over][:5], want[0][over][:5], strict=True))


SLOPE_AT_KINK = {
    "relu": {0: 0},
    "relu6": {0: 0, 6: 0},
    "leaky_relu": {0: 0.2},
    "elu": {0: 1},
    "selu": {0: 1.7580993408473766},
    "celu": {0: 1},
    "hard_sigmoid": {-3: 0, 3: 0},
    "hard_silu": {-3: 0, 3: 1},
    "hard_tanh": {-1: 1, 1: 1},
    "hard_shrink": {-0.5: 0, 0.5: 0},
    "soft_shrink": {-0.5: 0, 0.5: 0},
    "sparse_plus": {-1: 0, 1: 1},
    "sparse_sigmoid": {-1: 0, 1: 0},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SLOPE_AT_KINK)
def test_derivative_at_a_kink(name, dtype, outputs):
    got = outputs[f"slope_{dtype}_{NAMES.index(name)}"][-len(KINKS) :]
    for place, slope in SLOPE_AT_KINK[name].items():
        np.testing.assert_allclose(got[list(KINKS).index(place)], slope, rtol=2 * np.finfo(dtype).eps)
