"""Every activation of ConvLSTM1D at both places and in both data formats, on both backends, against exact values."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from convlstm_formulas import FLOAT32, MASK, C, N, R, T, made, run, weights_for
from exact_activations import VALUE, exact
from lstm_formulas import twice

from fastlstm import selector


def softmax(z):
    return np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)


def sparsemax(z):
    """The projection on the simplex: of all thresholds that k numbers above them allow, the largest one (keras-spec 10)."""
    z_sorted = -np.sort(-z, axis=-1)
    thresholds = (np.cumsum(z_sorted, axis=-1) - 1) / np.arange(1, z.shape[-1] + 1)
    return np.maximum(z - thresholds.max(axis=-1, keepdims=True), 0)


OVER_AXIS = {"softmax": softmax, "log_softmax": lambda z: np.log(softmax(z)), "sparsemax": sparsemax}


@functools.cache
def expected(name, place, first):
    """Outputs and final states with the activation ``name`` at ``place``: two samples, two steps."""
    function = OVER_AXIS.get(name) or (lambda z: exact(VALUE[name], z.ravel())[0].reshape(z.shape))
    outputs, _, h, c = run(data(first), weights_for(scale=0.3), channels_first=first, **{place: function})
    return outputs, h, c


def data(first):
    x = np.random.default_rng(5).standard_normal((2, 2, R, C)).astype(np.float32)
    return np.ascontiguousarray(x.swapaxes(-1, -2)) if first else x


@pytest.mark.parametrize("first", [False, True], ids=["channels_last", "channels_first"])
@pytest.mark.parametrize("place", ["activation", "recurrent_activation"])
@pytest.mark.parametrize("name", [*VALUE, *OVER_AXIS])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_every_activation(name, place, first, backend):
    """Those over an axis act on the last axis in memory: the filters, channels first the rows (keras-spec 4.2)."""
    formats = {"data_format": "channels_first" if first else "channels_last"}
    layer = made(weights_for(scale=0.3), return_sequences=True, return_state=True, **{place: name}, **formats)
    with selector.use_backend(backend):
        result = twice(layer, data(first))
    for got, want in zip(result, expected(name, place, first), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", OVER_AXIS)
def test_over_the_rows_runs_step_by_step_over_the_filters_compiled(name):
    for first, kernel in ((True, "stepwise"), (False, "general")):
        layer = made(activation=name, data_format="channels_first" if first else "channels_last")
        assert layer.explain(data(first)).kernel == kernel


def test_own_function_as_activation():
    x = np.random.default_rng(5).standard_normal((N, T, R, C)).astype(np.float32)
    _, last, _, _ = run(x, weights_for(), mask=MASK, activation=np.sin, recurrent_activation=np.cos)
    layer = made(activation=np.sin, recurrent_activation=np.cos)
    assert layer.explain(x).kernel == "stepwise"
    np.testing.assert_allclose(twice(layer, x, mask=MASK), last, **FLOAT32)
