"""Weights that PyTorch keeps in parts: ``weight_norm`` (both kinds) and pruning put together, other parametrizations told.

``torch.nn.utils.weight_norm`` leaves weight_hh_l0_g and weight_hh_l0_v in the state dict, ``parametrizations.weight_norm``
parametrizations.weight_hh_l0.original0 and .original1: the weight is g * v / |v|, with the norm over the axes that g has not.
``torch.nn.utils.prune`` leaves weight_hh_l0_orig and weight_hh_l0_mask: their product. Used by ``torch_weights``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

NAME = r"(?:weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)(?:_l\d{1,4}(?:_reverse)?)?"
_PARTS = re.compile(rf"((?:.*\.)?)(?:({NAME})_(g|orig)|parametrizations\.({NAME})\.(original0))", re.DOTALL)


def composed(state: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``state`` and the weights that its parts make. ValueError where two parts do not go together."""
    found = dict(state)
    for name, value in state.items():
        match = _PARTS.fullmatch(name)
        if match is None or not hasattr(value, "shape"):
            continue
        prefix, old, ending, new, _ = match.groups()
        other = f"{name[:-1]}1" if new else f"{name.removesuffix(ending)}{'v' if ending == 'g' else 'mask'}"
        whole = f"{prefix}{old or new}"
        if whole in found or not hasattr(state.get(other), "shape"):
            continue
        if ending == "orig":
            found[whole] = _pruned(name, value, other, state[other], where)
        else:
            found[whole] = _normed(name, value, other, state[other], where)
    return found


def _normed(name: str, g: Any, other: str, v: Any, where: str) -> np.ndarray:
    """g * v / |v|, calculated in float64, in v's dtype."""
    scale, direction = floats(g, name, where), floats(v, other, where)
    sizes = scale.shape or (1,) * direction.ndim  # without an axis: one norm of the whole weight
    if len(sizes) != direction.ndim or any(a not in (1, b) for a, b in zip(sizes, direction.shape, strict=True)):
        raise ValueError(f"{where}: {name!r} has shape {scale.shape}, which is no norm of {other!r}, {direction.shape}")
    axes = tuple(axis for axis, size in enumerate(sizes) if size == 1)
    wide = direction.astype(np.float64)
    with np.errstate(all="ignore"):  # a row of zeros is NaN, as in PyTorch
        whole = wide * (scale.reshape(sizes) / np.sqrt((wide * wide).sum(axes, keepdims=True)))
    return whole.astype(direction.dtype)


def _pruned(name: str, original: Any, other: str, mask: Any, where: str) -> np.ndarray:
    values, kept = floats(original, name, where), floats(mask, other, where)
    if values.shape != kept.shape:
        raise ValueError(f"{where}: {name!r} has shape {values.shape}, but {other!r} {kept.shape}")
    return values * kept


def told(state: Mapping[str, Any], full: str) -> str:
    """What the error about a missing weight adds where the state dict has parts of it; "" where it has none."""
    prefix, _, name = full.rpartition(".")
    prefix = f"{prefix}." if prefix else ""
    new = [key for key in state if key.startswith(f"{prefix}parametrizations.{name}.")]
    old = [key for key in (f"{prefix}{full_name}" for full_name in (f"{name}_orig", f"{name}_v", f"{name}_raw")) if key in state]
    if new:
        call = f"torch.nn.utils.parametrize.remove_parametrizations(lstm, {name!r})"
        return f"; {new[0]!r} is a parametrization that is not read: remove it first, with PyTorch: {call}"
    if old:
        return f"; {old[0]!r} is a part of it (spectral_norm or the like) that is not read: remove the hook first, with PyTorch"
    return ""


def floats(value: Any, name: str, where: str) -> np.ndarray:
    """An array or a tensor as an array of float32 or float64, with nothing imported. ValueError where it holds no floats."""
    if not isinstance(value, np.ndarray):
        for step in ("detach", "cpu"):  # a torch.Tensor that is trained, or lies on another device
            value = getattr(value, step)() if callable(getattr(value, step, None)) else value
        if re.search("bfloat16|float8", str(value.dtype)) and callable(getattr(value, "float", None)):
            value = value.float()  # NumPy has no such dtype to hand it over in
        value = np.asarray(value) if hasattr(value, "__array__") else np.from_dlpack(value)
    if value.dtype.kind != "f" and value.dtype.name != "bfloat16":
        raise ValueError(f"{where}: {name!r} has dtype {value.dtype}, expected floating numbers (quantised weights are not read)")
    return value.astype(np.float64 if value.dtype.itemsize > 4 else np.float32)
