"""Process-wide defaults that Keras also has: float type, image data format, epsilon.

Terms of ``keras.config``: ``floatx``, ``image_data_format``, ``epsilon``. Read by ``dtypes``, ``spec`` and ``constraints``.
"""

from typing import Any

_FLOATX = ("float16", "bfloat16", "float32", "float64")
_DATA_FORMATS = ("channels_last", "channels_first")

_state: dict[str, Any] = {"floatx": "float32", "image_data_format": "channels_last", "epsilon": 1e-7}


def floatx() -> str:
    """Default dtype of layers built without ``dtype``: "float32" unless set."""
    return _state["floatx"]


def set_floatx(value: str) -> None:
    """Sets the default dtype. ValueError for anything but float16, bfloat16, float32, float64."""
    if value not in _FLOATX:
        raise ValueError(f"Unknown `floatx` value: {value!r}. Expected one of {_FLOATX}")
    _state["floatx"] = value


def image_data_format() -> str:
    """Default ``data_format`` of convolutions: "channels_last" unless set."""
    return _state["image_data_format"]


def set_image_data_format(value: str) -> None:
    """Sets the default ``data_format``. ValueError for anything but channels_last, channels_first."""
    value = str(value).lower()
    if value not in _DATA_FORMATS:
        raise ValueError(f"Unknown `data_format` value: {value!r}. Expected one of {_DATA_FORMATS}")
    _state["image_data_format"] = value


def epsilon() -> float:
    """The fuzz factor of constraints and normalisations: 1e-7 unless set."""
    return _state["epsilon"]


def set_epsilon(value: float) -> None:
    """Sets the fuzz factor."""
    _state["epsilon"] = float(value)
