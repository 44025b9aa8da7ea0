"""Operation: a function of ``keras.ops`` as one step of a functional model: comparisons, logic, arithmetic, slices.

Keras 3 writes them into the files of functional models: wherever a mask is made of indices, and for ``x + y`` or ``x[:, -1]``
on symbolic tensors. In terms of NumPy; used by ``models.graph_config``. The names and their arguments are those of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..serialization import to_snake_case
from .base import Layer, auto_name
from .gradients import Form, Gradients, Pullback, cotangents, like
from .nest import flatten
from .several import summed_to
from .symbolic import is_symbolic, symbolic_call

Shape = tuple[int | None, ...]


def broadcast_shape(*shapes: Shape) -> Shape:
    """The shape of arrays of these shapes put together number by number. ValueError where they do not fit."""
    ndim = max((len(shape) for shape in shapes), default=0)
    result: list[int | None] = []
    for sizes in zip(*((1,) * (ndim - len(shape)) + tuple(shape) for shape in shapes), strict=True):
        known = {size for size in sizes if size not in (None, 1)}
        if len(known) > 1:
            raise ValueError(f"arrays of shapes {shapes} cannot be put together")
        result.append(known.pop() if known else (None if None in sizes else 1))
    return tuple(result)


def _axes(axis: Any, ndim: int) -> tuple[int, ...]:
    axes = range(ndim) if axis is None else axis if isinstance(axis, (list, tuple)) else (axis,)
    if not all(isinstance(one, int) and -ndim <= one < ndim for one in axes):
        raise ValueError(f"axis={axis!r} is no axis of an array with {ndim} axes")
    return tuple(one % ndim for one in axes)


def _reduced(shape: Shape, config: dict[str, Any]) -> Shape:
    axes, keep = _axes(config.get("axis"), len(shape)), config.get("keepdims")
    return tuple(1 if k in axes else n for k, n in enumerate(shape) if keep or k not in axes)


def _reduce(function: Any) -> Callable[..., np.ndarray]:
    def reduce(config: dict[str, Any], x: np.ndarray) -> np.ndarray:
        return function(x, axis=_axes(config.get("axis"), np.ndim(x)), keepdims=bool(config.get("keepdims")))

    return reduce


def _inserted(config: dict[str, Any], ndim: int) -> int:
    return _axes(config.get("axis"), ndim + 1)[0]


def _index(index: Any) -> tuple[Any, ...]:
    """The entries of an index. ValueError unless they are integers, slices, None and ``...``."""
    entries = tuple(index) if isinstance(index, (list, tuple)) else (index,)
    if not all(entry is None or entry is Ellipsis or type(entry) is int or isinstance(entry, slice) for entry in entries):
        raise ValueError(f"an index must hold integers and slices. Received: {index!r}")
    return entries


def _picked_shape(shape: Shape, index: Any) -> Shape:
    """The shape of ``x[index]`` for an x of ``shape``."""
    entries = list(_index(index))
    used = sum(entry is not None and entry is not Ellipsis for entry in entries)
    if used > len(shape) or entries.count(Ellipsis) > 1:
        raise ValueError(f"an array with {len(shape)} axes has no [{index!r}]")
    whole = [slice(None)] * (len(shape) - used)
    at = entries.index(Ellipsis) if Ellipsis in entries else len(entries)
    result: list[int | None] = []
    sizes = iter(shape)
    for entry in [*entries[:at], *whole, *entries[at + 1 :]]:
        if entry is None:
            result.append(1)
            continue
        size = next(sizes)
        if isinstance(entry, slice):
            result.append((None if entry != slice(None) else size) if size is None else len(range(size)[entry]))
        elif size is not None and not -size <= entry < size:
            raise ValueError(f"index {entry} is out of range for an axis of {size}")
    return tuple(result)


def _concatenated(config: dict[str, Any], shapes: list[Shape]) -> Shape:
    axis = _axes(config.get("axis", 0), len(shapes[0]))[0]
    sizes = [shape[axis] for shape in shapes]
    rest = broadcast_shape(*((*shape[:axis], 1, *shape[axis + 1 :]) for shape in shapes))
    joined = None if None in sizes else sum(size for size in sizes if size is not None)
    return (*rest[:axis], joined, *rest[axis + 1 :])


def _filled(value: int) -> Callable[..., np.ndarray]:
    return lambda config, x: np.full(np.shape(x), value, config.get("dtype") or np.asarray(x).dtype)


def _as_dtype(config: dict[str, Any], x: Any) -> np.ndarray:
    return np.asarray(x, config.get("dtype"))


def _elementwise(function: Any) -> Callable[..., np.ndarray]:
    return lambda config, *arrays: function(*arrays)


# name -> (config, *arguments) -> array
FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "NotEqual": _elementwise(np.not_equal),
    "Equal": _elementwise(np.equal),
    "Greater": _elementwise(np.greater),
    "GreaterEqual": _elementwise(np.greater_equal),
    "Less": _elementwise(np.less),
    "LessEqual": _elementwise(np.less_equal),
    "LogicalAnd": _elementwise(np.logical_and),
    "LogicalOr": _elementwise(np.logical_or),
    "LogicalNot": _elementwise(np.logical_not),
    "Add": _elementwise(np.add),
    "Subtract": _elementwise(np.subtract),
    "Multiply": _elementwise(np.multiply),
    "TrueDivide": _elementwise(np.true_divide),
    "Divide": _elementwise(np.true_divide),
    "Negative": _elementwise(np.negative),
    "Any": _reduce(np.any),
    "All": _reduce(np.all),
    "ExpandDims": lambda config, x: np.expand_dims(x, _inserted(config, np.ndim(x))),
    "ZerosLike": _filled(0),
    "OnesLike": _filled(1),
    "Cast": _as_dtype,
    "ConvertToTensor": _as_dtype,
    "Concatenate": lambda config, xs: np.concatenate(xs, axis=config.get("axis", 0)),
    "GetItem": lambda config, x, index: np.ascontiguousarray(x[_index(index)]),
}
_LOGIC = (
    "NotEqual",
    "Equal",
    "Greater",
    "GreaterEqual",
    "Less",
    "LessEqual",
    "LogicalAnd",
    "LogicalOr",
    "LogicalNot",
    "Any",
    "All",
)
_IN_CORE = ("Cast", "ConvertToTensor")
# The arithmetic: dy, the arguments and the result -> the gradient of each argument.
_SLOPES: dict[str, Callable[..., list[np.ndarray]]] = {
    "Add": lambda dy, y, a, b: [dy, dy],
    "Subtract": lambda dy, y, a, b: [dy, -dy],
    "Multiply": lambda dy, y, a, b: [dy * b, dy * a],
    "TrueDivide": lambda dy, y, a, b: [dy / b, -dy * y / b],
    "Divide": lambda dy, y, a, b: [dy / b, -dy * y / b],
    "Negative": lambda dy, y, a: [-dy],
    "Cast": lambda dy, y, a: [dy],
    "ConvertToTensor": lambda dy, y, a: [dy],
}


class Operation(Layer):
    """``operation(arguments)``: the function ``name_in_keras`` with the options in ``config``, of a list of arrays and constants.

    ValueError for a function that is not in ``FUNCTIONS``. It has no weights, and hands no mask on.
    """

    symbolic_only = False

    def __init__(self, name_in_keras: str, **config: Any):
        super().__init__(name=config.pop("name", None) or auto_name(to_snake_case(str(name_in_keras))))
        if name_in_keras not in FUNCTIONS:
            raise ValueError(f"The operation {name_in_keras!r} is not known. Known: {', '.join(sorted(FUNCTIONS))}")
        dtype = config.get("dtype")
        if dtype is not None and dtype not in ("bool", "int32", "int64", "float16", "float32", "float64", "uint8"):
            raise ValueError(f"The operation {name_in_keras!r} cannot make an array of dtype {dtype!r}")
        self.name_in_keras, self.config = name_in_keras, config
        self.built = True

    def __call__(self, inputs: Any, mask: Any = None, training: bool = False, **options: Any) -> Any:
        if is_symbolic(inputs):
            return symbolic_call(self, inputs)
        self.check_runs_here(*flatten(inputs))
        with np.errstate(all="ignore"):
            return FUNCTIONS[self.name_in_keras](self.config, *inputs)

    def vjp(self, inputs: Any, mask: Any = None, training: bool = True, **options: Any) -> tuple[Any, Pullback]:
        """``(output, pullback)``; ``Gradients.inputs``: a flat list like the leaves of ``inputs``, None for constants."""
        y = self(inputs)
        form, leaves = Form.of(y), flatten(inputs)

        def pullback(dy: Any) -> Gradients:
            (d,) = cotangents(dy, [form])
            if d is None or form.dtype.kind != "f":
                return Gradients([None] * len(leaves), None, [])  # type: ignore[arg-type]
            with np.errstate(all="ignore"):
                return Gradients(self._slopes(d, y, inputs, leaves), None, [])  # type: ignore[arg-type]

        return y, pullback

    def _slopes(self, dy: np.ndarray, y: np.ndarray, inputs: Any, leaves: list) -> list:
        if self.name_in_keras in _SLOPES:
            raw = _SLOPES[self.name_in_keras](dy, y, *inputs)
        elif self.name_in_keras == "Concatenate":
            ends = np.cumsum([x.shape[self.config.get("axis", 0)] for x in leaves])[:-1]
            raw = np.split(dy, ends, axis=self.config.get("axis", 0))
        elif self.name_in_keras == "ExpandDims":
            raw = [dy.reshape(inputs[0].shape)]
        elif self.name_in_keras == "GetItem":
            dx = np.zeros(inputs[0].shape, dy.dtype)
            dx[_index(inputs[1])] = dy
            raw = [dx]
        else:
            raw = []
        listed = [*raw, *[None] * (len(leaves) - len(raw))]
        return [_own(d, leaf) for d, leaf in zip(listed, leaves, strict=True)]

    def symbolic_output_shape(self, shapes: Any, options: dict[str, Any]) -> Any:
        """``shapes``: the arguments with a tuple for each array; constants stay what they are."""
        name, config = self.name_in_keras, self.config
        given = [shape if isinstance(shape, tuple) else () for shape in shapes]
        if name == "GetItem":
            return _picked_shape(given[0], shapes[1])
        if name == "Concatenate":
            return _concatenated(config, [tuple(shape) for shape in shapes[0]])
        if name in ("Any", "All"):
            return _reduced(given[0], config)
        if name == "ExpandDims":
            at = _inserted(config, len(given[0]))
            return (*given[0][:at], 1, *given[0][at:])
        return broadcast_shape(*given)

    def symbolic_dtype(self, inputs: Any) -> str:
        if self.name_in_keras in _LOGIC:
            return "bool"
        return self.config.get("dtype") or next(leaf.dtype for leaf in flatten(inputs) if hasattr(leaf, "dtype"))

    def get_config(self) -> dict:
        return {"name": self.name, **self.config}

    def entry(self) -> dict[str, Any]:
        """The 4-key dict that Keras writes."""
        module = "keras.src.ops.core" if self.name_in_keras in _IN_CORE else "keras.src.ops.numpy"
        config = self.get_config()
        return {"module": module, "class_name": self.name_in_keras, "config": config, "registered_name": self.name_in_keras}


def _own(gradient: Any, leaf: Any) -> Any:
    """The gradient of an argument as an array of its shape; None for constants and integers."""
    if gradient is None or not isinstance(leaf, np.ndarray):
        return None
    return like(summed_to(np.asarray(gradient), leaf.shape), leaf)


def is_operation(entry: Mapping[str, Any]) -> bool:
    """Whether the dict of a layer is that of an operation, which may have the name of a layer; .h5 files name no module."""
    if entry.get("module") is not None:
        return str(entry["module"]).startswith(("keras.src.ops", "keras.ops"))
    return entry.get("class_name") in FUNCTIONS and "trainable" not in entry["config"]


def operation_of(entry: Mapping[str, Any]) -> Operation:
    """The operation of its dict. ValueError for one that is not known."""
    return Operation(entry["class_name"], **entry["config"])
