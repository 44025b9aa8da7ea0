"""Regularizers against Keras' golden values and gradients, and float64 central differences."""

import functools
import json
import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import fastlstm.regularizers as regularizers

DATA = Path(__file__).parent / "data"
GOLDEN = np.load(DATA / "pieces.npz")
CASES = json.loads((DATA / "pieces.json").read_text())["regularizers"]
IDS = [f"{case['cls']}{case['kwargs']}" for case in CASES]


def weights_of(key, what):
    """Names of the golden weights that case ``key`` was computed for."""
    return [name.split("/")[2] for name in GOLDEN.files if name.startswith(f"reg/{key}/") and name.endswith(what)]


@pytest.mark.parametrize(("dtype", "tolerance"), [("f4", 1e-6), ("f8", 1e-9)])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_golden_penalty(case, dtype, tolerance):
    regularizer = getattr(regularizers, case["cls"])(**case["kwargs"])
    names = weights_of(case["key"], "value")
    assert len(names) >= 2
    for name in names:
        penalty = regularizer(GOLDEN[f"w/{name}"].astype(dtype))
        assert penalty.dtype == dtype
        assert penalty.shape == ()
        np.testing.assert_allclose(penalty, GOLDEN[f"reg/{case['key']}/{name}/value"], rtol=tolerance * 10, atol=tolerance)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_golden_gradient(case):
    regularizer = getattr(regularizers, case["cls"])(**case["kwargs"])
    for name in weights_of(case["key"], "grad"):
        w = GOLDEN[f"w/{name}"]
        gradient = regularizer.gradient(w)
        assert gradient.dtype == np.float64
        np.testing.assert_allclose(gradient, GOLDEN[f"reg/{case['key']}/{name}/grad"], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_gradient_is_the_difference_quotient(case):
    regularizer = getattr(regularizers, case["cls"])(**case["kwargs"])
    w, h = np.random.default_rng(3).normal(size=(4, 5)), 1e-6
    truth = np.empty_like(w)
    for index in np.ndindex(w.shape):
        step = np.zeros_like(w)
        step[index] = h
        truth[index] = (regularizer(w + step) - regularizer(w - step)) / (2 * h)
    np.testing.assert_allclose(regularizer.gradient(w), truth, rtol=1e-6, atol=1e-9)


def test_formulas():
    w = np.array([[1.0, -2.0], [3.0, 0.0]])
    assert regularizers.L1(0.5)(w) == 3.0
    assert regularizers.L2(0.5)(w) == 7.0
    assert regularizers.L1L2(0.5, 0.25)(w) == 6.5
    assert regularizers.L1L2()(w) == 0.0
    assert regularizers.L1(None)(w) == regularizers.L1()(w) == pytest.approx(0.06, rel=1e-15)
    assert regularizers.L1L2(l1=None, l2=None).get_config() == {"l1": 0.0, "l2": 0.0}
    assert regularizers.OrthogonalRegularizer(0.5)(w) == pytest.approx(0.5 / math.sqrt(5), rel=1e-15)  # |(1,-2).(1,0)| / sqrt(5)
    columns = regularizers.OrthogonalRegularizer(0.5, mode="columns")
    assert columns(w) == pytest.approx(0.5 / math.sqrt(10), rel=1e-15)  # |(1,3).(-1,0)| / sqrt(10)
    rectangle = np.arange(6.0).reshape(2, 3)
    assert columns(rectangle) == pytest.approx(float(regularizers.OrthogonalRegularizer(0.5)(rectangle.T)), rel=1e-15)


@pytest.mark.filterwarnings("error")
def test_orthogonal_edges():
    regularizer = regularizers.OrthogonalRegularizer()
    for shape in ((3,), (2, 3, 4)):
        with pytest.raises(ValueError, match="two axes"):
            regularizer(np.ones(shape))
    assert np.isnan(regularizer(np.ones((1, 4), "f4")))
    assert regularizer(np.zeros((3, 4))) == 0.0
    assert np.isfinite(regularizer.gradient(np.zeros((3, 4)))).all()


def test_sixteen_bits_are_summed_in_float32():
    w = np.full(5000, 0.25)
    for dtype in ("f2", ml_dtypes.bfloat16):
        penalty = regularizers.L1(1.0)(w.astype(dtype))
        assert penalty.dtype == dtype
        assert float(penalty) == float(np.asarray(1250.0).astype(dtype))


@pytest.mark.parametrize("bad", [-1, -1e-9, math.nan, math.inf, "0.1", np.float32(0.1), np.int64(1), [0.1]])
def test_bad_coefficients(bad):
    for build in (
        lambda: regularizers.L1(bad),
        lambda: regularizers.L2(bad),
        lambda: regularizers.L1L2(l1=bad),
        lambda: regularizers.L1L2(l2=bad),
        lambda: regularizers.OrthogonalRegularizer(bad),
    ):
        with pytest.raises(ValueError, match=r"expected a non-negative float\. Received"):
            build()


def test_good_coefficients_and_bad_mode():
    assert regularizers.L2(1).get_config() == {"l2": 1.0}
    assert regularizers.L2(np.float64(0.5)).get_config() == {"l2": 0.5}
    with pytest.raises(ValueError, match=r"`mode`.*'row'"):
        regularizers.OrthogonalRegularizer(mode="row")


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_config_round_trip(case):
    regularizer = getattr(regularizers, case["cls"])(**case["kwargs"])
    written = json.loads(json.dumps(regularizers.serialize(regularizer)))
    assert list(written) == ["module", "class_name", "config", "registered_name"]
    assert (written["module"], written["class_name"], written["registered_name"]) == ("keras.regularizers", case["cls"], None)
    assert list(written["config"]) == list(case["config"])
    for key, value in case["config"].items():
        assert written["config"][key] == (value if key == "mode" else pytest.approx(value, rel=1e-7))
    again = regularizers.deserialize(written)
    assert type(again) is type(regularizer)
    assert again.get_config() == regularizer.get_config()
    assert regularizers.get(written).get_config() == regularizer.get_config()


def test_l1_and_orthogonal_write_float32_coefficients():
    assert regularizers.L1().get_config() == {"l1": 0.009999999776482582}
    assert regularizers.OrthogonalRegularizer().get_config() == {"factor": 0.009999999776482582, "mode": "rows"}
    assert regularizers.L2().get_config() == {"l2": 0.01}


def test_get():
    for name, kind in {
        "l1": "L1",
        "l2": "L2",
        "L1": "L1",
        "L2": "L2",
        "l1l2": "L1L2",
        "L1L2": "L1L2",
        "OrthogonalRegularizer": "OrthogonalRegularizer",
        "orthogonal_regularizer": "OrthogonalRegularizer",
    }.items():
        assert type(regularizers.get(name)) is getattr(regularizers, kind)
    assert regularizers.get(None) is None
    assert regularizers.serialize(None) is None
    assert regularizers.deserialize(None) is None
    instance = regularizers.l1_l2(0.1, 0.2)
    assert regularizers.get(instance) is instance
    assert type(regularizers.get(regularizers.L2)) is regularizers.L2
    assert regularizers.get(np.sum) is np.sum


@pytest.mark.parametrize(
    "bad",
    [
        "l1_l2",
        "L3",
        "",
        "Regularizer",
        0.01,
        ["l1"],
        {},
        {"class_name": "nope", "config": {}},
        {"class_name": 3},
        {"class_name": "L1", "config": {"l3": 0.1}},
        {"class_name": "L1", "config": [1]},
        {"class_name": "L1", "config": {"l1": -1.0}},
        {"class_name": "function", "config": "my_penalty"},
    ],
)
def test_get_of_something_else(bad):
    with pytest.raises(ValueError, match=r"regularizer|l1"):
        regularizers.get(bad)


def my_penalty(w):
    return np.sum(w)


class MyRegularizer(regularizers.Regularizer):
    def __init__(self, k):
        self.k = k

    def _penalty(self, x):
        return self.k * np.sum(x)

    def get_config(self):
        return {"k": self.k}


def test_a_callers_own():
    written = regularizers.serialize(my_penalty)
    assert written == {"module": "builtins", "class_name": "function", "config": "my_penalty", "registered_name": "function"}
    assert regularizers.deserialize(written, custom_objects={"my_penalty": my_penalty}) is my_penalty
    written = regularizers.serialize(MyRegularizer(2))
    assert written == {"module": __name__, "class_name": "MyRegularizer", "config": {"k": 2}, "registered_name": None}
    again = regularizers.deserialize(
        {**written, "class_name": "pack>MyRegularizer"}, custom_objects={"MyRegularizer": MyRegularizer}
    )
    assert again(np.ones(3, "f4")) == 6.0
    with pytest.raises(TypeError, match="get_config"):
        regularizers.serialize(functools.partial(my_penalty))
    with pytest.raises(NotImplementedError, match="MyRegularizer"):
        again.gradient(np.ones(3))
