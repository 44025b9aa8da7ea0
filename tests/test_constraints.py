"""Constraints against Keras' golden values and the written-out formulas."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import fastlstm.constraints as constraints
from fastlstm import settings

DATA = Path(__file__).parent / "data"
GOLDEN = np.load(DATA / "pieces.npz")
CASES = json.loads((DATA / "pieces.json").read_text())["constraints"]
IDS = [f"{case['cls']}{case['kwargs']}" for case in CASES]


@pytest.mark.parametrize(("dtype", "tolerance"), [("f4", 2e-6), ("f8", 1e-7)])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_golden(case, dtype, tolerance):
    constraint = getattr(constraints, case["cls"])(**case["kwargs"])
    names = [name.split("/")[2] for name in GOLDEN.files if name.startswith(f"con/{case['key']}/")]
    assert len(names) >= 4
    for name in names:
        w = GOLDEN[f"w/{name}"].astype(dtype)
        before = w.copy()
        constrained = constraint(w)
        assert constrained.dtype == dtype
        np.testing.assert_allclose(constrained, GOLDEN[f"con/{case['key']}/{name}/y"], rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(w, before)


def test_formulas_in_float64():
    w, eps = np.array([[3.0, 0.1], [-4.0, 0.2]]), 1e-7
    norm = np.array([[5.0, np.sqrt(0.05)]])
    np.testing.assert_allclose(constraints.MaxNorm(2.0)(w), w * np.minimum(norm, 2) / (eps + norm), rtol=1e-15)
    np.testing.assert_allclose(constraints.UnitNorm()(w), w / (eps + norm), rtol=1e-15)
    target = 0.3 * np.clip(norm, 0.5, 1.5) + 0.7 * norm
    np.testing.assert_allclose(constraints.MinMaxNorm(0.5, 1.5, rate=0.3)(w), w * target / (eps + norm), rtol=1e-15)
    np.testing.assert_array_equal(constraints.NonNeg()(w), [[3.0, 0.1], [0.0, 0.2]])
    np.testing.assert_allclose(constraints.UnitNorm(axis=[0, 1])(w), w / (eps + np.sqrt(25.05)), rtol=1e-15)
    np.testing.assert_array_equal(constraints.UnitNorm()(np.zeros((3, 2))), np.zeros((3, 2)))
    with pytest.raises(NotImplementedError, match="Constraint"):
        constraints.Constraint()(w)


def test_epsilon_is_the_setting():
    old = settings.epsilon()
    try:
        settings.set_epsilon(1.0)
        np.testing.assert_allclose(constraints.UnitNorm()(np.array([3.0, 4.0])), [0.5, 4 / 6], rtol=1e-15)
    finally:
        settings.set_epsilon(old)


def test_sixteen_bits_keep_their_dtype():
    w = np.full((400, 2), 20.0)
    for dtype in ("f2", ml_dtypes.bfloat16):  # the sum of squares, 160000, overflows float16
        constrained = constraints.UnitNorm()(w.astype(dtype))
        assert constrained.dtype == dtype
        np.testing.assert_allclose(constrained.astype("f8"), 0.05, rtol=2.0**-8)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_config_round_trip(case):
    constraint = getattr(constraints, case["cls"])(**case["kwargs"])
    written = json.loads(json.dumps(constraints.serialize(constraint)))
    assert written == {
        "module": "keras.constraints",
        "class_name": case["cls"],
        "config": case["config"],
        "registered_name": None,
    }
    assert list(written["config"]) == list(case["config"])
    again = constraints.deserialize(written)
    w = np.random.default_rng(0).normal(size=(3, 4))
    np.testing.assert_array_equal(again(w), constraint(w))


def test_get():
    for kind, name in {"MaxNorm": "max_norm", "NonNeg": "non_neg", "UnitNorm": "unit_norm", "MinMaxNorm": "min_max_norm"}.items():
        cls = getattr(constraints, kind)
        assert type(constraints.get(kind)) is type(constraints.get(name)) is type(constraints.get(cls)) is cls
        assert getattr(constraints, name) is cls
    assert constraints.get(None) is None
    assert constraints.serialize(None) is None
    assert constraints.get("max_norm").max_value == 2
    instance = constraints.MaxNorm(3)
    assert constraints.get(instance) is instance
    assert constraints.get(np.abs) is np.abs


@pytest.mark.parametrize(
    "bad", ["maxnorm", "MAX_NORM", "", 2, {"class_name": "No"}, {"class_name": "MaxNorm", "config": {"m": 1}}, {}]
)
def test_get_of_something_else(bad):
    with pytest.raises(ValueError, match="constraint"):
        constraints.get(bad)
