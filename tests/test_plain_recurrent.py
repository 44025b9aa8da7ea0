"""GRU and SimpleRNN against their formulas, written out step by step, and against central differences."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from central_differences import check_layer

from fastlstm import GRU, Bidirectional, Input, Model, SimpleRNN, layers

F64 = {"dtype": "float64"}
MASK = np.array([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool)


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def filled(layer, shape, seed=3):
    layer.build(shape)
    layer.set_weights([draw(*v.shape, seed=seed + k) for k, v in enumerate(layer.weights)])
    return layer


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def step_of(layer):
    """(x, h) -> the new h, from the layer's weights, gate by gate."""
    w, u, *rest = layer.get_weights()
    units = layer.units
    if isinstance(layer, SimpleRNN):
        return lambda x, h: np.tanh(x @ w + h @ u + (rest[0] if rest else 0))
    b = rest[0] if rest else np.zeros((2, 3 * units))
    b_in, b_rec = b if b.ndim == 2 else (b, np.zeros(3 * units))
    part = lambda a, k: a[..., k * units : (k + 1) * units]  # noqa: E731

    def step(x, h):
        z, r = (sigmoid(x @ part(w, k) + part(b_in, k) + h @ part(u, k) + part(b_rec, k)) for k in range(2))
        if layer.reset_after:
            candidate = np.tanh(x @ part(w, 2) + part(b_in, 2) + r * (h @ part(u, 2) + part(b_rec, 2)))
        else:
            candidate = np.tanh(x @ part(w, 2) + part(b_in, 2) + (r * h) @ part(u, 2))
        return z * h + (1 - z) * candidate

    return step


def run_by_hand(layer, x, h=None, mask=None):
    """(outputs [N,T,U] in processing order, final h), as keras-spec 6 has it."""
    step, h = step_of(layer), np.zeros((len(x), layer.units)) if h is None else h
    output, outputs = np.zeros_like(h), []
    for t in range(x.shape[1])[:: -1 if layer.go_backwards else 1]:
        new = step(x[:, t], h)
        valid = np.ones((len(x), 1), bool) if mask is None else mask[:, t, None]
        output = np.where(valid, new, 0 if layer.zero_output_for_mask else output)
        h = np.where(valid, new, h)
        outputs.append(output)
    return np.stack(outputs, axis=1), h


KINDS = {
    "simple": lambda **k: SimpleRNN(4, **k),
    "gru": lambda **k: GRU(4, **k),
    "gru before": lambda **k: GRU(4, reset_after=False, **k),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("options", [{}, {"go_backwards": True}, {"zero_output_for_mask": True}], ids=str)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("with_state", [False, True])
def test_values(kind, use_bias, options, masked, with_state):
    x, h = draw(3, 5, 2), draw(3, 4, seed=1) if with_state else None
    mask = MASK if masked else None
    layer = filled(KINDS[kind](use_bias=use_bias, return_sequences=True, return_state=True, **options, **F64), x.shape)
    y, last = layer(x, initial_state=None if h is None else [h], mask=mask)
    want, want_last = run_by_hand(layer, x, h, mask)
    np.testing.assert_allclose(y, want, rtol=0, atol=1e-12)
    np.testing.assert_allclose(last, want_last, rtol=0, atol=1e-12)
    alone = KINDS[kind](use_bias=use_bias, **options, **F64)
    alone.build(x.shape)
    alone.set_weights(layer.get_weights())
    np.testing.assert_allclose(alone(x, initial_state=h, mask=mask), want[:, -1], rtol=0, atol=1e-12)


@every_kind
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"return_sequences": True},
        {"return_sequences": True, "return_state": True, "go_backwards": True},
        {"return_sequences": True, "zero_output_for_mask": True},
        {"use_bias": False, "activation": "relu"},
        {"dropout": 0.3, "recurrent_dropout": 0.4, "seed": 3},
        {"dropout": 0.3, "seed": 3, "return_sequences": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("mask", [None, MASK], ids=["unmasked", "masked"])
def test_gradients(kind, options, mask):
    layer = filled(KINDS[kind](**options, **F64), (3, 5, 2))
    check_layer(layer, draw(3, 5, 2), mask=mask)
    check_layer(layer, draw(3, 5, 2), mask=mask, initial_state=[draw(3, 4, seed=9)])


def test_a_dropout_of_one():
    """Keras' GRU then drops nothing (the test of its cell is 0 < rate < 1), its SimpleRNN everything."""
    x, h = draw(3, 5, 2), [draw(3, 4, seed=9)]
    for part in ("dropout", "recurrent_dropout"):
        keeps = filled(GRU(4, **{part: 1.0}, **F64), x.shape)
        np.testing.assert_array_equal(keeps(x, initial_state=h, training=True), keeps(x, initial_state=h))
    inputs = filled(SimpleRNN(4, dropout=1.0, **F64), x.shape)
    np.testing.assert_allclose(inputs(x, initial_state=h, training=True), inputs(x * 0, initial_state=h), rtol=0, atol=1e-12)
    states = filled(SimpleRNN(4, recurrent_dropout=1.0, **F64), x.shape)
    np.testing.assert_allclose(states(x, initial_state=h, training=True), states(x[:, -1:]), rtol=0, atol=1e-12)
    assert not inputs.vjp(x, initial_state=h)[1](np.ones((3, 4))).inputs.any()


@every_kind
def test_masked_steps_may_hold_anything(kind):
    layer = filled(KINDS[kind](return_sequences=True, **F64), (3, 5, 2))
    clean, dirty = draw(3, 5, 2), np.where(MASK[..., None], draw(3, 5, 2), np.nan)
    y, pullback = layer.vjp(dirty, mask=MASK)
    np.testing.assert_array_equal(y, layer(clean, mask=MASK))
    answer, want = pullback(np.ones_like(y)), layer.vjp(clean, mask=MASK)[1](np.ones_like(y))
    assert not answer.inputs[~MASK].any()
    for got, one in zip(answer.weights, want.weights, strict=True):
        np.testing.assert_allclose(got, one, rtol=1e-12)


@every_kind
def test_stateful(kind):
    x = draw(3, 6, 2)
    layer, whole = (filled(KINDS[kind](stateful=flag, **F64), x.shape) for flag in (True, False))
    layer(x[:, :4])
    np.testing.assert_allclose(layer(x[:, 4:]), whole(x), rtol=1e-12)
    layer.reset_state()
    np.testing.assert_allclose(layer(x), whole(x), rtol=1e-12)
    with pytest.raises(ValueError, match="batch size 3"):
        layer(x[:2])
    with pytest.raises(ValueError, match="static"):
        KINDS[kind](stateful=True).build((None, 4, 2))


@every_kind
@pytest.mark.parametrize("merge_mode", ["concat", "sum", None])
def test_bidirectional(kind, merge_mode):
    x = draw(3, 5, 2)
    layer = Bidirectional(KINDS[kind](return_sequences=True, return_state=True, **F64), merge_mode=merge_mode, **F64)
    filled(layer, x.shape)
    states = [draw(3, 4, seed=k) for k in range(2)]
    outputs, _ = check_layer(layer, x, mask=MASK, initial_state=states)
    ahead, h = layer.forward_layer(x, initial_state=states[:1], mask=MASK)
    back, g = layer.backward_layer(x, initial_state=states[1:], mask=MASK)
    back = back[:, ::-1]
    want = {"concat": [np.concatenate([ahead, back], -1)], "sum": [ahead + back], None: [ahead, back]}[merge_mode]
    for got, one in zip(outputs, [*want, h, g], strict=True):
        np.testing.assert_allclose(got, one, rtol=0, atol=1e-12)
    with pytest.raises(IndexError, match="two arrays"):
        layer(x, initial_state=states[:1])
    with pytest.raises(ValueError, match="two arrays"):
        layer(x, initial_state=[*states, *states])


@every_kind
def test_in_a_model(kind):
    x, h = Input((5, 2)), Input((4,))
    first = KINDS[kind](return_sequences=True, return_state=True, name="first")
    y, state = first(x, initial_state=[h])
    second = KINDS[kind](name="second")
    model = Model([x, h], second(y, initial_state=[state]))
    arrays = [draw(3, 5, 2).astype(np.float32), draw(3, 4).astype(np.float32)]
    ahead, last = first(arrays[0], initial_state=[arrays[1]])
    np.testing.assert_array_equal(model(arrays), second(ahead, initial_state=[last]))
    again = Model.from_config(model.get_config())
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(arrays), model(arrays))


@every_kind
@pytest.mark.parametrize("dtype", ["float16", "float32", "mixed_float16", "float64"])
def test_dtypes(kind, dtype):
    layer = KINDS[kind](return_sequences=True, return_state=True, dtype=dtype)
    x = draw(3, 5, 2)
    y, h = layer(x)
    assert y.dtype == h.dtype == layer.storage_dtype
    wide = KINDS[kind](return_sequences=True, return_state=True, **F64)
    wide.build(x.shape)
    wide.set_weights([v.value.astype(np.float64) for v in layer.weights])
    np.testing.assert_allclose(y.astype(np.float64), wide(x)[0], rtol=0, atol=5e-3 if "16" in dtype else 1e-6)


@every_kind
def test_one_step_of_the_cell(kind):
    layer = filled(KINDS[kind](**F64), (3, 5, 2))
    x, h = draw(3, 2), draw(3, 4)
    new, [state] = layer.cell(x, [h])
    np.testing.assert_allclose(new, step_of(layer)(x, h), rtol=1e-12)
    np.testing.assert_array_equal(state, new)
    np.testing.assert_array_equal(layer.cell(x, h)[1], new)


@every_kind
def test_shapes_and_weights(kind):
    layer = filled(KINDS[kind](return_state=True), (None, None, 2))
    assert layer.compute_output_shape((7, 5, 2)) == [(7, 4), (7, 4)]
    gates = 1 if kind == "simple" else 3
    bias = {"simple": (4,), "gru": (2, 12), "gru before": (12,)}[kind]
    assert [v.shape for v in layer.weights] == [(2, 4 * gates), (4, 4 * gates), bias]
    assert [v.name for v in layer.weights] == ["kernel", "recurrent_kernel", "bias"]
    cell = "simple_rnn_cell" if kind == "simple" else "gru_cell"
    assert layer.weights[0].path == f"{layer.name}/{cell}/kernel"
    assert layer.compute_mask(None, MASK) == [None, None]
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        np.testing.assert_array_equal(other(draw(2, 3, 2))[0], layer(draw(2, 3, 2))[0])


KEYS = (
    "name trainable dtype return_sequences return_state go_backwards stateful unroll zero_output_for_mask units activation "
    "recurrent_activation use_bias kernel_initializer recurrent_initializer bias_initializer kernel_regularizer "
    "recurrent_regularizer bias_regularizer activity_regularizer kernel_constraint recurrent_constraint bias_constraint dropout "
    "recurrent_dropout reset_after seed"
).split()


@every_kind
def test_config(kind):
    layer = KINDS[kind](activation="relu", dropout=0.1, seed=4, bias_regularizer="l2", go_backwards=True, name="r")
    config = layer.get_config()
    assert list(config) == [key for key in KEYS if kind != "simple" or key not in ("recurrent_activation", "reset_after")]
    assert layers.deserialize(layers.serialize(layer)).get_config() == config


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: GRU(0), ValueError, "units"),
        (lambda: SimpleRNN("a"), TypeError, "units"),
        (lambda: GRU(3, activation="no"), ValueError, "no"),
        (lambda: GRU(3, use_cudnn=2), ValueError, "use_cudnn"),
        (lambda: GRU(3, surprise=1), ValueError, "surprise"),
        (lambda: GRU(3)(draw(2, 3)), ValueError, "ndim=3"),
        (lambda: GRU(3)(draw(2, 0, 3)), ValueError, "no time steps"),
        (lambda: GRU(3)(draw(2, 4, 3), initial_state=[draw(2, 3), draw(2, 3)]), ValueError, "list of 2"),
        (lambda: GRU(3)(draw(2, 4, 3), initial_state=[draw(2, 4)]), ValueError, "shape"),
        (lambda: filled(GRU(3), (2, 4, 3))(draw(2, 4, 5)), ValueError, "axis 2"),
    ],
)
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
