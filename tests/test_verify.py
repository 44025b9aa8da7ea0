"""fastlstm verify: what it compares, how it asks another runtime, and what it says that today's Keras makes of old files."""

from __future__ import annotations

import importlib.util
import os
import re
import stat
from pathlib import Path

import numpy as np
import pytest
from legacy_files import layer, lstm_config, sequential, write_model
from test_cli import refused, run
from test_convert import torch_weights
from test_legacy_h5 import by_hand, draw, lstm_weights, new_hard_sigmoid, old_hard_sigmoid, translator, translator_weights

import fastlstm
from fastlstm import LSTM, Dense, Input, InputLayer, Model, Sequential
from fastlstm.models.converting import largest_difference
from fastlstm.models.layer_configs import MEANINGS
from fastlstm.models.sample_inputs import sample_inputs
from fastlstm.verify.child import keys_of
from fastlstm.verify.comparison import compare, largest_error
from fastlstm.verify.layer_outputs import in_float64, layer_outputs
from fastlstm.verify.meaning import changes
from fastlstm.verify.runtimes import Answer, ask
from fastlstm.verify.subjects import subject_of

pytest.importorskip("h5py", reason="reading .keras files needs h5py")

ROOT = Path(__file__).resolve().parent.parent
SPEAKERS = str(ROOT / "examples" / "speakers.keras")
DATA = ROOT / "tests" / "data"
ROW = r"^{} .* (\S+) +(\S+)( +beyond)?$"


# -- the reference backend, in a process of its own ---------------------------------------------------------------------
@pytest.mark.parametrize("name", ["keras3/convlstm_stack.keras", "keras3/stateful.h5", "graphs/recurrent.keras"])
def test_every_layer_is_compared_with_the_reference(name, capsys):
    code, text, err = run(capsys, "verify", DATA / name)
    assert (code, err) == (0, "")
    assert "reference backend in float64" in text
    assert "all within the tolerance" in text
    model = fastlstm.load_model(DATA / name)
    for one in model.layers:
        if not isinstance(one, InputLayer):
            error, relative = re.search(ROW.format(one.name + r"(\[0\])?"), text, re.M).group(2, 3)
            assert float(relative) <= float(error) < 1e-4
    within = re.search(r"output  differs by (\S+), within tolerance", text)
    assert 0 <= float(within[1]) < 2e-5
    threads = {1: "1 thread"}.get(fastlstm.get_num_threads(), f"{fastlstm.get_num_threads()} threads")
    assert re.search(rf"time +\S+ \S+ here \({threads}\), \S+ \S+ there: medians of one call", text)


def test_exit_code_1_beyond_the_tolerance(capsys):
    """float32 and float64 are never the same to the last bit."""
    code, text, _ = run(capsys, "verify", SPEAKERS, "--tolerance", "0")
    assert code == 1
    assert "BEYOND tolerance" in text
    assert "WRONG: differs from fastlstm" in text
    assert re.search(r"^lstm2 .* beyond$", text, re.M)
    assert re.search(r"^masking .* 0 +0$", text, re.M)


def test_no_original_runtime(capsys, tmp_path):
    """An interpreter without anything: the answer says so, and nothing breaks."""
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\nexit 3\n")
    bare.chmod(bare.stat().st_mode | stat.S_IXUSR)
    code, text, _ = run(capsys, "verify", SPEAKERS, "--python", bare)
    assert code == 0
    assert "keras cannot run the model: its process ended with code 3: it said nothing" in text
    assert "No original runtime was found" in text
    code, text, _ = run(capsys, "verify", SPEAKERS, "--python", tmp_path / "none")
    assert code == 0
    assert "keras is not there: cannot start" in text


@pytest.mark.parametrize(
    ("told", "installed", "chosen"),
    [
        ('{"backend": "tensorflow"}', ["jax"], "jax"),  # what Keras writes by itself where only jax is installed
        ('{"backend": "torch"}', ["jax", "torch"], "torch"),
        ("{", ["torch"], "torch"),
        (None, ["tensorflow", "jax"], "tensorflow"),
        (None, [], "tensorflow"),
    ],
)
def test_keras_runs_on_a_backend_that_is_installed(monkeypatch, tmp_path, told, installed, chosen):
    if told is not None:
        (tmp_path / "keras.json").write_text(told)
    for name in [*installed, "keras"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("import os\nraise ImportError(os.environ['KERAS_BACKEND'] + ' it is')\n")
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    if (set(installed) ^ {"tensorflow", "jax", "torch"}) & set(filter(importlib.util.find_spec, ("tensorflow", "jax", "torch"))):
        pytest.skip("a backend of Keras is installed here, which the test says is not")
    answer = ask("keras", SPEAKERS, [np.zeros((1, 29, 12), np.float32)])
    assert answer.missing
    assert answer.problem == f"{chosen} it is"


def test_the_reference_answers_what_the_stored_answers_say():
    """The child's arrays against what Keras answered."""
    path = DATA / "keras3" / "embed_mask_lstm.keras"
    with np.load(DATA / "keras3" / "embed_mask_lstm.npz") as stored:
        x, want = stored["in0"], stored["out0"]
    answer = ask("reference", str(path), [x])
    assert not answer.problem
    assert answer.seconds > 0
    np.testing.assert_allclose(answer.arrays[answer.outputs[0]], want, rtol=0, atol=1e-6)
    assert answer.arrays[answer.outputs[0]].dtype == np.float64


def test_children_that_go_wrong(tmp_path):
    x = np.zeros((1, 29, 12), np.float32)
    answer = ask("reference", str(tmp_path / "none.keras"), [x])
    assert "No such file" in answer.problem
    assert not answer.missing
    answer = ask("reference", SPEAKERS, [x[:, :, :3]])
    assert "ValueError" in answer.problem
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(slow.stat().st_mode | stat.S_IXUSR)
    assert ask("keras", SPEAKERS, [x], str(slow), timeout=0.5).problem == "was stopped after 0 s"
    half = tmp_path / "half"
    half.write_text('#!/bin/sh\necho "{" > "$2/answer.json"\necho broken >&2\n')
    half.chmod(half.stat().st_mode | stat.S_IXUSR)
    assert ask("keras", SPEAKERS, [x], str(half)).problem == "its process ended with code 0: broken"


# -- which arrays belong together ---------------------------------------------------------------------------------------
def test_keys_do_not_depend_on_the_order_of_calls():
    calls = [("a", ["x"], ["p"]), ("b", ["x", "p"], ["q", "r"]), ("a", ["q"], ["s"])]
    one, other = keys_of(calls, ["x"]), keys_of([calls[1], calls[2], calls[0]], ["x"])
    assert one == other
    assert one["p"] != one["s"]
    assert len(one["p"]) == len(one["s"]) == 1  # "a" is called twice
    assert one["r"][1] == "b:1"
    assert len({keys[0] for keys in one.values()}) == len(one)


def test_outputs_of_every_layer():
    x, state = Input((5, 4)), Input((3,))
    shared = Dense(3, name="shared")
    lstm = LSTM(3, return_sequences=True, return_state=True, name="lstm")
    y, h, _ = lstm(x, initial_state=[state, state])
    model = Model([x, state], [shared(y), shared(h)])
    arrays = [draw(2, 5, 4), draw(2, 3)]
    found = layer_outputs(model, arrays)
    labels = [row.label for row in found.rows]
    assert labels == ["lstm[0]", "lstm[1]", "lstm[2]", "shared", "shared (call 2)"]
    want = model.get_layer("lstm")(arrays[0], initial_state=[arrays[1]] * 2)
    for row, array in zip(found.rows, want, strict=False):
        np.testing.assert_array_equal(row.array, array)
    by_key = {key: row.array for row in found.rows for key in row.keys}
    for key, array in zip(found.outputs, model(arrays), strict=True):
        np.testing.assert_array_equal(by_key[key], array)


def test_in_float64():
    def made(dtype):
        layers = [InputLayer((5, 4)), fastlstm.Bidirectional(LSTM(3, dtype=dtype), dtype=dtype), Dense(2, dtype=dtype)]
        return Sequential(layers)

    model, want = made("float32"), made("float64")
    want.set_weights(model.get_weights())
    x = np.random.default_rng(0).standard_normal((2, 5, 4))
    answer = in_float64(model)(x)
    assert answer.dtype == np.float64
    np.testing.assert_array_equal(answer, want(x))


def test_compare():
    rows = layer_outputs(Sequential([InputLayer((5, 4)), LSTM(3, name="lstm"), Dense(2, name="dense")]), [draw(2, 5, 4)])
    arrays = {key: row.array.copy() for row in rows.rows for key in row.keys}
    same = compare(rows, Answer("keras", "keras", arrays, rows.outputs, 1.0))
    assert same.overall == 0
    assert [one.error for one in same.layers] == [0, 0]
    for key in rows.rows[0].keys:
        arrays[key] = arrays[key] + np.float32(0.25)
    inner = compare(rows, Answer("keras", "keras", arrays, rows.outputs, 1.0))
    assert inner.overall == 0
    assert inner.layers[0].error == pytest.approx(0.25)
    gone = {key: a for key, a in arrays.items() if key not in rows.rows[0].keys}
    assert compare(rows, Answer("keras", "keras", gone, rows.outputs, 1.0)).layers[0].error is None
    assert compare(rows, Answer("keras", "keras", {}, rows.outputs, 1.0)).overall == np.inf
    assert compare(rows, Answer("keras", "keras", arrays, [], 1.0)).overall == np.inf
    assert largest_error(np.array([np.nan, 1, np.inf]), np.array([np.nan, 3, np.inf])) == 2
    assert largest_error(np.array([np.nan]), np.array([1.0])) == np.inf
    assert largest_error(np.zeros(2), np.zeros(3)) == np.inf


# -- what today's Keras makes of it -------------------------------------------------------------------------------------
def test_hard_sigmoid_in_numbers(capsys, tmp_path):
    weights = lstm_weights(2, 4)
    entry = layer("LSTM", "lstm", units=4, batch_input_shape=[None, 6, 2], **lstm_config(recurrent_activation="hard_sigmoid"))
    path = write_model(tmp_path / "old.h5", sequential(entry), {"lstm": weights})
    x = draw(3, 6, 2)
    a, b = (by_hand(x, weights, formula) for formula in (old_hard_sigmoid, new_hard_sigmoid))
    (change,) = changes(subject_of(str(path)).file, [x])
    assert (change.meaning, change.layers) == ("hard_sigmoid", ["lstm"])
    assert change.difference == pytest.approx(np.abs(a - b).max(), abs=1e-6)
    assert change.difference > 0.01
    np.save(tmp_path / "x.npy", x)
    code, text, _ = run(capsys, "verify", path, tmp_path / "x.npy")
    assert code == 0
    assert "The file is of Keras 2.2.4" in text
    assert f"clip(x / 6 + 0.5, 0, 1) in Keras 3 (lstm): the answers differ by {change.difference:.2g}" in text


def test_other_meanings_in_numbers(tmp_path):
    """Masks beside states and training=True; each alone, whatever else is in the file."""
    path = write_model(tmp_path / "old.h5", translator(training=True), translator_weights())
    subject = subject_of(str(path))
    assert subject.random
    inputs = subject.random_inputs()
    found = {change.meaning: change for change in changes(subject.file, inputs)}
    assert set(found) == {"mask", "training"}
    model = fastlstm.load_model(path)
    for node in model._graph.nodes:
        node.options.pop("always_training", None)
    want = model(inputs)
    for node in model._graph.nodes:
        node.options.pop("keeps_mask", None)
    assert found["mask"].difference == pytest.approx(largest_difference(model(inputs), want), rel=1e-6)
    assert found["mask"].difference > 1e-3
    assert found["training"].difference > 1e-3
    assert found["training"].layers == ["drop"]


def test_defaults_in_numbers(tmp_path):
    kernel, recurrent = draw(2, 12), draw(4, 12)
    entry = layer("GRU", "g", units=4, batch_input_shape=[None, 6, 2], use_bias=False)
    weights = {"g/kernel:0": kernel, "g/recurrent_kernel:0": recurrent}
    path = write_model(tmp_path / "old.h5", sequential(entry), {"g": weights}, "2.1.0")
    subject = subject_of(str(path))
    x = draw(3, 6, 2)
    found = {change.meaning: change for change in changes(subject.file, [x])}
    assert set(found) == {"reset_after", "recurrent_activation"}

    def gru(**options):
        made = fastlstm.GRU(4, use_bias=False, **{"recurrent_activation": "hard_sigmoid_keras2", "reset_after": False, **options})
        made.build(x.shape)
        made.set_weights([kernel, recurrent])
        return made(x)

    assert found["reset_after"].difference == pytest.approx(np.abs(gru(reset_after=True) - gru()).max(), abs=1e-6)
    assert found["recurrent_activation"].difference == pytest.approx(
        np.abs(gru(recurrent_activation="sigmoid") - gru()).max(), abs=1e-6
    )
    biased = layer("GRU", "g", units=4, batch_input_shape=[None, 6, 2], recurrent_activation="sigmoid")
    path = write_model(tmp_path / "old.h5", sequential(biased), {"g": {**weights, "g/bias:0": draw(12)}}, "2.1.0")
    (change,) = changes(subject_of(str(path)).file, [x])
    assert change.difference is None
    assert "shape" in change.why


def test_files_of_keras_3_mean_what_they_meant(capsys):
    assert changes(subject_of(SPEAKERS).file, sample_inputs(fastlstm.load_model(SPEAKERS))) == []
    assert "means by this file what it meant" in run(capsys, "verify", SPEAKERS)[1]
    assert set(MEANINGS) == {"hard_sigmoid", "recurrent_activation", "reset_after", "mask", "training"}


# -- other files --------------------------------------------------------------------------------------------------------
def test_weights_of_pytorch(capsys, tmp_path):
    torch_weights(tmp_path / "w.safetensors")
    code, text, _ = run(capsys, "verify", tmp_path / "w.safetensors", "--prefix", "rnn")
    assert code == 0
    assert re.search(ROW.format("l1"), text, re.M)
    assert "reference backend in float64" in text
    assert "prefix" in refused(capsys, "verify", SPEAKERS, "--prefix", "rnn")


def test_onnx(capsys, tmp_path):
    onnx = pytest.importorskip("onnx", reason="writing an .onnx file needs onnx")
    from onnx import TensorProto, helper, numpy_helper

    kinds = {"w": draw(1, 12, 4), "r": draw(1, 12, 3)}
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r"], ["y", "h"], hidden_size=3),
        helper.make_node("Tanh", ["y"], ["z"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["t", 2, 4]), ("z", None), ("h", None))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(a, n) for n, a in kinds.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8), tmp_path / "m.onnx")
    code, text, _ = run(capsys, "verify", tmp_path / "m.onnx")
    assert code == 0
    assert re.search(ROW.format("y"), text, re.M)
    assert re.search(ROW.format("z"), text, re.M)
    assert "x 3 x 2 x 4, float32" in text


# -- input --------------------------------------------------------------------------------------------------------------
def test_inputs(capsys, tmp_path):
    recordings = ROOT / "examples" / "speakers.npz"
    code, text, _ = run(capsys, "verify", SPEAKERS, recordings, "--samples", "5")
    assert code == 0
    assert "5 x 29 x 12, float32" in text
    model = DATA / "keras3" / "functional_init_state.keras"
    inputs = sample_inputs(fastlstm.load_model(model))
    names = [tensor.name for tensor in fastlstm.load_model(model).inputs]
    np.savez(tmp_path / "x.npz", **dict(zip(names, inputs, strict=True)))
    code, text, _ = run(capsys, "verify", model, tmp_path / "x.npz")
    assert code == 0
    np.save(tmp_path / "x.npy", inputs[0])
    assert "must end in .npz" in refused(capsys, "verify", model, tmp_path / "x.npy")
    np.savez(tmp_path / "x.npz", **{names[0]: inputs[0]})
    assert "has no array" in refused(capsys, "verify", model, tmp_path / "x.npz")
    np.save(tmp_path / "x.npy", np.zeros((2, 29, 3), np.float32))
    assert "cannot take this input" in refused(capsys, "verify", SPEAKERS, tmp_path / "x.npy")
    assert "tolerance" in refused(capsys, "verify", SPEAKERS, "--tolerance", "-1")
    assert "No such file" in refused(capsys, "verify", tmp_path / "none.keras")


# -- Keras itself -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["keras3/bidi_masking_stack.keras", "graphs/translator.keras", "npz", "hard_sigmoid"])
def test_keras_itself(name, capsys, tmp_path):
    """FASTLSTM_KERAS_PYTHON names a Python that has Keras, where this one has none."""
    python = os.environ.get("FASTLSTM_KERAS_PYTHON")
    if python is None:
        pytest.importorskip("keras", reason="needs Keras 3 here, or in the Python that FASTLSTM_KERAS_PYTHON names")
    path = DATA / name
    if name == "npz":
        path = tmp_path / "m.npz"
        fastlstm.load_model(SPEAKERS).save(path)
    if name == "hard_sigmoid":
        entry = layer("LSTM", "lstm", units=4, recurrent_activation="hard_sigmoid")
        first = layer("InputLayer", "x", batch_input_shape=[None, 6, 2], dtype="float32", sparse=False)
        path = write_model(tmp_path / "old.h5", sequential(first, entry), {"x": {}, "lstm": lstm_weights(2, 4)}, "2.11.0")
    code, text, _ = run(capsys, "verify", path, *(["--python", python] if python else []))
    assert code == 0, text
    assert re.search(r"^keras 3\.\S+ on \w+", text, re.M)
    assert "No original runtime" not in text
    assert "not there" not in text.replace("tf_keras is not there", "")
    if name == "hard_sigmoid":  # Keras opens it, and answers otherwise than the file meant; as converted it does not
        assert "So it is known to differ from what the file meant" in text
        assert text.count("within tolerance") == 2
