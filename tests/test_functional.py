"""Model: graphs of layers with several inputs and outputs, shared layers, models in models: gradients, masks and configs."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from central_differences import check, gradient

import fastlstm
from fastlstm import (
    LSTM,
    BatchNormalization,
    Bidirectional,
    Dense,
    Dropout,
    Embedding,
    Input,
    InputLayer,
    Masking,
    Model,
    Sequential,
    TimeDistributed,
)
from fastlstm.layers.symbolic import KerasTensor
from fastlstm.models.functional import Functional

F64 = {"dtype": "float64"}


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def encoder_decoder():
    """Three inputs, three outputs, states from layer to layer, and one layer used twice."""
    x, h, c = Input((4, 3), name="x", **F64), Input((5,), name="h", **F64), Input((5,), name="c", **F64)
    shared = TimeDistributed(Dense(2, "tanh", name="inner", **F64), name="shared", **F64)
    y, h1, c1 = LSTM(5, return_sequences=True, return_state=True, name="enc", **F64)(x, initial_state=[h, c])
    z = LSTM(5, name="dec", **F64)(y, initial_state=[h1, c1])
    first, second = shared(y), shared(Dense(5, name="mix", **F64)(x))
    return Model([x, h, c], [first, z, second, c1], name="ed")


def inputs_of(model, batch=2, seed=0):
    return [draw(batch, *[n or 4 for n in tensor.shape[1:]], seed=seed + k) for k, tensor in enumerate(model.inputs)]


def check_model(model, arrays, seed=1, training=True):
    """``model.vjp`` against differences of its call, in all inputs and all weights."""
    start = copy.deepcopy(model)
    outputs, pullback = model.vjp(arrays if len(arrays) > 1 else arrays[0], training=training)
    several = isinstance(outputs, list)
    listed = outputs if several else [outputs]
    dys = [draw(*y.shape, seed=seed) for y in listed]

    def loss():
        ran = copy.deepcopy(start)(arrays if len(arrays) > 1 else arrays[0], training=training)
        return sum(float(np.sum(y * dy)) for y, dy in zip(ran if several else [ran], dys, strict=True))

    answer = pullback(dys if several else dys[0])
    got = answer.inputs if isinstance(answer.inputs, list) else [answer.inputs]
    for k, (x, dx) in enumerate(zip(arrays, got, strict=True)):
        if x.dtype.kind == "f":
            check(dx, gradient(loss, x), f"input {k}")
        else:
            assert dx is None
    for variable, gradient_of, original in zip(start.weights, answer.weights, model.weights, strict=True):
        if original.trainable:
            check(gradient_of, gradient(loss, variable), variable.path)
    return answer


# -- making models ------------------------------------------------------------------------------------------------------
def test_symbolic_tensors():
    x = Input((None, 8), name="words")
    assert isinstance(x, KerasTensor)
    assert (x.shape, x.dtype, x.name) == ((None, None, 8), "float32", "words")
    y, h, c = LSTM(4, return_sequences=True, return_state=True)(x)
    assert [t.shape for t in (y, h, c)] == [(None, None, 4), (None, 4), (None, 4)]
    assert Input((3,), dtype="int32").dtype == "int32"
    out = Bidirectional(LSTM(3, return_state=True))(y)
    assert [t.shape for t in out] == [(None, 6)] + [(None, 3)] * 4
    with pytest.raises(TypeError, match="iterated"):
        list(x)
    with pytest.raises(TypeError, match="truth"):
        bool(x)
    with pytest.raises(ValueError, match="all symbolic"):
        fastlstm.layers.symbolic.symbolic_call(Dense(2), [x, np.zeros((2, 3))])


def test_model_makes_a_functional_one():
    x = Input((3,))
    model = Model(x, Dense(2)(x))
    assert isinstance(model, Functional)
    assert isinstance(Sequential(), Model)
    assert model(np.zeros((5, 3), np.float32)).shape == (5, 2)
    # As in Keras, a list of one output is that output.
    assert Model(inputs=[x], outputs=[Dense(2)(x)])(np.zeros((5, 3), np.float32)).shape == (5, 2)


def test_what_a_graph_must_be():
    x, other = Input((3,)), Input((3,))
    y = Dense(2)(x)
    with pytest.raises(ValueError, match="follow"):
        Model(other, y)
    with pytest.raises(ValueError, match="symbolic"):
        Model(np.zeros((2, 3)), y)
    with pytest.raises(ValueError, match="symbolic"):
        Model(x, [])
    with pytest.raises(ValueError, match="twice"):
        Model([x, x], y)
    with pytest.raises(ValueError, match="names of their own"):
        Model(x, Dense(2, name="same")(Dense(2, name="same")(x)))
    with pytest.raises(TypeError):
        Model()


def test_arrays_as_list_dict_and_samples_of_any_dtype():
    model = encoder_decoder()
    arrays = inputs_of(model)
    expected = model(arrays)
    by_name = dict(zip(("c", "h", "x"), arrays[::-1], strict=True))
    for given in (tuple(arrays), by_name):
        for got, want in zip(model(given), expected, strict=True):
            np.testing.assert_array_equal(got, want)
    for got, want in zip(model.predict(arrays, batch_size=1, verbose=0), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-13)
    with pytest.raises(ValueError, match="3 inputs"):
        model(arrays[:2])
    with pytest.raises(ValueError, match="lack"):
        model({"x": arrays[0], "h": arrays[1]})
    with pytest.raises(ValueError, match='input "h"'):
        model([arrays[0], arrays[1][:, :4], arrays[2]])
    with pytest.raises(ValueError, match="same number of samples"):
        model.predict([arrays[0], arrays[1][:1], arrays[2]], verbose=0)


def test_nested_structures():
    a, b = Input((3,), name="a"), Input((2,), name="b")
    model = Model({"a": a, "b": b}, {"sum": Dense(4, name="d")(a), "rest": [Dense(1, name="e")(b)]})
    result = model({"b": np.ones((2, 2), np.float32), "a": np.ones((2, 3), np.float32)})
    assert result["sum"].shape == (2, 4)
    assert result["rest"][0].shape == (2, 1)
    assert model.predict({"a": np.ones((5, 3)), "b": np.ones((5, 2))}, verbose=0)["sum"].shape == (5, 4)
    again = Model.from_config(model.get_config())
    assert again.get_config() == model.get_config()


def test_a_graph_against_its_layers_one_by_one():
    model = encoder_decoder()
    x, h, c = inputs_of(model)
    enc, dec, shared, mix = (model.get_layer(name) for name in ("enc", "dec", "shared", "mix"))
    y, h1, c1 = enc(x, initial_state=[h, c])
    for got, want in zip(model([x, h, c]), [shared(y), dec(y, initial_state=[h1, c1]), shared(mix(x)), c1], strict=True):
        np.testing.assert_array_equal(got, want)


def test_inputs_with_a_missing_last_axis():
    x = Input((4, 1))
    model = Model(x, LSTM(2)(x))
    assert model(np.zeros((3, 4), np.float32)).shape == (3, 2)
    x = Input((4,), dtype="int32")
    model = Model(x, Embedding(5, 2)(x))
    assert model(np.zeros((3, 4, 1), np.int32)).shape == (3, 4, 2)


def test_layers_weights_and_names():
    model = encoder_decoder()
    assert [layer.name for layer in model.layers] == ["x", "h", "c", "enc", "mix", "shared", "dec"]
    assert [tuple(v.shape) for v in model.weights] == [
        *((3, 20), (5, 20), (20,)),
        *((3, 5), (5,)),
        *((5, 2), (2,)),
        *((5, 20), (5, 20), (20,)),
    ]
    assert model.input_names == ["x", "h", "c"]
    assert model.output_names == ["shared", "dec", "shared", "enc"]
    assert model.input_shape == [(None, 4, 3), (None, 5), (None, 5)]
    assert model.output_shape == [(None, 4, 2), (None, 5), (None, 4, 2), (None, 5)]
    assert model.compute_output_shape([(7, 4, 3), (7, 5), (7, 5)]) == [(7, 4, 2), (7, 5), (7, 4, 2), (7, 5)]
    assert model.count_params() == sum(v.size for v in model.weights)
    lines = []
    model.summary(print_fn=lines.append)
    assert "enc[0], mix[0]" in "\n".join(lines)
    model.trainable = False
    assert model.trainable_weights == []


def test_a_model_that_ends_at_an_inner_layer():
    x = Input((4, 3))
    y = LSTM(5, return_sequences=True, name="first")(x)
    model = Model(x, LSTM(2, name="second")(y))
    inner = Model(model.input, model.get_layer("first").output)
    array = draw(2, 4, 3).astype(np.float32)
    np.testing.assert_array_equal(inner(array), model.get_layer("first")(array))
    tail = Model(y, model.output)
    np.testing.assert_array_equal(tail(inner(array)), model(array))
    with pytest.raises(AttributeError, match="never been called"):
        _ = LSTM(2).output


def test_a_deep_graph():
    x = y = Input((2,))
    for k in range(1500):
        y = Dropout(0.5, name=f"d{k}")(y)
    array = np.ones((1, 2), np.float32)
    np.testing.assert_array_equal(Model(x, y)(array), array)


def test_copies_and_pickles():
    model = encoder_decoder()
    arrays = inputs_of(model)
    expected = model(arrays)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        for layer in model.layers:
            assert all(layer is not one for one in other.layers)
        for got, want in zip(other(arrays), expected, strict=True):
            np.testing.assert_array_equal(got, want)


# -- models in models ---------------------------------------------------------------------------------------------------
def nested():
    a = Input((4, 3), name="a", **F64)
    inner = Model(a, [LSTM(2, return_sequences=True, name="l", **F64)(a), Dense(2, name="d", **F64)(a)], name="inner")
    stack = Sequential([Dense(3, "tanh", name="s", **F64)], name="stack")
    x = Input((4, 3), name="x", **F64)
    first, second = inner(x)
    third, fourth = inner(stack(x))
    return Model(x, [first, second, third, fourth], name="outer")


def test_models_in_models():
    model = nested()
    (x,) = inputs_of(model)
    inner, stack = model.get_layer("inner"), model.get_layer("stack")
    want = [*inner(x), *inner(stack(x))]
    for got, one in zip(model(x), want, strict=True):
        np.testing.assert_array_equal(got, one)
    assert len(model.weights) == 5 + 2


def test_weights_that_two_models_share_count_once():
    x = Input((3,))
    dense = Dense(3)
    inner = Model(x, dense(x))
    z = Input((3,))
    model = Model(z, dense(inner(z)))
    assert len(model.weights) == 2
    array = draw(2, 3).astype(np.float32)
    y, pullback = model.vjp(array)
    kernel = dense.get_weights()[0]
    np.testing.assert_allclose(y, array @ kernel @ kernel, rtol=1e-5, atol=1e-6)
    dy = np.ones_like(y)
    want = (array @ kernel).T @ dy + array.T @ (dy @ kernel.T)
    np.testing.assert_allclose(pullback(dy).weights[0], want, rtol=1e-4, atol=1e-5)


# -- gradients ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", [encoder_decoder, nested])
def test_gradients(make):
    model = make()
    check_model(model, inputs_of(model))


def test_gradients_through_masks_normalisation_and_dropout():
    ids, x = Input((5,), dtype="int32", name="ids"), Input((5, 2), name="x", **F64)
    e = Embedding(6, 3, mask_zero=True, **F64)(ids)
    y = Bidirectional(LSTM(2, return_sequences=True, **F64), **F64)(e)
    z = BatchNormalization(**F64)(Dropout(0.4, seed=3, **F64)(Masking(**F64)(x)))
    model = Model([ids, x], [LSTM(2, **F64)(y), LSTM(3, recurrent_dropout=0.3, seed=2, **F64)(z)])
    arrays = [np.array([[1, 2, 3, 0, 0], [4, 0, 5, 1, 0]], np.int32), draw(2, 5, 2)]
    arrays[1][0, 3:] = 0
    # Masking compares with 0: the differences must not move what is masked.
    model.layers[1].trainable = True
    answer = model.vjp(arrays)[1]((np.ones((2, 2)), np.ones((2, 3))))
    assert answer.inputs[0] is None
    assert not answer.inputs[1][0, 3:].any()
    check_model(Model(ids, LSTM(2, **F64)(y)), arrays[:1])


def test_an_output_without_a_cotangent():
    model = encoder_decoder()
    arrays = inputs_of(model)
    y, pullback = model.vjp(arrays)
    some = pullback([np.ones_like(y[0]), None, None, None])
    full = pullback([np.ones_like(y[0]), *(np.zeros_like(one) for one in y[1:])])
    for got, want in zip(some.inputs + some.weights, full.inputs + full.weights, strict=True):
        np.testing.assert_array_equal(got, want)
    with pytest.raises(ValueError, match="tuple of 4"):
        pullback([y[0]])


def test_an_output_that_is_an_input_too():
    x = Input((3,), **F64)
    model = Model(x, [x, Dense(2, **F64)(x)])
    check_model(model, [draw(2, 3)])


# -- masks --------------------------------------------------------------------------------------------------------------
IDS = np.array([[3, 1, 0, 0], [2, 4, 1, 0]], np.int32)


def test_masks_go_from_layer_to_layer():
    ids = Input((4,), dtype="int32")
    e = Embedding(5, 3, mask_zero=True)(ids)
    y = LSTM(4, return_sequences=True)(e)
    model = Model(ids, LSTM(2)(y))
    embedding, first, second = model.layers[1:]
    mask = IDS != 0
    np.testing.assert_array_equal(model(IDS), second(first(embedding(IDS), mask=mask), mask=mask))


def test_an_implicit_mask_is_dropped_beside_an_initial_state():
    """As in Keras 3 (keras-spec 5): the layer does not get it, and still hands it on; an explicit one counts."""
    ids, h, c = Input((4,), dtype="int32"), Input((3,)), Input((3,))
    e = Embedding(5, 3, mask_zero=True)(ids)
    lstm, after = LSTM(3, return_sequences=True), LSTM(2)
    y = lstm(e, initial_state=[h, c])
    model = Model([ids, h, c], [y, after(y)])
    states = [draw(2, 3, seed=k).astype(np.float32) for k in range(2)]
    rows = model.layers[1](IDS) if isinstance(model.layers[1], Embedding) else model.get_layer("embedding")(IDS)
    got = model([IDS, *states])
    want = lstm(rows, initial_state=states)
    np.testing.assert_array_equal(got[0], want)
    np.testing.assert_array_equal(got[1], after(want, mask=IDS != 0))
    np.testing.assert_array_equal(model.compute_mask([IDS, *states])[0], IDS != 0)

    given = Input((4,), dtype="bool")
    explicit = Model([ids, h, c, given], lstm(e, initial_state=[h, c], mask=given))
    np.testing.assert_array_equal(explicit([IDS, *states, IDS != 0]), lstm(rows, initial_state=states, mask=IDS != 0))


def test_masks_into_and_out_of_inner_models():
    ids = Input((4,), dtype="int32")
    inner = Model(ids, LSTM(3, return_sequences=True, name="l")(Embedding(5, 3, mask_zero=True, name="e")(ids)), name="inner")
    x = Input((4,), dtype="int32")
    model = Model(x, LSTM(2, name="last")(inner(x)))
    np.testing.assert_array_equal(model(IDS), model.get_layer("last")(inner(IDS), mask=IDS != 0))
    np.testing.assert_array_equal(inner.compute_mask(IDS), IDS != 0)

    y = Input((4, 3))
    outer = Model(x, Model(y, LSTM(2, name="in")(y), name="deep")(Embedding(5, 3, mask_zero=True, name="em")(x)))
    lstm, embedding = outer.get_layer("deep").get_layer("in"), outer.get_layer("em")
    np.testing.assert_array_equal(outer(IDS), lstm(embedding(IDS), mask=IDS != 0))


def test_compute_mask_changes_nothing():
    ids = Input(batch_shape=(2, 4), dtype="int32")
    y = LSTM(3, return_sequences=True, stateful=True)(Embedding(5, 3, mask_zero=True)(ids))
    model = Model(ids, y)
    assert model.stateful
    assert model.static_batch_size == 2
    model(IDS)
    before = [state.numpy() for state in model.layers[2].states]
    np.testing.assert_array_equal(model.compute_mask(IDS), IDS != 0)
    for state, kept in zip(model.layers[2].states, before, strict=True):
        np.testing.assert_array_equal(state.value, kept)


# -- training -----------------------------------------------------------------------------------------------------------
def test_fit_with_several_inputs():
    a, b = Input((4, 2), name="a"), Input((3,), name="b")
    y = LSTM(4)(a, initial_state=[Dense(4, name="h")(b), Dense(4, name="c")(b)])
    model = Model([a, b], Dense(1)(y))
    model.compile(fastlstm.optimizers.Adam(0.02), "mse", metrics=["mae"])
    x = [draw(64, 4, 2).astype(np.float32), draw(64, 3).astype(np.float32)]
    target = (x[0].sum(axis=(1, 2)) + x[1][:, 0])[:, None]
    history = model.fit(x, target, epochs=30, batch_size=16, verbose=0, validation_split=0.25)
    losses = history.history["loss"]
    assert losses[-1] < 0.3 * losses[0]
    assert "val_mae" in history.history
    by_name = model.evaluate({"a": x[0], "b": x[1]}, target, verbose=0)
    np.testing.assert_allclose(by_name, model.evaluate(x, target, verbose=0))
    batches = [({"a": x[0][:8], "b": x[1][:8]}, target[:8])] * 2
    assert np.isfinite(model.fit(iter(batches), steps_per_epoch=2, verbose=0).history["loss"][0])
    assert model.predict(x, batch_size=7, verbose=0).shape == (64, 1)
    assert np.isfinite(model.train_on_batch(x, target)[0])


def test_an_activity_penalty_on_a_branch_counts():
    x = Input((3,), **F64)
    side = Dense(2, activity_regularizer="l2", name="side", **F64)(x)
    model = Model(x, [Dense(1, name="main", **F64)(x), side])
    model(draw(2, 3))
    assert len(model.losses) == 1


@pytest.mark.parametrize("inside", [False, True], ids=["at the top", "in a model inside"])
def test_activity_penalties_of_a_layer_that_is_used_twice_all_count(inside):
    """Keras counts them all (and on JAX, in training only, the last one)."""
    x = Input((4, 2), **F64)
    shared = LSTM(2, return_sequences=True, activity_regularizer="l2", **F64)
    y = Model(x, shared(x))(Model(x, shared(x))(x)) if inside else shared(shared(x))
    model, given = Model(x, y), draw(3, 4, 2)
    plain = LSTM(2, return_sequences=True, **F64)
    plain.build((None, 4, 2))
    plain.set_weights(shared.get_weights())
    once = plain(given)
    want = [0.01 * np.sum(a**2) / 3 for a in (once, plain(once))]
    for call in (model, model, lambda a: model.vjp(a)):
        call(given)
        np.testing.assert_allclose(model.losses, want, rtol=1e-12)
    shared(given)
    np.testing.assert_allclose(shared.losses, want[:1], rtol=1e-12)


# -- config -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", [encoder_decoder, nested])
def test_config_round_trip(make):
    model = make()
    again = Functional.from_config(model.get_config())
    assert again.get_config() == model.get_config()
    again.set_weights(model.get_weights())
    arrays = inputs_of(model)
    given = arrays if len(arrays) > 1 else arrays[0]
    for got, want in zip(again(given), model(given), strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_layer_used_twice_on_its_own_output():
    x = Input((3,), name="x")
    a, b = Dense(3, name="a"), Dense(3, name="b")
    model = Model(x, a(b(a(x))))
    again = Functional.from_config(model.get_config())
    again.set_weights(model.get_weights())
    array = draw(2, 3).astype(np.float32)
    np.testing.assert_array_equal(again(array), model(array))


def keras_2_config():
    """As Keras 2 wrote it: states in the list of inputs, a nested model whose calls count from 1, lists of one."""

    def entry(class_name, name, nodes, **config):
        return {"class_name": class_name, "name": name, "config": {"name": name, **config}, "inbound_nodes": nodes}

    inner = [entry("InputLayer", "i", [], batch_input_shape=[None, 4], dtype="float32")]
    inner.append(entry("Dense", "d", [[["i", 0, 0, {}]]], units=2))
    model = {"name": "inner", "layers": inner, "input_layers": [["i", 0, 0]], "output_layers": [["d", 0, 0]]}
    layers = [
        entry("InputLayer", "x", [], batch_input_shape=[None, 5, 3], dtype="float32"),
        entry("InputLayer", "h", [], batch_input_shape=[None, 4], dtype="float32"),
        entry("InputLayer", "c", [], batch_input_shape=[None, 4], dtype="float32"),
        entry("LSTM", "l", [[["x", 0, 0, {}], ["h", 0, 0, {}], ["c", 0, 0, {}]]], units=4, return_state=True),
        {"class_name": "Functional", "name": "inner", "config": model, "inbound_nodes": [[["l", 0, 1, {}]], [["l", 0, 0, {}]]]},
    ]
    return {
        "name": "old",
        "layers": layers,
        "input_layers": [["x", 0, 0], ["h", 0, 0], ["c", 0, 0]],
        "output_layers": [["inner", 1, 0], ["inner", 2, 0]],
    }


def test_config_of_keras_2():
    model = Functional.from_config(keras_2_config())
    x, h, c = (draw(2, *shape, seed=k).astype(np.float32) for k, shape in enumerate([(5, 3), (4,), (4,)]))
    y, state, _ = model.get_layer("l")(x, initial_state=[h, c])
    inner = model.get_layer("inner")
    for got, want in zip(model([x, h, c]), [inner(state), inner(y)], strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(layers=None), "list 'layers'"),
        (lambda c: c["layers"][3].update(inbound_nodes=None), "must be a list"),
        (lambda c: c["layers"][3].update(inbound_nodes=[[]]), "list of tensors"),
        (lambda c: c["layers"][3].update(inbound_nodes=[[["x", 0, 0, {}], ["h", "0", 0]]]), "layer, call, output"),
        (lambda c: c["layers"][3].update(inbound_nodes=[[["nowhere", 0, 0, {}]]]), "nowhere"),
        (lambda c: c["layers"][3].update(inbound_nodes=[[["x", 0, 4, {}]]]), "number 4"),
        (lambda c: c["layers"][3].update(inbound_nodes=[[["l", 0, 0, {}]]]), "depend on themselves"),
        (lambda c: c["layers"][3].update(inbound_nodes=[[["x", 0, 0, {"surprise": 1}]]]), "surprise"),
        (lambda c: c["layers"][3].update(inbound_nodes=[]), "0 calls"),
        (lambda c: c["layers"][4].update(name="l"), "name of its own"),
        (lambda c: c.update(output_layers=None), "output_layers"),
        (lambda c: c.update(output_layers=[["inner", 9, 0]]), "number"),
        (lambda c: c.update(input_layers=[["x", 0, 0]]), "follow"),
    ],
)
def test_configs_that_make_no_sense(change, message):
    config = copy.deepcopy(keras_2_config())
    change(config)
    with pytest.raises(ValueError, match=message):
        Functional.from_config(config)


def test_input_layers_serve_as_inputs_of_a_sequential():
    model = Sequential([Input((5, 3)), LSTM(2)])
    assert model.input_shape == (None, 5, 3)
    assert isinstance(model._stack[0], InputLayer)


def test_models_of_a_sequentials_layers():
    stack = Sequential([Input((5, 3)), LSTM(4, return_sequences=True, name="l"), LSTM(2)])
    start = stack.input
    inner = Model(start, [stack.get_layer("l").output, stack.output])
    x = draw(2, 5, 3).astype(np.float32)
    first, last = inner(x)
    np.testing.assert_array_equal(first, stack.get_layer("l")(x))
    np.testing.assert_array_equal(last, stack(x))
    stack.add(Dense(1))
    assert stack.output.shape == (None, 1)
    with pytest.raises(AttributeError, match="before it is built"):
        _ = Sequential([LSTM(2)]).input
