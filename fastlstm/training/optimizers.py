"""Optimizers: how gradients become new weights (terms of ``keras.optimizers``; the formulas are those of Keras 3).

Used by training and by callers with their own loop:

>>> import numpy as np, fastlstm
>>> from fastlstm.variable import Variable
>>> weight = Variable(np.array([1.0, 2.0]), "weight")
>>> fastlstm.optimizers.SGD(0.5).apply([np.array([2.0, 0.0])], [weight])
>>> weight.numpy().tolist()
[0.0, 2.0]

A step is: clip the gradients, shrink the weights (``weight_decay``), update, apply each variable's constraint. State has the
dtype of its variable; 16-bit variables are computed in float32. What all optimizers share is in ``optimizer_base``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..identifiers import Family
from ..variable import Variable
from . import schedules  # ``fastlstm.optimizers.schedules``, as in Keras
from .optimizer_base import Optimizer, as_computed, fraction, not_negative

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Optimizer",
    "RMSprop",
    "deserialize",
    "get",
    "schedules",
    "serialize",
]


class SGD(Optimizer):
    """w -= lr * g; with momentum m = momentum * m - lr * g and w += m (``nesterov``: w += momentum * m - lr * g, with the new m).

    Args: ``learning_rate``: float, schedule, or callable without arguments; ``momentum``: 0 to 1; the others as in ``Optimizer``.
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float | None = None,
        **kwargs,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.momentum, self.nesterov = fraction(momentum, "momentum"), nesterov

    def _add_state(self, variables: list[Variable]) -> None:
        self._momentums = self._add_like(variables, "momentum") if self.momentum else []

    def _update(self, index: int, gradient: np.ndarray, variable: Variable, rate: np.floating) -> np.ndarray:
        step = gradient * rate
        if not self.momentum:
            return np.subtract(as_computed(variable, gradient), step, out=step)
        momentum = as_computed(self._momentums[index], gradient) * rate.dtype.type(self.momentum)
        momentum -= step
        self._momentums[index].assign(momentum)
        if self.nesterov:
            momentum *= rate.dtype.type(self.momentum)
            momentum -= step
        return np.add(as_computed(variable, gradient), momentum, out=momentum)

    def get_config(self) -> dict:
        return {**super().get_config(), "momentum": self.momentum, "nesterov": self.nesterov}


class Adam(Optimizer):
    """m += (g - m) (1 - beta_1), v += (g^2 - v) (1 - beta_2), w -= a m / (sqrt(v) + epsilon).

    a = learning_rate * sqrt(1 - beta_2^t) / (1 - beta_1^t) in step t = 1, 2, …; with ``amsgrad`` the largest v so far stands in
    the divisor. Args: ``learning_rate``: float, schedule, or callable without arguments; ``beta_1``, ``beta_2``: 0 to 1.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        weight_decay: float | None = None,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.beta_1, self.beta_2 = fraction(beta_1, "beta_1"), fraction(beta_2, "beta_2")
        self.epsilon, self.amsgrad = not_negative(epsilon, "epsilon"), amsgrad

    def _add_state(self, variables: list[Variable]) -> None:
        pairs = [self._add_like([variable], name)[0] for variable in variables for name in ("momentum", "velocity")]
        self._momentums, self._velocities = pairs[::2], pairs[1::2]
        self._velocity_hats = self._add_like(variables, "velocity_hat") if self.amsgrad else []

    def _update(self, index: int, gradient: np.ndarray, variable: Variable, rate: np.floating) -> np.ndarray:
        real, count = rate.dtype.type, rate.dtype.type(self.iterations + 1)
        size = rate * np.sqrt(1 - real(self.beta_2) ** count) / (1 - real(self.beta_1) ** count)
        m, v = as_computed(self._momentums[index], gradient), as_computed(self._velocities[index], gradient)
        step = gradient - m
        step *= real(1 - self.beta_1)
        step += m
        square = np.square(gradient)
        square -= v
        square *= real(1 - self.beta_2)
        square += v
        self._momentums[index].assign(step)
        self._velocities[index].assign(square)
        if self.amsgrad:
            np.maximum(square, as_computed(self._velocity_hats[index], gradient), out=square)
            self._velocity_hats[index].assign(square)
        np.sqrt(square, out=square)
        square += real(self.epsilon)
        step *= size
        step /= square
        return np.subtract(as_computed(variable, gradient), step, out=step)

    def get_config(self) -> dict:
        own = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon, "amsgrad": self.amsgrad}
        return {**super().get_config(), **own}


class AdamW(Adam):
    """Adam with w -= learning_rate * weight_decay * w before each update. ValueError for ``weight_decay=None``."""

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        **kwargs: Any,
    ):
        if weight_decay is None:
            raise ValueError("Argument `weight_decay` of AdamW must be a number. Received: weight_decay=None")
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, weight_decay, **kwargs)


class RMSprop(Optimizer):
    """v = rho v + (1 - rho) g^2, step = learning_rate * g / sqrt(v + epsilon), w -= step.

    ``centered``: v minus the square of the running mean of g stands under the root; ``momentum`` > 0: m = momentum m + step and
    w -= m. Args: ``learning_rate``: float, schedule, or callable without arguments; ``rho``, ``momentum``: 0 to 1.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        weight_decay: float | None = None,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.rho, self.momentum = fraction(rho, "rho"), fraction(momentum, "momentum")
        self.epsilon, self.centered = not_negative(epsilon, "epsilon"), centered

    def _add_state(self, variables: list[Variable]) -> None:
        self._velocities = self._add_like(variables, "velocity")
        self._momentums = self._add_like(variables, "momentum") if self.momentum else []
        self._average_gradients = self._add_like(variables, "average_gradient") if self.centered else []

    def _running_mean(self, state: Variable, new: np.ndarray) -> np.ndarray:
        """rho * state + (1 - rho) * new, which is also written to ``state``; ``new`` is overwritten."""
        new *= new.dtype.type(1 - self.rho)
        new += new.dtype.type(self.rho) * as_computed(state, new)
        state.assign(new)
        return new

    def _update(self, index: int, gradient: np.ndarray, variable: Variable, rate: np.floating) -> np.ndarray:
        real = rate.dtype.type
        below = self._running_mean(self._velocities[index], np.square(gradient))
        if self.centered:
            below -= np.square(self._running_mean(self._average_gradients[index], gradient.copy()))
        below += real(self.epsilon)
        step = gradient * rate
        step /= np.sqrt(below, out=below)
        if self.momentum:
            step += real(self.momentum) * as_computed(self._momentums[index], gradient)
            self._momentums[index].assign(step)
        return np.subtract(as_computed(variable, gradient), step, out=step)

    def get_config(self) -> dict:
        own = {"rho": self.rho, "momentum": self.momentum, "epsilon": self.epsilon, "centered": self.centered}
        return {**super().get_config(), **own}


class _Optimizers(Family):
    """The optimizers by class name, in whatever case: "adam", "Adam", "rmsprop"."""

    def __init__(self, *classes: type):
        super().__init__("optimizer", "keras.optimizers", classes)
        self.table = {c.__name__: c for c in classes}
        self._by_lower_case = {c.__name__.lower(): c.__name__ for c in classes}

    def deserialize(self, config: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
        if isinstance(config, str):
            config = {"class_name": config, "config": {}}
        if isinstance(config, Mapping) and isinstance(config.get("class_name"), str):
            name = config["class_name"]
            if name not in (custom_objects or {}):
                config = {**config, "class_name": self._by_lower_case.get(name.lower(), name)}
        return super().deserialize(config, custom_objects)

    def get(self, identifier: Any) -> Any:
        """The optimizer of a name, a serialized dict, a class or an instance; None stays None. ValueError for anything else."""
        found = identifier if isinstance(identifier, Optimizer) else super().get(identifier)
        if found is None or isinstance(found, Optimizer):
            return found
        raise ValueError(f"Expected an optimizer or the name of one of {', '.join(self.table)}. Received: {identifier!r}")


_family = _Optimizers(SGD, Adam, AdamW, RMSprop)
get, serialize, deserialize = _family.get, _family.serialize, _family.deserialize
