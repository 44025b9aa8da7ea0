"""Weights on the device, in the layouts that the kernels read."""

from __future__ import annotations

import collections
import functools
import math
import threading
from typing import Any

from ... import devices
from . import sequence


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
        return sequence.packed(self.kernel, self.units)

    @functools.cached_property
    def packed_recurrent_kernel(self) -> Any:
        """[U,K,U,4]."""
        return sequence.packed(self.recurrent_kernel, self.units)

    @functools.cached_property
    def turned_recurrent_kernel(self) -> Any:
        """[4U,K,quads,4], of the way back."""
        return sequence.turned(self.recurrent_kernel, self.units)

    def gates(self, matrix: Any) -> Any:
        """A matrix [P,4U] as [4,P,U]."""
        return devices.contiguous(matrix.reshape(len(matrix), 4, self.units).swapaxes(0, 1))
