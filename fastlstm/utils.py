"""What Keras users prepare data with: seeds, padding, one-hot labels (terms of ``keras.utils``). Used by callers only."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["pad_sequences", "set_random_seed", "to_categorical"]


def set_random_seed(seed: int) -> None:
    """Makes what follows repeatable: weights, dropout and the order of samples (they draw from Python's ``random``), and NumPy's
    global generator. ValueError for what is no integer from 0 to 2^32 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**32:
        raise ValueError(f"The argument `seed` must be an integer from 0 to 2**32 - 1. Received: seed={seed!r}")
    random.seed(int(seed))
    np.random.seed(int(seed))  # noqa: NPY002 (the caller's own draws, as in Keras)


def pad_sequences(
    sequences: Sequence[Any],
    maxlen: int | None = None,
    dtype: Any = "int32",
    padding: str = "pre",
    truncating: str = "pre",
    value: Any = 0.0,
) -> np.ndarray:
    """Sequences of different lengths as one array [N,T,…], filled up with ``value``.

    ``maxlen``: T; None: the longest. ``padding``, ``truncating``: "pre" fills or cuts at the front, "post" at the end.
    ValueError for another word, and for sequences that do not go together.
    """
    for name, word in {"padding": padding, "truncating": truncating}.items():
        if word not in ("pre", "post"):
            raise ValueError(f"The argument `{name}` must be 'pre' or 'post'. Received: {name}={word!r}")
    if not hasattr(sequences, "__len__") or not all(hasattr(one, "__len__") for one in sequences):
        raise ValueError("The argument `sequences` must be a list of sequences")
    steps = max((len(one) for one in sequences), default=0) if maxlen is None else maxlen
    sample = next((np.shape(one)[1:] for one in sequences if len(one)), ())
    padded = np.full((len(sequences), steps, *sample), value, dtype)
    for row, one in zip(padded, sequences, strict=True):
        kept = np.asarray(one[max(len(one) - steps, 0) :] if truncating == "pre" else one[:steps], dtype)
        if not len(kept):
            continue
        if kept.shape[1:] != sample:
            raise ValueError(f"All `sequences` must have steps of shape {sample}. Received: one of shape {np.shape(one)}")
        row[steps - len(kept) if padding == "pre" else 0 :][: len(kept)] = kept
    return padded


def to_categorical(x: Any, num_classes: int | None = None) -> np.ndarray:
    """Class numbers [...] or [...,1] as one-hot rows [...,num_classes] of float64.

    ``num_classes``: None: the largest number + 1. ValueError for numbers outside 0 to ``num_classes`` - 1.
    """
    labels = np.asarray(x).astype(np.int64)
    if labels.ndim > 1 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    count = (int(labels.max()) + 1 if labels.size else 0) if num_classes is None else num_classes
    if labels.size and not (labels.min() >= 0 and labels.max() < count):
        raise ValueError(
            f"The argument `x` must hold class numbers from 0 to {count - 1}. Received: {labels.min()} to {labels.max()}"
        )
    return np.eye(count)[labels]
