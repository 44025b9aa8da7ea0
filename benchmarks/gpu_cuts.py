"""Times every cut of rows and columns that the kernels of sequence.cu could take, beside the estimate that chooses among them.

``python -m benchmarks.gpu_cuts n1-u512 mid``: of each case the steps of a forward by themselves, all in one launch, by device
events. What the figures in ``fastlstm/backends/gpu/tiles.py`` should be, is fitted to this table.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np

from benchmarks.bench_gpu import ALL, device_seconds
from benchmarks.cases import Case
from fastlstm import devices
from fastlstm.backends import gpu
from fastlstm.backends.gpu import choose, kernels, sequence, tiles
from fastlstm.backends.gpu.buffers import Buffers, project
from fastlstm.backends.gpu.layout import Layout, time_major


def cuts(case: Case) -> list[tiles.Tiles]:
    """All sizes that fit, the best estimate first."""
    layout, itemsize = layout_of(case), np.dtype(case.dtype).itemsize
    own = tiles.together(layout, itemsize, choose.limits())
    work = tiles.Work(("sequence", "streamed"), layout.units, layout.units, own.x_channels if own else 0)
    return sorted(tiles._candidates(layout, itemsize, choose.limits(), work), key=lambda sizes: sizes.cycles)


def layout_of(case: Case) -> Layout:
    rows = 1 if case.layer == "LSTM" else case.rows
    return Layout.of(case.make_layer().spec, (case.batch, case.steps, rows, case.features))


def measure(case: Case, sizes: tiles.Tiles, repeats: int) -> tuple[float, float]:
    """(Seconds a step, largest difference of the last h to that of the layer's own call)."""
    cupy, layer, layout = devices.cupy_module(), case.make_layer(), layout_of(case)
    spec = layer.spec
    weights = gpu.prepare([cupy.asarray(w) for w in case.weights()])
    x = cupy.asarray(case.inputs())
    xs = time_major(x if case.layer != "LSTM" else x[:, :, None], backwards=False)
    buffers = Buffers(spec, layout, None, xs.dtype, record=False)
    state = cupy.zeros((layout.samples, layout.sample_rows, layout.units), xs.dtype)
    z = None if sizes.x_channels else project(layout, weights, xs, None, with_bias=False)
    steps = sequence.Steps(layout, sizes, weights, buffers, together=True, z=z)
    (launch,) = steps.launches()

    def start() -> None:
        buffers.start(state, state)
        steps.fill(xs)

    def run() -> None:
        kernels.run(launch, xs.dtype)

    start()
    run()
    want = layer(x)[:, -1] if case.return_sequences else layer(x)
    want = want[0] if isinstance(want, tuple) else want
    error = float(abs(buffers.results()[1].reshape(want.shape) - want).max())
    return device_seconds(run, repeats, start) / case.steps, error


def table(case: Case, count: int, repeats: int) -> bool:
    """Prints the first ``count`` cuts; False where one computes something else."""
    print(f"{case.name}: {case}")
    print(f"{'kernel':<16}{'quads':>6}{'rows':>6}{'grid':>12}{'KiB':>6}{'estimate':>12}{'µs a step':>11}   error")
    sound = True
    for sizes in cuts(case)[:count]:
        seconds, error = measure(case, sizes, repeats)
        grid = f"{sizes.grid[0]} x {sizes.grid[1]}"
        print(
            f"{sizes.name:<16}{1 << sizes.quad_bits:>6}{sizes.tile_rows:>6}{grid:>12}{sizes.shared >> 10:>6}"
            f"{sizes.cycles:>12.0f}{1e6 * seconds:>11.2f}   {error:.0e}",
            flush=True,
        )
        sound = sound and error < 1e-4
    return sound


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("cases", nargs="+", help=f"names of workloads: {' '.join(ALL)}")
    parser.add_argument("--count", type=int, default=12, help="how many cuts of each, the best estimates first")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args(arguments)
    refusal = devices.gpu_refusal()
    if refusal is not None:
        print(f"there is nothing to measure: {refusal}", file=sys.stderr)
        return 2
    sound: list[Any] = [table(ALL[name], options.count, options.repeats) for name in options.cases]
    return int(not all(sound))


if __name__ == "__main__":
    sys.exit(main())
