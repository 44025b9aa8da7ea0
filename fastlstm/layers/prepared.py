"""Prepared: what a backend made of a layer's variables, kept until one of them changes.

Used by ``dense`` and ``convolution``, in terms of Variable (its ``version`` grows with every write) and of a backend's ``name``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..variable import Variable


class Prepared:
    """A place for one prepared thing. Copies and pickles of it are empty: the packed weights are derived data."""

    def __init__(self) -> None:
        self._kept: tuple[Any, Any] | None = None

    def get(self, backend: Any, variables: Sequence[Variable], make: Callable[[Any, str], Any], place: str) -> Any:
        """``make(backend, place)``, or what it returned last, if that was for this backend, this place ("cpu", "gpu") and these
        values of these variables."""
        # Read before ``make`` reads the values: a write in between makes the next call prepare again.
        key = (backend.name, place, *((variable, variable.version) for variable in variables))
        kept = self._kept
        if kept is None or kept[0] != key:
            kept = self._kept = (key, make(backend, place))
        return kept[1]

    def __reduce__(self) -> tuple[type[Prepared], tuple[()]]:
        return Prepared, ()
