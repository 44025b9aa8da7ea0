"""Bidirectional: one recurrent layer forwards and one backwards over the same sequence (keras-spec 1.3 and 16).

In terms of LSTM or any layer with its door: ``layer(x, initial_state=, mask=, training=)`` and the flags go_backwards,
return_sequences, return_state, stateful, zero_output_for_mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import devices, initializers, selector
from ..arrays import cast, first_mask, require_array
from .base import Layer
from .gradients import Form, Gradients, Pullback, cotangents, like, of_weights, with_activity_losses
from .moving import moved_call, moved_vjp
from .subclassing import run_as_built
from .symbolic import is_symbolic, symbolic_call
from .wrapper import build_inner, inner_layer, serialize

MERGE_MODES = ("concat", "sum", "mul", "ave", None)
_FLAGS = ("go_backwards", "stateful", "return_sequences", "return_state")


class Bidirectional(Layer):
    """Runs ``layer`` and its mirror image and merges their outputs.

    Args: ``layer``, a recurrent layer, of which only the config is used (fresh weights, name "forward_<name>"); ``merge_mode``
    "concat" (last axis), "sum", "mul", "ave" or None (both outputs as a tuple); ``weights``: kept as ``initial_weights`` of the
    two layers and not applied, as in Keras; ``backward_layer``: used as it is instead of the mirror image "backward_<name>".
    Both layers get ``zero_output_for_mask`` = return_sequences, and ``use_cudnn`` of ``layer``.

    Call: ``(sequences, initial_state=None, mask=None, training=False)`` -> output, or with return_state the tuple
    (output, forward states…, backward states…); ``merge_mode=None`` puts two outputs in place of one. The backward output
    is turned round in time. ``initial_state``: forward states, then backward states ([fh, fc, bh, bc]).
    ValueError for a ``layer`` that is not recurrent, another ``merge_mode``, equal ``go_backwards``, or differing ``stateful``,
    ``return_sequences`` or ``return_state``.
    """

    supports_masking = True
    runs_on_gpu = True
    call: Any = run_as_built

    def __init__(self, layer: Any, merge_mode: Any = "concat", weights: Any = None, backward_layer: Any = None, **kwargs: Any):
        _check_recurrent(layer, "layer")
        if backward_layer is not None:
            _check_recurrent(backward_layer, "backward_layer")
        if not any(merge_mode is mode or (isinstance(merge_mode, str) and merge_mode == mode) for mode in MERGE_MODES):
            raise ValueError(f"Invalid merge mode. Expected one of {MERGE_MODES}. Received: merge_mode={merge_mode!r}")
        super().__init__(**kwargs)
        self.merge_mode = merge_mode
        self.forward_layer: Any = _remake(layer, "forward_")
        self.backward_layer: Any = _remake(layer, "backward_", go_backwards=True) if backward_layer is None else backward_layer
        self._layers = [self.forward_layer, self.backward_layer]
        self._check_pair()
        for inner in (self.forward_layer, self.backward_layer):
            if hasattr(inner, "zero_output_for_mask"):
                inner.zero_output_for_mask = inner.return_sequences
            if hasattr(layer, "use_cudnn") and hasattr(inner, "use_cudnn"):
                inner.use_cudnn = layer.use_cudnn
        if weights:
            half = len(weights) // 2
            self.forward_layer.initial_weights, self.backward_layer.initial_weights = weights[:half], weights[half:]

    def _check_pair(self) -> None:
        forward, backward = self.forward_layer, self.backward_layer
        if bool(forward.go_backwards) == bool(backward.go_backwards):
            raise ValueError(
                "The forward layer and the backward layer must differ in `go_backwards`. Received: "
                f"forward_layer.go_backwards={forward.go_backwards}, backward_layer.go_backwards={backward.go_backwards}"
            )
        for flag in ("stateful", "return_sequences", "return_state"):
            if getattr(forward, flag) != getattr(backward, flag):
                raise ValueError(
                    f"The forward layer and the backward layer must have the same value of `{flag}`. Received: "
                    f"forward_layer.{flag}={getattr(forward, flag)}, backward_layer.{flag}={getattr(backward, flag)}"
                )

    @property
    def return_sequences(self) -> Any:
        return self.forward_layer.return_sequences

    @property
    def return_state(self) -> Any:
        return self.forward_layer.return_state

    @property
    def stateful(self) -> Any:
        return self.forward_layer.stateful

    @property
    def _state_count(self) -> int:
        """How many states each layer has: two of an LSTM."""
        return getattr(self.forward_layer, "state_count", 2)

    @property
    def input_spec(self) -> Any:
        return self.forward_layer.input_spec

    @property
    def states(self) -> tuple | None:
        """The carried states of both layers, forward first; None unless stateful and built."""
        forward, backward = self.forward_layer.states, self.backward_layer.states
        return (*forward, *backward) if forward and backward else None

    def reset_state(self) -> None:
        """Fills the carried states with zeros. AttributeError unless stateful."""
        if not self.stateful:
            raise AttributeError(f'Layer "{self.name}" must be stateful to reset its state')
        self.forward_layer.reset_state()
        self.backward_layer.reset_state()

    reset_states = reset_state

    def _build(self, input_shape: Any) -> None:
        if self.merge_mode is not None:
            one, other = (self._shapes_of(layer, input_shape)[0] for layer in (self.forward_layer, self.backward_layer))
            axis = -1 if self.merge_mode == "concat" else None
            if one[:axis] != other[:axis]:
                raise ValueError(
                    f'The outputs of `layer` and `backward_layer` of layer "{self.name}" cannot be merged. '
                    f"Received: shapes {one} and {other}, merge_mode={self.merge_mode!r}"
                )
        build_inner(self, self.forward_layer, input_shape)
        build_inner(self, self.backward_layer, input_shape)

    def __call__(self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False) -> Any:  # type: ignore[override]
        """Runs both directions; see the class. ``initial_state`` of fewer than four arrays raises IndexError."""
        if is_symbolic(sequences):
            return symbolic_call(self, sequences, initial_state=initial_state, mask=mask, training=training)
        place = selector.elsewhere(sequences)
        if place is not None:
            return moved_call(self, place, sequences, initial_state=initial_state, mask=mask, training=training)
        x = self._as_input(sequences, "sequences")
        if not self.built:
            self.build_once(x.shape)
        forward_state, backward_state = _halves(initial_state, self._state_count)
        y = self.forward_layer(x, initial_state=forward_state, mask=mask, training=training)
        y_rev = self.backward_layer(x, initial_state=backward_state, mask=mask, training=training)
        return self._result(*self._outputs(y, y_rev))

    def _outputs(self, y: Any, y_rev: Any) -> tuple[np.ndarray, np.ndarray, tuple]:
        """What the two layers returned as (forward output, backward output turned round in time, all states)."""
        states: tuple = ()
        if self.return_state:
            states = (*y[1:], *y_rev[1:])
            y, y_rev = y[0], y_rev[0]
        return y, y_rev[:, ::-1] if self.return_sequences else y_rev, states

    def _result(self, y: np.ndarray, y_rev: np.ndarray, states: tuple) -> Any:
        """What a call returns."""
        merged = self._merge(y, y_rev)
        outputs = (*merged, *states) if isinstance(merged, tuple) else (merged, *states)
        result = outputs if len(outputs) > 1 else outputs[0]
        self._record_activity(result)
        return result

    def vjp(  # type: ignore[override]
        self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = True
    ) -> tuple[Any, Pullback]:
        """Runs both directions and returns ``(outputs, pullback)``: as ``LSTM.vjp``; ``initial_state`` gradients are four."""
        place = selector.elsewhere(sequences)
        if place is not None:
            return moved_vjp(self, place, sequences, initial_state=initial_state, mask=mask, training=training)
        sequences = devices.adopt(sequences)
        x = self._as_input(sequences, "sequences")
        if not self.built:
            self.build_once(x.shape)
        states, given = _halves(initial_state, self._state_count), initial_state is not None
        y, pull = self.forward_layer.vjp(x, initial_state=states[0], mask=mask, training=training)
        y_rev, pull_rev = self.backward_layer.vjp(x, initial_state=states[1], mask=mask, training=training)
        y, y_rev, finals = self._outputs(y, y_rev)
        result = self._result(y, y_rev, finals)
        outputs = result if isinstance(result, tuple) else (result,)
        x_form, forms, answered = Form.of(require_array(sequences, "sequences")), [Form.of(a) for a in outputs], of_weights(self)
        merged, half = len(outputs) - len(finals), len(finals) // 2

        def pullback(dy: Any) -> Gradients:
            dys = cotangents(dy, forms)
            forwards, backwards = self._merge_backward(dys[:merged], y, y_rev)
            one = pull((forwards, *dys[merged : merged + half]) if half else forwards)
            two = pull_rev((backwards, *dys[merged + half :]) if half else backwards)
            dx = None if one.inputs is None else one.inputs + two.inputs
            dstates = [*one.initial_state, *two.initial_state] if given else None
            return Gradients(like(dx, x_form), dstates, answered([*one.weights, *two.weights]))

        return result, with_activity_losses(self, result, pullback)

    def _merge_backward(self, dys: list, y: np.ndarray, y_rev: np.ndarray) -> tuple[Any, Any]:
        """Cotangents of what ``_merge`` made -> those of the two layers' outputs, in processing order; None stays None."""
        forwards, backwards = dys if self.merge_mode is None else (dys[0], dys[0])
        if self.merge_mode == "concat" and dys[0] is not None:
            forwards, backwards = np.split(dys[0], [y.shape[-1]], axis=-1)
        elif self.merge_mode == "ave" and dys[0] is not None:
            forwards = backwards = dys[0] / 2
        elif self.merge_mode == "mul" and dys[0] is not None:
            with np.errstate(all="ignore"):
                forwards, backwards = (dys[0] * other.astype(dys[0].dtype, copy=False) for other in (y_rev, y))
        return forwards, backwards[:, ::-1] if self.return_sequences and backwards is not None else backwards

    def _merge(self, y: np.ndarray, y_rev: np.ndarray) -> Any:
        storage = self.storage_dtype
        if self.merge_mode is None:
            return cast(y, storage), cast(y_rev, storage)
        if self.merge_mode == "concat":
            return cast(np.concatenate([y, y_rev], axis=-1), storage)
        a, b = (half.astype(self.arithmetic_dtype, copy=False) for half in (y, y_rev))
        with np.errstate(all="ignore"):  # overflow and NaN propagate silently, as in the layers inside
            merged = a * b if self.merge_mode == "mul" else a + b
            return cast(merged / 2 if self.merge_mode == "ave" else merged, storage)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The time mask goes on with return_sequences; a list with None for each state where states are returned."""
        mask = first_mask(mask)
        kept = mask if self.return_sequences else None
        masks = (kept, kept) if self.merge_mode is None else (kept,)
        if self.return_state:
            return [*masks, *(None for _ in range(4))]
        return masks if self.merge_mode is None else kept

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Shape of the output; a tuple of shapes where several arrays are returned."""
        y, states = self._shapes_of(self.forward_layer, input_shape)
        y_rev, states_rev = self._shapes_of(self.backward_layer, input_shape)
        merged = y
        if self.merge_mode == "concat":
            merged = (*y[:-1], None if y[-1] is None or y_rev[-1] is None else y[-1] + y_rev[-1])
        outputs = [y, y_rev] if self.merge_mode is None else [merged]
        return (*outputs, *states, *states_rev) if len(outputs) > 1 or states else merged

    def _shapes_of(self, layer: Any, input_shape: Any) -> tuple[tuple, list[tuple]]:
        """Shapes of one direction's output and states."""
        shape = layer.compute_output_shape(input_shape)
        return (tuple(shape[0]), [tuple(s) for s in shape[1:]]) if self.return_state else (tuple(shape), [])

    def get_config(self) -> dict:
        inner = {"layer": serialize(self.forward_layer), "backward_layer": serialize(self.backward_layer)}
        return {**super().get_config(), "merge_mode": self.merge_mode, **inner}

    @classmethod
    def from_config(cls, config: dict) -> Any:
        """``config["layer"]`` and the optional ``config["backward_layer"]``: 4-key dicts of the two layers."""
        config = {**config, "layer": inner_layer(config.get("layer"))}
        if config.get("backward_layer") is not None:
            config["backward_layer"] = inner_layer(config["backward_layer"])
        return cls(**config)


def _check_recurrent(layer: Any, name: str) -> None:
    """ValueError unless ``layer`` is a layer with the flags of a recurrent one."""
    if not isinstance(layer, Layer) or not all(hasattr(layer, flag) for flag in _FLAGS):
        raise ValueError(
            f"The argument `{name}` of Bidirectional must be a recurrent layer such as LSTM. Received: {name}={layer!r}"
        )


def _remake(layer: Any, prefix: str, **changes: Any) -> Any:
    """A fresh layer from the config of ``layer``, its name with ``prefix`` in front (once)."""
    config = {**layer.get_config(), **changes, "name": prefix + layer.name.removeprefix(prefix)}
    for name in config:
        # The objects themselves: a caller's own cannot be found by name. Known initializers are made anew: one instance draws
        # the same numbers at every call.
        if name.endswith(("activation", "_regularizer", "_constraint")) or (
            name.endswith("_initializer") and not isinstance(getattr(layer, name), initializers.Initializer)
        ):
            config[name] = getattr(layer, name)
    return type(layer).from_config(config)


def _halves(initial_state: Any, each: int) -> tuple[Any, Any]:
    """([fh, fc], [bh, bc]) of four states, or (None, None); ``each``: states of one layer. IndexError for fewer, ValueError for
    more."""
    if initial_state is None:
        return None, None
    count = len(initial_state) if isinstance(initial_state, Sequence) else 0
    expected = "four arrays [forward h, forward c, backward h, backward c]" if each == 2 else "two arrays [forward h, backward h]"
    if count != 2 * each:
        got = f"a list of {count}" if count else type(initial_state).__name__
        wrong = f"The argument `initial_state` of Bidirectional must be a list of {expected}. Received: {got}"
        raise (IndexError if count < 2 * each else ValueError)(wrong)
    return list(initial_state[:each]), list(initial_state[each:])
