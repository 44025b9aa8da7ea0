"""Sequential: a stack of layers, each fed with the output (and the mask) of the one before (terms of ``keras.Sequential``).

In terms of ``layers``; made by callers and by ``models.saving``. A Sequential is itself a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import selector
from ..arrays import require_array
from ..layers import LAYERS, Embedding, InputLayer, Layer, Masking
from ..layers.activity import OneCall
from ..layers.base import shape_tuple
from ..layers.gradients import Pullback
from ..layers.moving import moved_call, moved_vjp
from ..layers.nest import flatten, is_several_shapes
from ..layers.symbolic import KerasTensor, input_tensor, is_symbolic, symbolic_call
from ..layers.wrapper import build_inner, inner_layer, serialize
from .base import Model, last_masks


class Sequential(Model):
    """A linear stack of layers.

    Args: ``layers``: an iterable of layers, the first may be an ``InputLayer`` or ``Input(…)``, which builds the model at once;
    without it the first call builds it. ``trainable``, ``name``.

    Call: ``model(x, mask=None, training=False)``. The mask that a Masking or Embedding layer makes goes on to the layers
    after it (keras-spec 6.6). ValueError for a layer that returns several arrays anywhere but at the end, and for two
    layers of one name.
    """

    def __init__(self, layers: Any = None, trainable: bool = True, name: str | None = None):
        super().__init__(trainable=trainable, name=name)
        self._stack: list[Layer] = []
        self._shapes: list[Any] = []  # output shape of each entry of the stack once built
        for layer in layers or []:
            self.add(layer, rebuild=False)
        self._rebuild()

    # -- the stack --------------------------------------------------------------------------------------------------
    @property
    def layers(self) -> list[Layer]:
        """The layers in order, without the InputLayer at the front."""
        return self._stack[1:] if self._stack and isinstance(self._stack[0], InputLayer) else self._stack[:]

    def add(self, layer: Layer, rebuild: bool = True) -> None:
        """Puts ``layer`` on top. With an InputLayer at the front the model is built at once, unless ``rebuild=False``.

        ValueError for what is no layer, for a name that is taken, for a second InputLayer, and for a layer that does not fit
        (the model is then as it was).
        """
        if isinstance(layer, KerasTensor) and isinstance(layer.node.layer, InputLayer):
            layer = layer.node.layer
        if not isinstance(layer, Layer):
            raise ValueError(
                f"Only layers can be added to a Sequential model. Received: {layer!r} (of type {type(layer).__name__})"
            )
        if any(other.name == layer.name and other is not layer for other in self._stack):
            raise ValueError(
                f"All layers of a Sequential model need names of their own. Received a second layer named {layer.name!r}"
            )
        if isinstance(layer, InputLayer) and self._stack:
            raise ValueError(
                f'An InputLayer must come first. Sequential model "{self.name}" already has layer "{self._stack[0].name}"'
            )
        before = self._stack, self._shapes, self.built
        hint = layer.input_shape_hint
        front = [InputLayer(batch_shape=hint, dtype=layer.compute_dtype)] if not self._stack and hint is not None else []
        self._set_stack([*self._stack, *front, layer])
        if rebuild:
            try:
                self._rebuild()
            except Exception:
                self._set_stack(before[0])
                self._shapes, self.built = before[1:]
                raise

    def pop(self, rebuild: bool = True) -> Layer:
        """Takes the last layer away and returns it. IndexError where there is none."""
        if not self.layers:
            raise IndexError(f'Sequential model "{self.name}" has no layer to pop')
        layer = self._stack[-1]
        self._set_stack(self._stack[:-1])
        if rebuild:
            self._rebuild()
        return layer

    def _set_stack(self, stack: list[Layer]) -> None:
        self._stack, self._shapes, self.built = stack, [], False
        self._ends: tuple[Any, Any] | None = None  # symbolic input and output, once somebody asked for them
        self._layers = list({id(layer): layer for layer in stack}.values())  # a layer used twice has its weights once

    def _rebuild(self) -> None:
        if len(self._stack) > 1 and isinstance(self._stack[0], InputLayer):
            self.build(self._stack[0].batch_shape)

    # -- build and shapes -------------------------------------------------------------------------------------------
    def build(self, input_shape: Any) -> None:
        """Builds every layer for inputs of ``input_shape`` (batch axis first). ValueError if the InputLayer has another shape."""
        shape = shape_tuple(input_shape)
        if not self._stack:
            raise ValueError(f'Sequential model "{self.name}" cannot be built: it has no layers')
        first = self._stack[0]
        if not isinstance(first, InputLayer):
            self._set_stack([InputLayer(batch_shape=shape, dtype=first.compute_dtype), *self._stack])
        elif first.batch_shape != shape:
            raise ValueError(
                f'Sequential model "{self.name}" has already been configured to use input shape {first.batch_shape}. '
                f"Received: input_shape={shape}"
            )
        if not self.built:
            self._shapes = self._walk(shape, build=True)
            self.built = True

    def _walk(self, shape: Any, build: bool = False) -> list[Any]:
        """Output shapes of all entries of the stack for an input shape."""
        shapes: list[Any] = []
        for layer in self._stack:
            if shapes and is_several_shapes(shapes[-1]):
                raise _several(self._stack[len(shapes) - 1])
            before = shapes[-1] if shapes else shape
            if build:
                build_inner(self, layer, before)
            after = layer.compute_output_shape(before)
            shapes.append([tuple(s) for s in after] if is_several_shapes(after) else tuple(after))
        return shapes

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self._walk(tuple(input_shape))[-1] if self._stack else tuple(input_shape)

    @property
    def input_shape(self) -> tuple:
        """Shape of the input, batch axis first. ValueError before the model is built."""
        if not self.built:
            raise ValueError(f'Sequential model "{self.name}" has no defined input shape yet')
        return self._stack[0].batch_shape  # type: ignore[attr-defined]

    @property
    def output_shape(self) -> Any:
        """Shape of the output, batch axis first. ValueError before the model is built."""
        if not self.built:
            raise ValueError(f'Sequential model "{self.name}" has no defined output shape yet')
        return self._shapes[-1]

    @property
    def input(self) -> Any:
        """The symbolic input; after it was asked for, the layers' ``output`` is known too. AttributeError before build."""
        return self._symbolic()[0]

    @property
    def output(self) -> Any:
        """The symbolic output. AttributeError before build."""
        return self._symbolic()[1]

    @property
    def inputs(self) -> list[Any]:
        """The symbolic input in a list, as of a functional model."""
        return flatten(self.input)

    @property
    def outputs(self) -> list[Any]:
        """The symbolic outputs in a list."""
        return flatten(self.output)

    def _symbolic(self) -> tuple[Any, Any]:
        if not self.built:
            raise AttributeError(f'Sequential model "{self.name}" has no symbolic input and output before it is built')
        if self._ends is None:
            start = end = input_tensor(self._stack[0])
            for layer in self.layers:
                end = layer(end)
            self._ends = start, end
        return self._ends

    @property
    def static_batch_size(self) -> int | None:
        """The batch size that a stateful model was built for, else None."""
        return self.input_shape[0] if self.built and self.stateful else None

    # -- call -------------------------------------------------------------------------------------------------------
    def _as_input(self, inputs: Any, name: str = "inputs") -> np.ndarray:
        """As it came: the first layer knows which dtype it wants."""
        return require_array(inputs, name)

    def __call__(self, inputs: Any, mask: Any = None, training: bool = False) -> Any:
        """Runs all layers. Returns the last one's output."""
        if is_symbolic(inputs):
            return symbolic_call(self, inputs, mask=mask, training=training)
        place = selector.elsewhere(inputs)
        if place is not None:
            return moved_call(self, place, inputs, mask=mask, training=training)
        x = self._as_input(inputs)
        if not self.built:
            # A later call may have another batch size, unless states are kept for every sample.
            self.build_once(x.shape if self.stateful else (None, *x.shape[1:]))
        return self.call(x, mask=mask, training=bool(training))

    def call(self, x: np.ndarray, mask: Any = None, training: bool = False) -> Any:
        return self._chain(x, mask, lambda layer, x, mask: layer(x, mask=mask, training=training))

    def _chain(self, x: np.ndarray, mask: Any, run: Callable[[Layer, np.ndarray, Any], Any]) -> Any:
        """``run(layer, x, mask)`` for one layer after the other. Returns the last one's output; its mask is kept."""
        x = self._fit_rank(x)
        layers = self.layers
        with OneCall(self):
            for index, layer in enumerate(layers, 1):
                y = run(layer, x, mask)
                if index < len(layers) and isinstance(y, (tuple, list)):
                    raise _several(layer)
                mask = layer.mask_after_call(x, mask)
                x = y
        last_masks()[self] = mask
        return x

    def vjp(self, inputs: Any, mask: Any = None, training: bool = True) -> tuple[Any, Pullback]:
        """``(outputs, pullback)`` of all layers; see ``Layer.vjp``. A layer used twice gets the sum of its gradients."""
        place = selector.elsewhere(inputs)
        if place is not None:
            return moved_vjp(self, place, inputs, mask=mask, training=training)
        x = self._as_input(inputs)
        if not self.built:
            self.build_once(x.shape if self.stateful else (None, *x.shape[1:]))
        return super().vjp(x, mask=mask, training=training)

    def _vjp(self, x: np.ndarray, mask: Any = None, training: bool = False) -> tuple[Any, Any]:
        pullbacks: list[tuple[Layer, Pullback]] = []

        def run(layer: Layer, x: np.ndarray, mask: Any) -> Any:
            y, pullback = layer.vjp(x, mask=mask, training=training)
            pullbacks.append((layer, pullback))
            return y

        shape = x.shape

        def pull(dy: Any) -> tuple[np.ndarray | None, list]:
            sums: dict[int, np.ndarray] = {}
            for layer, pullback in reversed(pullbacks):
                answer = pullback(dy)
                for variable, gradient in zip(layer.weights, answer.weights, strict=True):
                    if gradient is not None:
                        sums[id(variable)] = sums.get(id(variable), 0) + gradient
                dy = answer.inputs
            return None if dy is None else dy.reshape(shape), [sums.get(id(variable)) for variable in self.weights]

        return self._chain(x, mask, run), pull

    def _fit_rank(self, x: np.ndarray) -> np.ndarray:
        """``x`` with a last axis of 1 added or taken away where the input shape says so. ValueError for other ranks."""
        expected = self.input_shape
        if x.ndim == len(expected):
            return x
        if x.ndim == len(expected) + 1 and x.shape[-1] == 1:
            return x[..., 0]
        if x.ndim == len(expected) - 1 and expected[-1] == 1:
            return x[..., None]
        raise ValueError(
            f'Invalid input shape for model "{self.name}". Expected shape {expected}. Received: inputs.shape={x.shape}'
        )

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask that the last layer gives on. Runs only the layers before the last one that makes a mask of its values."""
        layers = self.layers
        # The masks of these depend on the values that come in, not only on the mask that comes in.
        last = max((k for k, layer in enumerate(layers) if isinstance(layer, (Masking, Embedding, Sequential))), default=-1)
        x = self._fit_rank(self._as_input(inputs)) if last >= 0 else None
        for k, layer in enumerate(layers):
            after = layer.compute_mask(x, mask)
            x = layer(x, mask=mask) if k < last else None
            mask = after
        return mask

    # -- reports and config -----------------------------------------------------------------------------------------
    def _summary_columns(self) -> tuple[list | None, list[str] | None]:
        return (self._shapes[len(self._stack) - len(self.layers) :] if self.built else None), None

    def get_config(self) -> dict:
        """Name, trainable, dtype, the layers' 4-key dicts (InputLayer included) and ``build_input_shape`` once built."""
        config: dict[str, Any] = {**super().get_config(), "layers": [serialize(layer) for layer in self._stack]}
        if self.built:
            config["build_input_shape"] = self.input_shape
        return config

    @classmethod
    def from_config(cls, config: Any) -> Any:
        """A new model of ``get_config``'s dict, or of the bare list of layers that old files have. Fresh weights."""
        if isinstance(config, list):
            config = {"layers": config}
        if not isinstance(config.get("layers"), list):
            raise ValueError(
                f"The config of a Sequential model must have a list of layers. Received: layers={config.get('layers')!r}"
            )
        model = cls([inner_layer(entry) for entry in config["layers"]], name=config.get("name"))
        if not model.built and config.get("build_input_shape") and model.layers:
            model.build(config["build_input_shape"])
        model._trainable = bool(config.get("trainable", True))  # the layers bring their own
        return model


def _several(layer: Layer) -> ValueError:
    return ValueError(
        f'The layer "{layer.name}" returns several arrays (such as return_state=True), which only the last layer of a Sequential '
        "model may do"
    )


LAYERS["Sequential"] = Sequential  # models stand above layers, so that the table cannot name it by itself
