"""The activations of ONNX's recurrent operators: names, alpha and beta of each direction, and which of Keras' they are.

ONNX takes alpha and beta in the order of the functions, each function those that it has; what is missing is the default of the
ONNX operator of that name. Affine and ScaledTanh have no operator and hence no defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

REQUIRED = None
# name: (names of its parameters with their defaults)
_PARAMETERS: dict[str, dict[str, float | None]] = {
    "Relu": {},
    "Tanh": {},
    "Sigmoid": {},
    "Softsign": {},
    "Softplus": {},
    "Affine": {"alpha": REQUIRED, "beta": REQUIRED},
    "LeakyRelu": {"alpha": 0.01},
    "ThresholdedRelu": {"alpha": 1.0},
    "ScaledTanh": {"alpha": REQUIRED, "beta": REQUIRED},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "Elu": {"alpha": 1.0},
}
_BY_LOWER = {name.lower(): name for name in _PARAMETERS}

# Keras' function where an activation with these parameters is that function. A file has float32 parameters: what is not exact
# there is Keras' function in float32 only.
_KERAS: dict[tuple, str] = {
    ("Relu",): "relu",
    ("Tanh",): "tanh",
    ("Sigmoid",): "sigmoid",
    ("Softsign",): "softsign",
    ("Softplus",): "softplus",
    ("Affine", 1.0, 0.0): "linear",
    ("ScaledTanh", 1.0, 1.0): "tanh",
    ("LeakyRelu", float(np.float32(0.2))): "leaky_relu",
    ("HardSigmoid", float(np.float32(1 / 6)), 0.5): "hard_sigmoid",
    ("Elu", 1.0): "elu",
}
_IN_FLOAT32 = ("leaky_relu", "hard_sigmoid")


class Activation(NamedTuple):
    """A function of ONNX with its parameters."""

    name: str
    parameters: tuple[float, ...]

    def keras(self, dtype: np.dtype) -> str | None:
        """The name of the same function in Keras, None where there is none; ``dtype`` of the arithmetic."""
        found = _KERAS.get((self.name, *self.parameters))
        return None if found in _IN_FLOAT32 and dtype != np.float32 else found

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return _FUNCTIONS[self.name](x, *(np.asarray(value, x.dtype) for value in self.parameters))


def _sigmoid(x: np.ndarray) -> Any:
    small = np.exp(-np.abs(x))
    return np.where(x < 0, small, np.ones((), x.dtype)) / (1 + small)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Relu": lambda x: np.maximum(x, np.zeros((), x.dtype)),
    "Tanh": np.tanh,
    "Sigmoid": _sigmoid,
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Softplus": lambda x: np.logaddexp(x, np.zeros((), x.dtype)),
    "Affine": lambda x, alpha, beta: alpha * x + beta,
    "LeakyRelu": lambda x, alpha: np.where(x < 0, alpha * x, x),
    "ThresholdedRelu": lambda x, alpha: np.where(x > alpha, x, np.zeros((), x.dtype)),
    "ScaledTanh": lambda x, alpha, beta: alpha * np.tanh(beta * x),
    "HardSigmoid": lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
    "Elu": lambda x, alpha: np.where(x < 0, alpha * np.expm1(x), x),
}


def read_activations(
    names: Sequence[str] | None, alphas: Sequence[float] | None, betas: Sequence[float] | None, directions: int
) -> list[tuple[Activation, Activation, Activation]]:
    """(f, g, h) of each direction: of the gates, of the candidate, of the state on its way out.

    ValueError for an unknown name, another count than three for each direction, and a parameter that has no default.
    """
    if not names:
        names = ["Sigmoid", "Tanh", "Tanh"] * directions
    if len(names) != 3 * directions:
        raise ValueError(f"has {len(names)} activations, expected three for each of {directions} directions")
    left = {"alpha": list(alphas or []), "beta": list(betas or [])}
    found = []
    for name in names:
        known = _BY_LOWER.get(name.lower())  # onnxruntime takes any case
        if known is None:
            raise ValueError(f"its activation {name!r} is not one of {', '.join(_PARAMETERS)}")
        values = []
        for parameter, default in _PARAMETERS[known].items():
            value = left[parameter].pop(0) if left[parameter] else default
            if value is None:
                raise ValueError(f"its activation {known} needs activation_{parameter}, which has no default")
            values.append(float(value))
        found.append(Activation(known, tuple(values)))
    return [(found[k], found[k + 1], found[k + 2]) for k in range(0, len(found), 3)]
