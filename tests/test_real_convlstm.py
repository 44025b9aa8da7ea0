"""ConvLSTM1D against outputs that Keras computed for layers of published sizes, with the weights stored next to them.

The data lies in ${FASTLSTM_TEST_DATA}/models/convlstm1d (nothing of it belongs to this project); without it every test here is
skipped. Each file holds x, y, the final states h and c, the weights w0 to w2 in Keras' own layout, and the constructor's
arguments as JSON (cfg).
"""

from __future__ import annotations

import json
import os

import golden_cases as golden
import numpy as np
import pytest

import fastlstm
from fastlstm import selector

# In the measure max |a - b| / max(1, |b|); both sides are float32 and sum in different orders.
TOLERANCE = 1e-5
NAMES = ["ae_relu_id26330430154", "asl_signs_small_id39943192907", "asr_rnnt_id1501821496", "har_50x6_id69658020865"]

pytestmark = pytest.mark.skipif(
    not os.environ.get("FASTLSTM_TEST_DATA"),
    reason="FASTLSTM_TEST_DATA does not name a folder of extra test data, whose folder models holds other programs' vectors",
)


@pytest.fixture(autouse=True, params=["reference", "cpu"])
def backend(request):
    with selector.use_backend(request.param):
        yield request.param


@pytest.fixture(params=NAMES)
def data(request, extra_data):
    return dict(np.load(extra_data(f"models/convlstm1d/{request.param}.npz"), allow_pickle=False))


def layer_of(data, **changes):
    layer = fastlstm.ConvLSTM1D(**{**json.loads(str(data["cfg"])), "return_state": True, **changes})
    x = data["x"]
    layer.build((len(x) if layer.stateful else None, None, *x.shape[2:]))
    layer.set_weights([data[f"w{k}"] for k in range(3)])
    return layer


def close(got, expected):
    assert got.shape == expected.shape
    assert got.dtype == np.float32
    assert np.isfinite(got).all()
    assert golden.distance(got, expected.astype("f8")) <= TOLERANCE


def test_sequence(data):
    """The first call and a later one, which goes a shorter way."""
    layer = layer_of(data)
    for _ in range(2):
        for got, name in zip(layer(data["x"]), "yhc", strict=True):
            close(got, data[name])


def test_channels_first(data):
    layer = fastlstm.ConvLSTM1D(**{**json.loads(str(data["cfg"])), "return_state": True, "data_format": "channels_first"})
    x = data["x"].swapaxes(2, 3)
    layer.build(x.shape)
    layer.set_weights([data[f"w{k}"] for k in range(3)])
    for got, name in zip(layer(x), "yhc", strict=True):
        close(got.swapaxes(-1, -2), data[name])


def test_stream(data):
    """The same steps one by one through a stateful layer."""
    layer = layer_of(data, stateful=True, return_sequences=True)
    steps = [layer(data["x"][:, t : t + 1]) for t in range(data["x"].shape[1])]
    y = np.concatenate([step[0] for step in steps], axis=1)
    close(y if data["y"].ndim == 4 else y[:, -1], data["y"])
    close(steps[-1][1], data["h"])
    close(steps[-1][2], data["c"])


def test_each_sample_alone(data):
    layer = layer_of(data)
    for n in range(len(data["x"])):
        for got, name in zip(layer(data["x"][n : n + 1]), "yhc", strict=True):
            close(got[0], data[name][n])
