"""Keras on PyTorch: the layer called eagerly in inference mode, autograd for gradients."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

os.environ["KERAS_BACKEND"] = "torch"

import keras
import torch

from benchmarks.rivals.keras_layers import loops, make_layer
from benchmarks.rivals.torch import enter_mode
from benchmarks.rivals.workload import Data, Runner, Workload, mask_of


def versions() -> str:
    return f"keras {keras.__version__}, torch {torch.__version__}"


def make(work: Workload, data: Data, folder: str) -> dict[str, Callable[[], Runner]]:
    enter_mode(work.training)
    return {f"eager, {loop}": partial(_runner, work, data, unroll) for loop, unroll in loops(work).items()}


def _runner(work: Workload, data: Data, unroll: bool) -> Runner:
    layer = make_layer(keras.layers, work, data, unroll)
    inputs = [torch.from_numpy(x) for x in data["inputs"]]
    if work.carries_states:
        return _stream(work, layer, inputs)
    if work.training:
        return _training(data, layer, inputs)
    if work.ragged:
        masks = [torch.from_numpy(mask_of(work, lengths)) for lengths in data["lengths"]]
        calls = [partial(layer, x, mask=mask) for x, mask in zip(inputs, masks, strict=True)]
    else:
        calls = [partial(layer, x) for x in inputs]
    return Runner(calls, lambda y: [y.numpy()])


def _stream(work: Workload, layer: Any, inputs: list) -> Runner:
    states: list[Any] = []

    def reset() -> None:
        states[:] = [torch.zeros(work.batch, work.units) for _ in "hc"]

    def call(x: Any) -> Any:
        y, states[0], states[1] = layer(x, initial_state=states)
        return y

    reset()
    return Runner([partial(call, x) for x in inputs], lambda y: [y.numpy()], reset)


def _training(data: Data, layer: Any, inputs: list) -> Runner:
    weights = [variable.value for variable in layer.trainable_variables]
    cotangent = torch.from_numpy(data["cotangent"])

    def call(x: Any) -> Any:
        y = layer(x)
        return y, *torch.autograd.grad(y, [x, *weights], cotangent)

    def result(returned: Any) -> list[np.ndarray]:
        return [a.detach().numpy() for a in returned]

    return Runner([partial(call, x.requires_grad_()) for x in inputs], result)
