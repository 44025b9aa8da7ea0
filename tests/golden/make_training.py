"""Makes ``tests/data/training_*.json`` and ``.npz``: what Keras 3 computes for losses, metrics, optimizers and schedules.

Run once, in an environment with keras (3.15.1 was used), jax (0.10.2) and tensorflow (2.21.0), not with fastlstm:

    KERAS_BACKEND=jax JAX_ENABLE_X64=1 python tests/golden/make_training.py
    KERAS_BACKEND=tensorflow python tests/golden/make_training.py

The first run makes optimizers, schedules and losses, the second one metrics and more of the losses: on JAX, Keras takes means of
float64 arrays, and cosines, in float32; on TensorFlow, it rounds the arguments of optimizers and schedules to float32, and takes
other formulas for some categorical crossentropies (no division by the sum of the probabilities for class numbers; a gradient for
labels that sum to 1). So each number comes from the backend that follows Keras' formula in the full precision of its dtype.

The json files list the cases: class name, constructor arguments, and the keys of their arrays in the npz of the same name. What
the tests do with them stands in test_losses.py, test_metrics.py and test_optimizers.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np

ON_JAX = keras.backend.backend() == "jax"
DATA = Path(__file__).resolve().parent.parent / "data"
DTYPES = ("float32", "float64")


def write(name: str, cases: list[dict], arrays: dict[str, np.ndarray]) -> None:
    """The two files of one kind."""
    lines = ",\n".join(json.dumps(case) for case in cases)
    (DATA / f"training_{name}.json").write_text(f"[\n{lines}\n]\n")
    np.savez_compressed(DATA / f"training_{name}.npz", **arrays)
    print(name, len(cases), "cases,", (DATA / f"training_{name}.npz").stat().st_size, "bytes")


# -- losses -------------------------------------------------------------------------------------------------------------
def labels_and_predictions() -> dict[str, np.ndarray]:
    """One array per kind of label and prediction. Float arrays are float64 here and rounded for float32 runs."""
    rng = np.random.default_rng(11)
    softmax = rng.dirichlet(np.ones(4), size=(3, 5))
    extreme = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [3e-8, 0.3, 0.69999997], [0.5, 1.5, 2.0]])
    return {
        "real_true": rng.normal(size=(3, 5, 4)),
        "real_pred": rng.normal(size=(3, 5, 4)) * 2,
        "flat_true": rng.normal(size=6),
        "column_pred": rng.normal(size=(6, 1)),
        "binary_true": rng.integers(0, 2, size=(3, 5, 4)),
        "soft_binary_true": rng.uniform(size=(3, 5, 4)),
        "binary_pred": rng.uniform(0.02, 0.98, size=(3, 5, 4)),
        "edge_binary_true": np.array([[0, 1, 0, 1], [1, 0, 1, 0]]),
        "edge_binary_pred": np.array([[0.0, 1.0, 1.0, 0.0], [2e-8, 3e-8, 0.5, 0.99999999]]),
        "logits": rng.normal(size=(3, 5, 4)) * 4,
        "edge_logits": np.array([[500.0, -500.0, 3.0, 0.0], [-700.0, 60.0, -60.0, 0.0]]),
        "one_hot": np.eye(4)[rng.integers(0, 4, size=(3, 5))],
        "edge_one_hot": np.array([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]),
        "soft_true": rng.dirichlet(np.ones(4), size=(3, 5)),
        "softmax": softmax,
        "unnormalised": softmax * 2.5,
        "edge_true": np.eye(3)[[1, 1, 0, 2]],
        "edge_softmax": extreme,
        "classes": rng.integers(0, 4, size=(3, 5)),
        "classes_column": rng.integers(0, 4, size=(3, 5, 1)),
        "some_ignored": np.array([[0, 3, -1, 2, 1], [-1, -1, -1, 0, 0], [3, 2, 1, 0, -1]]),
        "edge_classes": np.array([1, 1, 0, 2]),
        "samples": rng.uniform(0.2, 2.0, size=(3, 1)),
        "steps": rng.uniform(0.0, 2.0, size=(3, 5)),
        "six": rng.uniform(0.0, 2.0, size=6),
        "mask": np.array([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool),
        "no_mask": np.zeros((3, 5), bool),
    }


def loss_cases() -> list[dict]:
    """Class, arguments, and names of labels, predictions, weights and mask."""
    plain = [
        ("MeanSquaredError", {}, "real_true", "real_pred"),
        ("MeanSquaredError", {}, "flat_true", "column_pred"),
        ("MeanAbsoluteError", {}, "real_true", "real_pred"),
        ("Huber", {}, "real_true", "real_pred"),
        ("Huber", {"delta": 2.5}, "real_true", "real_pred"),
        ("BinaryCrossentropy", {}, "binary_true", "binary_pred"),
        ("BinaryCrossentropy", {"label_smoothing": 0.2}, "soft_binary_true", "binary_pred"),
        ("BinaryCrossentropy", {"axis": 1}, "binary_true", "binary_pred"),
        ("BinaryCrossentropy", {}, "edge_binary_true", "edge_binary_pred"),
        ("BinaryCrossentropy", {"from_logits": True}, "soft_binary_true", "logits"),
        ("BinaryCrossentropy", {"from_logits": True, "label_smoothing": 0.1}, "binary_true", "logits"),
        ("BinaryCrossentropy", {"from_logits": True}, "edge_binary_true", "edge_logits"),
        ("CategoricalCrossentropy", {}, "one_hot", "softmax"),
        ("CategoricalCrossentropy", {"label_smoothing": 0.3}, "one_hot", "unnormalised"),
        ("CategoricalCrossentropy", {}, "soft_true", "unnormalised"),
        ("CategoricalCrossentropy", {"axis": 1}, "one_hot", "binary_pred"),
        ("CategoricalCrossentropy", {}, "edge_true", "edge_softmax"),
        ("CategoricalCrossentropy", {"from_logits": True, "label_smoothing": 0.1}, "one_hot", "logits"),
        ("CategoricalCrossentropy", {"from_logits": True}, "soft_binary_true", "logits"),
        ("CategoricalCrossentropy", {"from_logits": True}, "edge_one_hot", "edge_logits"),
        ("SparseCategoricalCrossentropy", {}, "classes", "softmax"),
        ("SparseCategoricalCrossentropy", {}, "classes_column", "unnormalised"),
        ("SparseCategoricalCrossentropy", {}, "edge_classes", "edge_softmax"),
        ("SparseCategoricalCrossentropy", {"from_logits": True}, "classes", "logits"),
        ("SparseCategoricalCrossentropy", {"from_logits": True, "ignore_class": -1}, "some_ignored", "logits"),
        ("SparseCategoricalCrossentropy", {"from_logits": True, "ignore_class": 2}, "classes", "logits"),
    ]
    cases = [{"class": c, "arguments": a, "true": t, "pred": p} for c, a, t, p in plain]
    for reduction in ("sum_over_batch_size", "mean", "sum", "mean_with_sample_weight", None):
        for weight, mask in (
            (None, None),
            ("samples", None),
            ("steps", None),
            (None, "mask"),
            ("steps", "mask"),
            ("samples", "mask"),
        ):
            case = {"class": "MeanSquaredError", "arguments": {"reduction": reduction}, "true": "real_true", "pred": "real_pred"}
            cases.append(case | {"weight": weight, "mask": mask})
    logits = {"from_logits": True, "ignore_class": -1}
    ignoring = {"class": "SparseCategoricalCrossentropy", "arguments": logits, "true": "some_ignored", "pred": "logits"}
    cases += [ignoring | {"mask": "mask"}, ignoring | {"weight": "steps"}, ignoring | {"weight": "steps", "mask": "mask"}]
    mse = {"class": "MeanSquaredError", "arguments": {}, "true": "real_true", "pred": "real_pred"}
    cases += [mse | {"mask": "no_mask"}, mse | {"true": "flat_true", "pred": "column_pred", "weight": "six"}]
    return cases


def cast(array: np.ndarray, dtype: str) -> np.ndarray:
    return array.astype(dtype) if array.dtype.kind == "f" else array


def value_and_gradient(function, pred: np.ndarray, differentiate: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """function(pred), and its gradient where it is asked for."""
    if ON_JAX:
        import jax

        return np.asarray(function(pred)), np.asarray(jax.grad(function)(pred)) if differentiate else None
    import tensorflow as tf

    pred = tf.constant(pred)
    with tf.GradientTape() as tape:
        tape.watch(pred)
        value = function(pred)
    return value.numpy(), tape.gradient(value, pred).numpy() if differentiate else None


def make_losses() -> None:
    arrays, cases = labels_and_predictions(), loss_cases()
    results = {} if ON_JAX else dict(np.load(DATA / "training_losses.npz"))
    for i, dtype in [(i, dtype) for dtype in DTYPES for i in range(len(cases))]:
        case = cases[i]
        if (dtype == "float32" or "Categorical" in case["class"]) != ON_JAX:
            continue  # the other run makes it
        keras.config.set_floatx(dtype)
        loss = getattr(keras.losses, case["class"])(**case["arguments"])
        true, pred = cast(arrays[case["true"]], dtype), cast(arrays[case["pred"]], dtype)
        weight = cast(arrays[case["weight"]], dtype) if case.get("weight") else None

        def value(y, loss=loss, true=true, weight=weight, case=case):
            y = keras.ops.convert_to_tensor(y) * 1  # an object of its own: the mask of one call does not stay for the next
            if case.get("mask"):
                keras.src.backend.set_keras_mask(y, keras.ops.convert_to_tensor(arrays[case["mask"]]))
            return loss(keras.ops.convert_to_tensor(true), y, weight)

        reduced = case["arguments"].get("reduction", "mean") is not None
        results[f"{i}/{dtype}/value"], gradient = value_and_gradient(value, pred, reduced)
        assert results[f"{i}/{dtype}/value"].dtype == dtype
        if gradient is not None:
            results[f"{i}/{dtype}/gradient"] = gradient
    write("losses", cases, {f"in/{name}": array for name, array in arrays.items()} | results)


# -- metrics ------------------------------------------------------------------------------------------------------------
def metric_cases() -> list[dict]:
    """Class, arguments, and for each of two batches the labels' and predictions' names; both get the same weights and mask."""
    plain = [
        ("MeanSquaredError", {}, "real"),
        ("RootMeanSquaredError", {}, "real"),
        ("MeanAbsoluteError", {}, "real"),
        ("Accuracy", {}, "equal"),
        ("BinaryAccuracy", {}, "binary"),
        ("BinaryAccuracy", {"threshold": 0.8}, "binary"),
        ("CategoricalAccuracy", {}, "one_hot"),
        ("SparseCategoricalAccuracy", {}, "sparse"),
        ("SparseCategoricalAccuracy", {}, "sparse_column"),
        ("BinaryCrossentropy", {}, "binary"),
        ("CategoricalCrossentropy", {"from_logits": True}, "one_hot"),
        ("SparseCategoricalCrossentropy", {"from_logits": True}, "sparse"),
    ]
    cases = []
    for name, arguments, data in plain:
        for weight, mask in ((None, None), ("samples", None), ("steps", None), (None, "mask"), ("steps", "mask")):
            flat = data == "equal" or name == "BinaryAccuracy" or name == "RootMeanSquaredError"
            if flat and mask:
                continue  # the values have one axis more than the mask: Keras fails there
            cases.append({"class": name, "arguments": arguments, "data": data, "weight": weight, "mask": mask})
    return cases


def metric_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    arrays = {}
    for batch in (0, 1):
        arrays |= {
            f"{batch}/real/true": rng.normal(size=(3, 5, 4)),
            f"{batch}/real/pred": rng.normal(size=(3, 5, 4)),
            f"{batch}/equal/true": rng.integers(0, 2, size=(3, 5)),
            f"{batch}/equal/pred": rng.integers(0, 2, size=(3, 5)).astype(float),
            f"{batch}/binary/true": rng.integers(0, 2, size=(3, 5, 4)),
            f"{batch}/binary/pred": rng.uniform(0.01, 0.99, size=(3, 5, 4)),
            f"{batch}/one_hot/true": np.eye(4)[rng.integers(0, 4, size=(3, 5))],
            f"{batch}/one_hot/pred": rng.normal(size=(3, 5, 4)),
            f"{batch}/sparse/true": rng.integers(0, 4, size=(3, 5)),
            f"{batch}/sparse/pred": rng.normal(size=(3, 5, 4)),
            f"{batch}/sparse_column/true": rng.integers(0, 4, size=(3, 5, 1)),
            f"{batch}/sparse_column/pred": rng.normal(size=(3, 5, 4)),
            f"{batch}/samples": rng.uniform(0.2, 2.0, size=3),
            f"{batch}/steps": rng.uniform(0.2, 2.0, size=(3, 5)),
            f"{batch}/mask": rng.uniform(size=(3, 5)) < 0.6,
        }
    return arrays


def make_metrics() -> None:
    keras.config.set_floatx("float64")
    arrays, cases, results = metric_arrays(), metric_cases(), {}
    for i, case in enumerate(cases):
        metric = getattr(keras.metrics, case["class"])(**case["arguments"])
        for batch in (0, 1):
            true, pred = (keras.ops.convert_to_tensor(arrays[f"{batch}/{case['data']}/{which}"]) for which in ("true", "pred"))
            if case["mask"]:
                keras.src.backend.set_keras_mask(pred, keras.ops.convert_to_tensor(arrays[f"{batch}/{case['mask']}"]))
            metric.update_state(true, pred, arrays[f"{batch}/{case['weight']}"] if case["weight"] else None)
            results[f"{i}/result{batch}"] = np.asarray(metric.result(), np.float64)
    write("metrics", cases, {f"in/{name}": array for name, array in arrays.items()} | results)


# -- optimizers ---------------------------------------------------------------------------------------------------------
STEPS = 6
SHAPES = {"kernel": (4, 6), "bias": (6,), "window": (3, 2, 2)}


def schedule(name: str, **arguments: object) -> dict:
    return {"class_name": name, "config": arguments}


def optimizer_cases() -> list[dict]:
    """Class and arguments; "learning_rate" may be the dict of a schedule. "constraints": by variable. "exclude": names."""
    found: list[tuple] = [
        ("SGD", {}),
        ("SGD", {"momentum": 0.9}),
        ("SGD", {"learning_rate": 0.05, "momentum": 0.8, "nesterov": True}),
        ("SGD", {"weight_decay": 0.1}),
        ("SGD", {"clipnorm": 0.7}),
        ("SGD", {"clipvalue": 0.3}),
        ("SGD", {"global_clipnorm": 1.5, "momentum": 0.5}),
        ("Adam", {}),
        ("Adam", {"learning_rate": 0.02, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3}),
        ("Adam", {"learning_rate": 0.02, "amsgrad": True, "beta_2": 0.7}),
        ("Adam", {"weight_decay": 0.05, "global_clipnorm": 1.0}),
        ("AdamW", {}),
        ("AdamW", {"learning_rate": 0.03, "weight_decay": 0.2}),
        ("RMSprop", {}),
        ("RMSprop", {"learning_rate": 0.02, "rho": 0.7, "momentum": 0.6}),
        ("RMSprop", {"learning_rate": 0.01, "centered": True}),
        ("RMSprop", {"learning_rate": 0.01, "centered": True, "momentum": 0.9, "weight_decay": 0.01, "clipvalue": 0.5}),
    ]
    stairs = schedule("ExponentialDecay", initial_learning_rate=0.1, decay_steps=2, decay_rate=0.6, staircase=True)
    found += [
        ("SGD", {"learning_rate": schedule("ExponentialDecay", initial_learning_rate=0.1, decay_steps=3, decay_rate=0.5)}),
        ("Adam", {"learning_rate": stairs}),
        ("AdamW", {"learning_rate": schedule("PiecewiseConstantDecay", boundaries=[1, 3], values=[0.1, 0.05, 0.01])}),
    ]
    cases = [{"class": name, "arguments": arguments} for name, arguments in found]
    cases.append({"class": "SGD", "arguments": {"learning_rate": 0.2}, "constraints": {"kernel": "max_norm", "bias": "non_neg"}})
    cases.append({"class": "Adam", "arguments": {"learning_rate": 0.2}, "constraints": {"window": "unit_norm"}})
    cases.append({"class": "AdamW", "arguments": {"learning_rate": 0.1, "weight_decay": 0.5}, "exclude": ["bias"]})
    cases.append({"class": "Adam", "arguments": {"learning_rate": 0.1, "clipnorm": 0.5}, "without": "bias"})
    averaged = {"learning_rate": 0.1, "use_ema": True, "ema_momentum": 0.8}
    cases += [
        {"class": "Adam", "arguments": averaged},
        {"class": "SGD", "arguments": {**averaged, "ema_overwrite_frequency": 3}, "constraints": {"kernel": "max_norm"}},
        {"class": "Adam", "arguments": {"learning_rate": stairs, "gradient_accumulation_steps": 2, "weight_decay": 0.1}},
        {"class": "RMSprop", "arguments": {**averaged, "gradient_accumulation_steps": 4, "clipnorm": 0.5}},
        {"class": "SGD", "arguments": {**averaged, "gradient_accumulation_steps": 2, "ema_overwrite_frequency": 2}},
    ]
    return cases


def make_optimizers() -> None:
    rng = np.random.default_rng(23)
    arrays = {f"start/{name}": rng.normal(size=shape) for name, shape in SHAPES.items()}
    for step in range(STEPS):
        size = 10.0 ** rng.uniform(-1.5, 0.5)
        arrays |= {f"gradient{step}/{name}": rng.normal(size=shape) * size for name, shape in SHAPES.items()}
    cases = optimizer_cases()
    results = {}
    for dtype in DTYPES:
        keras.config.set_floatx(dtype)
        for i, case in enumerate(cases):
            run_optimizer(case, arrays, results, f"{i}/{dtype}", dtype)
    write("optimizers", cases, arrays | results)


def run_optimizer(case: dict, arrays: dict, results: dict, key: str, dtype: str) -> None:
    """All steps of one case. "without": in odd steps that variable has no gradient."""
    arguments = dict(case["arguments"])
    if isinstance(arguments.get("learning_rate"), dict):
        rate = arguments["learning_rate"]
        arguments["learning_rate"] = getattr(keras.optimizers.schedules, rate["class_name"])(**rate["config"])
    optimizer = getattr(keras.optimizers, case["class"])(**arguments)
    if "exclude" in case:
        optimizer.exclude_from_weight_decay(var_names=case["exclude"])
    variables = {name: keras.Variable(arrays[f"start/{name}"].astype(dtype), dtype=dtype, name=name) for name in SHAPES}
    for name, constraint in case.get("constraints", {}).items():
        variables[name].constraint = keras.constraints.get(constraint)
    for step in range(STEPS):
        gradients = [keras.ops.convert_to_tensor(arrays[f"gradient{step}/{name}"].astype(dtype)) for name in SHAPES]
        if "without" in case and step % 2:
            gradients[list(SHAPES).index(case["without"])] = None
        optimizer.apply(gradients, list(variables.values()))
        values = np.concatenate([np.asarray(variable).ravel() for variable in variables.values()])
        assert values.dtype == dtype
        results[f"{key}/step{step}"] = values
    state = [np.asarray(variable).ravel().astype(np.float64) for variable in optimizer.variables]
    results[f"{key}/state"] = np.concatenate(state)
    case["state"] = [variable.name for variable in optimizer.variables]
    if dtype == "float32":
        config = optimizer.get_config()
        if not isinstance(config["learning_rate"], float):
            config["learning_rate"] = keras.optimizers.schedules.serialize(optimizer._learning_rate)
        case["config"] = config


# -- schedules ----------------------------------------------------------------------------------------------------------
def make_schedules() -> None:
    keras.config.set_floatx("float64")
    steps = [0, 1, 2, 3, 4, 5, 7, 10, 11, 20, 100]
    warm = {"initial_learning_rate": 0.02, "decay_steps": 10, "alpha": 0.05, "warmup_target": 0.3, "warmup_steps": 5}
    cases = [
        {"class": "ExponentialDecay", "arguments": {"initial_learning_rate": 0.1, "decay_steps": 4, "decay_rate": 0.7}},
        {
            "class": "ExponentialDecay",
            "arguments": {"initial_learning_rate": 0.1, "decay_steps": 4, "decay_rate": 0.7, "staircase": True},
        },
        {"class": "CosineDecay", "arguments": {"initial_learning_rate": 0.1, "decay_steps": 10}},
        {"class": "CosineDecay", "arguments": {"initial_learning_rate": 0.1, "decay_steps": 10, "alpha": 0.2}},
        {"class": "CosineDecay", "arguments": warm},
        {"class": "PiecewiseConstantDecay", "arguments": {"boundaries": [2, 5, 10], "values": [1.0, 0.5, 0.25, 0.1]}},
    ]
    for case in cases:
        made = getattr(keras.optimizers.schedules, case["class"])(**case["arguments"])
        case["steps"], case["rates"] = steps, [float(made(step)) for step in steps]
        case["serialized"] = keras.optimizers.schedules.serialize(made)
    lines = ",\n".join(json.dumps(case) for case in cases)
    (DATA / "training_schedules.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    make_losses()
    if ON_JAX:
        make_optimizers()
        make_schedules()
    else:
        make_metrics()
