"""The command ``fastlstm``: predict, train, convert, verify, export-c, info, doctor.

In terms of ``load_model``, ``io.data_file``, ``report``, ``selector``; some commands have files of their own.

Exit codes: 0 done; 1 ``verify`` found a difference; 2 wrong usage or bad input, with one line on stderr; 130 interrupted by
Ctrl-C; 141 the reader of the output went away.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from typing import Any, NoReturn

import numpy as np

from . import convert_command, export_command, onnx_command, report, train_command, verify_command
from .io import OnnxBytes, read_model_file
from .io.data_file import READABLE, WRITABLE, DataFile, check_writable, read_data, suffix_of, write_array
from .models import Sequential, load_model
from .models.saving import build_model
from .tables import printable, shape_text

_PREDICT = """\
Input files
  .npy   the array that the model takes, e.g. [sequences, steps, features]
  .npz   its array "x", else its only array, else the one named by --key; "y" (true class of each sequence) and
         "classes" (their names) add a comparison, "keras_prediction" the difference from a stored prediction
  .csv   a table of numbers, header optional, separated by comma, semicolon, tab or blanks.
         One row is one time step, one column one feature. --timesteps T cuts the rows into sequences of T steps;
         by default T is the number of steps that the model fixes, else all rows are one sequence.
         For a model of [sequences, steps, rows, channels] a csv row holds the rows x channels of one step.
         For a model without a feature axis (token ids) one csv row is one sequence.

Output files
  .npy   the prediction as it is
  .csv   a header (class names where known) and one row for each sequence, or each step of each sequence
"""


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"fastlstm: error: {message} (see '{self.prog} --help')\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fastlstm", description="Runs and trains Keras LSTM models with NumPy as the only dependency.")
    parser.add_argument("--version", action="version", version=f"fastlstm {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    raw = argparse.RawDescriptionHelpFormatter
    predict = commands.add_parser("predict", help="run a model on the sequences of a file", epilog=_PREDICT, formatter_class=raw)
    predict.add_argument("model", metavar="MODEL", help="a .keras, .h5 or .onnx file")
    predict.add_argument("input", metavar="INPUT", help=f"the sequences: {', '.join(READABLE)}")
    predict.add_argument("-o", "--output", metavar="OUT", help=f"where to write the prediction: {', '.join(WRITABLE)}")
    predict.add_argument("--key", metavar="NAME", help="the array of an .npz to take as input (default: x, else the only one)")
    predict.add_argument(
        "--batch-size", metavar="N", type=_count, help="sequences computed at once (default: 32, or what a stateful model fixes)"
    )
    predict.add_argument("--timesteps", metavar="T", type=_count, help="time steps of one sequence in a .csv")
    predict.add_argument("--rows", metavar="N", type=int, default=10, help="sequences to show in the table (default: 10)")
    predict.set_defaults(run=_predict)

    train_command.add_parser(commands, raw, _count)
    export_command.add_parser(commands, raw, _count)

    convert_command.add_parser(commands, raw)

    verify_command.add_parser(commands, raw, _count, sequences_of)

    info = commands.add_parser("info", help="show the layers, shapes and parameters of a model")
    info.add_argument("model", metavar="MODEL", help="a .keras, .h5 or .onnx file")
    info.set_defaults(run=_info)

    doctor = commands.add_parser("doctor", help="show versions, instruction set, BLAS and extras of this installation")
    doctor.set_defaults(run=_doctor)
    return parser


def _count(text: str) -> int:
    """A positive integer argument."""
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return value


def _version() -> str:
    from . import __version__

    return __version__


def main(argv: list[str] | None = None) -> int:
    """Runs one command. Returns the exit code; wrong usage leaves through SystemExit(2), as argparse does."""
    arguments = _parser().parse_args(argv)
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()
    except RuntimeError as error:
        # Training went wrong in a way that no argument is to blame for (a loss that is not finite).
        print(f"fastlstm: error: {printable(_one_line(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("fastlstm: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Python would try to flush the closed pipe once more at exit and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError, ImportError, MemoryError) as error:
        print(f"fastlstm: error: {printable(_one_line(error))}", file=sys.stderr)
        return 2
    return code or 0


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


# -- commands -----------------------------------------------------------------------------------------------------------
def _predict(arguments: argparse.Namespace) -> None:
    if arguments.output is not None:
        check_writable(arguments.output)
    if arguments.timesteps is not None and suffix_of(arguments.input, READABLE, "the input") != ".csv":
        raise ValueError(f"{arguments.input}: --timesteps cuts the rows of a .csv; arrays have their own time axis")
    model = load_model(arguments.model)
    if not hasattr(model, "layers"):  # an OnnxModel
        onnx_command.predict(arguments, model)
        return
    shape = report.input_shape(model)
    data = read_data(arguments.input, arguments.key)
    if data.tabular and model.time_major:
        raise ValueError(f"{data.name}: a .csv has no batch axis for the time-major model {arguments.model}; use .npy")
    x = sequences_of(data, shape, arguments.timesteps)
    print(report.heading(arguments.model, model, data, x), flush=True)
    prediction, seconds = _timed_predict(model, x, arguments.batch_size, data.name)
    print("\n" + report.prediction_text(prediction, data, max(arguments.rows, 0)))
    facts = [*report.scores(prediction, data), report.speed(len(x), seconds, report.unit(model))]
    if arguments.output is not None:
        write_array(arguments.output, prediction, report.class_names(data, prediction.shape[-1]))
        facts.append(("written", f"{arguments.output}: {report.described(prediction)}"))
    print("\n" + report.facts(facts))


def _timed_predict(model: Sequential, x: np.ndarray, batch_size: int | None, name: str) -> tuple[np.ndarray, float]:
    """The prediction and the seconds it took. ValueError naming the input where it does not fit the model."""
    start = time.perf_counter()
    try:
        prediction: Any = model.predict(x, batch_size=batch_size)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: the model cannot take this input: {_one_line(error)}") from error
    seconds = time.perf_counter() - start
    if not isinstance(prediction, np.ndarray) or prediction.ndim < 1:
        raise ValueError(f"{name}: the model has several outputs, which this command does not show")
    return prediction, seconds


def sequences_of(data: DataFile, shape: tuple[int | None, ...] | None, timesteps: int | None = None) -> np.ndarray:
    """The model's input [N, T, …] from a file's array; the rows of a table are cut into sequences (see ``predict --help``).

    ``shape``: input shape of the model with batch axis, or None where unknown. ValueError where the numbers do not fit.
    """
    x = data.x
    if not data.tabular or shape is None or len(shape) < 3:
        return x
    if any(isinstance(size, (tuple, list)) for size in shape):
        raise ValueError(f"{data.name}: the model has {len(shape)} inputs, which this command does not take")
    rows, columns = x.shape
    features = [columns] if len(shape) == 3 and shape[2] is None else [n for n in shape[2:] if n is not None]
    if len(features) != len(shape) - 2:
        raise ValueError(f"{data.name}: a .csv cannot be cut into inputs of shape {shape_text(shape)}; use .npy")
    if columns != math.prod(features):
        raise ValueError(f"{data.name}: has {columns} columns, the model takes {math.prod(features)} features a time step")
    steps = timesteps or shape[1] or rows
    if rows % steps:
        raise ValueError(f"{data.name}: {rows} rows cannot be cut into sequences of {steps} time steps")
    return x.reshape(rows // steps, steps, *features)


def _info(arguments: argparse.Namespace) -> None:
    file = read_model_file(arguments.model)
    if isinstance(file, OnnxBytes):
        onnx_command.info(file)
        return
    print(report.model_text(arguments.model, build_model(file), file.metadata))


def _doctor(arguments: argparse.Namespace) -> None:
    from . import selector

    print(report.installation_text(selector.config()))
