"""Variable: one weight array with a name, and a version that grows with every write.

Packed copies of weights (``backends``) are keyed by the version. So that no write goes unnoticed, the arrays that a Variable
hands out are read-only; the ways to write are ``assign*`` and item assignment. Each write makes a new array and bumps the
version, so that an array handed out before (a recorded forward pass holds some) keeps the values of its time.

The values live on the host, on the device, or on both: each side gets them when somebody asks there, once for each version. A
training on the device writes there, and the host's copy is made when it is read.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from . import _core, devices


def _values(value: Any) -> Any:
    return value.latest if isinstance(value, Variable) else value


def _operator(function: Callable[[Any, Any], Any]) -> Callable[[Variable, Any], Any]:
    return lambda self, other: function(self.latest, _values(other))


def _reflected(function: Callable[[Any, Any], Any]) -> Callable[[Variable, Any], Any]:
    return lambda self, other: function(_values(other), self.latest)


class Variable:
    """A weight. ``np.asarray(v)``, ``v.value``: read-only values; ``v.numpy()``: a copy; ``v[...] = a``, ``v.assign(a)``: write.

    Attributes: ``name`` ("kernel"), ``path`` ("lstm/lstm_cell/kernel"), ``shape``, ``dtype`` (NumPy dtype), ``trainable``,
    ``regularizer`` and ``constraint`` (callables or None), ``writes`` (the Counter behind ``version``).
    """

    def __init__(
        self,
        value: np.ndarray,
        name: str,
        path: str = "",
        trainable: bool = True,
        regularizer: Any = None,
        constraint: Any = None,
    ):
        value = devices.as_array(value)
        self.shape, self.dtype = value.shape, value.dtype
        value = value.astype(value.dtype, order="C", copy=True)
        self._places: dict[str, Any] = {"gpu": value} if devices.is_on_gpu(value) else {"cpu": _frozen(value)}
        self.name, self.path = name, path or name
        self.trainable, self.regularizer, self.constraint = trainable, regularizer, constraint
        self.writes = _core.Counter()

    version = property(lambda self: self.writes.value, doc="An int that grows with every write.")
    ndim = property(lambda self: len(self.shape))
    size = property(lambda self: math.prod(self.shape))

    @property
    def value(self) -> np.ndarray:
        """The values now, as a read-only NumPy array; later writes do not reach it. Moves them where only the device has them."""
        return self.at("cpu")

    def at(self, place: str) -> Any:
        """The values now on the host ("cpu") or on the device ("gpu", a CuPy array, not to be written into)."""
        places = self._places  # read once: another thread may replace it
        if place not in places:
            if place == "cpu":
                places["cpu"] = _frozen(devices.to_cpu(places["gpu"]))
            else:
                places["gpu"] = devices.to_gpu(places["cpu"])
        return places[place]

    @property
    def home(self) -> str:
        """ "gpu" where the values live on the device, else "cpu"."""
        return "gpu" if "gpu" in self._places else "cpu"

    @property
    def latest(self) -> Any:
        """The values at their home, a NumPy or a CuPy array."""
        return self.at(self.home)

    def numpy(self) -> np.ndarray:
        """A copy of the values."""
        return self.value.copy()

    def assign(self, value: Any) -> Variable:
        """Overwrites all values by those of a NumPy or CuPy array; they live where it does. ValueError if the shape differs."""
        value = devices.as_array(value)
        if value.shape != self.shape:
            raise ValueError(
                f"The shape of the target variable and the shape of the target value in `variable.assign(value)` must match. "
                f"variable.shape={self.shape}, Received: value.shape={value.shape}. Target variable: {self.path}"
            )
        return self._replace(value.astype(self.dtype, order="C", copy=True))

    def assign_add(self, value: Any) -> Variable:
        """Adds ``value`` in place."""
        return self.assign(self.at(devices.home(value)) + devices.as_array(value))

    def assign_sub(self, value: Any) -> Variable:
        """Subtracts ``value`` in place."""
        return self.assign(self.at(devices.home(value)) - devices.as_array(value))

    def _replace(self, array: Any) -> Variable:
        self._places = {"gpu": array} if devices.is_on_gpu(array) else {"cpu": _frozen(array)}
        self.writes.add()
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        changed = self.value.copy()
        changed[key] = value
        self._replace(changed)

    def __getitem__(self, key: Any) -> Any:
        return self.value[key]

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if dtype is not None and np.dtype(dtype) != self.dtype:
            if copy is False:
                raise ValueError(f"Cannot view variable {self.path} of dtype {self.dtype} as {np.dtype(dtype)} without a copy")
            return self.value.astype(dtype)
        return self.value.copy() if copy else self.value

    # Arithmetic gives arrays, as of the values now. Comparisons stay those of objects: a variable is a key in tables.
    __add__, __radd__ = _operator(operator.add), _reflected(operator.add)
    __sub__, __rsub__ = _operator(operator.sub), _reflected(operator.sub)
    __mul__, __rmul__ = _operator(operator.mul), _reflected(operator.mul)
    __truediv__, __rtruediv__ = _operator(operator.truediv), _reflected(operator.truediv)
    __pow__, __rpow__ = _operator(operator.pow), _reflected(operator.pow)
    __matmul__, __rmatmul__ = _operator(operator.matmul), _reflected(operator.matmul)

    def __neg__(self) -> Any:
        return -self.latest

    def __abs__(self) -> Any:
        return abs(self.latest)

    def __float__(self) -> float:
        return float(self.latest)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_places": {"cpu": self.value}}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        _frozen(self._places["cpu"])  # copies and pickles of arrays are writable

    def __repr__(self) -> str:
        return f"<Variable path={self.path}, shape={self.shape}, dtype={self.dtype}>"


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
