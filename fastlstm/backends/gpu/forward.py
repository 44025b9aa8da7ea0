"""The forward pass on the GPU: projections, then one of three ways through the steps (``choose.path``).

In terms of ``Layout`` (shapes), ``kernels`` (launches) and the structs of the kernels. Used by the verbs of this backend.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ... import devices
from ...spec import RecurrentSpec
from . import choose, kernels, plans, sequence, structs
from .buffers import Buffers, project
from .layout import Layout, time_major
from .weights import GpuWeights


class Tape(NamedTuple):
    """A recorded forward: what its backward needs. Time-major, in processing order."""

    layout: Layout
    weights: GpuWeights
    x: Any  # [T,N,R,C]
    mask: Any  # [T,N] or None
    h: Any  # [T+1,M,U]
    c: Any  # [T+1,M,U]
    gates: Any  # [T,M,4,U]
    x_scales: Any  # [4,N,R,C], [1,N,R,C] or None
    h_scales: Any  # [4,N,S,U] or None


def forward(
    spec: RecurrentSpec, weights: GpuWeights, x: Any, h: Any, c: Any, mask: Any, scales: tuple[Any, Any], record: bool
) -> tuple[Any, ...]:
    """x [N,T,R,C], h and c [N,S,U], mask [N,T] or None, ``scales`` of x and of h -> (y, h, c), with ``record`` and a Tape."""
    layout = Layout.of(spec, x.shape)
    x_scales, h_scales = scales
    xs = time_major(x, spec.go_backwards, own=record)
    mask = None if mask is None else time_major(mask.astype(np.uint8), spec.go_backwards)
    way, _, sizes = choose.path(spec, layout, h_scales is not None, x.dtype.itemsize, x_scales is not None)
    together = way == "persistent"
    if sizes is not None and not record and x_scales is None and plans.worth(spec, layout, x.dtype.itemsize):
        return plans.run(spec, layout, sizes, weights, xs, h, c, mask, together)
    buffers = Buffers(spec, layout, mask, x.dtype, record)
    buffers.start(h, c)
    if sizes is not None:
        z = None if sizes.x_channels else project(layout, weights, xs, x_scales, with_bias=False)
        steps = sequence.Steps(layout, sizes, weights, buffers, together, z)
        steps.fill(xs)
        for launch in steps.launches():
            kernels.run(launch, x.dtype)
    elif layout.rows:
        _general(layout, weights, xs, x_scales, h_scales, buffers)
    results = buffers.results()
    if not record:
        return results
    # The tape keeps none of the arrays that the caller gets.
    tape = Tape(layout, weights, xs, mask, buffers.h, buffers.c, buffers.gates, x_scales, h_scales)
    return (*results, tape)


def _general(layout: Layout, weights: GpuWeights, x: Any, x_scales: Any, h_scales: Any, buffers: Buffers) -> None:
    xp, units, rows = devices.cupy_module(), layout.units, layout.rows
    z = project(layout, weights, x, x_scales)
    size = z.dtype.itemsize
    matrix = weights.h_matrix if h_scales is None else weights.gates(weights.h_matrix)
    strides = {"row": 4 * units, "gate": units} if h_scales is None else {"row": units, "gate": rows * units}
    shape = (layout.samples, layout.sample_rows, units)
    for step in range(layout.steps):
        h = buffers.h[step % len(buffers.h)].reshape(shape)
        if h_scales is None:
            recurrent = xp.matmul(layout.h.gather(h), matrix)  # [M,4U]
        else:
            scaled = (h * h_scales).reshape(4 * layout.samples, layout.sample_rows, units)
            recurrent = xp.matmul(layout.h.gather(scaled).reshape(4, rows, layout.h.depth), matrix)  # [4,M,U]
        projected = structs.filled(
            structs.Z_PART, z=structs.pointer(z) + step * rows * 4 * units * size, row=4 * units, gate=units
        )
        arguments = (buffers.cell(step), projected, structs.filled(structs.Z_PART, z=recurrent, **strides), np.uint64(0))
        kernels.run(kernels.elementwise("cell_forward", rows * units, *arguments), z.dtype)
