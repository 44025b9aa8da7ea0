"""Damaged and hostile .h5 models: each ends in a ValueError that names the file and says what is wrong; nothing is executed."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

import fastlstm

h5py = pytest.importorskip("h5py", reason="reading .h5 files needs h5py")

from keras_files import DATA, refusal  # noqa: E402
from legacy_files import layer, lstm_config, sequential, write_model, write_weights  # noqa: E402

VALID = DATA / "functional_init_state.h5"
KERNEL = "model_weights/enc/enc/lstm_cell/kernel"


def changed(tmp_path, change):
    """A copy of the valid file after ``change(h5py file)``."""
    path = tmp_path / "bad.h5"
    path.write_bytes(VALID.read_bytes())
    with h5py.File(path, "r+") as handle:
        change(handle)
    return path


def with_config(tmp_path, change):
    def edit(handle):
        config = json.loads(handle.attrs["model_config"])
        handle.attrs["model_config"] = json.dumps(change(config) or config).encode()

    return changed(tmp_path, edit)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_truncated(tmp_path, share):
    data = VALID.read_bytes()
    path = tmp_path / "short.h5"
    path.write_bytes(data[: int(len(data) * share)])
    refusal(path, "HDF5")


def replace(handle, name, **arguments):
    del handle[name]
    handle.create_dataset(name, **arguments)


def virtual(handle):
    layout = h5py.VirtualLayout((4, 20), np.float32)
    layout[:] = h5py.VirtualSource("other.h5", "w", (4, 20))
    del handle[KERNEL]
    handle.create_virtual_dataset(KERNEL, layout)


def external_link(handle):
    del handle[KERNEL]
    handle[KERNEL] = h5py.ExternalLink("other.h5", "/w")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (external_link, ("external link", "other.h5")),
        (virtual, ("virtual dataset",)),
        (lambda h: replace(h, KERNEL, shape=(4, 20), dtype="f4", external=[("other.raw", 0, 320)]), ("external files",)),
        (lambda h: replace(h, KERNEL, shape=(10**9, 10**3), dtype="f4"), ("declares shape",)),
        (lambda h: replace(h, KERNEL, shape=(10**9, 10**3), dtype="f4", chunks=(1000, 1000)), ("declares shape",)),
        (lambda h: replace(h, KERNEL, data=np.zeros((4, 24), np.float32)), ("enc", "(4, 24)", "(4, 20)")),
        (lambda h: replace(h, KERNEL, data=np.zeros((4, 20), np.int32)), ("enc", "int32")),
        (lambda h: h.pop(KERNEL), ("weight_names", "enc")),
        (lambda h: h.pop("model_weights/enc"), ("layer_names", "enc")),
        (lambda h: h.attrs.__delitem__("model_config"), ("holds weights only",)),
        (lambda h: h["model_weights"].attrs.__delitem__("layer_names"), ("0 layers", "3 layers")),
        (lambda h: h["model_weights"].attrs.__setitem__("layer_names", [b"enc", b"td"]), ("2 layers", "3 layers")),
        (lambda h: h["model_weights"].attrs.__setitem__("layer_names", np.arange(3)), ("must be text",)),
        (lambda h: h.attrs.__setitem__("model_config", 3), ("must be text",)),
        (lambda h: h.attrs.__setitem__("model_config", b"{"), ("model_config", "not valid JSON")),
        (lambda h: h.attrs.__setitem__("model_config", b"[1]"), ("model_config", "JSON object")),
        (lambda h: h.attrs.__setitem__("model_config", b'{"a":' * 300 + b"1" + b"}" * 300), ("nested too deeply",)),
        (lambda h: h.attrs.__setitem__("training_config", b"{"), ("training_config", "not valid JSON")),
    ],
)
def test_what_a_file_may_not_do(tmp_path, change, words):
    refusal(changed(tmp_path, change), *words)


def entry(config, name):
    return next(one for one in config["config"]["layers"] if one["name"] == name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(class_name="Mine"), ("'Mine'", "functional")),
        (lambda c: c.update(config=None), ("JSON object 'config'",)),
        (lambda c: entry(c, "dec").update(class_name="Lambda"), ("Lambda", "never executed")),
        (lambda c: entry(c, "dec").update(class_name="TFOpLambda"), ("TFOpLambda", "no such layer")),
        (lambda c: entry(c, "dec")["config"].update(units=10**9), ("dec", "units")),
        (lambda c: entry(c, "dec")["config"].update(units=5000), ("dec", "the whole file has")),
        (lambda c: entry(c, "dec")["config"].update(time_major=True), ("dec", "time_major")),
        (lambda c: entry(c, "td")["config"]["layer"].update(class_name="Lambda"), ("td", "never executed")),
        (lambda c: entry(c, "seq")["config"].update(batch_shape=[10**12, 6, 4]), ("seq", "batch size")),
        (lambda c: entry(c, "dec").update(inbound_nodes=[[["dec", 0, 0, {}]]]), ("depend on themselves",)),
        (lambda c: c["config"].update(output_layers=[["gone", 0, 0]]), ("gone",)),
    ],
)
def test_configs_that_make_no_sense(tmp_path, change, words):
    refusal(with_config(tmp_path, lambda config: change(config) and None), *words)


def test_a_heap_of_texts_that_the_library_would_walk_for_ever(tmp_path):
    """A free piece of size 0 in a global heap: the HDF5 library does not come back from it."""
    data = bytearray(VALID.read_bytes())
    at = data.index(b"GCOL\x01\x00\x00\x00")
    (size,) = struct.unpack_from("<Q", data, at + 8)
    end, place = at + size, at + 16
    while struct.unpack_from("<H", data, place)[0]:
        place += 16 + -(-struct.unpack_from("<Q", data, place + 8)[0] // 8) * 8
    assert place < end
    path = tmp_path / "heap.h5"
    for wrong in (0, 15, size):
        struct.pack_into("<Q", data, place + 8, wrong)
        path.write_bytes(data)
        refusal(path, "heap of texts", f"size {wrong}")
    struct.pack_into("<Q", data, at + 8, 2**40)
    path.write_bytes(data)
    refusal(path, "heap of texts", str(2**40))


def test_weights_that_lie(tmp_path):
    """What holds for whole models holds for weights alone."""
    path = write_weights(tmp_path / "w.h5", {"lstm": {"k": np.zeros((2, 16)), "r": np.zeros((4, 16)), "b": np.zeros(16)}})
    with h5py.File(path, "r+") as handle:
        handle["lstm"].attrs["weight_names"] = [b"../../k", b"r", b"b"]
    model = fastlstm.Sequential([fastlstm.InputLayer((6, 2)), fastlstm.LSTM(4)])
    with pytest.raises(ValueError, match=r"w\.h5.*no dataset"):
        model.load_weights(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"w\.h5: cannot read"):
        model.load_weights(path)


def test_model_from_json(tmp_path):
    text = json.dumps(
        {**sequential(layer("LSTM", "l", units=4, batch_input_shape=[None, 6, 2], **lstm_config())), "keras_version": "2.1.0"}
    )
    model = fastlstm.models.model_from_json(text)
    assert model.built
    weights = {"l": {"k": np.zeros((2, 16)), "r": np.zeros((4, 16)), "b": np.ones(16)}}
    model.load_weights(write_weights(tmp_path / "w.h5", weights))
    path = write_model(tmp_path / "m.h5", json.loads(text), weights)
    x = np.ones((1, 6, 2), np.float32)
    np.testing.assert_array_equal(model(x), fastlstm.load_model(path)(x))
    for wrong in ("", "[]", "{}", '{"class_name": "Lambda", "config": {}}'):
        with pytest.raises(ValueError, match="the JSON text"):
            fastlstm.models.model_from_json(wrong)
    with pytest.raises(TypeError, match="json_string"):
        fastlstm.models.model_from_json(3)
