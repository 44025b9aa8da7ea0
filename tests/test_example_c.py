"""examples/c: the model of the speakers, exported and compiled, tells what Python tells; docs/c_api.md; Cython projects.

For every compiler, for aarch64 under qemu, and for microcontrollers (compiled only).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from c_programs import C11, CXX17, EXACT, EXTRA, ISA_FLAGS, ROOT, STRICT, X86, compile_with, compiler, run, zig

import fastlstm
from fastlstm import _core
from fastlstm.export import export_c

SOURCE = ROOT / "examples/c/speakers.c"
RIGHT = 349  # of 370, as Keras tells them

# The C library has these kernels alone: Python is compared on them too where FASTLSTM_GEMM and FASTLSTM_ISA lead to BLAS.
pytestmark = pytest.mark.usefixtures("packed_panels_throughout")


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The folder of speakers.h and speakers.bin, and what Python predicts for each recording."""
    folder = tmp_path_factory.mktemp("speakers")
    model = fastlstm.load_model(ROOT / "examples/speakers.keras")
    export_c(model, folder / "speakers.h", source="speakers.keras")
    subprocess.run([sys.executable, ROOT / "examples/c/speakers_data.py", folder / "speakers.bin"], check=True)
    with np.load(ROOT / "examples/speakers.npz") as data:
        x, y, keras = data["x"], data["y"], data["keras_prediction"]
    prediction = model.predict(x, verbose=0)
    assert (prediction.argmax(axis=1) == y).sum() == RIGHT
    return folder, prediction, keras


def check(example, words, isa):
    """Runs a program on all recordings: its count, its predictions beside Python's and Keras'. Returns the predictions."""
    folder, prediction, keras = example
    out, _ = run([*words, folder / "speakers.bin", folder / "out.bin"])
    assert out.decode() == f"{RIGHT} of 370 recordings are told right ({isa})\n"
    got = np.fromfile(folder / "out.bin", np.float32).reshape(370, 9)
    np.testing.assert_allclose(got, prediction, rtol=0, atol=1e-6)
    np.testing.assert_allclose(got, keras, rtol=0, atol=2e-5)
    return got


@pytest.mark.parametrize(("name", "language"), [("gcc", "c"), ("gcc", "c++"), ("clang", "c"), ("clang", "c++"), ("zig", "c")])
def test_the_speakers_are_told_as_in_python(example, name, language):
    standard = C11 if language == "c" else ("-x", "c++", *CXX17)
    isa_flags = ISA_FLAGS[_core.isa] if X86 else ()
    program = compile_with(compiler(name, language), [SOURCE], *standard, *STRICT, *EXACT, f"-I{example[0]}", *isa_flags, *EXTRA)
    got = check(example, [program], _core.isa)
    if name == "gcc" and not EXTRA:
        np.testing.assert_array_equal(got, example[1])  # the extension's bits


@pytest.mark.parametrize("isa", ["generic", "one_lane"])
def test_without_wide_vectors(example, isa):
    if isa == "generic" and not X86:
        pytest.skip("the plain build has NEON here")
    program = compile_with(compiler("gcc"), [SOURCE], *C11, *STRICT, "-O2", f"-I{example[0]}", *ISA_FLAGS[isa], *EXTRA)
    check(example, [program], isa)


def test_on_aarch64(example):
    flags = ("-target", "aarch64-linux-musl")
    program = compile_with(zig("cc", *flags), [SOURCE], *C11, *STRICT, "-static", "-O2", f"-I{example[0]}")
    if shutil.which("qemu-aarch64-static") is None:
        pytest.skip("built, but not run: needs qemu-aarch64-static (package qemu-user-static)")
    check(example, ["qemu-aarch64-static", program], "neon")


@pytest.mark.parametrize("processor", ["cortex_m4"])
def test_compiles_for_microcontrollers(tmp_path, processor):
    """The model alone, weights in flash, memory static."""
    export_c(fastlstm.load_model(ROOT / "examples/speakers.keras"), tmp_path / "speakers.h", one_lane=True)
    source = tmp_path / "firmware.c"
    source.write_text(
        "#define FASTLSTM_IMPLEMENTATION\n#define FASTLSTM_STATIC\n#include <speakers.h>\n"
        "FASTLSTM_ALIGNED static unsigned char memory[SPEAKERS_MEMORY_BYTES];\nstatic speakers model;\n"
        "int begin(void);\nint begin(void) { return (int)speakers_init(&model, memory, sizeof memory); }\n"
        "int tell(const float *x, float *y);\nint tell(const float *x, float *y) { return (int)speakers_run(&model, x, y); }\n"
    )
    command = zig("cc", "-target", "thumb-linux-musleabihf", f"-mcpu={processor}")
    built = compile_with(command, [source], *C11, *STRICT, "-c", "-Os", f"-I{tmp_path}")
    assert len(built.read_bytes()) < 160_000  # 71 KB of weights, what calls need of the library, and symbols


def test_make_has_the_target():
    assert "example-c:" in (ROOT / "Makefile").read_text()


# -- docs/c_api.md -----------------------------------------------------------------------------------------------------------
def test_the_example_of_the_guide_compiles_and_runs(tmp_path):
    """The first program of docs/c_api.md, as it stands there."""
    program = re.search(r"```c\n(.*?)```", (ROOT / "docs/c_api.md").read_text(), re.S)[1]
    (tmp_path / "guide.c").write_text(program)
    out, _ = run([compile_with(compiler("gcc"), [tmp_path / "guide.c"], *C11, *STRICT, "-O1", *EXTRA)])
    lstm = fastlstm.LSTM(4)
    lstm.build((None, None, 3))
    lstm.set_weights([np.full((3, 16), 0.1, np.float32), np.full((4, 16), 0.1, np.float32), np.zeros(16, np.float32)])
    want = lstm(np.ones((1, 1, 3), np.float32))[0, 0]
    assert out.decode() == f"{want:.4f}\n"


# -- other projects ----------------------------------------------------------------------------------------------------------
def test_include_is_the_folder_of_the_headers(tmp_path):
    (tmp_path / "main.c").write_text("#include <fastlstm/fastlstm.h>\n")
    command = [*compiler("gcc"), "-std=c11", "-fsyntax-only", f"-I{fastlstm.get_include()}", tmp_path / "main.c"]
    subprocess.run(command, check=True)


def test_cython_projects_use_the_library(tmp_path):
    """A module that cimports fastlstm.pxd, compiled against get_include(), gives what the layer gives."""
    pytest.importorskip("Cython", reason="needs Cython, as other projects do")
    pytest.importorskip("setuptools", reason="needs setuptools to build a module")
    (tmp_path / "voice.pyx").write_text((ROOT / "tests/c/voice.pyx").read_text())
    build = (
        "import sys, fastlstm\nfrom setuptools import Extension, setup\nfrom Cython.Build import cythonize\n"
        "macros = [('FASTLSTM_IMPLEMENTATION', None), ('FASTLSTM_STATIC', None)]\n"
        "modules = [Extension('voice', ['voice.pyx'], include_dirs=[fastlstm.get_include()], define_macros=macros)]\n"
        f"setup(name='voice', ext_modules=cythonize(modules, include_path=[{str(ROOT)!r}], language_level=3))\n"
    )
    (tmp_path / "build.py").write_text(build)
    words = [sys.executable, "build.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    lstm = fastlstm.LSTM(5)
    x = np.random.default_rng(0).normal(size=(1, 7, 3)).astype(np.float32)
    want = lstm(x)
    np.savez(
        tmp_path / "given.npz", x=x, kernel=lstm.get_weights()[0], recurrent=lstm.get_weights()[1], bias=lstm.get_weights()[2]
    )
    code = (
        "import numpy, voice; g = numpy.load('given.npz'); "
        "print(*map(float.hex, map(float, voice.run(g['x'], g['kernel'], g['recurrent'], g['bias']))))"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    np.testing.assert_allclose([float.fromhex(word) for word in out.split()], want[0], rtol=0, atol=1e-6)


def test_the_pxd_declares_what_the_header_declares():
    header = "".join((ROOT / "include/fastlstm" / name).read_text() for name in ("fastlstm.h", "fastlstm_f64.h"))
    header = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    pxd = (ROOT / "fastlstm/fastlstm.pxd").read_text()
    functions = {
        name: " ".join(words.replace("void", "", words == "void").split())
        for name, words in re.findall(r"FASTLSTM_API [^#]*?(fastlstm_\w+)\((.*?)\);", header, re.S)
    }
    declared = {name: " ".join(words.split()) for name, words in re.findall(r"(fastlstm_\w+)\(([^)]*)\)", pxd, re.S)}
    assert len(functions) > 50
    assert declared == functions
    for kind in ("enum", "struct"):
        named = set(re.findall(rf"typedef {kind} (\w+)", header))
        assert named == set(re.findall(rf"ctypedef {kind} (\w+)", pxd))
    words = set(re.findall(r"\bFASTLSTM_[A-Z0-9_]+\b", pxd)) - {"FASTLSTM_IMPLEMENTATION"}
    assert words >= set(re.findall(r"^  (FASTLSTM_\w+)", header, re.M))
    for name, body in re.findall(r"typedef struct (\w+) \{(.*?)\}", header, re.S):
        fields = re.findall(r"(\w+)(?=[,;])", body)
        stored = re.search(rf"ctypedef struct {name}:\n(.*?)\n\n", pxd, re.S)[1]
        assert re.findall(r"(\w+)(?=,|$)", stored, re.M) == fields, name
