"""Functional models in use: masks, training, configs; the models are those of ``functional_models``."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from functional_models import F64, draw, encoder_decoder, inputs_of, nested

import fastlstm
from fastlstm import (
    LSTM,
    Dense,
    Embedding,
    Input,
    InputLayer,
    Model,
    Sequential,
)
from fastlstm.models.functional import Functional

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
