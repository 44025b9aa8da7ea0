"""Trainer: compile, fit, evaluate, predict, and the same for one batch (terms of ``keras.Model``).

``models.Sequential`` derives from it. In terms of the model's own call, ``vjp``, ``weights`` and ``losses``; the work is done by
``batches``, ``compiled`` and ``fit``, which are loaded when somebody trains.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..layers.base import Layer
from ..layers.checks import positive_int
from ..layers.nest import flatten, packed
from ..progress import Progress, check_verbose

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

    @property
    def time_major(self) -> bool:
        """True if axis 0 of the inputs is time, along which no batches can be cut."""
        return False

    # -- compile --------------------------------------------------------------------------------------------------
    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: Any = "auto",
        auto_scale_loss: bool = True,
    ) -> None:
        """Says how to train: optimizer, loss and metrics, each by name, object or config; must come before ``fit``.

        ``loss_weights``: one number that the loss is multiplied with. For a model with several outputs ``loss``,
        ``loss_weights`` and the metrics are lists in the order of the outputs or dicts by their names; one loss counts for all.
        "accuracy" stands for the accuracy that fits the shapes
        of y and of the output; ``weighted_metrics`` are those that sample weights count in. The last four arguments say how
        Keras runs a step; they are accepted and change nothing here.
        ValueError for unknown names.
        """
        from .compiled import Compiled

        self._compiled = Compiled(optimizer, loss, loss_weights, metrics, weighted_metrics, *self._output_keys())

    def _output_keys(self) -> tuple[list[str] | None, bool]:
        """The names by which losses and metrics of several outputs are told apart (None for one output), and whether the
        outputs come in a dict."""
        return None, False

    @property
    def compilation(self) -> Compiled:
        """Optimizer, loss and metrics: of ``compile``, else of the file that the model comes from. ValueError without both."""
        if self._compiled is None and self._from_file is not None and self._from_file[0].get("optimizer") is not None:
            config, file = self._from_file
            known = ("optimizer", "loss", "loss_weights", "metrics", "weighted_metrics")
            arguments: dict[str, Any] = {key: config.get(key) for key in known}
            try:
                self.compile(**arguments)
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
        """Names of what ``evaluate`` returns: "loss", those of several outputs, then the metrics."""
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
        shuffle: bool | str = True,
        class_weight: Any = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: Any = 1,
    ) -> History:
        """Trains the model for ``epochs`` - ``initial_epoch`` passes over the samples. Returns the History.

        Args: ``x`` [N,…] and ``y`` [N,…], or as ``x`` an iterable of (x, y) or (x, y, sample_weight) batches, or an object that
        has them by number (``__len__`` and ``__getitem__``, as Keras' PyDataset). ``batch_size``: None: 32, or what a stateful
        model was built for. ``verbose``: 1 a bar an epoch, 2 a line an epoch, 0 nothing, "auto": 1 on a terminal, else 2; on
        stderr. ``validation_split``: this last part of the samples (before shuffling) validates;
        ``validation_data``: (x, y), (x, y, sample_weight), or an iterable of batches. ``shuffle``: a new order in every epoch,
        repeatable by ``random.seed(...)``; "batch": within each batch only. ``class_weight``: {class: weight};
        ``sample_weight`` [N] or [N,T].
        ``steps_per_epoch``: batches an epoch; ``validation_steps``: batches of a validation, from the front each time.
        ``validation_freq``: validate in every n-th epoch, or in the listed ones (from 1).

        Masks: steps that the model masks do not count in the loss. Stateful models: states go on from batch to batch and from
        epoch to epoch, validation included; reset them in a callback, and pass ``shuffle=False``.
        Ctrl-C ends the training between two batches (see ``training.fit``). A NaN loss is shown and does not end it, see
        ``callbacks.TerminateOnNaN``.
        ValueError before ``compile``, for no samples, arrays of different lengths, and a batch size that a stateful model cannot
        take.
        """
        from . import fit as loop

        self.compilation.need_loss()
        schedule = loop.Schedule.of(initial_epoch, epochs, validation_freq)
        steps = {"steps_per_epoch": steps_per_epoch, "validation_steps": validation_steps}
        for name, value in {**steps, "validation_batch_size": validation_batch_size}.items():
            if value is not None:
                positive_int(value, name)
        if validation_split and self.time_major:
            raise ValueError(f'`validation_split` would cut the time axis of the time-major model "{self.name}"')
        if validation_split and validation_data is None:
            from .batches import checked, split

            train, rest = split(checked(self._samples(x), *self._answers(y, sample_weight)), validation_split)
            (x, y, sample_weight), validation_data = train, tuple(rest)
        stream = self._stream(x, y, sample_weight, batch_size, steps_per_epoch, shuffle, class_weight)
        validation = None
        if validation_data is not None:
            validation = self._validation(validation_data, validation_batch_size or batch_size, validation_steps)
        self.history, listed = self._callbacks(callbacks, verbose, epochs, stream.length())
        loop.fit(self, stream, validation, listed, schedule)
        return self.history

    def _samples(self, x: Any) -> Any:
        """``x`` as the batches take it: models with several inputs put theirs together."""
        return x

    def _answers(self, y: Any, weight: Any) -> tuple[Any, Any]:
        """``y`` and ``sample_weight`` as the batches take them: models with several outputs put theirs together."""
        return y, weight

    def _validation(self, data: Any, batch_size: int | None, steps: int | None) -> Stream:
        """The batches of ``validation_data``. ValueError, TypeError that name this argument."""
        from .batches import is_arrays

        parts = tuple(data) if isinstance(data, (tuple, list)) else (data,)
        if not 1 <= len(parts) <= 3 or (len(parts) == 1 and is_arrays(parts[0])):
            raise ValueError("The argument `validation_data` must be (x, y), (x, y, sample_weight) or an iterable of batches")
        try:
            x, y, weight = (*parts, None, None)[:3]
            return self._stream(x, y, weight, batch_size, steps)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"The argument `validation_data` is not right: {error}") from error

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
        """Loss and metrics over the samples, penalties included. Args as in ``fit``; ``steps``: no more batches than these.

        Returns a float (the loss), or where there are metrics a list in ``metrics_names`` order; with ``return_dict`` a dict.
        """
        from . import fit as loop

        self.compilation.need_loss()
        stream = self._stream(x, y, sample_weight, batch_size, steps)
        _, listed = self._callbacks(callbacks, verbose, 1, stream.length(once=True))
        logs = loop.evaluate(self, stream, listed)
        if not logs:
            raise ValueError("The argument `x` is an iterable without batches")
        return self._answer(logs, return_dict)

    def train_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, class_weight: Any = None, return_dict: bool = False
    ) -> Any:
        """One update of the weights. Returns the loss (and metrics) of this batch before it, as ``evaluate`` does."""
        from . import fit as loop
        from .batches import checked

        self.compilation.need_loss()
        self.compilation.reset()
        loop.train_step(self, checked(self._samples(x), *self._answers(y, sample_weight), class_weight))
        return self._answer(self.compilation.result(), return_dict)

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False) -> Any:
        """Loss and metrics of one batch, as ``evaluate`` gives them."""
        from . import fit as loop
        from .batches import checked

        self.compilation.need_loss()
        self.compilation.reset()
        loop.test_step(self, checked(self._samples(x), *self._answers(y, sample_weight)))
        return self._answer(self.compilation.result(), return_dict)

    def _answer(self, logs: dict[str, Any], return_dict: bool) -> Any:
        """What ``evaluate`` and its kin return."""
        if return_dict:
            return logs
        values = self.compilation.listed(logs)
        return values[0] if len(values) == 1 else values

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
        shuffle: bool | str = False,
        class_weight: Any = None,
    ) -> Stream:
        from .batches import ArrayBatches, Batch, IndexedBatches, IterableBatches, Stream, checked, is_arrays, is_indexed

        if steps is not None:
            positive_int(steps, "steps")
        if not is_arrays(x):
            if y is not None or weight is not None:
                raise ValueError("Where `x` is an iterable of batches, `y` and `sample_weight` must come with the batches")
            options = (class_weight, self._samples, self._answers)
            indexed = is_indexed(x)
            return Stream(IndexedBatches(x, *options, shuffle=shuffle) if indexed else IterableBatches(x, *options), steps)
        if self.time_major:  # one batch of all, in the order of time
            x = self._samples(x)
            self._batch_size(batch_size, len(x))
            if y is None and weight is None:  # not ``checked``: states [N,U] beside x [T,N,D] are as long as the batch
                return Stream([Batch(x, None, None)], steps)
            return Stream(IterableBatches([(x, y, weight)], class_weight, self._samples, self._answers), steps)
        batch = checked(self._samples(x), *self._answers(y, weight), class_weight)
        return Stream(ArrayBatches(batch, self._batch_size(batch_size, len(batch.x)), shuffle), steps)

    # -- prediction -----------------------------------------------------------------------------------------------
    def predict(
        self, x: Any, batch_size: int | None = None, verbose: Any = "auto", steps: int | None = None, callbacks: Any = None
    ) -> Any:
        """The model's output for all samples of ``x`` [N,…], computed in batches and put together.

        Args: ``x``: an array, or an iterable of batches, each x alone or first in a tuple. ``batch_size``: samples a batch; None:
        32, or what a stateful model was built for. ``verbose``: 1 a progress bar, 0 none, "auto" a bar if the work lasts longer
        than a second and stderr is a terminal. ``steps``: at most so many batches. ``callbacks``: hear of ``on_predict_…``.
        A time-major model of an old file runs ``x`` [T,N,…] whole: ValueError for a ``batch_size`` below T and several batches.
        ValueError for a batch size or steps below 1, for an iterable without batches, and for a stateful model unless all
        batches are of the size it was built for (of an array checked before anything runs).
        """
        from .batches import is_arrays
        from .callback import CallbackList

        check_verbose(verbose)
        if is_arrays(x):
            x = self._as_input(x, "x")
            if x.ndim and not len(x):
                self._batch_size(batch_size, 0)
                return self(x)
        stream = self._stream(x, None, None, batch_size, steps)
        total = stream.length(once=True)
        listed = CallbackList(callbacks, self, {"verbose": verbose, "epochs": 1, "steps": total})
        parts: list[Any] = []
        listed.call("on_predict_begin", {})
        with Progress(total, verbose) as progress:
            for batch in stream.once():
                listed.call("on_predict_batch_begin", len(parts), {})
                if parts and self.time_major:
                    raise ValueError(
                        f'The model "{self.name}" is time-major: what several batches give cannot be put together along axis 0. '
                        "Call `predict_on_batch` for each"
                    )
                parts.append(self(batch.x, training=False))
                listed.call("on_predict_batch_end", len(parts) - 1, {"outputs": parts[-1]})
                progress.advance()
        listed.call("on_predict_end", {})
        if not parts:
            raise ValueError("The argument `x` is an iterable without batches")
        leaves = [_joined(list(outputs)) for outputs in zip(*map(flatten, parts), strict=True)]
        return packed(parts[0], leaves)

    def predict_on_batch(self, x: Any) -> Any:
        """The model's output for ``x`` [N,…], computed at once."""
        return self(x, training=False)

    def _batch_size(self, batch_size: int | None, samples: int) -> int:
        """Samples a batch for ``samples`` samples. ValueError where a stateful model cannot take them."""
        if self.time_major:
            if batch_size is not None and positive_int(batch_size, "batch_size") < samples:
                raise ValueError(
                    f'The model "{self.name}" is time-major: batches would be cut along the time axis of {samples} steps. Leave '
                    f"`batch_size` out. Received: batch_size={batch_size}"
                )
            return samples or 1
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
