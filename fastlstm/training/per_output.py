"""What ``compile`` was told -> what each output of the model is trained and measured with. Used by ``compiled``.

Loss, weights of losses and metrics come for all outputs, in a list in their order, or in a dict by their names, as in Keras 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def is_per_output(given: Any) -> bool:
    """Whether ``given`` says something for each output, in order or by name; the config of an object is a dict as well."""
    return isinstance(given, (list, tuple)) or (isinstance(given, dict) and "class_name" not in given)


def losses_of(given: Any, names: Sequence[str]) -> list[Any]:
    """The loss of each output, None for none. ValueError for another number of them, and for other names."""
    if not is_per_output(given):
        return [given] * len(names)
    if isinstance(given, dict):
        if len(names) == 1:
            return _listed(list(given.values()), names, "loss")
        if set(given) != set(names):
            raise ValueError(f"The argument `loss` must name the outputs {list(names)}. Received: the keys {list(given)}")
        return [given[name] for name in names]
    return _listed(given, names, "loss")


def factors_of(given: Any, names: Sequence[str]) -> list[float]:
    """What each loss is multiplied with. ValueError for anything but numbers, and unless there is one for each loss."""
    if not is_per_output(given):
        entries = [given] * len(names)
    elif isinstance(given, dict):
        unknown = [name for name in given if name not in names]
        if unknown and not len(names) == len(given) == 1:
            raise ValueError(f"The argument `loss_weights` must name the outputs {list(names)}. Received: the keys {list(given)}")
        entries = list(given.values()) if unknown else [given.get(name) for name in names]
    else:
        entries = _listed(given, names, "loss_weights")
    for entry in entries:
        if entry is not None and (isinstance(entry, bool) or not isinstance(entry, (int, float))):
            expected = "be one number: the model has one output" if len(names) == 1 else "hold one number for each loss"
            raise ValueError(f"The argument `loss_weights` must {expected}. Received: {given!r}")
    return [1.0 if entry is None else float(entry) for entry in entries]


def metrics_of(given: Any, names: Sequence[str], argument: str) -> list[list[Any]]:
    """The metrics of each output. A single output takes all that there are; ValueError for another number, other names."""
    if given is None:
        return [[] for _ in names]
    if len(names) == 1:
        return [flat(given)]
    if isinstance(given, dict) and is_per_output(given):
        unknown = [name for name in given if name not in names]
        if unknown:
            raise ValueError(f"The argument `{argument}` must name the outputs {list(names)}. Received: the keys {list(given)}")
        return [flat(given.get(name)) for name in names]
    if not is_per_output(given):
        raise ValueError(f"The argument `{argument}` must be a list or a dict for the outputs {list(names)}. Received: {given!r}")
    return [flat(entry) for entry in _listed(given, names, argument)]


def flat(given: Any) -> list[Any]:
    """All metrics in lists and dicts, one after the other."""
    if given is None:
        return []
    if not is_per_output(given):
        return [given]
    return [one for entry in (given.values() if isinstance(given, dict) else given) for one in flat(entry)]


def _listed(given: Any, names: Sequence[str], argument: str) -> list[Any]:
    if len(given) != len(names) and len(names) == 1:
        raise ValueError(
            f"The argument `{argument}` must be for one output, which is all that the model has. Received: {given!r}"
        )
    if len(given) != len(names):
        raise ValueError(
            f"The argument `{argument}` must have an entry for each of the outputs {list(names)}. Received: {given!r}"
        )
    return list(given)
