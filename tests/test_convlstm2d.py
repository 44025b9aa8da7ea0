"""ConvLSTM2D over one row: the numbers of ConvLSTM1D in the shapes of Keras' ConvLSTM2D."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from central_differences import check_layer

from fastlstm import Bidirectional, ConvLSTM1D, ConvLSTM2D, Flatten, Input, Model, layers

DATA = Path(__file__).parent / "data"
F64 = {"dtype": "float64"}


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


OPTIONS = [
    {},
    {"padding": "same", "return_sequences": True},
    {"strides": 2, "padding": "same", "return_state": True},
    {"go_backwards": True, "activation": "relu", "return_sequences": True, "use_bias": False},
]


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_values_are_those_of_convlstm1d(options, row, data_format):
    first = data_format == "channels_first"
    x = draw(2, 3, 2, 7) if first else draw(2, 3, 7, 2)
    at = (3 if first else 2) + row
    narrow = ConvLSTM1D(4, 3, data_format=data_format, **options, **F64)
    pairs = {"strides": (1, 1), **options}
    if "strides" in options:
        pairs["strides"] = (1, 2) if row == 0 else (2, 1)
    wide = ConvLSTM2D(4, (1, 3) if row == 0 else (3, 1), data_format=data_format, **pairs, **F64)
    narrow.build(x.shape)
    y = wide(np.expand_dims(x, at))
    assert [v.shape for v in wide.weights[:2]] == [((1, 3) if row == 0 else (3, 1)) + s for s in ((2, 16), (4, 16))]
    narrow.set_weights([w.reshape(v.shape) for w, v in zip(wide.get_weights(), narrow.weights, strict=True)])
    want = narrow(x)
    want = want if isinstance(want, tuple) else (want,)
    y = y if isinstance(y, tuple) else (y,)
    for got, one in zip(y, want, strict=True):
        axis = one.ndim - (1 if first else 2) + row
        np.testing.assert_array_equal(got, np.expand_dims(one, axis))
    shapes = wide.compute_output_shape(np.expand_dims(x, at).shape)
    assert [tuple(s) for s in (shapes if len(y) > 1 else [shapes])] == [got.shape for got in y]


@pytest.mark.parametrize("row", [0, 1])
def test_gradients(row):
    x = np.expand_dims(draw(2, 3, 5, 2), 2 + row)
    kernel = (1, 3) if row == 0 else (3, 1)
    layer = ConvLSTM2D(2, kernel, padding="same", return_sequences=True, return_state=True, **F64)
    check_layer(layer, x)
    states = [np.expand_dims(draw(2, 5, 2, seed=k), 1 + row) for k in range(2)]
    check_layer(copy.deepcopy(layer), x, initial_state=states, mask=np.array([[1, 1, 0], [0, 1, 1]], bool))


def test_in_a_model_and_in_both_directions():
    x = Input((4, 1, 6, 2))
    y = Bidirectional(ConvLSTM2D(3, (1, 3), padding="same", return_sequences=True))(x)
    assert y.shape == (None, 4, 1, 6, 6)
    model = Model(x, Flatten()(ConvLSTM2D(2, (1, 2), name="last")(y)))
    array = draw(2, 4, 1, 6, 2).astype(np.float32)
    assert model(array).shape == (2, 10)
    again = Model.from_config(json.loads(json.dumps(model.get_config())))
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(array), model(array))


def test_config():
    layer = ConvLSTM2D(3, (1, 4), strides=(1, 2), name="c")
    config = layer.get_config()
    assert (config["kernel_size"], config["strides"], config["dilation_rate"]) == ((1, 4), (1, 2), (1, 1))
    assert list(config) == list(ConvLSTM1D(3, 4, name="c").get_config())
    assert layers.deserialize(layers.serialize(layer)).get_config() == config


def test_what_is_refused():
    with pytest.raises(ValueError, match="over one row only"):
        ConvLSTM2D(3, 3)
    with pytest.raises(ValueError, match="one row along axis 2"):
        ConvLSTM2D(3, (1, 3))(draw(2, 3, 2, 5, 2))
    with pytest.raises(ValueError, match="five axes"):
        ConvLSTM2D(3, (1, 3))(draw(2, 3, 5, 2))
