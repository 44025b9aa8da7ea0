"""An LSTM in float64, one sample and one step at a time: the truth that the tests of the layers compare with; and their layers.

``run`` is written from the formulas (keras-spec 2 and 6) and shares nothing with the package. Used by test_lstm_*, test_selector
and test_threads.
"""

from __future__ import annotations

import numpy as np

from fastlstm import LSTM

N, T, D, U = 3, 6, 4, 5
MASK = np.array([[1, 1, 1, 1, 1, 1], [0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0]], bool)
FLOAT32 = {"rtol": 0, "atol": 2e-6}
FLOAT64 = {"rtol": 0, "atol": 1e-13}


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


def weights_for(features=D, units=U, scale=0.7, seed=1):
    rng = np.random.default_rng(seed)
    shapes = (features, 4 * units), (units, 4 * units), (4 * units,)
    return [(rng.standard_normal(shape) * scale).astype(np.float32) for shape in shapes]


def made(weights=None, batch=N, **kwargs):
    """A built layer with given weights; ``batch`` counts for a stateful one."""
    weights = weights or weights_for()
    layer = LSTM(weights[1].shape[0], use_bias=len(weights) == 3, **kwargs)
    layer.build((batch, None, weights[0].shape[0]))
    layer.set_weights(weights)
    return layer


def twice(layer, *args, **kwargs):
    """The result of a call, after checking that a second call gives the same bits in other arrays."""
    first, second = layer(*args, **kwargs), layer(*args, **kwargs)
    for a, b in zip(*[r if isinstance(r, tuple) else (r,) for r in (first, second)], strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
        assert not np.shares_memory(a, b)
    return first
