"""RecurrentLayer: the call of a recurrent layer: masks, initial state, dropout, choice of a backend.

In terms of ``sequence_layer``, ``selector`` and a cell (``gated_cell``: the variables and the spec). LSTM and ConvLSTM1D derive
from it. Source: keras-spec 5 to 9 and 18.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import devices, selector
from ..arrays import as_mask, cast, mask_of_lengths, require_array
from ..backends import cpu
from ..spec import RecurrentSpec, check_use_cudnn
from ..variable import Variable
from .gradients import Form, Gradients, Pullback, cotangents, like, of_weights, with_activity_losses
from .moving import moved_call, moved_vjp
from .sequence_layer import SequenceLayer
from .symbolic import is_symbolic, symbolic_call


class RecurrentLayer(SequenceLayer):
    """Base of LSTM and ConvLSTM1D: a SequenceLayer whose steps a backend runs."""

    runs_on_gpu = True

    def __init__(self, cell: Any, flags: dict[str, Any], use_cudnn: Any, /, **kwargs: Any):
        super().__init__(cell, flags, **kwargs)
        self.use_cudnn = check_use_cudnn(use_cudnn)

    _plan: Any
    _revision: int

    # Attributes of the cell, which ``forward_to_cell`` makes readable here: for type checkers.
    kernel: Variable
    recurrent_kernel: Variable
    bias: Variable | None
    activation: Any
    recurrent_activation: Any
    use_bias: Any
    dropout: float
    recurrent_dropout: float

    @property
    def spec(self) -> RecurrentSpec:
        """The parameters as the backends see them."""
        return self.cell.make_spec(
            return_sequences=bool(self.return_sequences),
            go_backwards=bool(self.go_backwards),
            zero_output_for_mask=bool(self.zero_output_for_mask),
            unroll=bool(self.unroll),
            use_cudnn=self.use_cudnn,
            storage=self.compute_dtype,
        )

    # -- call ---------------------------------------------------------------------------------------------------
    def __call__(  # type: ignore[override]
        self,
        sequences: Any,
        initial_state: Any = None,
        mask: Any = None,
        training: bool = False,
        *,
        out: Any = None,
        lengths: Any = None,
    ) -> Any:
        """Runs the whole sequence.

        Args: ``sequences`` [N,T,D]; ``initial_state`` a list [h, c] of arrays [N,U] (or [1,U]); ``mask`` [N,T], True where a
        step counts; ``training`` switches dropout on; ``out`` an array that takes the output (its shape and dtype, C-contiguous,
        writable, apart from ``sequences``) and is returned in its place; ``lengths`` [N], in place of a mask: how many steps of
        each sequence count.
        Returns the output [N,U], or [N,T,U] with return_sequences; with return_state the tuple (output, h, c).
        Errors: ValueError for a wrong rank or size, T = 0, another batch size of a stateful layer; TypeError for arrays that
        hold no numbers; IndexError for an ``initial_state`` of fewer than two arrays and a ``mask`` of fewer than two axes;
        AttributeError for a ``mask`` in nested lists.
        """
        if lengths is not None:
            mask = devices.moved(mask_of_lengths(lengths, mask, np.shape(sequences)), devices.home(sequences))
        plan = self._plan  # read once: another thread may replace it
        if plan is not None and not selector.is_overridden():
            result = plan(sequences, initial_state, mask, out)
            if result is not None:
                return result
        if is_symbolic(sequences):
            return symbolic_call(self, sequences, initial_state=initial_state, mask=mask, training=training)
        place = self._elsewhere(sequences)
        if place is not None:
            y = moved_call(self, place, sequences, initial_state=initial_state, mask=mask, training=training)
            return y if out is None else self._with_output(y, out, sequences)
        x, mask, (h, c), masks = self._arguments(sequences, initial_state, mask, training)
        revision, spec = (self._revision, self.cell.revision), self.spec
        choice = selector.select(spec, x, mask, training=masks is not None)
        backend = choice.module
        y, h, c = getattr(backend, self.cell.verb)(
            spec,
            self.cell.prepared_weights(backend, devices.home(x)),
            cast(x, spec.arithmetic),
            h,
            c,
            mask,
            **({"dropout": masks} if masks else {}),
        )
        if out is not None:
            y = into_buffer(out, devices.as_array(y, self.storage_dtype), sequences)
        outputs = self._outputs(y, h, c)
        result = outputs if self.return_state else outputs[0]
        self._record_activity(result)
        self._make_plan(spec, choice, revision)
        return result

    def _elsewhere(self, sequences: Any) -> str | None:
        """Where the call must be moved to, or None."""
        return selector.elsewhere(sequences, self.spec if self.built else None)

    def _with_output(self, result: Any, out: Any, sequences: Any) -> Any:
        """``result`` of a call with ``out`` in place of its output."""
        if self.return_state:
            return (into_buffer(out, result[0], sequences), *result[1:])
        return into_buffer(out, result, sequences)

    def _make_plan(self, spec: RecurrentSpec, choice: selector.Choice, revision: tuple[int, int]) -> None:
        """The short way for the calls to come, unless this layer changed since ``revision``."""
        if self.activity_regularizer is None and choice.backend == "cpu":
            plan = cpu.call_plan(spec, self.cell, self.states, bool(self.return_state), self.input_spec.axes.get(2))
            if revision == (self._revision, self.cell.revision):
                self._plan = plan

    def _arguments(self, sequences: Any, initial_state: Any, mask: Any, training: bool) -> tuple:
        """The arguments of a call, checked: x [N,T,…], mask [N,T] or None, [h, c], dropout masks or None. Builds the layer."""
        x = self._as_sequences(sequences)
        if not self.built:
            self.build_once(x.shape)
        mask = as_mask(mask, x.shape[0], x.shape[1])
        if mask is not None:
            devices.check_home(mask, x, "mask", "sequences")
        states = self._start_states(initial_state, x)
        return x, mask, states, self.cell.draw_dropout((x.shape[0], *x.shape[2:]), bool(training), devices.home(x))

    def _outputs(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """(output, h, c) in the storage dtype; a stateful layer keeps the states."""
        outputs = tuple(devices.as_array(a, self.storage_dtype) for a in arrays)
        for state, value in zip(self.states or [], outputs[1:], strict=False):
            state.assign(value)
        return outputs

    # -- gradients ----------------------------------------------------------------------------------------------
    def vjp(  # type: ignore[override]
        self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = True, *, lengths: Any = None
    ) -> tuple[Any, Pullback]:
        """Runs the whole sequence and returns ``(outputs, pullback)``; ``pullback(dy)`` returns Gradients.

        Arguments and outputs as in a call. ``dy``: the cotangent of the output, with return_state a tuple (dy, dh, dc) (None: no
        gradient). Masked steps get a gradient of exactly 0. ``Gradients.initial_state`` is [dh, dc] for a given
        ``initial_state``; a stateful layer's carried states are constants, and it stores its new ones as a call does.
        Errors as in a call, and ValueError for a ``dy`` of another shape, NotImplementedError for activations that are the
        caller's own functions.
        """
        if lengths is not None:
            mask = devices.moved(mask_of_lengths(lengths, mask, np.shape(sequences)), devices.home(sequences))
        plan = self._plan
        if plan is not None and not selector.is_overridden():
            recorded = plan.record(sequences, initial_state, mask)
            if recorded is not None:
                return recorded[0], self._planned_pullback(plan, recorded[0], recorded[1], initial_state is not None)
        place = self._elsewhere(sequences)
        if place is not None:
            return moved_vjp(self, place, sequences, initial_state=initial_state, mask=mask, training=training)
        sequences = devices.adopt(sequences)
        if isinstance(initial_state, (list, tuple)):
            initial_state = [devices.adopt(state) for state in initial_state]
        x, valid, (h, c), masks = self._arguments(sequences, initial_state, mask, training)
        revision, spec = (self._revision, self.cell.revision), self.spec
        choice = selector.select(spec, x, valid, training=masks is not None, gradient=True)
        backend = choice.module
        dropout = {"dropout": masks} if masks else {}
        weights = self.cell.prepared_weights(backend, devices.home(x))
        forward, backward = (getattr(backend, verb) for verb in (self.cell.verb, self.cell.backward_verb))
        y, h, c, tape = forward(spec, weights, cast(x, spec.arithmetic), h, c, valid, record=True, **dropout)
        outputs = self._outputs(y, h, c)[: 3 if self.return_state else 1]
        result = outputs if self.return_state else outputs[0]
        self._record_activity(result)
        x_form, forms, answered = Form.of(require_array(sequences, "sequences")), [Form.of(a) for a in outputs], of_weights(self)
        given = None if initial_state is None else [Form.of(require_array(state, "initial_state")) for state in initial_state]

        def pullback(dy: Any) -> Gradients:
            dys = cotangents(dy, forms)
            dx, dh, dc, dweights = backward(spec, weights, tape, *dys, *[None] * (3 - len(dys)))
            states = None if given is None else state_gradients([dh, dc], given)
            return Gradients(like(dx, x_form), states, answered(dweights))

        self._make_plan(spec, choice, revision)
        return result, with_activity_losses(self, result, pullback)

    def _planned_pullback(self, plan: Any, result: Any, tape: Any, given: bool) -> Pullback:
        """The pullback of a call that the plan recorded, all arrays of the arithmetic dtype. ``given``: an initial state was."""
        outputs = result if self.return_state else (result,)
        forms, answered = [Form.of(a) for a in outputs], None if self._trains_all() else of_weights(self)

        def pullback(dy: Any) -> Gradients:
            pulled = plan.pull(tape, dy)
            if pulled is None:  # another dtype or layout, or an error
                dys = [None if a is None else np.ascontiguousarray(a) for a in cotangents(dy, forms)]
                pulled = plan.pull(tape, dys if len(forms) > 1 else dys[0])
            dx, dh, dc, weights = pulled
            return Gradients(dx, [dh, dc] if given else None, weights if answered is None else answered(weights))

        return pullback

    def _trains_all(self) -> bool:
        """True where no weight is frozen."""
        return self.trainable and self.cell.trainable and all(v.trainable for v in self.cell.weights)

    def __setattr__(self, name: str, value: Any) -> None:
        # A plan holds what the attributes said when it was made. The revision tells a call that is under way in another thread
        # that its own plan would be out of date.
        object.__setattr__(self, name, value)
        if name != "_plan":
            object.__setattr__(self, "_revision", self.__dict__.get("_revision", 0) + 1)
            object.__setattr__(self, "_plan", None)

    def __getstate__(self) -> dict:
        # A plan holds packed weights, which are derived data: a copy or a pickle makes its own.
        return {**self.__dict__, "_plan": None}

    def explain(self, sequences: Any, mask: Any = None, training: bool = False) -> selector.Choice:
        """Which backend and kernel would run this call, and why, without running it."""
        x = self._as_sequences(sequences)
        drops = bool(training) and (self.cell.dropout > 0 or self.cell.recurrent_dropout > 0)
        return selector.select(self.spec, x, as_mask(mask, x.shape[0], x.shape[1]), training=drops)

    def _start_states(self, initial_state: Any, x: np.ndarray) -> list[np.ndarray]:
        """[h, c] of the arithmetic dtype, where x lives: the caller's, the carried ones of a stateful layer, or zeros."""
        shape, arithmetic = self.cell.state_shape(len(x)), self.arithmetic_dtype
        if initial_state is None:
            if self.states is None:
                return [devices.module_of(x).zeros(shape, arithmetic) for _ in "hc"]
            return [cast(state.at(devices.home(x)).astype(self.storage_dtype), arithmetic) for state in self.states]
        states = check_states(initial_state, "initial_state", shape, self.storage_dtype, arithmetic)
        for state in states:
            devices.check_home(state, x, "initial_state", "sequences")
        return states


def state_gradients(gradients: Sequence[np.ndarray], given: Sequence[Form]) -> list[np.ndarray | None]:
    """[dh, dc] as the caller gave [h, c]: summed over the samples where one state served them all."""
    pairs = zip(gradients, given, strict=True)
    return [like(g.sum(axis=0, keepdims=True) if g.shape != form.shape else g, form) for g, form in pairs]


def into_buffer(out: Any, output: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Copies ``output`` to the caller's ``out`` and returns that. ValueError, TypeError where ``out`` cannot take it."""
    if not devices.is_array(out):
        raise TypeError(f"The argument `out` must be a NumPy array. Received: {type(out).__name__}")
    devices.check_home(out, output, "out", "sequences")
    if out.shape != output.shape or out.dtype != output.dtype:
        raise ValueError(
            f"The argument `out` must have shape {output.shape} and dtype {output.dtype}. "
            f"Received: out.shape={out.shape}, dtype={out.dtype}"
        )
    writeable = devices.is_on_gpu(out) or out.flags.writeable
    shares = devices.home(out) == devices.home(x) and np.may_share_memory(out, x)
    if not (writeable and out.flags.c_contiguous) or shares:
        raise ValueError("The argument `out` must be writable, C-contiguous and apart from `sequences`")
    out[...] = output
    return out


def check_states(states: Any, name: str, shape: tuple, storage: np.dtype, arithmetic: np.dtype) -> list[np.ndarray]:
    """[h, c] from a caller's list, each of ``shape`` (a batch axis of 1 broadcasts), rounded to ``storage``."""
    if not isinstance(states, Sequence) or len(states) < 2:
        got = f"a list of {len(states)}" if isinstance(states, Sequence) else type(states).__name__
        raise IndexError(f"The argument `{name}` must be a list of two arrays [h, c]. Received: {got}")
    if len(states) > 2:
        raise ValueError(f"The argument `{name}` must be a list of two arrays [h, c]. Received: a list of {len(states)}")
    checked = []
    for index, (label, state) in enumerate(zip("hc", states, strict=True)):
        array = require_array(state, f"{name}[{index}]")
        if array.ndim != len(shape) or array.shape[1:] != shape[1:] or array.shape[0] not in (1, shape[0]):
            raise ValueError(f"The argument `{name}` must hold arrays of shape {shape}. Received: {label}.shape={array.shape}")
        rounded = cast(array, storage)
        checked.append(cast(np.broadcast_to(rounded, shape), arithmetic))
    return checked
