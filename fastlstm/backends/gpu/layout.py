"""Shapes of one call on the GPU, for LSTM and ConvLSTM1D alike, and windows of rows for the products that are GEMMs.

Inside this backend arrays are time-major and in processing order, so that a step is one contiguous piece: x [T,N,R,C], mask
[T,N], z and dz [T,M,4,U], with M = N*S rows a step. An LSTM has R = S = 1, C = D and one tap.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ... import devices
from ...spec import ConvLSTM1DSpec, RecurrentSpec, conv_rows
from . import kernels, structs

# Bytes that the windows of a part of the steps may take: a long sequence is unrolled in several parts.
WINDOW_BYTES = 256 * 1024 * 1024


class Windows(NamedTuple):
    """The rows of a convolution: R in, S out, C channels, K taps; row s of the output starts at row s*stride - pad."""

    rows_in: int
    rows_out: int
    channels: int
    taps: int
    stride: int
    dilation: int
    pad: int

    @property
    def depth(self) -> int:
        """K*C: the numbers of one window."""
        return self.taps * self.channels

    @property
    def plain(self) -> bool:
        """True where each window is a row of the input."""
        return self.taps == 1 and self.stride == 1 and self.pad == 0

    @property
    def struct(self) -> np.ndarray:
        return structs.filled(structs.GEOMETRY, **self._asdict())

    def gather(self, a: Any) -> Any:
        """The windows [B*S, K*C] of a [B,R,C]; a view of it where they are plain."""
        batch = a.shape[0]
        if self.plain:
            return a.reshape(batch * self.rows_in, self.channels)
        out = devices.module_of(a).empty((batch * self.rows_out, self.depth), a.dtype)
        if out.size:
            a = devices.contiguous(a)
            kernels.run(kernels.elementwise("gather_windows", out.size, a, out, np.int64(batch), self.struct), a.dtype)
        return out

    def scatter(self, windows: Any) -> Any:
        """The adjoint: [B*S, K*C] -> [B,R,C], each row the sum of its places in the windows."""
        batch = windows.shape[0] // self.rows_out
        if self.plain:
            return windows.reshape(batch, self.rows_in, self.channels)
        a = devices.module_of(windows).empty((batch, self.rows_in, self.channels), windows.dtype)
        if a.size:
            launch = kernels.elementwise("scatter_windows", a.size, devices.contiguous(windows), a, np.int64(batch), self.struct)
            kernels.run(launch, a.dtype)
        return a

    def transposed(self, channels: int) -> Windows:
        """The windows of a cotangent with ``channels`` channels whose product with the turned kernel is that of the rows in.

        For the recurrent convolution alone: stride 1, dilation 1.
        """
        return Windows(self.rows_out, self.rows_in, channels, self.taps, 1, 1, self.taps - 1 - self.pad)


class Layout(NamedTuple):
    """T steps of N samples; ``x`` and ``h``: the windows of the two products."""

    steps: int
    samples: int
    units: int
    x: Windows
    h: Windows

    @property
    def sample_rows(self) -> int:
        """S: rows of one sample."""
        return self.h.rows_out

    @property
    def rows(self) -> int:
        """M: rows of one step."""
        return self.samples * self.sample_rows

    @property
    def one_row(self) -> bool:
        """One row a sample and one tap, as in an LSTM: samples may stand for rows."""
        return self.sample_rows == 1 and self.h.plain

    @classmethod
    def of(cls, spec: RecurrentSpec, shape: tuple[int, ...]) -> Layout:
        """For x of ``shape`` [N,T,R,C] (channels last; an LSTM's is [N,T,1,D])."""
        samples, steps, rows, channels = shape
        if not isinstance(spec, ConvLSTM1DSpec):
            return cls(steps, samples, spec.units, Windows(1, 1, channels, 1, 1, 1, 0), Windows(1, 1, spec.units, 1, 1, 1, 0))
        outer = spec.rows(rows)
        inner = conv_rows(outer.rows_out, spec.kernel_size, 1, 1, "same")
        geometry = [(g.rows_in, g.rows_out, spec.kernel_size, g.stride, g.dilation, g.pad_left) for g in (outer, inner)]
        x, h = (
            Windows(rows_in, rows_out, count, taps, stride, dilation, pad)
            for (rows_in, rows_out, taps, stride, dilation, pad), count in zip(geometry, (channels, spec.units), strict=True)
        )
        return cls(steps, samples, spec.units, x, h)


def parts(steps: int, bytes_a_step: int) -> list[slice]:
    """The steps in parts whose windows take at most ``WINDOW_BYTES``."""
    size = max(1, WINDOW_BYTES // max(bytes_a_step, 1))
    return [slice(begin, min(begin + size, steps)) for begin in range(0, steps, size)]


def time_major(a: Any, backwards: bool, own: bool = False) -> Any:
    """[N,T,…] -> [T,N,…] in processing order, contiguous. ``own``: a new array in any case."""
    turned = a.swapaxes(0, 1)
    turned = turned[::-1] if backwards else turned
    return turned.copy() if own else devices.contiguous(turned)


def batch_major(a: Any, backwards: bool) -> Any:
    """The way back: [T,N,…] in processing order -> [N,T,…]."""
    return devices.contiguous((a[::-1] if backwards else a).swapaxes(0, 1))


def joined(a: Any) -> Any:
    """[T,N,R,C] -> [T*N,R,C]."""
    return a.reshape(a.shape[0] * a.shape[1], *a.shape[2:])


def swapped(a: Any) -> Any:
    """The last two axes swapped, contiguous: channels first <-> channels last; None stays None."""
    return None if a is None else devices.contiguous(a.swapaxes(-1, -2))
