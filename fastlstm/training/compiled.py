"""Compiled: what ``compile`` was told, and the running means of loss and metrics. Used by ``trainer`` and ``fit``.

In terms of ``optimizers``, ``losses`` and ``metrics``. What depends on shapes ("accuracy", "crossentropy") is decided at the
first batch.
"""

from __future__ import annotations

import types
import warnings
from typing import Any

import numpy as np

from . import losses, metrics, optimizers
from .batches import Batch

_NAMELESS = ("accuracy", "acc", "crossentropy", "ce")


class Compiled:
    """Args as of ``Trainer.compile``; ValueError for names that are not known."""

    def __init__(self, optimizer: Any, loss: Any, loss_weights: Any, plain: Any, weighted: Any):
        loss = _of_one_output(loss, "loss")
        self.given = {"loss": loss, "loss_weights": loss_weights, "metrics": plain, "weighted_metrics": weighted}
        self.optimizer = optimizers.get(optimizer)
        if self.optimizer is None:
            raise ValueError("The argument `optimizer` must be an optimizer, its name or its config. Received: None")
        self._factor = _one_number(loss_weights)
        self._plain_ids, self._weighted_ids = _listed(plain), _listed(weighted)
        for identifier in [loss, *self._plain_ids, *self._weighted_ids]:
            if isinstance(identifier, str) and identifier.lower() not in _NAMELESS:
                (losses if identifier is loss else metrics).get(identifier)  # a wrong name is told now, not at the first batch
        self._loss: Any = None
        self._plain: list[Any] = []
        self._weighted: list[Any] = []
        self._sum, self._count = 0.0, 0

    @property
    def metrics(self) -> list[Any]:
        """The metric objects, weighted ones last; empty before the first batch."""
        return [*self._plain, *self._weighted]

    @property
    def names(self) -> list[str]:
        """ "loss" and the metrics' names; a weighted metric whose name is taken is "weighted_…", others get numbers."""
        names = ["loss"]
        for k, metric in enumerate(self.metrics):
            name = metric.name if metric.name not in names or k < len(self._plain) else f"weighted_{metric.name}"
            again = sum(other == name or other.startswith(f"{name}_") for other in names) if name in names else 0
            names.append(f"{name}_{again}" if again else name)
        return names

    def need_loss(self) -> None:
        """ValueError where ``compile`` got no loss."""
        if self.given["loss"] is None:
            raise ValueError("There is no loss to train or evaluate with: call `model.compile(optimizer=…, loss=…)`")

    # -- one batch ------------------------------------------------------------------------------------------------
    def loss_and_gradient(self, batch: Batch, y: np.ndarray, mask: np.ndarray | None) -> tuple[float, np.ndarray]:
        """The loss of the output ``y`` and its gradient, shaped like ``y``."""
        self._bind(batch, y)
        value, gradient = self._loss.value_and_gradient(batch.y, y, batch.weight, mask)
        if self._factor == 1:
            return float(value), gradient
        return float(value) * self._factor, gradient * gradient.dtype.type(self._factor)

    def loss_value(self, batch: Batch, y: np.ndarray, mask: np.ndarray | None) -> float:
        """The loss of the output ``y``."""
        self._bind(batch, y)
        return float(self._loss(batch.y, y, batch.weight, mask)) * self._factor

    def _bind(self, batch: Batch, y: Any) -> None:
        """Makes loss and metric objects at the first batch. ValueError without ``y``, and for a model with several outputs."""
        if not isinstance(y, np.ndarray):
            raise ValueError(f"Training needs a model with one output. This one returns {len(y)} arrays")
        if batch.y is None:
            raise ValueError("The argument `y` is missing: the loss compares the output with it")
        if self._loss is None:
            self._loss = losses.resolve(self.given["loss"], batch.y, y)
            self._plain = [metrics.resolve(one, batch.y, y) for one in self._plain_ids]
            self._weighted = [metrics.resolve(one, batch.y, y) for one in self._weighted_ids]

    # -- an epoch -------------------------------------------------------------------------------------------------
    def reset(self) -> None:
        """Starts the means over."""
        self._sum, self._count = 0.0, 0
        for metric in self.metrics:
            metric.reset_state()

    def update(self, batch: Batch, y: np.ndarray, mask: np.ndarray | None, loss: float) -> None:
        """Takes note of a batch: its loss, penalties included, counts as often as it has samples."""
        self._sum += loss * len(batch.x)
        self._count += len(batch.x)
        for metric in self._plain:
            metric.update_state(batch.y, y, _masked(None, mask))
        for metric in self._weighted:
            metric.update_state(batch.y, y, _masked(batch.weight, mask))

    @property
    def has_seen(self) -> bool:
        """Whether there was a batch since ``reset``."""
        return self._count > 0

    def result(self) -> dict[str, float]:
        """{"loss": mean over the samples, name of each metric: its value}."""
        values = [self._sum / self._count if self._count else 0.0, *(float(metric.result()) for metric in self.metrics)]
        return dict(zip(self.names, values, strict=True))

    # -- files ----------------------------------------------------------------------------------------------------
    def get_config(self) -> dict[str, Any]:
        """The ``compile_config`` of a .keras file; empty, with a warning, where the caller's own functions cannot be written."""
        try:
            return {
                "optimizer": optimizers.serialize(self.optimizer),
                "loss": _serialized(self.given["loss"], losses),
                "loss_weights": self.given["loss_weights"],
                "metrics": [_serialized(one, metrics) for one in self._plain_ids] or None,
                "weighted_metrics": [_serialized(one, metrics) for one in self._weighted_ids] or None,
                "run_eagerly": False,
                "steps_per_execution": 1,
                "jit_compile": False,
            }
        except (TypeError, ValueError, NotImplementedError) as error:
            warnings.warn(f"optimizer, loss and metrics are not saved with the model: {error}", stacklevel=4)
            return {}


def _masked(weight: np.ndarray | None, mask: np.ndarray | None) -> np.ndarray | None:
    """Weights [N,T] of weights [N] or [N,T] and a mask [N,T]; without a mask the weights as they are."""
    if mask is None:
        return weight
    ones = mask.astype(np.float32)
    return ones if weight is None else ones * weight.reshape(weight.shape + (1,) * (2 - weight.ndim))


def _is_per_output(given: Any) -> bool:
    """Whether ``given`` says something for each output, in order or by name; the config of an object is a dict as well."""
    return isinstance(given, (list, tuple)) or (isinstance(given, dict) and "class_name" not in given)


def _listed(given: Any) -> list[Any]:
    """All metrics of the one output: Keras takes them one by one, in lists, and in dicts by the output's name."""
    if given is None:
        return []
    if not _is_per_output(given):
        return [given]
    return [one for entry in (given.values() if isinstance(given, dict) else given) for one in _listed(entry)]


def _of_one_output(given: Any, name: str) -> Any:
    """``given``, or the only entry of a list or dict that has one for each output. ValueError for more, or none."""
    if not _is_per_output(given):
        return given
    entries = list(given.values() if isinstance(given, dict) else given)
    if len(entries) != 1:
        raise ValueError(f"The argument `{name}` must be for one output, which is all that the model has. Received: {given!r}")
    return entries[0]


def _one_number(weights: Any) -> float:
    """``loss_weights`` of a model with one output: None, a number, or one in a list or dict."""
    weights = _of_one_output(weights, "loss_weights")
    if weights is None:
        return 1.0
    if isinstance(weights, bool) or not isinstance(weights, (int, float)):
        raise ValueError(f"The argument `loss_weights` must be one number: the model has one output. Received: {weights!r}")
    return float(weights)


def _serialized(given: Any, module: Any) -> Any:
    """A name as it is, an object as its config, a function as its name where it has one in ``module``."""
    if isinstance(given, (str, dict)) or given is None:
        return given
    if isinstance(given, types.FunctionType):
        if given.__name__ not in vars(module) or vars(module)[given.__name__] is not given:
            raise TypeError(f"{given!r} is the caller's own function")
        return given.__name__
    return module.serialize(given)
