"""BatchNormalization, by moving statistics or the batch's own, and LayerNormalization, sample by sample (``keras.layers``).

In terms of Layer; the inference arithmetic of a batch normalization stands in ``scale_shift`` so that a compiled kernel can
take its place.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from .. import constraints, initializers, regularizers, settings
from ..arrays import cast, check_rank, require_array
from ..variable import Variable
from .base import Layer
from .checks import check_axis, known_size


def scale_shift(x: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """x * scale + shift, with scale and shift of a shape that broadcasts to x -> a new array."""
    with np.errstate(all="ignore"):  # overflow and NaN propagate silently, as in the recurrent layers
        y = x * scale
        y += shift
    return y


class BatchNormalization(Layer):
    """``gamma * (x - mean) / sqrt(variance + epsilon) + beta`` for each index of ``axis``; shape unchanged.

    Inference uses moving_mean and moving_variance. ``training=True`` on a trainable layer uses the mean and the (biased)
    variance of the batch, of its valid steps where a ``mask`` with one axis less than the input is given, and then moves both:
    ``moving = moving * momentum + batch * (1 - momentum)``.

    Arguments as in Keras 3.15. ``synchronized`` is kept and means nothing on one device; ``renorm=True`` is refused with
    ValueError. Weights: gamma [C] (``scale``), beta [C] (``center``), moving_mean [C], moving_variance [C].
    The 16-bit policies calculate in float32, from float32 weights.
    """

    supports_masking = True
    moving_mean: Variable
    moving_variance: Variable

    def __init__(
        self,
        axis: Any = -1,
        momentum: Any = 0.99,
        epsilon: Any = 1e-3,
        center: Any = True,
        scale: Any = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        synchronized: Any = False,
        renorm: Any = False,
        renorm_clipping: Any = None,
        renorm_momentum: Any = 0.99,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if isinstance(axis, (list, tuple)) and len(axis) == 1:  # as files of Keras 2 write it
            axis = axis[0]
        if not isinstance(axis, (int, np.integer)):
            raise ValueError(f"The argument `axis` must be one integer. Received: axis={axis!r}")
        if renorm:
            raise ValueError(f"Batch renormalization is not supported: `renorm` must be False. Received: renorm={renorm!r}")
        self.axis, self.momentum, self.epsilon = int(axis), float(momentum), float(epsilon)
        self.center, self.scale, self.synchronized = center, scale, synchronized
        self.beta_initializer = initializers.get(beta_initializer)
        self.gamma_initializer = initializers.get(gamma_initializer)
        self.moving_mean_initializer = initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = initializers.get(moving_variance_initializer)
        self.beta_regularizer = regularizers.get(beta_regularizer)
        self.gamma_regularizer = regularizers.get(gamma_regularizer)
        self.beta_constraint = constraints.get(beta_constraint)
        self.gamma_constraint = constraints.get(gamma_constraint)
        self.renorm, self.renorm_clipping, self.renorm_momentum = False, renorm_clipping, renorm_momentum
        self.gamma: Variable | None = None
        self.beta: Variable | None = None

    def _build(self, input_shape: Any) -> None:
        if not -len(input_shape) <= self.axis < len(input_shape):
            raise ValueError(
                f'Layer "{self.name}" has axis={self.axis}, but input_shape={tuple(input_shape)} has {len(input_shape)} axes'
            )
        shape = (known_size(input_shape, self.axis, self.name),)
        self._ndim, self._variables = len(input_shape), []
        if self.scale:
            self.gamma = self.add_weight(
                shape, self.gamma_initializer, "gamma", regularizer=self.gamma_regularizer, constraint=self.gamma_constraint
            )
        if self.center:
            self.beta = self.add_weight(
                shape, self.beta_initializer, "beta", regularizer=self.beta_regularizer, constraint=self.beta_constraint
            )
        self.moving_mean = self.add_weight(shape, self.moving_mean_initializer, "moving_mean", trainable=False)
        self.moving_variance = self.add_weight(shape, self.moving_variance_initializer, "moving_variance", trainable=False)

    def call(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        if x.ndim != self._ndim:
            raise ValueError(
                f'Input 0 of layer "{self.name}" is incompatible with the layer: expected ndim={self._ndim}, '
                f"found ndim={x.ndim}. Full shape received: {x.shape}"
            )
        check_axis(x.shape, self.axis, self.moving_mean.shape[0], self.name)
        dtype = self.arithmetic_dtype
        x = cast(x, dtype)
        if training and self.trainable:
            mean, variance = self._moments(x, mask)
            for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(moving.value.astype(dtype) * self.momentum + value * (1.0 - self.momentum))
        else:
            mean, variance = self.moving_mean.value.astype(dtype), self.moving_variance.value.astype(dtype)
        with np.errstate(all="ignore"):
            scale = 1 / np.sqrt(variance + dtype.type(self.epsilon))
            if self.gamma is not None:
                scale = scale * self.gamma.value.astype(dtype)
            shift = -mean * scale
            if self.beta is not None:
                shift = shift + self.beta.value.astype(dtype)
        broadcast = [1] * x.ndim
        broadcast[self.axis] = -1
        return cast(scale_shift(x, scale.reshape(broadcast), shift.reshape(broadcast)), self.storage_dtype)

    def _moments(self, x: np.ndarray, mask: Any) -> tuple[np.ndarray, np.ndarray]:
        """Mean and biased variance over all axes but ``axis``; masked steps do not count, whatever they hold."""
        axes = tuple(k for k in range(x.ndim) if k != self.axis % x.ndim)
        if mask is None:
            return x.mean(axis=axes), x.var(axis=axes)
        valid = require_array(mask, "mask") != 0
        if valid.ndim != x.ndim - 1 or valid.shape != x.shape[:-1]:
            raise ValueError(
                f"The argument `mask` must have the shape of the input without its last axis. Received: "
                f"mask.shape={valid.shape}, inputs.shape={x.shape}"
            )
        valid = np.broadcast_to(valid[..., None], x.shape)
        count = valid.sum(axis=axes, keepdims=True, dtype=x.dtype) + x.dtype.type(settings.epsilon())
        mean = np.where(valid, x, 0).sum(axis=axes, keepdims=True) / count
        variance = np.square(np.where(valid, x, mean) - mean).sum(axis=axes, keepdims=True) / count
        return mean.reshape(-1), variance.reshape(-1)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "axis": self.axis,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
            "beta_initializer": initializers.serialize(self.beta_initializer),
            "gamma_initializer": initializers.serialize(self.gamma_initializer),
            "moving_mean_initializer": initializers.serialize(self.moving_mean_initializer),
            "moving_variance_initializer": initializers.serialize(self.moving_variance_initializer),
            "beta_regularizer": regularizers.serialize(self.beta_regularizer),
            "gamma_regularizer": regularizers.serialize(self.gamma_regularizer),
            "beta_constraint": constraints.serialize(self.beta_constraint),
            "gamma_constraint": constraints.serialize(self.gamma_constraint),
            "synchronized": self.synchronized,
            "renorm": self.renorm,
            "renorm_clipping": self.renorm_clipping,
            "renorm_momentum": self.renorm_momentum,
        }


class LayerNormalization(Layer):
    """``gamma * (x - mean) / sqrt(variance + epsilon) + beta``, mean and (biased) variance over ``axis`` of each sample.

    ``axis``: an integer, or several. Arguments as in Keras 3.15, ``rms_scaling`` by keyword, deprecated there: x / sqrt(variance
    + epsilon) * gamma, without centring. Weights: gamma (``scale``) and beta (``center``), of the sizes of the sorted axes.
    The 16-bit policies calculate in float32 and round the result alone. TypeError for an axis that is no integer, ValueError
    for one that the input does not have and for other sizes than the layer was built for.
    """

    supports_masking = True

    def __init__(
        self,
        axis: Any = -1,
        epsilon: Any = 1e-3,
        center: Any = True,
        scale: Any = True,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        **kwargs: Any,
    ):
        rms_scaling = kwargs.pop("rms_scaling", False)
        if rms_scaling:
            warnings.warn(
                "`rms_scaling=True` is deprecated: it divides by the deviation, not by the root mean square", stacklevel=2
            )
        super().__init__(**kwargs)
        several = isinstance(axis, (list, tuple))
        if not all(isinstance(one, (int, np.integer)) for one in (axis if several else [axis])):
            raise TypeError(f"The argument `axis` must be an integer or a list or tuple of them. Received: axis={axis!r}")
        self.axis: int | list[int] = [int(one) for one in axis] if several else int(axis)
        self.epsilon, self.center, self.scale, self.rms_scaling = epsilon, center, scale, rms_scaling
        self.beta_initializer = initializers.get(beta_initializer)
        self.gamma_initializer = initializers.get(gamma_initializer)
        self.beta_regularizer = regularizers.get(beta_regularizer)
        self.gamma_regularizer = regularizers.get(gamma_regularizer)
        self.beta_constraint = constraints.get(beta_constraint)
        self.gamma_constraint = constraints.get(gamma_constraint)
        self.gamma: Variable | None = None
        self.beta: Variable | None = None

    def _build(self, input_shape: Any) -> None:
        self.compute_output_shape(input_shape)
        # As in Keras the list replaces the integer, also in the config, and [-1, 1] is the sorted order of the last axis and 1.
        self.axis = sorted(self.axis) if isinstance(self.axis, list) else [self.axis]
        shape = tuple(known_size(input_shape, axis, self.name) for axis in self.axis)
        self._ndim, self._sizes, self._variables = len(input_shape), shape, []
        if self.scale or self.rms_scaling:
            self.gamma = self.add_weight(
                shape, self.gamma_initializer, "gamma", regularizer=self.gamma_regularizer, constraint=self.gamma_constraint
            )
        if self.center and not self.rms_scaling:
            self.beta = self.add_weight(
                shape, self.beta_initializer, "beta", regularizer=self.beta_regularizer, constraint=self.beta_constraint
            )

    def _as_input(self, inputs: Any, name: str = "inputs") -> np.ndarray:
        """Not rounded to 16 bits before the arithmetic: Keras does not cast the input of this layer."""
        return cast(require_array(inputs, name), self.arithmetic_dtype)

    def call(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        check_rank(x, self._ndim, self.name)
        assert isinstance(self.axis, list)
        broadcast = [1] * x.ndim
        for axis, size in zip(self.axis, self._sizes, strict=True):
            check_axis(x.shape, axis, size, self.name)
            broadcast[axis] = size
        axes = tuple(axis % x.ndim for axis in self.axis)
        with np.errstate(all="ignore"):  # overflow and NaN propagate silently, as in the recurrent layers
            centred = x - x.mean(axis=axes, keepdims=True)
            variance = np.square(centred).mean(axis=axes, keepdims=True)
            y = (x if self.rms_scaling else centred) * (1 / np.sqrt(variance + x.dtype.type(self.epsilon)))
            if self.gamma is not None:
                y *= self.gamma.value.astype(x.dtype).reshape(broadcast)
            if self.beta is not None:
                y += self.beta.value.astype(x.dtype).reshape(broadcast)
            return cast(y, self.storage_dtype)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        shape = tuple(input_shape)
        axes = self.axis if isinstance(self.axis, list) else [self.axis]
        if any(not -len(shape) <= axis < len(shape) for axis in axes):
            raise ValueError(f'Layer "{self.name}" has axis={self.axis}, but input_shape={shape} has {len(shape)} axes')
        return shape

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "axis": self.axis,
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
            "rms_scaling": self.rms_scaling,
            "beta_initializer": initializers.serialize(self.beta_initializer),
            "gamma_initializer": initializers.serialize(self.gamma_initializer),
            "beta_regularizer": regularizers.serialize(self.beta_regularizer),
            "gamma_regularizer": regularizers.serialize(self.gamma_regularizer),
            "beta_constraint": constraints.serialize(self.beta_constraint),
            "gamma_constraint": constraints.serialize(self.gamma_constraint),
        }
