"""The golden cases of Keras 3 on the GPU backend, outputs, states and gradients: every case, on the stand-in and on a device.

NumPy arrays under ``device("gpu")`` are moved there and back; CuPy arrays stay where they are, and nothing is moved for them.
FASTLSTM_TEST_GPU=full runs every case in every test; without it the tests after the first two take every fourth case.
"""

from __future__ import annotations

import os

import fake_cupy
import golden_cases as golden
import numpy as np
import pytest

import fastlstm
from fastlstm import devices

CASES = [case for family in golden.FAMILIES for case in golden.load(family)]
SOME = CASES if os.environ.get("FASTLSTM_TEST_GPU") == "full" else CASES[::4]
LSTM_CASES = [case for case in SOME if case.layer == "LSTM"]
AXIS = {"softmax", "log_softmax", "sparsemax", "glu"}


def check(case, **changes):
    """Forward, with states where the case hides them, and gradients."""
    wrong = golden.mismatches(case, golden.forward(case, **changes), golden.TOLERANCE)
    if case.layer != "LSTMCell" and not case.kwargs.get("return_state"):
        wrong += golden.mismatches(case, golden.forward(case, **changes, return_state=True), golden.TOLERANCE)
    if golden.has_gradients(case):
        got = golden.gradients(case, **changes)
        assert set(got) == set(case.gradient_names)
        wrong += golden.mismatches(case, got, golden.GRADIENT_TOLERANCE)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_moved_there_and_back(case, device):
    with fastlstm.device("gpu"):
        check(case)


@pytest.mark.parametrize("case", LSTM_CASES, ids=str)
def test_general_kernel(case, device):
    with fastlstm.device("gpu"):
        check(case, use_cudnn=False)


@pytest.mark.parametrize("case", LSTM_CASES, ids=str)
def test_without_cooperative_launches(case, cupy, limits):
    limits["CooperativeLaunch"] = 0
    with fastlstm.device("gpu"):
        check(case)
    assert not any(name.startswith("sequence") for name in fake_cupy.launches)


def on_device(case):
    """(layer, arguments of its calls) of a case, the arguments as CuPy arrays."""
    calls = [golden.call_arguments(case, call) for call in range(case.calls)]
    return golden.make_layer(case), [
        (devices.moved(x, "gpu"), devices.moved(list(options.items()), "gpu")) for x, options in calls
    ]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_arrays_of_the_device_stay_there(case, device):
    layer, calls = on_device(case)
    for call, (x, options) in enumerate(calls):
        if call in case.resets:
            layer.reset_state()
        outputs = golden.flatten(layer(x, **dict(options)))
        assert all(devices.is_on_gpu(array) for array in outputs)
        names = case.output_names(call)
        returned = dict(zip(names, (devices.to_cpu(array) for array in outputs), strict=False))
        wrong = golden.mismatches(case, returned, golden.TOLERANCE)
        assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("case", SOME, ids=str)
def test_nothing_is_moved_for_arrays_of_the_device(case, cupy):
    """The weights are, at the first call; then calls and gradients move no array and read no number."""
    layer, calls = on_device(case)
    x, options = calls[0]
    layer(x, **dict(options))
    assert fake_cupy.transfers.downloads == 0
    fake_cupy.transfers.reset()
    for x, options in calls:
        layer(x, **dict(options))
        outputs, pullback = layer.vjp(x, **dict(options), training=False)
        several = golden.flatten(outputs)
        cotangent = tuple(cupy.ones_like(array) for array in several)
        pullback(cotangent if len(several) > 1 else cotangent[0])
    assert fake_cupy.transfers.counts() == (0, 0, 0)


def test_the_tests_above_run_on_the_gpu_backend(device):
    kernels = set()
    with fastlstm.device("gpu"):
        for case in CASES:
            layers = golden.recurrent_layers(case, golden.make_layer(case))
            chosen = {layer.explain(case.arrays["x0"]).kernel for layer in layers if hasattr(layer, "explain")}
            assert all(layer.explain(case.arrays["x0"]).backend == "gpu" for layer in layers if hasattr(layer, "explain"))
            if chosen and not AXIS & {str(v) for v in case.kwargs.values()}:
                assert chosen <= {"fused", "general"}
            kernels |= chosen
    assert kernels >= {"fused", "stepwise"}


def test_results_have_the_type_of_the_input(device):
    layer = fastlstm.LSTM(3)
    x = np.zeros((2, 4, 5), np.float32)
    layer(x)
    with fastlstm.device("gpu"):
        assert type(layer(x)) is np.ndarray
    assert devices.is_on_gpu(layer(device.asarray(x)))
    with fastlstm.device("cpu"):
        assert devices.is_on_gpu(layer(device.asarray(x)))
