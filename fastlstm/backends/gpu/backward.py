"""The backward pass on the GPU: all steps back in one launch, or one and a GEMM for each; then few large GEMMs for the rest.

In terms of the Tape of ``forward``. Source: keras-spec 2, 4, 6, 8; what the forward selects away has no gradient, NaN included.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import devices
from ...spec import RecurrentSpec
from . import choose, kernels, sequence, structs
from .buffers import sample_stride, step_members
from .forward import Tape
from .layout import Windows, batch_major, joined, parts


def backward(spec: RecurrentSpec, tape: Tape, dy: Any, dh: Any, dc: Any) -> tuple[Any, Any, Any, list[Any]]:
    """Cotangents dy [N,T,S,U] or [N,S,U], dh and dc [N,S,U] (None: zeros) -> (dx [N,T,R,C], dh0, dc0, those of the weights)."""
    layout, xp = tape.layout, devices.cupy_module()
    shape, dtype = (layout.samples, layout.sample_rows, layout.units), tape.x.dtype

    def carried(given: Any) -> Any:
        state = (layout.rows, layout.units)
        return xp.zeros(state, dtype) if given is None else given.reshape(state).copy()

    dh, dc = carried(dh), carried(dc)
    last = None if spec.return_sequences else dy
    doutput = carried(last)
    every = devices.contiguous(dy) if spec.return_sequences and dy is not None else None
    dz = xp.empty((layout.steps, layout.rows, 4, layout.units), dtype)
    if layout.rows:
        dh = _steps_back(spec, tape, every, dh, dc, doutput, dz)
    gradients = _weight_gradients(tape, dz)
    dx = batch_major(_input_gradient(tape, dz), spec.go_backwards)
    return dx, dh.reshape(shape), dc.reshape(shape), gradients


def _steps_back(spec: RecurrentSpec, tape: Tape, dy: Any, dh: Any, dc: Any, doutput: Any, dz: Any) -> Any:
    """Fills dz from the last step to the first; dc becomes dc0. Returns dh0 [M,U]."""
    io = _cell_of_all_steps(spec, tape, dy, dh, dc, doutput, dz)
    sizes = choose.path_back(spec, tape.layout, tape.h_scales is not None, dz.dtype.itemsize)
    if sizes is not None:
        sequence.run_back(tape.layout, sizes, tape.weights, io)
        return dh
    layout, size = tape.layout, dz.dtype.itemsize
    state, row = layout.rows * layout.units * size, layout.sample_rows * layout.units * size
    product: Any = None
    after: Any = None
    for step in range(layout.steps - 1, -1, -1):
        io["gates"], io["dz"] = (structs.place(array, step * 4 * state) for array in (tape.gates, dz))
        io["c_before"], io["c"] = (structs.place(tape.c, k * state) for k in (step, step + 1))
        io["dy"], io["mask"] = structs.place(dy, step * row), structs.place(tape.mask, step * layout.samples)
        io["mask_after"] = structs.pointer(after)
        arguments = (io, np.uint64(structs.pointer(product)))
        kernels.run(kernels.elementwise("cell_backward", layout.rows * layout.units, *arguments), dz.dtype)
        product, after = _through_recurrent(tape, dz[step]), None if tape.mask is None else tape.mask[step]
    if after is None:
        return product
    valid = after.reshape(-1, 1).astype(bool)
    shape = (layout.samples, layout.sample_rows * layout.units)
    return devices.module_of(dh).where(valid, product.reshape(shape), dh.reshape(shape))


def _cell_of_all_steps(spec: RecurrentSpec, tape: Tape, dy: Any, dh: Any, dc: Any, doutput: Any, dz: Any) -> np.ndarray:
    """The struct of a step back whose arrays stand at step 0."""
    return structs.filled(
        structs.BACK_IO,
        gates=tape.gates,
        c_before=tape.c,
        c=tape.c[1:],
        dy=dy,
        dh=dh,
        dc=dc,
        doutput=doutput,
        dz=dz,
        mask=tape.mask,
        dy_stride=sample_stride(tape.layout),
        **step_members(spec, tape.layout),
    )


def _through_recurrent(tape: Tape, dz: Any) -> Any:
    """dz [M,4,U] of one step -> the cotangent [M,U] of the h that went into its product."""
    layout, xp = tape.layout, devices.cupy_module()
    samples, rows, units = layout.samples, layout.sample_rows, layout.units
    if tape.h_scales is None:
        windows = layout.h.transposed(4 * units).gather(dz.reshape(samples, rows, 4 * units))
        return xp.matmul(windows, tape.weights.turned_matrix)
    total: Any = None
    for g, turned in enumerate(tape.weights.turned_gates):
        one = devices.contiguous(dz[:, g]).reshape(samples, rows, units)
        part = xp.matmul(layout.h.transposed(units).gather(one), turned)
        part = part.reshape(tape.h_scales[g].shape) * tape.h_scales[g]
        total = part if total is None else total + part
    return devices.contiguous(total.reshape(layout.rows, units))


def _kept(tape: Tape, a: Any) -> Any:
    """``a`` [T,N,…] with zeros at masked steps, where it may hold anything."""
    if tape.mask is None:
        return a
    valid = tape.mask.reshape(*tape.mask.shape, *[1] * (a.ndim - 2)).astype(bool)
    return devices.module_of(a).where(valid, a, a.dtype.type(0))


def _weight_gradients(tape: Tape, dz: Any) -> list[Any]:
    """[dkernel, drecurrent_kernel, dbias]: GEMMs of the windows of all steps with dz."""
    layout, weights = tape.layout, tape.weights
    h = tape.h[:-1].reshape(layout.steps, layout.samples, layout.sample_rows, layout.units)
    gradients = [
        _product_gradient(layout.x, _kept(tape, tape.x), tape.x_scales, dz).reshape(weights.kernel.shape),
        _product_gradient(layout.h, _kept(tape, h), tape.h_scales, dz).reshape(weights.recurrent_kernel.shape),
    ]
    return gradients if weights.bias is None else [*gradients, dz.sum(axis=(0, 1)).reshape(-1)]


def _product_gradient(windows: Windows, a: Any, scales: Any, dz: Any) -> Any:
    """windows(a [T,N,R,C]).T @ dz [T*M,4U] -> [K*C,4U], with the dropout scales of ``a`` for each gate, or for all."""
    xp = devices.cupy_module()
    units, steps = dz.shape[-1], len(a)
    total = xp.zeros((windows.depth, 4, units), dz.dtype)

    def unrolled(part: Any) -> Any:
        return windows.gather(joined(part)).T

    for part in parts(steps, dz[0].size // max(4 * units, 1) * windows.depth * dz.dtype.itemsize):
        one, cotangents = a[part], _joined_gates(dz[part])
        if scales is None or len(scales) == 1:
            one = one if scales is None else one * scales[0]
            total += xp.matmul(unrolled(one), cotangents.reshape(len(cotangents), 4 * units)).reshape(total.shape)
        else:
            for g in range(4):
                total[:, g] += xp.matmul(unrolled(one * scales[g]), devices.contiguous(cotangents[:, g]))
    return total


def _joined_gates(dz: Any) -> Any:
    """[T,M,4,U] -> [T*M,4,U]."""
    return dz.reshape(dz.shape[0] * dz.shape[1], *dz.shape[2:])


def _input_gradient(tape: Tape, dz: Any) -> Any:
    """dz -> the cotangent [T,N,R,C] of x, exactly 0 at masked steps."""
    layout, weights, xp = tape.layout, tape.weights, devices.cupy_module()
    dx = xp.empty(tape.x.shape, dz.dtype)
    for part in parts(layout.steps, layout.rows * layout.x.depth * dz.dtype.itemsize):
        cotangents = _joined_gates(dz[part])
        if tape.x_scales is None or len(tape.x_scales) == 1:
            together = _rows_of(tape, cotangents.reshape(len(cotangents), 4 * layout.units), weights.x_matrix)
            dx[part] = together if tape.x_scales is None else together * tape.x_scales[0]
        else:
            blocks = weights.gates(weights.x_matrix)
            shares = (_rows_of(tape, devices.contiguous(cotangents[:, g]), blocks[g]) * tape.x_scales[g] for g in range(4))
            dx[part] = sum(shares)
    return _kept(tape, dx)


def _rows_of(tape: Tape, dz: Any, matrix: Any) -> Any:
    """dz [T*M,n] @ matrix.T, back from windows to rows [T,N,R,C]."""
    layout = tape.layout
    rows = layout.x.scatter(devices.cupy_module().matmul(dz, matrix.T))
    steps = len(dz) // layout.rows if layout.rows else layout.steps  # an empty batch is one part
    return rows.reshape(steps, layout.samples, layout.x.rows_in, layout.x.channels)
