"""The Keras layer of a workload, built and with its weights. Used by the three Keras adapters and ``write_tflite``."""

from __future__ import annotations

from typing import Any

from benchmarks.rivals.workload import Data, Workload

UNROLLED_STEPS = 20  # sequences up to this long are tried unrolled too


def make_layer(layers: Any, work: Workload, data: Data, unroll: bool = False, **more: Any) -> Any:
    """``layers``: ``keras.layers``, or another module with the same classes; ``more``: further arguments of the layer."""
    options: dict[str, Any] = {"return_sequences": work.return_sequences, "return_state": work.carries_states}
    options |= {"dtype": work.dtype, "unroll": unroll, **more}
    if work.is_lstm:
        layer = layers.LSTM(work.units, **options)
    else:
        layer = layers.ConvLSTM1D(work.units, work.kernel_size, padding=work.padding, **options)
    if work.bidirectional:
        layer = layers.Bidirectional(layer)
    layer.build(data["inputs"].shape[1:])
    names = [f"{name}{end}" for end in ("", "_b") for name in ("kernel", "recurrent_kernel", "bias")]
    layer.set_weights([data[name] for name in names if name in data])
    return layer


def loops(work: Workload) -> dict[str, bool]:
    """Name -> ``unroll`` of the two ways to go through time."""
    return {"loop": False} if work.steps > UNROLLED_STEPS else {"loop": False, "unrolled": True}
