"""The ready-made plan of a layer's calls: when there is one, what ends it, and that nobody can tell it from the long way."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest
from lstm_formulas import FLOAT32, MASK, D, N, T, U, made, run, weights_for

from fastlstm import LSTM, activations, regularizers, selector


class Spy:
    """Stands for a layer's plan: passes calls on and counts those that it answers and those that it leaves to the long way."""

    def __init__(self, layer):
        self.plan, self.answered, self.declined = layer._plan, 0, 0
        layer._plan = self

    def __call__(self, *args):
        result = self.plan(*args)
        self.answered += result is not None
        self.declined += result is None
        return result


@pytest.fixture
def x():
    return np.random.default_rng(7).standard_normal((N, T, D)).astype(np.float32)


def planned(x, **kwargs):
    """A built layer that has made its plan."""
    layer = made(**kwargs)
    assert layer._plan is None
    layer(x.astype(layer.compute_dtype))
    assert layer._plan is not None
    return layer


def expected(layer, x, states=None, mask=None):
    """The layer's result by the formulas in float64, its weights and flags as they are now."""
    h, c = states or (None, None)
    formulas: dict = {"tanh": np.tanh, "relu": lambda z: np.maximum(z, 0), "sigmoid": lambda z: 1 / (1 + np.exp(-z))}
    pair = [formulas[activations.name_of(a)] for a in (layer.activation, layer.recurrent_activation)]
    flags = layer.go_backwards, layer.zero_output_for_mask
    outputs, last, h, c = run(x, layer.get_weights(), h, c, mask, *flags, *pair)
    y = outputs if layer.return_sequences else last
    return (y, h, c) if layer.return_state else (y,)


def check(layer, x, *args):
    got = layer(x, *args)
    for a, b in zip(got if isinstance(got, tuple) else (got,), expected(layer, x, *args), strict=True):
        np.testing.assert_allclose(a, b, rtol=FLOAT32["rtol"], atol=FLOAT32["atol"])


# -- when there is one --------------------------------------------------------------------------------------------------------
def test_the_first_call_makes_it_and_the_next_ones_use_it(x):
    layer = LSTM(U)
    assert layer._plan is None
    layer.build(x.shape)
    assert layer._plan is None
    first = layer(x)
    spy = Spy(layer)
    np.testing.assert_array_equal(layer(x), first)
    for shape in ((1, 1, D), (9, 2, D), (40, 7, D)):  # one plan takes every batch and length
        check(layer, np.ones(shape, np.float32))
    assert (spy.answered, spy.declined) == (4, 0)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"return_sequences": True},
        {"return_state": True, "go_backwards": True},
        {"return_sequences": True, "zero_output_for_mask": True, "return_state": True},
        {"activation": "relu"},
        {"use_cudnn": False, "return_sequences": True},
        {"stateful": True},
    ],
)
def test_its_results_are_those_of_the_formulas(x, kwargs):
    layer = planned(x, **kwargs)
    spy = Spy(layer)
    states = [np.full((N, U), value, np.float32) for value in (0.3, -0.6)]
    for args in ((states, None), (states, MASK), (tuple(states), MASK.copy())):
        check(layer, x, *args)
    assert spy.answered == 3


@pytest.mark.parametrize(
    "kwargs",
    [
        {"dropout": 0.5},
        {"recurrent_dropout": 0.5},
        {"activation": np.sin},
        {"activity_regularizer": regularizers.L2(0.1)},
        {"dtype": "float16"},
        {"dtype": "mixed_float16"},
    ],
    ids=lambda kwargs: next(iter(kwargs)) + "=" + str(next(iter(kwargs.values())))[:13],
)
def test_layers_that_have_none(x, kwargs):
    layer = made(**kwargs)
    for _ in range(2):
        layer(x)
        assert layer._plan is None


def test_what_it_leaves_to_the_long_way(x):
    """Arrays that have to be converted: same bits; wrong ones: the usual errors."""
    layer = planned(x)
    want, state = layer(x), np.ones((N, U), np.float32)
    spy = Spy(layer)
    same = [x.astype(np.float64), np.asfortranarray(x), x.astype(">f4"), np.repeat(x, 2, 1)[:, ::2], x.view(np.memmap)]
    for count, array in enumerate(same, 1):
        np.testing.assert_array_equal(layer(array), want)
        spy.answered, layer._plan = 0, spy  # the long way makes a plan of its own
        assert spy.declined == count
    bad = [((x[0],), "ndim"), ((x[..., :2],), "axis 2"), ((x[:, :0],), "time steps"), ((x, [state, state[:2]]), "initial_state")]
    for args, message in [*bad, ((x, None, MASK[:, :2]), "mask"), ((x, [state] * 3), "initial_state")]:
        with pytest.raises(ValueError, match=message):
            layer(*args)
    with pytest.raises(IndexError, match="initial_state"):
        layer(x, [state])
    assert spy.answered == 0
    assert layer(x[:0]).shape == (0, U)


def answers(layer, x):
    """True where the layer's plan would run a call of its own accord."""
    return layer._plan is not None and layer._plan(x, None, None, None) is not None


def test_a_shallow_copy_hears_of_its_cell_too(x):
    layer = planned(x)
    twin = copy.copy(layer)
    twin(x)
    twin.cell.activation = activations.relu
    for one in (layer, twin):
        assert not answers(one, x)
        check(one, x)


# -- what ends it -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("return_sequences", True),
        ("return_state", True),
        ("go_backwards", True),
        ("zero_output_for_mask", True),
        ("use_cudnn", False),
        ("cell.activation", activations.relu),
        ("cell.recurrent_activation", activations.tanh),
    ],
)
def test_a_changed_attribute_counts_from_the_next_call_on(x, name, value):
    layer = planned(x)
    owner = layer.cell if name.startswith("cell.") else layer
    setattr(owner, name.removeprefix("cell."), value)
    assert not answers(layer, x)
    states = [np.full((N, U), 0.5, np.float32)] * 2
    for _ in range(2):
        check(layer, x, states, MASK)
    assert layer._plan is not None


def test_dropout_that_is_switched_on_later(x):
    layer = planned(x)
    layer.cell.dropout = 0.5
    before = layer(x)
    assert layer._plan is None
    assert not np.array_equal(layer(x, training=True), before)


WRITES = {
    "set_weights": lambda layer, new: layer.set_weights(new),
    "assign": lambda layer, new: layer.kernel.assign(new[0]),
    "assign_add": lambda layer, new: layer.recurrent_kernel.assign_add(new[1]),
    "assign_sub": lambda layer, new: layer.bias.assign_sub(new[2]),
    "an item": lambda layer, new: layer.kernel.__setitem__((0, 3), 5.0),
    "a slice": lambda layer, new: layer.recurrent_kernel.__setitem__(slice(1, 3), -0.5),
    "all": lambda layer, new: layer.bias.__setitem__(..., new[2]),
    "the cell's": lambda layer, new: layer.cell.set_weights(new),
    "augmented": lambda layer, new: layer.kernel.__setitem__(1, layer.kernel[1] + 1),
}


@pytest.mark.parametrize("kwargs", [{}, {"use_cudnn": False}], ids=["fused", "general"])
@pytest.mark.parametrize("write", WRITES)
def test_a_write_to_the_weights_counts_from_the_next_call_on(x, write, kwargs):
    layer = planned(x, **kwargs)
    before, spy = layer(x), Spy(layer)
    WRITES[write](layer, weights_for(seed=9))
    for _ in range(3):
        check(layer, x)
    assert np.abs(layer(x) - before).max() > 1e-3
    assert spy.answered == 0
    assert layer._plan not in (None, spy)


def test_writes_that_cannot_be_noticed_are_refused(x):
    layer = planned(x)
    for array in (layer.kernel.value, layer.kernel[0], np.asarray(layer.bias)):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    weights = layer.get_weights()
    weights[0][...] = 0
    check(layer, x)


# -- use_backend --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_use_backend_goes_round_it(x, name):
    layer = planned(x)
    spy = Spy(layer)
    with selector.use_backend(name):
        check(layer, x)
    assert spy.answered + spy.declined == 0


def test_a_call_on_the_reference_makes_none(x):
    layer = made()
    with selector.use_backend("reference"):
        layer(x)
    assert layer._plan is None


# -- stateful -----------------------------------------------------------------------------------------------------------------
def test_a_stateful_layer_carries_its_states_through_it(x):
    layer, whole = planned(x, stateful=True, return_sequences=True), made(return_sequences=True, return_state=True)
    want, h, c = whole(x)
    for _ in range(2):
        layer.reset_state()
        spy = Spy(layer)
        parts = [layer(x[:, t : t + 2].copy()) for t in range(0, T, 2)]
        assert spy.answered == T // 2
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), want)
        for state, value in zip(layer.states, (h, c), strict=True):
            np.testing.assert_array_equal(state.value, value)
    before = [state.numpy() for state in layer.states]
    for args in ((np.zeros((N + 1, T, D), np.float32),), (x, [np.zeros((N + 1, U), np.float32)] * 2)):
        with pytest.raises(ValueError, match=r"stateful|initial_state"):
            layer(*args)
    with pytest.raises(ValueError, match="out"):
        layer(x, out=np.zeros((N, T, U + 1), np.float32))
    for state, value in zip(layer.states, before, strict=True):
        np.testing.assert_array_equal(state.value, value)


def test_returned_states_are_not_the_carried_ones(x):
    layer = planned(x, stateful=True, return_state=True)
    layer.reset_state()
    first = layer(x)
    for array in first:
        array[...] = 99
    layer.reset_state()
    second = layer(x)
    layer.states[0].assign(np.zeros((N, U)))
    assert second[1].any()
    check(layer, x, [state.numpy() for state in layer.states])


# -- out ----------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("warm", [False, True], ids=["long way", "plan"])
@pytest.mark.parametrize("sequences", [False, True])
def test_out_takes_the_output_and_comes_back(x, warm, sequences):
    layer = (planned if warm else lambda x, **kwargs: made(**kwargs))(x, return_sequences=sequences, return_state=True)
    want = made(return_sequences=sequences, return_state=True)(x)
    out = np.full_like(want[0], np.nan)
    got = layer(x, out=out)
    assert got[0] is out
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
    part = np.zeros((3, *out.shape), np.float32)
    assert layer(x, out=part[1])[0].base is part
    np.testing.assert_array_equal(part[1], want[0])
    assert not part[::2].any()


@pytest.mark.parametrize("warm", [False, True], ids=["long way", "plan"])
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda x: np.zeros((N, U + 1), np.float32), ValueError, "must have shape"),
        (lambda x: np.zeros((N + 1, U), np.float32), ValueError, "must have shape"),
        (lambda x: np.zeros((N, 1, U), np.float32), ValueError, "must have shape"),
        (lambda x: np.zeros((N, U), np.float64), ValueError, "must have shape"),
        (lambda x: np.zeros((N, U), ">f4"), ValueError, "must have shape"),
        (lambda x: np.zeros((U, N), np.float32).T, ValueError, "C-contiguous"),
        (lambda x: np.zeros((N, 2 * U), np.float32)[:, ::2], ValueError, "C-contiguous"),
        (lambda x: np.broadcast_to(np.zeros(U, np.float32), (N, U)), ValueError, "writable"),
        (lambda x: np.frombuffer(bytes(4 * N * U), np.float32).reshape(N, U), ValueError, "writable"),
        (lambda x: x.reshape(-1)[: N * U].reshape(N, U), ValueError, "apart from"),
        (lambda x: [[0.0] * U] * N, TypeError, "must be a NumPy array"),
        (lambda x: bytearray(4 * N * U), TypeError, "must be a NumPy array"),
    ],
)
def test_out_that_cannot_take_it(x, make, error, message, warm):
    layer = planned(x) if warm else made()
    kept, out = x.copy(), make(x)
    with pytest.raises(error, match=message):
        layer(x, out=out)
    np.testing.assert_array_equal(x, kept)
    assert not np.any(out) or np.shares_memory(out, x)


@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("batch", [1, N, 20])
def test_out_may_be_the_initial_state(batch, sequences):
    """Streaming in place: the states are read before the output is written."""
    layer = made(return_sequences=sequences)
    x, start = np.ones((batch, 1, D), np.float32), np.full((batch, U), 0.4, np.float32)
    want = layer(x, [start, start])
    for which in (0, 1):
        states = [start.copy(), start.copy()]
        out = states[which][:, None] if sequences else states[which]
        assert layer(x, states, out=out) is out
        np.testing.assert_array_equal(out, want)


# -- copies -------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("kwargs", [{"return_sequences": True}, {"stateful": True}])
def test_a_copy_makes_a_plan_of_its_own(x, twin_of, kwargs):
    layer = planned(x, **kwargs)
    twin = twin_of(layer)
    assert twin._plan is None
    assert layer._plan is not None
    for _ in range(2):
        np.testing.assert_array_equal(twin(x), layer(x))
    plan = layer._plan
    assert twin._plan not in (None, plan)
    twin.cell.activation = activations.relu  # the copy's cell is the copy's alone
    assert not answers(twin, x)
    assert layer._plan is plan
    twin.set_weights(weights_for(seed=3))
    for one in (layer, twin):
        one.reset_state()
        check(one, x)


# -- threads ------------------------------------------------------------------------------------------------------------------
def calls_while(layer, x, write, count=4):
    """Results of ``layer(x)`` in ``count`` threads while ``write(k)`` runs for k = 0, 1, …; the first error is raised here."""
    results, errors, stop = [], [], threading.Event()

    def work():
        try:
            while not stop.is_set():
                results.append(layer(x))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for k in range(200):
        write(k)
    stop.set()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def test_a_variable_written_while_others_call(x):
    """Each call sees the old values or the new ones, and every later one the last that were written."""
    layer, new = planned(x), [weights_for(seed=seed)[1] for seed in (1, 2)]
    want = []
    for values in new:
        layer.recurrent_kernel.assign(values)
        want.append(layer(x))
    assert not np.array_equal(*want)
    seen = calls_while(layer, x, lambda k: layer.recurrent_kernel.assign(new[k % 2]))
    known = {a.tobytes() for a in want}
    assert len(seen) > 20
    assert {a.tobytes() for a in seen} <= known
    np.testing.assert_array_equal(layer(x), want[1])


def test_large_weights_written_while_others_call():
    """Nothing crashes or gets lost where copies take so long that other threads run in between."""
    features, units = 60, 64
    layer = made(weights_for(features, units, scale=0.05))
    x = np.ones((2, 3, features), np.float32)
    new = [weights_for(features, units, scale=0.05, seed=seed) for seed in (1, 2)]
    for values in calls_while(layer, x, lambda k: layer.set_weights(new[k % 2])):
        assert np.isfinite(values).all()
        assert values.shape == (2, units)
    assert layer.get_weights()[0].tobytes() == new[1][0].tobytes()
    for _ in range(2):
        np.testing.assert_array_equal(layer(x), made(new[1])(x))
