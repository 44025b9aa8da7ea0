"""ONNX files for fuzz_runs: valid models of every kind of operator, and mutations of their bytes and of what they say."""

from __future__ import annotations

import random

import numpy as np
import onnx
import onnx_graphs as og

from fastlstm.models.onnx.bind import bind
from fastlstm.models.onnx.bound import Departed
from fastlstm.models.onnx.checks import OPERATORS
from fastlstm.models.onnx.limits import Allowance
from fastlstm.models.onnx.program import FAILURES

RNG = np.random.default_rng(1)
NUMBERS = [0, -1, 1, 2, 3, 7, 8, 255, 2**31 - 1, 2**31, 2**62, -(2**63), 10**6, 10**9]
NAMES = [*sorted(name for domain, name in OPERATORS if not domain), "Loop", "Scan", "Det", ""]


def floats(*shape):
    return RNG.normal(size=shape).astype("f4")


def recurrent():
    """Both directions with lengths and states, peepholes in the second LSTM."""
    x, lengths = floats(4, 2, 3), np.array([4, 2], np.int32)
    weights = {"W": floats(2, 20, 3), "R": floats(2, 20, 5), "B": floats(2, 40), "P": floats(1, 15)}
    weights |= {"W2": floats(1, 20, 10), "R2": floats(1, 20, 5), "shape": np.array([0, 0, -1])}
    nodes = [
        og.helper.make_node("LSTM", ["x", "W", "R", "B", "lens", "h"], ["y", "", "c"], direction="bidirectional", hidden_size=5),
        og.helper.make_node("Transpose", ["y"], ["t"], perm=[0, 2, 1, 3]),
        og.helper.make_node("Reshape", ["t", "shape"], ["f"]),
        og.helper.make_node(
            "LSTM", ["f", "W2", "R2", "", "lens", "", "", "P"], ["z"], clip=3.0, activations=["HardSigmoid", "Elu", "Tanh"]
        ),
    ]
    return og.model(nodes, {"x": x, "lens": lengths, "h": floats(2, 2, 5)}, ["z", "c"], weights)


def convolution():
    nodes = [
        og.helper.make_node("Pad", ["x", "pads"], ["p"]),
        og.helper.make_node("Conv", ["p", "w", "b"], ["c"], strides=[2], dilations=[1], pads=[1, 0]),
        og.helper.make_node("Relu", ["c"], ["r"]),
        og.helper.make_node("MaxPool", ["r"], ["m"], kernel_shape=[2], strides=[2], ceil_mode=1),
        og.helper.make_node("BatchNormalization", ["m", "b", "b", "b", "v"], ["n"]),
        og.helper.make_node("Flatten", ["n"], ["f"], axis=1),
        og.helper.make_node("Gemm", ["f", "g", "h"], ["d"], transB=1),
        og.helper.make_node("Softmax", ["d"], ["y"], axis=1),
    ]
    weights = {"w": floats(4, 3, 3), "b": floats(4), "v": abs(floats(4)), "g": floats(2, 12), "h": floats(2)}
    return og.model(nodes, {"x": floats(1, 3, 10)}, ["y"], weights | {"pads": np.array([0, 0, 1, 0, 0, 1])})


def shapes():
    """What exporters write for shapes that are known at run time, and arrays made of nothing but their sizes."""
    nodes = [
        og.helper.make_node("Shape", ["x"], ["s"]),
        og.helper.make_node("Gather", ["s", "zero"], ["n"]),
        og.helper.make_node("Unsqueeze", ["n", "zeros"], ["u"]),
        og.helper.make_node("Concat", ["u", "two"], ["target"], axis=0),
        og.helper.make_node("ConstantOfShape", ["target"], ["z"], value=og.numpy_helper.from_array(np.ones(1, "f4"))),
        og.helper.make_node("Expand", ["z", "target"], ["e"]),
        og.helper.make_node("Range", ["zero", "n", "one"], ["i"]),
        og.helper.make_node("Cast", ["i"], ["if"], to=1),
        og.helper.make_node("Slice", ["x", "zeros", "two"], ["sl"]),
        og.helper.make_node("Split", ["x"], ["a", "b"], axis=1),
        og.helper.make_node("Tile", ["a", "twos"], ["tiled"]),
        og.helper.make_node("ReduceSum", ["tiled", "zeros"], ["red"], keepdims=0),
        og.helper.make_node("Where", ["more", "e", "z"], ["w"]),
        og.helper.make_node("Greater", ["x", "half"], ["greater"]),
    ]
    constants = {"zero": np.array(0), "one": np.array(1), "zeros": np.array([0]), "two": np.array([2]), "twos": np.array([2, 3])}
    constants |= {"half": np.float32(0.5), "more": np.array([True, False])}
    outputs = ["if", "sl", "b", "red", "w", og.value("greater", onnx.TensorProto.BOOL)]
    return og.model(nodes, {"x": floats(3, 4)}, outputs, constants)


def branches():
    def branch(name, op):
        node = og.helper.make_node(op, ["x"], [f"{name}_y"])
        return og.helper.make_graph([node], name, [], [og.value(f"{name}_y", og.FLOAT)], [])

    nodes = [
        og.helper.make_node("If", ["c"], ["a"], then_branch=branch("then", "Tanh"), else_branch=branch("else", "Neg")),
        og.helper.make_node("If", ["k"], ["b"], then_branch=branch("one", "Abs"), else_branch=branch("two", "Exp")),
        og.helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    return og.model(nodes, {"x": floats(2, 3), "c": np.array(True)}, ["y"], {"k": np.array(False)})


def quantized():
    weights = {"W": RNG.integers(0, 256, (1, 3, 8)).astype("u1"), "R": RNG.integers(0, 256, (1, 2, 8)).astype("u1")}
    scales = {"ws": floats(1), "wz": np.array([9], "u1"), "rs": floats(1, 8), "rz": np.full((1, 8), 100, "u1")}
    order = ["x", "W", "R", "", "", "", "", "", "ws", "wz", "rs", "rz"]
    nodes = [
        og.helper.make_node("DynamicQuantizeLSTM", order, ["y"], domain="com.microsoft", hidden_size=2),
        og.helper.make_node("DynamicQuantizeLinear", ["y"], ["q", "s", "z"]),
        og.helper.make_node("MatMulInteger", ["q", "m", "z"], ["i"]),
        og.helper.make_node("Cast", ["i"], ["f"], to=1),
        og.helper.make_node("Mul", ["f", "s"], ["o"]),
    ]
    weights |= {"m": RNG.integers(0, 256, (2, 3)).astype("u1")}
    return og.model(nodes, {"x": floats(4, 1, 3)}, ["o"], weights | scales, domains=("com.microsoft",))


SOURCES = [make().SerializeToString() for make in (recurrent, convolution, shapes, branches, quantized)]


# -- mutations --------------------------------------------------------------------------------------------------------------
def graphs(graph):
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)


def changed_tensor(tensor, draw):
    """Another size, dtype, or other numbers."""
    what = draw.random()
    if what < 0.3 and tensor.dims:
        tensor.dims[draw.randrange(len(tensor.dims))] = draw.choice(NUMBERS)
    elif what < 0.4:
        tensor.data_type = draw.randrange(25)
    elif tensor.data_type == onnx.TensorProto.INT64:
        array = np.frombuffer(tensor.raw_data[: len(tensor.raw_data) // 8 * 8], np.int64).copy()
        if array.size:
            array[draw.randrange(array.size)] = draw.choice(NUMBERS)
            tensor.raw_data = array.tobytes()
    elif tensor.raw_data:
        data = bytearray(tensor.raw_data)
        data[draw.randrange(len(data))] = draw.randrange(256)
        tensor.raw_data = bytes(data)


def changed_attribute(attribute, draw):
    if attribute.ints:
        attribute.ints[draw.randrange(len(attribute.ints))] = draw.choice(NUMBERS)
    elif attribute.HasField("t"):
        changed_tensor(attribute.t, draw)
    elif draw.random() < 0.2:
        attribute.name = draw.choice(["axis", "axes", "perm", "to", "x"])
    elif draw.random() < 0.2:
        attribute.type = draw.randrange(12)
    elif attribute.HasField("i"):
        attribute.i = draw.choice(NUMBERS)
    elif attribute.HasField("f"):
        attribute.f = draw.choice([0.0, -1.0, 1e30, float("nan"), float("inf")])
    elif attribute.HasField("s"):
        attribute.s = draw.choice([b"", b"reverse", b"bidirectional", b"\xff"])
    elif attribute.strings:
        attribute.strings[draw.randrange(len(attribute.strings))] = draw.choice([b"Relu", b"Affine", b""])


def changed_node(graph, node, draw):
    what = draw.random()
    names = [name for other in graph.node for name in (*other.input, *other.output)]
    if what < 0.2:
        node.op_type = draw.choice(NAMES)
    elif what < 0.4 and node.input:
        node.input[draw.randrange(len(node.input))] = draw.choice([*names, "", "new"])
    elif what < 0.5 and node.output:
        node.output[draw.randrange(len(node.output))] = draw.choice([*names, "", "new"])
    elif what < 0.55:
        graph.node.remove(node)
    elif what < 0.6:
        graph.node.add().CopyFrom(node)
    elif node.attribute:
        changed_attribute(draw.choice(node.attribute), draw)


def changed_model(data, draw):
    """The model with one to three things said differently."""
    proto = onnx.ModelProto.FromString(data)
    for _ in range(draw.choice((1, 1, 2, 3))):
        graph = draw.choice(list(graphs(proto.graph)))
        what = draw.random()
        if what < 0.45 and graph.node:
            changed_node(graph, draw.choice(graph.node), draw)
        elif what < 0.85 and graph.initializer:
            changed_tensor(draw.choice(graph.initializer), draw)
        elif what < 0.93:
            proto.opset_import[0].version = draw.choice([6, 7, 9, 10, 11, 12, 13, 17, 18, 21, 23, 99])
        elif graph.input:
            kind = draw.choice(graph.input).type.tensor_type
            if kind.shape.dim and draw.random() < 0.7:
                kind.shape.dim[draw.randrange(len(kind.shape.dim))].dim_value = draw.choice([0, 1, 2, 5])
            else:
                kind.elem_type = draw.randrange(25)
    return proto.SerializeToString()


def run(model, draw: random.Random) -> None:
    """One call with inputs of the shapes that the model declares, where those are small; and the same bound to its arrays."""
    given, others = [], []
    for info in model.inputs:
        shape = [size if isinstance(size, int) else 2 for size in info.shape or ()]
        if np.prod(shape, dtype=float) > 10**5:
            return
        for arrays in (given, others):
            arrays.append(np.random.default_rng(draw.randrange(99)).integers(0, 3, shape).astype(info.dtype))
    wanted, plan = og.as_list(model(given)), model._plan
    compared = plan.ready._compared
    others = [a if place in compared else b for place, (a, b) in enumerate(zip(given, others, strict=True))]
    try:
        bound = bind(plan, others, compared, Allowance(model._held))  # at other numbers: nothing of them may be left
    except FAILURES:  # of the other numbers
        return
    if bound is None:
        return
    try:
        got = bound.run(given)
    except Departed:  # a shape depends on the numbers
        return
    except ValueError as error:
        raise AssertionError(f"bound: {error}") from error
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
