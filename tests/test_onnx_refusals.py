"""ONNX files that cannot be run, or must not be believed: what is told, and that it is told before anything runs."""

from __future__ import annotations

import io
import os
import re

import numpy as np
import pytest

pytest.importorskip("onnx", reason="ONNX models are parsed by the package onnx")

import onnx_graphs as og

import fastlstm

X = np.ones((2, 3), "f4")
helper, onnx = og.helper, og.onnx


def refused(proto, *messages):
    """The message of a ValueError that loading must raise."""
    with pytest.raises(ValueError, match=r"^<file object>: ") as caught:
        og.load(proto)
    for message in messages:
        assert re.search(message, str(caught.value)), str(caught.value)
    return str(caught.value)


# -- what is not supported --------------------------------------------------------------------------------------------------
def test_everything_is_listed():
    loop = helper.make_graph([], "body", [], [], [])
    nodes = [
        helper.make_node("Det", ["x"], ["a"], "first"),
        helper.make_node("Relu", ["x"], ["b"], "fine"),
        helper.make_node("Loop", ["", ""], ["c"], "second", body=loop),
        helper.make_node("Attention", ["x"], ["d"], "third", domain="com.microsoft"),
        helper.make_node("Softmax", ["x"], ["e"], "fourth", axis=1, colour=3),
        helper.make_node("Add", ["b", "f"], ["g"], "fifth"),
        helper.make_node("Scan", ["x"], ["h"], "", num_scan_inputs=1, body=loop),
    ]
    proto = og.model(nodes, {"x": X}, ["g"], {"f": np.zeros(3, np.int64)}, domains=("com.microsoft",))
    message = refused(
        proto,
        r"node 'first' \(Det\): the operator Det is not supported",
        r"node 'second' \(Loop\): the operator Loop is not supported",
        r"node 'third' \(Attention\): the operator Attention of domain 'com.microsoft' is not supported",
        r"node 'fourth' \(Softmax\): the attribute 'colour' is not known in version 13",
        r"node 'fifth' \(Add\): its input B \('f'\) is of dtype int64, another one is float32",
        r"node '7, without a name' \(Scan\): the operator Scan is not supported",
    )
    assert "fine" not in message
    assert message.count("node '") == 6


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (lambda: og.one("Relu", {"x": X}, opset=6), "the file is of opset 6, expected 7 to"),
        (lambda: og.one("Relu", {"x": X}, opset=999), "the file is of opset 999, expected 7 to"),
        (lambda: og.one("Gelu", {"x": X}, opset=19), "opset 19 has no operator Gelu"),
        (lambda: og.one("Relu", {"x": X, "y": X}, outputs=("z",)), "has 2 inputs, expected 1 to 1"),
        (lambda: og.one("Add", {"x": X, "b": None}), "its input B is missing"),
        (lambda: og.one("Concat", {"x": X}), "its attribute 'axis' is missing"),
        (lambda: og.one("Concat", {"x": X}, axis=1.5), "its attribute 'axis' must be of kind INT. Received: float"),
        (lambda: og.one("Concat", {"x": X}, axis=[1]), "its attribute 'axis' must be of kind INT. Received: list"),
        (lambda: og.one("Cast", {"x": X}, to=8), "casts to type 8, which is not supported"),
        (lambda: og.one("Cast", {"x": X}, to=99), "casts to type 99, which is not supported"),
        (lambda: og.one("Sqrt", {"x": X.astype("i4")}), "is of dtype int32, expected one of float16, float32, float64"),
        (lambda: og.one("BatchNormalization", dict(zip("abcde", [X] * 5, strict=True)), training_mode=1), "training_mode=1"),
        (lambda: og.one("MaxPool", {"x": X}, ("y", "i"), dtypes=[og.FLOAT, og.INT64], kernel_shape=[1]), "its output Indices"),
        (lambda: og.one("Pad", {"x": X, "pads": np.zeros(4, "i8")}, mode="mirror"), "its mode 'mirror' is not one of"),
        (
            lambda: og.model([helper.make_node("Relu", ["q"], ["y"], "n")], {"x": X}, ["y"]),
            "uses 'q', which nothing before it makes",
        ),
        (lambda: og.model([helper.make_node("Relu", ["x"], ["x"], "n")], {"x": X}, ["x"]), "makes 'x', which is there already"),
        (
            lambda: og.model([helper.make_node("Relu", ["x"], ["z"], "n")], {"x": X}, ["y"]),
            "the output 'y' is not made by any node",
        ),
        (lambda: og.one("Shape", {"x": X}), "the output 'y' is declared float32, its node makes int64"),
        (lambda: og.one("Dropout", {"x": X}, constants={"r": np.float32(0.5), "t": np.array(True)}), "only inference"),
        (lambda: og.one("Constant", {}, value_string="text"), "its value is no array of numbers"),
        (lambda: og.one("ConstantOfShape", {"x": np.array([2])}, value=og.numpy_helper.from_array(np.zeros(2))), "has 2 numbers"),
    ],
)
def test_refusals(proto, message):
    refused(proto(), message)


def test_nodes_must_be_in_order():
    nodes = [helper.make_node("Relu", ["a"], ["y"], "late"), helper.make_node("Neg", ["x"], ["a"], "early")]
    refused(og.model(nodes, {"x": X}, ["y"]), r"node 'late' \(Relu\): uses 'a', which nothing before it makes")


def test_dtypes_of_inputs_and_weights():
    proto = og.model([helper.make_node("Relu", ["x"], ["y"])], [og.value("x", onnx.TensorProto.STRING, [1])], ["y"])
    refused(proto, "the input 'x' is of dtype string")
    proto = og.one("Add", {"x": X})
    proto.graph.initializer.append(helper.make_tensor("w", onnx.TensorProto.BFLOAT16, [1], [1.0]))
    proto.graph.node[0].input.append("w")
    refused(proto, "initializer 'w' is of dtype bfloat16")


def test_functions_of_the_model():
    proto = og.one("Relu", {"x": X})
    body = helper.make_node("Relu", ["x"], ["y"])
    proto.functions.append(helper.make_function("mine", "Twice", ["x"], ["y"], [body], [helper.make_opsetid("", 14)]))
    refused(proto, "functions of its own .'Twice'.; inline them first")


def test_branches_of_an_if_are_checked_too():
    bad = helper.make_graph([helper.make_node("Det", ["x"], ["t"], "inner")], "then", [], [og.value("t", og.FLOAT)], [])
    good = helper.make_graph([helper.make_node("Relu", ["x"], ["e"])], "else", [], [og.value("e", og.FLOAT)], [])
    node = helper.make_node("If", ["c"], ["y"], "outer", then_branch=bad, else_branch=good)
    proto = og.model([node], {"x": X, "c": np.array(True)}, ["y"])
    refused(proto, r"node 'outer' \(If\): then_branch: node 'inner' \(Det\): the operator Det is not supported")


def test_a_constant_that_cannot_be_computed():
    shape = helper.make_node("Reshape", ["w", "s"], ["r"], "fold")
    add = helper.make_node("Add", ["x", "r"], ["y"])
    proto = og.model([shape, add], {"x": X}, ["y"], {"w": np.zeros(5, "f4"), "s": np.array([2, 3])})
    refused(proto, r"node 'fold' \(Reshape\): cannot reshape array of size 5")


# -- damaged files ----------------------------------------------------------------------------------------------------------
def test_sizes_that_the_data_does_not_have():
    proto = og.one("Add", {"x": X}, constants={"w": np.ones((2, 3), "f4")})
    proto.graph.initializer[0].dims[0] = 10**12
    refused(proto, r"initializer 'w' of shape \(1000000000000, 3\), float32, holds 24 bytes")
    proto.graph.initializer[0].dims[0] = -2
    refused(proto, r"initializer 'w' has the shape \(-2, 3\)")


def test_typed_data_of_another_length():
    proto = og.one("Add", {"x": X})
    proto.graph.initializer.append(onnx.TensorProto(name="w", data_type=1, dims=[3], float_data=[1.0, 2.0]))
    proto.graph.node[0].input.append("w")
    refused(proto, r"initializer 'w' of shape \(3,\), float32, holds 2 numbers")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated(tmp_path, share):
    data = og.one("Add", {"x": X}, constants={"w": np.ones((200, 3), "f4")}).SerializeToString()
    path = tmp_path / "cut.bin"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"cut\.bin: is no ONNX model, or a damaged one"):
        fastlstm.load_model(path)


def test_no_graph(tmp_path):
    path = tmp_path / "empty.onnx"
    path.write_bytes(onnx.ModelProto(ir_version=8).SerializeToString())
    with pytest.raises(ValueError, match=r"empty\.onnx: is no ONNX model, or a damaged one: it has no graph"):
        fastlstm.load_model(path)


# -- external data ----------------------------------------------------------------------------------------------------------
def outside(folder, **entries):
    """Writes m.onnx, whose weight lies in another file; ``entries`` say where."""
    proto = og.one("Add", {"x": X}, constants={"w": np.ones((2, 3), "f4")})
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, told in entries.items():
        tensor.external_data.add(key=key, value=str(told))
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data_beside_the_model(tmp_path):
    weight = np.arange(6, dtype="f4").reshape(2, 3)
    (tmp_path / "m.data").write_bytes(b"12345678" + weight.tobytes())
    path = outside(tmp_path, location="m.data", offset=8, length=24)
    np.testing.assert_array_equal(fastlstm.load_model(path)(X), X + weight)
    np.testing.assert_array_equal(fastlstm.load_model(str(path))(X), X + weight)
    with (
        open(path, "rb") as stream,
        pytest.raises(ValueError, match=r"'w' lies in another file, 'm\.data': load the model by its path"),
    ):
        fastlstm.load_model(stream)


@pytest.mark.parametrize("location", ["../m.data", "sub/../../m.data", "", "m.data\0", "..\\m.data"])
def test_external_data_elsewhere(tmp_path, location):
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "m.data").write_bytes(bytes(24))
    with pytest.raises(ValueError, match="which is not in the model's folder"):
        fastlstm.load_model(outside(inner, location=location))


def test_external_data_by_an_absolute_path(tmp_path):
    (tmp_path / "m.data").write_bytes(bytes(24))
    with pytest.raises(ValueError, match="which is not in the model's folder"):
        fastlstm.load_model(outside(tmp_path, location=tmp_path / "m.data"))


def test_external_data_through_a_link(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "secret").write_bytes(bytes(24))
    os.symlink(tmp_path / "secret", inner / "m.data")
    with pytest.raises(ValueError, match="which is not in the model's folder"):
        fastlstm.load_model(outside(inner, location="m.data"))


@pytest.mark.parametrize(
    ("entries", "error", "message"),
    [
        ({"location": "none.data"}, OSError, "which is no file"),
        ({"location": "m.data", "offset": 10}, ValueError, "needs 24 bytes, .* 24 bytes from byte 10 on"),
        ({"location": "m.data", "offset": -1}, ValueError, "needs 24 bytes, .* from byte -1 on"),
        ({"location": "m.data", "length": 10**12}, ValueError, "needs 24 bytes, .* 1000000000000 bytes"),
        ({"location": "m.data", "offset": "ten"}, ValueError, "gives a place in 'm.data' that is no number"),
    ],
)
def test_external_data_of_wrong_sizes(tmp_path, entries, error, message):
    (tmp_path / "m.data").write_bytes(bytes(24))
    with pytest.raises(error, match=rf"m\.onnx: initializer 'w' {message}|m\.onnx: initializer 'w' lies in .*{message}"):
        fastlstm.load_model(outside(tmp_path, **entries))


# -- memory -----------------------------------------------------------------------------------------------------------------
HUGE = 10**7
BOMBS = {
    "Expand": ({"x": X, "s": np.array([HUGE, 2, 3])}, {}),
    "Tile": ({"x": X, "s": np.array([HUGE, 9])}, {}),
    "ConstantOfShape": ({"s": np.array([HUGE, 9])}, {}),
    "Range": ({"a": np.float32(0), "b": np.float32(HUGE), "c": np.float32(0.1)}, {}),
    "Pad": ({"x": X, "p": np.array([HUGE, 0, 0, 9])}, {}),
    "OneHot": ({"i": np.arange(100), "d": np.array([HUGE]), "v": np.array([0, 1], "f4")}, {}),
    "MaxPool": ({"x": np.ones((1, 1, 4), "f4")}, {"kernel_shape": [3], "pads": [HUGE, HUGE]}),
    "Conv": ({"x": np.ones((1, 1, 4), "f4"), "w": np.ones((1, 1, 3), "f4")}, {"pads": [HUGE, HUGE]}),
}


@pytest.mark.parametrize("op", BOMBS)
def test_a_few_bytes_cannot_ask_for_any_memory(op):
    """At run time, and while constants are computed: there the node is left for the run."""
    arrays, attributes = BOMBS[op]
    for inputs, constants in ((arrays, {}), ({}, arrays)):
        model = og.load(og.one(op, inputs, constants=constants, **attributes))
        with pytest.raises(ValueError, match=rf"node 'node' \({op}\): would need \d+ bytes"):
            model(inputs)


def test_doubling_again_and_again():
    nodes = [helper.make_node("Concat", [f"x{k}", f"x{k}"], [f"x{k + 1}"], f"c{k}", axis=0) for k in range(40)]
    model = og.load(og.model(nodes, {"x0": X}, ["x40"]))
    with pytest.raises(ValueError, match=r"node 'c\d\d' \(Concat\): would need \d+ bytes for the values of this run"):
        model(X)


def test_many_values_that_live_at_once():
    nodes = [helper.make_node("ConstantOfShape", ["s"], [f"v{k}"], f"n{k}") for k in range(100)]
    model = og.load(
        og.model([*nodes, helper.make_node("Sum", [f"v{k}" for k in range(100)], ["y"])], {}, ["y"], {"s": np.array([10**6])})
    )
    with pytest.raises(ValueError, match=r"node 'n\d+' \(ConstantOfShape\): would need"):
        model({})


# -- the package and the kind of file ---------------------------------------------------------------------------------------
def test_without_onnx(monkeypatch):
    import sys

    data = og.one("Relu", {"x": X}).SerializeToString()
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'fastlstm\[onnx\]'"):
        fastlstm.load_model(io.BytesIO(data))


def test_neither_this_nor_that(tmp_path):
    path = tmp_path / "text.onnx"
    path.write_text("this is no model at all")
    with pytest.raises(ValueError, match=r"text\.onnx: is neither a \.keras file .* nor HDF5 nor ONNX"):
        fastlstm.load_model(path)
