"""Arrays of a file -> the variables of a model: by HDF5 path as in Keras 3, by layer as in Keras 1 and 2 (keras-spec 13).

Used by ``saving``. Nothing is written unless everything fits, or ``skip_mismatch`` says to leave out what does not.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..layers.base import Layer
from ..variable import Variable
from .weight_paths import groups, variables

if TYPE_CHECKING:
    from ..io import KerasFile, LayerArrays

# Groups that Keras versions before 3.4 or so write for layers with dropout; their state plays no part in inference.
_SEED_GROUPS = ("seed_generator", "_seed_generator")
# The twelve arrays of an LSTM in Keras 1 (W, U, b of the gates i, c, f, o) -> kernel, recurrent kernel, bias; order i, f, c, o.
_KERAS_1_LSTM = ((0, 6, 3, 9), (1, 7, 4, 10), (2, 8, 5, 11))

Pair = tuple[Variable, np.ndarray]


class _Misfit(ValueError):
    """The arrays of one layer do not fit it."""


def assign_file(model: Any, file: KerasFile, skip_mismatch: bool = False, by_name: bool = False) -> None:
    """Copies the arrays of a file into a model. ValueError, and nothing is written, unless they fit one to one.

    ``skip_mismatch``: a layer whose arrays do not fit keeps its own, with a warning. ``by_name``: only layers that have the
    name of one in the file, which must be of the layout of Keras 1 and 2 (``.h5``), as in Keras.
    """
    parts: list[Callable[[], list[Pair]]]
    if file.layout == "torch":
        from .torch_layout import torch_pairs

        parts = [functools.partial(torch_pairs, model, file.arrays, file.name)]
    elif file.layers is not None:
        found = _by_name(model, file) if by_name else _in_order(model, file)
        parts = [functools.partial(_legacy_pairs, layer, entry, file.name) for layer, entry in found]
    elif by_name:
        raise ValueError(f"{file.name}: by_name=True needs a file of the older layout, in which weights are kept by layer name")
    else:
        parts = _by_path(model, file, skip_mismatch)
    pairs: list[Pair] = []
    for part in parts:
        try:
            pairs += part()
        except _Misfit as misfit:
            if not skip_mismatch:
                raise ValueError(str(misfit)) from None
            warnings.warn(f"left out: {misfit}", stacklevel=4)
    for variable, array in pairs:
        variable.assign(array)


# -- by path ------------------------------------------------------------------------------------------------------------
def _by_path(model: Any, file: KerasFile, skip_mismatch: bool) -> list[Callable[[], list[Pair]]]:
    """For each layer a function that returns its (variable, array) pairs. ValueError for arrays that nobody takes."""
    arrays = {path: array for path, array in file.arrays.items() if not set(path.split("/")) & set(_SEED_GROUPS)}
    # Files of Keras 2.13 to 2.15 name the list of layers after another attribute.
    older = any(path.startswith("_layer_checkpoint_dependencies/") for path in arrays)
    top = "_layer_checkpoint_dependencies" if older else "layers"
    listed = [(layer, list(variables(f"{top}/{group}", layer))) for group, layer in groups(model.layers)]
    # A variable that lies in two places (a layer in two models) is kept in one of them.
    kept = {id(variable) for _, places in listed for path, variable in places if path in arrays}
    parts: list[Callable[[], list[Pair]]] = []
    for layer, places in listed:
        where = f"{file.name}: layer {layer.name!r} of class {type(layer).__name__!r}"
        own = {path: variable for path, variable in places if path in arrays or id(variable) not in kept}
        parts.append(functools.partial(_path_pairs, own, arrays, where))
    surplus = sorted(set(arrays) - {path for _, places in listed for path, _ in places})
    if surplus and not skip_mismatch:
        for part in parts:  # a misfit of a layer says more than what is left over
            try:
                part()
            except _Misfit as misfit:
                raise ValueError(str(misfit)) from None
        raise ValueError(f"{file.name}: the weights file has datasets that no layer of the model takes: {surplus[:4]}")
    return parts


def _path_pairs(places: Mapping[str, Variable], arrays: Mapping[str, np.ndarray], where: str) -> list[Pair]:
    return [_pair(path, variable, arrays, where) for path, variable in places.items()]


def _pair(path: str, variable: Variable, arrays: Mapping[str, np.ndarray], where: str) -> Pair:
    if path not in arrays:
        raise _Misfit(f"{where}: the weights file has no dataset '{path}' ({variable.name} of shape {variable.shape})")
    _check(arrays[path], variable, f"dataset '{path}'", where)
    return variable, arrays[path]


def _check(array: np.ndarray, variable: Variable, what: str, where: str) -> None:
    if array.shape != variable.shape or (array.dtype.kind != "f" and array.dtype.name != "bfloat16"):
        raise _Misfit(
            f"{where}: {what} has shape {array.shape} and dtype {array.dtype}, expected {variable.shape} and "
            f"{variable.dtype} for {variable.name}"
        )


# -- by layer -----------------------------------------------------------------------------------------------------------
def _in_order(model: Any, file: KerasFile) -> list[tuple[Layer, LayerArrays]]:
    """The layers that have weights, of model and file, in order. ValueError where their numbers differ."""
    assert file.layers is not None
    layers = [layer for layer in model.layers if layer.weights]
    saved = [entry for entry in file.layers if entry.arrays]
    if len(layers) != len(saved):
        raise ValueError(
            f"{file.name}: holds the weights of {len(saved)} layers ({', '.join(entry.name for entry in saved[:6])}, …), "
            f"the model has {len(layers)} layers with weights"
        )
    return list(zip(layers, saved, strict=True))


def _by_name(model: Any, file: KerasFile) -> list[tuple[Layer, LayerArrays]]:
    """The layers of the model whose name is in the file. A warning where there are none."""
    assert file.layers is not None
    saved = {entry.name: entry for entry in file.layers if entry.arrays}
    found = [(layer, saved[layer.name]) for layer in model.layers if layer.weights and layer.name in saved]
    if not found:
        warnings.warn(f"{file.name}: no layer of the model has the name of one in the file: {sorted(saved)[:8]}", stacklevel=4)
    return found


def _legacy_pairs(layer: Layer, entry: LayerArrays, file: str) -> list[Pair]:
    """Variables and arrays of one layer, trainable ones first; layouts of other versions and devices are converted."""
    where = f"{file}: layer {layer.name!r} of class {type(layer).__name__!r} (weights of {entry.name!r})"
    targets = layer.trainable_weights + layer.non_trainable_weights
    arrays = _of_keras_1(entry.arrays, len(targets))
    if len(arrays) != len(targets):
        raise _Misfit(f"{where}: expects {len(targets)} weights, the file has {len(arrays)}")
    found = {id(variable): array for variable, array in zip(targets, arrays, strict=True)}
    _convert_cells(layer, found)
    for variable in targets:
        _check(found[id(variable)], variable, "the array of the file", where)
    return [(variable, found[id(variable)]) for variable in targets]


def _of_keras_1(arrays: Sequence[np.ndarray], count: int) -> Sequence[np.ndarray]:
    """The three arrays of an LSTM (six of two) where the file has those of Keras 1, twelve for each."""
    if (count, len(arrays)) not in ((3, 12), (6, 24)):
        return arrays
    joined = []
    for start in range(0, len(arrays), 12):
        for numbers in _KERAS_1_LSTM:
            joined.append(np.concatenate([arrays[start + k] for k in numbers], axis=-1))
    return joined


def _convert_cells(layer: Layer, found: dict[int, np.ndarray]) -> None:
    """Turns arrays in cuDNN's layout (CuDNNLSTM, CuDNNGRU) into that of LSTM and GRU, in all cells inside a layer."""
    for inner in layer._layers:
        _convert_cells(inner, found)
    if len(layer._variables) != 3 or type(layer).__name__ not in ("LSTMCell", "GRUCell"):
        return
    kernel, recurrent, bias = (found.get(id(variable)) for variable in layer._variables)
    units = layer._variables[1].shape[0]
    gates = layer._variables[1].shape[1] // units
    if kernel is None or recurrent is None or bias is None or bias.shape != (2 * gates * units,):
        return
    if kernel.ndim != 2 or kernel.shape[1] != gates * units or recurrent.shape != (units, gates * units):
        return  # a misfit, which is told by the shapes
    # cuDNN keeps each gate as a [U,D] matrix; CuDNNLSTM wrote its numbers into a [D,U] array as they lay there.
    blocks = [block.reshape(units, -1).T for block in map(np.ascontiguousarray, np.split(kernel, gates, axis=1))]
    target = [variable.shape for variable in layer._variables]
    converted = [
        np.concatenate(blocks, axis=1),
        np.concatenate([block.T for block in np.split(recurrent, gates, axis=1)], axis=1),
        bias.reshape(2, -1) if len(target[2]) == 2 else bias[: gates * units] + bias[gates * units :],
    ]
    found |= {id(variable): array for variable, array in zip(layer._variables, converted, strict=True)}
