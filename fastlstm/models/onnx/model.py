"""OnnxModel: the graph of an ONNX file as something that takes arrays and returns arrays."""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ... import devices
from ...arrays import cast
from ...io.onnx_file import OnnxFile, ValueInfo, read_onnx
from ...tables import printable, shape_text, table
from .checks import check
from .limits import Allowance, running
from .plan import FOLD_RATIO, Plan
from .ready import Ready, deciding

MAX_TOLD = 100


def load_onnx(data: bytes, name: str, folder: str | None) -> OnnxModel:
    """The model of the bytes of an .onnx file; arguments and errors as of ``io.onnx_file.read_onnx``, and of OnnxModel."""
    return OnnxModel(read_onnx(data, name, folder))


class OnnxModel:
    """A graph of an ONNX file. Made by ``fastlstm.load_model``; everything in it was checked by then.

    ``inputs``, ``outputs``: lists of (name, dtype, shape); an axis is a size, the name of a size, or None, and the shape None
    where the file does not say it. ``metadata``: what the file says of itself. ``weights``: the arrays that are in it.

    Call: ``model(x)`` with an array, a list of arrays in the order of ``inputs``, or a dict {name: array}; returns an array, or a
    list of arrays where there are several outputs. Calls keep nothing, and several threads may call at once.
    A copy and a pickle are made of what was in the file. ValueError, naming the file and all that is not supported with node and
    operator, for a graph that cannot be run.
    """

    def __init__(self, file: OnnxFile):
        self._source = file
        checked, problems = check(file)
        self.weights = list(file.graph.constants.values())
        # The weights may lie in other files, and in a branch of an If.
        self._held = max(file.size, sum(array.nbytes for array in self.weights))
        fold = Allowance(self._held, FOLD_RATIO)
        self._plan = Plan(checked, ChainMap(), fold, [info.name for info in file.graph.inputs])
        problems = [*problems, *self._plan.problems]
        if problems:
            raise ValueError(f"{file.name}: this ONNX model cannot be run here: {_listed(problems)}")
        self.name = file.graph.name
        self.inputs: list[ValueInfo] = list(file.graph.inputs)
        self.outputs: list[ValueInfo] = list(file.graph.outputs)
        self.metadata = file.metadata
        self.opsets = file.opsets
        self._file = file.name
        self._names = [info.name for info in self.inputs]
        self._known = set(self._names)
        self._doors = [_Door(info) for info in self.inputs]
        dtypes = [np.dtype(info.dtype) for info in self.inputs]
        self._plan.ready = Ready(self._plan, dtypes, deciding(self._plan, dtypes), self._held)

    def __reduce__(self) -> tuple[Any, ...]:
        return OnnxModel, (self._source,)

    def __call__(self, inputs: Any) -> Any:
        """Runs the graph.

        Numbers are converted to the dtype of their input where nothing but precision is lost (float64 to float32, integers to
        floats). Returns arrays of the caller's own. ValueError for inputs that are missing, unknown or of a shape that the file
        excludes, and, naming the node, for sizes that do not fit inside; TypeError for a dtype that cannot be converted.
        """
        given = self._in_order(inputs)
        results = self._quickly(given)
        if results is None:
            values = [door(value) for door, value in zip(self._doors, given, strict=True)]
            if any(value is not other for value, other in zip(values, given, strict=True)):
                results = self._quickly(values)
            if results is None:
                results = self._through_plan(values)
        return results[0] if len(results) == 1 else results

    def _quickly(self, given: Sequence[Any]) -> list[np.ndarray] | None:
        """The results, where everything for arrays like these is in place; then they fit what the file says."""
        ready = self._plan.ready
        try:
            return None if ready is None else ready.run(given)
        except ValueError as error:
            raise ValueError(f"{self._file}: {error}") from error

    def _through_plan(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        allowance = Allowance(sum([value.nbytes for value in values]) + self._held)
        try:
            with running(allowance), np.errstate(all="ignore"):
                found = self._plan.run(values, allowance)
        except ValueError as error:
            raise ValueError(f"{self._file}: {error}") from error
        if self._plan.ready is not None:
            self._plan.ready.ran(values)
        results: list[np.ndarray] = []
        for array in found:
            results.append(_own(array, values, results))
        return results

    def predict(self, x: Any, batch_size: None = None, verbose: Any = "auto") -> Any:
        """As a call. A graph does not say which axis is the batch: the whole input is run at once, ``batch_size`` must be None.

        ``verbose`` is accepted, nothing is shown.
        """
        if batch_size is not None:
            raise ValueError(f"An ONNX graph runs its whole input at once, batch_size must be None. Received: {batch_size!r}")
        return self(x)

    def _in_order(self, inputs: Any) -> Sequence[Any]:
        """The arguments of a call in the order of ``inputs``."""
        if type(inputs) is list and len(inputs) == len(self._doors):
            return inputs
        names = self._names
        if type(inputs) is dict and inputs.keys() == self._known:
            return [inputs[name] for name in names]
        if isinstance(inputs, Mapping):
            wrong = [repr(name) for name in inputs if name not in names]
            missing = [repr(name) for name in names if name not in inputs]
            if wrong or missing:
                raise ValueError(
                    f"{self._file}: the inputs are {names}. Missing: {', '.join(missing) or 'none'}; "
                    f"not known: {', '.join(wrong) or 'none'}"
                )
            return [inputs[name] for name in names]
        given = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        if len(given) != len(names):
            raise ValueError(f"{self._file}: the model takes {len(names)} arrays, {names}. Received: {len(given)}")
        return given

    def summary(self, *, print_fn: Callable[[str], Any] | None = None) -> None:
        """Prints what goes in and out and which nodes run, one line at a time by ``print_fn``."""
        for line in self.summary_lines():
            (print_fn or print)(line)

    def summary_lines(self) -> list[str]:
        """The lines of ``summary``."""
        steps = self._plan.steps
        ends = [[label, printable(info.name), _shape(info), info.dtype] for label, info in _ends(self.inputs, self.outputs)]
        rows = []
        for number, step in enumerate(steps, 1):
            held = [self._plan.constants[name].size for name in step.inputs if name in self._plan.constants]
            rows.append([str(number), printable(step.call.name), step.call.op, f"{sum(held):,}"])
        counts = ", ".join(f"{count} {op}" for op, count in Counter(step.call.op for step in steps).most_common())
        numbers = sum(array.size for array in self.weights)
        return [
            f'Model: "{printable(self.name)}" (ONNX, opset {self.opsets.get("", 1)})',
            *table(ends, ("", "name", "shape", "dtype")).split("\n"),
            "",
            *table(rows, ("#", "node", "operator", "constants"), right=(0, 3)).split("\n"),
            "",
            f"Operators: {counts or 'none'}",
            f"Numbers in the file's weights: {numbers:,}",
        ]


def _ends(inputs: Sequence[ValueInfo], outputs: Sequence[ValueInfo]) -> list[tuple[str, ValueInfo]]:
    return [("input", info) for info in inputs] + [("output", info) for info in outputs]


def _shape(info: ValueInfo) -> str:
    """ "(batch, 29, 12)", "?" where the file does not say it."""
    if info.shape is None:
        return "?"
    if any(isinstance(size, str) for size in info.shape):
        inner = ", ".join(printable(str(size)) for size in info.shape)
        return f"({inner},)" if len(info.shape) == 1 else f"({inner})"
    return shape_text([size for size in info.shape if not isinstance(size, str)])


def _listed(problems: Sequence[str]) -> str:
    """The problems, each once, "; " between them."""
    once = list(dict.fromkeys(problems))
    more = f"; and {len(once) - MAX_TOLD} more" if len(once) > MAX_TOLD else ""
    return "; ".join(once[:MAX_TOLD]) + more


class _Door:
    """An input of the graph: takes an argument and returns the array that the graph wants."""

    def __init__(self, info: ValueInfo):
        self._info, self._dtype = info, np.dtype(info.dtype)
        self._exact = tuple(info.shape) if info.shape is not None else None  # with names of sizes in it no shape is equal
        self._sizes = [(axis, size) for axis, size in enumerate(info.shape or ()) if isinstance(size, int)]

    def __call__(self, value: Any) -> np.ndarray:
        """TypeError and ValueError that name the input."""
        exact = type(value) is np.ndarray and value.dtype is self._dtype
        array = value if exact else self._array(value)
        if array.shape != self._exact and not self._fits(array.shape):
            raise ValueError(f"The input {self._info.name!r} must have the shape {_shape(self._info)}. Received: {array.shape}")
        flags = array.flags
        return array if exact and flags.c_contiguous and flags.aligned else cast(array, self._dtype)

    def _array(self, value: Any) -> np.ndarray:
        name = self._info.name
        if devices.is_on_gpu(value):
            raise TypeError(f"The input {name!r} lies on a GPU, and graphs of ONNX files run on the CPU: pass cupy.asnumpy(x)")
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"The input {name!r} must be an array of numbers. Received: dtype={array.dtype}")
        if array.dtype != self._dtype and not np.can_cast(array.dtype, self._dtype, "same_kind"):
            raise TypeError(f"The input {name!r} is of dtype {self._info.dtype}. Received: dtype={array.dtype}")
        return array

    def _fits(self, shape: tuple[int, ...]) -> bool:
        wanted = self._info.shape
        return wanted is None or (len(shape) == len(wanted) and all(shape[axis] == size for axis, size in self._sizes))


def _own(array: np.ndarray, given: Sequence[np.ndarray], results: Sequence[np.ndarray]) -> np.ndarray:
    """An output that shares no memory with what is kept, what came in or another output."""
    if array.base is not None or not array.flags.writeable:
        return np.array(array)
    for others in (given, results):
        for other in others:
            if array is other:
                return np.array(array)
    return array
