"""The CPU backend: compiled kernels through ``fastlstm._core``.

Kernels: ``fused`` (gate panels, the cell in the same pass; elementwise activations), ``general`` (pre-activations by GEMM, then
the cell; also activations over an axis), ``stepwise`` (activations that only Python can call).
FASTLSTM_GEMM=auto|blas|packed, read once: ``auto`` takes the packed panels where a SIMD table is in use and BLAS on the generic
one; the others force one.
Verbs and shapes as in ``backends.reference``.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _core, activations
from ..spec import ConvLSTM1DSpec, RecurrentSpec
from . import cpu_training, reference, threads

name = "cpu"

# The numbers of include/fastlstm/arguments.h, in its order.
ACTIVATION_NUMBERS = {
    label: number
    for number, label in enumerate(
        "linear tanh sigmoid relu relu6 leaky_relu elu selu celu exponential gelu hard_sigmoid silu hard_silu hard_tanh "
        "tanh_shrink hard_shrink soft_shrink softplus softsign squareplus sparse_plus sparse_sigmoid log_sigmoid mish "
        "softmax log_softmax sparsemax".split()
    )
}
ROUNDING_NUMBERS = {"float32": 0, "float64": 0, "float16": 1, "bfloat16": 2}
GEMM_CHOICES = ("auto", "blas", "packed")


def _gemm_from_environment() -> str:
    choice = os.environ.get("FASTLSTM_GEMM") or "auto"
    if choice not in GEMM_CHOICES:
        raise ImportError(f"FASTLSTM_GEMM={choice!r} is unknown. Expected one of {GEMM_CHOICES}")
    return choice


GEMM = _gemm_from_environment()


def _has_blas() -> bool:
    return importlib.util.find_spec("scipy") is not None


def _general_path() -> tuple[str, str]:
    """Path of the general kernel, "blas" or "packed", and why."""
    if GEMM == "packed":
        return "packed", "FASTLSTM_GEMM=packed"
    if GEMM == "blas":
        return "blas", "FASTLSTM_GEMM=blas"
    return ("blas", "BLAS of SciPy") if _has_blas() else ("packed", "packed GEMM: SciPy is not installed")


def kernel_for(spec: RecurrentSpec, training: bool = False, gradient: bool = False) -> tuple[str, str]:
    """Kernel that runs a spec, and why: ("fused" | "general" | "stepwise", reason).

    ``training``: dropout is applied in the call; ``gradient``: it is recorded for a backward pass.
    """
    numbers = _activation_numbers(spec)
    if gradient and numbers is not None and not spec.elementwise:
        return "stepwise", "the gradient of an activation over an axis: NumPy, one step after the other"
    if training and spec.separate_dropout_masks and numbers is not None:
        if not spec.elementwise:
            return "stepwise", "dropout masks of the gates with an activation over an axis: NumPy, one step after the other"
        return "fused", f"gate panels on {_core.isa}, each gate with dropout masks of its own"
    if numbers is None:
        return "stepwise", "an activation is a Python callable: NumPy, one step after the other"
    if isinstance(spec, ConvLSTM1DSpec) and spec.axis_over_rows:
        return "stepwise", "an activation acts over the rows (channels_first): NumPy, one step after the other"
    if not spec.elementwise:
        return "general", f"an activation acts over an axis; {_general_path()[1]}"
    if spec.use_cudnn is False:
        return "general", f"use_cudnn=False; {_general_path()[1]}"
    if GEMM == "blas":
        return "general", "FASTLSTM_GEMM=blas"
    if GEMM == "auto" and _core.isa == "generic" and _has_blas():
        return "general", "no SIMD instruction set: BLAS of SciPy"
    return "fused", f"gate panels on {_core.isa}"


def _activation_numbers(spec: RecurrentSpec) -> tuple[int, int] | None:
    names = spec.activation_names()
    if any(label not in ACTIVATION_NUMBERS for label in names):
        return None
    return ACTIVATION_NUMBERS[str(names[0])], ACTIVATION_NUMBERS[str(names[1])]


def prepare(weights: Sequence[np.ndarray], last: Any = None) -> Any:
    """Weights kernel [D,4U], recurrent_kernel [U,4U], bias [4U] (may be absent), packed for the kernels.

    ``last``: what the layer's earlier weights became, whose workspaces these take over.
    """
    return _core.GateWeights(weights[0], weights[1], weights[2] if len(weights) > 2 else None, last)


def lstm_forward(
    spec: RecurrentSpec,
    weights: Any,
    x: np.ndarray,
    h: np.ndarray,
    c: np.ndarray,
    mask: np.ndarray | None = None,
    dropout: reference.DropoutMasks | None = None,
    record: bool = False,
) -> tuple[Any, ...]:
    """All time steps: see ``reference.lstm_forward``."""
    answer = _elsewhere("lstm_forward", spec, weights, (x, h, c), mask, dropout, record)
    if answer is not None:
        return answer
    numbers = _activation_numbers(spec)
    assert numbers is not None
    x, _ = cpu_training.scaled(x, dropout)
    flags = (spec.go_backwards, spec.return_sequences, spec.zero_output_for_mask)
    path = _path_of(kernel_for(spec)[0])
    return _core.lstm_forward(weights, x, h, c, mask, *numbers, ROUNDING_NUMBERS[spec.storage], *flags, path)


def convlstm1d_forward(
    spec: ConvLSTM1DSpec,
    weights: Any,
    x: np.ndarray,
    h: np.ndarray,
    c: np.ndarray,
    mask: np.ndarray | None = None,
    dropout: reference.DropoutMasks | None = None,
    record: bool = False,
) -> tuple[Any, ...]:
    """All time steps: see ``reference.convlstm1d_forward``."""
    answer = _elsewhere("convlstm1d_forward", spec, weights, (x, h, c), mask, dropout, record)
    if answer is not None:
        return answer
    numbers = _activation_numbers(spec)
    assert numbers is not None
    first = spec.channels_first
    rows = tuple(spec.rows(x.shape[-1] if first else x.shape[-2])[1:])
    if first:
        h, c = cpu_training.swapped(h), cpu_training.swapped(c)
    flags = (spec.go_backwards, spec.return_sequences, spec.zero_output_for_mask, first)
    path = _path_of(kernel_for(spec)[0])
    y, h, c = _core.convlstm1d_forward(weights, x, h, c, mask, rows, *numbers, ROUNDING_NUMBERS[spec.storage], *flags, path)
    return (y, cpu_training.swapped(h), cpu_training.swapped(c)) if first else (y, h, c)


def _elsewhere(
    verb: str, spec: RecurrentSpec, weights: Any, arrays: tuple, mask: Any, dropout: Any, record: bool
) -> tuple[Any, ...] | None:
    """The answer of a call that needs a tape or NumPy; None where the compiled forward runs it."""
    numbers = _activation_numbers(spec)
    kernel, _ = kernel_for(spec, training=cpu_training.has_separate_masks(dropout), gradient=record)
    separate = cpu_training.has_separate_masks(dropout)
    if (record or separate) and kernel != "stepwise":
        assert numbers is not None
        rounding, path = ROUNDING_NUMBERS[spec.storage], _path_of(kernel)
        answer = cpu_training.record(spec, weights, arrays, mask, dropout, numbers, rounding, path)
        return answer if record else answer[:3]
    if kernel != "stepwise":
        return None
    plain = cpu_training.plain_weights(weights)
    answer = getattr(reference, verb)(spec, plain, *arrays, mask, dropout, record)
    if record:
        bias = None if plain.bias is None else plain.bias.copy()
        captured = reference.Weights(plain.kernel.copy(), plain.recurrent_kernel.copy(), bias)
        answer = (*answer[:3], cpu_training.ReferenceTape(answer[3], captured))
    return answer


def lstm_backward(spec: RecurrentSpec, weights: Any, tape: Any, dy: Any, dh: Any, dc: Any) -> tuple[Any, ...]:
    """Gradients of a recorded ``lstm_forward``: see ``reference.lstm_backward``. The tape holds the weights of its forward."""
    if isinstance(tape, cpu_training.ReferenceTape):
        return reference.lstm_backward(spec, tape.weights, tape.tape, dy, dh, dc)
    return cpu_training.backward(tape, dy, dh, dc)


def convlstm1d_backward(spec: ConvLSTM1DSpec, weights: Any, tape: Any, dy: Any, dh: Any, dc: Any) -> tuple[Any, ...]:
    """Gradients of a recorded ``convlstm1d_forward``: see ``reference.convlstm1d_backward``."""
    if isinstance(tape, cpu_training.ReferenceTape):
        return reference.convlstm1d_backward(spec, tape.weights, tape.tape, dy, dh, dc)
    return cpu_training.backward(tape, dy, dh, dc)


def _path_of(kernel: str) -> str:
    """The path of ``_core`` that a kernel takes: "fused", "packed" or "blas"."""
    return "fused" if kernel == "fused" else _general_path()[0]


def call_plan(spec: RecurrentSpec, cell: Any, states: Any, return_state: bool, rows_in: int | None = None) -> Any:
    """The short way into the kernels for a built layer (``_core.CallPlan``), or None where calls need the long one.

    None with dropout (its seed counter advances at every call), Python callables, channels first, and where variables or outputs
    are not of the arithmetic dtype. ``rows_in``: R of a convolution.
    """
    kernel, _ = kernel_for(spec)
    dtypes = {variable.dtype for variable in [*cell.weights, *(states or [])]}
    if kernel == "stepwise" or spec.dropout > 0 or spec.recurrent_dropout > 0 or dtypes != {spec.arithmetic} or spec.rounds:
        return None
    numbers = _activation_numbers(spec)
    assert numbers is not None
    counters = (*(variable.writes for variable in cell.weights), cell.changes)
    counts = tuple(counter.value for counter in counters)  # read before the values: a write in between ends the plan
    weights = cell.prepared_weights(sys.modules[__name__])
    flags = (spec.go_backwards, spec.return_sequences, return_state, spec.zero_output_for_mask)
    rows = None
    if isinstance(spec, ConvLSTM1DSpec):
        assert rows_in is not None
        if spec.channels_first:
            return None
        rows = tuple(spec.rows(rows_in))
    return _core.CallPlan(weights, counters, counts, states, rows, *numbers, *flags, _path_of(kernel))


def plan_of_constants(spec: RecurrentSpec, weights: Any) -> Any:
    """The short way into the kernels for an LSTM that no layer holds and whose weights never change: a ``_core.CallPlan`` that
    returns (y, h, c), or None where calls need the long way. ``weights``: what ``prepare`` made."""
    kernel, _ = kernel_for(spec)
    if kernel == "stepwise" or spec.rounds:
        return None
    numbers = _activation_numbers(spec)
    assert numbers is not None
    flags = (spec.go_backwards, spec.return_sequences, True, spec.zero_output_for_mask)
    return _core.CallPlan(weights, (), (), None, None, *numbers, *flags, _path_of(kernel))


def prepare_matrix(matrix: np.ndarray, bias: np.ndarray | None) -> Any:
    """A matrix [K,n] and a bias [n] (or None), packed; plain under FASTLSTM_GEMM=blas."""
    if GEMM == "blas" or 0 in matrix.shape:
        return reference.prepare_matrix(matrix, bias)
    return _core.PackedMatrix(matrix, bias)


def affine(prepared: Any, x: np.ndarray) -> np.ndarray:
    """x [M,K] @ matrix + bias -> a new array [M,n]; on panels each row's bits are the same in any batch."""
    return reference.affine(prepared, x) if isinstance(prepared, tuple) else prepared.affine(x)


def conv1d(prepared: Any, x: np.ndarray, rows: int, taps: int, stride: int, dilation: int) -> np.ndarray:
    """Cross-correlation of x [N,R,C], padded already, with the matrix [taps*C,n] -> [N,rows,n], without im2row on panels."""
    if isinstance(prepared, tuple):
        return reference.conv1d(prepared, x, rows, taps, stride, dilation)
    return prepared.windows(x, rows, taps, stride, dilation)


def activate(activation: Any, x: np.ndarray) -> np.ndarray:
    """An activation applied to a float32 or float64 array: compiled where it has a number, else called."""
    number = ACTIVATION_NUMBERS.get(activations.name_of(activation) or "")
    return activation(x) if number is None else _core.activate(number, x)


def config() -> dict:
    """Facts for ``show_config``: instruction set in use and available, GEMM, BLAS, threads."""
    return {
        "isa": _core.isa,
        "isa_available": _core.isa_available(),
        "gemm": GEMM,
        "blas": "scipy.linalg.cython_blas, loaded on first use" if _has_blas() else "none: SciPy is not installed",
        "threads": threads.get_num_threads(),
    }
