"""Initializers against Keras' golden values and statistics; seeds, config and errors; the random number generators."""

import functools
import json
import math
import random as python_random
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import fastlstm.initializers as initializers
from fastlstm import settings
from fastlstm.random import SeedGenerator, dropout_mask

DATA = Path(__file__).parent / "data"
GOLDEN = np.load(DATA / "pieces.npz")
CASES = json.loads((DATA / "pieces.json").read_text())["initializers"]
FIXED = [case for case in CASES if case["kind"] == "deterministic"]
RANDOM = [case for case in CASES if case["kind"] == "random"]
BOUNDED = [case for case in RANDOM if case["cls"] not in ("RandomNormal", "Orthogonal", "VarianceScaling")]
ORTHOGONAL = [case for case in RANDOM if case["cls"] == "Orthogonal"]


def label(case):
    return f"{case['cls']}{case['kwargs']}{case['shape']}"


def build(case, **more):
    return getattr(initializers, case["cls"])(**case["kwargs"], **more)


# -- values -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", FIXED, ids=label)
def test_golden_values(case, dtype):
    value = build(case)(case["shape"], dtype=dtype)
    assert value.dtype == dtype
    np.testing.assert_allclose(value, GOLDEN[f"init/{case['key']}/value"], rtol=0, atol=3e-7)


@pytest.mark.parametrize("case", RANDOM, ids=label)
def test_statistics_are_those_of_keras(case):
    value = build(case, seed=12345)(case["shape"], dtype="float32")
    stats = case["stats"]
    assert value.shape == tuple(case["shape"])
    assert value.dtype == np.float32
    assert abs(value.mean() - stats["mean"]) < 8 * stats["std"] / math.sqrt(stats["n"]) + 1e-7
    assert abs(value.std() - stats["std"]) < 8 * stats["std"] / math.sqrt(2 * stats["n"])


@pytest.mark.parametrize("case", BOUNDED, ids=label)
def test_range_is_that_of_keras(case):
    value, stats = build(case, seed=5)(case["shape"], dtype="float64"), case["stats"]
    span = stats["max"] - stats["min"]
    for got, want in ((value.min(), stats["min"]), (value.max(), stats["max"])):
        assert abs(got - want) < 0.01 * span


@pytest.mark.parametrize("case", ORTHOGONAL, ids=label)
def test_orthogonal_gram_matrix(case):
    for dtype, tolerance in (("float32", 1e-5), ("float64", 1e-13)):
        value = build(case, seed=1)(case["shape"], dtype=dtype)
        matrix = value.reshape(-1, value.shape[-1]).astype("f8")
        gram = matrix @ matrix.T if case["stats"]["gram_side"] == "rows" else matrix.T @ matrix
        np.testing.assert_allclose(gram, np.eye(len(gram)) * case["kwargs"].get("gain", 1.0) ** 2, atol=tolerance)


def test_orthogonal_law_has_no_preferred_sign():
    heads = [initializers.Orthogonal(seed=seed)((3, 5), dtype="float64")[0, 0] for seed in range(400)]
    assert abs(np.mean(heads)) < 5 * np.std(heads) / 20  # without the sign correction QR makes the diagonal negative
    assert 150 < np.sum(np.array(heads) > 0) < 250


@pytest.mark.parametrize(
    ("name", "shape", "bound"),
    [
        ("glorot_uniform", (60, 400), math.sqrt(6 / 460)),
        ("glorot_uniform", (5, 20, 160), math.sqrt(6 / (5 * 20 + 5 * 160))),
        ("he_uniform", (60, 400), math.sqrt(6 / 60)),
        ("lecun_uniform", (5, 20, 160), math.sqrt(3 / 100)),
        ("glorot_normal", (60, 400), 2 * math.sqrt(2 / 460) / 0.87962566103423978),
        ("he_normal", (60, 400), 2 * math.sqrt(2 / 60) / 0.87962566103423978),
        ("lecun_normal", (60, 400), 2 * math.sqrt(1 / 60) / 0.87962566103423978),
        ("truncated_normal", (60, 400), 0.1),
        ("random_uniform", (60, 400), 0.05),
    ],
)
def test_bounds(name, shape, bound):
    value = np.abs(initializers.get(name)(shape, dtype="float64"))
    assert 0.97 * bound < value.max() <= bound


def test_truncated_normal_law():
    value = initializers.TruncatedNormal(mean=1.0, stddev=0.5, seed=3)((200, 500), dtype="float64")
    z = (value.ravel() - 1.0) / 0.5
    assert np.abs(z).max() <= 2.0
    inside = math.erf(math.sqrt(2))
    for point in (-1.5, -0.5, 0.0, 0.8, 1.9):  # distribution function of the cut law
        share = 0.5 + 0.5 * math.erf(point / math.sqrt(2)) / inside
        assert abs(np.mean(z < point) - share) < 5 * math.sqrt(share * (1 - share) / z.size)


def test_compute_fans():
    for shape, fans in {(): (1, 1), (7,): (7, 7), (3, 8): (3, 8), (5, 3, 8): (15, 40), (2, 5, 3, 8): (30, 80)}.items():
        assert initializers.compute_fans(shape) == fans
    assert initializers.compute_fans((5, 3, 8), input_axes=[0, 1], output_axes=[2]) == (15, 8)
    assert initializers.compute_fans((5, 3, 8), output_axes=[-1]) == (15, 8)


def test_shapes_and_dtypes():
    assert initializers.Ones()(()).shape == ()
    assert initializers.GlorotUniform()((0, 4)).shape == (0, 4)
    assert initializers.Zeros()((2,), dtype="int32").dtype == np.int32
    np.testing.assert_array_equal(initializers.Constant([1.0, 2.0])((3, 2)), [[1, 2]] * 3)
    for name in ("zeros", "ones", "constant", "identity", "orthogonal", "glorot_uniform", "he_normal", "random_normal"):
        assert initializers.get(name)((4, 4)).dtype == np.float32
        assert initializers.get(name)((4, 4), dtype="float16").dtype == np.float16
        assert initializers.get(name)((4, 4), dtype="bfloat16").dtype == ml_dtypes.bfloat16
    settings.set_floatx("float64")
    try:
        assert initializers.Ones()((2,)).dtype == np.float64
    finally:
        settings.set_floatx("float32")


# -- seeds ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", RANDOM, ids=label)
def test_seeds(case):
    shape = case["shape"]
    one, same, other = (build(case, seed=seed)(shape) for seed in (7, 7, 8))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    unseeded, second = build(case), build(case)
    np.testing.assert_array_equal(unseeded(shape), unseeded(shape))
    assert not np.array_equal(unseeded(shape), second(shape))
    assert unseeded.get_config()["seed"] is None


def test_a_shorter_draw_is_the_head_of_a_longer_one():
    initializer = initializers.RandomUniform(seed=1)
    np.testing.assert_array_equal(initializer((10,)), initializer((30,))[:10])


def test_python_seed_makes_unseeded_initializers_repeatable():
    state = python_random.getstate()
    try:
        python_random.seed(11)
        first = initializers.GlorotUniform()((3, 4))
        python_random.seed(11)
        np.testing.assert_array_equal(initializers.GlorotUniform()((3, 4)), first)
    finally:
        python_random.setstate(state)


def test_any_int_is_a_seed_and_nothing_else():
    for seed in (0, -1, 2**31, 2**63 - 1, 2**70):
        assert initializers.RandomNormal(seed=seed)((2,)).shape == (2,)
    for bad in (1.5, "7", np.int64(7), [7], {"seed": 7}, SeedGenerator(7)):
        for cls in (
            initializers.RandomNormal,
            initializers.Orthogonal,
            initializers.GlorotUniform,
            initializers.VarianceScaling,
            SeedGenerator,
        ):
            with pytest.raises(ValueError, match="`seed` must be an integer or None"):
                cls(seed=bad)


def test_seed_generator():
    seeds, again = SeedGenerator(7), SeedGenerator(7)
    np.testing.assert_array_equal(seeds.state, [7, 0])
    draws = [seeds.next().random(50) for _ in range(4)]
    np.testing.assert_array_equal(seeds.state, [7, 4])
    for k in range(4):
        np.testing.assert_array_equal(again.next().random(50), draws[k])
        assert all(abs(np.corrcoef(draws[k], draws[j])[0, 1]) < 0.6 for j in range(k))
    skipping = SeedGenerator(7)
    skipping.skip(3)
    np.testing.assert_array_equal(skipping.next().random(50), draws[3])
    assert SeedGenerator.from_config(seeds.get_config()).get_config() == {"seed": 7}
    assert not np.array_equal(SeedGenerator().next().random(4), SeedGenerator().next().random(4))


def test_dropout_mask():
    seeds = SeedGenerator(3)
    mask = dropout_mask(seeds, (400, 500), 0.2)
    assert mask.dtype == np.float32
    np.testing.assert_array_equal(np.unique(mask), np.array([0, 1.25], "f4"))
    assert abs(np.mean(mask == 0) - 0.2) < 5 * math.sqrt(0.2 * 0.8 / mask.size)
    assert not np.array_equal(mask, dropout_mask(seeds, (400, 500), 0.2))
    np.testing.assert_array_equal(mask, dropout_mask(SeedGenerator(3), (400, 500), 0.2))
    np.testing.assert_array_equal(dropout_mask(seeds, (3, 2), 0.0, "float64"), np.ones((3, 2)))
    np.testing.assert_array_equal(dropout_mask(seeds, (3, 2), 1.0), np.zeros((3, 2)))
    np.testing.assert_array_equal(seeds.state, [3, 4])
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="`rate`"):
            dropout_mask(seeds, (2,), bad)


# -- errors -----------------------------------------------------------------------------------------------------------
def test_bad_arguments():
    for options in (
        {"scale": 0},
        {"scale": -1.0},
        {"mode": "FAN_IN"},
        {"mode": "fan"},
        {"distribution": "gauss"},
        {"distribution": None},
    ):
        with pytest.raises(ValueError, match=f"`{next(iter(options))}`"):
            initializers.VarianceScaling(**options)
    for options in ({"side": "left"}, {"scaling": "power"}):
        with pytest.raises(ValueError, match=f"`{next(iter(options))}`"):
            initializers.STFT(**options)
    for shape in ((), (4,)):
        with pytest.raises(ValueError, match="at least two axes"):
            initializers.Orthogonal()(shape)
    for shape in ((4,), (2, 3, 4)):
        with pytest.raises(ValueError, match="2D"):
            initializers.Identity()(shape)
    for shape in ((4, 8), (6, 2, 5), (6, 1, 1)):
        with pytest.raises(ValueError, match="window length"):
            initializers.STFT()(shape)
    with pytest.raises(ValueError, match="floating point"):
        initializers.GlorotUniform()((2, 2), dtype="int32")
    assert initializers.VarianceScaling(distribution="NORMAL").distribution == "truncated_normal"


def test_stft_with_a_window_of_scipy():
    signal = pytest.importorskip("scipy.signal", reason="SciPy is not installed")
    value = initializers.STFT(window="blackman", scaling=None, periodic=True)((8, 1, 5), dtype="float64")
    np.testing.assert_allclose(value[:, 0, 0], signal.get_window("blackman", 8, fftbins=True), atol=1e-15)
    for window in ("hann", "hamming"):
        for periodic in (False, True):
            ours = initializers.STFT(window=window, scaling=None, periodic=periodic)((9, 1, 5), dtype="float64")[:, 0, 0]
            np.testing.assert_allclose(ours, signal.get_window(window, 9, fftbins=periodic), atol=1e-15)


# -- by name ----------------------------------------------------------------------------------------------------------
NAMES = {
    "Zeros": ["zeros", "zero"],
    "Ones": ["ones", "one"],
    "Constant": ["constant"],
    "RandomNormal": ["random_normal", "normal"],
    "RandomUniform": ["random_uniform", "uniform"],
    "TruncatedNormal": ["truncated_normal"],
    "VarianceScaling": ["variance_scaling"],
    "GlorotUniform": ["glorot_uniform"],
    "GlorotNormal": ["glorot_normal"],
    "HeUniform": ["he_uniform"],
    "HeNormal": ["he_normal"],
    "LecunUniform": ["lecun_uniform"],
    "LecunNormal": ["lecun_normal"],
    "Orthogonal": ["orthogonal", "OrthogonalInitializer"],
    "Identity": ["identity", "IdentityInitializer"],
    "STFT": ["stft", "STFTInitializer"],
}


@pytest.mark.parametrize("kind", NAMES)
def test_get_by_name_class_and_dict(kind):
    cls = getattr(initializers, kind)
    for name in (kind, *NAMES[kind]):
        assert type(initializers.get(name)) is cls
        assert type(initializers.get({"class_name": name, "config": {}})) is cls
    assert type(initializers.get(cls)) is cls
    assert getattr(initializers, NAMES[kind][0]) is cls


def test_get_of_objects():
    assert initializers.get(None) is None
    instance = initializers.Ones()
    assert initializers.get(instance) is instance
    assert initializers.get(np.zeros) is np.zeros
    assert initializers.get("constant")((2,)).tolist() == [0.0, 0.0]
    old = {"class_name": "RandomUniform", "config": {"minval": -1, "maxval": 1, "seed": None, "dtype": "float32"}}
    assert initializers.get(old).maxval == 1


def test_get_of_an_array():
    values = np.arange(6.0).reshape(2, 3)
    initializer = initializers.get(values)
    values[:] = -1
    np.testing.assert_array_equal(initializer((2, 3), dtype="float64"), np.arange(6.0).reshape(2, 3))
    assert initializer([2, 3]).dtype == np.float32
    for shape in ((3, 2), (6,), (2, 3, 1)):
        with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
            initializer(shape)
    again = initializers.get(json.loads(json.dumps(initializers.serialize(initializer))))
    np.testing.assert_array_equal(again((2, 3)), initializer((2, 3)))


@pytest.mark.parametrize(
    "bad",
    [
        "Glorot_Uniform",
        "glorot",
        "",
        "Initializer",
        3,
        [1.0, 2.0],
        {},
        {"class_name": "nope", "config": {}},
        {"class_name": "Zeros", "config": "x"},
        {"class_name": "Zeros", "config": {"value": 1}},
        {"class_name": "RandomNormal", "config": {"seed": 1.5}},
        {"class_name": "function", "config": "mine"},
        {"class_name": "__lambda__", "config": {"value": "code"}},
    ],
)
def test_get_of_something_else(bad):
    with pytest.raises(ValueError, match=r"initializer|`seed`"):
        initializers.get(bad)


@pytest.mark.parametrize("case", CASES, ids=label)
def test_config_round_trip(case):
    initializer = build(case, **({"seed": case["config"]["seed"]} if "seed" in case["config"] else {}))
    written = json.loads(json.dumps(initializers.serialize(initializer)))
    assert list(written) == ["module", "class_name", "config", "registered_name"]
    assert (written["module"], written["class_name"], written["registered_name"]) == ("keras.initializers", case["cls"], None)
    if case["cls"] == "Identity":  # Keras forgets the gain here
        assert written["config"] == {"gain": case["kwargs"].get("gain", 1.0)}
    else:
        assert list(written["config"].items()) == list(case["config"].items())
    for again in (initializers.deserialize(written), initializers.get(written), initializer.clone()):
        assert again.get_config() == initializer.get_config()
        np.testing.assert_array_equal(again(case["shape"]), initializer(case["shape"]))


def mine(shape, dtype=None):
    return np.full(shape, 2.0, dtype)


class Twos(initializers.Initializer):
    def __call__(self, shape, dtype=None):
        return np.full(shape, 2.0, dtype)


def test_a_callers_own():
    assert initializers.serialize(None) is None
    written = initializers.serialize(mine)
    assert written == {"module": "builtins", "class_name": "function", "config": "mine", "registered_name": "function"}
    assert initializers.deserialize(written, custom_objects={"mine": mine}) is mine
    written = initializers.serialize(Twos())
    assert written == {"module": __name__, "class_name": "Twos", "config": {}, "registered_name": None}
    assert type(initializers.deserialize(written, custom_objects={"Twos": Twos})) is Twos
    assert initializers.serialize(np.zeros)["config"] == "zeros"
    with pytest.raises(TypeError, match="get_config"):
        initializers.serialize(functools.partial(mine))
