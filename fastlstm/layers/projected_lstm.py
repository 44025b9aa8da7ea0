"""ProjectedLSTM: an LSTM whose state is a projection of what its cell puts out, as ``torch.nn.LSTM(…, proj_size=P)``.

Used by ``torch_lstm``; Keras has no such layer. Letters: N batch, T time, D input features, U units, P = ``proj_size``.

``z = x @ kernel + h @ recurrent_kernel + bias``, ``c = f*c + i*tanh(z_c)``, ``u = o*tanh(c)``, ``h = u @ projection``. Put h into
the next step's z, and what is left is a plain LSTM with the states (u, c) and the recurrent kernel ``projection @
recurrent_kernel`` [U,4U]: that is what runs, in the same kernels as every LSTM, and h is a product behind it. Only the first step
has an h that is no projection of a u: an initial state. It comes in as P more input features, which are zero in all other steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import selector
from ..arrays import as_mask, cast, check_rank, first_mask, mask_of_lengths, require_array
from ..spec import check_weight_sizes
from .base import Layer
from .checks import known_size, positive_int
from .gradients import Form, Gradients, Pullback, cotangents, like, of_weights, with_activity_losses
from .lstm import LSTM
from .prepared import Prepared
from .recurrent import state_gradients
from .sequence_layer import InputSpec, check_axes, check_rank_of_shape
from .symbolic import is_symbolic, symbolic_call


class _Inner(NamedTuple):
    """What runs: a plain LSTM, the values that its weights were made of, rows of u -> rows of h, the flags it was made for."""

    layer: LSTM
    values: list[np.ndarray]
    project: Callable[[np.ndarray], np.ndarray]
    flags: tuple[bool, bool, bool]


class ProjectedLSTM(Layer):
    """An LSTM with ``units`` cells and a state h of ``proj_size`` < units numbers.

    Call: as of LSTM; the output is [N,P], or [N,T,P] with ``return_sequences``; with ``return_state`` the tuple (output, h, c), h
    [N,P], c [N,U]. Weights: kernel [D,4U], recurrent_kernel [P,4U], bias [4U] (with ``use_bias``), projection [U,P].
    float32 and float64. ValueError for other dtypes, sizes that are no positive integers, and ``proj_size`` >= ``units``.
    """

    supports_masking = True
    stateful, states = False, None
    state_count = 2

    def __init__(
        self,
        units: Any,
        proj_size: Any,
        use_bias: Any = True,
        return_sequences: Any = False,
        return_state: Any = False,
        go_backwards: Any = False,
        zero_output_for_mask: Any = False,
        **kwargs: Any,
    ):
        if kwargs.pop("stateful", False):
            raise ValueError("A ProjectedLSTM keeps no states between calls: `stateful` must be False")
        super().__init__(**kwargs)
        self.units, self.proj_size = positive_int(units, "units"), positive_int(proj_size, "proj_size")
        if self.proj_size >= self.units:
            raise ValueError(f"`proj_size` must be smaller than `units`. Received: proj_size={proj_size}, units={units}")
        if self.compute_dtype not in ("float32", "float64"):
            raise ValueError(f"The `dtype` of a ProjectedLSTM must be float32 or float64. Received: {self.dtype_policy.name!r}")
        self.use_bias = use_bias
        self.return_sequences, self.return_state = return_sequences, return_state
        self.go_backwards, self.zero_output_for_mask = go_backwards, zero_output_for_mask
        self.input_spec = InputSpec(ndim=3)
        self._plain, self._started = Prepared(), Prepared()

    def _build(self, input_shape: Any) -> None:
        check_rank_of_shape(input_shape, 3, self.name)
        features, units, size = known_size(input_shape, 2, self.name), self.units, self.proj_size
        # What runs is an LSTM with a recurrent kernel [U,4U]: it must be possible too.
        check_weight_sizes([(features + size, 4 * units), (units, 4 * units)], units, "units")
        self._variables = []
        self.kernel = self.add_weight((features, 4 * units), "glorot_uniform", "kernel")
        self.recurrent_kernel = self.add_weight((size, 4 * units), "orthogonal", "recurrent_kernel")
        self.bias = self.add_weight((4 * units,), "zeros", "bias") if self.use_bias else None
        self.projection = self.add_weight((units, size), "glorot_uniform", "projection")
        self.input_spec = InputSpec(3, {2: features})

    # -- what runs ------------------------------------------------------------------------------------------------
    def _inner(self, started: bool) -> _Inner:
        """What runs now; ``started``: with P more input features for the initial h."""
        kept, flags = self._started if started else self._plain, self._flags()
        inner = kept.get(
            selector.glue_backend(), self._variables, lambda backend, _: self._make_inner(backend, started, flags), "cpu"
        )
        return inner if inner.flags == flags else self._make_inner(selector.glue_backend(), started, flags)

    def _flags(self) -> tuple[bool, bool, bool]:
        return bool(self.return_sequences), bool(self.go_backwards), bool(self.zero_output_for_mask)

    def _make_inner(self, backend: Any, started: bool, flags: tuple[bool, bool, bool]) -> _Inner:
        values = [self.weight_value(variable).copy() for variable in self._variables]
        kernel, recurrent, projection = values[0], values[1], values[-1]
        with np.errstate(all="ignore"):
            product = projection.astype(np.float64) @ recurrent.astype(np.float64)
        layer = LSTM(
            self.units,
            use_bias=bool(self.use_bias),
            kernel_initializer="zeros",
            recurrent_initializer="zeros",
            return_sequences=flags[0],
            return_state=True,
            go_backwards=flags[1],
            zero_output_for_mask=flags[2],
            dtype=self.dtype_policy,
            name=self.name,
        )
        kernel = np.concatenate([kernel, recurrent]) if started else kernel
        layer.build((None, None, len(kernel)))
        layer.set_weights([kernel, product.astype(recurrent.dtype), *values[2:-1]])
        return _Inner(layer, values, functools.partial(backend.affine, backend.prepare_matrix(projection, None)), flags)

    def _arguments(self, sequences: Any, initial_state: Any, mask: Any, lengths: Any) -> tuple:
        """x [N,T,D], mask [N,T] or None, (h [N,P], c [N,U]) or None; builds the layer."""
        self.check_runs_here(sequences)
        x = require_array(sequences, "sequences")
        check_rank(x, 3, self.name)
        check_axes(x.shape, self.input_spec.axes, self.name)
        if not self.built:
            self.build_once(x.shape)
        if lengths is not None:
            mask = mask_of_lengths(lengths, mask, x.shape)
        valid = as_mask(mask, x.shape[0], x.shape[1])
        states = None if initial_state is None else self._checked_states(initial_state, len(x))
        return cast(x, self.storage_dtype), valid, states

    def _checked_states(self, states: Any, batch: int) -> list[np.ndarray]:
        if not isinstance(states, Sequence) or len(states) != 2:
            got = f"a list of {len(states)}" if isinstance(states, Sequence) else type(states).__name__
            raise ValueError(f"The argument `initial_state` must be a list of two arrays [h, c]. Received: {got}")
        checked = []
        for label, state, size in zip("hc", states, (self.proj_size, self.units), strict=True):
            array = require_array(state, f"initial_state: {label}")
            if array.ndim != 2 or array.shape[1] != size or array.shape[0] not in (1, batch):
                raise ValueError(
                    f"`initial_state` must hold {label} of shape {(batch, size)}. Received: {label}.shape={array.shape}"
                )
            checked.append(np.broadcast_to(cast(array, self.storage_dtype), (batch, size)))
        return checked

    def _entry(self, x: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
        """[N]: the step at which each sample begins; without any valid step one that is masked."""
        steps = x.shape[1]
        if valid is None:
            return np.full(len(x), steps - 1 if self.go_backwards else 0)
        return steps - 1 - valid[:, ::-1].argmax(axis=1) if self.go_backwards else valid.argmax(axis=1)

    def _started_inputs(self, x: np.ndarray, valid: np.ndarray | None, states: Any) -> tuple[np.ndarray, Any]:
        """The inputs and the initial state of the LSTM that runs."""
        if states is None or x.shape[1] == 0:
            return x, None
        h, c = states
        begun = np.zeros((*x.shape[:2], self.proj_size), x.dtype)
        begun[np.arange(len(x)), self._entry(x, valid)] = h
        return np.concatenate([x, begun], axis=2), [np.zeros_like(c), c]

    def _project(self, inner: _Inner, u: np.ndarray) -> np.ndarray:
        rows = cast(u, self.arithmetic_dtype).reshape(-1, self.units)
        return np.asarray(inner.project(rows)).reshape(*u.shape[:-1], self.proj_size)

    def _finish(self, inner: _Inner, u: Any, last: Any, c: Any, empty: Any, states: Any) -> Any:
        """What a call returns, of the inner LSTM's outputs. ``empty`` [N]: samples without a valid step, whose h stays h."""
        outputs = [self._project(inner, u)]
        if self.return_state:
            h = self._project(inner, last)
            if empty is not None and states is not None:
                h[empty] = states[0][empty]
            outputs += [h, c]
        results = tuple(np.asarray(a, dtype=self.storage_dtype) for a in outputs)
        result = results if self.return_state else results[0]
        self._record_activity(result)
        return result

    # -- call -----------------------------------------------------------------------------------------------------
    def __call__(  # type: ignore[override]
        self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False, *, lengths: Any = None
    ) -> Any:
        """Runs the whole sequence; arguments and errors as of LSTM, ``initial_state`` [h, c] of [N,P] and [N,U]."""
        if is_symbolic(sequences):
            return symbolic_call(self, sequences, initial_state=initial_state, mask=mask, training=training)
        x, valid, states = self._arguments(sequences, initial_state, mask, lengths)
        inner = self._inner(states is not None)
        inputs, start = self._started_inputs(x, valid, states)
        u, last, c = inner.layer(inputs, initial_state=start, mask=valid)
        return self._finish(inner, u, last, c, None if valid is None else ~valid.any(axis=1), states)

    def vjp(  # type: ignore[override]
        self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = True, *, lengths: Any = None
    ) -> tuple[Any, Pullback]:
        """``(outputs, pullback)`` as of LSTM; ``Gradients.weights`` in the order kernel, recurrent_kernel, bias, projection."""
        x, valid, states = self._arguments(sequences, initial_state, mask, lengths)
        inner = self._inner(states is not None)
        inputs, start = self._started_inputs(x, valid, states)
        (u, last, c), pull = inner.layer.vjp(inputs, initial_state=start, mask=valid)
        empty = np.zeros(len(x), bool) if valid is None else ~valid.any(axis=1)
        result = self._finish(inner, u, last, c, empty, states)
        outputs = result if self.return_state else (result,)
        x_form, forms, answered = Form.of(np.asarray(sequences)), [Form.of(a) for a in outputs], of_weights(self)
        given = None if states is None else [Form.of(np.asarray(state)) for state in initial_state]
        entry = self._entry(x, valid)

        def pullback(dy: Any) -> Gradients:
            dys = [*cotangents(dy, forms), None, None][:3]
            dh_last, projection = dys[1], inner.values[-1]
            running = None if dh_last is None else np.where(empty[:, None], 0, dh_last)
            with np.errstate(all="ignore"):
                into = [None if d is None else d @ projection.T for d in (dys[0], running)]
                pulled: Any = pull((*into, dys[2]))
                dweights = self._weight_gradients(inner.values, pulled.weights, [(u, dys[0]), (last, running)])
            dinputs, dstates = pulled.inputs, None
            if given is not None:
                dh = np.where(empty[:, None], 0, dinputs[np.arange(len(x)), entry, x.shape[2] :])
                dh = dh if dh_last is None else dh + np.where(empty[:, None], dh_last, 0)
                dstates = state_gradients([dh, pulled.initial_state[1]], given)
            return Gradients(like(np.ascontiguousarray(dinputs[..., : x.shape[2]]), x_form), dstates, answered(dweights))

        return result, with_activity_losses(self, result, pullback)

    def _weight_gradients(self, values: list[np.ndarray], inner: Any, products: list) -> list[np.ndarray]:
        """From the gradients of the LSTM that runs: its recurrent kernel is a product of two weights, its kernel holds one."""
        kernel, recurrent, projection = values[0], values[1], values[-1]
        dkernel, dproduct = inner[0], inner[1]
        drecurrent = projection.T @ dproduct + (dkernel[len(kernel) :] if len(dkernel) > len(kernel) else 0)
        dprojection = dproduct @ recurrent.T
        for u, dh in products:
            if dh is not None:
                dprojection = dprojection + u.reshape(-1, self.units).T @ dh.reshape(-1, self.proj_size)
        return [dkernel[: len(kernel)], drecurrent, *inner[2:], dprojection]

    # -- shapes, masks, config ------------------------------------------------------------------------------------
    def compute_output_shape(self, input_shape: Any) -> Any:
        """[N,T,P] or [N,P]; with return_state a list of the output's and both states' shapes. ValueError for a wrong rank."""
        check_rank_of_shape(input_shape, 3, self.name)
        batch = input_shape[0]
        shape = (*input_shape[:2], self.proj_size) if self.return_sequences else (batch, self.proj_size)
        return [shape, (batch, self.proj_size), (batch, self.units)] if self.return_state else shape

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        output_mask = first_mask(mask) if self.return_sequences else None
        return [output_mask, None, None] if self.return_state else output_mask

    def get_config(self) -> dict:
        names = ("units", "proj_size", "use_bias", "return_sequences", "return_state", "go_backwards", "zero_output_for_mask")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
