"""The golden cases: what Keras 3 computed for recurrent layers, and how to run the same layers here.

``data/{lstm,convlstm1d,bidirectional}.json`` describe the cases, the ``.npz`` of the same name holds each one's arrays under
``<id>/<name>``: weights ``w0…``, and for every call i the input ``x<i>``, ``mask<i>`` and the expected ``out<i>`` (``out<i>a``
and ``out<i>b`` of an unmerged Bidirectional) and ``state<i>_0…``; ``init0…`` are the initial states. For the last call there
are cotangents ``R0…`` and gradients ``gx``, ``ginit0…``, ``gw0…``. Arrays called ``alt_<name>`` replace <name> where released
Keras is known to be wrong (``keras_bug``). In terms of the public layers; used by test_golden.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

import fastlstm

DATA = Path(__file__).parent / "data"
FAMILIES = ("lstm", "convlstm1d", "bidirectional")
# Largest accepted `distance`. Keras' own backends differ from each other by up to 2e-6 in float32 on these cases.
TOLERANCE = {"float32": 2e-5, "float64": 1e-9}
GRADIENT_TOLERANCE = {"float32": 1e-4, "float64": 1e-8}


@functools.cache
def _archive(family: str) -> tuple[Any, dict[str, list[str]]]:
    """The open .npz of a family, and the names of each case's arrays."""
    archive = np.load(DATA / f"{family}.npz")
    names: dict[str, list[str]] = {}
    for key in archive.files:
        case_id, name = key.split("/")
        names.setdefault(case_id, []).append(name)
    return archive, names


@dataclasses.dataclass(frozen=True)
class Case:
    """One golden case. ``layer`` is the class's name, ``bidirectional`` None or Bidirectional's arguments."""

    family: str
    id: str
    layer: str
    kwargs: dict[str, Any]
    dtype: str
    bidirectional: dict[str, Any] | None
    calls: int
    resets: list[int]

    def __str__(self) -> str:
        changed = [str(v) for k, v in self.kwargs.items() if k.endswith("activation")]
        return "-".join([self.id, *changed])

    @functools.cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, the corrected ones in place of those that Keras got wrong."""
        archive, names = _archive(self.family)
        arrays = {name: archive[f"{self.id}/{name}"] for name in names[self.id]}
        return {name: arrays.get(f"alt_{name}", value) for name, value in arrays.items() if not name.startswith("alt_")}

    def numbered(self, prefix: str) -> list[np.ndarray]:
        """The arrays <prefix>0, <prefix>1 …"""
        found: list[np.ndarray] = []
        while f"{prefix}{len(found)}" in self.arrays:
            found.append(self.arrays[f"{prefix}{len(found)}"])
        return found

    def output_names(self, call: int) -> list[str]:
        """Names of what call number ``call`` returns, in its order: outputs, then states."""
        outputs = [f"out{call}"] if f"out{call}" in self.arrays else [f"out{call}a", f"out{call}b"]
        return outputs + sorted(name for name in self.arrays if name.startswith(f"state{call}_"))

    @property
    def gradient_names(self) -> list[str]:
        return [name for name in self.arrays if name.startswith("g")]


def load(family: str) -> list[Case]:
    """The cases of a family, in the order of the file."""
    fields = {field.name for field in dataclasses.fields(Case)} - {"family"}
    described = json.loads((DATA / f"{family}.json").read_text())
    return [Case(family, **{key: value for key, value in one.items() if key in fields}) for one in described]


def is_implemented(case: Case) -> bool:
    return hasattr(fastlstm, case.layer)


def make_layer(case: Case, **changes: Any) -> Any:
    """The case's layer with its weights; ``changes`` override the arguments of the class named by ``case.layer``."""
    # The weights are set below: an orthogonal matrix for each case would take longer than the case.
    plain = {"kernel_initializer": "zeros", "recurrent_initializer": "zeros"}
    arguments = {**plain, **case.kwargs, "dtype": case.dtype, **changes}
    cls = getattr(fastlstm, case.layer)
    layer = cls(**arguments)
    if case.bidirectional is not None:
        wrapper = dict(case.bidirectional)
        backward = wrapper.pop("backward_kwargs", None)
        if backward is not None:
            wrapper["backward_layer"] = cls(**{**arguments, **backward})
        layer = fastlstm.Bidirectional(layer, dtype=case.dtype, **wrapper)
    layer.build(case.arrays["x0"].shape)
    layer.set_weights(case.numbered("w"))
    return layer


def recurrent_layers(case: Case, layer: Any) -> list[Any]:
    """The layer, or the two inside a Bidirectional."""
    return [layer] if case.bidirectional is None else [layer.forward_layer, layer.backward_layer]


def call_arguments(case: Case, call: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Input and keywords of call number ``call``."""
    arrays, states = case.arrays, case.numbered("init")
    if case.layer == "LSTMCell":
        return arrays[f"x{call}"], {"states": states}
    return arrays[f"x{call}"], {"initial_state": states or None, "mask": arrays.get(f"mask{call}")}


def flatten(result: Any) -> list[Any]:
    """Everything in nested tuples and lists, in order."""
    return [leaf for part in result for leaf in flatten(part)] if isinstance(result, (tuple, list)) else [result]


def run(case: Case, layer: Any, call: int) -> dict[str, Any]:
    """Makes call number ``call`` (a reset first where the case says so): what came back, by name."""
    if call in case.resets:
        layer.reset_state()
    x, keywords = call_arguments(case, call)
    returned = flatten(layer(x, **keywords))
    names = case.output_names(call)
    states = [name for name in names if name.startswith("state")]
    expected = len(names) if case.layer == "LSTMCell" or layer.return_state else len(names) - len(states)
    assert len(returned) == expected, f"call {call} returned {len(returned)} arrays, expected {expected} of {names}"
    return dict(zip(names, returned, strict=False))


def forward(case: Case, **changes: Any) -> dict[str, Any]:
    """Everything that all calls of the case return, by name."""
    layer = make_layer(case, **changes)
    return {name: array for call in range(case.calls) for name, array in run(case, layer, call).items()}


def has_gradients(case: Case) -> bool:
    """Whether the case's layer can answer for its gradients yet."""
    cls = getattr(fastlstm, case.layer, None)
    return hasattr(cls, "vjp") and (case.bidirectional is None or hasattr(fastlstm.Bidirectional, "vjp"))


def gradients(case: Case, **changes: Any) -> dict[str, Any]:
    """Gradients of the last call, by name, through ``layer.vjp`` (inference: the cases with dropout are not trained)."""
    layer, last = make_layer(case, **changes), case.calls - 1
    for call in range(last):
        run(case, layer, call)
    if last in case.resets:
        layer.reset_state()
    x, keywords = call_arguments(case, last)
    _, pullback = layer.vjp(x, **keywords, training=False)
    cotangents = case.numbered("R")
    answer = pullback(cotangents[0] if len(cotangents) == 1 else tuple(cotangents))
    named = {"gx": answer.inputs}
    if case.numbered("init"):
        named |= {f"ginit{k}": value for k, value in enumerate(answer.initial_state)}
    return named | {f"gw{k}": value for k, value in enumerate(answer.weights)}


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """max |a - b| / max(1, |b|)."""
    return float(np.max(np.abs(a.astype("f8") - b) / np.maximum(1.0, np.abs(b)), initial=0.0))


def mismatches(case: Case, got: dict[str, Any], tolerance: dict[str, float]) -> list[str]:
    """What is wrong with the named arrays ``got``, in words; empty where type, dtype, shape and values are right."""
    wrong = []
    for name, array in got.items():
        expected = case.arrays[name]
        if not isinstance(array, np.ndarray) or array.dtype != case.dtype or array.shape != expected.shape:
            kind = getattr(array, "dtype", type(array).__name__)
            wrong.append(f"{name}: {kind} {np.shape(array)}, expected {case.dtype} {expected.shape}")
        elif not np.isfinite(array).all():
            wrong.append(f"{name}: not finite")
        elif (error := distance(array, expected)) > tolerance[case.dtype]:
            wrong.append(f"{name}: off by {error:.2e}, allowed {tolerance[case.dtype]:.0e}")
    return wrong
