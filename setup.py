"""Builds the one extension module, fastlstm._core: Cython loops and the C templates of include/ for every instruction set.

No flag depends on the processor: each kernels_<isa>.c selects its instruction set by pragma. One abi3 module serves Python 3.11
and later (free-threaded builds refuse abi3 and get a module of their own). On Windows clang-cl compiles: the kernels are written
in the vectors of gcc and clang, which Microsoft's compiler does not know.
"""

import os
import shutil
import sys
import sysconfig
from glob import glob

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
WINDOWS = sys.platform == "win32"
HEADERS = sorted(glob("include/fastlstm/*.h"))

FLAGS = ["-O3", "-g0", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]


class BuildExtension(build_ext):
    """build_ext, with clang-cl in place of cl.exe on Windows (CLANG_CL names another than the one on PATH)."""

    def build_extensions(self):
        if self.compiler.compiler_type == "msvc":
            clang_cl = os.environ.get("CLANG_CL") or shutil.which("clang-cl")
            if clang_cl is None:
                raise SystemExit("fastlstm needs clang-cl to build on Windows; looked for: clang-cl.exe on PATH, CLANG_CL=...")
            if not self.compiler.initialized:
                self.compiler.initialize(self.plat_name)
            self.compiler.cc = clang_cl
        super().build_extensions()


macros = [("NPY_TARGET_VERSION", "NPY_1_25_API_VERSION"), ("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")]
if not FREE_THREADED:
    macros.append(("Py_LIMITED_API", "0x030B0000"))

core = Extension(
    "fastlstm._core",
    sources=[
        *("pyx/_core.pyx", "pyx/dispatch.c", "pyx/pool.c"),
        *(f"pyx/kernels_{isa}.c" for isa in ("generic", "avx2", "avx512", "neon")),
    ],
    depends=[*HEADERS, "pyx/dispatch.h", "pyx/pool.h", *sorted(glob("pyx/*.pxi"))],
    include_dirs=["include", "include/fastlstm", "pyx", numpy.get_include()],
    define_macros=macros,
    # -ffp-contract=off: fused multiply-adds stand where v_fma says so and nowhere else (docs/numerics.md).
    # clang-cl takes clang's own flags behind /clang: (and sets errno in no case).
    extra_compile_args=["/O2", *(f"/clang:{flag}" for flag in FLAGS)] if WINDOWS else FLAGS,
    extra_link_args=[] if WINDOWS else ["-pthread"],
    libraries=[] if WINDOWS else ["m"],
    py_limited_api=not FREE_THREADED,
)

setup(
    cmdclass={"build_ext": BuildExtension},
    ext_modules=cythonize(
        [core],
        include_path=["pyx"],
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "embedsignature": True,
            "freethreading_compatible": True,
        },
    ),
    options={} if FREE_THREADED else {"bdist_wheel": {"py_limited_api": "cp311"}},
)
