"""load_model: models that Keras 3.15 saved answer as they did in Keras; legacy configs; where each weight goes."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import fastlstm

h5py = pytest.importorskip("h5py", reason="reading .keras files needs h5py")

from keras_files import CONFIG, DATA, VALID, WEIGHTS, config_with, members_of, pack, weights_with  # noqa: E402

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
STATELESS = ["embed_mask_lstm", "bidi_masking_stack", "conv1d_lstm_mix", "convlstm_stack"]


def stored(name):
    """Inputs and outputs as Keras gave them."""
    arrays = np.load(DATA / f"{name}.npz")
    count = sum(key.startswith("in") for key in arrays.files)
    return [arrays[f"in{k}"] for k in range(count)], [arrays[f"out{k}"] for k in range(count)]


def close(actual, expected):
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("name", STATELESS)
def test_answers_as_in_keras(name, suffix):
    model = fastlstm.load_model(DATA / f"{name}.{suffix}")
    (x,), (y,) = stored(name)
    close(model(x), y)
    close(model.predict(x, batch_size=2, verbose=0), y)


def test_path_as_str_and_as_path():
    (x,), (y,) = stored("embed_mask_lstm")
    path = DATA / "embed_mask_lstm.keras"
    close(fastlstm.load_model(str(path))(x), y)
    close(fastlstm.load_model(path)(x), y)


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_functional_model_answers_as_in_keras(suffix):
    """States from input layers and from another LSTM; three outputs, one of them a state (keras-spec 13.2)."""
    model = fastlstm.load_model(DATA / f"functional_init_state.{suffix}")
    assert [layer.name for layer in model.layers] == ["seq", "h0", "c0", "enc", "td", "dec"]
    inputs, outputs = stored("functional_init_state")
    for result in (model(inputs), model.predict(inputs, batch_size=2, verbose=0)):
        assert len(result) == 3
        for got, want in zip(result, outputs, strict=True):
            close(got, want)


@pytest.mark.parametrize("name", [*STATELESS, "stateful", "functional_init_state"])
def test_weights_alone(name):
    """The same numbers from the .weights.h5 file, and from the .h5 in layer order and by name."""
    model = fastlstm.load_model(DATA / f"{name}.keras")
    expected = model.get_weights()
    for file, options in ((f"{name}.weights.h5", {}), (f"{name}.h5", {}), (f"{name}.h5", {"by_name": True})):
        model.set_weights([np.zeros_like(weight) for weight in expected])
        model.load_weights(DATA / file, **options)
        for got, want in zip(model.get_weights(), expected, strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_stateful_model_carries_its_states_from_call_to_call(suffix):
    model = fastlstm.load_model(DATA / f"stateful.{suffix}")
    inputs, outputs = stored("stateful")
    assert model.input_shape[0] == len(inputs[0]) == 2
    for _ in range(2):
        for x, y in zip(inputs, outputs, strict=True):
            close(model(x), y)
        for layer in model.layers[:2]:
            layer.reset_state()
    with pytest.raises(ValueError, match="batch size"):
        model(np.concatenate(inputs[:2]))


def test_speakers_example():
    """370 recordings of 9 speakers: 349 are told right, and every number is Keras' own within 1e-4."""
    model = fastlstm.load_model(EXAMPLES / "speakers.keras")
    data = np.load(EXAMPLES / "speakers.npz")
    prediction = model.predict(data["x"], verbose=0)
    assert prediction.shape == (370, 9)
    np.testing.assert_allclose(prediction, data["keras_prediction"], rtol=0, atol=1e-4)
    assert (prediction.argmax(axis=1) == data["y"]).sum() == 349


def test_activity_example():
    """40 recordings of 4 movements, [steps, rows, channels] each, through a ConvLSTM1D: 38 are told right, as in Keras."""
    model = fastlstm.load_model(EXAMPLES / "activity.keras")
    data = np.load(EXAMPLES / "activity.npz")
    prediction = model.predict(data["x"], verbose=0)
    assert prediction.shape == (40, 4)
    np.testing.assert_allclose(prediction, data["keras_prediction"], rtol=0, atol=1e-5)
    assert (prediction.argmax(axis=1) == data["y"]).sum() == 38


def test_layers_have_the_names_and_settings_of_the_file():
    model = fastlstm.load_model(DATA / "bidi_masking_stack.keras")
    assert model.name == "sequential_1"
    assert model.built
    assert model.input_shape == (None, 7, 4)
    assert [layer.name for layer in model.layers] == ["masking", "bidirectional", "bidirectional_1", "dropout", "dense_1"]
    first, second = model.layers[1:3]
    assert (first.forward_layer.units, second.forward_layer.units) == (6, 3)
    assert (first.forward_layer.go_backwards, first.backward_layer.go_backwards) == (False, True)
    assert first.forward_layer.return_sequences
    assert not second.forward_layer.return_sequences
    assert model.layers[3].rate == 0.3
    assert sum(v.size for v in model.weights) == 2 * (4 + 6 + 1) * 24 + 2 * (12 + 3 + 1) * 12 + 6 * 2 + 2


def test_every_weight_is_the_dataset_of_its_own_group():
    """Groups are numbered by class in the order of the layers, whatever the layers are called (keras-spec 13.2)."""
    path = DATA / "stateful.keras"
    model = fastlstm.load_model(path)
    assert [layer.name for layer in model.layers] == ["lstm_3", "lstm_4", "dense_4"]
    with h5py.File(DATA / "stateful.weights.h5", "r") as handle:
        for group, layer in zip(("lstm/cell", "lstm_1/cell", "dense"), model.layers, strict=True):
            for index, weight in enumerate(layer.get_weights()):
                np.testing.assert_array_equal(weight, handle[f"layers/{group}/vars/{index}"][()])


def test_initializers_of_the_file_are_kept_for_the_config():
    """They do not run while the model is built from the file, but belong to its layers."""
    model = fastlstm.load_model(DATA / "embed_mask_lstm.keras")
    config = model.layers[1].get_config()
    assert config["recurrent_initializer"]["class_name"] == "Orthogonal"
    assert config["kernel_initializer"]["class_name"] == "GlorotUniform"
    assert "add_weight" not in vars(model.layers[1].cell)


def reload(tmp_path, name, change):
    """The model of a file whose config went through ``change``."""
    path = DATA / f"{name}.keras"
    members = members_of(path)
    config = json.loads(members[CONFIG])
    change(config["config"])
    return fastlstm.load_model(pack(tmp_path / "changed.keras", {**members, CONFIG: json.dumps(config).encode()}))


def test_legacy_keys_are_dropped(tmp_path):
    """As tf.keras 2 wrote them; Keras 3 itself fails on these with "Unrecognized keyword arguments"."""

    def change(config):
        first, *layers = config["layers"]
        first["config"]["batch_input_shape"] = first["config"].pop("batch_shape")
        first["config"].pop("optional")
        layers[0]["config"].update(batch_input_shape=[None, None], input_length=None)
        layers[1]["config"].update(time_major=False, implementation=2)

    (x,), (y,) = stored("embed_mask_lstm")
    close(reload(tmp_path, "embed_mask_lstm", change)(x), y)


def test_legacy_keys_inside_a_wrapper_are_dropped(tmp_path):
    def change(config):
        for entry in config["layers"]:
            if entry["class_name"] == "Bidirectional":
                for key in ("layer", "backward_layer"):
                    entry["config"][key]["config"].update(time_major=False, implementation=2)

    (x,), (y,) = stored("bidi_masking_stack")
    close(reload(tmp_path, "bidi_masking_stack", change)(x), y)


def test_without_input_layer(tmp_path):
    """The shape is then that of the first layer's batch_input_shape, or of the model's build config."""

    def first_layer(config):
        config["layers"].pop(0)
        config.pop("build_input_shape", None)
        config["layers"][0]["config"]["batch_input_shape"] = [None, 7, 4]

    def build_config(config):
        config["layers"].pop(0)

    (x,), (y,) = stored("bidi_masking_stack")
    for change in (first_layer, build_config):
        model = reload(tmp_path, "bidi_masking_stack", change)
        assert model.input_shape == (None, 7, 4)
        close(model(x), y)


def test_weights_of_keras_2_13(tmp_path):
    """The list of layers has another name in files of Keras 2.13 to 2.15."""
    (x,), (y,) = stored("embed_mask_lstm")
    data = weights_with(lambda handle: handle.move("layers", "_layer_checkpoint_dependencies"))
    close(fastlstm.load_model(pack(tmp_path / "older.keras", {**members_of(), WEIGHTS: data}))(x), y)


def test_state_of_a_seed_generator_is_passed_over(tmp_path):
    """Early versions of Keras 3 wrote it for layers with dropout."""

    def change(handle):
        handle["layers/lstm/cell/seed_generator/vars/0"] = np.array([7, 0], np.uint32)

    (x,), (y,) = stored("embed_mask_lstm")
    close(fastlstm.load_model(pack(tmp_path / "seed.keras", {**members_of(), WEIGHTS: weights_with(change)}))(x), y)


def test_float64_model_keeps_float64(tmp_path):
    """A float64 policy in the config: the float32 weights of the file are widened, and the output is float64."""

    def change(config):
        for entry in config["layers"][1:]:
            entry["config"]["dtype"]["config"]["name"] = "float64"

    (x,), (y,) = stored("embed_mask_lstm")
    model = reload(tmp_path, "embed_mask_lstm", change)
    result = model(x)
    assert result.dtype == np.float64
    assert {v.dtype for v in model.weights} == {np.dtype("float64")}
    np.testing.assert_allclose(result, y, rtol=0, atol=1e-6)


def test_time_distributed_and_batch_normalization(tmp_path):
    """Weights under "time_distributed/layer", and moving statistics after gamma and beta; checked against the formula."""
    rng = np.random.default_rng(5)
    gamma, beta, mean = (rng.normal(size=4).astype(np.float32) for _ in range(3))
    variance = rng.uniform(0.5, 2, size=4).astype(np.float32)
    kernel, bias = rng.normal(size=(4, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32)

    def entry(class_name, **config):
        return {"module": "keras.layers", "class_name": class_name, "config": config, "registered_name": None}

    def change(config):
        dense = entry("Dense", name="inner", units=3, activation="linear")
        config["config"]["layers"] = [
            entry("InputLayer", name="in", batch_shape=[None, 5, 4], dtype="float32"),
            entry("BatchNormalization", name="norm", axis=[2], epsilon=0.001, renorm=False),
            entry("TimeDistributed", name="outer", layer=dense),
        ]
        config["config"].pop("build_input_shape")

    def weights(handle):
        del handle["layers"]
        for index, array in enumerate((gamma, beta, mean, variance)):
            handle[f"layers/batch_normalization/vars/{index}"] = array
        for index, array in enumerate((kernel, bias)):
            handle[f"layers/time_distributed/layer/vars/{index}"] = array

    members = {**members_of(), CONFIG: config_with(change), WEIGHTS: weights_with(weights)}
    model = fastlstm.load_model(pack(tmp_path / "wrapped.keras", members))
    x = rng.normal(size=(2, 5, 4)).astype(np.float32)
    normed = gamma * (x.astype(np.float64) - mean) / np.sqrt(variance.astype(np.float64) + 0.001) + beta
    np.testing.assert_allclose(model(x), normed @ kernel.astype(np.float64) + bias, rtol=0, atol=1e-5)


def test_sequential_inside_a_sequential(tmp_path):
    """Its layers lie in "sequential/layers/…" and are counted anew."""

    def change(config):
        first, *layers = config["config"]["layers"]
        inner = {"module": "keras", "class_name": "Sequential", "registered_name": None}
        inner["config"] = {"name": "inner", "layers": [first, *layers[:2]], "build_input_shape": [None, 9]}
        config["config"]["layers"] = [first, inner, layers[2]]

    def weights(handle):
        for name in ("embedding", "lstm"):
            handle.move(f"layers/{name}", f"layers/sequential/layers/{name}")

    (x,), (y,) = stored("embed_mask_lstm")
    members = {**members_of(), CONFIG: config_with(change), WEIGHTS: weights_with(weights)}
    model = fastlstm.load_model(pack(tmp_path / "nested.keras", members))
    assert [layer.name for layer in model.layers[0].layers] == ["embedding", "lstm"]
    close(model(x), y)


def test_loaded_weights_can_be_changed():
    """They are the model's own copies, not views of the file's data."""
    first, second = (fastlstm.load_model(DATA / "embed_mask_lstm.keras") for _ in range(2))
    (x,), (y,) = stored("embed_mask_lstm")
    first.layers[-1].set_weights([np.zeros((8, 3), np.float32), np.zeros(3, np.float32)])
    assert not np.allclose(first(x), y, atol=1e-3)
    close(second(x), y)


def test_file_objects():
    (x,), (y,) = stored("embed_mask_lstm")

    class Pipe:
        """Readable, not seekable."""

        def __init__(self, data):
            self.data = data

        def read(self):
            return self.data

    for file in (io.BytesIO(VALID.read_bytes()), Pipe(VALID.read_bytes())):
        close(fastlstm.load_model(file)(x), y)
    with pytest.raises(ValueError, match="file object"):
        fastlstm.load_model(io.BytesIO(b"PK nothing"))
    with pytest.raises(TypeError, match="binary"):
        fastlstm.load_model(io.StringIO("text"))
    with pytest.raises(TypeError, match="Received: int"):
        fastlstm.load_model(3)


def test_without_h5py(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install 'fastlstm\[keras\]'"):
        fastlstm.load_model(VALID)


def test_arguments_have_the_names_of_keras():
    path = DATA / "bidi_masking_stack.keras"
    compiled = fastlstm.load_model(filepath=path, compile=True, safe_mode=True)
    bare = fastlstm.load_model(path, compile=False)
    assert not bare.compiled
    for one, other in zip(compiled.get_weights(), bare.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
