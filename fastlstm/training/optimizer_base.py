"""What all optimizers share: learning rate, clipping, weight decay, state, config; in terms of Variables and gradients.

Used by ``optimizers``, which adds the formulas.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from .. import settings
from ..serialization import to_snake_case
from ..variable import Variable
from . import schedules


def as_computed(variable: Variable) -> np.ndarray:
    """The values in the dtype to compute in: float32 for 16-bit variables. Read-only for others."""
    return variable.value if variable.dtype.itemsize >= 4 else variable.value.astype(np.float32)


def fraction(value: Any, name: str) -> Any:
    """ValueError unless ``value`` is a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be a number from 0 to 1. Received: {name}={value!r}")
    return value


def _optional_bound(value: Any, name: str) -> Any:
    """ValueError unless ``value`` is None or a number of at least 0 (0 means None, as in Keras)."""
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0):
        return value
    raise ValueError(f"`{name}` must be None or a number of at least 0. Received: {name}={value!r}")


def _rate(value: Any) -> float:
    """ValueError unless ``value`` is a finite real number."""
    if isinstance(value, Variable):
        value = value.value
    number = isinstance(value, (int, float, np.integer, np.floating, np.ndarray)) and not isinstance(value, bool)
    if number and np.ndim(value) == 0 and math.isfinite(value):
        return float(value)
    raise ValueError(
        "Argument `learning_rate` must be a finite float, a LearningRateSchedule, or a callable without arguments "
        f"that returns the rate. Received: learning_rate={value!r}"
    )


class Optimizer:
    """Base class: a subclass implements ``_add_state`` and ``_update``.

    Args:
        learning_rate: a float (a Variable of ``settings.floatx()``, at least float32), a ``LearningRateSchedule`` (called with
            ``iterations``) or a callable without arguments.
        weight_decay: w -= learning_rate * weight_decay * w before each update.
        clipnorm, clipvalue, global_clipnorm: largest norm of each gradient, largest element, largest norm of all gradients
            together. At most one of them; None or 0: none.
        use_ema, ema_momentum, ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps: as in Keras' configs; only
            the values that switch these features off are accepted.

    ValueError for arguments that do not fit. TypeError for unknown ones.
    """

    def __init__(
        self,
        learning_rate: Any,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
    ):
        unsupported = {
            "use_ema": use_ema,
            "loss_scale_factor": loss_scale_factor,
            "gradient_accumulation_steps": gradient_accumulation_steps,
        }
        for argument, value in unsupported.items():
            if value:
                raise ValueError(f"`{argument}` is not supported: leave it out. Received: {argument}={value!r}")
        clips = {"clipnorm": clipnorm, "clipvalue": clipvalue, "global_clipnorm": global_clipnorm}
        if sum(value is not None for value in clips.values()) > 1:
            raise ValueError(f"Only one of `clipnorm`, `clipvalue` and `global_clipnorm` can be set. Received: {clips}")
        self.clipnorm, self.clipvalue, self.global_clipnorm = (_optional_bound(v, k) for k, v in clips.items())
        self.weight_decay = _optional_bound(weight_decay, "weight_decay")
        self.use_ema, self.ema_momentum, self.ema_overwrite_frequency = False, ema_momentum, ema_overwrite_frequency
        self.loss_scale_factor = self.gradient_accumulation_steps = None
        self.name = name or to_snake_case(type(self).__name__)
        self.built = False
        self._iterations = Variable(np.array(0, np.int64), "iteration", f"{self.name}/iteration", trainable=False)
        self._state: list[Variable] = []
        self._trainable: list[Variable] = []
        self._index: dict[int, int] = {}
        self._undecayed: tuple[set[int], re.Pattern | None] = (set(), None)
        self._learning_rate: Variable | Callable = self._as_rate(learning_rate)

    def _as_rate(self, value: Any) -> Variable | Callable:
        if isinstance(value, Variable) or not callable(value):
            dtype = np.float64 if settings.floatx() == "float64" else np.float32
            rate = np.array(_rate(value), dtype)
            return Variable(rate, "learning_rate", f"{self.name}/learning_rate", trainable=False)
        return value

    @property
    def learning_rate(self) -> float:
        """The current rate. Assigning a number writes it; assigning a schedule or a callable takes that from now on.

        TypeError for a number in place of a schedule.
        """
        source = self._learning_rate
        if isinstance(source, Variable):
            return float(source.value)
        return _rate(source(self.iterations) if isinstance(source, schedules.LearningRateSchedule) else source())

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        if isinstance(value, Variable) or not callable(value):
            if isinstance(self._learning_rate, schedules.LearningRateSchedule):
                raise TypeError(
                    f"The learning rate of {self.name} is a schedule and cannot be set to a number. Received: {value!r}"
                )
            if isinstance(self._learning_rate, Variable):
                self._learning_rate.assign(_rate(value))
                return
        self._learning_rate = self._as_rate(value)

    @property
    def iterations(self) -> int:
        """Steps taken so far."""
        return int(self._iterations.value)

    @property
    def variables(self) -> list[Variable]:
        """The state: step count, learning rate (unless it is a schedule or callable), then what the formulas keep."""
        rate = [self._learning_rate] if isinstance(self._learning_rate, Variable) else []
        return [self._iterations, *rate, *self._state]

    def get_weights(self) -> list[np.ndarray]:
        """Copies of ``variables``."""
        return [variable.numpy() for variable in self.variables]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Overwrites ``variables``. ValueError before ``build``, for another number of arrays, or for shapes that differ."""
        if not self.built:
            raise ValueError(f"set_weights() needs a built optimizer: call {self.name}.build(variables) first")
        if len(weights) != len(self.variables):
            raise ValueError(f"{self.name} has {len(self.variables)} variables. Received: {len(weights)} weights")
        for variable, weight in zip(self.variables, weights, strict=True):
            variable.assign(weight)

    def _add_like(self, variables: Iterable[Variable], name: str) -> list[Variable]:
        """A state of zeros for each variable."""
        added = []
        for variable in variables:
            full = f"{variable.path.replace('/', '_')}_{name}"
            zeros = np.zeros(variable.shape, variable.dtype)
            added.append(Variable(zeros, full, f"{self.name}/{full}", trainable=False))
        self._state += added
        return added

    def build(self, variables: Sequence[Variable]) -> None:
        """Adds the state for ``variables``; without effect when built. ValueError if a variable comes twice."""
        if self.built:
            return
        self._trainable = list(variables)
        self._index = {id(variable): i for i, variable in enumerate(self._trainable)}
        if len(self._index) != len(self._trainable):
            paths = [variable.path for variable in self._trainable]
            raise ValueError(f"`variables` holds the same variable twice: {sorted(p for p in paths if paths.count(p) > 1)}")
        self._add_state(self._trainable)
        self.built = True

    def exclude_from_weight_decay(
        self, var_list: Iterable[Variable] | None = None, var_names: Iterable[str] | None = None
    ) -> None:
        """Variables that ``weight_decay`` leaves alone: those in ``var_list`` and those with a name that a regular expression
        in ``var_names`` is found in ("bias"). ValueError once the optimizer is built."""
        if self.built:
            raise ValueError("exclude_from_weight_decay() must be called before the optimizer is built")
        pattern = re.compile("|".join(sorted(set(var_names)))) if var_names else None
        self._undecayed = ({id(variable) for variable in var_list or ()}, pattern)

    def _add_state(self, variables: list[Variable]) -> None:
        raise NotImplementedError(f"Optimizer {type(self).__name__} does not implement _add_state()")

    def _update(self, index: int, gradient: np.ndarray, variable: Variable, rate: np.floating) -> np.ndarray:
        """New values of the variable with that index; ``gradient``, ``rate`` and the result have the dtype to compute in."""
        raise NotImplementedError(f"Optimizer {type(self).__name__} does not implement _update()")

    def apply(self, gradients: Sequence[Any], variables: Sequence[Variable] | None = None) -> None:
        """One step. ``gradients``: arrays like ``variables`` (those of ``build`` for None), or None to leave one alone.

        The first call builds. ValueError if nothing has a gradient, for lists of different length, shapes that differ, or
        variables that the optimizer was not built with. An empty list does nothing.
        """
        gradients = list(gradients)
        if not gradients:
            return
        if variables is None and not self.built:
            raise ValueError("apply() without `variables` needs a built optimizer: call build(variables) first")
        variables = self._trainable if variables is None else list(variables)
        if len(gradients) != len(variables):
            raise ValueError(f"`gradients` has {len(gradients)} entries for {len(variables)} variables")
        self.build(variables)
        pairs = self._checked(gradients, variables)
        rate = self.learning_rate
        with np.errstate(all="ignore"):
            for gradient, variable in zip(self._clipped([g for g, _ in pairs]), [v for _, v in pairs], strict=True):
                self._step(gradient, variable, rate)
        self._iterations.assign(self.iterations + 1)

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Any, Variable]]) -> None:
        """``apply`` for pairs (gradient, variable)."""
        pairs = list(grads_and_vars)
        self.apply([gradient for gradient, _ in pairs], [variable for _, variable in pairs])

    def _checked(self, gradients: list[Any], variables: list[Variable]) -> list[tuple[np.ndarray, Variable]]:
        """The pairs that have a gradient, in the dtype to compute in."""
        pairs = []
        for gradient, variable in zip(gradients, variables, strict=True):
            if id(variable) not in self._index:
                raise ValueError(
                    f"Unknown variable {variable.path}: {self.name} was built with other variables. Take a new optimizer"
                )
            if gradient is None:
                continue
            if np.shape(gradient) != variable.shape:
                raise ValueError(
                    f"The gradient of {variable.path} must have the variable's shape {variable.shape}. "
                    f"Received: shape={np.shape(gradient)}"
                )
            dtype = variable.dtype if variable.dtype.itemsize >= 4 else np.dtype(np.float32)
            pairs.append((np.asarray(gradient).astype(dtype, copy=False), variable))
        if not pairs:
            raise ValueError(f"`gradients` has no gradient for any of {[variable.path for variable in variables]}")
        return pairs

    def _clipped(self, gradients: list[np.ndarray]) -> list[np.ndarray]:
        if self.clipnorm:
            norms = [math.sqrt(np.vdot(g, g)) for g in gradients]
            return [g * g.dtype.type(self.clipnorm / max(n, self.clipnorm)) for g, n in zip(gradients, norms, strict=True)]
        if self.global_clipnorm:
            norm = math.sqrt(sum(float(np.vdot(g, g)) for g in gradients))
            # A norm that is not finite makes all gradients NaN, so that the step does not pass for a sound one.
            scale = self.global_clipnorm / max(norm, self.global_clipnorm) if math.isfinite(norm) else math.nan
            return [g * g.dtype.type(scale) for g in gradients]
        if self.clipvalue:
            return [np.clip(g, g.dtype.type(-self.clipvalue), g.dtype.type(self.clipvalue)) for g in gradients]
        return gradients

    def _decays(self, variable: Variable) -> bool:
        excluded, pattern = self._undecayed
        return id(variable) not in excluded and not (pattern and pattern.search(variable.name))

    def _step(self, gradient: np.ndarray, variable: Variable, rate: float) -> None:
        typed_rate = gradient.dtype.type(rate)
        if self.weight_decay and self._decays(variable):
            values = as_computed(variable)
            variable.assign(values - values * gradient.dtype.type(self.weight_decay) * typed_rate)
        variable.assign(self._update(self._index[id(variable)], gradient, variable, typed_rate))
        if variable.constraint is not None:
            variable.assign(variable.constraint(variable.value))

    def get_config(self) -> dict:
        """Constructor arguments under Keras' keys. ``learning_rate``: the current number, or the schedule's dict."""
        rate = self._learning_rate
        names = ["weight_decay", "clipnorm", "global_clipnorm", "clipvalue", "use_ema", "ema_momentum"]
        names += ["ema_overwrite_frequency", "loss_scale_factor", "gradient_accumulation_steps"]
        return {
            "name": self.name,
            "learning_rate": float(rate.value) if isinstance(rate, Variable) else schedules.serialize(rate),
            **{name: getattr(self, name) for name in names},
        }

    @classmethod
    def from_config(cls, config: dict) -> Any:
        """A new optimizer, without state, from ``get_config``'s dict."""
        rate = config.get("learning_rate")
        if isinstance(rate, dict):
            config = {**config, "learning_rate": schedules.deserialize(rate)}
        return cls(**config)
