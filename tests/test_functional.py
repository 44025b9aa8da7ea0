"""Model: graphs of layers with several inputs and outputs, shared layers, models in models: how they are made, gradients."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from functional_models import F64, check_model, draw, encoder_decoder, inputs_of, nested

import fastlstm
from fastlstm import (
    LSTM,
    BatchNormalization,
    Bidirectional,
    Dense,
    Dropout,
    Embedding,
    Input,
    Masking,
    Model,
    Sequential,
)
from fastlstm.layers.symbolic import KerasTensor
from fastlstm.models.functional import Functional


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
