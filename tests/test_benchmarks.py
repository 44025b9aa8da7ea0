"""The benchmark program: its workloads are the ones they say they are, and it refuses to time a wrong answer."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import fastlstm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import bench  # noqa: E402
from benchmarks.cases import BY_NAME, CASES, TRAINING  # noqa: E402


# 2 * 4 * U * (D + U) * N * T, and 2 * 4 * F * K * (C + F) * S * N * T, by hand.
@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("doc", 122_880),
        ("step", 196_608),
        ("stream", 196_608),
        ("n1", 19_660_800),
        ("n1-long", 16_384_000),
        ("n1-wide", 314_572_800),
        ("n8", 157_286_400),
        ("n32", 629_145_600),
        ("n128", 40_265_318_400),
        ("edge", 11_796_480),
        ("mid", 10_066_329_600),
        ("long", 2_574_950_400),
    ],
)
def test_operations_of_a_workload(name: str, flops: int) -> None:
    assert CASES[name].flops == flops


def test_training_is_a_forward_and_twice_as_much_backward() -> None:
    assert list(TRAINING) == ["doc", "n1", "n32", "edge", "mid", "long"]
    for name, case in TRAINING.items():
        assert BY_NAME[case.name] is case
        assert case.flops == 3 * CASES[name].flops
        assert str(case) == f"{CASES[name]}, forward and backward"


@pytest.mark.parametrize("case", BY_NAME.values(), ids=lambda case: case.name)
def test_shapes_are_those_of_the_layer(case) -> None:
    layer = case.make_layer()
    assert layer.input_spec.axes == ({2: case.features} if case.layer == "LSTM" else {2: case.rows, 3: case.features})
    output = layer.compute_output_shape(case.input_shape)
    output = output[0] if case.carries_states else output
    rows = () if case.layer == "LSTM" else (case.rows_out,)
    assert output == (case.batch, *((case.steps,) if case.return_sequences else ()), *rows, case.units)
    assert [w.shape for w in layer.get_weights()] == list(case.weight_shapes)
    np.testing.assert_array_equal(layer.get_weights()[0], case.make_layer("float64").get_weights()[0])
    assert case.inputs().shape == case.input_shape
    assert case.inputs().dtype == np.float32


def options(path: Path, *names: str) -> list[str]:
    isa = fastlstm.config()["isa"]
    return [
        "--isa",
        isa,
        "--gemm",
        "packed",
        "--rounds",
        "1",
        "--seconds",
        "0.001",
        "--json",
        str(path),
        "--cases",
        *names,
    ]


def test_bench_checks_and_times(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    assert bench.main(options(tmp_path / "out.json", "doc", "stream", "edge")) == 0
    rows = json.loads((tmp_path / "out.json").read_text("utf-8"))["rows"]
    assert [row["case"] for row in rows] == ["doc", "stream", "edge"]
    for row in rows:
        assert 0 < row["error"] <= 2e-5
        assert row["gflops"] == pytest.approx(row["flops"] / row["median_seconds"] / 1e9)
        assert row["share_of_peak"] == pytest.approx(row["gflops"] / row["median_peak_gflops"])
    assert "median µs" in capfd.readouterr().out


def test_bench_checks_gradients_and_times_training(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    assert bench.main([*options(tmp_path / "out.json", "doc", "edge"), "--training"]) == 0
    rows = json.loads((tmp_path / "out.json").read_text("utf-8"))["rows"]
    assert [row["case"] for row in rows] == ["doc-training", "edge-training"]
    assert [row["flops"] for row in rows] == [3 * 122_880, 3 * 11_796_480]
    for row in rows:
        assert 0 < row["error"] <= 2e-5
        assert row["median_seconds"] > 0
    assert "doc-training" in capfd.readouterr().out


def test_training_of_a_workload_that_is_not_trained(capfd: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="2"):
        bench.parse_arguments(["--training", "--cases", "doc", "stream"])
    assert "no training of stream" in capfd.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--training"]], ids=["forward", "training"])
def test_bench_does_not_time_a_wrong_answer(
    tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    monkeypatch.setitem(bench.TOLERANCE, "float32", 0.0)
    assert bench.main([*options(tmp_path / "out.json", "doc", "n1"), *flags]) == 1
    rows = json.loads((tmp_path / "out.json").read_text("utf-8"))["rows"]
    assert [row["median_seconds"] for row in rows] == [None, None]
    assert capfd.readouterr().out.count("WRONG") == 2
