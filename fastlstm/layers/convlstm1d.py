"""ConvLSTM1D and its cell: Keras' own class, argument for argument (keras-spec 4).

The same call, masks, states and kernels as LSTM (``recurrent``, ``gated_cell``); the products are convolutions over rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..spec import MAX_NUMBERS, ConvLSTM1DSpec, as_count, conv_rows
from .checks import data_format_of, int_tuple
from .gated_cell import SHARED_ARGUMENTS, GatedCell, forward_to_cell, layer_config
from .recurrent import RecurrentLayer
from .sequence_layer import check_rank_of_shape

CELL_ARGUMENTS = ("filters", "kernel_size", "strides", "padding", "data_format", "dilation_rate", *SHARED_ARGUMENTS)


def check_padding(value: Any) -> Any:
    """The padding in lower case. ValueError for "causal" and unknown words, AttributeError for what is no word.

    A list or tuple passes here and fails at the call, as in Keras.
    """
    if isinstance(value, (list, tuple)):
        return value
    if not hasattr(value, "lower"):
        raise AttributeError(f"The `padding` argument must be a string. Received: padding={value!r}")
    padding = value.lower()
    if padding not in ("valid", "same"):
        raise ValueError(f"The `padding` argument must be 'valid' or 'same'. Received: padding={value!r}")
    return padding


class ConvLSTM1DCell(GatedCell):
    """One step of a ConvLSTM1D: ``h, [h, c] = cell(inputs, states)``.

    Channels last: inputs [N,R,C], states [h, c] of [N,S,F]; channels first: [N,C,R] and [N,F,S]. Arguments and errors as
    ``ConvLSTM1D``.
    """

    arguments = CELL_ARGUMENTS
    verb = "convlstm1d_forward"
    ndim = 3

    def __init__(
        self,
        filters: Any,
        kernel_size: Any,
        strides: Any = 1,
        padding: Any = "valid",
        data_format: Any = None,
        dilation_rate: Any = 1,
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
        arguments = {name: value for name, value in locals().items() if name in SHARED_ARGUMENTS}
        self.filters = filters
        self.kernel_size = int_tuple(kernel_size, 1, "kernel_size")
        self.strides = int_tuple(strides, 1, "strides", allow_zero=True)
        self.padding = check_padding(padding)
        self.data_format = data_format_of(data_format)
        self.dilation_rate = int_tuple(dilation_rate, 1, "dilation_rate")
        if self.strides[0] > 1 and self.dilation_rate[0] > 1:
            raise ValueError(
                "`strides` > 1 cannot be combined with `dilation_rate` > 1. "
                f"Received: strides={self.strides}, dilation_rate={self.dilation_rate}"
            )
        super().__init__(arguments, **kwargs)
        self.rows_in: int | None = None

    @property
    def channels_first(self) -> bool:
        return self.data_format == "channels_first"

    @property
    def state_size(self) -> list[Any]:
        return [self.filters, self.filters]

    def make_spec(self, **flags: Any) -> ConvLSTM1DSpec:
        """The spec of this cell inside a layer with the given flags."""
        return ConvLSTM1DSpec(
            units=as_count(self.filters, "filters"),
            kernel_size=self.kernel_size[0],
            strides=self.strides[0],
            dilation_rate=self.dilation_rate[0],
            padding=self.padding,
            channels_first=self.channels_first,
            **self._spec_arguments(),
            **flags,
        )

    def rows_out(self, rows_in: int) -> int:
        """S: output rows for R input rows. ValueError where a valid convolution has none, OverflowError for strides=0."""
        return conv_rows(rows_in, self.kernel_size[0], self.strides[0], self.dilation_rate[0], self.padding).rows_out

    def _build(self, input_shape: Any) -> None:
        """``input_shape``: (N, R, C), or (N, C, R) channels first; R and C must be known."""
        rows, channels = input_shape[:0:-1] if self.channels_first else input_shape[1:]
        for what, size in (("rows", rows), ("channels", channels)):
            if size is None:
                raise ValueError(
                    f'The {what} of the input of layer "{self.name}" must be known at build. Received: input_shape={input_shape}'
                )
        filters = as_count(self.filters, "filters")
        if filters <= 0:
            raise ValueError(f"Received an invalid value for argument `filters`, expected a positive integer, got {filters}")
        self._check_rows(rows, channels)
        taps = self.kernel_size[0]
        self._add_weights(((taps, channels, 4 * filters), (taps, filters, 4 * filters), (4 * filters,)), filters)
        self.rows_in = rows

    def _check_rows(self, rows: int, channels: int) -> None:
        """ValueError where no row comes out, and where the padded rows of a sample would be absurdly many."""
        geometry = conv_rows(rows, self.kernel_size[0], self.strides[0], self.dilation_rate[0], self.padding)
        if geometry.rows_out < 1:
            raise ValueError(f'The input of layer "{self.name}" has no rows')
        if geometry.padded_rows * channels > MAX_NUMBERS:
            raise ValueError(
                f"Received invalid values for the arguments `kernel_size`={self.kernel_size[0]} and "
                f"`dilation_rate`={self.dilation_rate[0]}: with padding {self.padding!r} {rows} rows would become "
                f"{geometry.padded_rows}, and a sample more than {MAX_NUMBERS} numbers"
            )

    def input_axes(self) -> dict[int, int]:
        rows, channels = self.rows_in, self.kernel.shape[1]
        assert rows is not None
        return {1: channels, 2: rows} if self.channels_first else {1: rows, 2: channels}

    def state_shape(self, batch: int) -> tuple[int, ...]:
        """Shape of h and of c: (N, S, F), channels first (N, F, S)."""
        assert self.rows_in is not None
        rows, filters = self.rows_out(self.rows_in), int(self.filters)
        return (batch, filters, rows) if self.channels_first else (batch, rows, filters)

    def get_initial_state(self, batch_size: int | None = None) -> list[np.ndarray]:
        """Two arrays of zeros [N,S,F] (channels first [N,F,S]) of the compute dtype. ValueError before build."""
        if self.rows_in is None:
            raise ValueError(f'The number of rows of cell "{self.name}" is unknown before it is built')
        return super().get_initial_state(batch_size)


class ConvLSTM1D(RecurrentLayer):
    """Convolutional LSTM over a sequence of rows (Shi et al. 2015, without peepholes), as ``keras.layers.ConvLSTM1D``.

    Call: ``layer(sequences, initial_state=None, mask=None, training=False)``. Channels last: sequences [N,T,R,C] give [N,S,F],
    or [N,T,S,F] with ``return_sequences``; h and c are [N,S,F]. Channels first: the last two axes swapped in all of them.
    S = R / stride rounded up for padding "same", floor((R - dilation*(K-1) - 1) / stride) + 1 for "valid". With
    ``return_state`` the tuple (output, h, c). The input convolution has strides, padding and dilation_rate; the recurrent one
    is always stride 1, "same".

    Arguments: the whole signature of Keras 3, same order and defaults, and the keywords ``unroll``, ``zero_output_for_mask``,
    ``name``, ``dtype``, ``trainable``, ``input_shape``. Weights: kernel [K,C,4F], recurrent_kernel [K,F,4F], bias [4F], in both
    data formats. ValueError for sizes <= 0 (strides < 0), strides and dilation_rate both above 1, "causal", unknown names and
    keywords; at build for unknown rows or channels and rows too few for a valid convolution.
    """

    def __init__(
        self,
        filters: Any,
        kernel_size: Any,
        strides: Any = 1,
        padding: Any = "valid",
        data_format: Any = None,
        dilation_rate: Any = 1,
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
        **kwargs: Any,
    ):
        arguments = locals()
        cell = self._cell_class(
            **{name: arguments[name] for name in CELL_ARGUMENTS},
            dtype=kwargs.get("dtype"),
            trainable=kwargs.get("trainable", True),
            name="conv_lstm_cell",
        )
        flags = {name: arguments[name] for name in ("return_sequences", "return_state", "go_backwards", "stateful")}
        flags["unroll"] = kwargs.pop("unroll", False)
        flags["zero_output_for_mask"] = kwargs.pop("zero_output_for_mask", False)
        super().__init__(cell, flags, "auto", activity_regularizer=activity_regularizer, **kwargs)

    _cell_class = ConvLSTM1DCell
    filters: int  # forwarded from the cell, as are its other arguments (below)
    data_format: str

    def compute_output_shape(self, input_shape: Any) -> Any:
        """[N,T,S,F] or [N,S,F] (channels first: F before S); with return_state a list of the output's and both states' shapes."""
        check_rank_of_shape(input_shape, self.input_spec.ndim, self.name)
        batch, steps, *rest = input_shape
        first = self.cell.channels_first
        rows = rest[1] if first else rest[0]
        rows = None if rows is None else self.cell.rows_out(rows)
        state = (batch, self.filters, rows) if first else (batch, rows, self.filters)
        shape = (batch, steps, *state[1:]) if self.return_sequences else state
        return [shape, state, state] if self.return_state else shape

    def get_config(self) -> dict:
        return layer_config(self, super().get_config())


forward_to_cell(ConvLSTM1D, CELL_ARGUMENTS)
