"""Conv1D: activation(cross-correlation of the steps with a kernel + bias) (terms of ``keras.layers.Conv1D``).

In terms of Layer, ``windows`` and a backend's packed matrix (``prepare_matrix``, ``conv1d``). Source: keras-spec 4.1, 4.2.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import activations, constraints, devices, initializers, regularizers, selector
from ..arrays import cast, check_rank
from ..variable import Variable
from . import windows
from .base import Layer
from .checks import check_axis, data_format_of, int_tuple, known_size, one_of, positive_int, refuse
from .gradients import activated
from .prepared import Prepared


class Conv1D(Layer):
    """[N,T,C] -> [N,S,F]; with ``data_format="channels_first"`` [N,C,T] -> [N,F,S]. The mask ends here, as in Keras.

    Arguments as in Keras 3, same order and defaults; ``lora_rank`` and ``lora_alpha`` are accepted as None only. ``padding``:
    "valid", "same" (an odd zero goes to the right) or "causal" (all zeros on the left), upper or lower case. Weights: kernel
    [K,C/groups,F], bias [F] (with ``use_bias``). An activation over an axis takes the last one of the output as it lies there.
    ValueError for sizes that are no positive integers, strides and dilation both above 1, filters or channels that ``groups``
    does not divide, inputs without three axes or shorter than the kernel, and other channels than the layer was built for.
    """

    runs_on_gpu = True

    kernel: Variable
    bias: Variable | None

    def __init__(
        self,
        filters: Any,
        kernel_size: Any,
        strides: Any = 1,
        padding: Any = "valid",
        data_format: Any = None,
        dilation_rate: Any = 1,
        groups: Any = 1,
        activation: Any = None,
        use_bias: Any = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ):
        refuse("Conv1D", lora_rank=kwargs.pop("lora_rank", None), lora_alpha=kwargs.pop("lora_alpha", None))
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.filters, self.groups = positive_int(filters, "filters"), positive_int(groups, "groups")
        self.kernel_size = int_tuple(kernel_size, 1, "kernel_size")
        self.strides = int_tuple(strides, 1, "strides")
        self.dilation_rate = int_tuple(dilation_rate, 1, "dilation_rate")
        self.padding = one_of(padding, "padding", windows.PADDINGS)
        self.data_format = data_format_of(data_format)
        if self.filters % self.groups:
            raise ValueError(
                f"The number of filters must be divisible by the number of groups. Received: groups={groups}, filters={filters}"
            )
        if self.strides[0] > 1 and self.dilation_rate[0] > 1:
            raise ValueError(
                f"`strides > 1` cannot be combined with `dilation_rate > 1`. Received: strides={strides!r}, "
                f"dilation_rate={dilation_rate!r}"
            )
        self.activation = activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.bias_constraint = constraints.get(bias_constraint)
        self._prepared = Prepared()

    @property
    def _channel_axis(self) -> int:
        return 2 if self.data_format == "channels_last" else 1

    @property
    def _geometry(self) -> tuple[int, int, int, str]:
        """taps, stride, dilation and padding, as ``windows`` wants them."""
        return self.kernel_size[0], self.strides[0], self.dilation_rate[0], self.padding

    def _build(self, input_shape: Any) -> None:
        self.compute_output_shape(input_shape)
        channels = known_size(input_shape, self._channel_axis, self.name)
        if channels % self.groups:
            raise ValueError(
                f'The number of input channels of layer "{self.name}" must be divisible by the number of groups. '
                f"Received: groups={self.groups}, input_shape={tuple(input_shape)}"
            )
        self._variables = []
        self.kernel = self.add_weight(
            (*self.kernel_size, channels // self.groups, self.filters),
            self.kernel_initializer,
            "kernel",
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                (self.filters,), self.bias_initializer, "bias", regularizer=self.bias_regularizer, constraint=self.bias_constraint
            )

    def call(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        backend = selector.glue_backend(x)
        _, z = self._product(backend, x)
        return cast(devices.as_array(backend.activate(self.activation, z)), self.storage_dtype)

    def _vjp(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> tuple[np.ndarray, Any]:
        backend = selector.glue_backend(x)
        padded, z = self._product(backend, x)
        y, backward = activated(backend, self.activation, z)
        kernel, shape = self.weight_value(self.kernel, devices.home(x)).copy(), self._by_rows(x).shape

        def pull(dy: np.ndarray) -> tuple[np.ndarray, list]:
            dz = self._by_rows(backward(dy))
            with np.errstate(all="ignore"):
                dpadded, dkernel = self._product_backward(padded, kernel, dz)
                left, _ = windows.pads(shape[1], *self._geometry)
                dx = self._by_rows(dpadded[:, left : left + shape[1]])
                return dx, [dkernel] if self.bias is None else [dkernel, dz.sum(axis=(0, 1))]

        return cast(y, self.storage_dtype), pull

    def _by_rows(self, x: np.ndarray) -> np.ndarray:
        """A view of x with the steps as axis 1; applied twice, x itself."""
        return x.swapaxes(1, 2) if self.data_format == "channels_first" else x

    def _product(self, backend: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x -> (its rows with the zeros around them [N,R,C], cross-correlation + bias in the data format)."""
        check_rank(x, 3, self.name)
        taps, stride, dilation, _ = self._geometry
        channels = self.kernel.shape[1] * self.groups
        check_axis(x.shape, self._channel_axis, channels, self.name)
        x = self._by_rows(cast(x, self.arithmetic_dtype))
        rows = windows.count(x.shape[1], *self._geometry, self.name)
        x = windows.padded(x, *windows.pads(x.shape[1], *self._geometry))
        if not rows:  # an empty input, padded
            z = devices.module_of(x).zeros((len(x), 0, self.filters), x.dtype)
        else:
            matrices = self._prepared.get(backend, self._variables, self._prepare, devices.home(x))
            parts = np.split(x, self.groups, axis=2) if self.groups > 1 else [x]
            blocks = [
                backend.conv1d(matrix, devices.contiguous(part), rows, taps, stride, dilation)
                for matrix, part in zip(matrices, parts, strict=True)
            ]
            z = np.concatenate(blocks, axis=2) if self.groups > 1 else blocks[0]
        return x, devices.contiguous(self._by_rows(z))

    def _product_backward(self, padded: np.ndarray, kernel: np.ndarray, dz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """dz [N,S,F] -> gradients of the padded rows [N,R,C] and of the kernel [K,C/groups,F], tap after tap."""
        taps, stride, dilation, _ = self._geometry
        dpadded, dkernel = np.zeros_like(padded), np.zeros_like(kernel)
        if not dz.shape[1]:
            return dpadded, dkernel
        for group in range(self.groups):
            inputs, outputs = (slice(group * n, (group + 1) * n) for n in (kernel.shape[1], self.filters // self.groups))
            part = dz[:, :, outputs]
            for k in range(taps):
                window = slice(k * dilation, k * dilation + (dz.shape[1] - 1) * stride + 1, stride)
                dpadded[:, window, inputs] += part @ kernel[k, :, outputs].T
                dkernel[k, :, outputs] = np.tensordot(padded[:, window, inputs], part, axes=((0, 1), (0, 1)))
        return dpadded, dkernel

    def _prepare(self, backend: Any, place: str) -> list[Any]:
        """For every group its part of the kernel as a matrix [K*C/groups,F/groups], with its part of the bias, at ``place``."""
        taps, channels, filters = self.kernel.shape
        matrix = self.weight_value(self.kernel, place).reshape(taps * channels, filters)
        matrices = [devices.contiguous(part) for part in np.split(matrix, self.groups, axis=1)]
        if self.bias is None:
            return [backend.prepare_matrix(part, None) for part in matrices]
        biases = np.split(self.weight_value(self.bias, place), self.groups)
        return [backend.prepare_matrix(part, bias) for part, bias in zip(matrices, biases, strict=True)]

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        if len(input_shape) != 3:
            raise ValueError(f'Layer "{self.name}" needs an input of 3 axes. Received: input_shape={tuple(input_shape)}')
        batch, *_ = input_shape
        rows = windows.count(input_shape[3 - self._channel_axis], *self._geometry, self.name)
        return (batch, rows, self.filters) if self.data_format == "channels_last" else (batch, self.filters, rows)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "data_format": self.data_format,
            "dilation_rate": self.dilation_rate,
            "groups": self.groups,
            "activation": activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "kernel_regularizer": regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": regularizers.serialize(self.bias_regularizer),
            "activity_regularizer": regularizers.serialize(self.activity_regularizer),
            "kernel_constraint": constraints.serialize(self.kernel_constraint),
            "bias_constraint": constraints.serialize(self.bias_constraint),
        }


Convolution1D = Conv1D
