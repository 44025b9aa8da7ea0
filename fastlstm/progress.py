"""Progress: tells a person at a terminal how far a long piece of work is. Used by ``predict`` and ``training.display``.

tqdm draws the bar where it is installed (extra ``[cli]``, imported when the first bar is drawn); without it a plain line of
text on stderr is rewritten in place.
"""

from __future__ import annotations

import sys
import time
from typing import Any

_PATIENCE = 1.0  # seconds of work before "auto" draws anything
_REDRAW = 0.1  # seconds between two drawings of the plain line


def check_verbose(verbose: Any) -> Any:
    """``verbose`` itself. ValueError unless it is "auto", 0, 1, 2 or a bool."""
    if isinstance(verbose, str) != (verbose == "auto") or verbose not in ("auto", 0, 1, 2):
        raise ValueError(f"The argument `verbose` must be 'auto', 0, 1 or 2. Received: verbose={verbose!r}")
    return verbose


class Progress:
    """Counts ``total`` steps of ``what`` ("predict", unit "batch"). A context manager; ``advance()`` after every step.

    ``total`` None: nobody knows. ``verbose``: "auto" (a bar once the work has lasted a second, if stderr is a terminal), 1 or
    True (a bar), 2 (one line at the end), 0 or False (silence). ValueError for anything else. ``note``: text behind the bar.
    """

    def __init__(self, total: int | None, verbose: Any = "auto", what: str = "predict", unit: str = "batch"):
        self.total, self.verbose, self.what, self.unit = total, check_verbose(verbose), what, unit
        self.done = 0
        self.note = ""
        self._start = time.monotonic()
        self._drawn = 0.0
        self._text = ""
        self._bar: Any = None
        self._plain = False

    def __enter__(self) -> Progress:
        if self.verbose == 1:
            self._open()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(self.note, refresh=True)
            self._bar.close()
        elif self._plain:
            self._write()
            sys.stderr.write("\n")
        elif self.verbose == 2:
            note = f", {self.note}" if self.note else ""
            sys.stderr.write(f"{self._line()}, {time.monotonic() - self._start:.1f} s{note}\n")

    def advance(self, note: str = "") -> None:
        """One step is done; ``note`` replaces the text behind the bar."""
        self.done += 1
        self.note = note or self.note
        if self._bar is not None:
            self._bar.set_postfix_str(self.note, refresh=False)
            self._bar.update(1)
        elif self._plain:
            if time.monotonic() - self._drawn > _REDRAW:
                self._write()
        elif (
            self.verbose == "auto"
            and self.done != self.total
            and time.monotonic() - self._start > _PATIENCE
            and sys.stderr.isatty()
        ):
            self._open()

    def _open(self) -> None:
        try:
            from tqdm import tqdm
        except ImportError:
            self._plain = True
            self._write()
            return
        self._bar = tqdm(total=self.total, initial=self.done, desc=self.what, unit=self.unit, file=sys.stderr)

    def _line(self) -> str:
        return f"{self.what}: {self.done}/{'?' if self.total is None else self.total} ({self.unit})"

    def _write(self) -> None:
        text = self._line() + (f", {self.note}" if self.note else "")
        if text == self._text:
            return
        self._drawn = time.monotonic()
        sys.stderr.write(f"\r{text.ljust(len(self._text))}")  # blanks over what a longer line left
        self._text = text
        sys.stderr.flush()
