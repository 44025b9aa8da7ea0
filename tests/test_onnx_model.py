"""OnnxModel: how it takes and gives arrays, what it says of itself, the command line; and what makes a file ONNX."""

from __future__ import annotations

import copy
import io
import pickle
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="ONNX models are parsed by the package onnx")

import onnx_graphs as og

import fastlstm
from fastlstm import cli
from fastlstm.models.onnx import OnnxModel

KERAS = Path(__file__).parent / "data" / "keras3" / "stateful.keras"
RNG = np.random.default_rng(2)


def two_inputs():
    """sum = a + n (cast), and a itself."""
    nodes = [
        og.helper.make_node("Cast", ["n"], ["f"], "cast", to=og.FLOAT),
        og.helper.make_node("Add", ["a", "f"], ["sum"], "add"),
        og.helper.make_node("Identity", ["a"], ["same"], "same"),
    ]
    inputs = [og.value("a", og.FLOAT, ["batch", 3]), og.value("n", og.INT64, [])]
    return og.model(nodes, inputs, [og.value("sum", og.FLOAT, ["batch", 3]), og.value("same", og.FLOAT)])


def network():
    """[T,N,3] -> LSTM -> Dense of 2 -> sigmoid, all weights in the file."""
    weights = {
        name: RNG.normal(size=shape).astype("f4") for name, shape in (("W", (1, 20, 3)), ("R", (1, 20, 5)), ("B", (1, 40)))
    }
    weights |= {"M": RNG.normal(size=(5, 2)).astype("f4"), "axes": np.array([1])}
    nodes = [
        og.helper.make_node("LSTM", ["x", "W", "R", "B"], ["y"], "rnn", hidden_size=5),
        og.helper.make_node("Squeeze", ["y", "axes"], ["z"], "squeeze"),
        og.helper.make_node("MatMul", ["z", "M"], ["d"], "dense"),
        og.helper.make_node("Sigmoid", ["d"], ["p"], "out"),
    ]
    return og.model(nodes, [og.value("x", og.FLOAT, ["steps", "batch", 3])], ["p"], weights)


A = RNG.normal(size=(2, 3)).astype("f4")


# -- calls ------------------------------------------------------------------------------------------------------------------
def test_inputs_and_outputs():
    model = og.load(two_inputs())
    assert isinstance(model, OnnxModel)
    assert [tuple(info) for info in model.inputs] == [("a", "float32", ("batch", 3)), ("n", "int64", ())]
    assert [tuple(info) for info in model.outputs] == [("sum", "float32", ("batch", 3)), ("same", "float32", None)]


@pytest.mark.parametrize("call", ["__call__", "predict"])
def test_a_list_or_a_dict(call):
    run = getattr(og.load(two_inputs()), call)
    for given in ([A, np.array(2)], (A, 2), {"n": 2, "a": A}):
        total, same = run(given)
        np.testing.assert_array_equal(total, A + 2)
        np.testing.assert_array_equal(same, A)


def test_one_array():
    model = og.load(network())
    x = RNG.normal(size=(4, 2, 3)).astype("f4")
    y = model(x)
    assert y.shape == (4, 2, 2)
    for given in ([x], {"x": x}, x.astype("f8"), np.asfortranarray(x), x[:, :, ::-1][:, :, ::-1]):
        np.testing.assert_array_equal(model.predict(given), y)
    np.testing.assert_allclose(y, og.reference(network_of(model), {"x": x})[0], rtol=1e-5, atol=1e-6)


def network_of(model):
    """The ModelProto with the weights of a loaded ``network()``."""
    proto = network()
    for tensor, array in zip(proto.graph.initializer, model.weights, strict=True):
        tensor.CopyFrom(og.numpy_helper.from_array(array, tensor.name))
    return proto


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (A, ValueError, r"takes 2 arrays, \['a', 'n'\]. Received: 1"),
        ([A], ValueError, "takes 2 arrays"),
        ({"a": A}, ValueError, "Missing: 'n'; not known: none"),
        ({"a": A, "n": 1, "q": 2}, ValueError, "Missing: none; not known: 'q'"),
        ([A[:, :2], 1], ValueError, r"'a' must have the shape \(batch, 3\). Received: \(2, 2\)"),
        ([A[0], 1], ValueError, r"'a' must have the shape \(batch, 3\). Received: \(3,\)"),
        ([A, 1.5], TypeError, "'n' is of dtype int64. Received: dtype=float64"),
        ([A, "one"], TypeError, "'n' must be an array of numbers"),
        ([A + 1j, 1], TypeError, "'a' must be an array of numbers"),
    ],
)
def test_wrong_inputs(given, error, message):
    with pytest.raises(error, match=message):
        og.load(two_inputs())(given)


def test_an_error_inside_names_file_and_node(tmp_path):
    path = tmp_path / "m.onnx"
    nodes = [og.helper.make_node("MatMul", ["a", "b"], ["y"], "product")]
    proto = og.model(nodes, [og.value("a", og.FLOAT), og.value("b", og.FLOAT)], ["y"])
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ValueError, match=r"m\.onnx: node 'product' \(MatMul\): .*"):
        fastlstm.load_model(path)([A, A])


def test_outputs_belong_to_the_caller():
    """Neither the caller's input nor what the model keeps, and each output for itself."""
    nodes = [og.helper.make_node("Identity", ["a"], ["same"]), og.helper.make_node("Identity", ["w"], ["kept"])]
    nodes += [og.helper.make_node("Transpose", ["a"], ["turned"])]
    nodes += [og.helper.make_node("Neg", ["a"], ["less"]), og.helper.make_node("Identity", ["less"], ["again"])]
    model = og.load(og.model(nodes, {"a": A}, ["same", "kept", "turned", "less", "again"], {"w": A}))
    a = A.copy()
    for array in model(a):
        array += 1
    np.testing.assert_array_equal(a, A)
    np.testing.assert_array_equal(model(a)[1], A)
    outputs = model(a)
    outputs[3][:] = 0
    np.testing.assert_array_equal(outputs[4], -A)


def test_threads():
    model, xs = og.load(network()), [RNG.normal(size=(6, n, 3)).astype("f4") for n in (1, 2, 3, 4)]
    wanted, got = [model(x) for x in xs], [[] for _ in xs]

    def work(k):
        got[k] = [model(xs[k]) for _ in range(30)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(xs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for arrays, right in zip(got, wanted, strict=True):
        assert len(arrays) == 30
        for array in arrays:
            np.testing.assert_array_equal(array, right)


def test_a_sample_does_not_depend_on_its_batch():
    model = og.load(network())
    x = RNG.normal(size=(6, 9, 3)).astype("f4")
    whole = model(x)
    for n in range(9):
        np.testing.assert_array_equal(model(x[:, n : n + 1]), whole[:, n : n + 1])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"])
def test_a_copy_and_a_pickle_answer_alike(copied):
    """Also of a model whose calls are bound by now."""
    model, x = og.load(network()), RNG.normal(size=(3, 2, 3)).astype("f4")
    for _ in range(12):
        want = model(x)
    again = copied(model)
    assert [tuple(info) for info in again.inputs] == [tuple(info) for info in model.inputs]
    for _ in range(12):
        np.testing.assert_array_equal(again(x), want)


def test_an_array_on_a_gpu_is_refused(monkeypatch):
    class OnGpu:
        pass

    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(ndarray=OnGpu))
    with pytest.raises(TypeError, match=r"input 'x' lies on a GPU.*cupy\.asnumpy"):
        og.load(network())(OnGpu())


def test_batch_size_is_refused():
    with pytest.raises(ValueError, match=r"batch_size must be None\. Received: 4"):
        og.load(network()).predict(np.zeros((1, 1, 3), "f4"), batch_size=4)


def test_old_files_list_their_weights_as_inputs():
    """Up to version 3 of the format every initializer is an input too."""
    proto = network()
    proto.ir_version = 3
    for tensor in proto.graph.initializer:
        proto.graph.input.append(og.value(tensor.name, og.numpy_helper.to_array(tensor)))
    assert [info.name for info in og.load(proto).inputs] == ["x"]


def test_constants_are_computed_once():
    nodes = [
        og.helper.make_node("Constant", [], ["c"], "c", value_floats=[1.0, 2.0, 3.0]),
        og.helper.make_node("Mul", ["c", "w"], ["cw"], "fold"),
        og.helper.make_node("Add", ["a", "cw"], ["y"], "add"),
    ]
    model = og.load(og.model(nodes, {"a": A}, ["y"], {"w": np.float32(2)}))
    np.testing.assert_array_equal(model(A), A + np.array([2, 4, 6], "f4"))
    lines = model.summary_lines()
    assert any("add" in line for line in lines)
    assert not any("fold" in line for line in lines)


def test_summary(capsys):
    og.load(network()).summary()
    text = capsys.readouterr().out
    assert text.startswith('Model: "g" (ONNX, opset 14)\n')
    for part in (
        "x  ",
        "(steps, batch, 3)",
        "rnn",
        "LSTM",
        "200",
        "Operators: 1 LSTM, 1 Squeeze, 1 MatMul, 1 Sigmoid",
        "weights: 211",
    ):
        assert part in text, part


# -- the kind of file -------------------------------------------------------------------------------------------------------
def test_the_contents_decide(tmp_path):
    x = np.zeros((1, 1, 3), "f4")
    for name in ("m.onnx", "m.keras", "m.h5", "noname"):
        (tmp_path / name).write_bytes(network().SerializeToString())
        assert isinstance(fastlstm.load_model(tmp_path / name), OnnxModel)
    (tmp_path / "k.onnx").write_bytes(KERAS.read_bytes())
    assert isinstance(fastlstm.load_model(tmp_path / "k.onnx"), fastlstm.Sequential)
    assert fastlstm.load_model(str(tmp_path / "noname"))(x).shape == (1, 1, 2)


def test_where_a_file_of_keras_is_needed(tmp_path):
    (tmp_path / "m.keras").write_bytes(network().SerializeToString())
    model = fastlstm.load_model(KERAS)
    with pytest.raises(ValueError, match=r"m\.keras: is an ONNX model, where a file of Keras is needed"):
        model.load_weights(tmp_path / "m.keras")


def test_fields_in_another_order():
    """A serializer may write the graph first."""
    proto = network()
    proto.ClearField("ir_version")
    tail = og.onnx.ModelProto(ir_version=8).SerializeToString()
    model = fastlstm.load_model(io.BytesIO(proto.SerializeToString() + tail))
    assert model.metadata["ir_version"] == "8"


class Pipe(io.RawIOBase):
    """A stream that cannot be turned back."""

    def __init__(self, data):
        self.data = io.BytesIO(data)

    def read(self, size=-1):
        return self.data.read(size)

    def readable(self):
        return True

    def seekable(self):
        return False


def test_a_stream_that_cannot_be_turned_back():
    assert isinstance(fastlstm.load_model(Pipe(network().SerializeToString())), OnnxModel)
    assert isinstance(fastlstm.load_model(Pipe(KERAS.read_bytes())), fastlstm.Sequential)


# -- command line -----------------------------------------------------------------------------------------------------------
def run(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_predict(capsys, tmp_path):
    path, x = tmp_path / "m.onnx", RNG.normal(size=(4, 2, 3)).astype("f4")
    path.write_bytes(network().SerializeToString())
    np.save(tmp_path / "x.npy", x)
    code, text, err = run(capsys, "predict", path, tmp_path / "x.npy", "-o", tmp_path / "y.npy")
    assert (code, err) == (0, "")
    assert "p: 4 x 2 x 2, float32" in text
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), fastlstm.load_model(path)(x))
    np.savetxt(tmp_path / "x.csv", x[0], delimiter=",")
    assert run(capsys, "predict", path, tmp_path / "x.csv")[0] == 0


def test_predict_with_several_inputs(capsys, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(two_inputs().SerializeToString())
    np.savez(tmp_path / "x.npz", a=A, n=np.array([5])[0:1].reshape(1))
    code, _, err = run(capsys, "predict", path, tmp_path / "x.npz")
    assert code == 2
    assert "the model cannot take this input" in err  # n must be a scalar, which files of inputs do not have
    np.savez(tmp_path / "x.npz", a=A)
    assert "has no array 'n'" in run(capsys, "predict", path, tmp_path / "x.npz")[2]


def test_info(capsys, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(network().SerializeToString())
    code, text, _ = run(capsys, "info", path)
    assert code == 0
    for part in (str(path), "ir version  8", "848 B of weights", "rnn", "(steps, batch, 3)"):
        assert part in text, part


def test_command_line_errors_are_one_line(capsys, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(og.one("Det", {"x": A}).SerializeToString())
    code, _, err = run(capsys, "info", path)
    assert code == 2
    assert (
        err
        == f"fastlstm: error: {path}: this ONNX model cannot be run here: node 'node' (Det): the operator Det is not supported\n"
    )
    path.write_bytes(network().SerializeToString())
    np.save(tmp_path / "x.npy", A)
    assert (
        "--batch-size and --timesteps are not for ONNX" in run(capsys, "predict", path, tmp_path / "x.npy", "--batch-size", 2)[2]
    )
