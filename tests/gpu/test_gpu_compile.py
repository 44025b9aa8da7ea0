"""The CUDA source through NVRTC for every architecture in use, and the stand-in beside the CuPy that it stands in for.

Needs no device. ``make test-gpu-compile`` installs what this needs and runs it.
"""

from __future__ import annotations

import re

import fake_cupy
import pytest
import shim

from fastlstm.backends.gpu import kernels

pytestmark = pytest.mark.gpu_compile

ARCHITECTURES = (75, 80, 90)
REGISTERS = 255  # of a thread; a block of 256 threads may have all of them


@pytest.fixture
def nvrtc():
    return pytest.importorskip("cupy_backends.cuda.libs.nvrtc")


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kernel_compiles_without_a_warning_or_a_spill(nvrtc, architecture, bits):
    program = nvrtc.createProgram(kernels.source(bits), "fastlstm.cu", (), ())
    options = (f"--gpu-architecture=sm_{architecture}", *kernels.OPTIONS, "--ptxas-options=-v")
    try:
        nvrtc.compileProgram(program, options)
    except nvrtc.NVRTCError:
        pytest.fail(nvrtc.getProgramLog(program))
    log = nvrtc.getProgramLog(program)
    assert "warning" not in log, log
    cubin = nvrtc.getCUBIN(program)
    for name in shim.KERNEL.findall(kernels.source(bits)):
        assert name.encode() in cubin, name
    used = dict(re.findall(r"Compiling entry function '(\w+)'.*?Used (\d+) registers", log, re.DOTALL))
    print(f"sm_{architecture}, {bits} bits, registers: {used}")
    assert all(int(used[name]) <= REGISTERS for name in shim.KERNEL.findall(kernels.source(bits)))
    spilled = dict(
        re.findall(r"Function properties for ((?:sequence|streamed|back)_\w+)\s+\d+ bytes stack frame, (\d+) bytes spill", log)
    )
    assert not any(int(spill) for spill in spilled.values()), log


def test_the_stand_in_offers_nothing_that_cupy_lacks():
    """Functions of the module, methods and properties of arrays, the driver's door."""
    cupy = pytest.importorskip("cupy")
    assert not [name for name in fake_cupy.FUNCTIONS if not hasattr(cupy, name)]
    own = {name for name in vars(fake_cupy.ndarray) if not name.startswith("_")}
    assert not [name for name in own if not hasattr(cupy.ndarray, name)]
    for name in ("Stream", "Event", "Device", "get_elapsed_time", "get_current_stream", "is_available", "runtime"):
        assert hasattr(cupy.cuda, name)
    for name in ("begin_capture", "end_capture"):
        assert hasattr(cupy.cuda.Stream, name)
    for name in ("kernel", "max_dynamic_shared_size_bytes"):
        assert hasattr(cupy.RawKernel, name)
    assert hasattr(cupy.RawModule, "get_function")
    assert hasattr(cupy.cuda.runtime, "getDeviceProperties")


def test_cupy_takes_what_the_launches_give():
    """RawModule with these options; the compilation itself needs a device."""
    cupy = pytest.importorskip("cupy")
    module = cupy.RawModule(code=kernels.source(32), options=kernels.OPTIONS)
    assert module.options == kernels.OPTIONS
    assert not module.enable_cooperative_groups
