"""BatchNormalization, by moving statistics or the batch's own, and LayerNormalization, sample by sample (``keras.layers``).

In terms of Layer; the inference arithmetic of a batch normalization stands in ``scale_shift`` so that a compiled kernel can
take its place.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from .. import constraints, devices, initializers, regularizers, settings
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


def _values(variable: Variable, x: np.ndarray) -> np.ndarray:
    """The values of a variable in the dtype of x, where x lives."""
    return variable.at(devices.home(x)).astype(x.dtype)


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
    runs_on_gpu = True
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
        x = self._checked(x)
        return self._normalized(x, *self._statistics(x, mask, training))

    def _vjp(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> tuple[np.ndarray, Any]:
        """With the batch's own statistics the gradient also goes through them, to the steps that made them."""
        x = self._checked(x)
        own = training and self.trainable
        mean, variance = self._statistics(x, mask, training)
        y, axes = self._normalized(x, mean, variance), self._other_axes(x)
        with np.errstate(all="ignore"):
            root = self._along(1 / np.sqrt(variance + x.dtype.type(self.epsilon)), x)
        mean, gamma = self._along(mean, x), None if self.gamma is None else self._along(_values(self.gamma, x), x)
        valid = self._valid(x, mask) if own else None

        def pull(dy: np.ndarray) -> tuple[np.ndarray, list]:
            with np.errstate(all="ignore"):
                centred = x - mean
                # What a masked step holds does not count, NaN included, unless a gradient comes in there.
                product = dy * centred if valid is None else np.where(dy != 0, dy * centred, 0)
                dgamma, dbeta = (product * root).sum(axis=axes), dy.sum(axis=axes)
                dweights = [d for d, v in ((dgamma, self.gamma), (dbeta, self.beta)) if v is not None] + [None, None]
                scale = root if gamma is None else root * gamma
                dx = dy * scale
                if own:
                    dx += self._through_moments(centred, valid, -dbeta, -0.5 * dgamma, scale, root)
                return dx, dweights

        return y, pull

    def _through_moments(
        self, centred: np.ndarray, valid: Any, dmean: np.ndarray, dlog: np.ndarray, scale: np.ndarray, root: np.ndarray
    ) -> np.ndarray:
        """What reaches x through mean and variance; ``dmean`` and ``dlog``, over root and scale, are still without them."""
        axes = self._other_axes(centred)
        if valid is None:
            inside, count = centred, centred.dtype.type(centred.size // max(dmean.size, 1))
        else:
            inside, count = np.where(valid, centred, 0), self._count(valid, centred)
        dvariance = self._along(dlog, centred) * scale * root
        # Of masked steps the sum of the deviations is not quite 0: `_moments` divides by a little more than their number.
        dmean = self._along(dmean, centred) * scale - 2 * dvariance * inside.sum(axis=axes, keepdims=True) / count
        dx = (2 * dvariance * inside + dmean) / count
        return dx if valid is None else np.where(valid, dx, 0)

    def _checked(self, x: np.ndarray) -> np.ndarray:
        """x in the arithmetic dtype. ValueError for other axes than the layer was built for."""
        if x.ndim != self._ndim:
            raise ValueError(
                f'Input 0 of layer "{self.name}" is incompatible with the layer: expected ndim={self._ndim}, '
                f"found ndim={x.ndim}. Full shape received: {x.shape}"
            )
        check_axis(x.shape, self.axis, self.moving_mean.shape[0], self.name)
        return cast(x, self.arithmetic_dtype)

    def _statistics(self, x: np.ndarray, mask: Any, training: bool) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance [C] to normalize with; those of the batch move the moving ones."""
        if not (training and self.trainable):
            return _values(self.moving_mean, x), _values(self.moving_variance, x)
        mean, variance = self._moments(x, mask)
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(_values(moving, x) * self.momentum + value * (1.0 - self.momentum))
        return mean, variance

    def _normalized(self, x: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        dtype = x.dtype
        with np.errstate(all="ignore"):
            scale = 1 / np.sqrt(variance + dtype.type(self.epsilon))
            if self.gamma is not None:
                scale = scale * _values(self.gamma, x)
            shift = -mean * scale
            if self.beta is not None:
                shift = shift + _values(self.beta, x)
        return cast(scale_shift(x, self._along(scale, x), self._along(shift, x)), self.storage_dtype)

    def _along(self, values: np.ndarray, x: np.ndarray) -> np.ndarray:
        """[C] in the shape that broadcasts to x along ``axis``."""
        broadcast = [1] * x.ndim
        broadcast[self.axis] = -1
        return values.reshape(broadcast)

    def _other_axes(self, x: np.ndarray) -> tuple[int, ...]:
        return tuple(k for k in range(x.ndim) if k != self.axis % x.ndim)

    def _moments(self, x: np.ndarray, mask: Any) -> tuple[np.ndarray, np.ndarray]:
        """Mean and biased variance over all axes but ``axis``; masked steps do not count, whatever they hold."""
        axes, valid = self._other_axes(x), self._valid(x, mask)
        if valid is None:
            return x.mean(axis=axes), x.var(axis=axes)
        count = self._count(valid, x)
        mean = np.where(valid, x, 0).sum(axis=axes, keepdims=True) / count
        variance = np.square(np.where(valid, x, mean) - mean).sum(axis=axes, keepdims=True) / count
        return mean.reshape(-1), variance.reshape(-1)

    def _count(self, valid: np.ndarray, x: np.ndarray) -> np.ndarray:
        """How many numbers count for each index of ``axis``, and a little, so that none is no division by 0."""
        return valid.sum(axis=self._other_axes(x), keepdims=True, dtype=x.dtype) + x.dtype.type(settings.epsilon())

    def _valid(self, x: np.ndarray, mask: Any) -> np.ndarray | None:
        """The mask in the shape of x, or None."""
        if mask is None:
            return None
        valid = require_array(mask, "mask") != 0
        if valid.ndim != x.ndim - 1 or valid.shape != x.shape[:-1]:
            raise ValueError(
                f"The argument `mask` must have the shape of the input without its last axis. Received: "
                f"mask.shape={valid.shape}, inputs.shape={x.shape}"
            )
        return np.broadcast_to(valid[..., None], x.shape)

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
    runs_on_gpu = True

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
        y, *_ = self._normalized(x)
        return y

    def _vjp(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> tuple[np.ndarray, Any]:
        y, base, centred, root = self._normalized(x)
        axes, broadcast = self._axes(x)
        others = tuple(k for k in range(x.ndim) if k not in axes)
        gamma = None if self.gamma is None else _values(self.gamma, x).reshape(broadcast)

        def pull(dy: np.ndarray) -> tuple[np.ndarray, list]:
            with np.errstate(all="ignore"):
                dgamma, dbeta = (dy * base * root).sum(axis=others), dy.sum(axis=others)
                dbase = dy if gamma is None else dy * gamma
                dvariance = -0.5 * root**3 * (dbase * base).sum(axis=axes, keepdims=True)
                dbase = dbase * root
                dcentred = 2 * dvariance * centred / max(centred.size // max(root.size, 1), 1)
                if not self.rms_scaling:
                    dcentred = dcentred + dbase
                dx = dcentred - dcentred.mean(axis=axes, keepdims=True)
                pairs = ((dgamma, self.gamma), (dbeta, self.beta))
                return dx + dbase if self.rms_scaling else dx, [d.reshape(v.shape) for d, v in pairs if v is not None]

        return y, pull

    def _axes(self, x: np.ndarray) -> tuple[tuple[int, ...], list[int]]:
        """The normalized axes, and the shape in which gamma and beta broadcast to x."""
        assert isinstance(self.axis, list)
        broadcast = [1] * x.ndim
        for axis, size in zip(self.axis, self._sizes, strict=True):
            check_axis(x.shape, axis, size, self.name)
            broadcast[axis] = size
        return tuple(axis % x.ndim for axis in self.axis), broadcast

    def _normalized(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(y, what is divided by the deviation, x without its mean, 1 / deviation)."""
        check_rank(x, self._ndim, self.name)
        axes, broadcast = self._axes(x)
        with np.errstate(all="ignore"):  # overflow and NaN propagate silently, as in the recurrent layers
            centred = x - x.mean(axis=axes, keepdims=True)
            variance = np.square(centred).mean(axis=axes, keepdims=True)
            base, root = x if self.rms_scaling else centred, 1 / np.sqrt(variance + x.dtype.type(self.epsilon))
            y = base * root
            if self.gamma is not None:
                y *= _values(self.gamma, x).reshape(broadcast)
            if self.beta is not None:
                y += _values(self.beta, x).reshape(broadcast)
            return cast(y, self.storage_dtype), base, centred, root

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
