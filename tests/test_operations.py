"""Operation: the functions of keras.ops that files of functional models hold: values, shapes, gradients."""

from __future__ import annotations

import json

import numpy as np
import pytest
from central_differences import check, gradient

from fastlstm import LSTM, Dense, Input, Model
from fastlstm.layers.operations import Operation


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


A, B = draw(2, 3, 4), draw(2, 3, 4, seed=1)
CASES = [
    ("NotEqual", {}, [A, 0], A != 0),
    ("Greater", {}, [A, B], A > B),
    ("LogicalAnd", {}, [A > 0, B > 0], (A > 0) & (B > 0)),
    ("LogicalNot", {}, [A > 0], A <= 0),
    ("Any", {"axis": -1, "keepdims": False}, [A > 1], (A > 1).any(-1)),
    ("All", {"axis": [1, 2], "keepdims": True}, [A > -3], (A > -3).all((1, 2), keepdims=True)),
    ("ExpandDims", {"axis": -1}, [A], A[..., None]),
    ("ZerosLike", {"dtype": "bool"}, [A], np.zeros(A.shape, bool)),
    ("OnesLike", {"dtype": None}, [A], np.ones(A.shape)),
    ("Cast", {"dtype": "float32"}, [A], A.astype(np.float32)),
    ("Concatenate", {"axis": 1}, [[A, B]], np.concatenate([A, B], 1)),
    ("Add", {}, [A, B[:, :1]], A + B[:, :1]),
    ("Subtract", {}, [1.0, A], 1 - A),
    ("Multiply", {}, [A, 2.0], A * 2),
    ("TrueDivide", {}, [A, B], A / B),
    ("Negative", {}, [A], -A),
    ("GetItem", {}, [A, [slice(None), -1]], A[:, -1]),
    ("GetItem", {}, [A, [slice(None), slice(0, None, 2), None]], A[:, ::2, None]),
    ("GetItem", {}, [A, [Ellipsis, slice(1, 3)]], A[..., 1:3]),
]


@pytest.mark.parametrize(("name", "config", "inputs", "want"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_values_shapes_and_gradients(name, config, inputs, want):
    operation = Operation(name, **config)
    y, pullback = operation.vjp(inputs)
    np.testing.assert_array_equal(y, want)
    shapes = [[x.shape for x in a] if isinstance(a, list) and name == "Concatenate" else getattr(a, "shape", a) for a in inputs]
    assert operation.symbolic_output_shape(shapes, {}) == want.shape
    if want.dtype == np.float64 and name not in ("OnesLike", "ZerosLike"):
        dy = draw(*want.shape, seed=3)
        answer = pullback(dy)
        leaves = inputs[0] if name == "Concatenate" else inputs
        arrays = [(k, a) for k, a in enumerate(leaves) if isinstance(a, np.ndarray)]
        for k, array in arrays:
            check(answer.inputs[k], gradient(lambda: float((operation(inputs) * dy).sum()), array), f"argument {k}")


def test_in_a_model():
    """Arithmetic and slices between layers, there and back through a config, gradients included."""
    x = Input((5, 3), dtype="float64", name="x")
    y = LSTM(4, return_sequences=True, dtype="float64", name="l")(x)
    last = Operation("GetItem", name="last")([y, [slice(None), -1]])
    total = Operation("Add", name="add")(
        [Operation("Multiply", name="mul")([last, 2.0]), Dense(4, dtype="float64", name="d")(last)]
    )
    assert (last.shape, total.shape, total.dtype) == ((None, 4), (None, 4), "float64")
    model = Model(x, total)
    assert [layer.name for layer in model.layers] == ["x", "l", "d"]
    array = draw(2, 5, 3)
    hidden = model.get_layer("l")(array)[:, -1]
    np.testing.assert_allclose(model(array), 2 * hidden + model.get_layer("d")(hidden), rtol=1e-12)
    dy = draw(2, 4)
    dx = model.vjp(array)[1](dy).inputs
    check(dx, gradient(lambda: float((model(array) * dy).sum()), array), "inputs")
    again = Model.from_config(json.loads(json.dumps(model.get_config())))
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(array), model(array))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Operation("Exec"), "not known"),
        (lambda: Operation("Cast", dtype="object"), "dtype"),
        (lambda: Operation("GetItem").symbolic_output_shape([(2, 3), [0, 0, 0]], {}), "axes"),
        (lambda: Operation("GetItem").symbolic_output_shape([(2, 3), [slice(None), 7]], {}), "out of range"),
        (lambda: Operation("GetItem").symbolic_output_shape([(2, 3), ["a"]], {}), "integers"),
        (lambda: Operation("Any", axis=5).symbolic_output_shape([(2, 3)], {}), "axis"),
        (lambda: Operation("Add").symbolic_output_shape([(2, 3), (2, 4)], {}), "put together"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
