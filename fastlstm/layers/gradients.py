"""Gradients: what a pullback of ``layer.vjp`` answers, and the checks and dtypes of cotangents that all layers share.

Used by every layer and by ``models.sequential``. A gradient has the dtype of what it belongs to, but float32 where that is a
16-bit type: small gradients would vanish there, and Keras has to scale losses for it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import activations, devices, regularizers


class Gradients(NamedTuple):
    """Gradients for the cotangents that a pullback was given.

    ``inputs``: of the shape of the inputs, None for integers. ``initial_state``: list [dh, dc] (Bidirectional: four), None
    where no initial state was given. ``weights``: a list in ``get_weights()`` order, None for weights that are not trained.
    """

    inputs: np.ndarray | None
    initial_state: list[np.ndarray | None] | None
    weights: list[np.ndarray | None]


Pullback = Callable[[Any], Gradients]


class Form(NamedTuple):
    """Shape, dtype and home ("cpu", "gpu") of an array that a pullback need not keep."""

    shape: tuple[int, ...]
    dtype: np.dtype
    home: str = "cpu"

    @property
    def arithmetic(self) -> np.dtype:
        """The dtype that cotangents of such an array are calculated in."""
        return np.dtype("float64" if self.dtype == np.float64 else "float32")

    @classmethod
    def of(cls, array: Any) -> Form:
        return cls(array.shape, array.dtype, devices.home(array))

    def zeros(self) -> Any:
        """A cotangent of zeros."""
        return devices.module_at(self.home).zeros(self.shape, self.arithmetic)


def like(gradient: np.ndarray | None, value: Any) -> np.ndarray | None:
    """``gradient`` in the dtype that a gradient of ``value`` has; None for integers and bool."""
    if gradient is None or value.dtype.kind in "iub":
        return None
    return gradient.astype(value.dtype if value.dtype.itemsize > 2 else np.float32, copy=False)


def of_weights(layer: Any) -> Callable[[Sequence[np.ndarray | None]], list[np.ndarray | None]]:
    """A function that makes ``Gradients.weights`` of a layer's raw gradients: who is trained is decided now."""
    trained = {id(variable) for variable in layer.trainable_weights}
    weights = layer.weights

    def answer(gradients: Sequence[np.ndarray | None]) -> list[np.ndarray | None]:
        pairs = zip(gradients, weights, strict=True)
        return [like(gradient, variable) if id(variable) in trained else None for gradient, variable in pairs]

    return answer


def cotangents(dy: Any, outputs: Sequence[Form]) -> list[np.ndarray | None]:
    """The argument of a pullback as one array (or None) for each output: float64 for float64 outputs, else float32.

    ``dy``: one array where there is one output, else a tuple or list like the outputs; None stands for zeros. ValueError for
    another number of arrays or another shape, TypeError for what holds no numbers.
    """
    if dy is None:
        return [None] * len(outputs)
    several = isinstance(dy, (tuple, list))
    given = list(dy) if several else [dy]
    if len(given) != len(outputs) or (several and len(outputs) == 1):
        expected = "one array" if len(outputs) == 1 else f"a tuple of {len(outputs)} arrays, like the outputs"
        got = f"a {type(dy).__name__} of {len(given)}" if several else type(dy).__name__
        raise ValueError(f"The argument `dy` of a pullback must be {expected} (None: no gradient). Received: {got}")
    return [None if one is None else _cotangent(one, output) for one, output in zip(given, outputs, strict=True)]


def _cotangent(dy: Any, output: Form) -> np.ndarray:
    array = devices.as_array(devices.adopt(dy))
    if devices.home(array) != output.home:
        places = {"cpu": "a NumPy array", "gpu": "a CuPy array"}
        expected = f"{places[output.home]}, like the output"
        raise TypeError(f"The argument `dy` of a pullback must be {expected}. Received: {places[devices.home(array)]}")
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        raise TypeError(f"The argument `dy` of a pullback must hold real numbers. Received: dtype={array.dtype}")
    if array.shape != output.shape:
        raise ValueError(
            f"The argument `dy` of a pullback must have the shape of the output, {output.shape}. Received: dy.shape={array.shape}"
        )
    return array.astype(output.arithmetic, copy=False)


class _Joining(threading.local):
    on = False


_joining = _Joining()


@contextlib.contextmanager
def joining_activity_losses(on: bool = True) -> Iterator[None]:
    """Inside (this thread), the pullbacks of new ``vjp`` calls also answer for the activity losses of their layers: for training.

    ``on=False`` switches it off again for layers whose activity losses do not count.
    """
    before, _joining.on = _joining.on, on
    try:
        yield
    finally:
        _joining.on = before


def with_activity_losses(layer: Any, outputs: Any, pullback: Pullback) -> Pullback:
    """``pullback``; within ``joining_activity_losses`` one that adds the gradient of the activity losses to its cotangents.

    The loss of each returned array t [N,…] is regularizer(t) / N (keras-spec 9).
    """
    if layer.activity_regularizer is None or not _joining.on:
        return pullback
    several = isinstance(outputs, (tuple, list))
    arrays = list(outputs) if several else [outputs]
    own = [regularizers.gradient(layer.activity_regularizer, t) / t.dtype.type(max(len(t), 1)) for t in arrays]

    def joined(dy: Any) -> Gradients:
        dys = list(dy) if several and dy is not None else [dy] * len(own)
        sums = [mine if one is None else one + mine for one, mine in zip(dys, own, strict=True)]
        return pullback(tuple(sums) if several else sums[0])

    return joined


def activated(backend: Any, activation: Any, z: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """(activation(z), its backward dy -> dz), for glue layers. NotImplementedError for a caller's own function."""
    backward = activations.vjp(activation)
    y = devices.as_array(backend.activate(activation, z.copy()))
    kept = y.copy()  # the caller may write into what it got
    return y, lambda dy: backward(z, kept, dy)
