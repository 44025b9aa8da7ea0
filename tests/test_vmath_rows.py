"""Activations along a row, the rounding to 16-bit storage, and the agreement of the instruction sets, to the bit.

The runs are those of test_vmath.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from vmath_runs import BFLOAT16, DTYPES, FLOAT16, INPUTS, LENGTHS, LOG_SOFTMAX, ROWS, SOFTMAX, SPARSEMAX, results

from fastlstm import _core


@pytest.fixture(params=_core.isa_available())
def outputs(request):
    return results(request.param)


# -- rows -----------------------------------------------------------------------------------------------------------------
def softmax_row(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def log_softmax_row(z):
    return (z - z.max()) - np.log(np.exp(z - z.max()).sum())


def sparsemax_row(z):
    ordered = np.sort(z)[::-1]
    total = np.cumsum(ordered)
    size = np.count_nonzero(1 + np.arange(1, len(z) + 1) * ordered > total)
    return np.maximum(z - (total[size - 1] - 1) / size, 0)


ROW_FORMULAS = {SOFTMAX: softmax_row, LOG_SOFTMAX: log_softmax_row, SPARSEMAX: sparsemax_row}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("number", ROW_FORMULAS)
def test_row(number, row, dtype, outputs):
    """8 eps of 1 or the result, against the formula in long double (measured 2.4; 1.3 for softmax, 0.6 for sparsemax)."""
    for n in LENGTHS:
        z = INPUTS[f"row_{dtype}_{row}_{n}"]
        got = outputs[f"row_{dtype}_{row}_{n}_{number}"]
        # Entries of a few units moved by the largest keep every digit in long double, or in float64 for float32.
        want = ROW_FORMULAS[number](z.astype(np.longdouble) - z.astype(np.longdouble).max())
        limit = 8 * np.finfo(dtype).eps * np.maximum(1, np.abs(want))
        assert np.all(np.abs(got - want) <= limit), (n, got, want)
        if number != LOG_SOFTMAX:
            assert abs(float(got.sum(dtype="f8")) - 1) < 8 * np.finfo(dtype).eps * max(1, n / 16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_odd_rows(dtype, outputs):
    """NaN, +inf, or nothing but -inf make a row NaN, as NumPy's formulas do; other -inf have no share."""
    for number in ROW_FORMULAS:
        for row in ("nan", "infinity", "nothing"):
            assert np.isnan(outputs[f"row_{dtype}_{row}_{number}"]).all(), (number, row)
    halves = np.array([0.0] * 20 + [0.5, 0.5], dtype)
    assert np.array_equal(outputs[f"row_{dtype}_some_{SOFTMAX}"], halves)
    assert np.array_equal(outputs[f"row_{dtype}_some_{SPARSEMAX}"], halves)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(outputs[f"row_{dtype}_some_{LOG_SOFTMAX}"], np.log(halves), rtol=1e-6)


# -- storage --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("rounding", "dtype"), [(FLOAT16, np.float16), (BFLOAT16, ml_dtypes.bfloat16)], ids=["f2", "bf2"])
def test_rounding_to_storage(rounding, dtype, outputs):
    x = INPUTS["storage_f4"]
    got = outputs[f"storage_f4_{rounding}"]
    with np.errstate(all="ignore"):
        want = x.astype(dtype).astype("f4")
    number = ~np.isnan(x)
    assert np.isnan(got[~number]).all()
    assert np.array_equal(got[number].view("u4"), want[number].view("u4"))
    # What was rounded fits: cutting a NaN to 16 bits must not leave an infinity.
    assert np.isnan(got[~number].astype(dtype).astype("f4")).all()


def test_no_rounding(outputs):
    for dtype, rounding in (("f4", 0), ("f8", 0), ("f8", FLOAT16), ("f8", BFLOAT16)):
        bits = "u4" if dtype == "f4" else "u8"
        assert np.array_equal(outputs[f"storage_{dtype}_{rounding}"].view(bits), INPUTS[f"storage_{dtype}"].view(bits))


# -- across instruction sets ----------------------------------------------------------------------------------------------
def test_instruction_sets_with_fused_multiply_add_agree_to_the_bit():
    """Of all that is computed here, sums over rows included. generic rounds multiply-adds twice and is left out."""
    fused = [isa for isa in _core.isa_available() if isa != "generic"]
    if len(fused) < 2:
        pytest.skip(f"needs two instruction sets with fused multiply-add, this processor and build offer {fused}")
    first = results(fused[0])
    for isa in fused[1:]:
        other = results(isa)
        assert first.keys() == other.keys()
        differing = [key for key in first if key != "isa" and not np.array_equal(first[key], other[key], equal_nan=True)]
        assert not differing
