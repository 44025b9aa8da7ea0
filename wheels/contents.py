"""What a wheel of ours must be, read from the file itself: tags, licence, SBOM, and the machine code of its extension module.

``faults(path)`` returns sentences, none where all is right. Used by build.py on what it made and by check_wheel.py.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile

from archives import read_wheel, record
from machine_code import COUNTERS
from targets import KERNELS, LARGEST, Target, of_wheel

# Machine instructions of one kind that make a module's kernels believable; each has tens of thousands of bytes of them.
FEWEST = 200
MACHINES = {"x86_64": "x64", "aarch64": "AArch64"}


# -- the extension module ------------------------------------------------------------------------------------------------------
def musl_names() -> frozenset[str]:
    """Every function of musl: the stubs that zig links with."""
    spec = importlib.util.find_spec("ziglang")
    assert spec is not None, "ziglang is not installed"
    assert spec.origin is not None
    text = (Path(spec.origin).parent / "lib/libc/musl/libc.S").read_text()
    return frozenset(re.findall(r"^(\w+):", text, re.MULTILINE))


def dynamic_faults(elf: ELFFile, target: Target) -> Iterator[str]:
    """What the loader will do: which libraries, from where."""
    section = elf.get_section_by_name(".dynamic")
    if not isinstance(section, DynamicSection):
        yield "there is no .dynamic section"
        return
    tags = list(section.iter_tags())
    for tag in tags:
        if tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH", "DT_TEXTREL"):
            yield f"{tag.entry.d_tag} is set"
    needed = {tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED"}
    if needed - target.libraries or not needed:
        yield f"the libraries {sorted(needed)} are needed, expected some of {sorted(target.libraries)}"
    for segment in elf.iter_segments():
        if segment.header.p_type == "PT_GNU_STACK" and segment.header.p_flags & 1:
            yield "the stack is executable"


def symbol_faults(elf: ELFFile, target: Target) -> Iterator[str]:
    """Exported kernel tables, those of the target and no others; with musl also that it has every function that is asked for."""
    symbols = list(elf.get_section_by_name(".dynsym").iter_symbols())
    exported = {symbol.name for symbol in symbols if symbol.entry.st_shndx != "SHN_UNDEF"}
    wanted = {f"fl_kernels_f{bits}_{isa}" for bits in (32, 64) for isa in target.kernels}
    tables = {name for name in exported if name.startswith("fl_kernels_")}
    if tables != wanted:
        yield f"it exports the kernel tables {sorted(tables)}, expected {sorted(wanted)}"
    if "PyInit__core" not in exported:
        yield "it does not export PyInit__core"
    if target.libc == "musl":
        undefined = {s.name for s in symbols if s.entry.st_shndx == "SHN_UNDEF" and s.name and not re.match(r"_?Py", s.name)}
        if unknown := undefined - musl_names():
            yield f"musl has no {sorted(unknown)}"


def module_faults(content: bytes, target: Target) -> Iterator[str]:
    """What is wrong with an extension module for ``target``."""
    elf = ELFFile(io.BytesIO(content))
    if elf.get_machine_arch() != MACHINES[target.machine]:
        yield f"it is for {elf.get_machine_arch()}"
        return
    names = {section.name for section in elf.iter_sections()}
    if spare := {name for name in names if name in (".symtab", ".strtab") or name.startswith(".debug")}:
        yield f"it is not stripped: {sorted(spare)}"
    yield from dynamic_faults(elf, target)
    yield from symbol_faults(elf, target)
    code = elf.get_section_by_name(".text").data()
    for isa in KERNELS[target.machine]:
        if (count := COUNTERS[isa](code)) < FEWEST:
            yield f"it has {count} multiply-adds of {isa}, expected {FEWEST} or more"


# -- the wheel -----------------------------------------------------------------------------------------------------------------
def metadata_faults(files: dict[str, bytes], target: Target) -> Iterator[str]:
    """Licence, SBOM, tags and RECORD."""
    (info,) = {name.split("/")[0] for name in files if name.split("/")[0].endswith(".dist-info")}
    for name in ("licenses/LICENSE", "sboms/fastlstm.cdx.json", "METADATA", "WHEEL", "RECORD"):
        if f"{info}/{name}" not in files:
            yield f"{name} is missing"
            return
    tags = re.findall(r"^Tag: (.*)$", files[f"{info}/WHEEL"].decode(), re.MULTILINE)
    if tags != target.tags:
        yield f"WHEEL has the tags {tags}, expected {target.tags}"
    if "License-Expression: BSD-3-Clause" not in files[f"{info}/METADATA"].decode().splitlines():
        yield "METADATA does not name the licence"
    if json.loads(files[f"{info}/sboms/fastlstm.cdx.json"]).get("bomFormat") != "CycloneDX":
        yield "the SBOM is not CycloneDX"
    name = f"{info}/RECORD"
    rows = [list(csv.reader(io.StringIO(text.decode()))) for text in (files[name], record(files, name))]
    if sorted(rows[0]) != sorted(rows[1]):
        yield "RECORD does not fit the files"


def faults(path: Path, forbidden: Iterable[str] = ()) -> list[str]:
    """All that is wrong with a wheel; ``forbidden`` are texts (paths of the builder) that none of its files may hold."""
    target, files, found = of_wheel(path.name), read_wheel(path), []
    if path.stat().st_size > LARGEST:
        found.append(f"it has {path.stat().st_size} bytes, allowed are {LARGEST}")
    modules = [name for name in files if name.endswith(".so")]
    if modules != ["fastlstm/_core.abi3.so"]:
        found.append(f"its modules are {modules}")
    for name in modules:
        found += [f"{name}: {text}" for text in module_faults(files[name], target)]
    found += metadata_faults(files, target)
    for text in forbidden:
        found += [f"{name} names the builder's {text}" for name, content in files.items() if text.encode() in content]
    if strange := {name for name in files if not name.startswith(("fastlstm/", "fastlstm-"))}:
        found.append(f"it holds {sorted(strange)}")
    return found
