"""The training loop: batches -> losses, gradients, updates, metrics, callbacks. Used by ``trainer``.

In terms of ``compiled`` (loss, metrics, optimizer), ``batches`` and a model's ``vjp``. Ctrl-C during ``fit`` ends the training
between two batches: the update of the batch at hand is finished, ``on_train_end`` of the callbacks runs, then KeyboardInterrupt
goes on to the caller, and ``model.history`` holds the finished epochs. A second Ctrl-C interrupts at once.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .. import devices, regularizers, selector
from ..layers.gradients import joining_activity_losses
from ..layers.nest import flatten
from .batches import Batch, Samples, Stream
from .callback import CallbackList
from .compiled import Compiled


class Schedule(NamedTuple):
    """When: epochs ``first`` (from 0) to ``last``, validation in every ``validation_freq``-th or in those listed (from 1)."""

    first: int
    last: int
    validation_freq: Any

    @classmethod
    def of(cls, initial_epoch: Any, epochs: Any, validation_freq: Any) -> Schedule:
        """As the arguments of ``fit`` say. ValueError unless they are whole numbers, ``validation_freq`` also a list of them."""
        for name, value in (("epochs", epochs), ("initial_epoch", initial_epoch)):
            if not isinstance(value, (int, np.integer)) or value < 0:
                raise ValueError(f"The argument `{name}` must be a whole number of at least 0. Received: {name}={value!r}")
        several = isinstance(validation_freq, (list, tuple, set, range))
        listed = list(validation_freq) if several else [validation_freq]
        if not all(isinstance(number, (int, np.integer)) and number > 0 for number in listed):
            raise ValueError(
                "The argument `validation_freq` must be a whole number of at least 1, or a list of epochs counted from 1. "
                f"Received: validation_freq={validation_freq!r}"
            )
        return cls(int(initial_epoch), int(epochs), listed if several else int(validation_freq))

    def validates(self, epoch: int) -> bool:
        number = epoch + 1
        if isinstance(self.validation_freq, int):
            return number % self.validation_freq == 0
        return number in self.validation_freq


def fit(model: Any, stream: Stream, validation: Stream | None, callbacks: CallbackList, schedule: Schedule) -> None:
    """Trains ``model`` on ``stream``; see the module. The callbacks hear of everything."""
    model.stop_training = False
    logs: dict[str, Any] = {}
    with _ctrl_c_waits() as interruption:
        try:
            callbacks.call("on_train_begin", {})
            checked = False  # whether there ever was something to validate on
            for epoch in range(schedule.first, schedule.last):
                found = _epoch(model, stream, callbacks, epoch, interruption)
                if not found:  # the generator has run dry
                    if epoch == schedule.first:
                        raise ValueError("The argument `x` is an iterable without batches")
                    break
                logs = found
                if validation is not None and schedule.validates(epoch):
                    values = evaluate(model, validation, callbacks, interruption)
                    checked = checked or bool(values)
                    if not checked:
                        raise ValueError("The argument `validation_data` is an iterable without batches")
                    logs |= {f"val_{name}": value for name, value in values.items()}
                callbacks.call("on_epoch_end", epoch, logs)
                interruption.check()
                if model.stop_training:
                    break
        except KeyboardInterrupt:
            _finish(model, callbacks, logs)
            raise
        except BaseException:
            callbacks.call("_abandon")
            raise
        _finish(model, callbacks, logs)


def _finish(model: Any, callbacks: CallbackList, logs: dict[str, Any]) -> None:
    """After the last update, also where Ctrl-C made it the last."""
    model.optimizer.finalize_variable_values(model.trainable_weights)
    callbacks.call("on_train_end", logs)


def _epoch(model: Any, stream: Stream, callbacks: CallbackList, epoch: int, interruption: Interruption) -> dict[str, Any]:
    """One epoch of training. Returns the loss and the metrics over it; {} where there were no batches."""
    compiled: Compiled = model.compilation
    compiled.reset()
    callbacks.call("on_epoch_begin", epoch, {})
    for step, batch in enumerate(stream.epoch()):
        callbacks.call("on_train_batch_begin", step, {})
        train_step(model, batch)
        callbacks.call("on_train_batch_end", step, compiled.result())
        interruption.check()
        if model.stop_training:
            break
    return compiled.result() if compiled.has_seen else {}


def evaluate(model: Any, stream: Stream, callbacks: CallbackList, interruption: Interruption | None = None) -> dict[str, Any]:
    """Loss and metrics over one pass of ``stream``, without changing any weight; {} where there were no batches."""
    compiled: Compiled = model.compilation
    compiled.reset()
    callbacks.call("on_test_begin", {})
    try:
        for step, batch in enumerate(stream.once()):
            callbacks.call("on_test_batch_begin", step, {})
            test_step(model, batch)
            callbacks.call("on_test_batch_end", step, compiled.result())
            if interruption is not None:
                interruption.check()
    except BaseException:
        if interruption is None:  # by itself, not in a training
            callbacks.call("_abandon")
        raise
    logs = compiled.result() if compiled.has_seen else {}
    callbacks.call("on_test_end", logs)
    return logs


def train_step(model: Any, batch: Batch) -> None:
    """One update of the weights by the gradient of loss + penalties; the metrics take note."""
    compiled: Compiled = model.compilation
    batch = placed(batch)
    with joining_activity_losses():
        y, pullback = model.vjp(batch.x, training=True)
    mask = output_mask(model, batch.x, y)
    value, dy = compiled.loss_and_gradient(batch, y, mask)
    penalties = _penalties(model)
    gradients = _trained(model, pullback(dy).weights)
    for variable, gradient in gradients:
        if variable.regularizer is not None:
            gradient += regularizers.gradient(variable.regularizer, variable.at(devices.home(gradient))).astype(
                gradient.dtype, copy=False
            )
    compiled.optimizer.apply([gradient for _, gradient in gradients], [variable for variable, _ in gradients])
    compiled.update(batch, y, mask, value + penalties)


def placed(batch: Batch) -> Batch:
    """The batch where ``device`` says that it is to be computed: moved there once, not layer by layer."""
    place = selector.elsewhere(batch.x.arrays[0] if isinstance(batch.x, Samples) else batch.x)
    return batch if place is None else Batch(*(None if array is None else devices.moved(array, place) for array in batch))


def test_step(model: Any, batch: Batch) -> None:
    """The loss and the metrics of one batch."""
    compiled: Compiled = model.compilation
    batch = placed(batch)
    y = model(batch.x, training=False)
    mask = output_mask(model, batch.x, y)
    value = compiled.loss_value(batch, y, mask)
    compiled.update(batch, y, mask, value + _penalties(model))


def _penalties(model: Any) -> float:
    """Activity losses of the call just made and weight penalties, in float64."""
    return float(sum(float(loss) for loss in model.losses))


def _trained(model: Any, gradients: list[np.ndarray | None]) -> list[tuple[Any, np.ndarray]]:
    """(variable, its gradient, an array of our own) of every variable that is trained."""
    trained = {id(variable) for variable in model.trainable_weights}
    pairs = zip(model.weights, gradients, strict=True)
    return [(v, np.zeros_like(v.latest) if g is None else g.copy()) for v, g in pairs if id(v) in trained]


def output_mask(model: Any, x: Any, y: Any) -> Any:
    """The time mask that goes with the output [N,T,…] of the call just made, or None: masked steps do not count. Of several
    outputs a list of them."""
    outputs = flatten(y)
    if all(one.ndim < 3 for one in outputs):  # one answer a sample
        return None
    masks = model.mask_after_call(x, None)
    listed = flatten(masks) if isinstance(masks, (list, tuple, dict)) else [masks] * len(outputs)
    fitting = [
        mask if one.ndim > 2 and devices.is_array(mask) and mask.shape == one.shape[:2] else None
        for one, mask in zip(outputs, listed, strict=True)
    ]
    return fitting[0] if devices.is_array(y) else fitting


class Interruption:
    """A Ctrl-C that waits for its turn."""

    def __init__(self) -> None:
        self.pending = False

    def check(self) -> None:
        """KeyboardInterrupt if Ctrl-C was pressed."""
        if self.pending:
            self.pending = False
            raise KeyboardInterrupt

    def note(self, *_: Any) -> None:
        """The signal handler: the second Ctrl-C does not wait."""
        self.pending, pressed_before = True, self.pending
        if pressed_before:
            raise KeyboardInterrupt


@contextlib.contextmanager
def _ctrl_c_waits() -> Iterator[Interruption]:
    """Inside, Ctrl-C is noted for ``check``; only in the main thread, and only where nobody else has taken the signal."""
    interruption = Interruption()
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, interruption.note)
    try:
        yield interruption
        interruption.check()  # pressed after the last batch
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
