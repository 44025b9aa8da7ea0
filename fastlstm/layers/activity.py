"""Activity losses: what the activity regularizers made of the outputs of a call, by layer, for the thread that made it.

Kept here for ``Layer.losses`` (keras-spec 9). A call of a layer replaces what its last one left; within one call of a model that
uses a layer several times, the losses of all these calls count, as in Keras.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np


class _Kept(threading.local):
    def __init__(self) -> None:
        self.losses: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
        self.adding = False


_kept = _Kept()


def losses_of(layer: Any) -> list[np.ndarray]:
    """The losses of the layer's last call, or of all its calls in the last call of a model; not those of layers inside."""
    return list(_kept.losses.get(layer, []))


def record(layer: Any, outputs: Any) -> None:
    """Keeps regularizer(t) / N of each returned array t [N,…]."""
    if layer.activity_regularizer is None:
        return
    tensors = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    losses = [layer.activity_regularizer(t) / t.dtype.type(len(t)) for t in tensors]
    _kept.losses[layer] = [*losses_of(layer), *losses] if _kept.adding else losses


class OneCall:
    """Context: inside, the losses of calls of the layers of ``model`` add up; the outermost one forgets what was there."""

    __slots__ = ("_model", "_outermost")

    def __init__(self, model: Any):
        self._model, self._outermost = model, False

    def __enter__(self) -> None:
        if not _kept.adding:
            _forget(self._model)
            self._outermost = _kept.adding = True

    def __exit__(self, *_: object) -> None:
        if self._outermost:
            _kept.adding = False


def _forget(layer: Any) -> None:
    if _kept.losses:
        _kept.losses.pop(layer, None)
        for inner in layer._layers:
            _forget(inner)
