"""LSTMCell: one step at a time gives what LSTM gives over the sequence (keras-spec 2 and 3)."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from lstm_formulas import FLOAT32, FLOAT64, D, N, T, U, run, weights_for

from fastlstm import LSTMCell


@pytest.fixture
def x():
    return np.random.default_rng(5).standard_normal((N, T, D)).astype(np.float32)


def made(**kwargs):
    cell = LSTMCell(U, **kwargs)
    cell.build((None, D))
    cell.set_weights(weights_for())
    return cell


def over(cell, x, states=None, **kwargs):
    """(outputs [N,T,U], h, c) of stepping the cell by hand."""
    states = states or cell.get_initial_state(batch_size=len(x))
    outputs = []
    for t in range(x.shape[1]):
        output, states = cell(x[:, t], states, **kwargs)
        outputs.append(output)
    return np.stack(outputs, axis=1), *states


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", FLOAT32), ("float64", FLOAT64)])
def test_steps_make_the_sequence(kernel, x, dtype, tolerance):
    outputs, _, h, c = run(x, weights_for())
    for got, want in zip(over(made(dtype=dtype), x), (outputs, h, c), strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(got, want, **tolerance)


def test_return_form(x):
    cell = made()
    result = cell(x[:, 0], [np.ones((N, U)), np.zeros((1, U), int)])
    assert type(result) is tuple
    h, states = result
    assert type(states) is list
    np.testing.assert_array_equal(states[0], h)
    expected = run(x[:, :1], weights_for(), np.ones((N, U)))
    np.testing.assert_allclose(h, expected[2], **FLOAT32)
    np.testing.assert_allclose(states[1], expected[3], **FLOAT32)
    assert {a.dtype for a in (h, *states)} == {np.dtype(np.float32)}


def test_first_call_builds_and_names(x):
    cell = LSTMCell(U, name="mine")
    assert cell.weights == []
    cell(x[:, 0], cell.get_initial_state(N))
    assert [v.path for v in cell.weights] == ["mine/kernel", "mine/recurrent_kernel", "mine/bias"]
    assert (cell.state_size, cell.output_size, cell.count_params()) == ([U, U], U, 4 * U * (D + U + 1))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "mixed_bfloat16"])
def test_initial_state_is_zeros_of_the_compute_dtype(dtype):
    cell = LSTMCell(U, dtype=dtype)
    h, c = cell.get_initial_state(batch_size=2)
    for state in (h, c):
        assert (state.shape, state.dtype.name) == ((2, U), cell.compute_dtype)
        assert not state.any()


def test_new_weights_are_seen_at_once(x):
    cell, doubled = made(), [2 * w for w in weights_for()]
    cell(x[:, 0], cell.get_initial_state(N))
    cell.set_weights(doubled)
    np.testing.assert_allclose(over(cell, x)[0], run(x, doubled)[0], **FLOAT32)
    cell.bias[...] = 0
    np.testing.assert_allclose(over(cell, x)[0], run(x, doubled[:2])[0], **FLOAT32)


def test_copies_stand_on_their_own(x):
    cell = made()
    expected = over(cell, x)[0]
    for twin in (copy.deepcopy(cell), pickle.loads(pickle.dumps(cell))):
        np.testing.assert_array_equal(over(twin, x)[0], expected)
        twin.kernel.assign(np.zeros((D, 4 * U)))
        np.testing.assert_array_equal(over(cell, x)[0], expected)
        assert (over(twin, x)[0] != expected).any()


zeros = np.zeros((N, U))
BAD = [
    (np.zeros((N, T, D)), [zeros, zeros], ValueError, "expected ndim=2, found ndim=3"),
    (np.zeros((N, D + 1)), [zeros, zeros], ValueError, r"expected axis 1 .* value 4, but received input with shape \(3, 5\)"),
    ([[0.0] * D] * N, [zeros, zeros], ValueError, "`inputs` must be a NumPy array. Received: list"),
    (np.zeros((N, D), complex), [zeros, zeros], TypeError, "`inputs` must be an array of numbers"),
    (np.zeros((N, D)), zeros, IndexError, r"`states` must be a list of two arrays \[h, c\]. Received: ndarray"),
    (np.zeros((N, D)), [zeros], IndexError, "`states` .* Received: a list of 1"),
    (
        np.zeros((N, D)),
        [zeros, zeros[:2]],
        ValueError,
        r"`states` must hold arrays of shape \(3, 5\). Received: c.shape=\(2, 5\)",
    ),
    (np.zeros((N, D)), [zeros.astype(object), zeros], TypeError, r"`states\[0\]` must be an array of numbers"),
]


@pytest.mark.parametrize(("inputs", "states", "error", "message"), BAD)
def test_bad_arguments(inputs, states, error, message):
    with pytest.raises(error, match=message):
        made()(inputs, states)


def test_states_are_required(x):
    with pytest.raises(TypeError, match="states"):
        made()(x[:, 0])


# -- dropout: one draw serves all steps of a sequence, until reset_dropout_mask ------------------------------------------------
def test_dropout_only_in_training(kernel, x):
    cell = made(dropout=0.5, recurrent_dropout=0.5)
    np.testing.assert_allclose(over(cell, x)[0], run(x, weights_for())[0], **FLOAT32)
    assert (over(cell, x, training=True)[0] != over(cell, x)[0]).any()


def test_one_draw_until_the_masks_are_reset(x):
    cell = made(dropout=0.5, seed=7)
    ones = [np.zeros((N, U)), np.zeros((N, U))]
    first = cell(x[:, 0], ones, training=True)[0]
    np.testing.assert_array_equal(cell(x[:, 0], ones, training=True)[0], first)
    assert cell.seed_generator.state.tolist() == [7, 1]
    cell.reset_dropout_mask()
    assert (cell(x[:, 0], ones, training=True)[0] != first).any()
    assert cell.seed_generator.state.tolist() == [7, 2]


def test_masks_of_the_cell_are_those_of_the_formulas(x):
    cell = made(recurrent_dropout=0.5, seed=7)
    outputs = over(cell, x, training=True)[0]
    scales = cell._step_masks[1].recurrent
    assert len(scales) == 4
    assert set(np.unique(scales)) == {0, 2}
    np.testing.assert_allclose(outputs, run(x, weights_for(), recurrent_scales=scales)[0], **FLOAT32)


def test_another_batch_size_draws_its_own_masks(x):
    cell = made(dropout=0.5)
    assert over(cell, x, training=True)[0].shape == (N, T, U)
    assert over(cell, x[:1], training=True)[0].shape == (1, T, U)
