"""Display: what ``fit`` and ``evaluate`` show on stderr: a live bar an epoch, or one line an epoch. In terms of ``progress``."""

from __future__ import annotations

import sys
import time
from typing import Any

from ..progress import Progress, check_verbose
from .callback import Callback, Logs


def note_of(logs: Logs | None) -> str:
    """ "loss 0.4321, accuracy 0.9"; NaN is shown as what it is."""
    return ", ".join(f"{name} {value:.4g}" for name, value in (logs or {}).items() if isinstance(value, (int, float)))


class Display(Callback):
    """``verbose``: 1 a bar an epoch, 2 one line an epoch, 0 nothing; "auto": 1 on a terminal, else 2."""

    def __init__(self, verbose: Any = "auto"):
        super().__init__()
        check_verbose(verbose)
        self.verbose = int(verbose) if verbose != "auto" else 1 if sys.stderr.isatty() else 2
        self._progress: Progress | None = None
        self._tests = False
        self._start = 0.0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._tests = True  # an evaluation inside a training is shown by the epoch's own line

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._start = time.monotonic()
        if self.verbose == 1:
            self._open(f"epoch {epoch + 1}/{self.params['epochs']}")

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if self._progress is not None:
            self._progress.advance(note_of(logs))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._close(logs)
        if self.verbose == 2:
            self._line(f"epoch {epoch + 1}/{self.params['epochs']}", logs)

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._close(None)
        self._tests = False

    def on_test_begin(self, logs: Logs | None = None) -> None:
        if self._tests:
            return
        self._start = time.monotonic()
        if self.verbose == 1:
            self._open("evaluate")

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if not self._tests and self._progress is not None:
            self._progress.advance(note_of(logs))

    def on_test_end(self, logs: Logs | None = None) -> None:
        if not self._tests:
            self._close(logs)
            if self.verbose == 2:
                self._line("evaluate", logs)

    def _open(self, what: str) -> None:
        self._progress = Progress(self.params.get("steps"), 1, what)
        self._progress.__enter__()

    def _close(self, logs: Logs | None) -> None:
        if self._progress is not None:
            self._progress.note = note_of(logs) or self._progress.note
            self._progress.__exit__(None, None, None)
        self._progress = None

    def _abandon(self) -> None:
        self._close(None)

    def _line(self, what: str, logs: Logs | None) -> None:
        seconds = time.monotonic() - self._start
        print(f"{what}: {', '.join(filter(None, [f'{seconds:.1f} s', note_of(logs)]))}", file=sys.stderr, flush=True)
