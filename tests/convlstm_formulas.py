"""A ConvLSTM1D in float64, one sample, step, row and tap at a time: the truth that test_convlstm1d_* compare with; their layers.

``run`` is written from the formulas (keras-spec 4.1, 4.2 and 6) and shares nothing with the package.
"""

from __future__ import annotations

import numpy as np
from lstm_formulas import sigmoid

from fastlstm import ConvLSTM1D

N, T, R, C, F, K = 3, 6, 7, 2, 3, 3
MASK = np.array([[1, 1, 1, 1, 1, 1], [0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0]], bool)
FLOAT32 = {"rtol": 0, "atol": 2e-6}
FLOAT64 = {"rtol": 0, "atol": 1e-13}


def convolve(x, kernel, stride=1, dilation=1, padding="same"):
    """[S,n] from rows x [R,C] and kernel [K,C,n]: the kernel is not turned round, an odd row of zeros goes to the right."""
    rows, taps = len(x), len(kernel)
    reach = (taps - 1) * dilation + 1
    if padding == "same":
        count = -(-rows // stride)
        left = max((count - 1) * stride + reach - rows, 0) // 2
    else:
        count, left = (rows - reach) // stride + 1, 0
    z = np.zeros((count, kernel.shape[2]))
    for s in range(count):
        for k in range(taps):
            row = s * stride + k * dilation - left
            if 0 <= row < rows:
                z[s] += x[row] @ kernel[k]
    return z


def run(
    x,
    weights,
    h=None,
    c=None,
    mask=None,
    go_backwards=False,
    zero_output_for_mask=False,
    activation=np.tanh,
    recurrent_activation=sigmoid,
    strides=1,
    dilation_rate=1,
    padding="valid",
    channels_first=False,
    input_scales=None,
    recurrent_scales=None,
    rounded=lambda a: a,
):
    """(all outputs [N,T,S,F] in processing order, last output [N,S,F], h, c [N,S,F]); channels first the last two axes swapped.

    ``activation`` and ``recurrent_activation`` get a sample's gate as it lies in memory: [S,F], channels first [F,S]. The
    ``*_scales`` are dropout masks of the four gates, [4][N,R,C] and [4][N,S,F]. ``rounded`` is applied to c and to h.
    """

    def turned(a):
        return np.asarray(a, np.float64).swapaxes(-1, -2) if channels_first else np.asarray(a, np.float64)

    def on_gate(function, z):
        return turned(function(turned(z)))

    kernel, recurrent, *rest = (np.asarray(w, np.float64) for w in weights)
    x, filters = turned(x), recurrent.shape[1]
    bias = rest[0] if rest else np.zeros(4 * filters)
    rows = len(convolve(x[0, 0], kernel, strides, dilation_rate, padding))
    shape = (len(x), rows, filters)
    outputs, last = np.zeros((len(x), x.shape[1], rows, filters)), np.zeros(shape)
    final_h, final_c = (np.zeros(shape) if state is None else turned(state).copy() for state in (h, c))
    for n in range(len(x)):
        for step in range(x.shape[1]):
            t = x.shape[1] - 1 - step if go_backwards else step
            if mask is not None and not mask[n, t]:
                if zero_output_for_mask:
                    last[n] = 0
                outputs[n, step] = last[n]
                continue
            gates = []
            for k in range(4):
                block = slice(k * filters, (k + 1) * filters)
                seen = x[n, t] * (1 if input_scales is None else turned(input_scales[k][n]))
                felt = final_h[n] * (1 if recurrent_scales is None else turned(recurrent_scales[k][n]))
                z = convolve(seen, kernel[..., block], strides, dilation_rate, padding)
                gates.append(z + convolve(felt, recurrent[..., block]) + bias[block])
            i, f, o = (on_gate(recurrent_activation, gates[k]) for k in (0, 1, 3))
            final_c[n] = rounded(f * final_c[n] + i * on_gate(activation, gates[2]))
            final_h[n] = rounded(o * on_gate(activation, final_c[n]))
            outputs[n, step] = last[n] = final_h[n]
    return turned(outputs), turned(last), turned(final_h), turned(final_c)


def weights_for(taps=K, channels=C, filters=F, scale=0.6, seed=1):
    rng = np.random.default_rng(seed)
    shapes = (taps, channels, 4 * filters), (taps, filters, 4 * filters), (4 * filters,)
    return [(rng.standard_normal(shape) * scale).astype(np.float32) for shape in shapes]


def geometry(rows=R, batch=None, channels=C, channels_first=False):
    """The shape of an input, without its number of steps."""
    return (batch, None, channels, rows) if channels_first else (batch, None, rows, channels)


def made(weights=None, batch=N, rows=R, **kwargs):
    """A built layer with given weights for inputs of ``rows`` rows; ``batch`` counts for a stateful one."""
    weights = weights or weights_for()
    taps, channels = weights[0].shape[:2]
    layer = ConvLSTM1D(weights[1].shape[1], taps, use_bias=len(weights) == 3, **kwargs)
    layer.build(geometry(rows, batch, channels, layer.data_format == "channels_first"))
    layer.set_weights(weights)
    return layer
