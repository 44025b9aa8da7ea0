"""The arrays of the stand-in for CuPy: they refuse what CuPy's refuse, and count what crosses between host and device.

Strict where CuPy is: no implicit conversion to NumPy, no NumPy array (of any rank) beside a device array, only functions of
``FUNCTIONS``, 0-d arrays from reductions. ``transfers.uploads`` and ``.downloads`` count arrays, ``.scalars`` numbers read by
float(), int(), bool() or item(). New memory holds NaN (integers: 0x55…), and every allocation is fenced. Used by ``fake_cupy``.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np

# The functions of CuPy that fastlstm may use. Others raise AttributeError, as a missing one would.
FUNCTIONS = frozenset(
    """
    abs absolute add all amax any arange argmax argsort around array array_split asarray ascontiguousarray asnumpy
    atleast_1d bitwise_and bitwise_or broadcast_to clip concatenate copysign count_nonzero cumsum diag divide dot empty
    empty_like equal exp expand_dims expm1 flip floor floor_divide from_dlpack full full_like greater greater_equal
    invert isclose isfinite isinf isnan less less_equal log log1p logaddexp logical_and logical_not logical_or matmul
    max maximum may_share_memory mean min minimum moveaxis multiply ndim negative not_equal ones ones_like pad power
    prod put_along_axis ravel remainder repeat reshape rint round shape sign sort split sqrt square squeeze stack
    subtract sum swapaxes take take_along_axis tanh tensordot tile transpose tril true_divide trunc var vdot vstack
    where zeros zeros_like
    """.split()
)
_FENCE = 2048
_PATTERN = 0xA5
_INTACT = bytes([_PATTERN] * _FENCE)
_fences: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()
_numbers = itertools.count()


class Transfers:
    """How often arrays and single numbers crossed between host and device, and the arrays' bytes."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.uploads = self.downloads = self.scalars = self.bytes = 0

    def counts(self) -> tuple[int, int, int]:
        return self.uploads, self.downloads, self.scalars


transfers = Transfers()


def _allocate(shape: Any, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """(array, the memory around it with a fence on either side); the array holds NaN."""
    dtype = np.dtype(dtype)
    shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(int(n) for n in shape)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.full(size + 2 * _FENCE, _PATTERN, np.uint8)
    inside = memory[_FENCE : _FENCE + size]
    _fences[next(_numbers)] = memory
    inside[...] = 0xFF if dtype.kind == "f" else 0x55
    return inside.view(dtype).reshape(shape), memory


class _Memory:
    def __init__(self, ptr: int) -> None:
        self.ptr = ptr


class _Flags:
    """CuPy's flags: these three and no others."""

    def __init__(self, flags: Any) -> None:
        self.c_contiguous, self.f_contiguous, self.owndata = flags.c_contiguous, flags.f_contiguous, flags.owndata


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    """A device array."""

    __module__ = "cupy"

    def __init__(self, held: np.ndarray, fence: np.ndarray | None = None) -> None:
        self._held, self._fence = held, fence

    shape = property(lambda self: self._held.shape)
    dtype = property(lambda self: self._held.dtype)
    ndim = property(lambda self: self._held.ndim)
    size = property(lambda self: self._held.size)
    itemsize = property(lambda self: self._held.itemsize)
    nbytes = property(lambda self: self._held.nbytes)
    strides = property(lambda self: self._held.strides)
    flags = property(lambda self: _Flags(self._held.flags))
    data = property(lambda self: _Memory(self._held.ctypes.data))
    T = property(lambda self: self._view(self._held.T))

    def _view(self, held: np.ndarray) -> ndarray:
        return ndarray(held, self._fence) if isinstance(held, np.ndarray) and held.base is not None else _new(held)

    # -- what CuPy refuses ---------------------------------------------------------------------------------------
    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__" or ufunc.__name__ not in FUNCTIONS:
            raise TypeError(f"CuPy has no {ufunc.__name__}.{method}")
        out = kwargs.pop("out", None)
        result = ufunc(*map(_inside, inputs), **{k: _inside(v) for k, v in kwargs.items()})
        if out is None:
            return _new(result)
        out[0]._held[...] = result
        return out[0]

    def __array_function__(self, function: Any, kinds: Any, args: Any, kwargs: Any) -> Any:
        return call(function.__name__, args, kwargs)

    # -- reading single numbers ----------------------------------------------------------------------------------
    def item(self, *args: Any) -> Any:
        transfers.scalars += 1
        return self._held.item(*args)

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def get(self) -> np.ndarray:
        transfers.downloads += 1
        transfers.bytes += self.nbytes
        return self._held.copy()

    # -- views and copies ----------------------------------------------------------------------------------------
    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[k] for k in range(len(self)))

    def __getitem__(self, key: Any) -> ndarray:
        return self._view(self._held[_inside(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self._held[_inside(key)] = _inside(value)

    def astype(self, dtype: Any, order: str = "K", copy: bool = True) -> ndarray:
        if not copy and np.dtype(dtype) == self.dtype:
            return self
        with np.errstate(all="ignore"):
            return _new(self._held.astype(dtype, order=order))

    def copy(self, order: str = "C") -> ndarray:
        return _new(self._held.copy(order=order))

    def fill(self, value: Any) -> None:
        self._held.fill(_inside(value))

    def view(self, dtype: Any) -> ndarray:
        return self._view(self._held.view(dtype))

    def reshape(self, *shape: Any) -> ndarray:
        return self._view(self._held.reshape(*shape))

    def __repr__(self) -> str:
        return f"fake_cupy.ndarray({self._held!r})"


def _method(name: str) -> Any:
    def method(self: ndarray, *args: Any, **kwargs: Any) -> Any:
        result = getattr(self._held, name)(*map(_inside, args), **{k: _inside(v) for k, v in kwargs.items()})
        return self._view(result) if isinstance(result, np.ndarray) else _new(result)

    return method


for _name in "sum mean max min any all swapaxes transpose ravel squeeze argmax cumsum repeat take prod var".split():
    setattr(ndarray, _name, _method(_name))


def _new(value: Any) -> Any:
    """A result as a device array of its own memory; lists and tuples of results likewise."""
    if isinstance(value, (list, tuple)):
        return type(value)(_new(one) for one in value)
    if not isinstance(value, (np.ndarray, np.generic)):
        return value
    held, fence = _allocate(value.shape, value.dtype)
    held[...] = value
    return ndarray(held, fence)


def _inside(value: Any) -> Any:
    """The NumPy array in a device array, through tuples and lists. TypeError for a NumPy array, as CuPy has it."""
    if isinstance(value, ndarray):
        return value._held
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}: a NumPy array beside a CuPy array")
    if isinstance(value, (tuple, list)):
        return type(value)(_inside(one) for one in value)
    return value


def call(name: str, args: Any, kwargs: Any) -> Any:
    """CuPy's function of that name."""
    if name not in FUNCTIONS:
        raise AttributeError(f"module 'cupy' has no attribute {name!r} (that the stand-in knows of)")
    out = kwargs.pop("out", None)
    with np.errstate(all="ignore"):
        result = getattr(np, name)(*map(_inside, args), **{k: _inside(v) for k, v in kwargs.items()})
    if out is not None:
        out._held[...] = result
        return out
    if isinstance(result, np.ndarray) and any(isinstance(a, ndarray) and np.may_share_memory(result, a._held) for a in args):
        owner = next(a for a in args if isinstance(a, ndarray) and np.may_share_memory(result, a._held))
        return owner._view(result)
    return _new(result)


# -- the functions of the module -----------------------------------------------------------------------------------------
def asarray(value: Any, dtype: Any = None) -> ndarray:
    if isinstance(value, ndarray):
        return value if dtype is None else value.astype(dtype, copy=False)
    array = np.asarray(value, dtype=dtype)
    transfers.uploads += 1
    transfers.bytes += array.nbytes
    return _new(np.ascontiguousarray(array).reshape(array.shape))


def array(value: Any, dtype: Any = None, copy: bool = True) -> ndarray:
    made = asarray(value, dtype)
    return made.copy() if copy and made is value else made


def asnumpy(value: Any) -> np.ndarray:
    return value.get() if isinstance(value, ndarray) else np.asarray(value)


def ascontiguousarray(value: ndarray, dtype: Any = None) -> ndarray:
    if not isinstance(value, ndarray):
        return asarray(value, dtype)
    value = value if dtype is None else value.astype(dtype, copy=False)
    return value if value.flags.c_contiguous else value.copy()


def empty(shape: Any, dtype: Any = float) -> ndarray:
    return ndarray(*_allocate(shape, dtype))


def filled(value: Any) -> Any:
    """``zeros``, ``ones``: a function that makes arrays full of a value."""

    def function(shape: Any, dtype: Any = float) -> ndarray:
        made = empty(shape, dtype)
        made.fill(value)
        return made

    return function


def full(shape: Any, fill_value: Any, dtype: Any = None) -> ndarray:
    return filled(fill_value)(shape, np.asarray(fill_value).dtype if dtype is None else dtype)


def arange(*args: Any, dtype: Any = None) -> ndarray:
    return _new(np.arange(*args, dtype=dtype))


def empty_like(value: ndarray, dtype: Any = None, shape: Any = None) -> ndarray:
    return empty(value.shape if shape is None else shape, value.dtype if dtype is None else dtype)


class _OnTheHost:
    """A capsule of host memory, which this stand-in takes for the device's."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __dlpack__(self, **options: Any) -> Any:
        return self._value.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


def from_dlpack(value: Any) -> ndarray:
    """No transfer: the memory is the device's already."""
    return value.on_device() if hasattr(value, "on_device") else _new(np.from_dlpack(_OnTheHost(value)))


def check_fences() -> None:
    """RuntimeError where a kernel wrote beyond the ends of any array that is alive."""
    for fence in list(_fences.values()):
        if fence[:_FENCE].tobytes() != _INTACT or fence[-_FENCE:].tobytes() != _INTACT:
            raise RuntimeError("a kernel wrote outside an array")


class Add:
    """``cupy.add`` and ``cupy.add.at``."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return call("add", args, kwargs)

    @staticmethod
    def at(a: ndarray, indices: Any, values: Any) -> None:
        np.add.at(a._held, _inside(indices), _inside(values))
