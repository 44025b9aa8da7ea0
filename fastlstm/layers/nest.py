"""Nested structures: lists, tuples and dicts of leaves, as models and layers with several inputs take and return them.

Used by ``symbolic``, ``several`` and ``models``. A dict is walked in the order of its keys as they stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def flatten(structure: Any) -> list[Any]:
    """The leaves of lists, tuples and dicts within each other, in order."""
    return list(_leaves(structure))


def _leaves(structure: Any) -> Iterator[Any]:
    if isinstance(structure, dict):
        structure = structure.values()
    elif not isinstance(structure, (list, tuple)):
        yield structure
        return
    for part in structure:
        yield from _leaves(part)


def mapped(function: Callable[[Any], Any], structure: Any) -> Any:
    """The same structure with ``function`` applied to every leaf."""
    if isinstance(structure, dict):
        return {key: mapped(function, part) for key, part in structure.items()}
    if isinstance(structure, (list, tuple)):
        parts = [mapped(function, part) for part in structure]
        return parts if isinstance(structure, list) else tuple(parts)
    return function(structure)


def packed(structure: Any, leaves: list[Any]) -> Any:
    """The structure with its leaves replaced by ``leaves``, in order."""
    rest = iter(leaves)
    return mapped(lambda _: next(rest), structure)


def is_several_shapes(shape: Any) -> bool:
    """True for a list of shapes, False for one shape."""
    return any(isinstance(entry, (tuple, list)) for entry in shape)
