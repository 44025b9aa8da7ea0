"""Models as C: ``export_c`` writes a Sequential as one header with its weights, for the C library of ``include/``.

In terms of ``layers`` (which layers can be exported), ``pieces`` and ``c_text``. Used by the command ``fastlstm export-c``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from ..models import Sequential
from ..version import __version__
from .c_text import Text, header
from .layers import Input, Unsupported, operation
from .pieces import Operation

__all__ = ["Unsupported", "export_c"]

# Words that no C or C++ compiler takes for a name, as far as they could be somebody's model, and names of the exported text.
RESERVED = set(
    "auto bool break case catch char class const continue default delete do double else enum export extern false float for "
    "friend goto if inline int long main namespace new operator private protected public register restrict return short signed "
    "sizeof static struct switch template this throw true try typedef typename union unsigned using virtual void volatile while "
    "model real vec arrays status workspace workspace_bytes memory bytes at x y valid buffer scratch mask memcpy memset".split()
)


def export_c(
    model: Sequential,
    path: Any,
    name: str | None = None,
    dtype: Any = None,
    steps: int | None = None,
    one_lane: bool = False,
    source: str | None = None,
) -> list[str]:
    """Writes ``model`` as a C header with the functions ``<name>_init``, ``<name>_run`` and, where it is causal, ``<name>_step``.

    Args: ``model``: a built Sequential; ``path``: the file to write; ``name``: a C identifier (default: from the file's name);
    ``dtype``: "float32" or "float64" (default: that of the model's layers); ``steps``: time steps of a run where the model does
    not fix them; ``one_lane``: weights are written as processors without vectors read them, so that they stay in flash and
    memory holds no copy; ``source``: where the model came from, for the first line. Returns facts about the header, a line each.
    ValueError (Unsupported) that names every layer which cannot be exported, before anything is written; OSError from writing.
    """
    if not isinstance(model, Sequential):
        raise Unsupported(f"Only Sequential models can be exported to C. Received: {type(model).__name__} {model.name!r}")
    name = identifier(Path(path).stem) if name is None else checked_name(name)
    shape = input_shape(model, steps)
    kind = checked_dtype(model, dtype)
    operations = operations_of(model, shape, kind)
    timed = len(shape) >= 2
    reasons = [f'layer "{label}": {made.whole}' for label, made in operations if made.whole is not None]
    reason = "the model's input has no time axis" if not timed else reasons[0] if reasons else None
    text = Text(name, [made for _, made in operations], kind, timed, reason, one_lane)
    title = f"the model {source or model.name} in C, made by `fastlstm export-c` of fastlstm {__version__}. Do not edit."
    content = header(text, title, [label for label, _ in operations])
    write(path, content)
    return facts(text, path, content)


def operations_of(model: Sequential, shape: tuple[int, ...], dtype: np.dtype) -> list[tuple[str, Operation]]:
    """(layer's name, Operation) from the input's ``shape`` on. Unsupported with all layers that cannot be exported."""
    found: list[tuple[str, Operation]] = []
    wrong = []
    given = Input(shape, len(shape) >= 2, False)
    taken: set[str] = set()
    for layer in flattened(model):
        try:
            made = operation(layer, unique(identifier(layer.name), taken), given, dtype)
        except Unsupported as error:
            wrong.append(f'layer "{layer.name}": {error}')
            made = stand_in(layer, given)
        found.append((layer.name, made))
        masked = (given.masked or made.makes_mask) and not made.ends_mask
        given = Input(made.after, given.timed and not made.ends_time, masked)
    if wrong:
        raise Unsupported(f'The model "{model.name}" cannot be exported to C: ' + "; ".join(wrong))
    if not found:
        raise Unsupported(f'The model "{model.name}" has no layers')
    return found


def facts(text: Text, path: Any, content: str) -> list[str]:
    functions = f"{text.prefix}_init, {text.prefix}_run" + ("" if text.steps_reason else f", {text.prefix}_step")
    count = sum(array.size for piece in text.pieces for array in piece.arrays.values() if array is not None)
    lines = [f"{os.fspath(path)}: {functions}; {count} weights in {text.real}, {len(content)} bytes of text"]
    widest = "" if text.one_lane else f"{text.memory(64)} bytes with 64-byte vectors, "
    lines += [f"memory: {widest}{text.memory(0)} bytes without vectors"]
    return lines + ([f"no {text.prefix}_step: {text.steps_reason}"] if text.steps_reason else [])


def stand_in(layer: Any, given: Input) -> Operation:
    """What takes the place of a layer that cannot be exported, so that the layers behind it are looked at too."""
    after = layer.compute_output_shape((None, *given.shape))
    is_plain = isinstance(after, tuple) and all(size is None or isinstance(size, int) for size in after)
    return Operation(type(layer).__name__, given.shape, tuple(after[1:]) if is_plain else given.shape)


def flattened(model: Sequential) -> list[Any]:
    """The layers in order, those of inner Sequentials in their place."""
    found: list[Any] = []
    for layer in model.layers:
        found += flattened(layer) if isinstance(layer, Sequential) else [layer]
    return found


def input_shape(model: Sequential, steps: int | None) -> tuple[int, ...]:
    """The shape of one sample. ValueError where a size is unknown, or ``steps`` contradicts the model."""
    shape = list(model.input_shape[1:])
    if steps is not None:
        if len(shape) < 2 or shape[0] not in (None, steps) or steps < 1:
            raise ValueError(f"steps={steps} do not fit the model's input shape {model.input_shape}")
        shape[0] = steps
    if not shape or None in shape:
        hint = "; say how many time steps a run has (steps=…, --steps)" if shape and shape[0] is None else ""
        raise ValueError(f"The model's input shape {model.input_shape} leaves sizes open that C must know{hint}")
    if 0 in shape:
        raise ValueError(f"The model's input shape {model.input_shape} has a size of 0")
    return tuple(shape)


def checked_dtype(model: Sequential, dtype: Any) -> np.dtype:
    """``dtype``, or the widest that a layer calculates in."""
    if dtype is None:
        wide = any(layer.compute_dtype == "float64" for layer in flattened(model))
        return np.dtype("float64" if wide else "float32")
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype: expected 'float32' or 'float64', got {dtype!r}")
    return np.dtype(dtype)


def checked_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or name in RESERVED or name.startswith("fastlstm"):
        raise ValueError(f"name: expected a C identifier that is no word of C or of the library, got {name!r}")
    return name


def identifier(text: str) -> str:
    """A C identifier made of ``text``: what cannot stand in one becomes an underscore."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")
    name = name if name[:1].isalpha() else f"m_{name}"
    return f"{name}_" if name in RESERVED or name.startswith("fastlstm") else name


def unique(name: str, taken: set[str]) -> str:
    """``name``, with a number where another layer has it already."""
    number, candidate = 2, name
    while any(f"{candidate}{end}" in taken for end in ("", "_forward", "_backward")):
        candidate, number = f"{name}_{number}", number + 1
    taken |= {candidate, f"{candidate}_forward", f"{candidate}_backward"}
    return candidate


def write(path: Any, content: str) -> None:
    """The file as a whole or not at all."""
    to = Path(path)
    part = to.with_name(f"{to.name}.part")
    try:
        part.write_text(content, "utf-8", newline="\n")
        part.replace(to)
    finally:
        part.unlink(missing_ok=True)
