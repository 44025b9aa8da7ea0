"""TorchLSTM: ``torch.nn.LSTM`` with several layers, both directions, projections and PyTorch's layouts, made of our own layers.

Used by ``LSTM.from_torch``. The door is that of LSTM: ``layer(sequences, initial_state=, mask=, training=)`` and ``vjp``.
Letters: N batch, T time, D input features, U units, L layers, S = L or 2 L states of each kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..arrays import check_rank, first_mask, mask_of_lengths, require_array
from .base import Layer
from .bidirectional import Bidirectional
from .checks import one_of, positive_int
from .gradients import Form, Gradients, Pullback, cotangents, like, with_activity_losses
from .lstm import LSTM
from .projected_lstm import ProjectedLSTM
from .sequence_layer import InputSpec, check_rank_of_shape
from .symbolic import is_symbolic, symbolic_call
from .wrapper import build_inner

MAX_LAYERS = 1000
_ARGUMENTS = (
    "units",
    "num_layers",
    "bidirectional",
    "proj_size",
    "use_bias",
    "batch_first",
    "return_sequences",
    "return_state",
    "state_layout",
)


class TorchLSTM(Layer):
    """What ``torch.nn.LSTM`` computes.

    Args: ``units`` (torch: hidden_size), ``num_layers``, ``bidirectional``, ``proj_size`` (0: no projection), ``use_bias``;
    ``batch_first``: inputs and outputs are [N,T,D], else [T,N,D]; ``return_sequences``: the output of every step, [N,T,F], else
    the last one of each direction, [N,F], as in Keras; F is U (P with ``proj_size`` P), twice that with ``bidirectional``;
    ``return_state``: also the states; ``state_layout``: "keras": h, c of the first layer, h, c of the next …, each [N,U], with
    ``bidirectional`` the forward ones of a layer before its backward ones; "torch": h_n, c_n, each [S,N,U] (h_n [S,N,P]).

    Call: ``(sequences, initial_state=None, mask=None, training=False, *, lengths=None)`` -> the output, or a tuple (output,
    states…). ``initial_state``: a list or tuple in either layout. ``mask`` [N,T]: True where a step counts; ``lengths`` [N] in
    its place: the steps of each sequence, as of a packed one: outputs behind the end are 0, the last state is that of the last
    step, and the backward direction begins there. ``pieces``: the layers inside, one for each of PyTorch's.
    ValueError for sizes that are no positive integers, other layouts and unknown keywords.
    """

    supports_masking = True

    def __init__(
        self,
        units: Any,
        num_layers: Any = 1,
        bidirectional: Any = False,
        proj_size: Any = 0,
        use_bias: Any = True,
        batch_first: Any = True,
        return_sequences: Any = False,
        return_state: Any = False,
        state_layout: Any = "keras",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.units, self.num_layers = positive_int(units, "units"), positive_int(num_layers, "num_layers")
        if self.num_layers > MAX_LAYERS:
            raise ValueError(f"The argument `num_layers` must be at most {MAX_LAYERS}. Received: num_layers={num_layers}")
        self.proj_size = proj_size and positive_int(proj_size, "proj_size")
        self.bidirectional, self.use_bias, self.batch_first = bool(bidirectional), bool(use_bias), bool(batch_first)
        self.return_sequences, self.return_state = bool(return_sequences), bool(return_state)
        self.state_layout = one_of(state_layout, "state_layout", ("keras", "torch"))
        self.input_spec = InputSpec(ndim=3)
        self.pieces = [self._piece(k, self.return_sequences or k + 1 < self.num_layers) for k in range(self.num_layers)]
        self._layers = list(self.pieces)

    def _piece(self, number: int, sequences: bool) -> Any:
        """One layer of PyTorch's, with its states returned."""
        options: dict[str, Any] = {"return_sequences": sequences, "return_state": True, "zero_output_for_mask": sequences}
        options |= {"use_bias": self.use_bias, "dtype": self.dtype_policy, "name": f"l{number}", "trainable": self.trainable}
        if self.proj_size:
            inner: Any = ProjectedLSTM(self.units, self.proj_size, **options)
        else:
            inner = LSTM(self.units, **options)
        if not self.bidirectional:
            return inner
        return Bidirectional(inner, dtype=self.dtype_policy, name=f"l{number}", trainable=self.trainable)

    @property
    def _each(self) -> int:
        """How many states a piece has."""
        return 4 if self.bidirectional else 2

    def _build(self, input_shape: Any) -> None:
        shape = self._batch_first_shape(input_shape)
        self.input_spec = InputSpec(3, {2: shape[2]})
        for piece in self.pieces:
            build_inner(self, piece, shape)
            shape = tuple(piece.compute_output_shape(shape)[0])

    def _batch_first_shape(self, shape: Any) -> tuple:
        check_rank_of_shape(shape, 3, self.name)
        return tuple(shape) if self.batch_first else (shape[1], shape[0], shape[2])

    # -- call -----------------------------------------------------------------------------------------------------
    def __call__(  # type: ignore[override]
        self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False, *, lengths: Any = None
    ) -> Any:
        """Runs all layers over the whole sequence; see the class. Errors as of LSTM."""
        if is_symbolic(sequences):
            if not self.batch_first or lengths is not None:
                raise ValueError("Among symbolic tensors a TorchLSTM needs batch_first=True, and a mask instead of lengths")
            return symbolic_call(self, sequences, initial_state=initial_state, mask=mask, training=training)
        x, mask, states = self._arguments(sequences, initial_state, mask, lengths)
        finals: list[np.ndarray] = []
        for piece, start in zip(self.pieces, states, strict=True):
            x, *ends = piece(x, initial_state=start, mask=mask, training=training)
            finals += ends
        return self._result(x, finals)

    def _arguments(self, sequences: Any, initial_state: Any, mask: Any, lengths: Any) -> tuple:
        """x [N,T,D], the mask, and the initial state of each piece (or None); builds the layer."""
        self.check_runs_here(sequences)
        x = require_array(sequences, "sequences")
        check_rank(x, 3, self.name)
        if not self.built:
            self.build_once(x.shape)
        x = x if self.batch_first else x.swapaxes(0, 1)
        if lengths is not None:
            mask = mask_of_lengths(lengths, mask, x.shape)
        if initial_state is None:
            return x, mask, [None] * self.num_layers
        flat = self._flat_states(initial_state)
        return x, mask, [flat[k : k + self._each] for k in range(0, len(flat), self._each)]

    def _flat_states(self, states: Any) -> list[Any]:
        """[h, c, h, c, …] from either layout."""
        count = self.num_layers * self._each
        given = list(states) if isinstance(states, Sequence) else []
        if len(given) == 2 and all(np.ndim(state) == 3 for state in given):
            lengths = [len(state) for state in given]
            if lengths != [count // 2] * 2:
                raise ValueError(
                    f"The argument `initial_state` in PyTorch's layout must hold arrays [{count // 2},N,…]. Received: "
                    f"shapes {np.shape(given[0])} and {np.shape(given[1])}"
                )
            arrays = [require_array(state, f"initial_state[{k}]") for k, state in enumerate(given)]
            return [state[k] for k in range(count // 2) for state in arrays]
        if len(given) != count:
            got = f"a list of {len(given)}" if isinstance(states, Sequence) else type(states).__name__
            raise ValueError(
                f"The argument `initial_state` must be a list of {count} arrays [N,U], h and c of each layer and direction, or "
                f"[h_0, c_0], each [{count // 2},N,U]. Received: {got}"
            )
        return given

    def _result(self, y: np.ndarray, finals: list[np.ndarray]) -> Any:
        """What a call returns."""
        if self.return_sequences and not self.batch_first:
            y = np.ascontiguousarray(y.swapaxes(0, 1))
        result: Any = y
        if self.return_state:
            torch = self.state_layout == "torch"
            result = (y, np.stack(finals[::2]), np.stack(finals[1::2])) if torch else (y, *finals)
        self._record_activity(result)
        return result

    # -- gradients ------------------------------------------------------------------------------------------------
    def vjp(  # type: ignore[override]
        self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = True, *, lengths: Any = None
    ) -> tuple[Any, Pullback]:
        """``(outputs, pullback)`` as of LSTM. ``dy`` is like the outputs, ``Gradients.initial_state`` like ``initial_state``."""
        x, mask, states = self._arguments(sequences, initial_state, mask, lengths)
        finals: list[np.ndarray] = []
        pulls = []
        for piece, start in zip(self.pieces, states, strict=True):
            (x, *ends), pull = piece.vjp(x, initial_state=start, mask=mask, training=training)
            finals += ends
            pulls.append(pull)
        result = self._result(x, finals)
        outputs = result if self.return_state else (result,)
        x_form, forms = Form.of(np.asarray(sequences)), [Form.of(a) for a in outputs]
        stacked = initial_state is not None and np.ndim(initial_state[0]) == 3

        def pullback(dy: Any) -> Gradients:
            dys = cotangents(dy, forms)
            flat = self._flat_cotangents(dys[1:])
            running: Any = dys[0]
            if running is not None and self.return_sequences and not self.batch_first:
                running = running.swapaxes(0, 1)
            weights: list[Any] = []
            starts: list[Any] = []
            for k in range(self.num_layers - 1, -1, -1):
                pulled = pulls[k]((running, *flat[k * self._each : (k + 1) * self._each]))
                running, weights = pulled.inputs, [*pulled.weights, *weights]
                starts = [*(pulled.initial_state or []), *starts]
            running = running if running is None or self.batch_first else np.ascontiguousarray(running.swapaxes(0, 1))
            if stacked:
                starts = [np.stack(starts[::2]), np.stack(starts[1::2])]
            return Gradients(like(running, x_form), starts or None, weights)

        return result, with_activity_losses(self, result, pullback)

    def _flat_cotangents(self, dys: list[Any]) -> list[Any]:
        """The cotangents of the states as one for each of [h, c, h, c, …]; None where there is none."""
        count = self.num_layers * self._each
        if not dys:
            return [None] * count
        if self.state_layout == "keras":
            return dys
        return [None if d is None else d[k] for k in range(count // 2) for d in dys]

    # -- shapes, masks, config ------------------------------------------------------------------------------------
    def compute_output_shape(self, input_shape: Any) -> Any:
        """Shape of the output; with return_state a list of the output's and all states' shapes. ValueError for a wrong rank."""
        batch, steps, _ = self._batch_first_shape(input_shape)
        size, each = self.proj_size or self.units, self._each // 2
        last = (batch, size * each)
        shape = ((batch, steps) if self.batch_first else (steps, batch)) + last[1:] if self.return_sequences else last
        if not self.return_state:
            return shape
        count = self.num_layers * each
        if self.state_layout == "torch":
            return [shape, (count, batch, size), (count, batch, self.units)]
        return [shape, *([(batch, size), (batch, self.units)] * count)]

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The time mask [N,T] goes on with return_sequences; a list with None for each state where states are returned."""
        kept = first_mask(mask) if self.return_sequences else None
        if not self.return_state:
            return kept
        return [kept, *[None] * (2 if self.state_layout == "torch" else self.num_layers * self._each)]

    def as_layers(self) -> list[Any]:
        """The same network as built layers of Keras, LSTM or Bidirectional, for a Sequential; without states.

        ValueError where Keras has no such layer (``proj_size``) and before ``build``.
        """
        if self.proj_size:
            raise ValueError(f'Keras has no layer for the projection of "{self.name}" (proj_size={self.proj_size})')
        if not self.built:
            raise ValueError(f'The layer "{self.name}" has no weights yet: call `layer.build(shape)` first')
        layers: list[Any] = []
        for number, piece in enumerate(self.pieces):
            sequences = self.return_sequences or number + 1 < self.num_layers
            options: dict[str, Any] = {"use_bias": self.use_bias, "dtype": self.dtype_policy}
            layer: Any = LSTM(self.units, return_sequences=sequences, zero_output_for_mask=sequences, **options)
            if self.bidirectional:
                layer = Bidirectional(layer, dtype=self.dtype_policy)
            layer.build((None, None, self.input_spec.axes[2] if number == 0 else self.units * self._each // 2))
            layer.set_weights(piece.get_weights())
            layers.append(layer)
        return layers

    def get_config(self) -> dict:
        return {**super().get_config(), **{name: getattr(self, name) for name in _ARGUMENTS}}
