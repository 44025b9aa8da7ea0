"""What training scripts save beside the tensors of a checkpoint: counters, sizes, devices, sets, bytes, NumPy's numbers.

Each becomes a dict, list, tuple, number, text or bytes. Used by ``torch_file``; all that ``torch.load`` takes with
``weights_only=True`` is taken as far as these can say it, and the numbers of NumPy and defaultdicts, which it refuses.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .torch_pickle import Buildable, Known

_TORCH_DTYPES = (
    "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128 qint8 quint8 qint32".split()
)
_NUMPY_DTYPES = {f"{kind}{size}" for kind, sizes in {"f": "248", "i": "1248", "u": "1248", "b": "1"}.items() for size in sizes}
# A file can name one thing many times: nothing long is copied.
_MAX_BYTES = 1024
_MAX_NAME = 100


class _NumpyType(Buildable):
    """``numpy.dtype("f8", False, True)``, whose byte order comes afterwards."""

    def __init__(self, *arguments: Any):
        if not arguments or arguments[0] not in _NUMPY_DTYPES:
            raise ValueError(f"refuses NumPy's dtype {arguments[:1]!r:.50}; numbers have one of {sorted(_NUMPY_DTYPES)}")
        self.dtype = np.dtype(arguments[0])

    def build(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise ValueError(f"its pickle is damaged: a dtype of NumPy has the byte order {order!r:.50}")
        self.dtype = self.dtype.newbyteorder(order)


def _numpy_number(*arguments: Any) -> Any:
    """``numpy.core.multiarray.scalar(dtype, bytes)`` as a number of Python."""
    kind, data = arguments if len(arguments) == 2 else (None, None)
    if not isinstance(kind, _NumpyType) or not isinstance(data, bytes) or len(data) != kind.dtype.itemsize:
        raise ValueError("its pickle is damaged: a number of NumPy must be made of a dtype and its bytes")
    return np.frombuffer(data, kind.dtype)[0].item()


def _counter(*arguments: Any) -> dict:
    if len(arguments) > 1 or not all(type(argument) is dict for argument in arguments):
        raise ValueError("its pickle is damaged: a Counter must be made of a dict")
    return arguments[0] if arguments else {}


def _default_dict(*arguments: Any) -> dict:
    if len(arguments) > 1 or not all(argument is None or isinstance(argument, Known) for argument in arguments):
        raise ValueError("its pickle is damaged: a defaultdict must be made of a type")
    return {}


def _items(name: str, kind: type) -> Known:
    """A set as the list, a Size as the tuple that it was saved as."""

    def make(*arguments: Any) -> Any:
        if len(arguments) != 1 or type(arguments[0]) is not kind:
            raise ValueError(f"its pickle is damaged: a {name} must be made of a {kind.__name__}")
        return arguments[0]

    return Known(name, make)


def _device(*arguments: Any) -> str:
    """``torch.device("cuda", 0)`` as "cuda:0"."""
    texts = [argument for argument in arguments if isinstance(argument, str) or type(argument) is int]
    if not 1 <= len(texts) == len(arguments) <= 2 or not isinstance(texts[0], str) or len(str(texts)) > _MAX_NAME:
        raise ValueError("its pickle is damaged: a device must be made of a name and a number")
    return ":".join(map(str, texts))


def _bytes(*arguments: Any) -> bytes:
    """``_codecs.encode(text, "latin1")``, as which protocol 2 writes bytes."""
    if len(arguments) != 2 or not isinstance(arguments[0], str) or arguments[1] != "latin1" or len(arguments[0]) > _MAX_BYTES:
        raise ValueError(f"its pickle is damaged: bytes must be made of a text of at most {_MAX_BYTES} letters in latin1")
    try:
        return arguments[0].encode("latin1")
    except UnicodeEncodeError as error:
        raise ValueError("its pickle is damaged: bytes are made of letters that latin1 does not have") from error


def _complex(*arguments: Any) -> complex:
    if len(arguments) != 2 or not all(type(argument) in (int, float) for argument in arguments):
        raise ValueError("its pickle is damaged: a complex number must be made of two numbers")
    return complex(*arguments)


def _objects() -> dict[str, Known]:
    plain = {name: Known(name) for name in ("int", "float", "bool", "str", "list", "dict", "tuple")}
    plain |= {"set": _items("set", list), "complex": Known("complex", _complex)}
    found = {f"{module}.{name}": known for module in ("builtins", "__builtin__") for name, known in plain.items()}
    found |= {f"numpy.{core}.multiarray.scalar": Known("numpy.scalar", _numpy_number) for core in ("core", "_core")}
    found |= {f"torch.{name}": Known(f"torch.{name}", value=f"torch.{name}") for name in _TORCH_DTYPES}
    return found | {
        "collections.Counter": Known("collections.Counter", _counter),
        "collections.defaultdict": Known("collections.defaultdict", _default_dict),
        "torch.Size": _items("torch.Size", tuple),
        "torch.device": Known("torch.device", _device),
        "_codecs.encode": Known("_codecs.encode", _bytes),
        "numpy.dtype": Known("numpy.dtype", _NumpyType),
    }


OBJECTS = _objects()
