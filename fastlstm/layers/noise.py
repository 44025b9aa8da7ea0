"""Noise in training: SpatialDropout1D, GaussianNoise, GaussianDropout (terms of ``keras.layers``). In inference the identity."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..arrays import cast, check_rank
from ..random import SeedGenerator
from .base import Layer
from .checks import floats_to
from .core import Dropout


class SpatialDropout1D(Dropout):
    """Dropout of whole channels: x [N,T,C], each channel of a sample is dropped at all steps or at none."""

    def __init__(self, rate: Any, seed: int | None = None, name: str | None = None, dtype: Any = None, **kwargs: Any):
        kwargs.pop("noise_shape", None)  # Keras 2 wrote it, always None
        super().__init__(rate, noise_shape=(None, 1, None), seed=seed, name=name, dtype=dtype, **kwargs)

    def _as_input(self, inputs: Any, name: str = "inputs") -> np.ndarray:
        x = super()._as_input(inputs, name)
        check_rank(x, 3, self.name)
        return x

    def get_config(self) -> dict:
        return {"rate": self.rate, "seed": self.seed, "name": self.name, "dtype": self.variable_dtype}


class _Gaussian(Layer):
    """Base: an input of the layer's dtype, and draws of their own in every call with ``training=True``."""

    supports_masking = True
    _argument = ""

    def __init__(self, size: Any, seed: int | None, **kwargs: Any):
        super().__init__(**kwargs)
        if isinstance(size, (str, bool)) or not hasattr(size, "__le__") or not 0 <= size <= 1:
            raise ValueError(
                f"Invalid value received for argument `{self._argument}`. Expected a float value between 0 and 1. "
                f"Received: {self._argument}={size!r}"
            )
        setattr(self, self._argument, size)
        self.seed = seed
        self.seed_generator = SeedGenerator(seed)
        self.built = True

    def _as_input(self, inputs: Any, name: str = "inputs") -> np.ndarray:
        return floats_to(inputs, name, self.storage_dtype)

    def _draw(self, shape: tuple[int, ...]) -> np.ndarray:
        return self.seed_generator.next().standard_normal(shape).astype(self.arithmetic_dtype)

    def get_config(self) -> dict:
        return {**super().get_config(), self._argument: getattr(self, self._argument), "seed": self.seed}


class GaussianNoise(_Gaussian):
    """Adds noise of mean 0 and deviation ``stddev`` in training. ValueError for a ``stddev`` outside [0, 1]."""

    stddev: float
    _argument = "stddev"

    def __init__(self, stddev: Any, seed: int | None = None, **kwargs: Any):
        super().__init__(stddev, seed, **kwargs)

    def call(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        if not training or self.stddev == 0:
            return x
        return cast(cast(x, self.arithmetic_dtype) + self._draw(x.shape) * self.stddev, self.storage_dtype)

    def _vjp(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> tuple[np.ndarray, Any]:
        return self.call(x, training=training), lambda dy: (dy, [])


class GaussianDropout(_Gaussian):
    """Multiplies by noise of mean 1, deviation sqrt(rate / (1 - rate)) in training. ValueError for a ``rate`` outside [0, 1]."""

    rate: float
    _argument = "rate"

    def __init__(self, rate: Any, seed: int | None = None, **kwargs: Any):
        super().__init__(rate, seed, **kwargs)

    def _scales(self, shape: tuple[int, ...], training: bool) -> np.ndarray | None:
        if not training or self.rate == 0:
            return None
        if self.rate == 1:
            raise ValueError(f"Layer {self.name!r} has rate=1, for which the noise has no finite deviation")
        return 1 + self._draw(shape) * self.arithmetic_dtype.type(math.sqrt(self.rate / (1 - self.rate)))

    def call(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        return self._vjp(x, mask, training)[0]

    def _vjp(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> tuple[np.ndarray, Any]:
        scales = self._scales(x.shape, training)
        if scales is None:
            return x, lambda dy: (dy, [])
        return cast(cast(x, self.arithmetic_dtype) * scales, self.storage_dtype), lambda dy: (dy * scales, [])
