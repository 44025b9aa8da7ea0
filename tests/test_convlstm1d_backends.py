"""The compiled paths of ConvLSTM1D against the NumPy reference in float64: tile remainders, widths, geometries, masks, dtypes.

The last test runs this whole file once more in a process of its own for each other instruction set of this machine.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from children import finished
from hypothesis import given, settings
from hypothesis import strategies as st
from test_backends import PATHS, TOLERANCES, WIDTHS

from fastlstm import _core, activations
from fastlstm.backends import cpu, reference
from fastlstm.spec import ConvLSTM1DSpec

CHILD = "FASTLSTM_TEST_CONVLSTM1D_CHILD"
MODES = list(itertools.product([False, True], repeat=3))
GEOMETRIES = [(1, 1), (2, 1), (3, 1), (1, 2), (1, 3)]  # strides and dilation
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def spec_of(filters, taps, activation="tanh", recurrent_activation="sigmoid", **options):
    functions = activations.get(activation), activations.get(recurrent_activation)
    return ConvLSTM1DSpec(filters, *functions, kernel_size=taps, **options)


def problem(spec, count, steps, rows, channels, masked=False, bias=True, seed=0):
    """(weights, x, h, c, mask) in float64 of values that float32 holds exactly; weights small enough that errors do not grow."""
    taps, filters = spec.kernel_size, spec.units
    rng = np.random.default_rng([seed, count, steps, rows, channels, filters, taps])

    def draw(*shape, scale=1.0):
        return (rng.standard_normal(shape) * scale).astype(np.float32).astype(np.float64)

    weights = [
        draw(taps, channels, 4 * filters, scale=(taps * channels) ** -0.5),
        draw(taps, filters, 4 * filters, scale=0.7 * (taps * filters) ** -0.5),
        draw(4 * filters),
    ]
    state = (count, spec.rows(rows).rows_out, filters)
    x, h, c = draw(count, steps, rows, channels), draw(*state), draw(*state)
    if spec.channels_first:
        x, h, c = (np.ascontiguousarray(a.swapaxes(-1, -2)) for a in (x, h, c))
    mask = rng.random((count, steps)) < 0.6 if masked else None
    return weights[: 2 + bias], x, h, c, mask


def compiled(path, spec, dtype, weights, x, h, c, mask):
    """The door of the compiled module; its states are channels last in both formats."""
    turn = (lambda a: np.ascontiguousarray(a.swapaxes(-1, -2))) if spec.channels_first else (lambda a: a)
    x, h, c = x.astype(dtype), turn(h.astype(dtype)), turn(c.astype(dtype))
    rows = tuple(spec.rows(x.shape[-1] if spec.channels_first else x.shape[-2])[1:])
    numbers = [cpu.ACTIVATION_NUMBERS[name] for name in spec.activation_names()]
    flags = spec.go_backwards, spec.return_sequences, spec.zero_output_for_mask, spec.channels_first
    prepared = cpu.prepare([w.astype(dtype) for w in weights])
    y, h, c = _core.convlstm1d_forward(prepared, x, h, c, mask, rows, *numbers, 0, *flags, path)
    return y, turn(h), turn(c)


def check(spec, dtype, arrays, paths=PATHS):
    weights, *rest = arrays
    want = reference.convlstm1d_forward(spec, reference.prepare(weights), *rest)
    for path in paths:
        for name, a, b in zip("yhc", compiled(path, spec, dtype, weights, *rest), want, strict=True):
            assert a.shape == b.shape
            assert a.dtype == dtype
            error = (np.abs(a - b) / np.maximum(1, np.abs(b))).max(initial=0)
            assert error < TOLERANCES[dtype], (path, name, error)


def options_of(number):
    """Flags and geometries in turn, so that a sweep over sizes meets all of them."""
    sequences, backwards, zero = MODES[number % 8]
    strides, dilation = GEOMETRIES[number % 5]
    flags = {"return_sequences": sequences, "go_backwards": backwards, "zero_output_for_mask": zero}
    padding = "same" if number % 3 else "valid"
    return flags | {"strides": strides, "dilation_rate": dilation, "padding": padding, "channels_first": number % 7 > 3}


@dtypes
@pytest.mark.parametrize("rows", range(1, 15))
def test_every_number_of_rows_and_width(dtype, rows):
    """Rows of all samples go through tiles of rows together: 1 to 14 of one sample, twice and three times as many of several."""
    for number, filters in enumerate(WIDTHS):
        taps = 1 + number % 4
        spec = spec_of(filters, taps, **options_of(rows + number) | {"padding": "same"})
        check(spec, dtype, problem(spec, 1 + number % 3, 3, rows, WIDTHS[-1 - number], number % 2 == 0))


@dtypes
@pytest.mark.parametrize("taps", range(1, 10))
def test_every_width_of_kernel_and_geometry(dtype, taps):
    for number, (padding, (strides, dilation)) in enumerate(itertools.product(["same", "valid"], GEOMETRIES)):
        for first in (False, True):
            options = {"strides": strides, "dilation_rate": dilation, "padding": padding, "channels_first": first}
            spec = spec_of(5, taps, return_sequences=True, **options)
            rows = (taps - 1) * dilation + 1 + number % 4
            check(spec, dtype, problem(spec, 2, 3, rows, 3, masked=True))


@dtypes
@pytest.mark.parametrize("first", [False, True], ids=["channels_last", "channels_first"])
@pytest.mark.parametrize(("sequences", "backwards", "zero"), MODES)
def test_every_combination_of_flags(dtype, sequences, backwards, zero, first):
    flags = {"return_sequences": sequences, "go_backwards": backwards, "zero_output_for_mask": zero, "channels_first": first}
    for bias, masked in itertools.product([False, True], repeat=2):
        spec = spec_of(6, 3, padding="same", **flags)
        check(spec, dtype, problem(spec, 3, 7, 5, 2, masked, bias))


@dtypes
@pytest.mark.parametrize("name", [n for n in cpu.ACTIVATION_NUMBERS if n != "exponential"])
def test_every_activation_at_both_places(dtype, name):
    """Channels last: over the rows the compiled kernels have no activation."""
    paths = PATHS if activations.is_elementwise(activations.get(name)) else PATHS[1:]
    steps = 1 if name == "log_softmax" else 2  # gates beyond 1 multiply the state, and so its error, at every step
    for filters in (3, 17):
        for both in ((name, "sigmoid"), ("tanh", name)):
            spec = spec_of(filters, 3, *both, return_sequences=True)
            check(spec, dtype, problem(spec, 2, steps, 6, 4, masked=True), paths)


@dtypes
def test_masks_of_whole_samples_and_whole_steps(dtype):
    n, t = np.arange(5)[:, None], np.arange(6)
    masks = [0 * (n + t) > 0, 0 * (n + t) == 0, n % 2 == 0 * t, t % 3 == 0 * n, t < n, t >= n]
    for number, (mask, (sequences, backwards, zero)) in enumerate(itertools.product(masks, MODES)):
        flags = {"return_sequences": sequences, "go_backwards": backwards, "zero_output_for_mask": zero}
        spec = spec_of(5, 3, padding="same", channels_first=number % 2 > 0, **flags)
        weights, x, h, c, _ = problem(spec, 5, 6, 4, 2)
        check(spec, dtype, (weights, x, h, c, np.ascontiguousarray(mask)))


@dtypes
def test_larger_sizes(dtype):
    """More than one block of columns and of depth, several tiles of rows, many steps."""
    for options, sizes in (({"padding": "same"}, (2, 40, 70, 40)), ({"strides": 2}, (3, 5, 130, 9)), ({}, (40, 4, 9, 3))):
        spec = spec_of(70, 5, return_sequences=True, **options)
        check(spec, dtype, problem(spec, *sizes, masked=True))


@settings(max_examples=20 if CHILD in os.environ else 60)
@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 6), st.integers(1, 20), st.integers(1, 20)),
    filters=st.integers(1, 40),
    taps=st.integers(1, 7),
    number=st.integers(0, 839),
    options=st.tuples(st.booleans(), st.booleans()),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 100),
)
def test_any_sizes(sizes, filters, taps, number, options, dtype, seed):
    count, steps, rows, channels = sizes
    spec = spec_of(filters, taps, **options_of(number))
    rows += (taps - 1) * spec.dilation_rate
    check(spec, dtype, problem(spec, count, steps, rows, channels, *options, seed))


@dtypes
def test_empty_batch_and_no_channels(dtype):
    spec = spec_of(3, 2, return_sequences=True)
    for path in PATHS:
        y, h, c = compiled(path, spec, dtype, *problem(spec, 0, 4, 5, 2))
        assert (y.shape, h.shape, c.shape) == ((0, 4, 4, 3), (0, 4, 3), (0, 4, 3))
    weights, _, h, c, _ = problem(spec, 5, 4, 5, 1)
    check(spec, dtype, ([np.zeros((2, 0, 12)), *weights[1:]], np.zeros((5, 4, 5, 0)), h, c, None))


# -- what the compiled module refuses: everything that memory safety depends on ------------------------------------------------
GOOD_ROWS = (6, 1, 1, 1, 8)  # rows out, stride, dilation, pad_left, padded_rows: 6 rows, 3 taps, "same"


def arguments():
    spec = spec_of(5, 3, padding="same")
    weights, x, h, c, _ = problem(spec, 2, 3, 6, 4)
    x, h, c = (a.astype(np.float32) for a in (x, h, c))
    made = {"weights": cpu.prepare([w.astype(np.float32) for w in weights]), "x": x, "h": h, "c": c}
    return made | {"mask": np.ones((2, 3), bool), "rows": GOOD_ROWS}


def call(weights, x, h, c, mask, rows):
    return _core.convlstm1d_forward(weights, x, h, c, mask, rows, 1, 2, 0, False, True, False, False, "fused")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("x", lambda a: a[0]),
        ("x", lambda a: a[:, :0]),
        ("x", lambda a: a[:, :, ::2]),
        ("x", lambda a: np.zeros((2, 3, 9, 4), np.float32)),
        ("x", lambda a: a[..., :3].copy()),
        ("x", lambda a: a.astype(np.float64)),
        ("h", lambda a: a[:1]),
        ("h", lambda a: a[:, :5].copy()),
        ("h", lambda a: a.swapaxes(1, 2).copy()),
        ("c", lambda a: a[..., 0].copy()),
        ("c", lambda a: a.astype(np.float64)),
        ("mask", lambda a: a[:, :2].copy()),
        ("rows", lambda a: (7, 1, 1, 1, 8)),
        ("rows", lambda a: (6, 2, 1, 1, 8)),
        ("rows", lambda a: (6, 1, 2, 1, 8)),
        ("rows", lambda a: (6, 1, 1, -1, 8)),
        ("rows", lambda a: (6, 1, 1, 3, 8)),
        ("rows", lambda a: (0, 1, 1, 1, 8)),
        ("rows", lambda a: (6, 0, 1, 1, 8)),
        ("rows", lambda a: (6, 1, 0, 1, 8)),
    ],
)
def test_bad_arguments_are_refused(name, change):
    good = arguments()
    assert call(**good)[0].shape == (2, 3, 6, 5)
    with pytest.raises(ValueError, match=rf"{name}|geometry"):
        call(**good | {name: change(good[name])})


def test_weights_of_an_lstm_and_of_a_convolution_are_kept_apart():
    good = arguments()
    flat = cpu.prepare([np.zeros((4, 20), np.float32), np.zeros((5, 20), np.float32)])
    with pytest.raises(ValueError, match="channels"):
        call(**good | {"weights": flat})
    x, h = np.zeros((2, 3, 4), np.float32), np.zeros((2, 5), np.float32)
    with pytest.raises(ValueError, match="x: expected shape"):
        _core.lstm_forward(good["weights"], x, h, h, None, 1, 2, 0, False, True, False, "fused")


# -- every instruction set ----------------------------------------------------------------------------------------------------
def run_child(isa):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = os.environ | {"FASTLSTM_ISA": isa, CHILD: "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.skipif(CHILD in os.environ, reason="this is one of the processes that the test starts")
@pytest.mark.parametrize("isa", [isa for isa in _core.isa_available() if isa != _core.isa])
def test_this_file_on(isa, request):
    """The paths are named in the calls above, so FASTLSTM_GEMM changes nothing here."""
    done = finished(request, run_child)
    closing = (done.stdout.strip().splitlines() or [done.stderr])[-1]
    print(f"{isa}: {closing}")
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in closing
