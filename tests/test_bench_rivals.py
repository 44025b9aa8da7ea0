"""The comparison with other libraries, as far as it is fastlstm's own: workloads, rounds, and the refusal to time a wrong answer.

The other libraries are not needed. Ratios, tables and chart: ``test_bench_report``.
"""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench_rows import row_of  # noqa: E402

from benchmarks import bench_rivals, engines  # noqa: E402
from benchmarks.rivals import ours, worker  # noqa: E402
from benchmarks.rivals.workload import COUNT, TOLERANCE, Runner, Workload, error_of, mask_of  # noqa: E402
from benchmarks.workloads import LENGTHS, WORKLOADS, data_of, expected_of  # noqa: E402

NAMES = {"doc", "step", "stream", "n1", "n1-long", "n1-wide", "n8", "n32", "n128", "edge", "mid", "long"}
NAMES |= {"ragged", "bidirectional", "n1-f64", "n32-f64", "stream-p99"}
NAMES |= {f"train-{name}" for name in ("n1", "n32", "doc", "edge", "mid", "long")} | {"n32-2t", "n128-2t", "n1-wide-2t"}


# -- workloads and answers ----------------------------------------------------------------------------------------------
def test_the_workloads_are_all_there() -> None:
    assert set(WORKLOADS) == NAMES
    assert WORKLOADS["train-n1"].flops == 3 * 19_660_800
    assert WORKLOADS["bidirectional"].flops == 2 * 19_660_800
    assert WORKLOADS["n32-f64"].dtype == "float64"


def test_the_ragged_batch() -> None:
    work = WORKLOADS["ragged"]
    lengths = data_of(work)["lengths"]
    assert lengths.shape == (COUNT, 32)
    assert lengths.min() >= LENGTHS[0]
    assert lengths.max() <= LENGTHS[1]
    assert work.flops == pytest.approx(8 * 128 * 192 * lengths.sum() / COUNT, rel=1e-9)
    np.testing.assert_array_equal(mask_of(work, lengths[0]).sum(axis=1), lengths[0])


@pytest.mark.parametrize("name", ["doc", "stream", "ragged", "bidirectional", "n1-f64", "edge", "train-doc", "train-edge"])
def test_fastlstm_answers_as_its_reference(name: str) -> None:
    """Every way to call fastlstm, all checked calls, among them the states of a stream over eight calls."""
    work = WORKLOADS[name]
    data = data_of(work)
    expected = expected_of(work, data)
    for maker in ours.make(work, data, "").values():
        runner = maker()
        assert len(runner.calls) == COUNT
        assert worker.check(work, runner, expected) <= {"float32": 2e-5, "float64": 1e-12}[work.dtype]


def test_errors_of_answers() -> None:
    want = [np.array([1.0, -4.0]), np.array([[0.5]])]
    assert error_of([np.array([1.0, -4.2]), np.array([[0.5]])], want) == pytest.approx(0.05)
    assert error_of([np.array([1.0, -4.0]), np.array([[0.6]])], want) == pytest.approx(0.1)
    assert error_of([np.array([np.nan, -4.0]), np.array([[0.5]])], want) == np.inf
    assert error_of([np.array([1.0, -4.0, 0.0]), np.array([[0.5]])], want) == np.inf
    assert error_of(want[:1], want) == np.inf
    assert error_of([np.array([9.0, 2.0])], [np.array([np.nan, 2.0])]) == 0.0  # NaN: not compared


# -- worker -------------------------------------------------------------------------------------------------------------
class Adapter:
    """An engine of two ways to run doc: a wrong one at once, a right one, and one that fails."""

    def __init__(self, wrong: bool):
        self.wrong = wrong

    def versions(self) -> str:
        return "adapter 1"

    def make(self, work: Workload, data: dict, folder: str) -> dict[str, Callable[[], Runner]]:
        right = ours.make(work, data, folder)["layer(x)"]

        def failing() -> Runner:
            raise RuntimeError("no compiler")

        def wrong() -> Runner:
            return Runner([lambda: np.zeros((32, 4), np.float32)] * COUNT, lambda y: [y])

        ways: dict[str, Callable[[], Runner]] = {"failing": failing, "wrong": wrong}
        return ways if self.wrong else ways | {"right": right}


def request_for(name: str, folder: Path) -> dict[str, Any]:
    bench_rivals.prepare([WORKLOADS[name]], bench_rivals.parse_arguments(["--rivals"]), folder)
    return bench_rivals.request_for(WORKLOADS[name], folder)


def test_a_wrong_answer_is_not_timed(tmp_path: Path) -> None:
    request = request_for("doc", tmp_path)
    answer = worker.Worker(Adapter(wrong=False)).make(**request)
    assert answer["chosen"] == "right"
    assert answer["ways"]["failing"] == {"failed": "RuntimeError: no compiler"}
    assert answer["ways"]["wrong"]["error"] > TOLERANCE["float32"]
    assert "trial_seconds" not in answer["ways"]["wrong"]
    hopeless = worker.Worker(Adapter(wrong=True))
    assert hopeless.make(**request)["chosen"] is None
    with pytest.raises(AssertionError):
        hopeless.time(0.001, "wall")


def test_bursts_take_the_inputs_in_turn() -> None:
    seen: list[int] = []
    calls = worker.itertools.cycle([lambda k=k: seen.append(k) for k in range(COUNT)])
    assert worker.measure(calls, 0.001) > 0
    assert seen == [k % COUNT for k in range(len(seen))]
    first = len(seen)
    worker.measure(calls, 0.001)
    assert seen[first] == first % COUNT
    seen.clear()
    assert worker.measure(calls, 0.0001, percentile=True) > 0
    assert len(seen) >= 1000


def test_a_missing_engine_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "ROOT", tmp_path)
    engine = engines.Engine("torch", [0], "avx2", tmp_path / "log", 10)
    assert bench_rivals.make(engine, {}) == {"why": "not installed", "seconds": []}


def test_a_dying_engine_leaves_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "python_of", lambda name: Path(sys.executable))
    engine = engines.Engine("no_such_adapter", [0], "avx2", tmp_path / "log", 60)
    why = bench_rivals.make(engine, {})["why"]
    assert "died with 1 at make" in why
    assert "No module named 'benchmarks.rivals.no_such_adapter'" in why


def test_rows_of_another_machine_or_version_are_not_mixed(tmp_path: Path) -> None:
    arguments = bench_rivals.parse_arguments(["--cases", "n1", "--add", "--output", str(tmp_path / "machine.json")])
    assert bench_rivals.start_of(arguments)["rows"] == []
    results = bench_rivals.start_of(arguments) | {"versions": {"torch": "torch 1"}}
    results["rows"] = [row_of("n1", {"fastlstm": [1.0]}), row_of("n8", {"fastlstm": [1.0]})]
    bench_rivals.save(results, arguments.output)
    again = bench_rivals.start_of(arguments)
    assert [row["work"]["name"] for row in again["rows"]] == ["n8"]
    bench_rivals.add_versions(again, {"openvino": "openvino 1", "fastlstm": "fastlstm 1", "torch": "torch 1"})
    assert list(again["versions"]) == ["fastlstm", "openvino", "torch"]
    with pytest.raises(SystemExit, match="measured with torch 1, now it is torch 2"):
        bench_rivals.add_versions(again, {"torch": "torch 2"})
    results["machine"]["isa"] = "another"
    bench_rivals.save(results, arguments.output)
    with pytest.raises(SystemExit, match=r"machine\.json was measured on .*another"):
        bench_rivals.start_of(arguments)


def test_groups_and_names_of_workloads() -> None:
    assert bench_rivals.parse_arguments([]).cases == list(WORKLOADS)
    cases = bench_rivals.parse_arguments(["--cases", "threads", "mid", "n1"]).cases
    assert cases == ["n1", "mid", "n32-2t", "n128-2t", "n1-wide-2t"]


def test_two_threads_are_left_out_visibly(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """With a single CPU; and of a fastlstm without threads no rival is timed."""
    path = tmp_path / "machine.json"
    assert bench_rivals.main(["--rivals", "--cases", "n32-2t", "--cpu", "0", "--output", str(path)]) == 0
    row = json.loads(path.read_text("utf-8"))["rows"][0]
    assert row["engines"] == {"fastlstm": row["engines"]["fastlstm"]}
    assert "n32-2t: left out, 2 threads need 2 CPUs (--cpu)" in capfd.readouterr().err
    assert "| `n32-2t` | LSTM N32 T100 D64 U128, 2 threads | left out |" in path.with_suffix(".md").read_text("utf-8")


class Answers:
    """Stands for an Engine; it counts what it is asked."""

    def __init__(self, name: str, answer: dict[str, Any], seconds: list[float]):
        self.name, self.answer, self.seconds, self.asked = name, answer, seconds, [""]

    def ask(self, **request: Any) -> Any:
        self.asked.append(request["do"] + str(request.get("count", "")))
        answers: dict[str, Any] = {"make": self.answer, "peak": 100.0}
        if request["do"] == "time":
            return self.seconds.pop(0), 1.0
        return answers.get(request["do"])


def test_rounds_of_two_threads(tmp_path: Path) -> None:
    """fastlstm is asked with one thread, too, in every round; a slow rival in the first three rounds only."""
    right = {"ways": {"way": {"error": 0.0}}, "chosen": "way", "remark": ""}
    ours = Answers("fastlstm", right, [1.0, 1.9] * 4)
    rivals = [Answers("torch", right, [2.0] * 4), Answers("litert", right, [20.0] * 4)]
    arguments = bench_rivals.parse_arguments(["--rounds", "4", "--cpu", "0", "1"])
    row = bench_rivals.measure(WORKLOADS["n32-2t"], [ours, *rivals], arguments, tmp_path)  # type: ignore[list-item]
    assert ours.asked[-5:] == ["peak", "time", "set_num_threads1", "time", "set_num_threads2"]
    assert (row["speedup"], row["best"], row["ratio"]) == (pytest.approx(1.9), "torch", 2.0)
    assert row["engines"]["litert"]["seconds"] == [20.0] * 3
    ours.answer = {"unsupported": "no threads"}
    left_out = bench_rivals.measure(WORKLOADS["n32-2t"], [ours, *rivals], arguments, tmp_path)  # type: ignore[list-item]
    assert list(left_out["engines"]) == ["fastlstm"]
    assert rivals[0].asked.count("make") == 1


def test_rivals_far_behind_are_slow() -> None:
    entries: dict[str, Any] = {"fastlstm": {"seconds": [0.1]}, "torch": {"seconds": [1.0]}, "litert": {"seconds": [4.9]}}
    entries |= {"openvino": {"seconds": []}, "keras_jax": {"seconds": [4.9, 5.1, 5.2]}}
    bench_rivals.mark_slow(entries, bench_rivals.SLOW_ROUNDS)
    assert not any(entry.get("slow") for entry in entries.values())  # there is no further round
    bench_rivals.mark_slow(entries, 15)
    assert [name for name, entry in entries.items() if entry.get("slow")] == ["keras_jax"]


def test_a_run_without_rivals(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """The whole program: a process for fastlstm, JSON, Markdown and SVG."""
    path = tmp_path / "results" / "machine.json"
    options = ["--rivals", "--cases", "doc", "train-doc", "--rounds", "2", "--seconds", "0.001", "--output", str(path)]
    assert bench_rivals.main(options) == 0
    results = json.loads(path.read_text("utf-8"))
    assert [row["work"]["name"] for row in results["rows"]] == ["doc", "train-doc"]
    for row in results["rows"]:
        entry = row["engines"]["fastlstm"]
        assert len(entry["seconds"]) == len(entry["cpu_share"]) == len(row["peak"]) == 2
        assert all(0 < share < 1.01 for share in entry["cpu_share"])
        assert 0 < entry["error"] <= 2e-5
        assert row["ratio"] is None
        assert row["gflops"] == pytest.approx(row["work"]["flops"] / entry["median_seconds"] / 1e9)
    assert bench_rivals.main([*options[:1], "--add", "--cases", "step", *options[4:]]) == 0
    again = json.loads(path.read_text("utf-8"))["rows"]
    assert [row["work"]["name"] for row in again] == ["doc", "step", "train-doc"]
    assert again[0] == results["rows"][0]
    assert "doc: no ratio" in capfd.readouterr().err
    assert path.with_suffix(".md").read_text("utf-8").count("| `doc` |") == 2
    assert ElementTree.parse(path.with_suffix(".svg")).getroot().tag.endswith("svg")
