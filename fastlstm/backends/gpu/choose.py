"""Which kernel runs a call on the GPU, from shapes and the device's properties; and the sizes of its grid.

All figures here are rules of thumb: no device has been measured yet. They stand in this one file so that a measurement can
replace them.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

from ... import devices
from ...spec import RecurrentSpec
from . import structs
from .layout import Layout

WARP = 32
SEQUENCE_WARPS = 8  # of a block of the persistent kernel at most: launch bounds in sequence.cu
SEQUENCE_ROWS = (8, 4, 2, 1)  # samples that a warp takes at once: the kernels sequence_1 to sequence_8
MAX_GROUP_ROWS = 256  # samples of one group of blocks, beyond which GEMMs are taken to be ahead
LOADED = 64  # bytes a cycle that a multiprocessor gets from the level-2 cache
WAIT, WAIT_A_BLOCK = 1000, 8  # cycles that a wait between blocks takes, and each block's counting
STEP_ROWS, STEP_DEPTH = 4, 32  # FL_STEP_ROWS, FL_STEP_DEPTH of step.cu
STEP_THREADS = 256
SMALL_STEP = 512 * 512  # rows * units of a step, up to which an LSTM's launches, not its products, are taken to cost most


class Limits(NamedTuple):
    """What a device has: multiprocessors, bytes of shared memory a block may ask for, whether it can launch cooperatively."""

    processors: int
    shared: int
    cooperative: bool


def limits() -> Limits:
    """Of the current device."""
    cupy = devices.cupy_module()
    attributes = cupy.cuda.Device().attributes
    return Limits(
        int(attributes["MultiProcessorCount"]),
        int(attributes["MaxSharedMemoryPerBlockOptin"]),
        bool(attributes["CooperativeLaunch"]),
    )


class SequenceGrid(NamedTuple):
    """The persistent kernel's sizes: units a block, samples a group and a warp, the grid, threads, bytes of shared memory."""

    block_units: int
    group_rows: int
    rows: int
    grid: tuple[int, int]
    threads: int
    shared: int


@functools.lru_cache(256)
def sequence_grid(samples: int, units: int, itemsize: int, device: Limits) -> SequenceGrid | None:
    """Sizes with all blocks resident, one a multiprocessor; None where the recurrent kernel does not fit on the device.

    Of the sizes that fit, those whose step is taken to be the shortest.
    """
    if not device.cooperative or not samples:
        return None
    found = [_grid_of(samples, units, block_units, itemsize, device) for block_units in (8, 4, 2, 1)]
    fitting = [grid for grid in found if grid is not None]
    return min(fitting, key=lambda grid: _cycles(grid, units, itemsize)) if fitting else None


def _grid_of(samples: int, units: int, block_units: int, itemsize: int, device: Limits) -> SequenceGrid | None:
    """With ``block_units`` units a block, and as many groups of samples as there are multiprocessors for."""
    blocks = math.ceil(units / block_units)
    if blocks > device.processors:
        return None
    group_rows = math.ceil(samples / min(device.processors // blocks, samples))
    if group_rows > MAX_GROUP_ROWS:
        return None
    for rows in (r for r in SEQUENCE_ROWS if r <= group_rows):
        warps = min(SEQUENCE_WARPS // block_units, math.ceil(group_rows / rows))
        shared = (4 * block_units + warps * rows) * units * itemsize
        if shared <= device.shared:
            grid = (blocks, math.ceil(samples / group_rows))
            return SequenceGrid(block_units, group_rows, rows, grid, WARP * block_units * warps, shared)
    return None


def _cycles(grid: SequenceGrid, units: int, itemsize: int) -> float:
    """Cycles of one step of a block, roughly: reads of shared memory, h from the level-2 cache, the wait for the other blocks."""
    reads = grid.block_units * math.ceil(grid.group_rows / grid.rows) * math.ceil(units / WARP) * (4 + grid.rows)
    return reads * itemsize / 4 + grid.group_rows * units * itemsize / LOADED + WAIT + WAIT_A_BLOCK * grid.grid[0]


class StepGrid(NamedTuple):
    """The direct kernel's sizes: grid, block, bytes of shared memory."""

    grid: tuple[int, int, int]
    block: tuple[int, int]
    shared: int


def step_grid(layout: Layout, itemsize: int, device: Limits) -> StepGrid | None:
    """None where the halo of the taps does not fit into shared memory. An LSTM's samples are the rows of one tile."""
    width = 8
    while width < WARP and width < layout.units:
        width *= 2
    one_row = layout.sample_rows == 1 and layout.x.plain and layout.h.plain
    rows, samples = (layout.samples, 1) if one_row else (layout.sample_rows, layout.samples)
    high = max(1, min(STEP_THREADS // width, math.ceil(rows / STEP_ROWS)))
    tile = high * STEP_ROWS
    reach = max((tile - 1) * g.stride + (g.taps - 1) * g.dilation + 1 for g in (layout.x, layout.h))
    shared = (reach + 4 * width) * STEP_DEPTH * itemsize
    grid = (math.ceil(layout.units / width), math.ceil(rows / tile), samples)
    return StepGrid(grid, (width, high), shared) if shared <= device.shared and max(grid[1:]) < 65536 else None


def path(spec: RecurrentSpec, layout: Layout, recurrent_masks: bool, itemsize: int) -> tuple[str, str]:
    """("persistent" | "direct" | "general", why)."""
    if spec.use_cudnn is False:
        return "general", "use_cudnn=False: cuBLAS and the cell, step by step"
    if recurrent_masks:
        return "general", "each gate has a recurrent dropout mask of its own: cuBLAS and the cell, step by step"
    device = limits()
    is_lstm = layout.h.plain and layout.x.plain and layout.sample_rows == 1
    if is_lstm and sequence_grid(layout.samples, layout.units, itemsize, device) is not None:
        return "persistent", "one launch for all steps, the recurrent kernel in shared memory"
    if is_lstm and layout.rows * layout.units > SMALL_STEP:
        return "general", "large steps: cuBLAS and the cell, step by step"
    if step_grid(layout, itemsize, device) is not None:
        return "direct", "one launch a step, products and cell together"
    return "general", "the taps reach too far for shared memory: windows, cuBLAS and the cell, step by step"


def convolution(a: Any, kernel: Any, windows: Any, one_row: bool, samples: int) -> Any:
    """The struct of one product of the direct kernel; an LSTM's samples stand for rows."""
    geometry = windows._replace(rows_in=samples, rows_out=samples) if one_row else windows
    return structs.filled(structs.CONVOLUTION, a=a, kernel=kernel, g=geometry.struct[0])
