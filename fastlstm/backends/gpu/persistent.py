"""The persistent kernel of sequence.cu: its sizes on a device, and its launch.

Rows come in groups that share nothing (a sample of a ConvLSTM1D, some samples of an LSTM), groups in tiles; see sequence.cu.
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

THREADS = 256  # of a block at most: launch bounds in sequence.cu
PIECES, PIECE = 4, 16  # FL_PIECES, and its bytes
APART = 32  # FL_APART
WARP = 32
# Cycles of a step, roughly; nothing has been measured yet.
PRODUCTS = 128  # float32 multiply-adds a cycle of a multiprocessor, where a thread has several rows
LOADED = 64  # bytes a cycle that a multiprocessor gets from the level-2 cache
SLAB = 100  # a slab's barrier and the start of its loop
FINISH = 600  # sums of slices and cells of a tile
WAIT, WAIT_A_BLOCK = (
    2500,
    2,
)  # the wait between blocks, from the end of a step to the first h of the others; each block's counting
ALONE = 1000  # the same where a block meets no others


class Limits(NamedTuple):
    """What a device has: multiprocessors, bytes of shared memory a block may ask for, whether it can launch cooperatively."""

    processors: int
    shared: int
    cooperative: bool


class Tiles(NamedTuple):
    """How rows and units are cut: fields of sequence_io of the same names, threads of a block, the grid, bytes of memory."""

    name: str
    channels: int  # of x, 0 where its share comes as z
    taps: int
    groups: int
    group_rows: int
    group_tiles: int
    unit_bits: int
    thread_rows: int
    slab: int
    slab_pitch: int
    threads: int
    grid: tuple[int, int]
    shared: int
    cycles: float

    @property
    def pitch(self) -> int:
        """Rows of a group in the turned arrays, with what the last tile reads behind them."""
        return self.group_tiles * self.tile_rows - self.tile_rows + self.slab_pitch

    @property
    def tile_rows(self) -> int:
        return self.thread_rows * rows_of(self.name)


def rows_of(kernel: str) -> int:
    """ROWS: rows that a thread sums."""
    return 1 if kernel == "sequence_row" else 4


@functools.lru_cache(256)
def tiles(layout: Layout, itemsize: int, device: Limits, scaled: bool = False) -> Tiles | None:
    """The sizes whose step is taken to be the shortest, with all blocks resident, one a multiprocessor.

    None where the kernels' columns do not fit on the device. ``scaled``: dropout scales the inputs.

    The inputs' share is made in the kernel for a convolution without stride and dilation, if its weights fit too; an LSTM's is
    one large product of all steps.
    """
    if not device.cooperative or not layout.rows:
        return None
    own = not (layout.one_row or scaled) and layout.x.stride == layout.x.dilation == 1
    for channels in ([layout.x.channels] if own else []) + [0]:
        fitting = list(_candidates(layout, itemsize, device, channels))
        if fitting:
            return min(fitting, key=lambda sizes: sizes.cycles)
    return None


def _candidates(layout: Layout, itemsize: int, device: Limits, channels: int) -> Iterator[Tiles]:
    taps = 1 if layout.one_row else layout.h.taps
    names = {1: ["sequence_rows", "sequence_row"], 3: ["sequence_taps3"], 5: ["sequence_taps5"]}.get(taps, ["sequence_taps"])
    for kernel in names:
        for unit_bits in range(1, 6):
            for thread_rows in (1, 2, 4, 8, 16, 32):
                threads = thread_rows << unit_bits
                tile_rows = thread_rows * rows_of(kernel)
                rows = layout.rows if layout.one_row else layout.sample_rows
                # Halos come from the two neighbours alone; and a tile twice as high as its rows only costs.
                if threads > THREADS or tile_rows < min(taps - 1, rows) or (thread_rows > 1 and tile_rows >= 2 * rows):
                    continue
                sizes = _sized(layout, itemsize, device, channels, taps, kernel, unit_bits, thread_rows)
                if sizes is not None:
                    yield sizes


def _sized(
    layout: Layout, itemsize: int, device: Limits, channels: int, taps: int, kernel: str, unit_bits: int, thread_rows: int
) -> Tiles | None:
    """The other sizes for 2**unit_bits units a block and thread_rows * ROWS rows a tile; None where that does not fit."""
    units, tile_rows = layout.units, thread_rows * rows_of(kernel)
    groups, group_rows = layout.samples, layout.sample_rows
    if layout.one_row:
        groups, group_rows = math.ceil(layout.rows / tile_rows), tile_rows
    group_tiles = math.ceil(group_rows / tile_rows)
    if group_tiles > 1 and tile_rows % 4:
        return None  # pieces of a tile would begin between two
    unit_blocks = math.ceil(units / (1 << unit_bits))
    beside = min(device.processors // unit_blocks, groups * group_tiles)
    if not beside:
        return None
    one = thread_rows << unit_bits  # threads of a slice
    threads = max(WARP, one)
    while 2 * threads <= THREADS and threads < one * units:
        threads *= 2
    slab_pitch = _rounded(tile_rows + taps - 1)
    in_row = slab_pitch * itemsize // PIECE
    slab = min(max(units, channels), PIECES * threads // in_row)
    if not slab:
        return None
    parts = max(1, threads // max(one, WARP)) * one * rows_of(kernel) * 4
    reals = ((units + channels) * taps * 4 << unit_bits) + max(2 * slab * slab_pitch, parts)
    shared = reals * itemsize
    if shared > device.shared:
        return None
    sizes = Tiles(
        kernel, channels, taps, groups, group_rows, group_tiles, unit_bits, thread_rows, slab, slab_pitch, threads,
        (unit_blocks, beside), shared, 0.0,
    )  # fmt: skip
    return sizes._replace(cycles=_cycles(sizes, units, itemsize))


def _rounded(rows: int) -> int:
    return math.ceil(rows / 4) * 4


def _cycles(sizes: Tiles, units: int, itemsize: int) -> float:
    """Cycles of one step of a block: products, h from the level-2 cache, cells, and the wait for the other blocks."""
    channels = sizes.channels
    rounds = math.ceil(sizes.groups * sizes.group_tiles / sizes.grid[1])
    width, depth = 4 << sizes.unit_bits, (units + channels) * sizes.taps
    lone = 2.5 if rows_of(sizes.name) == 1 else 1.2  # instructions and reads of shared memory beside the multiply-adds
    idle = THREADS / sizes.threads  # fewer warps hide less
    products = sizes.tile_rows * width * depth / PRODUCTS * lone * idle * itemsize / 4
    slabs = (math.ceil(units / sizes.slab) + math.ceil(channels / sizes.slab)) * SLAB
    loads = (units + channels) * sizes.slab_pitch * itemsize / LOADED
    meets = sizes.grid[0] > 1 or (sizes.taps > 1 and sizes.group_tiles > 1)
    wait = WAIT + WAIT_A_BLOCK * sizes.grid[0] if meets else ALONE
    return rounds * (products + slabs + loads + FINISH) + wait


def turned(windows: Windows, sizes: Tiles, a: Any) -> Any:
    """x [T,N,R,C] as [T,N,C,pitch]: a channel's rows side by side behind the zeros that the first taps need."""
    pitch = max(sizes.pitch, _rounded(windows.rows_in + windows.pad))
    out = devices.cupy_module().zeros((*a.shape[:2], windows.channels, pitch), a.dtype)
    out[..., windows.pad : windows.pad + windows.rows_in] = a.swapaxes(-1, -2)
    return out


def exchange(layout: Layout, sizes: Tiles, h: Any) -> Any:
    """[2,groups,U,pitch] with h [M,U] in its first half."""
    pad, units = _pad(layout), layout.units
    out = devices.cupy_module().zeros((2, sizes.groups, units, sizes.pitch), h.dtype)
    rows = slice(pad, pad + sizes.group_rows)
    full = layout.rows // sizes.group_rows
    out[0, :full, :, rows] = h[: full * sizes.group_rows].reshape(full, sizes.group_rows, units).swapaxes(1, 2)
    rest = layout.rows - full * sizes.group_rows
    if rest:
        out[0, full, :, pad : pad + rest] = h[full * sizes.group_rows :].T
    return out


def _pad(layout: Layout) -> int:
    return 0 if layout.one_row else layout.h.pad


def run(layout: Layout, sizes: Tiles, weights: Any, x: Any, z: Any, buffers: Any) -> None:
    """All steps: x [T,N,R,C], or its share z [T,M,4,U] without the bias; ``buffers`` hold the initial states."""
    x_turned = turned(layout.x, sizes, x) if z is None else None
    h_turned = exchange(layout, sizes, buffers.h[0])
    arrived = devices.cupy_module().zeros(sizes.groups * sizes.group_tiles * APART, np.uint32)
    cell = buffers.cell(0)
    cell["h_out"], cell["c_out"] = cell["h_in"], cell["c_in"]
    io = structs.filled(
        structs.SEQUENCE_IO,
        cell=cell[0],
        z=z,
        bias=weights.bias,
        x=x_turned,
        kernel=weights.kernel,
        recurrent_kernel=weights.recurrent_kernel,
        exchange=h_turned,
        arrived=arrived,
        gates_step=0 if buffers.gates is None else layout.rows * 4 * layout.units,
        steps=layout.steps,
        h_slots=len(buffers.h),
        c_slots=len(buffers.c),
        pad=_pad(layout),
        pitch=sizes.pitch,
        x_pitch=0 if x_turned is None else x_turned.shape[-1],
        **{name: getattr(sizes, name) for name in Tiles._fields if name in (structs.SEQUENCE_IO.names or ())},
    )
    kernels.run(kernels.Launch(sizes.name, sizes.grid, (sizes.threads,), (io,), sizes.shared, cooperative=True), h_turned.dtype)
