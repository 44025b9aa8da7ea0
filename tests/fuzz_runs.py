"""Loads mutated model files, many in one process; run by test_fuzz_files: ``python fuzz_runs.py FOLDER KIND COUNT SEED``.

An ONNX model is also run, and run bound to its arrays. Prints one JSON line: outcomes, the longest time and the largest growth
of memory. Anything but a model, a ValueError or an OSError that names the file ends the process with a traceback, as does a file
that takes too long or too much memory.
"""

from __future__ import annotations

import io
import json
import random
import sys
import tempfile
import time
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np

import fastlstm
from fastlstm.io.torch_file import read_state_file

SECONDS = 5.0  # for one file, on a busy machine
MEMORY = 160 * 2**20  # fastlstm lets a file of any size unpack to 64 MiB, twice over for a moment; so an ONNX graph's values
DATA = Path(__file__).parent / "data"
SOURCES = [DATA / "keras3" / name for name in ("bidi_masking_stack", "convlstm_stack", "functional_init_state")]
SOURCES += [DATA / "graphs" / name for name in ("attention", "recurrent", "translator", "rows")]
# Of PyTorch's formats; mixed.pt holds tensors of all kinds and no LSTM.
TORCH = {
    "pt": ["mixed", "nested", "nested"],
    "safetensors": ["packed_bi_l2", "packed_proj_bi_l2", "proj"],
}
WORDS = [
    0,
    -1,
    1,
    2**31,
    10**12,
    1.5,
    True,
    None,
    "",
    "LSTM",
    "Lambda",
    "x",
    [],
    {},
    [None, 3],
    [["x", 0, 0]],
    "hard_sigmoid",
    "int32",
    "F64",
    [4, 2**62],
]


def changed_bytes(data: bytes, draw: random.Random) -> bytes:
    """Some bytes overwritten, or a piece cut out, doubled or zeroed."""
    array = bytearray(data)
    if draw.random() < 0.8:
        for _ in range(draw.choice((1, 1, 2, 4, 16))):
            array[draw.randrange(len(array))] = draw.randrange(256)
        return bytes(array)
    start = draw.randrange(len(array))
    end = min(len(array), start + draw.choice((1, 8, 100, 5000)))
    piece = draw.choice((b"", bytes(array[start:end]) * 2, bytes(end - start)))
    return bytes(array[:start]) + piece + bytes(array[end:])


def changed_json(text: bytes, draw: random.Random) -> bytes:
    """A config with one to three of its values replaced, removed or moved."""
    config = json.loads(text)
    for _ in range(draw.choice((1, 1, 2, 3))):
        places = list(_places(config))
        holder, key = draw.choice(places)
        other_holder, other_key = draw.choice(places)
        what = draw.random()
        if what < 0.6:
            holder[key] = json.loads(json.dumps(draw.choice(WORDS)))  # a copy: a list may be put into itself
        elif what < 0.8:
            holder[key] = json.loads(json.dumps(other_holder[other_key]))
        else:
            del holder[key]
    return json.dumps(config).encode()


def _places(value):
    """(holder, key) of everything inside lists and dicts."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from _places(value[key])


def members_of(data: bytes) -> dict[str, bytes]:
    """The members of a zip archive by name."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(members: dict[str, bytes]) -> bytes:
    """A zip archive of these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return buffer.getvalue()


def mutated_keras(data: bytes, draw: random.Random) -> bytes:
    if draw.random() < 0.2:
        return changed_bytes(data, draw)
    members = members_of(data)
    if draw.random() < 0.6:
        members["config.json"] = changed_json(members["config.json"], draw)
    else:
        name = draw.choice(("config.json", "model.weights.h5", "model.weights.h5"))
        members[name] = changed_bytes(members[name], draw)
    return archive_of(members)


def mutated_h5(data: bytes, draw: random.Random) -> bytes:
    if draw.random() < 0.6:
        return changed_bytes(data, draw)
    import h5py

    buffer = io.BytesIO(data)
    with h5py.File(buffer, "r+") as handle:
        text = handle.attrs["model_config"]
        handle.attrs["model_config"] = changed_json(text if isinstance(text, bytes) else text.encode(), draw)
    return buffer.getvalue()


def mutated_pt(data: bytes, draw: random.Random) -> bytes:
    """The bytes of the archive changed, or of its pickle, or of a storage."""
    if draw.random() < 0.2:
        return changed_bytes(data, draw)
    members = members_of(data)
    names = [name for name in members if name.endswith("/data.pkl")]
    if draw.random() < 0.25:
        names = [name for name in members if "/data/" in name or name.endswith("byteorder")]
    name = draw.choice(names)
    if members[name]:
        members[name] = changed_bytes(members[name], draw)
    return archive_of(members)


def mutated_safetensors(data: bytes, draw: random.Random) -> bytes:
    """Bytes changed, or values of the header, whose length then is right."""
    if draw.random() < 0.4:
        return changed_bytes(data, draw)
    start = 8 + int.from_bytes(data[:8], "little")
    text = changed_json(data[8:start], draw) if draw.random() < 0.7 else changed_bytes(data[8:start], draw)
    return len(text).to_bytes(8, "little") + text + data[start:]


def mutated_npz(data: bytes, draw: random.Random) -> bytes:
    """The bytes of the archive changed, or of an array, or values of the text that says what the arrays are."""
    if draw.random() < 0.3:
        return changed_bytes(data, draw)
    members = members_of(data)
    if draw.random() < 0.7:
        text = str(np.load(io.BytesIO(members["fastlstm.npy"]), allow_pickle=False))
        buffer = io.BytesIO()
        np.save(buffer, np.array(changed_json(text.encode(), draw).decode()))
        members["fastlstm.npy"] = buffer.getvalue()
    else:
        name = draw.choice(sorted(members))
        members[name] = changed_bytes(members[name], draw)
    return archive_of(members)


def mutated_own_safetensors(data: bytes, draw: random.Random) -> bytes:
    """As ``mutated_safetensors``, or values of the text that says what model the arrays belong to."""
    if draw.random() < 0.4:
        return mutated_safetensors(data, draw)
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["__metadata__"]["fastlstm"] = changed_json(header["__metadata__"]["fastlstm"].encode(), draw).decode()
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[start:]


def mutated_onnx(data: bytes, draw: random.Random) -> bytes:
    import fuzz_onnx

    return changed_bytes(data, draw) if draw.random() < 0.5 else fuzz_onnx.changed_model(data, draw)


def outcome(path: Path, draw: random.Random) -> str:
    """ "model" or "error": a ValueError or OSError of just that class, whose message names the file."""
    told = None
    kind = path.name.partition(".")[2]
    try:
        if kind in TORCH:
            read_state_file(path)
            fastlstm.LSTM.from_torch(path)
        else:
            model = fastlstm.load_model(path)
        if kind == "onnx":
            import fuzz_onnx

            fuzz_onnx.run(model, draw)
    except (ValueError, OSError) as error:
        told = error
    if told is None:
        return "model"
    assert type(told) in (ValueError, OSError), repr(told)[:2000]
    assert path.name in str(told), str(told)
    return "error"


MUTATED = {
    "keras": mutated_keras,
    "h5": mutated_h5,
    "pt": mutated_pt,
    "safetensors": mutated_safetensors,
    "npz": mutated_npz,
    "own.safetensors": mutated_own_safetensors,
    "onnx": mutated_onnx,
}


def sources_of(kind: str) -> list[bytes]:
    """The valid files of a kind."""
    if kind == "onnx":
        import fuzz_onnx

        return fuzz_onnx.SOURCES
    if kind in ("npz", "own.safetensors"):
        return [_own(source.with_suffix(".keras"), kind) for source in SOURCES]
    bases = [DATA / "torch" / name for name in TORCH[kind]] if kind in TORCH else SOURCES
    return [base.with_suffix(f".{kind}").read_bytes() for base in bases]


def _own(path: Path, kind: str) -> bytes:
    """fastlstm's own file of a model that Keras saved."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / f"m.{kind}"
        fastlstm.load_model(path).save(made)
        return made.read_bytes()


def main(folder: str, kind: str, count: int, seed: int) -> None:
    warnings.simplefilter("ignore")
    draw = random.Random(seed)
    path = Path(folder) / f"mutated.{kind}"
    sources = sources_of(kind)
    outcomes = {"model": 0, "error": 0}
    longest, largest = 0.0, 0
    for number in range(count):
        data = MUTATED[kind](draw.choice(sources), draw)
        path.write_bytes(data)
        tracemalloc.start()
        start = time.process_time()
        try:
            outcomes[outcome(path, draw)] += 1
        except BaseException:
            print(f"mutation {number} of seed {seed}", file=sys.stderr)
            raise
        seconds, memory = time.process_time() - start, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert seconds < SECONDS, f"mutation {number} of seed {seed} took {seconds:.1f} s"
        assert memory < max(MEMORY, 10 * len(data)), f"mutation {number} of seed {seed} took {memory / 2**20:.0f} MiB"
        longest, largest = max(longest, seconds), max(largest, memory)
    print(json.dumps({**outcomes, "seconds": longest, "MiB": largest / 2**20}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
