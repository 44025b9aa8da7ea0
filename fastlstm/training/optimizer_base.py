"""What all optimizers share: learning rate, clipping, weight decay, state, config; in terms of Variables and gradients.

Used by ``optimizers``, which adds the formulas.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from .. import devices, settings
from ..serialization import to_snake_case
from ..variable import Variable
from . import schedules


def as_computed(variable: Variable, beside: np.ndarray) -> np.ndarray:
    """The values in the dtype to compute in, float32 for 16-bit variables, where ``beside`` lives."""
    values = variable.at(devices.home(beside))
    return values if variable.dtype.itemsize >= 4 else values.astype(np.float32)


def fraction(value: Any, name: str) -> Any:
    """``value`` as a Python number. ValueError unless it lies from 0 to 1."""
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be a number from 0 to 1. Received: {name}={value!r}")
    return _plain(value)


def not_negative(value: Any, name: str) -> Any:
    """``value`` as a Python number. ValueError unless it is at least 0."""
    if not _is_number(value) or not value >= 0:
        raise ValueError(f"`{name}` must be a number of at least 0. Received: {name}={value!r}")
    return _plain(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """A NumPy scalar as the Python number that a config can hold."""
    return value.item() if isinstance(value, np.generic) else value


def _optional_bound(value: Any, name: str) -> Any:
    """As ``not_negative``, or None (which 0 means, too, as in Keras)."""
    return None if value is None else not_negative(value, name)


def _optional_count(value: Any, name: str, least: int) -> int | None:
    """None for None and 0. ValueError unless ``value`` is then a whole number of at least ``least``."""
    if not value:
        return None
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` must be None or a whole number of at least {least}. Received: {name}={value!r}")
    return int(value)


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
        use_ema: keeps averages of the weights, average = ema_momentum * average + (1 - ema_momentum) * w after each step; they
            become the weights at every ``ema_overwrite_frequency``-th step (None: never) and at the end of ``fit``.
        gradient_accumulation_steps: updates at every n-th step only, by the mean of the gradients until then; None: always.
        loss_scale_factor: must be None; gradients of 16-bit variables come in float32.

    ValueError for arguments that do not fit and for unknown ones.
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
        **unknown: Any,
    ):
        if unknown:
            raise ValueError(f"Unrecognized arguments of {type(self).__name__}: {unknown}")
        if loss_scale_factor:
            raise ValueError(f"`loss_scale_factor` is not supported: leave it out. Received: {loss_scale_factor!r}")
        clips = {"clipnorm": clipnorm, "clipvalue": clipvalue, "global_clipnorm": global_clipnorm}
        if sum(value is not None for value in clips.values()) > 1:
            raise ValueError(f"Only one of `clipnorm`, `clipvalue` and `global_clipnorm` can be set. Received: {clips}")
        self.clipnorm, self.clipvalue, self.global_clipnorm = (_optional_bound(v, k) for k, v in clips.items())
        self.weight_decay = _optional_bound(weight_decay, "weight_decay")
        self.use_ema, self.ema_momentum = bool(use_ema), fraction(ema_momentum, "ema_momentum")
        self.ema_overwrite_frequency = _optional_count(ema_overwrite_frequency, "ema_overwrite_frequency", 1)
        self.gradient_accumulation_steps = _optional_count(gradient_accumulation_steps, "gradient_accumulation_steps", 2)
        self.loss_scale_factor = None
        self.name = name or to_snake_case(type(self).__name__)
        self.built = False
        self._iterations = Variable(np.array(0, np.int64), "iteration", f"{self.name}/iteration", trainable=False)
        self._state: list[Variable] = []
        self._trainable: list[Variable] = []
        # Keyed by the variables themselves, which compare by identity: a number made of it would not survive a copy or a pickle.
        self._index: dict[Variable, int] = {}
        self._undecayed: tuple[set[Variable], re.Pattern | None] = (set(), None)
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
        steps = int(self._iterations.value)
        return _rate(source(steps) if isinstance(source, schedules.LearningRateSchedule) else source())

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
        """Updates so far: steps, or with ``gradient_accumulation_steps`` every n-th of them."""
        return int(self._iterations.value) // (self.gradient_accumulation_steps or 1)

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
            zeros = devices.module_at(variable.home).zeros(variable.shape, variable.dtype)
            added.append(Variable(zeros, full, f"{self.name}/{full}", trainable=False))
        self._state += added
        return added

    def build(self, variables: Sequence[Variable]) -> None:
        """Adds the state for ``variables``; without effect when built. ValueError if a variable comes twice."""
        if self.built:
            return
        self._trainable = list(variables)
        self._index = {variable: i for i, variable in enumerate(self._trainable)}
        if len(self._index) != len(self._trainable):
            paths = [variable.path for variable in self._trainable]
            raise ValueError(f"`variables` holds the same variable twice: {sorted(p for p in paths if paths.count(p) > 1)}")
        self._averages = self._add_like(self._trainable, "average") if self.use_ema else []
        self._sums = self._add_like(self._trainable, "gradient_accumulator") if self.gradient_accumulation_steps else []
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
        self._undecayed = (set(var_list or ()), pattern)

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
            due = self._accumulated(pairs) if self.gradient_accumulation_steps else [g for g, _ in pairs]
            for gradient, (_, variable) in zip(self._clipped(due), pairs, strict=False):
                self._step(gradient, variable, rate)
            if self.use_ema:
                self._average()
            for _, variable in pairs:
                if variable.constraint is not None:
                    variable.assign(variable.constraint(variable.latest))
        self._iterations.assign(self._iterations.value + 1)

    def apply_gradients(self, grads_and_vars: Iterable[tuple[Any, Variable]]) -> None:
        """``apply`` for pairs (gradient, variable)."""
        pairs = list(grads_and_vars)
        self.apply([gradient for gradient, _ in pairs], [variable for _, variable in pairs])

    def _checked(self, gradients: list[Any], variables: list[Variable]) -> list[tuple[np.ndarray, Variable]]:
        """The pairs that have a gradient, in the dtype to compute in."""
        pairs = []
        for gradient, variable in zip(gradients, variables, strict=True):
            if variable not in self._index:
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
            pairs.append((devices.as_array(gradient, dtype), variable))
        if not pairs:
            raise ValueError(f"`gradients` has no gradient for any of {[variable.path for variable in variables]}")
        return pairs

    def _accumulated(self, pairs: list[tuple[np.ndarray, Variable]]) -> list[np.ndarray]:
        """The mean gradients where an update is due, else none; the sums take note."""
        steps = self.gradient_accumulation_steps or 1
        due = (int(self._iterations.value) + 1) % steps == 0
        means = []
        for gradient, variable in pairs:
            held = self._sums[self._index[variable]]
            total = gradient + as_computed(held, gradient)
            means.append(total / gradient.dtype.type(steps))
            held.assign(total)
        if due:
            for held in self._sums:
                held.assign(np.zeros_like(held.latest))
        return means if due else []

    def _average(self) -> None:
        """One more step in the averages, and where their time has come into the variables. The first step begins with w."""
        for variable, average in zip(self._trainable, self._averages, strict=True):
            values = as_computed(variable, variable.latest)
            momentum = values.dtype.type(self.ema_momentum if self.iterations else 0)
            average.assign(momentum * as_computed(average, values) + (1 - momentum) * values)
        if self.ema_overwrite_frequency and (self.iterations + 1) % self.ema_overwrite_frequency == 0:
            self.finalize_variable_values(self._trainable)

    def finalize_variable_values(self, variables: Iterable[Variable]) -> None:
        """What is left to do after the last step: with ``use_ema`` the averages become the values of ``variables``."""
        if not (self.use_ema and self.built):
            return
        for variable in variables:
            if variable in self._index:
                variable.assign(self._averages[self._index[variable]].latest)

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
        return variable not in excluded and not (pattern and pattern.search(variable.name))

    def _step(self, gradient: np.ndarray, variable: Variable, rate: float) -> None:
        typed_rate = gradient.dtype.type(rate)
        if self.weight_decay and self._decays(variable):
            values = as_computed(variable, gradient)
            variable.assign(values - values * gradient.dtype.type(self.weight_decay) * typed_rate)
        variable.assign(self._update(self._index[variable], gradient, variable, typed_rate))

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
