"""Gradients by central differences in float64: the truth that every backward is compared with. Used by test_vjp_*
and test_reference_backward.
"""

from __future__ import annotations

import copy

import numpy as np

from fastlstm import selector

STEP = 1e-5
TOLERANCE = 1e-6  # relative to the largest entry of a gradient; the differences themselves are good to about 1e-9


def gradient(function, array):
    """d function() / d array, entry by entry; ``array`` (float64) is changed in place and put back."""
    slopes = np.zeros(array.shape)
    for index in np.ndindex(array.shape):
        kept = array[index]
        values = []
        for moved in (kept + STEP, kept - STEP):
            array[index] = moved
            values.append(function())
        array[index] = kept
        slopes[index] = (values[0] - values[1]) / (2 * STEP)
    return slopes


def check(got, want, what):
    """``got`` is float64, of the shape of ``want``, and equal to it within the tolerance."""
    assert got is not None, f"{what}: no gradient"
    assert got.dtype == np.float64, f"{what}: {got.dtype}"
    assert got.shape == want.shape, f"{what}: {got.shape}, expected {want.shape}"
    error = np.abs(got - want).max(initial=0.0)
    assert error <= TOLERANCE * max(np.abs(want).max(initial=0.0), 1e-2), f"{what}: off by {error:.2e}"


def flatten(outputs):
    """Everything in nested tuples and lists, in order."""
    return [leaf for part in outputs for leaf in flatten(part)] if isinstance(outputs, (tuple, list)) else [outputs]


def check_layer(layer, x, *args, seed=0, training=True, frozen=(), indices=False, **keywords):
    """``layer.vjp`` of a float64 layer against differences of its call, in ``x``, all states and all weights.

    Every evaluation runs on a copy of the layer, so that dropout draws the same masks and moving statistics do not move.
    ``args``, ``keywords``: further arguments of the call; ``frozen``: numbers of weights that have no gradient;
    ``indices``: x has none either, though it may be floating. Returns (outputs, Gradients).
    """
    if not layer.built:
        layer.build(x.shape)
    start = copy.deepcopy(layer)
    outputs, pullback = layer.vjp(x, *args, training=training, **keywords)
    expected = flatten(copy.deepcopy(start)(x, *args, training=training, **keywords))
    for got, want in zip(flatten(outputs), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)
    rng = np.random.default_rng(seed)
    dys = [rng.standard_normal(y.shape) for y in expected]

    def loss():
        with selector.use_backend("cpu"):  # whichever backend's gradients are asked about: this one takes a third of the time
            ran = flatten(copy.deepcopy(start)(x, *args, training=training, **keywords))
        return sum(float(np.sum(y * dy)) for y, dy in zip(ran, dys, strict=True))

    answer = pullback(dys[0] if len(dys) == 1 else tuple(dys))
    if indices or x.dtype.kind != "f":
        assert answer.inputs is None
    else:
        check(answer.inputs, gradient(loss, x), "inputs")
    states = keywords.get("initial_state") or (args[0] if args else None)
    assert (answer.initial_state is None) == (states is None)
    for k, state in enumerate(states or []):
        check(answer.initial_state[k], gradient(loss, state), f"initial_state[{k}]")
    assert len(answer.weights) == len(start.weights)
    for k, (variable, got) in enumerate(zip(start.weights, answer.weights, strict=True)):
        if k in frozen:
            assert got is None, f"{variable.path} has a gradient"
        else:
            check(got, gradient(loss, variable), variable.path)
    return outputs, answer
