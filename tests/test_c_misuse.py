"""Wrong arguments of the C library get their status, and nothing is written (tests/c/misuse.c); its headers hold together.

Values are the matter of test_c_library.py.
"""

from __future__ import annotations

import os
import re
import shutil
import sys

import pytest
from c_programs import C11, COMPILERS, CXX17, ROOT, STRICT, X86, compile_with, compiler, program, run, zig

from fastlstm import _core
from fastlstm.backends import cpu

INCLUDE = ROOT / "include/fastlstm"
MISUSE, LIBRARY = ROOT / "tests/c/misuse.c", ROOT / "tests/c/library.c"


@pytest.mark.parametrize("language", ["c", "c++"])
@pytest.mark.parametrize("name", COMPILERS)
def test_wrong_arguments_get_their_status(name, language):
    run([program("misuse.c", name, _core.isa, language)])


def test_wrong_arguments_on_one_lane():
    run([program("misuse.c", "gcc", "one_lane")])


def test_wrong_arguments_on_aarch64():
    """Built by zig, run by qemu's user mode."""
    built = compile_with(zig("cc", "-target", "aarch64-linux-musl"), [MISUSE], *C11, *STRICT, "-static", "-O1")
    if shutil.which("qemu-aarch64-static") is None:
        pytest.skip("built, but not run: needs qemu-aarch64-static (package qemu-user-static)")
    run(["qemu-aarch64-static", built])


def test_wrong_arguments_where_addresses_have_32_bits():
    if not X86 or sys.platform != "linux":
        pytest.skip("needs a processor of x86-64 with Linux, which runs programs of 32 bits")
    if not os.environ.get("FASTLSTM_TEST_32_BITS"):
        pytest.skip("zig builds a C library of 32 bits first, which takes a minute: FASTLSTM_TEST_32_BITS=1, or make sanitize")
    run([compile_with(zig("cc", "-target", "x86-linux-musl"), [MISUSE], *C11, *STRICT, "-static", "-O1")])


def test_a_program_of_two_files_and_two_languages(tmp_path):
    """The implementation stands in one file, in C; another one, in C++, has the declarations alone."""
    (tmp_path / "main.cpp").write_text(
        "#include <fastlstm/fastlstm.h>\n#include <cstdio>\nstatic int real = 1, vec = 2; // names of the templates\n"
        "int main() { std::puts(fastlstm_isa()); return real + vec - 3; }\n"
    )
    c = compile_with(compiler("gcc"), [LIBRARY], *C11, *STRICT, "-c", "-O1")
    cpp = compile_with(compiler("gcc", "c++"), [tmp_path / "main.cpp"], *CXX17, *STRICT, "-c", "-O1")
    out, _ = run([compile_with(compiler("gcc", "c++"), [c, cpp])])
    assert out.decode().strip() in _core.isa_available()


def test_short_names_are_given_back(tmp_path):
    """What the templates define in small letters is undefined behind the implementation."""
    names = set()
    for path in INCLUDE.glob("*.h"):
        names |= set(re.findall(r"^#define ([a-z]\w*)", path.read_text(), re.M))
    assert {"real", "vec", "v_fma"} <= names
    lines = [f"#ifdef {name}\n#error {name} is still defined\n#endif" for name in sorted(names)]
    source = tmp_path / "names.c"
    source.write_text("#define FASTLSTM_IMPLEMENTATION\n#include <fastlstm/fastlstm.h>\n" + "\n".join(lines) + "\n")
    compile_with(compiler("gcc"), [source], *C11, *STRICT, "-c")


def test_the_half_for_double_is_the_half_for_float():
    """fastlstm_f64.h says the same as fastlstm.h, in double."""
    whole = (INCLUDE / "fastlstm.h").read_text()
    single = whole[whole.index("/* ---- float") : whole.index("#ifdef __cplusplus\n}")]
    double = (INCLUDE / "fastlstm_f64.h").read_text()
    double = double[double.index('extern "C" {\n#endif') + len('extern "C" {\n#endif') : double.rindex("#ifdef __cplusplus")]
    single = re.sub(r"/\*.*?\*/", "", single, flags=re.S).replace("_f32", "_f64").replace("float", "double")
    assert double.split() == single.split()


def test_activations_have_the_numbers_of_the_kernels():
    public = re.search(r"typedef enum fastlstm_activation \{(.*?)\}", (INCLUDE / "fastlstm.h").read_text(), re.S)
    names = re.findall(r"FASTLSTM_(\w+)", public[1])
    assert [name.lower() for name in names] == list(cpu.ACTIVATION_NUMBERS)


def test_symbols_of_the_library_have_its_prefix():
    """An object file with the implementation defines fastlstm_… and nothing else that a linker sees."""
    if shutil.which("nm") is None:
        pytest.skip("needs nm of the binutils")
    out, _ = run(["nm", "-g", "--defined-only", compile_with(compiler("gcc"), [LIBRARY], *C11, *STRICT, "-c", "-O1")])
    names = [line.split()[-1] for line in out.decode().splitlines()]
    assert len(names) > 50
    assert all(name.startswith("fastlstm_") for name in names), names
    declared = re.findall(r"\b(fastlstm_\w+)\(", (INCLUDE / "fastlstm.h").read_text())
    assert {name for name in declared if "f64" not in name} <= set(names)


def test_no_globals_no_allocation_no_output():
    """An object file of the library wants memory functions and square roots from outside, nothing else, and has no variables."""
    if shutil.which("nm") is None:
        pytest.skip("needs nm of the binutils")
    out, _ = run(["nm", compile_with(compiler("gcc"), [LIBRARY], *C11, *STRICT, "-c", "-O1")])
    kinds = [(line.split()[-2], line.split()[-1]) for line in out.decode().splitlines()]
    assert not [name for kind, name in kinds if kind in "bBdDC"]
    wanted = {name for kind, name in kinds if kind == "U"} - {"_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"}
    assert wanted <= {"memcpy", "memmove", "memset", "memchr", "sqrt", "sqrtf", "fmaf", "fma"}, wanted


@pytest.mark.parametrize("cpu_name", ["cortex_m0", "cortex_m4"])
def test_compiles_for_microcontrollers(cpu_name):
    """Cortex-M: one lane, and few enough bytes for one (all of the library, both float types)."""
    soft = cpu_name == "cortex_m0"
    target = f"thumb-linux-musleabi{'' if soft else 'hf'}"
    command = zig("cc", "-target", target, f"-mcpu={cpu_name}")
    built = compile_with(command, [LIBRARY], *C11, *STRICT, "-c", "-Os")
    data = built.read_bytes()
    assert b"one_lane" in data
    assert len(data) < 400_000
