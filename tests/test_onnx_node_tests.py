"""ONNX's own node tests, as the package onnx ships them: every case whose operators are in the table of ``models.onnx``.

Each runs twice: with all of its inputs as inputs of the graph, and with all but the first as constants in the file, where weights
are prepared and constants folded; and each of these more than once, the last time bound to its arrays. Refusals are for reasons
that are listed here, and no others.
"""

from __future__ import annotations

import functools
import io
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="ONNX's node tests come with the package onnx")

import fastlstm  # noqa: E402
from fastlstm.models.onnx import ready  # noqa: E402
from fastlstm.models.onnx.checks import OPERATORS  # noqa: E402

# Why a case may be refused: dtypes that NumPy does not have, and training.
REFUSALS = (
    r"is of dtype (bfloat16|string|u?int[24]|float\w*e\w+|sequence|optional)\b",
    r"casts to type \d+, which is not supported",
    r"training_mode=1 is for training",
    r"its output Indices is not supported",
    r"scales of blocks \(block_size\) are not supported",
    r"its output_dtype \d+ is not supported",
    r"the file is of opset [1-6], expected 7",
)
TRAINING = "its input training_mode is true: only inference is supported"


def nodes(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from nodes(attribute.g)


@functools.cache
def cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = list(collect_testcases(None))
    return [case for case in found if all((node.domain, node.op_type) in OPERATORS for node in nodes(case.model.graph))]


def of_arrays(case):
    """False for cases with sequences and optional values, which no operator here takes."""
    values = [value for given, expected in case.data_sets for value in (*given, *expected)]
    return all(isinstance(value, (np.ndarray, np.generic, int, float, bool, onnx.TensorProto)) for value in values)


def as_arrays(values):
    """Inputs and outputs of a case; some hold TensorProtos (of dtypes that NumPy lacks, or written so)."""
    return [onnx.numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else np.asarray(v) for v in values]


def run(case, promoted):
    """ "ok" or, where a call ran bound, "bound"; or why the case was refused."""
    proto = onnx.ModelProto()
    proto.CopyFrom(case.model)
    names = [info.name for info in proto.graph.input]
    sets = [(as_arrays(given), as_arrays(expected)) for given, expected in case.data_sets]
    if promoted:
        for name, array in zip(names[1:], sets[0][0][1:], strict=False):
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    try:
        model = fastlstm.load_model(io.BytesIO(proto.SerializeToString()))
        for given, expected in sets:
            given = given[:1] if promoted else given
            got = model(given)
            compare(case, got if isinstance(got, list) else [got], expected)
            model(others_like(given))  # is bound at these numbers
            got = model(given)
            compare(case, got if isinstance(got, list) else [got], expected)
    except ValueError as error:
        return str(error)
    return "bound" if any(kept.spare for kept in model._plan.ready._kept.values()) else "ok"


def others_like(arrays):
    """Other numbers and truth values of the same shapes; the same integers and single numbers, which may be sizes."""
    kinds = [a.dtype.kind if a.size > 1 else "" for a in arrays]
    return [
        ~a if kind == "b" else (0.25 - a / 2).astype(a.dtype) if kind == "f" else a for a, kind in zip(arrays, kinds, strict=True)
    ]


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """The second call of each shape is bound."""
    monkeypatch.setattr(ready, "BOUND_AT", 2)


def compare(case, got, expected):
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype, case.name
        np.testing.assert_allclose(a, b, rtol=case.rtol, atol=case.atol, err_msg=case.name)
        assert a.shape == b.shape, case.name


def is_listed(reason):
    """Whether every part of a refusal is one that is known."""
    problems = reason.split("cannot be run here: ")[-1].split("; ")
    return TRAINING in reason or all(any(re.search(known, problem) for known in REFUSALS) for problem in problems)


@pytest.mark.parametrize("promoted", [False, True], ids=["inputs", "constants"])
def test_node_cases(promoted):
    outcomes = {}
    for case in cases():
        if not of_arrays(case) or (promoted and (len(case.model.graph.input) < 2 or len(case.data_sets) > 1)):
            continue
        outcomes[case.name] = run(case, promoted)
    passed = [name for name, outcome in outcomes.items() if outcome in ("ok", "bound")]
    unexpected = {name: outcome for name, outcome in outcomes.items() if name not in passed and not is_listed(outcome)}
    assert not unexpected
    unbound = sorted(name for name in passed if outcomes[name] != "bound")
    assert len(unbound) <= len(passed) // 20, unbound
    # onnx 1.23 has this many (1023 and 714); older releases, with which fastlstm works too, have fewer.
    assert len(passed) >= (700 if promoted else 1000), f"{len(passed)} of {len(outcomes)} cases passed"


def test_lstm_cases_are_all_there():
    names = {case.name for case in cases() if "lstm" in case.name}
    wanted = {"defaults", "with_initial_bias", "with_peepholes", "batchwise", "reverse", "bidirectional"}
    assert names >= {f"test_lstm_{name}" for name in wanted - {"reverse", "bidirectional"}}  # those two are of newer releases
    for case in cases():
        if "lstm" in case.name:
            assert run(case, False) == run(case, True) == "bound"


def test_operators_are_known_to_onnx():
    """Every operator of the table exists, and its newest known version is one that the standard has."""
    for (domain, name), operator in OPERATORS.items():
        if domain:
            continue
        newest = onnx.defs.onnx_opset_version()
        if operator.latest <= newest:
            assert onnx.defs.get_schema(name, operator.latest, "").since_version == operator.latest, name


def test_docs_list_every_operator():
    text = (Path(__file__).parent.parent / "docs" / "models.md").read_text("utf-8")
    listed = re.findall(r"\w+", text.split("**Other operators**:")[1].split(". Products")[0])
    assert sorted([*listed, "LSTM", "DynamicQuantizeLSTM"]) == sorted(name for _, name in OPERATORS)
