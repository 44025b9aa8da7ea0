"""BatchNormalization against its formula in float64: moving statistics, statistics of the batch, masks, 16 bits, errors."""

from __future__ import annotations

import numpy as np
import pytest

from fastlstm import BatchNormalization


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def randomise(layer, rng):
    layer.set_weights([rng.uniform(0.5, 1.5, w.shape).astype(w.dtype) for w in layer.get_weights()])
    return layer.get_weights()


@pytest.mark.parametrize(("axis", "shape"), [(-1, (5, 3)), (-1, (4, 6, 3)), (1, (4, 3, 6)), (2, (2, 5, 3, 4))])
@pytest.mark.parametrize(("center", "scale"), [(True, True), (False, True), (True, False), (False, False)])
def test_batch_normalization_by_moving_statistics(rng, axis, shape, center, scale):
    layer = BatchNormalization(axis, epsilon=0.01, center=center, scale=scale)
    layer.build(shape)
    names = [v.name for v in layer.weights]
    assert names == ["gamma"] * scale + ["beta"] * center + ["moving_mean", "moving_variance"]
    w = dict(zip(names, (v.astype(np.float64) for v in randomise(layer, rng)), strict=True))
    x = rng.normal(size=shape)
    last = np.moveaxis(x, axis, -1)
    y = (last - w["moving_mean"]) / np.sqrt(w["moving_variance"] + 0.01) * w.get("gamma", 1) + w.get("beta", 0)
    np.testing.assert_allclose(layer(x), np.moveaxis(y, -1, axis), atol=2e-6)
    assert [v.name for v in layer.trainable_weights] == names[:-2]


@pytest.mark.parametrize("masked", [False, True])
def test_batch_normalization_by_the_batch(rng, masked):
    x = rng.normal(2, 3, size=(4, 5, 3))
    mask = rng.random((4, 5)) < 0.6 if masked else np.ones((4, 5), bool)
    rows = x[mask]
    if masked:
        x[~mask] = np.nan
    layer = BatchNormalization(momentum=0.75, epsilon=1e-3, dtype="float64")
    layer.build(x.shape)
    gamma, beta, mean, variance = randomise(layer, rng)
    y = layer(x, mask=mask if masked else None, training=True)
    np.testing.assert_allclose(y[mask], (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-3) * gamma + beta, atol=1e-6)
    moved = layer.get_weights()[2:]
    np.testing.assert_allclose(moved[0], 0.75 * mean + 0.25 * rows.mean(0), atol=1e-7)
    np.testing.assert_allclose(moved[1], 0.75 * variance + 0.25 * rows.var(0), atol=1e-6)


def test_frozen_batch_normalization_keeps_its_statistics(rng):
    layer = BatchNormalization()
    x = rng.normal(size=(8, 2)).astype(np.float32)
    y = layer(x)
    layer.trainable = False
    np.testing.assert_array_equal(layer(x, training=True), y)
    assert [tuple(w) for w in layer.get_weights()[2:]] == [(0, 0), (1, 1)]


def test_batch_normalization_of_16_bits_keeps_float32_weights(rng):
    layer = BatchNormalization(dtype="mixed_float16")
    layer.build((None, 2))
    weights = [np.array(w, np.float32) for w in ([1.0001, 1], [0, 0], [0.33333, 1], [2, 3])]
    layer.set_weights(weights)
    x = rng.normal(size=(50, 2)).astype(np.float16)
    gamma, beta, mean, variance = (w.astype(np.float64) for w in weights)
    expected = ((x - mean) / np.sqrt(variance + 1e-3) * gamma + beta).astype(np.float16)
    y = layer(x)
    assert y.dtype == np.float16
    assert np.abs(y.view(np.int16) - expected.view(np.int16)).max() <= 1
    assert (y == expected).mean() > 0.95


def test_batch_normalization_refuses():
    for arguments in ({"axis": [1, 2]}, {"axis": 1.5}, {"renorm": True}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            BatchNormalization(**arguments)
    assert BatchNormalization(axis=[3]).axis == 3
    with pytest.raises(ValueError, match="axis=2"):
        BatchNormalization(axis=2)(np.zeros((2, 3)))
    layer = BatchNormalization()
    layer(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="ndim=2"):
        layer(np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match="axis -1"):
        layer(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="mask"):
        layer(np.zeros((2, 3)), mask=np.ones((2, 3)), training=True)
