"""The forward pass on the GPU: projections, then one of three ways through the steps (``choose.path``).

In terms of ``Layout`` (shapes), ``kernels`` (launches) and the structs of the kernels. Used by the verbs of this backend.
"""

from __future__ import annotations

import collections
import functools
import math
import threading
from typing import Any, NamedTuple

import numpy as np

from ... import devices
from ...spec import RecurrentSpec
from ..cpu import ACTIVATION_NUMBERS, ROUNDING_NUMBERS
from . import choose, kernels, sequence, structs, tiles
from .layout import Layout, joined, parts, time_major

_KEPT_PLANS = 8  # captured graphs of one layer's weights


class GpuWeights:
    """kernel [D,4U] or [K,C,4F], recurrent_kernel [U,4U] or [K,F,4F], bias [4U] or None, on the device; plans of calls."""

    def __init__(self, kernel: Any, recurrent_kernel: Any, bias: Any):
        self.kernel, self.recurrent_kernel, self.bias = kernel, recurrent_kernel, bias
        self.units = recurrent_kernel.shape[-2]
        self.plans: collections.OrderedDict[Any, Plan] = collections.OrderedDict()
        self.lock = threading.Lock()

    @property
    def x_matrix(self) -> Any:
        """[K*C, 4U]."""
        return self.kernel.reshape(math.prod(self.kernel.shape[:-1]), 4 * self.units)

    @property
    def h_matrix(self) -> Any:
        """[K*U, 4U]."""
        return self.recurrent_kernel.reshape(math.prod(self.recurrent_kernel.shape[:-1]), 4 * self.units)

    @functools.cached_property
    def packed_kernel(self) -> Any:
        """[C,K,U,4]."""
        return sequence.packed(self.kernel, self.units)

    @functools.cached_property
    def packed_recurrent_kernel(self) -> Any:
        """[U,K,U,4]."""
        return sequence.packed(self.recurrent_kernel, self.units)

    @functools.cached_property
    def turned_recurrent_kernel(self) -> Any:
        """[4U,K,quads,4], of the way back."""
        return sequence.turned(self.recurrent_kernel, self.units)

    def gates(self, matrix: Any) -> Any:
        """A matrix [P,4U] as [4,P,U]."""
        return devices.contiguous(matrix.reshape(len(matrix), 4, self.units).swapaxes(0, 1))


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


class Plan:
    """The launches of a call as a CUDA graph over arrays of its own; a call copies in, launches once and copies out."""

    def __init__(self, steps: sequence.Steps):
        self.steps = steps
        launches, dtype = steps.launches(), steps.buffers.h.dtype
        kernels.ready(launches[0], dtype)  # compiles, which must not happen during the capture
        stream = devices.cupy_module().cuda.Stream(non_blocking=True)
        with stream:
            stream.begin_capture()
            for launch in launches:
                kernels.run(launch, dtype)
            self.graph = stream.end_capture()

    def run(self, x: Any, h: Any, c: Any, mask: Any) -> tuple[Any, Any, Any]:
        steps, buffers = self.steps, self.steps.buffers
        if steps.z is not None:
            project(steps.layout, steps.weights, x, None, with_bias=False, out=steps.z)
        if mask is not None:
            buffers.mask[...] = mask
        buffers.start(h, c)
        steps.fill(x)
        self.graph.launch()
        y, h, c = buffers.results()
        return (y.copy() if buffers.spec.return_sequences else y), h, c


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


def forward(
    spec: RecurrentSpec, weights: GpuWeights, x: Any, h: Any, c: Any, mask: Any, scales: tuple[Any, Any], record: bool
) -> tuple[Any, ...]:
    """x [N,T,R,C], h and c [N,S,U], mask [N,T] or None, ``scales`` of x and of h -> (y, h, c), with ``record`` and a Tape."""
    layout = Layout.of(spec, x.shape)
    x_scales, h_scales = scales
    xs = time_major(x, spec.go_backwards, own=record)
    mask = None if mask is None else time_major(mask.astype(np.uint8), spec.go_backwards)
    way, _ = choose.path(spec, layout, h_scales is not None, x.dtype.itemsize)
    if way == "direct" and not record and x_scales is None and layout.rows:
        return _planned(spec, layout, weights, xs, h, c, mask)
    buffers = Buffers(spec, layout, mask, x.dtype, record)
    buffers.start(h, c)
    if layout.rows:
        _WAYS[way](layout, weights, xs, x_scales, h_scales, buffers)
    results = buffers.results()
    if not record:
        return results
    # The tape keeps none of the arrays that the caller gets.
    tape = Tape(layout, weights, xs, mask, buffers.h, buffers.c, buffers.gates, x_scales, h_scales)
    return (*results, tape)


def _persistent(layout: Layout, weights: GpuWeights, x: Any, x_scales: Any, h_scales: Any, buffers: Buffers) -> None:
    sizes = tiles.together(layout, x.dtype.itemsize, choose.limits(), x_scales is not None)
    _run_steps(layout, sizes, weights, x, x_scales, buffers, together=True)


def _direct(layout: Layout, weights: GpuWeights, x: Any, x_scales: Any, h_scales: Any, buffers: Buffers) -> None:
    sizes = tiles.each(layout, x.dtype.itemsize, choose.limits(), x_scales is not None)
    _run_steps(layout, sizes, weights, x, x_scales, buffers, together=False)


def _run_steps(
    layout: Layout, sizes: tiles.Tiles | None, weights: GpuWeights, x: Any, x_scales: Any, buffers: Buffers, together: bool
) -> None:
    assert sizes is not None
    z = None if sizes.x_channels else project(layout, weights, x, x_scales, with_bias=False)
    steps = sequence.Steps(layout, sizes, weights, buffers, together, z)
    steps.fill(x)
    for launch in steps.launches():
        kernels.run(launch, x.dtype)


def _planned(spec: RecurrentSpec, layout: Layout, weights: GpuWeights, x: Any, h: Any, c: Any, mask: Any) -> tuple[Any, Any, Any]:
    """The launches for each step as one CUDA graph, captured once for each shape, dtype and set of flags."""
    cuda = devices.cupy_module().cuda
    # Two streams may run at once, so that each has buffers of its own.
    key = (spec, layout, x.dtype, mask is None, cuda.Device().id, cuda.get_current_stream().ptr)
    with weights.lock:
        plan = weights.plans.get(key)
        if plan is None:
            sizes = tiles.each(layout, x.dtype.itemsize, choose.limits())
            assert sizes is not None
            buffers = Buffers(spec, layout, None if mask is None else mask.copy(), x.dtype, record=False)
            z = None if sizes.x_channels else project(layout, weights, x, None, with_bias=False)
            plan = Plan(sequence.Steps(layout, sizes, weights, buffers, False, z))
            weights.plans[key] = plan
            if len(weights.plans) > _KEPT_PLANS:
                weights.plans.popitem(last=False)
        weights.plans.move_to_end(key)
        return plan.run(x, h, c, mask)


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


_WAYS = {"persistent": _persistent, "direct": _direct, "general": _general}
