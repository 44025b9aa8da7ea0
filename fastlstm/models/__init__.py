"""Models: layers put together, and models that Keras saved. Uses ``layers`` and ``io``; used by ``cli`` and by callers."""

from .saving import load_model
from .sequential import Sequential

__all__ = ["Sequential", "load_model"]
