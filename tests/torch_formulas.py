"""``torch.nn.LSTM`` in float64, one sample and one step at a time, from the equations in PyTorch's documentation.

Used by test_from_torch, test_from_torch_given and test_torch_lstm as the truth, with the sizes and tolerances that they
share; nothing of the package is in it. ``run`` takes a state dict of PyTorch's names and layouts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data" / "torch"
CLOSE = {"rtol": 0, "atol": 1e-12}
FLOAT32 = {"rtol": 0, "atol": 1e-6}
N, T, D, U = 3, 5, 3, 4
X = np.random.default_rng(1).standard_normal((N, T, D))


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def one_direction(x, weights, h, c, backwards):
    """Outputs [T,F], h [F], c [H] of one sequence x [T,D]; ``weights``: w_ih, w_hh, b_ih, b_hh, w_hr (None where absent)."""
    w_ih, w_hh, b_ih, b_hh, w_hr = (None if w is None else np.asarray(w, np.float64) for w in weights)
    outputs = np.zeros((len(x), len(h)))
    for t in reversed(range(len(x))) if backwards else range(len(x)):
        gates = w_ih @ x[t] + w_hh @ h
        if b_ih is not None:
            gates = gates + b_ih + b_hh
        i, f, g, o = np.split(gates, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        if w_hr is not None:
            h = w_hr @ h
        outputs[t] = h
    return outputs, h, c


def run(state, x, h0=None, c0=None, lengths=None, prefix=""):
    """y [N,T,F], h_n [S,N,F'], c_n [S,N,H] of x [N,T,D]; a sequence ends after its length, and y is 0 behind that."""
    layers = sum(name.startswith(f"{prefix}weight_ih_l") and "reverse" not in name for name in state)
    suffixes = ["", "_reverse"] if f"{prefix}weight_ih_l0_reverse" in state else [""]
    parts = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    lengths = [x.shape[1]] * len(x) if lengths is None else lengths
    units = state[f"{prefix}weight_ih_l0"].shape[0] // 4
    size = state[f"{prefix}weight_hh_l0"].shape[1]
    h_n, c_n = np.zeros((layers * len(suffixes), len(x), size)), np.zeros((layers * len(suffixes), len(x), units))
    if h0 is not None:
        h_n[:], c_n[:] = h0, c0
    y = np.asarray(x, np.float64)
    for layer in range(layers):
        outputs = np.zeros((*x.shape[:2], size * len(suffixes)))
        for direction, suffix in enumerate(suffixes):
            weights = [state.get(f"{prefix}{part}_l{layer}{suffix}") for part in parts]
            index = layer * len(suffixes) + direction
            for n, length in enumerate(lengths):
                out, h_n[index, n], c_n[index, n] = one_direction(
                    y[n, :length], weights, h_n[index, n], c_n[index, n], bool(direction)
                )
                outputs[n, :length, direction * size : (direction + 1) * size] = out
        y = outputs
    return y, h_n, c_n


def random_state(features, units, layers=1, directions=1, proj=0, bias=True, seed=0, prefix="", scale=0.5):
    """A state dict in the order and the shapes of PyTorch, float64."""
    rng, state = np.random.default_rng(seed), {}
    size = proj or units
    for layer in range(layers):
        for suffix in ("", "_reverse")[:directions]:
            shapes = {"weight_ih": (4 * units, features if layer == 0 else size * directions), "weight_hh": (4 * units, size)}
            shapes |= {"bias_ih": (4 * units,), "bias_hh": (4 * units,)} if bias else {}
            shapes |= {"weight_hr": (proj, units)} if proj else {}
            for part, shape in shapes.items():
                state[f"{prefix}{part}_l{layer}{suffix}"] = rng.normal(0, scale, shape)
    return state


def single(**options):
    """The state of one layer of ``U`` units on ``D`` features."""
    return random_state(D, U, **options)
