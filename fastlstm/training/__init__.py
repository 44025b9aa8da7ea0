"""What training needs besides the layers' gradients: losses, metrics, optimizers, schedules, callbacks, fit.

Terms of ``keras.losses``, ``keras.metrics``, ``keras.optimizers``, ``keras.optimizers.schedules`` and ``keras.callbacks``. Used
by models (``trainer`` gives them fit and evaluate) and by callers with their own training loop; exposed as
``fastlstm.losses``, ``fastlstm.metrics``, ``fastlstm.optimizers`` and ``fastlstm.callbacks``.

The modules are loaded when somebody asks for them: those who only predict do not wait for them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import callbacks, losses, metrics, optimizers, schedules

__all__ = ["callbacks", "losses", "metrics", "optimizers", "schedules"]

_LOADERS = {
    "callbacks": lambda: import_module("fastlstm.training.callbacks"),
    "losses": lambda: import_module("fastlstm.training.losses"),
    "metrics": lambda: import_module("fastlstm.training.metrics"),
    "optimizers": lambda: import_module("fastlstm.training.optimizers"),
    "schedules": lambda: import_module("fastlstm.training.schedules"),
}


def __getattr__(name: str) -> Any:
    if name in _LOADERS:
        return _LOADERS[name]()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
