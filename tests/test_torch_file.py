"""PyTorch's checkpoints without PyTorch: what torch.save wrote is read; whatever is no tensor or container is refused by name.

``tests/data/torch/make.py`` says how the files were made; other pickles are put together here, opcode by opcode.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fastlstm.io.torch_file import read_state_file, read_torch_file
from fastlstm.io.torch_pickle import _REFUSED, _STEPS, _STOP, MAX_STEPS

DATA = Path(__file__).parent / "data" / "torch"


def members_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(members, method=zipfile.ZIP_STORED):
    """A binary file of a zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return io.BytesIO(buffer.getvalue())


def checkpoint(pickled, *storages, **records):
    """An archive with this data.pkl and these storages."""
    members = {"archive/data.pkl": pickled, **{f"archive/{name}": data for name, data in records.items()}}
    return archive_of({**members, **{f"archive/data/{k}": data for k, data in enumerate(storages)}})


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def count(value):
    return b"J" + struct.pack("<i", value)


def counts(*values):
    return b"(" + b"".join(count(value) for value in values) + b"t"


def storage(kind="FloatStorage", key="0", size=6):
    return b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) + text("cpu") + count(size) + b"tQ"


def tensor(of=None, offset=0, shape=(2, 3), strides=(3, 1), rest=b"\x89}"):
    of = storage() if of is None else of
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + of + count(offset) + counts(*shape) + counts(*strides) + rest + b"tR"


def pickled(body):
    return b"\x80\x02" + body + b"."


NUMBERS = np.arange(6, dtype="<f4")


# -- what torch.save writes -------------------------------------------------------------------------------------------------
def test_tensors_of_every_dtype_and_layout():
    found = read_torch_file(DATA / "mixed.pt")
    base = np.arange(24, dtype="f4").reshape(4, 6) / 8
    expected = {
        "contiguous": base,
        "transposed": base.T,
        "steps": base[::2, 1::2],
        "row": base[2],
        "scalar": np.array(-1.5, "f4"),
        "empty": np.zeros((0, 3), "f4"),
        "expanded": np.array([[1, 1, 1], [2, 2, 2]], "f4"),
        "float64": np.linspace(-1, 1, 3),
        "float16": np.array([0.5, -2.25], "f2"),
        "bfloat16": np.array([-2.5, 3.140625, np.inf], "f4"),
        "int64": np.array([-(2**40), 7]),
        "int32": np.array([-3], "i4"),
        "int16": np.array([300], "i2"),
        "int8": np.array([-128, 127], "i1"),
        "uint8": np.array([255], "u1"),
        "bool": np.array([True, False, True]),
        "parameter": np.array([1, 2], "f4"),
    }
    assert list(found) == ["state_dict", "again", "beside"]
    assert list(found["state_dict"]) == list(expected)
    for name, array in expected.items():
        assert found["state_dict"][name].dtype == array.dtype
        np.testing.assert_array_equal(found["state_dict"][name], array)
    assert found["again"] is found["state_dict"]["contiguous"]


def test_what_stands_beside_tensors():
    beside = read_torch_file(DATA / "mixed.pt")["beside"]
    assert beside == {
        "epoch": 3,
        "big": 2**70,
        "loss": 0.125,
        "name": "müller",
        "flags": [True, None, (1, 2.5), (), (1, 2, 3, 4)],
        7: -1,
    }


def test_what_training_scripts_save_beside():
    found = read_torch_file(DATA / "training.pt")
    assert (found["epoch"], found["schedule"]["milestones"]) == (3, {3: 1, 5: 2})
    weight = found["beside"].pop("weight")
    np.testing.assert_array_equal(weight, np.ones(2, "f4"))
    expected = {"size": (2, 3), "device": "cuda:1", "dtype": "torch.float32", "set": [7], "bytes": b"\xe4b", "complex": 1 - 2j}
    expected |= {"best": 0.1, "last": 0.5, "count": -3, "lists": {"loss": [0.5, 0.25]}}
    assert found["beside"] == expected
    kinds = {"best": float, "last": float, "count": int, "lists": dict, "size": tuple}
    assert {name: type(found["beside"][name]) for name in kinds} == kinds


def test_protocol_4():
    found = read_torch_file(DATA / "nested.pt")
    assert found["epoch"] == 1
    assert {name: array.shape for name, array in found["model"].items() if "rnn" in name} == {
        "encoder.rnn.weight_ih_l0": (16, 3),
        "encoder.rnn.weight_hh_l0": (16, 4),
        "encoder.rnn.bias_ih_l0": (16,),
        "encoder.rnn.bias_hh_l0": (16,),
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_containers_of_every_protocol(protocol):
    value = {"a": [1, -1, 255, 256, 65536, 2**31, -(2**100), 0.1, True, None, ()], "b": {"c": ("x" * 300, "é")}, "d": [[1], [1]]}
    value["self"] = value["d"]
    assert read_torch_file(checkpoint(pickle.dumps(value, protocol))) == value


def test_a_recursive_list_is_built_as_it_is():
    value = [1]
    value.append(value)
    found = read_torch_file(checkpoint(pickle.dumps(value, 2)))
    assert found[0] == 1
    assert found[1] is found


def test_big_endian_files():
    """The record "byteorder" tells how the storages are written; without it they are little-endian."""
    members = members_of(DATA / "mixed.pt")
    prefix = next(iter(members)).split("/")[0]
    assert members[f"{prefix}/byteorder"] == b"little"
    little = checkpoint(pickled(tensor()), NUMBERS.tobytes())
    big = checkpoint(pickled(tensor()), NUMBERS.astype(">f4").tobytes(), byteorder=b"big")
    double = checkpoint(pickled(tensor(storage("DoubleStorage"))), NUMBERS.astype(">f8").tobytes(), byteorder=b"big")
    for file in (little, big, double):
        found = read_torch_file(file)
        assert found.dtype.isnative
        np.testing.assert_array_equal(found, NUMBERS.reshape(2, 3))
    with pytest.raises(ValueError, match=r"must be little or big\. It is b'middle'"):
        read_torch_file(checkpoint(pickled(tensor()), NUMBERS.tobytes(), byteorder=b"middle"))


def test_views_of_one_storage():
    both = b"](" + tensor() + tensor(offset=1, shape=(2, 2), strides=(1, 3)) + b"e"
    one, other = read_torch_file(checkpoint(pickled(both), NUMBERS.tobytes()))
    np.testing.assert_array_equal(one, [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(other, [[1, 4], [2, 5]])


def test_the_contents_decide():
    assert set(read_state_file(DATA / "proj.safetensors")) == {"weight_ih_l0", "weight_hh_l0", "weight_hr_l0"}
    assert set(read_state_file(DATA / "nested.pt")) == {"epoch", "model"}
    renamed = io.BytesIO((DATA / "nested.pt").read_bytes())
    renamed.name = "x.safetensors"
    assert set(read_state_file(renamed)) == {"epoch", "model"}
    damaged = io.BytesIO(b"\xff" * 20)
    damaged.name = "x.safetensors"
    with pytest.raises(ValueError, match=r"x\.safetensors: declares a header of"):
        read_state_file(damaged)


# -- what is refused --------------------------------------------------------------------------------------------------------
def refused(file, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_torch_file(file)
    assert type(caught.value) is ValueError
    return str(caught.value)


GLOBALS = [
    "os.system",
    "builtins.eval",
    "posix.system",
    "__main__.Net",
    "torch.load",
    "torch._utils._rebuild_tensor_v3",
    "a.b.c.d",
]


@pytest.mark.parametrize("name", GLOBALS)
@pytest.mark.parametrize("stacked", [False, True], ids=["GLOBAL", "STACK_GLOBAL"])
def test_globals_are_refused_by_name(name, stacked, tmp_path):
    module, _, attribute = name.rpartition(".")
    named = text(module) + text(attribute) + b"\x93" if stacked else f"c{module}\n{attribute}\n".encode()
    path = tmp_path / "bad.pt"
    path.write_bytes(checkpoint(pickled(b"}" + text("x") + named + text("touch /tmp/x") + b"\x85Rs")).getvalue())
    told = refused(path, f"refuses the global '{name}'")
    assert str(path) in told
    assert "torch.save(model.state_dict(), path)" in told


def test_what_python_would_execute_is_refused():
    class Evil:
        def __reduce__(self):
            return print, ("executed",)

    for protocol in (2, 3, 4, 5):
        refused(checkpoint(pickle.dumps({"x": Evil()}, protocol)), r"refuses the global '(__builtin__|builtins)\.print'")


def test_a_whole_module():
    told = refused(DATA / "module.pt", r"refuses the global 'torch\.nn\.modules\.rnn\.LSTM': the file holds a whole module")
    assert "torch.save(model.state_dict(), path)" in told


def test_files_of_old_pytorch():
    told = refused(DATA / "legacy.pt", "as torch.save wrote it before PyTorch 1.6")
    assert "torch.save(torch.load(path), path)" in told


@pytest.mark.parametrize("member", ["constants.pkl", "code/__torch__.py"])
def test_torchscript(member):
    members = members_of(DATA / "nested.pt")
    prefix = next(iter(members)).split("/")[0]
    told = refused(archive_of({**members, f"{prefix}/{member}": b"x"}), "is TorchScript")
    assert "torch.save(torch.jit.load(path).state_dict(), other_path)" in told


def test_other_files(tmp_path):
    keras = Path(__file__).parent / "data" / "keras3" / "stateful.keras"
    refused(keras, r"stateful\.keras: is a \.keras file, .* load_model")
    refused(keras.with_suffix(".h5"), "is an HDF5 file, .* load_model")
    refused(keras.with_suffix(".npz"), "is no checkpoint of PyTorch")
    refused(io.BytesIO(b""), "the file is empty")
    refused(io.BytesIO(b"hello, world"), "is neither .safetensors nor a zip archive")
    refused(io.BytesIO((DATA / "nested.pt").read_bytes()[:-100]), "truncated or damaged")
    with pytest.raises(FileNotFoundError):
        read_torch_file(tmp_path / "none.pt")


def test_packed_members():
    members = members_of(DATA / "nested.pt")
    refused(archive_of(members, zipfile.ZIP_DEFLATED), "packed by method 8, expected stored")


def test_members_that_share_their_bytes():
    """A directory that names the same bytes many times would let a small file unpack to much."""
    data = archive_of({"archive/data.pkl": pickled(b"}"), "archive/data/0": bytes(1000)}).getvalue()
    start = data.index(b"PK\x01\x02", data.index(b"archive/data/0"))
    start = data.index(b"PK\x01\x02", start + 1)
    end = data.index(b"PK\x05\x06")
    entry, more = data[start:end], b""
    for k in range(1, 9):
        more += entry.replace(b"archive/data/0", b"archive/data/%d" % k)
    tail = bytearray(data[end:])
    tail[8:12] = struct.pack("<HH", 10, 10)
    tail[12:16] = struct.pack("<I", end + len(more) - data.index(b"PK\x01\x02"))
    refused(io.BytesIO(data[:end] + more + bytes(tail)), "declares 9004 bytes unpacked")


def call(name, arguments):
    return b"c" + b"\n".join(part.encode() for part in name.rsplit(".", 1)) + b"\n" + arguments + b"R"


NUMPY_DTYPE = call("numpy.dtype", text("f8") + b"\x89\x88\x87")
BAD_OBJECTS = {
    "Counter": (call("collections.Counter", b"]\x85"), "a Counter must be made of a dict"),
    "defaultdict": (call("collections.defaultdict", b"]\x85"), "a defaultdict must be made of a type"),
    "Size": (call("torch.Size", b"]\x85"), "a torch.Size must be made of a tuple"),
    "set": (call("builtins.set", b")\x85"), "a set must be made of a list"),
    "device": (call("torch.device", count(1) + b"\x85"), "a device must be made of a name and a number"),
    "long device": (call("torch.device", text("c" * 200) + b"\x85"), "a device must be made of a name and a number"),
    "bytes": (call("_codecs.encode", text("a") + text("utf-8") + b"\x86"), "bytes must be made of a text"),
    "many bytes": (call("_codecs.encode", text("a" * 1025) + text("latin1") + b"\x86"), "a text of at most 1024 letters"),
    "other bytes": (call("_codecs.encode", text("\u20ac") + text("latin1") + b"\x86"), "letters that latin1 does not have"),
    "complex": (call("builtins.complex", text("1") + text("2") + b"\x86"), "must be made of two numbers"),
    "dtype": (call("numpy.dtype", text("O8") + b"\x89\x88\x87"), r"refuses NumPy's dtype \('O8',\)"),
    "dtype's order": (NUMPY_DTYPE + b"]b", "has the byte order None"),
    "dtype as a value": (b"]" + NUMPY_DTYPE + b"a", r"refuses the global 'numpy\.dtype' as a value"),
    "number": (call("numpy.core.multiarray.scalar", b"NN\x86"), "must be made of a dtype and its bytes"),
    "type": (b"]cbuiltins\nint\na", "refuses the global 'int' as a value"),
    "type called": (call("builtins.int", b")"), "refuses to call 'int'"),
}


@pytest.mark.parametrize("name", BAD_OBJECTS)
def test_bad_objects(name):
    body, message = BAD_OBJECTS[name]
    refused(checkpoint(pickled(body)), message)


BAD_TENSORS = {
    "beyond the storage": (tensor(shape=(2, 4), strides=(4, 1)), "leaves its storage of 6"),
    "offset": (tensor(offset=1), "leaves its storage of 6"),
    "negative offset": (tensor(offset=-1), "must be integers >= 0"),
    "negative stride": (tensor(strides=(-3, 1)), "must be integers >= 0"),
    "floats": (tensor(shape=(), strides=()).replace(b"(t(t", b"(G" + bytes(8) + b"t(t"), "must be integers >= 0"),
    "more sizes than strides": (tensor(strides=(1,)), "as many sizes as strides"),
    "too many axes": (tensor(shape=(1,) * 33, strides=(1,) * 33), "33 axes, at most 32"),
    "expanded beyond measure": (tensor(shape=(2**20, 2**20), strides=(0, 0)), "may take at most 67108864 bytes"),
    "nothing of absurd shape": (tensor(shape=(0, 2**31 - 1, 2**31 - 1), strides=(0, 0, 0)), "may take at most"),
    "metadata": (tensor(rest=b"\x89}}" + text("neg") + b"\x88s"), "a tensor with metadata"),
    "no storage": (tensor(of=b"N"), "must be made of storage"),
    "count": (tensor(storage(size=5)), "has 24 bytes, expected 5 numbers of 4 bytes"),
    "no member": (tensor(storage(key="7")), "has no member 'archive/data/7'"),
    "out of the archive": (tensor(storage(key="../../x")), "has no member"),
    "complex": (tensor(storage("ComplexFloatStorage")), "refuses the global 'torch.ComplexFloatStorage'"),
    "quantised": (tensor(storage("QInt8Storage")), "refuses the global 'torch.QInt8Storage': the file holds quantised weights"),
    "persistent id": (b"(" + text("module") + b"tQ", "a persistent id must be"),
    "persistent id of text": (text("storage") + b"Q", "a persistent id must be"),
    "parameter": (b"ctorch._utils\n_rebuild_parameter\n(" + count(1) + b"\x89}tR", "a parameter must be made of a tensor"),
    "OrderedDict": (b"ccollections\nOrderedDict\n]\x85R", "must be made empty"),
    "a storage called": (b"ctorch\nFloatStorage\n)R", "refuses to call 'FloatStorage'"),
    "a number called": (count(1) + b")R", "refuses to call 'int'"),
    "a global as a value": (b"](ctorch\nFloatStorage\ne", "refuses the global 'FloatStorage' as a value"),
    "attributes": (b"]}b", "BUILD at byte"),
    "attributes of a list": (b"}]b", "refuses attributes in a list"),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_bad_tensors(name):
    body, message = BAD_TENSORS[name]
    refused(checkpoint(pickled(body), NUMBERS.tobytes()), message)


def test_all_tensors_together_are_limited():
    """Views of few numbers can be of any shape: together they may take 64 MiB, or 10 times the file."""
    one = tensor(shape=(2**21,), strides=(0,))
    found = read_torch_file(checkpoint(pickled(b"](" + one * 8 + b"e"), NUMBERS.tobytes()))
    assert sum(array.nbytes for array in found) == 64 * 2**20
    refused(checkpoint(pickled(b"](" + one * 9 + b"e"), NUMBERS.tobytes()), "may take at most 67108864 bytes")


def test_bytes_of_bool():
    body = tensor(storage("BoolStorage", size=2), shape=(2,), strides=(1,))
    np.testing.assert_array_equal(read_torch_file(checkpoint(pickled(body), b"\x00\x01")), [False, True])
    refused(checkpoint(pickled(body), b"\x02\x01"), "bool with bytes other than 0 and 1")


BAD_PICKLES = {
    "empty": (b"", "is truncated"),
    "no STOP": (b"\x80\x02}", "is truncated: it ends without STOP"),
    "protocol 1": (b"\x80\x01}.", "protocol 1, known are 2 to 5"),
    "protocol 6": (b"\x80\x06}.", "protocol 6, known are 2 to 5"),
    "nothing": (pickled(b""), "ends with open parts"),
    "two": (pickled(b"}}"), "ends with open parts"),
    "mark": (pickled(b"(}"), "ends with open parts"),
    "no mark": (pickled(b"}u"), "no mark is set"),
    "key without value": (pickled(b"}(" + text("a") + b"u"), "a key without a value"),
    "stack": (pickled(b"s"), "nothing is on the stack"),
    "no dict": (pickled(b"]" + text("a") + b"Ns"), "SETITEMS at byte"),
    "no list": (pickled(b"}Na"), "APPENDS at byte"),
    "memo": (pickled(b"h\x05"), "entry 5 of the memo is used before it is set"),
    "put of nothing": (pickled(b"q\x05"), "nothing is on the stack"),
    "text": (pickled(b"X\x02\x00\x00\x00\xff\xfe"), "not UTF-8"),
    "long text": (pickled(b"X\xff\xff\xff\xffa"), "4294967295 bytes are wanted"),
    "longest text": (pickled(b"\x8d" + b"\xff" * 8 + b"a"), "18446744073709551615 bytes are wanted"),
    "integer": (pickled(b"\x8a\x41" + b"\x01" * 65), "an integer of 65 bytes, at most 64"),
    "name of a global": (b"\x80\x02c" + b"a" * 5000, "no name ends behind byte 3"),
    "global of numbers": (pickled(count(1) + count(2) + b"\x93"), "the name of a global is no text"),
    "key that is a list": (pickled(b"}]Ns"), "refuses a key of type list"),
    "key that is a tuple": (pickled(b"})Ns"), "refuses a key of type tuple"),
    "key that is a long integer": (pickled(b"}\x8a\x09" + bytes(8) + b"\x01Ns"), "refuses a key of type int"),
    "bytes": (pickled(b"C\x01a"), r"refuses the opcode SHORT_BINBYTES \(0x43\)"),
    "set": (pickled(b"\x8f"), r"refuses the opcode EMPTY_SET \(0x8f\)"),
    "instance": (pickled(b"(ios\nsystem\n"), r"refuses the opcode INST \(0x69\)"),
    "new object": (pickled(b"ccollections\nOrderedDict\n)\x81"), r"refuses the opcode NEWOBJ \(0x81\)"),
    "extension": (pickled(b"\x82\x01"), r"refuses the opcode EXT1 \(0x82\)"),
    "no opcode": (pickled(b"\xff"), r"refuses the opcode that no pickle has \(0xff\)"),
}


@pytest.mark.parametrize("name", BAD_PICKLES)
def test_bad_pickles(name):
    data, message = BAD_PICKLES[name]
    refused(checkpoint(data), message)


def test_every_opcode_is_known_or_refused_by_its_name():
    names = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
    assert set(_STEPS) | set(_REFUSED) | {_STOP} == set(names)
    assert not set(_STEPS) & set(_REFUSED)
    assert all(_REFUSED[code] == names[code] for code in _REFUSED)


def test_endless_work_is_refused_in_time():
    start = time.process_time()
    refused(checkpoint(pickled(b"]" * (2 * MAX_STEPS))), f"takes more than {MAX_STEPS} steps")
    deep = read_torch_file(checkpoint(pickled(b"]" * 400_000 + b"a" * 399_999)))
    assert len(deep) == 1
    many = read_torch_file(checkpoint(pickled(b"}(" + b"".join(count(k << 11) + b"N" for k in range(200_000)) + b"u")))
    assert len(many) == 200_000
    del deep, many
    assert time.process_time() - start < 10


def test_things_named_many_times_stay_one_thing():
    """Forty lists, each of the one before it twice: 2**40 leaves when it is written out."""
    body = b"]" + b"".join(b"r" + struct.pack("<I", k) + b"](j%bj%be" % ((struct.pack("<I", k),) * 2) for k in range(40))
    found = read_torch_file(checkpoint(pickled(body.replace(b"](j", b"0](j"))))
    for _ in range(40):
        assert found[0] is found[1]
        found = found[0]
    assert found == []


@pytest.mark.parametrize("name", ["plain", "nobias", "timefirst", "packed", "l3", "bi_l2"])
def test_checkpoints_of_pytorch(name, extra_data):
    """torch.nn.LSTM, saved by PyTorch; the same weights stand in the .npz beside each."""
    expected = np.load(extra_data(f"models/torch_grid/{name}.npz"))
    found = read_torch_file(extra_data(f"models/torch_grid/{name}.pt"))
    assert set(found) == {key for key in expected.files if key.startswith(("weight", "bias"))}
    for key, array in found.items():
        assert array.dtype == expected[key].dtype
        np.testing.assert_array_equal(array, expected[key])
