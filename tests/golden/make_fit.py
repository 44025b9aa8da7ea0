"""Trains small models with Keras 3 and stores what came out, for tests/test_fit_golden.py: ``python tests/golden/make_fit.py``.

Needs keras, jax and h5py, not fastlstm. Writes tests/data/fit.json (configs, fit arguments, histories) and fit.npz (samples,
weights before and after).
"""

import json
import os
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np

L = keras.layers
DATA = Path(__file__).resolve().parent.parent / "data"
rng = np.random.default_rng(7)


def floats(*shape):
    return rng.standard_normal(shape).astype("float32")


def plain():
    """A batch that is not full, validation, SGD with momentum, a metric."""
    model = keras.Sequential([keras.Input((5, 3)), L.LSTM(4, return_sequences=True), L.LSTM(3), L.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", metrics=["mae"])
    x, y = floats(10, 5, 3), floats(10, 1)
    return model, {"x": x, "y": y, "val_x": floats(6, 5, 3), "val_y": floats(6, 1)}, {"batch_size": 4, "epochs": 3}


def padded(*shape):
    """Samples whose last steps are zeros."""
    steps = np.arange(shape[1]) < rng.integers(1, shape[1] + 1, shape[0])[:, None]
    return steps * rng.integers(1, 7, shape) if len(shape) == 2 else steps[..., None] * floats(*shape)


def masked_steps():
    """An answer for every step, masks, weights for steps, weight penalties, activity penalties."""
    lstm = L.LSTM(
        4,
        return_sequences=True,
        kernel_regularizer=keras.regularizers.L2(0.02),
        recurrent_regularizer=keras.regularizers.L1(0.01),
        activity_regularizer=keras.regularizers.L1L2(0.01, 0.03),
    )
    model = keras.Sequential([keras.Input((6, 3)), L.Masking(), lstm, L.Dense(3, activation="softmax")])
    model.compile(
        keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy", metrics=["accuracy"], weighted_metrics=["accuracy"]
    )
    data = {"x": padded(9, 6, 3), "y": rng.integers(0, 3, (9, 6)), "sample_weight": rng.random((9, 6)).astype("float32")}
    data |= {"val_x": padded(5, 6, 3), "val_y": rng.integers(0, 3, (5, 6)), "val_weight": rng.random((5, 6)).astype("float32")}
    return model, data, {"batch_size": 4, "epochs": 3}


def masked_metrics():
    """Masks without weights."""
    model = keras.Sequential([keras.Input((6,)), L.Embedding(7, 3, mask_zero=True), L.LSTM(4, return_sequences=True), L.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"], weighted_metrics=["mse"])
    data = {"x": padded(8, 6), "y": floats(8, 6, 1), "val_x": padded(7, 6), "val_y": floats(7, 6, 1)}
    return model, data, {"batch_size": 4, "epochs": 2}


def classes():
    """Class weights, constraints, an activity penalty inside Bidirectional, a frozen layer."""
    inner = L.LSTM(3, activity_regularizer=keras.regularizers.L2(0.1), kernel_constraint=keras.constraints.MaxNorm(0.7))
    frozen = L.Embedding(7, 3, mask_zero=True, trainable=False)
    model = keras.Sequential(
        [keras.Input((6,)), frozen, L.Bidirectional(inner, merge_mode="ave"), L.Dense(1, activation="sigmoid")]
    )
    model.compile(keras.optimizers.RMSprop(0.02), "binary_crossentropy", metrics=["accuracy"])
    return (
        model,
        {"x": padded(12, 6), "y": rng.integers(0, 2, (12, 1))},
        {"batch_size": 5, "epochs": 3, "class_weight": {0: 0.5, 1: 2.0}},
    )


def normalized():
    """Moving statistics, clipping, one-hot labels, weights for samples, a part split off for validation."""
    model = keras.Sequential(
        [
            keras.Input((4, 6, 2)),
            L.ConvLSTM1D(3, 3, padding="same", return_sequences=True),
            L.BatchNormalization(momentum=0.8),
            L.Flatten(),
            L.Dense(3, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01, clipnorm=0.5), "categorical_crossentropy", metrics=["accuracy"])
    y = np.eye(3, dtype="float32")[rng.integers(0, 3, 12)]
    data = {"x": floats(12, 4, 6, 2), "y": y, "sample_weight": rng.random(12).astype("float32")}
    return model, data, {"batch_size": 3, "epochs": 2, "validation_split": 0.25}


def main():
    described, arrays = {}, {}
    for case in (plain, masked_steps, masked_metrics, classes, normalized):
        keras.utils.set_random_seed(3)
        model, data, arguments = case()
        name = case.__name__
        before = model.get_weights()
        given = {key: data[key] for key in ("x", "y", "sample_weight") if key in data}
        if "val_x" in data:
            given["validation_data"] = tuple(data[key] for key in ("val_x", "val_y", "val_weight") if key in data)
        history = model.fit(**given, **arguments, shuffle=False, verbose=0).history
        if name.startswith("masked"):
            # On JAX the mask gets lost between the gradient and the metrics of a training step; validation has it.
            history = {key: values for key, values in history.items() if key == "loss" or key.startswith("val_")}
        described[name] = {
            "config": model.get_config(),
            "compile_config": model.get_compile_config(),
            "arguments": arguments,
            "history": {key: [float(value) for value in values] for key, values in history.items()},
        }
        arrays |= {f"{name}/{key}": value for key, value in data.items()}
        arrays |= {f"{name}/before/{k}": value for k, value in enumerate(before)}
        arrays |= {f"{name}/after/{k}": value for k, value in enumerate(model.get_weights())}
    (DATA / "fit.json").write_text(json.dumps({"keras": keras.__version__, "cases": described}, indent=1) + "\n")
    np.savez_compressed(DATA / "fit.npz", **arrays)


if __name__ == "__main__":
    main()
