"""The comparison with other libraries, as far as it is fastlstm's own: ratios, table, chart, workloads, and the refusal to time
a wrong answer. The other libraries are not needed.
"""

from __future__ import annotations

import json
import math
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import bench_rivals, chart, engines, ratios, report  # noqa: E402
from benchmarks.rivals import ours, worker  # noqa: E402
from benchmarks.rivals.workload import COUNT, TOLERANCE, Runner, Workload, error_of, mask_of  # noqa: E402
from benchmarks.workloads import LENGTHS, WORKLOADS, data_of, expected_of  # noqa: E402

NAMES = {"doc", "step", "stream", "n1", "n1-long", "n1-wide", "n8", "n32", "n128", "edge", "mid", "long"}
NAMES |= {"ragged", "bidirectional", "n1-f64", "n32-f64", "stream-p99"}
NAMES |= {f"train-{name}" for name in ("n1", "n32", "doc", "edge", "mid", "long")}


def row_of(name: str, seconds: dict[str, list[float]], group: str = "LSTM", **work: Any) -> dict[str, Any]:
    """A summarized row as ``measure`` makes it."""
    entries = {engine: {"seconds": list(times), "error": 1e-7, "way": "a way"} for engine, times in seconds.items()}
    work = {"name": name, "group": group, "flops": 2_000_000_000, "percentile": False} | work
    return ratios.summarize({"work": work, "text": f"text of {name}", "peak": [100.0, 300.0, 200.0], "engines": entries})


def results_of(rows: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    machine = {"processor": "a <fast> processor", "isa": "avx2", "cpu": 3, "python": "3.11.0"}
    versions = {name: f"{name} 1.0" for name in names}
    return {
        "machine": machine,
        "date": "2001-02-03",
        "note": "",
        "versions": versions,
        "rounds": 3,
        "seconds": 0.1,
        "clock": "wall",
        "rows": rows,
    }


# -- figures ------------------------------------------------------------------------------------------------------------
def test_a_ratio_is_the_median_over_the_rounds() -> None:
    # 2, 3 and 4 in the three rounds; the ratio of the medians would be 6 / 2 = 3 only by chance, of the means 34 / 12.
    assert ratios.median_ratio([2.0, 6.0, 40.0], [1.0, 2.0, 10.0]) == 3.0
    assert ratios.median_ratio([8.0, 6.0, 1.0], [1.0, 6.0, 2.0]) == 1.0
    with pytest.raises(ValueError, match="shorter"):
        ratios.median_ratio([1.0, 2.0], [1.0])


def test_the_best_rival_has_the_smallest_ratio() -> None:
    row = row_of("n1", {"fastlstm": [0.1, 0.2, 0.1], "torch": [0.3, 0.6, 0.3], "onnxruntime": [0.2, 0.4, 0.21]})
    assert row["best"] == "onnxruntime"
    assert row["ratio"] == pytest.approx(2.0)
    assert row["engines"]["torch"]["ratio"] == pytest.approx(3.0)
    assert row["engines"]["fastlstm"]["ratio"] == 1.0
    assert row["gflops"] == pytest.approx(20.0)  # 2e9 operations in 0.1 s
    assert row["peak_gflops"] == 200.0
    assert row["share_of_peak"] == pytest.approx(0.1)


def test_an_engine_without_times_is_no_rival() -> None:
    row = row_of("n1", {"fastlstm": [0.1], "torch": [], "onnxruntime": [0.05]})
    assert (row["best"], row["ratio"]) == ("onnxruntime", 0.5)
    assert row["engines"]["torch"]["median_seconds"] is None
    alone = row_of("n1", {"fastlstm": [0.1], "torch": []})
    assert (alone["best"], alone["ratio"]) == (None, None)
    lost = row_of("n1", {"fastlstm": [], "torch": [0.1]})
    assert (lost["ratio"], lost["gflops"], lost["share_of_peak"]) == (None, None, None)
    assert lost["engines"]["torch"]["median_seconds"] == 0.1


def test_geometric_means_of_the_groups() -> None:
    rows = [row_of("a", {"fastlstm": [1.0], "torch": [2.0]}), row_of("b", {"fastlstm": [1.0], "torch": [8.0]})]
    rows += [row_of("c", {"fastlstm": [1.0], "torch": [0.5]}, "training"), row_of("d", {"fastlstm": [1.0]}, "more")]
    assert ratios.geometric_means(rows) == pytest.approx({"LSTM": 4.0, "training": 0.5})
    assert ratios.geometric_mean([]) is None


# -- table and chart ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (1.234e-6, "1.23 µs"), (0.0000123, "12.3 µs"), (0.000999, "999 µs"), (0.00315, "3.15 ms"), (2.5, "2.5 s")],
)
def test_times_in_words(seconds: float | None, text: str) -> None:
    assert report.time_text(seconds) == text


def test_the_table_keeps_lost_rows_and_says_why_cells_are_empty() -> None:
    rows = [
        row_of("won", {"fastlstm": [0.001], "torch": [0.003], "openvino": []}),
        row_of("lost", {"fastlstm": [0.002], "torch": [0.001], "openvino": []}),
    ]
    rows[0]["engines"]["openvino"] |= {"why": "died | with\n-9", "way": None}
    rows[1]["engines"]["openvino"] |= {"why": "inference only", "unsupported": True, "way": None}
    lines = report.markdown(results_of(rows, ["fastlstm", "torch", "openvino"])).splitlines()
    assert "| `won` | text of won | 1 ms | torch 3 ms | **3.00** | 2e+03 / 200 (1000%) | 1e-07 |" in lines
    assert "| `lost` | text of lost | 2 ms | torch 1 ms | 0.50 (behind) | 1e+03 / 200 (500%) | 1e-07 |" in lines
    assert "| `won` | 1 ms | 3 ms (3.00) | failed [1] |" in lines
    assert "| `lost` | 2 ms | 1 ms (0.50) | no [2] |" in lines
    assert "1. openvino: died / with -9" in lines
    assert "2. openvino: inference only" in lines
    assert f"Geometric mean of the ratios: **{math.sqrt(1.5):.2f}**" in lines
    assert "- torch: torch 1.0; a way (won, lost)" in lines


def test_a_wrong_answer_of_ours_stands_in_the_table() -> None:
    row = row_of("n1", {"fastlstm": [], "torch": [0.1]})
    row["engines"]["fastlstm"] = {"why": "layer(x): wrong by 1.0e-01", "seconds": [], "median_seconds": None, "way": None}
    text = report.markdown(results_of([row], ["fastlstm", "torch"]))
    assert "| `n1` | text of n1 | WRONG or failed | none | – | – | – |" in text
    assert "1. fastlstm: layer(x): wrong by 1.0e-01" in text


def test_the_table_tells_that_the_machine_was_busy() -> None:
    row = row_of("n1", {"fastlstm": [0.1, 0.1, 0.1]})
    row["engines"]["fastlstm"]["cpu_share"] = [0.99, 0.6, 0.55]
    assert "fastlstm had the CPU for 60% of its turns" in report.markdown(results_of([row], ["fastlstm"]))
    row["engines"]["fastlstm"]["cpu_share"] = [0.99, 0.6, 1.0]
    assert "busy" not in report.markdown(results_of([row], ["fastlstm"]))


def test_the_chart_is_xml_with_a_dot_for_every_ratio() -> None:
    rows = [
        row_of("won", {"fastlstm": [0.001], "torch": [0.003], "openvino": [0.1]}),
        row_of("lost", {"fastlstm": [0.002], "torch": [0.001], "openvino": []}),
    ]
    root = ElementTree.fromstring(chart.svg(results_of(rows, ["fastlstm", "torch", "openvino"])))
    tag = "{http://www.w3.org/2000/svg}"
    dots = [dot for dot in root.iter(f"{tag}circle") if dot.find(f"{tag}title") is not None]
    assert [dot.findtext(f"{tag}title") for dot in dots] == ["torch: 3.00", "openvino: 100.00", "torch: 0.50"]
    xs = [float(dot.attrib["cx"]) for dot in dots]
    assert xs[2] < chart.position(1, (0.5, 100)) < xs[0] < xs[1]
    texts = [text.text for text in root.iter(f"{tag}text")]
    assert {"won", "lost", "One call, one thread: a <fast> processor, avx2"} <= set(texts)


def test_the_axis_of_the_chart_is_logarithmic() -> None:
    assert chart.limits([0.7, 60.0]) == (0.5, 100)
    assert chart.limits([]) == (1, 2)
    ends = (0.5, 50.0)
    assert chart.position(0.5, ends) == pytest.approx(chart.LEFT)
    assert chart.position(50, ends) == pytest.approx(chart.WIDTH - chart.RIGHT)
    assert chart.position(5, ends) == pytest.approx((chart.LEFT + chart.WIDTH - chart.RIGHT) / 2)


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
    return {"work": dict(vars(WORKLOADS[name])), "data": str(folder / f"{name}.npz"), "folder": str(folder)}


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
    engine = engines.Engine("torch", 0, "avx2", tmp_path / "log", 10)
    assert bench_rivals.make(engine, {}) == {"why": "not installed", "seconds": []}


def test_a_dying_engine_leaves_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "python_of", lambda name: Path(sys.executable))
    engine = engines.Engine("no_such_adapter", 0, "avx2", tmp_path / "log", 60)
    why = bench_rivals.make(engine, {})["why"]
    assert "died with 1 at make" in why
    assert "No module named 'benchmarks.rivals.no_such_adapter'" in why


def test_a_run_without_rivals(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """The whole program: a process for fastlstm, JSON, Markdown and SVG."""
    path = tmp_path / "results" / "machine.json"
    options = ["--rivals", "--workloads", "doc", "train-doc", "--rounds", "2", "--seconds", "0.001", "--output", str(path)]
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
    assert bench_rivals.main([*options[:1], "--add", "--workloads", "step", *options[4:]]) == 0
    again = json.loads(path.read_text("utf-8"))["rows"]
    assert [row["work"]["name"] for row in again] == ["doc", "step", "train-doc"]
    assert again[0] == results["rows"][0]
    assert "doc: no ratio" in capfd.readouterr().err
    assert path.with_suffix(".md").read_text("utf-8").count("| `doc` |") == 2
    assert ElementTree.parse(path.with_suffix(".svg")).getroot().tag.endswith("svg")
