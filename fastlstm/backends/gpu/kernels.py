"""The CUDA source, compiled by CuPy at first need (NVRTC; CuPy keeps the result on disk), and launches.

The source is one text: prelude, the templates of include/fastlstm and the kernels beside this file, joined here, so that CuPy's
cache sees an edit in any of them.
"""

from __future__ import annotations

import functools
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ... import devices

# In this order; "include:" are the templates shared with the CPU.
TEXTS = (
    "prelude.cuh",
    "include:arguments.h",
    "include:real.h",
    "include:simd.h",
    "include:vmath.h",
    "include:vactivation.h",
    "include:cell.h",
    "cell.cuh",
)
PLAIN = ("elementwise.cu",)  # kernels that are compiled together
INSTANCES = ("tiles.cuh", "sequence.cu", "sequence_back.cu")  # a kernel of one line, an instance of a template, is compiled alone
# No contraction: fused multiply-adds stand where v_fma says so, as on the CPU.
OPTIONS = ("-std=c++17", "--fmad=false")
THREADS = 256  # at most, of a block of the elementwise kernels
_WARP = 32
_MAX_BLOCKS = 65535
_PLAIN_SHARED = 48 * 1024  # bytes a block that need no asking


class Launch(NamedTuple):
    """One launch: kernel name, grid, block, arguments, bytes of shared memory, and whether all blocks must be resident."""

    name: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: tuple[Any, ...]
    shared: int = 0
    cooperative: bool = False


def _folder_of_templates() -> Path:
    package = Path(__file__).parents[2]
    shipped = package / "include" / "fastlstm"
    return shipped if shipped.is_dir() else package.parent / "include" / "fastlstm"  # an editable install


apart = True  # False: all kernels are one module
_INSTANCE = re.compile(r'^extern "C" __global__ .*?(\w+)\(const .*\}\n', re.MULTILINE)


def _text(name: str) -> str:
    shared = name.startswith("include:")
    path = (_folder_of_templates() if shared else Path(__file__).parent) / name.removeprefix("include:")
    # There are no system headers: the prelude has what the templates need of them.
    return re.sub(r"^#include <.*>$", "", path.read_text("utf-8"), flags=re.MULTILINE)


@functools.cache
def source(bits: int, only: str | None = None) -> str:
    """The CUDA source for reals of 32 or 64 bits; ``only``: of this instance of a template, or, "", of the plain kernels."""
    names = (*TEXTS, *(PLAIN if not only else ()), *(INSTANCES if only != "" else ()))
    whole = "\n".join([f"#define FL_BITS {bits}\n", *(_text(name) for name in names)])
    return _INSTANCE.sub(lambda match: match[0] if match[1] == only else "", whole) if only else whole


def _module_of(name: str, bits: int) -> Any:
    if not apart:
        return _compiled(bits, None)
    return _compiled(bits, name if name in _INSTANCE.findall(source(bits)) else "")


@functools.cache
def _compiled(bits: int, only: str | None) -> Any:
    return devices.cupy_module().RawModule(code=source(bits, only), options=OPTIONS)


_kernels: dict[tuple[str, int], Any] = {}


def _kernel(name: str, bits: int) -> Any:
    kernel = _kernels.get((name, bits))
    if kernel is None:
        kernel = _kernels[name, bits] = _module_of(name, bits).get_function(name)
    return kernel


def ready(launch: Launch, dtype: Any) -> Any:
    """The compiled kernel of a launch, allowed the shared memory that it needs. ``dtype``: float32 or float64."""
    kernel = _kernel(launch.name, 8 * np.dtype(dtype).itemsize)
    if launch.shared > _PLAIN_SHARED and kernel.max_dynamic_shared_size_bytes < launch.shared:
        kernel.max_dynamic_shared_size_bytes = launch.shared
    return kernel


def run(launch: Launch, dtype: Any) -> None:
    """Puts a launch on the current stream."""
    kernel = ready(launch, dtype)
    # RawModule's own switch for cooperative launches links a library that no kernel here needs; the launch is all that matters.
    kernel.kernel(
        launch.grid, launch.block, launch.arguments, shared_mem=launch.shared, enable_cooperative_groups=launch.cooperative
    )


def elementwise(name: str, count: int, *arguments: Any) -> Launch:
    """A launch with about a thread for each of ``count`` numbers."""
    threads = max(_WARP, min(THREADS, math.ceil(count / _WARP) * _WARP))
    return Launch(name, (max(1, min(math.ceil(count / threads), _MAX_BLOCKS)),), (threads,), arguments)


def forget() -> None:
    """Drops the compiled modules: for tests that put something else in CuPy's place."""
    _compiled.cache_clear()
    _kernels.clear()
