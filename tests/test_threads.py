"""Threads: many callers of one layer get the bits of a single caller, and the GIL is free while a sequence runs."""

from __future__ import annotations

import threading
import time
import timeit

import numpy as np
import pytest
from lstm_formulas import made, weights_for

from fastlstm import LSTM, Bidirectional, Sequential, selector

THREADS = 8


def together(work):
    """Results of ``work(k)`` in 8 threads that start at the same moment; the first error is raised here."""
    results, errors, start = [None] * THREADS, [], threading.Barrier(THREADS)

    def run(k):
        try:
            start.wait()
            results[k] = work(k)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def calls_for(k, features=16, units=20):
    """Four calls of thread ``k``: (x, initial_state, mask), every one of another size, masked or not, with states or not."""
    rng = np.random.default_rng(k)
    calls = []
    for number in range(4):
        batch, steps = 1 + (k + 3 * number) % 9, 5 + 13 * ((k + number) % 5)
        x = rng.standard_normal((batch, steps, features)).astype(np.float32)
        state = [rng.standard_normal((batch, units)).astype(np.float32) for _ in "hc"] if (k + number) % 2 else None
        mask = rng.random((batch, steps)) < 0.7 if (k + number) % 3 else None
        calls.append((x, state, mask))
    return calls


KINDS = {
    "fused": {},
    "general": {"use_cudnn": False},
    "float64": {"dtype": "float64"},
    "mixed_float16": {"dtype": "mixed_float16"},
    "own function": {"activation": np.sin},
    "softmax": {"recurrent_activation": "softmax"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_layer_in_8_threads_gives_serial_bits(kind):
    layer = made(weights_for(16, 20, scale=0.3), return_sequences=True, return_state=True, **KINDS[kind])
    serial = [[layer(*call) for call in calls_for(k)] for k in range(THREADS)]
    for _ in range(3):
        for want, got in zip(serial, together(lambda k: [layer(*call) for call in calls_for(k)]), strict=True):
            for one, other in zip(want, got, strict=True):
                for a, b in zip(one, other, strict=True):
                    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LSTM(20),
        lambda: LSTM(20, dropout=0.5),
        lambda: Bidirectional(LSTM(20)),
        lambda: Sequential([LSTM(20, return_sequences=True), LSTM(5)]),
    ],
    ids=["LSTM", "dropout", "Bidirectional", "Sequential"],
)
def test_the_first_call_may_come_from_8_threads(make):
    """One of them builds; all see the same weights."""
    x = np.random.default_rng(0).standard_normal((3, 7, 16)).astype(np.float32)
    for _ in range(5):
        layer = make()
        results = together(lambda k, layer=layer: layer(x))
        count = 6 if isinstance(layer, (Bidirectional, Sequential)) else 3
        assert len(layer.weights) == count
        for result in results:
            np.testing.assert_array_equal(result, layer(x))


def test_layers_with_weights_in_common_and_forced_backends_are_apart():
    """``use_backend`` in one thread does not reach the others."""
    layer = made(weights_for(16, 20, scale=0.3))
    x = calls_for(0)[0][0]

    def work(k):
        if k % 2:
            return [layer.explain(x).backend for _ in range(50)]
        with selector.use_backend("reference"):
            return [layer.explain(x).backend for _ in range(50)]

    for k, backends in enumerate(together(work)):
        assert backends == ["cpu" if k % 2 else "reference"] * 50


def test_dropout_in_8_threads_uses_every_draw_once():
    layer = LSTM(4, dropout=0.5, seed=1)
    x = np.ones((50, 2, 16), np.float32)
    layer(x)
    results = together(lambda k: [layer(x, training=True) for _ in range(5)])
    assert layer.cell.seed_generator.state.tolist() == [1, 1 + 5 * THREADS]
    seen = [y.tobytes() for of_thread in results for y in of_thread]
    assert len(set(seen)) == 5 * THREADS


def test_activity_losses_belong_to_the_calling_thread():
    layer = made(weights_for(16, 20), activity_regularizer="l2")
    calls = [calls_for(k)[0] for k in range(THREADS)]
    expected = [0.01 * (layer(*call).astype(float) ** 2).sum() / len(call[0]) for call in calls]

    def work(k):
        seen = []
        for _ in range(20):
            layer(*calls[k])
            seen.append(float(layer.losses[0]))
        return seen

    for want, seen in zip(expected, together(work), strict=True):
        np.testing.assert_allclose(seen, want, rtol=1e-5)


# -- the GIL ----------------------------------------------------------------------------------------------------------------
def long_call(kind):
    """(layer, x) of a call that takes at least a third of a second here."""
    layer = made(weights_for(64, 96, scale=0.1), **KINDS[kind])
    x = np.zeros((8, 50, 64), layer.compute_dtype)
    layer(x)
    steps = int(50 * 0.4 / min(timeit.repeat(lambda: layer(x), number=1, repeat=5)))  # the least: other work only adds
    return layer, np.zeros((8, min(steps, 40_000), 64), layer.compute_dtype)


def calls_inside(long, short):
    """How many calls of ``short`` begin and end well inside one call of ``long``, which runs in another thread."""
    span, calls = [], []

    def work():
        span.append(time.perf_counter())
        long()
        span.append(time.perf_counter())

    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        begin = time.perf_counter()
        short()
        calls.append((begin, time.perf_counter()))
        time.sleep(0.001)
    thread.join()
    assert span[1] - span[0] > 0.05, "too short a call to tell"
    margin = 0.1 * (span[1] - span[0])
    return sum(span[0] + margin < begin and end < span[1] - margin for begin, end in calls)


@pytest.mark.parametrize("kind", ["fused", "general", "float64", "mixed_float16", "softmax"])
def test_calls_overlap_and_python_runs_on_while_a_sequence_runs(kind):
    """A call that kept the GIL would let nothing happen between its ends: see the next test."""
    layer, x = long_call(kind)
    # A busy machine may leave this thread no processor for that long; a held GIL would fail all of a few tries.
    assert any(calls_inside(lambda: layer(x), lambda: layer(x[:, :2])) >= 3 for _ in range(5))


def test_the_test_above_notices_a_held_gil():
    """Sorting a list keeps the GIL from beginning to end."""
    numbers = np.random.default_rng(0).random(1_000_000).tolist()
    assert calls_inside(lambda: sorted(numbers), lambda: None) == 0
