"""Keras on JAX: ``jax.jit`` of the layer, with the weights as constants and as arguments (``stateless_call``).

On this backend Keras' own tanh makes float32 of float64; there JAX' tanh stands in, and the answer is right.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.rivals.workload import THREADS, Data, Runner, Workload, mask_of

os.environ["KERAS_BACKEND"] = "jax"
os.environ["JAX_PLATFORMS"] = "cpu"
# The pool has as many threads as the process has CPUs; the worker has seen to that before.
os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={str(THREADS > 1).lower()} intra_op_parallelism_threads={THREADS}"

import jax
import keras

from benchmarks.rivals.keras_layers import loops, make_layer


def versions() -> str:
    return f"keras {keras.__version__}, jax {jax.__version__}"


def make(work: Workload, data: Data, folder: str) -> dict[str, Callable[[], Runner]]:
    jax.clear_caches()
    jax.config.update("jax_enable_x64", work.dtype == "float64")
    kinds = {"stateless": True} if work.training else {"closure": False, "stateless": True}
    return {
        f"jit, {kind}, {loop}": partial(_runner, work, data, unroll, stateless)
        for loop, unroll in loops(work).items()
        for kind, stateless in kinds.items()
    }


def _runner(work: Workload, data: Data, unroll: bool, stateless: bool) -> Runner:
    exact: dict[str, Any] = {"activation": jax.numpy.tanh} if work.dtype == "float64" else {}
    layer = make_layer(keras.layers, work, data, unroll, **exact)
    inputs = [jax.device_put(x) for x in data["inputs"]]
    fixed = [variable.value for variable in layer.non_trainable_variables]
    weights = [variable.value for variable in layer.trainable_variables]

    def stateless_layer(weights: Any, x: Any, **more: Any) -> Any:
        return layer.stateless_call(weights, fixed, x, **more)[0]

    if work.training:
        return _training(data, stateless_layer, weights, inputs)
    function: Any = stateless_layer if stateless else layer
    first = [weights] if stateless else []
    if work.carries_states:
        return _stream(work, function, first, inputs)
    if work.ragged:
        masks = [jax.device_put(mask_of(work, lengths)) for lengths in data["lengths"]]
        jitted = jax.jit(lambda *given: function(*given[:-1], mask=given[-1]))
        calls = [partial(_wait, jitted, *first, x, mask) for x, mask in zip(inputs, masks, strict=True)]
    else:
        jitted = jax.jit(lambda *given: function(*given))
        calls = [partial(_wait, jitted, *first, x) for x in inputs]
    return Runner(calls, lambda y: [np.asarray(y)])


def _wait(function: Callable, *given: Any) -> Any:
    return function(*given).block_until_ready()


def _stream(work: Workload, function: Callable, first: list, inputs: list) -> Runner:
    zeros = jax.device_put(np.zeros((work.batch, work.units), work.dtype))
    jitted = jax.jit(lambda *given: function(*given[:-2], initial_state=list(given[-2:])))
    states = [zeros, zeros]

    def reset() -> None:
        states[:] = [zeros, zeros]

    def call(x: Any) -> Any:
        y, states[0], states[1] = jitted(*first, x, *states)
        return y.block_until_ready()

    return Runner([partial(call, x) for x in inputs], lambda y: [np.asarray(y)], reset)


def _training(data: Data, function: Callable, weights: list, inputs: list) -> Runner:
    def step(weights: Any, x: Any, cotangent: Any) -> Any:
        y, pullback = jax.vjp(function, weights, x)
        dweights, dx = pullback(cotangent)
        return y, dx, *dweights

    jitted, cotangent = jax.jit(step), jax.device_put(data["cotangent"])

    def call(x: Any) -> Any:
        return jax.block_until_ready(jitted(weights, x, cotangent))

    return Runner([partial(call, x) for x in inputs], lambda returned: [np.asarray(a) for a in returned])
