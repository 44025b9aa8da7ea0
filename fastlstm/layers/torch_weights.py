"""PyTorch's names and layouts of LSTM weights <-> layers. Used by ``LSTM.from_torch``; ``torch_state_dict`` is the way back.

PyTorch: weight_ih_l0 [4U,D], weight_hh_l0 [4U,U], bias_ih_l0 and bias_hh_l0 [4U], which are added, weight_hr_l0 [P,U] where there
is a projection; "_reverse" behind the names of the backward direction, no "_l0" in an LSTMCell. Its gates i, f, g, o are those of
Keras, i, f, c, o, in the same order; Keras' layout: kernel [D,4U], recurrent_kernel [U,4U], bias [4U].
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .base import Layer
from .bidirectional import Bidirectional
from .lstm import LSTM
from .projected_lstm import ProjectedLSTM
from .torch_lstm import TorchLSTM
from .torch_reparametrized import composed, floats, told

_NAME = re.compile(r"(?:(.*)\.)?(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)(?:_l(\d{1,4})(_reverse)?)?", re.DOTALL)
_OTHERS = {3: "a GRU", 1: "an RNN"}  # by the number of gates
# A file can name one dict in many places, and itself: what is looked through is bounded.
MAX_DEPTH = 8
MAX_ENTRIES = 200_000

Key = tuple[int, bool]  # number of the layer, whether it is its backward direction


class _Group(NamedTuple):
    """The weights of one module: ``prefix`` of their names, whether they are numbered (an LSTMCell's are not), and for each layer
    and direction {part: (name, value)}."""

    prefix: str
    numbered: bool
    parts: dict[Key, dict[str, tuple[str, Any]]]


class _Shapes(NamedTuple):
    """What the weights of a module say about it: U, P (0: no projection), D, layers, directions, whether it has biases."""

    units: int
    proj_size: int
    features: int
    num_layers: int
    directions: int
    use_bias: bool


def from_torch(
    cls: type[LSTM],
    source: Any,
    *,
    batch_first: bool | None = None,
    return_sequences: bool = False,
    return_state: bool = False,
    prefix: str | None = None,
    state_layout: str = "keras",
    batch_size: int | None = None,
    dtype: Any = None,
    **kwargs: Any,
) -> Any:
    """``LSTM.from_torch``; ``cls``: the class of a layer that LSTM alone can be."""
    state, where = _entries(source)
    group = _chosen(_groups(state, where), prefix, where, state)
    shapes = _shapes(group, where, state)
    batch_first = _batch_first(source, group.prefix) if batch_first is None else batch_first
    weights = [array for key in _keys(shapes) for array in _direction(group, key, shapes, where)]
    if dtype is None:
        dtype = "float64" if any(array.dtype == np.float64 for array in weights) else "float32"
    options: dict[str, Any] = {"return_sequences": return_sequences, "return_state": return_state, "use_bias": shapes.use_bias}
    plain = (shapes.num_layers, shapes.directions, shapes.proj_size) == (1, 1, 0) and batch_first and state_layout == "keras"
    if plain:
        # Zeros behind the end, as of a packed sequence; the last output is that of the last step that counts.
        options["zero_output_for_mask"] = bool(return_sequences)
        layer: Any = cls(shapes.units, dtype=dtype, **{**options, **kwargs})
    else:
        options |= {"num_layers": shapes.num_layers, "bidirectional": shapes.directions == 2, "proj_size": shapes.proj_size}
        options |= {"batch_first": batch_first, "state_layout": state_layout}
        layer = TorchLSTM(shapes.units, dtype=dtype, **{**options, **kwargs})
    layer.build((batch_size, None, shapes.features) if batch_first else (None, batch_size, shapes.features))
    layer.set_weights(weights)
    return layer


# -- what is given ----------------------------------------------------------------------------------------------------------
def _entries(source: Any) -> tuple[dict[str, Any], str]:
    """What is given as {"name.of.a.weight": value}, dicts in dicts with their keys in front, and its name for messages."""
    where = "the state dict"
    if isinstance(source, str | os.PathLike) or callable(getattr(source, "read", None)):
        from ..io.torch_file import read_state_file

        where = str(getattr(source, "name", "<file object>")) if callable(getattr(source, "read", None)) else os.fsdecode(source)
        source = read_state_file(source)
        if not isinstance(source, Mapping):
            raise ValueError(f"{where}: holds a {type(source).__name__}, expected a dict of tensors by name (a state dict)")
    elif not isinstance(source, Mapping) and callable(getattr(source, "state_dict", None)):
        source = source.state_dict()
    if not isinstance(source, Mapping):
        raise TypeError(
            "The argument `path_or_state_dict` must be a path, a binary file object, a dict of arrays or tensors, or a module. "
            f"Received: {type(source).__name__}"
        )
    return composed(_flattened(source, where), where), where


def _batch_first(source: Any, prefix: str) -> bool:
    """What the module called ``prefix`` says, where a module is given; True of files, dicts and an LSTMCell."""
    modules = dict(source.named_modules()) if callable(getattr(source, "named_modules", None)) else {}
    return bool(getattr(modules.get(prefix), "batch_first", True))


def _flattened(source: Mapping, where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    pending: list[tuple[str, Any, int]] = [("", source, 0)]
    seen = 0
    while pending:
        path, mapping, depth = pending.pop()
        for key, value in mapping.items():
            seen += 1
            if seen > MAX_ENTRIES:
                raise ValueError(f"{where}: has more than {MAX_ENTRIES} entries; give the dict of the LSTM alone")
            if not isinstance(key, str):
                continue
            if not isinstance(value, Mapping):
                found[path + key] = value
            elif depth < MAX_DEPTH:
                pending.append((f"{path}{key}.", value, depth + 1))
    return found


def _groups(state: Mapping[str, Any], where: str) -> dict[str, _Group]:
    """All modules that have weights with the names of recurrent ones, by prefix."""
    groups: dict[str, _Group] = {}
    for name, value in state.items():
        match = _NAME.fullmatch(name)
        if match is None or not hasattr(value, "shape"):
            continue
        prefix, part, number, reverse = match.groups()
        group = groups.setdefault(prefix or "", _Group(prefix or "", number is not None, {}))
        direction = group.parts.setdefault((int(number or 0), reverse is not None), {})
        if part in direction:
            raise ValueError(f"{where}: has both {direction[part][0]!r} and {name!r}, which mean the same weight")
        direction[part] = (name, value)
    return groups


def _kind(group: _Group) -> str:
    """ "an LSTM", "a GRU" or "an RNN", by the shapes of its first layer."""
    first = group.parts.get((0, False), {})
    inputs, recurrent = (tuple(first[part][1].shape) if part in first else () for part in ("weight_ih", "weight_hh"))
    if "weight_hr" in first or len(inputs) != 2 or len(recurrent) != 2 or not recurrent[1]:
        return "an LSTM"  # what is missing or wrong is told later, by name
    gates, rest = divmod(inputs[0], recurrent[1])
    return _OTHERS.get(gates, "an LSTM") if not rest and inputs[0] == recurrent[0] else "an LSTM"


def _chosen(groups: dict[str, _Group], prefix: str | None, where: str, state: Mapping[str, Any]) -> _Group:
    """The only LSTM, or the one with the caller's prefix. ValueError that lists what there is."""
    kinds = {name: _kind(group) for name, group in groups.items()}
    found = [name for name, kind in kinds.items() if kind == "an LSTM"]
    listed = ", ".join(repr(name) for name in sorted(found)) or "none"
    if prefix is not None:
        wanted = prefix.removesuffix(".")
        matching = [name for name in found if name == wanted] or [name for name in found if f".{name}".endswith(f".{wanted}")]
        if len(matching) == 1:
            return groups[matching[0]]
        other = f"; {wanted!r} is {kinds[wanted]}" if wanted in kinds and wanted not in found else ""
        count = len(matching) or "no"
        raise ValueError(f"{where}: {count} LSTMs have the prefix {prefix!r}. Prefixes of LSTMs in it: {listed}{other}")
    if len(found) == 1:
        return groups[found[0]]
    if found:
        raise ValueError(f"{where}: holds {len(found)} LSTMs; choose one by `prefix`. Prefixes of LSTMs in it: {listed}")
    others = ", ".join(f"{kind} ({name!r})" if name else kind for name, kind in sorted(kinds.items()))
    if others:
        raise ValueError(f"{where}: holds no LSTM, but {others}")
    keys = ", ".join(repr(name) for name in list(state)[:8]) or "none"
    quantised = any(re.search(r"_packed_params|_all_weight_values|igates\.", name) for name in state)
    more = ". Quantised weights are not read: take those from before the quantisation" if quantised else ""
    raise ValueError(f"{where}: holds no weights of an LSTM (weight_ih_l0, weight_hh_l0, …). Its keys: {keys}{more}")


# -- shapes -------------------------------------------------------------------------------------------------------------------
def _shapes(group: _Group, where: str, state: Mapping[str, Any]) -> _Shapes:
    """What the names and the shapes say. ValueError for a weight that is missing, and for shapes that do not go together."""
    parts = {part for direction in group.parts.values() for part in direction}
    use_bias = bool(parts & {"bias_ih", "bias_hh"})
    wanted = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if use_bias else []), *sorted(parts & {"weight_hr"})]
    num_layers, directions = 1 + max(number for number, _ in group.parts), 1 + max(reverse for _, reverse in group.parts)
    for number in range(num_layers):
        for reverse in (False, True)[:directions]:
            for part in wanted:
                if part not in group.parts.get((number, reverse), {}):
                    name = part + (f"_l{number}" if group.numbered else "") + ("_reverse" if reverse else "")
                    full = f"{group.prefix}.{name}" if group.prefix else name
                    raise ValueError(
                        f"{where}: has no {full!r}, which goes with the other weights of its LSTM{told(state, full)}"
                    )
    first = group.parts[0, False]
    sizes = {part: _shape_of(*first[part], where) for part in wanted if part.startswith("weight")}
    proj_size, units = sizes["weight_hr"] if "weight_hr" in sizes else (0, sizes["weight_hh"][1])
    shapes = _Shapes(units, proj_size, sizes["weight_ih"][1], num_layers, directions, use_bias)
    if proj_size and proj_size >= units:
        raise ValueError(f"{where}: {first['weight_hr'][0]!r} has shape {(proj_size, units)}, expected fewer rows than columns")
    for (number, _), direction in group.parts.items():
        for part, (name, value) in direction.items():
            expected = _expected(part, number, shapes)
            if tuple(value.shape) != expected or 0 in expected:
                raise ValueError(f"{where}: {name!r} has shape {tuple(value.shape)}, expected {expected} for {_words(shapes)}")
    return shapes


def _shape_of(name: str, value: Any, where: str) -> tuple[int, int]:
    if len(value.shape) != 2:
        raise ValueError(f"{where}: {name!r} has shape {tuple(value.shape)}, expected a matrix")
    return int(value.shape[0]), int(value.shape[1])


def _expected(part: str, number: int, shapes: _Shapes) -> tuple[int, ...]:
    """Shape of a part of layer ``number``: its inputs are the outputs of all directions of the layer before it."""
    state = shapes.proj_size or shapes.units
    features = shapes.features if number == 0 else state * shapes.directions
    columns = {"weight_ih": (features,), "weight_hh": (state,)}
    return (shapes.proj_size, shapes.units) if part == "weight_hr" else (4 * shapes.units, *columns.get(part, ()))


def _words(shapes: _Shapes) -> str:
    told = f"{shapes.units} units (columns of weight_h{'r' if shapes.proj_size else 'h'}) and {shapes.features} features"
    return told + (f", proj_size {shapes.proj_size}" if shapes.proj_size else "")


def _keys(shapes: _Shapes) -> list[Key]:
    return [(number, reverse) for number in range(shapes.num_layers) for reverse in (False, True)[: shapes.directions]]


# -- values -------------------------------------------------------------------------------------------------------------------
def _direction(group: _Group, key: Key, shapes: _Shapes, where: str) -> list[np.ndarray]:
    """One direction of one layer as the weights of an LSTM, or of a ProjectedLSTM."""
    arrays = {part: floats(value, name, where) for part, (name, value) in group.parts[key].items()}
    found = [np.ascontiguousarray(arrays["weight_ih"].T), np.ascontiguousarray(arrays["weight_hh"].T)]
    if shapes.use_bias:
        found.append(arrays["bias_ih"] + arrays["bias_hh"])
    if shapes.proj_size:
        found.append(np.ascontiguousarray(arrays["weight_hr"].T))
    return found


# -- the way back ---------------------------------------------------------------------------------------------------------------
def torch_state_dict(layer: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """The weights of a layer under PyTorch's names and in its layout, for ``torch.nn.LSTM.load_state_dict``.

    ``layer``: a built LSTM, Bidirectional of LSTM or TorchLSTM, or a list of LSTMs or of Bidirectionals, which become the layers
    of one ``torch.nn.LSTM``. ``prefix``: put in front of the names, with a dot between. bias_hh is 0: the one bias of Keras is
    bias_ih. ValueError for what ``torch.nn.LSTM`` cannot compute: other activations, merge modes than "concat", ``go_backwards``,
    layers that do not follow each other; TypeError for other layers.
    """
    layers = list(layer) if isinstance(layer, list | tuple) else layer.pieces if isinstance(layer, TorchLSTM) else [layer]
    if not layers:
        raise ValueError("The argument `layer` must hold at least one layer")
    found: dict[str, np.ndarray] = {}
    before = None
    for number, one in enumerate(layers):
        directions = [one.forward_layer, one.backward_layer] if isinstance(one, Bidirectional) else [one]
        if isinstance(one, Bidirectional) and one.merge_mode != "concat":
            raise ValueError(f'PyTorch has no merge_mode={one.merge_mode!r}, of layer "{one.name}"; only "concat"')
        for direction, inner in enumerate(directions):
            _check_direction(inner, bool(direction))
            suffix = f"_l{number}" + ("_reverse" if direction else "")
            for name, array in _torch_parts(inner).items():
                found[f"{prefix.removesuffix('.')}.{name}{suffix}" if prefix else f"{name}{suffix}"] = array
        before = _check_follows(one, directions, before)
    return found


def _check_direction(layer: Layer, backwards: bool) -> None:
    if not isinstance(layer, LSTM | ProjectedLSTM):
        raise TypeError(f"torch.nn.LSTM is made of LSTM, Bidirectional or TorchLSTM layers. Received: {type(layer).__name__}")
    if not layer.built:
        raise ValueError(f'The layer "{layer.name}" has no weights yet: call `layer.build(shape)` first')
    if bool(layer.go_backwards) != backwards:
        raise ValueError(f'torch.nn.LSTM has no go_backwards={layer.go_backwards!r} as of layer "{layer.name}"')
    if isinstance(layer, LSTM):
        names = layer.spec.activation_names()
        if names != ("tanh", "sigmoid"):
            raise ValueError(f'torch.nn.LSTM has tanh and sigmoid only; layer "{layer.name}" has the activations {names}')


def _check_follows(layer: Any, directions: list[Any], before: tuple | None) -> tuple:
    """(directions, units, P, use_bias) of a layer. ValueError unless it is as the one before it, and takes what that puts out."""
    kinds = {(len(directions), inner.units, getattr(inner, "proj_size", 0), bool(inner.use_bias)) for inner in directions}
    kind = kinds.pop()
    if kinds:
        raise ValueError(f'The directions of layer "{layer.name}" differ in their units or biases')
    features = directions[0].kernel.shape[0]
    if before is not None and (kind != before or features != before[0] * (before[2] or before[1])):
        raise ValueError(
            f'The layer "{layer.name}" cannot follow the one before it in one torch.nn.LSTM: units, directions and biases must '
            "be the same, and its features the outputs before it"
        )
    return kind


def _torch_parts(layer: Any) -> dict[str, np.ndarray]:
    """The weights of one direction by PyTorch's names, in PyTorch's order."""
    kernel, recurrent, *rest = layer.get_weights()
    found = {"weight_ih": kernel.T.copy(), "weight_hh": recurrent.T.copy()}
    if layer.use_bias:
        bias = rest.pop(0)
        found |= {"bias_ih": bias, "bias_hh": np.zeros_like(bias)}
    if rest:
        found["weight_hr"] = rest[0].T.copy()
    return found
