"""PackedMatrix, the product behind Dense: x @ matrix + bias against NumPy in float64, for every remainder of rows and columns."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlstm import _core

dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
EPSILON = {"float32": 2.0**-23, "float64": 2.0**-52}
# A vector holds 16 float32 at the widest, a block four vectors, a tile 6 rows, one call of the kernel 256 rows.
COLUMNS = [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 47, 48, 49, 63, 64, 65, 70, 127, 128, 129]
ROWS = [*range(1, 15), 23, 24, 25, 255, 256, 257, 261, 300]


def draw(dtype, *shape, seed=0):
    """Values that both dtypes hold exactly."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32).astype(dtype)


def check(got, x, matrix, bias):
    """Within the error bound of a sum of depth + 1 terms in any order."""
    x, matrix = x.astype(np.float64), matrix.astype(np.float64)
    bias = np.zeros(matrix.shape[1]) if bias is None else bias.astype(np.float64)
    bound = np.abs(x) @ np.abs(matrix) + np.abs(bias)
    assert got.shape == bound.shape
    error = np.abs(got - (x @ matrix + bias))
    assert (error <= (len(matrix) + 2) * EPSILON[got.dtype.name] * bound).all()


@dtypes
@pytest.mark.parametrize("columns", COLUMNS)
def test_every_number_of_rows(columns, dtype):
    depth = 1 + columns % 13
    matrix, bias, x = draw(dtype, depth, columns), draw(dtype, columns), draw(dtype, max(ROWS), depth)
    packed = _core.PackedMatrix(matrix, bias)
    for rows in ROWS:
        got = packed.affine(x[:rows])
        assert got.dtype == dtype
        assert got.flags.c_contiguous
        check(got, x[:rows], matrix, bias)


@given(
    st.tuples(st.integers(1, 300), st.integers(1, 70), st.integers(1, 70)),
    st.sampled_from(["float32", "float64"]),
    st.booleans(),
    st.integers(0, 100),
)
def test_any_sizes(size, dtype, use_bias, seed):
    rows, depth, columns = size
    matrix, x = draw(dtype, depth, columns, seed=seed), draw(dtype, rows, depth, seed=seed)
    bias = draw(dtype, columns, seed=seed) if use_bias else None
    check(_core.PackedMatrix(matrix, bias).affine(x), x, matrix, bias)


@dtypes
def test_no_element_goes_astray(dtype):
    """One 1 in the matrix brings one column of x, exactly, to one column of the result."""
    x = draw(dtype, 7, 6)
    for columns in (5, 16, 33, 70):
        for k, n in itertools.product(range(6), range(columns)):
            matrix, want = np.zeros((6, columns), dtype), np.zeros((7, columns), dtype)
            matrix[k, n] = 1
            want[:, n] = x[:, k]
            np.testing.assert_array_equal(_core.PackedMatrix(matrix, None).affine(x), want)


@dtypes
def test_bias_alone(dtype):
    """Zeros in x, no rows, and no depth."""
    for columns in (1, 33, 64, 70):
        bias = draw(dtype, columns)
        packed = _core.PackedMatrix(draw(dtype, 5, columns), bias)
        np.testing.assert_array_equal(packed.affine(np.zeros((9, 5), dtype)), np.broadcast_to(bias, (9, columns)))
        assert packed.affine(np.zeros((0, 5), dtype)).shape == (0, columns)
        flat = _core.PackedMatrix(np.zeros((0, columns), dtype), bias)
        np.testing.assert_array_equal(flat.affine(np.zeros((9, 0), dtype)), np.broadcast_to(bias, (9, columns)))


@dtypes
def test_the_matrix_is_copied(dtype):
    """What happens to the caller's arrays later does not matter, and they are not written to."""
    matrix, bias, x = draw(dtype, 5, 17), draw(dtype, 17), draw(dtype, 8, 5)
    for array in (matrix, bias, x):
        array.flags.writeable = False
    packed = _core.PackedMatrix(matrix, bias)
    first = packed.affine(x)
    again = matrix.copy(), bias.copy()
    packed = _core.PackedMatrix(*again)
    for array in again:
        array[...] = np.nan
    np.testing.assert_array_equal(packed.affine(x), first)
    assert (packed.depth, packed.columns, packed.dtype) == (5, 17, np.dtype(dtype))


@dtypes
def test_nan_and_infinity(dtype):
    """As in NumPy: 0 * inf is NaN, and only the rows that hold one are touched."""
    matrix, x = np.ones((3, 20), dtype), np.ones((4, 3), dtype)
    matrix[1, 5], x[2, 0], x[3, 1] = 0, np.inf, np.inf
    got = _core.PackedMatrix(matrix, None).affine(x)
    want = np.full((4, 20), 3, dtype)
    want[:2, 5] = 2
    want[2:] = np.inf
    want[3, 5] = np.nan
    np.testing.assert_array_equal(got, want)


@dtypes
def test_threads_share_a_matrix(dtype):
    matrix, bias, x = draw(dtype, 60, 70), draw(dtype, 70), draw(dtype, 300, 60)
    packed = _core.PackedMatrix(matrix, bias)
    results: list[np.ndarray] = []
    serial = packed.affine(x)
    threads = [threading.Thread(target=lambda: results.extend(packed.affine(x) for _ in range(20))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 80
    for got in results:
        np.testing.assert_array_equal(got, serial)


# -- what is refused ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("matrix", "bias", "name"),
    [
        (np.ones(6, np.float32), None, "matrix"),
        (np.ones((2, 3, 4), np.float32), None, "matrix"),
        (np.ones((3, 8), np.float32)[:, ::2], None, "matrix"),
        (np.ones((3, 4), np.float32).T, None, "matrix"),
        (np.ones((3, 4), np.float32), np.ones(3, np.float32), "bias"),
        (np.ones((3, 4), np.float32), np.ones((1, 4), np.float32), "bias"),
        (np.ones((3, 4), np.float32), np.ones(4, np.float64), "bias"),
        (np.ones((3, 4), np.float32), np.ones(8, np.float32)[::2], "bias"),
        (np.ones((3, 4), np.float32), [1.0, 2.0, 3.0, 4.0], "bias"),
    ],
)
def test_bad_matrices(matrix, bias, name):
    with pytest.raises(ValueError, match=rf"^{name}: expected"):
        _core.PackedMatrix(matrix, bias)


@pytest.mark.parametrize("dtype", ["float16", "int32", "complex64", "bool", ">f4"])
def test_bad_dtypes(dtype):
    with pytest.raises(TypeError, match="expected float32 or float64"):
        _core.PackedMatrix(np.ones((3, 4), dtype), None)


@pytest.mark.parametrize(
    "x",
    [
        np.ones((2, 4), np.float32),
        np.ones((2, 2), np.float32),
        np.ones(3, np.float32),
        np.ones((2, 3), np.float64),
        np.ones((2, 6), np.float32)[:, ::2],
        np.ones((3, 2), np.float32).T,
        np.ones((2, 3), ">f4"),
        np.frombuffer(bytes(25), np.float32, 6, 1).reshape(2, 3),
        [[1.0, 2.0, 3.0]],
        None,
    ],
)
def test_bad_rows(x):
    packed = _core.PackedMatrix(np.ones((3, 4), np.float32), None)
    with pytest.raises(ValueError, match=r"^x: expected"):
        packed.affine(x)
    np.testing.assert_array_equal(packed.affine(np.ones((2, 3), np.float32)), np.full((2, 4), 3))
