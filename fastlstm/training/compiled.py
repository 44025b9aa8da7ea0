"""Compiled: what ``compile`` was told, and the running means of loss and metrics. Used by ``trainer`` and ``fit``.

In terms of ``optimizers``, ``losses``, ``metrics`` and ``per_output``. What depends on shapes ("accuracy", "crossentropy") is
decided at the first batch.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..layers.nest import flatten
from . import losses, metrics, optimizers
from .batches import Batch, Samples
from .per_output import factors_of, flat, is_per_output, losses_of, metrics_of

_NAMELESS = ("accuracy", "acc", "crossentropy", "ce")


class Output:
    """One output of the model: its loss (None: it has none), the factor of it, and its metrics, first by what names them.

    ``name`` stands before the names of loss and metrics; None where the model has one output.
    """

    def __init__(self, name: str | None, loss: Any, factor: float, plain: list[Any], weighted: list[Any]):
        self.name, self.loss_id, self.factor = name, loss, factor
        self.plain_ids, self.weighted_ids = plain, weighted
        self.loss: Any = None
        self.plain: list[Any] = []
        self.weighted: list[Any] = []
        self.sum = 0.0

    def bind(self, y_true: np.ndarray | None, y: np.ndarray) -> None:
        """Makes the objects for the arrays of the first batch. ValueError where there is nothing to compare ``y`` with."""
        if y_true is None:
            if self.loss_id is not None or self.plain_ids or self.weighted_ids:
                raise ValueError("The argument `y` is missing: the loss compares the output with it")
            return
        if self.loss_id is not None:
            self.loss = losses.resolve(self.loss_id, y_true, y)
        self.plain = [metrics.resolve(one, y_true, y) for one in self.plain_ids]
        self.weighted = [metrics.resolve(one, y_true, y) for one in self.weighted_ids]

    def named(self, name: str) -> str:
        return name if self.name is None else f"{self.name}_{name}"


class Compiled:
    """Args as of ``Trainer.compile``; ``outputs``: names of the model's outputs, None for one; ``keyed``: they
    come in a dict. ValueError for unknown names."""

    def __init__(
        self,
        optimizer: Any,
        loss: Any,
        loss_weights: Any,
        plain: Any,
        weighted: Any,
        outputs: Sequence[str] | None = None,
        keyed: bool = False,
    ):
        names = list(outputs) if outputs and len(outputs) > 1 else ["y"]
        self.several = len(names) > 1
        kinds = losses_of(loss, names)
        if not self.several:
            loss = kinds[0]
        self.given = {"loss": loss, "loss_weights": loss_weights, "metrics": plain, "weighted_metrics": weighted}
        self.optimizer = optimizers.get(optimizer)
        if self.optimizer is None:
            raise ValueError("The argument `optimizer` must be an optimizer, its name or its config. Received: None")
        factors = factors_of(loss_weights, names)
        listed = [metrics_of(given, names, key) for given, key in ((plain, "metrics"), (weighted, "weighted_metrics"))]
        parts = zip(names, kinds, factors, *listed, strict=True)
        self.outputs = [Output(name if self.several else None, *rest) for name, *rest in parts]
        for known, identifiers in ((losses.get, kinds), (metrics.get, [*flat(plain), *flat(weighted)])):
            for one in identifiers:
                if isinstance(one, str) and one.lower() not in _NAMELESS:
                    known(one)  # a wrong name is told now, not at the first batch
        # Of a dict of outputs the losses are told in the order of the dict of losses, as in Keras.
        order = list(loss) if keyed and isinstance(loss, dict) and is_per_output(loss) else names
        self._order = [self.outputs[names.index(name)] for name in order] if self.several else self.outputs
        self._bound = False
        self._sum, self._count = 0.0, 0

    @property
    def metrics(self) -> list[Any]:
        """The metric objects, weighted ones last; empty before the first batch."""
        plain = [metric for output in self.outputs for metric in output.plain]
        return [*plain, *(metric for output in self.outputs for metric in output.weighted)]

    @property
    def names(self) -> list[str]:
        """ "loss", those of the outputs where several have one, and the metrics' names; a weighted metric whose name is taken is
        "weighted_…", others get numbers."""
        return ["loss", *(output.named("loss") for output in self._with_loss()), *self._metric_names()]

    def _metric_names(self) -> list[str]:
        names = [] if self.several else ["loss"]
        taken = len(names)
        pairs = [(output, metric.name) for output in self.outputs for metric in output.plain]
        plain = len(pairs)
        pairs += [(output, metric.name) for output in self.outputs for metric in output.weighted]
        for k, (output, name) in enumerate(pairs):
            full = output.named(name)
            if full in names and k >= plain:
                full = output.named(f"weighted_{name}")
            again = sum(other == full or other.startswith(f"{full}_") for other in names) if full in names else 0
            names.append(f"{full}_{again}" if again else full)
        return names[taken:]

    def _with_loss(self) -> list[Output]:
        """The outputs whose losses are told apart: none where there is one."""
        found = [output for output in self._order if output.loss_id is not None]
        return found if len(found) > 1 else []

    def need_loss(self) -> None:
        """ValueError where ``compile`` got no loss."""
        if all(output.loss_id is None for output in self.outputs):
            raise ValueError("There is no loss to train or evaluate with: call `model.compile(optimizer=…, loss=…)`")

    # -- one batch ------------------------------------------------------------------------------------------------
    def loss_and_gradient(self, batch: Batch, y: Any, mask: Any) -> tuple[float, Any]:
        """The loss of the outputs ``y`` and its gradient: an array, or a list of arrays (None where there is no loss)."""
        total = 0.0
        gradients: list[Any] = []
        for output, y_true, one, weight, kept in self._parts(batch, y, mask):
            if output.loss is None:
                gradients.append(None)
                continue
            value, gradient = output.loss.value_and_gradient(y_true, one, weight, kept)
            total += self._noted(output, batch, value)
            gradients.append(gradient if output.factor == 1 else gradient * gradient.dtype.type(output.factor))
        return total, gradients if self.several else gradients[0]

    def loss_value(self, batch: Batch, y: Any, mask: Any) -> float:
        """The loss of the outputs ``y``."""
        total = 0.0
        for output, y_true, one, weight, kept in self._parts(batch, y, mask):
            if output.loss is not None:
                total += self._noted(output, batch, output.loss(y_true, one, weight, kept))
        return total

    def _noted(self, output: Output, batch: Batch, value: Any) -> float:
        """The loss of one output times its factor; its own mean is of what it was before."""
        output.sum += float(value) * len(batch.x)
        return float(value) * output.factor

    def _parts(self, batch: Batch, y: Any, mask: Any) -> list[tuple[Output, Any, np.ndarray, Any, Any]]:
        """(output, what it should be, what it is, weights, mask) of each. ValueError where the numbers of arrays differ."""
        found = flatten(y)
        if len(found) != len(self.outputs):
            raise ValueError(f"Training needs a model with one output, or a functional one. This one returns {len(found)} arrays")
        count = len(found)
        truths = self._of_each(batch.y, count)
        if not self._bound:
            for output, y_true, one in zip(self.outputs, truths, found, strict=True):
                output.bind(y_true, one)
            self._bound = True
        weights = [batch.weight] * count if not isinstance(batch.weight, Samples) else batch.weight.arrays
        masks = [mask] * count if mask is None or not self.several else list(mask)
        return list(zip(self.outputs, truths, found, weights, masks, strict=True))

    def _of_each(self, y: Any, count: int) -> list[Any]:
        """What each output should be; outputs without a loss may be left out."""
        given = y.arrays if isinstance(y, Samples) else [y]
        with_loss = [output.loss_id is not None for output in self.outputs]
        if len(given) != count and len(given) == sum(with_loss):
            rest = iter(given)
            given = [next(rest) if there else None for there in with_loss]
        if len(given) != count:
            raise ValueError(f"The argument `y` must hold an array for each of the {count} outputs. Received: {len(given)}")
        return given

    # -- an epoch -------------------------------------------------------------------------------------------------
    def reset(self) -> None:
        """Starts the means over."""
        self._sum, self._count = 0.0, 0
        for output in self.outputs:
            output.sum = 0.0
        for metric in self.metrics:
            metric.reset_state()

    def update(self, batch: Batch, y: Any, mask: Any, loss: float) -> None:
        """Takes note of a batch: its loss, penalties included, counts as often as it has samples."""
        self._sum += loss * len(batch.x)
        self._count += len(batch.x)
        for output, y_true, one, weight, kept in self._parts(batch, y, mask):
            for metric in output.plain:
                metric.update_state(y_true, one, _masked(None, kept))
            for metric in output.weighted:
                metric.update_state(y_true, one, _masked(weight, kept))

    @property
    def has_seen(self) -> bool:
        """Whether there was a batch since ``reset``."""
        return self._count > 0

    def result(self) -> dict[str, float]:
        """{"loss": mean over the samples, name of each output's loss and of each metric: its value}."""
        count = self._count or 1
        values = [self._sum / count, *(output.sum / count for output in self._with_loss())]
        return dict(zip(self.names, [*values, *(float(metric.result()) for metric in self.metrics)], strict=True))

    def listed(self, logs: dict[str, Any]) -> list[Any]:
        """The values of ``result`` in the order of Keras' ``evaluate``: losses first, of several outputs the metrics by name."""
        if not self.several:
            return list(logs.values())
        first = self.names[: 1 + len(self._with_loss())]
        return [logs[name] for name in [*first, *sorted(set(logs) - set(first))]]

    # -- files ----------------------------------------------------------------------------------------------------
    def get_config(self) -> dict[str, Any]:
        """The ``compile_config`` of a .keras file; empty, with a warning, where the caller's own functions cannot be written."""
        try:
            return {
                "optimizer": optimizers.serialize(self.optimizer),
                "loss": _serialized(self.given["loss"], losses),
                "loss_weights": self.given["loss_weights"],
                "metrics": self._metrics_config("metrics", "plain_ids"),
                "weighted_metrics": self._metrics_config("weighted_metrics", "weighted_ids"),
                "run_eagerly": False,
                "steps_per_execution": 1,
                "jit_compile": False,
            }
        except (TypeError, ValueError, NotImplementedError) as error:
            warnings.warn(f"optimizer, loss and metrics are not saved with the model: {error}", stacklevel=4)
            return {}

    def _metrics_config(self, key: str, attribute: str) -> Any:
        if self.several:
            return _serialized(self.given[key], metrics)
        return [_serialized(one, metrics) for one in getattr(self.outputs[0], attribute)] or None


def _masked(weight: np.ndarray | None, mask: np.ndarray | None) -> np.ndarray | None:
    """Weights [N,T] of weights [N] or [N,T] and a mask [N,T]; without a mask the weights as they are."""
    if mask is None:
        return weight
    ones = mask.astype(np.float32)
    return ones if weight is None else ones * weight.reshape(weight.shape + (1,) * (2 - weight.ndim))


def _serialized(given: Any, module: Any) -> Any:
    """A name as it is, an object as its config, a function as its name where it has one in ``module``; in lists and dicts."""
    if isinstance(given, dict) and is_per_output(given):
        return {key: _serialized(one, module) for key, one in given.items()}
    if isinstance(given, (list, tuple)):
        return [_serialized(one, module) for one in given]
    if isinstance(given, (str, dict)) or given is None:
        return given
    if isinstance(given, types.FunctionType):
        if given.__name__ not in vars(module) or vars(module)[given.__name__] is not given:
            raise TypeError(f"{given!r} is the caller's own function")
        return given.__name__
    return module.serialize(given)
