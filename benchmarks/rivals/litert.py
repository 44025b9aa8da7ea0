"""LiteRT (TensorFlow Lite): the files of ``write_tflite``. Inputs are copied into its arena: it has no other way."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from benchmarks.rivals.workload import THREADS, Data, Runner, Unsupported, Workload, mask_of


def versions() -> str:
    return f"ai-edge-litert {version('ai-edge-litert')}"


def make(work: Workload, data: Data, folder: str) -> dict[str, Callable[[], Runner]]:
    if work.training:
        raise Unsupported("inference only")
    if work.dtype != "float32":
        raise Unsupported("has no float64 arithmetic for these operators")
    files = {path.name.split(".")[1]: path for path in sorted(Path(folder).glob(f"{work.name}.*.*"))}
    if not files:
        raise Unsupported("no .tflite file: the environment keras_tensorflow, which makes them, is missing")
    return {way: partial(_runner, work, data, path) for way, path in files.items()}


def remark(work: Workload, way: str) -> str:
    """The converter folds the products with states that it knows to be zero: of a single step it leaves the one with x only."""
    if way != "unrolled" or work.carries_states or work.steps > 1:
        return ""
    return "computes the product with x only, because the states of a first step are zero"


def _runner(work: Workload, data: Data, path: Path) -> Runner:
    if path.suffix == ".txt":
        raise RuntimeError("not converted: " + path.read_text("utf-8"))
    interpreter = Interpreter(str(path), num_threads=THREADS)
    interpreter.allocate_tensors()
    inputs, outputs = _views(interpreter)
    masks = [mask_of(work, lengths) for lengths in data["lengths"]] if work.ragged else [None] * len(data["inputs"])
    fused = path.name.split(".")[1] == "fused"

    def call(x: np.ndarray, mask: np.ndarray | None) -> None:
        inputs["x"]()[...] = x
        if mask is not None:
            inputs["mask"]()[...] = mask
        if fused and not work.carries_states:
            interpreter.reset_all_variables()  # or h and c would come from the call before
        interpreter.invoke()
        if work.carries_states and not fused:
            inputs["h"]()[...] = outputs["y"]()
            inputs["c"]()[...] = outputs["c"]()

    def result(_: Any) -> list[np.ndarray]:
        return [np.array(outputs["y"]())]

    def reset() -> None:
        interpreter.reset_all_variables()
        for name in {"h", "c"} & set(inputs):
            inputs[name]()[...] = 0

    return Runner([partial(call, x, mask) for x, mask in zip(data["inputs"], masks, strict=True)], result, reset)


def _views(interpreter: Interpreter) -> tuple[dict[str, Callable], dict[str, Callable]]:
    """Inputs x, mask, h, c and outputs y, c as functions that answer with an array in the arena."""
    details = interpreter.get_input_details()
    names = [detail["name"].removeprefix("serving_default_").split(":")[0] for detail in details]
    inputs = {name if len(details) > 1 else "x": interpreter.tensor(d["index"]) for name, d in zip(names, details, strict=True)}
    given = interpreter.get_output_details()
    outputs = {name: interpreter.tensor(d["index"]) for name, d in zip("yc", given, strict=False)}
    return inputs, outputs
