"""Mutated model files: a model or a clear error, within seconds and bounded memory; never a crash, which only a process shows.

FASTLSTM_FUZZ says how many files of each format (2000 take minutes); by default a few.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NEEDED = {"keras": "h5py", "h5": "h5py", "onnx": "onnx", "npz": "h5py", "own.safetensors": "h5py"}


@pytest.mark.parametrize("kind", ["keras", "h5", "pt", "safetensors", "onnx", "npz", "own.safetensors"])
def test_mutated_files(kind, tmp_path):
    if kind in NEEDED:
        pytest.importorskip(NEEDED[kind], reason=f"reading these files needs {NEEDED[kind]}")
    count = int(os.environ.get("FASTLSTM_FUZZ") or 60)
    script = Path(__file__).parent / "fuzz_runs.py"
    command = [sys.executable, str(script), str(tmp_path), kind, str(count), "7"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600 + count)
    assert run.returncode == 0, f"code {run.returncode}: {run.stderr[-3000:]}"
    told = json.loads(run.stdout)
    assert told["model"] + told["error"] == count
    assert told["model"] > count // 20  # some mutations change nothing that counts
    assert told["error"] > count // 5
