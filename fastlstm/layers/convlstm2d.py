"""ConvLSTM2D over a single row: a ConvLSTM1D in the shapes of ``keras.layers.ConvLSTM2D``.

Models of sequences often use ConvLSTM2D with a kernel of (1, k) on inputs [N,T,1,R,C], as ConvLSTM1D came later to Keras. The
axis of one row is taken away before the call and put back after it; the weights keep Keras' shapes [1,K,C,4F] or [K,1,C,4F].
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .checks import int_tuple
from .convlstm1d import ConvLSTM1D, ConvLSTM1DCell
from .gradients import Gradients, Pullback
from .symbolic import is_symbolic, symbolic_call


class _Cell(ConvLSTM1DCell):
    """The cell of ConvLSTM1D whose kernels have an axis of one row; ``row_axis``: 0 or 1, its place."""

    row_axis = 0

    def _add_weights(self, shapes: Any, size: int) -> None:
        wide = [(*shape[: self.row_axis], 1, *shape[self.row_axis :]) for shape in shapes[:2]]
        super()._add_weights((wide[0], wide[1], shapes[2]), size)

    def weight_value(self, variable: Any, place: str = "cpu") -> np.ndarray:
        value = super().weight_value(variable, place)
        return value.reshape(self._narrow(value.shape)) if value.ndim == 4 else value

    def _narrow(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[: self.row_axis], *shape[self.row_axis + 1 :])

    def input_axes(self) -> dict[int, int]:
        rows, channels = self.rows_in, self.kernel.shape[2]
        assert rows is not None
        return {1: channels, 2: rows} if self.channels_first else {1: rows, 2: channels}


class ConvLSTM2D(ConvLSTM1D):
    """ConvLSTM2D with a kernel of (1, K) or (K, 1) over inputs of one row, as ``keras.layers.ConvLSTM2D``.

    Channels last: [N,T,1,R,C] (or [N,T,R,1,C]) gives [N,1,S,F], or [N,T,1,S,F] with ``return_sequences``. Arguments as
    ConvLSTM1D's, with pairs for ``kernel_size``, ``strides`` and ``dilation_rate``. ValueError for a kernel that is wider than 1
    along both axes, and for inputs with more than one row along the other.
    """

    runs_on_gpu = False

    _cell_class = _Cell

    def __init__(
        self,
        filters: Any,
        kernel_size: Any,
        strides: Any = 1,
        padding: Any = "valid",
        data_format: Any = None,
        dilation_rate: Any = 1,
        **kwargs: Any,
    ):
        pairs = {
            "kernel_size": int_tuple(kernel_size, 2, "kernel_size"),
            "strides": int_tuple(strides, 2, "strides"),
            "dilation_rate": int_tuple(dilation_rate, 2, "dilation_rate"),
        }
        if 1 not in pairs["kernel_size"]:
            raise ValueError(
                "ConvLSTM2D is there for kernels of (1, k) or (k, 1) over one row only. "
                f"Received: kernel_size={pairs['kernel_size']}"
            )
        row = pairs["kernel_size"].index(1)
        along = {name: pair[1 - row] for name, pair in pairs.items()}
        super().__init__(filters, padding=padding, data_format=data_format, **along, **kwargs)
        self.pairs, self.row_axis = pairs, row
        self.cell.row_axis = row

    def _row(self, ndim: int) -> int:
        """The axis of the one row in an array of the input, of a state (one axis less), or of an output."""
        return ndim - (2 if self.cell.channels_first else 3) + self.row_axis

    def _narrow(self, shape: Any) -> tuple:
        """A shape without the axis of the one row. ValueError where it is no such shape."""
        shape = tuple(shape)
        if len(shape) != 5 or shape[self._row(5)] != 1:
            raise ValueError(
                f'ConvLSTM2D "{self.name}" with kernel_size={self.pairs["kernel_size"]} needs an input of five axes with one row '
                f"along axis {self._row(5)}. Received: shape {shape}"
            )
        return (*shape[: self._row(5)], *shape[self._row(5) + 1 :])

    def _squeezed(self, array: Any) -> Any:
        axis = self._row(np.ndim(array))
        return np.squeeze(array, axis) if np.ndim(array) > 3 and np.shape(array)[axis] == 1 else array

    def _widened(self, array: np.ndarray | None) -> Any:
        return None if array is None else np.expand_dims(array, self._row(array.ndim + 1))

    def build(self, input_shape: Any) -> None:
        """``input_shape``: (N,T,1,R,C), (N,T,R,1,C), or channels first."""
        super().build(self._narrow(input_shape))

    def __call__(self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False) -> Any:  # type: ignore[override]
        """As ConvLSTM1D, with an axis of one row in ``sequences``, states and outputs."""
        if is_symbolic(sequences):
            return symbolic_call(self, sequences, initial_state=initial_state, mask=mask, training=training)
        outputs = super().__call__(*self._given(sequences, initial_state), mask=mask, training=training)
        return tuple(map(self._widened, outputs)) if isinstance(outputs, tuple) else self._widened(outputs)

    def _given(self, sequences: Any, initial_state: Any) -> tuple[Any, Any]:
        self.check_runs_here(sequences)
        x = np.asarray(sequences) if hasattr(sequences, "__array__") else sequences
        if isinstance(x, np.ndarray):
            x = x.reshape(self._narrow(x.shape))
        states = initial_state if initial_state is None else [self._squeezed(state) for state in initial_state]
        return x, states

    def build_once(self, input_shape: Any) -> None:
        """Also of a shape without the axis of one row, which the call inside has taken away."""
        shape = tuple(input_shape)
        if len(shape) == 4:
            shape = (*shape[: self._row(5)], 1, *shape[self._row(5) :])
        super().build_once(shape)

    def vjp(  # type: ignore[override]
        self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = True
    ) -> tuple[Any, Pullback]:
        """As ``ConvLSTM1D.vjp``, in the shapes of the call."""
        x, states = self._given(sequences, initial_state)
        outputs, pull = super().vjp(x, initial_state=states, mask=mask, training=training)
        shapes = [variable.shape for variable in self.weights]

        def pullback(dy: Any) -> Gradients:
            answer = pull(tuple(map(self._cut, dy)) if isinstance(dy, (tuple, list)) else self._cut(dy))
            dstates = None if answer.initial_state is None else [self._widened(d) for d in answer.initial_state]
            pairs = zip(answer.weights, shapes, strict=True)
            return Gradients(self._widened(answer.inputs), dstates, [None if d is None else d.reshape(s) for d, s in pairs])

        several = isinstance(outputs, tuple)
        return (tuple(map(self._widened, outputs)) if several else self._widened(outputs)), pullback

    def _cut(self, dy: Any) -> Any:
        return None if dy is None else np.squeeze(np.asarray(dy), self._row(np.ndim(dy)))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """[N,T,1,S,F] or [N,1,S,F]; with return_state a list of the output's and both states' shapes."""
        shapes = super().compute_output_shape(self._narrow(input_shape))

        def wide(shape: tuple) -> tuple:
            axis = self._row(len(shape) + 1)
            return (*shape[:axis], 1, *shape[axis:])

        return [wide(shape) for shape in shapes] if self.return_state else wide(shapes)

    def get_config(self) -> dict:
        return {**super().get_config(), **self.pairs}
