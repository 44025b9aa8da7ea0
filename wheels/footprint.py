"""What an installation costs: MiB on disk, milliseconds to import, MiB of memory then; the table of docs/install.md.

python wheels/footprint.py NAME=PYTHON … with an interpreter in whose environment NAME (a key of IMPORTS) is installed; further
environment variables of an import stand in IMPORTS. Sizes are those of the packages named there and of what they require. Every
import is in a process of its own: time and memory are the least of ROUNDS.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROUNDS = 7
# What is imported, what has to be installed for it, and the environment variables that it is imported under.
IMPORTS: dict[str, tuple[str, tuple[str, ...], dict[str, str]]] = {
    "numpy": ("numpy", ("numpy",), {}),
    "fastlstm": ("fastlstm", ("fastlstm",), {}),
    "litert": ("ai_edge_litert.interpreter", ("ai-edge-litert",), {}),
    "onnxruntime": ("onnxruntime", ("onnxruntime",), {}),
    "openvino": ("openvino", ("openvino",), {}),
    "torch": ("torch", ("torch", "numpy"), {}),
    "keras_torch": ("keras", ("keras", "torch"), {"KERAS_BACKEND": "torch"}),
    "keras_jax": ("keras", ("keras", "jax"), {"KERAS_BACKEND": "jax"}),
    "keras_tensorflow": ("keras", ("keras", "tensorflow-cpu"), {"KERAS_BACKEND": "tensorflow"}),
}
CHILD = """
import sys, time
start = time.perf_counter()
import {module}
seconds = time.perf_counter() - start
import json
memory = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS"))
print(json.dumps({{"ms": 1e3 * seconds, "mib": int(memory) / 1024}}))
"""
# Every installed distribution: what it requires, and the bytes of its files (compiled ones too).
LISTING = """
import importlib.metadata as metadata, json
print(json.dumps({
    one.metadata["Name"]: [one.requires or [], sum(f.locate().stat().st_size for f in one.files or [] if f.locate().is_file())]
    for one in metadata.distributions()
}))
"""


def answer(python: Path, code: str, variables: dict[str, str]) -> dict:
    """The JSON in the last line that a program prints."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    # In /, so that nothing of the current folder is imported.
    run = subprocess.run([python, "-c", code], env=kept | variables, cwd="/", capture_output=True, text=True, check=True)
    return json.loads(run.stdout.strip().splitlines()[-1])


def installed(python: Path, roots: tuple[str, ...]) -> float:
    """MiB of the files of some distributions and all that they require."""
    found = {canonicalize_name(name): told for name, told in answer(python, LISTING, {}).items()}
    waiting, counted = [canonicalize_name(name) for name in roots], set()
    while waiting:
        name = waiting.pop()
        if name in counted or name not in found:
            continue
        counted.add(name)
        for text in found[name][0]:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(requirement.name))
    if missing := {canonicalize_name(name) for name in roots} - counted:
        raise RuntimeError(f"{python} lacks {sorted(missing)}")
    return sum(found[name][1] for name in counted) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures what installations cost.")
    parser.add_argument("what", nargs="+", metavar="NAME=PYTHON")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    print("| what is imported | installed MiB | import ms | memory MiB |\n|---|---|---|---|")
    for text in arguments.what:
        name, _, python = text.partition("=")
        if name not in IMPORTS:
            parser.error(f"unknown name {name!r}; known are {', '.join(IMPORTS)}")
        module, roots, variables = IMPORTS[name]
        # Not resolved: the path of a virtual environment's Python is what makes it one.
        interpreter = Path(python).absolute()
        rounds = [answer(interpreter, CHILD.format(module=module), variables) for _ in range(arguments.rounds)]
        ms, mib = min(one["ms"] for one in rounds), min(one["mib"] for one in rounds)
        print(f"| {name} | {installed(interpreter, roots):.1f} | {ms:.0f} | {mib:.0f} |", flush=True)


if __name__ == "__main__":
    main()
