"""Training on the CPU backend: recorded forward passes and their gradients, through ``fastlstm._core``.

Used by ``cpu`` alone. The tape holds 6 numbers per sample, step and unit: four gates (the gate's value where its derivative is a
function of it, else the pre-activation), c and h; and copies of x and the mask. What the compiled backward cannot do (activations
over an axis, Python callables) is recorded and run by ``reference``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import _core
from ..spec import ConvLSTM1DSpec, RecurrentSpec
from . import reference


class CpuTape(NamedTuple):
    """A compiled tape, the transposed weights of its forward, the input's dropout scale [N,D] or None, the data format."""

    core: Any
    panels: Any
    scale: np.ndarray | None
    channels_first: bool


class ReferenceTape(NamedTuple):
    """A tape of the reference backend and the weights of its forward."""

    tape: Any
    weights: Any


def plain_weights(weights: Any) -> reference.Weights:
    """The unpacked weights, as the reference backend takes them."""
    return reference.Weights(weights.kernel, weights.recurrent_kernel, weights.bias)


def has_separate_masks(dropout: Any) -> bool:
    """True where the gates have dropout masks of their own."""
    return dropout is not None and (len(dropout.inputs) > 1 or len(dropout.recurrent) > 0)


def scaled(x: np.ndarray, dropout: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """x [N,T,…] with the one input mask of the call applied at every step, and that mask [N,…]."""
    if dropout is None or not dropout.inputs:
        return x, None
    scale = dropout.inputs[0]
    return np.ascontiguousarray(x * scale[:, None]), scale


def stacked(masks: Any) -> np.ndarray | None:
    """The four masks of the gates in one array [4,N,…], or None without masks; one mask serves all four."""
    if not masks:
        return None
    return np.ascontiguousarray(np.stack(list(masks) if len(masks) == 4 else [masks[0]] * 4))


def swapped(a: np.ndarray) -> np.ndarray:
    """The last two axes swapped, contiguous: channels first <-> channels last."""
    return np.ascontiguousarray(a.swapaxes(-1, -2))


def record(
    spec: RecurrentSpec, weights: Any, arrays: tuple, mask: Any, dropout: Any, numbers: tuple[int, int], rounding: int, path: str
) -> tuple[Any, ...]:
    """A recorded forward of x, h, c (``arrays``): (y, h, c, CpuTape)."""
    x, h, c = arrays
    scale, x_scales, h_scales = None, None, None
    if has_separate_masks(dropout):
        x_scales, h_scales = stacked(dropout.inputs), stacked(dropout.recurrent)
    else:
        x, scale = scaled(x, dropout)
    rows, stride, first = None, 1, False
    if isinstance(spec, ConvLSTM1DSpec):
        first = spec.channels_first
        if first:
            x, h, c = swapped(x), swapped(h), swapped(c)
            x_scales, h_scales = (None if a is None else swapped(a) for a in (x_scales, h_scales))
        rows, stride = tuple(spec.rows(x.shape[2])[1:]), spec.strides
    flags = (spec.go_backwards, spec.return_sequences, spec.zero_output_for_mask)
    scales = x_scales, h_scales
    *outputs, core = _core.record_forward(weights, x, h, c, mask, rows, *numbers, rounding, *flags, path, *scales)
    if first:
        outputs = [swapped(a) for a in outputs]
    panels = weights.backward_panels(stride, x_scales is not None, h_scales is not None)
    return (*outputs, CpuTape(core, panels, scale, first))


def backward(tape: CpuTape, dy: Any, dh: Any, dc: Any) -> tuple[Any, ...]:
    """(dx, dh0, dc0, [dkernel, drecurrent_kernel, dbias]) of a recorded forward; None cotangents stand for zeros."""
    dy, dh, dc = (None if a is None else swapped(a) if tape.channels_first else np.ascontiguousarray(a) for a in (dy, dh, dc))
    dx, dh0, dc0, *weights = _core.run_backward(tape.core, tape.panels, dy, dh, dc, True)
    if tape.channels_first:
        dx, dh0, dc0 = swapped(dx), swapped(dh0), swapped(dc0)
    if tape.scale is not None:
        dx *= tape.scale[:, None]
    return dx, dh0, dc0, [w for w in weights if w is not None]
