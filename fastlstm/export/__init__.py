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
from .layers import operation
from .pieces import Input, Operation, Unsupported

__all__ = ["Unsupported", "export_c"]

# Words that no C or C++ compiler takes for a name.
KEYWORDS = set(
    "alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t char32_t class compl concept "
    "const const_cast consteval constexpr constinit continue co_await co_return co_yield decltype default delete do double "
    "dynamic_cast else enum explicit export extern false float for friend goto if inline int linux long main mutable namespace "
    "new noexcept not not_eq nullptr operator or or_eq private protected public register reinterpret_cast requires restrict "
    "return short signed sizeof static static_assert static_cast struct switch template this thread_local throw true try "
    "typedef typeid typename typeof typeof_unqual union unix unsigned using virtual void volatile wchar_t while xor "
    "xor_eq".split()
)
# Names of the exported text itself, and what it calls.
RESERVED = KEYWORDS | set(
    "model real vec arrays status workspace workspace_bytes memory bytes at x y valid buffer scratch mask scale "
    "memcpy memset strcmp".split()
)
# Functions of the C library and of POSIX that a model could be called after: a type of that name would clash with their headers.
FUNCTIONS = set(
    "abs accept acos alarm asin atan bind bsearch calloc cbrt ceil clock close connect cos cosh crypt div dup encrypt erf exec "
    "exit exp fabs floor fork free gamma getenv index j0 j1 jn kill labs ldiv lgamma link listen log log2 logb malloc nice open "
    "pause pipe pow printf putchar puts qsort raise rand random read realloc recv remove rename rindex rint round scanf select "
    "send signal sin sinh sleep sqrt stat swab sync system tan tanh time trunc wait write y0 y1 yn".split()
)
# What names of layers must not end with, each other's: what the exported text makes of one name would be made of both.
ENDS = tuple(half + end for half in ("", "_forward", "_backward") for end in ("", "_h", "_c", "_recurrent"))


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
    name = model_name(Path(path).stem) if name is None else checked_name(name)
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
            made = operation(layer, layer_name(layer.name, taken), given, dtype)
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
    """The caller's ``name`` of a model. ValueError where it cannot be one."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or _is_taken(name) or name in FUNCTIONS:
        raise ValueError(f"name: expected a C identifier that is no word of C, its library or this one, got {name!r}")
    return name


def model_name(text: str) -> str:
    """A C identifier made of the name of a file."""
    name = _identifier(text)
    return f"{name}_" if _is_taken(name) or name in FUNCTIONS else name


def layer_name(text: str, taken: set[str]) -> str:
    """A C identifier made of the name of a layer, with a number where what it stands for is taken; those are added to ``taken``.

    In small letters where it has no others, or has a word that ``Text.c`` replaces: macros are written in capitals.
    """
    name = _identifier(text)
    name = name.lower() if name.isupper() or re.search("UPPER|PREFIX|WORKSPACE", name) else name
    name = f"{name}_" if _is_taken(name) else name
    number, candidate = 2, name
    while any(f"{candidate}{end}" in taken for end in ENDS):
        candidate, number = f"{name}_{number}", number + 1
    taken |= {f"{candidate}{end}" for end in ENDS}
    return candidate


def _identifier(text: str) -> str:
    """``text`` with underscores for what cannot stand in an identifier."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")
    return name if name[:1].isalpha() else f"m_{name}"


def _is_taken(name: str) -> bool:
    return name in RESERVED or name.startswith("fastlstm") or name.endswith("_t")


def write(path: Any, content: str) -> None:
    """The file as a whole or not at all."""
    to = Path(path)
    part = to.with_name(f"{to.name}.part")
    try:
        part.write_text(content, "utf-8", newline="\n")
        part.replace(to)
    finally:
        part.unlink(missing_ok=True)
