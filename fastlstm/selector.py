"""select: which backend and which kernel run a call, and why; and show_config: what there is on this machine.

Order: an explicit device ("cpu", "gpu": a setting or FASTLSTM_DEVICE), else where the input lives (a CuPy array: the GPU), else
("auto", NumPy input) the GPU where ``CROSSOVER`` says that it is faster, transfers included; then the fused kernel if the
parameters are eligible, else the general one (keras-spec 18). ``layer.explain(x)`` returns the same Choice without running
anything; the logger "fastlstm" tells it at DEBUG.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import importlib.util
import math
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from . import devices
from .backends import cpu, reference
from .spec import ConvLSTM1DSpec, RecurrentSpec
from .version import __version__

DEVICES = ("auto", "cpu", "gpu")
# Multiply-adds of a call from which the GPU, transfers included, was measured to be faster than the CPU; None: not measured, and
# "auto" leaves NumPy input on the CPU. benchmarks/bench_gpu.py prints the figures that belong here.
CROSSOVER: dict[str, float | None] = {"lstm": None, "convlstm1d": None}
_FORCED = ("cpu", "reference")  # what use_backend takes
_device: contextvars.ContextVar[str] = contextvars.ContextVar("fastlstm_device")
_backend: contextvars.ContextVar[str | None] = contextvars.ContextVar("fastlstm_backend", default=None)
# True where a layer's ready-made plan must not be used: inside use_backend, or where the device "gpu" is set.
_overridden: contextvars.ContextVar[bool] = contextvars.ContextVar("fastlstm_overridden", default=False)


def _backend_named(name: str) -> ModuleType:
    """The module of a backend; that of the GPU is imported at the first call that runs there."""
    if name == "gpu":
        from .backends import gpu

        return gpu
    return reference if name == "reference" else cpu


@dataclasses.dataclass(frozen=True)
class Choice:
    """The answer of ``select``: names of backend and kernel, and the reason in words."""

    backend: str
    kernel: str
    reason: str

    @property
    def module(self) -> ModuleType:
        """The backend's module."""
        return _backend_named(self.backend)


@functools.cache
def _default_device() -> str:
    """FASTLSTM_DEVICE, read at the first call; "auto" without it."""
    return _checked_device(os.environ.get("FASTLSTM_DEVICE") or "auto")


def _checked_device(name: str) -> str:
    if name not in DEVICES:
        raise ValueError(f"Unknown device {name!r}. Expected one of {DEVICES}")
    if name == "gpu":
        devices.cupy_module()
    return name


class device:
    """Chooses where calls run: "auto", "cpu" or "gpu". A setting when called, a context manager in ``with``.

    Under "gpu" NumPy arrays are moved to the device for a call and its results back, under "cpu" CuPy arrays to the host; under
    "auto" a call runs where its input lives. ValueError for another name, DeviceError with the reason where the device cannot
    be used.
    """

    def __init__(self, name: str):
        self.name = _checked_device(name)
        self._token = _device.set(self.name)
        self._plans_token = _overridden.set(self.name == "gpu" or _backend.get() is not None)

    def __enter__(self) -> device:
        return self

    def __exit__(self, *exc: object) -> None:
        _device.reset(self._token)
        _overridden.reset(self._plans_token)


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Runs every call inside on one backend, "cpu" or "reference" (for tests and comparisons)."""
    if name not in _FORCED:
        raise ValueError(f"Unknown backend {name!r}. Expected one of {_FORCED}")
    token, plans_token = _backend.set(name), _overridden.set(True)
    try:
        yield
    finally:
        _backend.reset(token)
        _overridden.reset(plans_token)


def is_overridden() -> bool:
    """True inside ``use_backend`` and where the device is "gpu": a layer's ready-made plan must not be used."""
    return _overridden.get()


def glue_backend(x: Any = None) -> ModuleType:
    """The backend of layers that are no recurrences (Dense …): that of x's home, unless ``use_backend`` says otherwise."""
    return _backend_named(_backend.get() or devices.home(x))


def elsewhere(x: Any, spec: RecurrentSpec | None = None) -> str | None:
    """Where a call on ``x`` must be moved to, "gpu" or "cpu"; None where it runs where its input lives.

    ``spec``: of a recurrent layer, whose size may decide. DeviceError where the GPU was asked for and cannot be used.
    """
    wanted, there = current_device(), devices.home(x)
    if _backend.get() == "cpu":
        wanted = "cpu"
    if wanted == "auto":
        crossed = there == "cpu" and spec is not None and _crosses(spec, x)
        return "gpu" if crossed and devices.gpu_refusal() is None else None
    return None if wanted == there else wanted


def _crosses(spec: RecurrentSpec, x: Any) -> bool:
    """Whether NumPy input is worth the way to the device, by ``CROSSOVER``."""
    convolutional = isinstance(spec, ConvLSTM1DSpec)
    least = CROSSOVER["convlstm1d" if convolutional else "lstm"]
    shape: tuple[int, ...] = getattr(x, "shape", ())
    if least is None or len(shape) < 3 or spec.storage not in ("float32", "float64"):
        return False
    channels = shape[-2] if convolutional and spec.channels_first else shape[-1]  # type: ignore[attr-defined]
    taps = spec.kernel_size if isinstance(spec, ConvLSTM1DSpec) else 1
    return math.prod(shape) // max(channels, 1) * taps * (channels + spec.units) * 4 * spec.units >= least


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
    forced, place = _backend.get(), elsewhere(x, spec) or devices.home(x)
    if spec.use_cudnn is True or spec.use_cudnn == 1:
        # Read only here: whether a mask is right-padded is one number to be fetched from the device.
        refusal = spec.fused_refusal(training=training, mask=mask)
        if refusal is None and (place == "cpu" or forced is not None):
            refusal = "no GPU is in use"
        if refusal is not None:
            raise ValueError(
                f"use_cudnn=True was specified, but the fused GPU kernel cannot run this call: {refusal}. "
                "Pass use_cudnn='auto' to fall back on another kernel."
            )
    if forced == "reference":
        return _told(Choice("reference", "numpy", "the reference backend was asked for"))
    where = f"device {current_device()!r}"
    if place == "gpu" and forced is None:
        kernel, reason = _backend_named("gpu").kernel_for(spec, x, training=training)
        why = "the input lives there" if devices.is_on_gpu(x) else "the input is moved there and the results back"
        return _told(Choice("gpu", kernel, f"{where}: {why}; {reason}"))
    kernel, reason = cpu.kernel_for(spec, training=training, gradient=gradient)
    return _told(Choice("cpu", kernel, f"{where}: {reason}"))


def _told(choice: Choice) -> Choice:
    """The choice, with a line in the log "fastlstm" where somebody listens."""
    logging = sys.modules.get("logging")  # not imported for this: without it nobody can have asked for the log
    if logging is not None:
        logging.getLogger("fastlstm").debug("%s backend, %s kernel: %s", choice.backend, choice.kernel, choice.reason)
    return choice


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
        "auto": _auto_rule(),
        **_backend_named("gpu").config(),
        "extras": extras,
    }


def _auto_rule() -> str:
    """What "auto" does with NumPy input, in words."""
    measured = {verb: least for verb, least in CROSSOVER.items() if least is not None}
    if not measured:
        return "NumPy input runs on the CPU: no crossover with a GPU has been measured"
    return "NumPy input goes to a GPU from " + ", ".join(
        f"{least:.0e} multiply-adds ({verb})" for verb, least in measured.items()
    )


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
