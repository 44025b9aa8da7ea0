"""Pooling over time against windows cut out one by one: paddings, strides, data formats, masks, dtypes, configs, errors."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

import fastlstm
from fastlstm import (
    AveragePooling1D,
    GlobalAveragePooling1D,
    GlobalMaxPooling1D,
    MaxPooling1D,
    Sequential,
    layers,
)

SLIDING = [(MaxPooling1D, np.max), (AveragePooling1D, np.mean)]
GLOBAL = [(GlobalMaxPooling1D, np.max), (GlobalAveragePooling1D, np.mean)]


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def pooled(x, pool, stride, padding, reduce):
    """x [N,T,C] -> [N,S,C]: what lies inside the input of each window, reduced."""
    size = x.shape[1]
    if padding == "valid":
        starts = range(0, size - pool + 1, stride)
    else:
        number = -(-size // stride)
        left = max((number - 1) * stride + pool - size, 0) // 2
        starts = range(-left, -left + number * stride, stride)
    return np.stack([reduce(x[:, max(t, 0) : t + pool], axis=1) for t in starts], axis=1)


def first(x, data_format):
    return x if data_format == "channels_last" else x.swapaxes(1, 2)


@pytest.mark.parametrize(("kind", "reduce"), SLIDING, ids=["max", "mean"])
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_windows(rng, kind, reduce, padding, data_format):
    for size in (1, 2, 5, 8, 13):
        x = rng.normal(-3, 1, size=(2, size, 3))  # mostly negative: a zero of the padding would be the maximum
        for pool in (1, 2, 3, 6):
            if padding == "valid" and pool > size:
                continue
            for stride in (None, 1, 2, 3, 7):
                layer = kind(pool, stride, padding, data_format, dtype="float64")
                given = first(x, data_format)
                y = layer(given)
                expected = first(pooled(x, pool, stride or pool, padding, reduce), data_format)
                np.testing.assert_allclose(y, expected, rtol=0, atol=1e-15 if reduce is np.max else 1e-14)
                assert y.shape == layer.compute_output_shape(given.shape)
                assert y.flags.c_contiguous


def test_examples_of_the_keras_documentation():
    x = np.arange(1.0, 6).reshape(1, 5, 1)

    def of(layer):
        return layer(x)[0, :, 0].tolist()

    assert of(MaxPooling1D(pool_size=2, strides=1, padding="valid")) == [2, 3, 4, 5]
    assert of(MaxPooling1D(pool_size=2, strides=2, padding="valid")) == [2, 4]
    assert of(MaxPooling1D(pool_size=2, strides=1, padding="same")) == [2, 3, 4, 5, 5]
    assert of(AveragePooling1D(pool_size=2, strides=1, padding="valid")) == [1.5, 2.5, 3.5, 4.5]
    assert of(AveragePooling1D(pool_size=2, strides=2, padding="valid")) == [1.5, 3.5]
    assert of(AveragePooling1D(pool_size=2, strides=1, padding="same")) == [1.5, 2.5, 3.5, 4.5, 5.0]


def test_integers_have_integer_maxima_and_float_means(rng):
    x = rng.integers(2**60, 2**61, size=(2, 6, 3))  # float64 would round them
    for layer in (MaxPooling1D(2, 1, "same"), GlobalMaxPooling1D()):
        assert layer(x).dtype == x.dtype
    np.testing.assert_array_equal(MaxPooling1D(2)(x), np.maximum(x[:, ::2], x[:, 1::2]))
    np.testing.assert_array_equal(GlobalMaxPooling1D()(x), x.max(1))
    small = rng.integers(-9, 9, size=(2, 6, 3))
    y = AveragePooling1D(2)(small)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, (small[:, ::2] + small[:, 1::2]) / 2)
    np.testing.assert_allclose(GlobalAveragePooling1D(dtype="float64")(small), small.mean(1), atol=1e-15)


@pytest.mark.parametrize("kind", [MaxPooling1D, AveragePooling1D])
def test_nan_stays_in_its_windows(rng, kind):
    x = rng.normal(size=(1, 8, 2)).astype(np.float32)
    x[0, 3, 1] = np.nan
    y = kind(2)(x)
    assert np.argwhere(np.isnan(y)).tolist() == [[0, 1, 1]]
    assert np.isnan(GlobalMaxPooling1D()(x)).tolist() == [[False, True]]


def test_infinite_values(rng):
    x = np.full((1, 4, 1), -np.inf, np.float32)
    assert (MaxPooling1D(3, 1, "same")(x) == -np.inf).all()


@pytest.mark.parametrize("dtype", ["float16", "mixed_bfloat16"])
def test_sixteen_bits_calculate_in_float32(rng, dtype):
    if "b" in dtype:
        pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    storage = GlobalMaxPooling1D(dtype=dtype).storage_dtype
    x = rng.uniform(1, 2, size=(2, 4000, 2)).astype(storage)  # a sum in 16 bits stands still, or overflows
    exact = x.astype(np.float64)
    step = 2.0**-7 if "b" in dtype else 2.0**-10  # of numbers from 1 to 2
    for kind, reduce in GLOBAL:
        y = kind(dtype=dtype)(x)
        assert y.dtype == storage
        assert np.abs(y.astype(np.float64) - reduce(exact, axis=1)).max() <= step / 2 * (reduce is np.mean) + 1e-5
    for kind, reduce in SLIDING:
        y = kind(2000, dtype=dtype)(x)
        assert y.dtype == storage
        assert np.abs(y.astype(np.float64) - pooled(exact, 2000, 2000, "valid", reduce)).max() <= step / 2 + 1e-4


@pytest.mark.parametrize(("kind", "reduce"), GLOBAL, ids=["max", "mean"])
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_global(rng, kind, reduce, keepdims, data_format):
    x = rng.normal(size=(3, 5, 4))
    layer = kind(data_format, keepdims, dtype="float64")
    given = first(x, data_format)
    y = layer(given)
    np.testing.assert_allclose(y, first(reduce(x, axis=1, keepdims=True), data_format).reshape(y.shape), atol=1e-15)
    expected = {False: (3, 4), True: (3, 1, 4) if data_format == "channels_last" else (3, 4, 1)}[keepdims]
    assert y.shape == layer.compute_output_shape(given.shape) == expected
    assert layer.compute_output_shape((None, *given.shape[1:]))[0] is None


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_masked_mean(rng, keepdims, data_format):
    x, mask = rng.normal(size=(4, 6, 3)), rng.random((4, 6)) < 0.5
    mask[0], mask[1] = True, False
    mask[2:, 0] = True
    dirty = np.where(mask[..., None], x, np.nan)  # what is masked does not matter, whatever it is
    layer = GlobalAveragePooling1D(data_format, keepdims, dtype="float64")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = layer(first(dirty, data_format), mask=mask).reshape(4, 3)
    for n in (0, 2, 3):
        np.testing.assert_allclose(y[n], x[n, mask[n]].mean(0), atol=1e-15)
    assert np.isnan(y[1]).all()  # as in Keras: 0 / 0
    assert layer.supports_masking
    assert layer.compute_mask(x, mask) is None


@pytest.mark.parametrize("layer", [MaxPooling1D(2), AveragePooling1D(2), GlobalMaxPooling1D()], ids=lambda layer: layer.name)
def test_other_pools_neither_use_nor_pass_on_the_mask(rng, layer):
    x, mask = rng.normal(size=(4, 6, 3)).astype(np.float32), rng.random((4, 6)) < 0.5
    np.testing.assert_array_equal(layer(x, mask=mask), layer(x))
    assert not layer.supports_masking
    assert layer.compute_mask(x, mask) is None


def test_mask_reaches_the_mean_through_a_model(rng):
    model = Sequential([fastlstm.Masking(0.0), fastlstm.LSTM(3, return_sequences=True), GlobalAveragePooling1D()])
    x = rng.normal(size=(2, 5, 4)).astype(np.float32)
    x[1, 3:] = 0
    y = model(x)
    sequence = model.layers[1](x[1:, :3])
    np.testing.assert_allclose(y[1], sequence[0].mean(0), atol=1e-6)


def test_empty_batches():
    for kind, _ in SLIDING:
        assert kind(2)(np.zeros((0, 6, 3), np.float32)).shape == (0, 3, 3)
    for kind, _ in GLOBAL:
        assert kind()(np.zeros((0, 6, 3), np.float32)).shape == (0, 3)


def test_output_is_never_the_input():
    x = np.ones((1, 4, 2), np.float32)
    for layer in (MaxPooling1D(1), AveragePooling1D(1), GlobalMaxPooling1D(), GlobalAveragePooling1D()):
        layer(x)[:] = 7
        assert (x == 1).all()


# -- configs and errors -------------------------------------------------------------------------------------------------
def test_configs():
    layer = MaxPooling1D(name="p")
    assert (layer.name, layer.pool_size, layer.strides, layer.padding, layer.data_format) == (
        "p",
        (2,),
        (2,),
        "valid",
        "channels_last",
    )
    config = AveragePooling1D([3], 2, "SAME", "channels_first", "q").get_config()
    assert list(config) == ["name", "trainable", "dtype", "pool_size", "padding", "strides", "data_format"]
    assert list(config.values())[3:] == [(3,), "same", (2,), "channels_first"]
    assert json.dumps(AveragePooling1D.from_config(json.loads(json.dumps(config))).get_config()) == json.dumps(config)
    for kind, _ in GLOBAL:
        config = kind("channels_first", True).get_config()
        assert list(config) == ["name", "trainable", "dtype", "data_format", "keepdims"]
        assert list(config.values())[3:] == ["channels_first", True]
        assert json.dumps(kind.from_config(json.loads(json.dumps(config))).get_config()) == json.dumps(config)


def test_aliases():
    assert fastlstm.MaxPool1D is MaxPooling1D
    assert fastlstm.AvgPool1D is AveragePooling1D
    assert fastlstm.GlobalMaxPool1D is GlobalMaxPooling1D
    assert fastlstm.GlobalAvgPool1D is layers.GlobalAvgPool1D is GlobalAveragePooling1D
    assert {kind.__name__ for kind, _ in SLIDING + GLOBAL} <= set(layers.LAYERS)


@pytest.mark.parametrize("kind", [MaxPooling1D, AveragePooling1D])
@pytest.mark.parametrize(
    "arguments",
    [
        {"pool_size": 0},
        {"pool_size": 2.5},
        {"pool_size": (2, 2)},
        {"strides": -1},
        {"strides": 0},
        {"padding": "causal"},
        {"padding": None},
        {"data_format": "last"},
    ],
    ids=str,
)
def test_bad_arguments(kind, arguments):
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}`"):
        kind(**{"pool_size": 2, **arguments})


def test_average_pooling_has_no_default_size():
    with pytest.raises(TypeError, match="pool_size"):
        AveragePooling1D()


def test_bad_shapes():
    for layer in (MaxPooling1D(4), AveragePooling1D(4)):
        with pytest.raises(ValueError, match="zero or negative"):
            layer(np.zeros((1, 3, 2), np.float32))
        with pytest.raises(ValueError, match="zero or negative"):
            layer.compute_output_shape((None, 3, 2))
        assert layer.compute_output_shape((None, None, 2)) == (None, None, 2)
    for layer in (MaxPooling1D(1), AveragePooling1D(1), GlobalMaxPooling1D(), GlobalAveragePooling1D()):
        with pytest.raises(ValueError, match="expected ndim=3"):
            layer(np.zeros((4, 2), np.float32))
        with pytest.raises(ValueError, match="3 axes"):
            layer.compute_output_shape((4, 2))
    with pytest.raises(ValueError, match="at least one step"):
        GlobalMaxPooling1D()(np.zeros((1, 0, 2), np.float32))
    with pytest.raises(ValueError, match="mask"):
        GlobalAveragePooling1D()(np.zeros((2, 5, 2), np.float32), mask=np.ones((2, 4), bool))


@pytest.mark.parametrize(("kind", "reduce"), SLIDING, ids=["max", "mean"])
@pytest.mark.parametrize("stride", [1, 2, 7])
def test_window_far_wider_than_the_input(rng, kind, reduce, stride):
    """Only places inside the input are looked at: the time does not grow with the window."""
    x = rng.normal(size=(2, 5, 3)).astype(np.float32)
    y = kind(2**31 - 1, strides=stride, padding="same")(x)
    np.testing.assert_allclose(y, np.repeat(reduce(x, axis=1)[:, None], y.shape[1], axis=1), atol=1e-6)
