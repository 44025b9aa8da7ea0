"""The command ``fastlstm export-c``: a Sequential as one C header. In terms of ``load_model`` and ``export``; part of ``cli``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

_EXPORT = """\
The header holds the weights, NAME_init, NAME_run and, where the model takes one step after the other, NAME_step. It needs the
headers of the C library: the folder that `python -c "import fastlstm; print(fastlstm.get_include())"` prints, or a copy of it.
Layers that cannot be exported are named before anything is written. See docs/c_api.md.
"""


def add_parser(commands: Any, formatter: Any, count: Callable[[str], int]) -> None:
    """Adds ``export-c`` to the subparsers of the command line; ``count`` reads a positive integer."""
    export = commands.add_parser("export-c", help="write a model as a C header", epilog=_EXPORT, formatter_class=formatter)
    export.add_argument("model", metavar="MODEL", help="a .keras file that holds a Sequential")
    export.add_argument("-o", "--output", metavar="OUT.h", required=True, help="the header to write")
    export.add_argument("--name", help="prefix of the functions, a C identifier (default: from the name of OUT.h)")
    export.add_argument("--dtype", choices=["float32", "float64"], help="float type of the C code (default: the model's)")
    export.add_argument("--steps", metavar="T", type=count, help="time steps of a run, where the model does not fix them")
    export.add_argument(
        "--one-lane",
        action="store_true",
        help="for microcontrollers: weights packed beforehand, which need flash, no RAM",
    )
    export.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> None:
    from .export import export_c
    from .models import load_model

    if Path(arguments.output).suffix not in (".h", ".hpp"):
        raise ValueError(f"{arguments.output}: the output is a C header and must end in .h")
    model: Any = load_model(arguments.model)
    source = Path(arguments.model).name
    options = (arguments.name, arguments.dtype, arguments.steps, arguments.one_lane)
    for line in export_c(model, arguments.output, *options, source):
        print(line)
