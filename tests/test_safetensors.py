"""``.safetensors`` files: bytes made by hand are read, what is written is compared byte by byte, bad headers are refused."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from fastlstm.io.safetensors import is_safetensors, read_safetensors, write_safetensors

NUMBERS = {
    "BOOL": np.array([True, False, True]),
    "U8": np.array([0, 255], "u1"),
    "I8": np.array([-128, 127], "i1"),
    "U16": np.array([[1, 65535]], "u2"),
    "I16": np.array([[-2], [3]], "i2"),
    "F16": np.array([1.5, -np.inf], "f2"),
    "U32": np.array([2**32 - 1], "u4"),
    "I32": np.array(-7, "i4"),
    "F32": np.linspace(-1, 1, 6, dtype="f4").reshape(2, 3),
    "U64": np.array([2**64 - 1], "u8"),
    "I64": np.zeros((0, 4), "i8"),
    "F64": np.array([np.pi, np.nan]),
}


def file_of(header, data=b"", length=None):
    """The bytes of a file: a header (a dict or a text) and what follows it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def all_dtypes():
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in NUMBERS.items():
        raw = array.astype(array.dtype.newbyteorder("<")).tobytes()
        header[name] = entry(name, list(array.shape), len(data), len(data) + len(raw))
        data += raw
    return file_of(header, data)


def test_every_dtype_is_read():
    tensors, metadata = read_safetensors(io.BytesIO(all_dtypes()))
    assert metadata == {"format": "pt"}
    assert list(tensors) == list(NUMBERS)
    for name, expected in NUMBERS.items():
        assert tensors[name].dtype == expected.dtype
        assert tensors[name].flags.writeable
        np.testing.assert_array_equal(tensors[name], expected)


def test_bfloat16_is_read_as_float32():
    bits = np.array([0x3F80, 0xC020, 0x7F80, 0x0001], "<u2")  # 1, -2.5, inf, the smallest subnormal
    tensors, _ = read_safetensors(io.BytesIO(file_of({"x": entry("BF16", [2, 2], 0, 8)}, bits.tobytes())))
    assert tensors["x"].dtype == np.float32
    np.testing.assert_array_equal(tensors["x"], np.array([[1, -2.5], [np.inf, 2.0**-133]], "f4"))


def test_bfloat16_is_written():
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")
    for shape in ((2, 2), ()):
        values = np.arange(np.prod(shape, dtype=int), dtype="f4").reshape(shape) - 2.5
        write_safetensors(buffer := io.BytesIO(), {"x": values.astype(ml_dtypes.bfloat16)})
        assert b'"BF16"' in buffer.getvalue()
        np.testing.assert_array_equal(read_safetensors(buffer)[0]["x"], values)


def test_what_is_written_is_read_again(tmp_path):
    path = tmp_path / "all.safetensors"
    write_safetensors(path, NUMBERS, {"made by": "hand", "ü": "ö"})
    tensors, metadata = read_safetensors(path)
    assert metadata == {"made by": "hand", "ü": "ö"}
    assert set(tensors) == set(NUMBERS)
    for name, expected in NUMBERS.items():
        assert tensors[name].dtype == expected.dtype
        np.testing.assert_array_equal(tensors[name], expected)


def test_the_written_bytes():
    """Widest numbers first, the header padded with blanks to a multiple of 8; strided and byte-swapped arrays."""
    x = np.arange(6, dtype=">f4").reshape(2, 3).T
    buffer = io.BytesIO()
    write_safetensors(buffer, {"b": np.array([1, 2], "i1"), "x": x})
    text = b'{"x":{"dtype":"F32","shape":[3,2],"data_offsets":[0,24]},"b":{"dtype":"I8","shape":[2],"data_offsets":[24,26]}}'
    text += b" " * (-len(text) % 8)
    expected = len(text).to_bytes(8, "little") + text + np.array([0, 3, 1, 4, 2, 5], "<f4").tobytes() + b"\x01\x02"
    assert buffer.getvalue() == expected
    assert is_safetensors(expected[:9])


def test_no_tensors():
    buffer = io.BytesIO()
    write_safetensors(buffer, {})
    assert read_safetensors(buffer) == ({}, {})


def test_an_existing_file_stays_when_writing_fails(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"before")
    with pytest.raises(TypeError, match=r"The tensor 'x' has dtype complex128"):
        write_safetensors(path, {"x": np.zeros(2, complex)})
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("tensors", "metadata", "error", "message"),
    [
        ({"x": np.array(["a"])}, None, TypeError, "dtype <U1"),
        ({"x": np.array([None])}, None, TypeError, "dtype object"),
        ({3: np.zeros(1)}, None, TypeError, "must have texts as names"),
        ({"__metadata__": np.zeros(1)}, None, ValueError, "keeps for the metadata"),
        ({}, {"a": 1}, TypeError, "must map texts to texts"),
    ],
)
def test_what_cannot_be_written(tensors, metadata, error, message):
    with pytest.raises(error, match=message):
        write_safetensors(io.BytesIO(), tensors, metadata)


F32 = entry("F32", [2], 0, 8)
BAD = {
    "empty": (b"", "has 0 bytes, fewer than the 8"),
    "short": (b"1234567", "has 7 bytes"),
    "header longer than the file": (file_of({"x": F32}, bytes(8), 10**6), "declares a header of 1000000 bytes, but the file has"),
    "endless header": (b"\xff" * 64, "declares a header of 18446744073709551615 bytes"),
    "blanks first": (file_of(b' {"x":1}'), "must begin with"),
    "no json": (file_of(b"{x}"), "is not valid JSON"),
    "no utf-8": (file_of(b'{"\xff":1}'), "is not valid JSON"),
    "deep": (file_of(b'{"a":' + b"[" * 100_000), "nested too deeply|is not valid JSON"),
    "a name twice": (file_of(b'{"x":%s,"x":%s}' % ((json.dumps(F32).encode(),) * 2), bytes(8)), "the name 'x' stands twice"),
    "a key twice": (
        file_of(b'{"x":{"dtype":"F32","dtype":"F32","shape":[],"data_offsets":[0,4]}}', bytes(4)),
        "'dtype' stands twice",
    ),
    "metadata": (file_of({"__metadata__": {"a": 1}}), "must be a JSON object of texts"),
    "metadata as a list": (file_of({"__metadata__": ["a"]}), "must be a JSON object of texts"),
    "a number for a tensor": (file_of({"x": 1}), "tensor 'x' must be described by"),
    "no offsets": (file_of({"x": {"dtype": "F32", "shape": [2]}}, bytes(8)), "tensor 'x' must be described by"),
    "another key": (file_of({"x": {**F32, "code": "os.system"}}, bytes(8)), "tensor 'x' must be described by"),
    "dtype": (file_of({"x": entry("F8_E4M3", [2], 0, 2)}, bytes(2)), "has dtype 'F8_E4M3', known are BOOL"),
    "dtype is a list": (file_of({"x": entry([], [2], 0, 2)}, bytes(2)), "has dtype "),
    "negative shape": (file_of({"x": entry("F32", [-1, -2], 0, 8)}, bytes(8)), "integers >= 0"),
    "shape of floats": (file_of({"x": entry("F32", [2.0], 0, 8)}, bytes(8)), "integers >= 0"),
    "shape of bool": (file_of({"x": entry("U8", [True], 0, 1)}, bytes(1)), "integers >= 0"),
    "too many axes": (file_of({"x": entry("F32", [1] * 33, 0, 4)}, bytes(4)), "at most 32"),
    "absurd shape": (file_of({"x": entry("F32", [2**62, 2**62], 0, 8)}, bytes(8)), "more than"),
    "absurd shape of nothing": (file_of({"x": entry("F32", [0, 2**62, 2**62], 0, 0)}), "more than"),
    "offsets turned round": (file_of({"x": entry("F32", [2], 8, 0)}, bytes(8)), "data_offsets .8, 0., expected"),
    "one offset": (file_of({"x": {**F32, "data_offsets": [8]}}, bytes(8)), "expected .begin, end."),
    "another size": (file_of({"x": entry("F32", [3], 0, 8)}, bytes(8)), "takes 12 bytes, but its data_offsets .0, 8. span 8"),
    "gap": (file_of({"x": F32, "y": entry("F32", [1], 12, 16)}, bytes(16)), "'y' begins at byte 12 .* leaves 4 bytes"),
    "gap at the start": (file_of({"x": entry("F32", [1], 4, 8)}, bytes(8)), "leaves 4 bytes before it unused"),
    "overlap": (file_of({"x": F32, "y": entry("F32", [1], 4, 8)}, bytes(8)), "'y' begins at byte 4 .* overlaps"),
    "truncated": (file_of({"x": F32}, bytes(7)), "ends at byte 8 of the data, of which the file has 7"),
    "surplus": (file_of({"x": F32}, bytes(9)), "9 bytes of data, of which its tensors use 8"),
    "bool": (file_of({"x": entry("BOOL", [2], 0, 2)}, b"\x01\x02"), "bytes other than 0 and 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(name, tmp_path):
    data, message = BAD[name]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        read_safetensors(path)
    assert str(path) in str(caught.value)


def test_a_long_header_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "long.safetensors"
    with open(path, "wb") as stream:
        stream.write((2**30).to_bytes(8, "little") + b"{")
        stream.truncate(2**30 + 8)  # a hole, no bytes on the disk
    with pytest.raises(ValueError, match="a header of 1073741824 bytes, at most 4194304"):
        read_safetensors(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        read_safetensors(tmp_path / "none.safetensors")


def test_silero_vad(extra_data):
    """snakers4/silero-vad, 16 kHz: every tensor as the header says, read here by itself."""
    path = extra_data("models/silero_vad/silero_vad_16k.safetensors")
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    tensors, metadata = read_safetensors(path)
    assert list(tensors) == list(header)
    assert metadata == {}
    assert tensors["lstm_cell.weight_ih"].shape == (512, 128)
    for name, described in header.items():
        begin, end = described["data_offsets"]
        expected = np.frombuffer(data[start + begin : start + end], "<f4").reshape(described["shape"])
        np.testing.assert_array_equal(tensors[name], expected)
