"""Builds the programs of tests/c and examples/c with the compilers of this machine, and talks to tests/c/cases.c.

FASTLSTM_TEST_CC names the compilers to use (``gcc,zig``), FASTLSTM_TEST_CFLAGS adds flags to every native build: by them, ``make
sanitize`` runs the tests under AddressSanitizer and UndefinedBehaviorSanitizer. FASTLSTM_TEST_PREFIX is put before each program
that runs (``valgrind -q --error-exitcode=9``). Used by the tests of the C library.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from fastlstm import _core
from fastlstm.backends import cpu

ROOT = Path(__file__).parent.parent
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror")
C11, CXX17 = ("-std=c11",), ("-std=c++17",)
# As setup.py builds the extension: then the bits are the same.
EXACT = ("-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")
X86 = platform.machine() in ("x86_64", "AMD64")
ISA_FLAGS = {
    "generic": (),
    "avx2": ("-mavx2", "-mfma"),
    "avx512": ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma"),
    "neon": (),
    "one_lane": ("-DFASTLSTM_ONE_LANE",),
}
# What the code is compiled for at least, where zig would take this very processor.
ZIG_TARGET = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu"}
COMPILERS = tuple(os.environ.get("FASTLSTM_TEST_CC", "gcc,clang,zig").split(","))
PREFIX = tuple(shlex.split(os.environ.get("FASTLSTM_TEST_PREFIX", "")))
EXTRA = tuple(shlex.split(os.environ.get("FASTLSTM_TEST_CFLAGS", "")))


def zig(*words):
    """The command of zig, or a skip."""
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", *words]
    if shutil.which("zig"):
        return ["zig", *words]
    return pytest.skip("needs zig or the package ziglang")


def compiler(name, language="c"):
    """The command of "gcc", "clang" or "zig" for "c" or "c++", without flags; or a skip that says what is missing."""
    if name not in COMPILERS:
        pytest.skip(f"{name} is not among FASTLSTM_TEST_CC={','.join(COMPILERS)}")
    if name == "zig":
        target = ZIG_TARGET.get(platform.machine()) if sys.platform == "linux" else None
        return zig("cc" if language == "c" else "c++", *(("-target", target) if target else ()))
    command = {"gcc": "gcc", "clang": "clang"}[name] if language == "c" else {"gcc": "g++", "clang": "clang++"}[name]
    if shutil.which(command) is None:
        pytest.skip(f"needs the compiler {command}, which is not there")
    return [command]


@functools.cache
def _folder():
    folder = tempfile.TemporaryDirectory(prefix="fastlstm-c-")
    atexit.register(folder.cleanup)
    return folder


def compile_with(command, sources, *flags, output=None):
    """Runs a compiler; returns the path of what it made. Any diagnostic fails the test: -Werror is among STRICT.

    C++ by zig is linked as C: these programs use nothing of its C++ library, which zig would first build, for a minute.
    """
    if "ziglang" in command and "c++" in command and "-c" not in flags:
        objects = [compile_with(command, [source], *flags, "-c") for source in sources]
        return compile_with([*command[:3], "cc", *command[4:]], objects, *EXTRA, output=output)
    to = Path(_folder().name) / (output or f"program{len(list(Path(_folder().name).iterdir()))}")
    words = [*command, *flags, f"-I{ROOT / 'include'}", *map(str, sources), "-o", str(to)]
    if "-c" not in flags:
        words.append("-lm")
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr[-4000:]}"
    return to


@functools.cache
def program(source, compiler_name, isa, language="c", flags=("-O1",)):
    """The path of tests/c/<source>, built for one instruction set, with all warnings and FASTLSTM_TEST_CFLAGS."""
    if isa not in (*_core.isa_available(), "one_lane"):
        pytest.skip(f"this processor does not run {isa}")
    standard = C11 if language == "c" else CXX17
    where = ROOT / "tests/c" / source
    words = ["-x", "c++"] if language != "c" else []
    isa_flags = ISA_FLAGS[isa] if X86 or isa == "one_lane" else ()
    return compile_with(compiler(compiler_name, language), [where], *words, *standard, *STRICT, *flags, *isa_flags, *EXTRA)


def run(words, data=b""):
    """stdout and stderr of a program that must succeed."""
    words = [*PREFIX, *map(str, words)]
    done = subprocess.run(words, input=data, capture_output=True, timeout=600, check=False)
    assert done.returncode == 0, f"{words}: exit code {done.returncode}\n{done.stderr.decode()[-4000:]}"
    return done.stdout, done.stderr.decode()


# -- cases --------------------------------------------------------------------------------------------------------------------
OPERATIONS = "lstm_run lstm_steps conv_run conv_steps lstm_backward dense conv1d activate".split()
PADDINGS = ("valid", "same", "causal")
HEAD = (
    "operation bits batch steps rows channels filters kernel_size strides dilation_rate padding activation recurrent_activation "
    "go_backwards return_sequences zero_output has_bias has_mask has_states in_place leave_out"
).split()


@dataclasses.dataclass
class Case:
    """One call for tests/c/cases.c: ``arrays`` in the order that it reads them (mask as bytes), ``shapes`` of its answer."""

    head: dict[str, int]
    arrays: list
    shapes: list

    def encoded(self):
        dtype = np.float32 if self.head["bits"] == 32 else np.float64
        head = np.array([self.head.get(name, 0) for name in HEAD], np.int64).tobytes()
        return head + b"".join(
            a.tobytes() if a.dtype == bool else a.astype(dtype).tobytes() for a in self.arrays if a is not None
        )


def answers(path, cases, prefix=()):
    """For each case the arrays of ``shapes`` that the program at ``path`` gives; and the instruction set that it names."""
    out, isa = run([*prefix, path], b"".join(case.encoded() for case in cases))
    results, at = [], 0
    for case in cases:
        dtype = np.float32 if case.head["bits"] == 32 else np.float64
        length = int(np.frombuffer(out, np.int64, 1, at)[0])
        numbers = np.frombuffer(out, dtype, length // dtype().itemsize, at + 8)
        at += 8 + length
        sizes = [int(np.prod(shape)) for shape in case.shapes]
        assert sum(sizes) == len(numbers), f"{case.head}: {len(numbers)} numbers, expected {sizes}"
        parts = np.split(numbers, np.cumsum(sizes)[:-1])
        results.append([part.reshape(shape) for part, shape in zip(parts, case.shapes, strict=True)])
    assert at == len(out)
    return results, isa.split()[-1]


def _flags(spec):
    activation, recurrent = spec.activation_names()
    return {
        "activation": cpu.ACTIVATION_NUMBERS[activation],
        "recurrent_activation": cpu.ACTIVATION_NUMBERS[recurrent],
        "go_backwards": int(spec.go_backwards),
        "return_sequences": int(spec.return_sequences),
        "zero_output": int(spec.zero_output_for_mask),
    }


def lstm_case(spec, arrays, mask, bits, operation="lstm_run", states=True, in_place=False, leave_out=0, cotangents=None):
    """An LSTM's call; ``cotangents`` (dy, dh, dc) for "lstm_backward"."""
    weights, x, h, c = arrays
    N, T, D = x.shape
    head = {
        **_flags(spec),
        "operation": OPERATIONS.index(operation),
        **{"bits": bits, "batch": N, "steps": T, "channels": D, "filters": spec.units, "leave_out": leave_out},
        **{"has_bias": len(weights) > 2, "has_mask": mask is not None, "has_states": states, "in_place": in_place},
    }
    given = [*weights, x, mask, *((h, c) if states else ())]
    shapes = [(N, T, spec.units) if spec.return_sequences else (N, spec.units), h.shape, c.shape]
    if cotangents is not None:
        head["leave_out"] = sum(bit for bit, a in zip((1, 2, 4), cotangents, strict=True) if a is None)
        given += cotangents
        shapes += [x.shape, h.shape, c.shape, weights[0].shape, weights[1].shape, (4 * spec.units,)]
    return Case(head, given, shapes)


def conv_case(spec, arrays, mask, bits, operation="conv_run", states=True, in_place=False):
    """A ConvLSTM1D's call."""
    weights, x, h, c = arrays
    N, T, R, C = x.shape
    head = {
        **_flags(spec),
        "operation": OPERATIONS.index(operation),
        **{"bits": bits, "batch": N, "steps": T, "rows": R, "channels": C, "filters": spec.units, "in_place": in_place},
        **{"kernel_size": spec.kernel_size, "strides": spec.strides, "dilation_rate": spec.dilation_rate},
        **{"padding": PADDINGS.index(spec.padding), "has_states": states},
        **{"has_bias": len(weights) > 2, "has_mask": mask is not None},
    }
    shapes = [(N, T, *h.shape[1:]) if spec.return_sequences else h.shape, h.shape, c.shape]
    return Case(head, [*weights, x, mask, *((h, c) if states else ())], shapes)
