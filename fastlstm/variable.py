"""Variable: one weight array with a name, and a version that grows with every write.

Packed copies of weights (``backends``) are keyed by the version. So that no write goes unnoticed, every array that a
Variable hands out is read-only; the ways to write are ``assign*`` and item assignment, and each of them bumps the version.
"""

from __future__ import annotations

from typing import Any

import numpy as np


class Variable:
    """A weight. ``np.asarray(v)``, ``v.value``: read-only view; ``v.numpy()``: a copy; ``v[...] = a``, ``v.assign(a)``: write.

    Attributes: ``name`` ("kernel"), ``path`` ("lstm/lstm_cell/kernel"), ``shape``, ``dtype`` (NumPy dtype), ``trainable``,
    ``regularizer`` and ``constraint`` (callables or None), ``version`` (int, grows with every write).
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
        self._data = np.array(value, order="C", copy=True)
        self._view = self._data.view()
        self._view.flags.writeable = False
        self.name, self.path = name, path or name
        self.trainable, self.regularizer, self.constraint = trainable, regularizer, constraint
        self.version = 0

    shape = property(lambda self: self._data.shape)
    dtype = property(lambda self: self._data.dtype)
    ndim = property(lambda self: self._data.ndim)
    size = property(lambda self: self._data.size)
    value = property(lambda self: self._view, doc="Read-only view of the current values.")

    def numpy(self) -> np.ndarray:
        """A copy of the values."""
        return self._data.copy()

    def assign(self, value: Any) -> Variable:
        """Overwrites all values. ValueError if the shape differs."""
        value = np.asarray(value)
        if value.shape != self._data.shape:
            raise ValueError(
                f"The shape of the target variable and the shape of the target value in `variable.assign(value)` must match. "
                f"variable.shape={self._data.shape}, Received: value.shape={value.shape}. Target variable: {self.path}"
            )
        self._data[...] = value
        self.version += 1
        return self

    def assign_add(self, value: Any) -> Variable:
        """Adds ``value`` in place."""
        return self.assign(self._data + np.asarray(value))

    def assign_sub(self, value: Any) -> Variable:
        """Subtracts ``value`` in place."""
        return self.assign(self._data - np.asarray(value))

    def __setitem__(self, key: Any, value: Any) -> None:
        self._data[key] = value
        self.version += 1

    def __getitem__(self, key: Any) -> Any:
        return self._view[key]

    def __len__(self) -> int:
        return len(self._data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if dtype is not None and np.dtype(dtype) != self._data.dtype:
            if copy is False:
                raise ValueError(
                    f"Cannot view variable {self.path} of dtype {self._data.dtype} as {np.dtype(dtype)} without a copy"
                )
            return self._data.astype(dtype)
        return self._data.copy() if copy else self._view

    def __getstate__(self) -> dict:
        state = self.__dict__.copy()
        del state["_view"]
        return state

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._view = self._data.view()
        self._view.flags.writeable = False

    def __repr__(self) -> str:
        return f"<Variable path={self.path}, shape={self.shape}, dtype={self.dtype}>"
