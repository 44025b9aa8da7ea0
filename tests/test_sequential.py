"""Sequential: the stack, building, masks, summary, config, as a layer of another model. test_predict.py has predict."""

from __future__ import annotations

import copy
import json
import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fastlstm import (
    LSTM,
    Activation,
    BatchNormalization,
    Bidirectional,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    InputLayer,
    Masking,
    Model,
    Sequential,
    TimeDistributed,
    layers,
)

DATA = Path(__file__).parent / "data" / "keras3"
EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(autouse=True)
def same_weights_every_time():
    random.seed(1)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def small():
    return Sequential([InputLayer((5, 4)), LSTM(3, name="one"), Dense(2, name="two")], name="small")


# -- the stack ----------------------------------------------------------------------------------------------------------
def test_layers_add_and_pop():
    model = Sequential()
    with pytest.raises(IndexError, match="no layer"):
        model.pop()
    with pytest.raises(ValueError, match="no layers"):
        model.build((None, 3))
    model.add(InputLayer((3,)))
    assert model.layers == []
    model.add(Dense(4))
    assert len(model.weights) == 2  # an InputLayer in front builds the model as it grows
    model.add(Dense(5))
    assert (model.input_shape, model.output_shape) == ((None, 3), (None, 5))
    first = model.layers[0].kernel
    assert model.pop().units == 5
    assert model.output_shape == (None, 4)
    assert model.weights[0] is first


def test_without_an_input_layer_the_first_call_builds(rng):
    model = Sequential([Dense(4), Dense(2)])
    assert (model.built, model.weights) == (False, [])
    for attribute in ("input_shape", "output_shape"):
        with pytest.raises(ValueError, match="no defined"):
            getattr(model, attribute)
    assert model(rng.normal(size=(7, 3))).shape == (7, 2)
    assert (model.input_shape, model.output_shape) == ((None, 3), (None, 2))
    assert len(model.layers) == 2
    assert model(rng.normal(size=(2, 3))).shape == (2, 2)
    assert Sequential([LSTM(2, input_shape=(5, 4))]).input_shape == (None, 5, 4)
    assert Sequential([LSTM(2, stateful=True)])(np.zeros((3, 5, 4))).shape == (3, 2)


def test_output_is_the_layers_one_after_the_other(rng):
    model = small()
    x = rng.normal(size=(6, 5, 4)).astype(np.float32)
    np.testing.assert_array_equal(model(x), model.layers[1](model.layers[0](x)))
    assert [v.path for v in model.weights] == [
        *(f"small/one/lstm_cell/{name}" for name in ("kernel", "recurrent_kernel", "bias")),
        "small/two/kernel",
        "small/two/bias",
    ]


def test_refused_layers_leave_the_model_as_it_was():
    model = small()
    for bad, word in ((3, "Only layers"), (Dense(2, name="two"), "'two'"), (InputLayer((2,)), "come first"), (LSTM(2), "ndim")):
        with pytest.raises(ValueError, match=word):
            model.add(bad)
        assert [layer.name for layer in model.layers] == ["one", "two"]
        assert (model.built, model.output_shape, len(model.weights)) == (True, (None, 2), 5)
    with pytest.raises(ValueError, match="already been configured"):
        model.build((None, 6, 4))


def test_get_layer():
    model = small()
    assert model.get_layer("two") is model.get_layer(index=1) is model.get_layer(index=-1) is model.layers[1]
    for arguments in ({}, {"name": "one", "index": 0}, {"name": "three"}, {"index": 2}):
        with pytest.raises(ValueError, match="layer"):
            model.get_layer(**arguments)


def test_a_layer_that_stands_twice_has_its_weights_once(rng):
    shared = Dense(3)
    model = Sequential([InputLayer((3,)), shared, Activation("tanh"), shared])
    assert len(model.weights) == 2
    x = rng.normal(size=(2, 3))
    np.testing.assert_array_equal(model(x), shared(np.tanh(shared(x))))


def test_layers_with_several_outputs_may_only_stand_last(rng):
    x = rng.normal(size=(4, 5, 4))
    for build in (lambda m: m.build((None, 5, 4)), lambda m: m(x)):
        with pytest.raises(ValueError, match="several arrays"):
            build(Sequential([LSTM(3, return_state=True), Dense(2)]))
    model = Sequential([InputLayer((5, 4)), LSTM(3, return_state=True)])
    assert model.output_shape == [(None, 3)] * 3
    outputs = model.predict(x, batch_size=3)
    for got, whole in zip(outputs, model(x), strict=True):
        np.testing.assert_allclose(got, whole, atol=1e-6)
    with pytest.raises(ValueError, match="several arrays"):
        model.add(Dense(2))


def test_a_last_axis_of_one_comes_and_goes(rng):
    x = rng.normal(size=(3, 6))
    model = Sequential([InputLayer((6, 1)), LSTM(2)])
    np.testing.assert_array_equal(model(x), model(x[..., None]))
    dense = Sequential([InputLayer((6,)), Dense(2)])
    np.testing.assert_array_equal(dense(x[..., None]), dense(x))
    with pytest.raises(ValueError, match=r"\(None, 6\).*\(3,\)"):
        dense(x[:, 0])
    with pytest.raises(ValueError, match="inputs"):
        dense([[1.0] * 6])


def test_trainable_losses_and_counts():
    model = Sequential(
        [InputLayer((3,)), Dense(4, kernel_regularizer="l2"), BatchNormalization(), Dense(2, activity_regularizer="l1")]
    )
    y = model(np.ones((5, 3), np.float32))
    expected = [0.01 * np.abs(y).sum() / 5, 0.01 * np.square(model.weights[0].value).sum()]
    np.testing.assert_allclose(model.losses, expected, rtol=1e-6)
    assert model.count_params() == 16 + 16 + 10
    assert sum(v.size for v in model.non_trainable_weights) == 8
    model.trainable = False
    assert model.trainable_weights == []
    assert not model.layers[0].trainable
    with pytest.raises(ValueError, match="length 1"):
        model.set_weights([np.zeros(3)])
    with pytest.raises(ValueError, match="isn't built"):
        Sequential([Dense(2)]).count_params()


# -- masks --------------------------------------------------------------------------------------------------------------
def test_mask_goes_from_embedding_through_the_layers(rng):
    ids = np.array([[3, 1, 0, 0], [2, 0, 5, 1]])
    table, first, second = Embedding(6, 4, mask_zero=True), LSTM(3, return_sequences=True), LSTM(2)
    model = Sequential([table, Dropout(0.5), first, second])
    y = model(ids)
    h = first(table(ids), mask=ids != 0)
    np.testing.assert_array_equal(y, second(h, mask=ids != 0))
    assert np.abs(y - second(h)).max() > 1e-6
    np.testing.assert_allclose(model(ids[:1])[0], model(ids[:1, :2])[0], atol=1e-6)


def test_mask_ends_where_a_layer_does_not_support_it(rng):
    seen = []

    class Spy(layers.Layer):
        def call(self, x, mask=None, training=False):
            seen.append(mask)
            return x

    x = np.array([[[1.0, 2], [0, 0]]])
    model = Sequential([Masking(), Spy(), Spy()])
    model(x)
    np.testing.assert_array_equal(seen[0], [[True, False]])
    assert seen[1] is None


def test_explicit_mask_reaches_the_first_layer(rng):
    x, mask = rng.normal(size=(2, 5, 4)).astype(np.float32), np.array([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0]], bool)
    model = small()
    np.testing.assert_array_equal(model(x, mask=mask), model.layers[1](model.layers[0](x, mask=mask)))


@pytest.mark.parametrize(
    "inner", [lambda: [Masking(), Dropout(0.1)], lambda: [Dense(4), Masking(), LSTM(3, return_sequences=True)]]
)
def test_mask_comes_out_of_an_inner_sequential(rng, inner):
    x = rng.normal(size=(2, 5, 4)).astype(np.float32)
    x[0, 3:] = 0
    stack, last = inner(), LSTM(2)
    nested, flat = Sequential([Sequential(stack), last]), Sequential([*stack, last])
    y = nested(x)
    np.testing.assert_array_equal(flat(x), y)
    assert nested.compute_mask(x) is None
    np.testing.assert_array_equal(nested.layers[0].compute_mask(x), (x != 0).any(-1))


@pytest.mark.parametrize("run", ["call", "vjp", "train", "test"])
def test_a_call_runs_no_layer_twice_to_find_the_mask(rng, run):
    """The mask of an inner model depends on values, but states and dropout move on once a call."""
    recurrent = LSTM(3, stateful=True, return_sequences=True, dropout=0.5)
    inner = [Sequential([recurrent, Masking()]), Sequential([Masking(), Dense(2)])]
    model = Sequential([InputLayer(batch_shape=(2, 5, 4)), *inner])
    model.compile("sgd", "mse")
    alone = LSTM.from_config(recurrent.get_config())
    alone.build((2, 5, 4))
    alone.set_weights(recurrent.get_weights())
    x, y = (rng.normal(size=(2, 5, n)).astype(np.float32) for n in (4, 2))
    if run == "train":
        model.train_on_batch(x, y)
        assert recurrent.cell.seed_generator.state[1] == 1
        return
    {"call": model, "vjp": lambda x: model.vjp(x, training=False), "test": lambda x: model.test_on_batch(x, y)}[run](x)
    alone(x)
    for state, expected in zip(recurrent.states, alone.states, strict=True):
        np.testing.assert_array_equal(state.value, expected.value)
    assert recurrent.cell.seed_generator.state[1] == 1


# -- summary and config -------------------------------------------------------------------------------------------------
def test_summary():
    model = Sequential([InputLayer((None, 4)), Masking(name="m"), LSTM(3, name="r"), BatchNormalization(name="b")], name="s")
    lines = []
    model.summary(print_fn=lines.append)
    rule = max(map(len, lines))
    assert lines == [
        'Model: "s"',
        "=" * rule,
        "Layer (type)            Output Shape     Param #",
        "-" * rule,
        "m (Masking)             (None, None, 4)        0",
        "r (LSTM)                (None, 3)             96",
        "b (BatchNormalization)  (None, 3)             12",
        "=" * rule,
        "Total params: 108 (432 B)",
        "Trainable params: 102 (408 B)",
        "Non-trainable params: 6 (24 B)",
    ]
    model.summary(print_fn=(narrow := []).append, line_length=30)
    assert max(map(len, narrow)) == 30


def test_summary_before_build_and_with_several_outputs(capsys):
    Sequential([LSTM(3)]).summary()
    assert "0 (unbuilt)" in capsys.readouterr().out
    Sequential([InputLayer((5, 4)), LSTM(3, return_state=True)]).summary()
    assert "[(None, 3), (None, 3), (None, 3)]" in capsys.readouterr().out


def saved_config(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("config.json"))


SAVED = [DATA / f"{name}.keras" for name in ("bidi_masking_stack", "embed_mask_lstm", "stateful")]


@pytest.mark.parametrize("path", [*SAVED, EXAMPLES / "speakers.keras"], ids=lambda p: p.stem)
def test_config_of_a_keras_file(path):
    saved = saved_config(path)["config"]
    model = Sequential.from_config(saved)
    config = json.loads(json.dumps(model.get_config()))
    assert list(config) == list(saved) == ["name", "trainable", "dtype", "layers", "build_input_shape"]
    assert config["build_input_shape"] == saved["build_input_shape"]
    assert [entry["class_name"] for entry in config["layers"]] == [entry["class_name"] for entry in saved["layers"]]
    assert [entry["config"]["name"] for entry in config["layers"]] == [entry["config"]["name"] for entry in saved["layers"]]
    assert [layer.built for layer in model.layers] == [True] * len(model.layers)


@pytest.mark.parametrize("path", [*SAVED, EXAMPLES / "speakers.keras"], ids=lambda p: p.stem)
def test_output_of_a_keras_file(path):
    """Config by from_config, weights read here in the order of ``get_weights``, outputs as Keras computed them."""
    h5py = pytest.importorskip("h5py", reason="reads the weights of a .keras file")
    model = Sequential.from_config(saved_config(path)["config"])
    with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as member, h5py.File(member) as file:
        model.set_weights([np.array(dataset) for layer in model.layers for dataset in in_order(file, model, layer)])
    with np.load(path.with_suffix(".npz")) as data:
        pairs = [(data[f"in{k}"], data[f"out{k}"]) for k in range(3) if f"in{k}" in data.files]
        pairs = pairs or [(data["x"], data["keras_prediction"])]
    for x, expected in pairs:
        np.testing.assert_allclose(model.predict(x, batch_size=len(x)), expected, atol=5e-6)


def in_order(file, model, layer):
    """The datasets of one layer of a weights file: a group is named after the class, numbered within the class."""
    same = [other for other in model.layers if type(other) is type(layer)]
    group = layers.base.to_snake_case(type(layer).__name__) + (f"_{same.index(layer)}" if same.index(layer) else "")
    inner = (
        ("forward_layer/cell/", "backward_layer/cell/")
        if isinstance(layer, Bidirectional)
        else ("cell/",)
        if isinstance(layer, LSTM)
        else ("",)
    )
    return [file[f"layers/{group}/{part}vars/{k}"] for part in inner for k in range(len(layer.weights) // len(inner))]


def test_config_round_trip(rng):
    model = Sequential(
        [InputLayer((3, 5, 4)), TimeDistributed(Sequential([LSTM(3), Dense(2)])), Flatten(), Dense(1)], name="outer"
    )
    again = Sequential.from_config(json.loads(json.dumps(model.get_config())))
    assert json.dumps(again.get_config()) == json.dumps(model.get_config())
    again.set_weights(model.get_weights())
    x = rng.normal(size=(2, 3, 5, 4))
    np.testing.assert_array_equal(again(x), model(x))
    assert (
        model.weights[0].path
        == f"outer/{model.layers[0].name}/{model.layers[0].layer.name}/{model.weights[0].path.split('/', 3)[3]}"
    )
    late = Sequential.from_config({"name": "late", "layers": [layers.serialize(Dense(2))], "build_input_shape": [None, 3]})
    assert late.input_shape == (None, 3)
    assert Sequential.from_config([layers.serialize(Dense(2))]).layers[0].units == 2
    with pytest.raises(ValueError, match="list of layers"):
        Sequential.from_config({"name": "x"})


def test_symbolic_ends_in_lists():
    model = Sequential([InputLayer((5, 4)), LSTM(3, return_state=True)])
    assert [x.shape for x in model.inputs] == [(None, 5, 4)]
    assert [x.shape for x in model.outputs] == [(None, 3)] * 3
    inner = Model(model.inputs, model.outputs[1])
    x = np.ones((2, 5, 4), np.float32)
    np.testing.assert_array_equal(inner(x), model(x)[1])
    with pytest.raises(AttributeError, match="before it is built"):
        _ = Sequential([LSTM(3)]).inputs


def test_copies_and_pickles_give_the_same_numbers(rng):
    model = Sequential(
        [InputLayer((5, 4)), Masking(), Bidirectional(LSTM(3, return_sequences=True)), Dropout(0.5), LSTM(2), Dense(1)]
    )
    x = rng.normal(size=(2, 5, 4)).astype(np.float32)
    y = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other(x), y)
        other.set_weights([0 * w for w in other.get_weights()])
        assert not other(x).any()
    np.testing.assert_array_equal(model(x), y)
