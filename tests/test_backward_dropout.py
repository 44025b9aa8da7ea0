"""Compiled forward and backward passes with dropout masks of their own for each gate, against the float64 reference backend.

The masks are fixed and given to the backends' verbs, so that both apply the same ones (keras-spec 8).
"""

from __future__ import annotations

import numpy as np
import pytest

import fastlstm
from fastlstm import activations
from fastlstm.backends import cpu, cpu_training, reference
from fastlstm.spec import ConvLSTM1DSpec, RecurrentSpec

TOLERANCE = {"float32": 1e-4, "float64": 1e-11}  # of |a - b| / max(1, |b|)
# (mask on x, mask on h): how many arrays of each, as keras-spec 8 draws them
WHICH = {"both": (4, 4), "inputs": (4, 0), "recurrent": (0, 4)}


def scales(rng, count, shape, rate=0.3):
    return [(rng.random(shape) >= rate) / (1 - rate) for _ in range(count)]


def error(got, want):
    assert got.shape == want.shape
    return float((np.abs(got - want) / np.maximum(1, np.abs(want))).max(initial=0))


def flat(answer):
    return [*answer[:3], *answer[3]]


def compare(verb, spec_of, weights, x, states, mask, masks, dtype):
    """Outputs and all gradients of the compiled path against the float64 reference."""

    def run(backend, real):
        def cast(array):
            return np.ascontiguousarray(array, dtype=real)

        spec = spec_of(real)
        prepared = backend.prepare([cast(w) for w in weights])
        dropout = reference.DropoutMasks(*[[cast(m) for m in part] for part in masks])
        arguments = (spec, prepared, cast(x), *[cast(s) for s in states], mask, dropout)
        *outputs, tape = getattr(backend, f"{verb}_forward")(*arguments, record=True)
        cotangents = [cast(np.cos(np.arange(o.size)).reshape(o.shape)) for o in outputs]
        gradients = flat(getattr(backend, f"{verb}_backward")(spec, prepared, tape, *cotangents))
        alone = getattr(backend, f"{verb}_forward")(*arguments)
        return [*outputs, *gradients], alone, tape

    want, _, _ = run(reference, "float64")
    got, alone, tape = run(cpu, dtype)
    assert isinstance(tape, cpu_training.CpuTape)
    for k, (a, b) in enumerate(zip(got, want, strict=True)):
        assert error(a, b) <= TOLERANCE[dtype], f"result {k} is off by {error(a, b):.1e}"
    for a, b in zip(alone, got, strict=False):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("sizes", [(1, 1, 1, 2), (2, 4, 16, 5), (3, 5, 17, 9), (7, 8, 33, 60), (9, 3, 4, 20)])
def test_lstm(sizes, which, dtype):
    batch, features, units, steps = sizes
    rng = np.random.default_rng(batch + units)
    # Scaled so that the recurrence is no chaos, in which any rounding would grow.
    weights = [rng.standard_normal((rows, 4 * units)) * 0.3 / rows**0.5 for rows in (features, units)] + [
        rng.standard_normal(4 * units) * 0.3
    ]
    x, states = rng.standard_normal((batch, steps, features)), rng.standard_normal((2, batch, units))
    counts = WHICH[which]
    masks = scales(rng, counts[0], (batch, features)), scales(rng, counts[1], (batch, units))
    names = ("gelu", "hard_sigmoid") if which == "both" else ("tanh", "sigmoid")

    def spec_of(real):
        pair = [activations.get(name) for name in names]
        rates = {"dropout": 0.3, "recurrent_dropout": 0.3, "dropout_masks": 4}
        return RecurrentSpec(units, *pair, return_sequences=which != "inputs", storage=real, **rates)

    mask = None if which == "recurrent" else rng.random((batch, steps)) < 0.7
    compare("lstm", spec_of, weights, x, states, mask, masks, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize(("strides", "dilation"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("channels_first", [False, True])
def test_convlstm1d(strides, dilation, padding, channels_first, which, dtype):
    batch, rows, channels, filters, taps, steps = 3, 9, 5, 17, 4, 5
    rng = np.random.default_rng(7)
    weights = [rng.standard_normal((taps, depth, 4 * filters)) * 0.2 for depth in (channels, filters)]
    weights.append(rng.standard_normal(4 * filters))

    def spec_of(real):
        sizes = {"kernel_size": taps, "strides": strides, "dilation_rate": dilation, "padding": padding}
        rates = {"dropout": 0.3, "recurrent_dropout": 0.3, "dropout_masks": 4}
        pair = activations.tanh, activations.sigmoid
        return ConvLSTM1DSpec(filters, *pair, True, True, storage=real, channels_first=channels_first, **sizes, **rates)

    def laid(n, a, b):
        return (n, b, a) if channels_first else (n, a, b)

    out = spec_of(dtype).rows(rows).rows_out
    x = rng.standard_normal((batch, steps, *laid(0, rows, channels)[1:]))
    states = rng.standard_normal((2, *laid(batch, out, filters)))
    counts = WHICH[which]
    masks = scales(rng, counts[0], laid(batch, rows, channels)), scales(rng, counts[1], laid(batch, out, filters))
    compare("convlstm1d", spec_of, weights, x, states, rng.random((batch, steps)) < 0.7, masks, dtype)


@pytest.mark.parametrize("layer", ["LSTM", "ConvLSTM1D"])
def test_a_layer_trains_with_both_dropouts_on_the_compiled_path(layer):
    """Through the door: the same seed gives the same masks to the compiled and to the reference backend."""
    arguments = (4,) if layer == "LSTM" else (4, 3)
    shape = (3, 6, 5) if layer == "LSTM" else (3, 6, 7, 5)
    x = np.random.default_rng(0).standard_normal(shape)

    def run():
        made = getattr(fastlstm, layer)(*arguments, dropout=0.4, recurrent_dropout=0.3, seed=5, dtype="float64")
        made.build(shape)
        made.set_weights([np.sin(np.arange(w.size)).reshape(w.shape) for w in made.weights])
        y, pullback = made.vjp(x)
        return [y, pullback(np.cos(y)).inputs, *pullback(np.cos(y)).weights], made.explain(x, training=True).kernel

    got, kernel = run()
    with fastlstm.selector.use_backend("reference"):
        want, _ = run()
    assert kernel == "fused"
    for a, b in zip(got, want, strict=True):
        assert error(a, b) < 1e-12
