"""The command line: what predict, info and doctor print and write, exit codes, one-line errors."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fastlstm import cli

pytest.importorskip("h5py", reason="reading .keras files needs h5py")

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data" / "keras3"
SPEAKERS = str(ROOT / "examples" / "speakers.keras")
RECORDINGS = str(ROOT / "examples" / "speakers.npz")


def run(capsys, *arguments):
    """(exit code, stdout, stderr) of one command."""
    try:
        code = cli.main([str(a) for a in arguments])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(capsys, *arguments):
    """The one line on stderr of a command that must fail with code 2 and print nothing else."""
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert err.startswith("fastlstm: error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err


def recordings(count):
    return np.load(RECORDINGS)["x"][:count], np.load(RECORDINGS)["keras_prediction"][:count]


# -- predict ------------------------------------------------------------------------------------------------------------
def test_predict_speakers(capsys, tmp_path):
    out = tmp_path / "p.npy"
    code, text, err = run(capsys, "predict", SPEAKERS, RECORDINGS, "-o", out)
    assert (code, err) == (0, "")
    assert "370 sequences of 29 x 12, float32" in text
    assert "accuracy    0.943 (349 of 370)" in text
    difference = re.search(r"difference  (\S+) at most from the file's keras_prediction", text)
    assert float(difference[1]) < 1e-4
    assert re.search(r"speed +[\d,]+ sequences/s \(370 sequences in \S+ m?s\)", text)
    assert "(360 more)" in text
    np.testing.assert_allclose(np.load(out), np.load(RECORDINGS)["keras_prediction"], rtol=0, atol=1e-4)


def test_predict_activity(capsys, tmp_path):
    """A ConvLSTM1D takes [sequences, steps, rows, channels]; a .csv row holds the rows x channels of one step."""
    model, recordings = ROOT / "examples" / "activity.keras", ROOT / "examples" / "activity.npz"
    code, text, err = run(capsys, "predict", model, recordings, "-o", tmp_path / "p.npy")
    assert (code, err) == (0, "")
    assert "40 sequences of 10 x 10 x 6, float32" in text
    assert "accuracy    0.950 (38 of 40)" in text
    assert float(re.search(r"difference  (\S+) at most from the file's keras_prediction", text)[1]) < 1e-5
    data = np.load(recordings)
    np.savetxt(tmp_path / "x.csv", data["x"][:3].reshape(30, 60), delimiter=",")
    assert run(capsys, "predict", model, tmp_path / "x.csv", "-o", tmp_path / "q.npy")[0] == 0
    np.testing.assert_allclose(np.load(tmp_path / "q.npy"), data["keras_prediction"][:3], rtol=0, atol=1e-5)
    np.save(tmp_path / "bad.npy", data["x"][:, :, :9])
    assert "bad.npy: the model cannot take this input" in refused(capsys, "predict", model, tmp_path / "bad.npy")


def test_predict_prints_aligned_columns(capsys):
    """Ten rows, as wide as their header, with the likeliest classes in order and no colour."""
    _, text, _ = run(capsys, "predict", SPEAKERS, RECORDINGS)
    assert "\x1b" not in text
    lines = text.splitlines()
    head = next(k for k, line in enumerate(lines) if line.startswith("#"))
    rows = lines[head + 1 : head + 11]
    assert [int(row.split()[0]) for row in rows] == list(range(10))
    column = lines[head].index("truth")
    data = np.load(RECORDINGS)
    for row, prediction, y in zip(rows, data["keras_prediction"], data["y"], strict=False):
        best = np.argsort(-prediction)[:3]
        assert row[column:].startswith(str(data["classes"][y]))
        assert row.endswith("ok" if best[0] == y else "WRONG")
        assert [int(n) - 1 for n in re.findall(r"speaker (\d)", row[:column])] == list(best)
        assert [float(p) for p in re.findall(r"0\.\d{3}|1\.000", row)] == pytest.approx(list(prediction[best]), abs=6e-4)


def test_predict_marks_wrong_rows(capsys):
    _, text, _ = run(capsys, "predict", SPEAKERS, RECORDINGS, "--rows", "370")
    rows = [line for line in text.splitlines() if re.match(r" *\d+  ", line)]
    assert len(rows) == 370
    assert sum(row.endswith("  ok") for row in rows) == 349
    assert sum(row.endswith("  WRONG") for row in rows) == 21
    assert "more)" not in text


def test_predict_without_rows(capsys):
    code, text, _ = run(capsys, "predict", SPEAKERS, RECORDINGS, "--rows", "0")
    assert code == 0
    assert "(370 sequences)" in text
    assert "speaker" not in text.split("\n\n")[1]


def test_predict_in_other_batches_gives_the_same(capsys, tmp_path):
    for size in (1, 370):
        run(capsys, "predict", SPEAKERS, RECORDINGS, "-o", tmp_path / f"{size}.npy", "--batch-size", size)
    np.testing.assert_allclose(np.load(tmp_path / "1.npy"), np.load(tmp_path / "370.npy"), rtol=0, atol=1e-6)


def test_predict_npy(capsys, tmp_path):
    x, expected = recordings(5)
    np.save(tmp_path / "x.npy", x)
    code, text, _ = run(capsys, "predict", SPEAKERS, tmp_path / "x.npy", "-o", tmp_path / "p.npy")
    assert code == 0
    assert "accuracy" not in text
    assert f"{tmp_path / 'p.npy'}: 5 x 9, float32" in text
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), expected, rtol=0, atol=1e-4)


def test_predict_named_array_of_an_npz(capsys, tmp_path):
    x, expected = recordings(3)
    np.savez(tmp_path / "many.npz", left=x, right=x[::-1])
    np.savez(tmp_path / "one.npz", whatever=x)
    for arguments, want in ((("many.npz", "--key", "right"), expected[::-1]), (("one.npz",), expected)):
        assert run(capsys, "predict", SPEAKERS, tmp_path / arguments[0], *arguments[1:], "-o", tmp_path / "p.npy")[0] == 0
        np.testing.assert_allclose(np.load(tmp_path / "p.npy"), want, rtol=0, atol=1e-4)
    assert "'x'" in refused(capsys, "predict", SPEAKERS, tmp_path / "many.npz")
    assert "left, right" in refused(capsys, "predict", SPEAKERS, tmp_path / "many.npz", "--key", "up")


def test_predict_writes_csv_with_class_names(capsys, tmp_path):
    run(capsys, "predict", SPEAKERS, RECORDINGS, "-o", tmp_path / "p.csv")
    run(capsys, "predict", SPEAKERS, RECORDINGS, "-o", tmp_path / "p.npy")
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert lines[0] == ",".join(f"speaker {k}" for k in range(1, 10))
    np.testing.assert_array_equal(np.loadtxt(lines[1:], delimiter=",", dtype=np.float32), np.load(tmp_path / "p.npy"))


def test_predict_token_model(capsys, tmp_path):
    """A model of [sequences, steps] takes one csv row as one sequence."""
    stored = np.load(DATA / "embed_mask_lstm.npz")
    np.savetxt(tmp_path / "ids.csv", stored["in0"], fmt="%d", delimiter=",")
    code, text, _ = run(capsys, "predict", DATA / "embed_mask_lstm.keras", tmp_path / "ids.csv", "-o", tmp_path / "p.npy")
    assert code == 0
    assert "4 sequences of 9" in text
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), stored["out0"], rtol=0, atol=1e-5)


def test_predict_stateful_model_takes_its_own_batch_size(capsys, tmp_path):
    """Batches of two one after the other are successive calls."""
    stored = np.load(DATA / "stateful.npz")
    np.save(tmp_path / "x.npy", np.concatenate([stored[f"in{k}"] for k in range(3)]))
    assert run(capsys, "predict", DATA / "stateful.keras", tmp_path / "x.npy", "-o", tmp_path / "p.npy")[0] == 0
    expected = np.concatenate([stored[f"out{k}"] for k in range(3)])
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), expected, rtol=0, atol=1e-5)
    message = refused(capsys, "predict", DATA / "stateful.keras", tmp_path / "x.npy", "--batch-size", "3")
    assert "stateful" in message
    assert "x.npy" in message


# -- csv input ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("delimiter", "header"), [(",", True), (";", True), ("\t", False), (" ", False), (",", False)])
def test_predict_csv(capsys, tmp_path, delimiter, header):
    """Rows are time steps; the model's own 29 steps cut them into sequences."""
    x, expected = recordings(3)
    names = delimiter.join(f"c{k}" for k in range(12)) if header else ""
    np.savetxt(tmp_path / "x.csv", x.reshape(-1, 12), delimiter=delimiter, header=names, comments="", fmt="%.9g")
    code, text, _ = run(capsys, "predict", SPEAKERS, tmp_path / "x.csv", "-o", tmp_path / "p.npy")
    assert code == 0
    assert "3 sequences of 29 x 12" in text
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no rows"),
        ("\n\n# nothing\n", "no rows"),
        ("a,b\n", "header and no rows"),
        ("1,2\n3\n", "columns"),
        ("1,2\n3,\n", "convert"),
        ("1,2\nx,4\n", "'x'"),
        ("\udcff\udcfe,2\n3,4\n", "decode"),
    ],
)
def test_csv_that_is_no_table(capsys, tmp_path, text, word):
    path = tmp_path / "x.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    message = refused(capsys, "predict", SPEAKERS, path)
    assert f"{path}: " in message
    assert word in message


# -- info and doctor ----------------------------------------------------------------------------------------------------
def test_info(capsys):
    code, text, err = run(capsys, "info", SPEAKERS)
    assert (code, err) == (0, "")
    facts = dict(re.split(r" {2,}", line, maxsplit=1) for line in text.split("\n\n")[0].splitlines())
    assert facts == {
        "model": "sequential_2 (Sequential)",
        "file": SPEAKERS,
        "saved": "2026-11-21 19:34:41, Keras 3.15.1",
        "input": "(None, 29, 12)",
        "output": "(None, 9)",
        "dtype": "float32",
        "parameters": "17,769 (17,769 trainable)",
        "memory": "71.1 kB of weights",
    }
    rows = [re.split(r" {2,}", line) for line in text.split("\n\n")[1].splitlines()]
    assert rows == [
        ["#", "layer", "class", "output shape", "parameters"],
        ["1", "masking", "Masking", "(None, 29, 12)", "0"],
        ["2", "bi1", "Bidirectional(LSTM)", "(None, 29, 48)", "7,104"],
        ["3", "lstm2", "LSTM", "(None, 32)", "10,368"],
        ["4", "dense_2", "Dense", "(None, 9)", "297"],
    ]
    assert len({len(line) for line in text.split("\n\n")[1].splitlines()}) == 1


def test_doctor(capsys):
    import h5py

    code, text, _ = run(capsys, "doctor")
    assert code == 0
    for name in ("fastlstm", "python", "numpy", "isa", "blas", "threads", "device", "gpu"):
        assert re.search(rf"^{name} +\S", text, re.MULTILINE), name
    assert re.search(rf"^numpy +{re.escape(np.__version__)}$", text, re.MULTILINE)
    assert re.search(rf"^h5py +{re.escape(h5py.__version__)} +reads and writes \.keras files$", text, re.MULTILINE)


# -- usage and errors ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["predict"],
        ["predict", "a.keras"],
        ["info"],
        ["doctor", "extra"],
        ["predict", SPEAKERS, RECORDINGS, "--batch-size", "0"],
        ["predict", SPEAKERS, RECORDINGS, "--batch-size", "many"],
        ["predict", SPEAKERS, RECORDINGS, "--timesteps", "-1"],
    ],
)
def test_wrong_usage(capsys, arguments):
    assert "--help" in refused(capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["info", "nothing.keras"], "nothing.keras: No such file"),
        (["info", RECORDINGS], "no member 'config.json'"),
        (["info", str(DATA / "stateful.weights.h5")], "weights only"),
        (["predict", SPEAKERS, "nothing.npz"], "nothing.npz: No such file"),
        (["predict", SPEAKERS, SPEAKERS], "must end in .npy, .npz or .csv"),
        (["predict", SPEAKERS, RECORDINGS, "-o", "p.txt"], "p.txt: the output must end in .npy or .csv"),
        (["predict", SPEAKERS, RECORDINGS, "-o", "no/such/folder/p.npy"], "no/such/folder/p.npy: there is no folder"),
        (["predict", SPEAKERS, RECORDINGS, "--timesteps", "29"], "--timesteps"),
        (["predict", SPEAKERS, RECORDINGS, "--key", "classes"], "'classes' must hold numbers"),
        (["predict", SPEAKERS, RECORDINGS, "--key", "y"], "cannot take this input"),
        (["predict", str(DATA / "embed_mask_lstm.keras"), RECORDINGS], "cannot take this input"),
    ],
)
def test_bad_input(capsys, arguments, word):
    assert word in refused(capsys, *arguments)


def test_damaged_inputs(capsys, tmp_path):
    good = Path(RECORDINGS).read_bytes()
    (tmp_path / "cut.npz").write_bytes(good[: len(good) // 2])
    (tmp_path / "text.npy").write_text("no array at all")
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    np.save(tmp_path / "none.npy", np.zeros((0, 29, 12), np.float32))
    np.save(tmp_path / "number.npy", np.float32(3))
    (tmp_path / "short.npy").write_bytes((tmp_path / "words.npy").read_bytes()[:-3])
    for path in sorted(tmp_path.iterdir()):
        assert f"{path}: " in refused(capsys, "predict", SPEAKERS, path)


def test_names_from_files_cannot_move_the_cursor(capsys, tmp_path):
    x, _ = recordings(2)
    names = np.array(["\x1b[2Jclear", *"bcdefghi"])
    np.savez(tmp_path / "x.npz", x=x, classes=names, y=np.zeros(2, int))
    _, text, _ = run(capsys, "predict", SPEAKERS, tmp_path / "x.npz")
    assert "\x1b" not in text
    assert "?[2Jclear" in text


def test_without_h5py(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "pip install 'fastlstm[keras]'" in refused(capsys, "info", SPEAKERS)


def test_ctrl_c(capsys, monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load_model", interrupted)
    assert run(capsys, "predict", SPEAKERS, RECORDINGS) == (130, "", "fastlstm: interrupted\n")


def python(*arguments, **keys):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen([sys.executable, *arguments], text=True, env=environment, **keys)


def test_as_a_module():
    process = python("-m", "fastlstm", "info", SPEAKERS, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "17,769" in out


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process and no SIGPIPE")
def test_signals_end_the_process_quietly():
    """Ctrl-C in the middle of a prediction, and a reader that goes away; neither leaves a traceback."""
    endless = "import fastlstm.cli as c, time; c.load_model = lambda p: (print('up', flush=True), time.sleep(60)); "
    endless += f"raise SystemExit(c.main(['predict', {SPEAKERS!r}, {RECORDINGS!r}]))"
    process = python("-c", endless, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == "up\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "fastlstm: interrupted\n")

    closed = python("-m", "fastlstm", "info", SPEAKERS, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    closed.stdout.close()
    with closed.stderr as pipe:
        err = pipe.read()
    assert closed.wait(timeout=60) == 141
    assert err == ""


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_info_of_a_functional_model(capsys, suffix):
    code, out, _ = run(capsys, "info", str(DATA / f"functional_init_state.{suffix}"))
    assert code == 0
    assert "(Functional)" in out
    assert "(None, 6, 4), (None, 5), (None, 5)" in out
    assert re.search(r"enc +LSTM +\(None, 6, 5\), \(None, 5\), \(None, 5\) +200", out)
    assert "3 inputs" in refused(capsys, "predict", str(DATA / f"functional_init_state.{suffix}"), RECORDINGS)
