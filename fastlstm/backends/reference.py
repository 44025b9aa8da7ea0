"""The reference backend: LSTM and ConvLSTM1D in plain NumPy. The specification that every other backend is compared with.

It is slow and obvious on purpose. Verbs as in ``backends/__init__``; shapes: x [N,T,D], kernel [D,4U], recurrent_kernel
[U,4U], bias [4U], h and c [N,U], mask [N,T] bool. Gates stand in Keras order i, f, c, o. Source: keras-spec 2, 5, 6, 8.
Its gradients stand in ``reference_backward``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import activations
from ..dtypes import as_dtype
from ..spec import ConvLSTM1DSpec, ConvRows, RecurrentSpec, conv_rows
from .records import Cell, DropoutMasks, Step, Tape, Weights
from .reference_backward import convlstm1d_backward, lstm_backward

__all__ = [
    "DropoutMasks",
    "Weights",
    "activate",
    "affine",
    "conv1d",
    "convlstm1d_backward",
    "convlstm1d_forward",
    "lstm_backward",
    "lstm_forward",
    "prepare",
    "prepare_matrix",
]

name = "reference"


def prepare(weights: Sequence[np.ndarray], last: Any = None) -> Weights:
    """The weights as this backend wants them: as they are. ``last``: what the layer's earlier weights became; of no use here."""
    return Weights(weights[0], weights[1], weights[2] if len(weights) > 2 else None)


def lstm_forward(
    spec: RecurrentSpec,
    weights: Weights,
    x: np.ndarray,
    h: np.ndarray,
    c: np.ndarray,
    mask: np.ndarray | None = None,
    dropout: DropoutMasks | None = None,
    record: bool = False,
) -> tuple[Any, ...]:
    """All time steps of an LSTM.

    Args: ``x`` [N,T,D], ``h`` and ``c`` [N,U] (initial state), ``mask`` [N,T] or None, all in the arithmetic dtype.
    Returns ``(y, h, c)``: y [N,T,U] in processing order with return_sequences, else the last output [N,U]; the final states.
    With ``record`` ``(y, h, c, tape)``, the tape for ``lstm_backward``; NotImplementedError then for an activation without a
    derivative, ValueError for one that changes the shape.
    """
    scales = dropout or DropoutMasks()

    def pre_activations(x: np.ndarray, h: np.ndarray) -> list[np.ndarray]:
        x_gates = _project(x, weights.kernel, scales.inputs)
        h_gates = _project(h, weights.recurrent_kernel, scales.recurrent)
        return _sum_gates(x_gates, h_gates, weights.bias)

    steps: list[Step] | None = [] if record else None
    outputs = _time_loop(spec, pre_activations, x, h, c, mask, steps)
    return outputs if steps is None else (*outputs, Tape(steps, scales))


def convlstm1d_forward(
    spec: ConvLSTM1DSpec,
    weights: Weights,
    x: np.ndarray,
    h: np.ndarray,
    c: np.ndarray,
    mask: np.ndarray | None = None,
    dropout: DropoutMasks | None = None,
    record: bool = False,
) -> tuple[Any, ...]:
    """All time steps of a ConvLSTM1D (keras-spec 4.2): kernel [K,C,4F], recurrent_kernel [K,F,4F].

    Channels last: ``x`` [N,T,R,C], ``h`` and ``c`` [N,S,F], y [N,T,S,F] or [N,S,F]; channels first: the last two axes swapped in
    all of them. Otherwise as ``lstm_forward``.
    """
    scales = dropout or DropoutMasks()
    outer = spec.rows(x.shape[-1] if spec.channels_first else x.shape[-2])
    inner = conv_rows(outer.rows_out, spec.kernel_size, 1, 1, "same")
    swap = (lambda a: a.swapaxes(1, 2)) if spec.channels_first else (lambda a: a)

    def convolve(a: np.ndarray, kernel: np.ndarray, rows: ConvRows, scales: Sequence[np.ndarray]) -> list[np.ndarray]:
        blocks = np.split(kernel, 4, axis=-1)
        scaled = [a * scale for scale in scales] if len(scales) == 4 else [a] * 4
        return [swap(_convolution(swap(a), block, rows)) for a, block in zip(scaled, blocks, strict=True)]

    def pre_activations(x: np.ndarray, h: np.ndarray) -> list[np.ndarray]:
        x_gates = convolve(x, weights.kernel, outer, scales.inputs)
        h_gates = convolve(h, weights.recurrent_kernel, inner, scales.recurrent)
        bias = weights.bias
        if bias is not None and spec.channels_first:
            bias = bias[:, None]
        return _sum_gates(x_gates, h_gates, bias)

    steps: list[Step] | None = [] if record else None
    outputs = _time_loop(spec, pre_activations, x, h, c, mask, steps)
    return outputs if steps is None else (*outputs, Tape(steps, scales))


def _convolution(a: np.ndarray, kernel: np.ndarray, rows: ConvRows) -> np.ndarray:
    """Cross-correlation of a [N,R,C] with kernel [K,C,F] -> [N,S,F], one tap after the other."""
    padded = np.pad(a, ((0, 0), (rows.pad_left, rows.padded_rows - rows.rows_in - rows.pad_left), (0, 0)))
    reach = (rows.rows_out - 1) * rows.stride + 1
    taps = (padded[:, k * rows.dilation : k * rows.dilation + reach : rows.stride] @ block for k, block in enumerate(kernel))
    with np.errstate(all="ignore"):
        return sum(taps, a.dtype.type(0))


def _time_loop(
    spec: RecurrentSpec,
    pre_activations: Callable[[np.ndarray, np.ndarray], list[np.ndarray]],
    x: np.ndarray,
    h: np.ndarray,
    c: np.ndarray,
    mask: np.ndarray | None,
    record: list[Step] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs over axis 1 of x: state carry, masks, outputs (keras-spec 6). ``record``: takes the steps, or None."""
    if record is not None:
        for activation in (spec.activation, spec.recurrent_activation):
            activations.vjp(activation)  # NotImplementedError for one that only its caller knows
        x, h, c = x.copy(), h.copy(), c.copy()  # the caller may write into what it gave
    steps = range(x.shape[1])
    outputs = []
    output = np.zeros_like(h)
    for t in reversed(steps) if spec.go_backwards else steps:
        gates = pre_activations(x[:, t], h)
        cell = _cell(spec, gates, c)
        valid = None if mask is None else mask[:, t].reshape(-1, *[1] * (h.ndim - 1))
        if record is not None:
            record.append(Step(x[:, t], h, c, gates, cell, valid))
        if valid is None:
            output, h, c = cell.h, cell.h, cell.c
        else:
            otherwise = np.zeros_like(h) if spec.zero_output_for_mask else output
            output, h, c = np.where(valid, cell.h, otherwise), np.where(valid, cell.h, h), np.where(valid, cell.c, c)
        outputs.append(output)
    y = np.stack(outputs, axis=1) if spec.return_sequences else output.copy()
    return y, h, c if record is None else c.copy()  # the tape keeps c, and the caller may write into what it got


def _cell(spec: RecurrentSpec, gates: list[np.ndarray], c: np.ndarray) -> Cell:
    """The cell: pre-activations of i, f, c, o and the old c -> new h and c."""
    with np.errstate(all="ignore"):  # overflow and NaN propagate silently, as in every other backend
        i, f, o = (_activated(spec.recurrent_activation, gates[k]) for k in (0, 1, 3))
        candidate = _activated(spec.activation, gates[2])
        new_c = _round(spec, f * c + i * candidate)
        squashed = _activated(spec.activation, new_c)
        return Cell(i, f, candidate, o, new_c, squashed, _round(spec, o * squashed))


def _activated(activation: Callable, z: np.ndarray) -> np.ndarray:
    """activation(z). ValueError where it changes the shape, as glu does and a caller's own function may."""
    a = activation(z)
    if np.shape(a) != z.shape:
        name = activations.name_of(activation) or getattr(activation, "__name__", repr(activation))
        raise ValueError(f"The activation {name!r} must keep the shape: it makes {np.shape(a)} of a gate of shape {z.shape}")
    return a


def _sum_gates(x_gates: list[np.ndarray], h_gates: list[np.ndarray], bias: np.ndarray | None) -> list[np.ndarray]:
    """x + h + bias, gate by gate; ``bias`` [4U] or [4F,1]."""
    with np.errstate(all="ignore"):
        sums = [x + h for x, h in zip(x_gates, h_gates, strict=True)]
        return sums if bias is None else [z + b for z, b in zip(sums, np.split(bias, 4), strict=True)]


def _project(a: np.ndarray, kernel: np.ndarray, scales: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The four gate blocks of a @ kernel; each with its own scaled copy of ``a`` where there are four scales."""
    with np.errstate(all="ignore"):
        if len(scales) == 4:
            return [(a * scale) @ block for scale, block in zip(scales, np.split(kernel, 4, axis=1), strict=True)]
        return np.split((a * scales[0] if scales else a) @ kernel, 4, axis=1)


def _round(spec: RecurrentSpec, a: np.ndarray) -> np.ndarray:
    """``a`` rounded to 16 bits where the policy says so, in the arithmetic dtype."""
    return a.astype(as_dtype(spec.storage)).astype(a.dtype) if spec.rounds else a


def prepare_matrix(matrix: np.ndarray, bias: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """A matrix [K,n] and a bias [n] (or None) as ``affine`` wants them."""
    return matrix, bias


def affine(prepared: Any, x: np.ndarray) -> np.ndarray:
    """x [M,K] @ matrix + bias -> a new array [M,n]."""
    matrix, bias = prepared
    with np.errstate(all="ignore"):
        z = x @ matrix
        return z if bias is None else z + bias


def conv1d(prepared: Any, x: np.ndarray, rows: int, taps: int, stride: int, dilation: int) -> np.ndarray:
    """Cross-correlation of x [N,R,C], padded already, with the matrix [taps*C,n] -> [N,rows,n]."""
    columns = [x[:, k * dilation : k * dilation + (rows - 1) * stride + 1 : stride] for k in range(taps)]
    return affine(prepared, np.concatenate(columns, axis=-1))


def activate(activation: Any, x: np.ndarray) -> np.ndarray:
    """An activation applied to an array of the arithmetic dtype (for glue layers); may overwrite ``x``."""
    return activation(x)
