"""load_model: a Keras 3 ``.keras`` file -> a Sequential with its weights (keras-spec 13).

The file's class names are looked up in the table ``layers.LAYERS``; a name that is not there, custom and registered classes
and Lambda layers are refused. Nothing that a file names is imported or executed. While a layer is built from a file, its
initializers do not run: a config cannot ask for more memory or work than the weights in the file justify.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..layers import LAYERS
from ..layers.base import Layer
from ..variable import Variable
from .sequential import Sequential
from .weight_paths import INNER, groups, variables

if TYPE_CHECKING:
    from ..io import KerasFile

# Config keys of older (or newer) Keras that mean nothing here, with the values that may be dropped; ANY: whatever it is.
_ANY = object()
_DROPPED: dict[str, Any] = {
    "time_major": (False, None),
    "implementation": _ANY,
    "batch_input_shape": _ANY,
    "input_length": _ANY,
    "quantization_config": (None,),
    "lora_rank": (None,),
    "lora_alpha": (None,),
    "sparse": (False, None),
    "fused": (True, False, None),
    "virtual_batch_size": (None,),
}
# States of stateful layers are as long as the batch; nothing in the file vouches for that number.
MAX_BATCH = 65_536
SPARE_WEIGHTS = 1_000_000
# Groups that Keras versions before 3.4 or so write for layers with dropout; their state plays no part in inference.
_SEED_GROUPS = ("seed_generator", "_seed_generator")


def load_model(filepath: str | os.PathLike | IO[bytes], compile: bool = True, safe_mode: bool = True) -> Sequential:
    """The Sequential model of a ``.keras`` file, built and with its weights.

    Args: ``filepath``: a str, an os.PathLike or a binary file object. ``compile``: the model is compiled as the file says, once
    somebody trains it. ``safe_mode``: accepted; code in a file is never executed, whatever it says.
    Errors: OSError where the file cannot be opened; ValueError, naming the file and what is wrong, for a damaged file, a model
    that is not Sequential, layers that fastlstm does not know, and weights that do not fit; ImportError without h5py.
    """
    from ..io import read_keras_file  # zipfile and what it needs cost 10 ms, which only those pay who load a file

    return build_model(read_keras_file(filepath), compile)


def build_model(file: KerasFile, compile: bool = True) -> Sequential:
    """The model of a file that ``io.read_keras_file`` has read, compiled or not."""
    model = _build(file, fresh=False)
    _assign_weights(model, file.arrays, file.name)
    compile_config = file.config.get("compile_config")
    if compile and isinstance(compile_config, Mapping):
        model.set_compile_config(compile_config, file.name)
    return model


def fresh_model(file: KerasFile) -> Sequential:
    """A model of the config in a file, with weights that its initializers draw; ``arrays`` does not matter.

    The config is the ``config.json`` of a .keras file, or {"layers": [layer dicts]} alone. ValueError as of ``load_model``.
    """
    if "class_name" not in file.config and "layers" in file.config:
        file = file._replace(config={"class_name": "Sequential", "config": file.config})
    return _build(file, fresh=True)


def _build(file: KerasFile, fresh: bool) -> Sequential:
    config = _model_config(file)
    entries = config.get("layers")
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise ValueError(f"{file.name}: the config of the model must have a list 'layers' of JSON objects")
    layers = [_make_layer(entry, file.name) for entry in entries]
    shape = _input_shape(config, file, entries)
    if shape is None and file.arrays and not fresh:
        raise ValueError(f"{file.name}: the config does not say the shape of the model's input")

    def building() -> str:
        # Sequential builds from the front: the first layer that is not built is the one that failed.
        culprit = next((layer for layer in layers if not layer.built), None)
        which = "" if culprit is None else f", layer {culprit.name!r} of class {type(culprit).__name__!r}"
        return f"building the model for inputs of shape {shape}{which}"

    with _naming(file.name, building), contextlib.nullcontext() if fresh else _without_initializers(layers, file):
        model = Sequential(layers, trainable=bool(config.get("trainable", True)), name=config.get("name"))
        if shape is not None and layers:
            model.build(shape)
    return model


def load_weights(model: Sequential, filepath: Any) -> None:
    """``Sequential.load_weights``."""
    from ..io import read_keras_file, read_weights_file

    if not isinstance(filepath, str | os.PathLike) or not os.fsdecode(filepath).endswith((".weights.h5", ".keras")):
        raise ValueError(f"The argument `filepath` must be a path that ends in '.weights.h5' or '.keras'. Received: {filepath!r}")
    if not model.built:
        raise ValueError(f'The model "{model.name}" has no weights yet: call `model.build(shape)` before loading')
    path = os.fsdecode(filepath)
    arrays = read_keras_file(path).arrays if path.endswith(".keras") else read_weights_file(path)
    _assign_weights(model, arrays, path)


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


# -- config -> layers ---------------------------------------------------------------------------------------------------
def _model_config(file: KerasFile) -> Mapping[str, Any]:
    """The inner config of the Sequential model in a file."""
    class_name = file.config.get("class_name")
    if not isinstance(class_name, str):
        raise ValueError(f"{file.name}: config.json has no 'class_name'; its keys are {sorted(file.config)[:8]}")
    _check_origin(file.config, f"{file.name}: the model")
    if class_name != "Sequential":
        raise ValueError(f"{file.name}: the model is of class {class_name!r}; only Sequential models can be loaded")
    config = file.config.get("config")
    if not isinstance(config, Mapping):
        raise ValueError(f"{file.name}: config.json must have a JSON object 'config'. Received: {type(config).__name__}")
    return config


def _check_origin(entry: Mapping[str, Any], where: str) -> None:
    """ValueError for classes that are not Keras' own: a custom class may bear the name of a known one."""
    module, registered, class_name = entry.get("module"), entry.get("registered_name"), entry.get("class_name")
    foreign = module is not None and str(module).split(".")[0] not in ("keras", "tf_keras", "tensorflow")
    if foreign or registered not in (None, "", class_name):
        raise ValueError(
            f"{where} is of the custom class {class_name!r} (module {module!r}, registered as {registered!r}), whose code is not "
            "in the file; only Keras' own classes can be loaded"
        )


def _make_layer(entry: Mapping[str, Any], file: str) -> Layer:
    """One layer of a {"class_name", "config", …} dict."""
    config = entry.get("config")
    name = config.get("name") if isinstance(config, Mapping) else None
    class_name = entry.get("class_name")
    what = f"layer {name!r} of class {class_name!r}"
    cleaned = _clean(entry, f"{file}: {what}")
    with _naming(file, what):
        return LAYERS[cleaned["class_name"]].from_config(cleaned["config"])


def _clean(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The dict of a layer without legacy keys, inner layers included, all of known classes."""
    class_name, config = entry.get("class_name"), entry.get("config")
    if not isinstance(class_name, str) or not isinstance(config, Mapping):
        raise ValueError(f"{where}: expected an object with the keys 'class_name' and 'config'; it has {sorted(entry)[:8]}")
    if class_name == "Lambda":
        raise ValueError(f"{where}: Lambda layers hold Python code, and code from files is never executed")
    _check_origin(entry, where)
    if class_name not in LAYERS:
        raise ValueError(f"{where}: fastlstm has no such layer. Known: {', '.join(sorted(LAYERS))}")
    kept = {key: value for key, value in config.items() if not _droppable(key, value, class_name)}
    if class_name == "Sequential":
        return {**entry, "config": _clean_stack(kept, where)}
    for key in INNER:
        inner = kept.get(key)
        if isinstance(inner, Mapping) and "class_name" in inner:
            inner_config = inner.get("config")
            inner_name = inner_config.get("name") if isinstance(inner_config, Mapping) else None
            kept[key] = _clean(inner, f"{where}: its {key} {inner_name!r} of class {inner.get('class_name')!r}")
    return {**entry, "config": kept}


def _clean_stack(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The config of a Sequential inside another model, without its input: the outer model builds it, in its own time."""
    entries = config.get("layers")
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise ValueError(f"{where}: its config must have a list 'layers' of JSON objects")
    inner = [_clean(entry, f"{where}: its layer {index}") for index, entry in enumerate(entries)]
    return {"name": config.get("name"), "layers": [entry for entry in inner if entry["class_name"] != "InputLayer"]}


def _droppable(key: str, value: Any, class_name: str) -> bool:
    """Whether a config key is a leftover that the layers here do not know and that changes nothing."""
    # Hints for building at once; every layer here is built by the model, for the shapes that arrive at it.
    if class_name != "InputLayer" and (key == "input_shape" or (key == "input_dim" and class_name != "Embedding")):
        return True
    if class_name == "InputLayer" or key not in _DROPPED:
        return False
    harmless = _DROPPED[key]
    return harmless is _ANY or any(value is known for known in harmless)


def _input_shape(config: Mapping[str, Any], file: KerasFile, entries: list) -> tuple[int | None, ...] | None:
    """The input shape with batch axis that the file gives: of the first layer, else of the model's build config."""
    candidates: list[Any] = []
    if entries and isinstance(entries[0].get("config"), Mapping):
        first = entries[0]["config"]
        candidates += [first.get("batch_shape"), first.get("batch_input_shape")]
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


# -- weights ------------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def _without_initializers(layers: list[Layer], file: KerasFile) -> Iterator[None]:
    """Inside, new variables of ``layers`` are zeros, and together not much larger than the weights in the file.

    Drawing values that the file's replace at once costs time (an orthogonal matrix costs U³), and a config of a few bytes
    may ask for any size. Twice the weights are let through, so that a misfit is reported as the misfit that it is.
    """
    held = sum(array.size for array in file.arrays.values())
    left = 2 * held + SPARE_WEIGHTS

    def add_weight(layer: Layer, shape: tuple, initializer: Any = None, name: str = "variable", **kwargs: Any) -> Variable:
        nonlocal left
        if layer.compute_dtype not in ("float16", "bfloat16", "float32", "float64"):
            # Keras fails here as well: no initializer draws integers (keras-spec 19).
            raise ValueError(f"its dtype is {layer.compute_dtype!r}, expected a floating dtype")
        left -= math.prod(int(n) for n in shape)
        if left < 0:
            raise ValueError(f"its {name} has the shape {tuple(shape)}, but the whole file has {held} weights")
        return Layer.add_weight(layer, shape, np.zeros, name, **kwargs)

    tree = [inner for layer in layers for inner in _tree(layer)]
    for layer in tree:
        layer.__dict__["add_weight"] = functools.partial(add_weight, layer)
    try:
        yield
    finally:
        for layer in tree:
            layer.__dict__.pop("add_weight", None)


def _tree(layer: Layer) -> list[Layer]:
    return [layer] + [inner for child in layer._layers for inner in _tree(child)]


def _assign_weights(model: Sequential, found: Mapping[str, np.ndarray], file: str) -> None:
    """Copies arrays by HDF5 path into the variables. ValueError, and nothing is written, unless they fit one to one."""
    arrays = {path: array for path, array in found.items() if not set(path.split("/")) & set(_SEED_GROUPS)}
    # Files of Keras 2.13 to 2.15 name the list of layers after another attribute.
    older = any(path.startswith("_layer_checkpoint_dependencies/") for path in arrays)
    top = "_layer_checkpoint_dependencies" if older else "layers"
    pairs = []
    for group, layer in groups(model.layers):
        where = f"{file}: layer {layer.name!r} of class {type(layer).__name__!r}"
        for path, variable in variables(f"{top}/{group}", layer):
            if path not in arrays:
                raise ValueError(f"{where}: the weights file has no dataset '{path}' ({variable.name} of shape {variable.shape})")
            array = arrays.pop(path)
            if array.shape != variable.shape or (array.dtype.kind != "f" and array.dtype.name != "bfloat16"):
                raise ValueError(
                    f"{where}: dataset '{path}' has shape {array.shape} and dtype {array.dtype}, expected {variable.shape} and "
                    f"{variable.dtype} for {variable.name}"
                )
            pairs.append((variable, array))
    if arrays:
        raise ValueError(f"{file}: the weights file has datasets that no layer of the model takes: {sorted(arrays)[:4]}")
    for variable, array in pairs:
        variable.assign(array)
