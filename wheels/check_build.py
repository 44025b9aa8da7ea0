"""Builds everything once more, elsewhere and from nothing, and compares it with dist/; builds a wheel from the sdist alone.

`make check-wheels`, behind `make wheels`. The second is what `pip install` does on a machine for which there is no wheel: an
empty environment, an empty folder, the machine's compiler, and what pip fetches. Last, the C files compile for other platforms.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import build
import check_wheel
import emulation
from targets import TARGETS

DIST = build.ROOT / "dist"
# What wheels are built for elsewhere (pyproject.toml), as zig names it.
OTHER_PLATFORMS = ("aarch64-macos", "x86_64-macos", "x86_64-windows-gnu", "arm-linux-gnueabihf.2.17", "arm-linux-musleabihf")


def compare(folder: Path) -> None:
    """Exits where a second build has other bytes."""
    made = build.build_all(list(TARGETS), folder)
    different = [path.name for path in made if path.read_bytes() != (DIST / path.name).read_bytes()]
    if different:
        sys.exit(f"built twice, not the same bytes: {', '.join(different)}")
    print(f"{len(made)} files were built twice and have the same bytes")


def build_from_sdist(folder: Path) -> None:
    """The sdist becomes a wheel in an isolated environment, and the wheel answers the golden cases."""
    (sdist,) = DIST.glob("*.tar.gz")
    venv, made = folder / "bare", folder / "made"
    emulation.run([sys.executable, "-m", "venv", venv], env=check_wheel.clean_environment())
    pip: list[str | Path] = [venv / "bin/python", "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    emulation.run([*pip, "--no-binary", "fastlstm", "--wheel-dir", made, sdist], cwd=folder, env=check_wheel.clean_environment())
    (wheel,) = made.iterdir()
    python = check_wheel.install(Path(sys.executable), wheel, folder / "installed")
    environment = check_wheel.clean_environment()
    check_wheel.probe(wheel, "built from the sdist", [python], environment, check_wheel.native_isa(), folder)


def compile_for_others(folder: Path) -> None:
    """The C files, without Python's, compile for platforms that are built elsewhere: no warning in any of them."""
    flags = ["-O1", "-Wall", "-Werror", "-Wno-psabi", "-ffp-contract=off", "-Iinclude", "-Iinclude/fastlstm", "-Ipyx"]
    sources = sorted(path for path in (build.ROOT / "pyx").glob("*.c") if path.name != "_core.c")
    for platform in OTHER_PLATFORMS:
        for source in sources:
            zig = [sys.executable, "-m", "ziglang", "cc", "-target", platform]
            emulation.run([*zig, *flags, "-c", source, "-o", folder / "out.o"], cwd=build.ROOT)
        print(f"{len(sources)} C files compile for {platform}", flush=True)


def main() -> None:
    for step in (compile_for_others, build_from_sdist, compare):
        with tempfile.TemporaryDirectory() as name:
            step(Path(name).resolve())


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(str(error))
