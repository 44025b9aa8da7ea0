"""Gradients have the same bits on AVX2 and on AVX-512: no sum along a row of dz depends on how many lanes a vector has.

The same layers are trained one step in a process for each instruction set. (On NEON ``wheels/test_aarch64.py`` runs the kernels.)
"""

from __future__ import annotations

import io
import os
import subprocess
import sys

import numpy as np
import pytest

import fastlstm
from fastlstm import _core

# Less than a vector of either kind, whole vectors, whole and broken groups of them (64 bytes), several groups.
UNITS = (1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 15, 16, 17, 20, 24, 25, 28, 31, 32, 33, 48, 50, 65)
FEATURES = (1, 2, 3, 4, 5, 33)  # up to four the gradient of the input may be summed along the vectors
# (kernel_size, strides, dilation_rate, padding, channels)
CONVOLUTIONS = (
    *((1, 1, 1, "same", 1), (3, 1, 1, "same", 1), (3, 1, 1, "valid", 2), (2, 2, 1, "same", 3), (4, 1, 2, "valid", 4)),
    *((5, 3, 1, "valid", 1), (3, 1, 1, "same", 6), (2, 1, 1, "same", 20), (3, 1, 3, "same", 9)),
)


def gradients(layer, shape, rng, mask=None):
    """All gradients of one call, end to end, for weights, an input and a cotangent drawn from ``rng``."""
    x = rng.standard_normal(shape).astype(layer.dtype)
    layer.build(x.shape)
    layer.set_weights([0.3 * rng.standard_normal(w.shape) for w in layer.get_weights()])
    y, pullback = layer.vjp(x, mask=mask)
    answer = pullback(rng.standard_normal(y.shape).astype(layer.dtype))
    return np.concatenate([a.ravel() for a in (y, answer.inputs, *answer.weights)])


def fixed_gradients():
    """{name: gradients} of an LSTM or a ConvLSTM1D of every size."""
    rng, results = np.random.default_rng(0), {}
    for dtype in ("float32", "float64"):
        for units in UNITS:
            for features in FEATURES:
                batch, steps = ((1, 7), (3, 5), (8, 3))[(units + features) % 3]
                mask = rng.random((batch, steps)) < 0.7 if (units + features) % 2 else None
                layer = fastlstm.LSTM(units, return_sequences=True, dtype=dtype)
                results[f"LSTM {dtype} {units} {features}"] = gradients(layer, (batch, steps, features), rng, mask)
            for taps, strides, dilation, padding, channels in CONVOLUTIONS:
                options = {"strides": strides, "dilation_rate": dilation, "padding": padding, "return_sequences": True}
                layer = fastlstm.ConvLSTM1D(units, taps, dtype=dtype, **options)
                name = f"ConvLSTM1D {dtype} {units} {taps} {strides} {dilation} {padding} {channels}"
                results[name] = gradients(layer, (2, 3, 11, channels), rng)
    return results


def results_on(isa):
    kept = {k: v for k, v in os.environ.items() if k not in ("FASTLSTM_ISA", "FASTLSTM_GEMM")}
    environment = kept | {"FASTLSTM_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)}
    code = "import io, sys, numpy, test_backward_bitwise as t; f = io.BytesIO(); numpy.savez(f, **t.fixed_gradients())"
    command = [sys.executable, "-c", f"{code}; sys.stdout.buffer.write(f.getvalue())"]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    with np.load(io.BytesIO(done.stdout)) as arrays:
        return dict(arrays)


def test_avx2_and_avx512_give_the_same_gradients():
    missing = {"avx2", "avx512"} - set(_core.isa_available())
    if missing:
        pytest.skip(f"this machine lacks {', '.join(sorted(missing))}")
    narrow, wide = results_on("avx2"), results_on("avx512")
    assert len(narrow) == 2 * len(UNITS) * (len(FEATURES) + len(CONVOLUTIONS))
    assert all(np.isfinite(values).all() for values in narrow.values())
    assert [name for name in narrow if narrow[name].tobytes() != wide[name].tobytes()] == []
