"""benchmarks/bench_gpu.py runs, refuses wrong answers, names the crossover; on the stand-in, whose times mean nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import bench_gpu, gpu_cuts


def test_the_table(cupy, capsys, tmp_path):
    assert bench_gpu.main(["doc", "step", "edge", "doc-training", "--repeats", "1", "--write", str(tmp_path / "rows.json")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("stand-in")
    assert [line.split()[0] for line in printed[2:-1]] == ["doc", "step", "edge", "doc-training"]
    assert printed[-1].startswith("crossover, transfers included: LSTM: ")
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert all(row["gpu"] > 0 and row["error"] < 2e-5 for row in rows)
    assert {row["kernel"] for row in rows} == {"persistent"}


def test_a_wrong_answer_is_not_timed(cupy, capsys, monkeypatch):
    monkeypatch.setattr(bench_gpu, "error_of", lambda case, outputs: 1.0)
    assert bench_gpu.main(["doc", "--repeats", "1"]) == 1
    assert capsys.readouterr().out.splitlines()[2].split()[2] == "-"


def test_the_crossover_is_where_all_larger_calls_are_faster():
    times = {"doc": (2.0, 1.0), "step": (0.5, 1.0), "n1": (2.0, 1.0), "n8": (1.0, 2.0), "n128": (1.0, 2.0)}
    rows = [{"case": name, "moved": moved, "cpu": cpu} for name, (moved, cpu) in times.items()]
    assert bench_gpu.crossover(rows) == "crossover, transfers included: LSTM: 7.9e+07 multiply-adds, ConvLSTM1D: not reached"


def test_without_a_device(capsys, monkeypatch):
    monkeypatch.setattr(bench_gpu.devices, "gpu_refusal", lambda: "CuPy is not installed")
    assert bench_gpu.main([]) == 2
    assert "nothing to measure: CuPy is not installed" in capsys.readouterr().err


@pytest.mark.parametrize("units", [128, 256, 512])
def test_the_grid_is_that_of_the_aim(units):
    for count in (1, 4, 8, 64, 128, 256):
        case = bench_gpu.GRID[f"n{count}-u{units}"]
        assert (case.batch, case.steps, case.features, case.units, case.dtype) == (count, 100, units, units, "float32")


@pytest.mark.parametrize("name", ["doc", "edge", "n1"])
def test_cuts(cupy, capsys, limits, name):
    """Every cut computes the same; the estimates rise."""
    limits["MultiProcessorCount"] = 8
    assert gpu_cuts.main([name, "--count", "4", "--repeats", "1"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert len(lines) == 4
    estimates = [float(line[-3]) for line in lines]
    assert estimates == sorted(estimates)
    assert all(float(line[-1]) < 1e-5 for line in lines)


def test_a_cut_that_computes_something_else_is_an_error(cupy, monkeypatch):
    monkeypatch.setattr(gpu_cuts, "measure", lambda *arguments: (1.0, 1.0))
    assert gpu_cuts.main(["doc"]) == 1
