"""ONNX's LSTM step by step in NumPy: what the kernels do not have (peepholes, clip, input_forget, functions of ONNX alone).

The equations stand in the standard's text of the operator LSTM. Gates in ONNX's order i, o, f, c.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .lstm_activations import Activation


class Direction(NamedTuple):
    """One direction: kernel [I,4U], recurrent_kernel [U,4U], bias [4U], peepholes [3U] (i, o, f) or None, and its functions."""

    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray
    peepholes: np.ndarray | None
    activations: tuple[Activation, Activation, Activation]
    clip: float
    input_forget: bool
    reverse: bool


def run_steps(
    direction: Direction, x: np.ndarray, h: np.ndarray, c: np.ndarray, valid: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x [N,T,I], h and c [N,U], valid [N,T] or None -> y [N,T,U] in the order of time, and the last h and c.

    A step that is not valid leaves h and c as they are; its output is zero.
    """
    steps = range(x.shape[1])
    y = np.zeros((len(x), x.shape[1], h.shape[1]), x.dtype)
    for t in reversed(steps) if direction.reverse else steps:
        new_h, new_c = _step(direction, x[:, t], h, c)
        if valid is None:
            h, c = new_h, new_c
            y[:, t] = h
        else:
            counts = valid[:, t, None]
            h, c = np.where(counts, new_h, h), np.where(counts, new_c, c)
            y[:, t] = np.where(counts, new_h, np.zeros((), x.dtype))
    return y, h, c


def _step(direction: Direction, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    f_act, g_act, h_act = direction.activations
    i, o, f, candidate = np.split(x @ direction.kernel + h @ direction.recurrent_kernel + direction.bias, 4, axis=1)
    p_i, p_o, p_f = (None, None, None) if direction.peepholes is None else np.split(direction.peepholes, 3)
    i = f_act(_clipped(direction, i if p_i is None else i + p_i * c))
    f = 1 - i if direction.input_forget else f_act(_clipped(direction, f if p_f is None else f + p_f * c))
    c = f * c + i * g_act(_clipped(direction, candidate))
    o = f_act(_clipped(direction, o if p_o is None else o + p_o * c))
    return o * h_act(c), c


def _clipped(direction: Direction, z: np.ndarray) -> np.ndarray:
    """The input of a gate's function within [-clip, clip]. The state is not clipped on its way out, as in onnxruntime."""
    return z if direction.clip <= 0 else np.clip(z, -direction.clip, direction.clip).astype(z.dtype, copy=False)
