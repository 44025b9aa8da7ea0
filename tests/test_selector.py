"""The choice of backend and kernel: use_cudnn, explain, device, and the environment variables (keras-spec 18)."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from lstm_formulas import FLOAT32, MASK, D, N, T, made, run, weights_for

import fastlstm
from fastlstm import LSTM, DeviceError, _core, selector

VARIABLES = ("FASTLSTM_DEVICE", "FASTLSTM_ISA", "FASTLSTM_GEMM")
RIGHT_PADDED = np.arange(T) < np.array([[T], [2], [1]])


@pytest.fixture(autouse=True)
def no_device(monkeypatch):
    """FASTLSTM_DEVICE, which this process may have read long ago, pins no call; a test says itself what does."""
    monkeypatch.setattr(selector, "_default_device", lambda: "auto")


@pytest.fixture
def x():
    return np.random.default_rng(5).standard_normal((N, T, D)).astype(np.float32)


def child(code, **variables):
    """(exit status, output) of Python code in a process of its own with these environment variables and no other of ours."""
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES} | variables
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


# -- use_cudnn ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", [True, 1])
@pytest.mark.parametrize(
    ("kwargs", "call", "reason"),
    [
        ({}, {}, "no GPU is in use"),
        ({}, {"mask": RIGHT_PADDED}, "no GPU is in use"),
        ({"activation": "relu"}, {}, "activation is not tanh"),
        ({"recurrent_activation": "hard_sigmoid"}, {}, "recurrent_activation is not sigmoid"),
        ({"recurrent_dropout": 0.5}, {}, "recurrent_dropout is not 0"),
        ({"dropout": 0.5}, {"training": True}, "dropout is applied"),
        ({"unroll": True}, {}, "unroll=True"),
        ({"use_bias": False}, {}, "use_bias=False"),
        ({}, {"mask": MASK}, "the mask is not strictly right-padded"),
        ({}, {"mask": ~RIGHT_PADDED}, "the mask is not strictly right-padded"),
        ({}, {"mask": np.zeros((N, T))}, "the mask is not strictly right-padded"),
    ],
)
def test_use_cudnn_true_is_refused_with_the_reason(x, value, kwargs, call, reason):
    layer = LSTM(4, use_cudnn=value, **kwargs)
    for ask in (layer, layer.explain):
        with pytest.raises(ValueError, match=f"use_cudnn=True was specified, but .*: {reason}"):
            ask(x, **call)


def test_use_cudnn_false_takes_the_general_kernel(x):
    auto, off = made(), made(use_cudnn=False)
    assert off.explain(x).kernel == "general"
    assert "use_cudnn=False" in off.explain(x).reason
    for layer in (auto, off):
        np.testing.assert_allclose(layer(x), run(x, weights_for())[1], **FLOAT32)


# -- explain --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kwargs", "kernels"),
    [
        ({}, {"fused", "general"}),
        ({"activation": "relu", "unroll": True}, {"fused", "general"}),
        ({"activation": "softmax"}, {"general"}),
        ({"recurrent_activation": "log_softmax"}, {"general"}),
        ({"activation": np.sin}, {"stepwise"}),
        ({"recurrent_activation": lambda z: z}, {"stepwise"}),
    ],
)
def test_explain_names_backend_kernel_and_reason(x, kwargs, kernels):
    layer = LSTM(4, **kwargs)
    choice = layer.explain(x)
    assert choice.backend == "cpu"
    assert choice.kernel in kernels
    assert choice.reason.startswith("device 'auto': ")
    assert not layer.built
    layer(x)
    assert layer.explain(x, mask=MASK) == choice


def test_explain_of_a_forced_backend_and_of_training(x):
    with selector.use_backend("reference"):
        assert LSTM(4).explain(x) == selector.Choice("reference", "numpy", "the reference backend was asked for")
    layer = LSTM(4, dropout=0.5, seed=1)
    assert layer.explain(x, training=True).kernel == layer.explain(x).kernel
    assert layer.cell.seed_generator.state.tolist() == [1, 0]
    assert LSTM(4).explain(x, training=True).backend == "cpu"


def test_explain_checks_its_arguments():
    with pytest.raises(ValueError, match="expected ndim=3"):
        LSTM(4).explain(np.zeros((2, 3)))


def test_use_backend_ends_with_its_block(x):
    layer = made()
    expected = layer(x)
    with pytest.raises(ValueError, match="Unknown backend 'numpy'"), selector.use_backend("numpy"):
        pass
    with pytest.raises(IndexError), selector.use_backend("reference"):
        layer(x, [])
    assert layer.explain(x).backend == "cpu"
    np.testing.assert_array_equal(layer(x), expected)


# -- device ---------------------------------------------------------------------------------------------------------------
def test_device_as_a_block_and_as_a_setting(x):
    assert selector.current_device() == "auto"
    with fastlstm.device("cpu"):
        assert selector.current_device() == "cpu"
        with fastlstm.device("auto"):
            assert LSTM(4).explain(x).reason.startswith("device 'auto'")
        assert LSTM(4).explain(x).reason.startswith("device 'cpu'")
        np.testing.assert_allclose(made()(x), run(x, weights_for())[1], **FLOAT32)
    assert selector.current_device() == "auto"
    setting = fastlstm.device("cpu")
    assert selector.current_device() == "cpu"
    setting.__exit__()
    assert selector.current_device() == "auto"


def test_devices_that_cannot_be_used():
    with pytest.raises(ValueError, match="Unknown device 'tpu'"):
        fastlstm.device("tpu")
    with pytest.raises(DeviceError, match="'gpu' cannot be used"):
        fastlstm.device("gpu")
    assert issubclass(DeviceError, RuntimeError)
    assert selector.current_device() == "auto"


# -- the environment ---------------------------------------------------------------------------------------------------------
CALL = """
import json, numpy as np, fastlstm
layer = fastlstm.LSTM(4, kernel_initializer="ones", recurrent_initializer="ones")
x = np.ones((1, 2, 3), np.float32)
config, choice = fastlstm.config(), layer.explain(x)
print(json.dumps([config["isa"], config["gemm"], choice.kernel, choice.reason, float(layer(x)[0, 0])]))
"""


@pytest.mark.parametrize("device", ["", "auto", "cpu"])
def test_fastlstm_device(device):
    status, output = child(CALL, FASTLSTM_DEVICE=device)
    assert status == 0, output
    assert json.loads(output)[3].startswith(f"device '{device or 'auto'}'")


@pytest.mark.parametrize(
    ("device", "error"), [("gpu", "DeviceError: The device 'gpu' cannot be used"), ("tpu", "ValueError: Unknown device 'tpu'")]
)
def test_fastlstm_device_that_cannot_be_used(device, error):
    status, output = child(CALL, FASTLSTM_DEVICE=device)
    assert status == 1
    assert error in output


@pytest.mark.parametrize("gemm", ["auto", "blas", "packed"])
def test_fastlstm_gemm(gemm):
    status, output = child(CALL, FASTLSTM_GEMM=gemm, FASTLSTM_ISA=_core.isa)
    assert status == 0, output
    _, given, kernel, reason, value = json.loads(output)
    assert given == gemm
    if gemm == "blas":
        assert (kernel, "FASTLSTM_GEMM=blas" in reason) == ("general", True)
    x, ones = np.ones((1, 2, 3)), [np.ones((3, 16)), np.ones((4, 16)), np.repeat([0, 1, 0, 0], 4)]
    assert value == pytest.approx(run(x, ones)[1][0, 0], abs=1e-6)


def test_fastlstm_isa():
    values = []
    for isa in _core.isa_available():
        status, output = child(CALL, FASTLSTM_ISA=isa)
        assert status == 0, output
        assert json.loads(output)[0] == isa
        values.append(json.loads(output)[-1])
    assert values == pytest.approx([values[0]] * len(values), abs=1e-6)
    assert _core.isa_available()[0] == "generic"


@pytest.mark.parametrize(("name", "value"), [("FASTLSTM_ISA", "avx3"), ("FASTLSTM_GEMM", "mkl")])
def test_unknown_values_fail_at_import_and_name_the_variable(name, value):
    status, output = child("import fastlstm", **{name: value})
    assert status == 1
    assert f"ImportError: {name}='{value}'" in output
