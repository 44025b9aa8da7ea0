"""The compiled backward passes through ``layer.vjp``: central differences at every time step, the tape, threads, refusals.

test_backward.py compares them with the reference backend, and runs this file too on each instruction set.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest
from backward_runs import UNITS, Runner, conv_arrays, conv_spec, cotangents_for, drawer, lstm_arrays, lstm_spec
from central_differences import TOLERANCE, check, check_layer, gradient

from fastlstm import LSTM, Bidirectional, ConvLSTM1D, _core
from fastlstm.backends import cpu, cpu_training
from fastlstm.layers.gradients import Gradients

F64 = {"dtype": "float64"}
T = 5
MASK = np.array([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 1, 0, 1]], bool)
LAYERS = {
    "LSTM": (lambda **options: LSTM(3, **options), (3, T, 2)),
    "LSTM, other activations": (lambda **o: LSTM(3, activation="gelu", recurrent_activation="softsign", **o), (3, T, 2)),
    "LSTM, no bias": (lambda **options: LSTM(3, use_bias=False, **options), (3, T, 2)),
    "ConvLSTM1D": (lambda **options: ConvLSTM1D(2, 2, padding="same", **options), (3, T, 3, 1)),
    "ConvLSTM1D, strides": (lambda **options: ConvLSTM1D(1, 2, strides=3, **options), (3, T, 6, 1)),
    "ConvLSTM1D, channels first": (
        lambda **o: ConvLSTM1D(1, 3, data_format="channels_first", dilation_rate=2, padding="same", **o),
        (3, T, 2, 3),
    ),
}
each_layer = pytest.mark.parametrize("kind", LAYERS)


def made(kind, **options):
    """(layer, x): float64, built, with random weights; the compiled kernels run its gradients."""
    make, shape = LAYERS[kind]
    layer = make(**{**F64, **options})
    layer.build(shape)
    draw = drawer(7)
    layer.set_weights([draw(v.shape, 0.6) for v in layer.weights])
    choice = layer.explain(np.zeros(shape))
    assert choice.backend == "cpu"
    assert choice.kernel in ("fused", "general")
    return layer, draw(shape)


# -- central differences ------------------------------------------------------------------------------------------------------
@each_layer
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("options", [{"return_sequences": True}, {"go_backwards": True}], ids=str)
def test_every_gradient_is_that_of_the_differences(kind, options, masked):
    """In x at every time step, in both states and in all weights."""
    layer, x = made(kind, return_state=True, **options)
    states = [drawer(8)(state.shape) for state in layer(x)[1:]]
    _, answer = check_layer(layer, x, initial_state=states, **({"mask": MASK} if masked else {}))
    assert not (masked and answer.inputs[~MASK].any())


@each_layer
@pytest.mark.parametrize("backwards", [False, True])
def test_the_output_of_each_step_reaches_back_to_the_first(kind, backwards):
    """A cotangent at one output alone: the differences at every step, exactly 0 behind it and something at every step before."""
    layer, x = made(kind, return_sequences=True, go_backwards=backwards)
    y, pullback = layer.vjp(x)
    draw = drawer(9)
    for step in range(T):
        dy = np.zeros(y.shape)
        dy[:, step] = draw(y[:, step].shape)
        dx = pullback(dy).inputs
        check(dx, gradient(lambda dy=dy: float(np.sum(layer(x) * dy)), x), f"inputs, output {step}")
        processed = dx[:, ::-1] if backwards else dx
        assert not processed[:, step + 1 :].any()
        assert all(processed[:, t].any() for t in range(step + 1))


@pytest.mark.parametrize("units", UNITS)
def test_directional_differences_over_blocks_of_time(units):
    """300 steps of two samples take three blocks: one direction in x at each of five places, and one in each of the weights."""
    layer = LSTM(units, return_sequences=True, **F64)
    weights, x, *_ = lstm_arrays(units, 2, 300, 3)
    layer.build(x.shape)
    layer.set_weights(weights)
    y, pullback = layer.vjp(x)
    draw = drawer(10, units)
    dy = draw(y.shape)
    answer = pullback(dy)

    def slope(change):
        values = []
        for size in (1e-5, -1e-5):
            change(size)
            values.append(float(np.sum(layer(x) * dy)))
            change(-size)
        return (values[0] - values[1]) / 2e-5

    for step in (0, 43, 44, 171, 299):
        direction = draw(x[:, step].shape)

        def move(size, step=step, direction=direction):
            x[:, step] += size * direction

        want = slope(move)
        assert np.sum(answer.inputs[:, step] * direction) == pytest.approx(want, rel=TOLERANCE, abs=100 * TOLERANCE)
    for variable, got in zip(layer.weights, answer.weights, strict=True):
        direction = draw(got.shape)
        want = slope(lambda size, v=variable, d=direction: v.assign(v.numpy() + size * d))
        assert np.sum(got * direction) == pytest.approx(want, rel=100 * TOLERANCE, abs=100 * TOLERANCE)


# -- the tape -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("count", "steps", "units"), [(1, 1, 1), (2, 7, 5), (5, 3, 33)])
def test_a_tape_holds_six_numbers_for_each_sample_step_and_unit(count, steps, units, dtype):
    """Four gates, c and h; and c and h once more, before the first step."""
    ran = Runner(cpu, lstm_spec(units), lstm_arrays(units, count, steps, 4), dtype=dtype)
    assert ran.tape.core.nbytes == (6 * steps + 2) * count * units * np.dtype(dtype).itemsize
    spec = conv_spec(units, 2, strides=2)
    ran = Runner(cpu, spec, conv_arrays(spec, count, steps, 9, 3), dtype=dtype)
    assert ran.tape.core.nbytes == (6 * steps + 2) * count * 4 * units * np.dtype(dtype).itemsize


def test_a_tape_holds_the_states_of_every_step():
    spec, arrays = lstm_spec(5, return_sequences=True), lstm_arrays(5, 3, 4, 2)
    ran = Runner(cpu, spec, arrays)
    assert isinstance(ran.tape, cpu_training.CpuTape)
    core, (y, h, c) = ran.tape.core, ran.outputs
    np.testing.assert_array_equal(core.h[0], arrays[2])
    np.testing.assert_array_equal(core.h[1:], y.swapaxes(0, 1))
    np.testing.assert_array_equal(core.h[-1], h)
    np.testing.assert_array_equal(core.c[0], arrays[3])
    np.testing.assert_array_equal(core.c[-1], c)
    np.testing.assert_array_equal(core.inputs, arrays[1])
    assert not core.is_masked


# -- any number of times, from any thread -----------------------------------------------------------------------------------
def flat(answer: Gradients):
    return [answer.inputs, *(answer.initial_state or []), *answer.weights]


WRAPPED = {
    **{kind: lambda kind=kind, **options: made(kind, return_sequences=True, **options) for kind in LAYERS},
    "LSTM, dropout": lambda: made("LSTM", dropout=0.5, seed=3),
    "LSTM, dropout of the gates": lambda: made("LSTM", dropout=0.3, recurrent_dropout=0.3, seed=3),
    "Bidirectional": lambda: (Bidirectional(LSTM(9, **F64), **F64), drawer(5)((3, T, 2))),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_pullback_gives_the_same_bits_again(kind):
    layer, x = WRAPPED[kind]()
    y, pullback = layer.vjp(x, mask=MASK)
    dy = drawer(3)(y.shape)
    first = [a.copy() for a in flat(pullback(dy))]
    layer.vjp(x[:1])[1](dy[:1])
    pullback(2 * dy)
    for got, want in zip(flat(pullback(dy)), first, strict=True):
        np.testing.assert_array_equal(got, want)


def in_four_threads(work):
    """Results of ``work(k)`` in 4 threads that start at the same moment; the first error is raised here."""
    results, errors, start = [None] * 4, [], threading.Barrier(4)

    def run(k):
        try:
            start.wait()
            results[k] = work(k)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["LSTM", "ConvLSTM1D"])
@pytest.mark.parametrize("shared", ["tape", "layer"])
def test_pullbacks_in_4_threads_give_serial_bits(shared, kind, dtype):
    """Of one tape with other cotangents each; and whole steps (forward and pullback) of one layer with other inputs each."""
    layer = (
        LSTM(20, return_sequences=True, dtype=dtype) if kind == "LSTM" else ConvLSTM1D(6, 3, return_sequences=True, dtype=dtype)
    )
    shape = (4, 60, 8) if kind == "LSTM" else (2, 20, 9, 3)
    draw = drawer(11)
    xs = [draw(shape).astype(dtype)[: 1 + k % 2 * 3] for k in range(4)]
    y, pullback = layer.vjp(draw(shape).astype(dtype))
    dys = [draw(y.shape).astype(dtype) for _ in range(4)]
    masks = [np.random.default_rng(k).random(x.shape[:2]) < 0.7 for k, x in enumerate(xs)]

    def work(k):
        answers = []
        for _ in range(5):
            pull = pullback if shared == "tape" else layer.vjp(xs[k], mask=masks[k])[1]
            answers.append(flat(pull(dys[k] if shared == "tape" else dys[k][: len(xs[k])])))
        return answers

    serial = [work(k) for k in range(4)]
    for want, got in zip(serial, in_four_threads(work), strict=True):
        for one, other in zip(want, got, strict=True):
            for a, b in zip(one, other, strict=True):
                np.testing.assert_array_equal(a, b)


# -- what the compiled module refuses: everything that memory safety depends on ----------------------------------------------
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("dy", lambda a: a[:1]),
        ("dy", lambda a: a[:, 0].copy()),
        ("dy", lambda a: a.astype(np.float32)),
        ("dh", lambda a: a[:, :4].copy()),
        ("dc", lambda a: a[:2]),
        ("dc", lambda a: a.T.copy()),
    ],
)
def test_wrong_cotangents_are_refused(name, change):
    spec, arrays = lstm_spec(5, return_sequences=True), lstm_arrays(5, 3, 4, 2)
    ran = Runner(cpu, spec, arrays)
    given = dict(zip(("dy", "dh", "dc"), cotangents_for(ran.outputs), strict=True))
    core, panels = ran.tape.core, ran.tape.panels
    assert _core.run_backward(core, panels, *given.values(), True)[0].shape == (3, 4, 2)
    assert _core.run_backward(core, panels, *given.values(), False)[0] is None
    with pytest.raises(ValueError, match=name):
        _core.run_backward(core, panels, *(given | {name: change(given[name])}).values(), True)


def test_panels_of_another_stride_are_refused():
    spec = conv_spec(3, 2, strides=2)
    ran = Runner(cpu, spec, conv_arrays(spec, 2, 3, 6, 2))
    other = _core.GateWeights(*conv_arrays(spec, 2, 3, 6, 2)[0])
    for options in ((3, False, False), (2, True, False), (2, False, True)):
        with pytest.raises(ValueError, match="stride"):
            _core.run_backward(ran.tape.core, other.backward_panels(*options), None, None, None, True)
    assert _core.run_backward(ran.tape.core, other.backward_panels(2, False, False), None, None, None, True)[0].shape[2] == 6
