"""Symbolic tensors: what ``Input(…)`` returns, what a layer makes of one, and the node that remembers the call.

Terms of ``keras.KerasTensor``. Used by every layer's call and by ``models.functional``, which runs the nodes. A tensor knows its
node, a node knows the tensors it was made of; a layer only knows its calls as long as somebody else does.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from .nest import flatten, is_several_shapes, mapped

_calls: weakref.WeakKeyDictionary[Any, list[weakref.ref]] = weakref.WeakKeyDictionary()


def _operation(name: str, *arguments: Any) -> Any:
    """The result of a function of ``keras.ops``."""
    from .operations import Operation  # which is a layer, in terms of this module

    return Operation(name)(list(arguments))


def _binary(name: str, reflected: bool = False) -> Callable[[KerasTensor, Any], Any]:
    def operate(self: KerasTensor, other: Any) -> Any:
        if isinstance(other, np.generic):
            other = other.item()
        if not isinstance(other, (KerasTensor, int, float)):
            return NotImplemented
        return _operation(name, other, self) if reflected else _operation(name, self, other)

    return operate


class KerasTensor:
    """A value that is not there yet: ``shape`` (None where unknown), ``dtype`` (a name), ``name``.

    ``node`` and ``index``: which call returns it, and at which place among its outputs.
    """

    def __init__(self, shape: Any, dtype: str, node: Node, index: int = 0, name: str | None = None):
        self.shape, self.dtype = tuple(shape), dtype
        self.node, self.index = node, index
        self.name = name or node.layer.name

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __repr__(self) -> str:
        return f"<KerasTensor shape={self.shape}, dtype={self.dtype}, name={self.name}>"

    def __iter__(self) -> Any:
        raise TypeError("A symbolic tensor cannot be iterated over")

    def __bool__(self) -> bool:
        raise TypeError("A symbolic tensor has no truth value")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise ValueError(f"{self!r} is symbolic: it has a shape and no values, and cannot become an array. Use layers on it")

    def __float__(self) -> float:
        raise ValueError(f"{self!r} is symbolic: it has a shape and no values, and cannot become a number")

    # Arithmetic with numbers and with other symbolic tensors, comparisons but for equality, which is that of objects.
    __array_ufunc__ = None  # NumPy's scalars leave their side of it to the methods below
    __add__, __radd__ = _binary("Add"), _binary("Add", reflected=True)
    __sub__, __rsub__ = _binary("Subtract"), _binary("Subtract", reflected=True)
    __mul__, __rmul__ = _binary("Multiply"), _binary("Multiply", reflected=True)
    __truediv__, __rtruediv__ = _binary("TrueDivide"), _binary("TrueDivide", reflected=True)
    __gt__, __ge__ = _binary("Greater"), _binary("GreaterEqual")
    __lt__, __le__ = _binary("Less"), _binary("LessEqual")

    def __neg__(self) -> KerasTensor:
        return _operation("Negative", self)

    def __getitem__(self, index: Any) -> KerasTensor:
        return _operation("GetItem", self, index)


class Node:
    """One symbolic call of ``layer``.

    ``inputs``: its first argument, a tensor or a structure of tensors, None for an InputLayer; ``options``: the other arguments
    that were given, by name (``initial_state``, ``mask``, ``training``, …), tensors among them; ``outputs``: the tensors it
    returned, flat; ``structure``: as they were returned.
    """

    def __init__(self, layer: Any, inputs: Any, options: dict[str, Any]):
        self.layer, self.inputs, self.options = layer, inputs, options
        self.outputs: list[KerasTensor] = []
        self.structure: Any = None
        _calls.setdefault(layer, []).append(weakref.ref(self))

    @property
    def sources(self) -> list[KerasTensor]:
        """All tensors among the arguments, those of ``options`` last."""
        return [leaf for leaf in flatten([self.inputs, self.options]) if isinstance(leaf, KerasTensor)]

    def returns(self, shapes: Any, dtype: str) -> Any:
        """Makes the outputs of these shapes (one shape, or a list of shapes)."""
        several = is_several_shapes(shapes)
        self.outputs = [KerasTensor(shape, dtype, self, k) for k, shape in enumerate(shapes if several else [shapes])]
        self.structure = tuple(self.outputs) if several else self.outputs[0]
        return self.structure


def is_symbolic(value: Any) -> bool:
    """Whether ``value`` is a symbolic tensor, or a list, tuple or dict that holds one."""
    if isinstance(value, (list, tuple, dict)):
        return any(is_symbolic(part) for part in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, KerasTensor)


def symbolic_call(layer: Any, inputs: Any, **options: Any) -> Any:
    """What ``layer`` makes of symbolic ``inputs``: tensors of its output shapes. Builds the layer.

    ``options``: the call's other arguments; None and False among them count as not given. ValueError where ``inputs`` hold
    anything else than symbolic tensors, and for shapes that the layer does not take.
    """
    for leaf in flatten(inputs) if layer.symbolic_only else []:
        if not isinstance(leaf, KerasTensor):
            raise ValueError(
                f'The inputs of layer "{layer.name}" must be all symbolic or all arrays. Received: a {type(leaf).__name__} '
                "among symbolic tensors"
            )
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    shapes = mapped(lambda leaf: leaf.shape if isinstance(leaf, KerasTensor) else leaf, inputs)
    layer.build_once(shapes)
    node = Node(layer, inputs, given)
    return node.returns(layer.symbolic_output_shape(shapes, given), layer.symbolic_dtype(inputs))


def calls_of(layer: Any) -> list[Node]:
    """The symbolic calls of a layer that are still in use, oldest first."""
    nodes = [reference() for reference in _calls.get(layer, [])]
    return [node for node in nodes if node is not None]


def input_tensor(layer: Any) -> KerasTensor:
    """The symbolic tensor of an InputLayer: always the same one, while it is in use."""
    known = calls_of(layer)
    if known:
        return known[0].outputs[0]
    return Node(layer, None, {}).returns(layer.batch_shape, layer.dtype_policy.name)
