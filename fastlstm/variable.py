"""Variable: one weight array with a name, and a version that grows with every write.

Packed copies of weights (``backends``) are keyed by the version. So that no write goes unnoticed, the arrays that a Variable
hands out are read-only; the ways to write are ``assign*`` and item assignment. Each write makes a new array and bumps the
version, so that an array handed out before (a recorded forward pass holds some) keeps the values of its time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _core


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
        self._value = _frozen(np.array(value, order="C", copy=True))
        self.name, self.path = name, path or name
        self.trainable, self.regularizer, self.constraint = trainable, regularizer, constraint
        self.writes = _core.Counter()

    shape = property(lambda self: self._value.shape)
    dtype = property(lambda self: self._value.dtype)
    ndim = property(lambda self: self._value.ndim)
    size = property(lambda self: self._value.size)
    version = property(lambda self: self.writes.value, doc="An int that grows with every write.")
    value = property(lambda self: self._value, doc="The values now, as a read-only array; later writes do not reach it.")

    def numpy(self) -> np.ndarray:
        """A copy of the values."""
        return self._value.copy()

    def assign(self, value: Any) -> Variable:
        """Overwrites all values. ValueError if the shape differs."""
        value = np.asarray(value)
        if value.shape != self._value.shape:
            raise ValueError(
                f"The shape of the target variable and the shape of the target value in `variable.assign(value)` must match. "
                f"variable.shape={self._value.shape}, Received: value.shape={value.shape}. Target variable: {self.path}"
            )
        return self._replace(np.array(value, dtype=self._value.dtype, order="C", copy=True))

    def assign_add(self, value: Any) -> Variable:
        """Adds ``value`` in place."""
        return self.assign(self._value + np.asarray(value))

    def assign_sub(self, value: Any) -> Variable:
        """Subtracts ``value`` in place."""
        return self.assign(self._value - np.asarray(value))

    def _replace(self, array: np.ndarray) -> Variable:
        self._value = _frozen(array)
        self.writes.add()
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        changed = self._value.copy()
        changed[key] = value
        self._replace(changed)

    def __getitem__(self, key: Any) -> Any:
        return self._value[key]

    def __len__(self) -> int:
        return len(self._value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if dtype is not None and np.dtype(dtype) != self._value.dtype:
            if copy is False:
                raise ValueError(
                    f"Cannot view variable {self.path} of dtype {self._value.dtype} as {np.dtype(dtype)} without a copy"
                )
            return self._value.astype(dtype)
        return self._value.copy() if copy else self._value

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        _frozen(self._value)  # copies and pickles of arrays are writable

    def __repr__(self) -> str:
        return f"<Variable path={self.path}, shape={self.shape}, dtype={self.dtype}>"


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
