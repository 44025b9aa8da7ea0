"""Builds the one extension module, fastlstm._core: Cython loops and the C templates of include/ for every instruction set.

No flag depends on the target: each kernels_<isa>.c selects its instruction set by pragma. One abi3 module serves Python 3.11 and
later (free-threaded builds refuse abi3 and get a module of their own).
"""

import sys
import sysconfig
from glob import glob

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
MSVC = sys.platform == "win32" and "clang" not in (sysconfig.get_config_var("CC") or "")
HEADERS = sorted(glob("include/fastlstm/*.h"))

FLAGS = ["-O3", "-g0", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]

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
    extra_compile_args=["/O2"] if MSVC else FLAGS,
    extra_link_args=[] if sys.platform == "win32" else ["-pthread"],
    libraries=[] if sys.platform == "win32" else ["m"],
    py_limited_api=not FREE_THREADED,
)

setup(
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
