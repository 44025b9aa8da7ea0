"""Calls of the kernels that are bound to their arrays: CallPlan.bound and PackedMatrix.bound."""

from __future__ import annotations

import numpy as np
import pytest

from fastlstm import _core, activations
from fastlstm.backends import cpu
from fastlstm.spec import RecurrentSpec

RNG = np.random.default_rng(12)


def lstm(dtype="float32", features=3, units=5, **options):
    """A CallPlan of constants and the weights that ``cpu.lstm_forward`` takes."""
    shapes = ((features, 4 * units), (units, 4 * units), (4 * units,))
    spec = RecurrentSpec(
        units=units,
        activation=activations.get("tanh"),
        recurrent_activation=activations.get("sigmoid"),
        return_sequences=True,
        storage=dtype,
        **options,
    )
    weights = cpu.prepare([RNG.normal(size=shape).astype(dtype) for shape in shapes])
    return spec, weights, cpu.plan_of_constants(spec, weights)


def arrays(dtype="float32", batch=2, steps=4, features=3, units=5):
    """x, h, c and room for y, h, c, which holds no number that a call could leave."""
    given = [RNG.normal(size=shape).astype(dtype) for shape in ((batch, steps, features), (batch, units), (batch, units))]
    return given, [np.full(shape, np.nan, dtype) for shape in ((batch, steps, units), (batch, units), (batch, units))]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (1, 7), (3, 1), (2, 4), (40, 2)])
@pytest.mark.parametrize("backwards", [False, True])
def test_an_lstm_gives_the_bits_of_the_long_way(dtype, batch, steps, backwards):
    spec, weights, plan = lstm(dtype, go_backwards=backwards)
    (x, h, c), room = arrays(dtype, batch, steps)
    call = plan.bound(x, (h, c), *room)
    for _ in range(3):
        assert call() is None
        for got, wanted in zip(room, cpu.lstm_forward(spec, weights, x, h, c), strict=True):
            np.testing.assert_array_equal(got, wanted)
        for array in (x, h, c):  # the next call reads what is there by then
            array[...] = RNG.normal(size=array.shape)


def test_a_state_that_is_both():
    """One array may be read as h and as c."""
    spec, weights, plan = lstm()
    (x, h, _), room = arrays()
    plan.bound(x, (h, h), *room)()
    for got, wanted in zip(room, cpu.lstm_forward(spec, weights, x, h, h), strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("place", range(6))
def test_arrays_that_do_not_fit_an_lstm(place):
    _, _, plan = lstm()
    for change in (
        lambda a: a.astype("f8"),
        lambda a: a[..., :-1],
        lambda a: a[:1],
        lambda a: a[..., ::-1],
        lambda a: a[None],
        list,
    ):
        given, room = arrays()
        values = [*given, *room]
        values[place] = change(values[place])
        with pytest.raises(ValueError, match=r"not what the kernels want|expected shape"):
            plan.bound(values[0], (values[1], values[2]), *values[3:])


def test_memory_that_is_read_and_written():
    _, _, plan = lstm()
    (x, h, c), (y, h_end, c_end) = arrays()
    for ends in ((y, h, c_end), (y, h_end, h_end), (y, h_end, h_end[:])):
        with pytest.raises(ValueError, match="shares memory"):
            plan.bound(x, (h, c), *ends)
    h_end.flags.writeable = False
    with pytest.raises(ValueError, match="not what the kernels want"):
        plan.bound(x, (h, c), y, h_end, c_end)
    with pytest.raises(ValueError, match="not what the kernels want"):
        plan.bound(x, None, y, h_end, c_end)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("samples", "size", "taps", "stride", "dilation"), [(1, 1, 1, 1, 1), (3, 9, 3, 2, 1), (2, 20, 4, 3, 5), (1, 300, 2, 1, 1)]
)
def test_windows(dtype, samples, size, taps, stride, dilation):
    matrix, bias = RNG.normal(size=(taps * 3, 7)).astype(dtype), RNG.normal(size=7).astype(dtype)
    packed, x = _core.PackedMatrix(matrix, bias), RNG.normal(size=(samples, size, 3)).astype(dtype)
    rows = (size - (taps - 1) * dilation - 1) // stride + 1
    z = np.full((samples, rows, 7), np.nan, dtype)
    product = packed.bound(x, z, taps, stride, dilation)
    for _ in range(2):
        assert product() is None
        np.testing.assert_array_equal(z, packed.windows(x, rows, taps, stride, dilation))
        starts = np.arange(rows)[:, None] * stride + np.arange(taps) * dilation
        wanted = x.astype("f8")[:, starts].reshape(samples, rows, -1) @ matrix + bias
        np.testing.assert_allclose(z, wanted, rtol=1e-5, atol=1e-5 if dtype == "float32" else 1e-12)
        x[...] = RNG.normal(size=x.shape)


def test_arrays_that_do_not_fit_a_matrix():
    packed = _core.PackedMatrix(np.ones((6, 4), "f4"), None)
    x, z = np.ones((2, 5, 3), "f4"), np.empty((2, 4, 4), "f4")
    packed.bound(x, z, 2, 1, 1)()
    frozen = z.copy()
    frozen.flags.writeable = False
    wrong = [
        (x.astype("f8"), z),
        (x[:, ::-1], z),
        (x[:1], z),
        (x[..., :2].copy(), z),
        (x, z.astype("f8")),
        (x, z[:, :, :3].copy()),
    ]
    wrong += [(x, z[0]), (x, frozen), (x, np.empty((2, 5, 4), "f4")), (x, np.empty((2, 0, 4), "f4"))]
    for a, b in wrong:
        with pytest.raises(ValueError, match=r"[xz]: "):
            packed.bound(a, b, 2, 1, 1)
    for taps, stride, dilation in ((3, 1, 1), (2, 2, 1), (2, 1, 3), (2, 0, 1), (2, 1, 0)):
        with pytest.raises(ValueError, match="x: "):
            packed.bound(x, z, taps, stride, dilation)
    square = np.ones((1, 4, 4), "f4")
    with pytest.raises(ValueError, match="beside x"):
        _core.PackedMatrix(np.ones((4, 4), "f4"), None).bound(square, square, 1, 1, 1)


@pytest.mark.parametrize("kind", [_core.BoundCall, _core.BoundProduct])
def test_only_a_plan_or_a_matrix_makes_one(kind):
    with pytest.raises(TypeError, match="made by"):
        kind()
    with pytest.raises(TypeError, match="made by"):
        kind.__new__(kind)()
