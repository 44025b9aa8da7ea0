"""load_model: a file of Keras 2.0 to 3.x -> a model with its weights (keras-spec 13); ONNX files go to ``models.onnx``.

In terms of ``io`` (files -> dicts and arrays), ``layer_configs`` (what a config means), ``graph_config`` and ``weight_files``.
While a layer is built from a file, its initializers do not run: a config cannot ask for more memory or work than the weights in
the file justify.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..layers import InputLayer, Layer
from ..layers.wrapper import reading_shared, restored
from ..variable import Variable
from .base import Model
from .layer_configs import Origin, parse_version
from .sequential import Sequential
from .training_configs import compile_config

if TYPE_CHECKING:
    from ..io import KerasFile

# States of stateful layers are as long as the batch; nothing in the file vouches for that number.
MAX_BATCH = 65_536
SPARE_WEIGHTS = 1_000_000


def load_model(
    filepath: str | os.PathLike | IO[bytes], custom_objects: Any = None, compile: bool = True, safe_mode: bool = True
) -> Any:
    """The model of a ``.keras`` or ``.h5`` file, or of an ``.npz`` or ``.safetensors`` file that fastlstm wrote: a Sequential or
    a functional Model, built and with its weights.

    Of an ``.onnx`` file: an OnnxModel, which the other arguments have nothing to say to.

    Args: ``filepath``: a str, an os.PathLike or a binary file object. ``custom_objects``: {name of a class in the file: the
    caller's layer class, or a callable that takes its config's keywords}; also functions for activations. ``compile``: the model
    is compiled as the file says, once somebody trains it. ``safe_mode``: accepted; code in a file is never executed.
    Files of Keras 2 mean what they meant then: ``hard_sigmoid`` is clip(0.2x + 0.5), for one.
    Errors: OSError where the file cannot be opened; ValueError, naming the file and what is wrong, for a damaged file, one that
    holds weights only, layers that fastlstm does not know, and weights that do not fit; ImportError where a file of
    Keras is to be read without h5py, or an ONNX file without onnx.
    """
    from ..io import OnnxBytes, read_model_file  # zipfile and what it needs cost 10 ms, which only those pay who load a file

    found = read_model_file(filepath)
    if isinstance(found, OnnxBytes):
        from .onnx import load_onnx

        return load_onnx(*found)
    return build_model(found, compile, custom_objects)


def build_model(file: KerasFile, compile: bool = True, custom_objects: Any = None, today: Collection[str] = ()) -> Any:
    """The model of a file that ``io.read_model_file`` has read, compiled or not.

    ``today``: those of ``layer_configs.MEANINGS`` that are to be what Keras 3 takes them for.
    """
    from .weight_files import assign_file

    model = _build(file, False, _origin(file, custom_objects, today))
    assign_file(model, file)
    told, training = file.config.get("compile_config"), file.config.get("training_config")
    if isinstance(training, Mapping):
        told = compile_config(training)
    if compile and isinstance(told, Mapping):
        model.set_compile_config(told, file.name)
    return model


def old_meanings(file: KerasFile, custom_objects: Any = None) -> dict[str, list[str]]:
    """Those of ``layer_configs.MEANINGS`` that occur in a file: {meaning: names of the layers}."""
    origin = _origin(file, custom_objects)
    _build(file, False, origin)
    return origin.met


def _origin(file: KerasFile, custom_objects: Any = None, today: Collection[str] = ()) -> Origin:
    # A missing version: .keras files are of Keras 3, .h5 files without one are old.
    version = parse_version(file.metadata.get("keras_version", "3" if file.layers is None else "2"))
    return Origin(file.name, version, custom_objects, today)


def fresh_model(file: KerasFile) -> Any:
    """A model of the config in a file, with weights that its initializers draw; ``arrays`` does not matter.

    The config is the ``config.json`` of a .keras file, or {"layers": [layer dicts]} alone. ValueError as of ``load_model``.
    """
    if "class_name" not in file.config and "layers" in file.config:
        file = file._replace(config={"class_name": "Sequential", "config": file.config})
    return _build(file, True, _origin(file))


def save_model(model: Any, filepath: Any, overwrite: bool = True) -> None:
    """``model.save(filepath, overwrite)``, see there."""
    model.save(filepath, overwrite)


def model_from_json(json_string: str, custom_objects: Any = None) -> Any:
    """The model of a JSON text that ``model.to_json()`` of Keras 1 to 3 wrote, with weights that its initializers draw.

    ``custom_objects`` as of ``load_model``. ValueError for text that is no model's config.
    """
    from ..io.keras_file import KerasFile, parse_json

    if not isinstance(json_string, str):
        raise TypeError(f"The argument `json_string` must be a str. Received: {type(json_string).__name__}")
    config = parse_json(json_string.encode(), len(json_string), "the JSON text")
    version = config.get("keras_version", "3")
    file = KerasFile("the JSON text", config, {"keras_version": version}, {})
    model = _build(file, True, _origin(file, custom_objects))
    if isinstance(config.get("compile_config"), Mapping):
        model.set_compile_config(config["compile_config"], file.name)
    return model


def load_weights(model: Model, filepath: Any, skip_mismatch: bool = False, by_name: bool = False) -> None:
    """``Model.load_weights``."""
    from ..io import read_weights_file
    from .weight_files import assign_file

    suffixes = (".h5", ".hdf5", ".keras")
    if not isinstance(filepath, str | os.PathLike) or not os.fsdecode(filepath).endswith(suffixes):
        raise ValueError(
            "The argument `filepath` must be a path that ends in '.weights.h5', '.h5', '.hdf5' or '.keras'. "
            f"Received: {filepath!r}"
        )
    if not model.built:
        raise ValueError(f'The model "{model.name}" has no weights yet: call `model.build(shape)` before loading')
    assign_file(model, read_weights_file(filepath), skip_mismatch, by_name)


@contextlib.contextmanager
def _naming(file: str, what: str | Callable[[], str]) -> Iterator[None]:
    """Turns the errors of a config that makes no sense into ValueErrors that name the file and the thing being made.

    What a layer's constructor raises for wrong values (TypeError for a rate that is a string, OverflowError, …) depends on the
    value; a file with such a config is malformed, hence one class. The original stays attached as the cause.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if reason.startswith(f"{file}: "):
            raise
        raise ValueError(f"{file}: {what if isinstance(what, str) else what()}: {reason}") from error


# -- config -> model ----------------------------------------------------------------------------------------------------
def _build(file: KerasFile, fresh: bool, origin: Origin) -> Any:
    entry = file.config
    if not isinstance(entry.get("class_name"), str):
        raise ValueError(f"{file.name}: config.json has no 'class_name'; its keys are {sorted(entry)[:8]}")
    origin.check_class(entry, f"{file.name}: the model")
    if entry["class_name"] not in ("Sequential", "Functional", "Model"):
        raise ValueError(
            f"{file.name}: the model is of class {entry['class_name']!r}; only Sequential and functional models can be loaded"
        )
    config = entry.get("config")
    if isinstance(config, list):  # Keras 2.0 to 2.2
        config = {"layers": config}
    if not isinstance(config, Mapping):
        raise ValueError(f"{file.name}: config.json must have a JSON object 'config'. Received: {type(config).__name__}")
    maker = _Maker(origin, file, fresh)
    with reading_shared():
        if entry["class_name"] == "Sequential":
            return maker.sequential(config, _input_shape(config, file))
        return maker.functional(config)


class _Maker:
    """Makes the layers and models of one file."""

    def __init__(self, origin: Origin, file: KerasFile, fresh: bool):
        self.origin, self.file, self.fresh = origin, file, fresh
        self.held = sum(array.size for array in file.arrays.values())
        self.left = 2 * self.held + SPARE_WEIGHTS
        origin.make_inner = self._made

    def sequential(self, config: Mapping[str, Any], shape: Any) -> Sequential:
        """The outermost model of a file, built."""
        layers = self._layers(config, "the model")
        if shape is None and self.file.arrays and not self.fresh:
            raise ValueError(f"{self.file.name}: the config does not say the shape of the model's input")

        def building() -> str:
            # Sequential builds from the front: the first layer that is not built is the one that failed.
            culprit = next((layer for layer in layers if not layer.built), None)
            which = "" if culprit is None else f", layer {culprit.name!r} of class {type(culprit).__name__!r}"
            return f"building the model for inputs of shape {shape}{which}"

        with _naming(self.file.name, building), self._without_initializers(layers):
            model = Sequential(layers, trainable=bool(config.get("trainable", True)), name=config.get("name"))
            if shape is not None and layers:
                model.build(shape)
        return model

    def functional(self, config: Mapping[str, Any]) -> Any:
        """A functional model; its layers are built as they are called."""
        from .graph_config import read_functional

        made: list[Layer] = []

        def make(entry: Mapping[str, Any]) -> Layer:
            made.append(self.layer(entry))
            self._guard(made[-1])
            return made[-1]

        def building() -> str:
            culprit = next((layer for layer in made if not layer.built), None)
            which = "" if culprit is None else f", layer {culprit.name!r} of class {type(culprit).__name__!r}"
            return f"building the functional model{which}"

        try:
            with _naming(self.file.name, building):
                return read_functional(config, make, self.origin.legacy, self.origin.old)
        finally:
            _unguard(made)

    def _layers(self, config: Mapping[str, Any], what: str) -> list[Layer]:
        entries = config.get("layers")
        if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
            raise ValueError(f"{self.file.name}: the config of {what} must have a list 'layers' of JSON objects")
        return [self.layer(entry) for entry in entries]

    def layer(self, entry: Mapping[str, Any]) -> Layer:
        """One layer of a {"class_name", "config", …} dict, models inside the model included."""
        config = entry.get("config")
        name = config.get("name") if isinstance(config, Mapping) else None
        what = f"layer {name!r} of class {entry.get('class_name')!r}"
        where = f"{self.file.name}: {what}"
        cleaned = self.origin.cleaned(entry, where)
        with _naming(self.file.name, what):
            layer = self._made(entry, cleaned, what)
        if isinstance(layer, InputLayer) and (layer.batch_shape[0] or 0) > MAX_BATCH:
            raise ValueError(f"{where} asks for the batch size {layer.batch_shape[0]}, at most {MAX_BATCH} are accepted")
        return layer

    def _made(self, entry: Mapping[str, Any], cleaned: dict[str, Any], what: str) -> Layer:
        if self.origin.custom_class(entry) is None:
            if cleaned["class_name"] == "Sequential":
                return restored(entry, lambda: self._inner_sequential(cleaned["config"], what))
            if cleaned["class_name"] == "Functional":
                return restored(entry, lambda: self.functional(cleaned["config"]))
        return self.origin.made(cleaned, what)

    def _inner_sequential(self, config: Mapping[str, Any], what: str) -> Sequential:
        """A Sequential inside another model, without its input: the outer model builds it, in its own time."""
        entries = [entry for entry in config["layers"] if entry.get("class_name") != "InputLayer"]
        layers = self._layers({**config, "layers": entries}, what)
        return Sequential(layers, trainable=bool(config.get("trainable", True)), name=config.get("name"))

    # -- memory -----------------------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def _without_initializers(self, layers: list[Layer]) -> Iterator[None]:
        """Inside, new variables of ``layers`` are zeros, and together not much larger than the weights in the file."""
        for layer in layers:
            self._guard(layer)
        try:
            yield
        finally:
            _unguard(layers)

    def _guard(self, layer: Layer) -> None:
        """Makes ``add_weight`` of a layer and its inner layers watch over memory.

        Drawing values that the file's replace at once costs time (an orthogonal matrix costs U³), and a config of a few bytes
        may ask for any size. Twice the weights are let through, so that a misfit is reported as the misfit that it is.
        """
        if not self.fresh:
            for inner in _tree(layer):
                inner.__dict__["add_weight"] = functools.partial(self._add_weight, inner)

    def _add_weight(self, layer: Layer, shape: tuple, initializer: Any = None, name: str = "variable", **kwargs: Any) -> Variable:
        if layer.compute_dtype not in ("float16", "bfloat16", "float32", "float64"):
            # Keras fails here as well: no initializer draws integers (keras-spec 19).
            raise ValueError(f"its dtype is {layer.compute_dtype!r}, expected a floating dtype")
        self.left -= math.prod(int(n) for n in shape)
        if self.left < 0:
            raise ValueError(f"its {name} has the shape {tuple(shape)}, but the whole file has {self.held} weights")
        return Layer.add_weight(layer, shape, np.zeros, name, **kwargs)


def _unguard(layers: list[Layer]) -> None:
    for layer in (inner for one in layers for inner in _tree(one)):
        layer.__dict__.pop("add_weight", None)


def _tree(layer: Layer) -> list[Layer]:
    return [layer] + [inner for child in layer._layers for inner in _tree(child)]


def _input_shape(config: Mapping[str, Any], file: KerasFile) -> tuple[int | None, ...] | None:
    """The input shape with batch axis that the file gives: of the first layer, else of the model's build config."""
    candidates: list[Any] = []
    entries = config.get("layers")
    first = entries[0] if isinstance(entries, list) and entries else None
    while isinstance(first, Mapping) and isinstance(first.get("config"), Mapping):
        inner = first["config"]
        candidates += [inner.get("batch_shape"), inner.get("batch_input_shape")]
        first = inner.get("layer") or next(iter(inner.get("layers") or []), None)
    candidates.append(config.get("build_input_shape"))
    if isinstance(file.config.get("build_config"), Mapping):
        candidates.append(file.config["build_config"].get("input_shape"))
    shape = next((c for c in candidates if c is not None), None)
    if shape is None:
        return None
    # bool is an int in Python, not in a shape.
    valid = isinstance(shape, list) and shape and all(n is None or (type(n) is int and n >= 0) for n in shape)
    if not valid:
        raise ValueError(f"{file.name}: the input shape must be a list of sizes. Received: {shape!r}")
    if (shape[0] or 0) > MAX_BATCH:
        raise ValueError(f"{file.name}: the config asks for the batch size {shape[0]}, at most {MAX_BATCH} are accepted")
    return tuple(shape)
