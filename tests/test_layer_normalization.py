"""LayerNormalization against its formula in float64: axes, scale and centre, masks, 16 bits, configs, errors."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from fastlstm import LayerNormalization, layers


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def randomise(layer, rng):
    layer.set_weights([rng.uniform(0.5, 1.5, w.shape).astype(w.dtype) for w in layer.get_weights()])
    return {v.name: v.numpy().astype(np.float64) for v in layer.weights}


def normalised(x, axes, epsilon):
    """Sample by sample: x with its mean taken away, by the root of its variance."""
    mean = x.sum(axis=axes, keepdims=True) / np.prod([x.shape[a] for a in axes])
    variance = ((x - mean) ** 2).sum(axis=axes, keepdims=True) / np.prod([x.shape[a] for a in axes])
    return (x - mean) / (variance + epsilon) ** 0.5


@pytest.mark.parametrize(
    ("axis", "shape", "weight_shape", "broadcast"),
    [
        (-1, (5, 3), (3,), (1, 3)),
        (-1, (2, 4, 3), (3,), (1, 1, 3)),
        (2, (2, 4, 3), (3,), (1, 1, 3)),
        (1, (2, 4, 3), (4,), (1, 4, 1)),
        ([-1], (2, 4, 3), (3,), (1, 1, 3)),
        ((1, 2), (2, 4, 3), (4, 3), (1, 4, 3)),
        ([2, 1], (2, 4, 3), (4, 3), (1, 4, 3)),
        ([-1, -2], (2, 4, 3), (4, 3), (1, 4, 3)),
        ([1, 3], (2, 4, 3, 5), (4, 5), (1, 4, 1, 5)),
    ],
)
@pytest.mark.parametrize(("center", "scale"), [(True, True), (False, True), (True, False), (False, False)])
def test_values(rng, axis, shape, weight_shape, broadcast, center, scale):
    layer = LayerNormalization(axis, 0.01, center, scale, dtype="float64", name="n")
    layer.build((None, *shape[1:]))
    assert [(v.path, v.shape) for v in layer.weights] == [("n/gamma", weight_shape)] * scale + [("n/beta", weight_shape)] * center
    w = {name: value.reshape(broadcast) for name, value in randomise(layer, rng).items()}
    x = rng.normal(3, 2, size=shape)
    axes = tuple(a % len(shape) for a in np.atleast_1d(axis))
    expected = normalised(x, axes, 0.01) * w.get("gamma", 1) + w.get("beta", 0)
    np.testing.assert_allclose(layer(x), expected, rtol=0, atol=1e-13)
    assert layer.compute_output_shape((None, *shape[1:])) == (None, *shape[1:])


def test_sign_mixed_axes_keep_the_sorted_order_of_keras(rng):
    """[1, -1] is sorted to [-1, 1]: weights in a Keras file have the last axis first, and are laid over the input as they lie."""
    layer = LayerNormalization([1, -1], dtype="float64")
    layer.build((None, 4, 3))
    assert layer.gamma.shape == (3, 4)
    w = randomise(layer, rng)
    x = rng.normal(size=(2, 4, 3))
    expected = normalised(x, (1, 2), 1e-3) * w["gamma"].reshape(4, 3) + w["beta"].reshape(4, 3)
    np.testing.assert_allclose(layer(x), expected, atol=1e-13)


def test_fresh_layer_in_float32(rng):
    x = rng.normal(100, 2, size=(4, 6, 50))
    layer = LayerNormalization()
    y = layer(x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, normalised(x.astype(np.float32).astype(np.float64), (2,), 1e-3), atol=3e-5)
    np.testing.assert_array_equal(layer(x, training=True), y)


def test_far_from_zero_nothing_cancels(rng):
    """E[x²] - E[x]² would lose all digits here."""
    x = (rng.normal(size=(2, 64)) + 30_000).astype(np.float32)
    np.testing.assert_allclose(LayerNormalization()(x), normalised(x.astype(np.float64), (1,), 1e-3), atol=5e-3)


def test_constant_input_gives_beta():
    layer = LayerNormalization()
    layer.build((None, 4))
    layer.beta.assign([1, 2, 3, 4])
    assert layer(np.full((2, 4), 7, np.float32)).tolist() == [[1, 2, 3, 4]] * 2


def test_rms_scaling(rng):
    """Deprecated in Keras: by the deviation, without centring; center and scale play no part."""
    with pytest.warns(UserWarning, match="rms_scaling"):
        layer = LayerNormalization(rms_scaling=True, scale=False, dtype="float64")
    x = rng.normal(1, 2, size=(3, 5))
    layer.build((None, 5))
    assert [v.name for v in layer.weights] == ["gamma"]
    gamma = randomise(layer, rng)["gamma"]
    np.testing.assert_allclose(layer(x), x / np.sqrt(x.var(axis=1, keepdims=True) + 1e-3) * gamma, atol=1e-14)


@pytest.mark.parametrize("dtype", ["float16", "mixed_float16", "bfloat16", "mixed_bfloat16"])
def test_sixteen_bits_calculate_in_float32(rng, dtype):
    if "b" in dtype:
        pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    layer = LayerNormalization(dtype=dtype)
    x = rng.normal(20, 200, size=(4, 300)).astype(np.float32)  # the square of its sum is no float16
    y = layer(x)
    assert y.dtype == layer.storage_dtype
    assert layer.gamma.dtype == (np.float32 if dtype.startswith("mixed") else layer.storage_dtype)
    exact = normalised(x.astype(np.float64), (1,), 1e-3)  # the input is not rounded before
    half_step = np.abs(exact) * (2.0**-8 if "b" in dtype else 2.0**-11)
    assert (np.abs(y.astype(np.float64) - exact) <= half_step + 2e-5).all()


def test_integer_inputs(rng):
    x = rng.integers(0, 9, size=(3, 6))
    np.testing.assert_allclose(LayerNormalization(dtype="float64")(x), normalised(x.astype(np.float64), (1,), 1e-3), atol=1e-14)


def test_mask_goes_on(rng):
    layer, mask = LayerNormalization(), np.ones((2, 3), bool)
    x = rng.normal(size=(2, 3, 4)).astype(np.float32)
    assert layer.supports_masking
    assert layer.compute_mask(x, mask) is mask
    np.testing.assert_array_equal(layer(x, mask=~mask), layer(x))


def test_nan_and_infinity_stay_in_their_sample(rng):
    x = rng.normal(size=(3, 4)).astype(np.float32)
    x[0, 1], x[2, 0] = np.nan, np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = LayerNormalization()(x)
    assert np.isnan(y).any(axis=1).tolist() == [True, False, True]


KEYS = (
    "name trainable dtype axis epsilon center scale rms_scaling beta_initializer gamma_initializer beta_regularizer "
    "gamma_regularizer beta_constraint gamma_constraint"
).split()


def test_config():
    layer = LayerNormalization(axis=2, epsilon=0.5, gamma_regularizer="l2", beta_constraint="non_neg")
    config = layer.get_config()
    assert list(config) == KEYS
    assert [config[k] for k in KEYS[3:8]] == [2, 0.5, True, True, False]
    layer.build((None, 3, 4))
    assert layer.get_config()["axis"] == [2]  # as Keras writes it into files
    for one in (config, layer.get_config()):
        again = layers.deserialize(json.loads(json.dumps({"class_name": "LayerNormalization", "config": one})))
        assert json.dumps(again.get_config()) == json.dumps(one)
        again.build((None, 3, 4))
        assert again.gamma.shape == (4,)


def test_losses(rng):
    layer = LayerNormalization(gamma_regularizer="l2", beta_regularizer="l1", dtype="float64")
    layer.build((None, 4))
    w = randomise(layer, rng)
    np.testing.assert_allclose(layer.losses, [0.01 * (w["gamma"] ** 2).sum(), 0.01 * w["beta"].sum()], rtol=1e-6)


def test_errors():
    for axis in ("last", 1.0, None, [1, "2"]):
        with pytest.raises(TypeError, match="`axis`"):
            LayerNormalization(axis)
    for axis in (3, -4, [1, 3]):
        with pytest.raises(ValueError, match="axes"):
            LayerNormalization(axis).build((None, 4, 3))
        with pytest.raises(ValueError, match="axes"):
            LayerNormalization(axis).compute_output_shape((None, 4, 3))
    with pytest.raises(ValueError, match="must be known"):
        LayerNormalization().build((None, 4, None))
    layer = LayerNormalization()
    layer.build((None, 4, 3))
    for shape in ((2, 4, 5), (2, 3)):
        with pytest.raises(ValueError, match="is incompatible with the layer"):
            layer(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match="renorm"):
        LayerNormalization(renorm=True)
