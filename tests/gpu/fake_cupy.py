"""A stand-in for CuPy on a machine without a GPU: arrays that refuse what CuPy's refuse, and kernels run by the shim.

``installed()`` puts it in the place of the module "cupy". It is strict where CuPy is: no implicit conversion to NumPy, no NumPy
array (of any rank) beside a device array, only functions of ``FUNCTIONS``, 0-d arrays from reductions. It counts what crosses
between host and device: ``transfers.uploads``, ``.downloads`` (arrays) and ``.scalars`` (numbers read by float(), int(), bool(),
item()). New memory holds NaN (integers: 0x55…), every allocation is fenced, and each launch checks the fences of all
arrays that are alive.
"""

from __future__ import annotations

import collections
import contextlib
import importlib.machinery
import itertools
import sys
import time
import types
import weakref
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import shim

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
launches: collections.Counter[str] = collections.Counter()  # of each kernel


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
        return _call(function.__name__, args, kwargs)

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


def _call(name: str, args: Any, kwargs: Any) -> Any:
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


def _filled(value: Any) -> Any:
    def function(shape: Any, dtype: Any = float) -> ndarray:
        made = empty(shape, dtype)
        made.fill(value)
        return made

    return function


def full(shape: Any, fill_value: Any, dtype: Any = None) -> ndarray:
    return _filled(fill_value)(shape, np.asarray(fill_value).dtype if dtype is None else dtype)


def arange(*args: Any, dtype: Any = None) -> ndarray:
    return _new(np.arange(*args, dtype=dtype))


def empty_like(value: ndarray, dtype: Any = None, shape: Any = None) -> ndarray:
    return empty(value.shape if shape is None else shape, value.dtype if dtype is None else dtype)


def from_dlpack(value: Any) -> ndarray:
    return value.on_device() if hasattr(value, "on_device") else asarray(value)


# -- kernels -------------------------------------------------------------------------------------------------------------
class RawModule:
    """The shim's library behind CuPy's door. ``edit`` changes the source of modules to come (for mutations)."""

    edit: Any = staticmethod(lambda source: source)

    def __init__(self, code: str, options: tuple[str, ...] = (), **kwargs: Any) -> None:
        assert all(isinstance(option, str) for option in options), options
        self.library = shim.library(type(self).edit(code))

    def get_function(self, name: str) -> RawKernel:
        return RawKernel(self.library, name)


class RawKernel:
    """A kernel; ``kernel(...)`` is the driver's function, which takes the flag of cooperative launches."""

    reversed = False

    def __init__(self, library: shim.Library, name: str) -> None:
        self._library, self._name = library, name
        self.max_dynamic_shared_size_bytes = 48 * 1024

    def kernel(
        self,
        grid: tuple,
        block: tuple,
        args: tuple,
        shared_mem: int = 0,
        stream: Any = None,
        enable_cooperative_groups: bool = False,
    ) -> None:
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise RuntimeError(f"CUDA_ERROR_INVALID_VALUE: {shared_mem} bytes of shared memory were not asked for")
        if shared_mem > Device().attributes["MaxSharedMemoryPerBlockOptin"] or np.prod(block) > 1024:
            raise RuntimeError("CUDA_ERROR_INVALID_VALUE: the device has not that much")
        if enable_cooperative_groups and np.prod(grid) > Device().attributes["MultiProcessorCount"] * 2:
            raise RuntimeError("CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE")
        values = [np.uint64(a.data.ptr) if isinstance(a, ndarray) else _argument(a) for a in args]

        def launch() -> None:
            self._library.reversed = RawKernel.reversed
            self._library.launch(self._name, grid, block, values, shared_mem, enable_cooperative_groups)
            launches.update([self._name])
            check_fences()

        if Stream.capturing is not None:
            Stream.capturing.append(launch)
        else:
            launch()

    def __call__(self, grid: tuple, block: tuple, args: tuple, shared_mem: int = 0) -> None:
        self.kernel(grid, block, args, shared_mem=shared_mem)


def _argument(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value
    if isinstance(value, int):
        return np.int64(value)
    if isinstance(value, float):
        return np.float64(value)
    raise TypeError(f"Unsupported type {type(value)}")


def check_fences() -> None:
    """RuntimeError where a kernel wrote beyond the ends of any array that is alive."""
    for fence in list(_fences.values()):
        if fence[:_FENCE].tobytes() != _INTACT or fence[-_FENCE:].tobytes() != _INTACT:
            raise RuntimeError("a kernel wrote outside an array")


class Graph:
    def __init__(self, launches: list) -> None:
        self._launches = launches

    def launch(self, stream: Any = None) -> None:
        for one in self._launches:
            one()


class Stream:
    """Everything runs at once, save what is captured."""

    capturing: list | None = None
    ptr = 0

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False) -> None:
        self.non_blocking = non_blocking

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc: Any) -> None:
        pass

    def begin_capture(self, mode: Any = None) -> None:
        assert self.non_blocking, "the legacy default stream cannot be captured"
        Stream.capturing = []

    def end_capture(self) -> Graph:
        assert Stream.capturing is not None
        graph, Stream.capturing = Graph(Stream.capturing), None
        return graph

    def synchronize(self) -> None:
        pass

    def wait_event(self, event: Any) -> None:
        pass

    def record(self, event: Any = None) -> Any:
        return None


class Event:
    """A moment of this machine's clock."""

    def record(self, stream: Any = None) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        pass


class Device:
    """Properties of a small device; ``limits`` replaces them."""

    limits: ClassVar[dict[str, int]] = {}

    def __init__(self, device: int = 0) -> None:
        self.id = device

    @property
    def attributes(self) -> dict[str, int]:
        return {
            "MultiProcessorCount": 4,
            "MaxSharedMemoryPerBlockOptin": 96 * 1024,
            "CooperativeLaunch": 1,
            **type(self).limits,
        }

    compute_capability = "75"


def _matmul(a: Any, b: Any, out: Any = None) -> Any:
    assert Stream.capturing is None, "calling cuBLAS API during stream capture is currently unsupported"
    return _call("matmul", (a, b), {} if out is None else {"out": out})


def make_module() -> types.ModuleType:
    """A module "cupy" of all this."""
    module = types.ModuleType("cupy")
    module.__version__ = "0 (stand-in)"  # type: ignore[attr-defined]
    module.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
    own = {
        name: globals()[name]
        for name in (
            "ndarray asarray array asnumpy ascontiguousarray empty full arange empty_like from_dlpack RawModule RawKernel".split()
        )
    }
    own |= {"zeros": _filled(0), "ones": _filled(1), "matmul": _matmul}
    for name in FUNCTIONS - set(own):
        own[name] = lambda *args, _function=name, **kwargs: _call(_function, args, kwargs)
    runtime = types.SimpleNamespace(
        getDeviceCount=lambda: 1, getDeviceProperties=lambda k: {"name": b"stand-in"}, runtimeGetVersion=lambda: 0
    )
    own["cuda"] = types.SimpleNamespace(
        is_available=lambda: True,
        Device=Device,
        Stream=Stream,
        get_current_stream=lambda: Stream(),
        Event=Event,
        get_elapsed_time=lambda start, stop: 1e3 * (stop.time - start.time),
        runtime=runtime,
    )
    module.__dict__.update(own)
    return module


@contextlib.contextmanager
def with_limits(limits: dict[str, int]) -> Iterator[None]:
    """Inside, the device has these properties."""
    before, Device.limits = Device.limits, limits
    try:
        yield
    finally:
        Device.limits = before


@contextlib.contextmanager
def reversed_threads(on: bool = True) -> Iterator[None]:
    """Inside, the threads of a block run in falling order."""
    RawKernel.reversed = on
    try:
        yield
    finally:
        RawKernel.reversed = False


@contextlib.contextmanager
def edited(edit: Any) -> Iterator[None]:
    """Inside, kernels are compiled from ``edit(source)``: for mutations."""
    from fastlstm.backends.gpu import kernels

    RawModule.edit = staticmethod(edit)
    kernels.forget()
    try:
        yield
    finally:
        RawModule.edit = staticmethod(lambda source: source)
        kernels.forget()


@contextlib.contextmanager
def installed() -> Iterator[types.ModuleType]:
    """Inside, ``import cupy`` finds the stand-in, and fastlstm a GPU."""
    from fastlstm import devices
    from fastlstm.backends.gpu import kernels

    def forget() -> None:
        devices.gpu_refusal.cache_clear()
        kernels.forget()

    before = sys.modules.get("cupy")
    sys.modules["cupy"] = make_module()
    forget()
    transfers.reset()
    launches.clear()
    try:
        yield sys.modules["cupy"]
    finally:
        sys.modules.pop("cupy")
        if before is not None:
            sys.modules["cupy"] = before
        forget()
