"""ONNX Runtime: inputs and outputs bound beforehand (``io_binding``), all graph optimizations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnxruntime as ort

from benchmarks.rivals import onnx_model
from benchmarks.rivals.workload import THREADS, Data, Runner, Unsupported, Workload


def versions() -> str:
    return f"onnxruntime {ort.__version__}"


def make(work: Workload, data: Data, folder: str) -> dict[str, Callable[[], Runner]]:
    if work.training:
        raise Unsupported("inference only")
    if work.dtype != "float32":
        raise Unsupported("the LSTM operator exists for float32 only")
    return {"io_binding": lambda: _runner(work, data)}


def _session(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _runner(work: Workload, data: Data) -> Runner:
    session = _session((onnx_model.lstm if work.is_lstm else onnx_model.convlstm1d)(work, data))
    prepared = [x.swapaxes(0, 1) if work.is_lstm else onnx_model.convlstm1d_input(x) for x in data["inputs"]]
    buffers = [_states(work) for _ in range(2)]
    outputs = {o.name: _empty(tuple(o.shape)) for o in session.get_outputs()}
    bindings = []
    for k, x in enumerate(prepared):
        binding = session.io_binding()
        binding.bind_ortvalue_input("X", ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(x)))
        if work.ragged:
            binding.bind_ortvalue_input("lengths", ort.OrtValue.ortvalue_from_numpy(data["lengths"][k].astype(np.int32)))
        if work.carries_states:
            for name in "hc":
                binding.bind_ortvalue_input(name, buffers[k % 2][name])
                binding.bind_ortvalue_output(f"Y_{name}", buffers[(k + 1) % 2][name])
        else:
            for name, value in outputs.items():
                binding.bind_ortvalue_output(name, value)
        bindings.append(binding)

    def result(k: int) -> list[np.ndarray]:
        y = buffers[(k + 1) % 2]["h"] if work.carries_states else next(iter(outputs.values()))
        convert = onnx_model.lstm_output if work.is_lstm else onnx_model.convlstm1d_output
        return [convert(work, y.numpy())]

    def reset() -> None:
        for value in buffers[0].values():
            value.update_inplace(np.zeros(value.shape(), np.float32))

    return Runner([partial(_run, session.run_with_iobinding, binding, k) for k, binding in enumerate(bindings)], result, reset)


def _run(run: Callable, binding: ort.IOBinding, k: int) -> int:
    run(binding)
    return k


def _empty(shape: tuple[int, ...]) -> ort.OrtValue:
    return ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32)


def _states(work: Workload) -> dict[str, ort.OrtValue]:
    return {name: ort.OrtValue.ortvalue_from_numpy(np.zeros((1, work.batch, work.units), np.float32)) for name in "hc"}
