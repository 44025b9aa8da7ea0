"""convert: a file of a model -> a file of another format, read back and compared before it is there under its name.

In terms of ``saving``, ``writing`` and ``own_writing``; used by ``fastlstm convert``.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..layers import LSTM, InputLayer, Layer
from ..layers.nest import flatten
from ..layers.torch_lstm import TorchLSTM
from ..layers.torch_weights import torch_state_dict
from .base import Model
from .functional import Functional
from .sample_inputs import sample_inputs
from .saving import build_model, load_model, load_weights
from .sequential import Sequential
from .writing import placed_variables, save_own

if TYPE_CHECKING:
    from ..io import KerasFile

SUFFIXES = (".keras", ".weights.h5", ".npz", ".safetensors")
TOLERANCE = 1e-5  # of |a - b| / max(1, |b|); the weights must be the same to the last bit


class Source(NamedTuple):
    """The model to convert: its file's ``name``, ``make`` makes it anew, ``file``: what is in it where it is one of layers."""

    name: str
    make: Callable[[], Any]
    file: KerasFile | None
    notes: tuple[str, ...] = ()


class Converted(NamedTuple):
    """What came of it: ``notes``: what was not kept, one line each; ``difference`` between the answers of both files on a random
    input (None: the model draws random numbers when it is called); ``size`` of the new file in bytes."""

    model: Any
    notes: list[str]
    difference: float | None
    size: int


def convert(source: Any, target: str, layout: str = "keras", prefix: str | None = None) -> Converted:
    """Writes the model in the file ``source`` to ``target``, whose suffix is one of ``SUFFIXES``.

    ``layout``: "torch" for PyTorch's names and arrays in a ``.safetensors``. ``prefix``: which LSTM of a file of PyTorch's
    weights, as of ``LSTM.from_torch``; it becomes a Sequential whose output has all steps, as in PyTorch. An existing file is
    replaced only by one that was read back and answers like the source. ValueError where the format cannot hold the model, and
    where the answers differ; other errors as of ``load_model`` and ``Model.save``.
    """
    suffix = next((known for known in SUFFIXES if target.endswith(known)), None)
    if suffix is None:
        raise ValueError(f"{target}: the output must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if layout == "torch" and suffix != ".safetensors":
        raise ValueError(f"{target}: the layout of PyTorch is for .safetensors files")
    found = _source(source, prefix)
    model = found.make()
    notes = [*found.notes, *lost(found.file, model, suffix, layout)]
    with _beside(target, suffix) as temporary:
        try:
            _write(model, temporary, suffix, layout)
        except ValueError as error:
            raise ValueError(f"{target}: the model in {found.name} cannot be written so: {error}") from error
        difference = _compared(found, model, temporary, suffix, target)
        size = os.path.getsize(temporary)
    return Converted(model, notes, difference, size)


def _source(path: Any, prefix: str | None) -> Source:
    """ValueError for graphs of ONNX operators, and for weights that ``LSTM.from_torch`` cannot read."""
    from ..io import OnnxBytes, read_model_file

    if is_torch(path):
        return Source(os.fsdecode(path), lambda: _of_torch(path, prefix), None, _other_tensors(path, _of_torch(path, prefix)))
    if prefix is not None:
        raise ValueError(f"{path}: a prefix names an LSTM of a file of PyTorch's weights, which this is not")
    file = read_model_file(path)
    if isinstance(file, OnnxBytes):
        raise ValueError(f"{file.name}: is a graph of ONNX operators, not of layers; such models can be run, not converted")
    return Source(file.name, lambda: build_model(file), file)


def is_torch(path: Any) -> bool:
    """Whether a file holds weights of PyTorch, by its suffix: .pt, .pth, or a .safetensors that no model of fastlstm is in."""
    from ..io.own_file import is_own_safetensors

    name = os.fsdecode(path).lower()
    return name.endswith((".pt", ".pth")) or (name.endswith(".safetensors") and not is_own_safetensors(path))


def _other_tensors(path: Any, model: Sequential) -> tuple[str, ...]:
    """A note where the file has more tensors than the LSTM."""
    from ..io.torch_file import read_state_file

    taken = sum(len(torch_state_dict(layer)) for layer in model.layers)
    total = sum(isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f" for leaf in flatten(read_state_file(path)))
    return (f"{total - taken} of the {total} tensors in the file, which are no part of this LSTM",) if total > taken else ()


def _of_torch(path: Any, prefix: str | None) -> Sequential:
    """The LSTM in a file of PyTorch's weights as a stack of Keras' layers."""
    layer = LSTM.from_torch(path, return_sequences=True, prefix=prefix)
    try:
        layers = layer.as_layers() if isinstance(layer, TorchLSTM) else [layer]
    except ValueError as error:
        raise ValueError(f"{os.fsdecode(path)}: {error}") from error
    return Sequential([InputLayer((None, layer.input_spec.axes[2]), dtype=layer.compute_dtype), *layers])


def _write(model: Any, path: str, suffix: str, layout: str) -> None:
    if layout == "torch":
        save_own(model, path, placed_variables(model)[0], layout)
    elif suffix == ".weights.h5":
        model.save_weights(path)
    else:
        model.save(path)


@contextlib.contextmanager
def _beside(target: str, suffix: str) -> Iterator[str]:
    """A path beside ``target`` whose file takes its place at the end; on an error nothing is left behind."""
    real = os.path.realpath(target)
    if os.path.isdir(real):
        raise ValueError(f"{target}: is a folder, expected the name of a file")
    temporary = f"{real}.{secrets.token_hex(4)}{suffix}"
    try:
        yield temporary
        if os.path.exists(real):
            shutil.copymode(real, temporary)
        os.replace(temporary, real)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


# -- comparison ---------------------------------------------------------------------------------------------------------
def _compared(source: Source, model: Any, path: str, suffix: str, target: str) -> float | None:
    """The difference between the answers of ``model`` and of the file ``path``. ValueError where it is no rounding."""
    if suffix == ".weights.h5":
        again = source.make()
        again.set_weights([np.zeros_like(weight) for weight in again.get_weights()])
        load_weights(again, path)
    else:
        again = load_model(path)
    for one, other in zip(model.weights, again.weights, strict=True):
        if not np.array_equal(one.value, other.value, equal_nan=True):
            raise ValueError(f"{target}: was not written: read back, the weight {one.path!r} is another one")
    if draws_in_inference(model):
        return None
    inputs = sample_inputs(model)
    given = inputs if len(inputs) > 1 else inputs[0]
    difference = largest_difference(model(given), again(given))
    if not difference <= TOLERANCE:
        raise ValueError(f"{target}: was not written: read back, it answers differently by {difference:.2g}")
    return difference


def largest_difference(one: Any, other: Any) -> float:
    """The largest |a - b| / max(1, |b|) over arrays nested alike; NaN equals NaN. inf where the shapes differ."""
    pairs = list(zip(flatten(one), flatten(other), strict=True))
    return max((_difference(np.asarray(a, "float64"), np.asarray(b, "float64")) for a, b in pairs), default=0.0)


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape:
        return float("inf")
    with np.errstate(invalid="ignore", over="ignore"):
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        error = np.where(same, 0.0, np.abs(a - b) / np.maximum(1.0, np.abs(b)))
    return float(np.where(np.isnan(error), np.inf, error).max(initial=0.0))


def draws_in_inference(model: Any) -> bool:
    """Whether a layer of the model was called with ``training=True`` for good, as files of Keras 2 may say."""
    if isinstance(model, Functional) and any(node.options.get("always_training") for node in model._graph.nodes):
        return True
    return any(draws_in_inference(layer) for layer in model.layers if isinstance(layer, Model))


# -- what is lost -------------------------------------------------------------------------------------------------------
def lost(file: KerasFile | None, model: Any, suffix: str, layout: str = "keras") -> list[str]:
    """What the new file will not hold or mean, one line each."""
    notes = []
    if file is not None and file.left_out:
        notes.append("the state of the optimizer: training starts afresh")
    if suffix == ".weights.h5":
        notes.append("the layers and what `compile` was told: the file holds weights alone")
        return notes
    try:
        model.compilation  # noqa: B018  (the file's own words are looked at here)
    except ValueError as error:
        if model.compiled:
            notes.append(f"how to train: {' '.join(str(error).split())}; it is written as it stood")
    if suffix == ".keras":
        old = [layer.name for layer in inner_layers(model) if old_sigmoids(layer)]
        if old:
            notes.append(
                f"that Keras 3 opens it: {', '.join(old[:4])}{', …' if len(old) > 4 else ''} has the hard_sigmoid of Keras 2, "
                "named hard_sigmoid_keras2, which Keras 3 refuses instead of computing another one"
            )
    if layout == "torch":
        notes.append("under PyTorch's names: activations, masks and merge modes, which stand in the metadata alone")
    return notes


def inner_layers(layer: Layer) -> list[Layer]:
    """All layers inside a layer or model, cells left out."""
    found = [inner for child in layer._layers for inner in [child, *inner_layers(child)]]
    return [inner for inner in found if not type(inner).__name__.endswith("Cell")]


def old_sigmoids(layer: Layer) -> list[str]:
    """The arguments of a layer that name the hard_sigmoid of Keras 2."""
    arguments = ("activation", "recurrent_activation")
    return [name for name in arguments if getattr(getattr(layer, name, None), "__name__", "") == "hard_sigmoid_keras2"]
