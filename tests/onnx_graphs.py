"""Small ONNX models for the tests, made with onnx.helper, and the answers of onnx' own reference evaluator."""

from __future__ import annotations

import io

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import fastlstm

INT32, INT64, FLOAT = TensorProto.INT32, TensorProto.INT64, TensorProto.FLOAT


def value(name, array_or_type, shape=None):
    """A graph's input or output like an array, or of a type of TensorProto."""
    if isinstance(array_or_type, int):
        return helper.make_tensor_value_info(name, array_or_type, shape)
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array_or_type.dtype), array_or_type.shape)


def model(nodes, inputs, outputs, constants=None, opset=14, domains=()):
    """A ModelProto. ``inputs``: {name: array} or value infos; ``outputs``: names (float32) or value infos."""
    given = [value(k, v) for k, v in inputs.items()] if isinstance(inputs, dict) else inputs
    made = [value(o, FLOAT) if isinstance(o, str) else o for o in outputs]
    held = [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", given, made, held)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def load(proto):
    """The model as fastlstm opens it."""
    return fastlstm.load_model(io.BytesIO(proto.SerializeToString()))


def one(op, inputs, outputs=("y",), constants=None, opset=14, dtypes=None, domain="", **attributes):
    """A model of one node. ``inputs``: {name: array} of the graph's inputs; ``constants`` come behind them. None: left out."""
    names = [*inputs, *(constants or {})]
    arrays = {**inputs, **(constants or {})}
    node = helper.make_node(
        op, ["" if arrays[n] is None else n for n in names], list(outputs), "node", domain=domain, **attributes
    )
    kept = {n: a for n, a in inputs.items() if a is not None}
    held = {n: a for n, a in (constants or {}).items() if a is not None}
    made = [value(n, t) for n, t in zip(outputs, dtypes or [FLOAT] * len(outputs), strict=True) if n]
    return model([node], kept, made, held, opset, (domain,) if domain else ())


def reference(proto, feeds):
    """The outputs as onnx' reference evaluator computes them."""
    return ReferenceEvaluator(proto).run(None, feeds)


def as_list(outputs):
    return outputs if isinstance(outputs, list) else [outputs]


def free(name, rank, kind=FLOAT):
    """A graph's input whose sizes are not said."""
    return value(name, kind, [None] * rank)


def through_plan(model, inputs):
    """What the plan answers."""
    ready_one, model._plan.ready = model._plan.ready, None
    try:
        return as_list(model(inputs))
    finally:
        model._plan.ready = ready_one


def runs(model):
    """How many actions the Bounds of a model have."""
    return [len(kept.spare[0]._runs) for kept in model._plan.ready._kept.values() if kept.spare]


def same(got, wanted):
    """Asserts that a model's outputs are these arrays, bit for bit, and the caller's own."""
    got = as_list(got)
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
        assert a.flags.owndata
        assert a.flags.writeable


__all__ = ["FLOAT", "INT32", "INT64", "as_list", "free", "helper", "load", "model", "numpy_helper", "one", "onnx", "reference"]
__all__ += ["runs", "same", "through_plan", "value"]
