"""Calls that are repeated: their arrays, structs and launches are kept beside the weights, so that little is left to do for each.

The launches of one step each are one CUDA graph.
"""

from __future__ import annotations

from typing import Any

from ... import devices
from ...spec import RecurrentSpec
from . import kernels, sequence, structs
from .buffers import Buffers, project
from .layout import Layout
from .tiles import Tiles
from .weights import GpuWeights

KEPT = 8  # plans of one layer's weights
KEPT_BYTES = 64 * 1024 * 1024  # of a plan's arrays: what is larger takes its time on the device


def worth(spec: RecurrentSpec, layout: Layout, itemsize: int) -> bool:
    """Whether a plan of such a call is kept."""
    inputs = layout.samples * layout.x.rows_in * layout.x.channels
    a_step = inputs + layout.rows * layout.units * (4 + bool(spec.return_sequences))
    return layout.rows > 0 and layout.steps * a_step * itemsize <= KEPT_BYTES


class Plan:
    """The launches of a call over arrays of its own: a call copies in, launches once and copies out."""

    def __init__(self, steps: sequence.Steps):
        self.steps, self.launches, self.graph = steps, steps.launches(), None
        if steps.arrived is None:
            kernels.ready(self.launches[0], self.dtype)  # compiles, which must not happen during the capture
            stream = devices.cupy_module().cuda.Stream(non_blocking=True)
            with stream:
                stream.begin_capture()
                self._launch()
                self.graph = stream.end_capture()

    @property
    def dtype(self) -> Any:
        return self.steps.buffers.h.dtype

    def _launch(self) -> None:
        for launch in self.launches:
            kernels.run(launch, self.dtype)

    def run(self, x: Any, h: Any, c: Any, mask: Any) -> tuple[Any, Any, Any]:
        steps, buffers = self.steps, self.steps.buffers
        if steps.z is not None:
            project(steps.layout, steps.weights, x, None, with_bias=False, out=steps.z)
        if mask is not None:
            buffers.mask[...] = mask
        buffers.start(h, c)
        steps.fill(x)
        if self.graph is not None:
            self.graph.launch()
            y, h, c = buffers.results()
            return (y.copy() if buffers.spec.return_sequences else y), h, c
        if buffers.y is not None:  # the caller's own, so that it need not be copied
            buffers.y = devices.cupy_module().empty(buffers.y.shape, self.dtype)
            self.launches[0].arguments[0]["cell"]["y"] = structs.pointer(buffers.y)
        self._launch()
        return buffers.results()


def run(
    spec: RecurrentSpec, layout: Layout, sizes: Tiles, weights: GpuWeights, x: Any, h: Any, c: Any, mask: Any, together: bool
) -> tuple[Any, Any, Any]:
    """A call without a tape; its plan is made once for each shape, dtype and set of flags."""
    cuda = devices.cupy_module().cuda
    # Two streams may run at once, so that each has arrays of its own.
    key = (spec, layout, x.dtype, mask is None, cuda.Device().id, cuda.get_current_stream().ptr, together)
    with weights.lock:
        plan = weights.plans.get(key)
        if plan is None:
            buffers = Buffers(spec, layout, None if mask is None else mask.copy(), x.dtype, record=False)
            z = None if sizes.x_channels else project(layout, weights, x, None, with_bias=False)
            plan = weights.plans[key] = Plan(sequence.Steps(layout, sizes, weights, buffers, together, z))
            if len(weights.plans) > KEPT:
                weights.plans.popitem(last=False)
        weights.plans.move_to_end(key)
        return plan.run(x, h, c, mask)
