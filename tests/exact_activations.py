"""The elementwise activations and their derivatives in decimal arithmetic: the truth for test_vmath.

``VALUE`` and ``SLOPE`` map the Keras names to functions of a Decimal; ``exact`` runs one over an array. At a kink the derivatives
take the values that fastlstm documents.
"""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np

ONE, HALF, ZERO = Decimal(1), Decimal("0.5"), Decimal(0)
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494")
SELU_ALPHA, SELU_SCALE = Decimal("1.6732632423543772"), Decimal("1.0507009873554805")


def expm1(x):
    return x.exp() - 1 if abs(x) > Decimal("1e-20") else x + x * x / 2 + x * x * x / 6


def log1p(x):
    return (1 + x).ln() if x > Decimal("1e-20") else x - x * x / 2 + x * x * x / 3


def sigmoid(x):
    return 1 / (1 + (-x).exp())


def tanh(x):
    return expm1(2 * x) / (expm1(2 * x) + 2)


def softplus(x):
    return max(x, ZERO) + log1p((-abs(x)).exp())


def clip(x, low, high):
    return min(max(x, Decimal(low)), Decimal(high))


def normal(x):
    """The normal distribution function: the series of erf in the middle, the continued fraction of erfc in the tails."""
    z = abs(x) / Decimal(2).sqrt()
    if z < 2:
        term = total = z
        for k in range(1, 100):
            term *= -z * z / k
            total += term / (2 * k + 1)
        tail = HALF - total / PI.sqrt()
    else:
        fraction = ZERO
        for k in range(400, 0, -1):
            fraction = k / (z + fraction) / 2
        tail = (-z * z).exp() / (z + fraction) / PI.sqrt() / 2
    return tail if x < 0 else 1 - tail


def sech2(x):
    return 4 * (-2 * abs(x)).exp() / (1 + (-2 * abs(x)).exp()) ** 2


def elu(x):
    return x if x >= 0 else expm1(x)


def elu_slope(x):
    return ONE if x > 0 else x.exp()


def within(low, x, high):
    return Decimal(low < x < high)


VALUE = {
    "linear": lambda x: x,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "relu": lambda x: max(x, ZERO),
    "relu6": lambda x: clip(x, 0, 6),
    "leaky_relu": lambda x: x if x >= 0 else x * Decimal("0.2"),
    "elu": elu,
    "selu": lambda x: SELU_SCALE * (x if x >= 0 else SELU_ALPHA * expm1(x)),
    "celu": elu,
    "exponential": Decimal.exp,
    "gelu": lambda x: x * normal(x),
    "hard_sigmoid": lambda x: clip(x / 6 + HALF, 0, 1),
    "silu": lambda x: x * sigmoid(x),
    "hard_silu": lambda x: x * clip(x / 6 + HALF, 0, 1),
    "hard_tanh": lambda x: clip(x, -1, 1),
    "tanh_shrink": lambda x: x - tanh(x),
    "hard_shrink": lambda x: x if abs(x) > HALF else ZERO,
    "soft_shrink": lambda x: max(abs(x) - HALF, ZERO).copy_sign(x),
    "softplus": softplus,
    "softsign": lambda x: x / (1 + abs(x)),
    "squareplus": lambda x: (x + (x * x + 4).sqrt()) / 2 if x > 0 else 2 / ((x * x + 4).sqrt() - x),
    "sparse_plus": lambda x: ZERO if x <= -1 else ((x + 1) ** 2 / 4 if x < 1 else x),
    "sparse_sigmoid": lambda x: clip((x + 1) / 2, 0, 1),
    "log_sigmoid": lambda x: -softplus(-x),
    "mish": lambda x: x * tanh(softplus(x)),
}
SLOPE = {
    "linear": lambda x: ONE,
    "tanh": sech2,
    "sigmoid": lambda x: sigmoid(x) * sigmoid(-x),
    "relu": lambda x: Decimal(x > 0),
    "relu6": lambda x: within(0, x, 6),
    "leaky_relu": lambda x: ONE if x > 0 else Decimal("0.2"),
    "elu": elu_slope,
    "selu": lambda x: SELU_SCALE * (1 if x > 0 else SELU_ALPHA * x.exp()),
    "celu": elu_slope,
    "exponential": Decimal.exp,
    "gelu": lambda x: normal(x) + x * (-x * x / 2).exp() / (2 * PI).sqrt(),
    "hard_sigmoid": lambda x: within(-3, x, 3) / 6,
    "silu": lambda x: sigmoid(x) * (1 + x * sigmoid(-x)),
    "hard_silu": lambda x: clip(x / 6 + HALF, 0, 1) + within(-3, x, 3) * x / 6,
    "hard_tanh": lambda x: Decimal(-1 <= x <= 1),
    "tanh_shrink": lambda x: tanh(x) ** 2,
    "hard_shrink": lambda x: Decimal(abs(x) > HALF),
    "soft_shrink": lambda x: Decimal(abs(x) > HALF),
    "softplus": sigmoid,
    "softsign": lambda x: 1 / (1 + abs(x)) ** 2,
    "squareplus": lambda x: (1 + x / (x * x + 4).sqrt()) / 2,
    "sparse_plus": lambda x: clip((x + 1) / 2, 0, 1),
    "sparse_sigmoid": lambda x: within(-1, x, 1) / 2,
    "log_sigmoid": lambda x: sigmoid(-x),
    "mish": lambda x: tanh(softplus(x)) + x * sech2(softplus(x)) * sigmoid(x),
}


def exact(function, x):
    """``function`` of each number of the array x, with 60 digits: the result rounded to float64, and what is missing."""
    with localcontext() as context:
        context.prec = 60
        results = [function(Decimal(float(number))) for number in x]
        heads = [float(r) for r in results]
        rests = [float(r - Decimal(h)) if np.isfinite(h) else 0.0 for r, h in zip(results, heads, strict=True)]
    return np.array(heads), np.array(rests)
