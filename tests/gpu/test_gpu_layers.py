"""Layers and models on arrays of the device: the numbers of the CPU, no transfers, and clear errors where they do not run."""

from __future__ import annotations

import warnings

import fake_cupy
import numpy as np
import pytest

import fastlstm
from fastlstm import devices, layers
from fastlstm.initializers import GlorotUniform

RNG = np.random.default_rng(11)
X = RNG.standard_normal((3, 6, 4)).astype(np.float32)
GLUE = {
    "Dense": (lambda: fastlstm.Dense(5, "gelu", kernel_initializer=GlorotUniform(seed=1)), X),
    "Dense softmax": (lambda: fastlstm.Dense(5, "softmax", kernel_initializer=GlorotUniform(seed=1)), X),
    "Dense float64": (lambda: fastlstm.Dense(5, "selu", dtype="float64", kernel_initializer=GlorotUniform(seed=1)), X),
    "Dense float16": (lambda: fastlstm.Dense(5, "tanh", dtype="float16", kernel_initializer=GlorotUniform(seed=1)), X),
    "Activation": (lambda: fastlstm.Activation("mish"), X),
    "Dropout": (lambda: fastlstm.Dropout(0.4, seed=5), X),
    "SpatialDropout1D": (lambda: fastlstm.SpatialDropout1D(0.4, seed=5), X),
    "Flatten": (lambda: fastlstm.Flatten(), X),
    "Flatten channels first": (lambda: fastlstm.Flatten("channels_first"), X),
    "Masking": (lambda: fastlstm.Masking(0.5), np.where(X > 0.5, np.float32(0.5), X)),
    "Conv1D": (lambda: fastlstm.Conv1D(6, 3, strides=2, groups=2, padding="same", kernel_initializer=GlorotUniform(seed=1)), X),
    "Conv1D causal": (
        lambda: fastlstm.Conv1D(2, 2, dilation_rate=2, padding="causal", kernel_initializer=GlorotUniform(seed=1)),
        X,
    ),
    "BatchNormalization": (lambda: fastlstm.BatchNormalization(), X),
    "LayerNormalization": (lambda: fastlstm.LayerNormalization(), X),
    "MaxPooling1D": (lambda: fastlstm.MaxPooling1D(2, padding="same"), X),
    "AveragePooling1D": (lambda: fastlstm.AveragePooling1D(3, 2, padding="same"), X),
    "GlobalMaxPooling1D": (lambda: fastlstm.GlobalMaxPooling1D(), X),
    "GlobalAveragePooling1D": (lambda: fastlstm.GlobalAveragePooling1D(), X),
    "Reshape": (lambda: fastlstm.Reshape((4, 6)), X),
    "Permute": (lambda: fastlstm.Permute((2, 1)), X),
    "RepeatVector": (lambda: fastlstm.RepeatVector(3), X[:, 0]),
    "UpSampling1D": (lambda: fastlstm.UpSampling1D(2), X),
    "ZeroPadding1D": (lambda: fastlstm.ZeroPadding1D(2), X),
    "Cropping1D": (lambda: fastlstm.Cropping1D((1, 2)), X),
    "TimeDistributed": (lambda: fastlstm.TimeDistributed(fastlstm.Dense(2, kernel_initializer=GlorotUniform(seed=1))), X),
}
REFUSED = {
    "GRU": (lambda: fastlstm.GRU(3), X),
    "SimpleRNN": (lambda: fastlstm.SimpleRNN(3), X),
    "ConvLSTM2D": (lambda: fastlstm.ConvLSTM2D(2, (1, 3)), RNG.standard_normal((2, 3, 1, 5, 2))),
    "Attention": (lambda: fastlstm.Attention(), [X, X]),
    "PReLU": (lambda: fastlstm.PReLU(), X),
    "GaussianNoise": (lambda: fastlstm.GaussianNoise(0.1), X),
}


MERGES = {
    "Add": lambda: fastlstm.Add(),
    "Subtract": lambda: fastlstm.Subtract(),
    "Multiply": lambda: fastlstm.Multiply(),
    "Average": lambda: fastlstm.Average(),
    "Maximum": lambda: fastlstm.Maximum(),
    "Minimum": lambda: fastlstm.Minimum(),
    "Concatenate": lambda: fastlstm.Concatenate(1),
}


def lstm(units, **kwargs):
    return fastlstm.LSTM(units, kernel_initializer=GlorotUniform(seed=2), recurrent_initializer=GlorotUniform(seed=3), **kwargs)


def close(a, b):
    a, b = devices.to_cpu(a), np.asarray(b)
    assert a.dtype == b.dtype
    np.testing.assert_allclose(
        a.astype(np.float64), b.astype(np.float64), rtol=1e-5, atol=2e-3 if b.dtype == np.float16 else 1e-6
    )


# -- glue -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", GLUE)
def test_glue_layers_as_on_the_cpu(device, name, training):
    make, x = GLUE[name]
    here, there = make(), make()
    x_there = device.asarray(x)
    close(there(x_there, training=training), here(x, training=training))
    outputs, pullback = here.vjp(x, training=training)
    outputs_there, pullback_there = there.vjp(x_there, training=training)
    close(outputs_there, outputs)
    dy = RNG.standard_normal(outputs.shape).astype(outputs.dtype)
    want, got = pullback(dy), pullback_there(device.asarray(dy))
    close(got.inputs, want.inputs)
    for a, b in zip(got.weights, want.weights, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            close(a, b)
    for a, b in zip(there.get_weights(), here.get_weights(), strict=True):
        close(a, b)


@pytest.mark.parametrize("name", [name for name in GLUE if "Dropout" not in name])
def test_glue_layers_move_nothing(cupy, name):
    make, x = GLUE[name]
    layer, x = make(), cupy.asarray(x)
    layer(x)
    fake_cupy.transfers.reset()
    layer(x)
    outputs, pullback = layer.vjp(x)
    pullback(cupy.ones_like(outputs))
    assert fake_cupy.transfers.counts() == (0, 0, 0)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", MERGES)
def test_merges_as_on_the_cpu(device, name, masked):
    layer, xs = MERGES[name](), [X, np.where(X > 0, X, RNG.standard_normal(X.shape).astype(np.float32))]
    masks = [np.arange(6) < np.array([[6], [2], [4]]), np.arange(6) > np.array([[-1], [3], [1]])] if masked else None
    there, masks_there = devices.moved(xs, "gpu"), devices.moved(masks, "gpu")
    close(layer(there, mask=masks_there), layer(xs, mask=masks))
    want, pullback = layer.vjp(xs, mask=masks)
    got, pullback_there = layer.vjp(there, mask=masks_there)
    close(got, want)
    dy = RNG.standard_normal(want.shape).astype(np.float32)
    for a, b in zip(pullback_there(device.asarray(dy)).inputs, pullback(dy).inputs, strict=True):
        close(a, b)
    if masked and name != "Subtract":
        close(layer.compute_mask(there, masks_there), layer.compute_mask(xs, masks))
    with fastlstm.device("gpu"):
        close(layer(xs, mask=masks), want)
    with pytest.raises(TypeError, match="must live where"):
        layer([there[0], xs[1]])


def test_embedding_as_on_the_cpu(device):
    layer, ids = fastlstm.Embedding(9, 3, mask_zero=True), np.array([[1, 8, 0], [3, 3, 0]])
    want, pullback = layer.vjp(ids)
    got, pullback_there = layer.vjp(device.asarray(ids))
    close(got, want)
    dy = RNG.standard_normal(want.shape).astype(np.float32)
    close(pullback_there(device.asarray(dy)).weights[0], pullback(dy).weights[0])
    np.testing.assert_array_equal(devices.to_cpu(layer.compute_mask(device.asarray(ids))), ids != 0)
    with pytest.raises(ValueError, match="Index out of range"):
        layer(device.asarray(ids + 1))


@pytest.mark.parametrize("name", REFUSED)
def test_layers_without_a_way_on_the_gpu_say_so(cupy, name):
    make, x = REFUSED[name]
    layer, x = make(), devices.moved(x, "gpu")
    for call in (layer, layer.vjp):
        with pytest.raises(TypeError, match="does not run on a GPU: its inputs must be NumPy arrays"):
            call(x)
    assert fake_cupy.transfers.downloads == 0
    with fastlstm.device("gpu"), pytest.raises(TypeError, match="does not run on a GPU"):
        make()(REFUSED[name][1])


def test_every_layer_either_runs_on_a_gpu_or_is_refused():
    """No public layer is in neither list: a new one must be tested on the device, or refused."""
    tested = {name.split()[0] for name in (*GLUE, *MERGES, *REFUSED, "Embedding")}
    own = {"LSTM", "ConvLSTM1D", "LSTMCell", "ConvLSTM1DCell", "Bidirectional", "Sequential", "InputLayer", "Functional"}
    for name, found in layers.LAYERS.items():
        if found.runs_on_gpu and found.__name__ == name:
            assert name in tested | own, name


# -- recurrent layers -------------------------------------------------------------------------------------------------------
def test_stateful_layers_keep_their_states_on_the_device(device):
    here, there = (lstm(5, stateful=True, return_sequences=True) for _ in range(2))
    for _ in range(3):
        close(there(device.asarray(X)), here(X))
    assert there.states[0].home == "gpu"
    for a, b in zip(there.states, here.states, strict=True):
        close(a.numpy(), b.numpy())
    there.reset_state()
    here.reset_state()
    close(there(device.asarray(X)), here(X))
    close(there(X), here(X))  # and go on on the host


def test_initial_state_mask_and_out(device):
    layer = lstm(5, return_sequences=True, return_state=True)
    state, mask = [RNG.standard_normal((1, 5)).astype(np.float32) for _ in "hc"], np.arange(6) < np.array([[6], [2], [4]])
    want = layer(X, state, mask)
    x, moved, valid = device.asarray(X), devices.moved(state, "gpu"), device.asarray(mask)
    out = device.empty((3, 6, 5), np.float32)
    got = layer(x, moved, valid, out=out)
    assert got[0] is out
    for a, b in zip(got, want, strict=True):
        close(a, b)
    with fastlstm.device("gpu"):
        host = np.empty((3, 6, 5), np.float32)
        assert layer(X, state, mask, out=host)[0] is host
        close(host, want[0])
    outputs, pullback = layer.vjp(x, moved, valid)
    _, other = layer.vjp(X, state, mask)
    dys = tuple(RNG.standard_normal(a.shape).astype(np.float32) for a in want)
    answer, expected = pullback(devices.moved(dys, "gpu")), other(dys)
    gradients, wanted = ([one.inputs, *one.initial_state, *one.weights] for one in (answer, expected))
    for a, b in zip(gradients, wanted, strict=True):
        close(a, b)
    assert len(outputs) == 3


@pytest.mark.parametrize("name", ["mask", "state", "out", "dy"])
@pytest.mark.parametrize("x_there", [True, False], ids=["x on the device", "x on the host"])
def test_arrays_on_both_sides_are_refused(cupy, x_there, name):
    layer, sides = lstm(5), (lambda a: a, cupy.asarray)
    x, other = sides[x_there](X), sides[not x_there]
    _, pullback = layer.vjp(x)
    calls = {
        "mask": lambda: layer(x, mask=other(np.ones((3, 6), bool))),
        "state": lambda: layer(x, [other(np.zeros((3, 5), np.float32)) for _ in "hc"]),
        "out": lambda: layer(x, out=other(np.zeros((3, 5), np.float32))),
        "dy": lambda: pullback(other(np.zeros((3, 5), np.float32))),
    }
    fake_cupy.transfers.reset()
    with pytest.raises(TypeError, match=r"must live where|a pullback must be a (CuPy|NumPy) array"):
        calls[name]()
    assert fake_cupy.transfers.downloads == 0


def test_cells_step_on_the_device(device):
    cell = fastlstm.LSTMCell(4, dropout=0.3, seed=1)
    states = [np.zeros((3, 4), np.float32), np.ones((3, 4), np.float32)]
    h, [_, c] = cell(X[:, 0], states, training=True)
    h_there, [_, c_there] = cell(device.asarray(X[:, 0]), devices.moved(states, "gpu"), training=True)
    close(h_there, h)
    close(c_there, c)
    with fastlstm.device("gpu"):
        close(cell(X[:, 0], states, training=True)[0], h)


class OfAnotherLibrary:
    """A CUDA array of another library: DLPack, and no conversion to NumPy."""

    def __init__(self, array):
        self.array = array

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, **kwargs):
        raise AssertionError("the stand-in takes the array itself")

    def on_device(self):
        return self.array

    def __array__(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


def test_cuda_arrays_of_other_libraries_are_taken_by_dlpack(cupy):
    layer, x = lstm(5), cupy.asarray(X)
    want = layer(x)
    fake_cupy.transfers.reset()
    for call in (layer, fastlstm.Sequential([layer])):
        close(call(OfAnotherLibrary(x)), devices.to_cpu(want))
    y, pullback = layer.vjp(OfAnotherLibrary(x))
    assert devices.is_on_gpu(pullback(OfAnotherLibrary(y)).inputs)
    assert fake_cupy.transfers.counts()[0] == 0


def test_dlpack_capsules_are_opened_once(cupy):
    """A capsule of host memory stands for one of the device's, which only a device can make."""
    layer, dense, top = lstm(5), *(fastlstm.Dense(2, kernel_initializer=GlorotUniform(seed=1)) for _ in "ab")
    for one in (layer, dense, fastlstm.Bidirectional(lstm(3)), fastlstm.Sequential([layer, top])):
        want = one(cupy.asarray(X))
        close(one(X.__dlpack__()), devices.to_cpu(want))
        outputs, pullback = one.vjp(X.__dlpack__())
        assert devices.is_on_gpu(pullback(cupy.ones_like(outputs)).inputs)
    with fastlstm.device("cpu"):
        close(layer(X.__dlpack__()), devices.to_cpu(layer(cupy.asarray(X))))


# -- models ---------------------------------------------------------------------------------------------------------------
def model(**kwargs):
    return fastlstm.Sequential(
        [
            fastlstm.Input((6, 4)),
            fastlstm.Masking(9.0),
            lstm(5, return_sequences=True, **kwargs),
            fastlstm.Bidirectional(lstm(3, return_sequences=True)),
            fastlstm.BatchNormalization(),
            fastlstm.TimeDistributed(fastlstm.Dense(4, "gelu", kernel_initializer=GlorotUniform(seed=1))),
            fastlstm.Flatten(),
            fastlstm.Dense(3, "softmax", kernel_initializer=GlorotUniform(seed=2)),
        ]
    )


@pytest.mark.parametrize("mode", ["concat", "sum", "mul", "ave", None])
def test_bidirectional(device, mode):
    here = fastlstm.Bidirectional(lstm(3, return_sequences=True, return_state=True), mode)
    x, want = device.asarray(X), here(X)
    for a, b in zip(here(x), want, strict=True):
        close(a, b)
    dys = tuple(RNG.standard_normal(a.shape).astype(np.float32) for a in want)
    answer, expected = here.vjp(x)[1](devices.moved(dys, "gpu")), here.vjp(X)[1](dys)
    for a, b in zip([answer.inputs, *answer.weights], [expected.inputs, *expected.weights], strict=True):
        close(a, b)


def test_sequential_moves_nothing_once_the_weights_are_there(cupy):
    net, x = model(), X.copy()
    x[1, 3:] = 9.0
    want, there = net(x), cupy.asarray(x)
    fake_cupy.transfers.reset()
    close(net(there), want)
    assert fake_cupy.transfers.uploads == len(net.weights)
    fake_cupy.transfers.reset()
    close(net(there), want)
    net.predict(there, batch_size=2, verbose=0)
    assert fake_cupy.transfers.counts() == (0, 1, 0)  # the line above reads the result


def test_a_write_to_a_weight_moves_that_weight_alone(cupy):
    net, x = model(), cupy.asarray(X)
    net(x)
    net.layers[-1].bias.assign(np.ones(3))
    fake_cupy.transfers.reset()
    net(x)
    assert fake_cupy.transfers.counts() == (1, 0, 0)


def test_functional_models(device):
    x = fastlstm.Input((6, 4))
    y = lstm(5)(x)
    net = fastlstm.Model(x, fastlstm.Dense(2, kernel_initializer=GlorotUniform(seed=2))(y))
    close(net(device.asarray(X)), net(X))
    want = net(X)
    with fastlstm.device("gpu"):
        close(net(X), want)


def test_functional_models_move_their_inputs_once(cupy):
    """Two inputs, in a dict or a list; each layer would move them again otherwise."""
    first, second = fastlstm.Input((6, 4), name="a"), fastlstm.Input((6, 4), name="b")
    shared = lstm(5)
    net = fastlstm.Model(
        [first, second], [fastlstm.Dense(2, kernel_initializer=GlorotUniform(seed=2))(shared(t)) for t in (first, second)]
    )
    want = net([X, 2 * X])
    with fastlstm.device("gpu"):
        net([X, 2 * X])
        fake_cupy.transfers.reset()
        for inputs in ([X, 2 * X], {"a": X, "b": 2 * X}):
            for a, b in zip(net(inputs), want, strict=True):
                close(a, b)
        assert fake_cupy.transfers.counts() == (4, 4, 0)
        for a, b in zip(net.predict([X, 2 * X], verbose=0), want, strict=True):
            close(a, b)
        outputs, pullback = net.vjp([X, 2 * X])
        assert all(type(g) is np.ndarray for g in pullback(tuple(outputs)).inputs)


def test_predict_under_a_device_moves_each_batch(cupy):
    net = model()
    want = net.predict(X, batch_size=2, verbose=0)
    with fastlstm.device("gpu"):
        net(X)
        fake_cupy.transfers.reset()
        close(net.predict(X, batch_size=2, verbose=0), want)
        assert fake_cupy.transfers.counts() == (2, 2, 0)


def test_copies_and_pickles_of_a_layer_on_the_device_live_on_the_host(cupy):
    import copy

    layer = lstm(4)
    want = devices.to_cpu(layer(cupy.asarray(X)))
    other = copy.deepcopy(layer)
    assert other.weights[0].home == "cpu"
    close(other(X), want)


def test_no_warnings(cupy):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model()(cupy.asarray(X))
