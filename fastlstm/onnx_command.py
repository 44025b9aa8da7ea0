"""What the commands ``predict`` and ``info`` do with an ONNX model. Used by ``cli``, in terms of OnnxModel and ``report``."""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from . import report
from .io import OnnxBytes
from .io.data_file import DataFile, read_data, write_array
from .models.onnx import OnnxModel, load_onnx
from .tables import human_bytes, printable


def info(file: OnnxBytes) -> None:
    """Prints the page of ``fastlstm info``."""
    model = load_onnx(*file)
    size = sum(array.nbytes for array in model.weights)
    facts = [("file", file.name), *((key.replace("_", " "), printable(value)) for key, value in model.metadata.items() if value)]
    print(report.facts([*facts, ("memory", f"{human_bytes(size)} of weights")]))
    print("\n" + "\n".join(model.summary_lines()))


def predict(arguments: argparse.Namespace, model: OnnxModel) -> None:
    """Runs a model on a file: its one input on the array that other models take too, several on the arrays of their names."""
    if arguments.batch_size is not None or arguments.timesteps is not None:
        raise ValueError(f"{arguments.model}: --batch-size and --timesteps are not for ONNX models, which run an array as it is")
    if len(model.inputs) == 1:
        data = read_data(arguments.input, arguments.key)
        given: Any = [_fitted(data, len(model.inputs[0].shape or ()))]
    else:
        if arguments.key is not None:
            names = ", ".join(repr(value.name) for value in model.inputs)
            raise ValueError(f"{arguments.input}: --key is for models of one input, this one takes the arrays {names}")
        given = {value.name: read_data(arguments.input, value.name).x for value in model.inputs}
    start = time.perf_counter()
    try:
        found = model(given)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{arguments.input}: the model cannot take this input: {error}") from error
    seconds = time.perf_counter() - start
    outputs = found if isinstance(found, list) else [found]
    facts = []
    for value, array in zip(model.outputs, outputs, strict=True):
        print(f"{printable(value.name)}: {report.described(array)}")
        rows = np.atleast_1d(array)
        none = DataFile(arguments.input, "", rows, {}, False)
        print(report.prediction_text(rows, none, max(arguments.rows, 0)) + "\n")
    facts.append(("time", f"{1e3 * seconds:.3g} ms"))
    if arguments.output is not None:
        write_array(arguments.output, np.atleast_1d(outputs[0]))
        facts.append(("written", f"{arguments.output}: {printable(model.outputs[0].name)}, {report.described(outputs[0])}"))
    print(report.facts(facts))


def _fitted(data: DataFile, rank: int) -> np.ndarray:
    """The array of a file; a table becomes one sequence [1,T,D] for a model that takes three axes."""
    return data.x[None] if data.tabular and rank == 3 else data.x
