"""Losses: values and gradients of Keras, float64 central differences, stability, weights and masks, names, bad input."""

import json
from pathlib import Path

import numpy as np
import pytest

from fastlstm import settings
from fastlstm.training import loss_formulas, losses

DATA = Path(__file__).parent / "data"
GOLDEN = np.load(DATA / "training_losses.npz")
CASES = json.loads((DATA / "training_losses.json").read_text())
IDS = [f"{i}-{case['class']}-{case['true']}" for i, case in enumerate(CASES)]
TOLERANCE = {"float32": 1e-5, "float64": 1e-9}
CLASSES = (
    losses.MeanSquaredError,
    losses.MeanAbsoluteError,
    losses.Huber,
    losses.BinaryCrossentropy,
    losses.CategoricalCrossentropy,
    losses.SparseCategoricalCrossentropy,
)


def array_of(name, dtype):
    """The input of that name, rounded to ``dtype`` if it holds real numbers; None for None."""
    if name is None:
        return None
    array = GOLDEN[f"in/{name}"]
    return array.astype(dtype) if array.dtype.kind == "f" else array


def arguments_of(case, dtype):
    """(y_true, y_pred, sample_weight, mask)."""
    return tuple(array_of(case.get(key), dtype) for key in ("true", "pred", "weight", "mask"))


# -- Keras --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("number", range(len(CASES)), ids=IDS)
def test_values_and_gradients_of_keras(number, dtype):
    case, tolerance = CASES[number], TOLERANCE[dtype]
    loss = getattr(losses, case["class"])(**case["arguments"])
    arguments = arguments_of(case, dtype)
    expected = GOLDEN[f"{number}/{dtype}/value"]
    value = loss(*arguments)
    assert value.dtype == dtype
    assert np.shape(value) == expected.shape
    np.testing.assert_allclose(value, expected, rtol=tolerance, atol=tolerance)
    if loss.reduction is None:
        return
    again, gradient = loss.value_and_gradient(*arguments)
    truth = GOLDEN[f"{number}/{dtype}/gradient"]
    assert again == value
    assert gradient.dtype == dtype
    assert gradient.shape == arguments[1].shape
    # Where probabilities reach the clip, single elements are as large as 1e7: the error is measured against their size.
    np.testing.assert_allclose(gradient, truth, rtol=tolerance, atol=tolerance * max(1e-2, np.abs(truth).max()) / 10)


def test_the_golden_gradients_are_there():
    with_gradient = [case for case in CASES if case["arguments"].get("reduction", "sum") is not None]
    assert sum(key.endswith("float64/gradient") for key in GOLDEN.files) == len(with_gradient) > 50


# -- central differences ------------------------------------------------------------------------------------------------
def difference_quotients(function, y, h=1e-6):
    truth = np.empty_like(y)
    for index in np.ndindex(y.shape):
        step = np.zeros_like(y)
        step[index] = h
        truth[index] = (function(y + step) - function(y - step)) / (2 * h)
    return truth


def probabilities(rng, shape):
    return rng.uniform(0.05, 0.95, size=shape)


SMOOTH = [
    (losses.MeanSquaredError(), "real"),
    (losses.MeanAbsoluteError(reduction="sum"), "real"),
    (losses.Huber(0.7), "real"),
    (losses.BinaryCrossentropy(label_smoothing=0.1), "probability"),
    (losses.BinaryCrossentropy(from_logits=True, axis=1), "logit"),
    (losses.CategoricalCrossentropy(label_smoothing=0.2), "probability"),
    (losses.CategoricalCrossentropy(axis=1, reduction="mean_with_sample_weight"), "probability"),
    (losses.CategoricalCrossentropy(from_logits=True, axis=-2), "logit"),
    (losses.SparseCategoricalCrossentropy(), "sparse probability"),
    (losses.SparseCategoricalCrossentropy(ignore_class=2), "sparse probability"),
    (losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0, reduction="sum"), "sparse logit"),
]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("loss", "kind"), SMOOTH, ids=lambda value: getattr(value, "name", value))
def test_gradient_is_the_difference_quotient(loss, kind, weighted):
    rng = np.random.default_rng(3)
    shape = (3, 4, 5)
    y = probabilities(rng, shape) if "probability" in kind else rng.normal(size=shape) * 2
    true = rng.integers(0, 5, size=shape[:2]) if "sparse" in kind else rng.uniform(size=shape)
    extra = {}
    if weighted:
        extra = {"sample_weight": rng.uniform(0.5, 2, size=3), "mask": np.array([True, False, True])}
    value, gradient = loss.value_and_gradient(true, y, **extra)
    assert value == loss(true, y, **extra)
    truth = difference_quotients(lambda z: loss(true, z, **extra), y)
    np.testing.assert_allclose(gradient, truth, rtol=1e-6, atol=1e-8)
    assert np.abs(gradient).max() > 1e-3


def test_sparse_classes_in_another_axis():
    rng = np.random.default_rng(8)
    y, labels = probabilities(rng, (3, 4, 5)), rng.integers(0, 4, size=(3, 5))
    along = losses.SparseCategoricalCrossentropy(axis=1).value_and_gradient(labels, y)
    last = losses.SparseCategoricalCrossentropy().value_and_gradient(labels, np.moveaxis(y, 1, 2))
    assert along[0] == pytest.approx(last[0], rel=1e-14)
    np.testing.assert_allclose(along[1], np.moveaxis(last[1], 2, 1), rtol=1e-13)


# -- stability ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_logits_stay_finite(dtype):
    logits = np.array([[1e4, -1e4, 0.0]], dtype)
    value, gradient = losses.BinaryCrossentropy(from_logits=True).value_and_gradient([[0, 1, 1]], logits)
    assert value == pytest.approx((2e4 + np.log(2)) / 3, rel=1e-6)
    np.testing.assert_allclose(gradient, [[1 / 3, -1 / 3, -0.5 / 3]], rtol=1e-6)
    value, gradient = losses.CategoricalCrossentropy(from_logits=True).value_and_gradient([[0, 1, 0]], logits)
    assert value == 2e4
    np.testing.assert_array_equal(gradient, [[1, -1, 0]])
    value, gradient = losses.SparseCategoricalCrossentropy(from_logits=True).value_and_gradient([1], logits)
    assert value == 2e4
    np.testing.assert_array_equal(gradient, [[1, -1, 0]])


def test_small_logit_losses_keep_their_digits():
    value = losses.BinaryCrossentropy(from_logits=True)([[1.0]], np.array([[40.0]]))
    assert value == pytest.approx(np.exp(-40.0), rel=1e-12)


def test_certain_predictions_are_clipped():
    loss = losses.BinaryCrossentropy()
    value, gradient = loss.value_and_gradient([[1], [0]], np.array([[0.0], [1.0]]))
    assert value == pytest.approx(-np.log(1e-7), rel=1e-8)
    np.testing.assert_array_equal(gradient, 0)
    value, gradient = losses.SparseCategoricalCrossentropy().value_and_gradient([1], np.array([[1.0, 0.0]]))
    assert value == pytest.approx(-np.log(1e-7), rel=1e-8)
    np.testing.assert_array_equal(gradient, 0)


def test_epsilon_is_the_setting():
    before = settings.epsilon()
    try:
        settings.set_epsilon(1e-3)
        assert losses.BinaryCrossentropy()([[1.0]], np.array([[0.0]])) == pytest.approx(-np.log(1e-3))
    finally:
        settings.set_epsilon(before)


# -- weights, masks, dtypes ---------------------------------------------------------------------------------------------
def test_one_weight_for_all_steps_of_a_sample():
    rng = np.random.default_rng(2)
    true, y = rng.normal(size=(4, 4, 3)), rng.normal(size=(4, 4, 3))  # as many steps as samples
    weight = np.array([1.0, 0.0, 2.0, 0.5])
    per_step = np.mean((true - y) ** 2, axis=-1)
    assert losses.MeanSquaredError()(true, y, weight) == pytest.approx(np.mean(per_step * weight[:, None]), rel=1e-14)


def test_masked_steps_do_not_count():
    rng = np.random.default_rng(2)
    true, y = rng.normal(size=(2, 3, 3)), rng.normal(size=(2, 3, 3))
    mask = np.array([[True, True, False], [True, False, False]])
    value, gradient = losses.MeanSquaredError().value_and_gradient(true, y, mask=mask)
    assert value == pytest.approx(np.mean((true - y)[mask] ** 2), rel=1e-14)
    np.testing.assert_allclose(gradient[mask], 2 * (y - true)[mask] / (3 * 3), rtol=1e-13)
    np.testing.assert_array_equal(gradient[~mask], 0)


def test_ignored_labels_have_neither_value_nor_derivative():
    labels, y = np.array([1, -1]), np.array([[0.25, 0.75], [0.5, 0.5]])
    for from_logits in (False, True):
        found = loss_formulas.sparse_categorical_crossentropy(labels, y, from_logits, ignore_class=-1)
        assert found.values[0] > 0
        assert found.values[1] == 0
        assert found.mask is not None
        np.testing.assert_array_equal(found.mask, [True, False])
        gradient = found.pullback(np.ones(2))
        assert gradient[0, 1] < 0
        np.testing.assert_array_equal(gradient[1], 0)


def test_gradient_has_the_dtype_and_shape_of_the_predictions():
    for dtype in (np.float16, np.float32, np.float64):
        value, gradient = losses.MeanSquaredError().value_and_gradient(np.zeros(3), np.ones((3, 1), dtype))
        assert (gradient.dtype, gradient.shape) == (dtype, (3, 1))
        assert value == 1
    assert losses.MeanSquaredError(dtype="float64")(np.zeros((1, 1)), np.ones((1, 1), np.float32)).dtype == np.float64
    assert losses.MeanSquaredError(dtype="float32")(np.zeros((1, 1)), np.ones((1, 1))).dtype == np.float32


def test_functions_give_one_value_per_sample():
    true, y = np.array([[0.0, 2.0], [1.0, 1.0]]), np.array([[1.0, 5.0], [1.0, 1.0]])
    np.testing.assert_array_equal(losses.mean_squared_error(true, y), [5, 0])
    np.testing.assert_array_equal(losses.mean_absolute_error(true, y), [2, 0])
    np.testing.assert_array_equal(losses.huber(true, y), [1.5, 0])
    np.testing.assert_allclose(losses.binary_crossentropy([[1]], [[0.5]]), [np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(losses.categorical_crossentropy([[0, 1]], [[3.0, 1.0]]), [np.log(4)], rtol=1e-6)
    np.testing.assert_allclose(losses.sparse_categorical_crossentropy([1], [[3.0, 1.0]]), [np.log(4)], rtol=1e-6)


# -- names and configs --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mse", losses.mean_squared_error),
        ("MSE", losses.mean_squared_error),
        ("mean_squared_error", losses.mean_squared_error),
        ("mae", losses.mean_absolute_error),
        ("mean_absolute_error", losses.mean_absolute_error),
        ("huber", losses.huber),
        ("bce", losses.binary_crossentropy),
        ("binary_crossentropy", losses.binary_crossentropy),
        ("categorical_crossentropy", losses.categorical_crossentropy),
        ("sparse_categorical_crossentropy", losses.sparse_categorical_crossentropy),
    ],
)
def test_names_of_functions(name, expected):
    assert losses.get(name) is expected
    resolved = losses.resolve(name)
    assert (resolved.name, resolved.fn) == (name, expected)


@pytest.mark.parametrize("cls", CLASSES)
def test_names_of_classes(cls):
    assert type(losses.get(cls.__name__)) is cls
    assert type(losses.resolve(cls.__name__)) is cls
    assert type(losses.get({"class_name": cls.__name__, "config": {"reduction": "sum"}})) is cls
    assert losses.get(None) is None


@pytest.mark.parametrize(
    ("loss", "config"),
    [
        (losses.MeanSquaredError(), {"name": "mean_squared_error", "reduction": "sum_over_batch_size"}),
        (losses.Huber(2.0), {"name": "huber_loss", "reduction": "sum_over_batch_size", "delta": 2.0}),
        (
            losses.BinaryCrossentropy(True, 0.1, name="b", reduction="sum"),
            {"name": "b", "reduction": "sum", "from_logits": True, "label_smoothing": 0.1, "axis": -1},
        ),
        (
            losses.SparseCategoricalCrossentropy(ignore_class=3),
            {
                "name": "sparse_categorical_crossentropy",
                "reduction": "sum_over_batch_size",
                "from_logits": False,
                "ignore_class": 3,
            },
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_configs(loss, config):
    assert loss.get_config() == config
    serialized = losses.serialize(loss)
    assert serialized["module"] == "keras.losses"
    again = losses.deserialize(json.loads(json.dumps(serialized)))
    assert (type(again), again.get_config()) == (type(loss), config)


def test_functions_in_dicts():
    assert losses.deserialize(losses.serialize(losses.huber)) is losses.huber
    wrapper = losses.LossFunctionWrapper(losses.huber, delta=3.0)
    again = losses.deserialize(losses.serialize(wrapper))
    assert again.get_config() == wrapper.get_config()
    assert again([[0.0]], [[10.0]]) == 3 * 10 - 4.5


@pytest.mark.parametrize("name", ["crossentropy", "ce"])
def test_crossentropy_by_the_shapes(name):
    def chosen(true, pred):
        return losses.resolve(name, np.zeros(true), np.zeros(pred)).fn

    assert chosen((3, 1), (3, 1)) is losses.binary_crossentropy
    assert chosen((3,), (3, 4)) is losses.sparse_categorical_crossentropy
    assert chosen((3, 1), (3, 4)) is losses.sparse_categorical_crossentropy
    assert chosen((3, 4), (3, 4)) is losses.categorical_crossentropy


def test_own_losses():
    class Linear(losses.Loss):
        def call(self, y_true, y_pred):
            return np.sum(y_pred - y_true, axis=-1)

    assert Linear(reduction="sum")(np.zeros((2, 2)), np.ones((2, 2)), [1, 3]) == 8
    with pytest.raises(NotImplementedError, match="evaluate"):
        Linear().value_and_gradient(np.zeros((2, 2)), np.ones((2, 2)))
    own = losses.resolve(lambda y_true, y_pred: np.sum(y_pred - y_true, axis=-1))
    assert own(np.zeros((2, 2)), np.ones((2, 2))) == 2
    with pytest.raises(ValueError, match=r"no gradient.*mean_squared_error"):
        own.value_and_gradient(np.zeros((2, 2)), np.ones((2, 2)))


# -- bad input ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.get("mean_cubed_error"), r"Unknown loss: 'mean_cubed_error'.*Known:.*mse"),
        (lambda: losses.get(3), r"loss identifier: 3.*Known"),
        (lambda: losses.resolve(None), r"`loss`.*Known"),
        (lambda: losses.MeanSquaredError("average"), r"`reduction`.*sum_over_batch_size.*'average'"),
        (lambda: losses.mean_squared_error(np.zeros((3, 1)), np.zeros((3, 2))), r"y_true\.shape=\(3, 1\).*\(3, 2\)"),
        (lambda: losses.mean_squared_error(np.zeros(2), np.zeros((3, 2))), r"`y_true` and `y_pred`"),
        (lambda: losses.mean_squared_error(np.zeros((0, 2)), np.zeros((0, 2))), r"`y_pred` is empty"),
        (lambda: losses.MeanAbsoluteError()(np.zeros((0, 2)), np.zeros((0, 2))), r"`y_pred` is empty"),
        (lambda: losses.huber([[0.0]], [[0.0]], delta=0), r"`delta`"),
        (lambda: losses.binary_crossentropy([[2]], [[0.5]]), r"`y_true`.*0 and 1.*2"),
        (lambda: losses.binary_crossentropy([[1]], [[0.5]], label_smoothing=1.5), r"`label_smoothing`.*1\.5"),
        (lambda: losses.binary_crossentropy([[1]], [[0.5]], axis=2), r"`axis`.*axis=2"),
        (lambda: losses.categorical_crossentropy([[1, 0]], [[0.5, 0.5]], axis=True), r"`axis`.*True"),
        (lambda: losses.categorical_crossentropy([1, 0], [[0.5, 0.5], [0.5, 0.5]]), r"same shape"),
        (lambda: losses.sparse_categorical_crossentropy([2], [[0.5, 0.5]]), r"class numbers from 0 to 1.*from 2 to 2"),
        (lambda: losses.sparse_categorical_crossentropy([-1, 0], np.ones((2, 2))), r"from -1 to 0"),
        (lambda: losses.sparse_categorical_crossentropy([5, -1], np.ones((2, 2)), ignore_class=-1), r"ignore_class=-1"),
        (lambda: losses.sparse_categorical_crossentropy([0.5], [[0.5, 0.5]]), r"no whole numbers"),
        (lambda: losses.sparse_categorical_crossentropy([np.nan], [[0.5, 0.5]]), r"no whole numbers"),
        (lambda: losses.sparse_categorical_crossentropy([[0, 1]], [[0.5, 0.5]]), r"without the axis of classes, \(1,\)"),
        (lambda: losses.MeanSquaredError()(np.zeros((3, 2)), np.zeros((3, 2)), np.ones(2)), r"`sample_weight` of shape \(2,\)"),
        (lambda: losses.MeanSquaredError()(np.zeros((3, 2)), np.zeros((3, 2)), mask=np.ones((3, 2))), r"`mask` of shape"),
        (lambda: losses.MeanSquaredError(None).value_and_gradient([[0]], [[0.0]]), r"`reduction`.*None"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_labels_that_are_no_numbers():
    with pytest.raises(TypeError, match="real numbers"):
        losses.mean_squared_error([["a"]], [[0.0]])


def test_one_class_is_worth_a_warning():
    with pytest.warns(SyntaxWarning, match="binary_crossentropy"):
        losses.categorical_crossentropy([[1]], [[0.5]])
