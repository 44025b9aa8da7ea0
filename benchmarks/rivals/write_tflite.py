"""Writes the .tflite files for ``litert``: run by the environment of ``keras_tensorflow``, before anything is timed.

Reads JSON lines {"work", "data", "folder"} from stdin and writes <folder>/<name>.<way>.tflite: "fused" is the one operator
UNIDIRECTIONAL_SEQUENCE_LSTM (which the converter makes of legacy Keras layers only), "loop" and "unrolled" are Keras 3's layers.
What cannot be converted leaves <name>.<way>.txt with the reason.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf
import tf_keras

from benchmarks.rivals.keras_layers import make_layer
from benchmarks.rivals.workload import Data, Workload

UNROLLED_STEPS = 50  # longer graphs take minutes to convert and lose to the loop


def fused(work: Workload, data: Data) -> bytes:
    x = tf_keras.Input(batch_shape=data["inputs"].shape[1:])
    outputs = make_layer(tf_keras.layers, work, data)(x)
    model = tf_keras.Model(x, outputs[0] if work.carries_states else outputs)
    return tf.lite.TFLiteConverter.from_keras_model(model).convert()


def from_function(work: Workload, data: Data, unroll: bool) -> bytes:
    layer = make_layer(keras.layers, work, data, unroll)
    specs = [tf.TensorSpec(data["inputs"].shape[1:], name="x")]
    function: Callable = lambda x: layer(x)  # noqa: E731
    if work.ragged:
        specs.append(tf.TensorSpec((work.batch, work.steps), tf.bool, name="mask"))
        function = lambda x, mask: layer(x, mask=mask)  # noqa: E731
    if work.carries_states:
        specs += [tf.TensorSpec((work.batch, work.units), name=name) for name in "hc"]
        function = lambda x, h, c: layer(x, initial_state=[h, c])[1:]  # noqa: E731
    holder: Any = tf.Module()
    holder.function = tf.function(function, input_signature=specs)
    concrete = holder.function.get_concrete_function()
    return tf.lite.TFLiteConverter.from_concrete_functions([concrete], holder).convert()


def ways(work: Workload, data: Data) -> dict[str, Callable[[], bytes]]:
    found: dict[str, Callable[[], bytes]] = {}
    if work.is_lstm and not work.ragged:
        found["fused"] = partial(fused, work, data)
    found["loop"] = partial(from_function, work, data, False)
    if work.steps <= UNROLLED_STEPS and not work.ragged:
        found["unrolled"] = partial(from_function, work, data, True)
    return found


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        work = Workload(**request["work"])
        with np.load(request["data"]) as stored:
            data = {name: stored[name] for name in stored.files if not name.startswith("expected_")}
        for way, convert in ways(work, data).items():
            start = Path(request["folder"]) / f"{work.name}.{way}"
            try:
                start.with_name(f"{start.name}.tflite").write_bytes(convert())
            except Exception as failure:  # kept for the table
                start.with_name(f"{start.name}.txt").write_text(f"{type(failure).__name__}: {failure}"[:600], "utf-8")


if __name__ == "__main__":
    main()
