"""What an .h5 file says about compiling -> the ``compile_config`` of a .keras file. Used by ``saving``.

Keras 1 and 2 named some things otherwise; what is left as it was is looked at, and perhaps refused, when somebody trains.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def compile_config(training: Mapping[str, Any]) -> dict[str, Any]:
    """``training_config`` with today's names."""
    optimizer = training.get("optimizer_config")
    names = ("metrics", "weighted_metrics")
    return {
        "optimizer": _optimizer(optimizer) if isinstance(optimizer, Mapping) else None,
        "loss": _renamed(training.get("loss")),
        "loss_weights": training.get("loss_weights"),
        **{name: _renamed(training.get(name)) for name in names},
    }


def _optimizer(config: Mapping[str, Any]) -> dict[str, Any]:
    """``lr`` became ``learning_rate``; a ``decay`` of 0 says nothing."""
    inner = config.get("config")
    options = dict(inner) if isinstance(inner, Mapping) else {}
    if "lr" in options:
        options["learning_rate"] = options.pop("lr")
    if not options.get("decay", 1):
        del options["decay"]
    return {**config, "config": options}


def _renamed(given: Any) -> Any:
    """Metrics and losses by name: TensorFlow 2 wrapped functions in objects, and had a reduction "auto"."""
    if isinstance(given, list):
        return [_renamed(one) for one in given]
    if not isinstance(given, Mapping):
        return given
    inner = given.get("config")
    if not isinstance(inner, Mapping):
        return {key: _renamed(value) for key, value in given.items()} if "class_name" not in given else given
    if given.get("class_name") in ("MeanMetricWrapper", "LossFunctionWrapper") and isinstance(inner.get("fn"), str):
        return inner["fn"]
    if inner.get("reduction") == "auto":
        inner = {**inner, "reduction": "sum_over_batch_size"}
    return {**given, "config": {key: value for key, value in inner.items() if key != "fn"}}
