"""The reference backend: LSTM in plain NumPy. The executable specification that every other backend is compared with.

It is slow and obvious on purpose. Verbs as in ``backends/__init__``; shapes: x [N,T,D], kernel [D,4U], recurrent_kernel
[U,4U], bias [4U], h and c [N,U], mask [N,T] bool. Gates stand in Keras order i, f, c, o. Source: keras-spec 2, 5, 6, 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..dtypes import as_dtype
from ..spec import RecurrentSpec

name = "reference"


class Weights(NamedTuple):
    """kernel [D,4U], recurrent_kernel [U,4U], bias [4U] or None, in the arithmetic dtype."""

    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray | None


class DropoutMasks(NamedTuple):
    """Scales of one call: ``inputs`` 0, 1 or 4 arrays [N,D], ``recurrent`` 0 or 4 arrays [N,U] (gate order i, f, c, o)."""

    inputs: Sequence[np.ndarray] = ()
    recurrent: Sequence[np.ndarray] = ()


def prepare(weights: Sequence[np.ndarray]) -> Weights:
    """The weights as this backend wants them: as they are."""
    return Weights(weights[0], weights[1], weights[2] if len(weights) > 2 else None)


def lstm_forward(
    spec: RecurrentSpec,
    weights: Weights,
    x: np.ndarray,
    h: np.ndarray,
    c: np.ndarray,
    mask: np.ndarray | None = None,
    dropout: DropoutMasks | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All time steps.

    Args: ``x`` [N,T,D], ``h`` and ``c`` [N,U] (initial state), ``mask`` [N,T] or None, all in the arithmetic dtype.
    Returns ``(y, h, c)``: y [N,T,U] in processing order with return_sequences, else the last output [N,U]; the final states.
    """
    steps = range(x.shape[1])
    outputs = []
    output = np.zeros_like(h)
    for t in reversed(steps) if spec.go_backwards else steps:
        new_h, new_c = lstm_step(spec, weights, x[:, t], h, c, dropout or DropoutMasks())
        if mask is None:
            output, h, c = new_h, new_h, new_c
        else:
            valid = mask[:, t, None]
            otherwise = np.zeros_like(h) if spec.zero_output_for_mask else output
            output, h, c = np.where(valid, new_h, otherwise), np.where(valid, new_h, h), np.where(valid, new_c, c)
        outputs.append(output)
    return np.stack(outputs, axis=1) if spec.return_sequences else output.copy(), h, c


def lstm_step(
    spec: RecurrentSpec, weights: Weights, x: np.ndarray, h: np.ndarray, c: np.ndarray, dropout: DropoutMasks
) -> tuple[np.ndarray, np.ndarray]:
    """One step: x [N,D], h and c [N,U] -> new h and c."""
    x_i, x_f, x_c, x_o = _project(x, weights.kernel, dropout.inputs)
    h_i, h_f, h_c, h_o = _project(h, weights.recurrent_kernel, dropout.recurrent)
    b_i, b_f, b_c, b_o = (0, 0, 0, 0) if weights.bias is None else np.split(weights.bias, 4)
    with np.errstate(all="ignore"):  # overflow and NaN propagate silently, as in every other backend
        i = spec.recurrent_activation(x_i + h_i + b_i)
        f = spec.recurrent_activation(x_f + h_f + b_f)
        o = spec.recurrent_activation(x_o + h_o + b_o)
        new_c = _round(spec, f * c + i * spec.activation(x_c + h_c + b_c))
        new_h = _round(spec, o * spec.activation(new_c))
    return new_h, new_c


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
