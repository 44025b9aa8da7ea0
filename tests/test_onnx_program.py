"""How an ONNX graph is run: what is worked out once, views that run as one step, short ways that give what the long ones give."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx", reason="ONNX models are parsed by the package onnx")

import onnx_graphs as og

from fastlstm import selector
from fastlstm.backends import reference
from fastlstm.models.onnx import ops_pad, ops_shape, ready

RNG = np.random.default_rng(3)
X = RNG.normal(size=(2, 3, 1, 4)).astype("f4")
NODE = og.helper.make_node


def views(*outputs):
    """x [2,3,1,4] through four views and a sum; ``outputs`` of the graph beside the sum."""
    nodes = [
        NODE("Slice", ["x", "starts", "ends", "last"], ["a"], "cut"),
        NODE("Squeeze", ["a", "two"], ["b"], "squeeze"),
        NODE("Transpose", ["b"], ["c"], "turn", perm=[2, 0, 1]),
        NODE("Unsqueeze", ["c", "zero"], ["d"], "unsqueeze"),
        NODE("Add", ["d", "d"], ["y"], "add"),
    ]
    held = {"starts": [1], "ends": [3], "last": [3], "two": [2], "zero": [0]}
    constants = {name: np.array(values, np.int64) for name, values in held.items()}
    return og.model(nodes, {"x": X}, ["y", *outputs], constants)


STAGES = {
    "a": X[..., 1:3],
    "b": X[:, :, 0, 1:3],
    "c": X[:, :, 0, 1:3].transpose(2, 0, 1),
    "d": X[None, :, :, 0, 1:3].transpose(0, 3, 1, 2),
}


# -- views ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("outputs", [(), ("a",), ("b", "d"), ("c",), ("a", "b", "c", "d")])
def test_views_run_as_one_step_unless_somebody_sees_them(outputs):
    got = og.as_list(og.load(views(*outputs))(X))
    np.testing.assert_array_equal(got[0], 2 * STAGES["d"])
    for name, array in zip(outputs, got[1:], strict=True):
        np.testing.assert_array_equal(array, STAGES[name])
        assert array.flags.owndata


def test_an_error_in_a_chain_names_the_node():
    proto = views()
    proto.graph.input[0].CopyFrom(og.value("x", og.FLOAT))  # any shape
    with pytest.raises(ValueError, match=r"node 'squeeze' \(Squeeze\): cannot select"):
        og.load(proto)(np.zeros((2, 3, 5, 4), "f4"))
    with pytest.raises(ValueError, match=r"node 'turn' \(Transpose\): axes"):
        og.load(proto)(np.zeros((2, 3, 1, 4, 5), "f4"))
    with pytest.raises(ValueError, match=r"node 'cut' \(Slice\): its axis 3 is not one of 3"):
        og.load(proto)(np.zeros((2, 3, 1), "f4"))


def test_constant_axes_are_worked_out_once_for_a_rank(monkeypatch):
    counted = []
    whole = ops_shape.normal_axes
    monkeypatch.setattr(ops_shape, "normal_axes", lambda *given: counted.append(given) or whole(*given))
    model = og.load(views())
    for _ in range(3):
        model(X)
    assert sorted(rank for _, rank in counted) == [4, 4, 4]  # Slice, Squeeze, and Unsqueeze, whose result has four


def test_two_users_of_one_view():
    """A value that two steps use, or one of them twice, is there for both."""
    nodes = [NODE("Transpose", ["x"], ["t"], perm=[1, 0]), NODE("Transpose", ["t"], ["u"], perm=[1, 0])]
    nodes += [NODE("MatMul", ["t", "u"], ["p"]), NODE("Identity", ["u"], ["same"])]
    x = X[:, :, 0, 0]
    p, same = og.load(og.model(nodes, {"x": x}, ["p", "same"]))(x)
    np.testing.assert_allclose(p, x.T @ x, rtol=1e-6)
    np.testing.assert_array_equal(same, x)


# -- copies that are left out ---------------------------------------------------------------------------------------------------
def convolutions(*outputs):
    """x [?,3,?] through Conv, Relu, Conv, a sum and Concat; outputs beside the last one."""
    weights = {"v": RNG.normal(size=(4, 3, 3)).astype("f4"), "w": RNG.normal(size=(2, 4, 3)).astype("f4")}
    nodes = [
        NODE("Conv", ["x", "v"], ["a"], pads=[1, 1]),
        NODE("Relu", ["a"], ["b"]),
        NODE("Conv", ["b", "w"], ["c"], pads=[2, 0]),
        NODE("Abs", ["c"], ["d"]),
        NODE("Concat", ["d", "b", "one", "d"], ["y"], axis=1),
    ]
    return og.model(nodes, [og.free("x", 3)], ["y", *outputs], weights | {"one": np.ones((1, 1, 6), "f4")}), weights


@pytest.fixture
def soon(monkeypatch):
    """The second call of each key is bound."""
    monkeypatch.setattr(ready, "BOUND_AT", 2)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("outputs", [(), ("a",), ("b",), ("c", "d"), ("b", "d", "a")])
def test_a_result_that_others_read_stays_where_it_is(outputs):
    """Whether a result is written to where its copy was wanted or not, everybody finds it."""
    proto, weights = convolutions(*outputs)
    model = og.load(proto)
    for _ in range(4):
        x = RNG.normal(size=(1, 3, 6)).astype("f4")
        got = og.as_list(model(x))
        og.same(got, og.through_plan(model, x))
        stages = dict(zip(("y", *outputs), got, strict=True))
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1))).astype("f8")
        b = np.maximum(np.stack([(padded[0, :, k : k + 3] * weights["v"]).sum(axis=(1, 2)) for k in range(6)], -1), 0)
        d = np.abs(np.stack([(np.pad(b, ((0, 0), (2, 0)))[:, k : k + 3] * weights["w"]).sum(axis=(1, 2)) for k in range(6)], -1))
        np.testing.assert_allclose(stages["y"][0], np.concatenate([d, b, np.ones((1, 6)), d]), rtol=1e-5, atol=1e-5)
        for name, wanted in {"b": b, "d": d}.items():
            if name in stages:
                np.testing.assert_allclose(stages[name][0], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("soon", "packed_panels")
def test_a_result_that_is_only_copied_is_written_there_at_once():
    """Relu writes into the padded rows of the convolution behind it; b is in the sum of the other graph too."""
    proto, _ = convolutions()
    del proto.graph.node[3:]
    proto.graph.output[0].name = "c"
    model = og.load(proto)
    for _ in range(2):
        model(np.ones((1, 3, 6), "f4"))
    assert og.runs(model) == [4]  # x into its rows, Conv, Relu, Conv
    whole = og.load(convolutions()[0])
    for _ in range(2):
        whole(np.ones((1, 3, 6), "f4"))
    assert og.runs(whole) == [4 + 1 + 1 + 3]  # the copy of b, Abs, three parts


# -- the short way of an LSTM -----------------------------------------------------------------------------------------------
def layer(layout):
    """An LSTM of 5 units on 3 features with initial states, all sizes free."""
    weights = {name: RNG.normal(size=shape).astype("f4") for name, shape in (("W", (1, 20, 3)), ("R", (1, 20, 5)))}
    node = NODE("LSTM", ["x", "W", "R", "", "", "h", "c"], ["y", "yh", "yc"], "rnn", hidden_size=5, layout=layout)
    free = [og.value(name, og.FLOAT, [None, None, None]) for name in "xhc"]
    return og.load(og.model([node], free, ["y", "yh", "yc"], weights, opset=14))


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (1, 4), (3, 1), (3, 4), (0, 2), (2, 0)])
def test_the_short_way_gives_what_the_long_one_gives(layout, batch, steps):
    model = layer(layout)
    x = RNG.normal(size=(batch, steps, 3) if layout else (steps, batch, 3)).astype("f4")
    h, c = RNG.normal(size=(2, batch, 1, 5) if layout else (2, 1, batch, 5)).astype("f4")
    first = model([x, h, c])  # makes the plan
    again = model([x, h, c])
    with selector.use_backend("reference"):
        wanted = model([x, h, c])
    for a, b, right in zip(first, again, wanted, strict=True):
        assert a.shape == b.shape == right.shape
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, right, rtol=1e-5, atol=1e-6)


def test_the_short_way_is_not_taken_on_another_backend(monkeypatch):
    model, ran = layer(0), []
    given = [np.zeros((1, 1, n), "f4") for n in (3, 5, 5)]
    model(given)
    whole = reference.lstm_forward
    monkeypatch.setattr(reference, "lstm_forward", lambda *arrays: ran.append(1) or whole(*arrays))
    model(given)
    assert not ran
    with selector.use_backend("reference"):
        model(given)
    assert ran


@pytest.mark.parametrize("wrong", [(3, 5, 4), (3, 4, 5), (2, 5, 5)])
def test_wrong_sizes_after_a_right_call(wrong):
    model = layer(0)
    model([np.zeros((1, 1, n), "f4") for n in (3, 5, 5)])
    with pytest.raises(ValueError, match=r"node 'rnn' \(LSTM\): its (X|initial_h|initial_c) must have"):
        model([np.zeros((1, 1, n), "f4") for n in wrong])


# -- padding and sigmoid ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
@pytest.mark.parametrize("size", [5, ops_pad.LONGEST_LINE])
def test_pad(mode, size):
    x = RNG.normal(size=(2, size)).astype("f4")
    for (a, b), (cut, c) in (((0, 0), (1, 3)), ((1, 0), (2, 0)), ((1, 1), (0, 2)), ((0, 0), (0, 0)), ((0, 1), (-1, 2))):
        proto = og.one("Pad", {"x": x}, constants={"pads": np.array([a, cut, b, c], np.int64)}, mode=mode)
        wanted = np.pad(x[:, max(-cut, 0) :], [(a, b), (max(cut, 0), c)], mode)
        np.testing.assert_array_equal(og.load(proto)(x), wanted)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_sigmoid_at_the_ends(dtype):
    x = np.array([-np.inf, -700, -60, -0.0, 0, 60, 700, np.inf, np.nan], dtype)
    got = og.load(og.one("Sigmoid", {"x": x}, dtypes=[og.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))]))(x)
    small = np.exp(-np.abs(x))
    np.testing.assert_array_equal(got, np.where(x < 0, small, np.ones((), dtype)) / (1 + small))
    assert got.dtype == np.dtype(dtype)
