"""The parts of the command line by themselves: rows that become sequences, csv files, scores, tables."""

from __future__ import annotations

import numpy as np
import pytest

from fastlstm import cli, report, tables
from fastlstm.io.data_file import DataFile, check_writable, read_data, write_array


def table_of(rows, columns):
    return DataFile("t.csv", "", np.arange(rows * columns, dtype=float).reshape(rows, columns), {}, True)


@pytest.mark.parametrize(
    ("rows", "columns", "shape", "timesteps", "expected"),
    [
        (12, 4, (None, None, 4), None, (1, 12, 4)),
        (12, 4, (None, None, 4), 3, (4, 3, 4)),
        (12, 4, (None, 6, 4), None, (2, 6, 4)),
        (12, 4, (None, 6, 4), 12, (1, 12, 4)),
        (12, 4, (None, 6, None), None, (2, 6, 4)),
        (12, 6, (None, 4, 3, 2), None, (3, 4, 3, 2)),
        (12, 4, (None, 4), None, (12, 4)),
        (12, 4, None, None, (12, 4)),
    ],
)
def test_rows_become_sequences(rows, columns, shape, timesteps, expected):
    data = table_of(rows, columns)
    x = cli.sequences_of(data, shape, timesteps)
    assert x.shape == expected
    np.testing.assert_array_equal(x.ravel(), data.x.ravel())


@pytest.mark.parametrize(
    ("shape", "timesteps", "words"),
    [
        ((None, 5, 4), None, "12 rows cannot be cut into sequences of 5"),
        ((None, None, 4), 7, "12 rows cannot be cut into sequences of 7"),
        ((None, None, 3), None, "has 4 columns, the model takes 3"),
        ((None, 6, None, 2), None, r"inputs of shape \(None, 6, None, 2\)"),
    ],
)
def test_rows_that_fit_no_sequences(shape, timesteps, words):
    with pytest.raises(ValueError, match=rf"t\.csv: .*{words}"):
        cli.sequences_of(table_of(12, 4), shape, timesteps)


def test_csv_with_comments_blank_lines_quotes_and_byte_order_mark(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('\ufeff# made by hand\n\n"time","value"\n"1",2.5\n\n# half way\n3,-4e-1\n', encoding="utf-8")
    np.testing.assert_array_equal(read_data(str(path)).x, [[1, 2.5], [3, -0.4]])


def test_csv_of_other_shapes(tmp_path):
    """One row for each index but the last axis; nine digits bring float32 back exactly, seventeen float64."""
    rng = np.random.default_rng(1)
    path = str(tmp_path / "p.csv")
    for dtype in (np.float32, np.float64):
        array = rng.normal(size=(2, 3, 4)).astype(dtype)
        write_array(path, array, ["a", "b, c", "d", "e"])
        with open(path, encoding="utf-8") as stream:
            lines = stream.read().splitlines()
        assert lines[0] == 'a,"b, c",d,e'
        np.testing.assert_array_equal(np.loadtxt(lines[1:], delimiter=",", dtype=dtype), array.reshape(6, 4))
        np.testing.assert_array_equal(read_data(path).x.astype(dtype), array.reshape(6, 4))
    for columns in (None, ["7"], ["wrong", "number"]):
        write_array(path, np.array([1.5, 2.5]), columns)
        np.testing.assert_array_equal(read_data(path).x, [[1.5], [2.5]])


def test_doctor_tells_how_to_get_an_absent_extra():
    text = report.installation_text({"python": "3", "isa_available": ["a", "b"], "extras": {"h5py": None, "odd": None}})
    assert text.splitlines() == [
        "python         3",
        "isa available  a, b",
        "",
        "extra  version                                used for",
        "h5py   absent: pip install 'fastlstm[keras]'  reads and writes .keras files",
    ]


def test_scores():
    """Class numbers, one-hot rows and a single output above 0.5 all count as truth; anything else gives no accuracy."""
    x = np.zeros((4, 1))
    many = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    one = np.array([[0.1], [0.9], [0.4], [0.6]], np.float32)

    def accuracy(prediction, y):
        return dict(report.scores(prediction, DataFile("f", "x", x, {"y": np.asarray(y)}, False))).get("accuracy")

    assert accuracy(many, [0, 1, 2, 1]) == "0.750 (3 of 4)"
    assert accuracy(many, [[0], [1], [1], [1]]) == "0.500 (2 of 4)"
    assert accuracy(many, np.eye(3)[[0, 1, 2, 0]]) == "1.000 (4 of 4)"
    assert accuracy(one, [0, 1, 1, 1]) == "0.750 (3 of 4)"
    assert accuracy(one, [0.0, 1.0, 0.0, 1.0]) == "1.000 (4 of 4)"
    for y in ([0.5, 1, 1, 1], [np.nan, 0, 0, 0]):
        assert accuracy(many, y) is None
    for y in ([0, 1, 2, 3], [0, 1], [-1, 0, 0, 0], ["a", "b", "c", "d"], 3):
        assert accuracy(many, y).startswith(
            "unknown: expected y to hold 4 class numbers in 0 ... 2 (or one-hot rows); the file has"
        )
    assert accuracy(many[:, None], [0, 1, 2, 0]).startswith("unknown: the prediction has shape (4, 1, 3)")


def test_classes_that_do_not_fit_are_told():
    prediction = np.eye(3, dtype=np.float32)
    for names, told in ((["a", "b", "c"], False), (["a", "b"], True), ([0.5, 1.5, 2.5], True)):
        lines = dict(report.scores(prediction, DataFile("f", "x", prediction, {"classes": np.asarray(names)}, False)))
        assert ("classes" in lines) == told
    assert lines["classes"] == "not used: expected 3 names, one for each output; the file has shape (3,), float64"


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_file_that_is_not_what_its_name_says(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    for content in (b"", b"hello", b"\x80\x04\x95"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"x\{suffix}: is not a {suffix} file"):
            read_data(str(path))


def test_pickles_are_refused_without_advice_to_load_them(tmp_path):
    np.save(tmp_path / "o.npy", np.array([1, "a"], object), allow_pickle=True)
    np.savez(tmp_path / "o.npz", x=np.array([1, "a"], object))
    for name in ("o.npy", "o.npz"):
        with pytest.raises(ValueError, match=r"Python objects.*never loaded") as caught:
            read_data(str(tmp_path / name))
        assert "allow_pickle" not in str(caught.value)


def test_output_is_checked_before_the_work(tmp_path):
    check_writable(str(tmp_path / "p.npy"))
    (tmp_path / "folder.npy").mkdir()
    for name, words in (
        ("p.txt", r"must end in .npy or .csv"),
        ("no/p.npy", "there is no folder"),
        ("folder.npy", "is a folder"),
    ):
        with pytest.raises(ValueError, match=words):
            check_writable(str(tmp_path / name))
    with pytest.raises(ValueError, match=r"the output must end in .keras$"):
        check_writable("m.npy", (".keras",))


def test_tables():
    rows = [["a", "1"], ["bbb", "22"]]
    assert tables.table(rows, ("name", "n"), right=(1,)) == "name   n\na      1\nbbb   22"
    assert tables.table(rows, indent=2) == "  a    1\n  bbb  22"
    assert tables.table([]) == ""


BYTES = [(0, "0 B"), (999, "999 B"), (1536, "1.54 kB"), (999_600, "1 MB"), (71_076, "71.1 kB")]
SECONDS = [(2e-6, "2 us"), (0.0123, "12.3 ms"), (1.5, "1.5 s"), (0.9999, "1 s"), (4321, "4321 s")]


@pytest.mark.parametrize(("count", "text"), BYTES)
def test_human_bytes(count, text):
    assert tables.human_bytes(count) == text


@pytest.mark.parametrize(("seconds", "text"), SECONDS)
def test_human_seconds(seconds, text):
    assert tables.human_seconds(seconds) == text
