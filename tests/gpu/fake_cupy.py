"""A stand-in for CuPy on a machine without a GPU: arrays of ``fake_arrays``, and kernels run by the shim.

``installed()`` puts it in the place of the module "cupy". Each launch checks the fences of all arrays that are alive.
"""

from __future__ import annotations

import collections
import contextlib
import importlib.machinery
import sys
import time
import types
from collections.abc import Iterator
from typing import Any, ClassVar

import fake_arrays
import numpy as np
import shim
from fake_arrays import FUNCTIONS, check_fences, ndarray, transfers

launches: collections.Counter[str] = collections.Counter()  # of each kernel


# -- kernels -------------------------------------------------------------------------------------------------------------
class RawModule:
    """The shim's library behind CuPy's door. ``edit`` changes the source of modules to come (for mutations)."""

    edit: Any = staticmethod(lambda source: source)

    def __init__(self, code: str, options: tuple[str, ...] = (), **kwargs: Any) -> None:
        assert all(isinstance(option, str) for option in options), options
        edited = type(self).edit(code)
        self.library = shim.library(edited, *(["-O0"] if edited != code else []))  # a mutation runs little

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
    return fake_arrays.call("matmul", (a, b), {} if out is None else {"out": out})


def make_module() -> types.ModuleType:
    """A module "cupy" of all this."""
    module = types.ModuleType("cupy")
    module.__version__ = "0 (stand-in)"  # type: ignore[attr-defined]
    module.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
    names = "ndarray asarray array asnumpy ascontiguousarray empty full arange empty_like from_dlpack"
    own = {name: getattr(fake_arrays, name) for name in names.split()}
    own |= {"zeros": fake_arrays.filled(0), "ones": fake_arrays.filled(1), "matmul": _matmul, "add": fake_arrays.Add()}
    own |= {"RawModule": RawModule, "RawKernel": RawKernel}
    for name in FUNCTIONS - set(own):
        own[name] = lambda *args, _function=name, **kwargs: fake_arrays.call(_function, args, kwargs)
    runtime = types.SimpleNamespace(getDeviceCount=lambda: 1, getDeviceProperties=lambda k: {"name": b"stand-in"})
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
    kernels.apart = False  # g++ is faster with all of them at once
    forget()
    transfers.reset()
    launches.clear()
    try:
        yield sys.modules["cupy"]
    finally:
        sys.modules.pop("cupy")
        kernels.apart = True
        if before is not None:
            sys.modules["cupy"] = before
        forget()
