"""The models that ``fastlstm verify`` compares: what goes in, what every layer returns, which runtimes the file comes from.

One class for each kind of file: models of layers, graphs of ONNX, weights of PyTorch. Used by ``verify_command``.
"""

from __future__ import annotations

import copy
import os
from typing import Any

import numpy as np

from ..io import KerasFile, OnnxBytes, read_model_file
from ..layers import LSTM
from ..layers.torch_lstm import TorchLSTM
from ..models.converting import draws_in_inference, is_torch
from ..models.sample_inputs import SAMPLES, SEED, STEPS, sample_inputs
from ..models.saving import build_model
from .layer_outputs import Outputs, Row, in_float64, layer_outputs

# By how much |a - b| / max(1, |b|) may differ, by the dtype that a model computes in.
TOLERANCES = {"float64": 1e-9, "float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}


class LayerModel:
    """A Sequential or functional model; ``file``: what is in its file."""

    runtimes: tuple[str, ...] = ("reference", "keras", "tf_keras")

    def __init__(self, path: str, file: KerasFile):
        self.path, self.file = path, file
        model = self.model = build_model(file)
        self.version = str(file.metadata.get("keras_version", "of an unknown version"))
        self.random = draws_in_inference(model)  # comparing needs the model without what it draws
        self.today: tuple[str, ...] = ("training",) if self.random else ()
        self.dtypes = list(dict.fromkeys(layer.compute_dtype for layer in model.layers))
        self.names = [tensor.name for tensor in model.inputs] if hasattr(model, "inputs") else ["x"]
        shape = model.input_shape
        shapes = shape if isinstance(shape, list) else list(shape.values()) if isinstance(shape, dict) else [shape]
        self.shapes = [tuple(one) for one in shapes]

    def built(self, today: tuple[str, ...] = ()) -> Any:
        """The model anew, with zeros for carried states."""
        return build_model(self.file, today=(*self.today, *today))

    def random_inputs(self) -> list[np.ndarray]:
        return sample_inputs(self.model)

    def outputs(self, inputs: list[np.ndarray], today: tuple[str, ...] = ()) -> Outputs:
        return layer_outputs(self.built(today), inputs)

    def caller(self, inputs: list[np.ndarray]) -> Any:
        """A function that runs the model once, for the timing."""
        model, given = self.built(), inputs if len(inputs) > 1 else inputs[0]
        return lambda: model.predict_on_batch(given)

    def reference(self, inputs: list[np.ndarray]) -> tuple[Outputs, Any, str]:
        """Outputs, a function that runs the model once, and the dtype; for the reference backend."""
        model, given = in_float64(self.built()), inputs if len(inputs) > 1 else inputs[0]
        return layer_outputs(model, inputs), lambda: model.predict_on_batch(given), "float64"

    def described(self) -> str:
        parameters = sum(variable.size for variable in self.model.weights)
        return f"{type(self.model).__name__}, Keras {self.version}, {len(self.model.layers)} layers, {parameters:,} parameters"


class OnnxGraph:
    """A graph of ONNX operators: a row for each array that a node returns."""

    runtimes = ("reference", "onnxruntime")
    random, today, file = False, (), None

    def __init__(self, path: str, found: OnnxBytes):
        from ..models.onnx import load_onnx

        self.path, self.model = path, load_onnx(*found)
        self.names = [info.name for info in self.model.inputs]
        self.shapes = [tuple(n if isinstance(n, int) else None for n in info.shape or ()) for info in self.model.inputs]
        self.dtypes = list(dict.fromkeys(info.dtype for info in self.model.outputs if info.dtype.startswith("float")))

    def random_inputs(self) -> list[np.ndarray]:
        """N(0, 1), for integers 0 or 1, which every vocabulary has; free sizes are 3, or 1 where the graph does not take that."""
        try:
            inputs = self._drawn(3)
            self.model(inputs)
        except ValueError:
            inputs = self._drawn(1)
        return inputs

    def _drawn(self, free: int) -> list[np.ndarray]:
        draw = np.random.default_rng(SEED)
        arrays = []
        for info in self.model.inputs:
            shape = [n if isinstance(n, int) else free for n in info.shape or ()]
            whole = not info.dtype.startswith("float")
            arrays.append((draw.integers(0, 2, shape) if whole else draw.standard_normal(shape)).astype(info.dtype))
        return arrays

    def outputs(self, inputs: list[np.ndarray], today: tuple[str, ...] = ()) -> Outputs:
        model = copy.copy(self.model)
        names = [name for step in model._plan.steps for name in step.outputs if name]
        wanted, plan = model._plan.outputs, model._plan.with_outputs(names)
        model._plan = plan
        arrays = model(inputs)
        found = dict(zip(names, arrays if isinstance(arrays, list) else [arrays], strict=True))
        rows = [
            Row([name], name, f"{step.call.op}", found[name]) for step in plan.steps for name in step.outputs if name in found
        ]
        return Outputs(rows, list(wanted))

    def caller(self, inputs: list[np.ndarray]) -> Any:
        return lambda: self.model(inputs)

    def reference(self, inputs: list[np.ndarray]) -> tuple[Outputs, Any, str]:
        return self.outputs(inputs), self.caller(inputs), "the graph's own dtypes"

    def described(self) -> str:
        return f"ONNX, opset {self.model.opsets.get('', 1)}, {len(self.model._plan.steps)} nodes to run"


class TorchWeights:
    """The LSTM in a file of PyTorch's weights: a row for each of its layers."""

    runtimes = ("reference", "torch")
    random, today, file = False, (), None

    def __init__(self, path: str, prefix: str | None = None):
        self.path, self.prefix = path, prefix
        self.model = LSTM.from_torch(path, return_sequences=True, prefix=prefix)
        self.names, self.dtypes = ["x"], [self.model.compute_dtype]
        self.shapes = [(None, None, self.model.input_spec.axes[2])]

    def random_inputs(self) -> list[np.ndarray]:
        shape = (SAMPLES, STEPS, self.shapes[0][2] or 1)
        return [np.random.default_rng(SEED).standard_normal(shape).astype(self.dtypes[0])]

    def outputs(self, inputs: list[np.ndarray], today: tuple[str, ...] = ()) -> Outputs:
        return torch_outputs(self.model, inputs[0])

    def caller(self, inputs: list[np.ndarray]) -> Any:
        return lambda: self.model(inputs[0])

    def reference(self, inputs: list[np.ndarray]) -> tuple[Outputs, Any, str]:
        model = LSTM.from_torch(self.path, return_sequences=True, prefix=self.prefix, dtype="float64")
        return torch_outputs(model, inputs[0]), lambda: model(inputs[0]), "float64"

    def described(self) -> str:
        return f"weights of PyTorch, {sum(variable.size for variable in self.model.weights):,} parameters"


def torch_outputs(model: Any, x: np.ndarray) -> Outputs:
    """All steps of each layer of an LSTM or TorchLSTM that returns sequences: keys "l0", "l1", …"""
    rows = []
    for number, piece in enumerate(model.pieces if isinstance(model, TorchLSTM) else [model]):
        y = piece(x)
        x = y[0] if isinstance(y, (tuple, list)) else y
        rows.append(Row([f"l{number}"], f"l{number}", type(piece).__name__, x))
    return Outputs(rows, [rows[-1].keys[0]])


Subject = LayerModel | OnnxGraph | TorchWeights


def subject_of(path: str, prefix: str | None = None) -> Subject:
    """The model in a file. Errors as of ``load_model`` and ``LSTM.from_torch``."""
    if is_torch(path):
        return TorchWeights(path, prefix)
    if prefix is not None:
        raise ValueError(f"{path}: a prefix names an LSTM of a file of PyTorch's weights, which this is not")
    found = read_model_file(path)
    return OnnxGraph(path, found) if isinstance(found, OnnxBytes) else LayerModel(os.fsdecode(path), found)


def tolerance_of(dtypes: list[str]) -> float:
    """The largest tolerance of the dtypes that a model computes in."""
    return max((TOLERANCES.get(name, TOLERANCES["float32"]) for name in dtypes), default=TOLERANCES["float32"])
