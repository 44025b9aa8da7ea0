"""fastlstm's own files of models, .npz and .safetensors: they hold what a .keras file holds, need NumPy only; damage is told."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import fastlstm
from fastlstm import LSTM, Bidirectional, Dense, Embedding, InputLayer, Sequential
from fastlstm.io.own_file import VERSION
from fastlstm.io.safetensors import read_safetensors, write_safetensors
from fastlstm.models.sample_inputs import sample_inputs

DATA = Path(__file__).parent / "data"
KINDS = ("npz", "safetensors")
NAMES = sorted(path.stem for folder in ("keras3", "graphs") for path in (DATA / folder).glob("*.keras"))


def small(dtype="float32"):
    return Sequential([InputLayer((5, 4)), LSTM(3, dtype=dtype, name="lstm"), Dense(2, dtype=dtype, name="dense")], name="small")


def text_of(path):
    with np.load(path, allow_pickle=False) as arrays:
        return json.loads(str(arrays["fastlstm"]))


def rewritten(path, **changes):
    """The .npz at ``path`` with arrays replaced, or taken away where they are None."""
    with np.load(path, allow_pickle=False) as arrays:
        kept = {name: arrays[name] for name in arrays} | changes
    np.savez(path, **{name: array for name, array in kept.items() if array is not None})
    return path


def with_text(path, **changes):
    told = {key: value for key, value in (text_of(path) | changes).items() if value is not None}
    return rewritten(path, fastlstm=np.array(json.dumps(told)))


def refusal(path, *words):
    with pytest.raises(ValueError, match=Path(path).name.replace(".", r"\.")) as caught:
        fastlstm.load_model(path)
    assert type(caught.value) is ValueError
    for word in words:
        assert word in str(caught.value), str(caught.value)


# -- there and back -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_models_of_keras_come_back_the_same(name, kind, tmp_path):
    pytest.importorskip("h5py", reason="reading .keras files needs h5py")
    model = fastlstm.load_model(next(DATA.glob(f"*/{name}.keras")))
    model.save(tmp_path / f"m.{kind}")
    again = fastlstm.load_model(tmp_path / f"m.{kind}")
    assert [v.path for v in again.weights] == [v.path for v in model.weights]
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    x = sample_inputs(model)
    x = x if len(x) > 1 else x[0]
    answers = [fastlstm.layers.nest.flatten(m(x)) for m in (model, again)]
    for one, other in zip(*answers, strict=True):
        np.testing.assert_array_equal(one, other)
    assert again.compile_config() == model.compile_config()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "mixed_float16"])
def test_dtypes(dtype, kind, tmp_path):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    model = small(dtype)
    model.save(tmp_path / f"m.{kind}")
    again = fastlstm.load_model(tmp_path / f"m.{kind}")
    for one, other in zip(model.weights, again.weights, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_arrays_have_the_names_of_keras_variables(tmp_path):
    model = small()
    model.save(tmp_path / "m.npz")
    model.save(tmp_path / "m.safetensors")
    names = {"small/lstm/lstm_cell/kernel", "small/lstm/lstm_cell/recurrent_kernel", "small/lstm/lstm_cell/bias"}
    names |= {"small/dense/kernel", "small/dense/bias"}
    with np.load(tmp_path / "m.npz", allow_pickle=False) as arrays:
        assert set(arrays) == names | {"fastlstm"}
        np.testing.assert_array_equal(arrays["small/dense/kernel"], model.weights[3].value)
    tensors, metadata = read_safetensors(tmp_path / "m.safetensors")
    assert set(tensors) == names
    assert json.loads(metadata["fastlstm"])["version"] == VERSION == 1


def test_layers_with_names_that_are_no_file_names(tmp_path):
    model = Sequential([InputLayer((5, 4)), LSTM(3, name=".."), Dense(2, name="a:b\\c")], name="layers")
    model.save(tmp_path / "m.npz")
    again = fastlstm.load_model(tmp_path / "m.npz")
    assert [layer.name for layer in again.layers] == ["..", "a:b\\c"]
    np.testing.assert_array_equal(again.get_weights()[0], model.get_weights()[0])


@pytest.mark.usefixtures("packed_panels")
def test_it_needs_numpy_alone(tmp_path):
    """Without SciPy there is no BLAS: the own kernels give these bits there and here."""
    model = small()
    for kind in KINDS:
        model.save(tmp_path / f"m.{kind}")
    np.save(tmp_path / "y.npy", model(np.ones((2, 5, 4), "float32")))
    code = """
import sys
for name in ("h5py", "safetensors", "ml_dtypes", "scipy"):
    sys.modules[name] = None  # an import of it fails
import numpy as np, fastlstm
for kind in ("npz", "safetensors"):
    y = fastlstm.load_model(f"m.{kind}")(np.ones((2, 5, 4), "float32"))
    assert np.array_equal(y, np.load("y.npy")), kind
fastlstm.load_model("m.npz").save("again.safetensors")
"""
    environment = {name: value for name, value in os.environ.items() if name != "FASTLSTM_GEMM"}
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_file_objects_and_names_do_not_matter(tmp_path):
    model = small()
    for kind in KINDS:
        model.save(tmp_path / f"m.{kind}")
        data = (tmp_path / f"m.{kind}").read_bytes()
        assert fastlstm.load_model(io.BytesIO(data)).name == "small"
        (tmp_path / "m.keras").write_bytes(data)
        assert fastlstm.load_model(tmp_path / "m.keras").name == "small"


# -- PyTorch's layout ---------------------------------------------------------------------------------------------------
def torch_model():
    layers = [Embedding(9, 4, name="e"), Bidirectional(LSTM(3, return_sequences=True), name="b"), LSTM(2, name="l"), Dense(5)]
    return Sequential([InputLayer((None,)), *layers])


def saved_for_torch(model, path):
    from fastlstm.models.own_writing import save_own
    from fastlstm.models.writing import placed_variables

    save_own(model, str(path), placed_variables(model)[0], "torch")


def test_torch_layout(tmp_path):
    model = torch_model()
    for variable in model.weights:
        variable.assign(np.random.default_rng(len(variable.path)).standard_normal(variable.shape))
    saved_for_torch(model, tmp_path / "m.safetensors")
    tensors, metadata = read_safetensors(tmp_path / "m.safetensors")
    assert metadata["format"] == "pt"
    dense = model.layers[-1].name
    halves = [f"b.{kind}_{part}_l0{half}" for kind in ("weight", "bias") for part in ("ih", "hh") for half in ("", "_reverse")]
    single = ["l.weight_ih_l0", "l.weight_hh_l0", "l.bias_ih_l0", "l.bias_hh_l0"]
    assert sorted(tensors) == sorted(["e.weight", *halves, *single, f"{dense}.weight", f"{dense}.bias"])
    np.testing.assert_array_equal(tensors["l.weight_ih_l0"], model.layers[2].weights[0].value.T)
    np.testing.assert_array_equal(tensors["b.weight_hh_l0_reverse"], model.layers[1].backward_layer.weights[1].value.T)
    assert not tensors["l.bias_hh_l0"].any()
    again = fastlstm.load_model(tmp_path / "m.safetensors")
    for one, other in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    # Both biases count, as in PyTorch.
    write_safetensors(tmp_path / "m.safetensors", tensors | {"l.bias_hh_l0": np.ones(8, "float32")}, metadata)
    moved = fastlstm.load_model(tmp_path / "m.safetensors").layers[2].weights[2].value
    np.testing.assert_array_equal(moved, model.layers[2].weights[2].value + np.float32(1))


def test_torch_layout_refuses_what_torch_has_not(tmp_path):
    for layer in (fastlstm.GRU(3), LSTM(3, activation="relu"), fastlstm.Conv1D(2, 3)):
        with pytest.raises(ValueError, match=layer.name):
            saved_for_torch(Sequential([InputLayer((5, 4)), layer]), tmp_path / "m.safetensors")
    saved_for_torch(torch_model(), tmp_path / "m.safetensors")
    tensors, metadata = read_safetensors(tmp_path / "m.safetensors")
    text = json.loads(metadata["fastlstm"])
    for change, words in (
        (lambda t: t.pop("e.weight"), ["no array 'e.weight'"]),
        (lambda t: t.update({"e.weight": np.zeros((4, 9), "float32")}), ["'e.weight'", "(4, 9)"]),
        (lambda t: t.update({"more": np.zeros(3, "float32")}), ["more"]),
    ):
        changed = dict(tensors)
        change(changed)
        told = json.dumps({**text, "names": {name: name for name in changed}})
        write_safetensors(tmp_path / "m.safetensors", changed, {"fastlstm": told})
        refusal(tmp_path / "m.safetensors", *words)


# -- damage -------------------------------------------------------------------------------------------------------------
@pytest.fixture
def npz(tmp_path):
    small().save(tmp_path / "m.npz")
    return tmp_path / "m.npz"


def test_a_text_that_does_not_fit(npz):
    good = npz.read_bytes()
    for changes, words in (
        ({"version": 2}, ["newer fastlstm", "version 2"]),
        ({"version": "1"}, ["version"]),
        ({"format": "other"}, ["format"]),
        ({"layout": "mars"}, ["mars"]),
        ({"config": []}, ["config"]),
        ({"names": None}, ["names"]),
        ({"names": {"a": 3}}, ["names"]),
        ({"names": {}}, ["small/dense/bias"]),
        ({"bfloat16": 3}, ["bfloat16"]),
        ({"bfloat16": [[]]}, ["bfloat16"]),
        ({"config": {"class_name": "Strange", "config": {}}}, ["Strange"]),
    ):
        npz.write_bytes(good)
        refusal(with_text(npz, **changes), *words)
    npz.write_bytes(good)
    twice = dict.fromkeys(text_of(npz)["names"], "layers/lstm/cell/vars/0")
    refusal(with_text(npz, names=twice), "each once")


def test_arrays_that_do_not_fit(npz):
    good = npz.read_bytes()
    name = "small/dense/kernel"
    for array, words in (
        (None, [name]),
        (np.zeros((3, 3), "float32"), ["layers/dense/vars/0", "(3, 3)"]),
        (np.zeros((3, 2), "complex64"), ["complex64"]),
        (np.zeros((3, 2), "int32"), ["int32"]),
        (np.array("text"), [name]),
    ):
        npz.write_bytes(good)
        refusal(rewritten(npz, **{name: array}), *words)
    npz.write_bytes(good)
    refusal(rewritten(npz, fastlstm=np.zeros(3)), "one text")


def test_nothing_is_unpickled(npz):
    with np.load(npz, allow_pickle=False) as arrays:
        kept = {name: arrays[name] for name in arrays}
    np.savez(npz, **kept | {"small/dense/kernel": np.array([{"a": 1}], dtype=object)})
    refusal(npz, "small/dense/kernel", "object")


def test_members_that_lie(npz):
    with zipfile.ZipFile(npz) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    kernel = "small/dense/kernel.npy"
    for member, data, words in (
        (kernel, members[kernel].replace(b"(3, 2)", b"(9, 2)"), ["declares shape (9, 2)"]),
        (kernel, members[kernel].replace(b"(3, 2)", b"(-3,2)"), ["shape"]),
        (kernel, members[kernel][:-1], ["declares shape"]),
        (kernel, members[kernel] + b"x", ["declares shape"]),
        (kernel, b"no array", ["damaged"]),
        (kernel, b"", ["damaged"]),
        ("notes.txt", b"hello", ["notes.txt"]),
        ("../up.npy", members[kernel], ["unsafe"]),
    ):
        with zipfile.ZipFile(npz, "w") as archive:
            for name, content in {**members, member: data}.items():
                archive.writestr(name, content)
        refusal(npz, *words)


def test_truncated_files(tmp_path):
    for kind in KINDS:
        path = tmp_path / f"m.{kind}"
        small().save(path)
        data = path.read_bytes()
        for size in (0, 1, 7, 9, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:size])
            with pytest.raises(ValueError, match=rf"m\.{kind}"):
                fastlstm.load_model(path)


def test_weights_alone_are_no_model(tmp_path):
    write_safetensors(tmp_path / "w.safetensors", {"lstm.weight_ih_l0": np.zeros((4, 2), "float32")})
    refusal(tmp_path / "w.safetensors", "weights only", "lstm.weight_ih_l0")
    np.savez(tmp_path / "w.npz", a=np.zeros(3))
    refusal(tmp_path / "w.npz")
