"""Exact gradients of the reference backend: LSTM and ConvLSTM1D backwards through time, in plain NumPy.

In terms of the tape that ``reference`` records and of ``activations.vjp``. What the forward selects away has no gradient: inputs
of masked steps get exactly 0, even where they hold NaN. Rounding to 16 bits counts as the identity.
Source: keras-spec 2, 4, 6, 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .. import activations
from ..devices import module_of
from ..spec import ConvLSTM1DSpec, ConvRows, RecurrentSpec, conv_rows
from .records import Step, Tape, Weights

# (x, h, gradients of the four pre-activations) -> (dx, dh, [dkernel, drecurrent_kernel, dbias]) of one step
Products = Callable[[np.ndarray, np.ndarray, list[np.ndarray]], tuple[np.ndarray, np.ndarray, list[np.ndarray]]]
BackwardResult = tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]


def lstm_backward(
    spec: RecurrentSpec,
    weights: Weights,
    tape: Tape,
    dy: np.ndarray | None,
    dh: np.ndarray | None,
    dc: np.ndarray | None,
) -> BackwardResult:
    """Gradients of a recorded ``lstm_forward`` for the cotangents of what it returned.

    Args: ``dy`` [N,T,U] in processing order with return_sequences, else [N,U]; ``dh`` and ``dc`` [N,U] of the final states; None
    stands for zeros. ``weights``: those of the forward. All in the arithmetic dtype.
    Returns ``(dx [N,T,D], dh0 [N,U], dc0 [N,U], [dkernel, drecurrent_kernel, dbias])``, without dbias where there is no bias.
    """

    def products(x: np.ndarray, h: np.ndarray, dz: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        dx, dkernel = _project_backward(x, weights.kernel, tape.scales.inputs, dz)
        dh, drecurrent = _project_backward(h, weights.recurrent_kernel, tape.scales.recurrent, dz)
        return dx, dh, [dkernel, drecurrent, np.concatenate([d.sum(axis=0) for d in dz])]

    return _time_loop_backward(spec, weights, tape, products, dy, dh, dc)


def convlstm1d_backward(
    spec: ConvLSTM1DSpec,
    weights: Weights,
    tape: Tape,
    dy: np.ndarray | None,
    dh: np.ndarray | None,
    dc: np.ndarray | None,
) -> BackwardResult:
    """Gradients of a recorded ``convlstm1d_forward``: as ``lstm_backward``, in the shapes of that forward.

    Channels last: ``dy`` [N,T,S,F] or [N,S,F], ``dh`` and ``dc`` [N,S,F], dx [N,T,R,C]; channels first: last two axes swapped.
    """
    first = spec.channels_first
    outer = spec.rows(tape.steps[0].x.shape[2 if first else 1])
    inner = conv_rows(outer.rows_out, spec.kernel_size, 1, 1, "same")
    swap = (lambda a: a.swapaxes(1, 2)) if first else (lambda a: a)

    def convolve_backward(
        a: np.ndarray, kernel: np.ndarray, rows: ConvRows, scales: Sequence[np.ndarray], dz: list[np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        da, blocks = np.zeros_like(a), []
        for k, (block, d) in enumerate(zip(np.split(kernel, 4, axis=-1), dz, strict=True)):
            scale = scales[k] if scales else 1
            part, dblock = _convolution_backward(swap(a * scale), block, rows, swap(d))
            da += swap(part) * scale
            blocks.append(dblock)
        return da, np.concatenate(blocks, axis=-1)

    def products(x: np.ndarray, h: np.ndarray, dz: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        dx, dkernel = convolve_backward(x, weights.kernel, outer, tape.scales.inputs, dz)
        dh, drecurrent = convolve_backward(h, weights.recurrent_kernel, inner, tape.scales.recurrent, dz)
        return dx, dh, [dkernel, drecurrent, np.concatenate([swap(d).sum(axis=(0, 1)) for d in dz])]

    return _time_loop_backward(spec, weights, tape, products, dy, dh, dc)


def _time_loop_backward(
    spec: RecurrentSpec,
    weights: Weights,
    tape: Tape,
    products: Products,
    dy: np.ndarray | None,
    dh: np.ndarray | None,
    dc: np.ndarray | None,
) -> BackwardResult:
    """The recorded steps from the last to the first.

    ``dh`` and ``dc`` are the cotangents of the states after a step, ``doutput`` that of its output. The output of a masked step
    is the output before it, zeros at the very beginning and zeros throughout with zero_output_for_mask: that is where its
    cotangent goes (keras-spec 6.2, 6.4).
    """
    zeros = np.zeros_like(tape.steps[0].h)
    dh, dc = (zeros if d is None else d for d in (dh, dc))
    doutput = zeros if dy is None or spec.return_sequences else dy
    dxs: list[np.ndarray] = []
    gradients = [np.zeros_like(w) for w in weights if w is not None]
    with np.errstate(all="ignore"):  # overflow and NaN propagate silently, as in the forward
        for position in range(len(tape.steps) - 1, -1, -1):
            step = tape.steps[position]
            if spec.return_sequences and dy is not None:
                doutput = doutput + dy[:, position]
            dz, dc_before = _cell_backward(spec, step, _valid(step, doutput + dh), dc)
            dx, dh_before, dweights = products(_valid(step, step.x), _valid(step, step.h), dz)
            dxs.append(_valid(step, dx))
            dh, dc = (_valid(step, before, after) for before, after in ((dh_before, dh), (dc_before, dc)))
            doutput = zeros if step.valid is None or spec.zero_output_for_mask else np.where(step.valid, zeros, doutput)
            for total, dweight in zip(gradients, dweights[: len(gradients)], strict=True):
                total += dweight
    return np.stack(dxs if spec.go_backwards else dxs[::-1], axis=1), dh, dc, gradients


def _valid(step: Step, a: np.ndarray, otherwise: np.ndarray | None = None) -> np.ndarray:
    """``a`` for the samples that the step counts for, ``otherwise`` (None: zeros) for the masked ones."""
    return a if step.valid is None else np.where(step.valid, a, a.dtype.type(0) if otherwise is None else otherwise)


def _cell_backward(spec: RecurrentSpec, step: Step, dh: np.ndarray, dc: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Cotangents of the new h and c -> those of the four pre-activations, 0 at masked samples, and of the old c."""
    activation, recurrent_activation = activations.vjp(spec.activation), activations.vjp(spec.recurrent_activation)
    cell, gates = step.cell, step.gates
    dc = dc + activation(cell.c, cell.squashed, dh * cell.o)
    dz = [
        recurrent_activation(gates[0], cell.i, dc * cell.candidate),
        recurrent_activation(gates[1], cell.f, dc * step.c),
        activation(gates[2], cell.candidate, dc * cell.i),
        recurrent_activation(gates[3], cell.o, dh * cell.squashed),
    ]
    return [_valid(step, d) for d in dz], dc * cell.f


def _project_backward(
    a: np.ndarray, kernel: np.ndarray, scales: Sequence[np.ndarray], dz: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Of the four gate blocks of a @ kernel, ``a`` scaled for each gate or for all: gradients of a [N,P] and of kernel [P,4U]."""
    if len(scales) == 4:
        blocks = list(zip(scales, np.split(kernel, 4, axis=1), dz, strict=True))
        da = sum((scale * (d @ block.T) for scale, block, d in blocks), a.dtype.type(0))
        return da, np.concatenate([(a * scale).T @ d for scale, _, d in blocks], axis=1)
    together, scale = np.concatenate(dz, axis=1), scales[0] if scales else 1
    return scale * (together @ kernel.T), (a * scale).T @ together


def _convolution_backward(a: np.ndarray, kernel: np.ndarray, rows: ConvRows, dz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a cross-correlation of a [N,R,C] with kernel [K,C,F], dz [N,S,F]: gradients of a and of kernel, tap after tap."""
    own = slice(rows.pad_left, rows.pad_left + rows.rows_in)
    padded = module_of(a).zeros((len(a), rows.padded_rows, a.shape[2]), a.dtype)
    padded[:, own] = a
    dpadded, dkernel = np.zeros_like(padded), np.zeros_like(kernel)
    reach = (rows.rows_out - 1) * rows.stride + 1
    for k, block in enumerate(kernel):
        window = slice(k * rows.dilation, k * rows.dilation + reach, rows.stride)
        dpadded[:, window] += dz @ block.T
        dkernel[k] = np.tensordot(padded[:, window], dz, axes=((0, 1), (0, 1)))
    return dpadded[:, own], dkernel
