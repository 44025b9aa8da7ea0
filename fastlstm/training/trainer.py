"""Trainer: compile, fit, evaluate, predict, train_on_batch and test_on_batch of a model (terms of ``keras.Model``).

``models.Sequential`` derives from it. In terms of the model's own call, ``vjp``, ``weights`` and ``losses``; the work is done by
``batches``, ``compiled`` and ``fit``, which are loaded when somebody trains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..layers.base import Layer
from ..layers.checks import positive_int
from ..progress import Progress

if TYPE_CHECKING:
    from .batches import Stream
    from .compiled import Compiled
    from .history import History


class Trainer(Layer):
    """The part of a model that trains and predicts.

    Attributes: ``stop_training`` (callbacks set it), ``history`` (the History of the last ``fit``), ``optimizer``, ``loss`` and
    ``metrics`` as given to ``compile``.
    """

    stop_training = False
    history: History | None = None
    _compiled: Compiled | None = None
    _from_file: tuple[Mapping[str, Any], str] | None = None  # what a file says about compiling, and the file's name

    @property
    def stateful(self) -> bool:
        """True if the model carries states from call to call."""
        return False

    @property
    def static_batch_size(self) -> int | None:
        """The batch size that a stateful model was built for, else None."""
        return None

    # -- compile --------------------------------------------------------------------------------------------------
    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
    ) -> None:
        """Says how to train: optimizer, loss and metrics, each by name, object or config; must come before ``fit``.

        ``loss_weights``: one number that the loss is multiplied with. "accuracy" stands for the accuracy that fits the shapes
        of y and of the output; ``weighted_metrics`` are those that sample weights count in.
        ValueError for unknown names.
        """
        from .compiled import Compiled

        self._compiled = Compiled(optimizer, loss, loss_weights, metrics, weighted_metrics)

    @property
    def compilation(self) -> Compiled:
        """Optimizer, loss and metrics: of ``compile``, else of the file that the model comes from. ValueError without both."""
        if self._compiled is None and self._from_file is not None and self._from_file[0].get("optimizer") is not None:
            config, file = self._from_file
            known = ("optimizer", "loss", "loss_weights", "metrics", "weighted_metrics")
            try:
                self.compile(**{key: config.get(key) for key in known})
            except (TypeError, ValueError) as error:
                raise ValueError(f"{file}: cannot train as its compile_config says, call `model.compile(…)`: {error}") from error
        if self._compiled is None:
            raise ValueError(f'The model "{self.name}" must be compiled first: call `model.compile(optimizer=…, loss=…)`')
        return self._compiled

    @property
    def compiled(self) -> bool:
        """Whether it is known how to train: by ``compile``, or by the file that the model comes from."""
        return self._compiled is not None or bool(self._from_file and self._from_file[0].get("optimizer") is not None)

    @property
    def optimizer(self) -> Any:
        """The optimizer, None before ``compile``."""
        return self.compilation.optimizer if self.compiled else None

    @property
    def loss(self) -> Any:
        """The loss as it was given to ``compile``, None before."""
        return self.compilation.given["loss"] if self.compiled else None

    @property
    def metrics(self) -> list[Any]:
        """The metric objects; empty before ``compile`` and before the first batch, which tells what "accuracy" means."""
        return self.compilation.metrics if self.compiled else []

    def set_compile_config(self, config: Mapping[str, Any], file: str) -> None:
        """What a file says about compiling; looked at when somebody trains. The optimizer starts afresh then."""
        self._compiled, self._from_file = None, (config, file)

    def compile_config(self) -> dict[str, Any]:
        """What goes into a file: optimizer, loss and metrics, or what the file said that the model comes from."""
        if self._compiled is None:
            return dict(self._from_file[0]) if self._from_file else {}
        return self._compiled.get_config()

    @property
    def metrics_names(self) -> list[str]:
        """What ``evaluate`` returns, in order: "loss", then the metrics."""
        return self.compilation.names if self.compiled else []

    # -- training -------------------------------------------------------------------------------------------------
    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Any = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: Any = 1,
    ) -> History:
        """Trains the model for ``epochs`` - ``initial_epoch`` passes over the samples. Returns the History.

        Args: ``x`` [N,…] and ``y`` [N,…], or as ``x`` an iterable of (x, y) or (x, y, sample_weight) batches. ``batch_size``:
        None: 32, or what a stateful model was built for. ``verbose``: 1 a bar an epoch, 2 a line an epoch, 0 nothing, "auto": 1
        on a terminal, else 2; on stderr. ``validation_split``: this last part of the samples (before shuffling) validates;
        ``validation_data``: (x, y), (x, y, sample_weight), or an iterable of batches. ``shuffle``: a new order in every epoch,
        repeatable by ``random.seed(...)``. ``class_weight``: {class: weight}; ``sample_weight`` [N] or [N,T].
        ``steps_per_epoch``: batches an epoch. ``validation_freq``: validate in every n-th epoch, or in the listed ones (from 1).

        Masks: steps that the model masks do not count in the loss. Stateful models: states go on from batch to batch and from
        epoch to epoch, validation included; reset them in a callback, and pass ``shuffle=False``.
        Ctrl-C ends the training between two batches (see ``training.fit``). A NaN loss is shown and does not end it, see
        ``callbacks.TerminateOnNaN``.
        ValueError before ``compile``, for arrays of different lengths, and for a batch size that a stateful model cannot take.
        """
        from . import fit as loop
        from .batches import is_arrays

        compiled = self.compilation
        compiled.need_loss()
        if validation_split and validation_data is None:
            from .batches import checked, split

            train, rest = split(checked(x, y, sample_weight), validation_split)
            (x, y, sample_weight), validation_data = train, tuple(rest)
        stream = self._stream(x, y, sample_weight, batch_size, steps_per_epoch, shuffle, class_weight)
        validation = None
        if validation_data is not None:
            parts = (validation_data,) if not isinstance(validation_data, (tuple, list)) else tuple(validation_data)
            if not 1 <= len(parts) <= 3 or (len(parts) == 1 and is_arrays(parts[0])):
                raise ValueError("The argument `validation_data` must be (x, y), (x, y, sample_weight) or an iterable of batches")
            val_x, val_y, val_weight = (*parts, None, None)[:3]
            validation = self._stream(val_x, val_y, val_weight, validation_batch_size or batch_size, validation_steps)
        if not isinstance(validation_freq, int):
            validation_freq = [int(number) for number in validation_freq]
        elif validation_freq < 1:
            raise ValueError(f"The argument `validation_freq` must be at least 1. Received: {validation_freq}")
        self.history, listed = self._callbacks(callbacks, verbose, epochs, stream.known_steps)
        loop.fit(self, stream, validation, listed, loop.Schedule(initial_epoch, epochs, validation_freq))
        return self.history

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """Loss and metrics over the samples, penalties included. Args as in ``fit``.

        Returns a float (the loss), or where there are metrics a list in ``metrics_names`` order; with ``return_dict`` a dict.
        """
        from . import fit as loop

        self.compilation.need_loss()
        stream = self._stream(x, y, sample_weight, batch_size, steps)
        _, listed = self._callbacks(callbacks, verbose, 1, stream.known_steps)
        return _answer(loop.evaluate(self, stream, listed), return_dict)

    def train_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, class_weight: Any = None, return_dict: bool = False
    ) -> Any:
        """One update of the weights. Returns the loss (and metrics) of this batch before it, as ``evaluate`` does."""
        from . import fit as loop
        from .batches import checked

        self.compilation.need_loss()
        self.compilation.reset()
        loop.train_step(self, checked(x, y, sample_weight, class_weight))
        return _answer(self.compilation.result(), return_dict)

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False) -> Any:
        """Loss and metrics of one batch, as ``evaluate`` gives them."""
        from . import fit as loop
        from .batches import checked

        self.compilation.need_loss()
        self.compilation.reset()
        loop.test_step(self, checked(x, y, sample_weight))
        return _answer(self.compilation.result(), return_dict)

    def _callbacks(self, callbacks: Any, verbose: Any, epochs: int, steps: int | None) -> tuple[History, Any]:
        """A History, and the list of all callbacks with it and the display in front."""
        from .callback import CallbackList
        from .display import Display
        from .history import History

        display = Display(verbose)
        params = {"verbose": display.verbose, "epochs": epochs, "steps": steps}
        listed = CallbackList(callbacks, self, params)
        # The display closes its bar first, so that no callback writes into it; the history sees what callbacks added to logs.
        history = next((one for one in listed.callbacks if isinstance(one, History)), None)
        ends = [display, history or History()]
        for callback in ends:
            callback.set_params(params)
            callback.set_model(self)
        listed.callbacks = [display, *(one for one in listed.callbacks if one is not history), ends[1]]
        return ends[1], listed  # type: ignore[return-value]

    def _stream(
        self,
        x: Any,
        y: Any,
        weight: Any,
        batch_size: int | None,
        steps: int | None,
        shuffle: bool = False,
        class_weight: Any = None,
    ) -> Stream:
        from .batches import ArrayBatches, IterableBatches, Stream, checked, is_arrays

        if steps is not None:
            positive_int(steps, "steps")
        if not is_arrays(x):
            if y is not None or weight is not None:
                raise ValueError("Where `x` is an iterable of batches, `y` and `sample_weight` must come with the batches")
            return Stream(IterableBatches(x, class_weight), steps)
        batch = checked(x, y, weight, class_weight)
        if not len(batch.x):
            raise ValueError(f"The argument `x` has no samples. Received: x.shape={batch.x.shape}")
        return Stream(ArrayBatches(batch, self._batch_size(batch_size, len(batch.x)), shuffle), steps)

    # -- prediction -----------------------------------------------------------------------------------------------
    def predict(
        self, x: Any, batch_size: int | None = None, verbose: Any = "auto", steps: int | None = None, callbacks: Any = None
    ) -> Any:
        """The model's output for all samples of ``x`` [N,…], computed in batches and put together.

        Args: ``batch_size``: samples a batch; None: 32, or what a stateful model was built for. ``verbose``: 1 a progress bar, 0
        none, "auto" a bar if the work lasts longer than a second and stderr is a terminal. ``steps``: at most so many batches.
        ``callbacks``: Callback objects, whose ``on_predict_…`` methods are called.
        ValueError for a batch size or steps below 1, and for a stateful model unless all batches are of the size it was
        built for (checked before anything runs).
        """
        from .callback import CallbackList

        x = self._as_input(x, "x")
        if x.ndim == 0:
            raise ValueError("The argument `x` must have a batch axis. Received: a single number")
        size = self._batch_size(batch_size, len(x))
        batches = math.ceil(len(x) / size)
        if steps is not None:
            batches = min(batches, positive_int(steps, "steps"))
        if batches == 0:
            return self(x)
        parts = []
        listed = CallbackList(callbacks, self, {"verbose": verbose, "epochs": 1, "steps": batches})
        with Progress(batches, verbose) as progress:
            listed.call("on_predict_begin", None)
            for k in range(batches):
                listed.call("on_predict_batch_begin", k, None)
                parts.append(self(x[k * size : (k + 1) * size]))
                listed.call("on_predict_batch_end", k, {"outputs": parts[-1]})
                progress.advance()
            listed.call("on_predict_end", None)
        if isinstance(parts[0], tuple):
            return tuple(_joined(list(outputs)) for outputs in zip(*parts, strict=True))
        return _joined(parts)

    def _batch_size(self, batch_size: int | None, samples: int) -> int:
        """Samples a batch for ``samples`` samples. ValueError where a stateful model cannot take them."""
        static = self.static_batch_size
        size = min(positive_int(batch_size if batch_size is not None else static or 32, "batch_size"), samples or 1)
        if self.stateful and samples and (samples % size or size != (static or size)):
            raise ValueError(
                f'The model "{self.name}" is stateful: all batches must have {static or "the same number of"} samples. Received: '
                f"{samples} samples and batch_size={batch_size}"
            )
        return size


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _answer(logs: dict[str, Any], return_dict: bool) -> Any:
    values = list(logs.values())
    return logs if return_dict else values[0] if len(values) == 1 else values
