"""The kernels' CUDA source as a library of this machine: compiled by g++ behind cpu_cuda.h, launched through ctypes.

``library(source)`` compiles once per text (into build/gpu_shim); ``Library.launch`` runs a kernel on NumPy memory. Needs a C++
compiler: ``compiler()`` says which, ``NO_COMPILER`` is the reason to skip where there is none.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
BUILT = HERE.parent.parent / "build" / "gpu_shim"
NO_COMPILER = "the kernels' logic is run through g++ or clang++, and neither is installed"
KERNEL = re.compile(r'extern "C" __global__ void\s+(?:__launch_bounds__\([\d, ]+\)\s+)?(\w+)\(')
STRUCT = re.compile(r"^struct (?:__align__\(\d+\) )?(\w+) \{", re.MULTILINE)
FLAGS = ("-std=c++17", "-shared", "-fPIC", "-ffp-contract=off", "-w")


def compiler() -> str | None:
    """A C++ compiler of this machine, or None."""
    return shutil.which(os.environ.get("CXX") or "g++") or shutil.which("clang++")


def program(source: str) -> str:
    """The source between the shim and a table of its kernels and structs."""
    kernels = "\n".join(f'  if (!strcmp(name, "{name}")) return cpu_cuda::call<{name}>;' for name in KERNEL.findall(source))
    sizes = "\n".join(f'  if (!strcmp(name, "{name}")) return sizeof({name});' for name in STRUCT.findall(source))
    return f"""#include "cpu_cuda.h"
{source}
static void (*kernel_named(const char *name))(void **) {{
{kernels}
  return nullptr;
}}
extern "C" size_t shim_size(const char *name) {{
{sizes}
  return 0;
}}
extern "C" const char *shim_launch(const char *name, const unsigned *grid, const unsigned *block, size_t shared, int cooperative,
                                   int reversed, void **args) {{
  auto kernel = kernel_named(name);
  return kernel ? cpu_cuda::launch(kernel, grid, block, shared, cooperative, reversed, args) : "there is no such kernel";
}}
"""


@functools.cache
def library(source: str, level: str = "-O1") -> Library:
    """The compiled source. RuntimeError with the compiler's words where it does not compile."""
    text = program(source)
    found = compiler()
    assert found, NO_COMPILER
    key = hashlib.sha256((text + (HERE / "cpu_cuda.h").read_text("utf-8") + found + str(FLAGS) + level).encode()).hexdigest()[:24]
    built = BUILT / f"{key}.so"
    if not built.exists():
        BUILT.mkdir(parents=True, exist_ok=True)
        code, made = BUILT / f"{key}.{os.getpid()}.cpp", BUILT / f"{key}.{os.getpid()}.so"
        code.write_text(text, "utf-8")
        done = subprocess.run(
            [found, *FLAGS, level, f"-I{HERE}", str(code), "-o", str(made)], capture_output=True, text=True, check=False
        )
        code.unlink()
        if done.returncode:
            raise RuntimeError(done.stderr)
        made.replace(built)
    return Library(built)


class Library:
    """One compiled source. ``reversed``: run the threads of a block in falling order."""

    def __init__(self, path: Path):
        self._library = ctypes.CDLL(str(path))
        self._library.shim_launch.restype = ctypes.c_char_p
        self._library.shim_size.restype = ctypes.c_size_t
        self.reversed = False

    def size(self, struct: str) -> int:
        """sizeof a struct."""
        return self._library.shim_size(struct.encode())

    def launch(
        self,
        name: str,
        grid: Sequence[int],
        block: Sequence[int],
        arguments: Sequence[Any],
        shared: int = 0,
        cooperative: bool = False,
    ) -> None:
        """Runs a kernel. ``arguments``: NumPy scalars (addresses too) and structs [1]. RuntimeError for what goes wrong."""
        kept = [np.atleast_1d(np.asarray(a)) for a in arguments]
        pointers = (ctypes.c_void_p * len(kept))(*[a.ctypes.data for a in kept])
        sizes = [(ctypes.c_uint * 3)(*(*lengths, 1, 1)[:3]) for lengths in (grid, block)]
        answer = self._library.shim_launch(
            name.encode(), *sizes, ctypes.c_size_t(shared), int(cooperative), int(self.reversed), pointers
        )
        if answer:
            raise RuntimeError(f"{name}: {answer.decode()}")
