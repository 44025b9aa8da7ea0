"""The C library (include/fastlstm/fastlstm.h): its results beside the float64 reference, and bit for bit beside the extension.

tests/c/cases.c makes the calls, built with every compiler and for every instruction set that is here; a child process for each
other instruction set compares its bits with the extension's. Sizes lead through every tile and tail of the kernels.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from backward_runs import (
    ELEMENTWISE,
    FLAGS,
    TOLERANCES,
    UNITS,
    Runner,
    conv_arrays,
    conv_spec,
    cotangents_for,
    lstm_arrays,
    lstm_spec,
    random_mask,
)
from c_programs import COMPILERS, EXACT, EXTRA, answers, conv_case, lstm_case, program
from children import finished

from fastlstm import _core
from fastlstm.backends import cpu, reference
from fastlstm.spec import ConvLSTM1DSpec

CHILD = "FASTLSTM_TEST_C_CHILD"
BITS = {32: "float32", 64: "float64"}
# Largest |a - b| / max(1, |b|) to the reference in float64, forward.
FORWARD = {"float32": 2e-6, "float64": 1e-12}
NAMES = ("y", "h", "c", "dx", "dh0", "dc0", "dkernel", "drecurrent_kernel", "dbias")
ISAS = ("generic", "avx2", "avx512", "neon", "one_lane")
# Every instruction set with gcc; C++ and the other compilers with the widest one and with none: the text is the same.
BUILDS = [("gcc", "c", isa) for isa in ISAS] + [("gcc", "c++", _core.isa)]
BUILDS += [(name, "c", isa) for name in ("clang", "zig") for isa in (_core.isa, "one_lane")]
UNIT_SIZES = sorted({*UNITS, 2, 3, 20, 33, 47, 64})


def masks(count, steps):
    """No mask, all kinds of masks, a mask that masks nothing, one that masks all."""
    return [None, random_mask(count, steps), np.arange(steps) < np.arange(count)[:, None] + 1, np.ones((count, steps), bool)]


def lstm_problems():
    """(spec, arrays, mask): tails of units, tiles of rows, flags, activations, blocks and stretches of steps."""
    for number, units in enumerate(UNIT_SIZES):
        for count in (1, 2, 3, 5, 7, 8):
            flags = FLAGS[(number + count) % 8]
            mask = masks(count, 4)[(number + count) % 4]
            yield (
                lstm_spec(units, **flags),
                lstm_arrays(units, count, 4, (1, 2, 3, 9)[(number + count) % 4], bias=count != 3),
                mask,
            )
    for number, name in enumerate(ELEMENTWISE):
        other = ELEMENTWISE[(number + 5) % len(ELEMENTWISE)]
        yield lstm_spec(5, name, other, **FLAGS[number % 8]), lstm_arrays(5, 1, 3, 4, scale=0.3), None
        yield lstm_spec(5, name, other, **FLAGS[number % 8]), lstm_arrays(5, 3, 3, 4, scale=0.3), random_mask(3, 3)
    for flags in FLAGS:
        for count in (1, 4):
            for mask in (None, random_mask(count, 60), ~random_mask(count, 60) & False):
                yield lstm_spec(24, **flags), lstm_arrays(24, count, 60, 10), mask
    # Panels that no first-level cache holds: x is projected ahead; with gaps between the rows; taken block by block.
    for units, features in ((64, 128), (128, 64), (150, 16), (260, 40)):
        yield lstm_spec(units, return_sequences=True), lstm_arrays(units, 1, 120, features), None
        yield lstm_spec(units, go_backwards=True), lstm_arrays(units, 1, 9, features), random_mask(1, 9, 3)


def conv_problems():
    """(spec, arrays, mask) over kernels, strides, dilations, paddings, rows and filters."""
    options = [(1, 1, 1), (2, 1, 1), (3, 1, 1), (4, 2, 1), (3, 3, 1), (3, 1, 2), (2, 1, 4), (5, 1, 1)]
    for number, (taps, stride, dilation) in enumerate(options):
        for padding in ("valid", "same"):
            for filters in (1, 3, 8, 17):
                count = 1 + (number + filters) % 3
                spec = conv_spec(
                    filters, taps, padding=padding, strides=stride, dilation_rate=dilation, **FLAGS[(number + filters) % 8]
                )
                mask = masks(count, 3)[(number + filters) % 4]
                yield spec, conv_arrays(spec, count, 3, 9 + number, 1 + number % 3, bias=filters != 3), mask
    spec = conv_spec(4, 3, "relu", "hard_sigmoid", padding="same", return_sequences=True)
    yield spec, conv_arrays(spec, 2, 20, 1, 5), None
    spec = conv_spec(20, 1, return_sequences=True)
    yield spec, conv_arrays(spec, 1, 20, 1, 5), None


@functools.cache
def forward_truth():
    """y, h, c of every problem of ``forward_cases``: the reference in float64."""
    truth = []
    for _, spec, (weights, *arrays), mask in forward_cases()[0]:
        verb = reference.convlstm1d_forward if isinstance(spec, ConvLSTM1DSpec) else reference.lstm_forward
        truth.append(verb(spec, reference.prepare(weights), *arrays, mask))
    return truth


def extension(spec, arrays, mask, dtype):
    """y, h, c of the extension's fused kernel."""
    weights, x, h, c = ([w.astype(dtype) for w in arrays[0]], *(a.astype(dtype) for a in arrays[1:]))
    gates = _core.GateWeights(weights[0], weights[1], weights[2] if len(weights) > 2 else None)
    names = [cpu.ACTIVATION_NUMBERS[name] for name in spec.activation_names()]
    flags = (spec.go_backwards, spec.return_sequences, spec.zero_output_for_mask)
    if isinstance(spec, ConvLSTM1DSpec):
        rows = tuple(spec.rows(x.shape[2])[1:])
        return _core.convlstm1d_forward(gates, x, h, c, mask, rows, *names, 0, *flags, False, "fused")
    return _core.lstm_forward(gates, x, h, c, mask, *names, 0, *flags, "fused")


def close(got, want, tolerance, what):
    for name, a, b in zip("yhc", got, want, strict=False):
        assert a.shape == b.shape, f"{what} {name}"
        error = (np.abs(a - b) / np.maximum(1, np.abs(b))).max(initial=0)
        assert error <= tolerance, f"{what} {name}: off by {error:.2e}"


def same(got, want, what):
    assert len(got) == len(want)
    for name, a, b in zip(NAMES, got, want, strict=False):
        np.testing.assert_array_equal(a, b, err_msg=f"{what} {name}")


@functools.cache
def forward_cases():
    problems = [(lstm_case, *problem) for problem in lstm_problems()] + [(conv_case, *problem) for problem in conv_problems()]
    return problems, [make(spec, arrays, mask, bits) for make, spec, arrays, mask in problems for bits in BITS]


# -- values -------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("compiler", "language", "isa"), BUILDS)
def test_forward_agrees_with_the_reference(compiler, language, isa):
    problems, cases = forward_cases()
    got, ran = answers(program("cases.c", compiler, isa, language), cases)
    assert ran == isa
    for number, want in enumerate(forward_truth()):
        for k, dtype in enumerate(FORWARD):
            close(got[2 * number + k], want, FORWARD[dtype], f"{problems[number][1]} {dtype}")


@pytest.mark.parametrize("compiler", ["gcc", "clang", "zig"])
def test_backward_agrees_with_the_reference(compiler):
    path = program("cases.c", compiler, _core.isa)
    for spec, arrays, mask, present in backward_problems():
        truth = Runner(reference, spec, arrays, mask)
        cotangents = cotangents_for(truth.outputs, present)
        want = [*truth.outputs, *truth(*cotangents)]
        cases = [lstm_case(spec, arrays, mask, bits, "lstm_backward", in_place=True, cotangents=cotangents) for bits in BITS]
        for dtype, got in zip(TOLERANCES, answers(path, cases)[0], strict=True):
            got = [*got[:6], *(a - k for k, a in enumerate(got[6:], 3))]  # gradients of weights are added to 3, 4 and 5
            for name, a, b in zip(range(9), got, want, strict=False):
                error = (np.abs(a - b) / np.maximum(1, np.abs(b))).max(initial=0)
                assert error <= max(TOLERANCES[dtype], 1e-11), f"{spec} {dtype} result {name}: off by {error:.2e}"


def backward_problems():
    """(spec, arrays, mask, cotangents present): tails, blocks of steps, masks, activations."""
    for number, units in enumerate(UNIT_SIZES):
        count = (1, 2, 5)[number % 3]
        mask = masks(count, 4)[number % 4]
        yield lstm_spec(units, **FLAGS[number % 8]), lstm_arrays(units, count, 4, (1, 3, 4, 5, 40)[number % 5]), mask, "yhc"
    for number, name in enumerate(ELEMENTWISE):
        other = ELEMENTWISE[(number + 7) % len(ELEMENTWISE)]
        yield lstm_spec(5, name, other, **FLAGS[number % 8]), lstm_arrays(5, 2, 3, 4, scale=0.3), random_mask(2, 3), "yhc"
    for flags in FLAGS:
        yield lstm_spec(20, **flags), lstm_arrays(20, 3, 200, 6), None, "y"
        yield lstm_spec(9, **flags), lstm_arrays(9, 2, 300, 6), random_mask(2, 300), "yh"
    for present in ("y", "h", "c", "hc"):
        yield lstm_spec(7), lstm_arrays(7, 1, 5, 3, bias=present != "c"), None, present
    yield lstm_spec(33, return_sequences=True), lstm_arrays(33, 300, 2, 5), None, "yhc"  # more rows than a block has


# -- bits ---------------------------------------------------------------------------------------------------------------------
def exact_compiler():
    """The compiler that built the extension, or a skip: another one may round otherwise where it may choose."""
    built = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "").split()[0:1]
    if not built or "gcc" not in Path(built[0]).name:
        pytest.skip(f"the extension was built with {built}: only gcc is compared bit for bit")
    if EXTRA:
        pytest.skip("FASTLSTM_TEST_CFLAGS changes how the programs are built")
    return "gcc"


def test_forward_has_the_bits_of_the_extension():
    problems, cases = forward_cases()
    got, _ = answers(program("cases.c", exact_compiler(), _core.isa, flags=EXACT), cases)
    for number, (_, spec, arrays, mask) in enumerate(problems):
        for k, dtype in enumerate(FORWARD):
            same(got[2 * number + k], extension(spec, arrays, mask, dtype), f"{spec} {dtype}")


def test_backward_has_the_bits_of_the_extension():
    path = program("cases.c", exact_compiler(), _core.isa, flags=EXACT)
    for spec, arrays, mask, present in backward_problems():
        for bits, dtype in BITS.items():
            weights = [w.astype(dtype) for w in arrays[0]]
            gates = _core.GateWeights(weights[0], weights[1], weights[2] if len(weights) > 2 else None)
            names = [cpu.ACTIVATION_NUMBERS[name] for name in spec.activation_names()]
            flags = (spec.go_backwards, spec.return_sequences, spec.zero_output_for_mask)
            *outputs, tape = _core.record_forward(
                gates, *(a.astype(dtype) for a in arrays[1:]), mask, None, *names, 0, *flags, "fused", None, None
            )
            cotangents = cotangents_for(outputs, present)
            given = [None if a is None else a.astype(dtype) for a in cotangents]
            want = _core.run_backward(tape, gates.backward_panels(1, False, False), *given, True)
            (got,), _ = answers(path, [lstm_case(spec, arrays, mask, bits, "lstm_backward", cotangents=cotangents)])
            same(got[: 3 + len(given_to(want))], [*outputs, *given_to(want)], f"{spec} {dtype}")


def given_to(gradients):
    """Without the gradient of a bias that is not there."""
    return [a for a in gradients if a is not None]


@pytest.mark.skipif(CHILD in os.environ, reason="this is the child process")
@pytest.mark.parametrize("isa", [isa for isa in ISAS if isa not in (_core.isa, "one_lane")])
def test_other_instruction_sets_have_the_bits_of_the_extension(isa, request):
    if isa not in _core.isa_available():
        pytest.skip(f"this processor does not run {isa}")
    exact_compiler()
    done = finished(request, run_child)
    assert done.returncode == 0, f"{isa}:\n{done.stdout[-4000:]}"


def run_child(isa):
    environment = {**os.environ, CHILD: "1", "FASTLSTM_ISA": isa}
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-k", "has_the_bits_of_the_extension and not other", __file__]
    return subprocess.run(words, capture_output=True, text=True, env=environment, timeout=900, check=False)


# -- one call, many ways ------------------------------------------------------------------------------------------------------
def some_problems():
    for count in (1, 4):
        for units in (5, 24):
            yield lstm_case, lstm_spec(units, return_sequences=True), lstm_arrays(units, count, 6, 3)
    spec = conv_spec(5, 3, padding="same", return_sequences=True)
    yield conv_case, spec, conv_arrays(spec, 2, 6, 8, 3)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_steps_have_the_bits_of_a_run(compiler):
    problems = list(some_problems())
    path = program("cases.c", compiler, _core.isa)
    for make, spec, arrays in problems:
        name = "lstm" if make is lstm_case else "conv"
        cases = [make(spec, arrays, None, bits, f"{name}_{how}") for bits in BITS for how in ("run", "steps")]
        got = answers(path, cases)[0]
        same(got[0], got[1], f"{spec} float32")
        same(got[2], got[3], f"{spec} float64")


@pytest.mark.parametrize("compiler", COMPILERS)
def test_states_may_be_given_in_place_or_not_at_all(compiler):
    path = program("cases.c", compiler, _core.isa)
    for make, spec, arrays in some_problems():
        zeros = (*arrays[:2], *(np.zeros_like(a) for a in arrays[2:]))
        for bits in BITS:
            mask = random_mask(len(arrays[1]), 6)
            cases = [make(spec, arrays, mask, bits), make(spec, arrays, mask, bits, in_place=True)]
            cases += [make(spec, zeros, mask, bits), make(spec, arrays, mask, bits, states=False)]
            got = answers(path, cases)[0]
            same(got[0], got[1], f"{spec} in place")
            same(got[2], got[3], f"{spec} without states")


def test_outputs_that_nobody_wants_are_not_written():
    for leave_out in range(8):
        for flags in FLAGS[:2] + FLAGS[-2:]:
            spec, arrays = lstm_spec(6, **flags), lstm_arrays(6, 3, 4, 2)
            cases = [lstm_case(spec, arrays, None, 32), lstm_case(spec, arrays, None, 32, leave_out=leave_out)]
            whole, part = answers(program("cases.c", "gcc", _core.isa), cases)[0]
            for bit, a, b in zip((1, 2, 4), whole, part, strict=True):
                np.testing.assert_array_equal(b, np.full_like(a, 12345) if leave_out & bit else a)


def test_a_sample_has_the_same_bits_alone_and_in_a_batch():
    spec, (weights, x, h, c) = lstm_spec(19, return_sequences=True), lstm_arrays(19, 7, 9, 5)
    alone = [lstm_case(spec, (weights, x[n : n + 1], h[n : n + 1], c[n : n + 1]), None, 32) for n in range(7)]
    together, *got = answers(program("cases.c", "gcc", _core.isa), [lstm_case(spec, (weights, x, h, c), None, 32), *alone])[0]
    for n in range(7):
        same([a[0] for a in got[n]], [a[n] for a in together], f"sample {n}")
