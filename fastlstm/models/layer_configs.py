"""The configs of layers in files, of any version of Keras since 2.0 -> configs that the layers here take (keras-spec 13).

Used by ``saving``. A class name is looked up in the table ``layers.LAYERS`` and in what the caller gives as ``custom_objects``;
everything else is refused by name. Nothing that a file names is imported or executed. What a config meant in its own version
counts: ``hard_sigmoid`` was another function before Keras 3.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..layers import LAYERS
from ..layers.base import Layer
from ..layers.operations import is_operation, operation_of
from .weight_paths import INNER

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
    "num_constants": (0, None),
    "consume_less": _ANY,
    "experimental_run_tf_function": _ANY,
}
# Names that a class had in other versions, or on other devices: what they are now.
_RENAMED = {
    "CuDNNLSTM": "LSTM",
    "LSTMV1": "LSTM",
    "LSTMV2": "LSTM",
    "UnifiedLSTM": "LSTM",
    "CuDNNGRU": "GRU",
    "GRUV1": "GRU",
    "GRUV2": "GRU",
    "UnifiedGRU": "GRU",
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "DenseV1": "Dense",
    "Model": "Functional",
}
_MODELS = ("Sequential", "Functional")
# Layers of Keras 2 that ran along the first axis where they were told ``time_major=True``; a Bidirectional did as its halves.
_TIME_MAJOR = ("LSTM", "GRU", "SimpleRNN")
_HALVES = ("layer", "backward_layer")
_FUNCTIONS = ("activation", "recurrent_activation")
_OBJECTS = ("_initializer", "_regularizer", "_constraint")


# What files of Keras 1 and 2 mean and Keras 3 takes for something else without a word; the names are those of ``Origin.today``.
MEANINGS = {
    "hard_sigmoid": "hard_sigmoid is clip(0.2 x + 0.5, 0, 1) in the file, clip(x / 6 + 0.5, 0, 1) in Keras 3",
    "recurrent_activation": "a recurrent_activation that the file does not name was hard_sigmoid, and is sigmoid in Keras 3",
    "reset_after": "a GRU that does not say reset_after had False, and has True in Keras 3",
    "mask": "an implicit mask counts beside an initial state in the file, and is dropped in Keras 3",
    "training": "training=True of a call counts in inference in the file, and is overruled by predict in Keras 3",
}


def parse_version(text: Any) -> tuple[int, int]:
    """ "2.2.4-tf" -> (2, 2); (3, 0) for what is no version."""
    found = re.match(r"(\d{1,4})(?:\.(\d{1,4}))?", text) if isinstance(text, str) else None
    return (int(found[1]), int(found[2] or 0)) if found else (3, 0)


class Origin:
    """Where configs come from: the ``file``'s name for messages, the ``version`` of Keras that wrote it, the caller's classes.

    ``today``: those of ``MEANINGS`` that are to be what they are in Keras 3, whatever the version. ``met``: the layers that have
    one, by meaning.
    ``custom_objects``: {name in the file: a class with ``from_config``, or any callable that takes the config's keywords}, also
    functions for activations. ValueError for anything else.
    """

    def __init__(self, file: str, version: tuple[int, int] = (3, 0), custom_objects: Any = None, today: Collection[str] = ()):
        if custom_objects is not None and not isinstance(custom_objects, Mapping):
            raise ValueError(f"The argument `custom_objects` must be a dict {{name: class}}. Received: {custom_objects!r}")
        self.file, self.version, self.custom = file, version, dict(custom_objects or {})
        self.today, self.met = today, dict[str, list[str]]()
        # (entry, cleaned, where) -> an inner layer that is a model or of the caller's class; models know how to make models.
        self.make_inner: Callable[[Mapping[str, Any], dict[str, Any], str], Layer] = lambda _, cleaned, where: self.made(
            cleaned, where
        )
        wrong = next((name for name, value in self.custom.items() if not callable(value)), None)
        if wrong is not None:
            raise ValueError(f"The argument `custom_objects` must hold classes and functions. Received: {self.custom[wrong]!r}")

    @property
    def legacy(self) -> bool:
        """Whether the file is of Keras 1 or 2."""
        return self.version < (3, 0)

    def old(self, meaning: str, layer: Any) -> bool:
        """Whether ``meaning`` is to be that of the file; ``layer``: the name of the layer that has it."""
        self.met.setdefault(meaning, []).append(str(layer))
        return meaning not in self.today

    def custom_class(self, entry: Mapping[str, Any]) -> Any:
        """The caller's class for an entry, by its registered name or its class name; None where there is none."""
        for key in (entry.get("registered_name"), entry.get("class_name")):
            if isinstance(key, str):
                for name in (key, key.rpartition(">")[2]):
                    if name in self.custom:
                        return self.custom[name]
        return None

    # -- one layer ------------------------------------------------------------------------------------------------
    def check_class(self, entry: Mapping[str, Any], where: str) -> None:
        """ValueError for classes that are not Keras' own: a custom class may bear the name of a known one."""
        module, registered, class_name = entry.get("module"), entry.get("registered_name"), entry.get("class_name")
        foreign = module is not None and str(module).split(".")[0] not in ("keras", "tf_keras", "tensorflow")
        if foreign or registered not in (None, "", class_name):
            raise ValueError(
                f"{where} is of the custom class {class_name!r} (module {module!r}, registered as {registered!r}), whose code is "
                f"not in the file; name it in custom_objects={{{class_name!r}: …}}"
            )

    def cleaned(self, entry: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The dict of a layer as the layers here take it, inner layers included. ValueError for classes that nobody knows."""
        class_name, config = entry.get("class_name"), entry.get("config")
        if class_name in _MODELS or class_name == "Model":
            config = {"layers": config} if isinstance(config, list) else config  # as Keras 2.0 to 2.2 wrote a Sequential
        if not isinstance(class_name, str) or not isinstance(config, Mapping):
            raise ValueError(f"{where}: expected an object with the keys 'class_name' and 'config'; it has {sorted(entry)[:8]}")
        custom = self.custom_class(entry)
        if custom is not None:
            ours = isinstance(custom, type) and issubclass(custom, Layer)  # whose constructors refuse what they do not know
            kept = {key: value for key, value in config.items() if not (ours and _droppable(key, value, class_name))}
            return {**entry, "config": self._inner(self._of_its_version(self._named(kept), class_name), where)}
        if is_operation(entry):
            return dict(entry)
        if class_name == "Lambda":
            raise ValueError(f"{where}: Lambda layers hold Python code, and code from files is never executed")
        self.check_class(entry, where)
        known = _RENAMED.get(class_name, class_name)
        if known not in _MODELS and known not in LAYERS:
            raise ValueError(f"{where}: fastlstm has no such layer. Known: {', '.join(sorted(LAYERS))}")
        if known in _MODELS:
            _check_stack(config, where)
            return {**entry, "class_name": known, "config": dict(config)}
        time_major = self._is_time_major(known, config)
        if time_major:
            config = _batch_major(config)
        kept = {key: value for key, value in config.items() if not _droppable(key, value, known)}
        kept = self._inner(self._of_its_version(self._named(kept), class_name), where)
        if time_major:
            return {**entry, "class_name": "TimeMajor", "config": {"layer": {"class_name": known, "config": kept}}}
        return {**entry, "class_name": known, "config": kept}

    def _inner(self, config: dict[str, Any], where: str) -> dict[str, Any]:
        """The config with the dicts of its inner layers cleaned, or made where they are the caller's."""
        for key in INNER:
            inner = config.get(key)
            if isinstance(inner, Mapping) and "class_name" in inner:
                inner_config = inner.get("config")
                name = inner_config.get("name") if isinstance(inner_config, Mapping) else None
                what = f"{where}: its {key} {name!r} of class {inner.get('class_name')!r}"
                cleaned = self.cleaned(inner, what)
                ours = self.custom_class(inner) is None and cleaned["class_name"] not in _MODELS
                config[key] = cleaned if ours else self.make_inner(inner, cleaned, what)
                if cleaned["class_name"] == "TimeMajor" or getattr(config[key], "time_major", False):
                    raise ValueError(
                        f"{what} has time_major=True, which fastlstm knows of layers that are called by the model itself, and of "
                        "both halves of a Bidirectional alike"
                    )
        return config

    def _is_time_major(self, known: str, config: Mapping[str, Any]) -> bool:
        """Whether a layer of Keras 2 has the time on the first axis; Keras 3 has none such."""
        if known == "Bidirectional":
            halves = [config[key] for key in _HALVES if isinstance(config.get(key), Mapping)]
            inner = [(half.get("class_name"), half.get("config")) for half in halves if self.custom_class(half) is None]
            told = [isinstance(one, Mapping) and self._is_time_major(_RENAMED.get(name, name), one) for name, one in inner]
            return bool(told) and all(told) and len(told) == len(halves)
        return self.legacy and known in _TIME_MAJOR and config.get("time_major") is True

    # -- what it means --------------------------------------------------------------------------------------------
    def _named(self, config: dict[str, Any]) -> dict[str, Any]:
        """The config with the caller's functions and objects in the place of their names."""
        for key, value in config.items():
            if key in _FUNCTIONS or key.endswith(_OBJECTS):
                name = value
                if isinstance(value, Mapping):
                    inside = value.get("config")
                    name = inside if isinstance(inside, str) else value.get("registered_name") or value.get("class_name")
                short = name.rpartition(">")[2] if isinstance(name, str) else None
                if short in self.custom:
                    config[key] = _instance(self.custom[short], value)
                elif key.endswith(_OBJECTS) and isinstance(value, Mapping) and isinstance(value.get("config"), Mapping):
                    # TensorFlow 1 wrote the dtype of initializers; here as in Keras 3 it is the layer's.
                    config[key] = {**value, "config": {k: v for k, v in value["config"].items() if k != "dtype"}}
        return config

    def _of_its_version(self, config: dict[str, Any], class_name: str) -> dict[str, Any]:
        """The config with what its version meant by it, where that is something else today."""
        if class_name.startswith("CuDNN"):
            config = {**config, "activation": "tanh", "recurrent_activation": "sigmoid"}
            return {**config, "reset_after": True} if class_name == "CuDNNGRU" else config
        name, known = config.get("name"), _RENAMED.get(class_name, class_name)
        if known == "LeakyReLU" and "alpha" in config:
            config.setdefault("negative_slope", config.pop("alpha"))
        for key in _FUNCTIONS:
            # Files of fastlstm have the longer name in any version.
            if config.get(key) == "hard_sigmoid_keras2" or (self.legacy and config.get(key) == "hard_sigmoid"):
                config[key] = "hard_sigmoid_keras2" if self.old("hard_sigmoid", name) else "hard_sigmoid"
        if not self.legacy:
            return config
        unsaid = known in ("LSTM", "GRU", "ConvLSTM2D") and "recurrent_activation" not in config and self.version < (2, 3)
        if unsaid and self.old("recurrent_activation", name):
            config["recurrent_activation"] = "hard_sigmoid_keras2"
        unsaid = known == "GRU" and not class_name.endswith("V2") and "reset_after" not in config
        if unsaid and self.old("reset_after", name):
            config["reset_after"] = False
        return config

    # -- config -> layer ------------------------------------------------------------------------------------------
    def made(self, entry: Mapping[str, Any], where: str) -> Layer:
        """The layer of a cleaned dict. ValueError where the caller's class makes none."""
        custom = self.custom_class(entry)
        if custom is None and is_operation(entry):
            return operation_of(entry)
        if custom is None:
            return LAYERS[entry["class_name"]].from_config(entry["config"])
        layer = custom.from_config(entry["config"]) if hasattr(custom, "from_config") else custom(**entry["config"])
        if not isinstance(layer, Layer):
            raise ValueError(f"{where}: custom_objects makes {layer!r} of it, expected a layer of fastlstm")
        return layer


def _check_stack(config: Mapping[str, Any], where: str) -> None:
    entries = config.get("layers")
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise ValueError(f"{where}: its config must have a list 'layers' of JSON objects")


def _batch_major(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a layer, or of a Bidirectional with its halves, without the word that it is time-major."""
    kept = {key: value for key, value in config.items() if key != "time_major"}
    for key in _HALVES:
        if isinstance(kept.get(key), Mapping):
            kept[key] = {**kept[key], "config": _batch_major(kept[key]["config"])}
    return kept


def _instance(custom: Any, value: Any) -> Any:
    """The caller's function as it is, an object of the caller's class by its config."""
    if not isinstance(custom, type):
        return custom
    inside = value.get("config") if isinstance(value, Mapping) else None
    config = dict(inside) if isinstance(inside, Mapping) else {}
    return custom.from_config(config) if hasattr(custom, "from_config") else custom(**config)


def _droppable(key: str, value: Any, class_name: str) -> bool:
    """Whether a config key is a leftover that the layers here do not know and that changes nothing."""
    # Hints for building at once; every layer here is built by the model, for the shapes that arrive at it.
    if class_name != "InputLayer" and (key == "input_shape" or (key == "input_dim" and class_name != "Embedding")):
        return True
    if class_name == "InputLayer" or key not in _DROPPED:
        return False
    harmless = _DROPPED[key]
    return harmless is _ANY or any(value is known for known in harmless)
