"""A model -> ``.keras`` and ``.weights.h5`` files, as Keras 3 writes them (keras-spec 13). The other way round: ``saving``.

In terms of the layers' ``get_config``, ``io.keras_writer`` and, for ``.npz`` and ``.safetensors``, ``own_writing``.
Used by ``Model.save`` and ``save_weights``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ..layers.base import Layer
from ..layers.wrapper import serialize, writing_shared
from ..variable import Variable
from .own_writing import metadata, save_own
from .sequential import Sequential
from .weight_paths import INNER, groups, holders, variables

if TYPE_CHECKING:
    from .base import Model

# Layers without weights that Keras builds all the same, and says so in the file.
_BUILT = ("Cropping1D", "Flatten", "Permute", "RepeatVector", "UpSampling1D", "ZeroPadding1D")


def save_model(model: Model, filepath: Any, overwrite: bool = True) -> None:
    """``Model.save``."""
    from ..io.keras_writer import write_keras_file

    suffix = _check_target(filepath, (".keras", ".npz", ".safetensors"), overwrite)
    if suffix == ".keras" and model.time_major:
        raise ValueError(
            f'The model "{model.name}" of Keras 2 has layers with time_major=True, which Keras 3 does not have; fastlstm\'s .npz '
            "and .safetensors files can hold it"
        )
    placed, names = placed_variables(model)
    if suffix != ".keras":
        save_own(model, filepath, placed)
        return
    arrays = {path: variable.value for path, variable in placed.items()}
    write_keras_file(filepath, model_config(model), metadata(), arrays, names)


def save_weights(model: Model, filepath: Any, overwrite: bool = True) -> None:
    """``Model.save_weights``."""
    from ..io.keras_writer import write_weights_file

    _check_target(filepath, (".weights.h5",), overwrite)
    placed, names = placed_variables(model)
    write_weights_file(filepath, {path: variable.value for path, variable in placed.items()}, names)


def _check_target(filepath: Any, suffixes: tuple[str, ...], overwrite: bool) -> str:
    """The suffix of a path, one of ``suffixes``; of a file object the first of them."""
    if ".keras" in suffixes and callable(getattr(filepath, "write", None)):
        return suffixes[0]
    if not isinstance(filepath, str | os.PathLike):
        raise TypeError(f"The argument `filepath` must be a str or an os.PathLike. Received: {type(filepath).__name__}")
    path = os.fsdecode(filepath)
    suffix = next((suffix for suffix in suffixes if path.endswith(suffix)), None)
    if suffix is None:
        expected = " or ".join(map(repr, suffixes))
        raise ValueError(f"The argument `filepath` must end in {expected}. Received: filepath={path!r}")
    if not overwrite and os.path.exists(path):
        raise FileExistsError(f"{path}: the file exists, and overwrite=False")
    return suffix


# -- weights ------------------------------------------------------------------------------------------------------------
def placed_variables(model: Model) -> tuple[dict[str, Variable], dict[str, str]]:
    """Variables by HDF5 path, and the layer's name by group. ValueError for models that a file cannot hold."""
    if not model.built:
        raise ValueError(f'The model "{model.name}" has no weights yet: call `model.build(shape)` before saving')
    if len({id(layer) for layer in model.layers}) < len(model.layers):
        raise ValueError(f'The model "{model.name}" uses one layer in two places, which a file cannot express')
    placed: dict[str, Variable] = {}
    names = {"vars": model.name}
    seen: set[int] = set()
    for group, layer in groups(model.layers):
        path = f"layers/{group}"
        names |= {f"{inner}/vars": holder.name for inner, holder in holders(path, layer)}
        for dataset, variable in variables(path, layer):
            if id(variable) not in seen:  # a layer in two models is written where it is met first, as Keras does
                placed[dataset] = variable
            seen.add(id(variable))
    return placed, names


# -- config -------------------------------------------------------------------------------------------------------------
def model_config(model: Model) -> dict[str, Any]:
    """config.json of a built model, what ``compile`` was told included."""
    with writing_shared(model):
        return _model_config(model)


def _model_config(model: Model) -> dict[str, Any]:
    if not isinstance(model, Sequential):
        if not hasattr(model, "_graph"):
            raise ValueError(
                f'The model "{model.name}" is of a class of your own, {type(model).__name__}, whose code a file cannot hold: '
                "use `save_weights`, or make it of `Sequential` or `Model(inputs, outputs)`"
            )
        return {**serialize(model), "build_config": {"input_shape": None}, "compile_config": model.compile_config()}
    shape = list(model.input_shape)
    return {
        **_entry(model, shape),
        "build_config": {"input_shape": shape},
        "compile_config": model.compile_config(),
    }


def _entry(layer: Any, input_shape: Any) -> dict[str, Any]:
    """The dict of a layer, inner layers included, with the input shapes that Keras builds it by."""
    entry = serialize(layer)
    config = entry["config"]
    if isinstance(layer, Sequential):
        shapes = [input_shape, *layer._shapes]
        config["layers"] = [_entry(inner, shapes[k]) for k, inner in enumerate(layer._stack)]
    for attribute, key in (("forward_layer", "layer"), ("backward_layer", "backward_layer"), ("layer", "layer")):
        inner = getattr(layer, attribute, None)
        if attribute == "layer" and not hasattr(layer, "_child_shape"):
            continue  # of a class of the caller's own, which alone knows what shape its inner layer gets
        if isinstance(inner, Layer) and isinstance(config.get(key), dict):
            shape = input_shape if attribute != "layer" else list(layer._child_shape(input_shape))
            config[key] = _entry(inner, shape)
    if layer.weights or type(layer).__name__ in _BUILT or any(isinstance(getattr(layer, name, None), Layer) for name in INNER):
        entry["build_config"] = {"input_shape": list(input_shape)}
    return entry
