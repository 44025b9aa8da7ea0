"""Metrics: what Keras computes over two batches, formulas, state, names, bad input."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from fastlstm.training import losses, metrics

DATA = Path(__file__).parent / "data"
GOLDEN = np.load(DATA / "training_metrics.npz")
CASES = json.loads((DATA / "training_metrics.json").read_text())
IDS = [f"{case['class']}-{case['data']}-{case['weight']}-{case['mask']}" for case in CASES]


# -- Keras --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", range(len(CASES)), ids=IDS)
def test_results_of_keras(number):
    case = CASES[number]
    metric = getattr(metrics, case["class"])(**case["arguments"])
    for batch in (0, 1):
        true, pred = (GOLDEN[f"in/{batch}/{case['data']}/{which}"] for which in ("true", "pred"))
        weight, mask = (GOLDEN[f"in/{batch}/{case[which]}"] if case[which] else None for which in ("weight", "mask"))
        metric.update_state(true, pred, weight, mask)
        expected = float(GOLDEN[f"{number}/result{batch}"])
        assert metric.result() == pytest.approx(expected, rel=1e-7 if "Accuracy" in case["class"] else 1e-9)
        assert expected > 0.05
    metric.reset_state()
    assert metric.result() == 0


# -- formulas -----------------------------------------------------------------------------------------------------------
def test_mean():
    mean = metrics.Mean()
    assert mean.result() == 0
    mean.update_state([1, 3, 5, 7])
    assert mean.result() == 4
    mean.update_state(10)
    assert mean.result() == 26 / 5
    mean.reset_state()
    mean.update_state([1, 3, 5, 7], sample_weight=[1, 1, 0, 0])
    assert mean.result() == 2
    assert mean([6.0], sample_weight=[2]) == (1 + 3 + 12) / 4


def test_mean_of_losses_weighted_by_their_batches():
    mean = metrics.Mean("loss")
    mean.update_state(np.float32(2.0), sample_weight=32)
    mean.update_state(np.float32(4.0), sample_weight=16)
    assert mean.result() == pytest.approx((2 * 32 + 4 * 16) / 48, rel=1e-15)


def test_mean_averages_within_a_sample_first():
    values, weights = np.array([[1.0, 2.0], [3.0, 6.0]]), np.array([1.0, 3.0])
    mean = metrics.Mean()
    mean.update_state(values, weights)
    assert mean.result() == pytest.approx((1.5 * 1 + 4.5 * 3) / 4, rel=1e-15)
    mean.update_state([10.0])
    assert mean.result() == pytest.approx((1.5 * 1 + 4.5 * 3 + 10) / 5, rel=1e-15)


def test_masked_steps_do_not_count():
    metric = metrics.SparseCategoricalAccuracy()
    right, wrong = [0.9, 0.1], [0.1, 0.9]
    y, mask = np.array([[right, wrong, wrong], [right, right, wrong]]), np.array([[1, 1, 0], [1, 0, 0]], bool)
    metric.update_state(np.zeros((2, 3)), y, mask=mask)
    assert metric.result() == pytest.approx(2 / 3, rel=1e-15)
    metric.reset_state()
    metric.update_state(np.zeros((2, 3)), y, sample_weight=[1, 5], mask=mask)
    assert metric.result() == pytest.approx((1 + 5) / (1 + 1 + 5), rel=1e-15)


def test_functions():
    np.testing.assert_array_equal(metrics.accuracy([1, 2], [1, 3]), [1, 0])
    np.testing.assert_array_equal(metrics.binary_accuracy([[1], [1], [0]], [[0.6], [0.5], [0.5]]), [[1], [0], [1]])
    np.testing.assert_array_equal(metrics.binary_accuracy([[1], [0]], [[0.6], [0.6]], threshold=0.7), [[0], [1]])
    np.testing.assert_array_equal(metrics.categorical_accuracy([[0, 1], [1, 0]], [[0.3, 0.7], [0.2, 0.8]]), [1, 0])
    np.testing.assert_array_equal(metrics.sparse_categorical_accuracy([[1], [0]], [[0.3, 0.7], [0.2, 0.8]]), [1, 0])
    np.testing.assert_array_equal(metrics.sparse_categorical_accuracy([1, 0], [[0.3, 0.7], [0.2, 0.8]]), [1, 0])


def test_sums_keep_their_digits():
    mean = metrics.Mean()
    for _ in range(1000):
        mean.update_state(np.float32(0.1))
    assert mean.result() == pytest.approx(float(np.float32(0.1)), rel=1e-13)


# -- names and configs --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("mse", metrics.MeanSquaredError),
        ("MSE", metrics.MeanSquaredError),
        ("mean_squared_error", metrics.MeanSquaredError),
        ("MeanSquaredError", metrics.MeanSquaredError),
        ("mae", metrics.MeanAbsoluteError),
        ("mean_absolute_error", metrics.MeanAbsoluteError),
        ("root_mean_squared_error", metrics.RootMeanSquaredError),
        ("binary_accuracy", metrics.BinaryAccuracy),
        ("categorical_accuracy", metrics.CategoricalAccuracy),
        ("sparse_categorical_accuracy", metrics.SparseCategoricalAccuracy),
        ("SparseCategoricalAccuracy", metrics.SparseCategoricalAccuracy),
        ("bce", metrics.BinaryCrossentropy),
        ("mean", metrics.Mean),
        ("accuracy", metrics.Accuracy),
    ],
)
def test_names(name, cls):
    assert type(metrics.get(name)) is cls
    if name != "accuracy":
        resolved = metrics.resolve(name)
        assert (type(resolved), resolved.name) == (cls, name)
    assert metrics.get(None) is None


@pytest.mark.parametrize("name", ["accuracy", "acc"])
def test_accuracy_by_the_shapes(name):
    def chosen(true, pred):
        metric = metrics.resolve(name, np.zeros(true), np.zeros(pred))
        assert metric.name == name
        return type(metric)

    assert chosen((3, 1), (3, 1)) is metrics.BinaryAccuracy
    assert chosen((3,), (3, 1)) is metrics.BinaryAccuracy
    assert chosen((3,), (3, 4)) is metrics.SparseCategoricalAccuracy
    assert chosen((3, 5), (3, 5, 4)) is metrics.SparseCategoricalAccuracy
    assert chosen((3, 1), (3, 4)) is metrics.SparseCategoricalAccuracy
    assert chosen((3, 4), (3, 4)) is metrics.CategoricalAccuracy


def test_functions_become_metrics():
    metric = metrics.resolve(lambda y_true, y_pred: np.abs(np.subtract(y_pred, y_true))[:, 0])
    metric.update_state([[1.0], [2.0]], [[2.0], [5.0]])
    assert metric.result() == 2
    wrapper = metrics.resolve(losses.huber)
    assert wrapper.name == "huber"
    again = metrics.deserialize(json.loads(json.dumps(metrics.serialize(wrapper))))
    assert again([[0.0]], [[3.0]]) == 2.5


@pytest.mark.parametrize(
    ("metric", "config"),
    [
        (metrics.Mean("m"), {"name": "m", "dtype": "float32"}),
        (metrics.BinaryAccuracy(threshold=0.3), {"name": "binary_accuracy", "dtype": "float32", "threshold": 0.3}),
        (metrics.MeanSquaredError(dtype="float64"), {"name": "mean_squared_error", "dtype": "float64"}),
        (
            metrics.SparseCategoricalCrossentropy(from_logits=True),
            {
                "name": "sparse_categorical_crossentropy",
                "dtype": "float32",
                "from_logits": True,
                "ignore_class": None,
                "axis": -1,
            },
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_configs(metric, config):
    assert metric.get_config() == config
    serialized = metrics.serialize(metric)
    assert serialized["module"] == "keras.metrics"
    again = metrics.deserialize(json.loads(json.dumps(serialized)))
    assert (type(again), again.get_config()) == (type(metric), config)


def test_root_mean_squared_error():
    metric = metrics.RootMeanSquaredError()
    metric.update_state([[0.0], [0.0]], [[3.0], [4.0]])
    assert metric.result() == math.sqrt(12.5)


# -- bad input ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.get("exactness"), r"Unknown metric: 'exactness'.*Known:.*binary_accuracy"),
        (lambda: metrics.get(5), r"metric identifier: 5.*Known"),
        (lambda: metrics.resolve(None), r"None.*Known"),
        (lambda: metrics.resolve("accuracy", 1, 2), r"Expected batches"),
        (lambda: metrics.categorical_accuracy([1, 0], [[0.5, 0.5], [0.5, 0.5]]), r"y_true\.shape=\(2,\).*\(2, 2\)"),
        (lambda: metrics.binary_accuracy(np.zeros((3, 2)), np.zeros((3, 4))), r"same shape"),
        (lambda: metrics.accuracy(np.zeros((3, 2)), np.zeros(3)), r"same shape"),
        (lambda: metrics.sparse_categorical_accuracy(np.zeros((3, 2)), np.zeros((3, 4))), r"`y_true`.*\(3,\)"),
        (lambda: metrics.MeanSquaredError().update_state(np.zeros((0, 2)), np.zeros((0, 2))), r"`y_pred` is empty"),
        (lambda: metrics.Mean().update_state([]), r"no values"),
        (lambda: metrics.Mean().update_state([1, 2], sample_weight=[1, 2, 3]), r"`sample_weight` of shape \(3,\)"),
        (lambda: metrics.Mean(dtype="float3"), r"float3"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
