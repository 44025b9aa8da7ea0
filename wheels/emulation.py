"""Other processors on this one: qemu's user emulators, and an aarch64 root with Python and NumPy, fetched once into a cache.

Needs a Debian or one of its kin (apt-get, dpkg-deb) with its package lists within reach; nothing is installed on the machine, no
root rights are used. In terms of paths and commands; used by check_wheel.py and test_aarch64.py.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache-aarch64"
# What the root for aarch64 gets, with all that they depend on.
DEBIAN_PACKAGES = ("python3", "libpython3-stdlib", "libstdc++6")  # NumPy's BLAS wants the last
# NumPy's wheels for aarch64 have had these tags.
PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_27_aarch64", "manylinux_2_28_aarch64")


def run(command: list[str | Path], **keywords: object) -> str:
    """Standard output of a command; RuntimeError with all that it said where it failed."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **keywords)  # type: ignore[call-overload]
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} failed ({done.returncode}):\n{done.stdout}{done.stderr}")
    return done.stdout


# -- Debian's packages -----------------------------------------------------------------------------------------------------
def _apt(folder: Path, architecture: str) -> list[str]:
    """apt-get with all its state below ``folder``, for one architecture, on the sources that this machine uses."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise RuntimeError(f"setting up an emulator needs {tool}, which this machine lacks")
    for part in ("state/lists/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "state/status").touch()
    options = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "",
        "Dir::State": folder / "state",
        "Dir::State::status": folder / "state/status",
        "Dir::Cache": folder / "cache",
        "Debug::NoLocking": "1",
    }
    return ["apt-get", "-q", *(f"-o{key}={value}" for key, value in options.items())]


def _debian_architecture() -> str:
    return run(["dpkg", "--print-architecture"]).strip()


def unpack_debian(packages: tuple[str, ...], architecture: str, dependencies: bool, to: Path) -> None:
    """Fetches Debian packages (and what they depend on) and unpacks them below ``to``, which is complete or not there."""
    folder = to.with_name(f"{to.name}.apt")
    apt = _apt(folder, architecture)
    run([*apt, "update"])
    archives = folder / "cache/archives"
    if dependencies:
        run([*apt, "-y", "--no-install-recommends", "--download-only", "install", *packages])
    else:
        run([*apt, "download", *packages], cwd=archives)
    partial = to.with_name(f"{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for archive in sorted(archives.glob("*.deb")):
        run(["dpkg-deb", "-x", archive, partial])
    partial.rename(to)
    shutil.rmtree(folder)


# -- emulators -------------------------------------------------------------------------------------------------------------
def emulator(machine: str) -> Path:
    """qemu's user emulator for "x86_64" or "aarch64": the machine's own, else one in the cache."""
    for name in (f"qemu-{machine}-static", f"qemu-{machine}"):
        if found := shutil.which(name):
            return Path(found)
    tools = CACHE / "qemu"
    if not tools.exists():
        print("fetching qemu-user-static", file=sys.stderr)
        CACHE.mkdir(exist_ok=True)
        unpack_debian(("qemu-user-static",), _debian_architecture(), False, tools)
        for other in (tools / "usr/bin").iterdir():  # three dozen of them, 370 MB
            if other.name not in ("qemu-x86_64-static", "qemu-aarch64-static"):
                other.unlink()
    return tools / f"usr/bin/qemu-{machine}-static"


class Arm:
    """An aarch64 Python: ``command`` starts it, ``site`` is the folder of its packages."""

    def __init__(self, root: Path, site: Path, qemu: Path | None):
        self.root, self.site, self.qemu = root, site, qemu
        (self.python,) = (root / "usr/bin").glob("python3.[0-9]*[0-9]")

    def interpreter(self, cpu: str) -> Path:
        """A program that is Python on a processor that qemu knows by name (cortex-a53, cortex-a72, neoverse-n1, max …).

        It stands beside the true one and passes for ``sys.executable``, so that an emulated test can start others.
        """
        if self.qemu is None:
            return self.python
        script = self.python.with_name(f"python-{cpu}")
        words = [str(self.qemu), "-cpu", cpu, "-L", str(self.root), "-0", str(script), str(self.python)]
        script.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
        script.chmod(0o755)
        return script

    def numpy_only(self, folder: Path) -> Path:
        """A folder below ``folder`` through which of all packages NumPy alone can be imported."""
        only = folder / "numpy-only"
        only.mkdir()
        for name in ("numpy", "numpy.libs"):
            (only / name).symlink_to(self.site / name)
        return only

    def environment(self, **variables: str) -> dict[str, str]:
        """Only what the emulated Python needs: nothing of this machine's Python reaches it."""
        kept = {key: os.environ[key] for key in ("HOME", "PATH", "TMPDIR") if key in os.environ}
        return kept | {"PYTHONPATH": str(self.site), "PYTHONDONTWRITEBYTECODE": "1"} | variables


def arm_python(requirements: Path) -> Arm:
    """The aarch64 root with Python, and the packages of a requirements file; made at the first call."""
    qemu = None if platform.machine() == "aarch64" else emulator("aarch64")
    root, site = CACHE / "root", CACHE / "site"
    if not root.exists():
        print("fetching Python for aarch64", file=sys.stderr)
        CACHE.mkdir(exist_ok=True)
        unpack_debian(DEBIAN_PACKAGES, "arm64", True, root)
    arm = Arm(root, site, qemu)
    stamp = CACHE / "requirements.txt"
    if not stamp.exists() or stamp.read_text() != requirements.read_text():
        print("fetching NumPy and pytest for aarch64", file=sys.stderr)
        shutil.rmtree(site, ignore_errors=True)
        pip_install_arm(arm, site, "--requirement", requirements)
        shutil.copyfile(requirements, stamp)
    return arm


def pip_install_arm(arm: Arm, to: Path, *what: str | Path) -> None:
    """Installs packages for the aarch64 Python into a folder, with this machine's pip: wheels only, nothing of them is run."""
    version = arm.python.name.removeprefix("python")
    tags = [word for tag in (*PLATFORMS, "any") for word in ("--platform", tag)]
    abis = [word for abi in (f"cp{version.replace('.', '')}", "abi3", "none") for word in ("--abi", abi)]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--target", str(to)]
    command += ["--only-binary=:all:", "--python-version", version, "--implementation", "cp"]
    run([*command, *tags, *abis, *what])
