"""RecurrentSpec: one layer's parameters, checked, and all of its shape arithmetic.

The only thing that the backends know of a layer. Letters: N batch, T time, D input features, U units; R rows in, S rows out,
C channels, K kernel width. Made by the cells in ``layers``; read by ``selector`` and ``backends``. Source: keras-spec 2 to 7.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import activations

MAX_NUMBERS = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class RecurrentSpec:
    """What a backend must know to run one layer.

    ``storage`` is the dtype name of outputs and states: "float32" and "float64" are computed as they are; "float16" and
    "bfloat16" are computed in float32 with h, c and the outputs rounded to 16 bits at every step.
    """

    units: int
    activation: Callable
    recurrent_activation: Callable
    use_bias: bool = True
    return_sequences: bool = False
    go_backwards: bool = False
    zero_output_for_mask: bool = False
    unroll: bool = False
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    dropout_masks: int = 1
    use_cudnn: Any = "auto"
    storage: str = "float32"

    @property
    def arithmetic(self) -> np.dtype:
        """The dtype of the arithmetic, float32 or float64."""
        return np.dtype("float64" if self.storage == "float64" else "float32")

    @property
    def rounds(self) -> bool:
        """True where every step's h, c and output are rounded to 16 bits."""
        return self.storage in ("float16", "bfloat16")

    @property
    def separate_dropout_masks(self) -> bool:
        """True where dropout, if applied, has a mask for each gate (keras-spec 8)."""
        return self.recurrent_dropout > 0 or (self.dropout > 0 and self.dropout_masks > 1)

    @property
    def elementwise(self) -> bool:
        """True where both activations act on each number by itself."""
        return activations.is_elementwise(self.activation) and activations.is_elementwise(self.recurrent_activation)

    def activation_names(self) -> tuple[str | None, str | None]:
        """Canonical names of (activation, recurrent_activation); None for a caller's own function."""
        return activations.name_of(self.activation), activations.name_of(self.recurrent_activation)

    def fused_refusal(self, training: bool = False, mask: np.ndarray | None = None) -> str | None:
        """Why Keras would not take its fused kernel (keras-spec 18), or None if it would."""
        names = self.activation_names()
        if names[0] != "tanh":
            return "activation is not tanh"
        if names[1] != "sigmoid":
            return "recurrent_activation is not sigmoid"
        if self.recurrent_dropout > 0:
            return "recurrent_dropout is not 0"
        if training and self.dropout > 0:
            return "dropout is applied"
        if self.unroll:
            return "unroll=True"
        if not self.use_bias:
            return "use_bias=False"
        if mask is not None and not is_right_padded(mask):
            return "the mask is not strictly right-padded"
        return None


class ConvRows(NamedTuple):
    """The rows of a one-dimensional convolution (keras-spec 4.1, 4.2): R rows in, S out, and the zeros around a sample."""

    rows_in: int
    rows_out: int
    stride: int
    dilation: int
    pad_left: int
    padded_rows: int


@dataclasses.dataclass(frozen=True)
class ConvLSTM1DSpec(RecurrentSpec):
    """A RecurrentSpec with rows; ``units`` counts the filters. The recurrent convolution is stride 1, dilation 1, "same"."""

    kernel_size: int = 1
    strides: int = 1
    dilation_rate: int = 1
    padding: str = "valid"
    channels_first: bool = False

    def rows(self, rows_in: int) -> ConvRows:
        """The geometry for ``rows_in`` rows. ValueError where a valid convolution has no output row left."""
        return conv_rows(rows_in, self.kernel_size, self.strides, self.dilation_rate, self.padding)

    @property
    def axis_over_rows(self) -> bool:
        """True where an activation over an axis acts on the rows: channels first (keras-spec 4.2)."""
        return self.channels_first and not self.elementwise


def conv_rows(rows_in: int, taps: int, stride: int, dilation: int, padding: str) -> ConvRows:
    """Output rows and padding of a convolution, by TensorFlow's rule for "same": the odd row of zeros goes to the right."""
    reach = (taps - 1) * dilation + 1
    if stride < 1:
        raise OverflowError(f"Received an invalid value for argument `strides`, expected a positive integer, got {stride}")
    if padding == "same":
        rows_out = -(-rows_in // stride)
        total = max((rows_out - 1) * stride + reach - rows_in, 0)
        return ConvRows(rows_in, rows_out, stride, dilation, total // 2, rows_in + total)
    if padding != "valid":
        raise ValueError(f"Received an invalid value for argument `padding`, expected 'valid' or 'same', got {padding!r}")
    rows_out = (rows_in - reach) // stride + 1
    if rows_out < 1:
        raise ValueError(
            f"The input has too few rows for a valid convolution: expected at least {reach} (kernel_size={taps}, "
            f"dilation_rate={dilation}), got {rows_in}"
        )
    return ConvRows(rows_in, rows_out, stride, dilation, 0, rows_in)


def is_right_padded(mask: np.ndarray) -> bool:
    """True if every row of a bool mask [N,T] starts with a valid step and has no valid step after a masked one."""
    return bool(mask[:, 0].all() and not (mask[:, 1:] & ~mask[:, :-1]).any())


def weight_shapes(features: int, units: int) -> tuple[tuple[int, int], tuple[int, int], tuple[int]]:
    """Shapes of kernel [D,4U], recurrent_kernel [U,4U], bias [4U]."""
    return (features, 4 * units), (units, 4 * units), (4 * units,)


def check_weight_sizes(shapes: Sequence[tuple[int, ...]], units: int, name: str) -> None:
    """ValueError, naming the argument, where a weight would hold more numbers than ``MAX_NUMBERS``: BLAS counts in 32 bits."""
    for shape in shapes:
        if math.prod(shape) > MAX_NUMBERS:
            raise ValueError(
                f"Received an invalid value for argument `{name}`, expected weights of at most {MAX_NUMBERS} numbers, "
                f"got {name}={units}, which with this input needs a weight of shape {shape}"
            )


def output_shape(spec: RecurrentSpec, batch: Any, steps: Any) -> tuple:
    """[N,T,U] with return_sequences, else [N,U]; entries may be None."""
    return (batch, steps, spec.units) if spec.return_sequences else (batch, spec.units)


# -- validation of constructor arguments (keras-spec 3) -----------------------------------------------------------
def check_units(value: Any, name: str = "units") -> Any:
    """``value`` if it is a number above 0. ValueError for 0 and below, TypeError for what cannot be compared with 0."""
    try:
        refused = bool(value <= 0)
    except (TypeError, ValueError):  # ValueError: an array of several numbers
        raise TypeError(f"Received an invalid type for argument `{name}`, expected a positive integer, got {value!r}") from None
    if refused:
        raise ValueError(f"Received an invalid value for argument `{name}`, expected a positive integer, got {value}")
    return value


def as_count(value: Any, name: str) -> int:
    """``value`` as an int at build time. ValueError for 2.5 or 3.0, which Keras takes at construction and refuses at build."""
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"Received an invalid value for argument `{name}`, expected an integer, got {value!r}") from None


def clip_rate(value: Any, name: str) -> Any:
    """A dropout rate clipped to [0, 1] as Keras does it: same type as ``min``/``max`` return. TypeError for None and strings."""
    try:
        return min(1.0, max(0.0, value))
    except (TypeError, ValueError):  # ValueError: an array of several numbers
        raise TypeError(f"Received an invalid type for argument `{name}`, expected a number in [0, 1], got {value!r}") from None


def check_use_cudnn(value: Any) -> Any:
    """ValueError unless ``value`` is "auto", True or False."""
    if isinstance(value, np.ndarray) or value not in ("auto", True, False):
        raise ValueError(
            "Invalid value received for argument `use_cudnn`. Expected one of {'auto', True, False}. "
            f"Received: use_cudnn={value!r}"
        )
    return value
