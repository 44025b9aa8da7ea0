"""UserClasses: what a class of the caller's own, derived from a layer, may leave to us as in Keras (terms of ``keras.Layer``).

Base of ``Layer``, which it helps to: a ``call`` without ``mask`` and ``training``, a ``build`` that does not say ``built``, inner
layers kept as attributes, a ``call`` of a recurrent layer put around that of Keras. And it refuses gradients that would be
those of another function. The classes of this package are left as they are.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from .symbolic import is_symbolic

_PACKAGE = __name__.partition(".")[0]
_FLOW = ("initial_state", "mask", "training")  # what a call hands on only where ``call`` takes it


def is_own(cls: type) -> bool:
    """Whether ``cls`` is a class of this package."""
    return cls.__module__.partition(".")[0] == _PACKAGE


def run_as_built(self: Any, *args: Any, **kwargs: Any) -> Any:
    """What the layer does when it is called, without the ``call`` of a derived class: ``super().call(...)`` there."""
    return _own_call(type(self))(self, *args, **kwargs)


def _own_call(cls: type) -> Callable[..., Any]:
    return next(vars(base)["__call__"] for base in cls.__mro__ if is_own(base) and "__call__" in vars(base))


def inner_attributes(layer: Any) -> Iterator[tuple[str, Any]]:
    """(name, value) of the public attributes of a layer that hold a layer, or layers in a list or tuple."""
    for name, value in vars(layer).items():
        listed = value if isinstance(value, (list, tuple)) else [value]
        if not name.startswith("_") and listed and all(isinstance(one, UserClasses) for one in listed):
            yield name, value


class UserClasses:
    """See the module."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if is_own(cls):
            return
        own = vars(cls)
        if ("call" in own or "__call__" in own) and "vjp" not in own and "_vjp" not in own:
            cls.vjp = _refuse_gradients(cls.__name__)  # type: ignore[attr-defined]
        if "call" in own:
            cls.call = _lenient(own["call"])  # type: ignore[attr-defined]
            runs_as_built = any(vars(base).get("call") is run_as_built for base in cls.__mro__)
            if runs_as_built and "__call__" not in own:
                cls.__call__ = _through_call  # type: ignore[method-assign]
        if "build" in own:
            cls.build = _building(own["build"])  # type: ignore[attr-defined]
        cls._layers = property(_inner_layers, _list_layers)  # type: ignore[attr-defined]


def _through_call(self: Any, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False) -> Any:
    """``__call__`` of a recurrent layer whose class has a ``call`` of its own."""
    run = run_as_built if is_symbolic(sequences) else type(self).call
    return run(self, sequences, initial_state=initial_state, mask=mask, training=training)


def _lenient(call: Callable[..., Any]) -> Callable[..., Any]:
    """``call`` that may be given ``_FLOW`` arguments that it does not take; an initial state is never passed over."""
    parameters = inspect.signature(call).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return call
    extra = [name for name in _FLOW if name not in parameters]

    @functools.wraps(call)
    def lenient(self: Any, *args: Any, **kwargs: Any) -> Any:
        for name in extra:
            if name != "initial_state" or kwargs.get(name) is None:
                kwargs.pop(name, None)
        return call(self, *args, **kwargs)

    return lenient if extra else call


def _building(build: Callable[..., Any]) -> Callable[..., Any]:
    """``build`` after which the layer is built: another call must not make its variables anew."""

    @functools.wraps(build)
    def building(self: Any, input_shape: Any) -> None:
        build(self, input_shape)
        self.built = True

    return building


def _refuse_gradients(name: str) -> Callable[..., Any]:
    """The ``vjp`` of a class that computes something else than the class whose ``vjp`` it would inherit."""

    def vjp(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(
            f'The layer "{self.name}" has no gradients: its class {name} overrides what a call computes, but neither `vjp` nor '
            "`_vjp`, and the gradients of the class it derives from would be those of another function"
        )

    return vjp


def _inner_layers(self: Any) -> list[Any]:
    """The layers that the class named itself, then those that lie in attributes, each once."""
    found = [*self.__dict__.get("_listed_layers", [])]
    for _, value in inner_attributes(self):
        found += [one for one in (value if isinstance(value, (list, tuple)) else [value]) if all(one is not f for f in found)]
    return found


def _list_layers(self: Any, layers: list[Any]) -> None:
    self.__dict__["_listed_layers"] = layers
