"""Asks a runtime what it makes of a model and an input, in a process of its own: a missing or broken one is a message, no more.

In terms of ``child``, which the process runs. Used by ``verify_command``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

TIMEOUT = 600  # seconds; importing a large runtime on a busy machine takes one of them, compiling a model some
MAX_TEXT = 400  # of what a runtime says is wrong
CALLS, SECONDS = 30, 2.0  # of the timing


class Answer(NamedTuple):
    """What a runtime said. ``problem``: why there is nothing else ("" where there is), ``missing``: because it is not there.

    ``arrays`` by the keys of ``child``, ``outputs`` the keys of what the model returns, ``seconds`` the median of a call.
    """

    runtime: str
    title: str
    arrays: dict[str, np.ndarray]
    outputs: list[str]
    seconds: float
    problem: str = ""
    missing: bool = False


def ask(
    runtime: str,
    model: str,
    inputs: list[np.ndarray],
    python: str | None = None,
    float64: bool = False,
    prefix: str | None = None,
    timeout: float = TIMEOUT,
) -> Answer:
    """Runs the file ``model`` in a ``runtime`` of ``child.RUNTIMES``.

    ``python``: the interpreter that has it (None: this one); ``float64``: the model computes in float64; ``prefix``: which LSTM
    of a file of PyTorch's weights. Never raises for what the runtime does.
    """
    with tempfile.TemporaryDirectory(prefix="fastlstm-verify-") as folder:
        request = {
            "runtime": runtime,
            "model": os.path.abspath(model),
            "calls": CALLS,
            "seconds": SECONDS,
            "float64": float64,
            "prefix": prefix,
        }
        Path(folder, "request.json").write_text(json.dumps(request), "utf-8")
        arrays: dict[str, Any] = {str(k): x for k, x in enumerate(inputs)}
        np.savez(Path(folder, "inputs.npz"), **arrays)
        command = [python or sys.executable, str(Path(__file__).with_name("child.py")), folder]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=timeout, env=_environment(), cwd=folder
            )
        except subprocess.TimeoutExpired:
            return _problem(runtime, f"was stopped after {timeout:.0f} s")
        except OSError as error:
            return _problem(runtime, f"cannot start {command[0]}: {error.strerror or error}", missing=True)
        return _read(runtime, folder, done)


def _environment() -> dict[str, str]:
    """This process's, with the folder of fastlstm within reach, and without TensorFlow's log of every start."""
    package = str(Path(__file__).resolve().parents[2])
    paths = [os.environ.get("PYTHONPATH", ""), package]
    return {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def _problem(runtime: str, why: str, missing: bool = False) -> Answer:
    return Answer(runtime, runtime, {}, [], 0.0, why, missing)


def _short(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} …"


def _read(runtime: str, folder: str, done: subprocess.CompletedProcess[str]) -> Answer:
    """What the process left in its folder. Another interpreter wrote it, perhaps half: nothing is taken for granted."""
    try:
        told = json.loads(Path(folder, "answer.json").read_text("utf-8"))
        with np.load(Path(folder, "answer.npz"), allow_pickle=False) as stored:
            arrays = dict(stored)
    except (OSError, ValueError):
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "it said nothing")
        return _problem(runtime, f"its process ended with code {done.returncode}: {last.strip()[:300]}")
    if "missing" in told:
        return _problem(runtime, str(told["missing"]), missing=True)
    if "failed" in told:
        return _problem(runtime, _short(" ".join(str(told["failed"]).split())))
    return Answer(runtime, told["title"], arrays, told["outputs"], float(np.median(told["seconds"])))
