"""Functional: a model of any graph of layers, with several inputs and outputs (terms of ``keras.Model(inputs, outputs)``).

In terms of ``graph`` (order and execution) and of the layers' calls, ``vjp`` and masks. Made by callers and by ``graph_config``
from files. A Functional is itself a layer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import selector
from ..arrays import require_array
from ..layers import Embedding, Layer, Masking
from ..layers.activity import OneCall
from ..layers.gradients import Form, Gradients, Pullback, cotangents, like, of_weights, with_activity_losses
from ..layers.moving import moved_call, moved_vjp
from ..layers.nest import flatten, is_several_shapes, mapped, packed
from ..layers.operations import Operation, is_operation, operation_of
from ..layers.symbolic import KerasTensor, Node, is_symbolic, symbolic_call
from ..layers.wrapper import deserialize
from ..training.batches import Samples
from ..variable import Variable
from .base import Model, last_masks
from .graph import Graph
from .graph_config import functional_config, read_functional


class Functional(Model):
    """The layers between symbolic ``inputs`` and ``outputs``: tensors, or lists, tuples and dicts of tensors.

    >>> x = Input((None, 8)); y, h, c = LSTM(4, return_state=True)(x); model = Model(x, [y, c])

    Call: ``model(inputs, mask=None, training=False)`` with arrays nested as ``inputs`` are; a flat list, or a dict by the names
    of the inputs, will do. Returns arrays nested as ``outputs`` are. Masks go from layer to layer as in Keras 3.15: a layer
    that gets an initial state gets no implicit mask (keras-spec 5).
    ValueError where an output does not follow from the inputs, and for two layers of one name.
    """

    def __init__(self, inputs: Any, outputs: Any, name: str | None = None, trainable: bool = True):
        super().__init__(name=name)
        if isinstance(outputs, (list, tuple)) and len(outputs) == 1:
            outputs = outputs[0]  # as in Keras, a list of one output is that output
        self._inputs_structure, self._outputs_structure = inputs, outputs
        self.inputs: list[KerasTensor] = _tensors(inputs, "inputs")
        self.outputs: list[KerasTensor] = _tensors(outputs, "outputs")
        self._graph = Graph(self.inputs, self.outputs)
        self._steps: list[Any] = list(self._graph.layers)  # operations included
        self._layers = [layer for layer in self._steps if not isinstance(layer, Operation)]
        self.built = True
        if not trainable:
            self.trainable = False

    # -- the parts --------------------------------------------------------------------------------------------------
    @property
    def layers(self) -> list[Layer]:
        """The layers in Keras' order, those of the inputs included."""
        return list(self._layers)

    @property
    def weights(self) -> list[Variable]:
        """The weights of all layers, in order, each once."""
        return list({id(variable): variable for variable in super().weights}.values())

    @property
    def trainable_weights(self) -> list[Variable]:
        return list({id(variable): variable for variable in super().trainable_weights}.values())

    @property
    def input(self) -> Any:
        return self._inputs_structure

    @property
    def output(self) -> Any:
        return self._outputs_structure

    @property
    def input_names(self) -> list[str]:
        return [tensor.name for tensor in self.inputs]

    @property
    def output_names(self) -> list[str]:
        return [tensor.node.layer.name for tensor in self.outputs]

    @property
    def input_shape(self) -> Any:
        """Shape of the input, batch axis first; nested as the inputs are."""
        return mapped(lambda tensor: tensor.shape, self._inputs_structure)

    @property
    def output_shape(self) -> Any:
        """Shape of the output, batch axis first; nested as the outputs are."""
        return mapped(lambda tensor: tensor.shape, self._outputs_structure)

    @property
    def static_batch_size(self) -> int | None:
        return self.inputs[0].shape[0] if self.stateful else None

    def build(self, input_shape: Any = None) -> None:
        """The layers were built when they were called: nothing is left to do."""

    def symbolic_dtype(self, inputs: Any) -> str:
        return self.outputs[0].dtype

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Shapes of the outputs, nested as they are, for shapes nested as the inputs are."""
        given = [input_shape] if len(self.inputs) == 1 and not is_several_shapes(input_shape) else _shapes(input_shape)
        if len(given) != len(self.inputs):
            raise ValueError(
                f'The model "{self.name}" has {len(self.inputs)} inputs ({", ".join(self.input_names)}). '
                f"Received: {len(given)} shapes"
            )
        known: dict[int, Any] = {id(tensor): tuple(shape) for tensor, shape in zip(self.inputs, given, strict=True)}
        shape_of = lambda tensor: known[id(tensor)]  # noqa: E731
        for node in self._graph.nodes:
            shapes = mapped(shape_of, node.inputs)
            after = node.layer.symbolic_output_shape(shapes, node.options)
            listed = [tuple(shape) for shape in after] if is_several_shapes(after) else [tuple(after)]
            known |= {id(tensor): shape for tensor, shape in zip(node.outputs, listed, strict=True)}
        shapes = [known[id(tensor)] for tensor in self.outputs]
        return shapes[0] if isinstance(self._outputs_structure, KerasTensor) else shapes

    # -- call -------------------------------------------------------------------------------------------------------
    def _as_input(self, inputs: Any, name: str = "inputs") -> Any:
        """One array, or Samples of all. ValueError for another number of arrays, missing names, and shapes that do not fit."""
        given = inputs.arrays if isinstance(inputs, Samples) else self._ordered(inputs)
        if len(given) != len(self.inputs):
            raise ValueError(
                f'The model "{self.name}" has {len(self.inputs)} inputs ({", ".join(self.input_names)}). '
                f"Received: {len(given)} arrays"
            )
        arrays = [self._fitted(require_array(x, f"{name}[{k}]"), self.inputs[k]) for k, x in enumerate(given)]
        return arrays[0] if len(arrays) == 1 else Samples(arrays)

    def _ordered(self, inputs: Any) -> list[Any]:
        """The arrays of nested ``inputs`` in the order of the model's inputs."""
        if not isinstance(inputs, dict):
            return flatten(inputs)
        keyed = isinstance(self._inputs_structure, dict)
        keys = list(self._inputs_structure) if keyed else self.input_names
        missing = [key for key in keys if key not in inputs]
        if missing:
            raise ValueError(f'The inputs of model "{self.name}" lack {missing}. Received: a dict with the keys {sorted(inputs)}')
        return flatten([inputs[key] for key in keys])

    def _fitted(self, x: np.ndarray, tensor: KerasTensor) -> np.ndarray:
        """``x`` with a last axis of 1 added or taken away where the input says so. ValueError for another rank or size."""
        expected = tensor.shape
        if x.ndim == len(expected) + 1 and x.shape[-1] == 1:
            x = x[..., 0]
        elif x.ndim == len(expected) - 1 and expected[-1] == 1:
            x = x[..., None]
        if x.ndim != len(expected) or any(n not in (None, m) for n, m in zip(expected[1:], x.shape[1:], strict=True)):
            raise ValueError(
                f'Invalid input shape for input "{tensor.name}" of model "{self.name}". Expected shape {expected}. '
                f"Received: an array of shape {x.shape}"
            )
        return x

    def __call__(self, inputs: Any, mask: Any = None, training: Any = None) -> Any:
        """Runs all layers. ``mask``: one for each input, nested as they are (None: no mask).

        ``training``: None leaves it to the layers that were called with ``training=True`` when the model was made.
        """
        if is_symbolic(inputs):
            return symbolic_call(self, inputs, mask=mask, training=training)
        place = self._elsewhere(inputs)
        if place is not None:
            return moved_call(self, place, inputs, mask=mask, training=training)

        def run(node: Node, inputs: Any, mask: Any, options: dict[str, Any]) -> Any:
            return node.layer(inputs, mask=mask, **_with_training(options, training))

        arrays = self._arrays(inputs)
        with OneCall(self):
            return self._result(self._graph.run(arrays, self._masks(mask), run))

    def _elsewhere(self, inputs: Any) -> str | None:
        """Where the call must be moved to, or None."""
        leaves = (
            inputs.arrays
            if isinstance(inputs, Samples)
            else flatten(list(inputs.values()) if isinstance(inputs, dict) else inputs)
        )
        return selector.elsewhere(leaves[0]) if leaves else None

    def call(self, x: Any, mask: Any = None, training: Any = None) -> Any:
        return self(x, mask=mask, training=training)

    def _samples(self, x: Any) -> Any:
        return self._as_input(x, "x")

    def _output_keys(self) -> tuple[list[str] | None, bool]:
        keyed = isinstance(self._outputs_structure, dict)
        names = list(self._outputs_structure) if keyed else self.output_names
        return (names if len(self.outputs) > 1 else None), keyed

    def _answers(self, y: Any, weight: Any) -> tuple[Any, Any]:
        """Samples of what each output should be, and of their weights; one array of weights counts for all outputs."""
        if len(self.outputs) == 1:
            return y, weight
        return self._of_outputs(y, "y"), self._of_outputs(weight, "sample_weight")

    def _of_outputs(self, given: Any, name: str) -> Any:
        """Lists in the order of the outputs, dicts by their names. ValueError for names that are missing."""
        if isinstance(given, dict):
            keys = self._output_keys()[0] or []
            missing = [key for key in keys if key not in given]
            if missing:
                raise ValueError(
                    f"The argument `{name}` lacks the outputs {missing}. Received: a dict with the keys {list(given)}"
                )
            return Samples([given[key] for key in keys])
        return Samples(list(given)) if isinstance(given, (list, tuple)) else given

    def _arrays(self, inputs: Any) -> list[np.ndarray]:
        given = self._as_input(inputs)
        return given.arrays if isinstance(given, Samples) else [given]

    def _masks(self, mask: Any) -> list[Any]:
        if mask is None:
            return [None] * len(self.inputs)
        masks = flatten(mask)
        if len(masks) != len(self.inputs):
            raise ValueError(f"The argument `mask` must hold one mask for each of {len(self.inputs)} inputs. Got {len(masks)}")
        return masks

    def _result(self, known: dict[int, tuple[Any, Any]]) -> Any:
        """What a call returns; its masks are kept."""
        found = [known[id(tensor)] for tensor in self.outputs]
        last_masks()[self] = self._nested([mask for _, mask in found])
        return packed(self._outputs_structure, [array for array, _ in found])

    def _nested(self, leaves: list[Any]) -> Any:
        """A list of what belongs to the outputs, or the one thing of one output that is no list."""
        return leaves[0] if isinstance(self._outputs_structure, KerasTensor) else leaves

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The masks that go on with the outputs. Runs only the layers before those that make a mask of what they get."""
        graph, arrays = self._graph, self._arrays(inputs)
        needed: set[int] = set()  # tensors whose values count
        for node in reversed(graph.nodes):
            makes_mask = isinstance(node.layer, (Masking, Embedding, Model)) or isinstance(node.inputs, (list, tuple, dict))
            if makes_mask or any(id(tensor) in needed for tensor in node.outputs):
                needed |= {id(tensor) for tensor in node.sources}

        def run(node: Node, inputs: Any, mask: Any, options: dict[str, Any]) -> Any:
            if not any(id(tensor) in needed for tensor in node.outputs):
                return [None] * len(node.outputs)
            return node.layer(inputs, mask=mask, **_with_training(options, False))

        known = graph.run(arrays, self._masks(mask), run, calls=False)
        return self._nested([known[id(tensor)][1] for tensor in self.outputs])

    # -- gradients --------------------------------------------------------------------------------------------------
    def vjp(self, inputs: Any, mask: Any = None, training: bool = True) -> tuple[Any, Pullback]:
        """``(outputs, pullback)``, see ``Layer.vjp``; ``dy`` and ``Gradients.inputs`` are nested as outputs and inputs are.

        A layer that is used twice gets the sum of its gradients.
        """
        place = self._elsewhere(inputs)
        if place is not None:
            return moved_vjp(self, place, inputs, mask=mask, training=training)
        ran: list[tuple[Node, Pullback]] = []

        def run(node: Node, inputs: Any, mask: Any, options: dict[str, Any]) -> Any:
            y, pullback = node.layer.vjp(inputs, mask=mask, **_with_training(options, training))
            ran.append((node, pullback))
            return y

        arrays = self._arrays(inputs)
        with OneCall(self):
            result = self._result(self._graph.run(arrays, self._masks(mask), run))
        forms, given = [Form.of(y) for y in flatten(result)], [Form.of(x) for x in arrays]
        answered, one = of_weights(self), isinstance(self._outputs_structure, KerasTensor)

        def pullback(dy: Any) -> Gradients:
            dys = cotangents(dy if one or dy is None else flatten(dy) if len(forms) > 1 else flatten(dy)[0], forms)
            slopes, weights = self._backward(ran, dys)
            dxs = [like(slopes.get(id(tensor)), form) for tensor, form in zip(self.inputs, given, strict=True)]
            return Gradients(packed(self._inputs_structure, dxs), None, answered(weights))

        return result, with_activity_losses(self, result, pullback)

    def _backward(self, ran: list[tuple[Node, Pullback]], dys: list[Any]) -> tuple[dict[int, np.ndarray], list[Any]]:
        """Gradients of all tensors by id, and of ``weights``, for cotangents of the outputs."""
        slopes: dict[int, Any] = {}
        sums: dict[int, Any] = {}

        def add(table: dict[int, Any], key: int, gradient: Any) -> None:
            if gradient is not None:
                table[key] = table[key] + gradient if key in table else gradient

        for tensor, dy in zip(self.outputs, dys, strict=True):
            add(slopes, id(tensor), dy)
        for node, pullback in reversed(ran):
            own = [slopes.get(id(tensor)) for tensor in node.outputs]
            answer = pullback(own[0] if isinstance(node.structure, KerasTensor) else tuple(own))
            tensors = flatten([node.inputs, node.options.get("initial_state") or []])
            gradients = flatten([answer.inputs, answer.initial_state or []])
            for tensor, gradient in zip(tensors, gradients, strict=True):
                if isinstance(tensor, KerasTensor):
                    add(slopes, id(tensor), gradient)
            for variable, gradient in zip(node.layer.weights, answer.weights, strict=True):
                add(sums, id(variable), gradient)
        return slopes, [sums.get(id(variable)) for variable in self.weights]

    # -- reports and config -----------------------------------------------------------------------------------------
    def _summary_columns(self) -> tuple[list | None, list[str] | None]:
        shapes, connected = [], []
        for layer in self._layers:
            nodes = [node for node in self._graph.all_nodes if node.layer is layer]
            shapes.append(
                [tensor.shape for tensor in nodes[0].outputs] if len(nodes[0].outputs) > 1 else nodes[0].outputs[0].shape
            )
            connected.append(", ".join(f"{t.node.layer.name}[{t.index}]" for node in nodes for t in node.sources))
        return shapes, connected

    def get_config(self) -> dict:
        """Name, trainable, the layers' dicts with their calls (``inbound_nodes``), ``input_layers`` and ``output_layers``."""
        return functional_config(self)

    @classmethod
    def from_config(cls, config: Any) -> Any:
        """A new model of ``get_config``'s dict, or of that of older versions. Fresh weights."""
        return read_functional(config, _made)


def _made(entry: Any) -> Layer:
    return operation_of(entry) if is_operation(entry) else deserialize(entry)


def _with_training(options: dict[str, Any], training: Any) -> dict[str, Any]:
    """The options of a call: as in Keras 3, what the whole model is told counts more than what the layer was told."""
    always = options.pop("always_training", False)
    fixed = options.pop("training", False)
    return {**options, "training": bool(always or (fixed if training is None else training))}


def _tensors(structure: Any, name: str) -> list[KerasTensor]:
    """The leaves. ValueError unless they are symbolic tensors, at least one."""
    leaves = flatten(structure)
    wrong = next((leaf for leaf in leaves if not isinstance(leaf, KerasTensor)), None)
    if wrong is not None or not leaves:
        got = "none" if wrong is None else type(wrong).__name__
        raise ValueError(
            f"The argument `{name}` of Model must be symbolic tensors, which `Input(…)` and layers return. Got {got}"
        )
    if name == "inputs" and len({id(leaf) for leaf in leaves}) < len(leaves):
        raise ValueError("The argument `inputs` of Model holds one tensor twice")
    return leaves


def _shapes(structure: Any) -> list[Any]:
    """The shapes in nested lists and dicts of shapes."""
    if isinstance(structure, dict):
        structure = list(structure.values())
    if is_several_shapes(structure):
        return [shape for part in structure for shape in _shapes(part)]
    return [structure]
