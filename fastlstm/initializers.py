"""Initializers: the first values of weights, by their Keras names (terms of ``keras.initializers``, keras-spec 11).

Used by the layers (``get``, ``serialize``; ``Layer.add_weight`` calls ``initializer(shape, dtype=...)``). Random ones draw
with NumPy in float64 and round to the dtype: the laws are those of Keras, the bits are not. One instance gives the same
values at every call; with ``seed=None`` its seed is drawn once, at construction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import dtypes, settings
from .identifiers import Family
from .random import check_seed, default_seed, generator

_TRUNCATED_STDDEV = 0.87962566103423978  # standard deviation of a standard normal cut at -2 and 2


def _as_dtype(dtype: Any) -> np.dtype:
    return dtypes.as_dtype(settings.floatx() if dtype is None else dtype)


class Initializer:
    """Base class: a subclass implements ``__call__(shape, dtype=None) -> ndarray`` and ``get_config``."""

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> np.ndarray:
        """Values of ``shape`` in ``dtype`` (None: ``settings.floatx()``)."""
        raise NotImplementedError(f"Initializer {type(self).__name__} does not implement __call__")

    def get_config(self) -> dict:
        """Constructor arguments."""
        return {}

    @classmethod
    def from_config(cls, config: dict) -> Any:
        """A new object from ``get_config``'s dict; a ``dtype`` entry, which old files have, is dropped."""
        return cls(**{key: value for key, value in config.items() if key != "dtype"})

    def clone(self) -> Any:
        """A new object with the same config."""
        return self.from_config(self.get_config())


# -- fixed values -----------------------------------------------------------------------------------------------------
class Zeros(Initializer):
    """All 0."""

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> np.ndarray:
        return np.zeros(tuple(shape), _as_dtype(dtype))


class Ones(Initializer):
    """All 1."""

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> np.ndarray:
        return np.ones(tuple(shape), _as_dtype(dtype))


class Constant(Initializer):
    """All ``value`` (a number, or an array that broadcasts to the shape)."""

    def __init__(self, value: Any = 0.0):
        self.value = value

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> np.ndarray:
        return np.full(tuple(shape), self.value, _as_dtype(dtype))

    def get_config(self) -> dict:
        return {"value": self.value.tolist() if hasattr(self.value, "tolist") else self.value}


class Identity(Initializer):
    """``gain`` on the main diagonal of a matrix, which need not be square. ValueError unless the shape has two axes."""

    def __init__(self, gain: float = 1.0):
        self.gain = gain

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> np.ndarray:
        if len(shape) != 2:
            raise ValueError(f"Identity matrix initializer can only be used for 2D matrices. Received: shape={tuple(shape)}")
        return (self.gain * np.eye(shape[0], shape[1])).astype(_as_dtype(dtype))

    def get_config(self) -> dict:
        return {"gain": self.gain}


class FromArray(Initializer):
    """The given array: what ``get`` makes of an ndarray. ValueError when called with another shape than the array's."""

    def __init__(self, value: Any):
        self.value = np.array(value)

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> np.ndarray:
        if tuple(shape) != self.value.shape:
            raise ValueError(
                f"The array given as initializer has shape {self.value.shape}, but the variable has shape {tuple(shape)}: "
                "they must be equal"
            )
        return self.value.astype(_as_dtype(dtype))

    def get_config(self) -> dict:
        return {"value": self.value.tolist()}


class STFT(Initializer):
    """Convolution kernel [window length, 1, bins] of a short-time Fourier transform of length 2 (bins - 1).

    Args: ``side`` "real" (cosines) or "imag" (minus sines); ``window`` "hann", "hamming", None, or whatever
    ``scipy.signal.get_window`` takes (then SciPy is needed); ``scaling`` "density" (over the root of the window's energy),
    "spectrum" (over its sum) or None; ``periodic``: the window's. ValueError for other values, or another kind of shape.
    """

    def __init__(self, side: str = "real", window: Any = "hann", scaling: str | None = "density", periodic: bool = False):
        if side not in ("real", "imag"):
            raise ValueError(f"Argument `side` must be 'real' or 'imag'. Received: side={side!r}")
        if scaling not in ("density", "spectrum", None):
            raise ValueError(f"Argument `scaling` must be 'density', 'spectrum' or None. Received: scaling={scaling!r}")
        self.side, self.window, self.scaling, self.periodic = side, window, scaling, periodic

    def _window(self, length: int) -> np.ndarray:
        if self.window is None:
            return np.ones(length)
        if self.window not in ("hann", "hamming"):
            try:
                from scipy.signal import get_window
            except ImportError as error:
                raise ImportError(f"The window {self.window!r} needs SciPy: pip install 'fastlstm[blas]'") from error
            return get_window(self.window, length, fftbins=self.periodic)
        if length == 1:
            return np.ones(1)
        edge = 0.5 if self.window == "hann" else 0.54
        turns = np.arange(length) / (length if self.periodic else length - 1)
        return edge - (1.0 - edge) * np.cos(2.0 * np.pi * turns)

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> np.ndarray:
        if len(shape) != 3 or shape[1] != 1 or shape[2] < 2:
            raise ValueError(f"STFT needs a shape (window length, 1, bins) with at least 2 bins. Received: shape={tuple(shape)}")
        length, _, bins = shape
        window = self._window(length)
        if self.scaling == "density":
            window = window / np.sqrt(np.sum(np.square(window)))
        elif self.scaling == "spectrum":
            window = window / np.sum(window)
        angle = np.pi * np.outer(np.arange(length), np.arange(bins)) / (bins - 1)
        wave = np.cos(angle) if self.side == "real" else -np.sin(angle)
        return (window[:, None] * wave)[:, None, :].astype(_as_dtype(dtype))

    def get_config(self) -> dict:
        return {"side": self.side, "window": self.window, "periodic": self.periodic, "scaling": self.scaling}


# -- random values ----------------------------------------------------------------------------------------------------
class RandomInitializer(Initializer):
    """Base of the random ones. ``seed``: int, or None for one random seed now; ValueError for anything else."""

    def __init__(self, seed: int | None = None):
        self._config_seed = check_seed(seed)
        self.seed = default_seed() if seed is None else seed

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> np.ndarray:
        target = _as_dtype(dtype)
        if target.kind in "iub":
            raise ValueError(f"{type(self).__name__} needs a floating point dtype. Received: dtype={dtype!r}")
        return self._draw(generator(self.seed), tuple(shape)).astype(target)

    def _draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        raise NotImplementedError(f"Initializer {type(self).__name__} does not implement _draw")

    def get_config(self) -> dict:
        return {"seed": self._config_seed}


def _truncated_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal numbers, those beyond 2 drawn again."""
    values = rng.standard_normal(math.prod(shape))
    outside = np.flatnonzero(np.abs(values) > 2.0)
    while outside.size:
        values[outside] = rng.standard_normal(outside.size)
        outside = outside[np.abs(values[outside]) > 2.0]
    return values.reshape(shape)


class RandomNormal(RandomInitializer):
    """Normal law."""

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: int | None = None):
        super().__init__(seed)
        self.mean, self.stddev = mean, stddev

    def _draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return self.mean + self.stddev * rng.standard_normal(shape)

    def get_config(self) -> dict:
        return {**super().get_config(), "mean": self.mean, "stddev": self.stddev}


class TruncatedNormal(RandomNormal):
    """Normal law cut at two ``stddev`` from the mean; what is left has 0.88 ``stddev``."""

    def _draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return self.mean + self.stddev * _truncated_normal(rng, shape)


class RandomUniform(RandomInitializer):
    """Uniform law on [minval, maxval) (before rounding to the dtype)."""

    def __init__(self, minval: float = -0.05, maxval: float = 0.05, seed: int | None = None):
        super().__init__(seed)
        self.minval, self.maxval = minval, maxval

    def _draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return self.minval + (self.maxval - self.minval) * rng.random(shape)

    def get_config(self) -> dict:
        return {**super().get_config(), "minval": self.minval, "maxval": self.maxval}


def compute_fans(shape: Sequence[int], input_axes: Any = None, output_axes: Any = None) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight shape: its last two axes, each times all before them; or the products of the given axes."""
    if len(shape) < 2:
        fan_in = fan_out = int(math.prod(shape))
    else:
        field = math.prod(shape[:-2])
        fan_in, fan_out = int(shape[-2] * field), int(shape[-1] * field)
    if input_axes is not None:
        fan_in = int(math.prod(shape[axis] for axis in input_axes))
    if output_axes is not None:
        fan_out = int(math.prod(shape[axis] for axis in output_axes))
    return fan_in, fan_out


class VarianceScaling(RandomInitializer):
    """A law with the variance v = scale / max(1, n), n of the fans of the shape (``compute_fans``).

    Args: ``scale`` > 0; ``mode`` "fan_in", "fan_out" or "fan_avg"; ``distribution`` "uniform" (on +-sqrt(3 v)),
    "truncated_normal" (also "normal"; of standard deviation sqrt(v) after the cut) or "untruncated_normal", in any case;
    ``input_axes``, ``output_axes``: the axes that count as input and output. ValueError for other values.
    """

    def __init__(
        self,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: int | None = None,
        input_axes: Any = None,
        output_axes: Any = None,
    ):
        super().__init__(seed)
        if scale <= 0.0:
            raise ValueError(f"Argument `scale` must be a positive float. Received: scale={scale!r}")
        if mode not in ("fan_in", "fan_out", "fan_avg"):
            raise ValueError(f"Argument `mode` must be 'fan_in', 'fan_out' or 'fan_avg'. Received: mode={mode!r}")
        law = str(distribution).lower()
        law = "truncated_normal" if law == "normal" else law
        if law not in ("uniform", "truncated_normal", "untruncated_normal"):
            raise ValueError(
                f"Argument `distribution` must be 'uniform', 'truncated_normal' or 'untruncated_normal'. "
                f"Received: distribution={distribution!r}"
            )
        self.scale, self.mode, self.distribution = scale, mode, law
        self.input_axes, self.output_axes = input_axes, output_axes

    def _draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        fan_in, fan_out = compute_fans(shape, self.input_axes, self.output_axes)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        deviation = math.sqrt(self.scale / max(1.0, fan))
        if self.distribution == "uniform":
            return math.sqrt(3.0) * deviation * (2.0 * rng.random(shape) - 1.0)
        if self.distribution == "truncated_normal":
            return deviation / _TRUNCATED_STDDEV * _truncated_normal(rng, shape)
        return deviation * rng.standard_normal(shape)

    def get_config(self) -> dict:
        law = {"scale": self.scale, "mode": self.mode, "distribution": self.distribution}
        return {**super().get_config(), **law, "input_axes": self.input_axes, "output_axes": self.output_axes}


class _FixedScaling(VarianceScaling):
    """Variance scaling with a name: ``_law`` is its (scale, mode, distribution)."""

    _law: tuple[float, str, str]

    def __init__(self, seed: int | None = None, input_axes: Any = None, output_axes: Any = None):
        super().__init__(*self._law, seed, input_axes, output_axes)

    def get_config(self) -> dict:
        return {"seed": self._config_seed, "input_axes": self.input_axes, "output_axes": self.output_axes}


class GlorotUniform(_FixedScaling):
    """Uniform on +-sqrt(6 / (fan_in + fan_out))."""

    _law = (1.0, "fan_avg", "uniform")


class GlorotNormal(_FixedScaling):
    """Truncated normal of standard deviation sqrt(2 / (fan_in + fan_out))."""

    _law = (1.0, "fan_avg", "truncated_normal")


class HeUniform(_FixedScaling):
    """Uniform on +-sqrt(6 / fan_in)."""

    _law = (2.0, "fan_in", "uniform")


class HeNormal(_FixedScaling):
    """Truncated normal of standard deviation sqrt(2 / fan_in)."""

    _law = (2.0, "fan_in", "truncated_normal")


class LecunUniform(_FixedScaling):
    """Uniform on +-sqrt(3 / fan_in)."""

    _law = (1.0, "fan_in", "uniform")


class LecunNormal(_FixedScaling):
    """Truncated normal of standard deviation sqrt(1 / fan_in)."""

    _law = (1.0, "fan_in", "truncated_normal")


class Orthogonal(RandomInitializer):
    """``gain`` times a random matrix [prod(shape[:-1]), shape[-1]] whose rows or columns, the fewer of them, are orthonormal.

    ValueError for shapes of fewer than two axes. A recurrent kernel [U, 4U] has orthonormal rows over the whole 4U.
    """

    def __init__(self, gain: float = 1.0, seed: int | None = None):
        super().__init__(seed)
        self.gain = gain

    def _draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) < 2:
            raise ValueError(f"Orthogonal needs a shape with at least two axes. Received: shape={shape}")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
        q = q * np.where(np.diag(r) < 0, -1.0, 1.0)  # makes the law uniform over all such matrices
        return self.gain * (q.T if rows < columns else q).reshape(shape)

    def get_config(self) -> dict:
        return {**super().get_config(), "gain": self.gain}


# -- by name ----------------------------------------------------------------------------------------------------------
zeros, ones, constant, identity, stft, orthogonal = Zeros, Ones, Constant, Identity, STFT, Orthogonal
random_normal, random_uniform, truncated_normal, variance_scaling = RandomNormal, RandomUniform, TruncatedNormal, VarianceScaling
glorot_uniform, glorot_normal, he_uniform, he_normal = GlorotUniform, GlorotNormal, HeUniform, HeNormal
lecun_uniform, lecun_normal = LecunUniform, LecunNormal

_fixed = (Zeros, Ones, Constant, Identity, STFT, FromArray)
_random = (RandomNormal, RandomUniform, TruncatedNormal, VarianceScaling, Orthogonal)
_scaling = (GlorotUniform, GlorotNormal, HeUniform, HeNormal, LecunUniform, LecunNormal)
_aliases = {
    "normal": RandomNormal,
    "uniform": RandomUniform,
    "zero": Zeros,
    "one": Ones,
    "IdentityInitializer": Identity,
    "OrthogonalInitializer": Orthogonal,
    "STFTInitializer": STFT,
}
_family = Family("initializer", "keras.initializers", (*_fixed, *_random, *_scaling), _aliases)
serialize, deserialize = _family.serialize, _family.deserialize


def get(identifier: Any) -> Callable[..., Any] | None:
    """The initializer of None (None), a name (case-sensitive), a serialized dict, an instance, a class, a callable
    ``(shape, dtype)`` or an array, whose shape must then be the variable's. ValueError for anything else."""
    if hasattr(identifier, "__array__") and not callable(identifier):
        return FromArray(identifier)
    return _family.get(identifier)
