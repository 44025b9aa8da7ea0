"""The kernels on a device, where there is one: ``make test-gpu``. Golden set, layers and training have their own files.

Sizes that make several blocks, groups and tiles on a real device; small ones for the sanitizer (``make sanitize-gpu``).
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from gpu_runs import check, conv_spec, lstm_spec, problem

from fastlstm import devices
from fastlstm.backends import gpu
from fastlstm.backends.gpu import tiles

pytestmark = pytest.mark.gpu
MODES = list(itertools.product([False, True], repeat=3))
FLAGS = ("return_sequences", "go_backwards", "zero_output_for_mask")
WAYS = ("persistent", "direct", "general")


@pytest.fixture
def only(monkeypatch):
    """``only("direct")``: layers take this way through the steps."""

    def limit(way):
        if way == "direct":
            monkeypatch.setattr(tiles, "together", lambda *sizes: None)
            monkeypatch.setattr(tiles, "back", lambda *sizes: None)
        return {"use_cudnn": False} if way == "general" else {}

    return limit


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_on_the_device(only, way, dtype):
    spec = lstm_spec(17, return_sequences=True, **only(way))
    check(spec, dtype, problem(spec, 5, 3, 4, masked=True))
    conv = conv_spec(5, 3, padding="same", return_sequences=True, **only(way))
    check(conv, dtype, problem(conv, 2, 2, 3, rows=9, masked=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_lstm_of_real_sizes(only, way, dtype, mode):
    flags = only(way)
    for count, units in [(1, 128), (8, 200), (33, 64), (64, 33)]:
        spec = lstm_spec(units, **dict(zip(FLAGS, mode, strict=True)), **flags)
        check(spec, dtype, problem(spec, count, 12, 40, masked=units != 64))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_convlstm1d_of_real_sizes(only, way, dtype, mode):
    flags = only(way)
    for number, (count, rows, channels, filters, taps) in enumerate([(1, 64, 8, 16, 3), (4, 130, 33, 64, 5), (2, 256, 1, 32, 3)]):
        spec = conv_spec(filters, taps, padding="same", strides=1 + number % 2, **dict(zip(FLAGS, mode, strict=True)), **flags)
        check(spec, dtype, problem(spec, count, 6, channels, rows=rows, masked=number == 1))


@pytest.mark.parametrize(
    ("verb", "spec", "sizes"),
    [
        ("lstm_forward", lstm_spec(256, return_sequences=True), {"count": 4, "channels": 16}),
        ("lstm_forward", lstm_spec(256, return_sequences=True), {"count": 200, "channels": 16}),
        ("convlstm1d_forward", conv_spec(32, 3, padding="same", return_sequences=True), {"count": 3, "channels": 4, "rows": 300}),
    ],
    ids=["few samples", "many samples", "neighbours"],
)
def test_many_steps_and_runs_give_the_same_bits(verb, spec, sizes):
    """A thousand waits between the blocks, ten times: a lost one would show as another number."""
    weights, x, h, c, *_ = problem(spec, steps=1000, **sizes)
    arrays = [devices.to_gpu(a.astype(np.float32)) for a in (x, h, c)]
    assert "persistent" in gpu.kernel_for(spec, x)[1]
    prepared, run = gpu.prepare([devices.to_gpu(w.astype(np.float32)) for w in weights]), getattr(gpu, verb)
    first = devices.to_cpu(run(spec, prepared, *arrays)[0])
    assert np.isfinite(first).all()
    for _ in range(9):
        np.testing.assert_array_equal(devices.to_cpu(run(spec, prepared, *arrays)[0]), first)


@pytest.mark.parametrize("way", ["persistent", "direct"])
def test_two_streams_at_once(only, way):
    """Captured graphs have buffers of their own for each stream; cooperative launches wait for each other."""
    cupy = devices.cupy_module()
    spec = conv_spec(8, 3, padding="same", return_sequences=True, **only(way))
    weights, x, h, c, *_ = problem(spec, 4, 20, 4, rows=32)
    arrays = [[devices.to_gpu((a + number).astype(np.float32)) for a in (x, h, c)] for number in range(2)]
    prepared = gpu.prepare([devices.to_gpu(w.astype(np.float32)) for w in weights])
    want = [devices.to_cpu(gpu.convlstm1d_forward(spec, prepared, *one)[0]) for one in arrays]
    cupy.cuda.Device().synchronize()
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
    for _ in range(10):
        results = []
        for stream, one in zip(streams, arrays, strict=True):
            with stream:
                results.append(gpu.convlstm1d_forward(spec, prepared, *one)[0])
        for stream in streams:
            stream.synchronize()
        for got, expected in zip(results, want, strict=True):
            np.testing.assert_array_equal(devices.to_cpu(got), expected)
