"""The workloads by name: shapes, dtype, floating-point operations, deterministic weights and inputs. Used by ``bench``.

Letters: N batch, T time, D input features, U units; R rows in, S rows out, C channels, F filters, K kernel width.
The same names stand in docs/performance.md.
"""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import numpy as np

import fastlstm


@dataclasses.dataclass(frozen=True)
class Case:
    """One workload. ``features`` is D of an LSTM and C of a ConvLSTM1D, ``units`` U or F.

    ``carries_states``: each call takes the h and c that the one before returned. ``training``: a call is ``layer.vjp`` and its
    pullback. Inputs are [N,T,D] or [N,T,R,C].
    """

    name: str
    batch: int
    steps: int
    features: int
    units: int
    layer: str = "LSTM"
    rows: int = 1
    kernel_size: int = 1
    padding: str = "same"
    return_sequences: bool = True
    carries_states: bool = False
    training: bool = False
    dtype: str = "float32"

    @property
    def rows_out(self) -> int:
        """S: what the input convolution leaves of R."""
        return self.rows if self.padding == "same" else self.rows - self.kernel_size + 1

    @property
    def flops(self) -> int:
        """Multiplications and additions of the products of one call: 2 * 4 * U * (D + U) * N * T for an LSTM.

        In training three times as many: the backward pass has one product for dx and dh, and one for the weights' gradients.
        """
        depth = self.kernel_size * (self.features + self.units)
        forward = 2 * 4 * self.units * depth * self.rows_out * self.batch * self.steps
        return 3 * forward if self.training else forward

    @property
    def input_shape(self) -> tuple[int, ...]:
        """[N,T,D], or [N,T,R,C] of a ConvLSTM1D."""
        if self.layer == "LSTM":
            return self.batch, self.steps, self.features
        return self.batch, self.steps, self.rows, self.features

    @property
    def weight_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of kernel, recurrent_kernel, bias."""
        width = () if self.layer == "LSTM" else (self.kernel_size,)
        return (*width, self.features, 4 * self.units), (*width, self.units, 4 * self.units), (4 * self.units,)

    def __str__(self) -> str:
        sizes = f"N{self.batch} T{self.steps} "
        if self.layer == "LSTM":
            sizes += f"D{self.features} U{self.units}"
        else:
            sizes += f"R{self.rows} C{self.features} F{self.units} K{self.kernel_size} {self.padding}"
        return f"{self.layer} {sizes}{', forward and backward' if self.training else ''}"

    # -- what is computed ---------------------------------------------------------------------------------------------
    def inputs(self) -> np.ndarray:
        """Standard normal numbers, the same ones at every call."""
        return self._random("inputs").standard_normal(self.input_shape).astype(self.dtype)

    def cotangent(self, shape: tuple[int, ...]) -> np.ndarray:
        """Standard normal numbers of the output's shape: the gradient that a backward pass starts from."""
        return self._random("cotangent").standard_normal(shape).astype(self.dtype)

    def weights(self) -> list[np.ndarray]:
        """kernel, recurrent_kernel, bias, scaled so that the gates neither saturate nor stay near one half."""
        random = self._random("weights")
        weights = []
        for shape in self.weight_shapes:
            fan_in = int(np.prod(shape[:-1]))
            weights.append((random.standard_normal(shape) / np.sqrt(max(fan_in, 4))).astype(self.dtype))
        return weights

    def make_layer(self, dtype: str | None = None) -> Any:
        """The built layer with this case's weights, in ``dtype`` (default: the case's own)."""
        options: dict[str, Any] = {"return_sequences": self.return_sequences, "return_state": self.carries_states}
        options |= {"kernel_initializer": "zeros", "recurrent_initializer": "zeros"}  # drawn for nothing otherwise
        if self.layer != "LSTM":
            options |= {"kernel_size": self.kernel_size, "padding": self.padding}
        layer = getattr(fastlstm, self.layer)(self.units, dtype=dtype or self.dtype, **options)
        layer.build(self.input_shape)
        layer.set_weights(self.weights())
        return layer

    def _random(self, what: str) -> np.random.Generator:
        return np.random.default_rng(zlib.crc32(f"{self.name}/{what}".encode()))


CASES = {
    case.name: case
    for case in (
        Case("doc", batch=32, steps=10, features=8, units=4, return_sequences=False),
        Case("step", batch=1, steps=1, features=64, units=128, return_sequences=False),
        Case("stream", batch=1, steps=1, features=64, units=128, return_sequences=False, carries_states=True),
        Case("n1", batch=1, steps=100, features=64, units=128),
        Case("n1-long", batch=1, steps=1000, features=32, units=32),
        Case("n1-wide", batch=1, steps=100, features=256, units=512),
        Case("n8", batch=8, steps=100, features=64, units=128),
        Case("n32", batch=32, steps=100, features=64, units=128),
        Case("n128", batch=128, steps=100, features=256, units=512),
        Case("edge", batch=1, steps=20, features=8, units=16, layer="ConvLSTM1D", rows=64, kernel_size=3),
        Case("mid", batch=16, steps=20, features=32, units=64, layer="ConvLSTM1D", rows=128, kernel_size=5),
        Case("long", batch=8, steps=50, features=1, units=32, layer="ConvLSTM1D", rows=256, kernel_size=3, padding="valid"),
    )
}
TRAINING = {
    name: dataclasses.replace(CASES[name], name=f"{name}-training", training=True)
    for name in ("doc", "n1", "n32", "edge", "mid", "long")
}
BY_NAME = CASES | {case.name: case for case in TRAINING.values()}
