"""LSTM and LSTMCell: Keras' own two classes, argument for argument (keras-spec 1 to 3).

The cell holds the variables and the constructor's arguments; LSTM adds the flags of a sequence and forwards the cell's
attributes. All calculation happens in ``backends``.
"""

from __future__ import annotations

from typing import Any

from ..spec import RecurrentSpec, as_count, check_units, output_shape, weight_shapes
from .gated_cell import SHARED_ARGUMENTS, GatedCell, forward_to_cell, layer_config
from .recurrent import RecurrentLayer
from .sequence_layer import check_rank_of_shape

CELL_ARGUMENTS = ("units", *SHARED_ARGUMENTS)


class LSTMCell(GatedCell):
    """One step of an LSTM: ``h, [h, c] = cell(inputs, states)`` with inputs [N,D], states [h, c] of [N,U].

    Arguments as in Keras (keras-spec 3). ValueError for units <= 0, unknown names and unknown keywords; TypeError for rates
    that are no numbers.
    """

    arguments = CELL_ARGUMENTS

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

    @property
    def state_size(self) -> list[int]:
        return [self.units, self.units]

    @property
    def output_size(self) -> int:
        return self.units

    def make_spec(self, **flags: Any) -> RecurrentSpec:
        """The spec of this cell inside a layer with the given flags."""
        return RecurrentSpec(units=as_count(self.units, "units"), **self._spec_arguments(), **flags)

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

    def input_axes(self) -> dict[int, int]:
        return {1: self.kernel.shape[0]}


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
        """[N,T,U] or [N,U]; with return_state a list of the output's and both states' shapes. ValueError for a wrong rank."""
        check_rank_of_shape(input_shape, self.input_spec.ndim, self.name)
        shape = output_shape(self.spec, input_shape[0], input_shape[1])
        state = (input_shape[0], self.units)
        return [shape, state, state] if self.return_state else shape

    def get_config(self) -> dict:
        return layer_config(self, super().get_config())

    @classmethod
    def from_torch(cls, path_or_state_dict: Any, **options: Any) -> Any:
        """The LSTM of a PyTorch model, built and with its weights; PyTorch is not needed.

        ``path_or_state_dict``: a ``.safetensors``, ``.pt`` or ``.pth`` file (path or binary file object; the contents decide
        which), or a dict of arrays or tensors by PyTorch's names, also dicts in a dict, or a module with ``state_dict``.
        Options, all by keyword: ``return_sequences=False`` and ``return_state=False`` as of LSTM; ``prefix=None``: what stands
        in front of ``weight_ih_l0`` or an LSTMCell's ``weight_ih``, needed where there are several; ``batch_first=None``: what
        a module says, else True: inputs are [N,T,D]; False: [T,N,D]; ``state_layout="keras"`` or "torch", see TorchLSTM;
        ``batch_size=None``: for ``stateful=True``; ``dtype=None``: that of the weights (float32 for 16-bit ones); and what the
        layer itself takes, such as ``name``, ``trainable``, and of an LSTM ``stateful``.
        Returns an LSTM for one layer in one direction, else, or for ``batch_first=False`` or ``state_layout="torch"``, a
        TorchLSTM. Outputs behind the end of a sequence (``lengths``, masks) are 0 with ``return_sequences``.
        Errors: OSError where the file cannot be opened; ValueError, naming the file and the key, for a damaged file, no LSTM or
        several of them (their prefixes are listed), weights that are missing or of wrong shapes; TypeError for another argument.
        """
        from .torch_weights import from_torch

        return from_torch(cls, path_or_state_dict, **options)


forward_to_cell(LSTM, CELL_ARGUMENTS)
