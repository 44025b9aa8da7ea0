"""The persistent kernels of sequence.cu and sequence_back.cu: their sizes on a device, and their launches.

Rows come in groups that share nothing (a sample of a ConvLSTM1D, some samples of an LSTM), groups in tiles, columns in quads; see
tiles.cuh.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ... import devices
from . import kernels, structs
from .layout import Layout, Windows

THREADS = 256  # of a block at most: launch bounds
PIECES, PIECE = 4, 16  # FL_PIECES, and its bytes
APART = 32  # FL_APART
WARP = 32
# Cycles of a step, roughly; nothing has been measured yet.
PRODUCTS = 128  # float32 multiply-adds a cycle of a multiprocessor, where a thread has several rows
LOADED = 64  # bytes a cycle that a multiprocessor gets from the level-2 cache
SLAB = 100  # a slab's barrier and the start of its loop
FINISH = 600  # sums of slices and cells of a tile
WAIT, WAIT_A_BLOCK = 2500, 2  # from the end of a step to the first h of the other blocks; each block's counting
ALONE = 1000  # the same where a block meets no others


class Limits(NamedTuple):
    """What a device has: multiprocessors, bytes of shared memory a block may ask for, whether it can launch cooperatively."""

    processors: int
    shared: int
    cooperative: bool


class Work(NamedTuple):
    """What is multiplied in a step, by the kernels "sequence" or "back": columns in quads, channels of what goes on from step
    to step and of x (0: its share comes as z); and how many slices of the channels there must be.
    """

    kernels: str
    quads: int
    channels: int
    x_channels: int = 0
    least_slices: int = 1


class Tiles(NamedTuple):
    """How rows and columns are cut: fields of ``tiling`` of the same names; kernel, threads of a block, grid, shared memory."""

    name: str
    x_channels: int
    taps: int
    groups: int
    group_rows: int
    group_tiles: int
    quad_bits: int
    thread_rows: int
    slab: int
    slab_pitch: int
    threads: int
    grid: tuple[int, int]
    shared: int
    cycles: float

    @property
    def tile_rows(self) -> int:
        return self.thread_rows * rows_of(self.name)

    @property
    def pitch(self) -> int:
        """Rows of a group in the turned arrays, with what the last tile reads behind them."""
        return (self.group_tiles - 1) * self.tile_rows + self.slab_pitch


def rows_of(kernel: str) -> int:
    """ROWS: rows that a thread sums."""
    return 1 if kernel.endswith("_row") else 4


@functools.lru_cache(256)
def tiles(layout: Layout, itemsize: int, device: Limits, scaled: bool = False) -> Tiles | None:
    """The sizes whose step is taken to be the shortest, with all blocks resident, one a multiprocessor.

    None where the kernels' columns do not fit on the device. ``scaled``: dropout scales the inputs.

    The inputs' share is made in the kernel for a convolution without stride and dilation, if its weights fit too; an LSTM's is
    one large product of all steps.
    """
    own = not (layout.one_row or scaled) and layout.x.stride == layout.x.dilation == 1
    work = Work("sequence", layout.units, layout.units, layout.x.channels if own else 0)
    return _best(layout, itemsize, device, work) or _best(layout, itemsize, device, work._replace(x_channels=0))


@functools.lru_cache(256)
def tiles_back(layout: Layout, itemsize: int, device: Limits) -> Tiles | None:
    """The same for the steps back."""
    return _best(layout, itemsize, device, Work("back", math.ceil(layout.units / 4), 4 * layout.units, 0, 4))


def _best(layout: Layout, itemsize: int, device: Limits, work: Work) -> Tiles | None:
    fitting = list(_candidates(layout, itemsize, device, work)) if device.cooperative and layout.rows else []
    return min(fitting, key=lambda sizes: sizes.cycles) if fitting else None


def _candidates(layout: Layout, itemsize: int, device: Limits, work: Work) -> Iterator[Tiles]:
    taps = 1 if layout.one_row else layout.h.taps
    names = {1: ("rows", "row"), 3: ("taps3",), 5: ("taps5",)}.get(taps, ("taps",))
    rows = layout.rows if layout.one_row else layout.sample_rows
    for name in (f"{work.kernels}_{kind}" for kind in names):
        for quad_bits in range(6):
            for thread_rows in (1, 2, 4, 8, 16, 32):
                tile_rows = thread_rows * rows_of(name)
                # Halos come from the two neighbours alone; and a tile twice as high as its rows only costs.
                if tile_rows < min(taps - 1, rows) or (thread_rows > 1 and tile_rows >= 2 * rows):
                    continue
                sizes = _sized(layout, itemsize, device, work, name, quad_bits, thread_rows)
                if sizes is not None:
                    yield sizes


def _sized(
    layout: Layout, itemsize: int, device: Limits, work: Work, name: str, quad_bits: int, thread_rows: int
) -> Tiles | None:
    """The other sizes for 2**quad_bits quads a block and thread_rows * ROWS rows a tile; None where that does not fit."""
    tile_rows, taps = thread_rows * rows_of(name), 1 if layout.one_row else layout.h.taps
    groups, group_rows = layout.samples, layout.sample_rows
    if layout.one_row:
        groups, group_rows = math.ceil(layout.rows / tile_rows), tile_rows
    group_tiles = math.ceil(group_rows / tile_rows)
    if group_tiles > 1 and tile_rows % 4:
        return None  # pieces of a tile would begin between two
    column_blocks = math.ceil(work.quads / (1 << quad_bits))
    beside = min(device.processors // column_blocks, groups * group_tiles)
    one = thread_rows << quad_bits  # threads of a slice
    threads = max(WARP, one, one * work.least_slices)
    if not beside or threads > THREADS:
        return None
    while 2 * threads <= THREADS and threads < one * work.channels:
        threads *= 2
    slab_pitch = _rounded(tile_rows + taps - 1)
    slab = min(max(work.channels, work.x_channels), PIECES * threads // (slab_pitch * itemsize // PIECE))
    parts = max(1, threads // max(one, WARP)) * one * rows_of(name) * 4
    reals = ((work.channels + work.x_channels) * taps * 4 << quad_bits) + max(2 * slab * slab_pitch, parts)
    if not slab or reals * itemsize > device.shared:
        return None
    sizes = Tiles(
        name, work.x_channels, taps, groups, group_rows, group_tiles, quad_bits, thread_rows, slab, slab_pitch, threads,
        (column_blocks, beside), reals * itemsize, 0.0,
    )  # fmt: skip
    return sizes._replace(cycles=_cycles(sizes, work, itemsize))


def _rounded(rows: int) -> int:
    return math.ceil(rows / 4) * 4


def _cycles(sizes: Tiles, work: Work, itemsize: int) -> float:
    """Cycles of one step of a block: products, h from the level-2 cache, cells, and the wait for the other blocks."""
    rounds, channels = math.ceil(sizes.groups * sizes.group_tiles / sizes.grid[1]), work.channels + work.x_channels
    lone = 2.5 if rows_of(sizes.name) == 1 else 1.25  # instructions and reads of shared memory beside the multiply-adds
    idle = THREADS / sizes.threads  # fewer warps hide less
    products = sizes.tile_rows * (4 << sizes.quad_bits) * channels * sizes.taps / PRODUCTS * lone * idle * itemsize / 4
    slabs = (math.ceil(work.channels / sizes.slab) + math.ceil(work.x_channels / sizes.slab)) * SLAB
    loads = channels * sizes.slab_pitch * itemsize / LOADED
    meets = sizes.grid[0] > 1 or (sizes.taps > 1 and sizes.group_tiles > 1)
    wait = WAIT + WAIT_A_BLOCK * sizes.grid[0] if meets else ALONE
    return rounds * (products + slabs + loads + FINISH) + wait


def _tiling(sizes: Tiles, pad: int, arrived: Any) -> Any:
    fields = {name: getattr(sizes, name) for name in structs.TILING.names or () if name in Tiles._fields}
    return structs.filled(structs.TILING, arrived=arrived, pad=pad, pitch=sizes.pitch, **fields)[0]


def _counters(sizes: Tiles) -> Any:
    return devices.cupy_module().zeros(sizes.groups * sizes.group_tiles * APART, np.uint32)


def _pad(layout: Layout) -> int:
    return 0 if layout.one_row else layout.h.pad


def _turned_inputs(windows: Windows, sizes: Tiles, x: Any) -> Any:
    """x [T,N,R,C] as [T,N,C,pitch]: a channel's rows side by side behind the zeros that the first taps need."""
    pitch = max(sizes.pitch, _rounded(windows.rows_in + windows.pad))
    out = devices.cupy_module().zeros((*x.shape[:2], windows.channels, pitch), x.dtype)
    out[..., windows.pad : windows.pad + windows.rows_in] = x.swapaxes(-1, -2)
    return out


def _turned_states(layout: Layout, sizes: Tiles, h: Any) -> Any:
    """[2,groups,U,pitch] with h [M,U] in its first half."""
    pad, units = _pad(layout), layout.units
    out = devices.cupy_module().zeros((2, sizes.groups, units, sizes.pitch), h.dtype)
    full = layout.rows // sizes.group_rows
    whole = h[: full * sizes.group_rows].reshape(full, sizes.group_rows, units)
    out[0, :full, :, pad : pad + sizes.group_rows] = whole.swapaxes(1, 2)
    rest = layout.rows - full * sizes.group_rows
    if rest:
        out[0, full, :, pad : pad + rest] = h[full * sizes.group_rows :].T
    return out


def run(layout: Layout, sizes: Tiles, weights: Any, x: Any, z: Any, buffers: Any) -> None:
    """All steps: x [T,N,R,C], or its share z [T,M,4,U] without the bias; ``buffers`` hold the initial states."""
    x_turned = _turned_inputs(layout.x, sizes, x) if z is None else None
    h_turned, arrived = _turned_states(layout, sizes, buffers.h[0]), _counters(sizes)
    cell = buffers.cell(0)
    cell["h_out"], cell["c_out"] = cell["h_in"], cell["c_in"]
    io = structs.filled(
        structs.SEQUENCE_IO,
        cell=cell[0],
        tiles=_tiling(sizes, _pad(layout), arrived),
        z=z,
        bias=weights.bias,
        x=x_turned,
        kernel=weights.kernel,
        recurrent_kernel=weights.recurrent_kernel,
        exchange=h_turned,
        gates_step=0 if buffers.gates is None else layout.rows * 4 * layout.units,
        steps=layout.steps,
        h_slots=len(buffers.h),
        c_slots=len(buffers.c),
        channels=layout.x.channels,
        x_pitch=0 if x_turned is None else x_turned.shape[-1],
    )
    _launch(sizes, io, h_turned.dtype)


def run_back(layout: Layout, sizes: Tiles, weights: Any, cell: Any) -> None:
    """All steps back. ``cell``: the BACK_IO of step 0, whose arrays hold all steps; dh, dc become those of the initial states."""
    dtype = weights.recurrent_kernel.dtype
    dz_turned = devices.cupy_module().zeros((2, sizes.groups, 4 * layout.units, sizes.pitch), dtype)
    arrived = _counters(sizes)
    io = structs.filled(
        structs.SEQUENCE_BACK_IO,
        cell=cell[0],
        tiles=_tiling(sizes, 0 if layout.one_row else layout.h.transposed(4 * layout.units).pad, arrived),
        recurrent_kernel=weights.recurrent_kernel,
        exchange=dz_turned,
        steps=layout.steps,
    )
    _launch(sizes, io, dtype)


def _launch(sizes: Tiles, io: Any, dtype: Any) -> None:
    kernels.run(kernels.Launch(sizes.name, sizes.grid, (sizes.threads,), (io,), sizes.shared, cooperative=True), dtype)
