"""SeveralInputs: base of the layers that take a list of arrays: merges and attention (terms of ``keras.layers``).

A subclass implements ``call(xs, mask=, training=, **options)`` and ``_vjp``, which answers dy -> ([dx, …], dweights).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import devices, selector
from ..arrays import cast, require_array
from .base import Layer
from .gradients import Form, Gradients, Pullback, cotangents, like, of_weights, with_activity_losses
from .moving import moved_call, moved_vjp
from .nest import is_several_shapes
from .symbolic import is_symbolic, symbolic_call


class SeveralInputs(Layer):
    """A layer of a list of arrays. ``mask``: a list like it, None for an array without a mask.

    ValueError for what is no list, for fewer than ``_least`` or more than ``_most`` arrays, and a mask list of another length.
    """

    supports_masking = True
    takes_list = True  # also a list of one: ``models.graph_config`` asks
    _least, _most = 1, 2**31
    _options: tuple[str, ...] = ()  # names of further arguments of the call
    call: Any
    _vjp: Any
    compute_output_shape: Any

    def _check_list(self, inputs: Any, what: str) -> None:
        if not isinstance(inputs, (list, tuple)):
            got = type(inputs).__name__
            raise ValueError(f"The {what} of a {type(self).__name__} layer must be a list. Received: {got} by {self.name!r}")
        if not self._least <= len(inputs) <= self._most:
            number = f"{self._least}" if self._least == self._most else f"at least {self._least}"
            if self._least < self._most < 2**31:
                number = f"{self._least} to {self._most}"
            wrong = f"The {what} of a {type(self).__name__} layer must be a list of {number}"
            raise ValueError(f"{wrong}. Received: {len(inputs)} by {self.name!r}")

    def _as_inputs(self, inputs: Any) -> list[np.ndarray]:
        """Each array checked and cast to the storage dtype."""
        self._check_list(inputs, "inputs")
        return [cast(require_array(x, f"inputs[{k}]"), self.storage_dtype) for k, x in enumerate(inputs)]

    def _as_masks(self, mask: Any, count: int) -> list[np.ndarray | None] | None:
        """One mask (or None) for each array; None where nothing is masked."""
        if mask is None:
            return None
        if not isinstance(mask, (list, tuple)) or len(mask) != count:
            got = f"a list of {len(mask)}" if isinstance(mask, (list, tuple)) else type(mask).__name__
            raise ValueError(f"The `mask` of layer {self.name!r} must be a list of {count} masks or None. Received: {got}")
        masks = [None if one is None else require_array(one, f"mask[{k}]") != 0 for k, one in enumerate(mask)]
        return None if all(one is None for one in masks) else masks

    def build(self, input_shape: Any) -> None:
        """``input_shape``: a list of shapes. ValueError for shapes that do not go together."""
        if not isinstance(input_shape, (list, tuple)) or not is_several_shapes(input_shape):
            raise ValueError(f"Layer {self.name!r} takes a list of inputs. Received: input_shape={input_shape!r}")
        self._check_list(input_shape, "inputs")
        super().build([tuple(shape) for shape in input_shape])

    def _build(self, input_shape: Any) -> None:
        self.compute_output_shape(input_shape)

    def __call__(self, inputs: Any, mask: Any = None, training: bool = False, **options: Any) -> Any:
        """Runs the layer on a list of arrays."""
        self._check_options(options)
        if is_symbolic(inputs):
            return symbolic_call(self, list(inputs), mask=mask, training=training, **options)
        place = self._elsewhere(inputs)
        if place is not None:
            return moved_call(self, place, inputs, mask=mask, training=training, **options)
        xs = self._ready(inputs)
        outputs = self.call(xs, mask=self._as_masks(mask, len(xs)), training=bool(training), **options)
        self._record_activity(outputs)
        return outputs

    def _elsewhere(self, inputs: Any) -> str | None:
        """Where the call must be moved to, or None; a layer that does not run there says so."""
        arrays = list(inputs) if isinstance(inputs, (list, tuple)) else []
        if not self.runs_on_gpu or not arrays:
            return None
        for other in arrays[1:]:
            devices.check_home(other, arrays[0], "inputs", "inputs[0]")
        return selector.elsewhere(arrays[0])

    def _check_options(self, options: dict[str, Any]) -> None:
        wrong = next((name for name in options if name not in self._options), None)
        if wrong is not None:
            raise TypeError(f"The call of a {type(self).__name__} layer got an unexpected keyword argument {wrong!r}")

    def _ready(self, inputs: Any) -> list[np.ndarray]:
        """The arrays; the layer is built, and the shapes go together."""
        self.check_runs_here(*inputs)
        xs = self._as_inputs(inputs)
        if not self.built:
            self.build_once([x.shape for x in xs])
        self.compute_output_shape([x.shape for x in xs])
        return xs

    def vjp(self, inputs: Any, mask: Any = None, training: bool = True, **options: Any) -> tuple[Any, Pullback]:
        """``(outputs, pullback)``, see ``Layer.vjp``; ``Gradients.inputs`` is a list like ``inputs``."""
        self._check_options(options)
        place = self._elsewhere(inputs)
        if place is not None:
            return moved_vjp(self, place, inputs, mask=mask, training=training, **options)
        inputs = [devices.adopt(x) for x in inputs] if isinstance(inputs, (list, tuple)) else inputs
        xs = self._ready(inputs)
        given = [require_array(x, "inputs") for x in inputs]
        xs = [x.copy() if np.may_share_memory(x, own) else x for x, own in zip(xs, given, strict=True)]
        outputs, pull = self._vjp(xs, mask=self._as_masks(mask, len(xs)), training=bool(training), **options)
        self._record_activity(outputs)
        several = isinstance(outputs, tuple)
        forms = [Form.of(y) for y in (outputs if several else (outputs,))]
        x_forms, weights = [Form.of(x) for x in given], of_weights(self)

        def pullback(dy: Any) -> Gradients:
            dys = [f.zeros() if d is None else d for d, f in zip(cotangents(dy, forms), forms, strict=True)]
            dxs, dweights = pull(dys if several else dys[0])
            own = [
                None if form.dtype.kind in "iub" else like(dx, form).copy()  # type: ignore[union-attr]
                for dx, form in zip(dxs, x_forms, strict=True)
            ]
            return Gradients(own, None, weights(dweights))  # type: ignore[arg-type]

        return outputs, with_activity_losses(self, outputs, pullback)


def summed_to(gradient: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of an array of ``shape`` that was broadcast to the shape of ``gradient``."""
    gradient = gradient.sum(axis=tuple(range(gradient.ndim - len(shape))))
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1 and gradient.shape[axis] != 1)
    return gradient.sum(axis=axes, keepdims=True) if axes else gradient
