"""Callback: the base class of everything that ``fit`` calls at its turning points, and CallbackList, which calls many.

Terms of ``keras.callbacks.Callback``. Used by ``callbacks``, ``history``, ``display`` and ``fit``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Logs = dict[str, Any]


class Callback:
    """Base class: override what you need. ``self.model`` is the model in training, ``self.params`` {verbose, epochs, steps}.

    ``logs`` holds the loss and the metrics so far in the epoch (floats); at the end of an epoch those of the validation too,
    "val_" in front. A callback ends the training by ``self.model.stop_training = True``.
    """

    def __init__(self) -> None:
        self.params: dict[str, Any] = {}
        self.model: Any = None

    def set_params(self, params: dict[str, Any]) -> None:
        self.params = params

    def set_model(self, model: Any) -> None:
        self.model = model

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Before the first epoch."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """After the last epoch, also when Ctrl-C ended the training."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Before epoch ``epoch``, counted from 0."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """After epoch ``epoch`` and its validation. What is added to ``logs`` here gets into the history."""

    def on_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """The older name of ``on_train_batch_begin``."""

    def on_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """The older name of ``on_train_batch_end``."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before training batch ``batch`` of the epoch, counted from 0."""
        self.on_batch_begin(batch, logs=logs)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After the weights were updated for batch ``batch``."""
        self.on_batch_end(batch, logs=logs)

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Before an evaluation, that of ``fit`` included."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """After an evaluation."""

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a batch of an evaluation."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a batch of an evaluation."""

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Before ``predict``."""

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """After ``predict``."""

    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a batch of ``predict``."""

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a batch of ``predict``; ``logs["outputs"]`` is its output."""

    def _abandon(self) -> None:
        """After an error, in place of ``on_train_end``: lets go of what is open (a file, a bar)."""


class CallbackList:
    """Calls every callback in order. ``callbacks``: one, an iterable of them, or None. TypeError for anything else."""

    def __init__(self, callbacks: Any, model: Any, params: dict[str, Any]):
        given = [callbacks] if isinstance(callbacks, Callback) else callbacks or []
        self.callbacks: list[Callback] = list(given) if isinstance(given, Iterable) else [given]
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(f"The argument `callbacks` must hold Callback objects. Received: {callback!r}")
            callback.set_params(params)
            callback.set_model(model)

    def call(self, event: str, *arguments: Any) -> None:
        """Calls the method ``event`` ("on_epoch_end") of every callback."""
        for callback in self.callbacks:
            getattr(callback, event)(*arguments)
