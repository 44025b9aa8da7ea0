"""Tries wheels as their users will: python wheels/check_wheel.py WHEEL … in an environment that has wheels/requirements.txt.

Each file is read (contents.py, auditwheel, abi3audit, check-wheel-contents, the schema of the SBOM); then it is installed with
NumPy alone and must answer the golden cases of tests/data with the instruction set that the processor has: on every Python of
this machine, on processors without AVX-512 and AVX2 in qemu, on three aarch64 processors in qemu. Forward bits must be the same
on all instruction sets with multiply-adds. For musl there is no Python: there the module is loaded (musl.py).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import musl

import contents
import emulation
import pythons
from archives import read_wheel
from targets import Target, of_wheel

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
PROBE = Path(__file__).with_name("probe.py")
TOOLS = Path(sys.executable).parent
ARM_REQUIREMENTS = Path(__file__).with_name("requirements-aarch64.txt")
# qemu's processors, and the instruction set that must be chosen on each.
EMULATED = {
    "x86_64": {"Haswell": "avx2", "Haswell,-avx2": "generic", "Haswell,-fma": "generic"},
    "aarch64": {"cortex-a53": "neon", "cortex-a72": "neon", "neoverse-n1": "neon"},
}
FUSED = ("avx2", "avx512", "neon")  # one rounding in a multiply-add
AVX512 = {"avx512f", "avx512dq", "avx512bw", "avx512vl"}


class Trial:
    """One run of the probe: ``where`` in words, and its JSON."""

    def __init__(self, wheel: Path, where: str, told: dict[str, Any]):
        self.wheel, self.where, self.told = wheel, where, told

    def __str__(self) -> str:
        told, cases = self.told, self.told["cases"].values()
        off = max(case["off"] for case in cases if case["dtype"] == "float32")
        gradient = max(case["gradient_off"] for case in cases if case["dtype"] == "float32")
        return (
            f"{self.where}: {told['isa']}, Python {told['python']}, NumPy {told['numpy']}, {len(cases)} cases, float32 off by at "
            f"most {off:.1e} (gradients {gradient:.1e}), {told['seconds']:.0f} s"
        )


# -- reading the file ----------------------------------------------------------------------------------------------------------
def tool(name: str, *arguments: str | Path) -> str:
    """What a program of this environment printed; RuntimeError where it failed."""
    return emulation.run([TOOLS / name, *arguments], env={**os.environ, "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}"})


def check_file(wheel: Path, target: Target) -> None:
    """RuntimeError where the wheel is not as it must be."""
    if found := contents.faults(wheel):
        raise RuntimeError(f"{wheel.name}:\n  " + "\n  ".join(found))
    tool("check-wheel-contents", wheel)
    tool("abi3audit", "--strict", wheel)
    check_sbom(wheel)
    if target.libc == "glibc":
        # It would say manylinux_2_28 … where the module asked for younger functions.
        wanted = f"manylinux_2_17_{target.machine}"
        said = " ".join(tool("auditwheel", "show", wheel).split())
        best = re.search(r'following platform tag: "([^"]+)"', said)
        if best is None or best[1] not in (wanted, f"manylinux_2_5_{target.machine}", f"manylinux_2_12_{target.machine}"):
            raise RuntimeError(f"auditwheel does not find {wheel.name} fit for {wanted}: {said}")


def check_sbom(wheel: Path) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    ((name, text),) = [item for item in read_wheel(wheel).items() if "/sboms/" in item[0]]
    if errors := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text.decode()):
        raise RuntimeError(f"{wheel.name}: {name} does not follow its schema: {errors}")


def check_loading(wheel: Path, target: Target, folder: Path) -> None:
    """The module loads under musl, and finds what there is of instruction sets."""
    told = musl.load(wheel, target, folder)
    usable = [isa for isa in target.kernels if told[isa] == "1"]
    wanted = native_isa() if target.machine == platform.machine() else EMULATED[target.machine][musl.CPU]
    if usable[-1] != wanted or told["threads"] != "4":
        raise RuntimeError(f"{wheel.name} under musl: {told}, expected {wanted} and 4 threads")
    print(f"  loads under musl: {', '.join(usable)}, 4 threads; no layer was run, there is no Python on musl here", flush=True)


# -- running it ----------------------------------------------------------------------------------------------------------------
def clean_environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "FASTLSTM", "VIRTUAL_ENV"))}


def probe(wheel: Path, where: str, command: Sequence[str | Path], environment: dict[str, str], isa: str, folder: Path) -> Trial:
    """Runs the probe with a Python that has the wheel; RuntimeError where it finds fault."""
    result = folder / (re.sub(r"[^\w.-]+", "-", where) + ".json")
    emulation.run([*command, PROBE, TESTS, "--isa", isa, "--result", result], env=environment, cwd=folder)
    trial = Trial(wheel, where, json.loads(result.read_text()))
    print(f"  {trial}", flush=True)
    return trial


def native_isa() -> str:
    """The instruction set that must be chosen here, by the kernel's own account of the processor."""
    if platform.machine() == "aarch64":
        return "neon"
    text = Path("/proc/cpuinfo").read_text()
    flags = set(next(line for line in text.splitlines() if line.startswith("flags")).split())
    if {"avx2", "fma"} <= flags:
        return "avx512" if flags >= AVX512 else "avx2"
    return "generic"


def install(python: Path, wheel: Path, to: Path, *more: str) -> Path:
    """A new virtual environment with the wheel, NumPy and no more: its interpreter."""
    emulation.run([python, "-m", "venv", to], env=clean_environment())
    made = to / "bin/python"
    pip: list[str | Path] = [made, "-m", "pip", "--disable-pip-version-check"]
    emulation.run([*pip, "install", "--quiet", "--only-binary=:all:", wheel, *more], env=clean_environment())
    emulation.run([*pip, "check"], env=clean_environment())
    listed = json.loads(emulation.run([*pip, "list", "--format=json"], env=clean_environment()))
    names = {entry["name"] for entry in listed} - {"pip", "setuptools"}
    if names != {"fastlstm", "numpy"}:
        raise RuntimeError(f"the wheel brought {sorted(names)}, expected fastlstm and NumPy")
    return made


def oldest_numpy(wheel: Path) -> str:
    """The oldest release of NumPy that METADATA allows."""
    (text,) = [content.decode() for name, content in read_wheel(wheel).items() if name.endswith(".dist-info/METADATA")]
    allowed = re.search(r"^Requires-Dist: numpy>=([\d.]+)$", text, re.MULTILINE)
    if allowed is None:
        raise RuntimeError(f"{wheel.name} names no oldest NumPy")
    return allowed[1]


def native_trials(wheel: Path, more: Sequence[Path], folder: Path) -> Iterator[Trial]:
    """On every Python of this machine; on the oldest of them with the oldest NumPy too."""
    for number, python in enumerate(pythons.find(more)):
        if python.refusal:
            print(f"  {python}: not tried, {python.refusal}")
            continue
        made = install(python.executable, wheel, folder / f"venv{number}")
        yield probe(wheel, f"{python}", [made], clean_environment(), native_isa(), folder)
        if number == 0:
            made = install(python.executable, wheel, folder / "venv-old", f"numpy=={oldest_numpy(wheel)}.*")
            yield probe(wheel, f"{python}, oldest NumPy", [made], clean_environment(), native_isa(), folder)


def emulated_x86(wheel: Path, folder: Path) -> Iterator[Trial]:
    made = folder / "venv0/bin/python"
    # NumPy's OpenBLAS goes by the name of the processor and would run AVX2 on a Haswell that lacks it.
    environment = clean_environment() | {"OPENBLAS_CORETYPE": "NEHALEM"}
    for cpu, isa in EMULATED["x86_64"].items():
        command: list[str | Path] = [emulation.emulator("x86_64"), "-cpu", cpu, made]
        yield probe(wheel, f"qemu {cpu}", command, environment, isa, folder)


def emulated_arm(wheel: Path, folder: Path) -> Iterator[Trial]:
    arm = emulation.arm_python(ARM_REQUIREMENTS)
    site = folder / "wheel"
    emulation.pip_install_arm(arm, site, "--no-deps", wheel)
    environment = arm.environment(PYTHONPATH=os.pathsep.join([str(site), str(arm.numpy_only(folder))]))
    for cpu, isa in EMULATED["aarch64"].items():
        yield probe(wheel, f"qemu {cpu}", [arm.interpreter(cpu)], environment, isa, folder)


def check(wheel: Path, more: Sequence[Path], folder: Path) -> list[Trial]:
    """All that can be tried with a wheel here."""
    target = of_wheel(wheel.name)
    print(f"{wheel.name}", flush=True)
    check_file(wheel, target)
    print(f"  the file is as it must be: {wheel.stat().st_size:,} bytes", flush=True)
    if target.libc == "musl":
        check_loading(wheel, target, folder)
        return []
    native = target.machine == platform.machine()
    trials = list(native_trials(wheel, more, folder)) if native else []
    if native and not trials:
        raise RuntimeError("no Python from 3.11 on was found")
    if target.machine == "x86_64":
        return trials + (list(emulated_x86(wheel, folder)) if native else [])
    return trials + list(emulated_arm(wheel, folder))


def compare_bits(trials: Sequence[Trial]) -> list[str]:
    """Forward bits of all cases on compiled kernels, by instruction set with multiply-adds: which differ, in words."""
    fused = [trial for trial in trials if trial.told["isa"] in FUSED]
    if len({trial.told["isa"] for trial in fused}) < 2:
        print("bits: fewer than two instruction sets with multiply-adds have run, nothing to compare")
        return []
    first, *others = fused
    compiled = [name for name, case in first.told["cases"].items() if "stepwise" not in case["kernels"]]
    wrong, gradients = [], set()
    for trial in others:
        for name in compiled:
            a, b = first.told["cases"][name], trial.told["cases"][name]
            if a["forward"] != b["forward"]:
                wrong.append(f"{name} has other bits in {trial.where} ({trial.told['isa']}) than in {first.where}")
            if a["gradient"] != b["gradient"]:
                gradients.add(name)
    names = ", ".join(sorted({trial.told["isa"] for trial in fused}))
    print(f"bits: {len(compiled)} cases on {names}: {len(wrong)} differences forward, gradients of {len(gradients)} cases differ")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description="Reads, installs and runs wheels of fastlstm.")
    parser.add_argument("wheels", nargs="+", type=Path, metavar="WHEEL")
    parser.add_argument("--python", action="append", type=Path, default=[], help="one more interpreter to try")
    arguments = parser.parse_args()
    trials = []
    for wheel in arguments.wheels:
        with tempfile.TemporaryDirectory() as folder:
            trials += check(wheel.resolve(), arguments.python, Path(folder).resolve())
    if wrong := compare_bits(trials):
        sys.exit("\n".join(wrong[:40]))


if __name__ == "__main__":
    main()
