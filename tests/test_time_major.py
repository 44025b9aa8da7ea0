"""Layers of Keras 2 with ``time_major=True``: against the batch-major layer on swapped arrays, by the NumPy reference."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from central_differences import check_layer

import fastlstm
from fastlstm import GRU, LSTM, Bidirectional, Dense, Embedding, InputLayer, Masking, Sequential, cli, selector
from fastlstm.layers import SimpleRNN, TimeDistributed, TimeMajor

h5py = pytest.importorskip("h5py", reason="reading .h5 files needs h5py")

from legacy_files import functional, layer, lstm_config, sequential, write_model, write_weights  # noqa: E402

from fastlstm.models.converting import convert  # noqa: E402

T, N, D, U = 7, 3, 2, 4
GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1, "CuDNNLSTM": 4}
CLASSES = {"LSTM": LSTM, "GRU": GRU, "SimpleRNN": SimpleRNN}
VERSION = "2.11.0"


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


X = draw(T, N, D, seed=9)
MASK = np.arange(T)[:, None] < np.array([7, 2, 5])  # [T,N]


def swapped(array):
    return np.ascontiguousarray(array.swapaxes(0, 1))


def config_of(class_name, **changes):
    """What tf.keras wrote for a time-major layer of that class."""
    config = lstm_config(time_major=True, units=U, **changes)
    if class_name == "GRU":
        config.pop("unit_forget_bias")
        config["reset_after"] = True
    elif class_name == "SimpleRNN":
        for key in ("unit_forget_bias", "recurrent_activation", "implementation"):
            config.pop(key)
    return config


def weights_of(class_name, name, seed=0, features=D):
    gates = GATES[class_name] * U
    bias = (2, gates) if class_name == "GRU" else (gates,)
    shapes = {"kernel": (features, gates), "recurrent_kernel": (U, gates), "bias": bias}
    return {f"{name}/{key}:0": draw(*shape, seed=seed) for key, shape in shapes.items()}


def batch_major(class_name, weights, **flags):
    """The same layer of today with these weights."""
    made = CLASSES[class_name](U, **flags)
    made.build((None, None, D))
    made.set_weights(list(weights.values()))
    return made


def one_layer(tmp_path, class_name, shape=(None, None, D), version=VERSION, **flags):
    """A loaded Sequential of one time-major layer "rnn", and its weights."""
    weights = weights_of(class_name, "rnn")
    entry = layer(class_name, "rnn", batch_input_shape=list(shape), **config_of(class_name, **flags))
    return fastlstm.load_model(write_model(tmp_path / "m.h5", sequential(entry), {"rnn": weights}, version)), weights


def reference(layer, *args, **keywords):
    with selector.use_backend("reference"):
        return layer(*args, **keywords)


def close(got, want):
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


# -- what comes out ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
def test_layers(tmp_path, class_name, masked, sequences, backwards):
    flags = {"return_sequences": sequences, "go_backwards": backwards}
    model, weights = one_layer(tmp_path, class_name, **flags)
    want = reference(batch_major(class_name, weights, **flags), swapped(X), mask=MASK.T if masked else None)
    got = model(X, mask=MASK if masked else None)
    close(got, swapped(want) if sequences else want)
    assert model.output_shape == ((None, None, U) if sequences else (None, U))
    assert model.compute_output_shape((T, N, D)) == got.shape


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("sequences", [False, True])
def test_states_are_batch_first(tmp_path, class_name, sequences):
    flags = {"return_sequences": sequences, "return_state": True}
    model, weights = one_layer(tmp_path, class_name, **flags)
    states = [draw(N, U, seed=k) for k in range(2 if class_name == "LSTM" else 1)]
    want = reference(batch_major(class_name, weights, **flags), swapped(X), initial_state=states, mask=MASK.T)
    rnn = model.layers[0]
    got = rnn(X, initial_state=states, mask=MASK)
    assert len(got) == len(want) == 1 + len(states)
    close(got[0], swapped(want[0]) if sequences else want[0])
    for one, other in zip(got[1:], want[1:], strict=True):
        close(one, other)
    assert [tuple(shape) for shape in rnn.compute_output_shape((T, N, D))] == [array.shape for array in got]


def test_stateful(tmp_path):
    model, weights = one_layer(tmp_path, "LSTM", (T, N, D), stateful=True)
    plain = batch_major("LSTM", weights, return_state=True)
    _, *states = reference(plain, swapped(X))
    model(X)
    for got, want in zip(model.layers[0].states, states, strict=True):
        close(got.numpy(), want)
    close(model.predict(X), reference(plain, swapped(X), initial_state=states)[0])
    model.layers[0].reset_state()
    close(model(X), reference(plain, swapped(X))[0])
    with pytest.raises(ValueError, match="batch size 3"):
        model.layers[0](X[:, :2])


def test_stateful_asks_for_a_batch_that_nothing_vouches_for(tmp_path):
    with pytest.raises(ValueError, match=r"m\.h5.*rnn.*at most 65536"):
        one_layer(tmp_path, "LSTM", (1, 10**9, D), stateful=True)


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("merge_mode", ["concat", "mul"])
def test_bidirectional(tmp_path, explicit, sequences, merge_mode):
    """The backward output is turned round along axis 0."""
    inner = layer("LSTM", "rnn", **config_of("LSTM", return_sequences=sequences))
    other = layer("LSTM", "back", **config_of("LSTM", return_sequences=sequences, go_backwards=True))
    halves = {"layer": inner, **({"backward_layer": other} if explicit else {})}
    entry = layer("Bidirectional", "both", batch_input_shape=[None, None, D], merge_mode=merge_mode, **halves)
    saved = [weights_of("LSTM", name, seed) for seed, name in enumerate(("forward", "backward"))]
    model = fastlstm.load_model(write_model(tmp_path / "m.h5", sequential(entry), {"both": saved[0] | saved[1]}, VERSION))
    flags = {"return_sequences": sequences, "zero_output_for_mask": sequences}
    y = reference(batch_major("LSTM", saved[0], **flags), swapped(X), mask=MASK.T)
    y_rev = reference(batch_major("LSTM", saved[1], go_backwards=True, **flags), swapped(X), mask=MASK.T)
    y_rev = y_rev[:, ::-1] if sequences else y_rev
    want = y * y_rev if merge_mode == "mul" else np.concatenate([y, y_rev], axis=-1)
    got = model(X, mask=MASK)
    close(got, swapped(want) if sequences else want)
    assert model.compute_output_shape((T, N, D)) == got.shape


def test_cudnn(tmp_path):
    """The same file once time-major, once batch-major: layouts of the weights are turned in both."""
    weights = {**weights_of("CuDNNLSTM", "rnn"), "rnn/bias:0": draw(8 * U)}
    flags = {"units": U, "return_sequences": True, "return_state": False, "go_backwards": False, "stateful": False}
    models = []
    for major in (True, False):
        entry = layer("CuDNNLSTM", "rnn", batch_input_shape=[None, None, D], time_major=major, **flags)
        models.append(fastlstm.load_model(write_model(tmp_path / "m.h5", sequential(entry), {"rnn": weights}, "2.2.4-tf")))
    close(models[0](X), swapped(reference(models[1], swapped(X))))


def test_old_meanings_count_inside(tmp_path):
    """A Keras 2 hard_sigmoid: the inner config goes through the same meanings."""
    model, weights = one_layer(tmp_path, "LSTM", recurrent_activation="hard_sigmoid")
    close(model(X), reference(batch_major("LSTM", weights, recurrent_activation="hard_sigmoid_keras2"), swapped(X)))


# -- in models -----------------------------------------------------------------------------------------------------------
def test_masks_go_on_time_first(tmp_path):
    """Embedding [T,N] -> two time-major layers: the second one gets the mask of the first."""
    table = draw(5, D, seed=3)
    entries = [
        layer("Embedding", "table", batch_input_shape=[None, None], input_dim=5, output_dim=D, mask_zero=True),
        layer("LSTM", "one", **config_of("LSTM", return_sequences=True)),
        layer("GRU", "two", **config_of("GRU")),
    ]
    saved = [weights_of("LSTM", "one"), weights_of("GRU", "two", features=U)]
    path = write_model(
        tmp_path / "m.h5", sequential(*entries), {"table": {"e:0": table}, "one": saved[0], "two": saved[1]}, VERSION
    )
    numbers = np.where(MASK, np.random.default_rng(0).integers(1, 5, (T, N)), 0)
    plain = Sequential([InputLayer((None,)), Embedding(5, D, mask_zero=True), LSTM(U, return_sequences=True), GRU(U)])
    plain.set_weights([table, *saved[0].values(), *saved[1].values()])
    with selector.use_backend("reference"):
        want = plain(np.ascontiguousarray(numbers.T))
    close(fastlstm.load_model(path)(numbers), want)


def encoder_decoder(path, version=VERSION):
    """Keras 2's config of a decoder that begins with the encoder's states; all time-major."""
    entries = [
        layer("InputLayer", "a", [], batch_input_shape=[None, None, D], dtype="float32"),
        layer("Masking", "marked", [[["a", 0, 0, {}]]], mask_value=0.0),
        layer("InputLayer", "b", [], batch_input_shape=[None, None, D], dtype="float32"),
        layer("LSTM", "enc", [[["marked", 0, 0, {}]]], **config_of("LSTM", return_state=True)),
        layer(
            "LSTM", "dec", [[["b", 0, 0, {}], ["enc", 0, 1, {}], ["enc", 0, 2, {}]]], **config_of("LSTM", return_sequences=True)
        ),
    ]
    saved = {name: weights_of("LSTM", name, seed) for seed, name in enumerate(("enc", "dec"))}
    write_model(path, functional(entries, [["a", 0, 0], ["b", 0, 0]], [["dec", 0, 0]]), saved, version)
    return saved


def test_functional(tmp_path):
    saved = encoder_decoder(tmp_path / "m.h5")
    model = fastlstm.load_model(tmp_path / "m.h5")
    assert model.time_major
    a, b = np.where(MASK[..., None], X, 0), draw(T + 2, N, D, seed=4)
    _, *states = reference(batch_major("LSTM", saved["enc"], return_state=True), swapped(a), mask=MASK.T)
    want = swapped(reference(batch_major("LSTM", saved["dec"], return_sequences=True), swapped(b), initial_state=states))
    close(model([a, b]), want)
    close(model.predict([a, b]), want)  # inputs of other lengths in time
    model.save(tmp_path / "own.npz")
    close(fastlstm.load_model(tmp_path / "own.npz")([a, b]), want)


# -- gradients -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("inner", [LSTM, GRU, SimpleRNN])
@pytest.mark.parametrize("sequences", [False, True])
def test_vjp(inner, sequences):
    made = TimeMajor(inner(U, return_sequences=sequences, return_state=True, dtype="float64"))
    states = [draw(N, U, seed=k).astype("float64") for k in range(2 if inner is LSTM else 1)]
    check_layer(made, X.astype("float64"), initial_state=states, mask=MASK)


@pytest.mark.parametrize("merge_mode", ["ave", None])
def test_vjp_of_bidirectional(merge_mode):
    inner = Bidirectional(LSTM(2, return_sequences=True, dtype="float64"), merge_mode=merge_mode, dtype="float64")
    check_layer(TimeMajor(inner), X.astype("float64"), mask=MASK)


def test_vjp_of_a_loaded_model(tmp_path):
    model, weights = one_layer(tmp_path, "LSTM", return_sequences=True)
    plain, dy = batch_major("LSTM", weights, return_sequences=True), draw(T, N, U, seed=6)
    with selector.use_backend("reference"):
        want = plain.vjp(swapped(X), mask=MASK.T)[1](swapped(dy))
    got = model.vjp(X, mask=MASK)[1](dy)
    np.testing.assert_allclose(got.inputs, swapped(want.inputs), rtol=0, atol=1e-5)
    for one, other in zip(got.weights, want.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5)
    with pytest.raises(ValueError, match=r"\(7, 3, 4\)"):
        model.layers[0].vjp(X)[1](swapped(dy))


# -- predict and fit -----------------------------------------------------------------------------------------------------
def test_predict_runs_time_whole(tmp_path):
    """Longer than Keras' 32 rows: those are steps here, and must not be cut."""
    model, weights = one_layer(tmp_path, "LSTM", return_sequences=True)
    x = draw(50, N, D)
    want = swapped(reference(batch_major("LSTM", weights, return_sequences=True), swapped(x)))
    for size in (None, 50, 64):
        close(model.predict(x, batch_size=size, verbose=0), want)
    with pytest.raises(ValueError, match=r"time-major.*50 steps.*batch_size=32"):
        model.predict(x, batch_size=32)
    with pytest.raises(ValueError, match="predict_on_batch"):
        model.predict(iter([x, x]))
    close(model.predict(iter([x])), want)


def test_fit_takes_time_in_order(tmp_path):
    """One batch of all steps, not shuffled: one epoch of plain gradient descent by hand."""
    model, weights = one_layer(tmp_path, "LSTM", return_sequences=True)
    twin = batch_major("LSTM", weights, return_sequences=True)
    x, y = draw(40, N, D), draw(40, N, U, seed=1)
    model.compile(fastlstm.optimizers.SGD(0.5), "mse")
    model.fit(x, y, verbose=0)
    with selector.use_backend("reference"):
        out, pullback = twin.vjp(swapped(x))
        gradients = pullback(2 * (out - swapped(y)) / out.size).weights
    for got, before, gradient in zip(model.get_weights(), weights.values(), gradients, strict=True):
        close(got, before - 0.5 * gradient)
    with pytest.raises(ValueError, match="batch_size=8"):
        model.fit(x, y, batch_size=8, verbose=0)
    with pytest.raises(ValueError, match="validation_split"):
        model.fit(x, y, validation_split=0.5, verbose=0)


# -- files ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_own_files_keep_it(tmp_path, suffix, wrapped):
    inner = LSTM(U, return_sequences=True, activity_regularizer="l2")
    model = Sequential([InputLayer((None, D)), TimeMajor(Bidirectional(inner) if wrapped else inner)])
    model.layers[0].trainable = False
    model.save(tmp_path / f"m{suffix}")
    again = fastlstm.load_model(tmp_path / f"m{suffix}")
    assert again.layers[0].get_config() == model.layers[0].get_config()
    assert again.trainable_weights == []
    np.testing.assert_array_equal(again(X, mask=MASK), model(X, mask=MASK))


def test_convert(tmp_path):
    """Tried out on inputs whose batch is the same on axis 1 of the sequences and axis 0 of the state."""
    entries = [
        layer("InputLayer", "x", [], batch_input_shape=[None, None, D], dtype="float32"),
        layer("InputLayer", "h", [], batch_input_shape=[None, U], dtype="float32"),
        layer("GRU", "rnn", [[["x", 0, 0, {}], ["h", 0, 0, {}]]], **config_of("GRU", return_sequences=True)),
    ]
    config = functional(entries, [["x", 0, 0], ["h", 0, 0]], [["rnn", 0, 0]])
    weights = weights_of("GRU", "rnn")
    path, target = write_model(tmp_path / "m.h5", config, {"rnn": weights}, VERSION), str(tmp_path / "m.npz")
    assert convert(path, target).difference == 0
    h = draw(N, U)
    want = reference(batch_major("GRU", weights, return_sequences=True), swapped(X), initial_state=[h])
    close(fastlstm.load_model(target).predict([X, h]), swapped(want))
    with pytest.raises(ValueError, match="time_major=True"):
        convert(path, str(tmp_path / "m.keras"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.h5", "m.npz"]


def test_predict_command(tmp_path, capsys):
    model, _ = one_layer(tmp_path, "LSTM", return_sequences=True)
    x = draw(50, N, D)
    np.save(tmp_path / "x.npy", x)
    np.savetxt(tmp_path / "x.csv", x[:, 0], delimiter=",")
    code = cli.main(["predict", str(tmp_path / "m.h5"), str(tmp_path / "x.npy"), "-o", str(tmp_path / "y.npy")])
    assert code == 0
    assert "50 time steps of 3 x 2" in capsys.readouterr().out
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), model(x))
    assert cli.main(["predict", str(tmp_path / "m.h5"), str(tmp_path / "x.csv")]) == 2
    assert "time-major" in capsys.readouterr().err


def test_keras_files_cannot_say_it(tmp_path):
    model, _ = one_layer(tmp_path, "LSTM")
    with pytest.raises(ValueError, match=r"time_major=True.*Keras 3"):
        model.save(tmp_path / "m.keras")
    assert not (tmp_path / "m.keras").exists()


@pytest.mark.parametrize("by_name", [False, True])
def test_load_weights(tmp_path, by_name):
    model, _ = one_layer(tmp_path, "LSTM")
    new = weights_of("LSTM", "rnn", seed=8)
    model.load_weights(write_weights(tmp_path / "w.h5", {"rnn": new}), by_name=by_name)
    for got, want in zip(model.get_weights(), new.values(), strict=True):
        np.testing.assert_array_equal(got, want)
    assert model.layers[0].name == "rnn"
    # Where Keras keeps the weights of an LSTM that is not time-major.
    model.save_weights(tmp_path / "m.weights.h5")
    plain = Sequential([InputLayer((None, D)), LSTM(U)])
    plain.load_weights(tmp_path / "m.weights.h5")
    close(model(X), reference(plain, swapped(X)))


def test_activity_loss_counts_the_first_axis(tmp_path):
    """Keras 2 divided by the first axis of the output, which is time."""
    model, _ = one_layer(
        tmp_path, "LSTM", return_sequences=True, activity_regularizer={"class_name": "L2", "config": {"l2": 0.1}}
    )
    y = model(X)
    np.testing.assert_allclose(model.losses, [0.1 * np.sum(y.astype("float64") ** 2) / T], rtol=1e-6)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (layer("TimeDistributed", "each", layer=layer("LSTM", "rnn", **config_of("LSTM"))), "rnn.*time_major"),
        (
            layer(
                "Bidirectional",
                "both",
                layer=layer("LSTM", "rnn", **config_of("LSTM")),
                backward_layer=layer("LSTM", "back", **lstm_config(units=U, go_backwards=True)),
            ),
            "rnn.*time_major",
        ),
        (layer("ConvLSTM2D", "conv", filters=2, kernel_size=[1, 3], time_major=True), "conv.*time_major"),
        (layer("LSTM", "rnn", **{**config_of("LSTM"), "time_major": "yes"}), "rnn.*time_major"),
    ],
)
def test_what_is_refused(tmp_path, entry, words):
    entry = copy.deepcopy(entry)
    entry["config"]["batch_input_shape"] = [None, None, D]
    with pytest.raises(ValueError, match=rf"m\.h5.*{words}"):
        fastlstm.load_model(write_model(tmp_path / "m.h5", sequential(entry), {}, VERSION))


def test_keras_3_has_no_time_major(tmp_path):
    with pytest.raises(ValueError, match=r"m\.h5.*rnn.*time_major"):
        one_layer(tmp_path, "LSTM", version="3.0.0")


@pytest.mark.parametrize("wrong", [Dense(2), Masking(), 3, TimeDistributed(Dense(2))])
def test_inner_layer_must_be_recurrent(wrong):
    with pytest.raises(ValueError, match="recurrent"):
        TimeMajor(wrong)


def test_bidirectional_goes_inside():
    with pytest.raises(ValueError, match="recurrent"):
        Bidirectional(TimeMajor(LSTM(2)))
