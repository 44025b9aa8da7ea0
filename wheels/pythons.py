"""Finds the Pythons of this machine that a cp311-abi3 wheel is for: on PATH, among pyenv's, uv's and conda's.

In terms of interpreters; used by check_wheel.py.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

OLDEST = (3, 11)
NAME = re.compile(r"python3(\.\d+)?t?")
QUESTION = """
import importlib.util, json, sys, sysconfig
print(json.dumps({
    "executable": sys.executable, "base": sys.base_prefix, "version": list(sys.version_info[:3]),
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")), "venv": importlib.util.find_spec("ensurepip") is not None,
    "implementation": sys.implementation.name, "virtual": sys.prefix != sys.base_prefix,
}))
"""


@dataclasses.dataclass(frozen=True)
class Python:
    """An interpreter; ``refusal`` says why the wheel cannot be tried with it, None where it can."""

    executable: Path
    version: tuple[int, ...]
    refusal: str | None

    def __str__(self) -> str:
        return f"Python {'.'.join(map(str, self.version))} ({self.executable})"


def _places() -> Iterator[Path]:
    """Folders that may hold interpreters."""
    yield from (Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder)
    home = Path.home()
    roots = [
        Path(os.environ.get("PYENV_ROOT") or home / ".pyenv") / "versions",
        Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or home / ".local/share/uv/python"),
        *(home / name / "envs" for name in ("miniconda3", "miniforge3", "anaconda3")),
        Path("/opt"),
    ]
    for root in roots:
        yield from sorted(root.glob("*/bin"))


def _ask(executable: Path) -> Python | None:
    """What an interpreter says of itself; None where it does not answer (a shim with no version behind it) or is a venv's."""
    asked = subprocess.run([executable, "-I", "-c", QUESTION], capture_output=True, text=True, check=False, timeout=60)
    if asked.returncode != 0:
        return None
    told = json.loads(asked.stdout)
    version = tuple(told["version"])
    if version < OLDEST or told["virtual"] or told["implementation"] != "cpython":
        return None
    refusal = "it is free-threaded: abi3 wheels are not for it" if told["free_threaded"] else None
    refusal = refusal or (None if told["venv"] else "it cannot make virtual environments (no ensurepip)")
    return Python(Path(told["executable"]).resolve(), version, refusal)


def find(more: Iterable[Path] = ()) -> list[Python]:
    """All interpreters from 3.11 on, oldest first; ``more`` are looked at besides."""
    candidates = [*more]
    for folder in dict.fromkeys(_places()):
        if folder.is_dir():
            candidates += sorted(path for path in folder.iterdir() if NAME.fullmatch(path.name))
    found = {python.executable: python for path in candidates if os.access(path, os.X_OK) and (python := _ask(path))}
    return sorted(found.values(), key=lambda python: (python.version, str(python.executable)))
