"""Products of matrices: MatMul and Gemm, on a backend's packed matrix where the right one is constant, and integer products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ... import selector
from ...backends import cpu
from .bound import Action, Node, apply, binder, copy, kernel
from .limits import UNASKED, allow
from .registry import Call, maker, operator


class PackedMatrix:
    """A constant matrix [K,n] and bias [n] or None, prepared once for each backend (``prepare_matrix``)."""

    def __init__(self, matrix: np.ndarray, bias: np.ndarray | None = None):
        self.matrix = np.ascontiguousarray(matrix)
        self.bias = None if bias is None else np.ascontiguousarray(bias, dtype=matrix.dtype)
        self._prepared: dict[str, Any] = {}

    def prepared(self, backend: Any) -> Any:
        if backend.name not in self._prepared:
            self._prepared[backend.name] = backend.prepare_matrix(self.matrix, self.bias)
        return self._prepared[backend.name]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """x [...,K] @ matrix + bias -> [...,n]. ValueError where x does not fit."""
        depth, width = self.matrix.shape
        if not x.ndim or x.shape[-1] != depth:
            raise ValueError(f"cannot multiply the shapes {x.shape} and {self.matrix.shape}")
        shape, count = (*x.shape[:-1], width), x.size // depth
        if count * width > UNASKED:
            allow(shape, x.dtype)
        rows = np.ascontiguousarray(x.reshape(count, depth), self.matrix.dtype)
        backend = selector.glue_backend()
        return backend.affine(self.prepared(backend), rows).reshape(shape)

    def bound(self, x: np.ndarray, out: np.ndarray) -> list[Action] | None:
        """What makes ``out`` [...,n] of x; None where the kernels cannot."""
        depth, width = self.matrix.shape
        prepared, z = self.prepared(cpu), out.reshape(-1, 1, width)
        if isinstance(prepared, tuple) or not out.flags.c_contiguous or x.dtype != self.matrix.dtype:
            return None
        rows, actions = in_place(x, (len(z), 1, depth))
        return [*actions, kernel(prepared.bound(rows, z, 1, 1, 1), (rows,), (out,))]


def in_place(x: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, list[Action]]:
    """x in a shape of as many numbers, C-contiguous and aligned: seen so, or copied by an action."""
    if x.flags.c_contiguous and x.flags.aligned:
        return x.reshape(shape), []
    rows = np.array(x, order="C")
    return rows.reshape(shape), [copy(x, rows)]


def packs(matrix: np.ndarray | None) -> bool:
    """Whether a constant can be a PackedMatrix: two axes, float32 or float64, not empty."""
    return matrix is not None and matrix.ndim == 2 and matrix.dtype.name in ("float32", "float64") and matrix.size > 0


def _matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.ndim and b.ndim:
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        allow((*batch, *a.shape[-2:-1], *(b.shape[-1:] if b.ndim > 1 else ())), a.dtype)
    return np.matmul(a, b)


@maker("MatMul", latest=13, heavy=True)
def _make_matmul(call: Call, constants: Sequence[np.ndarray | None]) -> Callable[..., Any]:
    right = constants[1]
    if not packs(right):
        return _matmul
    assert right is not None
    return _Product(PackedMatrix(right))


class _Product:
    """A product with a constant matrix."""

    def __init__(self, packed: PackedMatrix):
        self.packed = packed

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return self.packed(a)


@binder("MatMul")
def _bind_matmul(node: Node) -> list[Action] | None:
    return node.run.packed.bound(node.x, node.out) if isinstance(node.run, _Product) else None


class _Gemm:
    """alpha A B + beta C, A and B transposed where the attributes say so; C is broadcast."""

    def __init__(self, call: Call, constants: Sequence[np.ndarray | None]):
        self.alpha, self.beta, self.turn_a, self._turn_b = (call.attributes[key] for key in ("alpha", "beta", "transA", "transB"))
        right = constants[1]
        self.packed = PackedMatrix(right.T if self._turn_b else right) if right is not None and packs(right) else None

    def __call__(self, a: np.ndarray, b: np.ndarray, c: np.ndarray | None = None) -> Any:
        if a.ndim != 2 or b.ndim != 2:
            raise ValueError(f"needs matrices. Received the shapes {a.shape} and {b.shape}")
        a = a.T if self.turn_a else a
        y = self.packed(a) if self.packed is not None else _matmul(a, b.T if self._turn_b else b)
        if self.alpha != 1:
            y = y * np.asarray(self.alpha).astype(y.dtype)
        if c is None:
            return y
        total = y + (c if self.beta == 1 else c * np.asarray(self.beta).astype(c.dtype))
        if total.shape != y.shape:
            raise ValueError(f"C of shape {c.shape} does not fit a product of shape {y.shape}")
        return total


maker("Gemm", latest=13, heavy=True)(_Gemm)


@binder("Gemm")
def _bind_gemm(node: Node) -> list[Action] | None:
    a, out, run = node.x, node.out, node.run
    assert isinstance(run, _Gemm)
    if run.packed is None or run.alpha != 1 or run.beta != 1:
        return None
    product = run.packed.bound(a.T if run.turn_a else a, out)
    if product is None or len(node.operands) < 3:
        return product
    return [*product, apply(np.add, out, node.operands[2], out=out)]


# -- integers of 8 bits (files quantized by onnxruntime) --------------------------------------------------------------------
@operator("MatMulInteger", latest=10, heavy=True)
def _matmul_integer(
    call: Call, a: np.ndarray, b: np.ndarray, a_zero: np.ndarray | None = None, b_zero: np.ndarray | None = None
) -> Any:
    """(A - a_zero)(B - b_zero) as int32; float64 is exact here, and has a fast product."""
    left, right = a.astype(np.float64), b.astype(np.float64)
    if a_zero is not None:
        left = left - (a_zero[..., None] if a_zero.ndim else a_zero)
    if b_zero is not None:
        right = right - b_zero
    return _matmul(left, right).astype(np.int64).astype(np.int32)


def _blocks(call: Call) -> str | None:
    if call.attributes.get("block_size"):
        return "scales of blocks (block_size) are not supported"
    wanted = call.attributes.get("output_dtype")
    return f"its output_dtype {wanted} is not supported" if wanted else None


def _along(part: np.ndarray, x: np.ndarray, axis: int) -> np.ndarray:
    """A scale or zero point such that it broadcasts against x: a scalar, or one number for each index of ``axis``."""
    if part.ndim == 0 or part.size == 1:
        return part.reshape(())
    if not -x.ndim <= axis < x.ndim or part.shape != (x.shape[axis],):
        raise ValueError(f"a scale or zero point of shape {part.shape} does not fit axis {axis} of {x.shape}")
    return part.reshape([-1 if k == axis % x.ndim else 1 for k in range(x.ndim)])


@operator("DequantizeLinear", latest=28, refuses=_blocks, result=lambda call, given: given[1:2])
def _dequantize(call: Call, x: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None) -> Any:
    """(x - zero) scale in the dtype of the scale."""
    axis = call.attributes.get("axis", 1)
    wide = x.astype(np.int64) - (0 if zero is None else _along(zero, x, axis).astype(np.int64))
    return wide.astype(scale.dtype) * _along(scale, x, axis)


@operator("QuantizeLinear", latest=28, refuses=_blocks, result=lambda call, given: ["uint8"])  # where there is no zero point
def _quantize(call: Call, x: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None) -> Any:
    """x / scale, rounded half to even, + zero, cut to the range of the zero point's dtype."""
    axis, dtype = call.attributes.get("axis", 1), np.dtype(np.uint8) if zero is None else zero.dtype
    units = np.rint(x / _along(scale, x, axis)).astype(np.float64)
    units = units if zero is None else units + _along(zero, x, axis)
    return np.clip(units, np.iinfo(dtype).min, np.iinfo(dtype).max).astype(dtype)


@operator("DynamicQuantizeLinear", latest=11)
def _dynamic_quantize(call: Call, x: np.ndarray) -> Any:
    """x as uint8, with the scale and zero point of its own range, 0 included."""
    low, high = np.float32(min(x.min(initial=0), 0)), np.float32(max(x.max(initial=0), 0))
    scale = np.float32((high - low) / np.float32(255))
    scale = scale if scale else np.float32(1)  # all zeros
    zero = np.uint8(np.clip(np.rint(-low / scale), 0, 255))
    return np.clip(np.rint(x / scale) + np.float32(zero), 0, 255).astype(np.uint8), np.asarray(scale), np.asarray(zero)
