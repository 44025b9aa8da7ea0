"""The workloads that fastlstm and its rivals are timed at, with inputs and expected outputs. Used by ``bench_rivals``.

The shapes of ``cases``, and besides: a ragged batch, Bidirectional, float64, single calls of a stream, training, two threads.
Expected outputs come from the reference backend in float64.
"""

from __future__ import annotations

import dataclasses
import zlib
from pathlib import Path

import numpy as np

from benchmarks.cases import CASES
from benchmarks.rivals.ours import make_layer
from benchmarks.rivals.workload import COUNT, Data, Workload, mask_of
from fastlstm import selector

LENGTHS = (10, 100)  # of a ragged batch's samples, both included


def _of(case_name: str, group: str, name: str | None = None, **changes: object) -> Workload:
    case = CASES[case_name]
    known = {field.name for field in dataclasses.fields(Workload)}
    values = {key: value for key, value in dataclasses.asdict(case).items() if key in known}
    return Workload(**(values | {"group": group, "name": name or case_name, "flops": case.flops} | changes))


def _workloads() -> list[Workload]:
    lstm = [_of(name, "LSTM") for name, case in CASES.items() if case.layer == "LSTM"]
    convolutions = [_of(name, "ConvLSTM1D") for name, case in CASES.items() if case.layer == "ConvLSTM1D"]
    ragged = _of("n32", "more", "ragged", ragged=True)
    steps = lengths_of(ragged).sum() / COUNT
    more = [
        dataclasses.replace(ragged, flops=int(ragged.flops * steps / (ragged.batch * ragged.steps))),
        _of("n1", "more", "bidirectional", bidirectional=True, flops=2 * CASES["n1"].flops),
        _of("n1", "more", "n1-f64", dtype="float64"),
        _of("n32", "more", "n32-f64", dtype="float64"),
        _of("stream", "more", "stream-p99", percentile=True),
    ]
    # A gradient of a product is two products of the same size.
    training = [
        _of(name, "training", f"train-{name}", training=True, flops=3 * CASES[name].flops)
        for name in ("n1", "n32", "doc", "edge", "mid", "long")
    ]
    threads = [_of(name, "threads", f"{name}-2t", threads=2) for name in ("n32", "n128", "n1-wide")]
    return lstm + convolutions + more + training + threads


def _random(work: Workload, what: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(f"{work.name}/{what}".encode()))


def lengths_of(work: Workload) -> np.ndarray:
    """How many steps of each sample count: [COUNT,N]."""
    return _random(work, "lengths").integers(LENGTHS[0], LENGTHS[1] + 1, (COUNT, work.batch))


def data_of(work: Workload) -> Data:
    """The arrays of a workload (see ``Workload``): the same ones at every call."""
    shape: tuple[int, ...] = (work.batch, work.steps, work.features)
    width: tuple[int, ...] = ()
    if not work.is_lstm:
        shape, width = (work.batch, work.steps, work.rows, work.features), (work.kernel_size,)
    data: Data = {"inputs": _random(work, "inputs").standard_normal((COUNT, *shape)).astype(work.dtype)}
    for end in ("", "_b")[: 1 + work.bidirectional]:
        random = _random(work, f"weights{end}")
        weights = {"kernel": (*width, work.features, 4 * work.units), "recurrent_kernel": (*width, work.units, 4 * work.units)}
        for name, weight_shape in (weights | {"bias": (4 * work.units,)}).items():
            fan_in = max(int(np.prod(weight_shape[:-1])), 4)
            data[name + end] = (random.standard_normal(weight_shape) / np.sqrt(fan_in)).astype(work.dtype)
    if work.ragged:
        data["lengths"] = lengths_of(work)
    if work.training:
        rows = () if work.is_lstm else (work.rows_out,)
        steps = (work.steps,) if work.return_sequences else ()
        cotangent = _random(work, "cotangent").standard_normal((work.batch, *steps, *rows, work.units))
        data["cotangent"] = cotangent.astype(work.dtype)
    return data


def expected_of(work: Workload, data: Data) -> list[np.ndarray]:
    """What the first ``checked_calls`` calls must give, call after call, in float64; NaN where nothing is compared."""
    layer = make_layer(work, data, "float64")
    exact = {name: value.astype(np.float64) for name, value in data.items() if value.dtype.kind == "f"}
    expected: list[np.ndarray] = []
    states = [np.zeros((work.batch, work.units)) for _ in "hc"]
    with selector.use_backend("reference"):
        for number in range(work.checked_calls):
            x = exact["inputs"][number % COUNT]
            if work.training:
                y, pullback = layer.vjp(x)
                gradients = pullback(exact["cotangent"])
                expected += [y, gradients.inputs, *gradients.weights]
            elif work.carries_states:
                y, *states = layer(x, states)
                expected.append(y)
            elif work.ragged:
                mask = mask_of(work, data["lengths"][number % COUNT])
                expected.append(np.where(mask[:, :, None], layer(x, mask=mask), np.nan))
            else:
                expected.append(layer(x))
    return expected


def write(work: Workload, folder: Path) -> Path:
    """All arrays of a workload as one file for the workers."""
    data = data_of(work)
    expected = {f"expected_{k}": value for k, value in enumerate(expected_of(work, data))}
    path = folder / f"{work.name}.npz"
    np.savez(path, allow_pickle=False, **data, **expected)
    return path


WORKLOADS = {work.name: work for work in _workloads()}
GROUPS = list(dict.fromkeys(work.group for work in WORKLOADS.values()))
