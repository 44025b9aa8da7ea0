"""TimeMajor: a recurrent layer whose inputs and outputs are [T,N,…]: what ``time_major=True`` was in Keras 2 of TensorFlow.

In terms of LSTM, GRU, SimpleRNN or Bidirectional, which run batch-major inside. Made by ``models.layer_configs`` of old files;
Keras 3 has no such layer. Letters: N batch, T time, D input features, U units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import devices
from ..arrays import check_rank, first_mask, require_array
from .base import Layer
from .gradients import Form, Gradients, Pullback, cotangents, with_activity_losses
from .nest import is_several_shapes
from .sequence_layer import check_rank_of_shape
from .symbolic import is_symbolic, symbolic_call
from .wrapper import inner_layer, serialize

# States of a stateful layer are as long as the batch; nothing in a file vouches for that number.
MAX_BATCH = 65_536
_FLAGS = ("return_sequences", "return_state", "go_backwards", "stateful")


class TimeMajor(Layer):
    """[T,N,D] -> [T,N,U] with ``return_sequences`` of ``layer``, else [N,U]; its mask is [T,N], its states [N,U] as ever.

    ``layer``: an LSTM, GRU, SimpleRNN, or a Bidirectional of them, used as it is; its name, weights and their paths are this
    layer's too. Its activity regularizer moves here, because Keras 2 divided by the first axis of what came out.
    Call: ``(sequences, initial_state=None, mask=None, training=False)``; errors as of ``layer``, whose messages name batch-major
    shapes. ValueError for a ``layer`` that is not recurrent, and for a stateful one of more than 65536 samples.
    """

    supports_masking = True

    def __init__(self, layer: Any, **kwargs: Any):
        parts = (layer.forward_layer, layer.backward_layer) if hasattr(layer, "forward_layer") else (layer,)
        if not isinstance(layer, Layer) or not all(hasattr(part, flag) for part in parts for flag in _FLAGS):
            raise ValueError(
                f"The argument `layer` of TimeMajor must be a recurrent layer such as LSTM. Received: layer={layer!r}"
            )
        own = {"name": layer.name, "trainable": layer.trainable, "dtype": layer.dtype_policy}
        super().__init__(**{**own, "activity_regularizer": layer.activity_regularizer, **kwargs})
        layer.activity_regularizer = None
        self.layer: Any = layer
        self._layers = [layer]

    # -- what the inner layer says ----------------------------------------------------------------------------------
    @property
    def return_sequences(self) -> Any:
        return self.layer.return_sequences

    @property
    def return_state(self) -> Any:
        return self.layer.return_state

    @property
    def stateful(self) -> Any:
        return self.layer.stateful

    @property
    def states(self) -> Any:
        """The carried states, [N,U] each; None unless stateful and built."""
        return self.layer.states

    @property
    def input_spec(self) -> Any:
        return self.layer.input_spec

    @property
    def time_major(self) -> bool:
        """True: the first axis of the input is time."""
        return True

    def reset_state(self) -> None:
        """Fills the carried states with zeros, as of ``layer``."""
        self.layer.reset_state()

    reset_states = reset_state

    @property
    def _timed(self) -> int:
        """How many of the outputs, from the first, have a time axis."""
        if not self.return_sequences:
            return 0
        return 2 if getattr(self.layer, "merge_mode", "concat") is None else 1

    # -- build and call ---------------------------------------------------------------------------------------------
    def _child_shape(self, shape: Any) -> tuple:
        check_rank_of_shape(shape, 3, self.name)
        return (shape[1], shape[0], shape[2])

    def _build(self, input_shape: Any) -> None:
        shape = self._child_shape(input_shape)
        if self.stateful and (shape[0] or 0) > MAX_BATCH:
            raise ValueError(
                f'The stateful layer "{self.name}" asks for the batch size {shape[0]}, at most {MAX_BATCH} are accepted'
            )
        self.layer.build(shape)

    def __call__(self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False) -> Any:  # type: ignore[override]
        """Runs the whole sequence; see the class."""
        if is_symbolic(sequences):
            return symbolic_call(self, sequences, initial_state=initial_state, mask=mask, training=training)
        x, mask = self._arguments(sequences, mask)
        result = self._result(self.layer(x, initial_state=initial_state, mask=mask, training=training))
        self._record_activity(result)
        return result

    def _arguments(self, sequences: Any, mask: Any) -> tuple[Any, Any]:
        """x [N,T,D] and the mask [N,T] (or None) for the inner layer; builds the layer."""
        x = require_array(sequences, "sequences")
        check_rank(x, 3, self.name)
        if not self.built:
            self.build_once(x.shape)
        mask = first_mask(mask)
        return x.swapaxes(0, 1), None if mask is None else mask.swapaxes(0, 1)

    def _result(self, outputs: Any) -> Any:
        """What the inner layer returned, with time first."""
        if not isinstance(outputs, tuple):
            return self._turned([outputs])[0]
        return tuple(self._turned(outputs))

    def _turned(self, arrays: Sequence[Any]) -> list[Any]:
        """The outputs, or their cotangents (None among them), with the first two axes of those changed that have a time axis."""
        return [_swapped(array) if k < self._timed else array for k, array in enumerate(arrays)]

    def vjp(  # type: ignore[override]
        self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = True
    ) -> tuple[Any, Pullback]:
        """``(outputs, pullback)`` as of ``layer``; ``dy`` is like the outputs, ``Gradients.inputs`` [T,N,D]."""
        x, mask = self._arguments(sequences, mask)
        outputs, pull = self.layer.vjp(x, initial_state=initial_state, mask=mask, training=training)
        result = self._result(outputs)
        self._record_activity(result)
        forms = [Form.of(a) for a in (result if isinstance(result, tuple) else (result,))]

        def pullback(dy: Any) -> Gradients:
            dys = self._turned(cotangents(dy, forms))
            answer = pull(tuple(dys) if len(dys) > 1 else dys[0])
            return answer._replace(inputs=_swapped(answer.inputs))

        return result, with_activity_losses(self, result, pullback)

    # -- shapes, masks, config --------------------------------------------------------------------------------------
    def compute_output_shape(self, input_shape: Any) -> Any:
        """Shape of the output; with ``return_state`` or two outputs the inner layer's list or tuple of shapes."""
        shapes = self.layer.compute_output_shape(self._child_shape(input_shape))
        if not is_several_shapes(shapes):
            return (shapes[1], shapes[0], *shapes[2:]) if self._timed else shapes
        return [(s[1], s[0], *s[2:]) if k < self._timed else tuple(s) for k, s in enumerate(shapes)]

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask [T,N] goes on with ``return_sequences``, as of ``layer``."""
        return self.layer.compute_mask(inputs, mask)

    def get_config(self) -> dict:
        return {**super().get_config(), "layer": serialize(self.layer)}

    @classmethod
    def from_config(cls, config: dict) -> Any:
        """``config["layer"]``: the inner layer's 4-key dict; other keys are those of every layer."""
        return cls(**{**config, "layer": inner_layer(config.get("layer"))})


def _swapped(array: Any) -> Any:
    """[A,B,…] -> [B,A,…], C-contiguous; None stays None."""
    return None if array is None else devices.contiguous(array.swapaxes(0, 1))
