"""ONNX graphs that run here: LSTM and the operators that come around it. Uses ``io``; used by ``models.saving`` and ``report``.

``checks`` (what a file asks for, all of it, before anything runs) -> ``plan`` (constants computed, weights prepared, the order of
work) -> ``model`` (OnnxModel). The operators stand in ``ops_*`` and ``lstm``, which fill the table of ``registry``.
"""

from .model import OnnxModel, load_onnx

__all__ = ["OnnxModel", "load_onnx"]
