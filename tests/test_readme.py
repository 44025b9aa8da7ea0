"""The README's own code runs as it stands, without warnings, and does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastlstm

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def test_the_blocks_of_python_run(tmp_path):
    for package in ("h5py", "matplotlib"):
        pytest.importorskip(package, reason="the README saves a .keras file and draws a history")
    (tmp_path / "examples").symlink_to(ROOT / "examples", target_is_directory=True)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 2
    environment = {**os.environ, "MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks)], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    choice = fastlstm.LSTM(128).explain(np.zeros((1, 100, 64), np.float32))  # "general" where there is no SIMD instruction set
    assert str(choice) in done.stdout
    assert (tmp_path / "history.png").stat().st_size > 1000
    test = np.load(ROOT / "examples" / "speakers.npz")
    model = fastlstm.load_model(tmp_path / "mine.keras")
    assert np.mean(model.predict(test["x"], verbose=0).argmax(axis=1) == test["y"]) > 0.85


@pytest.mark.parametrize(
    ("name", "said"), [("activity", r"(\d+) of (\d+) recordings are told right"), ("speakers", r"the same\n(\d+) of (\d+) right")]
)
def test_how_many_are_told_right(name, said):
    pytest.importorskip("h5py", reason="reading .keras files needs h5py")
    right, of = map(int, re.search(said, README).groups())
    data = np.load(ROOT / "examples" / f"{name}.npz")
    answers = fastlstm.load_model(ROOT / "examples" / f"{name}.keras").predict(data["x"], verbose=0).argmax(axis=1)
    assert (int(np.sum(answers == data["y"])), len(answers)) == (right, of)
