"""How the kernels of sequence.cu and sequence_back.cu cut rows and columns on a device: such that a step takes the fewest cycles.

Rows come in groups that share nothing (a sample of a ConvLSTM1D, some samples of an LSTM), groups in tiles, columns in quads; see
tiles.cuh. The cycles are estimates.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

from .layout import Layout

THREADS = 256  # of a block at most: launch bounds
PIECES, PIECE = 4, 16  # FL_PIECES, and its bytes
WARP = 32
# Cycles of a step, roughly; nothing has been measured yet.
PRODUCTS = 128  # float32 multiply-adds a cycle of a multiprocessor, where a thread has several rows
LOADED = 64  # bytes a cycle that a multiprocessor gets from the level-2 cache alone
LOADED_BY_ALL = 25  # the same when all of them read
SLAB = 100  # a slab's barrier and the start of its loop
LATENCY = 700  # until weights that are streamed begin to arrive
FINISH = 600  # sums of slices and cells of a tile
WAIT, WAIT_A_BLOCK = 2500, 2  # from the end of a step to the first h of the other blocks; each block's counting
ALONE = 1000  # the same where a block meets no others
LAUNCH = 4000  # the same from one launch of a graph to the next


class Limits(NamedTuple):
    """What a device has: multiprocessors, bytes of shared memory a block may ask for, whether it can launch cooperatively."""

    processors: int
    shared: int
    cooperative: bool


class Work(NamedTuple):
    """What is multiplied in a step: columns in quads, channels of what goes on from step to step and of x (0: its share comes as
    z); the kernels for it, whether they are launched for all steps together, and how many slices of the channels there must be.
    """

    kernels: tuple[str, ...]
    quads: int
    channels: int
    x_channels: int = 0
    least_slices: int = 1
    together: bool = True


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

    @property
    def streamed(self) -> bool:
        """Whether weights come a slab at a time, in every step."""
        return self.name.startswith("streamed")


def rows_of(kernel: str) -> int:
    """ROWS: rows that a thread sums."""
    return 1 if kernel.endswith("_row") else 4


def _own_channels(layout: Layout, scaled: bool) -> int:
    """Channels of x whose share the kernel makes: a convolution's without stride, dilation and dropout (``scaled``).

    An LSTM's is one large product of all steps.
    """
    return 0 if layout.one_row or scaled or layout.x.stride > 1 or layout.x.dilation > 1 else layout.x.channels


@functools.lru_cache(256)
def together(layout: Layout, itemsize: int, device: Limits, scaled: bool = False) -> Tiles | None:
    """For all steps in one launch, with all blocks resident, one a multiprocessor; None where that cannot be."""
    if not device.cooperative:
        return None
    work = Work(("sequence", "streamed"), layout.units, layout.units, _own_channels(layout, scaled))
    return _best(layout, itemsize, device, work)


@functools.lru_cache(256)
def each(layout: Layout, itemsize: int, device: Limits, scaled: bool = False) -> Tiles | None:
    """For a launch for each step; None where not even that fits."""
    work = Work(("streamed",), layout.units, layout.units, _own_channels(layout, scaled), together=False)
    return _best(layout, itemsize, device, work)


@functools.lru_cache(256)
def back(layout: Layout, itemsize: int, device: Limits) -> Tiles | None:
    """For all steps back in one launch."""
    if not device.cooperative:
        return None
    kernels = ("back", "streamed_back")
    return _best(layout, itemsize, device, Work(kernels, math.ceil(layout.units / 4), 4 * layout.units, least_slices=4))


def _best(layout: Layout, itemsize: int, device: Limits, work: Work) -> Tiles | None:
    """Where the weights of x do not fit beside the others, its share comes as z."""
    for channels in dict.fromkeys((work.x_channels, 0)):
        fitting = list(_candidates(layout, itemsize, device, work._replace(x_channels=channels))) if layout.rows else []
        if fitting:
            return min(fitting, key=lambda sizes: sizes.cycles)
    return None


def _candidates(layout: Layout, itemsize: int, device: Limits, work: Work) -> Iterator[Tiles]:
    taps = 1 if layout.one_row else layout.h.taps
    names = {1: ("rows", "row"), 3: ("taps3",), 5: ("taps5",)}.get(taps, ("taps",))
    rows = layout.rows if layout.one_row else layout.sample_rows
    for name in (f"{kernel}_{kind}" for kernel in work.kernels for kind in names):
        for quad_bits in range(7):
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
    column_blocks, all_tiles = math.ceil(work.quads / (1 << quad_bits)), groups * group_tiles
    beside = min(device.processors // column_blocks, all_tiles) if work.together else all_tiles
    one = thread_rows << quad_bits  # threads of a slice
    threads = max(WARP, one, one * work.least_slices)
    if not 0 < beside < 65536 or threads > THREADS:
        return None
    while 2 * threads <= THREADS and threads < one * work.channels:
        threads *= 2
    slab_pitch = rounded(tile_rows + taps - 1)
    slab = min(max(work.channels, work.x_channels), PIECES * threads // (slab_pitch * itemsize // PIECE))
    parts = max(1, threads // max(one, WARP)) * one * rows_of(name) * 4
    a_channel, bias, room = taps * 4 << quad_bits, 4 << quad_bits, device.shared // itemsize
    if name.startswith("streamed"):
        slab = min(slab, (room - bias - parts) // (a_channel + 2 * slab_pitch))
        kept = slab * a_channel
    else:
        kept = (work.channels + work.x_channels) * a_channel
    reals = bias + kept + max(2 * slab * slab_pitch, parts)
    if slab < 1 or reals > room:
        return None
    sizes = Tiles(
        name, work.x_channels, taps, groups, group_rows, group_tiles, quad_bits, thread_rows, slab, slab_pitch, threads,
        (column_blocks, beside), reals * itemsize, 0.0,
    )  # fmt: skip
    return sizes._replace(cycles=_cycles(sizes, work, itemsize, device))


def rounded(rows: int) -> int:
    """Up to a multiple of 4, so that every row of a turned array begins with a piece."""
    return math.ceil(rows / 4) * 4


def _cycles(sizes: Tiles, work: Work, itemsize: int, device: Limits) -> float:
    """Cycles of one step: products, what is read from the level-2 cache, cells, and the way to the next step."""
    blocks, tiles = math.prod(sizes.grid), sizes.groups * sizes.group_tiles
    rounds = math.ceil(tiles / sizes.grid[1]) if work.together else math.ceil(blocks / device.processors)
    channels = work.channels + work.x_channels
    lone = 2.5 if rows_of(sizes.name) == 1 else 1.25  # instructions and reads of shared memory beside the multiply-adds
    idle = THREADS / sizes.threads  # fewer warps hide less
    columns = 4 << sizes.quad_bits
    products = sizes.tile_rows * columns * channels * sizes.taps / PRODUCTS * lone * idle * itemsize / 4
    slabs = math.ceil(work.channels / sizes.slab) + math.ceil(work.x_channels / sizes.slab)
    rate = min(LOADED, LOADED_BY_ALL * device.processors / min(blocks, device.processors))
    # Rows come while the slab before is multiplied; streamed weights when it has been.
    rows = channels * sizes.slab_pitch * itemsize / rate
    weights = slabs * LATENCY + channels * sizes.taps * columns * itemsize / rate if sizes.streamed else 0.0
    tile = max(products + rows / slabs, rows) + weights + slabs * SLAB + FINISH
    if not work.together:
        return rounds * tile + LAUNCH
    meets = sizes.grid[0] > 1 or (sizes.taps > 1 and sizes.group_tiles > 1)
    return rounds * tile + (WAIT + WAIT_A_BLOCK * sizes.grid[0] if meets else ALONE)
