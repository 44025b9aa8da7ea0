"""Damaged and hostile HDF5 data inside a .keras file: data outside the file, absurd sizes, dtypes that are no numbers."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest

h5py = pytest.importorskip("h5py", reason="reading .keras files needs h5py")

from keras_files import KERNEL, WEIGHTS, members_of, pack, refusal, weights_with  # noqa: E402

from fastlstm.io import hdf5  # noqa: E402


def with_weights(tmp_path, data, *words):
    return refusal(pack(tmp_path / "weights.keras", {**members_of(), WEIGHTS: data}), WEIGHTS, *words)


def replaced(**arguments):
    """The HDF5 member with another dataset in the place of the LSTM's kernel."""

    def change(handle):
        del handle[KERNEL]
        handle.create_dataset(KERNEL, **arguments)

    return weights_with(change)


@pytest.mark.parametrize("data", [b"", b"no HDF5 here", b"\x89HDF\r\n\x1a\n", members_of()[WEIGHTS][:100]])
def test_hdf5_that_is_none(tmp_path, data):
    with_weights(tmp_path, data, "HDF5")


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_truncated_hdf5(tmp_path, share):
    data = members_of()[WEIGHTS]
    with_weights(tmp_path, data[: int(len(data) * share)], "HDF5")


def test_external_link(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as handle:
        handle["w"] = np.zeros((6, 32), np.float32)

    def change(handle):
        del handle[KERNEL]
        handle[KERNEL] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/w")

    with_weights(tmp_path, weights_with(change), KERNEL, "external link", "other.h5")


def test_external_link_in_place_of_a_group(tmp_path):
    def change(handle):
        del handle["layers"]
        handle["layers"] = h5py.ExternalLink("other.h5", "/layers")

    with_weights(tmp_path, weights_with(change), "external link")


@pytest.mark.parametrize("target", ["/layers/dense/vars/0", "/nowhere", "/" + KERNEL])
def test_soft_link(tmp_path, target):
    def change(handle):
        del handle[KERNEL]
        handle[KERNEL] = h5py.SoftLink(target)

    with_weights(tmp_path, weights_with(change), KERNEL, "soft link")


def test_external_storage(tmp_path):
    (tmp_path / "raw.bin").write_bytes(np.full((6, 32), 7, np.float32).tobytes())
    data = replaced(shape=(6, 32), dtype="f4", external=[(str(tmp_path / "raw.bin"), 0, 768)])
    with_weights(tmp_path, data, KERNEL, "external files")


def test_virtual_dataset(tmp_path):
    with h5py.File(tmp_path / "source.h5", "w") as handle:
        handle["w"] = np.zeros((6, 32), np.float32)

    def change(handle):
        del handle[KERNEL]
        layout = h5py.VirtualLayout(shape=(6, 32), dtype="f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "source.h5"), "w", shape=(6, 32))
        handle.create_virtual_dataset(KERNEL, layout)

    with_weights(tmp_path, weights_with(change), KERNEL, "virtual dataset")


@pytest.mark.parametrize("shape", [(10**9, 10**9), (10**5, 10**4), (5000, 3000), (6, 33)])
def test_shape_that_is_not_backed_by_data(tmp_path, shape):
    """Datasets that were declared and never written take no bytes in the file."""
    with_weights(tmp_path, replaced(shape=shape, dtype="f4"), KERNEL, "declares shape")


def test_contiguous_data_beyond_the_end(tmp_path):
    """The address of the data is changed to lie near the end of the file."""
    data = bytearray(members_of()[WEIGHTS])
    with h5py.File(io.BytesIO(bytes(data)), "r") as handle:
        offset = handle[KERNEL].id.get_offset()
    at = bytes(data).index(struct.pack("<QQ", offset, 6 * 32 * 4))
    struct.pack_into("<Q", data, at, len(data) - 8)
    # Newer HDF5 libraries notice by themselves, older ones leave it to the check here.
    message = with_weights(tmp_path, bytes(data), KERNEL)
    assert "not all in the file" in message or "invalid dataset size" in message


PAIR = [("a", "f4"), ("b", "f4")]
NO_NUMBERS = [h5py.string_dtype(), "S8", h5py.vlen_dtype(np.float32), "c8", PAIR, h5py.ref_dtype, "V2", "V16"]


@pytest.mark.parametrize("dtype", NO_NUMBERS)
def test_dtypes_that_are_no_numbers(tmp_path, dtype):
    with_weights(tmp_path, replaced(shape=(6, 32), dtype=dtype), KERNEL, "expected plain numbers")


def test_integer_weights(tmp_path):
    data = replaced(data=np.ones((6, 32), np.int64))
    refusal(pack(tmp_path / "int.keras", {**members_of(), WEIGHTS: data}), KERNEL, "int64", "float32")


def test_null_dataspace(tmp_path):
    with_weights(tmp_path, replaced(data=h5py.Empty("f4")), KERNEL, "null dataspace")


def test_named_datatype(tmp_path):
    def change(handle):
        del handle[KERNEL]
        handle[KERNEL] = np.dtype("f4")

    with_weights(tmp_path, weights_with(change), KERNEL, "Datatype")


def test_chunks_of_zeros_that_unpack_to_absurd_size(tmp_path):
    """100 MiB of zeros in a file of some 150 kB."""
    zeros = np.zeros((100, 2**18), np.float32)
    data = replaced(data=zeros, chunks=(10, 2**18), compression="gzip", compression_opts=9)
    assert len(data) < 2**18
    with_weights(tmp_path, data, KERNEL, f"at most {64 * 2**20}")


def test_chunk_that_unpacks_to_more_than_it_declares(tmp_path):
    """HDF5 itself would unpack all 500 MB of this chunk."""
    packed = zlib.compressobj(9)
    bomb = b"".join([packed.compress(bytes(2**20)) for _ in range(500)] + [packed.flush()])

    def change(handle):
        del handle[KERNEL]
        dataset = handle.create_dataset(KERNEL, (6, 32), "f4", chunks=(6, 32), compression="gzip")
        dataset.id.write_direct_chunk((0, 0), bomb)

    with_weights(tmp_path, weights_with(change), KERNEL, "does not hold 768 bytes")


def test_chunk_whose_packing_is_damaged(tmp_path):
    def change(handle):
        del handle[KERNEL]
        dataset = handle.create_dataset(KERNEL, (6, 32), "f4", chunks=(6, 32), compression="gzip")
        dataset.id.write_direct_chunk((0, 0), b"not deflated at all")

    with_weights(tmp_path, weights_with(change), KERNEL)


def test_chunks_that_are_missing(tmp_path):
    def change(handle):
        del handle[KERNEL]
        dataset = handle.create_dataset(KERNEL, (6, 32), "f4", chunks=(3, 32), compression="gzip")
        dataset[:3] = 1

    with_weights(tmp_path, weights_with(change), KERNEL, "only 1 of 2 chunks")


def test_chunk_of_absurd_size(tmp_path):
    data = replaced(shape=(6, 32), maxshape=(None, None), dtype="f4", chunks=(2**13, 2**14))
    with_weights(tmp_path, data, KERNEL, "chunks of")


@pytest.mark.parametrize("keys", [{"compression": "lzf"}, {"fletcher32": True}, {"scaleoffset": 3}])
def test_filters_that_are_not_known(tmp_path, keys):
    with_weights(tmp_path, replaced(data=np.ones((6, 32), np.float32), chunks=(6, 32), **keys), KERNEL, "filters")


@pytest.mark.parametrize("keys", [{}, {"compression": "gzip"}, {"compression": "gzip", "shuffle": True}, {"shuffle": True}])
def test_chunks_of_sane_size_are_read(tmp_path, keys):
    kernel = np.random.default_rng(0).normal(size=(6, 32)).astype(np.float32)
    data = replaced(data=kernel, chunks=(4, 7), **keys)
    np.testing.assert_array_equal(hdf5.read_arrays(data, "f.h5")[KERNEL], kernel)


@pytest.mark.parametrize("dtype", [">f4", "<f8", "f2", "i4", ">i8", "?"])
def test_plain_numbers_are_read(dtype):
    values = (np.arange(6 * 32).reshape(6, 32) % 2).astype(dtype)
    read = hdf5.read_arrays(replaced(data=values), "f.h5")[KERNEL]
    assert read.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(read, values)


def test_bfloat16_as_keras_stores_it():
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    values = np.linspace(-3, 3, 192).reshape(6, 32).astype(ml_dtypes.bfloat16)

    def change(handle):
        del handle[KERNEL]
        handle.create_dataset(KERNEL, data=values.view("V2")).attrs["dtype"] = "bfloat16"

    read = hdf5.read_arrays(weights_with(change), "f.h5")[KERNEL]
    assert read.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(read.view(np.uint16), values.view(np.uint16))


def test_group_that_contains_itself(tmp_path):
    def change(handle):
        handle["layers/lstm/again"] = handle["layers"]

    with_weights(tmp_path, weights_with(change), "nested deeper")


def test_missing_dataset(tmp_path):
    def change(handle):
        del handle[KERNEL]

    refusal(pack(tmp_path / "w.keras", {**members_of(), WEIGHTS: weights_with(change)}), "no dataset", KERNEL, "kernel")


def test_dataset_too_many(tmp_path):
    def change(handle):
        handle["layers/lstm/cell/vars/3"] = np.zeros(4, np.float32)

    refusal(pack(tmp_path / "w.keras", {**members_of(), WEIGHTS: weights_with(change)}), "layers/lstm/cell/vars/3", "no layer")


@pytest.mark.parametrize("shape", [(32, 6), (6, 28), (192,), (), (6, 32, 1), (0, 32)])
def test_wrong_shape(tmp_path, shape):
    data = replaced(data=np.zeros(shape, np.float32))
    refusal(pack(tmp_path / "w.keras", {**members_of(), WEIGHTS: data}), KERNEL, f"shape {shape}", "(6, 32)")
