"""An LSTM in float64, one sample and one step at a time: the truth that the tests of the layers compare with.

Written from the formulas (keras-spec 2 and 6) and sharing nothing with the package. Used by test_lstm_* and test_threads.
"""

from __future__ import annotations

import numpy as np


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


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
    input_scales=None,
    recurrent_scales=None,
    rounded=lambda a: a,
):
    """(all outputs [N,T,U] in processing order, last output [N,U], h [N,U], c [N,U]).

    ``input_scales`` and ``recurrent_scales``: dropout masks of the four gates, [4][N,D] and [4][N,U]. ``rounded`` is applied
    to c and to h at every step.
    """
    kernel, recurrent, *rest = (np.asarray(w, np.float64) for w in weights)
    count, steps, units = len(x), x.shape[1], recurrent.shape[0]
    bias = rest[0] if rest else np.zeros(4 * units)
    outputs, last = np.zeros((count, steps, units)), np.zeros((count, units))
    final_h = np.array(h, np.float64) if h is not None else np.zeros((count, units))
    final_c = np.array(c, np.float64) if c is not None else np.zeros((count, units))
    for n in range(count):
        for step in range(steps):
            t = steps - 1 - step if go_backwards else step
            if mask is not None and not mask[n, t]:
                if zero_output_for_mask:
                    last[n] = 0
                outputs[n, step] = last[n]
                continue
            gates = []
            for k in range(4):
                block = slice(k * units, (k + 1) * units)
                seen = x[n, t].astype(np.float64) * (1 if input_scales is None else input_scales[k][n])
                felt = final_h[n] * (1 if recurrent_scales is None else recurrent_scales[k][n])
                gates.append(seen @ kernel[:, block] + felt @ recurrent[:, block] + bias[block])
            i, f, o = (recurrent_activation(gates[k]) for k in (0, 1, 3))
            final_c[n] = rounded(f * final_c[n] + i * activation(gates[2]))
            final_h[n] = rounded(o * activation(final_c[n]))
            outputs[n, step] = last[n] = final_h[n]
    return outputs, last, final_h, final_c
