"""What can be imported by the names that Keras has, what completion offers, and what an import without the core says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastlstm

STATEMENTS = """
from fastlstm.callbacks import Callback, EarlyStopping
from fastlstm.losses import MeanSquaredError, mean_squared_error
from fastlstm.metrics import BinaryAccuracy
from fastlstm.optimizers import Adam
from fastlstm.optimizers.schedules import ExponentialDecay
import fastlstm.optimizers.schedules
from fastlstm.layers import LSTM, Dense
from fastlstm.models import Model, Sequential, load_model, model_from_json, save_model
from fastlstm.utils import pad_sequences, set_random_seed, to_categorical
from fastlstm import callbacks, losses, metrics, optimizers
import fastlstm as keras; keras.optimizers.schedules.CosineDecay
import fastlstm; fastlstm.io.safetensors.write_safetensors
import fastlstm; fastlstm.io.torch_file.read_state_file
import fastlstm; fastlstm.export.export_c
import fastlstm; fastlstm.models.model_from_json
from fastlstm import *; LSTM, losses.Huber, utils.pad_sequences
"""


def run(code, **options):
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, **options)


@pytest.mark.parametrize("statement", STATEMENTS.strip().splitlines())
def test_names_in_a_fresh_process(statement):
    """Each alone: another import must not have loaded what it needs."""
    done = run(statement)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["callbacks", "losses", "metrics", "optimizers"])
def test_both_names_are_one_module(name):
    """So that a class is the same by either name."""
    code = f"import fastlstm.{name}, fastlstm; assert fastlstm.{name} is fastlstm.training.{name}"
    done = run(f"{code}; import sys; assert sys.modules['fastlstm.{name}'] is fastlstm.{name}")
    assert done.returncode == 0, done.stderr


def test_completion_offers_the_public_names_alone():
    offered = {name for name in dir(fastlstm) if not name.startswith("__")}
    assert offered == {name for name in fastlstm.__all__ if not name.startswith("__")}
    assert {"LSTM", "callbacks", "losses", "load_model", "utils"} <= offered


@pytest.mark.parametrize("module", ["callbacks", "losses", "metrics", "optimizers", "utils", "io", "export", "layers", "models"])
def test_every_name_in_all_is_there(module):
    found = getattr(fastlstm, module)
    assert [name for name in found.__all__ if not hasattr(found, name)] == []


def test_without_its_core_the_package_says_what_is_missing(tmp_path):
    package = Path(fastlstm.__file__).parent
    shutil.copytree(package, tmp_path / "fastlstm", ignore=shutil.ignore_patterns("_core*", "__pycache__"))
    places = [str(tmp_path), str(Path(np.__file__).parent.parent)]
    # Without site: an editable install would find the core that it knows.
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {places}; import fastlstm"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "has no compiled core" in done.stderr
    assert str(tmp_path) in done.stderr
    assert "pip install" in done.stderr
