"""The command ``fastlstm convert``. In terms of ``models.converting``; used by ``cli``."""

from __future__ import annotations

import argparse
from typing import Any

from . import report
from .io.data_file import check_writable
from .models.converting import convert
from .tables import human_bytes, printable

_CONVERT = """\
MODEL
  any file of a whole model of layers that `fastlstm predict` opens: .keras, .h5, .npz, .safetensors; or weights of a
  torch.nn.LSTM in .pt, .pth or .safetensors, which become a model that returns the output of every step

OUT
  .keras        for Keras 3 and for fastlstm
  .weights.h5   the weights alone, for Keras 3 and for fastlstm
  .npz          arrays by name and one JSON text; fastlstm opens it with NumPy alone
  .safetensors  likewise; the arrays have the names of Keras' variables, or with --layout torch those of PyTorch

The new file is read back and compared with the old one on a random input before it takes its name. What could not be kept is
said, one line each.
"""


def add_parser(commands: Any, formatter: Any) -> None:
    """Adds the command to the parser of ``cli``."""
    parser = commands.add_parser("convert", help="write a model to another format", epilog=_CONVERT, formatter_class=formatter)
    parser.add_argument("model", metavar="MODEL", help="the file of a model")
    parser.add_argument("output", metavar="OUT", help="where to write it: .keras, .weights.h5, .npz or .safetensors")
    parser.add_argument(
        "--layout",
        choices=("keras", "torch"),
        default="keras",
        help="names in a .safetensors: those of Keras (default), or of PyTorch (LSTM, Bidirectional, Dense, Embedding)",
    )
    parser.add_argument("--prefix", metavar="NAME", help="which LSTM of a file of PyTorch's weights: what its names begin with")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Converts; errors as of ``cli.main``."""
    check_writable(arguments.output, (".keras", ".h5", ".npz", ".safetensors"))
    done = convert(arguments.model, arguments.output, arguments.layout, arguments.prefix)
    parameters = sum(variable.size for variable in done.model.weights)
    lines = [
        ("model", f"{arguments.model}: {len(done.model.layers)} layers, {parameters:,} parameters"),
        ("written", f"{arguments.output}: {human_bytes(done.size)}"),
    ]
    if done.difference is None:
        lines.append(("read back", "the same weights; answers are not compared, the model draws random numbers in inference"))
    else:
        lines.append(("read back", f"the same weights; answers to a random input differ by {done.difference:.2g} at most"))
    print(report.facts([*lines, *(("not kept", printable(note)) for note in done.notes)]))
