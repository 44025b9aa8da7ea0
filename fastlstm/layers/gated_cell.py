"""GatedCell: what the cells of LSTM and ConvLSTM1D share: arguments, variables, bias initialisation, dropout, one step, config.

In terms of ``selector`` and the backends' verbs. A cell holds the variables and says what a layer's spec is; ``recurrent`` runs
whole sequences of it. Source: keras-spec 1 to 4 and 8.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from .. import _core, activations, constraints, devices, initializers, regularizers, selector
from ..arrays import cast, check_rank, require_array
from ..backends.reference import DropoutMasks
from ..random import SeedGenerator, dropout_mask
from ..spec import RecurrentSpec, check_weight_sizes, clip_rate
from .base import Layer
from .gradients import Form, Gradients, Pullback, cotangents, like, of_weights
from .moving import moved_call, moved_vjp
from .recurrent import check_states, state_gradients
from .sequence_layer import check_axes

FLOAT_POLICIES = ("float32", "float64", "float16", "bfloat16")

# Constructor arguments that both cells have, in Keras' order; a layer forwards them as attributes.
SHARED_ARGUMENTS = (
    "activation",
    "recurrent_activation",
    "use_bias",
    "kernel_initializer",
    "recurrent_initializer",
    "bias_initializer",
    "unit_forget_bias",
    "kernel_regularizer",
    "recurrent_regularizer",
    "bias_regularizer",
    "kernel_constraint",
    "recurrent_constraint",
    "bias_constraint",
    "dropout",
    "recurrent_dropout",
    "seed",
)


class GatedCell(Layer):
    """What the cells of LSTM and ConvLSTM1D share: arguments, variables, bias initialisation, config."""

    arguments: tuple[str, ...] = ()  # constructor arguments in Keras' order
    verb = "lstm_forward"  # the backends' verb that runs a sequence of this cell
    ndim = 2  # axes of a step's input
    runs_on_gpu = True

    def __init__(self, arguments: dict[str, Any], /, **kwargs: Any):
        super().__init__(**kwargs)
        self.activation = activations.get(arguments["activation"])
        self.recurrent_activation = activations.get(arguments["recurrent_activation"])
        self.use_bias, self.unit_forget_bias = arguments["use_bias"], arguments["unit_forget_bias"]
        for part in ("kernel", "recurrent", "bias"):
            setattr(self, f"{part}_initializer", initializers.get(arguments[f"{part}_initializer"]))
            setattr(self, f"{part}_regularizer", regularizers.get(arguments[f"{part}_regularizer"]))
            setattr(self, f"{part}_constraint", constraints.get(arguments[f"{part}_constraint"]))
        self.dropout = clip_rate(arguments["dropout"], "dropout")
        self.recurrent_dropout = clip_rate(arguments["recurrent_dropout"], "recurrent_dropout")
        self.seed = arguments["seed"]
        self.seed_generator = SeedGenerator(self.seed)
        self.path = self.name
        # The split-gate step, which recurrent dropout forces, has four separate input masks (keras-spec 8).
        self.dropout_count = 4
        self._prepared: tuple[Any, ...] | None = None
        self._step_masks: tuple[tuple, DropoutMasks | None] | None = None

    kernel: Any
    recurrent_kernel: Any
    bias: Any
    kernel_initializer: Any
    recurrent_initializer: Any
    bias_initializer: Any

    changes: _core.Counter
    revision = property(lambda self: self.changes.value, doc="An int that grows whenever an attribute of the cell is set.")

    def _add_weights(self, shapes: tuple[tuple, tuple, tuple], size: int) -> None:
        """kernel, recurrent_kernel and bias of the given shapes; ``size`` numbers make one gate's block of the bias."""
        if self.compute_dtype not in FLOAT_POLICIES:
            raise ValueError(
                f'Layer "{self.name}" cannot be built with the argument `dtype`={self.dtype_policy.name!r}: expected one of '
                f"{FLOAT_POLICIES}, 'mixed_float16' or 'mixed_bfloat16'"
            )
        check_weight_sizes(shapes, size, self.arguments[0])
        self._variables = []
        for part, name, shape in zip(("kernel", "recurrent"), ("kernel", "recurrent_kernel"), shapes, strict=False):
            variable = self._add_part(part, name, shape, getattr(self, f"{part}_initializer"))
            setattr(self, name, variable)
        self.bias = self._add_part("bias", "bias", shapes[2], self._bias_values(size)) if self.use_bias else None

    def _add_part(self, part: str, name: str, shape: tuple, initializer: Any) -> Any:
        regularizer, constraint = getattr(self, f"{part}_regularizer"), getattr(self, f"{part}_constraint")
        path = f"{self.path}/{name}"
        return self.add_weight(shape, initializer, name, path=path, regularizer=regularizer, constraint=constraint)

    def _bias_values(self, size: int) -> Any:
        """The bias initializer; with unit_forget_bias the forget block is exactly 1 (keras-spec 1.4)."""
        initializer = self.bias_initializer
        if not self.unit_forget_bias:
            return initializer
        if initializer is None:
            raise TypeError("The argument `bias_initializer` is None, which cannot be called with unit_forget_bias=True")

        def blocks(shape: tuple, dtype: Any = None) -> np.ndarray:
            first, rest = initializer((size,), dtype=dtype), initializer((2 * size,), dtype=dtype)
            return np.concatenate([first, np.ones(size, dtype), rest])

        return blocks

    def __setattr__(self, name: str, value: Any) -> None:
        # A layer around the cell keeps a ready-made plan of its calls, good for one revision of the cell's attributes.
        object.__setattr__(self, name, value)
        if name == "_variables" or not name.startswith("_"):
            self.__dict__.setdefault("changes", _core.Counter()).add()

    def prepared_weights(self, backend: Any, place: str = "cpu") -> Any:
        """The weights as they are now, prepared by ``backend`` and kept until a variable changes; no later write reaches them.

        ``place``: where the arrays of the call live.
        """
        variables = self.weights
        key = (backend.name, place, *(v.version for v in variables))
        prepared = self._prepared
        if prepared is None or prepared[0] != key:
            last = None if prepared is None or prepared[0][:2] != key[:2] else prepared[1]
            prepared = (key, backend.prepare([self.weight_value(v, place) for v in variables], last))
            self._prepared = prepared
        return prepared[1]

    @property
    def backward_verb(self) -> str:
        """The backends' verb for the gradients of ``verb``."""
        return self.verb.replace("_forward", "_backward")

    def draw_dropout(self, input_shape: tuple, training: bool, place: str = "cpu") -> DropoutMasks | None:
        """The masks of one call for a step's input [N,D], or None; the counter advances in inference too (keras-spec 8).

        They are drawn on the host, so that a seed gives the same ones everywhere, and moved to the device for a call there.
        """
        if not (self.dropout > 0 or self.recurrent_dropout > 0):
            return None
        inputs = self.dropout_count if self.dropout > 0 else 0
        recurrent = 4 if self.recurrent_dropout > 0 else 0
        if not training:
            self.seed_generator.skip(inputs + recurrent)
            return None
        shapes, rates = (input_shape, self.state_shape(input_shape[0])), (self.dropout, self.recurrent_dropout)
        drawn = [
            [dropout_mask(self.seed_generator, shape, rate, self.arithmetic_dtype) for _ in range(count)]
            for shape, rate, count in zip(shapes, rates, (inputs, recurrent), strict=True)
        ]
        # A rate of 1 drops nothing in Keras' cells, though its masks are drawn (keras-spec 14 row 5).
        kept = [masks if rate < 1 else [] for masks, rate in zip(drawn, rates, strict=True)]
        return DropoutMasks(*(devices.moved(kept, place) if place == "gpu" else kept))

    def state_shape(self, batch: int) -> tuple[int, ...]:
        """Shape of h and of c for a batch size."""
        raise NotImplementedError

    def input_axes(self) -> dict[int, int]:
        """Sizes that axes of a step's input must have, once the cell is built."""
        raise NotImplementedError

    def make_spec(self, **flags: Any) -> RecurrentSpec:
        """The spec of this cell inside a layer with the given flags."""
        raise NotImplementedError

    def _spec_arguments(self) -> dict[str, Any]:
        """What the specs of both cells take from it."""
        return {
            "activation": self.activation,
            "recurrent_activation": self.recurrent_activation,
            "use_bias": bool(self.use_bias),
            "dropout": float(self.dropout),
            "recurrent_dropout": float(self.recurrent_dropout),
            "dropout_masks": self.dropout_count,
        }

    def __getstate__(self) -> dict:
        # Packed weights are derived data: a copy or a pickle makes its own.
        return {**self.__dict__, "_prepared": None}

    def _config_of(self, names: tuple[str, ...]) -> dict:
        config: dict[str, Any] = {}
        for name in names:
            value = getattr(self, name)
            if name.endswith("activation"):
                value = activations.serialize(value)
            elif name.endswith("_initializer"):
                value = initializers.serialize(value)
            elif name.endswith("_regularizer"):
                value = regularizers.serialize(value)
            elif name.endswith("_constraint"):
                value = constraints.serialize(value)
            config[name] = value
        return config

    def get_config(self) -> dict:
        return {**super().get_config(), **self._config_of(self.arguments)}

    def get_initial_state(self, batch_size: int | None = None) -> list[np.ndarray]:
        """Two arrays of zeros, h and c, of the compute dtype; ``batch_size`` None: for one sample."""
        return [np.zeros(self.state_shape(1 if batch_size is None else batch_size), self.storage_dtype) for _ in range(2)]

    def __call__(self, inputs: Any, states: Any, training: bool = False) -> tuple[np.ndarray, list[np.ndarray]]:  # type: ignore[override]
        """One step. Returns ``(h, [h, c])``. In training, one draw of dropout masks serves until ``reset_dropout_mask``."""
        place = selector.elsewhere(inputs)
        if place is not None:
            return moved_call(self, place, inputs, states=states, training=training)
        x, h, c, masks = self._arguments(inputs, states, training)
        spec = self.make_spec(storage=self.compute_dtype)
        backend = selector.select(spec, x, training=masks is not None).module
        dropout = {"dropout": masks} if masks else {}
        _, h, c = getattr(backend, self.verb)(spec, self.prepared_weights(backend, devices.home(x)), x, h, c, **dropout)
        h, c = (devices.as_array(a, self.storage_dtype) for a in (h, c))
        return h, [h, c]

    def _arguments(self, inputs: Any, states: Any, training: bool) -> tuple:
        """The arguments of a step, checked: x [N,1,…], h and c in the arithmetic dtype, dropout masks or None."""
        x = require_array(inputs, "inputs")
        check_rank(x, self.ndim, self.name)
        if not self.built:
            self.build_once(x.shape)
        check_axes(x.shape, self.input_axes(), self.name)
        h, c = check_states(states, "states", self.state_shape(len(x)), self.storage_dtype, self.arithmetic_dtype)
        for state in (h, c):
            devices.check_home(state, x, "states", "inputs")
        masks = self._masks_of_step(x.shape, bool(training), devices.home(x))
        return cast(cast(x, self.storage_dtype), self.arithmetic_dtype)[:, None], h, c, masks

    def vjp(self, inputs: Any, states: Any, training: bool = True) -> tuple[Any, Pullback]:  # type: ignore[override]
        """One step as ``((h, [h, c]), pullback)``; ``pullback(dy)`` returns Gradients with ``initial_state`` = [dh, dc].

        ``dy``: nested as the outputs are, ``(dh, [dh, dc])``, or the three in one tuple; the two of h add up; None where there is
        no gradient. Errors as in ``RecurrentLayer.vjp``.
        """
        place = selector.elsewhere(inputs)
        if place is not None:
            return moved_vjp(self, place, inputs, states=states, training=training)
        inputs = devices.adopt(inputs)
        x, h, c, masks = self._arguments(inputs, states, training)
        spec = self.make_spec(storage=self.compute_dtype)
        backend = selector.select(spec, x, training=masks is not None, gradient=True).module
        weights, dropout = self.prepared_weights(backend, devices.home(x)), {"dropout": masks} if masks else {}
        backward = getattr(backend, self.backward_verb)
        _, h, c, tape = getattr(backend, self.verb)(spec, weights, x, h, c, record=True, **dropout)
        h, c = (devices.as_array(a, self.storage_dtype) for a in (h, c))
        x_form, form, answered = Form.of(require_array(inputs, "inputs")), Form.of(h), of_weights(self)
        given = [Form.of(require_array(state, "states")) for state in states]

        def pullback(dy: Any) -> Gradients:
            dys = cotangents(_flat(dy), [form, form, form])
            dx, dh, dc, dweights = backward(spec, weights, tape, *dys)
            return Gradients(like(dx[:, 0], x_form), state_gradients([dh, dc], given), answered(dweights))

        return (h, [h, c]), pullback

    def _masks_of_step(self, shape: tuple, training: bool, place: str) -> DropoutMasks | None:
        """The dropout masks of a cell that its user steps by hand: drawn at the first step, as in Keras also in inference."""
        kept = self._step_masks
        if kept is None or kept[0] != shape:
            kept = self._step_masks = (shape, self.draw_dropout(shape, training=True))
        masks = kept[1] if training else None
        return masks if place == "cpu" else devices.moved(masks, place)

    def reset_dropout_mask(self) -> None:
        """Makes the next step draw new dropout masks: call it before each new sequence."""
        self._step_masks = None

    reset_recurrent_dropout_mask = reset_dropout_mask


def _flat(dy: Any) -> Any:
    """(dh, [dh, dc]) as (dh, dh, dc); anything else as it is."""
    if not isinstance(dy, (tuple, list)) or len(dy) != 2:
        return dy
    output, states = dy
    if states is None:
        states = (None, None)
    return (output, *states) if isinstance(states, (tuple, list)) else dy


def forward_to_cell(layer: type, names: tuple[str, ...]) -> None:
    """Makes the cell's attributes readable on the layer class, as in Keras."""
    for name in (*names, "kernel", "recurrent_kernel", "bias"):
        setattr(layer, name, property(operator.attrgetter(f"cell.{name}"), doc=f"`{name}` of the cell."))


def layer_config(layer: Any, base: dict) -> dict:
    """Keras' config of a layer around a cell: ``base``, the flags, the cell's arguments with activity_regularizer among them."""
    flags = ("return_sequences", "return_state", "go_backwards", "stateful", "unroll", "zero_output_for_mask")
    config = {**base, **{name: getattr(layer, name) for name in flags}}
    for name, value in layer.cell._config_of(layer.cell.arguments).items():
        config[name] = value
        if name == "bias_regularizer":
            config["activity_regularizer"] = regularizers.serialize(layer.activity_regularizer)
    return config
