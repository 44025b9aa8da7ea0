"""The wheels that build.py makes: for each its compiler target, its tags, and what its extension module must and may hold."""

from __future__ import annotations

import dataclasses

# Kernel tables that an extension module for a processor must export, "generic" besides.
KERNELS = {"x86_64": ("avx2", "avx512"), "aarch64": ("neon",)}
PYTHON_TAG, ABI_TAG = "cp311", "abi3"
LARGEST = 1_500_000  # bytes of a wheel


@dataclasses.dataclass(frozen=True)
class Target:
    """One wheel. ``zig``: what the compiler is told, always by name (its default is the processor that it runs on)."""

    machine: str
    libc: str
    zig: str
    platforms: tuple[str, ...]
    libraries: frozenset[str]

    @property
    def name(self) -> str:
        """As its users know it: "manylinux2014_x86_64" …"""
        return self.platforms[0]

    @property
    def kernels(self) -> tuple[str, ...]:
        return ("generic", *KERNELS[self.machine])

    @property
    def tags(self) -> list[str]:
        return [f"{PYTHON_TAG}-{ABI_TAG}-{platform}" for platform in self.platforms]

    def filename(self, version: str) -> str:
        return f"fastlstm-{version}-{PYTHON_TAG}-{ABI_TAG}-{'.'.join(self.platforms)}.whl"


def _targets(machine: str) -> list[Target]:
    manylinux = (f"manylinux2014_{machine}", f"manylinux_2_17_{machine}")
    # Names that manylinux2014 (PEP 599) grants; with musl all of the C library is one file.
    glibc = frozenset({"libc.so.6", "libm.so.6", "libpthread.so.0"})
    return [
        Target(machine, "glibc", f"{machine}-linux-gnu.2.17", manylinux, glibc),
        Target(machine, "musl", f"{machine}-linux-musl", (f"musllinux_1_2_{machine}",), frozenset({"libc.so"})),
    ]


TARGETS = {target.name: target for machine in KERNELS for target in _targets(machine)}


def of_wheel(filename: str) -> Target:
    """The target whose tags a wheel's file name ends in; ValueError where there is none."""
    for target in TARGETS.values():
        if filename.endswith(f"-{PYTHON_TAG}-{ABI_TAG}-{'.'.join(target.platforms)}.whl"):
            return target
    raise ValueError(f"{filename} is no wheel of wheels/targets.py; known are {', '.join(TARGETS)}")
