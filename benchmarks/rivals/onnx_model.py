"""ONNX models of the workloads: the LSTM operator, and a ConvLSTM1D unrolled in time (ONNX has no operator for it).

Used by ``onnxruntime`` and ``openvino``. Time-major, as the operator wants it: X [T,N,D]; ConvLSTM1D: X [T*N,C,R], Y [T*N,F,S].
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from benchmarks.rivals.workload import Data, Workload

IOFC = (0, 3, 1, 2)  # where ONNX' gates i, o, f, c stand among Keras' i, f, c, o


def gates(matrix: np.ndarray) -> np.ndarray:
    """Keras' [..., 4U] with the gate blocks in the order of ONNX."""
    blocks = np.split(matrix, 4, axis=-1)
    return np.concatenate([blocks[k] for k in IOFC], axis=-1)


def _value(name: str, shape: tuple[int, ...], kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def _model(nodes: list, inputs: list, outputs: list, constants: dict[str, np.ndarray]) -> bytes:
    tensors = [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "workload", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def lstm(work: Workload, data: Data) -> bytes:
    """Inputs X, with ragged lengths, with states h and c; outputs Y [T,dirs,N,U], or Y_h [dirs,N,U], for streams Y_h and Y_c."""
    ends = ("", "_b") if work.bidirectional else ("",)
    constants = {
        "W": np.stack([gates(data["kernel" + end]).T for end in ends]),
        "R": np.stack([gates(data["recurrent_kernel" + end]).T for end in ends]),
        "B": np.stack([np.concatenate([gates(data["bias" + end]), np.zeros(4 * work.units, "f4")]) for end in ends]),
    }
    state = (len(ends), work.batch, work.units)
    inputs = [_value("X", (work.steps, work.batch, work.features))]
    if work.ragged:
        inputs.append(_value("lengths", (work.batch,), TensorProto.INT32))
    if work.carries_states:
        inputs += [_value("h", state), _value("c", state)]
    if work.carries_states:
        names, outputs = ["", "Y_h", "Y_c"], [_value("Y_h", state), _value("Y_c", state)]
    elif work.return_sequences:
        names, outputs = ["Y"], [_value("Y", (work.steps, *state))]
    else:
        names, outputs = ["", "Y_h"], [_value("Y_h", state)]
    given = ["X", "W", "R", "B", "lengths" if work.ragged else "", *(["h", "c"] if work.carries_states else [])]
    direction = "bidirectional" if work.bidirectional else "forward"
    node = helper.make_node("LSTM", given, names, hidden_size=work.units, direction=direction)
    return _model([node], inputs, outputs, constants)


def convlstm1d(work: Workload, data: Data) -> bytes:
    """The input convolution of all steps at once, then one convolution and one cell a step; zero states cost nothing."""
    left = (work.kernel_size - 1) // 2
    same = [left, work.kernel_size - 1 - left]
    constants = {
        "W": data["kernel"].transpose(2, 1, 0),
        "R": data["recurrent_kernel"].transpose(2, 1, 0),
        "B": data["bias"],
    }
    pads = same if work.padding == "same" else [0, 0]
    steps = range(work.steps)
    nodes = [helper.make_node("Conv", ["X", "W", "B"], ["xz"], pads=pads)]
    constants["batches"] = np.full(work.steps, work.batch, np.int64)
    nodes.append(helper.make_node("Split", ["xz", "batches"], [f"xz{t}" for t in steps], axis=0))
    constants["gates"] = np.full(4, work.units, np.int64)
    for t in steps:
        z = f"xz{t}"
        if t:
            nodes.append(helper.make_node("Conv", [f"h{t - 1}", "R"], [f"hz{t}"], pads=same))
            nodes.append(helper.make_node("Add", [z, f"hz{t}"], [f"z{t}"]))
            z = f"z{t}"
        nodes.append(helper.make_node("Split", [z, "gates"], [f"{g}{t}z" for g in "ifco"], axis=1))
        for gate in "ifco":
            nodes.append(helper.make_node("Tanh" if gate == "c" else "Sigmoid", [f"{gate}{t}z"], [f"{gate}{t}a"]))
        nodes.append(helper.make_node("Mul", [f"i{t}a", f"c{t}a"], [f"new{t}"]))
        cell = f"new{t}"
        if t:
            nodes.append(helper.make_node("Mul", [f"f{t}a", f"cell{t - 1}"], [f"old{t}"]))
            nodes.append(helper.make_node("Add", [f"new{t}", f"old{t}"], [f"cell{t}"]))
            cell = f"cell{t}"
        else:
            nodes.append(helper.make_node("Identity", ["new0"], ["cell0"]))
        nodes.append(helper.make_node("Tanh", [cell], [f"squashed{t}"]))
        nodes.append(helper.make_node("Mul", [f"o{t}a", f"squashed{t}"], [f"h{t}"]))
    nodes.append(helper.make_node("Concat", [f"h{t}" for t in steps], ["Y"], axis=0))
    x = _value("X", (work.steps * work.batch, work.features, work.rows))
    y = _value("Y", (work.steps * work.batch, work.units, work.rows_out))
    return _model(nodes, [x], [y], constants)


def convlstm1d_input(x: np.ndarray) -> np.ndarray:
    """[N,T,R,C] -> [T*N,C,R]."""
    n, t, rows, channels = x.shape
    return np.ascontiguousarray(x.transpose(1, 0, 3, 2)).reshape(t * n, channels, rows)


def convlstm1d_output(work: Workload, y: np.ndarray) -> np.ndarray:
    """[T*N,F,S] -> [N,T,S,F]."""
    return y.reshape(work.steps, work.batch, work.units, work.rows_out).transpose(1, 0, 3, 2)


def lstm_output(work: Workload, y: np.ndarray) -> np.ndarray:
    """Y [T,dirs,N,U] -> [N,T,dirs*U], or Y_h [1,N,U] -> [N,U]."""
    if not work.return_sequences:
        return y[0]
    return y.transpose(2, 0, 1, 3).reshape(work.batch, work.steps, -1)
