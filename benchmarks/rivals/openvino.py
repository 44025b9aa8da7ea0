"""OpenVINO: one infer request an input, its tensors set beforehand; latency hint, float32 arithmetic.

LSTMs are built as its own LSTMSequence (batch-major, so that nothing is transposed), ConvLSTM1D is read from ONNX.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from benchmarks.rivals import onnx_model
from benchmarks.rivals.workload import THREADS, Data, Runner, Unsupported, Workload

CONFIG = {"INFERENCE_NUM_THREADS": THREADS, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
FICO = (1, 0, 2, 3)  # where OpenVINO's gates f, i, c, o stand among Keras' i, f, c, o


def versions() -> str:
    return f"openvino {ov.__version__.split('-')[0]}"


def make(work: Workload, data: Data, folder: str) -> dict[str, Callable[[], Runner]]:
    if work.training:
        raise Unsupported("inference only")
    if work.dtype != "float32":
        raise Unsupported("computes float64 models in float32")
    return {"infer request": lambda: _runner(work, data)}


def _gates(matrix: np.ndarray) -> np.ndarray:
    blocks = np.split(matrix, 4, axis=-1)
    return np.concatenate([blocks[k] for k in FICO], axis=-1)


def _lstm(work: Workload, data: Data) -> ov.Model:
    """Inputs X, with ragged lengths, with states h, c [N,1,U]; outputs Y [N,dirs,T,U], or h [N,dirs,U], for streams h and c."""
    ends = ("", "_b") if work.bidirectional else ("",)
    state = (work.batch, len(ends), work.units)
    x = ops.parameter([work.batch, work.steps, work.features], np.float32)
    parameters = [x]
    lengths: Any = ops.constant(np.full(work.batch, work.steps, np.int32))
    h: Any = ops.constant(np.zeros(state, np.float32))
    c: Any = h
    if work.ragged:
        lengths = ops.parameter([work.batch], np.int32)
        parameters.append(lengths)
    if work.carries_states:
        h, c = ops.parameter(state, np.float32), ops.parameter(state, np.float32)
        parameters += [h, c]
    matrices = [
        ops.constant(np.stack([_gates(data[name + end]).T for end in ends])) for name in ("kernel", "recurrent_kernel", "bias")
    ]
    direction = "bidirectional" if work.bidirectional else "forward"
    node = ops.lstm_sequence(x, h, c, lengths, *matrices, work.units, direction)
    outputs = [1, 2] if work.carries_states else [0 if work.return_sequences else 1]
    return ov.Model([node.output(k) for k in outputs], parameters)


def _runner(work: Workload, data: Data) -> Runner:
    core = ov.Core()
    model = _lstm(work, data) if work.is_lstm else core.read_model(onnx_model.convlstm1d(work, data))
    compiled = core.compile_model(model, "CPU", CONFIG)
    prepared = data["inputs"] if work.is_lstm else [onnx_model.convlstm1d_input(x) for x in data["inputs"]]
    states = [[_tensor(np.zeros((work.batch, 1, work.units), np.float32)) for _ in "hc"] for _ in range(2)]
    output = ov.Tensor(ov.Type.f32, compiled.output(0).shape)
    requests = []
    for k, x in enumerate(prepared):
        request = compiled.create_infer_request()
        request.set_input_tensor(0, _tensor(x))
        if work.ragged:
            request.set_input_tensor(1, _tensor(data["lengths"][k].astype(np.int32)))
        if work.carries_states:
            for position in range(2):
                request.set_input_tensor(1 + position, states[k % 2][position])
                request.set_output_tensor(position, states[(k + 1) % 2][position])
        else:
            request.set_output_tensor(0, output)
        requests.append(request)

    def result(returned: Any) -> list[np.ndarray]:
        y = np.array(returned[0])
        if not work.is_lstm:
            return [onnx_model.convlstm1d_output(work, y)]
        return [y.transpose(0, 2, 1, 3).reshape(work.batch, work.steps, -1) if y.ndim == 4 else y[:, 0]]

    def reset() -> None:
        for tensor in states[0]:
            tensor.data[:] = 0

    return Runner([partial(request.infer, share_outputs=True) for request in requests], result, reset)


def _tensor(array: np.ndarray) -> ov.Tensor:
    """A tensor with memory of its own."""
    return ov.Tensor(np.ascontiguousarray(array))
