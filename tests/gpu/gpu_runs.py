"""Problems for the GPU backend and their comparison with the NumPy reference in float64; used by the tests of the kernels.

``check(spec, dtype, problem)`` runs forward (recorded, plain, and plain once more: a captured graph is launched again) and
backward.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastlstm import activations
from fastlstm.backends import gpu, reference
from fastlstm.spec import ConvLSTM1DSpec, RecurrentSpec

# Largest |a - b| / max(1, max|b|) to the reference in float64.
FORWARD = {"float32": 5e-6, "float64": 1e-13}
BACKWARD = {"float32": 5e-5, "float64": 1e-12}


class Problem(NamedTuple):
    """Arguments of a forward in float64: the weights, x, h, c, mask and dropout masks, and the seed of the cotangents."""

    weights: list[np.ndarray]
    x: np.ndarray
    h: np.ndarray
    c: np.ndarray
    mask: np.ndarray | None
    dropout: reference.DropoutMasks | None
    seed: int


def lstm_spec(units: int, activation: Any = "tanh", recurrent_activation: Any = "sigmoid", **flags: Any) -> RecurrentSpec:
    return RecurrentSpec(units, activations.get(activation), activations.get(recurrent_activation), **flags)


def conv_spec(filters: int, taps: int, activation: Any = "tanh", recurrent: Any = "sigmoid", **flags: Any) -> ConvLSTM1DSpec:
    return ConvLSTM1DSpec(filters, activations.get(activation), activations.get(recurrent), kernel_size=taps, **flags)


def problem(
    spec: RecurrentSpec,
    count: int,
    steps: int,
    channels: int,
    rows: int = 7,
    masked: bool = False,
    bias: bool = True,
    dropout: tuple[int, int] = (0, 0),
    seed: int = 0,
) -> Problem:
    """Values that float32 holds exactly; ``dropout``: how many masks of the inputs and of h (0, 1, 4 and 0, 4)."""
    conv, units = isinstance(spec, ConvLSTM1DSpec), spec.units
    rng = np.random.default_rng([seed, count, steps, channels, units])

    def draw(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (rng.standard_normal(shape) * scale).astype(np.float32).astype(np.float64)

    taps = (spec.kernel_size,) if isinstance(spec, ConvLSTM1DSpec) else ()
    depth = taps[0] if taps else 1
    weights = [
        draw(*taps, channels, 4 * units, scale=(depth * max(channels, 1)) ** -0.5),
        draw(*taps, units, 4 * units, scale=0.7 * (depth * units) ** -0.5),
        draw(4 * units),
    ]
    inner = (rows,) if conv else ()
    state = (spec.rows(rows).rows_out,) if isinstance(spec, ConvLSTM1DSpec) else ()
    turn = (lambda a: np.ascontiguousarray(a.swapaxes(-1, -2))) if getattr(spec, "channels_first", False) else (lambda a: a)
    scales = [
        [turn(draw(count, *sizes, width)) for _ in range(number)]
        for number, sizes, width in zip(dropout, (inner, state), (channels, units), strict=True)
    ]
    return Problem(
        weights[: 2 + bias],
        turn(draw(count, steps, *inner, channels)),
        turn(draw(count, *state, units)),
        turn(draw(count, *state, units)),
        rng.random((count, steps)) < 0.6 if masked else None,
        reference.DropoutMasks(*scales) if any(dropout) else None,
        seed,
    )


def distance(a: Any, b: np.ndarray) -> float:
    """max |a - b| / max(1, max |b|) of a device array and one of the host; inf where they hold different NaN or shapes."""
    a = a.get()
    if a.shape != b.shape or not np.array_equal(np.isnan(a), np.isnan(b)):
        return np.inf
    return float(np.nanmax(np.abs(a - b), initial=0.0) / max(1.0, np.nanmax(np.abs(b), initial=0.0)))


def on_device(value: Any, dtype: str) -> Any:
    """Arrays in ``value`` as device arrays; floats in ``dtype``."""
    import cupy

    if isinstance(value, np.ndarray):
        return cupy.asarray(value.astype(dtype) if value.dtype.kind == "f" else value)
    if isinstance(value, reference.DropoutMasks):
        return reference.DropoutMasks(*(on_device(part, dtype) for part in value))
    return [on_device(one, dtype) for one in value] if isinstance(value, list) else value


def differences(spec: RecurrentSpec, dtype: str, given: Problem) -> dict[str, float]:
    """Distances of everything that forward and backward return, in units of what is allowed."""
    verb = "convlstm1d" if isinstance(spec, ConvLSTM1DSpec) else "lstm"
    forward, backward = (getattr(gpu, f"{verb}_{way}") for way in ("forward", "backward"))
    weights, *arrays = given[:6]
    plain = reference.prepare(weights)
    *want, tape = getattr(reference, f"{verb}_forward")(spec, plain, *arrays, True)
    prepared, ours = gpu.prepare(on_device(weights, dtype)), [on_device(a, dtype) for a in arrays]
    *got, own_tape = forward(spec, prepared, *ours, True)
    found = {}
    for label, outputs in (
        ("recorded", got),
        ("first", forward(spec, prepared, *ours)),
        ("second", forward(spec, prepared, *ours)),
    ):
        assert all(a.dtype == dtype for a in outputs)
        found |= {f"{label} {name}": distance(a, b) / FORWARD[dtype] for name, a, b in zip("yhc", outputs, want, strict=True)}
    rng = np.random.default_rng(given.seed)
    cotangents = [rng.standard_normal(a.shape).astype(np.float32).astype(np.float64) for a in want]
    *dxs, dweights = getattr(reference, f"{verb}_backward")(spec, plain, tape, *cotangents)
    *own_dxs, own_dweights = backward(spec, prepared, own_tape, *(on_device(a, dtype) for a in cotangents))
    names = ["dx", "dh", "dc", "dkernel", "drecurrent_kernel", "dbias"]
    pairs = zip([*own_dxs, *own_dweights], [*dxs, *dweights], strict=True)
    return found | {name: distance(a, b) / BACKWARD[dtype] for name, (a, b) in zip(names, pairs, strict=False)}


def check(spec: RecurrentSpec, dtype: str, given: Problem) -> None:
    """Forward and backward within the tolerances."""
    wrong = {name: error for name, error in differences(spec, dtype, given).items() if not error <= 1}
    assert not wrong, (spec, wrong)
