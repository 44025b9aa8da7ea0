"""Damaged and hostile model files: each ends in a ValueError or OSError that names the file and says what is wrong."""

from __future__ import annotations

import random
import struct
import zipfile

import numpy as np
import pytest

import fastlstm
from fastlstm.io import archive, keras_file, read_keras_file

pytest.importorskip("h5py", reason="reading .keras files needs h5py")

from keras_files import (
    CONFIG,
    DATA,
    KERNEL,
    METADATA,
    VALID,
    WEIGHTS,
    config_with,
    members_of,
    pack,
    refusal,
)


# -- the file and the zip -----------------------------------------------------------------------------------------------
def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        fastlstm.load_model(tmp_path / "nothing-here.keras")


def test_directory(tmp_path):
    refusal(tmp_path)


def test_empty_file(tmp_path):
    path = tmp_path / "empty.keras"
    path.write_bytes(b"")
    refusal(path, "empty")


def test_not_a_zip(tmp_path):
    path = tmp_path / "text.keras"
    path.write_text("this is no archive at all, but long enough to be looked at\n" * 4)
    refusal(path, "no zip archive")


def test_a_file_of_weights_is_named_as_such():
    with pytest.raises(ValueError, match=r"stateful\.weights\.h5: holds weights only"):
        fastlstm.load_model(DATA / "stateful.weights.h5")


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.99, 0.9999])
def test_truncated_zip(tmp_path, share):
    data = VALID.read_bytes()
    path = tmp_path / "short.keras"
    path.write_bytes(data[: int(len(data) * share)])
    refusal(path, "truncated or damaged")


@pytest.mark.parametrize("member", [CONFIG, WEIGHTS])
def test_bad_crc(tmp_path, member):
    data = bytearray(VALID.read_bytes())
    at = bytes(data).index(members_of()[member]) + 40
    data[at] ^= 0xFF
    path = tmp_path / "crc.keras"
    path.write_bytes(data)
    refusal(path, member, "CRC")


@pytest.mark.parametrize("member", [CONFIG, WEIGHTS])
def test_missing_member(tmp_path, member):
    members = members_of()
    del members[member]
    refusal(pack(tmp_path / "missing.keras", members), "no member", member)


def test_metadata_is_not_needed_to_load(tmp_path):
    members = members_of()
    del members[METADATA]
    path = pack(tmp_path / "nometa.keras", members)
    assert read_keras_file(path).metadata == {}
    stored = np.load(VALID.with_suffix(".npz"))
    np.testing.assert_allclose(fastlstm.load_model(path)(stored["in0"]), stored["out0"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "\\x", "..\\x", "C:/x", "C:\\x", "//host/x"])
def test_member_that_climbs_out(tmp_path, name):
    path = pack(tmp_path / "climb.keras", {**members_of(), name: b"x"})
    refusal(path, "unsafe name")
    assert [p.name for p in tmp_path.iterdir()] == ["climb.keras"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_member(tmp_path):
    pairs = [*members_of().items(), (CONFIG, b"{}")]
    refusal(pack(tmp_path / "twice.keras", pairs), CONFIG, "twice")


def test_too_many_members(tmp_path):
    pairs = [*members_of().items(), *((f"assets/{k}", b"") for k in range(archive.MAX_MEMBERS))]
    refusal(pack(tmp_path / "many.keras", pairs), f"at most {archive.MAX_MEMBERS}")


def test_symbolic_link_member(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    refusal(pack(tmp_path / "link.keras", [*members_of().items(), (link, "/etc/passwd")]), "symbolic link")


def test_unknown_packing(tmp_path):
    path = tmp_path / "lzma.keras"
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_LZMA) as archive:
        for name, data in members_of().items():
            archive.writestr(name, data)
    refusal(path, "method 14")


def test_encrypted_member(tmp_path):
    path = pack(tmp_path / "secret.keras", members_of())
    data = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        data[data.index(magic) + offset] |= 1
    path.write_bytes(data)
    refusal(path, "encrypted")


def test_deflated_members_are_read(tmp_path):
    path = tmp_path / "deflated.keras"
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        for name, data in members_of().items():
            archive.writestr(name, data)
    np.testing.assert_array_equal(read_keras_file(path).arrays[KERNEL], read_keras_file(VALID).arrays[KERNEL])


def test_zip_bomb_of_real_size(tmp_path):
    path = tmp_path / "bomb.keras"
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(CONFIG, b"{}")
        with archive.open(WEIGHTS, "w") as stream:
            for _ in range(80):
                stream.write(bytes(2**20))
    assert path.stat().st_size < 2**20
    refusal(path, f"declares {80 * 2**20 + 2} bytes", f"at most {64 * 2**20}")


def declare(path, member, size):
    """Overwrites the unpacked size of ``member`` in both headers."""
    data = bytearray(path.read_bytes())
    name = member.encode()
    central = data.index(b"PK\x01\x02")
    while data[central + 46 : central + 46 + len(name)] != name:
        central = data.index(b"PK\x01\x02", central + 4)
    struct.pack_into("<I", data, central + 24, size)
    struct.pack_into("<I", data, data.index(b"PK\x03\x04" + data[central + 6 : central + 8]) + 22, size)
    path.write_bytes(data)
    return path


def test_declared_size_is_absurd(tmp_path):
    path = declare(pack(tmp_path / "declared.keras", members_of()), WEIGHTS, 0xF0000000)
    refusal(path, "bytes unpacked", f"at most {64 * 2**20}")


def test_declared_size_is_too_large_for_the_member(tmp_path):
    path = declare(pack(tmp_path / "declared.keras", members_of()), WEIGHTS, len(members_of()[WEIGHTS]) + 1000)
    refusal(path, WEIGHTS, "damaged")


def test_declared_size_is_too_small_for_the_member(tmp_path):
    path = declare(pack(tmp_path / "declared.keras", members_of()), WEIGHTS, len(members_of()[WEIGHTS]) - 1000)
    refusal(path, WEIGHTS, "damaged")


def test_json_of_absurd_size(tmp_path):
    blanks = b"{" + b" " * (keras_file.MAX_JSON_BYTES + 1) + b"}"
    refusal(pack(tmp_path / "json.keras", {**members_of(), CONFIG: blanks}), CONFIG, f"at most {keras_file.MAX_JSON_BYTES}")


# -- JSON ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe\xfa", "not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"[]", "must hold a JSON object"),
        (b"null", "must hold a JSON object"),
        (b'"Sequential"', "must hold a JSON object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a":' * 300 + b"1" + b"}" * 300, "nested too deeply"),
        (b'{"a":' + b"[" * 300 + b"]" * 300 + b"}", "nested too deeply"),
        (b"{}", "no 'class_name'"),
        (b'{"class_name": 3}', "no 'class_name'"),
        (b'{"class_name": "Sequential"}', "JSON object 'config'"),
        (b'{"class_name": "Sequential", "config": []}', "shape of the model's input"),
        (b'{"class_name": "Sequential", "config": 3}', "JSON object 'config'"),
        (b'{"class_name": "Sequential", "config": {}}', "'layers'"),
        (b'{"class_name": "Sequential", "config": {"layers": {}}}', "'layers'"),
        (b'{"class_name": "Sequential", "config": {"layers": [1]}}', "'layers'"),
        (b'{"class_name": "Sequential", "config": {"layers": [{}]}}', "'class_name'"),
        (b'{"class_name": "Sequential", "config": {"layers": [{"class_name": "LSTM"}]}}', "'class_name' and 'config'"),
        (b'{"class_name": "Sequential", "config": {"layers": [{"class_name": "LSTM", "config": {}}]}}', "units"),
        (b'{"class_name": "Sequential", "config": {"layers": []}}', "shape of the model's input"),
    ],
)
def test_config_that_makes_no_sense(tmp_path, text, word):
    refusal(pack(tmp_path / "config.keras", {**members_of(), CONFIG: text}), word)


def test_metadata_that_is_no_object(tmp_path):
    refusal(pack(tmp_path / "meta.keras", {**members_of(), METADATA: b"[1]"}), METADATA, "must hold a JSON object")


def lstm_entry(config):
    return next(entry for entry in config["config"]["layers"] if entry["class_name"] == "LSTM")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("units", "eight"),
        ("units", -8),
        ("units", 1e400),
        ("units", [8]),
        ("units", 7),
        ("units", 10**9),
        ("units", 10**40),
        ("dropout", "much"),
        ("activation", "no_such_function"),
        ("activation", {"class_name": "function", "config": "os.system", "module": "builtins", "registered_name": "function"}),
        ("activation", {"class_name": "__lambda__", "config": {"value": "4wAAAAA="}}),
        ("kernel_initializer", {"class_name": "Popen", "config": {"args": ["true"]}, "module": "subprocess"}),
        ("kernel_regularizer", {"class_name": "L2", "config": {"no": 1}}),
        ("dtype", "complex64"),
        ("dtype", "int32"),
        ("dtype", {"class_name": "DTypePolicy", "config": {}}),
        ("name", "a/b"),
        ("name", 5),
        ("surprise", 1),
        ("time_major", True),
    ],
)
def test_layer_config_that_makes_no_sense(tmp_path, key, value):
    def change(config):
        lstm_entry(config)["config"][key] = value

    refusal(pack(tmp_path / "layer.keras", {**members_of(), CONFIG: config_with(change)}), "LSTM")


def test_config_with_fewer_weights_than_the_file(tmp_path):
    def change(config):
        lstm_entry(config)["config"]["use_bias"] = False

    path = pack(tmp_path / "nobias.keras", {**members_of(), CONFIG: config_with(change)})
    refusal(path, "no layer of the model takes", "layers/lstm/cell/vars/2")


@pytest.mark.parametrize("name", [3, "a/b", ["x"]])
def test_model_name_that_makes_no_sense(tmp_path, name):
    def change(config):
        config["config"]["name"] = name

    refusal(pack(tmp_path / "name.keras", {**members_of(), CONFIG: config_with(change)}), "name")


@pytest.mark.parametrize("shape", [3, "abc", [], [None, -9], [None, 9.5], [None, "9"], [True, 9], [10**12, 9], [[None, 9]]])
def test_input_shape_that_makes_no_sense(tmp_path, shape):
    def change(config):
        config["config"]["layers"][0]["config"]["batch_shape"] = shape

    refusal(pack(tmp_path / "shape.keras", {**members_of(), CONFIG: config_with(change)}))


def test_config_may_not_ask_for_more_memory_than_the_weights_take(tmp_path):
    """A table of 10¹⁸ rows in a file of 20 kB is refused before anything is made."""

    def change(config):
        config["config"]["layers"][1]["config"]["input_dim"] = 10**18

    path = pack(tmp_path / "large.keras", {**members_of(), CONFIG: config_with(change)})
    refusal(path, "embedding", "the whole file has 687 weights")


# -- classes that are not Keras' own ------------------------------------------------------------------------------------
def foreign(class_name, **keys):
    def change(config):
        entry = {"module": "keras.layers", "class_name": class_name, "config": {"name": "odd"}, "registered_name": None, **keys}
        config["config"]["layers"].insert(2, entry)

    return config_with(change)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (foreign("Lambda", config={"name": "odd", "function": {"class_name": "__lambda__"}}), ("Lambda", "never executed")),
        (foreign("MultiHeadAttention"), ("MultiHeadAttention", "no such layer")),
        (foreign("LSTM", module="my.package", config={"name": "odd", "units": 3}), ("custom class", "my.package")),
        (foreign("LSTM", registered_name="Mine>LSTM", config={"name": "odd", "units": 3}), ("custom class", "Mine>LSTM")),
        (foreign("Popen", module="subprocess", config={"args": ["touch", "x"]}), ("custom class", "subprocess")),
        (foreign(["LSTM"]), ("'class_name'",)),
    ],
)
def test_foreign_layer(tmp_path, config, words):
    path = pack(tmp_path / "foreign.keras", {**members_of(), CONFIG: config})
    message = refusal(path, *words)
    assert "odd" in message or "Popen" in message


def test_foreign_layer_inside_a_wrapper(tmp_path):
    def change(config):
        inner = lstm_entry(config)
        lambda_layer = {"class_name": "Lambda", "config": {"name": "inner"}, "module": "keras.layers"}
        inner.update(class_name="TimeDistributed", config={"name": "outer", "layer": lambda_layer})

    refusal(pack(tmp_path / "inner.keras", {**members_of(), CONFIG: config_with(change)}), "outer", "inner", "never executed")


def test_model_of_another_class(tmp_path):
    def change(config):
        config.update(class_name="Subclassed")

    refusal(pack(tmp_path / "class.keras", {**members_of(), CONFIG: config_with(change)}), "'Subclassed'", "functional")


def test_custom_model_class(tmp_path):
    def change(config):
        config.update(module="mine", class_name="Sequential", registered_name="Mine>Sequential")

    refusal(pack(tmp_path / "custom.keras", {**members_of(), CONFIG: config_with(change)}), "custom class")


# -- anything at all ----------------------------------------------------------------------------------------------------
def outcome(path):
    """ "ok", or the message of a ValueError or OSError; anything else goes through and fails the test."""
    message = "ok"
    try:
        fastlstm.load_model(path)
    except (ValueError, OSError) as error:
        message = str(error)
    assert message == "ok" or path.name in message
    return message


def test_mutated_files(tmp_path):
    """300 files with one to eight changed bytes: a model, or an error that names the file."""
    draw = random.Random(20240)
    valid = VALID.read_bytes()
    path = tmp_path / "mutated.keras"
    outcomes = []
    for _ in range(300):
        data = bytearray(valid)
        for _ in range(draw.choice((1, 1, 1, 2, 8))):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(data)
        outcomes.append(outcome(path))
    assert sum(o != "ok" for o in outcomes) > 200  # nearly every byte is under a CRC


@pytest.mark.parametrize("member", [CONFIG, WEIGHTS])
def test_mutated_members(tmp_path, member):
    """The same inside a member, packed again so that the CRC is right and the mutation reaches the parser behind it."""
    draw = random.Random(20241)
    members = members_of()
    path = tmp_path / "mutated.keras"
    outcomes = []
    for _ in range(150):
        data = bytearray(members[member])
        # The first kilobytes of the HDF5 member hold most of its structure.
        for _ in range(draw.choice((1, 2, 4))):
            data[draw.randrange(len(data))] = draw.randrange(256)
        pack(path, {**members, member: bytes(data)})
        outcomes.append(outcome(path))
    assert {o == "ok" for o in outcomes} == {True, False}
