"""Batches: the samples of ``fit`` and ``evaluate``, cut into batches, shuffled, weighted. Knows arrays, no model.

Terms of Keras' data adapters: x, y, sample_weight, class_weight, validation_split. Used by ``trainer``.
"""

from __future__ import annotations

import itertools
import math
import numbers
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from .. import devices, random
from ..arrays import require_array


class Samples:
    """The arrays of a model with several inputs, all of one length: as long as one of them, cut as one array is."""

    ndim = 1

    def __init__(self, arrays: list[np.ndarray]):
        self.arrays = arrays

    @property
    def shape(self) -> tuple[int, ...]:
        return self.arrays[0].shape[:1]

    def moved_to(self, place: str) -> Samples:
        """The arrays on the host ("cpu") or on the device ("gpu")."""
        return Samples(devices.moved(self.arrays, place))

    def check(self) -> None:
        """ValueError unless all arrays have a batch axis of one length."""
        if any(array.ndim == 0 or array.shape[:1] != self.shape for array in self.arrays):
            raise ValueError(
                "All inputs of a model must hold the same number of samples. "
                f"Received: arrays of shapes {[array.shape for array in self.arrays]}"
            )

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, part: Any) -> Samples:
        return Samples([array[part] for array in self.arrays])


class Batch(NamedTuple):
    """Samples ``x`` [n,…], what they should give ``y`` [n,…] (None: nothing is known), their weights [n] or [n,T], or None.

    ``Samples`` of them where a model has several inputs or outputs."""

    x: Any
    y: Any
    weight: Any


class ArrayBatches:
    """All samples of arrays, batch by batch; iterating makes one pass. ``len``: batches of a pass.

    Args: ``batch`` (arrays of one length); ``size``: samples a batch; ``shuffle``: a new order at every pass, drawn from a
    generator whose seed comes from Python's ``random`` (``random.seed(...)`` makes a training repeatable); "batch": the samples
    change places within their batch only. ValueError for another ``shuffle``.
    """

    def __init__(self, batch: Batch, size: int, shuffle: bool | str = False):
        if isinstance(shuffle, str) and shuffle != "batch":
            raise ValueError(f"The argument `shuffle` must be True, False or 'batch'. Received: shuffle={shuffle!r}")
        self.batch, self.size, self.shuffle = batch, size, shuffle
        self._random = random.generator(random.default_seed()) if shuffle else None

    def __len__(self) -> int:
        return math.ceil(len(self.batch.x) / self.size)

    def __iter__(self) -> Iterator[Batch]:
        count = len(self.batch.x)
        order: Any = np.arange(count)
        if self._random is not None and self.shuffle != "batch":
            self._random.shuffle(order)
            order = devices.moved(order, devices.home(self.batch.x))  # once a pass
        for start in range(0, count, self.size):
            part: Any = slice(start, start + self.size)
            if self._random is not None:
                part = self._permuted(order[part]) if self.shuffle == "batch" else order[part]
            yield Batch(*(None if array is None else array[part] for array in self.batch))  # type: ignore[arg-type]

    def _permuted(self, part: np.ndarray) -> Any:
        assert self._random is not None
        return devices.moved(self._random.permutation(part), devices.home(self.batch.x))


class IterableBatches:
    """The batches that somebody else makes: an iterable of x, (x, y) or (x, y, sample_weight); one pass an epoch."""

    def __init__(
        self,
        source: Iterable[Any],
        class_weight: Mapping[int, float] | None = None,
        samples: Callable[[Any], Any] | None = None,
        answers: Callable[[Any, Any], tuple[Any, Any]] | None = None,
    ):
        self.source, self.class_weight, self.samples, self.answers = source, class_weight, samples, answers

    def _items(self) -> Iterator[Any]:
        yield from self.source

    def __iter__(self) -> Iterator[Batch]:
        for item in self._items():
            parts = tuple(item) if isinstance(item, (tuple, list)) else (item,)
            if not 1 <= len(parts) <= 3:
                raise ValueError(f"Each item of `x` must be (x, y) or (x, y, sample_weight). Received: {len(parts)} entries")
            x, y, weight = (*parts, None, None)[:3]
            y, weight = (y, weight) if self.answers is None else self.answers(y, weight)
            yield checked(x if self.samples is None else self.samples(x), y, weight, self.class_weight)


class IndexedBatches(IterableBatches):
    """The batches of an object with ``__len__`` and ``__getitem__``, such as Keras' PyDataset: in a new order at every pass with
    ``shuffle``; after a pass its ``on_epoch_end`` is called, where it has one."""

    def __init__(self, source: Any, *options: Any, shuffle: bool | str = False):
        super().__init__(source, *options)
        self._random = random.generator(random.default_seed()) if shuffle is True else None

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]

    def _items(self) -> Iterator[Any]:
        order = np.arange(len(self))
        if self._random is not None:
            self._random.shuffle(order)
        for index in order.tolist():
            yield self.source[index]  # type: ignore[index]
        getattr(self.source, "on_epoch_end", lambda: None)()


class Stream:
    """One epoch's batches after the other. ``steps``: batches an epoch, None: one pass.

    ``epoch`` is for training: with ``steps`` a pass may go on in the next epoch. ``once`` is for everything else: it begins at
    the front, so that every evaluation sees the same samples.
    """

    def __init__(self, batches: Iterable[Batch], steps: int | None = None):
        self.batches, self.steps = batches, steps
        self._pass: Iterator[Batch] | None = None

    def length(self, once: bool = False) -> int | None:
        """How many batches ``epoch``, or ``once``, will give; None where nobody knows."""
        there = len(self.batches) if isinstance(self.batches, (ArrayBatches, IndexedBatches)) else None
        if self.steps is None or there is None:
            return self.steps or there
        return min(self.steps, there) if once else self.steps

    def epoch(self) -> Iterator[Batch]:
        """The batches of the next epoch; fewer, with a warning, where a generator has run dry."""
        if self.steps is None:
            yield from self._counted()
            return
        for step in range(self.steps):
            batch = next(self._pass, None) if self._pass is not None else None
            if batch is None:
                self._pass = iter(self.batches)
                batch = next(self._pass, None)
            if batch is None:
                warnings.warn(f"`x` ran out of data after {step} of {self.steps} batches of the epoch", stacklevel=3)
                return
            yield batch

    def once(self) -> Iterator[Batch]:
        """The first ``steps`` batches of a new pass, or all of them; with a warning where there are fewer."""
        found = 0
        for batch in itertools.islice(self._counted(), self.steps):
            found += 1
            yield batch
        if self.steps and 0 < found < self.steps:
            warnings.warn(f"The data end after {found} of {self.steps} batches", stacklevel=3)

    def _counted(self) -> Iterator[Batch]:
        empty = True
        for batch in self.batches:
            empty = False
            yield batch
        if empty:
            warnings.warn("`x` has no data (left): a generator can be run through once only", stacklevel=3)


def checked(x: Any, y: Any, weight: Any, class_weight: Mapping[int, float] | None = None) -> Batch:
    """The arrays as a Batch. ValueError for no samples, different lengths, and for both kinds of weights at once."""
    if class_weight is not None and weight is not None:
        raise ValueError("The arguments `sample_weight` and `class_weight` cannot both be given")
    samples: Any = x if isinstance(x, Samples) else require_array(x, "x")
    if isinstance(samples, Samples):
        samples.check()
    targets = None if y is None else _arrays(y, "y")
    if class_weight is not None:
        if targets is None or isinstance(targets, Samples):
            raise ValueError("The argument `class_weight` needs `y`, and one output")
        weight = class_weights(targets, class_weight)
    weights = None if weight is None else _arrays(weight, "sample_weight")
    if samples.ndim == 0:
        raise ValueError("The argument `x` must have a batch axis. Received: a single number")
    if not len(samples):
        raise ValueError(f"The argument `x` has no samples. Received: x.shape={samples.shape}")
    for name, array in (("y", targets), ("sample_weight", weights)):
        if array is not None and not isinstance(samples, Samples):
            devices.check_home(array, samples, name, "x")
        if array is not None and (array.ndim == 0 or len(array) != len(samples)):
            raise ValueError(
                f"The arguments `x` and `{name}` must hold the same number of samples. "
                f"Received: x.shape={samples.shape}, {name}.shape={array.shape}"
            )
    return Batch(samples, targets, weights)


def _arrays(value: Any, name: str) -> Any:
    """Labels and weights may also be plain lists; of several outputs they come as ``Samples``."""
    if isinstance(value, Samples):
        arrays = Samples([one if one is None else _arrays(one, name) for one in value.arrays])
        arrays.check()
        return arrays
    return require_array(value if hasattr(value, "__array__") else np.asarray(value), name)


def class_weights(y: np.ndarray, weights: Mapping[int, float]) -> np.ndarray:
    """The weight [N] of each sample by its class: ``y`` [N] or [N,1] class numbers, or [N,K] one-hot; 1 for classes not named."""
    if not isinstance(weights, Mapping):
        raise ValueError(f"The argument `class_weight` must be a dict {{class: weight}}. Received: {weights!r}")
    if not all(isinstance(value, numbers.Real) for value in weights.values()):
        raise ValueError(f"The argument `class_weight` must hold a number for each class. Received: {weights!r}")
    if y.ndim > 2:
        raise ValueError(f"The argument `class_weight` takes `y` with at most two axes. Received: y.shape={y.shape}")
    if y.ndim == 2:
        y = y.argmax(axis=1) if y.shape[1] > 1 else y[:, 0]
    classes = np.round(y).astype(np.int64)
    found = np.array([weights.get(int(k), 1.0) for k in devices.to_cpu(classes)], np.float32)
    return devices.moved(found, devices.home(y))


def split(batch: Batch, fraction: float) -> tuple[Batch, Batch]:
    """The first and the last ``fraction`` of the samples. ValueError unless 0 < fraction < 1 and both parts have samples."""
    count = len(batch.x)
    at = math.floor(count * (1.0 - fraction)) if isinstance(fraction, numbers.Real) and 0 < fraction < 1 else 0
    if not 0 < at < count:
        raise ValueError(
            "The argument `validation_split` must be between 0 and 1 and leave samples on both sides. "
            f"Received: validation_split={fraction!r} of {count} samples"
        )
    parts = ((None if a is None else a[:at], None if a is None else a[at:]) for a in batch)
    first, last = zip(*parts, strict=True)
    return Batch(*first), Batch(*last)


def is_arrays(x: Any) -> bool:
    """Whether ``x`` is an array (or something that is refused as one), not an iterable of batches."""
    if hasattr(x, "__array__") or isinstance(x, (list, tuple, str, Mapping, Samples)):
        return True
    return not hasattr(x, "__iter__") and not is_indexed(x)


def is_indexed(x: Any) -> bool:
    """Whether ``x`` gives batches by their number."""
    return hasattr(x, "__getitem__") and hasattr(x, "__len__") and not hasattr(x, "__iter__")
