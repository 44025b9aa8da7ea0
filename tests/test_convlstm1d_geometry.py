"""Rows of ConvLSTM1D: kernels of every width, strides, dilation, paddings, both data formats, and the shapes they give.

Source: keras-spec 4.1 and 4.2. Values against convlstm_formulas on both backends; numbers of rows also written out here.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from convlstm_formulas import FLOAT32, C, F, made, run, weights_for
from lstm_formulas import twice

from fastlstm import LSTM, ConvLSTM1D, selector

# rows, kernel_size, strides, dilation_rate, padding -> rows out, by hand.
ROWS = [
    ((5, 1, 1, 1, "valid"), 5),
    ((5, 2, 1, 1, "valid"), 4),
    ((5, 5, 1, 1, "valid"), 1),
    ((5, 2, 1, 1, "same"), 5),
    ((5, 4, 1, 1, "same"), 5),
    ((5, 9, 1, 1, "same"), 5),  # a kernel wider than the rows
    ((1, 8, 1, 1, "same"), 1),
    ((1, 1, 1, 1, "valid"), 1),
    ((7, 3, 2, 1, "valid"), 3),
    ((8, 3, 2, 1, "valid"), 3),
    ((9, 3, 2, 1, "valid"), 4),
    ((7, 3, 2, 1, "same"), 4),
    ((8, 3, 2, 1, "same"), 4),
    ((8, 2, 3, 1, "same"), 3),
    ((9, 1, 4, 1, "same"), 3),  # strides wider than the kernel leave rows out
    ((9, 1, 4, 1, "valid"), 3),
    ((4, 3, 7, 1, "valid"), 1),  # strides wider than the rows
    ((4, 3, 7, 1, "same"), 1),
    ((7, 3, 1, 2, "valid"), 3),
    ((7, 3, 1, 3, "valid"), 1),
    ((7, 2, 1, 6, "valid"), 1),
    ((7, 3, 1, 2, "same"), 7),
    ((7, 4, 1, 3, "same"), 7),  # a reach of 10 over 7 rows
    ((17, 4, 2, 1, "same"), 9),
    ((33, 5, 3, 1, "valid"), 10),
]
LAST_FIRST = pytest.mark.parametrize("first", [False, True], ids=["channels_last", "channels_first"])


def options_of(strides, dilation, padding, first):
    data_format = "channels_first" if first else "channels_last"
    return {"strides": strides, "dilation_rate": dilation, "padding": padding, "data_format": data_format}


def check(rows, taps, strides, dilation, padding, first, channels=C, filters=F, batch=2, backends=("cpu", "reference")):
    """All outputs and both states of one geometry, from initial states, forwards; returns the layer's shape of an output."""
    rng = np.random.default_rng([rows, taps, strides, dilation])
    weights = weights_for(taps, channels, filters, scale=0.7 / np.sqrt(taps * max(channels, filters)))
    x = rng.standard_normal((batch, 3, rows, channels)).astype(np.float32)
    options = options_of(strides, dilation, padding, first)
    layer = made(weights, rows=rows, return_sequences=True, return_state=True, **options)
    shape = layer.cell.state_shape(batch)
    states = [rng.standard_normal(shape).astype(np.float32) for _ in "hc"]
    x = np.ascontiguousarray(x.swapaxes(2, 3)) if first else x
    convolution = {name: value for name, value in options.items() if name != "data_format"}
    outputs, _, h, c = run(x, weights, *states, channels_first=first, **convolution)
    for backend in backends:
        with selector.use_backend(backend):
            for got, want in zip(twice(layer, x, states), (outputs, h, c), strict=True):
                assert got.shape == want.shape
                np.testing.assert_allclose(got, want, **FLOAT32)
    return layer.compute_output_shape(x.shape)


@LAST_FIRST
@pytest.mark.parametrize(("arguments", "rows_out"), ROWS, ids=str)
def test_rows(arguments, rows_out, first):
    state = (2, F, rows_out) if first else (2, rows_out, F)
    assert check(*arguments, first) == [(2, 3, *state[1:]), state, state]


@LAST_FIRST
@pytest.mark.parametrize("taps", range(1, 10))
def test_every_width_of_kernel(taps, first):
    for padding, (strides, dilation) in itertools.product(["same", "valid"], [(1, 1), (2, 1), (3, 1), (1, 2), (1, 3)]):
        check(2 + (taps - 1) * dilation + 1, taps, strides, dilation, padding, first, backends=["cpu"])


@pytest.mark.parametrize(("channels", "filters"), [(1, 1), (1, 17), (5, 8), (16, 16), (9, 33)])
def test_numbers_of_channels_and_filters(channels, filters):
    for padding, first in itertools.product(["same", "valid"], [False, True]):
        check(6, 4, 1, 1, padding, first, channels, filters, batch=3)


def test_an_even_kernel_has_its_odd_zero_on_the_right():
    """A kernel of two taps that picks one of them: "same" sees row r and row r + 1 (beyond the last row a zero)."""
    x = np.arange(1, 5, dtype=np.float32).reshape(1, 1, 4, 1)
    for tap, seen in ((0, [1, 2, 3, 4]), (1, [2, 3, 4, 0])):
        kernel = np.zeros((2, 1, 4))
        kernel[tap, 0, 2] = 1  # the candidate; i = o = 1 and f = 0 from the bias, no activation
        weights = [kernel, np.zeros((2, 1, 4)), np.array([1, 0, 0, 1])]
        layer = made(weights, rows=4, padding="same", activation=None, recurrent_activation=None)
        np.testing.assert_array_equal(layer(x)[0, :, 0], seen)


def test_the_recurrent_convolution_too_has_its_odd_zero_on_the_right():
    """h1 = 1 2 3 4; at the second step one tap of the recurrent kernel is all that acts."""
    x = np.array([[1, 2, 3, 4], [0, 0, 0, 0]], np.float32).reshape(1, 2, 4, 1)
    for tap, seen in ((0, [1, 2, 3, 4]), (1, [2, 3, 4, 0])):
        recurrent = np.zeros((2, 1, 4))
        recurrent[tap, 0, 2] = 1
        kernel = np.zeros((2, 1, 4))
        kernel[0, 0, 2] = 1
        weights = [kernel, recurrent, np.array([1, 0, 0, 1])]
        layer = made(weights, rows=4, padding="same", activation=None, recurrent_activation=None)
        np.testing.assert_array_equal(layer(x)[0, :, 0], seen)


def test_the_kernel_is_not_turned_round():
    x = np.array([[[[1], [0], [0]]]], np.float32)
    kernel = np.zeros((3, 1, 4))
    kernel[:, 0, 2] = 10, 20, 30
    layer = made([kernel, 0 * kernel, np.array([1, 0, 0, 1])], rows=3, padding="same", activation=None, recurrent_activation=None)
    np.testing.assert_array_equal(layer(x)[0, :, 0], [20, 10, 0])


def test_channels_first_is_the_same_layer_on_swapped_axes():
    x = np.random.default_rng(1).standard_normal((4, 5, 9, C)).astype(np.float32)
    last, first = (
        made(rows=9, return_sequences=True, return_state=True, padding="same", strides=2, data_format=f"channels_{name}")
        for name in ("last", "first")
    )
    for a, b in zip(last(x), first(x.swapaxes(2, 3)), strict=True):
        np.testing.assert_allclose(a, b.swapaxes(-1, -2), rtol=0, atol=1e-6)


def test_one_row_and_one_tap_is_an_lstm():
    weights = weights_for(1)
    x = np.random.default_rng(1).standard_normal((4, 5, 1, C)).astype(np.float32)
    lstm = LSTM(F, return_sequences=True)
    lstm.build((None, None, C))
    lstm.set_weights([weights[0][0], weights[1][0], weights[2]])
    np.testing.assert_allclose(made(weights, rows=1, return_sequences=True)(x)[:, :, 0], lstm(x[:, :, 0]), rtol=0, atol=1e-6)


# -- compute_output_shape -------------------------------------------------------------------------------------------------------
@LAST_FIRST
@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("steps", [None, 5])
def test_compute_output_shape(batch, steps, first):
    data_format = "channels_first" if first else "channels_last"
    state = (batch, F, 3) if first else (batch, 3, F)
    sequence = (batch, steps, *state[1:])
    shape = (batch, steps, C, 7) if first else (batch, steps, 7, C)
    for built in (False, True):
        for sequences, want in ((False, state), (True, sequence)):
            layer = ConvLSTM1D(F, 3, strides=2, return_sequences=sequences, data_format=data_format)
            if built:
                layer.build(shape)
            assert layer.compute_output_shape(shape) == want
            layer.return_state = True
            assert layer.compute_output_shape(shape) == [want, state, state]


def test_compute_output_shape_of_unknown_rows():
    assert ConvLSTM1D(F, 3, padding="same").compute_output_shape((None, 4, None, C)) == (None, None, F)
    first = ConvLSTM1D(F, 3, return_sequences=True, data_format="channels_first")
    assert first.compute_output_shape((2, None, C, None)) == (2, None, F, None)


def test_initial_states_of_the_cell():
    for first, shape in ((False, (4, 5, F)), (True, (4, F, 5))):
        cell = made(data_format="channels_first" if first else "channels_last").cell
        states = cell.get_initial_state(4)
        assert [s.shape for s in states] == [shape, shape]
        assert not np.any(states)
    with pytest.raises(ValueError, match=r"rows of cell .* is unknown before it is built"):
        ConvLSTM1D(F, 3).cell.get_initial_state(4)
