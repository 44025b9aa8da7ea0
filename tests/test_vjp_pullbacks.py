"""What the pullbacks of all layers have in common: what they keep, frozen weights, integers, dtypes, cotangents, errors.

Terms of ``Layer.vjp``; that the gradients are right is tested in test_vjp_layers and test_vjp_recurrent.
"""

from __future__ import annotations

import numpy as np
import pytest
from central_differences import check_layer

from fastlstm import layers
from fastlstm.layers import (
    Activation,
    BatchNormalization,
    Conv1D,
    Dense,
    Dropout,
    Flatten,
    LayerNormalization,
    Masking,
    MaxPooling1D,
    Reshape,
    UpSampling1D,
)
from fastlstm.models import Sequential

F64 = {"dtype": "float64"}


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def test_weights_count_as_they_were_and_a_pullback_may_be_called_again():
    for layer, x in (
        (Dense(3, "tanh", **F64), draw(2, 4)),
        (Conv1D(2, 2, activation="tanh", **F64), draw(2, 4, 3)),
        (BatchNormalization(**F64), draw(5, 3)),
        (LayerNormalization(**F64), draw(5, 3)),
        (Sequential([Dense(2, "tanh", **F64), Dense(1, **F64)]), draw(2, 4)),
    ):
        y, pullback = layer.vjp(x)
        dy = draw(*y.shape)
        first = pullback(dy)
        layer.set_weights([w + 1 for w in layer.get_weights()])
        x += 1
        y += 1
        layer.vjp(x)
        second = pullback(dy)
        np.testing.assert_array_equal(second.inputs, first.inputs)
        for got, want in zip(second.weights, first.weights, strict=True):
            assert (got is None) == (want is None)
            if got is not None:
                np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    "layer",
    [
        Activation("linear"),
        Dropout(0.5),
        Flatten(),
        Reshape((12,)),
        layers.Permute((2, 1)),
        layers.ZeroPadding1D(1),
        layers.GlobalAveragePooling1D(),
        layers.InputLayer((4, 3)),
        Sequential([Flatten(), Reshape((3, 4))]),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_gradient_belongs_to_the_one_who_asked(layer):
    y, pullback = layer.vjp(draw(2, 4, 3).astype(np.float32), training=False)
    dy = draw(*y.shape).astype(np.float32)
    before = dy.copy()
    dx = pullback(dy).inputs
    dx += 1
    np.testing.assert_array_equal(dy, before)
    np.testing.assert_array_equal(pullback(dy).inputs + 1, dx)


def test_frozen_layers_and_weights_have_no_gradient():
    layer = Dense(2, **F64)
    check_layer(layer, draw(3, 4))
    layer.kernel.trainable = False
    check_layer(layer, draw(3, 4), frozen=(0,))
    layer.trainable = False
    check_layer(layer, draw(3, 4), frozen=(0, 1))
    inner, model = Dense(2, **F64), Sequential([Dense(3, **F64)])
    model.add(inner)
    inner.trainable = False
    check_layer(model, draw(3, 4), frozen=(2, 3))
    model.trainable = False
    check_layer(model, draw(3, 4), frozen=range(4))


@pytest.mark.parametrize("layer", [Masking(), Dropout(0.5), Flatten(), Reshape((-1,)), MaxPooling1D(), UpSampling1D(), Dense(2)])
def test_integers_have_no_gradient(layer):
    x = np.arange(12).reshape(2, 3, 2)
    y, pullback = layer.vjp(x)
    assert pullback(np.ones(y.shape)).inputs is None


def test_dtypes_of_gradients():
    """Those of the inputs and variables; float32 in place of 16 bits."""
    for policy, x_dtype, want in (
        ("float32", "float32", "float32"),
        ("float32", "float64", "float64"),
        ("float64", "float32", "float32"),
        ("mixed_float16", "float32", "float32"),
        ("mixed_bfloat16", "float16", "float32"),
        ("float16", "float16", "float32"),
    ):
        layer = Dense(2, dtype=policy)
        y, pullback = layer.vjp(draw(3, 4).astype(x_dtype))
        answer = pullback(np.ones(y.shape, y.dtype))
        assert answer.inputs.dtype == want
        assert answer.weights[0].dtype == ("float64" if policy == "float64" else "float32")


def test_small_gradients_survive_16_bits():
    model = Sequential([Dense(3, dtype="mixed_float16"), Dense(2, dtype="mixed_float16")])
    y, pullback = model.vjp(np.ones((2, 4), np.float32))
    answer = pullback(np.full(y.shape, 1e-9, np.float32))
    assert all(gradient.any() for gradient in (answer.inputs, *answer.weights))


def test_no_cotangent_is_zeros():
    y, pullback = Dense(2, **F64).vjp(draw(3, 4))
    answer = pullback(None)
    assert answer.inputs.shape == (3, 4)
    assert not any(gradient.any() for gradient in (answer.inputs, *answer.weights))
    assert y.shape == (3, 2)


@pytest.mark.parametrize(
    ("dy", "error", "words"),
    [
        (np.ones((3, 3)), ValueError, r"`dy`.*\(3, 2\).*\(3, 3\)"),
        (np.ones(2), ValueError, "`dy`"),
        (1.0, ValueError, "`dy`"),
        ((np.ones((3, 2)),), ValueError, "`dy`.*one array"),
        ((np.ones((3, 2)), None), ValueError, "`dy`.*one array"),
        (np.full((3, 2), "a"), TypeError, "`dy`"),
    ],
    ids=str,
)
def test_a_wrong_cotangent_is_refused(dy, error, words):
    _, pullback = Dense(2, **F64).vjp(draw(3, 4))
    with pytest.raises(error, match=words):
        pullback(dy)


def test_a_callers_own_activation_is_named():
    def wave(x):
        return np.sin(x)

    for layer, x in (
        (Dense(2, wave), draw(3, 4)),
        (Activation(wave), draw(3, 4)),
        (Conv1D(2, 2, activation=wave), draw(2, 3, 4)),
    ):
        with pytest.raises(NotImplementedError, match="wave"):
            layer.vjp(x)


def test_a_layer_without_a_backward_says_so():
    class Own(layers.Layer):
        def call(self, x, mask=None, training=False):
            return x

    with pytest.raises(NotImplementedError, match="Own"):
        Own().vjp(np.ones((2, 3)))


def test_activity_losses_are_those_of_the_forward_and_stay_out_of_the_gradients():
    plain, punished = Dense(2, **F64), Dense(2, activity_regularizer="l2", kernel_regularizer="l2", **F64)
    x = draw(3, 4)
    plain.build(x.shape)
    punished.build(x.shape)
    punished.set_weights(plain.get_weights())
    (y, one), (_, two) = plain.vjp(x), punished.vjp(x)
    np.testing.assert_allclose(punished.losses[0], 0.01 * np.sum(y**2) / 3)
    dy = draw(*y.shape)
    np.testing.assert_array_equal(two(dy).weights[0], one(dy).weights[0])
