"""Optimizers and schedules: every step of Keras in float32 and float64, state, configs, names, bad input."""

import json
from pathlib import Path

import numpy as np
import pytest

from fastlstm import constraints, settings
from fastlstm.training import optimizers, schedules
from fastlstm.variable import Variable

DATA = Path(__file__).parent / "data"
GOLDEN = np.load(DATA / "training_optimizers.npz")
CASES = json.loads((DATA / "training_optimizers.json").read_text())
IDS = [f"{i}-{case['class']}" for i, case in enumerate(CASES)]
SCHEDULES = json.loads((DATA / "training_schedules.json").read_text())
NAMES = ("kernel", "bias", "window")
STEPS = 6
TOLERANCE = {"float32": 1e-5, "float64": 1e-9}
CLASSES = (optimizers.SGD, optimizers.Adam, optimizers.AdamW, optimizers.RMSprop)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """The dtype of variables and learning rate."""
    before = settings.floatx()
    settings.set_floatx(request.param)
    yield request.param
    settings.set_floatx(before)


def built(case):
    arguments = dict(case["arguments"])
    if isinstance(arguments.get("learning_rate"), dict):
        arguments["learning_rate"] = schedules.deserialize(arguments["learning_rate"])
    optimizer = getattr(optimizers, case["class"])(**arguments)
    if "exclude" in case:
        optimizer.exclude_from_weight_decay(var_names=case["exclude"])
    return optimizer


def start(case, dtype):
    variables = {name: Variable(GOLDEN[f"start/{name}"].astype(dtype), name) for name in NAMES}
    for name, constraint in case.get("constraints", {}).items():
        variables[name].constraint = constraints.get(constraint)
    return variables


def gradients_of(case, step, dtype):
    gradients = [GOLDEN[f"gradient{step}/{name}"].astype(dtype) for name in NAMES]
    if "without" in case and step % 2:
        gradients[NAMES.index(case["without"])] = None
    return gradients


# -- Keras --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", range(len(CASES)), ids=IDS)
def test_steps_of_keras(number, dtype):
    case, tolerance = CASES[number], TOLERANCE[dtype]
    optimizer, variables = built(case), start(case, dtype)
    for step in range(STEPS):
        optimizer.apply(gradients_of(case, step, dtype), list(variables.values()))
        values = np.concatenate([variable.numpy().ravel() for variable in variables.values()])
        assert values.dtype == dtype
        np.testing.assert_allclose(values, GOLDEN[f"{number}/{dtype}/step{step}"], rtol=tolerance, atol=tolerance / 10)
    assert optimizer.iterations == STEPS // case["arguments"].get("gradient_accumulation_steps", 1)
    assert [variable.name for variable in optimizer.variables] == case["state"]
    state = np.concatenate([variable.numpy().ravel().astype(float) for variable in optimizer.variables])
    np.testing.assert_allclose(state, GOLDEN[f"{number}/{dtype}/state"], rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("number", range(len(CASES)), ids=IDS)
def test_configs_of_keras(number):
    config = CASES[number]["config"]
    ours = built(CASES[number]).get_config()
    rate, expected = ours["learning_rate"], config["learning_rate"]
    if isinstance(rate, dict):
        rate, expected = rate["config"], expected["config"]
    assert rate == expected
    assert {**ours, "learning_rate": 0} == {**config, "learning_rate": 0, "name": ours["name"]}
    again = getattr(optimizers, CASES[number]["class"]).from_config(config)
    assert again.get_config() == {**ours, "name": config["name"]}


@pytest.mark.parametrize("case", SCHEDULES, ids=[case["class"] for case in SCHEDULES])
def test_schedules_of_keras(case):
    made = getattr(schedules, case["class"])(**case["arguments"])
    tolerance = 3e-7 if case["class"] == "CosineDecay" else 1e-12  # Keras takes cosines in float32
    np.testing.assert_allclose([made(step) for step in case["steps"]], case["rates"], rtol=tolerance)
    ours = schedules.serialize(made)
    assert (ours["module"], ours["class_name"]) == ("keras.optimizers.schedules", case["class"])
    assert ours["config"] == case["serialized"]["config"]
    again = schedules.deserialize(json.loads(json.dumps(case["serialized"])))
    assert [again(step) for step in case["steps"]] == [made(step) for step in case["steps"]]


def test_cosine_decay_by_hand():
    plain = schedules.CosineDecay(0.5, 8, alpha=0.25)
    assert [plain(step) for step in (0, 4, 8, 9)] == pytest.approx([0.5, 0.5 * 0.625, 0.125, 0.125], rel=1e-14)
    assert plain(np.int64(2)) == pytest.approx(0.5 * (0.75 * (0.5 + 0.5 * np.sqrt(0.5)) + 0.25), rel=1e-14)
    warm = schedules.CosineDecay(0.5, 8, warmup_target=1.0, warmup_steps=4)
    assert [warm(step) for step in (0, 1, 4, 8, 12)] == pytest.approx([0.5, 0.625, 1.0, 0.5, 0.0], rel=1e-14, abs=1e-16)


# -- steps by hand ------------------------------------------------------------------------------------------------------
def one(value, **arguments):
    return Variable(np.array(value, np.float64), "w", **arguments)


def test_sgd_by_hand():
    w = one([1.0, 2.0])
    sgd = optimizers.SGD(0.5)
    sgd.apply([np.array([1.0, -1.0])], [w])
    np.testing.assert_array_equal(w.numpy(), [0.5, 2.5])
    sgd.apply_gradients([(np.array([1.0, 1.0]), w)])
    np.testing.assert_array_equal(w.numpy(), [0.0, 2.0])
    assert w.version > 0
    assert sgd.iterations == 2


def test_the_first_step_of_adam_has_the_size_of_the_learning_rate():
    w = one([0.0, 0.0, 0.0])
    optimizers.Adam(0.125, epsilon=0).apply([np.array([1e-3, -5.0, 70.0])], [w])
    np.testing.assert_allclose(w.numpy(), [-0.125, 0.125, -0.125], rtol=1e-12)


def test_adamw_shrinks_first():
    w = one([2.0])
    optimizers.AdamW(0.5, weight_decay=0.25).apply([np.array([0.0])], [w])
    np.testing.assert_array_equal(w.numpy(), [2 - 2 * 0.5 * 0.25])


def test_global_norm_of_exploding_gradients_is_nan():
    w = one([1.0])
    optimizers.SGD(1.0, global_clipnorm=1.0).apply([np.array([np.inf])], [w])
    assert np.isnan(w.numpy()[0])


def test_callable_and_settable_rates():
    w, rates = one([0.0]), iter([1.0, 0.25])
    sgd = optimizers.SGD(lambda: next(rates))
    sgd.apply([[1.0]], [w])
    sgd.apply([[1.0]])
    assert w[0] == -1.25
    sgd.learning_rate = 0.5
    assert sgd.learning_rate == 0.5
    sgd.learning_rate = schedules.PiecewiseConstantDecay([1], [3.0, 2.0])
    assert sgd.learning_rate == 2.0
    with pytest.raises(TypeError, match="schedule"):
        sgd.learning_rate = 0.1


def test_half_precision_variables_are_computed_in_float32():
    w = Variable(np.array([1.0], np.float16), "w")
    adam = optimizers.Adam(0.25)
    adam.apply([np.array([1e-2], np.float16)], [w])
    assert w.dtype == np.float16
    assert w[0] == 0.75
    assert [variable.dtype.name for variable in adam.variables] == ["int64", "float32", "float16", "float16"]


def test_variables_without_gradient_stay():
    first, second = one([1.0]), one([1.0])
    optimizers.Adam(0.1, weight_decay=0.5).apply([None, np.array([1.0])], [first, second])
    assert (first[0], first.version) == (1.0, 0)
    assert second[0] < 1


def test_state_can_be_carried_over():
    case = {"class": "Adam", "arguments": {"learning_rate": 0.1, "amsgrad": True}}
    variables, again = start(case, "float64"), start(case, "float64")
    first, second = built(case), built(case)
    for step in range(3):
        first.apply(gradients_of(case, step, "float64"), list(variables.values()))
    for name in NAMES:
        again[name].assign(variables[name].numpy())
    second.build(list(again.values()))
    second.set_weights(first.get_weights())
    assert second.iterations == 3
    for optimizer, values in ((first, variables), (second, again)):
        optimizer.apply(gradients_of(case, 3, "float64"), list(values.values()))
    for name in NAMES:
        np.testing.assert_array_equal(variables[name].numpy(), again[name].numpy())


def test_gradients_are_not_overwritten():
    for cls in CLASSES:
        for arguments in ({}, {"clipnorm": 0.1}, {"clipvalue": 0.1}, {"global_clipnorm": 0.1}):
            gradient = np.array([1.0, -2.0])
            cls(**arguments).apply([gradient], [one([0.0, 0.0])])
            np.testing.assert_array_equal(gradient, [1.0, -2.0])


def test_excluded_from_weight_decay():
    kernel, bias, special = Variable(np.ones(1), "kernel"), Variable(np.ones(1), "bias"), Variable(np.ones(1), "special")
    sgd = optimizers.SGD(1.0, weight_decay=0.5)
    sgd.exclude_from_weight_decay(var_list=[special], var_names=["bias"])
    sgd.apply([np.zeros(1)] * 3, [kernel, bias, special])
    assert (kernel[0], bias[0], special[0]) == (0.5, 1.0, 1.0)
    with pytest.raises(ValueError, match="before the optimizer is built"):
        sgd.exclude_from_weight_decay(var_names=["kernel"])


# -- names --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cls", CLASSES)
def test_names(cls):
    for name in (cls.__name__, cls.__name__.lower(), cls.__name__.upper()):
        assert type(optimizers.get(name)) is cls
    made = cls(0.25, clipnorm=2.0)
    assert optimizers.get(made) is made
    serialized = json.loads(json.dumps(optimizers.serialize(made)))
    assert (serialized["module"], serialized["class_name"]) == ("keras.optimizers", cls.__name__)
    assert optimizers.deserialize(serialized).get_config() == made.get_config()
    assert optimizers.get(None) is None


def test_schedules_are_where_keras_has_them():
    rate = optimizers.schedules.CosineDecay(0.1, 10)
    assert optimizers.Adam(rate).learning_rate == 0.1


def test_numbers_of_numpy_are_numbers():
    made = optimizers.Adam(np.float32(0.5), beta_1=np.float64(0.5), epsilon=np.float32(0.25), clipnorm=np.int64(2))
    config = json.loads(json.dumps(made.get_config()))
    assert (config["learning_rate"], config["beta_1"], config["epsilon"], config["clipnorm"]) == (0.5, 0.5, 0.25, 2)


def test_averages_become_the_weights_at_the_end():
    """average_1 = w_1, then half of the average and half of w."""
    weight, sgd = one(np.zeros(2)), optimizers.SGD(1.0, use_ema=True, ema_momentum=0.5)
    sgd.finalize_variable_values([weight])  # not built yet: nothing to do
    for _ in range(3):
        sgd.apply([np.ones(2)], [weight])
    np.testing.assert_array_equal(weight.numpy(), -3.0)
    sgd.finalize_variable_values([weight])
    np.testing.assert_array_equal(weight.numpy(), ((-1 - 2) / 2 - 3) / 2)


# -- bad input ----------------------------------------------------------------------------------------------------------
W = np.zeros(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optimizers.get("adamax"), r"Unknown optimizer: 'adamax'.*Known: Adam, AdamW, RMSprop, SGD"),
        (lambda: optimizers.get(abs), r"Expected an optimizer.*SGD"),
        (lambda: optimizers.SGD("fast"), r"`learning_rate`.*'fast'"),
        (lambda: optimizers.SGD(float("nan")), r"`learning_rate`.*nan"),
        (lambda: optimizers.SGD(momentum=1.5), r"`momentum`.*1\.5"),
        (lambda: optimizers.Adam(beta_1=-1), r"`beta_1`.*-1"),
        (lambda: optimizers.RMSprop(rho="x"), r"`rho`.*'x'"),
        (lambda: optimizers.AdamW(weight_decay=None), r"`weight_decay`.*None"),
        (lambda: optimizers.SGD(clipnorm=-1), r"`clipnorm`.*-1"),
        (lambda: optimizers.SGD(clipnorm=1.0, clipvalue=1.0), r"Only one of.*clipvalue"),
        (lambda: optimizers.Adam(loss_scale_factor=8.0), r"`loss_scale_factor` is not supported"),
        (lambda: optimizers.Adam(use_ema=True, ema_momentum=1.1), r"`ema_momentum` must be a number from 0 to 1"),
        (lambda: optimizers.Adam(ema_overwrite_frequency=2.5), r"`ema_overwrite_frequency` must be None or a whole number"),
        (lambda: optimizers.Adam(gradient_accumulation_steps=1), r"`gradient_accumulation_steps` .* at least 2"),
        (lambda: optimizers.Adam(epsilon="tiny"), r"`epsilon` must be a number of at least 0"),
        (lambda: optimizers.RMSprop(epsilon=-1e-7), r"`epsilon` must be a number of at least 0"),
        (lambda: optimizers.SGD(beta_1=0.9), r"Unrecognized arguments of SGD: \{'beta_1': 0.9\}"),
        (lambda: optimizers.SGD().apply([W]), r"without `variables`"),
        (lambda: optimizers.SGD().apply([None], [one(W)]), r"no gradient for any of \['w'\]"),
        (lambda: optimizers.SGD().apply([W, W], [one(W)]), r"2 entries for 1 variables"),
        (lambda: optimizers.SGD().apply([np.zeros(3)], [one(W)]), r"gradient of w.*\(2,\).*\(3,\)"),
        (lambda: optimizers.SGD().build([W_ := one(W), W_]), r"twice: \['w', 'w'\]"),
        (lambda: optimizers.SGD().set_weights([]), r"needs a built optimizer"),
        (lambda: optimizers.get({"class_name": "SGD", "config": {"speed": 1}}), r"SGD.*speed"),
        (lambda: schedules.ExponentialDecay(0.1, 0, 0.5), r"`decay_steps`.*0"),
        (lambda: schedules.CosineDecay(0.1, -3), r"`decay_steps`.*-3"),
        (lambda: schedules.CosineDecay(0.1, "long"), r"`decay_steps`.*'long'"),
        (lambda: schedules.ExponentialDecay("fast", 3, 0.5), r"`initial_learning_rate`.*'fast'"),
        (lambda: schedules.PiecewiseConstantDecay([1, 2], [1.0, 2.0]), r"`values`.*one element more"),
        (lambda: schedules.PiecewiseConstantDecay([2, 1], [1.0, 2.0, 3.0]), r"`boundaries` must grow"),
        (lambda: schedules.get("LinearDecay"), r"Unknown learning rate schedule: 'LinearDecay'.*CosineDecay"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_other_variables_than_built_with():
    sgd = optimizers.SGD()
    sgd.build([one(W)])
    with pytest.raises(ValueError, match="Unknown variable w"):
        sgd.apply([W], [one(W)])
    with pytest.raises(ValueError, match="has 2 variables"):
        sgd.set_weights([0])
    sgd.apply([])
    assert sgd.iterations == 0
