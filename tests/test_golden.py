"""Recurrent layers against Keras 3: every golden case on the reference backend, on the compiled kernels in this process, and
on the compiled kernels of every instruction set and GEMM, each in a process of its own.

Outputs, states, dtypes and shapes through the public layers; the cases and the error measure are in golden_cases.
"""

from __future__ import annotations

import collections
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import golden_cases as golden
import pytest
from children import finished

import fastlstm
from fastlstm import _core, selector

ALL = [case for family in golden.FAMILIES for case in golden.load(family)]
CASES = [case for case in ALL if golden.is_implemented(case)]
# use_cudnn=False sends an LSTM to the general kernel, which the cases would otherwise hardly reach.
LSTM_CASES = [case for case in CASES if case.layer == "LSTM"]
MISSING = collections.Counter(case.layer for case in ALL if not golden.is_implemented(case))
WITH_GRADIENTS = [case for case in ALL if golden.has_gradients(case)]

ISAS = ("generic", "avx2", "avx512", "neon")
GEMMS = ("auto", "blas", "packed")


def check(case, **changes):
    """The case as it is written and, where that hides the states, once more with return_state."""
    wrong = golden.mismatches(case, golden.forward(case, **changes), golden.TOLERANCE)
    if case.layer != "LSTMCell" and not case.kwargs.get("return_state"):
        with_states = golden.forward(case, **changes, return_state=True)
        wrong += golden.mismatches(case, with_states, golden.TOLERANCE)
    assert not wrong, "\n".join(wrong)


def kernels(case, **changes):
    """(backend, kernel) of every recurrent layer of the case."""
    layers = golden.recurrent_layers(case, golden.make_layer(case, **changes))
    choices = [layer.explain(case.arrays["x0"]) for layer in layers]
    return {(choice.backend, choice.kernel) for choice in choices}


# -- which cases there are ------------------------------------------------------------------------------------------------
def test_the_data_is_complete():
    assert collections.Counter(case.layer for case in ALL) == {"LSTM": 178, "LSTMCell": 4, "ConvLSTM1D": 154}
    assert sum(case.dtype == "float64" for case in ALL) == 14
    assert len({case.id for case in ALL}) == len(ALL)


def test_every_case_but_convlstm1d_is_run():
    assert set(MISSING) <= {"ConvLSTM1D"}
    if MISSING:
        pytest.skip(f"{MISSING['ConvLSTM1D']} golden cases of ConvLSTM1D are not run: there is no fastlstm.ConvLSTM1D yet")


# -- forward --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", CASES, ids=str)
def test_reference(case):
    with selector.use_backend("reference"):
        check(case)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cpu(case):
    check(case)


@pytest.mark.parametrize("case", LSTM_CASES, ids=str)
def test_cpu_general_kernel(case):
    check(case, use_cudnn=False)


def test_the_tests_above_run_what_they_say():
    with selector.use_backend("reference"):
        assert {kernel for case in LSTM_CASES for kernel in kernels(case)} == {("reference", "numpy")}
    compiled = {kernel for case in LSTM_CASES for kernel in kernels(case)}
    assert compiled in ({("cpu", "fused"), ("cpu", "general")}, {("cpu", "general")})
    assert {kernel for case in LSTM_CASES for kernel in kernels(case, use_cudnn=False)} == {("cpu", "general")}


# -- forward, every instruction set and GEMM ------------------------------------------------------------------------------
def run_child(isa, gemm):
    """pytest on the compiled tests above, in a process with this instruction set and GEMM; None where that is not to be had."""
    if isa not in _core.isa_available():
        return None
    here = Path(__file__)
    tests = [f"{here.name}::{name}" for name in ("test_cpu", "test_cpu_general_kernel", "test_the_tests_above_run_what_they_say")]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no", "--tb=short", *tests]
    package = str(Path(fastlstm.__file__).parent.parent)
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "FASTLSTM_ISA": isa, "FASTLSTM_GEMM": gemm, "PYTHONPATH": path, "PYTEST_ADDOPTS": ""}
    return subprocess.run(command, cwd=here.parent, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("gemm", GEMMS)
@pytest.mark.parametrize("isa", ISAS)
def test_every_isa_and_gemm(isa, gemm, capsys, request):
    if isa not in _core.isa_available():
        pytest.skip(f"the instruction set {isa} is not available in this build on this processor")
    if gemm == "blas" and importlib.util.find_spec("scipy") is None:
        pytest.skip("FASTLSTM_GEMM=blas needs SciPy, which is not installed")
    child = finished(request, run_child)
    output = child.stdout + child.stderr
    assert child.returncode == 0, output
    assert f"ISA {isa} " in output, output
    assert f"GEMM {gemm}," in output, output
    closing = child.stdout.strip().splitlines()[-1].strip("= ")
    assert re.match(rf"{len(CASES) + len(LSTM_CASES) + 1} passed", closing), output
    with capsys.disabled():
        print(f"\n  {isa}, GEMM {gemm}: {closing}")


# -- gradients ------------------------------------------------------------------------------------------------------------
def gradient_cases():
    """The cases whose layer has gradients, and one skip that counts the others."""
    waiting = collections.Counter(case.layer for case in ALL if not golden.has_gradients(case))
    if not waiting:
        return WITH_GRADIENTS
    reason = f"golden gradients wait for vjp: {', '.join(f'{n} of {layer}' for layer, n in waiting.items())}"
    return [*WITH_GRADIENTS, pytest.param(None, id="without_vjp", marks=pytest.mark.skip(reason=reason))]


def check_gradients(case):
    got = golden.gradients(case)
    assert set(got) == set(case.gradient_names)
    wrong = golden.mismatches(case, got, golden.GRADIENT_TOLERANCE)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("case", gradient_cases(), ids=str)
def test_gradients_of_the_reference(case):
    with selector.use_backend("reference"):
        check_gradients(case)


@pytest.mark.parametrize("case", gradient_cases(), ids=str)
def test_gradients(case):
    check_gradients(case)
