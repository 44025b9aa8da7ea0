"""Models: layers put together, and models that Keras saved. Uses ``layers`` and ``io``; used by ``cli`` and by callers."""

from .base import Model
from .saving import load_model, model_from_json, save_model
from .sequential import Sequential

__all__ = ["Model", "Sequential", "load_model", "model_from_json", "save_model"]
