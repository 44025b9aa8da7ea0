"""Callbacks that watch a quantity and act when it gets better, or no longer does. Used through ``callbacks``.

Terms of ``keras.callbacks``: EarlyStopping, ModelCheckpoint, ReduceLROnPlateau.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

from .callback import Callback, Logs

# Quantities of which more is better; of all that end in one of "_DOWN", less is.
_UP = ("acc", "accuracy", "auc", "precision", "recall", "iou", "f1_score", "fbeta_score", "r2_score", "cosine_similarity")
_DOWN = ("loss", "error", "crossentropy", "hinge", "mse", "mae", "mape", "msle", "log_cosh", "logcosh", "divergence", "poisson")


def say(message: str) -> None:
    """A line on stderr."""
    print(message, file=sys.stderr, flush=True)


class Monitor(Callback):
    """Base: is ``logs[monitor]`` better than the best so far?

    Args: ``monitor``: name in ``logs``; ``mode``: "min", "max", or "auto" (by the metric's own direction or its name);
    ``min_delta``: a change of at most that much is none. A warning, and "auto", for another mode; ValueError at the end of the
    first epoch where "auto" cannot tell.
    """

    def __init__(self, monitor: str = "val_loss", mode: str = "auto", best: float | None = None, min_delta: float = 0):
        super().__init__()
        if mode not in ("auto", "min", "max"):
            warnings.warn(f"{type(self).__name__}: the mode {mode!r} is unknown, using 'auto'", stacklevel=3)
            mode = "auto"
        self.monitor, self.mode, self.best = monitor, mode, best
        self.min_delta = abs(min_delta)

    def is_improvement(self, value: float, reference: float | None) -> bool:
        """Whether ``value`` beats ``reference`` by more than ``min_delta``; anything beats None."""
        upwards = self._upwards()
        if reference is None:
            return True
        if upwards:
            return value - self.min_delta > reference
        return value + self.min_delta < reference

    def _upwards(self) -> bool:
        if self.mode != "auto":
            return self.mode == "max"
        name = self.monitor.removeprefix("val_")
        for metric in getattr(self.model, "metrics", []):
            if metric.name == name and getattr(metric, "_direction", None) in ("up", "down"):
                return metric._direction == "up"
        if name.endswith(_UP):
            return True
        if name.endswith(_DOWN):
            return False
        raise ValueError(
            f"{type(self).__name__}: cannot tell whether {self.monitor!r} should grow or fall. Pass `mode='max'` or `mode='min'`"
        )

    def current(self, logs: Logs | None) -> float | None:
        """The watched quantity, or None with a warning where ``logs`` lacks it."""
        value = (logs or {}).get(self.monitor)
        if value is None:
            warnings.warn(
                f"{type(self).__name__} watches {self.monitor!r}, which is not there. There are: {', '.join(logs or {})}",
                stacklevel=3,
            )
        return value


class EarlyStopping(Monitor):
    """Ends the training when a quantity has not got better for ``patience`` epochs.

    Args: ``monitor``, ``min_delta``, ``mode``: what is watched, see Monitor; ``baseline``: patience starts anew only at a best
    value that beats this too; ``restore_best_weights``: at the end the model gets the weights of its best epoch back;
    ``start_from_epoch``: epochs before this one do not count; ``verbose``: 1 tells what is done.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ):
        super().__init__(monitor, mode, min_delta=min_delta)
        self.patience, self.verbose, self.baseline = patience, verbose, baseline
        self.restore_best_weights, self.start_from_epoch = restore_best_weights, start_from_epoch
        self._restart()

    def _restart(self) -> None:
        self.wait = self.stopped_epoch = self.best_epoch = 0
        self.best: float | None = None
        self.best_weights: Any = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._restart()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        value = self.current(logs)
        if value is None or epoch < self.start_from_epoch:
            return
        if self.restore_best_weights and self.best_weights is None:
            self._keep(epoch)
        self.wait += 1
        if self.is_improvement(value, self.best):
            self.best = value
            self._keep(epoch)
            if self.baseline is None or self.is_improvement(value, self.baseline):
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def _keep(self, epoch: int) -> None:
        self.best_epoch = epoch
        if self.restore_best_weights:
            self.best_weights = self.model.get_weights()

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.stopped_epoch > 0 and self.verbose > 0:
            say(f"Epoch {self.stopped_epoch + 1}: early stopping")
        if self.best_weights is not None:
            if self.verbose > 0:
                say(f"The weights of epoch {self.best_epoch + 1}, the best one, are restored")
            self.model.set_weights(self.best_weights)


class ReduceLROnPlateau(Monitor):
    """Multiplies the learning rate by ``factor`` when a quantity has not got better for ``patience`` epochs.

    Args: ``monitor``, ``mode``, ``min_delta``: what is watched, see Monitor; ``cooldown``: epochs to wait after a reduction
    before counting again; ``min_lr``: the rate does not fall below it; ``verbose``: 1 tells every reduction. ValueError for a
    factor of 1 or more.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ):
        super().__init__(monitor, mode, min_delta=min_delta)
        if factor >= 1.0:
            raise ValueError(f"The argument `factor` of ReduceLROnPlateau must be below 1. Received: factor={factor}")
        self.factor, self.patience, self.verbose, self.cooldown, self.min_lr = factor, patience, verbose, cooldown, min_lr
        self.wait = self.cooldown_counter = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.best = None
        self.wait = self.cooldown_counter = 0

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = float(self.model.optimizer.learning_rate)
        value = self.current(logs)
        if value is None:
            return
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.wait = 0
        if self.is_improvement(value, self.best):
            self.best, self.wait = value, 0
        elif self.cooldown_counter == 0:
            self.wait += 1
            if self.wait >= self.patience:
                self._reduce(epoch)

    def _reduce(self, epoch: int) -> None:
        old = float(self.model.optimizer.learning_rate)
        if old <= self.min_lr:
            return
        new = max(old * self.factor, self.min_lr)
        self.model.optimizer.learning_rate = new
        self.cooldown_counter, self.wait = self.cooldown, 0
        if self.verbose > 0:
            say(f"Epoch {epoch + 1}: ReduceLROnPlateau reduces the learning rate to {new:g}")


class ModelCheckpoint(Monitor):
    """Saves the model, or its weights, in the course of the training.

    Args: ``filepath``: a path in which {epoch} (from 1), {batch} and the names in ``logs`` are filled in ("{epoch:02d}.keras");
    ``save_best_only``: only when ``monitor`` got better; ``save_weights_only``; ``save_freq``: "epoch", or a number of batches;
    ``initial_value_threshold``: the best value to beat at the start; ``verbose``: 1 tells every save. Missing folders are made.
    ValueError unless ``filepath`` ends in ".keras" (".weights.h5" with ``save_weights_only``); KeyError for a name in braces that
    ``logs`` lacks.
    """

    def __init__(
        self,
        filepath: str | os.PathLike,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
    ):
        super().__init__(monitor, mode, best=initial_value_threshold)
        self.filepath, self.verbose = os.fspath(filepath), verbose
        self.save_best_only, self.save_weights_only, self.save_freq = save_best_only, save_weights_only, save_freq
        if save_freq != "epoch" and (isinstance(save_freq, (str, bool)) or save_freq < 1):
            raise ValueError(f"The argument `save_freq` must be 'epoch' or a number of batches. Received: {save_freq!r}")
        suffix = ".weights.h5" if save_weights_only else ".keras"
        if not self.filepath.endswith(suffix):
            raise ValueError(
                f"The argument `filepath` must end in {suffix!r} with save_weights_only={save_weights_only}. "
                f"Received: filepath={self.filepath!r}"
            )
        self._epoch = self._batches = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._batches = 0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._batches += 1
        if self.save_freq != "epoch" and self._batches % int(self.save_freq) == 0:
            self._save(self._epoch, {"batch": batch + 1, **(logs or {})})

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.save_freq == "epoch":
            self._save(epoch, logs or {})

    def _save(self, epoch: int, logs: Logs) -> None:
        try:
            path = self.filepath.format(epoch=epoch + 1, **logs)
        except KeyError as error:
            raise KeyError(
                f"ModelCheckpoint: the filepath {self.filepath!r} names {error}. There are: {', '.join(logs)}"
            ) from error
        if self.save_best_only:
            value = self.current(logs)  # saves where there is nothing to compare, as Keras does
            if value is not None:
                if not self.is_improvement(value, self.best):
                    return
                self.best = value
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        if self.save_weights_only:
            self.model.save_weights(path, overwrite=True)
        else:
            self.model.save(path, overwrite=True)
        if self.verbose > 0:
            say(f"Epoch {epoch + 1}: saved to {path}")
