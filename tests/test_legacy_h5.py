"""Files of Keras 1 and 2: what a config meant in its version, layouts of weights, weights by order and by name."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

import fastlstm
from fastlstm import GRU, LSTM, Bidirectional, Dense, Embedding, Input, InputLayer, Model, Sequential, TimeDistributed

h5py = pytest.importorskip("h5py", reason="reading .h5 files needs h5py")

from legacy_files import fill, functional, layer, lstm_config, sequential, write_model, write_weights  # noqa: E402

from fastlstm.models.layer_configs import Origin  # noqa: E402


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def lstm_weights(features, units, name="lstm", seed=0):
    shapes = {"kernel": (features, 4 * units), "recurrent_kernel": (units, 4 * units), "bias": (4 * units,)}
    return {f"{name}/{key}:0": draw(*shape, seed=seed) for key, shape in shapes.items()}


def by_hand(x, weights, recurrent):
    """The last h of an LSTM with this recurrent activation, from its equations."""
    kernel, inner, bias = (np.asarray(w, np.float64) for w in weights.values())
    h = c = np.zeros((len(x), len(inner)))
    for t in range(x.shape[1]):
        z = np.split(x[:, t] @ kernel + h @ inner + bias, 4, axis=1)
        i, f, o = (recurrent(z[k]) for k in (0, 1, 3))
        c = f * c + i * np.tanh(z[2])
        h = o * np.tanh(c)
    return h


def old_hard_sigmoid(z):
    return np.clip(0.2 * z + 0.5, 0, 1)


def new_hard_sigmoid(z):
    return np.clip(z / 6 + 0.5, 0, 1)


X = draw(3, 6, 2, seed=9)


# -- what a config meant -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("version", "formula"),
    [
        ("2.0.8", old_hard_sigmoid),
        ("2.2.4-tf", old_hard_sigmoid),
        ("2.15.0", old_hard_sigmoid),
        (None, old_hard_sigmoid),
        ("3.0.0", new_hard_sigmoid),
        ("3.15.1", new_hard_sigmoid),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_hard_sigmoid_is_that_of_the_files_version(tmp_path, version, formula, wrapped):
    weights = lstm_weights(2, 4)
    inner = layer("LSTM", "lstm", units=4, batch_input_shape=[None, 6, 2], **lstm_config(recurrent_activation="hard_sigmoid"))
    entry, saved = inner, {"lstm": weights}
    if wrapped:
        inner["config"].pop("batch_input_shape")
        entry = layer("Bidirectional", "both", batch_input_shape=[None, 6, 2], layer=inner, merge_mode="concat")
        saved = {"both": {**weights, **lstm_weights(2, 4, "backward", seed=5)}}
    model = fastlstm.load_model(write_model(tmp_path / "m.h5", sequential(entry), saved, version))
    np.testing.assert_allclose(model(X)[:, :4], by_hand(X, weights, formula), rtol=0, atol=1e-6)


def test_hard_sigmoid_of_an_activation_layer(tmp_path):
    entries = [layer("InputLayer", "x", batch_input_shape=[None, 3]), layer("Activation", "a", activation="hard_sigmoid")]
    entries.append(layer("Dense", "d", units=1, activation="hard_sigmoid", use_bias=False))
    path = write_model(tmp_path / "m.h5", sequential(*entries), {"d": {"d/kernel:0": [[1], [1], [1]]}})
    x = draw(4, 3)
    np.testing.assert_allclose(
        fastlstm.load_model(path)(x), old_hard_sigmoid(old_hard_sigmoid(x).sum(1, keepdims=True)), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("class_name", ["LSTM", "LSTMV1", "LSTMV2", "UnifiedLSTM"])
def test_legacy_keys_and_names(tmp_path, class_name, as_list):
    """batch_input_shape, time_major, implementation, dtypes of initializers; a Sequential as a bare list."""
    weights = lstm_weights(2, 4)
    entry = layer(class_name, "lstm", units=4, batch_input_shape=[None, 6, 2], **lstm_config(implementation=1, input_dim=2))
    model = fastlstm.load_model(write_model(tmp_path / "m.h5", sequential(entry, as_list=as_list), {"lstm": weights}))
    np.testing.assert_allclose(model(X), by_hand(X, weights, lambda z: 1 / (1 + np.exp(-z))), rtol=0, atol=1e-6)


def test_recurrent_activation_that_is_not_said(tmp_path):
    """Its default was hard_sigmoid until Keras 2.3."""
    weights = lstm_weights(2, 4)
    entry = layer("LSTM", "lstm", units=4, batch_input_shape=[None, 6, 2])
    for version, formula in (("2.1.0", old_hard_sigmoid), ("2.3.1", lambda z: 1 / (1 + np.exp(-z)))):
        model = fastlstm.load_model(write_model(tmp_path / "m.h5", sequential(entry), {"lstm": weights}, version))
        np.testing.assert_allclose(model(X), by_hand(X, weights, formula), rtol=0, atol=1e-6)


def cudnn_layout(kernel, recurrent, bias, gates=4):
    """LSTM weights as CuDNNLSTM kept them: each gate a [U,D] matrix in a [D,U] array, recurrent gates transposed, two biases."""
    units = recurrent.shape[0]
    kernels = [np.ascontiguousarray(k.T).reshape(k.shape) for k in np.split(kernel, gates, axis=1)]
    recurrents = [r.T for r in np.split(recurrent, gates, axis=1)]
    part = draw(gates * units, seed=77)
    return np.concatenate(kernels, axis=1), np.concatenate(recurrents, axis=1), np.concatenate([part, bias - part])


@pytest.mark.parametrize("class_name", ["CuDNNLSTM", "LSTM"])
def test_cudnn_lstm(tmp_path, class_name):
    """Its layout, two biases of which the sum counts, and its sigmoid; also where an LSTM is to take such weights."""
    weights = lstm_weights(2, 4)
    saved = dict(zip(weights, cudnn_layout(*weights.values()), strict=True))
    config = {} if class_name == "CuDNNLSTM" else lstm_config()
    entry = layer(class_name, "lstm", units=4, batch_input_shape=[None, 6, 2], **config)
    model = fastlstm.load_model(write_model(tmp_path / "m.h5", sequential(entry), {"lstm": saved}))
    for got, want in zip(model.get_weights(), weights.values(), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
    np.testing.assert_allclose(model(X), by_hand(X, weights, lambda z: 1 / (1 + np.exp(-z))), rtol=0, atol=1e-6)


def test_cudnn_layers_in_wrappers(tmp_path):
    forward, backward = lstm_weights(2, 4, "f"), lstm_weights(2, 4, "b", seed=3)
    saved = {}
    for part in (forward, backward):
        saved |= dict(zip(part, cudnn_layout(*part.values()), strict=True))
    inner = layer("CuDNNLSTM", "cu", units=4, return_sequences=True)
    entry = layer("Bidirectional", "both", batch_input_shape=[None, 6, 2], layer=inner, merge_mode="concat")
    model = fastlstm.load_model(write_model(tmp_path / "m.h5", sequential(entry), {"both": saved}))
    for got, want in zip(model.get_weights(), [*forward.values(), *backward.values()], strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


def test_cudnn_gru(tmp_path):
    kernel, recurrent, bias = draw(2, 12), draw(4, 12), draw(2, 12, seed=4)
    moved = cudnn_layout(kernel, recurrent, np.zeros(12, np.float32), gates=3)[:2]
    saved = {"g/kernel:0": moved[0], "g/recurrent_kernel:0": moved[1], "g/bias:0": bias.ravel()}
    entry = layer("CuDNNGRU", "g", units=4, batch_input_shape=[None, 6, 2])
    model = fastlstm.load_model(write_model(tmp_path / "m.h5", sequential(entry), {"g": saved}))
    want = GRU(4)
    want.build(X.shape)
    want.set_weights([kernel, recurrent, bias])
    np.testing.assert_allclose(model(X), want(X), rtol=0, atol=1e-6)


def test_gru_reset_after_is_off_where_the_file_does_not_say(tmp_path):
    weights = {"g/kernel:0": draw(2, 12), "g/recurrent_kernel:0": draw(4, 12), "g/bias:0": draw(12)}
    entry = layer("GRU", "g", units=4, batch_input_shape=[None, 6, 2], recurrent_activation="sigmoid")
    model = fastlstm.load_model(write_model(tmp_path / "m.h5", sequential(entry), {"g": weights}, "2.0.6"))
    assert model.layers[0].reset_after is False


def test_twelve_arrays_of_keras_1(tmp_path):
    """W, U and b of the gates i, c, f, o, each an array of its own."""
    weights = lstm_weights(2, 4)
    (wi, wf, wc, wo), (ui, uf, uc, uo), (bi, bf, bc, bo) = (np.split(w, 4, axis=-1) for w in weights.values())
    arrays = [wi, ui, bi, wc, uc, bc, wf, uf, bf, wo, uo, bo]
    path = write_weights(tmp_path / "w.h5", {"lstm_1": {f"p{k}": a for k, a in enumerate(arrays)}}, version=None)
    model = Sequential([InputLayer((6, 2)), LSTM(4)])
    model.load_weights(path)
    for got, want in zip(model.get_weights(), weights.values(), strict=True):
        np.testing.assert_array_equal(got, want)


def test_leaky_relu(tmp_path):
    entries = [layer("InputLayer", "x", batch_input_shape=[None, 3]), layer("LeakyReLU", "a", alpha=0.1)]
    entries += [layer("Dense", "d", units=3, use_bias=False), layer("LeakyReLU", "b", trainable=True)]
    path = write_model(tmp_path / "m.h5", sequential(*entries), {"d": {"d/kernel:0": np.eye(3)}})
    x = draw(4, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = fastlstm.load_model(path)(x)
    np.testing.assert_allclose(y, np.where(x > 0, x, 0.03 * x), rtol=1e-5)


# -- functional models ---------------------------------------------------------------------------------------------------
def translator(training=False):
    """Keras 2: states in the list of inputs, lists of one output, masks beside states, a nested model counted from 1."""
    inner = functional(
        [layer("InputLayer", "i", [], batch_input_shape=[None, 4]), layer("Dense", "d", [[["i", 0, 0, {}]]], units=2)],
        [["i", 0, 0]],
        [["d", 0, 0]],
    )["config"]
    entries = [
        layer("InputLayer", "ids", [], batch_input_shape=[None, 5], dtype="int32"),
        layer("InputLayer", "h", [], batch_input_shape=[None, 4]),
        layer("InputLayer", "c", [], batch_input_shape=[None, 4]),
        layer("Embedding", "e", [[["ids", 0, 0, {}]]], input_dim=6, output_dim=2, mask_zero=True),
        layer("Dropout", "drop", [[["e", 0, 0, {"training": training}]]], rate=0.5, seed=3),
        layer("LSTM", "lstm", [[["drop", 0, 0, {}], ["h", 0, 0, {}], ["c", 0, 0, {}]]], units=4, **lstm_config()),
        {"class_name": "Model", "name": "inner", "config": {**inner, "name": "inner"}, "inbound_nodes": [[["lstm", 0, 0, {}]]]},
    ]
    return functional(entries, [["ids", 0, 0], ["h", 0, 0], ["c", 0, 0]], [["inner", 1, 0]])


def translator_weights():
    weights = {"ids": {}, "h": {}, "c": {}, "e": {"e/embeddings:0": draw(6, 2)}, "lstm": lstm_weights(2, 4)}
    return {**weights, "inner": {"d/kernel:0": draw(4, 2), "d/bias:0": draw(2)}}


IDS = np.array([[1, 2, 0, 0, 0], [3, 4, 5, 1, 0]], np.int32)


def test_functional_model(tmp_path):
    """Keras 2 used an implicit mask beside an initial state, which Keras 3 drops."""
    model = fastlstm.load_model(write_model(tmp_path / "m.h5", translator(), translator_weights()))
    h, c = draw(2, 4), draw(2, 4, seed=1)
    lstm, rows = model.get_layer("lstm"), model.get_layer("e")(IDS)
    want = model.get_layer("inner")(lstm(rows, initial_state=[h, c], mask=IDS != 0))
    got = model([IDS, h, c])
    assert isinstance(got, np.ndarray)
    np.testing.assert_array_equal(got, want)
    with pytest.raises(ValueError, match="beside its initial state"):
        model.save(tmp_path / "m.keras")


def test_dropout_that_is_always_on(tmp_path):
    """training=True of a call in Keras 2 counts in inference too."""
    model = fastlstm.load_model(write_model(tmp_path / "m.h5", translator(training=True), translator_weights()))
    arrays = [IDS, draw(2, 4), draw(2, 4)]
    assert np.abs(model.predict(arrays, verbose=0) - model.predict(arrays, verbose=0)).max() > 0


def test_nested_sequential_counts_from_1_in_tensorflow_2(tmp_path):
    stack = layer("Sequential", "stack", [[["x", 0, 0, {}]]], layers=[layer("Dense", "d", units=2)])
    entries = [layer("InputLayer", "x", [], batch_input_shape=[None, 3]), stack]
    for number in (0, 1):
        config = functional(entries, [["x", 0, 0]], [["stack", number, 0]], "Functional")
        path = write_model(tmp_path / "m.h5", config, {"stack": {"k": draw(3, 2), "b": draw(2)}}, "2.8.0")
        x = draw(4, 3)
        np.testing.assert_allclose(fastlstm.load_model(path)(x), x @ draw(3, 2) + draw(2), rtol=1e-5, atol=1e-6)


def test_single_tensors_and_constants(tmp_path):
    """As TensorFlow 2 wrote some calls: one tensor without a list around it, constants among the keywords."""
    entries = [
        layer("InputLayer", "x", [], batch_input_shape=[None, 3]),
        layer("Dense", "d", [["x", 0, 0, {"training": ["_CONSTANT_VALUE", -1, False, {}]}]], units=2, use_bias=False),
    ]
    path = write_model(tmp_path / "m.h5", functional(entries, [["x", 0, 0]], [["d", 0, 0]]), {"d": {"k": draw(3, 2)}})
    np.testing.assert_allclose(fastlstm.load_model(path)(draw(4, 3)), draw(4, 3) @ draw(3, 2), rtol=1e-5)


# -- the caller's own classes --------------------------------------------------------------------------------------------
class ReversedLSTM(LSTM):
    """Backwards over the sequence, with the outputs turned round again."""

    def __init__(self, units, **kwargs):
        super().__init__(units, **{**kwargs, "go_backwards": True, "return_sequences": True})

    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs)[:, ::-1]


class Scaled:
    """Not a layer of fastlstm."""

    def __init__(self, **config):
        self.config = config


def custom(class_name="ReversedLSTM", **config):
    return sequential(layer(class_name, "own", units=4, batch_input_shape=[None, 6, 2], **lstm_config(**config)))


def test_custom_objects(tmp_path):
    weights = lstm_weights(2, 4)
    path = write_model(tmp_path / "m.h5", custom(), {"own": weights})
    with pytest.raises(ValueError, match=r"m\.h5: layer 'own' of class 'ReversedLSTM': fastlstm has no such layer"):
        fastlstm.load_model(path)

    class Ours(ReversedLSTM):
        @classmethod
        def from_config(cls, config):
            assert not {"time_major", "batch_input_shape"} & set(config)
            return cls(config["units"], name=config["name"])

    for ours in (Ours, ReversedLSTM):
        model = fastlstm.load_model(path, custom_objects={"ReversedLSTM": ours})
    want = LSTM(4, return_sequences=True, go_backwards=True)
    want.build(X.shape)
    want.set_weights(list(weights.values()))
    np.testing.assert_array_equal(model(X), want(X)[:, ::-1])

    def maker(units, name, **config):
        return LSTM(units, name=name)

    assert type(fastlstm.load_model(path, custom_objects={"ReversedLSTM": maker}).layers[0]) is LSTM
    with pytest.raises(ValueError, match="expected a layer"):
        fastlstm.load_model(path, custom_objects={"ReversedLSTM": Scaled})
    for wrong in ([ReversedLSTM], {"ReversedLSTM": 3}):
        with pytest.raises(ValueError, match="custom_objects"):
            fastlstm.load_model(path, custom_objects=wrong)


def test_custom_classes_get_the_meaning_of_their_version(tmp_path):
    path = write_model(tmp_path / "m.h5", custom(recurrent_activation="hard_sigmoid"), {"own": lstm_weights(2, 4)})
    model = fastlstm.load_model(path, custom_objects={"ReversedLSTM": ReversedLSTM})
    want = by_hand(X[:, ::-1], lstm_weights(2, 4), old_hard_sigmoid)
    np.testing.assert_allclose(model(X)[:, 0], want, rtol=0, atol=1e-6)


def test_custom_activations_and_initializers(tmp_path):
    weights = lstm_weights(2, 4)
    entry = custom("LSTM", recurrent_activation="steep", kernel_initializer={"class_name": "Mine", "config": {"x": 1}})
    path = write_model(tmp_path / "m.h5", entry, {"own": weights})
    with pytest.raises(ValueError, match="steep"):
        fastlstm.load_model(path)
    steep = lambda z: 1 / (1 + np.exp(-2 * z))  # noqa: E731
    objects = {"steep": steep, "Mine": lambda shape, dtype=None: np.zeros(shape, dtype)}
    model = fastlstm.load_model(path, custom_objects=objects)
    np.testing.assert_allclose(model(X), by_hand(X, weights, steep), rtol=0, atol=1e-6)


# -- weights alone -------------------------------------------------------------------------------------------------------
def small():
    return Sequential([InputLayer((6, 2)), LSTM(4, name="one"), Dense(3, name="two")])


def small_weights(first="one", second="two"):
    return {"input": {}, first: lstm_weights(2, 4, first), "drop": {}, second: {"k": draw(4, 3), "b": draw(3)}}


def test_weights_in_order(tmp_path):
    """Layers without weights, and names, do not count."""
    model = small()
    model.load_weights(write_weights(tmp_path / "w.hdf5", small_weights("lstm_7", "dense_9")))
    want = [*lstm_weights(2, 4, "one").values(), draw(4, 3), draw(3)]
    for got, one in zip(model.get_weights(), want, strict=True):
        np.testing.assert_array_equal(got, one)


def test_weights_by_name(tmp_path):
    model = small()
    before = model.get_weights()
    path = write_weights(tmp_path / "w.h5", small_weights("other"))
    model.load_weights(path, by_name=True)
    for got, one in zip(model.get_weights(), [*before[:3], draw(4, 3), draw(3)], strict=True):
        np.testing.assert_array_equal(got, one)
    with pytest.warns(UserWarning, match="no layer of the model has the name"):
        small().load_weights(write_weights(tmp_path / "w.h5", small_weights("x", "y")), by_name=True)
    model.save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ValueError, match="by_name=True needs"):
        model.load_weights(tmp_path / "m.weights.h5", by_name=True)


@pytest.mark.parametrize("suffix", [".h5", ".weights.h5"])
def test_skip_mismatch(tmp_path, suffix):
    path = tmp_path / f"w{suffix}"
    if suffix == ".h5":
        write_weights(path, small_weights())
    else:
        source = small()
        source.set_weights([*lstm_weights(2, 4, "one").values(), draw(4, 3), draw(3)])
        source.save_weights(path)
    model = Sequential([InputLayer((6, 2)), LSTM(4, name="one"), Dense(5, name="two")])
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"w\.(weights\.)?h5: layer 'two' of class 'Dense'.*\(4, 3\)"):
        model.load_weights(path)
    for got, one in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(got, one)
    with pytest.warns(UserWarning, match="left out: .*'two'"):
        model.load_weights(path, skip_mismatch=True)
    for got, one in zip(model.get_weights(), [*lstm_weights(2, 4, "one").values(), *before[3:]], strict=True):
        np.testing.assert_array_equal(got, one)


def test_what_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match=r"w\.h5: holds the weights of 2 layers .*one, two.* the model has 1 layers"):
        Sequential([InputLayer((6, 2)), LSTM(4)]).load_weights(write_weights(tmp_path / "w.h5", small_weights()))
    weights = small_weights()
    weights["two"].pop("b")
    with pytest.raises(ValueError, match="expects 2 weights, the file has 1"):
        small().load_weights(write_weights(tmp_path / "w.h5", weights))


def test_names_cut_into_pieces(tmp_path):
    """HDF5 keeps at most 64 kB in an attribute; Keras cuts longer lists into layer_names0, layer_names1, …"""
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as handle:
        fill(handle, small_weights(), "2.2.4")
        names = [name.encode() for name in small_weights()]
        del handle.attrs["layer_names"]
        handle.attrs["layer_names0"], handle.attrs["layer_names1"] = names[:2], names[2:]
        del handle["one"].attrs["weight_names"]
        own = [name.encode() for name in small_weights()["one"]]
        for k, name in enumerate(own):
            handle["one"].attrs[f"weight_names{k}"] = [name]
    model = small()
    model.load_weights(path)
    np.testing.assert_array_equal(model.get_weights()[-1], draw(3))


def test_a_frozen_layer_keeps_its_order(tmp_path):
    """Trainable weights come first in a file, also those of a nested model."""
    inner = [Embedding(5, 2, name="e", trainable=False), TimeDistributed(Dense(3, name="d"), name="t")]
    x = Input((4,))
    model = Model(x, Sequential(inner, name="s")(x))
    arrays = [draw(2, 3), draw(3), draw(5, 2)]
    model.load_weights(write_weights(tmp_path / "w.h5", {"s": {f"p{k}": a for k, a in enumerate(arrays)}}))
    for got, one in zip(model.get_weights(), [arrays[2], arrays[0], arrays[1]], strict=True):
        np.testing.assert_array_equal(got, one)


def test_what_the_file_says_of_training(tmp_path):
    training = (
        '{"optimizer_config": {"class_name": "Adam", "config": {"name": "Adam", "lr": 0.02, "decay": 0.0, '
        '"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-07, "amsgrad": false}}, "loss": {"class_name": "MeanSquaredError", '
        '"config": {"reduction": "auto", "name": "mse"}}, "metrics": [[{"class_name": "MeanMetricWrapper", "config": {"name": '
        '"mae", "dtype": "float32", "fn": "mean_absolute_error"}}]], "weighted_metrics": null, "loss_weights": null}'
    )
    entry = layer("LSTM", "own", units=4, batch_input_shape=[None, 6, 2], **lstm_config())
    path = write_model(tmp_path / "m.h5", sequential(entry), {"own": lstm_weights(2, 4)}, training_config=training)
    model = fastlstm.load_model(path)
    assert model.compiled
    assert not fastlstm.load_model(path, compile=False).compiled
    history = model.fit(X, np.zeros((3, 4), np.float32), epochs=2, verbose=0)
    assert set(history.history) == {"loss", "mean_absolute_error"}
    assert abs(float(model.optimizer.learning_rate) - 0.02) < 1e-6


# -- real files ----------------------------------------------------------------------------------------------------------
def test_ethnicolr(extra_data):
    """appeler/ethnicolr: names -> probabilities of four groups, Keras 2.5; the answers of the original program."""
    model = fastlstm.load_model(extra_data("models/ethnicolr/census2010_ln_lstm.h5"))
    with np.load(extra_data("models/ethnicolr/ref_census2010.npz")) as stored:
        ids, want = stored["census2010_ln_lstm_ids"], stored["census2010_ln_lstm_probs"]
        np.testing.assert_allclose(model.predict(ids, verbose=0), want, rtol=0, atol=1e-5)
        assert len(model.layers) == 3


def dtln_mask():
    """The part of DTLN that masks magnitudes, with the states of its LSTMs coming in and going out."""
    x, states = Input((None, 257)), [Input((128,)) for _ in range(4)]
    y, *first = LSTM(128, return_sequences=True, return_state=True, name="lstm")(x, initial_state=states[:2])
    y, *second = LSTM(128, return_sequences=True, return_state=True, name="lstm_1")(y, initial_state=states[2:])
    return Model([x, *states], [Dense(257, activation="sigmoid", name="dense")(y), *first, *second])


def test_dtln(extra_data):
    """breizhn/DTLN: speech enhancement, Keras 2.2.4 weights by name; 300 frames of the program's own ONNX model, one by one."""
    model = dtln_mask()
    model.load_weights(extra_data("models/dtln/model.h5"), by_name=True)
    with np.load(extra_data("models/dtln/ref_first300.npz")) as stored:
        data = dict(stored)
    states = [np.zeros((1, 128), np.float32) for _ in range(4)]
    masks = []
    for frame in data["x4"]:
        mask, *states = model([frame[None, None], *states])
        masks.append(mask[0, 0])
    np.testing.assert_allclose(np.stack(masks), data["mask"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", ["SimpleRNN", "GRU"])
def test_kerasjs_bidirectional(extra_data, kind):
    """transcranial/keras-js, layer tests of Bidirectional around SimpleRNN and GRU, computed by Keras 2."""
    checked = 0
    with np.load(extra_data("models/kerasjs/kerasjs_Bidirectional.npz")) as stored:
        data = dict(stored)
    for key in [key for key in data if key.endswith("_cfg")]:
        attrs, case = json.loads(str(data[key]))["attrs"], key.removesuffix("_cfg")
        if attrs["layer"]["class_name"] != kind:
            continue
        inner = layer(kind, "inner", **attrs["layer"]["config"])
        x = data[f"{case}_x"][None]
        entry = layer(
            "Bidirectional", "both", layer=inner, merge_mode=attrs["merge_mode"], batch_input_shape=[None, *x.shape[1:]]
        )

        origin = Origin("keras-js", (2, 0))
        made = Bidirectional.from_config(origin.cleaned(entry, "keras-js")["config"])
        made.build(x.shape)
        made.set_weights([data[f"{case}_w{k}"] for k in range(len(made.weights))])
        np.testing.assert_allclose(made(x)[0], data[f"{case}_y"], rtol=0, atol=1e-5)
        checked += 1
    assert checked
