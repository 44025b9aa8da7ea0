"""Activations against Keras' golden values, float64 central differences, literal subgradients and ``math.erf``."""

import functools
import json
import math
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import fastlstm.activations as activations
from fastlstm.numerics import erf, erfc

DATA = Path(__file__).parent / "data"
GOLDEN = np.load(DATA / "pieces.npz")
CASES = json.loads((DATA / "pieces.json").read_text())["activations"]
IDS = [case["key"] for case in CASES]

NAMES = (
    "celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu linear log_sigmoid "
    "log_softmax mish relu relu6 selu sigmoid silu soft_shrink softmax softplus softsign sparse_plus sparse_sigmoid "
    "sparsemax squareplus swish tanh tanh_shrink threshold"
).split()
AXIS = ("softmax", "log_softmax", "sparsemax", "glu")
ELEMENTWISE = [name for name in NAMES if name not in (*AXIS, "threshold")]
ELEMENTWISE_CASES = [case for case in CASES if case["name"] not in AXIS]


@pytest.fixture(autouse=True)
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def distance(a, b):
    """max |a - b| / max(1, |b|)."""
    assert a.shape == b.shape
    return np.max(np.abs(a.astype("f8") - b) / np.maximum(1.0, np.abs(b)))


def golden_input(case, dtype):
    x = GOLDEN["act/x"].astype(dtype)
    return x[:, :-1] if case["name"] == "glu" else x


def expected(case):
    """What Keras computes; for sparsemax the corrected values, since Keras up to 3.15.1 is wrong."""
    fixed = f"act/{case['key']}/y_fixed"
    return GOLDEN[fixed if fixed in GOLDEN else f"act/{case['key']}/y"]


# -- values -----------------------------------------------------------------------------------------------------------
def test_names_are_exactly_those_of_keras():
    assert activations.names() == NAMES
    assert {case["name"] for case in CASES} == set(NAMES)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_golden_float32(case):
    y = activations.get(case["name"])(golden_input(case, "f4"), **case["kwargs"])
    assert y.dtype == np.float32
    assert distance(y, expected(case)) < 2e-5


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_golden_float64(case):
    y = activations.get(case["name"])(golden_input(case, "f8"), **case["kwargs"])
    assert y.dtype == np.float64
    assert distance(y, expected(case)) < (1e-7 if case["kwargs"] else 1e-9)  # Keras rounds keyword constants to float32


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("case", ELEMENTWISE_CASES, ids=[case["key"] for case in ELEMENTWISE_CASES])
def test_golden_at_the_knots(case, dtype):
    y = activations.get(case["name"])(GOLDEN["act/knots"].astype(dtype), **case["kwargs"])
    assert distance(y, GOLDEN[f"act/{case['key']}/y_knots"]) < 3e-6


@pytest.mark.parametrize(
    ("name", "options", "formula"),
    [
        ("leaky_relu", {"negative_slope": 0.05}, lambda v: v if v >= 0 else 0.05 * v),
        ("elu", {"alpha": 2.0}, lambda v: v if v >= 0 else 2.0 * math.expm1(v)),
        ("celu", {"alpha": 0.3}, lambda v: max(v, 0.0) + 0.3 * math.expm1(min(v, 0.0) / 0.3)),
        ("gelu", {"approximate": True}, lambda v: 0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))),
        ("gelu", {}, lambda v: 0.5 * v * math.erfc(-v / math.sqrt(2))),
        ("squareplus", {"b": 0.3}, lambda v: (v + math.sqrt(v * v + 0.3)) / 2),
        ("squareplus", {"b": 0}, lambda v: max(v, 0.0)),
        ("relu", {"threshold": -0.7}, lambda v: v if v > -0.7 else 0.0),
        ("relu", {"negative_slope": 0.1, "threshold": 0.7}, lambda v: v if v > 0.7 else -0.1 * (0.7 - v)),
        ("hard_shrink", {"threshold": 0.1}, lambda v: v if abs(v) > 0.1 else 0.0),
        ("soft_shrink", {"threshold": 0.1}, lambda v: math.copysign(max(abs(v) - 0.1, 0.0), v)),
        ("threshold", {"threshold": 0.3, "default_value": 7.0}, lambda v: v if v > 0.3 else 7.0),
        ("selu", {}, lambda v: 1.0507009873554805 * (v if v >= 0 else 1.6732632423543772 * math.expm1(v))),
    ],
)
def test_float64_is_real_float64(name, options, formula):
    x = np.linspace(-5, 5, 101)
    np.testing.assert_allclose(activations.get(name)(x, **options), [formula(v) for v in x.tolist()], rtol=1e-13, atol=1e-15)


def test_sparsemax_is_the_projection_on_the_simplex():
    np.testing.assert_allclose(activations.sparsemax(np.array([1.0, 0.9, 0.1])), [0.55, 0.45, 0.0], atol=1e-15)
    x = np.random.default_rng(0).normal(size=(5, 7, 6)) * 3
    for axis in (-1, 0, 1):
        y = activations.sparsemax(x, axis=axis)
        np.testing.assert_allclose(y.sum(axis), 1.0, atol=1e-14)
        moved, shift = np.moveaxis(y, axis, -1), np.moveaxis(x - y, axis, -1)
        tau = np.max(shift, axis=-1, keepdims=True)  # x - y is tau on the support and below tau off it
        np.testing.assert_allclose(np.where(moved > 0, shift, tau), np.broadcast_to(tau, moved.shape), atol=1e-14)


def test_stable_where_the_plain_formula_is_not():
    big = np.array([-1e4, -200.0, 200.0, 1e4], "f4")
    np.testing.assert_array_equal(activations.sigmoid(big), np.array([0, 0, 1, 1], "f4"))
    np.testing.assert_array_equal(activations.softplus(big), np.array([0, 0, 200, 1e4], "f4"))
    np.testing.assert_array_equal(activations.log_sigmoid(big), np.array([-1e4, -200, 0, 0], "f4"))
    np.testing.assert_array_equal(activations.softmax(big), np.array([0, 0, 0, 1], "f4"))
    np.testing.assert_array_equal(activations.log_softmax(big), np.array([-2e4, -10200, -9800, 0], "f4"))
    np.testing.assert_array_equal(activations.squareplus(np.array([3e38], "f4")), np.array([3e38], "f4"))
    np.testing.assert_allclose(activations.squareplus(np.array([-1e9])), [1e-9], rtol=1e-12)
    np.testing.assert_allclose(activations.softplus(np.array([-40.0])), [math.exp(-40)], rtol=1e-14)
    np.testing.assert_allclose(activations.sigmoid(np.array([-700.0])), [math.exp(-700)], rtol=1e-13)
    np.testing.assert_allclose(activations.gelu(np.array([-10.0])), [-5 * math.erfc(10 / math.sqrt(2))], rtol=1e-12)
    np.testing.assert_allclose(activations.elu(np.array([-1e-12])), [-1e-12], rtol=1e-11)


@pytest.mark.parametrize("name", [*ELEMENTWISE, *AXIS])
def test_no_warning_for_extreme_values_and_nan_stays_nan(name):
    f = activations.get(name)
    for dtype in ("f4", "f8"):
        large = np.finfo(dtype).max
        x = np.array([[-np.inf, np.inf, -large, large, -1e-40, 1e-40, 0.0, np.nan]], dtype)
        y = f(x)
        activations.vjp(f)(x, y, np.ones_like(y))
        assert np.isnan(y[0, -1])
    if name in ELEMENTWISE:
        x = np.array([np.nan, 1.5])
        assert np.isnan(activations.derivative(f)(x, f(x))).tolist() == ([False, False] if name == "linear" else [True, False])


def test_infinities_follow_the_formulas():
    ends = np.array([-np.inf, np.inf], "f4")
    for name, values in {
        "tanh": [-1, 1],
        "sigmoid": [0, 1],
        "relu": [0, np.inf],
        "relu6": [0, 6],
        "elu": [-1, np.inf],
        "hard_sigmoid": [0, 1],
        "softplus": [0, np.inf],
        "exponential": [0, np.inf],
        "silu": [np.nan, np.inf],
        "softsign": [np.nan, np.nan],
        "sparse_plus": [0, np.inf],
    }.items():
        np.testing.assert_array_equal(activations.get(name)(ends), np.array(values, "f4"), err_msg=name)


@pytest.mark.parametrize("name", [*ELEMENTWISE, *AXIS])
def test_dtypes(name):
    f, x = activations.get(name), np.linspace(-3, 3, 24).reshape(4, 6)
    exact = f(x)
    for dtype, ulp in (("f2", 2.0**-11), (ml_dtypes.bfloat16, 2.0**-8)):
        rough = f(x.astype(dtype))
        assert rough.dtype == dtype
        assert np.array_equal(rough, f(x.astype(dtype).astype("f4")).astype(dtype))  # one rounding, after float32
        assert distance(rough, f(x.astype(dtype).astype("f8"))) < 2 * ulp
    for other in (np.asfortranarray(x), x.astype(">f8"), x[::-1][::-1], list(map(list, x))):
        y = f(other)
        assert y.dtype == (np.float64 if hasattr(other, "dtype") else np.float32)
        assert distance(y, exact) < 1e-6
    integers = np.arange(-4, 4).reshape(2, 4)
    assert f(integers).dtype == np.float32
    np.testing.assert_array_equal(f(integers), f(integers.astype("f4")))
    if name in ELEMENTWISE:
        assert f(np.float32(0.3)).shape == ()
        assert f(np.empty((0, 3), "f4")).shape == (0, 3)
        assert f(x) is not x
        assert not np.shares_memory(f(x), x)


def test_not_numbers():
    with pytest.raises(TypeError, match="complex"):
        activations.tanh(np.array([1j]))
    with pytest.raises(TypeError, match="real numbers"):
        activations.tanh(np.array(["a"]))


def test_glu_needs_an_even_axis():
    with pytest.raises(ValueError, match=r"even number.*\(3, 5\)"):
        activations.glu(np.zeros((3, 5)))
    assert activations.glu(np.zeros((4, 5)), axis=0).shape == (2, 5)


def test_threshold_by_name_fails_when_called():
    with pytest.raises(TypeError, match="threshold"):
        activations.get("threshold")(np.zeros(3))


# -- erf --------------------------------------------------------------------------------------------------------------
def test_erf_and_erfc_against_the_c_library():
    x = np.concatenate([np.linspace(-6, 26.5, 20011), 10.0 ** np.linspace(-300, 0, 500), [-0.0, 0.0, 1.0, -1.0, 40.0, -40.0]])
    for ours, exact, ulps in ((erf, math.erf, 3), (erfc, math.erfc, 8)):
        truth = np.array([exact(v) for v in x.tolist()])
        assert np.max(np.abs(ours(x) - truth) / np.spacing(np.abs(truth))) <= ulps
    np.testing.assert_array_equal(erf(np.array([np.nan, np.inf, -np.inf])), [np.nan, 1, -1])
    np.testing.assert_array_equal(erfc(np.array([np.nan, np.inf, -np.inf])), [np.nan, 0, 2])
    assert np.signbit(erf(np.array([-0.0])))[0]
    assert erf(np.float32(0.5)).dtype == np.float32


# -- derivatives ------------------------------------------------------------------------------------------------------
def central(f, x, h=1e-5):
    """Directional difference quotient of every entry, fourth order."""
    return (8 * (f(x + h) - f(x - h)) - (f(x + 2 * h) - f(x - 2 * h))) / (12 * h)


SMOOTH_POINTS = np.array(
    [-7.3, -4.1, -3.2, -2.9, -1.7, -1.1, -0.93, -0.61, -0.44, -0.2, 0.13, 0.37, 0.58, 0.9, 1.2, 1.9, 2.7, 3.3, 5.7, 6.4]
)


@pytest.mark.parametrize("case", ELEMENTWISE_CASES, ids=[case["key"] for case in ELEMENTWISE_CASES])
def test_derivative_is_the_difference_quotient(case):
    f, x, options = activations.get(case["name"]), SMOOTH_POINTS, case["kwargs"]
    truth, y = central(lambda v: f(v, **options), x), f(x, **options)
    np.testing.assert_allclose(activations.derivative(case["name"])(x, y, **options), truth, rtol=1e-8, atol=1e-8)
    dy = np.linspace(-2, 2, x.size)
    np.testing.assert_allclose(activations.vjp(f)(x, y, dy, **options), dy * truth, rtol=1e-8, atol=2e-8)


@pytest.mark.parametrize(
    ("name", "options", "points", "values"),
    [
        ("relu", {}, [0.0], [0.0]),
        ("relu", {"max_value": 2.5}, [0.0, 2.5], [0.0, 0.0]),
        ("relu", {"negative_slope": 0.1}, [0.0], [0.1]),
        ("relu", {"threshold": 0.7}, [0.7], [0.0]),
        ("relu6", {}, [0.0, 6.0], [0.0, 0.0]),
        ("leaky_relu", {}, [0.0], [0.2]),
        ("elu", {}, [0.0], [1.0]),
        ("elu", {"alpha": 2.0}, [0.0], [2.0]),
        ("celu", {"alpha": 0.5}, [0.0], [1.0]),
        ("selu", {}, [0.0], [1.0507009873554805 * 1.6732632423543772]),
        ("hard_sigmoid", {}, [-3.0, 3.0], [0.0, 0.0]),
        ("hard_silu", {}, [-3.0, 3.0], [0.0, 1.0]),
        ("hard_tanh", {}, [-1.0, 1.0], [1.0, 1.0]),
        ("hard_shrink", {}, [-0.5, 0.5], [0.0, 0.0]),
        ("soft_shrink", {}, [-0.5, 0.5], [0.0, 0.0]),
        ("sparse_plus", {}, [-1.0, 1.0], [0.0, 1.0]),
        ("sparse_sigmoid", {}, [-1.0, 1.0], [0.0, 0.0]),
        ("threshold", {"threshold": 0.3, "default_value": -7.0}, [0.3], [0.0]),
    ],
)
def test_subgradients_at_the_kinks(name, options, points, values):
    x = np.array(points)
    np.testing.assert_array_equal(activations.derivative(name)(x, activations.get(name)(x, **options), **options), values)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("case", [c for c in CASES if c["name"] != "sparsemax"], ids=[k for k in IDS if "sparsemax" not in k])
def test_golden_vjp(case, dtype):
    """sparsemax is left out: Keras' gradient is that of its wrong function (central differences below)."""
    x = golden_input(case, dtype)
    y = activations.get(case["name"])(x, **case["kwargs"])
    dy = GOLDEN["act/R"].astype(dtype)[:, : y.shape[1]]
    dx = activations.vjp(case["name"])(x, y, dy, **case["kwargs"])
    assert dx.dtype == dtype
    rounded = case["kwargs"] or case["name"] == "hard_sigmoid"  # Keras keeps keyword constants, and this 1/6, in float32
    assert distance(dx, GOLDEN[f"act/{case['key']}/vjpR"]) < (2e-5 if dtype == "f4" else 2e-7 if rounded else 1e-8)


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("name", AXIS)
def test_axis_vjp_is_the_difference_quotient(name, axis):
    rng = np.random.default_rng(7)
    x, f = rng.normal(size=(4, 6, 8)), activations.get(name)
    y = f(x, axis=axis)
    dy = rng.normal(size=y.shape)
    truth, h = np.empty_like(x), 1e-6
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = h
        truth[index] = np.sum(dy * (f(x + step, axis=axis) - f(x - step, axis=axis))) / (2 * h)
    np.testing.assert_allclose(activations.vjp(name)(x, y, dy, axis=axis), truth, rtol=1e-7, atol=1e-8)


def test_vjp_keeps_the_dtype():
    for dtype in ("f2", "f4", "f8", ml_dtypes.bfloat16):
        x = np.linspace(-2, 2, 6).astype(dtype)
        for name in [*ELEMENTWISE, *AXIS]:
            y = activations.get(name)(x)
            assert activations.vjp(name)(x, y, np.ones_like(y)).dtype == x.dtype


def test_derivatives_that_do_not_exist():
    def my_own(x):
        return x

    for door in (activations.derivative, activations.vjp):
        with pytest.raises(NotImplementedError, match="my_own"):
            door(my_own)
        with pytest.raises(NotImplementedError, match="tanh"):
            door(np.tanh)
    for name in AXIS:
        with pytest.raises(ValueError, match=f"'{name}'.*vjp"):
            activations.derivative(name)


# -- by name ----------------------------------------------------------------------------------------------------------
def test_get():
    assert activations.get(None) is activations.linear
    for name in NAMES:
        assert activations.get(name) is getattr(activations, name)
    assert activations.get(np.tanh) is np.tanh
    assert activations.get({"module": "builtins", "class_name": "function", "config": "relu", "registered_name": "function"}) is (
        activations.relu
    )


@pytest.mark.parametrize("bad", ["Tanh", "ReLU", "nope", "", "get", "np", 3, 1.5, ["tanh"], b"tanh"])
def test_get_of_something_else(bad):
    with pytest.raises(ValueError, match="Known: celu, elu" if isinstance(bad, str) else "identifier"):
        activations.get(bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"module": "keras.layers", "class_name": "LeakyReLU", "config": {"negative_slope": 0.3}},
        {"class_name": "__lambda__", "config": {"value": "code"}},
        {"class_name": "function", "config": "<lambda>"},
        {"class_name": "relu"},
        {},
        {"class_name": "function", "config": ["relu"]},
    ],
)
def test_dicts_that_name_nothing_known(bad):
    with pytest.raises(ValueError, match="Unknown activation"):
        activations.get(bad)


class Scale:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return self.factor * x

    def get_config(self):
        return {"factor": self.factor}


def cube(x):
    return x**3


def test_serialize_and_back():
    for name in NAMES:
        text = activations.serialize(activations.get(name))
        assert text == {"swish": "silu", "hard_swish": "hard_silu"}.get(name, name)
        assert activations.deserialize(text) is activations.get(name)
    assert activations.serialize(None) == "linear"

    written = json.loads(json.dumps(activations.serialize(cube)))
    assert written == {"module": "builtins", "class_name": "function", "config": "cube", "registered_name": "function"}
    assert activations.deserialize(written, custom_objects={"cube": cube}) is cube
    with pytest.raises(ValueError, match="cube"):
        activations.deserialize(written)

    written = activations.serialize(Scale(3))
    assert written == {"module": __name__, "class_name": "Scale", "config": {"factor": 3}, "registered_name": None}
    assert activations.deserialize(written, custom_objects={"Scale": Scale}).factor == 3
    assert activations.deserialize({"class_name": "function", "config": "mine>cube"}, custom_objects={"cube": cube}) is cube
    assert "code" not in json.dumps(activations.serialize(lambda x: x))
    written = activations.serialize(np.tanh)
    assert written == {"module": "builtins", "class_name": "function", "config": "tanh", "registered_name": "function"}
    with pytest.raises(TypeError, match="get_config"):
        activations.serialize(functools.partial(cube))


def test_questions_about_an_activation():
    assert [name for name in NAMES if not activations.is_elementwise(name)] == ["glu", "log_softmax", "softmax", "sparsemax"]
    assert activations.is_elementwise(None)
    assert activations.is_elementwise(activations.swish)
    assert not activations.is_elementwise(cube)
    assert activations.name_of("swish") == activations.name_of(activations.swish) == "silu"
    assert activations.name_of("hard_swish") == "hard_silu"
    assert activations.name_of(None) == "linear"
    assert activations.name_of(cube) is None
    assert activations.name_of(np.tanh) is None
    with pytest.raises(ValueError, match="Unknown activation"):
        activations.name_of("Tanh")


def test_hard_sigmoid_of_keras_2():
    """clip(0.2 x + 0.5), for files of Keras 1 and 2; not among the names of Keras 3."""
    old = activations.get("hard_sigmoid_keras2")
    x = np.linspace(-4, 4, 161)
    np.testing.assert_allclose(old(x), np.clip(0.2 * x + 0.5, 0, 1), rtol=0, atol=1e-15)
    slope = activations.derivative(old)(x, old(x))
    np.testing.assert_array_equal(slope, np.where(np.abs(x) < 2.5 - 1e-9, 0.2, 0))
    assert activations.serialize(old) == "hard_sigmoid_keras2"
    assert "hard_sigmoid_keras2" not in activations.names()
