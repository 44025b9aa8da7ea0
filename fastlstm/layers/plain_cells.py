"""SimpleRNNCell and GRUCell: one step forwards and backwards in plain NumPy (terms of ``keras.layers``).

Used by ``plain_recurrent``, which runs whole sequences of them. Letters: N batch, D input features, U units.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import activations, constraints, initializers, regularizers
from ..arrays import cast, check_rank, require_array
from ..random import SeedGenerator, dropout_mask
from ..spec import as_count, check_units, check_weight_sizes, clip_rate
from .base import Layer
from .checks import known_size

# Constructor arguments that both cells have, in Keras' order.
_SHARED = (
    "use_bias",
    "kernel_initializer",
    "recurrent_initializer",
    "bias_initializer",
    "kernel_regularizer",
    "recurrent_regularizer",
    "bias_regularizer",
    "kernel_constraint",
    "recurrent_constraint",
    "bias_constraint",
    "dropout",
    "recurrent_dropout",
)
SIMPLE_ARGUMENTS = ("units", "activation", *_SHARED, "seed")
GRU_ARGUMENTS = ("units", "activation", "recurrent_activation", *_SHARED, "reset_after", "seed")


class Masks(NamedTuple):
    """Scales of a call: for each gate one array, or None where nothing is dropped."""

    inputs: list[np.ndarray] | None
    recurrent: list[np.ndarray] | None


class PlainCell(Layer):
    """Base of the two: arguments, variables, dropout, one step. A subclass says ``forward`` and ``backward``."""

    arguments: tuple[str, ...] = ()
    gates = 1
    ndim = 2  # axes of a step's input
    one_drops = False  # whether a dropout rate of 1 drops everything, or nothing

    def __init__(self, arguments: dict[str, Any], /, **kwargs: Any):
        super().__init__(**kwargs)
        self.units = check_units(arguments["units"])
        for name in self.arguments:
            if name.endswith("activation"):
                setattr(self, name, activations.get(arguments[name]))
        self.use_bias, self.seed = arguments["use_bias"], arguments["seed"]
        for part in ("kernel", "recurrent", "bias"):
            setattr(self, f"{part}_initializer", initializers.get(arguments[f"{part}_initializer"]))
            setattr(self, f"{part}_regularizer", regularizers.get(arguments[f"{part}_regularizer"]))
            setattr(self, f"{part}_constraint", constraints.get(arguments[f"{part}_constraint"]))
        self.dropout = clip_rate(arguments["dropout"], "dropout")
        self.recurrent_dropout = clip_rate(arguments["recurrent_dropout"], "recurrent_dropout")
        self.seed_generator = SeedGenerator(self.seed)
        self.path = self.name

    activation: Any
    recurrent_activation: Any
    kernel: Any
    recurrent_kernel: Any
    bias: Any

    @property
    def state_size(self) -> int:
        return self.units

    @property
    def output_size(self) -> int:
        return self.units

    def state_shape(self, batch: int) -> tuple[int, int]:
        """Shape of h: (N, U)."""
        return batch, int(self.units)

    def input_axes(self) -> dict[int, int]:
        return {1: self.kernel.shape[0]}

    def _bias_shape(self, width: int) -> tuple[int, ...]:
        return (width,)

    def _build(self, input_shape: Any) -> None:
        features, units = known_size(input_shape, -1, self.name), as_count(self.units, "units")
        width = self.gates * units
        shapes = ((features, width), (units, width), self._bias_shape(width))
        check_weight_sizes(shapes, units, "units")
        self._variables = []
        self.bias = None
        parts = (("kernel", "kernel"), ("recurrent", "recurrent_kernel"), ("bias", "bias"))
        for (part, name), shape in zip(parts, shapes, strict=True):
            if part == "bias" and not self.use_bias:
                continue
            options = {"regularizer": getattr(self, f"{part}_regularizer"), "constraint": getattr(self, f"{part}_constraint")}
            initializer = getattr(self, f"{part}_initializer")
            setattr(self, name, self.add_weight(shape, initializer, name, path=f"{self.path}/{name}", **options))

    def values(self) -> list[np.ndarray | None]:
        """kernel, recurrent kernel and bias (or None) as the arithmetic sees them; later writes do not reach them."""
        listed = (self.kernel, self.recurrent_kernel, self.bias)
        return [None if variable is None else self.weight_value(variable) for variable in listed]

    def draw_masks(self, batch: int, features: int) -> Masks:
        """Dropout masks of one call. At a rate of 1 Keras' GRU uses none, its SimpleRNN masks of zeros."""
        sizes = (
            (self.dropout, features, self._mask_count(False)),
            (self.recurrent_dropout, int(self.units), self._mask_count(True)),
        )
        drawn = [[self._draw((batch, width), rate) for _ in range(count)] if rate > 0 else [] for rate, width, count in sizes]
        rates = (self.dropout, self.recurrent_dropout)
        every = [masks * (self.gates // max(len(masks), 1)) for masks in drawn]
        drops = [bool(masks) and (rate < 1 or self.one_drops) for masks, rate in zip(every, rates, strict=True)]
        return Masks(*(masks if used else None for masks, used in zip(every, drops, strict=True)))

    def _draw(self, shape: tuple[int, int], rate: float) -> np.ndarray:
        return dropout_mask(self.seed_generator, shape, float(rate), self.arithmetic_dtype)

    def _mask_count(self, recurrent: bool) -> int:
        return 1

    def forward(self, values: Any, x: np.ndarray, h: np.ndarray, masks: Masks) -> tuple[np.ndarray, Any]:
        """x [N,D], h [N,U] -> the new h, and what ``backward`` needs."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it steps")

    def backward(self, values: Any, saved: Any, dh: np.ndarray, masks: Masks) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """dh of the new h -> (dx, dh of the old h, gradients of the weights)."""
        raise NotImplementedError(f"{type(self).__name__} has no gradients")

    def get_initial_state(self, batch_size: int | None = None) -> list[np.ndarray]:
        """One array of zeros [N,U] of the compute dtype."""
        return [np.zeros(self.state_shape(batch_size or 1), self.storage_dtype)]

    def __call__(self, inputs: Any, states: Any, training: bool = False) -> Any:  # type: ignore[override]
        """One step: x [N,D] and the state [N,U], alone or in a list; returns (h, the state in the same form)."""
        self.check_runs_here(inputs)
        x = cast(require_array(inputs, "inputs"), self.storage_dtype)
        check_rank(x, 2, self.name)
        if not self.built:
            self.build_once(x.shape)
        listed = isinstance(states, (list, tuple))
        h = cast(require_array(states[0] if listed else states, "states"), self.arithmetic_dtype)
        masks = self.draw_masks(len(x), x.shape[1]) if training else Masks(None, None)
        with np.errstate(all="ignore"):
            h, _ = self.forward(self.values(), cast(x, self.arithmetic_dtype), h, masks)
        h = cast(h, self.storage_dtype)
        return h, ([h] if listed else h)

    def _config_of(self, names: tuple[str, ...]) -> dict:
        config: dict[str, Any] = {}
        for name in names:
            value = getattr(self, name)
            for suffix, module in _SERIALIZERS.items():
                value = module.serialize(value) if name.endswith(suffix) else value
            config[name] = value
        return config

    def get_config(self) -> dict:
        return {**super().get_config(), **self._config_of(self.arguments)}


_SERIALIZERS: dict[str, Any] = {
    "activation": activations,
    "_initializer": initializers,
    "_regularizer": regularizers,
    "_constraint": constraints,
}


def _scaled(a: np.ndarray, masks: list[np.ndarray] | None, gate: int) -> np.ndarray:
    return a if masks is None else a * masks[gate]


class SimpleRNNCell(PlainCell):
    """h' = activation(x @ kernel + bias + h @ recurrent_kernel)."""

    arguments = SIMPLE_ARGUMENTS
    one_drops = True

    def forward(self, values: Any, x: np.ndarray, h: np.ndarray, masks: Masks) -> tuple[np.ndarray, Any]:
        kernel, recurrent, bias = values
        x, h = _scaled(x, masks.inputs, 0), _scaled(h, masks.recurrent, 0)
        z = x @ kernel + (0 if bias is None else bias) + h @ recurrent
        y = np.asarray(self.activation(z))
        return y, (x, h, z, y)

    def backward(self, values: Any, saved: Any, dh: np.ndarray, masks: Masks) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        kernel, recurrent, bias = values
        x, h, z, y = saved
        dz = activations.vjp(self.activation)(z, y, dh)
        gradients = [x.T @ dz, h.T @ dz] + ([] if bias is None else [dz.sum(axis=0)])
        return _scaled(dz @ kernel.T, masks.inputs, 0), _scaled(dz @ recurrent.T, masks.recurrent, 0), gradients


class GRUCell(PlainCell):
    """Gates z (keep), r (reset) and the candidate: h' = z * h + (1 - z) * candidate (Cho et al. 2014).

    ``reset_after``: r scales the recurrent product, and there are two biases [2,3U]; else r scales h before it, one bias [3U].
    """

    arguments = GRU_ARGUMENTS
    gates = 3
    reset_after: Any
    implementation: Any

    def _bias_shape(self, width: int) -> tuple[int, ...]:
        return (2, width) if self.reset_after else (width,)

    def _mask_count(self, recurrent: bool) -> int:
        return 3 if recurrent or self.implementation == 1 else 1

    def forward(self, values: Any, x: np.ndarray, h: np.ndarray, masks: Masks) -> tuple[np.ndarray, Any]:
        kernels, recurrents = (np.split(matrix, 3, axis=1) for matrix in values[:2])
        own, other = self._biases(values[2])
        xs, hs = ([_scaled(a, m, k) for k in range(3)] for a, m in ((x, masks.inputs), (h, masks.recurrent)))
        inputs = [a @ w + b for a, w, b in zip(xs, kernels, own, strict=True)]
        inner = [hs[k] @ recurrents[k] + other[k] for k in range(3 if self.reset_after else 2)]
        pre = [inputs[k] + inner[k] for k in range(2)]
        z, r = (np.asarray(self.recurrent_activation(a)) for a in pre)
        pre.append(inputs[2] + (r * inner[2] if self.reset_after else (r * hs[2]) @ recurrents[2]))
        candidate = np.asarray(self.activation(pre[2]))
        return z * h + (1 - z) * candidate, (xs, h, hs, inner, pre, z, r, candidate)

    def _biases(self, bias: np.ndarray | None) -> tuple[list[Any], list[Any]]:
        """Of the inputs and of the recurrent products, gate by gate."""
        if bias is None:
            return [0] * 3, [0] * 3
        if self.reset_after:
            return list(np.split(bias[0], 3)), list(np.split(bias[1], 3))
        return list(np.split(bias, 3)), [0] * 3

    def backward(self, values: Any, saved: Any, dh: np.ndarray, masks: Masks) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        kernels, recurrents = (np.split(matrix, 3, axis=1) for matrix in values[:2])
        xs, h, hs, inner, pre, z, r, candidate = saved
        recurrent_activation = activations.vjp(self.recurrent_activation)
        dcandidate = activations.vjp(self.activation)(pre[2], candidate, dh * (1 - z))
        dz = recurrent_activation(pre[0], z, dh * (h - candidate))
        before = dh * z
        if self.reset_after:
            dr, dlast = dcandidate * inner[2], dcandidate * r
            reset = hs[2]
        else:
            reset, dlast = r * hs[2], dcandidate
            dreset = dcandidate @ recurrents[2].T
            dr = dreset * hs[2]
            before = before + _scaled(dreset * r, masks.recurrent, 2)
        of_inputs = [dz, recurrent_activation(pre[1], r, dr), dcandidate]
        of_inner = [*of_inputs[:2], dlast]
        for k in range(3 if self.reset_after else 2):
            before = before + _scaled(of_inner[k] @ recurrents[k].T, masks.recurrent, k)
        dx = np.zeros_like(xs[0])
        for k, (d, kernel) in enumerate(zip(of_inputs, kernels, strict=True)):
            dx += _scaled(d @ kernel.T, masks.inputs, k)
        sources = [hs[0], hs[1], reset]
        gradients = [
            np.concatenate([a.T @ d for a, d in zip(xs, of_inputs, strict=True)], axis=1),
            np.concatenate([a.T @ d for a, d in zip(sources, of_inner, strict=True)], axis=1),
        ]
        if values[2] is not None:
            sums = [np.concatenate([d.sum(axis=0) for d in listed]) for listed in (of_inputs, of_inner)]
            gradients.append(np.stack(sums) if self.reset_after else sums[0])
        return dx, before, gradients
