"""The config of a functional model <-> the model (keras-spec 13.2): layers, their calls, which tensors go in and come out.

In terms of ``layers.symbolic``; used by ``functional`` and, for files, by ``saving``. Reads the calls as Keras 3 writes them, and
as Keras 1 and 2 did: ``[[[layer, node, tensor, kwargs], …], …]``.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..layers import Bidirectional, InputLayer, Layer, TimeMajor
from ..layers.nest import flatten, mapped
from ..layers.operations import Operation
from ..layers.plain_recurrent import PlainRecurrent
from ..layers.recurrent import RecurrentLayer
from ..layers.symbolic import KerasTensor, Node, input_tensor
from ..layers.wrapper import reading_shared, restored, serialize, writing_shared

# A tensor of the config: name of the layer, number of its call, number of its output.
Place = tuple[str, int, int]
Make = Callable[[Mapping[str, Any]], Layer]
Old = Callable[[str, str], bool]
# What calls of Keras 2 meant and those of Keras 3 cannot say; in configs of fastlstm's own files among the kwargs of a call.
_OLD_CALLS = {"keeps_mask": "mask", "always_training": "training"}  # as in ``layer_configs.MEANINGS``
_own: contextvars.ContextVar[bool] = contextvars.ContextVar("fastlstm_own_config", default=False)


@contextlib.contextmanager
def writing_own() -> Iterator[None]:
    """Inside, configs are for fastlstm's own files, and may hold what Keras 3 cannot say."""
    token = _own.set(True)
    try:
        yield
    finally:
        _own.reset(token)


# -- model -> config ----------------------------------------------------------------------------------------------------
def functional_config(model: Any) -> dict[str, Any]:
    """``Functional.get_config``."""
    with writing_shared(model):
        return _config(model)


def _config(model: Any) -> dict[str, Any]:
    places = _places(model)

    def reference(tensor: KerasTensor) -> list:
        return [*places[id(tensor.node)], tensor.index]

    def written(leaf: Any) -> Any:
        if isinstance(leaf, slice):
            return {"class_name": "__slice__", "config": {"start": leaf.start, "stop": leaf.stop, "step": leaf.step}}
        if leaf is Ellipsis:
            return {"class_name": "__ellipsis__", "config": {}}
        if not isinstance(leaf, KerasTensor):
            return leaf
        config = {"shape": list(leaf.shape), "dtype": leaf.dtype, "keras_history": reference(leaf)}
        return {"class_name": "__keras_tensor__", "config": config}

    entries = []
    for layer in model._steps:
        nodes = [node for node in model._graph.all_nodes if node.layer is layer and node.inputs is not None]
        if not _own.get() and any(key in node.options for node in nodes for key in _OLD_CALLS):
            raise ValueError(
                f'The model "{model.name}" of Keras 2 calls layer "{layer.name}" with an implicit mask beside its initial state, '
                "or with dropout in inference; the config of Keras 3 cannot say that (fastlstm's .npz and .safetensors files can)"
            )
        operation = isinstance(layer, Operation)
        calls = [
            {"args": mapped(written, node.inputs if operation else [node.inputs]), "kwargs": mapped(written, node.options)}
            for node in nodes
        ]
        entry = layer.entry() if isinstance(layer, Operation) else serialize(layer)
        entries.append({**entry, "name": layer.name, "inbound_nodes": calls})
    return {
        "name": model.name,
        "trainable": model.trainable,
        "layers": entries,
        "input_layers": mapped(reference, model.input),
        "output_layers": mapped(reference, model.output),
    }


def _places(model: Any) -> dict[int, tuple[str, int]]:
    """Layer and number of each call, by the id of its node. Models inside the model count from 1: Keras gives them a call of
    their own."""
    places: dict[int, tuple[str, int]] = {}
    for layer in model._steps:
        first = 1 if type(layer) is type(model) else 0
        nodes = [node for node in model._graph.all_nodes if node.layer is layer]
        places |= {id(node): (layer.name, number) for number, node in enumerate(nodes, first)}
    return places


# -- config -> model ----------------------------------------------------------------------------------------------------
def read_functional(config: Mapping[str, Any], make: Make, legacy: bool = False, old: Old = lambda meaning, layer: True) -> Any:
    """The model of a config; ``make(entry)``: the layer of one entry of its ``layers``.

    ``legacy``: the config means what it meant in Keras 1 and 2: an implicit mask counts beside an initial state, and a list of
    one output is that output. ``old(meaning, layer)``: whether a meaning of ``layer_configs.MEANINGS`` is to be the old one.
    ValueError for what is malformed, for calls in a circle, and for names that do not exist.
    """
    with reading_shared():
        return _read(config, make, legacy, old)


def _read(config: Mapping[str, Any], make: Make, legacy: bool, old: Old) -> Any:
    from .functional import Functional

    entries = config.get("layers")
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise ValueError("the config of a functional model must have a list 'layers' of objects")
    layers: dict[str, Layer] = {}
    calls: dict[str, list[Any]] = {}
    for entry in entries:
        name = entry.get("name") or _mapping(entry.get("config"), "the config of a layer").get("name")
        if not isinstance(name, str) or name in layers:
            raise ValueError(f"each layer of a functional model needs a name of its own. Received: {name!r}")
        nodes = entry.get("inbound_nodes", [])
        if not isinstance(nodes, list):
            raise ValueError(f"the inbound_nodes of layer {name!r} must be a list. Received: {type(nodes).__name__}")
        layers[name], calls[name] = restored(entry, functools.partial(make, entry)), [_parsed(node, name) for node in nodes]
    ends = [_structure(config.get(key), f"an entry of {key}") for key in ("input_layers", "output_layers")]
    reader = _Reader(layers, calls, _leaves(ends), legacy, old)
    inputs, outputs = (
        mapped(reader.tensor, end[0] if legacy and isinstance(end, list) and len(end) == 1 else end) for end in ends
    )
    model = Functional(inputs, outputs, name=config.get("name"))
    # Weights are numbered by the order of the file.
    order = {id(layer): k for k, layer in enumerate(layers.values())}
    for listed in (model._steps, model._layers):
        listed.sort(key=lambda layer: order[id(layer)])
    model._trainable = bool(config.get("trainable", True))  # the layers bring their own
    return model


class _Call:
    """A call as the config has it: ``arguments`` and ``options`` with _Ref leaves in place of tensors."""

    def __init__(self, arguments: list[Any], options: dict[str, Any], legacy: bool):
        self.arguments, self.options, self.legacy = arguments, options, legacy


class _Ref:
    """A tensor that a config refers to."""

    def __init__(self, place: Any, where: str):
        valid = isinstance(place, (list, tuple)) and len(place) >= 3 and isinstance(place[0], str)
        if not valid or not all(type(number) is int and number >= 0 for number in place[1:3]):
            raise ValueError(f"{where} must be [layer, call, output]. Received: {place!r}")
        self.place: Place = (place[0], place[1], place[2])


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{what} must be an object. Received: {type(value).__name__}")
    return value


def _parsed(node: Any, name: str) -> _Call:
    """One entry of ``inbound_nodes``."""
    where = f"a call of layer {name!r}"
    if isinstance(node, Mapping):
        arguments = node.get("args", [])
        options = dict(_mapping(node.get("kwargs", {}), f"the kwargs of {where}"))
        if not isinstance(arguments, list) or not arguments:
            arguments = [options.pop(key) for key in ("inputs", "sequences") if key in options]
        if not arguments:
            raise ValueError(f"{where} has no inputs")
        given = {key: _revived(value, where) for key, value in options.items()}
        return _Call([_revived(argument, where) for argument in arguments], given, legacy=False)
    if not isinstance(node, list) or not node:
        raise ValueError(f"{where} must be an object or a list of tensors. Received: {node!r}")
    tensors = [node] if isinstance(node[0], str) else node
    refs = [_Ref(tensor, f"a tensor of {where}") for tensor in tensors]
    options = {}
    for tensor in tensors:
        if len(tensor) > 3:
            options |= _mapping(tensor[3], f"the kwargs of {where}")
    return _Call(refs, {key: _legacy_value(value, where) for key, value in options.items()}, legacy=True)


def _revived(value: Any, where: str) -> Any:
    """A value of Keras 3's ``args`` and ``kwargs`` with its tensors as _Ref."""
    if isinstance(value, Mapping):
        if value.get("class_name") == "__keras_tensor__":
            return _Ref(_mapping(value.get("config"), f"a tensor of {where}").get("keras_history"), f"a tensor of {where}")
        if value.get("class_name") == "__tuple__":
            return tuple(_revived(part, where) for part in value.get("config", {}).get("value", []))
        if value.get("class_name") == "__slice__":
            config = _mapping(value.get("config"), f"a slice of {where}")
            return slice(*(_revived(config.get(key), where) for key in ("start", "stop", "step")))
        if value.get("class_name") == "__ellipsis__":
            return Ellipsis
        return {key: _revived(part, where) for key, part in value.items()}
    return [_revived(part, where) for part in value] if isinstance(value, list) else value


def _legacy_value(value: Any, where: str) -> Any:
    """A keyword argument of Keras 2, where a tensor is a plain list [layer, call, output]."""
    if isinstance(value, list):
        if len(value) in (3, 4) and isinstance(value[0], str) and all(type(number) is int for number in value[1:3]):
            return value[2] if value[0] == "_CONSTANT_VALUE" else _Ref(value, f"a tensor of {where}")
        return [_legacy_value(part, where) for part in value]
    return value


def _structure(value: Any, where: str) -> Any:
    """``input_layers`` or ``output_layers``: one place, or lists and dicts of places."""
    if isinstance(value, Mapping):
        return {name: _structure(part, where) for name, part in value.items()}
    if isinstance(value, (list, tuple)) and value and not isinstance(value[0], str):
        return [_structure(part, where) for part in value]
    return _Ref(value, where)


def _leaves(structure: Any) -> list[_Ref]:
    return [leaf for leaf in flatten(structure) if isinstance(leaf, _Ref)]


def _refs(call: _Call) -> list[_Ref]:
    return _leaves([call.arguments, call.options])


class _Reader:
    """Makes the calls, each once those that it depends on are made."""

    def __init__(self, layers: dict[str, Layer], calls: dict[str, list[_Call]], ends: list[_Ref], legacy: bool, old: Old):
        self.layers, self.calls, self.legacy, self.old = layers, calls, legacy, old
        self.made: dict[tuple[str, int], Node] = {}
        self.first = self._first_numbers(ends)

    def _first_numbers(self, ends: list[_Ref]) -> dict[str, int]:
        """The number of each layer's first call: 1 for models inside the model where the file counts so."""
        highest = dict.fromkeys(self.layers, -1)
        for ref in [*ends, *(ref for calls in self.calls.values() for call in calls for ref in _refs(call))]:
            highest[ref.place[0]] = max(highest.get(ref.place[0], -1), ref.place[1])
        counts = {name: len(calls) for name, calls in self.calls.items()}
        return {
            name: int(hasattr(layer, "layers") and (type(layer).__name__ == "Functional" or highest[name] >= counts[name]))
            for name, layer in self.layers.items()
        }

    def tensor(self, ref: _Ref) -> KerasTensor:
        """The tensor of a reference; makes what it depends on, by hand: graphs may be deeper than Python's stack."""
        target = self._key(ref)
        pending, under_way = [target], set()
        while pending:
            key = pending[-1]
            if key in self.made:
                pending.pop()
                continue
            call = self._call_at(key)
            missing = [other for other in ([] if call is None else map(self._key, _refs(call))) if other not in self.made]
            if missing:
                if key in under_way:
                    raise ValueError(f"the calls of layer {key[0]!r} depend on themselves")
                under_way.add(key)
                pending += missing
                continue
            self.made[key] = self._make(key, call)
            pending.pop()
        return self._made_tensor(ref)

    def _key(self, ref: _Ref) -> tuple[str, int]:
        name, number, _ = ref.place
        if name not in self.layers:
            raise ValueError(f"the config refers to a layer {name!r}, which it does not have")
        if isinstance(self.layers[name], InputLayer):
            return name, 0
        return name, number - self.first[name]

    def _call_at(self, key: tuple[str, int]) -> _Call | None:
        name, number = key
        if isinstance(self.layers[name], InputLayer):
            return None
        if not 0 <= number < len(self.calls[name]):
            raise ValueError(f"layer {name!r} has {len(self.calls[name])} calls, the config asks for number {number}")
        return self.calls[name][number]

    def _make(self, key: tuple[str, int], call: _Call | None) -> Node:
        layer = self.layers[key[0]]
        if call is None:
            return input_tensor(layer).node
        swap = lambda leaf: self._made_tensor(leaf) if isinstance(leaf, _Ref) else leaf  # noqa: E731
        arguments, options = mapped(swap, call.arguments), mapped(swap, call.options)
        training = options.pop("training", False) is True
        told = {name: meaning for name, meaning in _OLD_CALLS.items() if options.pop(name, None) is True}
        kept = {name: True for name, meaning in told.items() if self.old(meaning, layer.name)}
        if isinstance(layer, Operation):
            inputs, options = arguments, _operation_options(layer, options)
        elif call.legacy:
            inputs, options = _as_called_now(layer, arguments, options)
        else:
            # Keras' own order of the arguments after the first one.
            inputs, options = arguments[0], {**dict(zip(("initial_state", "mask"), arguments[1:], strict=False)), **options}
        options = {name: value for name, value in options.items() if value is not None and value is not False}
        try:
            made = layer(inputs, **options)
        except TypeError as error:
            raise ValueError(f"layer {layer.name!r} cannot be called as the config says: {error}") from error
        node: Node = flatten(made)[0].node
        if self.legacy and "initial_state" in options and self.old("mask", layer.name):
            node.options["keeps_mask"] = True
        if training:
            always = self.legacy and self.old("training", layer.name)
            node.options["always_training" if always else "training"] = True
        node.options.update(kept)
        return node

    def _made_tensor(self, ref: _Ref) -> KerasTensor:
        outputs = self.made[self._key(ref)].outputs
        if ref.place[2] >= len(outputs):
            raise ValueError(f"layer {ref.place[0]!r} has {len(outputs)} outputs, the config asks for number {ref.place[2]}")
        return outputs[ref.place[2]]


def _operation_options(layer: Operation, options: dict[str, Any]) -> dict[str, Any]:
    """No options: those of an operation stand in its config. ValueError for others."""
    given = {name: value for name, value in options.items() if value is not None and name != "training"}
    if given:
        raise ValueError(f"the operation {layer.name!r} takes no further arguments. Received: {sorted(given)}")
    return {}


def _as_called_now(layer: Layer, inputs: list[Any], options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The arguments of a call of Keras 2: an initial state came in the list of inputs, a list of one tensor was that tensor."""
    recurrent = isinstance(layer, RecurrentLayer | PlainRecurrent | Bidirectional | TimeMajor)
    if recurrent and len(inputs) > 1:
        return inputs[0], {**options, "initial_state": inputs[1:]}
    several = len(inputs) > 1 or getattr(layer, "takes_list", False)
    return (inputs if several else inputs[0]), options
