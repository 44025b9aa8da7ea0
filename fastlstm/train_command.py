"""The command ``fastlstm train``. In terms of ``models``, ``training``, ``io.data_file`` and ``report``; used by ``cli``."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import random as draws
from . import report
from .io import KerasFile, read_config_file, read_keras_file
from .io.data_file import DataFile, check_writable, read_data, suffix_of
from .io.hdf5 import import_h5py
from .models import Sequential
from .models.saving import build_model, fresh_model
from .tables import human_seconds

_TRAIN = """\
MODEL
  .keras  training goes on from the weights in the file, or with --from-scratch from new ones
  .json   the config of a Sequential model, as in the config.json of a .keras file, or {"layers": [...]} alone: new weights

DATA
  .npz    the array "x", a sequence in each row, and "y", what the model should answer: a class number for each sequence (or
          for each step), or numbers of the shape of the model's output

Every epoch prints the loss and the accuracy (or the mean absolute error), and those on the validation data. Ctrl-C ends the
training after the batch at hand; what was learnt until then is written to OUT. The same --seed gives the same result.
"""


def add_parser(commands: Any, formatter: Any, count: Callable[[str], int]) -> None:
    """Adds the command to the parser of ``cli``; ``count`` parses a positive integer."""
    train = commands.add_parser(
        "train", help="train a model on the sequences of a file", epilog=_TRAIN, formatter_class=formatter
    )
    train.add_argument("model", metavar="MODEL", help="a .keras file, or a .json with the config of a model")
    train.add_argument("data", metavar="DATA", help="an .npz with the arrays x and y")
    train.add_argument("-o", "--output", metavar="OUT", required=True, help="where to write the trained model: .keras")
    train.add_argument("--from-scratch", action="store_true", help="new weights in place of those in a .keras file")
    train.add_argument("--epochs", metavar="N", type=count, default=20, help="passes over the data (default: 20)")
    train.add_argument("--batch-size", metavar="N", type=count, help="sequences for each update of the weights (default: 32)")
    train.add_argument("--optimizer", metavar="NAME", default="adam", help="adam, adamw, rmsprop or sgd (default: adam)")
    train.add_argument("--learning-rate", metavar="RATE", type=_rate, help="default: that of the optimizer")
    train.add_argument("--loss", metavar="NAME", help="default: crossentropy for classes, else mse")
    held_out = train.add_mutually_exclusive_group()
    held_out.add_argument("--validation", metavar="DATA2", help="an .npz like DATA to validate on after every epoch")
    held_out.add_argument(
        "--validation-split", metavar="F", type=_fraction, help="a part of DATA, drawn at random, validates, e.g. 0.2"
    )
    train.add_argument(
        "--early-stopping", metavar="N", type=count, help="stop after N epochs without progress, keep the best weights"
    )
    train.add_argument("--seed", metavar="N", type=int, help="makes the training repeatable")
    train.add_argument("--quiet", action="store_true", help="show no progress")
    train.set_defaults(run=run)


def _rate(text: str) -> float:
    return _number(text, lambda value: 0 < value < np.inf, "a positive number")


def _fraction(text: str) -> float:
    return _number(text, lambda value: 0 < value < 1, "a number between 0 and 1")


def _number(text: str, fits: Callable[[float], bool], expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not fits(value):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return value


class _Task(NamedTuple):
    """What the data ask for: a loss, a metric, and which way the metric's name should go."""

    loss: str
    metric: str


def run(arguments: argparse.Namespace) -> None:
    """Trains and writes; errors as of ``cli.main``."""
    import_h5py()
    if not arguments.output.endswith(".keras"):  # in lower case: `save` and Keras take no other
        raise ValueError(f"{arguments.output}: the output must end in .keras")
    check_writable(arguments.output, (".keras",))
    if arguments.seed is not None:
        random.seed(arguments.seed)
    data = _read(arguments.data)
    validation = None if arguments.validation is None else _read(arguments.validation)
    if arguments.validation_split is not None:
        data, validation = _split(data, arguments.validation_split)
    model = _model(arguments.model, arguments.from_scratch)
    if not model.built:
        model.build((None, *data.x.shape[1:]))
    task = _task(model, data, arguments.loss)
    _compile(model, arguments, task)
    print(report.heading(arguments.model, model, data, data.x), flush=True)
    start = time.monotonic()
    try:
        _fit(model, arguments, data, validation)
    except KeyboardInterrupt:
        _conclude(model, arguments, data, validation, time.monotonic() - start)
        raise
    _conclude(model, arguments, data, validation, time.monotonic() - start)


def _read(path: str) -> DataFile:
    """A file with x and y of one length."""
    if suffix_of(path, (".npz",), "training data") and (data := read_data(path, "x")).others.get("y") is None:
        raise ValueError(f"{path}: has no array 'y', which says what the model should answer")
    y = data.others["y"]
    if y.dtype.kind not in "fiub" or y.ndim == 0 or len(y) != len(data.x):
        raise ValueError(
            f"{path}: 'y' must hold a number, or an array of them, for each of the {len(data.x)} sequences of 'x'. "
            f"Received: dtype={y.dtype}, shape={y.shape}"
        )
    return data


def _split(data: DataFile, fraction: float) -> tuple[DataFile, DataFile]:
    """Two parts, drawn at random: files are often sorted by class. ValueError where one would be empty."""
    count = len(data.x)
    held_out = round(count * fraction)
    if not 0 < held_out < count:
        raise ValueError(f"{data.name}: --validation-split {fraction} leaves no sequences on one side of {count}")
    order = draws.generator(draws.default_seed()).permutation(count)
    kept, rest = np.sort(order[held_out:]), np.sort(order[:held_out])
    first, second = (data._replace(x=data.x[part], others={**data.others, "y": data.others["y"][part]}) for part in (kept, rest))
    return first, second


def _model(path: str, from_scratch: bool) -> Sequential:
    if suffix_of(path, (".keras", ".json"), "the model") == ".json":
        return fresh_model(KerasFile(path, read_config_file(path), {}, {}))
    file = read_keras_file(path)
    return fresh_model(file) if from_scratch else build_model(file)


def _task(model: Sequential, data: DataFile, loss: str | None) -> _Task:
    """Loss and metric for the model's output and ``y``. ValueError where they do not fit together."""
    output, y = tuple(model.compute_output_shape((None, *data.x.shape[1:]))), data.others["y"]
    if any(isinstance(entry, (tuple, list)) for entry in output):
        raise ValueError("the model has several outputs, which this command does not train")
    whole = y.dtype.kind in "iub"
    classes = output[-1] or 0
    numbered = y.ndim == len(output) - 1 or (y.ndim == len(output) and y.shape[-1] == 1)
    if loss is None and whole and numbered and classes > 1:
        if y.min() < 0 or y.max() >= classes:
            raise ValueError(
                f"{data.name}: 'y' must hold class numbers from 0 to {classes - 1}. Received: {int(y.min())} to {int(y.max())}"
            )
        return _Task("sparse_categorical_crossentropy", "accuracy")
    if loss is None and whole and numbered and y.min() >= 0 and y.max() <= 1 and _ends_in(model, "sigmoid"):
        return _Task("binary_crossentropy", "accuracy")
    if loss is None and _ends_in(model, "softmax") and y.ndim == len(output) and y.shape[-1] == classes:
        return _Task("categorical_crossentropy", "accuracy")
    chosen = loss or "mse"
    return _Task(chosen, "accuracy" if "crossentropy" in chosen else "mae")


def _ends_in(model: Sequential, activation: str) -> bool:
    last = getattr(model.layers[-1], "activation", None)
    return getattr(last, "__name__", None) == activation


def _compile(model: Sequential, arguments: argparse.Namespace, task: _Task) -> None:
    config = {} if arguments.learning_rate is None else {"learning_rate": arguments.learning_rate}
    model.compile({"class_name": arguments.optimizer, "config": config}, task.loss, metrics=[task.metric])


def _fit(model: Sequential, arguments: argparse.Namespace, data: DataFile, validation: DataFile | None) -> None:
    from .training.callbacks import Callback, EarlyStopping, TerminateOnNaN

    callbacks: list[Callback] = [TerminateOnNaN(raise_error=True)]
    if arguments.early_stopping is not None:
        monitor = "loss" if validation is None else "val_loss"
        callbacks.append(EarlyStopping(monitor, patience=arguments.early_stopping, restore_best_weights=True, verbose=1))
    try:
        model.fit(
            data.x,
            data.others["y"],
            batch_size=arguments.batch_size,
            epochs=arguments.epochs,
            verbose=0 if arguments.quiet else "auto",
            callbacks=callbacks,
            validation_data=None if validation is None else (validation.x, validation.others["y"]),
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"{data.name}: the model cannot be trained on this: {error}") from error


def _conclude(
    model: Sequential, arguments: argparse.Namespace, data: DataFile, held_out: DataFile | None, seconds: float
) -> None:
    """Writes the model, and prints how good it is now."""
    model.save(arguments.output)
    epochs = len(model.history.epoch) if model.history is not None else 0
    lines = [("trained", f"{epochs} epochs in {human_seconds(seconds)}")]
    for name, file in (("trained on", data), ("held out", held_out)):
        if file is not None:
            values = model.evaluate(file.x, file.others["y"], batch_size=arguments.batch_size, verbose=0, return_dict=True)
            lines.append((name, ", ".join(f"{key} {value:.4g}" for key, value in values.items())))
    lines.append(("written", arguments.output))
    print("\n" + report.facts(lines))
