"""Trains models with several outputs with Keras 3 and stores what came out: ``python tests/golden/make_fit_outputs.py``.

Needs keras and jax, not fastlstm. Writes tests/data/fit_outputs.json, which tests/test_fit_outputs.py reads: configs, samples,
histories, answers of ``evaluate``, weights before and after.
"""

import json
import os
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np

L = keras.layers
DATA = Path(__file__).resolve().parent.parent / "data"
rng = np.random.default_rng(11)


def floats(*shape):
    return rng.standard_normal(shape).astype("float32").round(3)


def trunk(regularizer=None):
    x = keras.Input((4, 3), name="x")
    return x, L.LSTM(3, return_sequences=True, kernel_regularizer=regularizer, name="trunk")(x)


def heads(y, regularizer=None):
    number = L.Dense(1, name="number")(L.LSTM(2, name="last")(y))
    kind = L.Dense(3, activation="softmax", kernel_regularizer=regularizer, name="kind")(L.Flatten(name="flat")(y))
    return number, kind


def answers(count):
    return [floats(count, 1), rng.integers(0, 3, (count, 1))]


def listed():
    """A loss, a factor and metrics for each output, in lists; penalties, a batch that is not full, validation."""
    x, y = trunk(keras.regularizers.L2(0.02))
    model = keras.Model(x, list(heads(y)))
    compiled = {
        "optimizer": {"class_name": "SGD", "config": {"learning_rate": 0.1, "momentum": 0.9}},
        "loss": ["mse", "sparse_categorical_crossentropy"],
        "loss_weights": [0.5, 2.0],
        "metrics": [["mae", "mse"], ["accuracy"]],
    }
    data = {"x": floats(10, 4, 3), "y": answers(10), "validation_data": [floats(6, 4, 3), answers(6)]}
    return model, compiled, data, {"batch_size": 4, "epochs": 3}


def by_name(count):
    return dict(zip(("number", "kind"), answers(count), strict=True))


NAMED = {
    "optimizer": {"class_name": "Adam", "config": {"learning_rate": 0.02}},
    "loss": {"kind": "sparse_categorical_crossentropy", "number": "mae"},
    "loss_weights": {"kind": 0.3, "number": 1.0},
    "metrics": {"kind": ["accuracy"]},
    "weighted_metrics": {"kind": ["accuracy"], "number": ["mse"]},
}


def named():
    """The same by name; a metric that is there with weights and without."""
    x, y = trunk()
    model = keras.Model(x, list(heads(y)))
    return model, NAMED, {"x": floats(8, 4, 3), "y": by_name(8)}, {"batch_size": 4, "epochs": 2, "validation_split": 0.25}


def dict_of_outputs():
    """A model that returns a dict; weights of samples for each output."""
    x, y = trunk()
    model = keras.Model(x, dict(zip(("number", "kind"), heads(y), strict=True)))
    weights = {name: rng.random(8).astype("float32").round(3) for name in ("number", "kind")}
    data = {"x": floats(8, 4, 3), "y": by_name(8), "sample_weight": weights}
    return model, NAMED, data, {"batch_size": 4, "epochs": 2}


def one_loss_for_all():
    """One loss for all outputs, one of which is a masked sequence; weights for its steps."""
    x = keras.Input((4, 3), name="x")
    y = L.LSTM(3, return_sequences=True, name="steps")(L.Masking(name="masking")(x))
    model = keras.Model(x, [L.Dense(2, name="every")(y), L.Dense(1, name="end")(L.LSTM(2, name="last")(y))])
    compiled = {"optimizer": {"class_name": "SGD", "config": {"learning_rate": 0.1}}, "loss": "mse"}
    inputs = floats(8, 4, 3)
    for k in range(8):
        inputs[k, 1 + k % 4 :] = 0
    weights = [rng.random((8, 4)).astype("float32").round(3), rng.random(8).astype("float32").round(3)]
    data = {"x": inputs, "y": [floats(8, 4, 2), floats(8, 1)], "sample_weight": weights}
    return model, compiled, data, {"batch_size": 4, "epochs": 3}


def without_a_loss():
    """An output that nothing is asked of; the states of a layer among the outputs."""
    x = keras.Input((4, 3), name="x")
    y, h, c = L.LSTM(3, return_state=True, name="lstm")(x)
    model = keras.Model(x, [L.Dense(1, name="number")(y), L.Dense(2, name="idle")(h), L.Dense(2, name="cell")(c)])
    compiled = {
        "optimizer": {"class_name": "SGD", "config": {"learning_rate": 0.1}},
        "loss": ["mse", None, "mae"],
        "metrics": [["mae"], None, None],
    }
    data = {"x": floats(8, 4, 3), "y": [floats(8, 1), floats(8, 2), floats(8, 2)]}
    return model, compiled, data, {"batch_size": 8, "epochs": 2}


def plain(value):
    """JSON of nested arrays."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return {"dtype": str(value.dtype), "array": np.asarray(value).tolist()} if isinstance(value, np.ndarray) else value


def main():
    found = {}
    for case in (listed, named, dict_of_outputs, one_loss_for_all, without_a_loss):
        keras.utils.set_random_seed(5)
        model, compiled, data, arguments = case()
        before = model.get_weights()
        model.compile(**{**compiled, "optimizer": keras.optimizers.deserialize(compiled["optimizer"])})
        history = model.fit(**data, **arguments, shuffle=False, verbose=0).history
        given = {key: data[key] for key in ("x", "y", "sample_weight") if key in data}
        evaluated = {
            kind: model.evaluate(**given, batch_size=4, verbose=0, return_dict=kind == "dict") for kind in ("dict", "list")
        }
        found[case.__name__] = {
            "config": model.get_config(),
            "compiled": compiled,
            "arguments": arguments,
            "data": plain(data),
            "history": {key: [float(value) for value in values] for key, values in history.items()},
            "evaluated": {
                kind: {k: float(v) for k, v in e.items()} if kind == "dict" else [float(v) for v in e]
                for kind, e in evaluated.items()
            },
            "before": plain(before),
            "after": plain(model.get_weights()),
        }
    (DATA / "fit_outputs.json").write_text(json.dumps({"keras": keras.__version__, "cases": found}) + "\n")


if __name__ == "__main__":
    main()
