"""Loads the module of a musllinux wheel under musl's own loader: there is no Python on musl, so a library stands in for it.

Shows that the module loads, finds the processor's instruction set and starts threads; no layer is run. Used by check_wheel.py.
"""

from __future__ import annotations

import io
import platform
import re
import sys
from pathlib import Path

from elftools.elf.elffile import ELFFile

import emulation
from archives import read_wheel
from targets import Target

SOURCE = Path(__file__).with_name("musl_load.c")
DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}
CPU = "cortex-a53"


def loader(machine: str) -> Path:
    """musl's loader, which is its C library too, from Debian's package."""
    root = emulation.CACHE / f"musl-{machine}"
    if not root.exists():
        print("fetching musl", file=sys.stderr)
        emulation.CACHE.mkdir(exist_ok=True)
        emulation.unpack_debian(("musl",), DEBIAN[machine], False, root)
    return root / f"lib/{machine}-linux-musl/libc.so"


def python_names(module: bytes) -> list[str]:
    """What of Python a module asks for."""
    symbols = ELFFile(io.BytesIO(module)).get_section_by_name(".dynsym").iter_symbols()
    return sorted(s.name for s in symbols if s.entry.st_shndx == "SHN_UNDEF" and re.match(r"_?Py", s.name))


def load(wheel: Path, target: Target, folder: Path) -> dict[str, str]:
    """{"avx2": "1", …, "threads": "4"}: what musl_load.c printed; RuntimeError where the module does not load."""
    module, stub, program = folder / "_core.abi3.so", folder / "stub.so", folder / "load"
    module.write_bytes(read_wheel(wheel)["fastlstm/_core.abi3.so"])
    source = folder / "stub.c"
    source.write_text("".join(f"char {name}[512];\n" for name in python_names(module.read_bytes())))
    zig: list[str | Path] = [sys.executable, "-m", "ziglang", "cc", "-target", target.zig, "-O1"]
    emulation.run([*zig, "-shared", source, "-o", stub])
    emulation.run([*zig, "-dynamic", "-Wall", "-Wextra", "-Werror", SOURCE, "-o", program])
    native = target.machine == platform.machine()
    before: list[str | Path] = [] if native else [emulation.emulator(target.machine), "-cpu", CPU]
    told = emulation.run([*before, loader(target.machine), program, stub, module])
    return dict(line.split(" ", 1) for line in told.splitlines())
