"""The arrays of a call on the GPU, and the inputs' share of all pre-activations."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import devices
from ...spec import RecurrentSpec
from ..cpu import ACTIVATION_NUMBERS, ROUNDING_NUMBERS
from . import structs
from .layout import Layout, joined, parts
from .weights import GpuWeights


def step_members(spec: RecurrentSpec, layout: Layout) -> dict[str, int]:
    """What the structs of a step forwards and of one back have in common."""
    activation, recurrent_activation = (ACTIVATION_NUMBERS[str(name)] for name in spec.activation_names())
    return {
        "rows": layout.rows,
        "units": layout.units,
        "sample_rows": layout.sample_rows,
        "zero_output": int(spec.zero_output_for_mask),
        "activation": activation,
        "recurrent_activation": recurrent_activation,
    }


def sample_stride(layout: Layout) -> int:
    """Numbers from one sample's y, or dy, to the next one's."""
    return layout.steps * layout.sample_rows * layout.units


class Buffers:
    """The arrays of a call: states [slots,M,U], the carried output, y [N,T,S,U], the tape."""

    def __init__(self, spec: RecurrentSpec, layout: Layout, mask: Any, dtype: Any, record: bool):
        xp = devices.cupy_module()
        state, steps = (layout.rows, layout.units), layout.steps
        self.h = xp.empty((steps + 1 if record else 2, *state), dtype)
        self.c = xp.empty((steps + 1 if record else 1, *state), dtype)
        self.gates = xp.empty((steps, layout.rows, 4, layout.units), dtype) if record else None
        self.mask = mask
        self.output = None if mask is None else xp.empty(state, dtype)
        whole = (layout.samples, steps, layout.sample_rows, layout.units)
        self.y = xp.empty(whole, dtype) if spec.return_sequences else None
        self.spec, self.layout = spec, layout
        self._cell = self._cell_without_steps()

    def start(self, h: Any, c: Any) -> None:
        """The initial states [N,S,U], and no output yet."""
        self.h[0] = h.reshape(self.h.shape[1:])
        self.c[0] = c.reshape(self.c.shape[1:])
        if self.output is not None:
            self.output.fill(0)

    def _cell_without_steps(self) -> np.ndarray:
        """The struct of a step's cells, but for what changes from step to step."""
        return structs.filled(
            structs.CELL_IO,
            output=self.output,
            y_stride=sample_stride(self.layout),
            rounding=ROUNDING_NUMBERS[self.spec.storage],
            **step_members(self.spec, self.layout),
        )

    def cell(self, step: int) -> np.ndarray:
        """The struct of a step's cells."""
        layout, size = self.layout, self.h.dtype.itemsize
        state, cell = layout.rows * layout.units * size, self._cell.copy()
        for name, array in (("h", self.h), ("c", self.c)):
            cell[f"{name}_in"] = structs.place(array, step % len(array) * state)
            cell[f"{name}_out"] = structs.place(array, (step + 1) % len(array) * state)
        cell["y"] = structs.place(self.y, step * layout.sample_rows * layout.units * size)
        cell["gates"] = structs.place(self.gates, step * 4 * state)
        cell["mask"] = structs.place(self.mask, step * layout.samples)
        return cell

    def results(self) -> tuple[Any, Any, Any]:
        """(y, h, c), arrays of the caller's own: y [N,T,S,U] or [N,S,U], h and c [N,S,U]."""
        layout = self.layout
        shape = (layout.samples, layout.sample_rows, layout.units)
        h = self.h[layout.steps % len(self.h)].reshape(shape).copy()
        c = self.c[layout.steps % len(self.c)].reshape(shape).copy()
        if self.y is not None:
            return self.y, h, c
        return (h if self.output is None else self.output.reshape(shape)).copy(), h, c


def project(layout: Layout, weights: GpuWeights, x: Any, scales: Any, with_bias: bool = True, out: Any = None) -> Any:
    """Pre-activations [T,M,4,U] of all steps without the recurrent share: the windows of x @ kernel (+ bias), by cuBLAS."""
    xp, units = devices.cupy_module(), layout.units
    z = xp.empty((layout.steps, layout.rows, 4, units), x.dtype) if out is None else out
    for part in parts(layout.steps, layout.rows * layout.x.depth * x.dtype.itemsize):
        steps = x[part]
        flat = z[part].reshape(len(steps) * layout.rows, 4 * units)
        if scales is None or len(scales) == 1:
            xp.matmul(_windows(layout, steps if scales is None else steps * scales[0]), weights.x_matrix, out=flat)
        else:
            for g, matrix in enumerate(weights.gates(weights.x_matrix)):
                flat.reshape(len(flat), 4, units)[:, g] = xp.matmul(_windows(layout, steps * scales[g]), matrix)
    if with_bias and weights.bias is not None:
        z += weights.bias.reshape(4, units)
    return z


def _windows(layout: Layout, x: Any) -> Any:
    """The windows [T*M, K*C] of x [T,N,R,C]."""
    return layout.x.gather(joined(x))
