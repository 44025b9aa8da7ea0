"""The command ``fastlstm verify``. In terms of the package ``verify``; used by ``cli``."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from . import report
from .backends.threads import get_num_threads
from .io.data_file import read_data, suffix_of
from .models.layer_configs import MEANINGS
from .tables import human_seconds, printable, table
from .verify.comparison import Compared, compare
from .verify.layer_outputs import Outputs
from .verify.meaning import changes
from .verify.runtimes import CALLS, SECONDS, Answer, ask
from .verify.subjects import LayerModel, Subject, subject_of, tolerance_of

_VERIFY = """\
MODEL
  a model of layers (.keras, .h5, or .npz and .safetensors of fastlstm), an .onnx graph, or weights of a torch.nn.LSTM (.pt, .pth,
  .safetensors)

INPUT
  .npy, .npz or .csv as for `fastlstm predict`; for a model with several inputs an .npz with an array for each, by name.
  Without it: random numbers, the same every time

The model is run here, by fastlstm's reference backend (plain NumPy, in float64), and by the runtime that it comes from, where
that can be imported: Keras 3, Keras 2 (tf_keras), onnxruntime, torch. Each has a process of its own; --python names another
interpreter that has it. Errors are shown for every layer: the largest |a - b|, and the largest |a - b| / max(1, |b|).
Then comes what today's Keras would make of an old file, in numbers.

Exit code: 0 all that could be compared is within the tolerance, or differs just as today's Keras is known to; 1 it is not;
2 wrong usage or a file that cannot be read.
"""


# What each takes otherwise than files of earlier versions meant it; later releases of Keras 2 had new defaults.
_MEANINGS = {"keras": tuple(MEANINGS), "tf_keras": ("recurrent_activation", "reset_after")}


def add_parser(commands: Any, formatter: Any, count: Callable[[str], int], sequences_of: Callable[..., np.ndarray]) -> None:
    """Adds the command to the parser of ``cli``; ``sequences_of`` cuts a table into the model's input."""
    parser = commands.add_parser(
        "verify", help="compare a model with the runtime that it comes from", epilog=_VERIFY, formatter_class=formatter
    )
    parser.add_argument("model", metavar="MODEL", help="the file of a model")
    parser.add_argument("input", metavar="INPUT", nargs="?", help="what to run it on (default: random numbers)")
    parser.add_argument("--python", metavar="PATH", help="the interpreter that has the runtime (default: this one)")
    parser.add_argument("--tolerance", metavar="T", type=_tolerance, help="default: 2e-5 for float32, 1e-9 for float64")
    parser.add_argument("--key", metavar="NAME", help="the array of an .npz to take as input (default: x, else the only one)")
    parser.add_argument("--timesteps", metavar="T", type=count, help="time steps of one sequence in a .csv")
    parser.add_argument("--samples", metavar="N", type=count, default=32, help="sequences of INPUT to take (default: 32)")
    parser.add_argument("--prefix", metavar="NAME", help="which LSTM of a file of PyTorch's weights: what its names begin with")
    parser.set_defaults(run=run, sequences_of=sequences_of)


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number >= 0, got {text!r}")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Compares and prints. Returns the exit code; errors as of ``cli.main``."""
    subject = subject_of(arguments.model, arguments.prefix)
    given = _inputs(arguments, subject)
    tolerance = tolerance_of(subject.dtypes) if arguments.tolerance is None else arguments.tolerance
    try:
        ours = subject.outputs(given)
        seconds = _seconds(subject.caller(given))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{arguments.input or 'the random input'}: the model cannot take this input: {error}") from error
    print(_heading(arguments, subject, given, tolerance), flush=True)
    if subject.random:
        print("\nThe model draws random numbers in inference (training=True in the file): it is compared without them, and not")
        print("with Keras 2, which draws others.")
    checks = _Checks(arguments, subject, given, ours, seconds, tolerance)
    for runtime in subject.runtimes:
        if not (subject.random and runtime == "tf_keras"):
            checks.ask(runtime)
    if not checks.originals:
        print("\nNo original runtime was found: the model was compared with the reference backend alone.")
    if isinstance(subject, LayerModel):
        print("\n" + _today(subject, given))
    print(f"\n{'WRONG: ' + '; '.join(checks.wrong) if checks.wrong else 'all within the tolerance'}")
    return 1 if checks.wrong else 0


def _heading(arguments: argparse.Namespace, subject: Subject, given: list[np.ndarray], tolerance: float) -> str:
    source = f"{arguments.input}: " if arguments.input else "random, "
    described = ", ".join(f"{name} {report.described(x)}" for name, x in zip(subject.names, given, strict=True))
    facts = [
        ("model", f"{arguments.model}: {printable(subject.described())}"),
        ("input", source + printable(described)),
        ("tolerance", f"{tolerance:g} of |a - b| / max(1, |b|)"),
    ]
    return report.facts(facts)


def _seconds(call: Callable[[], Any]) -> float:
    """The median of some calls."""
    for _ in range(2):
        call()
    taken: list[float] = []
    begin = time.perf_counter()
    while len(taken) < CALLS and (not taken or time.perf_counter() - begin < SECONDS):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


# -- input --------------------------------------------------------------------------------------------------------------
def _inputs(arguments: argparse.Namespace, subject: Subject) -> list[np.ndarray]:
    """One array for each input of the model. ValueError where the file has not what it takes."""
    path = arguments.input
    if path is None:
        return subject.random_inputs()
    if len(subject.names) == 1:
        data = read_data(path, arguments.key)
        x = arguments.sequences_of(data, subject.shapes[0] or None, arguments.timesteps)
        return [_cut(x, subject.shapes[0], arguments.samples)]
    suffix_of(path, (".npz",), f"the input of a model with {len(subject.names)} inputs")
    arrays = [read_data(path, name).x for name in subject.names]
    return [_cut(x, shape, arguments.samples) for x, shape in zip(arrays, subject.shapes, strict=True)]


def _cut(x: np.ndarray, shape: tuple, samples: int) -> np.ndarray:
    """The first samples, unless the model fixes their number."""
    return x if not shape or shape[0] is not None else x[:samples]


# -- comparison ---------------------------------------------------------------------------------------------------------
class _Checks:
    """Asks one runtime after the other and prints what comes. ``originals``: those that answered; ``wrong``: what is amiss."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        subject: Subject,
        given: list[np.ndarray],
        ours: Outputs,
        seconds: float,
        tolerance: float,
    ):
        self.arguments, self.subject, self.given = arguments, subject, given
        self.ours, self.seconds, self.tolerance = ours, seconds, tolerance
        self.originals: list[str] = []
        self.wrong: list[str] = []

    def ask(self, runtime: str) -> None:
        """Runs the file in a runtime; where that cannot open a model of layers, the same as fastlstm writes it."""
        if runtime == "reference":
            self._show(self._answer(runtime, self.arguments.model, None))
            return
        answer = self._answer(runtime, self.arguments.model, self.arguments.python)
        own = self.arguments.model.endswith((".npz", ".safetensors"))
        if not own or answer.missing or runtime != "keras":
            self._show(answer)
        if answer.missing or runtime != "keras" or not isinstance(self.subject, LayerModel):
            return
        if answer.problem or self._differs(answer):
            self._ask_converted(runtime)

    def _answer(self, runtime: str, path: str, python: str | None) -> Answer:
        float64 = "float64" in self.subject.dtypes
        return ask(runtime, path, self.given, python, float64, self.arguments.prefix)

    def _differs(self, answer: Answer) -> bool:
        return not compare(self.ours, answer).overall <= self.tolerance

    def _ask_converted(self, runtime: str) -> None:
        """Today's Keras on a .keras file that says what the old file meant, as far as that can be said there."""
        with tempfile.TemporaryDirectory(prefix="fastlstm-verify-") as folder:
            path = os.path.join(folder, "converted.keras")
            try:
                self.subject.built().save(path)  # type: ignore[union-attr]
            except (ImportError, ValueError) as error:
                print(f"\n{runtime}, the file as fastlstm converts it: {printable(' '.join(str(error).split()))}")
                return
            answer = self._answer(runtime, path, self.arguments.python)
        self._show(answer._replace(title=f"{answer.title}, the file as fastlstm converts it to .keras"))

    def _show(self, answer: Answer) -> None:
        if answer.problem:
            what = "is not there" if answer.missing else "cannot run the model"
            print(f"\n{answer.title} {what}: {printable(answer.problem)}")
            return
        if answer.runtime != "reference":
            self.originals.append(answer.title)
        compared = compare(self.ours, answer)
        print("\n" + self._table(answer, compared), flush=True)
        if compared.overall <= self.tolerance:
            return
        if self._is_known(answer):
            print("So it is known to differ from what the file meant (see below), and not counted as wrong.")
        else:
            self.wrong.append(f"differs from {answer.title} by {compared.overall:.2g}")

    def _is_known(self, answer: Answer) -> bool:
        """Whether the model with the meanings of that version of Keras is what it answers."""
        if answer.runtime not in _MEANINGS or not isinstance(self.subject, LayerModel) or "converted" in answer.title:
            return False
        try:
            today = self.subject.outputs(self.given, _MEANINGS[answer.runtime])
        except ValueError:  # weights of another shape: Keras would not have opened it so
            return False
        return compare(today, answer).overall <= self.tolerance

    def _table(self, answer: Answer, compared: Compared) -> str:
        rows = []
        for one in compared.layers:
            shape = " x ".join(map(str, one.row.array.shape))
            numbers = ["not there", ""] if one.error is None else [f"{one.error:.2g}", f"{one.relative:.2g}"]
            flag = "beyond" if one.relative is not None and not one.relative <= self.tolerance else ""
            rows.append([printable(one.row.label), printable(one.row.class_name), shape, *numbers, flag])
        head = table(rows, ("layer", "class", "output", "max error", "relative", ""), right=(3, 4))
        threads = get_num_threads()
        ours = f"{human_seconds(self.seconds)} here ({threads} thread{'s' if threads > 1 else ''})"
        facts = [
            (
                "output",
                f"differs by {compared.overall:.2g}, {'within' if compared.overall <= self.tolerance else 'BEYOND'} tolerance",
            ),
            ("time", f"{ours}, {human_seconds(answer.seconds)} there: medians of one call, {len(self.given[0])} samples"),
        ]
        return f"{printable(answer.title)}\n{head}\n{report.facts(facts)}"


# -- what today's Keras makes of it -------------------------------------------------------------------------------------
def _today(subject: LayerModel, given: list[np.ndarray]) -> str:
    """What changes in the answers if the file is read as Keras 3 reads it."""
    found = changes(subject.file, given)
    if not found:
        return "Keras 3 means by this file what it meant when it was written."
    lines = [f"The file is of Keras {printable(subject.version)}. Read as Keras 3 reads it:"]
    for change in found:
        names = printable(", ".join(change.layers[:4]) + (", …" if len(change.layers) > 4 else ""))
        if change.difference is None:
            lines.append(f"  {change.text} ({names}): Keras 3 refuses the weights: {printable(change.why)}")
        else:
            lines.append(f"  {change.text} ({names}): the answers differ by {change.difference:.2g}")
    return "\n".join(lines)
