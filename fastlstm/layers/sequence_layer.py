"""SequenceLayer: what LSTM, ConvLSTM1D, GRU and SimpleRNN share: a cell, Keras' flags, carried states, the checks of a call.

Used by ``recurrent`` (layers with kernels) and ``plain_recurrent`` (NumPy). Source: keras-spec 5 to 9.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import dtypes
from ..arrays import cast, check_rank, first_mask, require_array
from ..variable import Variable
from .base import Layer
from .subclassing import run_as_built

FLAGS = ("return_sequences", "return_state", "go_backwards", "stateful", "unroll", "zero_output_for_mask")


class InputSpec:
    """What a layer accepts: ``ndim`` axes, and sizes of axes in ``axes`` once it is built."""

    def __init__(self, ndim: int, axes: dict[int, int] | None = None):
        self.ndim, self.axes = ndim, axes or {}

    def __repr__(self) -> str:
        return f"InputSpec(ndim={self.ndim}, axes={self.axes})"


class SequenceLayer(Layer):
    """Base of the recurrent layers. ``cell`` holds the variables and says the shape of its states; the flags are Keras' own."""

    supports_masking = True
    state_names = "hc"  # a letter for each state
    state_count = property(lambda self: len(self.state_names))
    call: Any = run_as_built

    def __init__(self, cell: Any, flags: dict[str, Any], /, **kwargs: Any):
        super().__init__(**kwargs)
        self.cell = cell
        self._layers = [cell]
        for flag in FLAGS:
            setattr(self, flag, flags[flag])
        self.states: list[Variable] | None = None
        self.input_spec = InputSpec(ndim=cell.ndim + 1)

    return_sequences: bool
    return_state: bool
    go_backwards: bool
    stateful: bool
    unroll: bool
    zero_output_for_mask: bool

    # -- build --------------------------------------------------------------------------------------------------
    def build(self, input_shape: Any) -> None:
        """Creates the variables for inputs of ``input_shape``; a stateful layer needs its batch size and is reset."""
        if self.built:
            self.reset_state()
            return
        super().build(input_shape)

    def _build(self, input_shape: Any) -> None:
        check_rank_of_shape(input_shape, self.input_spec.ndim, self.name)
        if self.stateful and input_shape[0] is None:
            raise ValueError(
                "When using `stateful=True` in a RNN, the batch size must be static. Found dynamic batch size: "
                f"input_shape={tuple(input_shape)}"
            )
        self.cell.path = f"{self.name}/{self.cell.name}"
        self.cell.build((input_shape[0], *input_shape[2:]))
        self.input_spec = InputSpec(self.input_spec.ndim, {axis + 1: size for axis, size in self.cell.input_axes().items()})
        if self.stateful:
            dtype = dtypes.as_dtype(self.variable_dtype)
            shape = self.cell.state_shape(int(input_shape[0]))
            self.states = [Variable(np.zeros(shape, dtype), f"{self.name}_state_{k}") for k in self.state_names]

    def get_initial_state(self, batch_size: int | None = None) -> list[np.ndarray]:
        """The states, zeros for ``batch_size`` samples, as a call without ``initial_state`` starts; see the cell's."""
        return self.cell.get_initial_state(batch_size)

    def reset_state(self) -> None:
        """Fills the carried states of a stateful layer with zeros; does nothing on other layers and before build."""
        for state in self.states or []:
            state.assign(np.zeros(state.shape, state.dtype))

    reset_states = reset_state

    # -- checks -------------------------------------------------------------------------------------------------
    def _as_sequences(self, sequences: Any) -> np.ndarray:
        """x in the storage dtype. ValueError for a wrong rank or size, no time steps, another batch of a stateful layer."""
        x = require_array(sequences, "sequences")
        self.check_runs_here(x)
        check_rank(x, self.input_spec.ndim, self.name)
        if x.shape[1] == 0:
            raise ValueError(
                f'The argument `sequences` of layer "{self.name}" has no time steps. Received: sequences.shape={x.shape}'
            )
        check_axes(x.shape, self.input_spec.axes, self.name)
        if self.states is not None and x.shape[0] != self.states[0].shape[0]:
            raise ValueError(
                f'The stateful layer "{self.name}" was built for batch size {self.states[0].shape[0]}. '
                f"Received: sequences.shape={x.shape}"
            )
        return cast(x, self.storage_dtype)

    # -- shapes, masks, config ----------------------------------------------------------------------------------
    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The time mask goes on with return_sequences (not turned round by go_backwards, as in Keras); states have none."""
        mask = first_mask(mask)
        output_mask = mask if self.return_sequences else None
        return [output_mask, *[None] * self.state_count] if self.return_state else output_mask


def check_rank_of_shape(shape: Any, ndim: int, layer: str) -> None:
    """ValueError unless ``shape`` has ``ndim`` entries, each None or an integer of at least 0."""
    if len(shape) != ndim:
        raise ValueError(
            f'Input 0 of layer "{layer}" is incompatible with the layer: expected ndim={ndim}, found ndim={len(shape)}. '
            f"Full shape received: {tuple(shape)}"
        )
    if not all(size is None or (isinstance(size, (int, np.integer)) and size >= 0) for size in shape):
        raise ValueError(
            f'Layer "{layer}" cannot be built: `input_shape` must hold None or integers >= 0. Received: {tuple(shape)}'
        )


def check_axes(shape: tuple, axes: dict[int, int], layer: str) -> None:
    """ValueError unless each axis in ``axes`` has the size that the layer was built for."""
    for axis, size in axes.items():
        if shape[axis] != size:
            raise ValueError(
                f'Input 0 of layer "{layer}" is incompatible with the layer: expected axis {axis} of input shape to have '
                f"value {size}, but received input with shape {shape}"
            )
