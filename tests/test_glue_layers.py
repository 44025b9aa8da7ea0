"""Dense, Embedding, Masking, Dropout, Flatten, Activation and InputLayer; configs and copies of all glue layers.

Values are compared with formulas written out here in float64, configs with the config.json of files that Keras saved.
"""

from __future__ import annotations

import copy
import json
import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

import fastlstm
from fastlstm import (
    Activation,
    BatchNormalization,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    InputLayer,
    Masking,
    Sequential,
    TimeDistributed,
    layers,
)

FILES = sorted((Path(__file__).parent / "data" / "keras3").glob("*.keras"))


@pytest.fixture(autouse=True)
def same_weights_every_time():
    random.seed(1)


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def randomise(layer, rng):
    layer.set_weights([rng.uniform(0.5, 1.5, w.shape).astype(w.dtype) for w in layer.get_weights()])
    return layer.get_weights()


# -- configs ------------------------------------------------------------------------------------------------------------
def saved_layers():
    """Every layer dict, inner ones included, of known classes in the files of Keras."""

    def walk(entry):
        yield entry
        for key in ("layer", "backward_layer"):
            if isinstance(entry["config"].get(key), dict):
                yield from walk(entry["config"][key])

    for path in FILES:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))["config"]
        for entry in config["layers"]:
            for one in walk(entry):
                if one["class_name"] in layers.LAYERS:
                    yield pytest.param(one, id=f"{path.stem}-{one['config']['name']}")


def strip(value):
    """Without what Keras adds outside of get_config: identities of shared objects and shapes of the build."""
    if isinstance(value, dict):
        return {k: strip(v) for k, v in value.items() if k not in ("shared_object_id", "build_config", "inbound_nodes")}
    return [strip(v) for v in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("saved", list(saved_layers()))
def test_config_of_a_keras_file_comes_back_in_its_order(saved):
    config = json.loads(json.dumps(layers.deserialize(saved).get_config()))
    expected = strip(saved["config"])
    assert strip(config) == expected
    assert json.dumps(strip(config)) == json.dumps(expected)  # dicts compare without order, text does not


def some_layers():
    return [
        Dense(3, "relu", kernel_regularizer="l2", bias_constraint="non_neg", name="d"),
        Embedding(5, 2, mask_zero=True, embeddings_regularizer="l1"),
        Masking(-1.5),
        Dropout(0.5, noise_shape=(None, 1, 4), seed=4),
        Flatten("channels_first"),
        Activation("softmax"),
        InputLayer((3, None), batch_size=2, dtype="int32"),
        BatchNormalization(axis=1, momentum=0.5, epsilon=0.1, center=False, gamma_regularizer="l2"),
        TimeDistributed(Dense(3, dtype="float64"), dtype="float64"),
        TimeDistributed(Sequential([Dense(3), Activation("tanh")])),
    ]


@pytest.mark.parametrize("layer", some_layers(), ids=lambda layer: type(layer).__name__)
def test_config_round_trip(layer):
    config = layer.get_config()
    before = copy.deepcopy(config)
    again = type(layer).from_config(json.loads(json.dumps(config)))
    assert json.dumps(again.get_config()) == json.dumps(before) == json.dumps(config)
    assert layers.deserialize(layers.serialize(layer)).name == layer.name


@pytest.mark.parametrize("layer", some_layers(), ids=lambda layer: type(layer).__name__)
def test_copies_and_pickles_give_the_same_numbers(layer, rng):
    x = rng.normal(size=(2, 3, 4)).astype(np.float32)
    if isinstance(layer, (Embedding, InputLayer)):
        x = rng.integers(0, 5, size=(2, 3))
    y = layer(x)
    assert layer.compute_output_shape(x.shape) == y.shape
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        np.testing.assert_array_equal(other(x), y)


def test_table_of_layers():
    assert set(layers.LAYERS) >= {
        "LSTM",
        "LSTMCell",
        "Bidirectional",
        "Sequential",
        *(type(layer).__name__ for layer in some_layers()),
    }
    with pytest.raises(ValueError, match="Unknown layer: 'Conv9D'"):
        layers.deserialize({"class_name": "Conv9D", "config": {}})
    with pytest.raises(ValueError, match="class_name"):
        layers.deserialize({"config": {}})
    with pytest.raises(ValueError, match="layer"):
        TimeDistributed.from_config({"name": "td"})


# -- Dense --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(1, 4), (3, 4), (2, 3, 4), (2, 1, 3, 4), (0, 4), (2, 0, 4)])
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-14)])
def test_dense(rng, shape, use_bias, dtype, tolerance):
    layer = Dense(5, "tanh", use_bias, dtype=dtype)
    layer.build((None, 4))
    weights = [w.astype(np.float64) for w in randomise(layer, rng)]
    x = rng.normal(size=shape)
    y = layer(x)
    assert y.dtype == dtype
    assert len(weights) == 1 + use_bias
    z = np.einsum("...d,du->...u", x, weights[0]) + (weights[1] if use_bias else 0)
    assert y.shape == layer.compute_output_shape(shape) == z.shape
    np.testing.assert_allclose(y, np.tanh(z), atol=tolerance)


@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "mixed_bfloat16"])
def test_dense_of_16_bits_rounds_inputs_weights_and_output_only(rng, policy):
    layer = Dense(3, dtype=policy)
    layer.build((None, 7))
    randomise(layer, rng)
    x = rng.normal(size=(4, 7))
    y = layer(x)
    half = layer.storage_dtype
    assert y.dtype == half
    kernel, bias = (w.astype(half).astype(np.float64) for w in layer.get_weights())
    expected = (x.astype(half).astype(np.float64) @ kernel + bias).astype(half)
    np.testing.assert_array_equal(y, expected)


def test_dense_takes_integers_strided_and_byte_swapped_arrays(rng):
    layer = Dense(3)
    x = rng.integers(-3, 3, size=(4, 6))
    y = layer(x)
    kernel, bias = layer.get_weights()
    np.testing.assert_allclose(y, x @ kernel.astype(np.float64) + bias, atol=1e-6)
    swapped = x.astype(">f4")
    np.testing.assert_array_equal(layer(swapped), y)
    np.testing.assert_array_equal(layer(np.repeat(swapped, 2, axis=1)[:, ::2]), y)


def test_dense_weights_names_and_losses():
    layer = Dense(
        2, kernel_regularizer="l2", bias_regularizer="l1", activity_regularizer="l1", bias_initializer="ones", name="top"
    )
    y = layer(np.ones((4, 3), np.float32))
    assert [v.path for v in layer.weights] == ["top/kernel", "top/bias"]
    assert layer.count_params() == 8
    expected = [0.01 * np.abs(y).sum() / 4, 0.01 * np.square(layer.kernel.value).sum(), 0.02]
    np.testing.assert_allclose(layer.losses, expected, rtol=1e-6)
    assert list(layer.get_config())[:5] == ["name", "trainable", "dtype", "activity_regularizer", "units"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"units": 0}, "units"),
        ({"units": -2}, "units"),
        ({"units": 2.5}, "units"),
        ({"units": "3"}, "units"),
        ({"units": 2, "lora_rank": 4}, "lora_rank"),
        ({"units": 2, "quantization_config": {}}, "quantization_config"),
        ({"units": 2, "activation": "Tanh"}, "Tanh"),
        ({"units": 2, "color": 1}, "color"),
    ],
)
def test_dense_construction_refuses(arguments, word):
    with pytest.raises(ValueError, match=word):
        Dense(**arguments)


def test_dense_inputs_are_checked():
    layer = Dense(2)
    assert not hasattr(layer, "kernel")
    with pytest.raises(ValueError, match="min_ndim=2"):
        layer(np.zeros(3))
    with pytest.raises(ValueError, match="must be known"):
        layer.build((3, None))
    layer.build((None, 3))
    with pytest.raises(ValueError, match=r"axis -1 .* value 3, .*\(2, 4\)"):
        layer(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="`inputs`"):
        layer([[1.0, 2.0, 3.0]])


# -- Embedding ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint64", "float32", "float64"])
def test_embedding_takes_rows(rng, dtype):
    table = rng.normal(size=(6, 3)).astype(np.float32)
    layer = Embedding(6, 3, weights=table)
    ids = np.array([[0, 5, 2], [1, 1, 4]])
    y = layer(ids.astype(dtype))
    np.testing.assert_array_equal(y, table[ids])
    assert y.dtype == np.float32
    assert layer.compute_output_shape((None, 3)) == (None, 3, 3)
    assert layer(np.zeros((0, 4), int)).shape == (0, 4, 3)


def test_embedding_indices_do_not_pass_through_float32():
    size = 2**24 + 2
    layer = Embedding(size, 1, embeddings_initializer=lambda shape, dtype: np.arange(size, dtype=dtype)[:, None], dtype="float64")
    for index in (2**24 - 1, 2**24 + 1):
        assert layer(np.array([index]))[0, 0] == index
        assert Sequential([Flatten(), layer])(np.array([[index]]))[0, 0, 0] == index


def test_embedding_mask():
    ids = np.array([[3, 0, 1], [0, 0, 2]])
    masking, plain = Embedding(4, 2, mask_zero=True), Embedding(4, 2)
    np.testing.assert_array_equal(masking.compute_mask(ids), [[True, False, True], [False, False, True]])
    assert plain.compute_mask(ids, np.ones(3)) is None
    assert (masking.supports_masking, plain.supports_masking) == (True, False)


@pytest.mark.parametrize("bad", [4, -1, 2**40, np.nan, np.inf, -1.0, 4.0])
def test_embedding_refuses_indices_outside_the_table(bad):
    layer = Embedding(4, 2)
    with pytest.raises(ValueError, match=layer.name):
        layer(np.array([[0, bad]]))
    np.testing.assert_array_equal(layer(np.array([-0.5, 3.9])), layer(np.array([0, 3])))


@pytest.mark.parametrize("arguments", [{"input_dim": 0}, {"output_dim": -1}, {"input_dim": 2.5}, {"lora_rank": 2}])
def test_embedding_construction_refuses(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Embedding(**{"input_dim": 3, "output_dim": 2, **arguments})


def test_embedding_weights_shape_is_checked():
    with pytest.raises(ValueError, match="shape"):
        Embedding(3, 2, weights=[np.zeros((2, 3))])
    assert Embedding(3, 2, input_length=7).input_dim == 3


# -- Masking, Dropout, Flatten, Activation, InputLayer -----------------------------------------------------------------
@pytest.mark.parametrize("value", [0.0, 0.1, -2])
def test_masking(value):
    x = np.full((2, 3, 2), 7.0)
    x[0, 1] = value
    x[1, 0, 0] = value
    x[1, 2] = np.nan
    layer = Masking(value)
    valid = np.array([[True, False, True], [True, True, True]])
    np.testing.assert_array_equal(layer.compute_mask(x), valid)
    y = layer(x)
    assert y.dtype == np.float32
    expected = x.astype(np.float32)
    expected[0, 1] = 0
    np.testing.assert_array_equal(y, expected)


def test_masking_drops_the_mask_that_came_and_keeps_integers():
    x = np.array([[[0], [2]]])
    layer = Masking()
    np.testing.assert_array_equal(layer.compute_mask(x, np.zeros((1, 2))), [[False, True]])
    assert layer(x).dtype == x.dtype
    with pytest.raises(ValueError, match="mask_value"):
        Masking("0")


def test_dropout():
    x = np.full((100, 20, 10), 3.0, np.float32)
    layer = Dropout(0.3, seed=1)
    assert layer(x) is x
    y = layer(x, training=True)
    kept = y != 0
    np.testing.assert_allclose(y[kept], 3 / 0.7, rtol=1e-6)
    assert abs(kept.mean() - 0.7) < 6 * np.sqrt(0.21 / x.size)
    assert (layer(x, training=True) != y).any()
    np.testing.assert_array_equal(Dropout(0.3, seed=1)(x, training=True), y)
    np.testing.assert_array_equal(Dropout(0.0)(x, training=True), x)
    assert not Dropout(1)(x, training=True).any()


def test_dropout_noise_shape():
    x = np.ones((50, 40, 3), np.float32)
    y = Dropout(0.5, noise_shape=(None, 1, 3), seed=0)(x, training=True)
    np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1], y.shape))
    assert set(np.unique(y)) == {0.0, 2.0}
    with pytest.raises(ValueError, match="noise_shape"):
        Dropout(0.5, noise_shape=(1, 2))(x, training=True)
    with pytest.raises(ValueError, match="noise_shape"):
        Dropout(0.5, noise_shape=(50, 2, 3))(x, training=True)


@pytest.mark.parametrize(
    "arguments", [{"rate": 1.1}, {"rate": -0.1}, {"rate": "0.5"}, {"noise_shape": (0,)}, {"noise_shape": 3}, {"seed": 0.5}]
)
def test_dropout_construction_refuses(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Dropout(**{"rate": 0.5, **arguments})


def test_flatten():
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    np.testing.assert_array_equal(Flatten()(x), x.reshape(2, 12))
    np.testing.assert_array_equal(Flatten("Channels_First")(x), x.transpose(0, 2, 1).reshape(2, 12))
    np.testing.assert_array_equal(Flatten()(x[0, 0]), x[0, 0][:, None])
    assert Flatten()(np.zeros((0, 3, 4))).shape == (0, 12)
    assert Flatten().compute_output_shape((None, 3, None)) == (None, None)
    assert Flatten().compute_mask(x, np.ones((2, 3))) is None
    with pytest.raises(ValueError, match="data_format"):
        Flatten("last")


def test_activation():
    x = np.array([[-1.0, 0.5, 2.0]])
    np.testing.assert_allclose(Activation("relu")(x), [[0, 0.5, 2]])
    np.testing.assert_allclose(Activation("softmax", dtype="float64")(x), np.exp(x) / np.exp(x).sum(), rtol=1e-14)
    np.testing.assert_allclose(Activation(lambda z: z * z)(x), x * x)
    assert Activation("tanh", dtype="float16")(x).dtype == np.float16


def test_input_layer():
    layer = InputLayer(shape=(3, None), batch_size=2, dtype="int32")
    assert layer.batch_shape == (2, 3, None)
    assert list(layer.get_config()) == ["batch_shape", "dtype", "sparse", "ragged", "name", "optional"]
    x = np.arange(3)
    assert layer(x) is x
    assert layers.Input((4,)).shape == (None, 4)
    assert InputLayer(batch_input_shape=[None, 4]).batch_shape == (None, 4)
    for arguments in (
        {},
        {"shape": (2,), "batch_shape": (1, 2)},
        {"shape": 3},
        {"shape": (2.5,)},
        {"shape": (2,), "sparse": True},
    ):
        with pytest.raises(ValueError, match=r"InputLayer|shape"):
            InputLayer(**arguments)


# -- against Keras ------------------------------------------------------------------------------------------------------
def test_layers_with_the_weights_of_a_keras_file():
    """Embedding, LSTM and Dense of a model that Keras saved, weights read here, output as Keras computed it."""
    h5py = pytest.importorskip("h5py", reason="reads the weights of a .keras file")
    path = next(p for p in FILES if p.stem == "embed_mask_lstm")
    with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as member, h5py.File(member) as weights:
        read = {name: np.array(weights[name]) for name in _datasets(weights)}
        saved = json.loads(archive.read("config.json"))["config"]["layers"]
    embedding, lstm, dense = (layers.deserialize(entry) for entry in saved[1:])
    with np.load(path.with_suffix(".npz")) as data:
        ids, expected = data["in0"], data["out0"]
    embedding.build(ids.shape)
    embedding.set_weights([read["layers/embedding/vars/0"]])
    x = embedding(ids)
    lstm.build(x.shape)
    lstm.set_weights([read[f"layers/lstm/cell/vars/{k}"] for k in range(3)])
    y = lstm(x, mask=embedding.compute_mask(ids))
    dense.build(y.shape)
    dense.set_weights([read[f"layers/dense/vars/{k}"] for k in range(2)])
    np.testing.assert_allclose(dense(y), expected, atol=1e-6)


def _datasets(group):
    names = []
    group.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
    return names


def test_exports():
    assert fastlstm.Dense is layers.Dense
    assert all(hasattr(layers, name) for name in layers.__all__)
