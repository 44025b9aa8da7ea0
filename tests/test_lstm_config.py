"""LSTM as an object: config, copies, weights, shapes, masks for the next layer, losses, later changes (keras-spec 6, 9, 13)."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from lstm_formulas import FLOAT32, MASK, D, N, T, U, made, run, sigmoid, weights_for

from fastlstm import (
    LSTM,
    Bidirectional,
    Dense,
    Dropout,
    LSTMCell,
    Sequential,
    TimeDistributed,
    activations,
    constraints,
    initializers,
    regularizers,
)
from fastlstm.layers import deserialize, serialize

KEYS = (
    "name trainable dtype return_sequences return_state go_backwards stateful unroll zero_output_for_mask units activation "
    "recurrent_activation use_bias kernel_initializer recurrent_initializer bias_initializer unit_forget_bias kernel_regularizer "
    "recurrent_regularizer bias_regularizer activity_regularizer kernel_constraint recurrent_constraint bias_constraint dropout "
    "recurrent_dropout seed"
).split()
FLAGS = KEYS[3:9]
CELL_KEYS = [key for key in KEYS if key not in (*FLAGS, "activity_regularizer")]


def keras_object(module, class_name, **config):
    return {
        "module": f"keras.{module}" if module else "keras",
        "class_name": class_name,
        "config": config,
        "registered_name": None,
    }


@pytest.fixture
def x():
    return np.random.default_rng(5).standard_normal((N, T, D)).astype(np.float32)


# -- config -----------------------------------------------------------------------------------------------------------------
def test_default_config_is_keras_own():
    config = LSTM(U, name="first").get_config()
    assert list(config) == KEYS
    expected = dict.fromkeys(FLAGS, False) | dict.fromkeys([key for key in KEYS if key.endswith(("_regularizer", "_constraint"))])
    expected |= {"name": "first", "trainable": True, "units": U, "activation": "tanh", "recurrent_activation": "sigmoid"}
    expected |= {"use_bias": True, "unit_forget_bias": True, "dropout": 0.0, "recurrent_dropout": 0.0, "seed": None}
    expected["dtype"] = keras_object("", "DTypePolicy", name="float32")
    config["kernel_initializer"]["config"].pop("input_axes", None)
    config["kernel_initializer"]["config"].pop("output_axes", None)
    expected["kernel_initializer"] = keras_object("initializers", "GlorotUniform", seed=None)
    expected["recurrent_initializer"] = keras_object("initializers", "Orthogonal", seed=None, gain=1.0)
    expected["bias_initializer"] = keras_object("initializers", "Zeros")
    assert config == expected


def test_cell_config():
    config = LSTMCell(U, name="cell").get_config()
    assert list(config) == CELL_KEYS
    assert LSTMCell.from_config(config).get_config() == config


def everything():
    return LSTM(
        U,
        activation=None,
        recurrent_activation="swish",
        use_bias=False,
        kernel_initializer=initializers.Constant(0.25),
        recurrent_initializer="identity",
        unit_forget_bias=False,
        kernel_regularizer=regularizers.L2(0.5),
        recurrent_regularizer="l1l2",
        activity_regularizer=regularizers.L2(0.25),
        recurrent_constraint=constraints.MaxNorm(3, axis=1),
        dropout=0.25,
        recurrent_dropout=1,
        seed=3,
        return_sequences=True,
        return_state=True,
        go_backwards=True,
        stateful=True,
        unroll=True,
        use_cudnn=False,
        zero_output_for_mask=True,
        dtype="mixed_float16",
        trainable=False,
        name="all",
        implementation=1,
    )


def test_config_with_everything_set():
    config = everything().get_config()
    # With an activity regularizer Keras writes that key twice: the first place counts.
    assert list(config) == [*KEYS[:3], "activity_regularizer", *[key for key in KEYS[3:] if key != "activity_regularizer"]]
    assert [config[flag] for flag in FLAGS] == [True] * 6
    assert (config["activation"], config["recurrent_activation"], config["trainable"]) == ("linear", "silu", False)
    assert config["dtype"] == keras_object("", "DTypePolicy", name="mixed_float16")
    assert config["kernel_initializer"] == keras_object("initializers", "Constant", value=0.25)
    assert config["kernel_regularizer"] == keras_object("regularizers", "L2", l2=0.5)
    assert config["activity_regularizer"] == keras_object("regularizers", "L2", l2=0.25)
    assert config["recurrent_constraint"] == keras_object("constraints", "MaxNorm", max_value=3, axis=1)
    assert (config["dropout"], config["recurrent_dropout"], config["seed"], config["bias_regularizer"]) == (0.25, 1.0, 3, None)


@pytest.mark.parametrize("make", [everything, lambda: LSTM(U, name="plain")], ids=["everything", "plain"])
def test_round_trips(make):
    config = make().get_config()
    assert LSTM.from_config(config).get_config() == config
    assert LSTM.from_config(json.loads(json.dumps(config))).get_config() == config
    again = deserialize(serialize(make()))
    assert type(again) is LSTM
    assert list(again.get_config().items()) == list(config.items())


@pytest.mark.parametrize("key", ["time_major", "implementations", "cell"])
def test_from_config_refuses_unknown_keys(key):
    with pytest.raises(ValueError, match=f"Unrecognized keyword arguments .*{key}"):
        LSTM.from_config({**LSTM(U).get_config(), key: False})


# -- copies ------------------------------------------------------------------------------------------------------------------
COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda layer: pickle.loads(pickle.dumps(layer))}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("calls", [0, 1, 3])
def test_a_copy_is_a_layer_of_its_own(x, way, calls):
    layer = made(return_sequences=True, stateful=True, kernel_regularizer="l2", seed=7, dropout=0.5)
    for _ in range(calls):
        layer(x)
    twin = COPIES[way](layer)
    assert (twin.name, twin.get_config()) == (layer.name, layer.get_config())
    assert twin.cell.seed_generator.state.tolist() == [7, calls]
    for _ in range(2):
        np.testing.assert_array_equal(twin(x), layer(x))
    twin.set_weights([0 * w for w in weights_for()])
    twin.reset_state()
    assert not twin(x).any()
    assert layer(x).any()
    np.testing.assert_array_equal(layer.kernel.numpy(), weights_for()[0])
    assert all(state.numpy().any() for state in layer.states)


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_of_a_new_layer_is_new(way):
    twin = COPIES[way](LSTM(U, name="new"))
    assert (twin.built, twin.weights) == (False, [])
    assert twin(np.zeros((2, 3, D))).shape == (2, U)


# -- weights -----------------------------------------------------------------------------------------------------------------
def test_weights_lists(x):
    layer = LSTM(U)
    assert (layer.weights, layer.get_weights(), layer.trainable_weights) == ([], [], [])
    with pytest.raises(ValueError, match="isn't built"):
        layer.count_params()
    layer(x)
    assert layer.count_params() == 4 * U * (D + U + 1) == 200
    assert [np.shape(v) for v in layer.variables] == [(D, 4 * U), (U, 4 * U), (4 * U,), (2,)]
    assert np.asarray(layer.variables[3]).dtype.kind in "iu"


def test_get_weights_gives_copies(x):
    layer = made()
    expected = layer(x)
    for array in layer.get_weights():
        array[...] = 0
    np.testing.assert_array_equal(layer(x), expected)


def test_set_weights_takes_copies_and_any_numbers(x):
    layer, weights = made(), [2 * w.astype(float) for w in weights_for()]
    layer(x)
    layer.set_weights([np.asfortranarray(weights[0]), weights[1].astype(">f8"), weights[2].tolist()])
    np.testing.assert_allclose(layer(x), run(x, weights)[1], **FLOAT32)
    assert {v.dtype.name for v in layer.weights} == {"float32"}
    given = [w.copy() for w in weights_for()]
    layer.set_weights(given)
    given[0][...] = 0
    np.testing.assert_allclose(layer(x), run(x, weights_for())[1], **FLOAT32)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda w: w[:2], ValueError, "weight list of length 2, but the layer was expecting 3 weights"),
        (lambda w: [*w, w[2]], ValueError, "weight list of length 4"),
        (lambda w: [w[0], w[1].T, w[2]], ValueError, r"weight shape \(5, 20\) .* provided weight shape \(20, 5\)"),
        (lambda w: [w[0], w[1], w[2][:, None]], ValueError, r"weight shape \(20,\) .* provided weight shape \(20, 1\)"),
        (lambda w: [w[0], w[1], w[2].astype(complex)], TypeError, "`weights` must be an array of numbers"),
    ],
)
def test_set_weights_refuses_and_then_writes_nothing(x, change, error, message):
    layer = made()
    with pytest.raises(error, match=message):
        layer.set_weights(change([0 * w for w in weights_for()]))
    for variable, value in zip(layer.weights, weights_for(), strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    with pytest.raises(ValueError, match="weight list of length 3, but the layer was expecting 0"):
        LSTM(U).set_weights(weights_for())


def test_every_way_to_write_a_variable_is_seen_by_the_next_call(kernel, x):
    layer, weights = made(**kernel), weights_for()
    layer(x)
    writes = [
        lambda: layer.kernel.assign(weights[0] * 2),
        lambda: layer.recurrent_kernel.assign_sub(weights[1] / 2),
        lambda: layer.bias.assign_add(np.ones(4 * U)),
        lambda: layer.bias.__setitem__(slice(0, U), 0),
        lambda: layer.cell.kernel.assign(weights[0]),
    ]
    seen = [layer(x)]
    for write in writes:
        write()
        seen.append(layer(x))
        np.testing.assert_allclose(seen[-1], run(x, layer.get_weights())[1], **FLOAT32)
        assert (seen[-1] != seen[-2]).any()
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(layer.kernel)[0] = 1


def test_attributes_changed_after_a_call_count_in_the_next(kernel, x):
    layer = made(**kernel)
    outputs, last, h, c = run(x, weights_for(), mask=MASK)
    for _ in range(2):
        np.testing.assert_allclose(layer(x, mask=MASK), last, **FLOAT32)
    layer.return_sequences = True
    np.testing.assert_allclose(layer(x, mask=MASK), outputs, **FLOAT32)
    layer.return_state = True
    for got, want in zip(layer(x, mask=MASK), (outputs, h, c), strict=True):
        np.testing.assert_allclose(got, want, **FLOAT32)
    layer.return_state, layer.go_backwards, layer.zero_output_for_mask = False, True, True
    expected = run(x, weights_for(), None, None, MASK, go_backwards=True, zero_output_for_mask=True)[0]
    np.testing.assert_allclose(layer(x, mask=MASK), expected, **FLOAT32)
    layer.cell.activation = activations.sigmoid
    expected = run(x, weights_for(), None, None, None, go_backwards=True, activation=sigmoid)[0]
    np.testing.assert_allclose(layer(x), expected, **FLOAT32)
    layer.cell.recurrent_activation = activations.tanh
    expected = run(x, weights_for(), None, None, None, True, activation=sigmoid, recurrent_activation=np.tanh)[0]
    np.testing.assert_allclose(layer(x), expected, **FLOAT32)
    layer.cell.dropout = 0.5
    assert (layer(x, training=True) != layer(x)).any()


# -- shapes and masks for the next layer -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(N, T, D), (None, None, D), (None, 7, D)])
def test_compute_output_shape(shape):
    sequence, last = (shape[0], shape[1], U), (shape[0], U)
    assert tuple(LSTM(U).compute_output_shape(shape)) == last
    assert tuple(LSTM(U, return_sequences=True).compute_output_shape(shape)) == sequence
    for sequences, first in ((True, sequence), (False, last)):
        shapes = LSTM(U, return_sequences=sequences, return_state=True).compute_output_shape(shape)
        assert [tuple(s) for s in shapes] == [first, last, last]


def test_compute_mask(x):
    assert LSTM(U).compute_mask(x, MASK) is None
    assert LSTM(U, return_sequences=True).compute_mask(x, None) is None
    for kwargs in ({}, {"go_backwards": True}):
        assert LSTM(U, return_sequences=True, **kwargs).compute_mask(x, MASK) is MASK
    assert LSTM(U, return_sequences=True).compute_mask(x, [MASK]) is MASK
    assert LSTM(U, return_state=True).compute_mask(x, MASK) == [None, None, None]
    masks = LSTM(U, return_sequences=True, return_state=True).compute_mask(x, MASK)
    assert masks[0] is MASK
    assert masks[1:] == [None, None]


# -- losses -------------------------------------------------------------------------------------------------------------------
def test_losses_in_order_activity_then_weights(kernel, x):
    outputs, _, h, c = run(x, weights_for())
    regularizer = {
        "activity_regularizer": regularizers.L2(0.5),
        "bias_regularizer": "l2",
        "kernel_regularizer": regularizers.L1(0.5),
    }
    layer = made(return_sequences=True, return_state=True, **regularizer, **kernel)
    kernel_value, _, bias_value = weights_for()
    of_weights = [0.5 * np.abs(kernel_value.astype(float)).sum(), 0.01 * (bias_value.astype(float) ** 2).sum()]
    np.testing.assert_allclose(layer.losses, of_weights, rtol=1e-6)
    for _ in range(3):
        layer(x)
        np.testing.assert_allclose(layer.losses, [0.5 * (a**2).sum() / N for a in (outputs, h, c)] + of_weights, rtol=1e-5)
    layer(x[:1])
    assert float(layer.losses[0]) == pytest.approx(0.5 * (outputs[0] ** 2).sum(), rel=1e-5)
    layer.trainable = False
    assert len(layer.losses) == 3


def test_one_activity_loss_for_one_output(x):
    layer = made(activity_regularizer="l1")
    layer(x)
    np.testing.assert_allclose(layer.losses, [0.01 * np.abs(run(x, weights_for())[1]).sum() / N], rtol=1e-5)
    assert LSTM(U).losses == []


@pytest.mark.parametrize(
    ("layer", "seeds"),
    [
        (LSTM(U), [2]),
        (LSTM(U).cell, [2]),
        (Bidirectional(LSTM(U, return_sequences=True)), [2, 2]),
        (TimeDistributed(Dense(2)), []),
        (Dropout(0.5), [2]),
        (Sequential([LSTM(U, return_sequences=True), Dropout(0.5), Dense(1)]), [2, 2]),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_variables_hold_the_weights_and_the_states_of_seed_generators(layer, seeds):
    layer.build((1, D) if layer.name == "lstm_cell" else (1, 3, D))
    states = [v for v in layer.variables if isinstance(v, np.ndarray)]
    assert [state.size for state in states] == seeds
    assert all(state.dtype.kind == "u" for state in states)
    assert [v for v in layer.variables if not isinstance(v, np.ndarray)] == layer.weights


def test_shapes_and_weights_that_are_none():
    for layer in (LSTM(U), Dense(2), Sequential([Dense(2)])):
        for shape in (None, 5):
            with pytest.raises(TypeError, match="argument `input_shape` must be a tuple"):
                layer.build(shape)
    for weights in (None, 3):
        with pytest.raises(TypeError, match="argument `weights` must be a list"):
            LSTM(U).set_weights(weights)
    for shape in ((1, 2), (3,), (1, 2, 3, 4)):
        with pytest.raises(ValueError, match="expected ndim=3"):
            LSTM(U).compute_output_shape(shape)
