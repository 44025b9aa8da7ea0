"""Models for the tests of functional models, draws of their inputs, and their gradients against central differences."""

from __future__ import annotations

import copy

import numpy as np
from central_differences import check, gradient

from fastlstm import (
    LSTM,
    Dense,
    Input,
    Model,
    Sequential,
    TimeDistributed,
)

F64 = {"dtype": "float64"}


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def encoder_decoder():
    """Three inputs, three outputs, states from layer to layer, and one layer used twice."""
    x, h, c = Input((4, 3), name="x", **F64), Input((5,), name="h", **F64), Input((5,), name="c", **F64)
    shared = TimeDistributed(Dense(2, "tanh", name="inner", **F64), name="shared", **F64)
    y, h1, c1 = LSTM(5, return_sequences=True, return_state=True, name="enc", **F64)(x, initial_state=[h, c])
    z = LSTM(5, name="dec", **F64)(y, initial_state=[h1, c1])
    first, second = shared(y), shared(Dense(5, name="mix", **F64)(x))
    return Model([x, h, c], [first, z, second, c1], name="ed")


def inputs_of(model, batch=2, seed=0):
    return [draw(batch, *[n or 4 for n in tensor.shape[1:]], seed=seed + k) for k, tensor in enumerate(model.inputs)]


def check_model(model, arrays, seed=1, training=True):
    """``model.vjp`` against differences of its call, in all inputs and all weights."""
    start = copy.deepcopy(model)
    outputs, pullback = model.vjp(arrays if len(arrays) > 1 else arrays[0], training=training)
    several = isinstance(outputs, list)
    listed = outputs if several else [outputs]
    dys = [draw(*y.shape, seed=seed) for y in listed]

    def loss():
        ran = copy.deepcopy(start)(arrays if len(arrays) > 1 else arrays[0], training=training)
        return sum(float(np.sum(y * dy)) for y, dy in zip(ran if several else [ran], dys, strict=True))

    answer = pullback(dys if several else dys[0])
    got = answer.inputs if isinstance(answer.inputs, list) else [answer.inputs]
    for k, (x, dx) in enumerate(zip(arrays, got, strict=True)):
        if x.dtype.kind == "f":
            check(dx, gradient(loss, x), f"input {k}")
        else:
            assert dx is None
    for variable, gradient_of, original in zip(start.weights, answer.weights, model.weights, strict=True):
        if original.trainable:
            check(gradient_of, gradient(loss, variable), variable.path)
    return answer


def nested():
    a = Input((4, 3), name="a", **F64)
    inner = Model(a, [LSTM(2, return_sequences=True, name="l", **F64)(a), Dense(2, name="d", **F64)(a)], name="inner")
    stack = Sequential([Dense(3, "tanh", name="s", **F64)], name="stack")
    x = Input((4, 3), name="x", **F64)
    first, second = inner(x)
    third, fourth = inner(stack(x))
    return Model(x, [first, second, third, fourth], name="outer")
