"""Weights on the device, in the layouts that the kernels read."""

from __future__ import annotations

import collections
import functools
import math
import threading
from typing import Any

from ... import devices


class GpuWeights:
    """kernel [D,4U] or [K,C,4F], recurrent_kernel [U,4U] or [K,F,4F], bias [4U] or None, on the device; plans of calls."""

    def __init__(self, kernel: Any, recurrent_kernel: Any, bias: Any):
        self.kernel, self.recurrent_kernel, self.bias = kernel, recurrent_kernel, bias
        self.units = recurrent_kernel.shape[-2]
        self.plans: collections.OrderedDict[Any, Any] = collections.OrderedDict()
        self.lock = threading.Lock()

    @property
    def x_matrix(self) -> Any:
        """[K*C, 4U]."""
        return self.kernel.reshape(math.prod(self.kernel.shape[:-1]), 4 * self.units)

    @property
    def h_matrix(self) -> Any:
        """[K*U, 4U]."""
        return self.recurrent_kernel.reshape(math.prod(self.recurrent_kernel.shape[:-1]), 4 * self.units)

    @functools.cached_property
    def packed_kernel(self) -> Any:
        """[C,K,U,4]."""
        return _packed(self.kernel, self.units)

    @functools.cached_property
    def packed_recurrent_kernel(self) -> Any:
        """[U,K,U,4]."""
        return _packed(self.recurrent_kernel, self.units)

    @functools.cached_property
    def turned_matrix(self) -> Any:
        """[K*4U, U]: the recurrent kernel of the way back."""
        return _turned(self.h_matrix, self.units)

    @functools.cached_property
    def turned_gates(self) -> list[Any]:
        """[K*U, U] of each gate."""
        return [_turned(matrix, self.units) for matrix in self.gates(self.h_matrix)]

    @functools.cached_property
    def packed_turned(self) -> Any:
        """[4U,K,quads,4]: ``turned_matrix`` with units in fours."""
        kernel = self.turned_matrix.reshape(-1, 4 * self.units, self.units).swapaxes(0, 1)
        quads = math.ceil(self.units / 4)
        out = devices.cupy_module().zeros((*kernel.shape[:2], 4 * quads), kernel.dtype)
        out[..., : self.units] = kernel
        return out.reshape(*kernel.shape[:2], quads, 4)

    def gates(self, matrix: Any) -> Any:
        """A matrix [P,4U] as [4,P,U]."""
        return devices.contiguous(matrix.reshape(len(matrix), 4, self.units).swapaxes(0, 1))


def _packed(matrix: Any, units: int) -> Any:
    """A kernel [D,4U] or [K,C,4U] as [C,K,U,4]: the gates of a unit side by side."""
    kernel = matrix.reshape(-1, matrix.shape[-2], 4, units)
    return devices.contiguous(kernel.transpose(1, 0, 3, 2))


def _turned(matrix: Any, units: int) -> Any:
    """[K*U, n] -> [K*n, U] with the taps in reverse: the kernel of the transposed convolution."""
    turned = matrix.reshape(-1, units, matrix.shape[1])[::-1].swapaxes(1, 2)
    return devices.contiguous(turned).reshape(-1, units)
