"""Progress: tells a person at a terminal how far a long piece of work is. Used by ``Sequential.predict``.

tqdm draws the bar where it is installed (extra ``[cli]``, imported when the first bar is drawn); without it a plain line of
text on stderr is rewritten in place.
"""

from __future__ import annotations

import sys
import time
from typing import Any

_PATIENCE = 1.0  # seconds of work before "auto" draws anything


class Progress:
    """Counts ``total`` steps of ``what`` ("predict", unit "batch"). A context manager; ``advance()`` after every step.

    ``verbose``: "auto" (a bar once the work has lasted a second, if stderr is a terminal), 1 or True (a bar), 2 (one line at
    the end), 0 or False (silence). ValueError for anything else.
    """

    def __init__(self, total: int, verbose: Any = "auto", what: str = "predict", unit: str = "batch"):
        if isinstance(verbose, str) != (verbose == "auto") or verbose not in ("auto", 0, 1, 2):
            raise ValueError(f"The argument `verbose` must be 'auto', 0, 1 or 2. Received: verbose={verbose!r}")
        self.total, self.verbose, self.what, self.unit = total, verbose, what, unit
        self.done = 0
        self._start = time.monotonic()
        self._bar: Any = None
        self._plain = False

    def __enter__(self) -> Progress:
        if self.verbose == 1:
            self._open()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._plain:
            sys.stderr.write("\n")
        elif self.verbose == 2:
            sys.stderr.write(f"{self._line()}, {time.monotonic() - self._start:.1f} s\n")

    def advance(self) -> None:
        """One step is done."""
        self.done += 1
        if self._bar is not None:
            self._bar.update(1)
        elif self._plain:
            self._write()
        elif (
            self.verbose == "auto"
            and self.done < self.total
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
        return f"{self.what}: {self.done}/{self.total} ({self.unit})"

    def _write(self) -> None:
        sys.stderr.write(f"\r{self._line()}")
        sys.stderr.flush()
