"""What the tests of the GPU path share: the stand-in for CuPy, and the skips where something is missing.

Marks: ``gpu_compile`` needs NVRTC and CuPy (``make test-gpu-compile``), ``gpu`` needs a device. All else runs on any machine
with a C++ compiler.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from types import ModuleType

import fake_cupy
import pytest
import shim

ORDERS = ("rising", "falling")


def missing_device() -> str | None:
    """Why the tests marked ``gpu`` cannot run here, or None."""
    from fastlstm import devices

    return devices.gpu_refusal()


def missing_compiler() -> str | None:
    """Why the tests marked ``gpu_compile`` cannot run here, or None."""
    absent = [name for name in ("cupy", "nvidia") if importlib.util.find_spec(name) is None]
    if absent:
        return "needs cupy-cuda13x and nvidia-cuda-nvrtc, which are not installed here: make test-gpu-compile"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for mark, reason in (("gpu", missing_device()), ("gpu_compile", missing_compiler())):
        for item in items:
            if reason is not None and item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=f"{mark}: {reason}"))


@pytest.fixture
def cupy() -> Iterator[ModuleType]:
    """The stand-in in the place of CuPy."""
    if shim.compiler() is None:
        pytest.skip(shim.NO_COMPILER)
    with fake_cupy.installed() as module:
        yield module


@pytest.fixture(params=ORDERS)
def order(request: pytest.FixtureRequest, cupy: ModuleType) -> Iterator[str]:
    """The order in which the shim runs the threads between two barriers."""
    with fake_cupy.reversed_threads(request.param == "falling"):
        yield request.param


@pytest.fixture
def limits() -> Iterator[dict[str, int]]:
    """Properties of the device, to be changed by the test."""
    fake_cupy.Device.limits = {}
    yield fake_cupy.Device.limits
    fake_cupy.Device.limits = {}


@pytest.fixture(params=["stand-in", pytest.param("device", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """CuPy: the stand-in, and where there is one the real thing on a device."""
    if request.param == "device":
        import cupy

        yield cupy
    elif shim.compiler() is None:
        pytest.skip(shim.NO_COMPILER)
    else:
        with fake_cupy.installed() as module:
            yield module
