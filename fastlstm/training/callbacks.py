"""The callbacks of ``fit``, with Keras' names, arguments and meaning (terms of ``keras.callbacks``).

In terms of ``callback.Callback``; those that watch a quantity stand in ``monitors``. Messages go to stderr, as the bars do.
"""

from __future__ import annotations

import csv
import inspect
import math
import os
from collections.abc import Callable
from typing import Any

from .callback import Callback, Logs
from .history import History
from .monitors import EarlyStopping, ModelCheckpoint, ReduceLROnPlateau, say

__all__ = [
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ReduceLROnPlateau",
    "TerminateOnNaN",
]

_EVENTS = tuple(name for name in vars(Callback) if name.startswith("on_"))


class LambdaCallback(Callback):
    """Functions for events: ``LambdaCallback(on_epoch_end=lambda epoch, logs: …)``.

    Functions of epochs and batches are called with (number, logs), the others with (logs). TypeError for an event that there
    is not.
    """

    def __init__(self, **functions: Callable[..., Any] | None):
        super().__init__()
        for event, function in functions.items():
            if event not in _EVENTS:
                raise TypeError(f"LambdaCallback knows no event {event!r}. Known: {', '.join(_EVENTS)}")
            if function is not None:
                setattr(self, event, function)


class TerminateOnNaN(Callback):
    """Ends the training when the loss is NaN or infinite: with a message, or with ``raise_error`` by a RuntimeError."""

    def __init__(self, raise_error: bool = False):
        super().__init__()
        self.raise_error = raise_error

    def on_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        loss = (logs or {}).get("loss")
        if loss is None or math.isfinite(loss):
            return
        if self.raise_error:
            raise RuntimeError(
                f"The loss is {loss} after batch {batch}: training ends here. A smaller learning rate or `clipnorm` may help"
            )
        say(f"Batch {batch}: the loss is {loss}, training ends here")
        self.model.stop_training = True


class LearningRateScheduler(Callback):
    """Sets the learning rate before every epoch to ``schedule(epoch, learning_rate)``, or to ``schedule(epoch)``.

    ``verbose``: 1 tells the new rate. ValueError where the schedule does not return a float.
    """

    def __init__(self, schedule: Callable[..., float], verbose: int = 0):
        super().__init__()
        self.schedule, self.verbose = schedule, verbose

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        arguments = (epoch, float(self.model.optimizer.learning_rate))
        rate = self.schedule(*arguments if _takes(self.schedule, arguments) else arguments[:1])
        if not hasattr(rate, "__float__") or isinstance(rate, (bool, int)) or not math.isfinite(rate):
            raise ValueError(f"The argument `schedule` must be a function that returns a float. It returned: {rate!r}")
        self.model.optimizer.learning_rate = float(rate)
        if self.verbose > 0:
            say(f"Epoch {epoch + 1}: LearningRateScheduler sets the learning rate to {float(rate):g}")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = float(self.model.optimizer.learning_rate)


def _takes(function: Callable[..., Any], arguments: tuple[Any, ...]) -> bool:
    """Whether ``function`` can be called with these. A call that fails tells less: a TypeError may come from inside."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # built in, without a signature
        return True
    return True


class CSVLogger(Callback):
    """Writes one row an epoch to a .csv: the epoch from 0, then the quantities in alphabetical order, "NA" where one is missing.

    Args: ``filename``; ``separator``; ``append``: adds to an existing file, without a second header. The file is up to date
    after every epoch. OSError where it cannot be written.
    """

    def __init__(self, filename: str | os.PathLike, separator: str = ",", append: bool = False):
        super().__init__()
        self.filename, self.separator, self.append = os.fspath(filename), separator, append
        self.keys: list[str] | None = None
        self._file: Any = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._close()
        self._file = open(self.filename, "a" if self.append else "w", encoding="utf-8", newline="")  # noqa: SIM115
        self.keys = None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        logs = logs or {}
        writer = csv.writer(self._file, delimiter=self.separator, lineterminator="\n")
        if self.keys is None:
            self.keys = sorted(logs)
            # Validation may come in a later epoch only; its columns must be there from the start.
            if self.keys and not any(key.startswith("val_") for key in self.keys):
                self.keys += [f"val_{key}" for key in self.keys]
            if self._file.tell() == 0:
                writer.writerow(["epoch", *self.keys])
        writer.writerow([epoch, *(logs.get(key, "NA") for key in self.keys)])
        self._file.flush()

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._close()

    def _abandon(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None
