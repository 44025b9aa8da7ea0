"""Dense: activation(x @ kernel + bias) over the last axis (terms of ``keras.layers.Dense``).

The product runs on a backend's packed matrix (``prepare_matrix``, ``affine``): a row's result does not depend on its batch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import activations, constraints, devices, initializers, regularizers, selector
from ..arrays import cast
from ..variable import Variable
from .base import Layer
from .checks import check_axis, check_min_rank, known_size, positive_int, refuse
from .gradients import activated
from .prepared import Prepared


class Dense(Layer):
    """[N,…,D] -> [N,…,U]: ``activation(x @ kernel + bias)``.

    Arguments as in Keras 3, same order and defaults; ``lora_rank``, ``lora_alpha`` and ``quantization_config`` are accepted as
    None only. Weights: kernel [D,U], bias [U] (with ``use_bias``). ValueError for units that are no positive integer, inputs
    of fewer than two axes, and a last axis other than the one that the layer was built for.
    """

    supports_masking = True
    runs_on_gpu = True
    kernel: Variable
    bias: Variable | None

    def __init__(
        self,
        units: Any,
        activation: Any = None,
        use_bias: Any = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        lora_rank: Any = None,
        lora_alpha: Any = None,
        quantization_config: Any = None,
        **kwargs: Any,
    ):
        refuse("Dense", lora_rank=lora_rank, lora_alpha=lora_alpha, quantization_config=quantization_config)
        self.units = positive_int(units, "units")
        super().__init__(activity_regularizer=activity_regularizer, **kwargs)
        self.activation = activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.bias_constraint = constraints.get(bias_constraint)
        self._prepared = Prepared()

    def _build(self, input_shape: Any) -> None:
        check_min_rank(input_shape, 2, self.name)
        features = known_size(input_shape, -1, self.name)
        self._variables = []
        self.kernel = self.add_weight(
            (features, self.units),
            self.kernel_initializer,
            "kernel",
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                (self.units,), self.bias_initializer, "bias", regularizer=self.bias_regularizer, constraint=self.bias_constraint
            )

    def call(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        backend = selector.glue_backend(x)
        y = backend.activate(self.activation, self._product(backend, self._rows(x)).reshape(self.compute_output_shape(x.shape)))
        return cast(devices.as_array(y), self.storage_dtype)

    def _vjp(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> tuple[np.ndarray, Any]:
        backend = selector.glue_backend(x)
        rows, kernel, shape = self._rows(x), self.weight_value(self.kernel, devices.home(x)).copy(), x.shape
        z = self._product(backend, rows).reshape(self.compute_output_shape(shape))
        y, backward = activated(backend, self.activation, z)

        def pull(dy: np.ndarray) -> tuple[np.ndarray, list]:
            dz = backward(dy).reshape(len(rows), self.units)
            with np.errstate(all="ignore"):
                dweights = [rows.T @ dz] if self.bias is None else [rows.T @ dz, dz.sum(axis=0)]
                return (dz @ kernel.T).reshape(shape), dweights

        return cast(y, self.storage_dtype), pull

    def _rows(self, x: np.ndarray) -> np.ndarray:
        """x [N,…,D] as rows [M,D] in the arithmetic dtype. ValueError for another D than the layer was built for."""
        check_min_rank(x.shape, 2, self.name)
        features = self.kernel.shape[0]
        check_axis(x.shape, -1, features, self.name)
        return cast(x, self.arithmetic_dtype).reshape(math.prod(x.shape[:-1]), features)

    def _product(self, backend: Any, rows: np.ndarray) -> np.ndarray:
        """rows [M,D] @ kernel + bias -> [M,U]."""
        return backend.affine(self._prepared.get(backend, self._variables, self._prepare, devices.home(rows)), rows)

    def _prepare(self, backend: Any, place: str) -> Any:
        """kernel and bias as ``backend`` wants them, at ``place``."""
        bias = None if self.bias is None else self.weight_value(self.bias, place)
        return backend.prepare_matrix(self.weight_value(self.kernel, place), bias)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "units": self.units,
            "activation": activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "kernel_regularizer": regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": constraints.serialize(self.kernel_constraint),
            "bias_constraint": constraints.serialize(self.bias_constraint),
            "quantization_config": None,
        }
