"""The operators LSTM and DynamicQuantizeLSTM: ONNX's shapes and weights to the backends' and back.

What the kernels can do runs on them (``backends``' verb lstm_forward); peepholes, clip, input_forget and functions that Keras
does not have go through ``lstm_steps``. Sequences that end early (``sequence_lens``) are right-padded masks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ... import activations, selector
from ...arrays import cast
from ...backends import cpu
from ...io.onnx_schemas import Attribute, Formal, Schema
from ...spec import RecurrentSpec, check_weight_sizes
from .bound import Action, Node, binder, kernel
from .limits import UNASKED, allow
from .lstm_activations import Activation, read_activations
from .lstm_steps import Direction, run_steps
from .ops_matrix import in_place
from .registry import Call, computed, maker

DIRECTIONS = ("forward", "reverse", "bidirectional")


class Settings(NamedTuple):
    """The attributes of a node, read: ``functions`` has (f, g, h) of each direction."""

    directions: int
    reverse: tuple[bool, ...]
    functions: list[tuple[Activation, Activation, Activation]]
    clip: float
    input_forget: bool
    batch_first: bool
    units: int | None


def read_settings(call: Call) -> Settings:
    """ValueError for attributes that make no sense."""
    told = call.attributes
    direction = told["direction"]
    if direction not in DIRECTIONS:
        raise ValueError(f"its direction {direction!r} is not one of {', '.join(DIRECTIONS)}")
    reverse = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[direction]
    functions = read_activations(told.get("activations"), told.get("activation_alpha"), told.get("activation_beta"), len(reverse))
    layout = told.get("layout") or 0
    if layout not in (0, 1):
        raise ValueError(f"its layout {layout} is not 0 or 1")
    clip = told.get("clip") or 0.0
    if not clip >= 0:
        raise ValueError(f"its clip {clip} is not a threshold")
    return Settings(len(reverse), reverse, functions, clip, bool(told.get("input_forget")), layout == 1, told.get("hidden_size"))


def _wrong_settings(call: Call) -> str | None:
    try:
        read_settings(call)
    except ValueError as error:
        return str(error)
    return None


class Weights:
    """The weights of all directions, checked and in the kernels' layout; prepared for a backend at its first use."""

    def __init__(self, settings: Settings, w: np.ndarray, r: np.ndarray, b: np.ndarray | None, p: np.ndarray | None):
        self.settings = settings
        self.units = _units(settings, w, r, b, p)
        self.features = w.shape[2]
        self.dtype = np.dtype("float64" if w.dtype == np.float64 else "float32")
        self.parts = [self._direction(k, w, r, b, p) for k in range(settings.directions)]
        self.specs = [self._spec(part) for part in self.parts]
        self._prepared: dict[tuple[str, int], Any] = {}
        self.plans: list[Any] = [None] * settings.directions

    def _direction(self, k: int, w: np.ndarray, r: np.ndarray, b: np.ndarray | None, p: np.ndarray | None) -> Direction:
        biases = np.zeros((2, 4 * self.units)) if b is None else b[k].reshape(2, -1)
        return Direction(
            w[k].T.astype(self.dtype),
            r[k].T.astype(self.dtype),
            biases.astype(self.dtype).sum(axis=0),
            None if p is None else p[k].astype(self.dtype),
            self.settings.functions[k],
            self.settings.clip,
            self.settings.input_forget,
            self.settings.reverse[k],
        )

    def _spec(self, part: Direction) -> RecurrentSpec | None:
        """What a kernel must know of a direction, or None where it is one for ``lstm_steps``."""
        gate, candidate, out = part.activations
        if part.peepholes is not None or part.clip > 0 or part.input_forget or candidate != out:
            return None
        outer, inner = out.keras(self.dtype), gate.keras(self.dtype)
        if outer is None or inner is None:
            return None
        return RecurrentSpec(
            units=self.units,
            activation=activations.get(outer),
            recurrent_activation=activations.get(inner),
            return_sequences=True,
            go_backwards=part.reverse,
            zero_output_for_mask=True,
            storage=self.dtype.name,
        )

    def prepared(self, backend: Any, k: int) -> Any:
        """Direction ``k`` as the backend wants it, gates in Keras' order i, f, c, o."""
        if (backend.name, k) not in self._prepared:
            part = self.parts[k]
            arrays = [_keras_order(array) for array in (part.kernel, part.recurrent_kernel, part.bias)]
            self._prepared[backend.name, k] = backend.prepare(arrays)
        return self._prepared[backend.name, k]

    def run(self, k: int, x: np.ndarray, h: np.ndarray, c: np.ndarray, valid: np.ndarray | None) -> tuple[np.ndarray, ...]:
        """Direction ``k`` over x [N,T,I] -> y [N,T,U] in the order of time, h and c [N,U]."""
        spec, plan = self.specs[k], self.plans[k]
        if spec is None:
            return run_steps(self.parts[k], x, h, c, valid)
        ends = None if plan is None or selector.is_overridden() else plan(x, (h, c), valid, None)
        y, h, c = ends if ends is not None else self._run_unplanned(k, spec, x, h, c, valid)
        return (y[:, ::-1] if spec.go_backwards else y), h, c

    def _run_unplanned(self, k: int, spec: RecurrentSpec, *arrays: Any) -> tuple[Any, ...]:
        """The long way, which makes the plan of the calls to come; y in the order in which it was computed."""
        x, h, c, valid = arrays
        choice = selector.select(spec, x, valid)
        weights = self.prepared(choice.module, k)
        if choice.backend == "cpu":
            self.plans[k] = cpu.plan_of_constants(spec, weights)
        return choice.module.lstm_forward(spec, weights, *(cast(array, self.dtype) for array in (x, h, c)), valid)


def _keras_order(gates: np.ndarray) -> np.ndarray:
    """Gates i, o, f, c along the last axis -> i, f, c, o."""
    i, o, f, c = np.split(gates, 4, axis=-1)
    return np.ascontiguousarray(np.concatenate([i, f, c, o], axis=-1))


def _units(settings: Settings, w: np.ndarray, r: np.ndarray, b: np.ndarray | None, p: np.ndarray | None) -> int:
    """The number of units. ValueError where shapes do not fit each other or ``hidden_size``."""
    units = r.shape[-1] if r.ndim == 3 else 0
    d = settings.directions
    expected = {"W": (d, 4 * units, w.shape[-1] if w.ndim == 3 else 0), "R": (d, 4 * units, units), "B": (d, 8 * units)}
    expected["P"] = (d, 3 * units)
    for name, array in (("W", w), ("R", r), ("B", b), ("P", p)):
        if array is not None and (array.shape != expected[name] or not array.size):
            raise ValueError(f"its {name} of shape {array.shape} does not fit {d} directions and R of shape {r.shape}")
    if settings.units is not None and settings.units != units:
        raise ValueError(f"its hidden_size is {settings.units}, its R of shape {r.shape} has {units} units")
    check_weight_sizes([array.shape[1:] for array in (w, r)], units, "hidden_size")
    return units


def _run_quickly(weights: Weights, x: np.ndarray, h: np.ndarray | None, c: np.ndarray | None) -> tuple[np.ndarray, ...] | None:
    """What ``run_lstm`` returns, where a call needs no other dtype and x need not be turned; None for any other."""
    plan, first, units = weights.plans[0], weights.settings.batch_first, weights.units
    if plan is None or weights.settings.reverse != (False,) or h is None or c is None or x.ndim != 3 or selector.is_overridden():
        return None
    batch, steps = x.shape[:2] if first else x.shape[1::-1]
    state = (batch, 1, units) if first else (1, batch, units)
    if not (first or batch == 1 or steps == 1) or h.shape != state or c.shape != state:
        return None
    if batch * steps * max(x.shape[2], units) > UNASKED:
        return None
    turned = np.ascontiguousarray(x.reshape(batch, steps, x.shape[2]))
    states = np.ascontiguousarray(h.reshape(batch, units)), np.ascontiguousarray(c.reshape(batch, units))
    ends = plan(turned, states, None, None)
    if ends is None:
        return None
    y, h_end, c_end = ends
    return y.reshape((batch, steps, 1, units) if first else (steps, 1, batch, units)), h_end.reshape(state), c_end.reshape(state)


def _valid_steps(lengths: np.ndarray, batch: int, steps: int) -> np.ndarray | None:
    """The mask [N,T] of ``sequence_lens`` [N]; None where all sequences are complete. ValueError for wrong lengths."""
    if lengths.shape != (batch,) or (lengths < 0).any() or (lengths > steps).any():
        listed = lengths.reshape(-1)[:8].tolist()
        raise ValueError(f"its sequence_lens must be {batch} numbers of 0 to {steps}. Received: {listed}, shape {lengths.shape}")
    return None if (lengths == steps).all() else np.arange(steps) < lengths[:, None]


def _states(given: np.ndarray | None, name: str, shape: tuple[int, int, int], batch_first: bool, dtype: np.dtype) -> np.ndarray:
    """An initial state as [D,N,U]."""
    if given is None:
        return np.zeros(shape, dtype)
    state = given.swapaxes(0, 1) if batch_first and given.ndim == 3 else given
    if state.shape != shape:
        wanted = (shape[1], shape[0], shape[2]) if batch_first else shape
        raise ValueError(f"its {name} must have the shape {wanted}. Received: {given.shape}")
    return np.ascontiguousarray(state, dtype)


def run_lstm(
    weights: Weights, x: np.ndarray, lengths: np.ndarray | None, h: np.ndarray | None, c: np.ndarray | None
) -> tuple[np.ndarray, ...]:
    """Y, Y_h, Y_c in the node's layout: x [T,N,I] -> Y [T,D,N,U]; with layout 1 [N,T,I] -> [N,T,D,U]; states [D,N,U] or [N,D,U].

    A sequence of length 0 has zeros for outputs and states, whatever its initial state, as in onnxruntime.
    """
    if lengths is None and (found := _run_quickly(weights, x, h, c)) is not None:
        return found
    settings, units, first = weights.settings, weights.units, weights.settings.batch_first
    if x.ndim != 3 or x.shape[2] != weights.features:
        raise ValueError(f"its X must have three axes, the last one {weights.features} long. Received: {x.shape}")
    batch, steps = x.shape[:2] if first else x.shape[1::-1]
    if settings.directions * batch * steps * max(units, weights.features) > UNASKED:
        allow((settings.directions, batch, steps, max(units, weights.features)), weights.dtype)
    valid = None if lengths is None else _valid_steps(lengths, batch, steps)
    shape = (settings.directions, batch, units)
    h_end, c_end = (_states(s, n, shape, first, weights.dtype) for s, n in ((h, "initial_h"), (c, "initial_c")))
    if not batch or not steps:  # nothing to run; the kernels want at least one of each
        y = np.zeros((settings.directions, batch, steps, units), weights.dtype)
    else:
        rows = x if first else _swapped(x)
        rows = np.ascontiguousarray(rows, weights.dtype)
        if settings.directions == 1:
            y, h_end, c_end = (part[None] for part in weights.run(0, rows, h_end[0], c_end[0], valid))
        else:
            ends = [weights.run(k, rows, h_end[k], c_end[k], valid) for k in range(settings.directions)]
            y, h_end, c_end = (np.stack(part) for part in zip(*ends, strict=True))
    if lengths is not None:
        h_end, c_end = (np.where(lengths[:, None] > 0, end, np.zeros((), end.dtype)) for end in (h_end, c_end))
    if first:
        h_end, c_end = h_end.swapaxes(0, 1), c_end.swapaxes(0, 1)
    y = y.transpose(_LAYOUTS[first])
    if x.dtype != weights.dtype:
        y, h_end, c_end = (part.astype(x.dtype) for part in (y, h_end, c_end))
    return y, h_end, c_end


# Y [D,N,T,U] -> [T,D,N,U], with layout 1 [N,T,D,U]
_LAYOUTS = ((2, 0, 1, 3), (1, 2, 0, 3))


def _swapped(x: np.ndarray) -> np.ndarray:
    """x [T,N,I] -> [N,T,I], a view that is C-contiguous where x is and one of T and N is 1."""
    steps, batch, features = x.shape
    return x.reshape(batch, steps, features) if batch == 1 or steps == 1 else x.swapaxes(0, 1)


@maker("LSTM", latest=22, refuses=_wrong_settings, heavy=True)
def _make_lstm(call: Call, constants: Sequence[np.ndarray | None]) -> Callable[..., Any]:
    """Inputs X, W, R, B, sequence_lens, initial_h, initial_c, P. Constant weights are prepared once; others at every call."""
    settings = read_settings(call)
    weights = None
    if not computed(call, constants, 1, 2, 3, 7):
        w, r, b, p = ([*constants, *[None] * 8][k] for k in (1, 2, 3, 7))
        assert w is not None
        assert r is not None
        weights = Weights(settings, w, r, b, p)

    def run(
        x: np.ndarray,
        w: np.ndarray,
        r: np.ndarray,
        b: np.ndarray | None = None,
        lengths: np.ndarray | None = None,
        h: np.ndarray | None = None,
        c: np.ndarray | None = None,
        p: np.ndarray | None = None,
    ) -> Any:
        return run_lstm(Weights(settings, w, r, b, p), x, lengths, h, c)

    return run if weights is None else Constant(weights)


class Constant:
    """An LSTM whose weights are constants, of either operator."""

    def __init__(self, weights: Weights):
        self.weights = weights

    def __call__(self, *arrays: np.ndarray | None) -> Any:
        x, lengths, h, c = arrays[0], *(arrays[k] if len(arrays) > k else None for k in (4, 5, 6))
        assert x is not None
        return run_lstm(self.weights, x, lengths, h, c)


@binder("LSTM")
@binder("DynamicQuantizeLSTM", domain="com.microsoft")
def _bind_lstm(node: Node) -> list[Action] | None:
    """One direction forwards over complete sequences on the compiled kernels: what ``_run_quickly`` runs."""
    x, lengths, h, c = (node.arrays[k] if len(node.arrays) > k else None for k in (0, 4, 5, 6))
    assert x is not None
    weights = node.run.weights if isinstance(node.run, Constant) else None
    if weights is None or weights.settings.reverse != (False,) or lengths is not None or x.dtype != weights.dtype or not x.size:
        return None
    plan, first, units = weights.plans[0], weights.settings.batch_first, weights.units
    batch, steps = x.shape[:2] if first else x.shape[1::-1]
    if plan is None or not (first or batch == 1 or steps == 1):
        return None
    rows, actions = in_place(x, (batch, steps, weights.features))
    states = []
    for state in (h, c):
        given = np.zeros((batch, units), x.dtype) if state is None else state
        array, copies = in_place(given, (batch, units))
        states.append(array)
        actions += copies
    shapes, ends = ((batch, steps, units), (batch, units), (batch, units)), []
    for k, shape in enumerate(shapes):
        wanted = node.results[k] if len(node.results) > k else None
        # C-contiguous as the kernels write it, in ONNX's order: one direction, and N or T is 1 where T comes first.
        ends.append(np.empty(shape, x.dtype) if wanted is None else wanted.reshape(shape))
    if any(array is not None and not array.flags.c_contiguous for array in node.results):
        return None
    return [*actions, kernel(plan.bound(rows, tuple(states), *ends), (rows, *states), ends)]


# -- DynamicQuantizeLSTM ----------------------------------------------------------------------------------------------------
_FLOAT, _BYTES, _COUNTS = frozenset({"float32"}), frozenset({"int8", "uint8"}), frozenset({"int32"})
_QUANTIZED = Schema(
    since=1,
    inputs=(
        Formal("X", _FLOAT, "T"),
        Formal("W", _BYTES, "T2"),
        Formal("R", _BYTES, "T2"),
        Formal("B", _FLOAT, "T", optional=True),
        Formal("sequence_lens", _COUNTS, "T1", optional=True),
        *(Formal(name, _FLOAT, "T", optional=True) for name in ("initial_h", "initial_c", "P")),
        Formal("W_scale", _FLOAT, "T"),
        Formal("W_zero_point", _BYTES, "T2"),
        Formal("R_scale", _FLOAT, "T"),
        Formal("R_zero_point", _BYTES, "T2"),
    ),
    outputs=tuple(Formal(name, _FLOAT, "T") for name in ("Y", "Y_h", "Y_c")),
    fewest=(12, 0),
    most=(12, 3),
    attributes={
        "activations": Attribute("STRINGS", False, None),
        "activation_alpha": Attribute("FLOATS", False, None),
        "activation_beta": Attribute("FLOATS", False, None),
        "clip": Attribute("FLOAT", False, None),
        "direction": Attribute("STRING", False, "forward"),
        "hidden_size": Attribute("INT", False, None),
        "input_forget": Attribute("INT", False, 0),
    },
)


def dequantized(matrix: np.ndarray, scale: np.ndarray, zero: np.ndarray, directions: int) -> np.ndarray:
    """(matrix - zero) scale: matrix [D,K,4U] of bytes -> float32 [D,4U,K]; scale and zero [D], or [D,4U] one a column."""
    if matrix.ndim != 3 or matrix.shape[0] != directions:
        raise ValueError(f"its weights must have the shape ({directions}, K, 4 U). Received: {matrix.shape}")
    columns = []
    for part in (scale, zero):
        if part.shape not in ((directions,), (directions, matrix.shape[2])):
            raise ValueError(f"a scale or zero point of shape {part.shape} does not fit weights of shape {matrix.shape}")
        columns.append(part.reshape(directions, 1, -1))
    wide = matrix.astype(np.int32) - columns[1].astype(np.int32)
    return (wide.astype(np.float32) * columns[0]).swapaxes(1, 2)


@maker("DynamicQuantizeLSTM", latest=1, domain="com.microsoft", schema=_QUANTIZED, refuses=_wrong_settings, heavy=True)
def _make_quantized(call: Call, constants: Sequence[np.ndarray | None]) -> Callable[..., Any]:
    """onnxruntime's LSTM with weights of 8 bits; here they become floats again, and nothing else is rounded to 8 bits."""
    settings = read_settings(call)

    def weights_of(arrays: Sequence[np.ndarray | None]) -> Weights:
        w, r = (dequantized(arrays[k], arrays[s], arrays[s + 1], settings.directions) for k, s in ((1, 8), (2, 10)))  # type: ignore[arg-type]
        return Weights(settings, w, r, arrays[3], arrays[7])

    if not computed(call, constants, 1, 2, 3, 7, 8, 9, 10, 11):
        return Constant(weights_of(constants))

    def run(*arrays: np.ndarray | None) -> Any:
        x, lengths, h, c = (arrays[k] for k in (0, 4, 5, 6))
        assert x is not None
        return run_lstm(weights_of(arrays), x, lengths, h, c)

    return run
