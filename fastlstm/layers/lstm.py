"""LSTM and LSTMCell: Keras' own two classes, argument for argument (keras-spec 1 to 3).

The cell holds the variables and the constructor's arguments; LSTM adds the flags of a sequence and forwards the cell's
attributes. All calculation happens in ``backends``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import activations, constraints, initializers, regularizers, selector
from ..arrays import cast, check_rank, require_array
from ..backends.reference import DropoutMasks
from ..random import SeedGenerator, dropout_mask
from ..spec import RecurrentSpec, as_count, check_units, check_weight_sizes, clip_rate, output_shape, weight_shapes
from .base import Layer
from .recurrent import RecurrentLayer, check_states

FLOAT_POLICIES = ("float32", "float64", "float16", "bfloat16")

# Constructor arguments of the cell in Keras' order; LSTM forwards them as attributes.
CELL_ARGUMENTS = (
    "units",
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

    arguments: tuple[str, ...] = CELL_ARGUMENTS

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

    kernel: Any
    recurrent_kernel: Any
    bias: Any
    kernel_initializer: Any
    recurrent_initializer: Any
    bias_initializer: Any

    def _add_weights(self, shapes: tuple[tuple, tuple, tuple], size: int) -> None:
        """kernel, recurrent_kernel and bias of the given shapes; ``size`` numbers make one gate's block of the bias."""
        if self.compute_dtype not in FLOAT_POLICIES:
            raise ValueError(
                f'Layer "{self.name}" cannot be built with the argument `dtype`={self.dtype_policy.name!r}: expected one of '
                f"{FLOAT_POLICIES}, 'mixed_float16' or 'mixed_bfloat16'"
            )
        check_weight_sizes(shapes, size)
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
        # The layer around the cell keeps a ready-made plan of its calls, which holds what the attributes said.
        object.__setattr__(self, name, value)
        listener = self.__dict__.get("on_change")
        if listener is not None and (name == "_variables" or not name.startswith("_")):
            listener()

    def prepared_weights(self, backend: Any) -> Any:
        """The weights as ``backend`` prepared them, kept until a variable changes."""
        variables = self.weights
        key = (backend.name, *(v.version for v in variables))
        prepared = self._prepared
        if prepared is None or prepared[0] != key:
            prepared = (key, backend.prepare([self.weight_value(v) for v in variables]))
            self._prepared = prepared
        return prepared[1]

    def draw_dropout(self, input_shape: tuple, training: bool) -> DropoutMasks | None:
        """The masks of one call for a step's input [N,D], or None; the counter advances in inference too (keras-spec 8)."""
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
        return DropoutMasks(*[masks if rate < 1 else [] for masks, rate in zip(drawn, rates, strict=True)])

    def state_shape(self, batch: int) -> tuple[int, ...]:
        """Shape of h and of c for a batch size."""
        raise NotImplementedError

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


class LSTMCell(GatedCell):
    """One step of an LSTM: ``h, [h, c] = cell(inputs, states)`` with inputs [N,D], states [h, c] of [N,U].

    Arguments as in Keras (keras-spec 3). ValueError for units <= 0, unknown names and unknown keywords; TypeError for rates
    that are no numbers.
    """

    def __init__(
        self,
        units: Any,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: Any = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        unit_forget_bias: Any = True,
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: Any = 0.0,
        recurrent_dropout: Any = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        arguments = {name: value for name, value in locals().items() if name in CELL_ARGUMENTS}
        implementation = kwargs.pop("implementation", 2)
        self.units = check_units(units)
        super().__init__(arguments, **kwargs)
        self.implementation = 1 if self.recurrent_dropout != 0 else implementation
        self.dropout_count = 4 if self.implementation == 1 else 1
        self._step_masks: tuple[tuple, DropoutMasks | None] | None = None

    @property
    def state_size(self) -> list[int]:
        return [self.units, self.units]

    @property
    def output_size(self) -> int:
        return self.units

    def make_spec(self, **flags: Any) -> RecurrentSpec:
        """The spec of this cell inside a layer with the given flags."""
        return RecurrentSpec(
            units=as_count(self.units, "units"),
            activation=self.activation,
            recurrent_activation=self.recurrent_activation,
            use_bias=bool(self.use_bias),
            dropout=float(self.dropout),
            recurrent_dropout=float(self.recurrent_dropout),
            **flags,
        )

    def _build(self, input_shape: Any) -> None:
        """``input_shape``: (N, D)."""
        features = input_shape[-1]
        if features is None:
            raise ValueError(
                f'The feature axis of the input of layer "{self.name}" must be known. Received: input_shape={input_shape}'
            )
        units = as_count(self.units, "units")
        self._add_weights(weight_shapes(features, units), units)

    def state_shape(self, batch: int) -> tuple[int, int]:
        """Shape of h and of c: (N, U)."""
        return batch, int(self.units)

    def get_initial_state(self, batch_size: int | None = None) -> list[np.ndarray]:
        """Two arrays of zeros [N,U] of the compute dtype."""
        return [np.zeros(self.state_shape(batch_size or 1), self.storage_dtype) for _ in range(2)]

    def __call__(self, inputs: Any, states: Any, training: bool = False) -> tuple[np.ndarray, list[np.ndarray]]:  # type: ignore[override]
        """One step. Returns ``(h, [h, c])``. In training, one draw of dropout masks serves until ``reset_dropout_mask``."""
        x = require_array(inputs, "inputs")
        check_rank(x, 2, self.name)
        if not self.built:
            self.build_once(x.shape)
        if x.shape[1] != self.kernel.shape[0]:
            raise ValueError(
                f'Input 0 of layer "{self.name}" is incompatible with the layer: expected axis 1 of input shape to have value '
                f"{self.kernel.shape[0]}, but received input with shape {x.shape}"
            )
        h, c = check_states(states, "states", self.state_shape(len(x)), self.storage_dtype, self.arithmetic_dtype)
        spec = self.make_spec(storage=self.compute_dtype)
        masks = self._masks_of_step(x.shape, bool(training))
        backend = selector.select(spec, x, training=masks is not None).module
        x = cast(cast(x, self.storage_dtype), self.arithmetic_dtype)
        dropout = {"dropout": masks} if masks else {}
        _, h, c = backend.lstm_forward(spec, self.prepared_weights(backend), x[:, None], h, c, **dropout)
        h, c = (np.asarray(a, dtype=self.storage_dtype) for a in (h, c))
        return h, [h, c]

    def _masks_of_step(self, shape: tuple, training: bool) -> DropoutMasks | None:
        """The dropout masks of a cell that its user steps by hand: drawn at the first step, as in Keras also in inference."""
        kept = self._step_masks
        if kept is None or kept[0] != shape:
            kept = self._step_masks = (shape, self.draw_dropout(shape, training=True))
        return kept[1] if training else None

    def reset_dropout_mask(self) -> None:
        """Makes the next step draw new dropout masks: call it before each new sequence."""
        self._step_masks = None

    reset_recurrent_dropout_mask = reset_dropout_mask


class LSTM(RecurrentLayer):
    """Long short-term memory over a sequence (Hochreiter and Schmidhuber 1997), as ``keras.layers.LSTM``.

    Call: ``layer(sequences, initial_state=None, mask=None, training=False)`` with sequences [N,T,D] gives [N,U], or [N,T,U]
    with ``return_sequences``; with ``return_state`` the tuple (output, h, c). Gates in order i, f, c, o:
    ``z = x @ kernel + h @ recurrent_kernel + bias``; ``c = f*c + i*act(z_c)``; ``h = o*act(c)``.

    Arguments: the whole signature of Keras 3, same order and defaults, and the keywords ``zero_output_for_mask``,
    ``implementation``, ``name``, ``dtype`` ("float32", "float64", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16"),
    ``trainable``, ``input_shape``. Weights: kernel [D,4U], recurrent_kernel [U,4U], bias [4U].
    ValueError for units <= 0, an unknown name or keyword, a seed that is not an int.
    """

    def __init__(
        self,
        units: Any,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: Any = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        unit_forget_bias: Any = True,
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: Any = 0.0,
        recurrent_dropout: Any = 0.0,
        seed: int | None = None,
        return_sequences: Any = False,
        return_state: Any = False,
        go_backwards: Any = False,
        stateful: Any = False,
        unroll: Any = False,
        use_cudnn: Any = "auto",
        **kwargs: Any,
    ):
        arguments = locals()
        cell_arguments = {name: arguments[name] for name in CELL_ARGUMENTS}
        cell = LSTMCell(
            **cell_arguments,
            dtype=kwargs.get("dtype"),
            trainable=kwargs.get("trainable", True),
            name="lstm_cell",
            implementation=kwargs.pop("implementation", 2),
        )
        flags = {name: arguments[name] for name in ("return_sequences", "return_state", "go_backwards", "stateful", "unroll")}
        flags["zero_output_for_mask"] = kwargs.pop("zero_output_for_mask", False)
        super().__init__(cell, flags, use_cudnn, activity_regularizer=activity_regularizer, **kwargs)

    units: int  # forwarded from the cell, as are its other arguments (below)

    @property
    def state_size(self) -> list[int]:
        return self.cell.state_size

    @property
    def implementation(self) -> Any:
        return self.cell.implementation

    def compute_output_shape(self, input_shape: Any) -> Any:
        """[N,T,U] or [N,U]; with return_state a list of the output's and both states' shapes."""
        shape = output_shape(self.spec, input_shape[0], input_shape[1])
        state = (input_shape[0], self.units)
        return [shape, state, state] if self.return_state else shape

    def get_config(self) -> dict:
        flags = ("return_sequences", "return_state", "go_backwards", "stateful", "unroll", "zero_output_for_mask")
        config = {**super().get_config(), **{name: getattr(self, name) for name in flags}}
        cell = self.cell._config_of(CELL_ARGUMENTS)
        for name in CELL_ARGUMENTS:
            config[name] = cell[name]
            if name == "bias_regularizer":
                config["activity_regularizer"] = regularizers.serialize(self.activity_regularizer)
        return config


def _forward(name: str) -> property:
    return property(lambda self: getattr(self.cell, name), doc=f"`{name}` of the cell.")


for _name in (*CELL_ARGUMENTS, "kernel", "recurrent_kernel", "bias"):
    setattr(LSTM, _name, _forward(_name))
