"""TimeDistributed: applies one layer to every time step of its input (terms of ``keras.layers.TimeDistributed``).

In terms of any other Layer. In inference all steps of all samples run as one batch; step by step only where it matters.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import require_array
from . import activity
from .base import Layer
from .checks import floats_to
from .gradients import joining_activity_losses
from .wrapper import build_inner, inner_layer, serialize


class TimeDistributed(Layer):
    """[N,T,…] -> [N,T,…]: ``layer`` on each [N,…] slice of the time axis.

    ``mask`` [N,T,…]: step t of it goes to the inner layer; the whole mask goes on to the next layer (as Keras 3.15 does).
    An activity regularizer of the inner layer has no effect, as in Keras. ValueError for a ``layer`` that is none, an input of
    fewer than three axes, a mask of another batch size or length, and an inner layer that returns several arrays.
    """

    supports_masking = True
    runs_on_gpu = True

    def __init__(self, layer: Layer, **kwargs: Any):
        if not isinstance(layer, Layer):
            raise ValueError(f"Please initialize `TimeDistributed` with a layer. Received: layer={layer!r}")
        super().__init__(**kwargs)
        self.layer = layer
        self._layers = [layer]

    def _child_shape(self, shape: Any) -> tuple:
        if not isinstance(shape, (tuple, list)) or len(shape) < 3:
            raise ValueError(
                f"`TimeDistributed` needs an input of at least 3 axes (batch, time, …). Received: input_shape={shape}"
            )
        return (shape[0], *shape[2:])

    def _build(self, input_shape: Any) -> None:
        build_inner(self, self.layer, self._child_shape(input_shape))

    def _as_input(self, inputs: Any, name: str = "inputs") -> np.ndarray:
        return floats_to(inputs, name, self.storage_dtype)

    def call(self, x: np.ndarray, mask: Any = None, training: bool = False) -> np.ndarray:
        mask = self._checked(x, mask)
        return self._each_step(x, mask, training) if self._stepwise(x, training) else self._as_one_batch(x, mask)

    def _vjp(self, x: np.ndarray, mask: Any = None, training: bool = False) -> tuple[np.ndarray, Any]:
        mask = self._checked(x, mask)
        with joining_activity_losses(False):  # those of the inner layer do not count, see the class
            return self._inner_vjp(x, mask, training)

    def _inner_vjp(self, x: np.ndarray, mask: np.ndarray | None, training: bool) -> tuple[np.ndarray, Any]:
        if self._stepwise(x, training):
            return self._each_step_vjp(x, mask, training)
        batch, steps, *rest = x.shape
        merged = None if mask is None else mask.reshape(batch * steps, *mask.shape[2:])
        y, pullback = self.layer.vjp(x.reshape(batch * steps, *rest), mask=merged, training=training)
        shape = self._single(y).shape

        def pull(dy: np.ndarray) -> tuple[np.ndarray | None, list]:
            answer = pullback(dy.reshape(shape))
            return None if answer.inputs is None else answer.inputs.reshape(batch, steps, *rest), answer.weights

        return y.reshape(batch, steps, *shape[1:]), pull

    def _each_step_vjp(self, x: np.ndarray, mask: np.ndarray | None, training: bool) -> tuple[np.ndarray, Any]:
        slices = [None if mask is None else mask[:, t] for t in range(x.shape[1])]
        ran = [self.layer.vjp(x[:, t], mask=m, training=training) for t, m in enumerate(slices)]

        def pull(dy: np.ndarray) -> tuple[np.ndarray | None, list]:
            answers = [pullback(dy[:, t]) for t, (_, pullback) in enumerate(ran)]
            dxs = [answer.inputs for answer in answers if answer.inputs is not None]
            sums = [None if parts[0] is None else sum(parts) for parts in zip(*(a.weights for a in answers), strict=True)]
            return np.stack(dxs, axis=1) if dxs else None, sums

        return np.stack([self._single(y) for y, _ in ran], axis=1), pull

    def _stepwise(self, x: np.ndarray, training: bool) -> bool:
        """A carried state ties a step to the one before; training draws and counts each step by itself."""
        return bool(x.shape[1]) and (training or bool(getattr(self.layer, "stateful", False)))

    def _checked(self, x: np.ndarray, mask: Any) -> np.ndarray | None:
        """The mask as an array. ValueError for a mask of another size and for an ``x`` of fewer than three axes."""
        self._child_shape(x.shape)
        if mask is not None:
            mask = require_array(mask, "mask")
            if mask.shape[:2] != x.shape[:2]:
                raise ValueError(
                    f"`TimeDistributed` needs a `mask` of shape {x.shape[:2]} or longer. Received: mask.shape={mask.shape}"
                )
        return mask

    def _as_one_batch(self, x: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        batch, steps = x.shape[:2]
        rows = batch * steps
        merged = None if mask is None else mask.reshape(rows, *mask.shape[2:])
        y = self._single(self.layer(x.reshape(rows, *x.shape[2:]), mask=merged))
        return y.reshape(batch, steps, *y.shape[1:])

    def _each_step(self, x: np.ndarray, mask: np.ndarray | None, training: bool) -> np.ndarray:
        slices = (None if mask is None else mask[:, t] for t in range(x.shape[1]))
        return np.stack([self._single(self.layer(x[:, t], mask=m, training=training)) for t, m in enumerate(slices)], axis=1)

    def _single(self, y: Any) -> np.ndarray:
        if isinstance(y, (tuple, list)):
            raise ValueError(f'The layer inside "{self.name}" must return one array. "{self.layer.name}" returned {len(y)}')
        return y

    def _activity_losses(self, seen: set[int] | None = None) -> list[np.ndarray]:
        return activity.losses_of(self)  # without those of the inner layer, see the class

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        child = self.layer.compute_output_shape(self._child_shape(input_shape))
        return (child[0], input_shape[1], *child[1:])

    def get_config(self) -> dict:
        return {**super().get_config(), "layer": serialize(self.layer)}

    @classmethod
    def from_config(cls, config: dict) -> Any:
        """``config["layer"]``: the inner layer's 4-key dict."""
        return cls(**{**config, "layer": inner_layer(config.get("layer"))})
