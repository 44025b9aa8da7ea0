"""``vjp`` of every layer that is no recurrence, and of Sequential, against central differences of its call in float64."""

from __future__ import annotations

import numpy as np
import pytest
from central_differences import check_layer

import fastlstm
from fastlstm import layers
from fastlstm.layers import (
    LSTM,
    Activation,
    AveragePooling1D,
    BatchNormalization,
    Conv1D,
    Cropping1D,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    GlobalAveragePooling1D,
    GlobalMaxPooling1D,
    InputLayer,
    LayerNormalization,
    Masking,
    MaxPooling1D,
    Permute,
    RepeatVector,
    Reshape,
    TimeDistributed,
    UpSampling1D,
    ZeroPadding1D,
)
from fastlstm.models import Sequential

F64 = {"dtype": "float64"}
MASK = np.array([[1, 1, 0, 1, 0], [0, 1, 1, 0, 0]], bool)


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def with_random_weights(layer, shape, seed=3):
    """The layer, built, all its weights random; positive ones where they are variances."""
    layer.build(shape)
    rng = np.random.default_rng(seed)
    layer.set_weights(
        [rng.uniform(0.5, 1.5, v.shape) if "variance" in v.name else rng.normal(0, 0.7, v.shape) for v in layer.weights]
    )
    return layer


# -- one layer each -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("activation", [None, "tanh", "relu", "softmax", "gelu"])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)], ids=str)
def test_dense(shape, activation):
    check_layer(with_random_weights(Dense(5, activation, **F64), shape), draw(*shape))


def test_dense_without_bias():
    _, answer = check_layer(Dense(2, "sigmoid", use_bias=False, **F64), draw(3, 4))
    assert len(answer.weights) == 1


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float64])
def test_embedding(dtype):
    """Rows that are looked up twice get both gradients, the others 0; indices have none."""
    ids = np.array([[3, 1, 3], [0, 3, 0]], dtype)
    _, answer = check_layer(Embedding(5, 2, mask_zero=True, **F64), ids, indices=True)
    assert not answer.weights[0][[2, 4]].any()


def test_masking_and_input_layer():
    x = draw(2, 5, 3)
    x[0, 1] = 7.0
    layer = Masking(7.0, **F64)
    y, pullback = layer.vjp(x)
    assert not y[0, 1].any()
    dy = draw(*x.shape, seed=1)
    np.testing.assert_array_equal(pullback(dy).inputs, np.where((x != 7.0).any(-1, keepdims=True), dy, 0))
    check_layer(InputLayer(shape=(5, 3), dtype="float64"), x)


@pytest.mark.parametrize("noise_shape", [None, (None, 1, None)])
@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
def test_dropout(rate, noise_shape):
    check_layer(Dropout(rate, noise_shape=noise_shape, seed=5, **F64), draw(3, 4, 2))
    check_layer(Dropout(rate, noise_shape=noise_shape, seed=5, **F64), draw(3, 4, 2), training=False)


def test_dropout_draws_as_a_call_does():
    x = draw(3, 4)
    called, traced = (Dropout(0.5, seed=5, **F64) for _ in range(2))
    for _ in range(2):
        np.testing.assert_array_equal(traced.vjp(x)[0], called(x, training=True))
        np.testing.assert_array_equal(traced.vjp(x, training=False)[0], x)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_flatten(data_format):
    check_layer(Flatten(data_format=data_format, **F64), draw(2, 3, 4))
    check_layer(Flatten(data_format=data_format, **F64), draw(3))


@pytest.mark.parametrize("name", [name for name in fastlstm.activations.names() if name not in ("threshold", "glu")])
def test_activation(name):
    check_layer(Activation(name, **F64), draw(3, 6))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("shape", "axis"), [((6, 3), -1), ((2, 5, 3), -1), ((2, 3, 5), 1)], ids=str)
@pytest.mark.parametrize("options", [{}, {"center": False}, {"scale": False}, {"center": False, "scale": False}], ids=str)
def test_batch_normalization(options, shape, axis, training):
    layer = with_random_weights(BatchNormalization(axis=axis, **options, **F64), shape)
    count = len(layer.weights)
    check_layer(layer, draw(*shape), training=training, frozen=(count - 2, count - 1))


def test_batch_normalization_masked():
    layer = with_random_weights(BatchNormalization(**F64), (2, 5, 3))
    check_layer(layer, draw(2, 5, 3), mask=MASK, frozen=(2, 3))
    check_layer(layer, draw(2, 5, 3), mask=MASK, training=False, frozen=(2, 3))


def test_batch_normalization_with_nan_at_masked_steps():
    """Where no gradient comes in at masked steps, what they hold plays no part."""
    layer, x = with_random_weights(BatchNormalization(**F64), (2, 5, 3)), draw(2, 5, 3)
    dy = np.where(MASK[..., None], draw(2, 5, 3, seed=1), 0)
    clean = layer.vjp(x, mask=MASK)[1](dy)
    dirty = layer.vjp(np.where(MASK[..., None], x, np.nan), mask=MASK)[1](dy)
    np.testing.assert_allclose(dirty.inputs, clean.inputs, rtol=1e-14)
    assert not dirty.inputs[~MASK].any()
    for got, want in zip(dirty.weights[:2], clean.weights[:2], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-13)


def test_batch_normalization_moves_its_statistics_as_a_call_does():
    called, traced = (with_random_weights(BatchNormalization(**F64), (6, 3)) for _ in range(2))
    called(draw(6, 3), training=True)
    traced.vjp(draw(6, 3))
    for got, want in zip(traced.get_weights(), called.get_weights(), strict=True):
        np.testing.assert_array_equal(got, want)


def test_frozen_batch_normalization_uses_the_moving_statistics():
    layer = with_random_weights(BatchNormalization(**F64), (6, 3))
    layer.trainable = False
    check_layer(layer, draw(6, 3), frozen=range(4))


@pytest.mark.parametrize("axis", [-1, 1, [1, 2], [-1, 1]], ids=str)
@pytest.mark.parametrize("options", [{}, {"center": False}, {"scale": False}], ids=str)
def test_layer_normalization(options, axis):
    check_layer(with_random_weights(LayerNormalization(axis=axis, **options, **F64), (2, 3, 4)), draw(2, 3, 4))


def test_layer_normalization_with_rms_scaling():
    with pytest.warns(UserWarning, match="rms_scaling"):
        layer = LayerNormalization(rms_scaling=True, **F64)
    check_layer(with_random_weights(layer, (2, 3, 4)), draw(2, 3, 4))


CONVOLUTIONS = [
    {},
    {"padding": "same"},
    {"padding": "causal"},
    {"strides": 2},
    {"strides": 3, "padding": "same"},
    {"dilation_rate": 2},
    {"dilation_rate": 2, "padding": "same"},
    {"dilation_rate": 2, "padding": "causal"},
    {"groups": 2, "padding": "same"},
    {"groups": 4, "strides": 2},
    {"use_bias": False},
    {"activation": "tanh"},
    {"activation": "softmax", "padding": "same"},
]


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_conv1d(options, data_format):
    shape = (2, 6, 4) if data_format == "channels_last" else (2, 4, 6)
    layer = with_random_weights(Conv1D(4, 3, data_format=data_format, **options, **F64), shape)
    check_layer(layer, draw(*shape))


WINDOWS = [(2, None, "valid"), (2, None, "same"), (3, 1, "valid"), (3, 2, "same"), (2, 3, "valid"), (4, 1, "same")]


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(("size", "strides", "padding"), WINDOWS)
@pytest.mark.parametrize("cls", [MaxPooling1D, AveragePooling1D])
def test_pooling(cls, size, strides, padding, data_format):
    check_layer(cls(size, strides, padding, data_format=data_format, **F64), draw(2, 7, 5))


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("cls", [GlobalMaxPooling1D, GlobalAveragePooling1D])
def test_global_pooling(cls, keepdims, data_format):
    layer = cls(data_format=data_format, keepdims=keepdims, **F64)
    check_layer(layer, draw(2, 5, 5))
    check_layer(layer, draw(2, 5, 5), mask=MASK)


def test_masked_steps_of_a_mean_get_exactly_zero():
    x = np.where(MASK[..., None], draw(2, 5, 3), np.nan)
    dx = GlobalAveragePooling1D(**F64).vjp(x, mask=MASK)[1](draw(2, 3)).inputs
    assert not dx[~MASK].any()
    assert dx[MASK].all()


def test_equal_largest_values():
    """A window gives everything to the first of them (as TensorFlow does), the largest of all steps is shared out."""
    x = np.array([[1.0, 2, 2, 0, 0, 0]])[..., None]
    dx = MaxPooling1D(3, **F64).vjp(x)[1](np.array([[[5.0], [7.0]]])).inputs
    np.testing.assert_array_equal(dx[0, :, 0], [0, 5, 0, 7, 0, 0])
    dx = GlobalMaxPooling1D(**F64).vjp(x)[1](np.array([[6.0]])).inputs
    np.testing.assert_array_equal(dx[0, :, 0], [0, 3, 3, 0, 0, 0])
    hole = np.array([[1.0, np.nan, 2]])[..., None]
    dx = MaxPooling1D(3, **F64).vjp(hole)[1](np.array([[[5.0]]])).inputs
    np.testing.assert_array_equal(dx[0, :, 0], [0, 5, 0])


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Reshape((-1, 2), **F64), (2, 3, 4)),
        (Permute((3, 1, 2), **F64), (2, 3, 4, 5)),
        (RepeatVector(3, **F64), (2, 4)),
        (UpSampling1D(3, **F64), (2, 3, 4)),
        (ZeroPadding1D((1, 2), **F64), (2, 3, 4)),
        (ZeroPadding1D((2, 0), data_format="channels_first", **F64), (2, 3, 4)),
        (Cropping1D((1, 2), **F64), (2, 5, 4)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, layers.Layer) else str(value),
)
def test_reshaping(layer, shape):
    check_layer(layer, draw(*shape))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mask", [None, MASK], ids=["unmasked", "masked"])
def test_time_distributed(mask, training):
    check_layer(TimeDistributed(Dense(2, "tanh", **F64), **F64), draw(2, 5, 3), mask=mask, training=training)


@pytest.mark.parametrize(
    ("inner", "frozen"),
    [(Dropout(0.4, seed=2, **F64), ()), (BatchNormalization(**F64), (2, 3)), (LSTM(2, dropout=0.3, seed=1, **F64), ())],
    ids=["Dropout", "BatchNormalization", "LSTM"],
)
def test_time_distributed_training_runs_each_step_by_itself(inner, frozen):
    shape = (2, 2, 2, 3) if isinstance(inner, LSTM) else (3, 2, 3)
    check_layer(TimeDistributed(inner, **F64), draw(*shape), frozen=frozen)


def test_time_distributed_embedding():
    check_layer(TimeDistributed(Embedding(4, 2, **F64), **F64), np.array([[[0, 1], [2, 1]]]))


# -- Sequential -----------------------------------------------------------------------------------------------------------
def test_sequential_of_everything():
    model = Sequential(
        [
            InputLayer(shape=(6, 2), dtype="float64"),
            Masking(**F64),
            Conv1D(3, 2, padding="causal", activation="tanh", **F64),
            BatchNormalization(**F64),
            LSTM(3, return_sequences=True, recurrent_dropout=0.3, seed=4, **F64),
            TimeDistributed(Dense(2, **F64), **F64),
            GlobalAveragePooling1D(**F64),
            Dropout(0.3, seed=1, **F64),
            Dense(2, "softmax", **F64),
        ]
    )
    x = draw(3, 6, 2)
    moving = [k for k, variable in enumerate(model.weights) if "moving" in variable.name]
    check_layer(model, x, frozen=moving)
    check_layer(model, x, training=False, frozen=moving)


def test_sequential_hands_the_mask_on_and_stops_at_the_indices():
    ids = np.array([[3, 1, 0, 0], [2, 0, 1, 0]])
    model = Sequential([Embedding(4, 3, mask_zero=True, **F64), LSTM(2, return_sequences=True, **F64), LSTM(2, **F64)])
    _, answer = check_layer(model, ids)
    assert not answer.weights[0][0].any()  # index 0 is padding


def test_sequential_ends_with_several_outputs():
    model = Sequential([Dense(3, **F64), LSTM(2, return_state=True, **F64)])
    x = draw(2, 3, 2)
    check_layer(model, x)
    outputs, pullback = model.vjp(x)
    assert len(outputs) == 3
    assert not pullback((None, None, None)).inputs.any()


def test_sequential_adds_up_a_layer_that_is_used_twice():
    shared = Dense(3, "tanh", **F64)
    _, answer = check_layer(Sequential([shared, Dense(3, **F64), shared]), draw(2, 3))
    assert len(answer.weights) == 4


def test_sequential_in_sequential_and_other_ranks():
    model = Sequential([Sequential([Dense(2, **F64)]), LSTM(2, **F64)])
    model.build((None, 4, 1))
    x = draw(3, 4)
    _, answer = check_layer(model, x)
    assert answer.inputs.shape == (3, 4)


def test_an_empty_gradient_path_gives_zeros():
    """Integers go through a Reshape into an Embedding: no gradient comes back to it, and none is missed."""
    model = Sequential([Reshape((4,)), Embedding(5, 2, **F64), Flatten(**F64)])
    check_layer(model, np.array([[[0, 1], [2, 3]]]))


def test_every_layer_has_been_looked_at():
    """A new layer needs a backward, and a place in this file or in test_vjp_recurrent."""
    recurrent = {"LSTM", "LSTMCell", "ConvLSTM1D", "Bidirectional"}
    # In test_functional, test_merging, test_more_glue, test_plain_recurrent, test_time_major and test_torch_lstm.
    elsewhere = {"Functional", "GRU", "SimpleRNN", "ReLU", "LeakyReLU", "ELU", "PReLU", "Softmax", "SpatialDropout1D"}
    elsewhere |= {"Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract", "Dot", "Attention"}
    elsewhere |= {"AdditiveAttention", "GaussianDropout", "GaussianNoise", "ConvLSTM2D", "ProjectedLSTM", "TorchLSTM"}
    elsewhere |= {"TimeMajor"}
    tested = {name for name, value in globals().items() if isinstance(value, type) and issubclass(value, layers.Layer)}
    assert set(layers.LAYERS) - recurrent - elsewhere - tested == set()
