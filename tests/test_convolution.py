"""Conv1D against sums written out in float64: paddings, strides, dilation, groups, data formats, dtypes, configs, errors."""

from __future__ import annotations

import copy
import json
import pickle
import random

import numpy as np
import pytest

from fastlstm import Conv1D, Convolution1D, Dense, TimeDistributed, layers, selector, settings


@pytest.fixture(autouse=True)
def same_weights_every_time():
    random.seed(1)


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def randomise(layer, rng):
    layer.set_weights([rng.uniform(-1, 1, w.shape).astype(w.dtype) for w in layer.get_weights()])
    return [w.astype(np.float64) for w in layer.get_weights()]


def convolved(x, kernel, bias=None, stride=1, dilation=1, padding="valid", groups=1):
    """One sum after the other: x [N,T,C], kernel [K,C/groups,F] -> [N,S,F]."""
    batch, size, channels = x.shape
    taps, per_group, filters = kernel.shape
    reach = (taps - 1) * dilation
    windows = (size - reach - 1) // stride + 1 if padding == "valid" else (size + stride - 1) // stride
    left = {"valid": 0, "causal": reach, "same": max((windows - 1) * stride + reach + 1 - size, 0) // 2}[padding]
    y = np.zeros((batch, windows, filters))
    for s in range(windows):
        for k in range(taps):
            t = s * stride + k * dilation - left
            if not 0 <= t < size:
                continue
            for f in range(filters):
                group = f // (filters // groups)
                y[:, s, f] += x[:, t, group * per_group : (group + 1) * per_group] @ kernel[k, :, f]
    assert per_group * groups == channels
    return y if bias is None else y + bias


CASES = [
    *[{"kernel_size": k, "padding": p} for k in (1, 2, 3, 4) for p in ("valid", "same", "causal")],
    *[{"kernel_size": k, "strides": s, "padding": p} for k in (1, 3, 4) for s in (2, 3) for p in ("valid", "same", "causal")],
    *[{"kernel_size": k, "dilation_rate": d, "padding": p} for k in (2, 3) for d in (2, 3) for p in ("valid", "same", "causal")],
    *[{"kernel_size": 12, "padding": p} for p in ("same", "causal")],  # longer than the input
    *[{"kernel_size": 3, "groups": g, "padding": p} for g in (2, 4) for p in ("valid", "same")],
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_values(rng, case, data_format):
    layer = Conv1D(8, data_format=data_format, dtype="float64", **case)
    x = rng.normal(size=(2, 10, 4))
    given = x if data_format == "channels_last" else x.swapaxes(1, 2)
    layer.build((None, *given.shape[1:]))
    kernel, bias = randomise(layer, rng)
    assert kernel.shape == (case["kernel_size"], 4 // case.get("groups", 1), 8)
    expected = convolved(
        x, kernel, bias, case.get("strides", 1), case.get("dilation_rate", 1), case.get("padding"), case.get("groups", 1)
    )
    if data_format == "channels_first":
        expected = expected.swapaxes(1, 2)
    y = layer(given)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-13)
    assert y.flags.c_contiguous
    assert layer.compute_output_shape(given.shape) == y.shape
    with selector.use_backend("reference"):
        np.testing.assert_allclose(layer(given), expected, rtol=0, atol=1e-13)


def test_same_puts_the_odd_zero_on_the_right():
    """The example of TensorFlow's documentation: 13 steps, 6 taps, stride 5: one zero before, two after."""
    layer = Conv1D(1, 6, strides=5, padding="same", use_bias=False)
    layer.build((None, 13, 1))
    layer.kernel.assign(10.0 ** np.arange(6).reshape(6, 1, 1))
    x = np.zeros((1, 13, 1), np.float32)
    x[0, [0, 4, 12], 0] = 1, 2, 3
    assert layer(x)[0, :, 0].tolist() == [10 + 200000, 2, 3000]  # windows begin at -1, 4 and 9


@pytest.mark.parametrize("taps", [2, 4])
def test_even_kernels_reach_further_to_the_right(taps):
    layer = Conv1D(1, taps, padding="SAME", kernel_initializer="ones")
    x = np.zeros((1, 9, 1), np.float32)
    x[0, 4] = 1
    reached = np.flatnonzero(layer(x))
    assert reached.tolist() == list(range(4 - taps // 2, 4 + (taps - 1) // 2 + 1))


def test_causal_output_does_not_depend_on_what_comes_later(rng):
    layer = Conv1D(3, 4, padding="causal", dilation_rate=2, activation="tanh")
    x = rng.normal(size=(2, 12, 2)).astype(np.float32)
    y = layer(x)
    x[:, 7:] = np.nan
    np.testing.assert_array_equal(layer(x)[:, :7], y[:, :7])
    assert np.isnan(layer(x)[:, 7:]).all()


@pytest.mark.parametrize("use_bias", [True, False])
def test_default_dtype_and_bias(rng, use_bias):
    layer = Conv1D(5, 3, use_bias=use_bias, activation="relu", name="c")
    x = rng.normal(size=(3, 7, 2))
    y = layer(x)
    assert [(v.path, v.shape) for v in layer.weights] == [("c/kernel", (3, 2, 5)), ("c/bias", (5,))][: 1 + use_bias]
    weights = randomise(layer, rng)
    y = layer(x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, np.maximum(convolved(x, *weights), 0), rtol=0, atol=2e-6)
    assert layer.count_params() == 30 + 5 * use_bias


def test_activation_over_an_axis_takes_the_last_one_as_it_lies(rng):
    """keras-spec 4.2: for channels_first that is the axis of the steps."""
    x = rng.normal(size=(2, 3, 6))
    layer = Conv1D(4, 2, data_format="channels_first", activation="softmax", dtype="float64")
    y = layer(x)
    z = np.exp(convolved(x.swapaxes(1, 2), *(w.astype(np.float64) for w in layer.get_weights())).swapaxes(1, 2))
    np.testing.assert_allclose(y, z / z.sum(-1, keepdims=True), atol=1e-14)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "mixed_float16", "mixed_bfloat16"])
def test_sixteen_bits_calculate_in_float32(rng, dtype):
    if "b" in dtype:
        pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    layer = Conv1D(3, 3, dtype=dtype)
    x = rng.normal(size=(2, 8, 4)).astype(layer.storage_dtype)
    y = layer(x)
    assert y.dtype == layer.storage_dtype
    assert layer.kernel.dtype == (np.float32 if dtype.startswith("mixed") else layer.storage_dtype)
    kernel, bias = (w.astype(layer.storage_dtype).astype(np.float64) for w in layer.get_weights())
    exact = convolved(x.astype(np.float64), kernel, bias)
    half_step = np.abs(exact) * (2.0**-8 if "b" in dtype else 2.0**-11)
    assert (np.abs(y.astype(np.float64) - exact) <= half_step + 1e-5).all()


def test_integer_inputs(rng):
    layer = Conv1D(3, 2, dtype="float64")
    x = rng.integers(-5, 5, size=(2, 6, 4))
    np.testing.assert_allclose(layer(x), convolved(x, *layer.get_weights()), atol=1e-14)


@pytest.mark.usefixtures("packed_panels")
@pytest.mark.parametrize("padding", ["valid", "same", "causal"])
def test_a_sample_has_the_same_bits_in_any_batch(rng, padding):
    layer = Conv1D(17, 3, padding=padding)
    x = rng.normal(size=(9, 11, 5)).astype(np.float32)
    whole = layer(x)
    for n in range(9):
        np.testing.assert_array_equal(layer(x[n : n + 1])[0], whole[n])


def test_empty_batch_and_empty_sequence():
    layer = Conv1D(3, 2, padding="same")
    assert layer(np.zeros((0, 5, 2), np.float32)).shape == (0, 5, 3)
    assert layer(np.zeros((2, 0, 2), np.float32)).shape == (2, 0, 3)
    assert layer.compute_output_shape((2, 0, 2)) == (2, 0, 3)


def test_strided_and_read_only_inputs(rng):
    layer = Conv1D(3, 2, padding="same")
    x = rng.normal(size=(4, 12, 4)).astype(np.float32)
    view = x[::2, ::3, ::-1]
    view.flags.writeable = False
    np.testing.assert_array_equal(layer(view), layer(np.ascontiguousarray(view)))


def test_output_is_never_the_input():
    layer = Conv1D(1, 1, use_bias=False, kernel_initializer="ones")
    x = np.ones((1, 3, 1), np.float32)
    layer(x)[:] = 7
    assert (x == 1).all()


@pytest.mark.parametrize("make", [lambda: Conv1D(3, 2, groups=1), lambda: Dense(3)], ids=["Conv1D", "Dense"])
def test_packed_weights_follow_the_variables(rng, make):
    layer = make()
    x = rng.normal(size=(2, 6, 4)).astype(np.float32)
    before = layer(x)
    layer.bias.assign(np.array([1, 2, 3]))
    np.testing.assert_allclose(layer(x), before + np.float32([1, 2, 3]), atol=1e-6)
    layer.kernel[...] = 0
    np.testing.assert_array_equal(layer(x), np.broadcast_to(np.float32([1, 2, 3]), before.shape))
    with selector.use_backend("reference"):
        np.testing.assert_array_equal(layer(x), np.broadcast_to(np.float32([1, 2, 3]), before.shape))


@pytest.mark.parametrize("make", [lambda: Conv1D(3, 2), lambda: Dense(3)], ids=["Conv1D", "Dense"])
def test_shallow_copies_that_are_built_apart_do_not_share_packed_weights(rng, make):
    first = make()
    second = copy.copy(first)
    x = rng.normal(size=(2, 6, 4)).astype(np.float32)
    first(x)
    second.build((None, 6, 4))
    second.set_weights([np.zeros(v.shape) for v in second.weights])
    first.set_weights([np.ones(v.shape) for v in first.weights])  # both variables are at the same version now
    assert first(x).any()
    assert not second(x).any()
    assert first(x).any()


def test_copies_and_pickles(rng):
    layer = Conv1D(3, 2, groups=1, name="c")
    x = rng.normal(size=(2, 6, 4)).astype(np.float32)
    y = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        np.testing.assert_array_equal(other(x), y)
        other.kernel.assign(np.zeros((2, 4, 3)))
        np.testing.assert_array_equal(layer(x), y)


def test_mask_ends_here(rng):
    """As in Keras, where Conv1D does not support masking."""
    layer = Conv1D(3, 2)
    x, mask = rng.normal(size=(2, 6, 4)).astype(np.float32), rng.random((2, 6)) < 0.5
    np.testing.assert_array_equal(layer(x, mask=mask), layer(x))
    assert layer.compute_mask(x, mask) is None
    assert not layer.supports_masking


def test_time_distributed(rng):
    layer = TimeDistributed(Conv1D(3, 2, padding="causal"))
    x = rng.normal(size=(2, 5, 6, 4)).astype(np.float32)
    y = layer(x)
    assert y.shape == layer.compute_output_shape(x.shape) == (2, 5, 6, 3)
    for t in range(5):
        np.testing.assert_array_equal(y[:, t], layer.layer(x[:, t]))


def test_losses(rng):
    layer = Conv1D(2, 3, kernel_regularizer="l2", bias_regularizer="l1", activity_regularizer="l2", dtype="float64")
    y = layer(rng.normal(size=(4, 5, 3)))
    kernel, bias = randomise(layer, rng)
    expected = [0.01 * (y**2).sum() / 4, 0.01 * (kernel**2).sum(), 0.01 * np.abs(bias).sum()]
    np.testing.assert_allclose(layer.losses, expected, rtol=1e-6)


# -- shapes and configs -------------------------------------------------------------------------------------------------
def test_output_shapes_with_unknown_sizes():
    layer = Conv1D(6, 3, strides=2)
    assert layer.compute_output_shape((None, 9, 4)) == (None, 4, 6)
    assert layer.compute_output_shape((5, None, 4)) == (5, None, 6)
    layer = Conv1D(6, 3, padding="same", data_format="channels_first")
    assert layer.compute_output_shape((None, 4, 9)) == (None, 6, 9)
    layer.build((None, 4, None))
    assert layer.kernel.shape == (3, 4, 6)


KEYS = (
    "name trainable dtype filters kernel_size strides padding data_format dilation_rate groups activation use_bias "
    "kernel_initializer bias_initializer kernel_regularizer bias_regularizer activity_regularizer kernel_constraint "
    "bias_constraint"
).split()


def test_config():
    layer = Conv1D(6, [3], 2, "CAUSAL", "Channels_First", (1,), 2, "relu", False, "he_normal", bias_constraint="non_neg")
    config = layer.get_config()
    assert list(config) == KEYS
    assert [config[k] for k in KEYS[3:12]] == [6, (3,), (2,), "causal", "channels_first", (1,), 2, "relu", False]
    assert config["kernel_initializer"]["class_name"] == "HeNormal"
    again = Conv1D.from_config(json.loads(json.dumps(config)))
    assert json.dumps(again.get_config()) == json.dumps(config)
    assert layers.deserialize(layers.serialize(layer)).filters == 6
    assert Convolution1D is Conv1D
    with_loss = Conv1D(1, 1, activity_regularizer="l1").get_config()
    assert with_loss["activity_regularizer"]["class_name"] == "L1"
    assert list(with_loss) == [*KEYS[:3], "activity_regularizer", *[k for k in KEYS[3:] if k != "activity_regularizer"]]


def test_default_data_format_is_that_of_the_settings():
    before = settings.image_data_format()
    try:
        settings.set_image_data_format("channels_first")
        assert Conv1D(1, 1).data_format == "channels_first"
    finally:
        settings.set_image_data_format(before)
    assert Conv1D(1, 1).data_format == "channels_last"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"filters": 0}, "`filters`"),
        ({"filters": -2}, "`filters`"),
        ({"filters": 2.5}, "`filters`"),
        ({"kernel_size": 0}, "`kernel_size`"),
        ({"kernel_size": 3.5}, "`kernel_size`"),
        ({"kernel_size": (3, 3)}, "`kernel_size`"),
        ({"kernel_size": ("3",)}, "`kernel_size`"),
        ({"kernel_size": "3"}, "`kernel_size`"),
        ({"strides": 0}, "`strides`"),
        ({"strides": -1}, "`strides`"),
        ({"dilation_rate": 0}, "`dilation_rate`"),
        ({"strides": 2, "dilation_rate": 2}, "`strides > 1`"),
        ({"padding": "full"}, "`padding`"),
        ({"padding": (1, 1)}, "`padding`"),
        ({"data_format": "NWC"}, "`data_format`"),
        ({"groups": 0}, "`groups`"),
        ({"groups": 4}, "groups"),
        ({"activation": "Relu"}, "Relu"),
        ({"lora_rank": 2}, "`lora_rank`"),
        ({"rank": 1}, "rank"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        Conv1D(**{"filters": 6, "kernel_size": 3, **arguments})


def test_bad_shapes():
    with pytest.raises(ValueError, match="3 axes"):
        Conv1D(3, 2).build((None, 4))
    with pytest.raises(ValueError, match="must be known"):
        Conv1D(3, 2).build((None, 4, None))
    with pytest.raises(ValueError, match="divisible"):
        Conv1D(4, 2, groups=2).build((None, 5, 3))
    with pytest.raises(ValueError, match="zero or negative"):
        Conv1D(3, 4).build((None, 3, 2))
    with pytest.raises(ValueError, match="zero or negative"):
        Conv1D(3, 2, dilation_rate=3).compute_output_shape((None, 3, 2))
    layer = Conv1D(3, 2)
    layer.build((None, None, 2))
    for shape in ((2, 5, 3), (2, 5), (2, 5, 2, 2)):
        with pytest.raises(ValueError, match="is incompatible with the layer"):
            layer(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match="zero or negative"):
        layer(np.zeros((2, 1, 2), np.float32))
    with pytest.raises(AttributeError):
        _ = Conv1D(3, 2).kernel
