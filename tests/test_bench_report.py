"""What the comparison with other libraries makes of its times: ratios, tables, the chart, the parts of README and docs."""

from __future__ import annotations

import json
import math
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench_rows import results_of, row_of  # noqa: E402

from benchmarks import chart, ratios, report  # noqa: E402
from benchmarks.workloads import GROUPS  # noqa: E402


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


def test_a_slow_engine_has_the_first_rounds_only() -> None:
    row = ratios.summarize(row_of("n1", {"fastlstm": [1.0, 2.0, 9.0], "torch": [2.0, 4.0, 18.0]}))
    row["engines"]["litert"] = {"seconds": [10.0, 20.0], "slow": True}
    assert ratios.summarize(row)["engines"]["litert"]["ratio"] == 10.0
    row["engines"]["litert"]["slow"] = False
    with pytest.raises(ValueError, match="longer"):
        ratios.summarize(row)


def test_two_threads_have_two_peaks_and_a_speedup() -> None:
    row = row_of("n32-2t", {"fastlstm": [0.1, 0.1, 0.2]}, "threads", threads=2, one_thread=[0.15, 0.18, 0.38])
    assert row["speedup"] == pytest.approx(1.8)
    assert row["share_of_peak"] == pytest.approx(20 / 400)
    assert row_of("n32", {"fastlstm": [0.1]})["speedup"] is None
    line = next(line for line in report.markdown(results_of([row], ["fastlstm"])).splitlines() if line.startswith("| `n32-2t`"))
    assert line.endswith("| 20 / 400 (5%) | 1e-07 | 1.80 |")


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


def test_a_remark_about_the_best_rival_names_the_next_one() -> None:
    row = row_of("step", {"fastlstm": [0.001], "litert": [0.002], "torch": [0.003], "openvino": []})
    row["engines"]["litert"]["remark"] = "does half of it"
    text = report.markdown(results_of([row], ["fastlstm", "litert", "torch"]))
    assert "`step`: litert does half of it; the next is torch: 3 ms (3.00)." in text
    row["engines"]["torch"]["remark"] = "too"
    assert "`step`: litert does half of it.\n" in report.markdown(results_of([row], ["fastlstm", "litert", "torch"]))


def test_slow_engines_and_rows_that_are_left_out() -> None:
    row = row_of("n1", {"fastlstm": [1.0] * 4, "torch": [2.0] * 4})
    row["engines"]["litert"] = {"seconds": [11.0] * 3, "slow": True, "error": 0.0, "way": "loop"}
    rows = [ratios.summarize(row), row_of("n32-2t", {"fastlstm": []}, "threads", threads=2)]
    rows[1]["engines"]["fastlstm"] = {"why": "has no threads", "unsupported": True, "median_seconds": None, "ratio": None}
    text = report.markdown(results_of(rows, ["fastlstm", "torch", "litert"]))
    assert "| `n1` | 1 s | 2 s (2.00) | 11 s (11.00)° |" in text
    assert "° in the first rounds more than 5 times as slow as the best rival, and not asked again" in text
    assert "| `n32-2t` | text of n32-2t | left out | none | – | – | – | – |" in text
    assert "1. fastlstm: has no threads" in text


def test_the_page_names_the_circumstances_of_all_runs() -> None:
    rows = [row_of("a", {"fastlstm": [1.0]}), row_of("b", {"fastlstm": [1.0]}), row_of("c", {"fastlstm": [1.0]})]
    rows[1]["run"] |= {"rounds": 15, "date": "2001-02-04", "note": "in the sun"}
    text = report.markdown(results_of(rows, ["fastlstm"]))
    assert ", 3, 15 rounds in turn of bursts of about 0.1 s by the wall clock" in text
    assert "Measured on 2001-02-03, 2001-02-04 at abc, Python 3.11.0." in text
    assert "\n**in the sun**\n" in text


def bars_of(root: ElementTree.Element) -> dict[str, ElementTree.Element]:
    """Hint -> rectangle."""
    tag = "{http://www.w3.org/2000/svg}"
    found = {rect.findtext(f"{tag}title"): rect for rect in root.iter(f"{tag}rect")}
    return {hint: rect for hint, rect in found.items() if hint is not None}


def test_the_chart_has_a_bar_for_every_ratio() -> None:
    rows = [
        row_of("won", {"fastlstm": [0.001], "torch": [0.003], "openvino": [0.1]}),
        row_of("lost", {"fastlstm": [0.002], "torch": [0.001], "openvino": []}, "training"),
        row_of("alone", {"fastlstm": [0.002]}, "threads"),
    ]
    root = ElementTree.fromstring(chart.svg(results_of(rows, ["fastlstm", "torch", "openvino"])))
    bars = bars_of(root)
    assert list(bars) == ["text of won: torch takes 3.00 times as long", "text of lost: torch takes 0.50 times as long"]
    ends = chart.limits([3.0, 0.5])
    spans = [(float(bar.attrib["x"]), float(bar.attrib["x"]) + float(bar.attrib["width"])) for bar in bars.values()]
    assert spans[0] == pytest.approx((chart.position(1, ends), chart.position(3, ends)), abs=0.2)
    assert spans[1] == pytest.approx((chart.position(0.5, ends), chart.position(1, ends)), abs=0.2)
    assert [bar.attrib["fill"] for bar in bars.values()] == [chart.AHEAD, chart.BEHIND]
    texts = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"won", "lost", "alone", "no ratio", "3.00 torch", "a <fast> processor, avx2", "geometric mean 3.00"} <= set(texts)


def test_the_axis_of_the_chart_is_logarithmic() -> None:
    assert chart.limits([0.3, 60.0]) == (0.2, 100)
    assert chart.limits([]) == (0.5, 2)
    ends = (0.5, 50.0)
    assert chart.position(0.5, ends) == pytest.approx(chart.LEFT)
    assert chart.position(50, ends) == pytest.approx(chart.WIDTH - chart.RIGHT)
    assert chart.position(5, ends) == pytest.approx((chart.LEFT + chart.WIDTH - chart.RIGHT) / 2)


def test_every_group_has_a_title() -> None:
    assert list(chart.TITLES) == GROUPS


# -- README and docs ----------------------------------------------------------------------------------------------------
def test_tables_and_chart_go_between_the_marks(tmp_path: Path) -> None:
    """Twice, with the same result: what stood between the marks before is gone."""
    (tmp_path / "docs").mkdir()
    documents = [tmp_path / "README.md", tmp_path / "docs" / "performance.md"]
    for document in documents:
        document.write_text(f"before\n{report.MARKS[0]}\nold\n{report.MARKS[1]}\nafter\n", "utf-8")
    path = tmp_path / "results" / "machine.json"
    path.parent.mkdir()
    results = results_of([row_of("n1", {"fastlstm": [0.001], "torch": [0.003]})], ["fastlstm", "torch"])
    path.write_text(json.dumps(results), "utf-8")
    report.write(path, into_documents=True, root=tmp_path)
    written = [document.read_text("utf-8") for document in documents]
    for text, link in zip(written, ("results/machine.svg", "../results/machine.svg"), strict=True):
        assert text.startswith(f"before\n{report.MARKS[0]}\n![")
        assert text.endswith(f"\n{report.MARKS[1]}\nafter\n")
        assert f"]({link})" in text
        assert "old" not in text
        assert "| `n1` | text of n1 | 1 ms | torch 3 ms | **3.00** |" in text
    assert ["All engines" in text for text in written] == [False, True]
    report.write(path, into_documents=True, root=tmp_path)
    assert [document.read_text("utf-8") for document in documents] == written


@pytest.mark.parametrize("text", ["", "{0}", "{1}{0}", "{0}{1}{1}", "{0}{1}{0}{1}"])
def test_a_document_without_its_marks_stays_as_it_is(tmp_path: Path, text: str) -> None:
    document = tmp_path / "README.md"
    document.write_text(text.format(*report.MARKS), "utf-8")
    with pytest.raises(ValueError, match=r"README\.md: expected <!-- bench-rivals: begin -->"):
        report.put_between_marks(document, "new")
    assert document.read_text("utf-8") == text.format(*report.MARKS)


@pytest.mark.parametrize("name", ["README.md", "docs/performance.md"])
def test_the_documents_have_their_marks(name: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.md"
    copy.write_text((ROOT / name).read_text("utf-8"), "utf-8")
    report.put_between_marks(copy, "new")
    assert "\nnew\n" in copy.read_text("utf-8")
