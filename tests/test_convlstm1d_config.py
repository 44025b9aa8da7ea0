"""ConvLSTM1D as an object: config, copies, weights, masks for the next layer, losses, later changes (keras-spec 6, 9, 13)."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from convlstm_formulas import FLOAT32, MASK, C, F, K, N, R, T, made, run, weights_for
from lstm_formulas import sigmoid
from test_lstm_config import keras_object

from fastlstm import ConvLSTM1D, activations, constraints, initializers, regularizers
from fastlstm.layers import deserialize, serialize
from fastlstm.layers.convlstm1d import ConvLSTM1DCell

KEYS = (
    "name trainable dtype return_sequences return_state go_backwards stateful unroll zero_output_for_mask filters kernel_size "
    "strides padding data_format dilation_rate activation recurrent_activation use_bias kernel_initializer "
    "recurrent_initializer bias_initializer unit_forget_bias kernel_regularizer recurrent_regularizer bias_regularizer "
    "activity_regularizer kernel_constraint recurrent_constraint bias_constraint dropout recurrent_dropout seed"
).split()
FLAGS = KEYS[3:9]


@pytest.fixture
def x():
    return np.random.default_rng(5).standard_normal((N, T, R, C)).astype(np.float32)


# -- config -----------------------------------------------------------------------------------------------------------------
def test_default_config_is_keras_own():
    config = ConvLSTM1D(F, K, name="first").get_config()
    assert list(config) == KEYS
    expected = dict.fromkeys(FLAGS, False) | dict.fromkeys([key for key in KEYS if key.endswith(("_regularizer", "_constraint"))])
    expected |= {"name": "first", "trainable": True, "filters": F, "kernel_size": (K,), "strides": (1,), "padding": "valid"}
    expected |= {"data_format": "channels_last", "dilation_rate": (1,), "activation": "tanh", "recurrent_activation": "sigmoid"}
    expected |= {"use_bias": True, "unit_forget_bias": True, "dropout": 0.0, "recurrent_dropout": 0.0, "seed": None}
    expected["dtype"] = keras_object("", "DTypePolicy", name="float32")
    config["kernel_initializer"]["config"].pop("input_axes", None)
    config["kernel_initializer"]["config"].pop("output_axes", None)
    expected["kernel_initializer"] = keras_object("initializers", "GlorotUniform", seed=None)
    expected["recurrent_initializer"] = keras_object("initializers", "Orthogonal", seed=None, gain=1.0)
    expected["bias_initializer"] = keras_object("initializers", "Zeros")
    assert config == expected


def everything():
    return ConvLSTM1D(
        F,
        [2],
        strides=[3],
        padding="SAME",
        data_format="Channels_First",
        dilation_rate=1,
        activation=None,
        recurrent_activation="swish",
        use_bias=False,
        kernel_initializer=initializers.Constant(0.25),
        unit_forget_bias=False,
        kernel_regularizer=regularizers.L2(0.5),
        recurrent_regularizer="l1l2",
        activity_regularizer=regularizers.L2(0.25),
        recurrent_constraint=constraints.MaxNorm(3, axis=[0, 1]),
        dropout=0.25,
        recurrent_dropout=1,
        seed=3,
        return_sequences=True,
        return_state=True,
        go_backwards=True,
        stateful=True,
        unroll=True,
        zero_output_for_mask=True,
        dtype="mixed_float16",
        trainable=False,
        name="all",
    )


def test_config_with_everything_set():
    config = everything().get_config()
    # With an activity regularizer Keras writes that key twice: the first place counts.
    assert list(config) == [*KEYS[:3], "activity_regularizer", *[key for key in KEYS[3:] if key != "activity_regularizer"]]
    assert [config[flag] for flag in FLAGS] == [True] * 6
    assert [config[name] for name in KEYS[9:15]] == [F, (2,), (3,), "same", "channels_first", (1,)]
    assert (config["activation"], config["recurrent_activation"], config["trainable"]) == ("linear", "silu", False)
    assert config["activity_regularizer"] == keras_object("regularizers", "L2", l2=0.25)
    assert config["recurrent_constraint"] == keras_object("constraints", "MaxNorm", max_value=3, axis=[0, 1])


@pytest.mark.parametrize("make", [everything, lambda: ConvLSTM1D(F, K, name="plain")], ids=["everything", "plain"])
def test_round_trips(make):
    config = make().get_config()
    assert ConvLSTM1D.from_config(config).get_config() == config
    assert ConvLSTM1D.from_config(json.loads(json.dumps(config))).get_config() == config  # tuples become lists on the way
    again = deserialize(serialize(make()))
    assert type(again) is ConvLSTM1D
    assert list(again.get_config().items()) == list(config.items())


def test_cell_config():
    config = ConvLSTM1DCell(F, K, strides=2, name="cell").get_config()
    assert list(config) == [key for key in KEYS if key not in (*FLAGS, "activity_regularizer")]
    assert ConvLSTM1DCell.from_config(config).get_config() == config


@pytest.mark.parametrize("key", ["time_major", "use_cudnn", "implementation", "units"])
def test_from_config_refuses_unknown_keys(key):
    with pytest.raises(ValueError, match=f"Unrecognized keyword arguments .*{key}"):
        ConvLSTM1D.from_config({**ConvLSTM1D(F, K).get_config(), key: False})


# -- copies -------------------------------------------------------------------------------------------------------------------
COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda layer: pickle.loads(pickle.dumps(layer))}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("calls", [0, 1, 3])
def test_a_copy_is_a_layer_of_its_own(x, way, calls):
    layer = made(return_sequences=True, stateful=True, kernel_regularizer="l2", seed=7, dropout=0.5)
    for _ in range(calls):
        layer(x)
    twin = COPIES[way](layer)
    assert (twin.name, twin.get_config()) == (layer.name, layer.get_config())
    assert twin.cell.seed_generator.state.tolist() == [7, 4 * calls]
    for _ in range(2):
        np.testing.assert_array_equal(twin(x), layer(x))
    twin.set_weights([0 * w for w in weights_for()])
    twin.reset_state()
    assert not twin(x).any()
    assert layer(x).any()
    np.testing.assert_array_equal(layer.kernel.numpy(), weights_for()[0])
    assert all(state.numpy().any() for state in layer.states)


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_of_a_called_layer_answers_with_the_same_bits(x, way):
    for options in ({}, {"data_format": "channels_first", "padding": "same"}):
        layer, given = made(**options), x.swapaxes(2, 3) if options else x
        for _ in range(2):
            layer(given)
        np.testing.assert_array_equal(COPIES[way](layer)(given), layer(given))


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_of_a_new_layer_is_new(way):
    twin = COPIES[way](ConvLSTM1D(F, K, name="new"))
    assert (twin.built, twin.weights) == (False, [])
    assert twin(np.zeros((2, 3, R + 2, C))).shape == (2, R, F)


# -- weights ------------------------------------------------------------------------------------------------------------------
def test_weights_lists(x):
    layer = ConvLSTM1D(F, K)
    assert (layer.weights, layer.get_weights(), layer.trainable_weights) == ([], [], [])
    layer(x)
    assert layer.count_params() == 4 * F * (K * (C + F) + 1) == 192
    layer.set_weights(weights_for())
    for got, want in zip(layer.get_weights(), weights_for(), strict=True):
        np.testing.assert_array_equal(got, want)
        got[...] = 0  # a copy
    np.testing.assert_allclose(layer(x), run(x, weights_for())[1], **FLOAT32)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda w: w[:2], ValueError, "weight list of length 2, but the layer was expecting 3 weights"),
        (lambda w: [w[0].swapaxes(0, 1), w[1], w[2]], ValueError, r"weight shape \(3, 2, 12\) .* weight shape \(2, 3, 12\)"),
        (lambda w: [w[0], w[1][:2], w[2]], ValueError, r"weight shape \(3, 3, 12\) .* provided weight shape \(2, 3, 12\)"),
        (lambda w: [w[0][0], w[1], w[2]], ValueError, r"weight shape \(3, 2, 12\) .* provided weight shape \(2, 12\)"),
    ],
)
def test_set_weights_refuses_and_then_writes_nothing(change, error, message):
    layer = made()
    with pytest.raises(error, match=message):
        layer.set_weights(change([0 * w for w in weights_for()]))
    for variable, value in zip(layer.weights, weights_for(), strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_every_way_to_write_a_variable_is_seen_by_the_next_call(x):
    layer, weights = made(), weights_for()
    writes = [
        lambda: layer.kernel.assign(weights[0] * 2),
        lambda: layer.recurrent_kernel.assign_sub(weights[1] / 2),
        lambda: layer.bias.assign_add(np.ones(4 * F)),
        lambda: layer.bias.__setitem__(slice(0, F), 0),
        lambda: layer.cell.kernel.assign(weights[0]),
    ]
    seen = [layer(x)]
    for write in writes:
        write()
        seen.append(layer(x))
        np.testing.assert_allclose(seen[-1], run(x, layer.get_weights())[1], **FLOAT32)
        assert (seen[-1] != seen[-2]).any()


def test_attributes_changed_after_a_call_count_in_the_next(x):
    layer = made()
    outputs, last, h, c = run(x, weights_for(), mask=MASK)
    for _ in range(2):
        np.testing.assert_allclose(layer(x, mask=MASK), last, **FLOAT32)
    layer.return_sequences = True
    np.testing.assert_allclose(layer(x, mask=MASK), outputs, **FLOAT32)
    layer.return_state = True
    for got, want in zip(layer(x, mask=MASK), (outputs, h, c), strict=True):
        np.testing.assert_allclose(got, want, **FLOAT32)
    layer.return_state, layer.go_backwards, layer.zero_output_for_mask = False, True, True
    expected = run(x, weights_for(), mask=MASK, go_backwards=True, zero_output_for_mask=True)[0]
    np.testing.assert_allclose(layer(x, mask=MASK), expected, **FLOAT32)
    layer.cell.activation, layer.cell.recurrent_activation = activations.sigmoid, activations.tanh
    expected = run(x, weights_for(), go_backwards=True, activation=sigmoid, recurrent_activation=np.tanh)[0]
    np.testing.assert_allclose(layer(x), expected, **FLOAT32)


def test_arguments_are_readable_on_the_layer():
    layer = everything()
    for name in KEYS[9:]:
        if name != "activity_regularizer":
            assert getattr(layer, name) is getattr(layer.cell, name)
    with pytest.raises(AttributeError):
        layer.filters = 5


# -- masks for the next layer, losses --------------------------------------------------------------------------------------------
def test_compute_mask(x):
    assert ConvLSTM1D(F, K).compute_mask(x, MASK) is None
    assert ConvLSTM1D(F, K, return_sequences=True, go_backwards=True).compute_mask(x, MASK) is MASK
    assert ConvLSTM1D(F, K, return_state=True).compute_mask(x, MASK) == [None, None, None]
    masks = ConvLSTM1D(F, K, return_sequences=True, return_state=True).compute_mask(x, MASK)
    assert masks[0] is MASK
    assert masks[1:] == [None, None]


def test_losses_in_order_activity_then_weights(x):
    outputs, _, h, c = run(x, weights_for())
    options = {"activity_regularizer": regularizers.L2(0.5), "bias_regularizer": "l2", "kernel_regularizer": regularizers.L1(0.5)}
    layer = made(return_sequences=True, return_state=True, **options)
    kernel, _, bias = (w.astype(float) for w in weights_for())
    of_weights = [0.5 * np.abs(kernel).sum(), 0.01 * (bias**2).sum()]
    np.testing.assert_allclose(layer.losses, of_weights, rtol=1e-6)
    for _ in range(2):
        layer(x)
        np.testing.assert_allclose(layer.losses, [0.5 * (a**2).sum() / N for a in (outputs, h, c)] + of_weights, rtol=1e-5)
    layer.trainable = False
    assert len(layer.losses) == 3


def test_an_orthogonal_regularizer_needs_a_matrix(x):
    layer = made(kernel_regularizer="orthogonal_regularizer")
    with pytest.raises(ValueError, match=r"two axes only. Received: shape="):
        _ = layer.losses
