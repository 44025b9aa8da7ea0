"""The selector with a GPU at hand and with none: where a call runs, what it says, and that a broken CUDA harms nobody."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import numpy as np
import pytest

import fastlstm
from fastlstm import DeviceError, devices, selector
from fastlstm.backends import gpu

X = np.random.default_rng(1).standard_normal((3, 6, 4)).astype(np.float32)
RIGHT_PADDED = np.arange(6) < np.array([[6], [2], [4]])


# -- where a call runs --------------------------------------------------------------------------------------------------------
def test_the_input_decides_under_auto(cupy):
    layer = fastlstm.LSTM(5)
    here, there = layer.explain(X), layer.explain(cupy.asarray(X))
    assert (here.backend, there.backend) == ("cpu", "gpu")
    assert there.reason.startswith("device 'auto': the input lives there; ")
    assert here.reason.startswith("device 'auto': ")


def test_a_named_device_comes_first(cupy):
    layer = fastlstm.LSTM(5)
    with fastlstm.device("gpu"):
        choice = layer.explain(X)
        assert (choice.backend, choice.module) == ("gpu", gpu)
        assert choice.reason.startswith("device 'gpu': the input is moved there and the results back; ")
        with fastlstm.device("auto"):
            assert layer.explain(X).backend == "cpu"
    with fastlstm.device("cpu"):
        assert layer.explain(cupy.asarray(X)).backend == "cpu"
        assert devices.is_on_gpu(layer(cupy.asarray(X)))
    assert selector.current_device() == "auto"


def test_a_plan_of_the_cpu_does_not_outlive_the_setting(cupy):
    layer = fastlstm.LSTM(5)
    want = layer(X)
    assert layer._plan is not None
    setting = fastlstm.device("gpu")
    try:
        before = sum(fake_launches().values())
        np.testing.assert_allclose(layer(X), want, rtol=1e-5, atol=1e-6)
        assert sum(fake_launches().values()) > before
    finally:
        setting.__exit__()
    before = sum(fake_launches().values())
    np.testing.assert_array_equal(layer(X), want)
    assert sum(fake_launches().values()) == before


def fake_launches():
    import fake_cupy

    return fake_cupy.launches


def test_backends_for_tests(cupy):
    layer = fastlstm.LSTM(5)
    with selector.use_backend("reference"):
        assert layer.explain(cupy.asarray(X)).backend == "reference"
        assert devices.is_on_gpu(layer(cupy.asarray(X)))
    with selector.use_backend("cpu"):
        assert layer.explain(cupy.asarray(X)).backend == "cpu"
        layer(cupy.asarray(X))
    assert not any(name.startswith(("sequence", "step", "cell")) for name in fake_launches())
    with pytest.raises(ValueError, match="Unknown backend 'gpu'"), selector.use_backend("gpu"):
        pass


def test_a_measured_crossover_moves_large_calls(cupy, monkeypatch):
    """With figures in the table: LSTM from 2e4 multiply-adds, N*T*(D+U)*4U of a call."""
    monkeypatch.setitem(selector.CROSSOVER, "lstm", 2e4)
    layer = fastlstm.LSTM(5)
    small, large = X, np.zeros((8, 20, 4), np.float32)
    for x, backend in ((small, "cpu"), (large, "gpu")):
        assert type(layer(x)) is np.ndarray
        assert layer.explain(x).backend == backend
    assert "2e+04 multiply-adds (lstm)" in fastlstm.config()["auto"]
    with fastlstm.device("cpu"):
        assert layer.explain(large).backend == "cpu"
    assert fastlstm.ConvLSTM1D(5, 3).explain(np.zeros((8, 20, 9, 4), np.float32)).backend == "cpu"
    monkeypatch.setitem(selector.CROSSOVER, "convlstm1d", 2e4)
    assert fastlstm.ConvLSTM1D(5, 3).explain(np.zeros((8, 20, 9, 4), np.float32)).backend == "gpu"


def test_nothing_has_been_measured_yet():
    assert set(selector.CROSSOVER.values()) == {None}
    assert fastlstm.config()["auto"] == "NumPy input runs on the CPU: no crossover with a GPU has been measured"


# -- kernels ------------------------------------------------------------------------------------------------------------------
def test_explain_names_the_way(cupy, limits):
    x = cupy.asarray(X)
    assert fastlstm.LSTM(5).explain(x).kernel == "fused"
    limits["MultiProcessorCount"] = 40
    assert "persistent: one launch for all steps" in fastlstm.LSTM(5).explain(x).reason
    limits["CooperativeLaunch"] = 0
    assert "direct: one launch a step" in fastlstm.LSTM(5).explain(x).reason
    general = fastlstm.LSTM(5, use_cudnn=False).explain(x)
    assert (general.kernel, "use_cudnn=False" in general.reason) == ("general", True)
    dropped = fastlstm.LSTM(5, recurrent_dropout=0.5)
    assert (dropped.explain(x).kernel, dropped.explain(x, training=True).kernel) == ("fused", "general")
    assert fastlstm.LSTM(5, activation="softmax").explain(x).kernel == "stepwise"
    assert fastlstm.LSTM(5, activation=np.sin).explain(x).kernel == "stepwise"
    assert "direct" in fastlstm.ConvLSTM1D(5, 3).explain(cupy.asarray(X[..., None])).reason
    assert fastlstm.LSTM(800).explain(cupy.asarray(np.zeros((400, 2, 3), np.float32))).kernel == "general"


def test_use_cudnn_true_on_the_device(cupy):
    """Taken where Keras would take its fused kernel, refused with the reason where not (keras-spec 18)."""
    x = cupy.asarray(X)
    assert fastlstm.LSTM(5, use_cudnn=True).explain(x).backend == "gpu"
    assert fastlstm.LSTM(5, use_cudnn=True)(x, mask=cupy.asarray(RIGHT_PADDED)).shape == (3, 5)
    for kwargs, call, reason in [
        ({"activation": "relu"}, {}, "activation is not tanh"),
        ({"recurrent_dropout": 0.5}, {}, "recurrent_dropout is not 0"),
        ({"unroll": True}, {}, "unroll=True"),
        ({"use_bias": False}, {}, "use_bias=False"),
        ({}, {"mask": cupy.asarray(~RIGHT_PADDED)}, "the mask is not strictly right-padded"),
    ]:
        with pytest.raises(ValueError, match=f"use_cudnn=True was specified, but .*: {reason}"):
            fastlstm.LSTM(5, use_cudnn=True, **kwargs)(x, **call)
    with fastlstm.device("gpu"):
        assert fastlstm.LSTM(5, use_cudnn=True)(X).shape == (3, 5)
    with pytest.raises(ValueError, match="no GPU is in use"):
        fastlstm.LSTM(5, use_cudnn=True)(X)


def test_a_callers_own_activation_gets_arrays_of_the_device(cupy):
    seen = []

    def activation(z):
        seen.append(devices.home(z))
        return np.tanh(z)

    layer, plain = (
        fastlstm.LSTM(5, activation=f, kernel_initializer="ones", recurrent_initializer="zeros") for f in (activation, "tanh")
    )
    got = layer(cupy.asarray(X))
    np.testing.assert_allclose(devices.to_cpu(got), plain(X), rtol=1e-5, atol=1e-6)
    assert set(seen) == {"gpu"}


# -- what it says ---------------------------------------------------------------------------------------------------------------
def test_one_line_in_the_log(cupy, caplog):
    with caplog.at_level(logging.DEBUG, logger="fastlstm"):
        fastlstm.LSTM(5)(cupy.asarray(X))
    (record,) = caplog.records
    assert record.getMessage().startswith("gpu backend, fused kernel: device 'auto': the input lives there; ")


def test_show_config_names_the_device(cupy, capsys):
    fastlstm.show_config()
    assert "stand-in, 4 multiprocessors" in capsys.readouterr().out


# -- without a device -----------------------------------------------------------------------------------------------------------
FAKES = {
    "no CuPy": "import sys; sys.modules['cupy'] = None",
    "a broken CuPy": "import sys, pathlib, tempfile; d = tempfile.mkdtemp(); pathlib.Path(d, 'cupy.py').write_text("
    "'raise OSError(\"libcuda.so.1: cannot open shared object file\")'); sys.path.insert(0, d)",
    "no device": "import sys, pathlib, tempfile; d = tempfile.mkdtemp(); pathlib.Path(d, 'cupy.py').write_text("
    "'class ndarray: pass\\nclass cuda:\\n  is_available = staticmethod(lambda: False)'); sys.path.insert(0, d)",
}
REASONS = {
    "no CuPy": "CuPy is not installed|CuPy cannot be used",
    "a broken CuPy": "CuPy cannot be used: OSError: libcuda.so.1: cannot open shared object file",
    "no device": "CuPy finds no CUDA device",
}
CALLS = """
import re
import numpy as np, fastlstm
assert "cupy" not in sys.modules or sys.modules["cupy"] is None, "the import of fastlstm imported CuPy"
x = np.ones((1, 2, 3), np.float32)
layer = fastlstm.LSTM(4)
layer(x)
assert layer.explain(x).backend == "cpu"
assert "cupy" not in sys.modules or sys.modules["cupy"] is None, "a call imported CuPy"
for ask in (lambda: fastlstm.device("gpu"), lambda: fastlstm.device("gpu").__enter__()):
    try:
        ask()
    except fastlstm.DeviceError as error:
        assert re.search(reason, str(error)), error
    else:
        raise AssertionError("no DeviceError")
assert re.search(reason, fastlstm.config()["gpu"]), fastlstm.config()["gpu"]
layer(x)
print("sound")
"""


@pytest.mark.parametrize("name", FAKES)
def test_a_missing_or_broken_cuda_harms_nobody(name):
    environment = {k: v for k, v in os.environ.items() if k != "FASTLSTM_DEVICE"}
    code = f"{FAKES[name]}\nreason = {REASONS[name]!r}\n{CALLS}"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "sound", done.stderr


@pytest.mark.parametrize("name", FAKES)
def test_the_environment_asks_for_a_gpu_in_vain(name):
    code = f"{FAKES[name]}\nimport numpy as np, fastlstm\nfastlstm.LSTM(2)(np.ones((1, 2, 3)))"
    environment = {**os.environ, "FASTLSTM_DEVICE": "gpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "DeviceError: The device 'gpu' cannot be used: CuPy" in done.stderr


def test_device_error_in_process():
    if devices.gpu_refusal() is None:
        pytest.skip("there is a GPU here")
    with pytest.raises(DeviceError, match="'gpu' cannot be used: CuPy"):
        fastlstm.device("gpu")
    with pytest.raises(DeviceError):
        devices.to_gpu(X)
