"""Which kernel runs a call on the GPU, from shapes and the device's properties.

All figures here and in ``tiles`` are rules of thumb: no device has been measured yet. They stand in these two files so that a
measurement can replace them.
"""

from __future__ import annotations

from typing import NamedTuple

from ... import devices
from ...spec import RecurrentSpec
from . import tiles
from .layout import Layout
from .tiles import Limits

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


class Choice(NamedTuple):
    """``way``: "persistent", "direct" or "general"; why; and, but for the last, how rows and columns are cut."""

    way: str
    why: str
    sizes: tiles.Tiles | None = None


def path(spec: RecurrentSpec, layout: Layout, recurrent_masks: bool, itemsize: int, scaled: bool = False) -> Choice:
    """How a forward is computed. ``scaled``: dropout scales the inputs."""
    if spec.use_cudnn is False:
        return Choice("general", "use_cudnn=False: cuBLAS and the cell, step by step")
    if recurrent_masks:
        return Choice("general", "each gate has a recurrent dropout mask of its own: cuBLAS and the cell, step by step")
    device = limits()
    found = []
    for way, launches, fit in (("persistent", "for all steps", tiles.together), ("direct", "a step", tiles.each)):
        sizes = fit(layout, itemsize, device, scaled)
        if sizes is not None:
            where = "a slab of the weights at a time" if sizes.streamed else "the weights in shared memory"
            found.append((sizes.cycles, Choice(way, f"one launch {launches}, {where}", sizes)))
    cycles, best = min(found, key=lambda pair: pair[0], default=(float("inf"), None))
    if best is None or cycles > general_cycles(layout, itemsize, device):
        return Choice("general", "large steps: cuBLAS and the cell, step by step")
    return best


def path_back(spec: RecurrentSpec, layout: Layout, recurrent_masks: bool, itemsize: int) -> tiles.Tiles | None:
    """Sizes for all steps back in one launch; None: a cell and a GEMM, step by step."""
    if spec.use_cudnn is False or recurrent_masks:
        return None
    device = limits()
    sizes = tiles.back(layout, itemsize, device)
    return sizes if sizes is not None and sizes.cycles <= general_cycles(layout, itemsize, device) else None


def general_cycles(layout: Layout, itemsize: int, device: Limits) -> float:
    """Cycles of one step with cuBLAS, roughly."""
    products = layout.rows * 4 * layout.units * layout.h.depth
    return max(LAUNCHES, products * itemsize / 4 / (device.processors * tiles.PRODUCTS * SHARE))
