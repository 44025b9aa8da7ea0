"""The compiled paths against the NumPy reference in float64: every tile remainder, block edges, masks, both float types.

The last test runs this whole file once more in a process of its own for each instruction set and each GEMM of this machine.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from children import finished
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlstm import LSTM, _core, activations, selector
from fastlstm.backends import cpu, reference
from fastlstm.spec import RecurrentSpec

# Largest |a - b| / max(1, |b|) to float64; a run of 300 steps keeps within a fifth of these.
TOLERANCES = {"float32": 5e-6, "float64": 1e-13}
PATHS = ["fused", "packed", *(["blas"] if importlib.util.find_spec("scipy") else [])]
CHILD = "FASTLSTM_TEST_BACKENDS_CHILD"
# Lanes of a register: 16 float32 (8 float64) at the widest; one below, at and above, then two and a bit.
WIDTHS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33]
MODES = list(itertools.product([False, True], repeat=3))


def problem(count, steps, features, units, masked=False, bias=True, seed=0):
    """(weights, x, h, c, mask) in float64 of values that float32 holds exactly; weights small enough that errors do not grow."""
    rng = np.random.default_rng([seed, count, steps, features, units])

    def draw(*shape, scale=1.0):
        return (rng.standard_normal(shape) * scale).astype(np.float32).astype(np.float64)

    weights = [draw(features, 4 * units, scale=features**-0.5), draw(units, 4 * units, scale=0.7 * units**-0.5), draw(4 * units)]
    mask = rng.random((count, steps)) < 0.6 if masked else None
    return weights[: 2 + bias], draw(count, steps, features), draw(count, units), draw(count, units), mask


def spec_of(units, activation="tanh", recurrent_activation="sigmoid", **flags):
    return RecurrentSpec(units, activations.get(activation), activations.get(recurrent_activation), **flags)


def compiled(path, spec, dtype, weights, x, h, c, mask):
    arrays = [a.astype(dtype) for a in (x, h, c)]
    numbers = [cpu.ACTIVATION_NUMBERS[name] for name in spec.activation_names()]
    prepared = cpu.prepare([w.astype(dtype) for w in weights])
    flags = spec.go_backwards, spec.return_sequences, spec.zero_output_for_mask
    return _core.lstm_forward(prepared, *arrays, mask, *numbers, 0, *flags, path)


def check(spec, dtype, arrays, paths=PATHS):
    weights, *rest = arrays
    want = reference.lstm_forward(spec, reference.prepare(weights), *rest)
    for path in paths:
        got = compiled(path, spec, dtype, weights, *rest)
        for name, a, b in zip("yhc", got, want, strict=True):
            assert a.shape == b.shape
            assert a.dtype == dtype
            error = (np.abs(a - b) / np.maximum(1, np.abs(b))).max(initial=0)
            assert error < TOLERANCES[dtype], (path, name, error)


dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


@dtypes
@pytest.mark.parametrize("count", range(1, 15))
def test_every_number_of_rows_and_width(dtype, count):
    for number, units in enumerate(WIDTHS):
        sequences, backwards, zero = MODES[number % 8]
        flags = {"return_sequences": sequences, "go_backwards": backwards, "zero_output_for_mask": zero}
        for steps, masked in ((1, False), (3, number % 2 == 0), (4, True)):
            check(spec_of(units, **flags), dtype, problem(count, steps, WIDTHS[-1 - number], units, masked))


@dtypes
@pytest.mark.parametrize("count", [15, 16, 17, 31, 32, 33, 50])
def test_many_rows_of_few_units(dtype, count):
    for units, (sequences, backwards, zero) in zip(range(1, 9), MODES, strict=True):
        flags = {"return_sequences": sequences, "go_backwards": backwards, "zero_output_for_mask": zero}
        check(spec_of(units, **flags), dtype, problem(count, 4, 3, units, masked=not backwards))


@dtypes
@pytest.mark.parametrize("units", [1, 3, 16, 17, 40])
def test_a_sample_has_the_same_bits_in_every_batch(dtype, units):
    """However the fused kernel lays a batch out, each number is the same sum in the same order."""
    weights, x, h, c, mask = problem(40, 6, 5, units, masked=True)
    spec = spec_of(units, return_sequences=True)
    whole = compiled("fused", spec, dtype, weights, x, h, c, mask)
    for count in (1, 2, 3, 4, 5, 7, 13, 17, 33):
        part = compiled("fused", spec, dtype, weights, x[:count], h[:count], c[:count], mask[:count].copy())
        for a, b in zip(whole, part, strict=True):
            np.testing.assert_array_equal(a[:count], b)


@dtypes
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("sequences", "backwards", "zero"), MODES)
def test_every_combination_of_flags(dtype, sequences, backwards, zero, masked):
    spec = spec_of(6, return_sequences=sequences, go_backwards=backwards, zero_output_for_mask=zero)
    for count, bias in ((1, True), (2, False), (3, True), (4, True), (5, False)):
        check(spec, dtype, problem(count, 9, 5, 6, masked, bias))


@dtypes
@pytest.mark.parametrize(("count", "steps", "units"), [(1, 300, 64), (2, 150, 96), (3, 100, 128), (13, 90, 33), (40, 30, 64)])
def test_more_steps_than_one_block_of_projections_holds(dtype, count, steps, units):
    """A block is 256 KiB of pre-activations: these sequences need at least two of them (one sample at a time, or many)."""
    size = np.dtype(dtype).itemsize
    assert steps * count * 4 * units * size > 256 * 1024
    for backwards in (False, True):
        spec = spec_of(units, return_sequences=True, go_backwards=backwards)
        check(spec, dtype, problem(count, steps, 7, units, masked=not backwards))


@pytest.mark.parametrize("count", [1, 4])
def test_a_row_wider_than_a_block_of_projections(count):
    check(spec_of(400, return_sequences=True), "float64", problem(24 * count, 3, 5, 400))


@dtypes
@pytest.mark.parametrize("name", [n for n in cpu.ACTIVATION_NUMBERS if n != "exponential"])
def test_every_activation_at_both_places(dtype, name):
    paths = PATHS if activations.is_elementwise(activations.get(name)) else PATHS[1:]
    steps = 1 if name == "log_softmax" else 3  # as a gate it multiplies the state, and so its error, at every step
    for units in (3, 16, 17):
        arrays = problem(3, steps, 4, units, masked=True)
        for both in ((name, "sigmoid"), ("tanh", name)):
            check(spec_of(units, *both, return_sequences=True), dtype, arrays, paths)


@dtypes
def test_exponential(dtype):
    weights, x, h, c, _ = problem(3, 1, 4, 17)
    check(spec_of(17, "exponential", "exponential"), dtype, ([0.1 * w for w in weights], x, h, 0.1 * c, None))


@dtypes
def test_masks_of_whole_rows_and_whole_steps(dtype):
    weights, x, h, c, _ = problem(5, 6, 4, 17)
    masks = [
        np.zeros((5, 6), bool),
        np.ones((5, 6), bool),
        np.arange(5)[:, None] % 2 == np.zeros(6),
        np.arange(6) % 3 == np.zeros((5, 1)),
    ]
    masks += [np.arange(6) < np.arange(5)[:, None], np.arange(6) >= np.arange(5)[:, None]]
    for mask, (sequences, backwards, zero) in itertools.product(masks, MODES):
        spec = spec_of(17, return_sequences=sequences, go_backwards=backwards, zero_output_for_mask=zero)
        check(spec, dtype, (weights, x, h, c, np.ascontiguousarray(mask)))


@dtypes
def test_masks_of_every_length(dtype):
    """Rows in the lanes read a sample's mask four or eight steps at a time; a byte of a mask may be any number but 0."""
    rng = np.random.default_rng(7)
    for steps in range(1, 20):
        sequences, backwards, zero = MODES[steps % 8]
        spec = spec_of(4, return_sequences=sequences, go_backwards=backwards, zero_output_for_mask=zero)
        *arrays, mask = problem(18, steps, 2, 4, masked=True)
        check(spec, dtype, (*arrays, mask))
        odd = (mask * rng.integers(1, 256, mask.shape)).astype(np.uint8).view(bool)
        for path in PATHS:
            for a, b in zip(compiled(path, spec, dtype, *arrays, odd), compiled(path, spec, dtype, *arrays, mask), strict=True):
                np.testing.assert_array_equal(a, b)


@settings(max_examples=60)
@given(
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 12), st.integers(1, 40), st.integers(1, 70)),
    flags=st.tuples(*[st.booleans()] * 5),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 100),
)
def test_any_sizes(sizes, flags, dtype, seed):
    sequences, backwards, zero, masked, bias = flags
    spec = spec_of(sizes[-1], return_sequences=sequences, go_backwards=backwards, zero_output_for_mask=zero)
    check(spec, dtype, problem(*sizes, masked, bias, seed))


@dtypes
@pytest.mark.parametrize("path", PATHS)
def test_rows_do_not_depend_on_their_neighbours(dtype, path):
    """NaN in one sample stays there, and the other samples keep their bits."""
    weights, x, h, c, mask = problem(14, 5, 6, 17, masked=True)
    spec = spec_of(17, return_sequences=True)
    clean = compiled(path, spec, dtype, weights, x, h, c, mask)
    for row in range(14):
        spoilt = x.copy()
        spoilt[row] = np.nan
        others = np.arange(14) != row
        for a, b in zip(clean, compiled(path, spec, dtype, weights, spoilt, h, c, mask), strict=True):
            np.testing.assert_array_equal(a[others], b[others])


@dtypes
@pytest.mark.parametrize("path", PATHS)
def test_layers_reach_the_same_numbers(dtype, path):
    weights, x, h, c, mask = problem(4, 8, 5, 17, masked=True)
    layer = LSTM(17, return_sequences=True, return_state=True, dtype=dtype, use_cudnn="auto" if path == "fused" else False)
    layer.build(x.shape)
    layer.set_weights(weights)
    with selector.use_backend("reference"):
        want = LSTM.from_config({**layer.get_config(), "dtype": "float64"})
        want.build(x.shape)
        want.set_weights(weights)
        want = want(x, [h, c], mask)
    for _ in range(2):
        for a, b in zip(layer(x.astype(dtype), [h.astype(dtype), c.astype(dtype)], mask), want, strict=True):
            np.testing.assert_allclose(a, b, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])


@dtypes
def test_empty_batch_and_no_features(dtype):
    for path in PATHS:
        y, h, c = compiled(path, spec_of(3, return_sequences=True), dtype, *problem(0, 4, 5, 3))
        assert (y.shape, h.shape, c.shape) == ((0, 4, 3), (0, 3), (0, 3))
    weights, _, h, c, _ = problem(5, 4, 1, 3)
    check(spec_of(3), dtype, ([np.zeros((0, 12)), *weights[1:]], np.zeros((5, 4, 0)), h, c, None))


# -- what the compiled module refuses: everything that memory safety depends on ------------------------------------------------
def arguments():
    weights, x, h, c, _ = problem(2, 3, 4, 5)
    x, h, c = (a.astype(np.float32) for a in (x, h, c))
    made = {
        "weights": cpu.prepare([w.astype(np.float32) for w in weights]),
        "x": x,
        "h": h,
        "c": c,
        "mask": np.ones((2, 3), bool),
    }
    return made | {"activation": 1, "recurrent_activation": 2, "path": "fused"}


def call(weights, x, h, c, mask, activation, recurrent_activation, path):
    return _core.lstm_forward(weights, x, h, c, mask, activation, recurrent_activation, 0, False, True, False, path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("x", lambda a: a[0]),
        ("x", lambda a: a[:, :0]),
        ("x", lambda a: a[:, ::2]),
        ("x", lambda a: a[..., :3].copy()),
        ("x", lambda a: a.astype(np.float64)),
        ("x", lambda a: a.astype(">f4")),
        ("x", lambda a: a.tolist()),
        ("h", lambda a: a[:1]),
        ("h", lambda a: a[:, :4].copy()),
        ("c", lambda a: a.astype(np.float64)),
        ("c", lambda a: a.tolist()),
        ("mask", lambda a: a[:, :2].copy()),
        ("mask", lambda a: a[:1]),
        ("mask", lambda a: a.astype(int)),
        ("mask", lambda a: a.T),
        ("activation", lambda a: -1),
        ("activation", lambda a: 1000),
        ("recurrent_activation", lambda a: cpu.ACTIVATION_NUMBERS["softmax"]),
        ("path", lambda a: "fast"),
    ],
)
def test_bad_arguments_are_refused(name, change):
    good = arguments()
    assert call(**good)[0].shape == (2, 3, 5)
    with pytest.raises(ValueError, match=rf"{name}|activation"):
        call(**good | {name: change(good[name])})


def test_weights_that_do_not_belong_together_are_refused():
    kernel, recurrent, bias = (w.astype(np.float32) for w in problem(1, 1, 4, 5)[0])
    bad = [(kernel[:, :16], recurrent, bias), (kernel, recurrent[:4], bias), (kernel, recurrent, bias[:19])]
    bad += [(kernel.astype(np.float64), recurrent, bias), (kernel, recurrent.T, bias), (kernel[:, :0], recurrent[:0, :0], None)]
    for weights in bad:
        with pytest.raises(ValueError, match=r"kernel|bias"):
            _core.GateWeights(*weights)
    with pytest.raises(TypeError, match="expected float32 or float64"):
        _core.GateWeights(*[w.astype(np.float16) for w in (kernel, recurrent, bias)])


# -- every instruction set and GEMM ------------------------------------------------------------------------------------------
CONFIGURATIONS = [
    *[("FASTLSTM_ISA", isa) for isa in _core.isa_available() if isa != _core.isa or "FASTLSTM_GEMM" in os.environ],
    *[("FASTLSTM_GEMM", gemm) for gemm in ("blas", "packed")],
]


def run_child(variable, value):
    """pytest on this file in a process with this setting; None where there is no BLAS to be had."""
    if value == "blas" and importlib.util.find_spec("scipy") is None:
        return None
    kept = {k: v for k, v in os.environ.items() if k not in ("FASTLSTM_ISA", "FASTLSTM_GEMM")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not test_this_file_on", __file__]
    environment = {**kept, variable: value, CHILD: "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.skipif(CHILD in os.environ, reason="this is one of the processes that the test starts")
@pytest.mark.parametrize(("variable", "value"), CONFIGURATIONS, ids=[value for _, value in CONFIGURATIONS])
def test_this_file_on(variable, value, request):
    """The instruction set that is left is that of this process."""
    done = finished(request, run_child)
    if done is None:
        pytest.skip("FASTLSTM_GEMM=blas needs SciPy, which is not installed")
    closing = (done.stdout.strip().splitlines() or [done.stderr])[-1]
    print(f"{variable}={value}: {closing}")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in closing
