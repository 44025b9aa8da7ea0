"""ReLU, LeakyReLU, ELU, PReLU, Softmax, SpatialDropout1D, GaussianNoise, GaussianDropout: values, gradients, configs."""

from __future__ import annotations

import numpy as np
import pytest
from central_differences import check_layer

from fastlstm import (
    ELU,
    GaussianDropout,
    GaussianNoise,
    LeakyReLU,
    PReLU,
    ReLU,
    Softmax,
    SpatialDropout1D,
    layers,
)

F64 = {"dtype": "float64"}


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


X = np.array([[-3.0, -1.0, -0.25, 0.0, 0.5, 2.0, 9.0]])


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (ReLU(), np.maximum(X, 0)),
        (ReLU(6), np.clip(X, 0, 6)),
        (ReLU(negative_slope=0.1, threshold=1.0), np.where(X > 1, X, 0.1 * (X - 1))),
        (LeakyReLU(), np.where(X > 0, X, 0.3 * X)),
        (LeakyReLU(0.1), np.where(X > 0, X, 0.1 * X)),
        (ELU(), np.where(X > 0, X, np.expm1(np.minimum(X, 0)))),
        (ELU(2.0), np.where(X > 0, X, 2 * np.expm1(np.minimum(X, 0)))),
        (Softmax(), np.exp(X) / np.exp(X).sum()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values(layer, expected):
    np.testing.assert_allclose(layer(X), expected, rtol=1e-6, atol=1e-7)
    assert layer.compute_mask(X, X[:, :1]) is not None
    assert layer(X).dtype == np.float32


@pytest.mark.parametrize(
    "layer",
    [
        ReLU(2.0, 0.1, 0.3, **F64),
        LeakyReLU(**F64),
        ELU(1.5, **F64),
        Softmax(**F64),
        Softmax(axis=1, **F64),
        Softmax(axis=(1, 2), **F64),
        PReLU(**F64),
        PReLU(shared_axes=[1], **F64),
        PReLU(shared_axes=[1, 2], **F64),
    ],
    ids=lambda layer: f"{type(layer).__name__} {layer.get_config()}"[:60],
)
def test_gradients(layer):
    if isinstance(layer, PReLU):
        layer.build((2, 3, 4))
        layer.set_weights([draw(*v.shape) for v in layer.weights])
    check_layer(layer, draw(2, 3, 4))


def test_prelu():
    layer = PReLU(shared_axes=1)
    layer.build((None, None, 3))
    assert layer.alpha.shape == (1, 3)
    layer.set_weights([np.array([[0.1, 0.2, 0.3]])])
    x = draw(2, 5, 3)
    np.testing.assert_allclose(layer(x), np.where(x > 0, x, x * [0.1, 0.2, 0.3]), rtol=1e-6)
    with pytest.raises(ValueError, match="must be known"):
        PReLU().build((None, None, 3))
    with pytest.raises(ValueError, match="no axes"):
        PReLU(shared_axes=[4]).build((None, 3))
    with pytest.raises(ValueError, match="slopes"):
        layer(draw(2, 5, 4))


def test_softmax_with_a_mask():
    mask = np.array([[[1, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]], bool)
    x = draw(1, 3, 4)
    y = Softmax(**F64)(x, mask=mask)
    e = np.exp(x[0, 0]) * mask[0, 0]
    np.testing.assert_allclose(y[0, 0], e / e.sum(), rtol=1e-12)
    assert not y[0, 1].any()
    np.testing.assert_array_equal(y[0, 2], [1, 0, 0, 0])
    check_layer(Softmax(**F64), x, mask=mask)
    with pytest.raises(ValueError, match="broadcastable"):
        Softmax()(x, mask=np.ones((1, 3, 2), bool))


# -- noise --------------------------------------------------------------------------------------------------------------
NOISY = [SpatialDropout1D(0.4, seed=3, **F64), GaussianNoise(0.3, seed=3, **F64), GaussianDropout(0.4, seed=3, **F64)]


@pytest.mark.parametrize("layer", NOISY, ids=lambda layer: type(layer).__name__)
def test_noise_in_training_only(layer):
    x = draw(3, 4, 5)
    np.testing.assert_array_equal(layer(x), x)
    check_layer(layer, x)
    check_layer(layer, x, training=False)
    assert (layer(x, training=True) != layer(x, training=True)).any()


def test_statistics():
    x = np.ones((200, 50, 40), np.float32)
    noise = GaussianNoise(0.5, seed=1)(x, training=True) - 1
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 0.5) < 0.01
    scales = GaussianDropout(0.2, seed=1)(x, training=True)
    assert abs(scales.mean() - 1) < 0.01
    assert abs(scales.std() - 0.5) < 0.01
    dropped = SpatialDropout1D(0.25, seed=1)(x, training=True)
    assert (dropped == dropped[:, :1]).all()
    assert abs((dropped[:, 0] == 0).mean() - 0.25) < 0.02
    np.testing.assert_allclose(dropped[dropped != 0], 4 / 3, rtol=1e-6)


CONFIGS = [
    (ReLU(6.0, name="a"), ["name", "trainable", "dtype", "max_value", "negative_slope", "threshold"]),
    (LeakyReLU(name="b"), ["name", "trainable", "dtype", "negative_slope"]),
    (ELU(2.0, name="c"), ["name", "trainable", "dtype", "alpha"]),
    (Softmax(name="d"), ["name", "trainable", "dtype", "axis"]),
    (GaussianNoise(0.1, name="e"), ["name", "trainable", "dtype", "stddev", "seed"]),
    (GaussianDropout(0.1, name="f"), ["name", "trainable", "dtype", "rate", "seed"]),
    (SpatialDropout1D(0.1, name="g"), ["rate", "seed", "name", "dtype"]),
    (
        PReLU(shared_axes=[1], name="h"),
        ["name", "trainable", "dtype", "alpha_initializer", "alpha_regularizer", "alpha_constraint", "shared_axes"],
    ),
]


@pytest.mark.parametrize(("layer", "keys"), CONFIGS, ids=lambda value: type(value).__name__)
def test_config(layer, keys):
    config = layer.get_config()
    assert list(config) == keys
    assert layers.deserialize(layers.serialize(layer)).get_config() == config


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ReLU(-1), "max_value"),
        (lambda: ReLU(negative_slope=None), "negative_slope"),
        (lambda: ReLU(threshold=-0.1), "threshold"),
        (lambda: LeakyReLU(None), "negative_slope"),
        (lambda: Softmax("a"), "axis"),
        (lambda: PReLU(shared_axes=[0]), "shared_axes"),
        (lambda: GaussianNoise(2), "stddev"),
        (lambda: GaussianDropout("a"), "rate"),
        (lambda: SpatialDropout1D(1.5), "rate"),
        (lambda: SpatialDropout1D(0.5)(draw(2, 3)), "ndim=3"),
        (lambda: GaussianDropout(1.0)(draw(2, 3), training=True), "rate=1"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_alpha_is_the_old_name():
    with pytest.warns(UserWarning, match="alpha"):
        assert LeakyReLU(alpha=0.2).negative_slope == 0.2
