"""Operators around the LSTM in their old versions, which ONNX's node tests no longer show, and on random shapes.

The truth is onnx' reference evaluator where it knows the version, else NumPy. All models run with inputs of the graph, and once
more with all but the first as constants in the file.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx", reason="ONNX models are parsed by the package onnx")

import onnx_graphs as og
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastlstm import selector

RNG = np.random.default_rng(11)
X = RNG.normal(size=(2, 3, 4)).astype("f4")


def outputs_of(op, arrays, opset, outputs=("y",), dtypes=None, **attributes):
    """The outputs of one node, the same both ways; ``arrays`` by name, None for an input that is left out."""
    first = next(iter(arrays))
    rest = {name: array for name, array in arrays.items() if name != first}
    found = []
    for constants in (False, True):
        inputs = {first: arrays[first]} if constants else arrays
        proto = og.one(op, inputs, outputs, rest if constants else None, opset, dtypes, **attributes)
        got = og.load(proto)({name: array for name, array in inputs.items() if array is not None})
        found.append(og.as_list(got))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    return found[0]


def agrees(op, arrays, opset, wanted, tolerance=2e-6, **options):
    (got,) = outputs_of(op, arrays, opset, **options)
    wanted = np.asarray(wanted)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


# -- versions -----------------------------------------------------------------------------------------------------------------
def soft(rows):
    powers = np.exp(rows - rows.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("opset", [7, 11, 12])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_softmax_up_to_12_runs_over_all_axes_from_one_on(opset, axis):
    rows = X.reshape(int(np.prod(X.shape[: axis % 3])), -1)
    agrees("Softmax", {"x": X}, opset, soft(rows).reshape(X.shape), axis=axis)
    agrees("LogSoftmax", {"x": X}, opset, np.log(soft(rows)).reshape(X.shape), axis=axis)


def test_softmax_up_to_12_begins_at_axis_1():
    agrees("Softmax", {"x": X}, 11, soft(X.reshape(2, 12)).reshape(X.shape))
    agrees("Softmax", {"x": X}, 13, soft(X.reshape(6, 4)).reshape(X.shape))


@pytest.mark.parametrize("opset", [7, 9])
def test_slice_with_attributes(opset):
    agrees("Slice", {"x": X}, opset, X[:, 1:3, -3:], starts=[1, -3], ends=[3, 1000], axes=[1, 2])
    agrees("Slice", {"x": X}, opset, X[1:2], starts=[1], ends=[2])


@pytest.mark.parametrize("opset", [10, 11, 13, 18])
@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps", "wanted"),
    [
        ([1], [3], [2], None, X[:, :, 1:3]),
        ([0, 0], [2**62, -1], None, None, X[:, :-1]),
        ([-1], [-(2**62)], [2], [-1], X[:, :, ::-1]),
        ([-1, 0], [0, 4], [-1, 0], [-2, 1], X[:, :, :0:-2]),
        ([5], [9], [1], None, X[:, 3:3]),
    ],
)
def test_slice_with_inputs(opset, starts, ends, axes, steps, wanted):
    arrays = {"x": X, "starts": starts, "ends": ends, "axes": axes, "steps": steps}
    arrays = {name: a if name == "x" or a is None else np.array(a, np.int64) for name, a in arrays.items()}
    agrees("Slice", arrays, opset, wanted)


@pytest.mark.parametrize("opset", [7, 10])
def test_clip_with_attributes(opset):
    agrees("Clip", {"x": X}, opset, np.clip(X, -0.5, 0.25), min=-0.5, max=0.25)
    agrees("Clip", {"x": X}, opset, np.maximum(X, 0), min=0.0)


@pytest.mark.parametrize("opset", [11, 12, 13])
def test_clip_with_inputs(opset):
    agrees("Clip", {"x": X, "low": np.float32(-0.5), "high": None}, opset, np.maximum(X, -0.5))
    agrees("Clip", {"x": X, "low": None, "high": np.float32(0.5)}, opset, np.minimum(X, 0.5))
    agrees("Clip", {"x": X, "low": np.float32(2), "high": np.float32(1)}, opset, np.ones_like(X))


@pytest.mark.parametrize("opset", [7, 11, 12])
def test_axes_as_an_attribute(opset):
    agrees("Squeeze", {"x": X[:, None]}, opset, X, axes=[1])
    agrees("Unsqueeze", {"x": X}, opset, X[:, None, :, None], axes=[1, 3])
    agrees("ReduceSum", {"x": X}, opset, X.sum((0, 2), keepdims=True), axes=[0, 2])
    agrees("ReduceSum", {"x": X}, opset, X.sum(), keepdims=0)


@pytest.mark.parametrize("opset", [13, 18, 21])
def test_axes_as_an_input(opset):
    def axes(*numbers):
        return np.array(numbers, np.int64)

    agrees("Squeeze", {"x": X[:, None], "axes": axes(-3)}, opset, X)
    agrees("Squeeze", {"x": X[:, None]}, opset, X)
    agrees("Unsqueeze", {"x": X, "axes": axes(-1, 0)}, opset, X[None, ..., None])
    agrees("ReduceSum", {"x": X, "axes": axes(1)}, opset, X.sum(1), keepdims=0)
    agrees("ReduceSum", {"x": X, "axes": axes()}, opset, X, noop_with_empty_axes=1)
    agrees("ReduceSum", {"x": X, "axes": axes()}, opset, X.sum(keepdims=True))


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2", "ReduceLogSumExp"])
def test_other_reductions_have_axes_as_an_attribute_up_to_17(op):
    numpy = {
        "ReduceMean": np.mean,
        "ReduceMax": np.max,
        "ReduceMin": np.min,
        "ReduceProd": np.prod,
        "ReduceL2": lambda x, axis: np.sqrt((x**2).sum(axis)),
        "ReduceLogSumExp": lambda x, axis: np.log(np.exp(x).sum(axis)),
    }[op]
    for opset in (7, 11, 13, 17):
        agrees(op, {"x": X}, opset, numpy(X, (1,)), axes=[1], keepdims=0)
    agrees(op, {"x": X, "axes": np.array([1, -1])}, 18, numpy(X, (1, 2)), keepdims=0)


@pytest.mark.parametrize("opset", [7, 10])
def test_pad_with_an_attribute(opset):
    agrees("Pad", {"x": X}, opset, np.pad(X, [(0, 0), (1, 0), (0, 2)], constant_values=7), pads=[0, 1, 0, 0, 0, 2], value=7.0)
    agrees("Pad", {"x": X}, opset, np.pad(X, [(0, 0), (0, 0), (2, 1)], "reflect"), pads=[0, 0, 2, 0, 0, 1], mode="reflect")


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_pads_that_cut(opset):
    pads = np.array([0, -1, 2, 0, 0, -3], np.int64)
    agrees("Pad", {"x": X, "pads": pads}, opset, np.pad(X[:, 1:, :1], [(0, 0), (0, 0), (2, 0)]))


def test_pad_axes():
    arrays = {"x": X, "pads": np.array([1, 2]), "value": None, "axes": np.array([-1])}
    agrees("Pad", arrays, 18, np.pad(X, [(0, 0), (0, 0), (1, 2)]))
    agrees("Pad", arrays, 19, np.pad(X, [(0, 0), (0, 0), (1, 2)], "wrap"), mode="wrap")


@pytest.mark.parametrize("opset", [7, 11, 13, 18])
def test_split(opset):
    parts = [1, 3]
    told = {"arrays": {"x": X}, "split": parts} if opset < 13 else {"arrays": {"x": X, "split": np.array(parts)}}
    got = outputs_of("Split", opset=opset, outputs=("a", "b"), axis=2, **told)
    for a, b in zip(got, np.split(X, [1], 2), strict=True):
        np.testing.assert_array_equal(a, b)
    equal = {"num_outputs": 2} if opset >= 18 else {}
    for a, b in zip(outputs_of("Split", {"x": X}, opset, ("a", "b"), axis=-1, **equal), np.split(X, 2, 2), strict=True):
        np.testing.assert_array_equal(a, b)


def test_split_into_unequal_parts():
    got = outputs_of("Split", {"x": X}, 18, ("a", "b"), axis=1, num_outputs=2)
    assert [array.shape for array in got] == [(2, 2, 4), (2, 1, 4)]
    with pytest.raises(ValueError, match="cannot split 3 into 2 equal parts"):
        outputs_of("Split", {"x": X}, 13, ("a", "b"), axis=1)


@pytest.mark.parametrize("opset", [7, 9, 10, 12, 13])
def test_dropout_does_nothing(opset):
    kind = og.FLOAT if opset < 10 else og.onnx.TensorProto.BOOL
    got = outputs_of("Dropout", {"x": X}, opset, ("y", "mask"), [og.FLOAT, kind])
    np.testing.assert_array_equal(got[0], X)
    np.testing.assert_array_equal(got[1], np.ones_like(X))
    assert got[1].dtype == (np.float32 if opset < 10 else bool)


@pytest.mark.parametrize("opset", [7, 9, 14, 15])
def test_batch_normalization(opset):
    scale, bias, mean, variance = (RNG.uniform(0.5, 2, 3).astype("f4") for _ in range(4))
    arrays = {"x": X, "scale": scale, "bias": bias, "mean": mean, "variance": variance}
    columns = [a[:, None] for a in (scale, bias, mean, variance)]
    wanted = (X - columns[2]) / np.sqrt(columns[3] + 1e-3) * columns[0] + columns[1]
    agrees("BatchNormalization", arrays, opset, wanted, epsilon=1e-3)


@pytest.mark.parametrize("opset", [7, 9, 11, 13])
def test_gemm(opset):
    a, b, c = (RNG.normal(size=shape).astype("f4") for shape in ((4, 5), (3, 4), (3,)))
    wanted = 0.5 * a.T @ b.T + 2 * c
    agrees("Gemm", {"a": a, "b": b, "c": c}, opset, wanted, alpha=0.5, beta=2.0, transA=1, transB=1)
    if opset >= 11:
        agrees("Gemm", {"a": a, "b": b}, opset, a.T @ b.T, transA=1, transB=1)


def test_reshape():
    agrees("Reshape", {"x": X, "shape": np.array([0, -1])}, 7, X.reshape(2, 12))
    agrees("Reshape", {"x": X[:0], "shape": np.array([4, 0])}, 14, X[:0].reshape(4, 0), allowzero=1)


def test_integers_are_divided_towards_zero():
    a, b = np.array([7, -7, 7, -7, 6, -6], np.int64), np.array([2, 2, -2, -2, 3, 3], np.int64)
    agrees("Div", {"a": a, "b": b}, 14, [3, -3, -3, 3, 2, -2], dtypes=[og.INT64])


def test_power_has_the_dtype_of_its_base():
    (got,) = outputs_of("Pow", {"a": np.array([2, 3], np.int32), "b": np.array([0.5, 2], "f4")}, 15, dtypes=[og.INT32])
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, [1, 9])
    (got,) = outputs_of("Pow", {"a": np.array([2, 9], "f4"), "b": np.array([-1, 0.5], "f8")}, 15)
    np.testing.assert_allclose(got, [0.5, 3])


# -- windows --------------------------------------------------------------------------------------------------------------
def correlated(x, w, pads, stride, dilation, group):
    """A convolution over one axis, number by number."""
    x = np.pad(x.astype("f8"), [(0, 0), (0, 0), pads])
    filters, channels, taps = w.shape
    out = (x.shape[2] - (taps - 1) * dilation - 1) // stride + 1
    y = np.zeros((len(x), filters, out))
    for m in range(filters):
        first = m // (filters // group) * channels
        for t in range(out):
            seen = x[:, first : first + channels, t * stride : t * stride + (taps - 1) * dilation + 1 : dilation]
            y[:, m, t] = (seen * w[m]).sum((1, 2))
    return y


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("taps", [1, 2, 3])
@pytest.mark.parametrize(("stride", "dilation", "group"), [(1, 1, 1), (2, 1, 1), (3, 2, 1), (1, 2, 2), (2, 1, 4)])
@pytest.mark.parametrize("pads", [(0, 0), (1, 0), (2, 3)])
def test_convolution_over_one_axis(backend, taps, stride, dilation, group, pads):
    x = RNG.normal(size=(2, 4, 9)).astype("f4")
    arrays = {"x": x, "w": RNG.normal(size=(8, 4 // group, taps)).astype("f4"), "b": RNG.normal(size=8).astype("f4")}
    wanted = correlated(x, arrays["w"], pads, stride, dilation, group) + arrays["b"][:, None]
    with selector.use_backend(backend):
        agrees("Conv", arrays, 11, wanted, 5e-6, pads=list(pads), strides=[stride], dilations=[dilation], group=group)


@pytest.mark.parametrize(("auto_pad", "pads"), [("SAME_UPPER", (1, 2)), ("SAME_LOWER", (2, 1)), ("VALID", (0, 0))])
def test_convolution_with_auto_pad(auto_pad, pads):
    x, w = (RNG.normal(size=shape).astype("f4") for shape in ((1, 2, 9), (3, 2, 4)))
    wanted = correlated(x, w, pads, 1, 1, 1)
    agrees("Conv", {"x": x, "w": w}, 11, wanted, 5e-6, auto_pad=auto_pad)
    assert wanted.shape[2] == (9 if auto_pad != "VALID" else 6)


def test_pools_over_one_axis():
    x = np.arange(10, dtype="f4").reshape(1, 1, 10)
    agrees("MaxPool", {"x": x}, 11, [[[2, 5, 8]]], kernel_shape=[3], strides=[3])
    agrees("MaxPool", {"x": x}, 11, [[[2, 5, 8, 9]]], kernel_shape=[3], strides=[3], ceil_mode=1)
    agrees("MaxPool", {"x": -x}, 11, [[[0, -1, -3, -5, -7]]], kernel_shape=[3], strides=[2], pads=[1, 0])
    agrees("AveragePool", {"x": x}, 11, [[[0.5, 2, 4, 6, 8]]], kernel_shape=[3], strides=[2], pads=[1, 0])
    got = [[[1 / 3, 2, 4, 6, 8]]]
    agrees("AveragePool", {"x": x}, 11, got, kernel_shape=[3], strides=[2], pads=[1, 0], count_include_pad=1)
    agrees("AveragePool", {"x": x}, 11, [[[1, 4, 7, 9]]], kernel_shape=[3], strides=[3], ceil_mode=1)
    agrees("GlobalAveragePool", {"x": x}, 11, [[[4.5]]])


# -- random shapes against the reference evaluator --------------------------------------------------------------------------
def like_the_reference(proto, feeds, tolerance=1e-5):
    for a, b in zip(og.as_list(og.load(proto)(feeds)), og.reference(proto, feeds), strict=True):
        assert a.dtype == np.asarray(b).dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
        assert a.shape == np.shape(b)


@settings(max_examples=40)
@given(st.data(), st.sampled_from(["Add", "Sub", "Mul", "Less", "Equal", "Max", "Where"]))
def test_broadcasting(data, op):
    shapes = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=3, max_side=4, max_dims=4)).input_shapes
    a, b, c = (RNG.integers(-2, 3, shape).astype("f4") for shape in shapes)
    kind = og.onnx.TensorProto.BOOL if op in ("Less", "Equal") else og.FLOAT
    arrays = {"c": c > 0, "a": a, "b": b} if op == "Where" else {"a": a, "b": b}
    like_the_reference(og.one(op, arrays, opset=16, dtypes=[kind]), arrays)


@settings(max_examples=40)
@given(st.data())
def test_matmul_of_any_ranks(data):
    shapes = data.draw(hnp.mutually_broadcastable_shapes(signature=np.matmul.signature, max_side=4, max_dims=3)).input_shapes
    a, b = (RNG.normal(size=shape).astype("f4") for shape in shapes)
    (y,) = outputs_of("MatMul", {"a": a, "b": b}, 13)
    np.testing.assert_allclose(y, np.matmul(a, b), rtol=1e-5, atol=1e-5)


@settings(max_examples=40)
@given(hnp.array_shapes(min_dims=1, max_dims=4, max_side=4), st.data())
def test_gather_and_concat_and_transpose(shape, data):
    x = RNG.normal(size=shape).astype("f4")
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    size = shape[axis]
    indices = RNG.integers(-size, size, data.draw(hnp.array_shapes(max_dims=2, max_side=3)))
    like_the_reference(og.one("Gather", {"x": x, "i": indices}, opset=13, axis=axis), {"x": x, "i": indices})
    like_the_reference(og.one("Concat", {"x": x, "z": 2 * x}, opset=13, axis=axis), {"x": x, "z": 2 * x})
    perm = data.draw(st.permutations(range(len(shape))))
    like_the_reference(og.one("Transpose", {"x": x}, opset=13, perm=list(perm)), {"x": x})


CASTS = ["float16", "float32", "float64", "int32", "int64", "uint8", "bool"]


@pytest.mark.parametrize("source", CASTS)
@pytest.mark.parametrize("target", CASTS)
def test_casts(source, target):
    x = np.array([0, 1, 2.6, 100.2], source)
    to = og.helper.np_dtype_to_tensor_dtype(np.dtype(target))
    (got,) = outputs_of("Cast", {"x": x}, 13, dtypes=[to], to=to)
    assert got.dtype == target
    np.testing.assert_array_equal(got, x.astype(target))


# -- If ---------------------------------------------------------------------------------------------------------------------
def with_if(condition_in_file):
    """ "y": x + 1 or x * w of the outer graph, and how often something was done twice over."""
    then = og.helper.make_graph(
        [og.helper.make_node("Add", ["x", "one"], ["then_y"])], "then", [], [og.value("then_y", og.FLOAT)], []
    )
    scale = og.helper.make_node("Mul", ["x", "w"], ["scaled"])
    other = og.helper.make_graph(
        [scale, og.helper.make_node("Neg", ["scaled"], ["else_y"])], "else", [], [og.value("else_y", og.FLOAT)], []
    )
    nodes = [
        og.helper.make_node("Mul", ["x", "two"], ["w"], "double"),
        og.helper.make_node("If", ["cond"], ["chosen"], "choice", then_branch=then, else_branch=other),
        og.helper.make_node("Add", ["chosen", "w"], ["y"]),
    ]
    constants = {"one": np.float32(1), "two": np.float32(2)}
    inputs = {"x": X}
    (constants if condition_in_file is not None else inputs)["cond"] = np.array(bool(condition_in_file))
    return og.model(nodes, inputs, ["y"], constants)


@pytest.mark.parametrize("condition", [False, True])
def test_if(condition):
    wanted = (X + 1 if condition else -X * 2 * X) + 2 * X
    np.testing.assert_allclose(og.load(with_if(condition))(X), wanted, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(og.load(with_if(None))({"x": X, "cond": np.array(condition)}), wanted, rtol=1e-6, atol=1e-6)
    like_the_reference(with_if(None), {"x": X, "cond": np.array(condition)})
