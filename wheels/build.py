"""Builds the sdist and the wheels into dist/: `make wheels`, or python wheels/build.py [TARGET …] in an environment that has
wheels/requirements.txt.

zig compiles for every target (wheels/targets.py) on any machine. Equal sources, equal tools and the same Python give equal bytes:
the sdist is made of the files that git tracks, the wheels of the sdist; archives are written anew (archives.py), dated
SOURCE_DATE_EPOCH or the last commit. Whatever is wrong with a wheel (contents.py) stops the build.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import archives
import contents
import sbom
from targets import TARGETS, Target

ROOT = Path(__file__).resolve().parent.parent
# What the bill of materials names, beside this Python: what the bytes of a wheel depend on.
TOOLS = ("Cython", "numpy", "setuptools", "ziglang")
# Where there is no git: what is made, not written.
MADE = shutil.ignore_patterns(
    *(".*", "build", "dist", "*.egg-info", "__pycache__", "*.so", "*.o", "_core.c", "node_modules"),
)
# Left out of the commands' environment: they would reach into what is compiled.
MEDDLERS = ("CFLAGS", "CPPFLAGS", "LDFLAGS", "CPATH", "C_INCLUDE_PATH", "PYTHONPATH", "PYTHONHOME", "LIBRARY_PATH")


def build(folder: Path, kind: str, to: Path, variables: dict[str, str]) -> Path:
    """One run of `python -m build` ("sdist" or "wheel") in a source folder: the one file that it made."""
    environment = {key: value for key, value in os.environ.items() if key not in MEDDLERS} | variables
    command = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(to), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-6000:]}{done.stderr[-6000:]}")
    (made,) = to.iterdir()
    return made


def copy_sources(to: Path) -> None:
    """The files that git tracks, as they are now; without git all files but those that were made."""
    if not (ROOT / ".git").exists():
        shutil.copytree(ROOT, to, ignore=MADE)
        return
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def build_sdist(out: Path, date: int) -> Path:
    """fastlstm-<version>.tar.gz in ``out``."""
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder, "sources")
        copy_sources(sources)
        made = build(sources, "sdist", Path(folder, "made"), {"SOURCE_DATE_EPOCH": str(date)})
        archives.write_sdist(out / made.name, archives.read_sdist(made), date)
    return out / made.name


def compiler(target: Target, folder: Path) -> dict[str, str]:
    """The variables that make setuptools compile for ``target``, with zig's cache of objects below ``folder``."""
    zig = f"{sys.executable} -m ziglang cc -target {target.zig}"
    return {
        "CC": zig,
        # In full: the interpreter's own command may bring its RUNPATH. -s leaves out symbols and debugging information.
        "LDSHARED": f"{zig} -shared -s",
        "CFLAGS": f"-ffile-prefix-map={folder}=.",
        "ZIG_LOCAL_CACHE_DIR": str(folder / "zig"),
        "_PYTHON_HOST_PLATFORM": f"linux-{target.machine}",
    }


def build_wheel(target: Target, sdist: Path, out: Path, date: int) -> Path:
    """The wheel of a target in ``out``, from an sdist; RuntimeError where contents.py finds fault with it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        sources = archives.unpack_sdist(sdist, folder)
        variables = compiler(target, folder) | {"SOURCE_DATE_EPOCH": str(date)}
        files = archives.read_wheel(build(sources, "wheel", folder / "made", variables))
        (info,) = {entry.split("/")[0] for entry in files if ".dist-info/" in entry}
        version = info.removesuffix(".dist-info").partition("-")[2]
        files[f"{info}/WHEEL"] = archives.retagged(files[f"{info}/WHEEL"], target.tags)
        made_with = {tool: importlib.metadata.version(tool) for tool in TOOLS} | {"Python": platform.python_version()}
        files[f"{info}/sboms/fastlstm.cdx.json"] = sbom.bill(version, files, made_with, date)
        wheel = out / target.filename(version)
        archives.write_wheel(wheel, files, date)
        found = contents.faults(wheel, (str(folder), str(ROOT), sys.prefix, sys.base_prefix + "/lib", str(Path.home())))
    if found:
        wheel.unlink()
        raise RuntimeError(f"{wheel.name} is not as it must be:\n  " + "\n  ".join(found))
    return wheel


def build_all(names: Sequence[str], out: Path) -> list[Path]:
    """The sdist and the wheels for the named targets, in ``out``."""
    date = archives.source_date(ROOT)
    out.mkdir(parents=True, exist_ok=True)
    sdist = build_sdist(out, date)
    report(sdist)
    made = [sdist]
    for name in names:
        made.append(build_wheel(TARGETS[name], sdist, out, date))
        report(made[-1])
    return made


def report(path: Path) -> None:
    print(f"{path.stat().st_size:>9,}  {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}  {path.name}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Builds the sdist and wheels of fastlstm with zig.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"which of {', '.join(TARGETS)}; all without one")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder of the result (dist)")
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - set(TARGETS):
        parser.error(f"unknown targets {sorted(unknown)}; known are {', '.join(TARGETS)}")
    build_all(arguments.targets or list(TARGETS), arguments.out)


if __name__ == "__main__":
    main()
