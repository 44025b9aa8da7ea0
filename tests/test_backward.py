"""The compiled backward passes against the NumPy reference in float64: tile remainders, blocks of time, masks, convolutions.

The last test runs this file and the layers' part (test_backward_layers.py) in a process of its own for each other instruction
set of this machine, and for BLAS.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from backward_runs import (
    BLOCK_ROWS,
    CHANNELS,
    ELEMENTWISE,
    FLAGS,
    LANES,
    TOLERANCES,
    UNITS,
    Runner,
    check,
    conv_arrays,
    conv_spec,
    cotangents_for,
    dropout_masks,
    lstm_arrays,
    lstm_spec,
    random_mask,
)
from children import finished

from fastlstm import _core
from fastlstm.backends import cpu

CHILD = "FASTLSTM_TEST_BACKWARD_CHILD"
ROWS = [*range(1, 10), 13]
SIX_FLAGS = [FLAGS[k] for k in (0, 3, 5, 6)]
# Every pattern of four steps: sample k is masked where the bits of k are 0.
EVERY_MASK = (np.arange(16)[:, None] >> np.arange(4)) % 2 == 1


def same(got, want):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


# -- tiles --------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("units", UNITS)
def test_every_number_of_rows_by_units(units):
    """The product with the transposed recurrent kernel, the last lanes of dz, and weight gradients of that many rows."""
    for number, count in enumerate(ROWS):
        mask = random_mask(count, 3) if number % 2 else None
        features = CHANNELS[(number + units) % len(CHANNELS)]
        check(lstm_spec(units, **FLAGS[number % 8]), lstm_arrays(units, count, 3, features), mask)


@pytest.mark.parametrize("features", CHANNELS)
def test_every_number_of_rows_by_features(features):
    """The product with the transposed kernel: narrow panels of one and two vectors, wide ones of one block and more."""
    for number, count in enumerate(ROWS):
        mask = random_mask(count, 3) if number % 2 == 0 else None
        check(lstm_spec(3, **FLAGS[-1 - number % 8]), lstm_arrays(3, count, 3, features), mask)


@pytest.mark.parametrize("features", [1, 2, 3, 4, 5, 6, 7, 11])
@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 7])
def test_weight_gradients_of_every_number_of_rows_and_blocks(features, blocks):
    """Three blocks of units go side by side where there is one row, and one or two are left over."""
    for lanes in LANES:
        check(lstm_spec(blocks * lanes - 1), lstm_arrays(blocks * lanes - 1, 2, 2, features))


@pytest.mark.parametrize("lanes", LANES)
def test_wide_panels_of_three_blocks_and_one_row(lanes):
    check(lstm_spec(9 * lanes + 1, return_sequences=True), lstm_arrays(9 * lanes + 1, 1, 3, 13 * lanes + 1))


@pytest.mark.parametrize("count", ROWS)
@pytest.mark.parametrize("filters", UNITS)
def test_rows_of_a_convolution(count, filters):
    options = {"padding": "same", "return_sequences": count % 2 == 1}
    for taps, channels in ((2, CHANNELS[count % len(CHANNELS)]), (3, CHANNELS[filters % len(CHANNELS)])):
        spec = conv_spec(filters, taps, **options)
        check(spec, conv_arrays(spec, 2, 2, count, channels), random_mask(2, 2, seed=count))


# -- blocks of time -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("flags", SIX_FLAGS, ids=str)
@pytest.mark.parametrize(("count", "steps"), [(1, 300), (1, 256), (3, 100), (13, 45), (100, 5), (300, 2)])
def test_more_steps_than_one_block(count, steps, flags):
    """Whole and partial blocks; a step of more rows than a block is one by itself, and takes two passes for the weights."""
    assert count * steps >= BLOCK_ROWS
    mask = random_mask(count, steps) if flags["zero_output_for_mask"] or flags["go_backwards"] else None
    check(lstm_spec(5, **flags), lstm_arrays(5, count, steps, 2), mask)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("count", "steps", "rows", "options"),
    [
        (1, 60, 9, {}),
        (2, 30, 9, {"strides": 2}),
        (2, 33, 7, {"dilation_rate": 2, "channels_first": True}),
        (3, 3, 120, {}),
        (1, 2, 600, {"strides": 4}),
    ],
)
def test_more_steps_of_a_convolution_than_one_block(count, steps, rows, options, masked):
    spec = conv_spec(4, 3, padding="same", return_sequences=True, **options)
    check(spec, conv_arrays(spec, count, steps, rows, 2), random_mask(count, steps) if masked else None)


# -- masks ----------------------------------------------------------------------------------------------------------------
def problem(verb, count=16, steps=4, **flags):
    if verb == "lstm":
        return lstm_spec(9, **flags), lstm_arrays(9, count, steps, 3)
    spec = conv_spec(5, 2, padding="same", **flags)
    return spec, conv_arrays(spec, count, steps, 3, 2)


verbs = pytest.mark.parametrize("verb", ["lstm", "convlstm1d"])
flagged = pytest.mark.parametrize("flags", FLAGS, ids=lambda flags: "-".join(k for k, v in flags.items() if v) or "plain")


@verbs
@flagged
def test_every_pattern_of_masks(verb, flags):
    """Among them a sample that is masked throughout."""
    check(*problem(verb, **flags), EVERY_MASK)


@verbs
@flagged
@pytest.mark.parametrize("valid", [0, 2, 5, 9, 15], ids=bin)
def test_steps_that_are_masked_for_all(verb, flags, valid):
    want = check(*problem(verb, count=3, **flags), np.ascontiguousarray(EVERY_MASK[[valid] * 3]))
    if valid == 0:
        assert not any(gradient.any() for gradient in (want[0], *want[3:]))


@verbs
@flagged
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_masked_inputs_get_exactly_zero_whatever_they_hold(verb, flags, dtype):
    """And the weights' gradients are those of clean inputs, to the bit."""
    spec, (weights, x, h, c) = problem(verb, **flags)
    valid = EVERY_MASK.reshape(*EVERY_MASK.shape, *[1] * (x.ndim - 2))
    answers = []
    for hole in (0.5, np.nan, np.inf):
        ran = Runner(cpu, spec, (weights, np.where(valid, x, hole), h, c), EVERY_MASK, dtype)
        answers.append(ran(*cotangents_for(ran.outputs)))
        assert not answers[-1][0][~EVERY_MASK].any()
        assert all(np.isfinite(gradient).all() for gradient in answers[-1])
        same(answers[-1], answers[0])
    assert all(gradient.any() for gradient in answers[0])


@verbs
def test_a_mask_of_ones_changes_nothing(verb):
    spec, arrays = problem(verb, return_sequences=True)
    ran = [Runner(cpu, spec, arrays, mask) for mask in (None, np.ones((16, 4), bool))]
    given = cotangents_for(ran[0].outputs)
    same(ran[1](*given), ran[0](*given))


# -- cotangents, dropout, bias --------------------------------------------------------------------------------------------
@verbs
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("present", ["y", "h", "c", "yh", "hc", ""])
def test_cotangents_that_are_absent_are_zeros(verb, present, sequences, masked):
    spec, arrays = problem(verb, return_sequences=sequences)
    mask = EVERY_MASK if masked else None
    want = check(spec, arrays, mask, present=present)
    assert want[3].any() == bool(present)
    ran = Runner(cpu, spec, arrays, mask)
    given = cotangents_for(ran.outputs, present)
    same(ran(*given), ran(*[np.zeros_like(a) if g is None else g for g, a in zip(given, ran.outputs, strict=True)]))


@verbs
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_tape_is_read_any_number_of_times(verb, dtype):
    """Also after another forward and backward of the same weights, which take the workspaces that are left."""
    spec, arrays = problem(verb, return_sequences=True)
    ran = Runner(cpu, spec, arrays, EVERY_MASK, dtype)
    given = cotangents_for(ran.outputs)
    first = [a.copy() for a in ran(*given)]
    ran(*cotangents_for(ran.outputs, "y", seed=1))
    forward, backward = (getattr(cpu, f"{ran.verb}_{way}") for way in ("forward", "backward"))
    rest = [np.concatenate([a, a]).astype(dtype) for a in arrays[1:]]
    *outputs, tape = forward(spec, ran.weights, *rest, None, None, record=True)
    backward(spec, ran.weights, tape, *outputs)
    same(ran(*given), first)


@pytest.mark.parametrize("masked", [False, True])
def test_one_dropout_mask_of_the_inputs(masked):
    spec, arrays = problem("lstm", return_sequences=True)
    dropout = dropout_masks(arrays, 1, 0)
    dx, *_ = check(spec, arrays, EVERY_MASK if masked else None, dropout)
    dropped = np.broadcast_to(dropout.inputs[0][:, None] == 0, dx.shape)
    assert dropped.any()
    assert not dx[dropped].any()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("inputs", "recurrent"), [(4, 0), (0, 4), (1, 4), (4, 4)])
@pytest.mark.parametrize("kind", ["lstm", "convlstm1d", "channels_first", "strides"])
def test_a_dropout_mask_for_each_gate(kind, inputs, recurrent, masked):
    if kind != "lstm" and inputs == 1:
        inputs = 4  # a convolution draws four
    flags = {"return_sequences": True, "go_backwards": masked}
    for count, size in ((1, 3), (2, LANES[1] + 1), (5, LANES[0] + 1), (9, 2)):
        if kind == "lstm":
            spec = lstm_spec(size, **flags)
            arrays = lstm_arrays(size, count, 4, 3 + count)
        else:
            options = {"channels_first": kind == "channels_first", "strides": 2 if kind == "strides" else 1}
            spec = conv_spec(size, 3, padding="same", **flags, **options)
            arrays = conv_arrays(spec, count, 4, 5, 2)
        check(spec, arrays, random_mask(count, 4) if masked else None, dropout_masks(arrays, inputs, recurrent))


@verbs
@pytest.mark.parametrize("masked", [False, True])
def test_no_bias(verb, masked):
    spec, (weights, *rest) = problem(verb, return_sequences=True)
    assert len(check(spec, (weights[:2], *rest), EVERY_MASK if masked else None)) == 5


@verbs
def test_no_samples(verb):
    check(*problem(verb, count=0))


def test_no_features():
    check(lstm_spec(5), lstm_arrays(5, 3, 4, 0))


# -- activations ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_every_elementwise_activation_at_both_places(name):
    for units, masked in ((3, True), (LANES[0] + 1, False)):
        for both in ((name, "sigmoid"), ("tanh", name), (name, name)):
            # c grows from step to step like a product of unbounded gates, which float32 loses: the weights are smaller then.
            scale, steps = 0.4 if both == (name, name) else 1.0, 3
            if name == "exponential":
                scale, steps = 0.1, 1 if both == (name, name) else 2
            arrays = lstm_arrays(units, 3, steps, 4, scale=scale)
            check(lstm_spec(units, *both, return_sequences=masked), arrays, random_mask(3, steps) if masked else None)
    spec = conv_spec(3, 2, name, "sigmoid" if name == "exponential" else name, return_sequences=True)
    check(spec, conv_arrays(spec, 2, 2, 4, 2, scale=0.1 if name == "exponential" else 0.4))


# -- geometry of convolutions ---------------------------------------------------------------------------------------------
GEOMETRIES = [
    *itertools.product([1, 2, 3, 4], [1], [1, 2, 3, 5, 6], ["valid", "same"], [6, 9]),
    *itertools.product([1], [2, 3], [2, 3, 4], ["valid", "same"], [4, 10]),
    (1, 1, 7, "same", 3),  # a kernel wider than the rows
    (1, 3, 4, "same", 2),
    (2, 1, 8, "same", 1),
    (5, 1, 2, "valid", 12),  # rows that no window reaches
    (7, 1, 3, "same", 5),
    (7, 1, 3, "valid", 3),
]


@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("stride", [1, 2, 3, 4, 5, 7])
def test_geometries(stride, channels_first):
    ran = 0
    for number, (strides, dilation, taps, padding, rows) in enumerate(GEOMETRIES):
        if strides != stride or (padding == "valid" and rows < (taps - 1) * dilation + 1):
            continue
        options = {"strides": strides, "dilation_rate": dilation, "padding": padding, "channels_first": channels_first}
        spec = conv_spec(3, taps, **options, **FLAGS[number % 8])
        check(spec, conv_arrays(spec, 2, 3, rows, 2), random_mask(2, 3, number) if number % 3 else None)
        ran += 1
    assert ran >= 1


def test_rows_that_no_window_reaches_get_exactly_zero():
    spec = conv_spec(3, 2, strides=5, return_sequences=True)
    dx = check(spec, conv_arrays(spec, 2, 3, 12, 2))[0]
    reached = np.isin(np.arange(12), [0, 1, 5, 6, 10, 11])
    assert not dx[:, :, ~reached].any()
    assert dx[:, :, reached].all()


# -- anything ---------------------------------------------------------------------------------------------------------------
def any_problem(rng):
    """(spec, arrays, mask, dropout, present) of random sizes and options."""

    def pick(*values):
        return values[int(rng.integers(len(values)))]

    count, steps, units, channels = (int(rng.integers(1, most)) for most in (18, 9, 40, 40))
    flags = FLAGS[rng.integers(8)]
    names = pick(("tanh", "sigmoid"), ("tanh", "sigmoid"), ("relu", "hard_sigmoid"), ("gelu", "silu"), ("softsign", "sigmoid"))
    bias, seed = pick(True, True, False), int(rng.integers(1000))
    mask, scale = rng.random((count, steps)) < pick(0.2, 0.6, 0.9) if pick(True, False) else None, 1.0
    if names[0] in ("relu", "gelu"):
        scale = 0.4
    if pick("lstm", "convlstm1d") == "lstm":
        spec, arrays = lstm_spec(units, *names, **flags), lstm_arrays(units, count, steps, channels, bias, seed, scale)
    else:
        count, steps, units, channels = 1 + count // 4, 1 + steps // 2, 1 + units // 2, 1 + channels // 2
        taps, stride = int(rng.integers(1, 6)), pick(1, 1, 2, 3, 6)
        dilation, padding = (pick(1, 2, 3) if stride == 1 else 1), pick("valid", "same")
        rows = int(rng.integers(1, 12)) + ((taps - 1) * dilation if padding == "valid" else 0)
        options = {"strides": stride, "dilation_rate": dilation, "padding": padding, "channels_first": pick(True, False)}
        spec = conv_spec(units, taps, *names, **options, **flags)
        arrays = conv_arrays(spec, count, steps, rows, channels, bias, seed, scale)
        mask = None if mask is None else np.ascontiguousarray(mask[:count, :steps])
    inputs, recurrent = pick((1, 0) if arrays[1].ndim == 3 else (4, 0), (4, 4), (0, 4), (0, 0), (0, 0), (0, 0))
    dropout = dropout_masks(arrays, inputs, recurrent, seed) if inputs + recurrent else None
    return spec, arrays, mask, dropout, pick("yhc", "yhc", "y", "hc", "yc")


@pytest.mark.parametrize("seed", range(150))
def test_any_configuration(seed):
    spec, arrays, mask, dropout, present = any_problem(np.random.default_rng([20, seed]))
    check(spec, arrays, mask, dropout, present)


# -- sizes of numbers ------------------------------------------------------------------------------------------------------
def test_values_of_any_size():
    """Saturated gates, and cotangents too small or large for float32 squares: the sums stay linear in the cotangents."""
    spec, (weights, x, h, c) = problem("lstm", count=3)
    ran = Runner(cpu, spec, (weights, 40 * x, h, 100 * c), None, "float32")
    given = cotangents_for(ran.outputs)
    ones = ran(*given)
    assert all(np.isfinite(a).all() for a in ones)
    for scale in (2.0**-40, 2.0**60):
        for a, b in zip(ran(*(g * scale for g in given)), ones, strict=True):
            normal = np.abs(b) > 2.0**-60
            np.testing.assert_array_equal(a[normal], (b * np.float32(scale))[normal])


# -- every instruction set and GEMM ----------------------------------------------------------------------------------------
CONFIGURATIONS = [("FASTLSTM_ISA", isa) for isa in _core.isa_available() if isa != _core.isa or "FASTLSTM_GEMM" in os.environ] + [
    ("FASTLSTM_GEMM", "blas")
]


def run_child(variable, value):
    """pytest on both files in a process with this setting; None where there is no BLAS to be had."""
    if value == "blas" and importlib.util.find_spec("scipy") is None:
        return None
    kept = {k: v for k, v in os.environ.items() if k not in ("FASTLSTM_ISA", "FASTLSTM_GEMM")}
    files = [__file__, str(Path(__file__).with_name("test_backward_layers.py"))]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not test_these_files_on", *files]
    environment = {**kept, variable: value, CHILD: "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.skipif(CHILD in os.environ, reason="this is one of the processes that the test starts")
@pytest.mark.parametrize(("variable", "value"), CONFIGURATIONS, ids=[value for _, value in CONFIGURATIONS])
def test_these_files_on(variable, value, request):
    """The instruction set that is left is that of this process."""
    done = finished(request, run_child)
    if done is None:
        pytest.skip("FASTLSTM_GEMM=blas needs SciPy, which is not installed")
    closing = (done.stdout.strip().splitlines() or [done.stderr])[-1]
    print(f"{variable}={value}: {closing}")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in closing
