"""Classes of the caller's own, written as for Keras: what they may leave out, and what is refused instead of being wrong."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from fastlstm import GRU, LSTM, Bidirectional, ConvLSTM1D, Dense, Input, Model, Sequential, SimpleRNN, layers, load_model
from fastlstm.layers import Layer

X = np.random.default_rng(0).standard_normal((4, 6, 3)).astype(np.float32)


def doubled(base):
    class Doubled(base):
        def call(self, sequences, initial_state=None, mask=None, training=False):
            return 2 * super().call(sequences, initial_state=initial_state, mask=mask, training=training)

    return Doubled


class Block(Layer):
    """Layers in an attribute and in a list, a variable of its own, and no word of masks, training and ``built``."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.rnn = LSTM(units)
        self.heads = [Dense(2), Dense(3)]

    def build(self, input_shape):
        self.scale = self.add_weight((1,), "ones", "scale")
        self.rnn.build(input_shape)
        for head in self.heads:
            head.build((None, self.units))

    def call(self, x):
        h = self.rnn(x)
        return np.concatenate([head(h) for head in self.heads], axis=-1) * self.scale.value

    def compute_output_shape(self, input_shape):
        return input_shape[0], 5

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Shifted(Dense):
    def call(self, x):
        return super().call(x) + 1


def by_hand(block, x):
    """What ``Block`` computes, of a layer's weights in their order."""
    scale, *rest = block.get_weights()
    rnn = LSTM(block.units)
    rnn.build(x.shape)
    rnn.set_weights(rest[:3])
    h = rnn(x)
    return np.concatenate([h @ rest[3] + rest[4], h @ rest[5] + rest[6]], axis=1) * scale


@pytest.mark.parametrize("base", [LSTM, GRU, SimpleRNN])
@pytest.mark.parametrize("stateful", [False, True])
def test_the_call_of_a_derived_class_is_what_runs(base, stateful):
    plain, layer = base(5, stateful=stateful), doubled(base)(5, stateful=stateful)
    for one in (plain, layer):
        one.build(X.shape)
    layer.set_weights(plain.get_weights())
    mask = np.arange(6) < np.array([[6], [2], [0], [5]])
    for _ in range(3):  # also once a plan is there
        np.testing.assert_array_equal(layer(X), 2 * plain(X))
        np.testing.assert_array_equal(layer(X, mask=mask), 2 * plain(X, mask=mask))
        states = [np.ones((4, 5), np.float32)] * plain.state_count
        np.testing.assert_array_equal(layer(X, states), 2 * plain(X, states))


def test_the_call_of_a_derived_convolution_and_of_a_derived_wrapper():
    for plain, layer, x in (
        (ConvLSTM1D(2, 3), doubled(ConvLSTM1D)(2, 3), X[..., None]),
        (Bidirectional(LSTM(2)), doubled(Bidirectional)(LSTM(2)), X),
    ):
        for one in (plain, layer):
            one.build(x.shape)
        layer.set_weights(plain.get_weights())
        np.testing.assert_array_equal(layer(x), 2 * plain(x))


def test_the_call_of_a_derived_class_in_models():
    layer = doubled(LSTM)(5)
    inputs = Input((6, 3))
    model = Model(inputs, layer(inputs))
    plain = LSTM(5)
    plain.build(X.shape)
    model.set_weights(plain.get_weights())
    np.testing.assert_array_equal(model.predict(X, verbose=0), 2 * plain(X))
    np.testing.assert_array_equal(Sequential([layer]).predict(X, verbose=0), 2 * plain(X))


def test_a_call_may_leave_out_masks_and_training_but_not_a_given_state():
    class Short(LSTM):
        def call(self, sequences):
            return super().call(sequences) + 1

    layer, plain = Short(5), LSTM(5)
    for one in (layer, plain):
        one.build(X.shape)
    layer.set_weights(plain.get_weights())
    np.testing.assert_array_equal(layer(X, mask=np.ones((4, 6), bool), training=True), plain(X) + 1)
    with pytest.raises(TypeError, match="initial_state"):
        layer(X, initial_state=[np.zeros((4, 5), np.float32)] * 2)


def test_layers_in_attributes_are_inner_layers():
    block = Block(4)
    first = block(X)
    np.testing.assert_array_equal(block(X), first)  # its variables were made once
    assert [v.name for v in block.weights] == ["scale", "kernel", "recurrent_kernel", "bias", *["kernel", "bias"] * 2]
    assert [id(v) for v in block.trainable_weights] == [id(v) for v in block.weights]
    np.testing.assert_allclose(first, by_hand(block, X), rtol=1e-5, atol=1e-6)
    block.trainable = False
    assert block.trainable_weights == []
    assert not block.heads[1].trainable
    np.testing.assert_array_equal(copy.deepcopy(block)(X), first)


@pytest.mark.parametrize("suffix", [".keras", ".npz", ".safetensors"])
def test_files_hold_the_weights_of_layers_in_attributes(tmp_path, suffix):
    model = Sequential([Input((6, 3)), Block(4), Dense(1)])
    model.layers[0].scale.assign(np.array([3.0], np.float32))
    model.save(tmp_path / f"m{suffix}")
    other = load_model(tmp_path / f"m{suffix}", custom_objects={"Block": Block})
    for mine, theirs in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(model.predict(X, verbose=0), other.predict(X, verbose=0))


def test_weights_of_layers_in_attributes_have_the_paths_of_keras(tmp_path):
    """As Keras 3.15 writes them for the same class."""
    import h5py

    model = Sequential([Input((6, 3)), Block(4), Dense(1)])
    model.save_weights(tmp_path / "m.weights.h5")
    found = []
    with h5py.File(tmp_path / "m.weights.h5") as file:
        file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    block = ["heads/dense/vars/0", "heads/dense/vars/1", "heads/dense_1/vars/0", "heads/dense_1/vars/1"]
    block += ["rnn/cell/vars/0", "rnn/cell/vars/1", "rnn/cell/vars/2", "vars/0"]
    assert sorted(found) == sorted([f"layers/block/{name}" for name in block] + ["layers/dense/vars/0", "layers/dense/vars/1"])


@pytest.mark.parametrize("make", [lambda: Block(4), lambda: doubled(LSTM)(4), lambda: Shifted(4)])
def test_no_gradients_of_another_function(make):
    layer = make()
    with pytest.raises(NotImplementedError, match=rf"{layer.name}.*{type(layer).__name__} overrides.*`vjp`"):
        layer.vjp(X)
    model = Sequential([Input((6, 3)), layer])
    model.compile("sgd", "mse")
    with pytest.raises(NotImplementedError, match="overrides"):
        model.fit(X, model.predict(X, verbose=0), verbose=0)


def test_gradients_of_a_class_that_has_them():
    class Doubled(Dense):
        def call(self, x, mask=None, training=False):
            return 2 * super().call(x)

        def _vjp(self, x, mask=None, training=False):
            y, pull = super()._vjp(x)
            return 2 * y, lambda dy: pull(2 * dy)

    layer = Doubled(2)
    y, pullback = layer.vjp(X)
    np.testing.assert_array_equal(y, layer(X))
    gradients = pullback(np.ones_like(y))
    np.testing.assert_allclose(gradients.inputs, np.broadcast_to(2 * layer.kernel.value.sum(axis=1), X.shape), rtol=1e-6)
    np.testing.assert_allclose(gradients.weights[1], np.full(2, 2 * 24.0))


def test_a_class_that_only_renames_or_sets_defaults_keeps_its_gradients():
    class Small(LSTM):
        def __init__(self, **kwargs):
            super().__init__(2, **kwargs)

    layer, plain = Small(), LSTM(2)
    for one in (layer, plain):
        one.build(X.shape)
    layer.set_weights(plain.get_weights())
    for mine, theirs in zip(layer.vjp(X)[1](np.ones((4, 2))).weights, plain.vjp(X)[1](np.ones((4, 2))).weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)


class Around(Layer):
    """A wrapper of the caller's own: its inner layer is in its config, and it alone knows what shape that one gets."""

    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer if isinstance(layer, Layer) else layers.deserialize(layer)

    def build(self, input_shape):
        self.layer.build((input_shape[0], None, input_shape[2]))

    def call(self, x):
        return self.layer(x[:, 1:])

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape((input_shape[0], input_shape[1] - 1, *input_shape[2:]))

    def get_config(self):
        return {**super().get_config(), "layer": layers.serialize(self.layer)}


def test_a_wrapper_of_ones_own_in_a_file(tmp_path):
    model = Sequential([Around(LSTM(3))])
    y = model.predict(X, verbose=0)
    model.save(tmp_path / "m.keras")
    other = load_model(tmp_path / "m.keras", custom_objects={"Around": Around})
    np.testing.assert_array_equal(other.predict(X, verbose=0), y)


class Forward(Model):
    """A model with a ``call``: it runs, and its weights can be kept; a file cannot hold its code."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.rnn, self.head = LSTM(4), Dense(1)

    def call(self, x):
        return self.head(self.rnn(x))


def test_a_model_with_a_call_runs_and_keeps_its_weights(tmp_path):
    pytest.importorskip("h5py", reason="writing .weights.h5 files needs h5py")
    model, other = Forward(name="forward"), Forward()
    y = model.predict(X, verbose=0)
    np.testing.assert_array_equal(y, model.head(model.rnn(X)))
    assert [layer.name for layer in model.layers] == [model.rnn.name, model.head.name]
    assert (model.get_layer(index=1), len(model.weights), model.count_params()) == (model.head, 5, 133)
    lines = []
    model.summary(print_fn=lines.append)
    assert any("Total params: 133" in line for line in lines)
    model.save_weights(tmp_path / "m.weights.h5")
    other(X)
    other.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(other(X), y)
    for write in (lambda: model.save(tmp_path / "m.keras"), lambda: model.save(tmp_path / "m.npz"), model.to_json):
        with pytest.raises(ValueError, match="class of your own, Forward"):
            write()
    assert [path.name for path in tmp_path.iterdir()] == ["m.weights.h5"]
    model.compile("sgd", "mse")
    assert model.evaluate(X, y, verbose=0) == 0
    with pytest.raises(NotImplementedError, match="overrides"):
        model.fit(X, y, verbose=0)
