"""Operation: the functions of keras.ops that files of functional models hold: values, shapes, gradients."""

from __future__ import annotations

import json

import numpy as np
import pytest
from central_differences import check, gradient

from fastlstm import LSTM, Dense, Input, Model, load_model
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


# -- on symbolic tensors ------------------------------------------------------------------------------------------------
EXPRESSIONS = {
    "a + b": lambda a, b: a + b,
    "a - b": lambda a, b: a - b,
    "a * b": lambda a, b: a * b,
    "a / b": lambda a, b: a / b,
    "-a": lambda a, b: -a,
    "1 - 2.5 * a": lambda a, b: 1 - 2.5 * a,
    "1 / (3 + a)": lambda a, b: 1 / (3 + a),
    "NumPy's scalars": lambda a, b: np.float32(2) * a + np.float32(1),
    "a > b": lambda a, b: a > b,
    "a >= 1": lambda a, b: a >= 1,
    "a < 1": lambda a, b: a < 1,
    "a <= b": lambda a, b: a <= b,
    "a[:, -1]": lambda a, b: a[:, -1],
    "a[..., 0]": lambda a, b: a[..., 0],
    "a[:, 1::2, None]": lambda a, b: a[:, 1::2, None],
    "a[:, 1:] + b[:, :-1]": lambda a, b: a[:, 1:] + b[:, :-1],
}


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_expressions_of_symbolic_tensors_are_those_of_arrays(text, tmp_path):
    pytest.importorskip("h5py", reason="writing .keras files needs h5py")
    rng = np.random.default_rng(1)
    arrays = [rng.uniform(0.5, 2.0, (2, 5, 3)).astype(np.float32) for _ in "ab"]
    inputs = [Input((5, 3)), Input((5, 3))]
    expected = EXPRESSIONS[text](*arrays)
    model = Model(inputs, EXPRESSIONS[text](*inputs))
    assert model.output_shape[1:] == expected.shape[1:]
    model.save(tmp_path / "m.keras")
    for one in (model, load_model(tmp_path / "m.keras")):
        answer = one.predict(arrays, verbose=0)
        np.testing.assert_array_equal(answer, expected)
        assert answer.dtype == expected.dtype


def test_training_through_an_expression():
    x = Input((5, 4))
    y = LSTM(3, return_sequences=True)(x)
    model = Model(x, Dense(1)(2 * y[:, -1] - y[:, 0] / 4))
    lstm, dense = model.layers[1:]
    data = draw(2, 5, 4, seed=2).astype(np.float32)
    h = lstm(data)
    expected = (2 * h[:, -1] - h[:, 0] / 4) @ dense.kernel.value + dense.bias.value
    np.testing.assert_allclose(model(data), expected, rtol=1e-6, atol=1e-6)
    gradient_of_x = model.vjp(data)[1](np.ones((2, 1), np.float32)).inputs
    dh = np.zeros_like(h)
    dh[:, -1], dh[:, 0] = 2 * dense.kernel.value[:, 0], -dense.kernel.value[:, 0] / 4
    np.testing.assert_allclose(gradient_of_x, lstm.vjp(data)[1](dh).inputs, rtol=1e-5, atol=1e-6)


def test_steps_are_named_as_in_keras():
    x = Input((5, 3))
    names = [(x + 1).node.layer.name, x[:, 0].node.layer.name, (x / 2).node.layer.name]
    assert [name.rstrip("_0123456789") for name in names] == ["add", "get_item", "true_divide"]


def test_what_symbolic_tensors_are_not():
    x = Input((5, 3))
    for wrong in (lambda: np.mean(x), lambda: float(x)):
        with pytest.raises(ValueError, match="is symbolic"):
            wrong()
    for wrong in (lambda: x + {}, lambda: x + np.ones(3), lambda: np.tanh(x), lambda: x + "1", lambda: list(x), lambda: bool(x)):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(ValueError, match="out of range"):
        x[:, 5]
    with pytest.raises(ValueError, match="cannot be put together"):
        x + Input((4, 3))
