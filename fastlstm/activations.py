"""Activations by their Keras names, and their backward passes (terms of ``keras.activations``, keras-spec 10).

Used by the layers (``get``, ``serialize``) and by every backward pass: ``vjp(fn)(x, y, dy) -> dx``. The formulas, their
dtype rules and their derivatives at the kinks stand in ``activation_formulas``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .activation_formulas import (
    TABLE,
    Row,
    celu,
    elu,
    exponential,
    gelu,
    glu,
    hard_shrink,
    hard_sigmoid,
    hard_sigmoid_keras2,
    hard_silu,
    hard_tanh,
    leaky_relu,
    linear,
    log_sigmoid,
    log_softmax,
    mish,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    soft_shrink,
    softmax,
    softplus,
    softsign,
    sparse_plus,
    sparse_sigmoid,
    sparsemax,
    squareplus,
    tanh,
    tanh_shrink,
    threshold,
)
from .devices import as_array
from .numerics import as_real
from .serialization import function_name_dict, serialize_object

swish, hard_swish = silu, hard_silu
_ALIASES = {"swish": "silu", "hard_swish": "hard_silu"}

__all__ = [
    "celu",
    "derivative",
    "deserialize",
    "elu",
    "exponential",
    "gelu",
    "get",
    "glu",
    "hard_shrink",
    "hard_sigmoid",
    "hard_sigmoid_keras2",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "is_elementwise",
    "leaky_relu",
    "linear",
    "log_sigmoid",
    "log_softmax",
    "mish",
    "name_of",
    "names",
    "relu",
    "relu6",
    "selu",
    "serialize",
    "sigmoid",
    "silu",
    "soft_shrink",
    "softmax",
    "softplus",
    "softsign",
    "sparse_plus",
    "sparse_sigmoid",
    "sparsemax",
    "squareplus",
    "swish",
    "tanh",
    "tanh_shrink",
    "threshold",
    "vjp",
]

_BY_FUNCTION = {id(row.function): row for row in TABLE.values()}


def names() -> list[str]:
    """Every name that Keras 3 knows, aliases included, in alphabetical order. ``get`` also takes "hard_sigmoid_keras2"."""
    return sorted([*(name for name in TABLE if not name.endswith("_keras2")), *_ALIASES])


def get(identifier: Any) -> Callable[..., Any]:
    """The function of None (``linear``), a name (case-sensitive), a serialized dict, or a callable, which is returned as it is.

    ValueError for anything else.
    """
    if identifier is None:
        return linear
    if isinstance(identifier, (str, Mapping)):
        return deserialize(identifier)
    if callable(identifier):
        return identifier
    raise ValueError(f"Could not interpret activation function identifier: {identifier!r}")


def deserialize(config: Any, custom_objects: Mapping[str, Callable] | None = None) -> Callable[..., Any]:
    """The function of a name or of the dict that Keras writes for a function that is not its own.

    ``custom_objects``: the caller's functions by name. ValueError for a name that is neither there nor built in, and for
    lambdas: no code is ever taken from a config.
    """
    function_dict = isinstance(config, Mapping) and config.get("class_name") == "function"
    name = config.get("config" if function_dict else "class_name") if isinstance(config, Mapping) else config
    if custom_objects and isinstance(name, str):
        for key in (name, name.rpartition(">")[2]):  # "package>name" is how Keras registers functions
            if key in custom_objects:
                return _from_custom(custom_objects[key], config)
    row = None
    if isinstance(name, str) and (function_dict or isinstance(config, str)):
        row = TABLE.get(_ALIASES.get(name, name))
    if row is None:
        raise ValueError(f"Unknown activation function: {name!r} (from {config!r}). Known: {', '.join(names())}")
    return row.function


def _from_custom(found: Any, config: Any) -> Callable[..., Any]:
    """A caller's function as it is, a caller's class built from the inner config."""
    if not isinstance(found, type):
        return found
    inner = dict(config.get("config") or {}) if isinstance(config, Mapping) else {}
    return found.from_config(inner) if hasattr(found, "from_config") else found(**inner)


def serialize(activation: Any) -> Any:
    """The name of a built-in function ("silu" for swish, "linear" for None), else the dict that Keras writes.

    A function becomes a dict with its name, never its code, so ``deserialize`` needs it in ``custom_objects``; an object is
    written by its ``get_config``. TypeError for an object without one.
    """
    name = name_of(activation)
    if name is not None:
        return name
    named = function_name_dict(activation)
    if named is not None:
        return named
    if hasattr(activation, "get_config"):
        return serialize_object(activation, type(activation).__module__)
    raise TypeError(f"Cannot serialize the activation {activation!r}: it is neither a function nor has it a get_config() method")


def _row(fn: Any) -> Row | None:
    return _BY_FUNCTION.get(id(get(fn)))


def name_of(fn: Any) -> str | None:
    """Canonical name of a built-in activation given as function, name or None; None for a custom callable."""
    row = _row(fn)
    return row.name if row else None


def is_elementwise(fn: Any) -> bool:
    """Whether ``fn`` is a built-in activation that treats each number for itself (False for custom callables)."""
    row = _row(fn)
    return row is not None and row.elementwise


def derivative(fn: Any) -> Callable[..., np.ndarray]:
    """f' of an elementwise activation as ``(x, y, **options) -> df/dx``, x the pre-activation, y = f(x), same shape and dtype.

    ``options`` are the keyword arguments that f was called with. NotImplementedError for a custom callable, ValueError
    for functions along an axis: those have a ``vjp`` only.
    """
    row = _known_row(fn)
    if not row.elementwise:
        raise ValueError(f"The activation {row.name!r} works along an axis and has no elementwise derivative: use vjp")
    return _in_dtype(row.gradient)


def vjp(fn: Any) -> Callable[..., np.ndarray]:
    """Backward of any built-in activation as ``(x, y, dy, **options) -> dx``; x, y = f(x) and dy = dL/dy, dx like x.

    ``options`` are the keyword arguments that f was called with. A layer without weights, such as ``LeakyReLU(0.1)``, has a
    backward too: its own. NotImplementedError for any other callable.
    """
    if hasattr(fn, "vjp") and not fn.weights:
        return _in_dtype(lambda x, y, dy, **options: fn.vjp(x, training=False)[1](dy).inputs)
    row = _known_row(fn)
    if not row.elementwise:
        return _in_dtype(row.gradient)
    return _in_dtype(lambda x, y, dy, **options: dy * row.gradient(x, y, **options))


def _known_row(fn: Any) -> Row:
    row = _row(fn)
    if row is None:
        raise NotImplementedError(
            f"No derivative is known for the activation {getattr(fn, '__name__', repr(fn))}: "
            "only the built-in activations and layers without weights have a backward"
        )
    return row


def _in_dtype(gradient: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """``gradient`` with the dtype rules of this module: computed in the arithmetic dtype, returned in that of x."""

    def wrapped(x: Any, *arrays: Any, **options: Any) -> np.ndarray:
        real, dtype = as_real(x)
        with np.errstate(all="ignore"):
            return as_array(gradient(real, *(as_array(a).astype(real.dtype, copy=False) for a in arrays), **options), dtype)

    return wrapped
