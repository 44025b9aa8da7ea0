"""Which kernel runs a call on the GPU, from shapes and the device's properties; and the sizes of its grid.

All figures here and in ``persistent`` are rules of thumb: no device has been measured yet. They stand in these two files so that
a measurement can replace them.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ... import devices
from ...spec import RecurrentSpec
from . import persistent, structs
from .layout import Layout
from .persistent import Limits

WARP = 32
STEP_ROWS, STEP_DEPTH = 4, 32  # FL_STEP_ROWS, FL_STEP_DEPTH of step.cu
STEP_THREADS = 256
SMALL_STEP = 512 * 512  # rows * units of a step, up to which an LSTM's launches, not its products, are taken to cost most
LAUNCHES = 25000  # cycles that a step of the general kernel takes at least: a GEMM and a cell, launched from Python
SHARE = 0.7  # of a device's multiply-adds that such a GEMM reaches


def limits() -> Limits:
    """Of the current device."""
    cupy = devices.cupy_module()
    attributes = cupy.cuda.Device().attributes
    return Limits(
        int(attributes["MultiProcessorCount"]),
        int(attributes["MaxSharedMemoryPerBlockOptin"]),
        bool(attributes["CooperativeLaunch"]),
    )


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
    one_row = layout.one_row and layout.x.plain
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
    sizes = persistent.tiles(layout, itemsize, device)
    if sizes is not None and sizes.cycles <= general_cycles(layout, itemsize, device):
        return "persistent", "one launch for all steps, the weights in shared memory"
    if layout.one_row and layout.rows * layout.units > SMALL_STEP:
        return "general", "large steps: cuBLAS and the cell, step by step"
    if step_grid(layout, itemsize, device) is not None:
        return "direct", "one launch a step, products and cell together"
    return "general", "the taps reach too far for shared memory: windows, cuBLAS and the cell, step by step"


def path_back(spec: RecurrentSpec, layout: Layout, recurrent_masks: bool, itemsize: int) -> persistent.Tiles | None:
    """The persistent kernel's sizes for the steps back; None: a cell and a GEMM, step by step."""
    if spec.use_cudnn is False or recurrent_masks:
        return None
    device = limits()
    sizes = persistent.tiles_back(layout, itemsize, device)
    return sizes if sizes is not None and sizes.cycles <= general_cycles(layout, itemsize, device) else None


def general_cycles(layout: Layout, itemsize: int, device: Limits) -> float:
    """Cycles of one step with cuBLAS, roughly."""
    products = layout.rows * 4 * layout.units * layout.h.depth
    return max(LAUNCHES, products * itemsize / 4 / (device.processors * persistent.PRODUCTS * SHARE))


def convolution(a: Any, kernel: Any, windows: Any, one_row: bool, samples: int) -> Any:
    """The struct of one product of the direct kernel; an LSTM's samples stand for rows."""
    geometry = windows._replace(rows_in=samples, rows_out=samples) if one_row else windows
    return structs.filled(structs.CONVOLUTION, a=a, kernel=kernel, g=geometry.struct[0])
