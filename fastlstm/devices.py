"""devices: where arrays live, and CuPy, which is imported here and nowhere else, when a GPU is first asked for.

Everything above works on NumPy arrays and CuPy arrays alike: NumPy's functions hand CuPy arrays on to CuPy, save those that make
an array of anything; these stand here. Nothing moves an array between host and device but ``to_gpu`` and ``to_cpu``.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from types import ModuleType
from typing import Any

import numpy as np

from .errors import DeviceError

_DLPACK_CUDA = (2, 13)  # kDLCUDA and kDLCUDAManaged


@functools.cache
def gpu_refusal() -> str | None:
    """Why there is no GPU to be used, or None if there is one. Imports CuPy at its first call, never raises."""
    if "cupy" not in sys.modules and importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed: pip install 'fastlstm[gpu]'"
    try:
        import cupy

        if not cupy.cuda.is_available():
            return "CuPy finds no CUDA device"
    except Exception as error:  # whatever a broken driver or a half-installed CUDA raises is the answer
        return f"CuPy cannot be used: {type(error).__name__}: {error}"
    return None


def cupy_module() -> ModuleType:
    """CuPy. DeviceError with the reason where no GPU can be used."""
    refusal = gpu_refusal()
    if refusal is not None:
        raise DeviceError(f"The device 'gpu' cannot be used: {refusal}")
    return sys.modules["cupy"]


def is_on_gpu(array: Any) -> bool:
    """Whether ``array`` is a CuPy array. Costs nothing where nobody has imported CuPy."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(array, cupy.ndarray)


def home(array: Any) -> str:
    """ "gpu" for a CuPy array, a CUDA array of another library and a DLPack capsule, else "cpu"."""
    if type(array) is np.ndarray:
        return "cpu"
    return "gpu" if is_on_gpu(array) or _is_foreign(array) else "cpu"


def _is_foreign(value: Any) -> bool:
    """Whether ``value`` is device memory of another library. A bare capsule does not say where its memory is: CUDA is taken for
    granted, for host memory NumPy's own door is open."""
    if hasattr(value, "__dlpack_device__"):
        return value.__dlpack_device__()[0] in _DLPACK_CUDA
    return type(value).__name__ == "PyCapsule"


def module_of(array: Any) -> Any:
    """CuPy for a CuPy array, else NumPy: for functions that make a new array."""
    return sys.modules["cupy"] if is_on_gpu(array) else np


def module_at(place: str) -> Any:
    """CuPy for "gpu", NumPy for "cpu". DeviceError where there is no GPU."""
    return cupy_module() if place == "gpu" else np


def to_gpu(array: Any) -> Any:
    """A CuPy array of the same values and dtype; moves host arrays. DeviceError where there is no GPU."""
    return array if is_on_gpu(array) else cupy_module().asarray(np.asarray(array))


def to_cpu(array: Any) -> Any:
    """A NumPy array of the same values and dtype; moves CuPy arrays."""
    return sys.modules["cupy"].asnumpy(array) if is_on_gpu(array) else np.asarray(array)


def adopt(value: Any) -> Any:
    """A CuPy array over the memory of another library's CUDA array (DLPack, such as a torch tensor); anything else as it is.

    A capsule can be opened once: what was adopted is what goes on.
    """
    if type(value) is np.ndarray or is_on_gpu(value) or not _is_foreign(value):
        return value
    return cupy_module().from_dlpack(value if hasattr(value, "__dlpack__") else _Capsule(value))


class _Capsule:
    """A bare DLPack capsule in the form that ``from_dlpack`` takes."""

    def __init__(self, capsule: Any):
        self._capsule = capsule

    def __dlpack__(self, **options: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return _DLPACK_CUDA[0], int(cupy_module().cuda.Device().id)


def is_array(value: Any) -> bool:
    """Whether ``value`` is a NumPy or a CuPy array."""
    return isinstance(value, np.ndarray) or is_on_gpu(value)


def moved(value: Any, place: str) -> Any:
    """``value`` with every array in it, through tuples, lists and dicts, at ``place``; all else as it is."""
    if hasattr(value, "moved_to"):
        return value.moved_to(place)
    if isinstance(value, dict):
        return {key: moved(one, place) for key, one in value.items()}
    if isinstance(value, (tuple, list)):
        parts = [moved(one, place) for one in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    value = adopt(value)
    if not hasattr(value, "__array__") or np.isscalar(value):
        return value
    return to_gpu(value) if place == "gpu" else to_cpu(value)


def as_array(value: Any, dtype: Any = None) -> Any:
    """``numpy.asarray`` that leaves CuPy arrays where they are."""
    if is_on_gpu(value):
        return value if dtype is None else value.astype(dtype, copy=False)
    return np.asarray(value, dtype=dtype)


def contiguous(array: Any, dtype: Any = None) -> Any:
    """C-contiguous, on a host also aligned and native-endian, in ``dtype`` (None: its own); no copy where none is needed."""
    if is_on_gpu(array):
        return sys.modules["cupy"].ascontiguousarray(array, dtype=dtype)
    return np.require(array, dtype=array.dtype if dtype is None else dtype, requirements=("C", "A"))


def check_home(array: Any, other: Any, name: str, beside: str) -> None:
    """TypeError where ``array`` and ``other`` do not live on the same side: neither is moved without being asked to."""
    if is_on_gpu(array) != is_on_gpu(other):
        places = {"cpu": "in NumPy, on the host", "gpu": "in CuPy, on the device"}
        raise TypeError(
            f"The argument `{name}` must live where `{beside}` does, {places[home(other)]}. Received: an array "
            f"{places[home(array)]}. cupy.asarray and cupy.asnumpy move it"
        )
