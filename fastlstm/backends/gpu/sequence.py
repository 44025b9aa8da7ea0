"""Arrays and launches of the kernels of sequence.cu and sequence_back.cu, cut as ``tiles`` says."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import devices
from . import kernels, structs
from .layout import Layout, Windows
from .tiles import Tiles, rounded

APART = 32  # FL_APART


def _packed_struct(weights: Any) -> Any:
    """Of [channels,taps,quads,4]; None: no channels."""
    if weights is None:
        return structs.filled(structs.PACKED)[0]
    return structs.filled(structs.PACKED, at=weights, channels=weights.shape[0], quads=weights.shape[2])[0]


def _tiling(sizes: Tiles, pad: int, arrived: Any) -> Any:
    fields = {name: getattr(sizes, name) for name in structs.TILING.names or () if name in Tiles._fields}
    return structs.filled(structs.TILING, arrived=arrived, pad=pad, pitch=sizes.pitch, **fields)[0]


def _counters(sizes: Tiles) -> Any:
    return devices.cupy_module().empty(sizes.groups * sizes.group_tiles * APART, np.uint32)


def _launch(sizes: Tiles, io: Any, cooperative: bool) -> kernels.Launch:
    return kernels.Launch(sizes.name, sizes.grid, (sizes.threads,), (io,), sizes.shared, cooperative)


class Steps:
    """The steps of a call over the arrays of ``buffers``; ``fill`` brings the inputs and h, then the launches run.

    ``together``: one cooperative launch for all steps, else one for each. ``z``: the inputs' share [T,M,4,U] without the bias,
    where the kernel does not make it (``sizes.x_channels`` is 0).
    """

    def __init__(self, layout: Layout, sizes: Tiles, weights: Any, buffers: Any, together: bool, z: Any = None):
        xp, dtype = devices.cupy_module(), buffers.h.dtype
        self.layout, self.sizes, self.weights, self.buffers, self.z = layout, sizes, weights, buffers, z
        self.pad = 0 if layout.one_row else layout.h.pad
        self.exchange = xp.zeros((2, sizes.groups, layout.units, sizes.pitch), dtype)
        self.arrived = _counters(sizes) if together else None
        self.x = None
        if sizes.x_channels:
            pitch = max(sizes.pitch, rounded(layout.x.rows_in + layout.x.pad))
            self.x = xp.zeros((layout.steps, layout.samples, layout.x.channels, pitch), dtype)

    def fill(self, x: Any) -> None:
        """x [T,N,R,C], and h of the buffers: turned, a channel's rows side by side behind the zeros that the first taps need."""
        if self.arrived is not None:
            self.arrived.fill(0)
        windows: Windows = self.layout.x
        if self.x is not None:
            self.x[..., windows.pad : windows.pad + windows.rows_in] = x.swapaxes(-1, -2)
        h, rows, units, pad = self.buffers.h[0], self.sizes.group_rows, self.layout.units, self.pad
        full = self.layout.rows // rows
        self.exchange[0, :full, :, pad : pad + rows] = h[: full * rows].reshape(full, rows, units).swapaxes(1, 2)
        rest = self.layout.rows - full * rows
        if rest:
            self.exchange[0, full, :, pad : pad + rest] = h[full * rows :].T

    def launches(self) -> list[kernels.Launch]:
        """In order."""
        cell = self.buffers.cell(0)
        cell["h_out"], cell["c_out"] = cell["h_in"], cell["c_in"]
        io = structs.filled(
            structs.SEQUENCE_IO,
            cell=cell[0],
            tiles=_tiling(self.sizes, self.pad, self.arrived),
            recurrent_kernel=_packed_struct(self.weights.packed_recurrent_kernel),
            kernel=_packed_struct(None if self.x is None else self.weights.packed_kernel),
            z=self.z,
            bias=self.weights.bias,
            x=self.x,
            exchange=self.exchange,
            end=self.layout.steps,
            h_slots=len(self.buffers.h),
            c_slots=len(self.buffers.c),
            x_pitch=0 if self.x is None else self.x.shape[-1],
        )
        if self.arrived is not None:
            return [_launch(self.sizes, io, cooperative=True)]
        found = []
        for step in range(self.layout.steps):
            one = io.copy()
            one["begin"], one["end"] = step, step + 1
            found.append(_launch(self.sizes, one, cooperative=False))
        return found


def run_back(layout: Layout, sizes: Tiles, weights: Any, cell: Any) -> None:
    """All steps back. ``cell``: the BACK_IO of step 0, whose arrays hold all steps; dh, dc become those of the initial states."""
    dtype = weights.recurrent_kernel.dtype
    exchange = devices.cupy_module().zeros((2, sizes.groups, 4 * layout.units, sizes.pitch), dtype)
    arrived = _counters(sizes)
    arrived.fill(0)
    io = structs.filled(
        structs.SEQUENCE_BACK_IO,
        cell=cell[0],
        tiles=_tiling(sizes, 0 if layout.one_row else layout.h.transposed(4 * layout.units).pad, arrived),
        turned_kernel=_packed_struct(weights.packed_turned),
        exchange=exchange,
        steps=layout.steps,
    )
    kernels.run(_launch(sizes, io, cooperative=True), dtype)
