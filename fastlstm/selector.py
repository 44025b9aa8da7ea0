"""select: which backend and which kernel run a call, and why; and show_config: what there is on this machine.

Order (as in Keras, keras-spec 18): an explicit device, else the CPU; then the fused kernel if the parameters are eligible,
else the general one. ``layer.explain(x)`` returns the same Choice without running anything.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import importlib.util
import os
from collections.abc import Iterator
from types import ModuleType

import numpy as np

from .backends import cpu, reference
from .errors import DeviceError
from .spec import RecurrentSpec
from .version import __version__

DEVICES = ("auto", "cpu", "gpu")
_BACKENDS: dict[str, ModuleType] = {"cpu": cpu, "reference": reference}
_device: contextvars.ContextVar[str] = contextvars.ContextVar("fastlstm_device")
_backend: contextvars.ContextVar[str | None] = contextvars.ContextVar("fastlstm_backend", default=None)


@dataclasses.dataclass(frozen=True)
class Choice:
    """The answer of ``select``: names of backend and kernel, and the reason in words."""

    backend: str
    kernel: str
    reason: str

    @property
    def module(self) -> ModuleType:
        """The backend's module."""
        return _BACKENDS[self.backend]


def _default_device() -> str:
    return _checked_device(os.environ.get("FASTLSTM_DEVICE") or "auto")


def _checked_device(name: str) -> str:
    if name not in DEVICES:
        raise ValueError(f"Unknown device {name!r}. Expected one of {DEVICES}")
    if name == "gpu":
        raise DeviceError("The device 'gpu' cannot be used: this version of fastlstm has no GPU backend")
    return name


class device:
    """Chooses where calls run: "auto", "cpu" or "gpu". A setting when called, a context manager in ``with``.

    ValueError for another name, DeviceError where the device cannot be used.
    """

    def __init__(self, name: str):
        self.name = _checked_device(name)
        self._token = _device.set(self.name)

    def __enter__(self) -> device:
        return self

    def __exit__(self, *exc: object) -> None:
        _device.reset(self._token)


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Runs every call inside on one backend, "cpu" or "reference" (for tests and comparisons)."""
    if name not in _BACKENDS:
        raise ValueError(f"Unknown backend {name!r}. Expected one of {tuple(_BACKENDS)}")
    token = _backend.set(name)
    try:
        yield
    finally:
        _backend.reset(token)


def is_overridden() -> bool:
    """True inside ``use_backend``, where a layer's ready-made plan must not be used."""
    return _backend.get() is not None


def glue_backend() -> ModuleType:
    """The backend of layers that are no recurrences (Dense …): the CPU's, unless ``use_backend`` says otherwise."""
    return _BACKENDS[_backend.get() or "cpu"]


def current_device() -> str:
    """The device in force: set by ``device``, else by FASTLSTM_DEVICE, else "auto"."""
    return _device.get(None) or _default_device()


def select(
    spec: RecurrentSpec, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False, gradient: bool = False
) -> Choice:
    """Picks backend and kernel for one call of a recurrent layer.

    ``training``: dropout masks are applied in this call; ``gradient``: it is recorded for a backward. ValueError where
    ``use_cudnn=True`` cannot be honoured.
    """
    refusal = spec.fused_refusal(training=training, mask=mask)
    if spec.use_cudnn is True or spec.use_cudnn == 1:
        raise ValueError(
            f"use_cudnn=True was specified, but the fused GPU kernel cannot run this call: {refusal or 'no GPU is in use'}. "
            "Pass use_cudnn='auto' to fall back on another kernel."
        )
    forced = _backend.get()
    if forced == "reference":
        return Choice("reference", "numpy", "the reference backend was asked for")
    where = f"device {current_device()!r}"
    kernel, reason = cpu.kernel_for(spec, training=training, gradient=gradient)
    return Choice("cpu", kernel, f"{where}: {reason}")


def config() -> dict:
    """What fastlstm runs on: versions, instruction set, GEMM, BLAS, threads, device, extras (plain dict)."""
    import platform  # 5 ms that a prediction does not need

    extras = {}
    for package in ("scipy", "h5py", "ml_dtypes", "tqdm", "matplotlib", "onnx", "cupy"):
        found = importlib.util.find_spec(package) is not None
        extras[package] = _version(package) if found else None
    return {
        "fastlstm": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "machine": platform.machine(),
        **cpu.config(),
        "device": current_device(),
        "gpu": "none: this version has no GPU backend",
        "extras": extras,
    }


def _version(package: str) -> str:
    import importlib.metadata  # 20 ms, and only show_config asks

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown version"


def show_config() -> None:
    """Prints ``config()``, one line a fact."""
    for key, value in config().items():
        if key == "extras":
            value = ", ".join(f"{k} {v}" if v else f"{k} absent" for k, v in value.items())
        elif isinstance(value, (list, tuple)):
            value = ", ".join(value)
        print(f"{key:<16} {value}")
