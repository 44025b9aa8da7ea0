"""The GPU backend: CUDA kernels through CuPy. Arrays in and out are CuPy arrays; nothing here moves one to or from the host.

Kernels: ``fused`` (persistent: one launch for all steps; direct: one launch a step, captured as a CUDA graph),
``general`` (cuBLAS, then the cell), ``stepwise`` (activations over an axis or of the caller's own: CuPy array code, one step
after the other).
Verbs, shapes and errors as in ``backends.reference``. Importing this module imports no CuPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ... import activations, devices
from ...spec import ConvLSTM1DSpec, RecurrentSpec
from .. import reference
from ..cpu import ACTIVATION_NUMBERS
from . import backward as _backward
from . import choose, kernels
from . import forward as _forward
from .layout import Layout, swapped
from .weights import GpuWeights

name = "gpu"
_ELEMENTWISE = frozenset(label for label in ACTIVATION_NUMBERS if activations.is_elementwise(activations.get(label)))


class _PlainTape(tuple):
    """A tape of the reference backend's code, and the weights of its forward."""

    __slots__ = ()


def kernel_for(spec: RecurrentSpec, x: Any, training: bool = False) -> tuple[str, str]:
    """Kernel that runs a spec on inputs of the shape of ``x``, and why. ``training``: dropout is applied in the call."""
    if not _is_compiled(spec):
        return "stepwise", "an activation acts over an axis or is a Python callable: CuPy, one step after the other"
    if 0 in x.shape:
        return "general", "an empty batch"
    layout = Layout.of(spec, _rows_and_channels(spec, x.shape))
    recurrent = training and spec.recurrent_dropout > 0
    way, why, _ = choose.path(spec, layout, recurrent, spec.arithmetic.itemsize)
    return "general" if way == "general" else "fused", f"{way}: {why}" if way != "general" else why


def _is_compiled(spec: RecurrentSpec) -> bool:
    return all(label in _ELEMENTWISE for label in spec.activation_names())


def _rows_and_channels(spec: RecurrentSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of x as [N,T,R,C]."""
    if not isinstance(spec, ConvLSTM1DSpec):
        return (*shape[:2], 1, shape[2])
    return (*shape[:2], shape[3], shape[2]) if spec.channels_first else shape


def prepare(weights: Sequence[Any], last: Any = None) -> Any:
    """Weights kernel [D,4U], recurrent_kernel [U,4U], bias [4U] (may be absent) on the device; see ``reference.prepare``.

    ValueError for weights that do not belong together, TypeError for host arrays and other dtypes than float32 and float64.
    """
    kernel, recurrent, *bias = weights
    for label, array in zip(("kernel", "recurrent_kernel", "bias"), weights, strict=False):
        _require(array, label)
        if array.dtype != kernel.dtype or array.shape[-1] != 4 * recurrent.shape[-2]:
            raise ValueError(
                f"The weight `{label}` does not belong to a recurrent_kernel of shape {recurrent.shape}, {recurrent.dtype}. "
                f"Received: shape={array.shape}, dtype={array.dtype}"
            )
    return GpuWeights(*[devices.contiguous(a) for a in (kernel, recurrent, *bias)], *[None] * (1 - len(bias)))


def _require(array: Any, label: str, shape: tuple[int, ...] | None = None, dtype: Any = None) -> Any:
    """``array``, C-contiguous. TypeError unless it is a CuPy array of floats, ValueError for another shape or dtype."""
    if not devices.is_on_gpu(array):
        raise TypeError(f"The argument `{label}` must be a CuPy array on the device. Received: {type(array).__name__}")
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"The argument `{label}` must be float32 or float64. Received: dtype={array.dtype}")
    if (shape is not None and array.shape != shape) or (dtype is not None and array.dtype != dtype):
        raise ValueError(
            f"The argument `{label}` must have shape {shape} and dtype {dtype}. Received: {array.shape}, {array.dtype}"
        )
    return devices.contiguous(array)


def lstm_forward(
    spec: RecurrentSpec,
    weights: Any,
    x: Any,
    h: Any,
    c: Any,
    mask: Any = None,
    dropout: reference.DropoutMasks | None = None,
    record: bool = False,
) -> tuple[Any, ...]:
    """All time steps: see ``reference.lstm_forward``."""
    return _run("lstm_forward", spec, weights, (x, h, c), mask, dropout, record)


def convlstm1d_forward(
    spec: ConvLSTM1DSpec,
    weights: Any,
    x: Any,
    h: Any,
    c: Any,
    mask: Any = None,
    dropout: reference.DropoutMasks | None = None,
    record: bool = False,
) -> tuple[Any, ...]:
    """All time steps: see ``reference.convlstm1d_forward``."""
    return _run("convlstm1d_forward", spec, weights, (x, h, c), mask, dropout, record)


def _run(
    verb: str, spec: RecurrentSpec, weights: Any, arrays: tuple[Any, Any, Any], mask: Any, dropout: Any, record: bool
) -> tuple[Any, ...]:
    """A forward on the kernels, or by the reference backend's code on CuPy arrays."""
    if not _is_compiled(spec):
        plain = reference.Weights(weights.kernel, weights.recurrent_kernel, weights.bias)
        answer = getattr(reference, verb)(spec, plain, *arrays, mask, dropout, record)
        return (*answer[:3], _PlainTape((answer[3], plain))) if record else answer
    x, h, c = _channels_last(spec, *arrays)
    conv = isinstance(spec, ConvLSTM1DSpec)
    _check(spec, weights, x, h, c, mask)
    if not conv:
        x, h, c = x[:, :, None], h[:, None], c[:, None]
    inputs, recurrent = (_stacked(spec, masks) for masks in dropout or ((), ()))
    y, h, c, *tape = _forward.forward(spec, weights, x, h, c, mask, (inputs, recurrent), record)
    y, h, c = (a if conv else a[..., 0, :] for a in (y, h, c))
    return (*_channels_last(spec, y, h, c), *tape)


def _channels_last(spec: RecurrentSpec, *arrays: Any) -> Any:
    """Arrays of a channels-first spec with their last two axes swapped; the same function is its own inverse."""
    if isinstance(spec, ConvLSTM1DSpec) and spec.channels_first:
        return tuple(swapped(a) for a in arrays)
    return arrays


def _stacked(spec: RecurrentSpec, masks: Any) -> Any:
    """Dropout masks [N,D] or [N,R,C] in one array [1 or 4,N,R,C]; None where there are none."""
    if not len(masks):
        return None
    together = devices.module_of(masks[0]).stack(list(masks))
    (together,) = _channels_last(spec, together)
    return together if isinstance(spec, ConvLSTM1DSpec) else together[:, :, None]


def _check(spec: RecurrentSpec, weights: Any, x: Any, h: Any, c: Any, mask: Any) -> None:
    """The shapes that memory safety depends on; x [N,T,D] or [N,T,R,C]. ValueError, TypeError for what does not fit."""
    dtype, units = weights.kernel.dtype, spec.units
    channels, samples = weights.kernel.shape[-2], x.shape[0]
    _require(x, "x", (*x.shape[:-1], channels), dtype)
    if x.ndim != (4 if isinstance(spec, ConvLSTM1DSpec) else 3) or x.shape[1] == 0:
        raise ValueError(
            f"The argument `x` must have time steps and as many axes as the layer's input. Received: x.shape={x.shape}"
        )
    taps = spec.kernel_size if isinstance(spec, ConvLSTM1DSpec) else None
    expected = (units, 4 * units) if taps is None else (taps, units, 4 * units)
    if weights.recurrent_kernel.shape != expected:
        raise ValueError(f"The recurrent_kernel must have shape {expected}. Received: {weights.recurrent_kernel.shape}")
    rows = () if taps is None else (spec.rows(x.shape[2]).rows_out,)  # type: ignore[attr-defined]
    for label, state in (("h", h), ("c", c)):
        _require(state, label, (samples, *rows, units), dtype)
    if mask is not None and (not devices.is_on_gpu(mask) or mask.shape != x.shape[:2] or mask.dtype != np.bool_):
        raise ValueError(
            f"The argument `mask` must be a CuPy array of bool of shape {x.shape[:2]}. Received: {type(mask).__name__}"
        )


def lstm_backward(spec: RecurrentSpec, weights: Any, tape: Any, dy: Any, dh: Any, dc: Any) -> tuple[Any, ...]:
    """Gradients of a recorded ``lstm_forward``: see ``reference.lstm_backward``. The tape holds the weights of its forward."""
    if isinstance(tape, _PlainTape):
        return reference.lstm_backward(spec, tape[1], tape[0], dy, dh, dc)
    cotangents = (None if a is None else a[..., None, :] for a in (dy, dh, dc))
    dx, dh0, dc0, gradients = _backward.backward(spec, tape, *cotangents)
    return dx[:, :, 0], dh0[:, 0], dc0[:, 0], gradients


def convlstm1d_backward(spec: ConvLSTM1DSpec, weights: Any, tape: Any, dy: Any, dh: Any, dc: Any) -> tuple[Any, ...]:
    """Gradients of a recorded ``convlstm1d_forward``: see ``reference.convlstm1d_backward``."""
    if isinstance(tape, _PlainTape):
        return reference.convlstm1d_backward(spec, tape[1], tape[0], dy, dh, dc)
    *outer, gradients = _backward.backward(spec, tape, *_channels_last(spec, dy, dh, dc))
    return (*_channels_last(spec, *outer), gradients)


def prepare_matrix(matrix: Any, bias: Any) -> Any:
    """A matrix [K,n] and a bias [n] (or None) as ``affine`` wants them."""
    return matrix, bias


def affine(prepared: Any, x: Any) -> Any:
    """x [M,K] @ matrix + bias -> a new array [M,n]."""
    return reference.affine(prepared, x)


def conv1d(prepared: Any, x: Any, rows: int, taps: int, stride: int, dilation: int) -> Any:
    """Cross-correlation of x [N,R,C], padded already, with the matrix [taps*C,n] -> [N,rows,n]."""
    return reference.conv1d(prepared, x, rows, taps, stride, dilation)


def activate(activation: Any, x: Any) -> Any:
    """An activation applied to a float32 or float64 array: by a kernel where it is elementwise and built in, else called."""
    label = activations.name_of(activation)
    if label not in _ELEMENTWISE or x.dtype not in (np.float32, np.float64):
        return activation(x)
    x = devices.contiguous(x)
    y = devices.module_of(x).empty(x.shape, x.dtype)
    if x.size:
        arguments = (x, y, np.int64(x.size), np.int32(ACTIVATION_NUMBERS[label]))
        kernels.run(kernels.elementwise("activate", x.size, *arguments), x.dtype)
    return y


def config() -> dict[str, Any]:
    """Facts for ``show_config``: the device in use, or why there is none."""
    refusal = devices.gpu_refusal()
    if refusal is not None:
        return {"gpu": f"none: {refusal}"}
    cupy = devices.cupy_module()
    properties, device = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id), choose.limits()
    label = properties["name"].decode()
    return {"gpu": f"{label}, {device.processors} multiprocessors, CuPy {cupy.__version__}"}
