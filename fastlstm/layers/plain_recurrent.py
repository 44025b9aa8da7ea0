"""GRU and SimpleRNN: sequences of a cell with one state, in plain NumPy (terms of ``keras.layers``; keras-spec 5 to 8).

In terms of ``plain_cells`` and ``sequence_layer``; masks, states, ``go_backwards`` and outputs are those of LSTM. They are here
so that models which hold them can be opened and trained; no kernel is compiled for them.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from .. import regularizers
from ..arrays import as_mask, cast, require_array
from ..spec import check_use_cudnn
from .gradients import Form, Gradients, Pullback, cotangents, like, of_weights, with_activity_losses
from .plain_cells import GRU_ARGUMENTS, SIMPLE_ARGUMENTS, GRUCell, Masks, SimpleRNNCell
from .recurrent import state_gradients
from .sequence_layer import FLAGS, SequenceLayer, check_rank_of_shape
from .symbolic import is_symbolic, symbolic_call


class PlainRecurrent(SequenceLayer):
    """Base of GRU and SimpleRNN. Call: ``layer(sequences, initial_state=None, mask=None, training=False)``: x [N,T,D] gives
    [N,U], or [N,T,U] with ``return_sequences``; with ``return_state`` the tuple (output, h)."""

    state_names = "h"
    units: int

    @property
    def state_size(self) -> int:
        return self.cell.state_size

    # -- call -----------------------------------------------------------------------------------------------------
    def __call__(self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False) -> Any:  # type: ignore[override]
        """Runs the whole sequence; arguments and errors as of LSTM, ``initial_state``: [h], or h alone."""
        if is_symbolic(sequences):
            return symbolic_call(self, sequences, initial_state=initial_state, mask=mask, training=training)
        x, valid, h, masks = self._arguments(sequences, initial_state, mask, training)
        y, h, _ = self._forward(self.cell.values(), x, valid, h, masks)
        result = self._result(y, h)
        self._record_activity(result)
        return result

    def _arguments(self, sequences: Any, initial_state: Any, mask: Any, training: bool) -> tuple:
        """x [N,T,D], mask [N,T] or None, h [N,U], dropout masks; in the arithmetic dtype. Builds the layer."""
        x = self._as_sequences(sequences)
        if not self.built:
            self.build_once(x.shape)
        valid = as_mask(mask, x.shape[0], x.shape[1])
        masks = self.cell.draw_masks(len(x), x.shape[2]) if training else Masks(None, None)
        return cast(x, self.arithmetic_dtype), valid, self._start_state(initial_state, len(x)), masks

    def _arithmetic(self, x: np.ndarray) -> np.ndarray:
        return cast(cast(x, self.storage_dtype), self.arithmetic_dtype)

    def _start_state(self, initial_state: Any, batch: int) -> np.ndarray:
        shape = (batch, int(self.units))
        if initial_state is None:
            return np.zeros(shape, self.arithmetic_dtype) if self.states is None else self._arithmetic(self.states[0].value)
        listed = initial_state if isinstance(initial_state, (list, tuple)) else [initial_state]
        if len(listed) != 1:
            raise ValueError(f"The argument `initial_state` must be a list of one array [h]. Received: a list of {len(listed)}")
        h = require_array(listed[0], "initial_state[0]")
        if h.ndim != 2 or h.shape[1] != shape[1] or h.shape[0] not in (1, batch):
            raise ValueError(f"The argument `initial_state` must hold an array of shape {shape}. Received: h.shape={h.shape}")
        return np.broadcast_to(self._arithmetic(h), shape).copy()

    def _order(self, steps: int) -> range:
        return range(steps - 1, -1, -1) if self.go_backwards else range(steps)

    def _forward(self, values: Any, x: np.ndarray, valid: Any, h: np.ndarray, masks: Masks) -> tuple:
        """All steps: outputs, the final h, and the tape (what each step saved, and its column of the mask)."""
        outputs, tape, output = [], [], np.zeros_like(h)
        with np.errstate(all="ignore"):
            for t in self._order(x.shape[1]):
                column = None if valid is None else valid[:, t, None]
                new, saved = self.cell.forward(values, x[:, t], h, masks)
                new = self._arithmetic(new)
                if column is None:
                    output = h = new
                else:
                    kept = np.zeros_like(h) if self.zero_output_for_mask else output
                    output, h = np.where(column, new, kept), np.where(column, new, h)
                tape.append((saved, column))
                outputs.append(output)
        return (np.stack(outputs, axis=1) if self.return_sequences else output), h, tape

    def _result(self, y: np.ndarray, h: np.ndarray) -> Any:
        outputs = [np.array(a, dtype=self.storage_dtype) for a in (y, h)]
        for state in self.states or []:
            state.assign(outputs[1])
        return tuple(outputs) if self.return_state else outputs[0]

    # -- gradients ------------------------------------------------------------------------------------------------
    def vjp(self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = True) -> tuple[Any, Pullback]:  # type: ignore[override]
        """``(outputs, pullback)`` as of LSTM; ``Gradients.initial_state`` is [dh] for a given ``initial_state``."""
        x, valid, h, masks = self._arguments(sequences, initial_state, mask, training)
        values = [None if value is None else value.copy() for value in self.cell.values()]
        y, last, tape = self._forward(values, x.copy(), valid, h, masks)
        result = self._result(y, last)
        self._record_activity(result)
        forms = [Form.of(a) for a in (result if self.return_state else (result,))]
        x_form, answered = Form.of(np.asarray(sequences)), of_weights(self)
        given = None
        if initial_state is not None:
            alone = initial_state[0] if isinstance(initial_state, (list, tuple)) else initial_state
            given = [Form.of(np.asarray(alone))]

        def pullback(dy: Any) -> Gradients:
            dy, dh = [*cotangents(dy, forms), None][:2]
            dx, dh, dweights = self._backward(values, tape, dy, dh, masks)
            states = None if given is None else state_gradients([dh], given)
            return Gradients(like(dx, x_form), states, answered(dweights))

        return result, with_activity_losses(self, result, pullback)

    def _backward(self, values: Any, tape: list, dy: Any, dh: Any, masks: Masks) -> tuple[np.ndarray, np.ndarray, list]:
        """From the last step to the first; where an output was repeated or 0, its cotangent goes there (keras-spec 6.2, 6.4)."""
        zeros = np.zeros((tape[0][0][1].shape[0], int(self.units)), self.arithmetic_dtype)
        dh = zeros if dh is None else dh
        doutput = zeros if dy is None or self.return_sequences else dy
        sums: list[np.ndarray] = [np.zeros_like(value) for value in values if value is not None]
        dxs = []
        with np.errstate(all="ignore"):
            for position in range(len(tape) - 1, -1, -1):
                saved, column = tape[position]
                if self.return_sequences and dy is not None:
                    doutput = doutput + dy[:, position]
                dnew = doutput + dh if column is None else np.where(column, doutput + dh, 0)
                dx, before, gradients = self.cell.backward(values, _cleared(saved, column), dnew, masks)
                if column is not None:
                    dx, before = np.where(column, dx, 0), np.where(column, before, dh)
                dxs.append(dx)
                dh = before
                repeated = column is not None and not self.zero_output_for_mask
                doutput = np.where(column, 0, doutput) if repeated else zeros
                for total, gradient in zip(sums, gradients, strict=True):
                    total += gradient
        return np.stack(dxs if self.go_backwards else dxs[::-1], axis=1), dh, sums

    # -- shapes, masks, config ------------------------------------------------------------------------------------
    def compute_output_shape(self, input_shape: Any) -> Any:
        """[N,T,U] or [N,U]; with return_state a list of the output's and the state's shape. ValueError for a wrong rank."""
        check_rank_of_shape(input_shape, 3, self.name)
        state = (input_shape[0], self.units)
        shape = (*input_shape[:2], self.units) if self.return_sequences else state
        return [shape, state] if self.return_state else shape

    def get_config(self) -> dict:
        config = {**super().get_config(), **{flag: getattr(self, flag) for flag in FLAGS}}
        for name, value in self.cell._config_of(self.cell.arguments).items():
            config[name] = value
            if name == "bias_regularizer":
                config["activity_regularizer"] = regularizers.serialize(self.activity_regularizer)
        return config


def _cleared(saved: Any, column: np.ndarray | None) -> Any:
    """What a step saved, 0 where it does not count: NaN there must not reach the gradients."""
    if column is None:
        return saved
    clear = lambda a: np.where(column, a, 0) if isinstance(a, np.ndarray) else a  # noqa: E731
    return tuple([clear(b) for b in a] if isinstance(a, list) else clear(a) for a in saved)


def _flags(arguments: dict[str, Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    flags = {name: arguments[name] for name in ("return_sequences", "return_state", "go_backwards", "stateful", "unroll")}
    return {**flags, "zero_output_for_mask": kwargs.pop("zero_output_for_mask", False)}


def _cell_options(kwargs: dict[str, Any], name: str) -> dict[str, Any]:
    return {"dtype": kwargs.get("dtype"), "trainable": kwargs.get("trainable", True), "name": name}


class SimpleRNN(PlainRecurrent):
    """Fully connected recurrence, as ``keras.layers.SimpleRNN``: the whole signature, same order and defaults.

    Weights: kernel [D,U], recurrent_kernel [U,U], bias [U]. ValueError for units <= 0 and unknown names and keywords.
    """

    def __init__(
        self,
        units: Any,
        activation: Any = "tanh",
        use_bias: Any = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: Any = 0.0,
        recurrent_dropout: Any = 0.0,
        return_sequences: Any = False,
        return_state: Any = False,
        go_backwards: Any = False,
        stateful: Any = False,
        unroll: Any = False,
        seed: int | None = None,
        **kwargs: Any,
    ):
        arguments = locals()
        own = {name: arguments[name] for name in SIMPLE_ARGUMENTS}
        cell = SimpleRNNCell(own, **_cell_options(kwargs, "simple_rnn_cell"))
        super().__init__(cell, _flags(arguments, kwargs), activity_regularizer=activity_regularizer, **kwargs)


class GRU(PlainRecurrent):
    """Gated recurrent unit, as ``keras.layers.GRU``: the whole signature, same order and defaults.

    Weights: kernel [D,3U] and recurrent_kernel [U,3U], gates z, r, candidate; bias [2,3U], or [3U] with ``reset_after=False``.
    ValueError for units <= 0, unknown names and keywords, and another ``use_cudnn`` than "auto", True or False.
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
        reset_after: Any = True,
        use_cudnn: Any = "auto",
        **kwargs: Any,
    ):
        arguments = locals()
        self.use_cudnn = check_use_cudnn(use_cudnn)
        implementation = kwargs.pop("implementation", 2)
        own = {name: arguments[name] for name in GRU_ARGUMENTS}
        cell = GRUCell(own, **_cell_options(kwargs, "gru_cell"))
        cell.reset_after, cell.implementation = reset_after, 1 if cell.recurrent_dropout != 0 else implementation
        super().__init__(cell, _flags(arguments, kwargs), activity_regularizer=activity_regularizer, **kwargs)


def _forward(layer: type, names: tuple[str, ...]) -> None:
    for name in (*names, "kernel", "recurrent_kernel", "bias"):
        setattr(layer, name, property(operator.attrgetter(f"cell.{name}"), doc=f"`{name}` of the cell."))


_forward(SimpleRNN, SIMPLE_ARGUMENTS)
_forward(GRU, GRU_ARGUMENTS)
