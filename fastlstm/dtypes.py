"""Dtype policies: which type the variables have and which type a layer computes in (keras-spec 19).

``float32`` and ``float64`` are computed as they are. ``float16``, ``bfloat16`` and the ``mixed_*`` policies store (and
round every step's h, c and outputs to) 16 bits, but the arithmetic between two roundings is float32.
bfloat16 needs the package ``ml_dtypes`` (extra ``[bf16]``), imported on first use only.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import settings

_FLOAT_NAMES = ("float16", "bfloat16", "float32", "float64")
_INT_NAMES = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


def as_dtype(name: Any) -> np.dtype:
    """NumPy dtype of a dtype name; "bfloat16" through ml_dtypes (ImportError that names the extra without it)."""
    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError as error:
            raise ImportError("bfloat16 needs the package ml_dtypes: pip install 'fastlstm[bf16]'") from error
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


class DTypePolicy:
    """Variable and compute dtype of a layer.

    ``DTypePolicy("float32")``: both float32; ``DTypePolicy("mixed_float16")``: float32 variables, 16-bit compute.
    ValueError for an unknown name.
    """

    def __init__(self, name: str):
        if not isinstance(name, str):
            raise TypeError(f"`name` must be a string, such as 'float32' or 'mixed_float16'. Received: name={name!r}")
        self.name = name
        if name in ("mixed_float16", "mixed_bfloat16"):
            self.compute_dtype, self.variable_dtype = name.removeprefix("mixed_"), "float32"
        elif name in _FLOAT_NAMES or name in _INT_NAMES:
            self.compute_dtype = self.variable_dtype = name
        else:
            raise ValueError(
                f"Cannot convert {name!r} to a mixed precision DTypePolicy. Expected one of {_FLOAT_NAMES}, "
                "'mixed_float16' or 'mixed_bfloat16'"
            )

    @property
    def storage_dtype(self) -> np.dtype:
        """NumPy dtype of outputs and states: the compute dtype."""
        return as_dtype(self.compute_dtype)

    @property
    def arithmetic_dtype(self) -> np.dtype:
        """NumPy dtype of the arithmetic: float64 for float64, else float32."""
        return np.dtype("float64" if self.compute_dtype == "float64" else "float32")

    def get_config(self) -> dict:
        return {"name": self.name}

    @classmethod
    def from_config(cls, config: dict) -> DTypePolicy:
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DTypePolicy) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f'<DTypePolicy "{self.name}">'


def serialize_policy(policy: DTypePolicy) -> dict:
    """The 4-key dict that Keras writes for a policy (keras-spec 13.1)."""
    return {"module": "keras", "class_name": "DTypePolicy", "config": policy.get_config(), "registered_name": None}


def get_policy(identifier: Any) -> DTypePolicy:
    """Policy of None (the default, ``settings.floatx()``), a name, a dict, a NumPy dtype or a policy object."""
    if identifier is None:
        return DTypePolicy(settings.floatx())
    if isinstance(identifier, DTypePolicy):
        return identifier
    if isinstance(identifier, dict):
        config = identifier.get("config", identifier)
        if not isinstance(config, dict) or "name" not in config:
            raise ValueError(f"Cannot read a dtype policy from the dict {identifier!r}: it has no config with a name")
        return DTypePolicy(config["name"])
    if isinstance(identifier, str):
        return DTypePolicy(identifier)
    try:
        return DTypePolicy(np.dtype(identifier).name)
    except TypeError:
        raise ValueError(
            f"Cannot interpret `dtype` argument. Expected a name, a dict or a DTypePolicy. Received: {identifier!r}"
        ) from None
