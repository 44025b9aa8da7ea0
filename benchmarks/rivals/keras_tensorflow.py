"""Keras on TensorFlow: concrete functions of ``tf.function``, as a graph and compiled by XLA; inputs are tensors already."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf

from benchmarks.rivals.keras_layers import loops, make_layer
from benchmarks.rivals.workload import THREADS, Data, Runner, Workload, mask_of

tf.config.threading.set_intra_op_parallelism_threads(THREADS)
tf.config.threading.set_inter_op_parallelism_threads(1)


def versions() -> str:
    return f"keras {keras.__version__}, tensorflow {tf.__version__}"


def make(work: Workload, data: Data, folder: str) -> dict[str, Callable[[], Runner]]:
    keras.backend.clear_session()
    ways: dict[str, Callable[[], Runner]] = {}
    for loop, unroll in loops(work).items():
        for compiler, xla in (("graph", False), ("XLA", True)):
            ways[f"{compiler}, {loop}"] = partial(_runner, work, data, unroll, xla)
    return ways


def _runner(work: Workload, data: Data, unroll: bool, xla: bool) -> Runner:
    layer = make_layer(keras.layers, work, data, unroll)
    inputs = [tf.constant(x) for x in data["inputs"]]
    if work.carries_states:
        return _stream(work, layer, inputs, xla)
    if work.training:
        return _training(data, layer, inputs, xla)
    if work.ragged:
        arguments = [[x, tf.constant(mask_of(work, n))] for x, n in zip(inputs, data["lengths"], strict=True)]
        function = tf.function(lambda x, mask: layer(x, mask=mask), jit_compile=xla)
    else:
        arguments = [[x] for x in inputs]
        function = tf.function(lambda x: layer(x), jit_compile=xla)
    concrete = function.get_concrete_function(*arguments[0])
    return Runner([partial(concrete, *given) for given in arguments], lambda y: [y.numpy()])


def _stream(work: Workload, layer: Any, inputs: list, xla: bool) -> Runner:
    zeros = tf.zeros((work.batch, work.units), work.dtype)
    function = tf.function(lambda x, h, c: layer(x, initial_state=[h, c]), jit_compile=xla)
    concrete = function.get_concrete_function(inputs[0], zeros, zeros)
    states = [zeros, zeros]

    def reset() -> None:
        states[:] = [zeros, zeros]

    def call(x: Any) -> Any:
        y, states[0], states[1] = concrete(x, *states)
        return y

    return Runner([partial(call, x) for x in inputs], lambda y: [y.numpy()], reset)


def _training(data: Data, layer: Any, inputs: list, xla: bool) -> Runner:
    def step(x: Any, cotangent: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            watched = [x, *(weight.value for weight in layer.trainable_weights)]
            tape.watch(watched)
            y = layer(x)
        return y, *tape.gradient(y, watched, output_gradients=cotangent)

    cotangent = tf.constant(data["cotangent"])
    concrete = tf.function(step, jit_compile=xla).get_concrete_function(inputs[0], cotangent)

    def result(returned: Any) -> list[np.ndarray]:
        return [a.numpy() for a in returned]

    return Runner([partial(concrete, x, cotangent) for x in inputs], result)
