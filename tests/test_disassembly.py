"""What the compiler made of the kernels: every tile keeps its sums in registers; nothing is fused or estimated unasked.

The kernels of each instruction set are compiled to assembly with the flags of setup.py and read as text: mnemonics, operands and
the labels that the loops jump back to. NEON is read on aarch64, or through a cross compiler where there is one.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MACHINES = {"x86_64": "x86", "AMD64": "x86", "aarch64": "arm", "arm64": "arm"}
HERE = MACHINES.get(platform.machine(), "other")
# The tiles of gate_panel.h (blocks x rows), the row vectors of row_lanes.h, and the registers that the sums live in.
SIX_ROWS = ("1x1", "1x2", "1x3", "1x4", "1x5", "1x6", "2x1", "3x1")
THREE_ROWS = ("1x1", "1x2", "1x3", "2x1")
KERNELS = {
    "avx512": ("x86", SIX_ROWS, 4, r"%zmm\d+"),
    "avx2": ("x86", THREE_ROWS, 2, r"%ymm\d+"),
    "neon": ("arm", SIX_ROWS, 4, r"\bv\d+"),
}
# What takes those tiles: the forward step, a product, a weight gradient (gate_backward.h); a narrow product has vectors x rows.
KINDS = ("step", "project", "outer")
# A single row (single_row.h) takes those of one row, and one that fetches ahead; a padded panel has products of its own.
NARROW = (*(f"1x{rows}" for rows in range(1, 9)), *(f"2x{rows}" for rows in range(1, 6)))
# What makes the compiler take the processor for one with multiply-adds.
MULTIPLY_ADD = ("-mfma",) if HERE == "x86" else ()
CONTRACTED = ("-O2", "-ffp-contract=fast")
FMA = re.compile(r"vfn?m(add|sub)|fml[as]|fn?m(add|sub)")
ESTIMATE = re.compile(r"v?rcp|v?rsqrt|frecp|frsqrt|urecpe|ursqrte")
DIVISION = re.compile(r"v?div|fdiv")
CALL = re.compile(r"call|blr?$")


def tiles_of(isa, tiles):
    """Pairs of a kind and its tiles."""
    yield from ((kind, tiles) for kind in KINDS)
    yield "row", ("1x1", "2x1", "3x1")
    yield "narrow", NARROW
    if isa == "avx512":
        yield "padded", [tile for tile in tiles if tile != "1x6"]


CASES = [
    pytest.param(isa, bits, kind, tile, id=f"{isa}-f{bits}-{kind}_{tile}")
    for isa, (_, tiles, _, _) in KERNELS.items()
    for bits in (32, 64)
    for kind, sizes in tiles_of(isa, tiles)
    for tile in sizes
]


# -- compiling ----------------------------------------------------------------------------------------------------------------
def flags_of_setup():
    """The compile flags of setup.py for gcc and clang: the list of texts there that switches contraction off."""
    lists = [node for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())) if isinstance(node, ast.List)]
    texts = [[item.value for item in node.elts if isinstance(item, ast.Constant)] for node in lists]
    (flags,) = [found for found in texts if "-ffp-contract=off" in found]
    return flags


def native_compiler():
    """The command that builds extension modules here, or a skip."""
    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs the C compiler that built Python: {command[0]} is not there")
    return [*command, *shlex.split(sysconfig.get_config_var("CFLAGS") or ""), "-fPIC"]


def arm_compiler():
    """A cross compiler for aarch64, or a skip."""
    if shutil.which("aarch64-linux-gnu-gcc"):
        return ["aarch64-linux-gnu-gcc", "-fPIC"]
    if importlib.util.find_spec("ziglang"):
        zig = [sys.executable, "-m", "ziglang"]
    elif shutil.which("zig"):
        zig = ["zig"]
    else:
        pytest.skip(f"NEON on {platform.machine()} needs a cross compiler: aarch64-linux-gnu-gcc, zig or the package ziglang")
    return [*zig, "cc", "-target", "aarch64-linux-gnu", "-fPIC"]


def compiler_for(family):
    if family == HERE:
        return native_compiler()
    if family == "arm":
        return arm_compiler()
    pytest.skip(f"the kernels for {family} cannot be compiled on {platform.machine()}")


def compiled(isa, family, *extra):
    """{function: body} of pyx/kernels_<isa>.c; see ``functions``."""
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder) / "kernels.s"
        command = [*compiler_for(family), *flags_of_setup(), *extra, "-g0", "-S", f"-I{ROOT / 'include'}"]
        command += [f"-I{ROOT / 'include/fastlstm'}", str(ROOT / f"pyx/kernels_{isa}.c"), "-o", str(to)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr[-3000:]}"
        return functions(to.read_text(), family)


@functools.cache
def compilations():
    """All that the tests below ask for, by its arguments, compiled side by side from the first need on."""
    wanted = [(isa, family) for isa, (family, *_) in KERNELS.items()]
    wanted += [("generic", HERE, *MULTIPLY_ADD), ("generic", HERE, *MULTIPLY_ADD, *CONTRACTED)]
    pool = ThreadPoolExecutor(os.cpu_count())
    running = {arguments: pool.submit(compiled, *arguments) for arguments in wanted}
    pool.shutdown(wait=False)
    return running


def assembly(*arguments):
    """As ``compiled``, which says no (a skip) where there is no compiler; every text is compiled once."""
    return compilations()[arguments].result()


# -- reading ------------------------------------------------------------------------------------------------------------------
def functions(text, family):
    """{name: [(mnemonic, operands) or (label, None), …]}; a clone's suffix (".constprop.0") does not belong to the name."""
    comment = re.compile(r"\s*#.*" if family == "x86" else r"\s*(//|;).*")
    found: dict[str, list] = {}
    body = None
    for line in text.splitlines():
        line = comment.sub("", line)
        if name := re.match(r"_?(fl_\w+)(\.(?!cold)[\w.]+)?:", line):
            body = found.setdefault(name[1], [])
        elif label := re.match(r"([\w.$]+):", line):
            if body is not None and not label[1].endswith(".cold"):
                body.append((label[1], None))
        elif re.match(r"\s*\.(size|cfi_endproc)\b", line):
            body = None
        elif body is not None and line.strip() and not line.strip().startswith("."):
            mnemonic, *operands = line.split(None, 1)
            body.append((mnemonic, operands[0] if operands else ""))
    return found


def innermost_loops(body):
    """Bodies of the loops of a function that hold no other loop: from the target of a backward jump to the jump."""
    at = {word: k for k, (word, operands) in enumerate(body) if operands is None}
    spans = []
    for k, (_, operands) in enumerate(body):
        target = at.get((operands or "").split(",")[-1].strip())
        if target is not None and target <= k:
            spans.append((target, k))
    inner = {a for a in spans if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in spans)}
    return [[line for line in body[first : last + 1] if line[1] is not None] for first, last in sorted(inner)]


def multiply_loops(body):
    """The innermost loops with multiply-adds that are not the cell's: a cell divides, or calls its activation."""
    return [
        loop
        for loop in innermost_loops(body)
        if any(FMA.match(word) for word, _ in loop) and not any(DIVISION.match(word) or CALL.match(word) for word, _ in loop)
    ]


def stack_references(loop, body):
    """Lines of a loop that touch the stack; the frame pointer counts where the function uses it as one."""
    framed = any(re.fullmatch(r"%rsp, *%rbp|x29, *sp.*", operands or "") for _, operands in body)
    stack = re.compile(r"\(%rsp|\[sp" + (r"|\(%rbp|\[x29" if framed else ""))
    return [line for line in loop if stack.search(line[1])]


def listing(loop):
    return "\n".join(f"  {word:<16}{operands}" for word, operands in loop)


def check_loop(loop, body, register):
    """All sums of a multiply loop stay in full registers."""
    assert not stack_references(loop, body), f"the loop touches the stack:\n{listing(loop)}"
    for word, operands in loop:
        if FMA.match(word):
            assert re.search(register, operands), f"{word} {operands} does not work on whole registers:\n{listing(loop)}"


def body_of(isa, name):
    found = assembly(isa, KERNELS[isa][0])
    assert name in found, f"{name} is not among the functions of pyx/kernels_{isa}.c"
    return found[name]


# -- the tiles ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("isa", "bits", "kind", "tile"), CASES)
def test_a_tile_keeps_its_sums_in_registers(isa, bits, kind, tile):
    """4 gates x blocks x rows multiply-adds a turn (or that many several times over, unrolled), and no access to the stack.

    A narrow tile has vectors x rows of them.
    """
    body = body_of(isa, f"fl_{kind}_{tile}_f{bits}_{isa}")
    wide, rows = map(int, tile.split("x"))
    sums = wide * rows if kind == "narrow" else 4 * wide * rows
    loops = multiply_loops(body)
    assert loops
    for loop in loops:
        count = sum(bool(FMA.match(word)) for word, _ in loop)
        assert count % sums == 0, f"{count} multiply-adds:\n{listing(loop)}"
        check_loop(loop, body, KERNELS[isa][3])


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("isa", KERNELS)
def test_a_tile_of_lanes_keeps_its_sums_in_registers(isa, bits):
    """One function holds the tiles of all heights: 4 gates x vectors multiply-adds a turn, each height there."""
    body = body_of(isa, f"fl_step_lanes_f{bits}_{isa}")
    counts = set()
    for loop in multiply_loops(body):
        counts.add(sum(bool(FMA.match(word)) for word, _ in loop))
        check_loop(loop, body, KERNELS[isa][3])
    vectors = KERNELS[isa][2]
    assert counts >= {4 * v for v in range(2, vectors + 1)}
    assert all(count % 4 == 0 for count in counts)


@pytest.mark.parametrize("bits", [32, 64])
def test_a_tile_that_fetches_ahead_keeps_its_sums_in_registers(bits):
    """Vectors of 64 bytes only; the others never take it."""
    isa = "avx512"
    body = body_of(isa, f"fl_row_ahead_f{bits}_{isa}")
    loops = multiply_loops(body)
    assert loops
    for loop in loops:
        check_loop(loop, body, KERNELS[isa][3])


@pytest.mark.parametrize("isa", KERNELS)
def test_there_are_no_other_tiles(isa):
    family, tiles, _, _ = KERNELS[isa]
    matches = [re.fullmatch(rf"fl_([a-z]+)_(\dx\d)_f(32|64)_{isa}", name) for name in assembly(isa, family)]
    found = sorted(match.groups() for match in matches if match)
    wanted = [(kind, tile) for kind, sizes in tiles_of(isa, tiles) for tile in sizes]
    assert found == sorted((kind, tile, bits) for kind, tile in wanted for bits in ("32", "64"))


# -- the whole of the kernels -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("isa", [*KERNELS, "generic"])
def test_no_estimates(isa):
    """A reciprocal (root) estimate differs from processor to processor."""
    found = assembly(isa, KERNELS[isa][0]) if isa in KERNELS else assembly(isa, HERE, *MULTIPLY_ADD)
    words = {word for body in found.values() for word, operands in body if operands is not None}
    assert len(words) > 50
    assert not [word for word in words if ESTIMATE.match(word)]


def fused(found):
    return [
        f"{name}: {word} {operands}" for name, body in found.items() for word, operands in body if operands and FMA.match(word)
    ]


def test_contraction_is_off():
    """The generic kernels ask for no multiply-add: where the processor has one, only contraction could bring it in."""
    if HERE == "other":
        pytest.skip(f"not known whether {platform.machine()} has multiply-adds")
    assert fused(assembly("generic", HERE, *MULTIPLY_ADD)) == []
    assert fused(assembly("generic", HERE, *MULTIPLY_ADD, *CONTRACTED)) != []


def test_no_flag_lets_the_compiler_change_arithmetic():
    forbidden = {"-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-fassociative-math", "-freciprocal-math"}
    assert not forbidden & {*flags_of_setup(), *shlex.split(sysconfig.get_config_var("CFLAGS") or "")}


# -- the reader itself --------------------------------------------------------------------------------------------------------
SPILL = """
fl_step_1x1_f32_avx512.constprop.0:
	pushq	%rbp
	movq	%rsp, %rbp
.L3:
	vdivps	%zmm1, %zmm2, %zmm3
	vfmadd231ps	%zmm1, %zmm2, %zmm3
	jne	.L3
.L2:
	vmovups	(%rax), %zmm1	# a comment
.L1:
	vfmadd231ps	(%rax){1to16}, %zmm1, %zmm2
	vmovaps	%zmm2, -80(%rbp)
	jne	.L1
	ja	.L2
	ret
	.size	fl_step_1x1_f32_avx512.constprop.0, .-fl_step_1x1_f32_avx512.constprop.0
"""


def test_a_spill_is_seen():
    body = functions(SPILL, "x86")["fl_step_1x1_f32_avx512"]
    (loop,) = multiply_loops(body)
    assert [word for word, _ in loop] == ["vfmadd231ps", "vmovaps", "jne"]
    assert stack_references(loop, body) == [("vmovaps", "%zmm2, -80(%rbp)")]
    assert not stack_references(loop, loop)  # without a frame %rbp is a register like any other
    with pytest.raises(AssertionError, match="touches the stack"):
        check_loop(loop, body, r"%zmm\d+")
    with pytest.raises(AssertionError, match="whole registers"):
        check_loop(loop[:1], body, r"%ymm\d+")
