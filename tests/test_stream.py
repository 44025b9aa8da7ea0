"""A single sample takes a way of its own through the kernels (include/fastlstm/single_row.h): the same bits as in a batch.

The sizes lead through every branch of that way on every instruction set: panels that a first-level cache holds, larger ones,
ones taken block by block, with and without gaps between their rows; whole vectors of units and tails; one step, and more steps
than are projected at once. A batch of four goes through the tiles of gate_panel.h.
"""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from children import finished
from lstm_formulas import made

from fastlstm import _core, selector

CHILD = "FASTLSTM_TEST_STREAM_CHILD"
# (D, U): near, near with a tail, tiles, tiles with a tail, padded and kept, padded with a tail, padded without h kept, beyond.
SIZES = [(3, 5), (32, 32), (12, 20), (40, 60), (10, 64), (64, 128), (30, 100), (16, 150), (1, 180), (200, 260)]
MASKS = {
    "none": lambda steps: None,
    "right": lambda steps: np.arange(steps) < steps // 2,
    "left": lambda steps: np.arange(steps) >= steps // 3,
    "holes": lambda steps: np.arange(steps) % 5 != 3,
    "all": lambda steps: np.zeros(steps, bool),
}

pytestmark = pytest.mark.usefixtures("packed_panels_throughout")


def problem(size, steps, dtype, **options):
    """A layer, its x [4,steps,D], and states [4,U]."""
    features, units = size
    rng = np.random.default_rng(features + 31 * units + steps)

    def draw(*shape, scale=1.0):
        return (scale * rng.standard_normal(shape)).astype(dtype)

    scale = 0.8 / np.sqrt(max(features, units))
    weights = [draw(features, 4 * units, scale=scale), draw(units, 4 * units, scale=scale), draw(4 * units)]
    layer = made(weights, return_state=True, recurrent_initializer="zeros", dtype=dtype, **options)
    return layer, draw(4, steps, features), [draw(4, units), draw(4, units)]


def alone(layer, x, states, mask, row):
    one = slice(row, row + 1)
    return layer(x[one], [s[one] for s in states], None if mask is None else mask[one])


def assert_same_bits(got, want):
    for a, b in zip(got, want, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes(), f"largest difference {np.abs(a - b).max()}"


@pytest.mark.parametrize("steps", [1, 2, 107])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_alone_as_in_a_batch(size, dtype, steps):
    for sequences in (True, False):
        layer, x, states = problem(size, steps, dtype, return_sequences=sequences)
        whole = layer(x, states)
        for row in (0, 3):
            assert_same_bits(alone(layer, x, states, None, row), [a[row : row + 1] for a in whole])


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("zero", [False, True], ids=["repeats", "zeros"])
@pytest.mark.parametrize("sequences", [True, False], ids=["sequences", "last"])
@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
def test_masks_and_directions(backwards, sequences, zero, mask):
    options = {"go_backwards": backwards, "return_sequences": sequences, "zero_output_for_mask": zero}
    for size in [(3, 5), (40, 60), (30, 100)]:
        layer, x, states = problem(size, 23, "float32", **options)
        row = MASKS[mask](23)
        masks = None if row is None else np.stack([np.roll(row, k) for k in range(4)])
        whole = layer(x, states, masks)
        for number in range(4):
            assert_same_bits(alone(layer, x, states, masks, number), [a[number : number + 1] for a in whole])


@pytest.mark.parametrize("pair", [("relu", "sigmoid"), ("tanh", "hard_sigmoid"), ("softsign", "softplus"), ("linear", "linear")])
def test_other_activations(pair):
    for size in [(12, 20), (30, 100)]:
        layer, x, states = problem(size, 9, "float32", return_sequences=True, activation=pair[0], recurrent_activation=pair[1])
        assert_same_bits(alone(layer, x, states, None, 2), [a[2:3] for a in layer(x, states)])


def test_16_bits():
    layer, x, states = problem((30, 100), 9, "float16", return_sequences=True)
    assert_same_bits(alone(layer, x, states, None, 2), [a[2:3] for a in layer(x, states)])


@pytest.mark.parametrize("mask", ["none", "holes"])
@pytest.mark.parametrize("size", [(3, 5), (40, 60), (64, 128), (30, 100)], ids=str)
def test_the_tape_of_one_sample(size, mask):
    """Outputs to the last bit, gradients to the reference's."""
    layer, x, states = problem(size, 31, "float64", return_sequences=True)
    row = MASKS[mask](31)
    valid = None if row is None else row[None]
    dy = np.random.default_rng(1).standard_normal((1, 31, size[1]))
    outputs, pullback = layer.vjp(x[:1], [s[:1] for s in states], valid, training=False)
    assert_same_bits(outputs, layer(x[:1], [s[:1] for s in states], valid))
    got = pullback((dy, None, dy[:, 0]))
    with selector.use_backend("reference"):
        _, pullback = layer.vjp(x[:1], [s[:1] for s in states], valid, training=False)
        want = pullback((dy, None, dy[:, 0]))
    for a, b in zip(
        [got.inputs, *got.initial_state, *got.weights], [want.inputs, *want.initial_state, *want.weights], strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10 * np.abs(b).max())


def test_the_initial_state_may_be_the_output_buffer():
    layer, x, states = problem((40, 60), 1, "float32")
    want = [a.copy() for a in layer(x[:1], [s[:1] for s in states])]
    h = states[0][:1].copy()
    got = layer(x[:1], [h, states[1][:1]], out=h)
    assert got[0] is h
    assert_same_bits(got, want)


@pytest.mark.parametrize("kind", ["ordinary", "infinite", "negative", "minus zero"])
@pytest.mark.parametrize("batch", [1, 3, 4])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_without_a_state_as_with_zeros(steps, batch, kind):
    """The first step may leave out what zeros contribute, but not where 0 * inf is NaN or where it decides the sign of a zero."""
    layer, x, _ = problem((30, 100), steps, "float32", return_sequences=True, activation="linear", recurrent_activation="linear")
    kernel, recurrent, bias = layer.get_weights()
    if kind == "infinite":
        recurrent[7, 5] = np.inf
    if kind == "negative":
        recurrent[:] = -np.abs(recurrent)
    if kind in ("negative", "minus zero"):
        bias[:], x[:] = -0.0, 0.0
        kernel[:] = -np.abs(kernel)
    layer.set_weights([kernel, recurrent, bias])
    zeros = [np.zeros((batch, 100), np.float32) for _ in "hc"]
    with np.errstate(invalid="ignore"):
        got, want = layer(x[:batch]), layer(x[:batch], zeros)
    assert np.isnan(want[0]).any() == (kind == "infinite")
    for a, b in zip(got, want, strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.skipif(CHILD in os.environ, reason="this is one of the processes that the test starts")
@pytest.mark.parametrize("isa", [name for name in _core.isa_available() if name != _core.isa])
def test_every_other_instruction_set(request, isa):
    """The whole of this file, in a process that is forced to another instruction set."""

    def run(isa):
        environment = {**os.environ, "FASTLSTM_ISA": isa, "FASTLSTM_GEMM": "packed", CHILD: "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    done = finished(request, run)
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
