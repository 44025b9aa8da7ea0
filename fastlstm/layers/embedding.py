"""Embedding: rows of a table by integer index (terms of ``keras.layers.Embedding``)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import constraints, devices, initializers, regularizers
from ..arrays import cast, require_array
from ..variable import Variable
from .base import Layer
from .checks import positive_int, refuse


class Embedding(Layer):
    """Indices [N,…] in 0 … input_dim-1 -> [N,…,output_dim]. With ``mask_zero`` index 0 is padding: ``compute_mask`` is ids != 0.

    Arguments as in Keras 3; ``weights``: a table [input_dim,output_dim] (or a list with one) to begin with; ``input_length`` of
    older files is accepted and ignored; ``lora_rank``, ``lora_alpha`` and ``quantization_config`` are accepted as None only.
    Floating indices are truncated as Keras does. ValueError for an index outside the table.
    """

    runs_on_gpu = True

    embeddings: Variable

    def __init__(
        self,
        input_dim: Any,
        output_dim: Any,
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        embeddings_constraint: Any = None,
        mask_zero: Any = False,
        weights: Any = None,
        lora_rank: Any = None,
        lora_alpha: Any = None,
        quantization_config: Any = None,
        **kwargs: Any,
    ):
        refuse("Embedding", lora_rank=lora_rank, lora_alpha=lora_alpha, quantization_config=quantization_config)
        kwargs.pop("input_length", None)
        self.input_dim = positive_int(input_dim, "input_dim")
        self.output_dim = positive_int(output_dim, "output_dim")
        super().__init__(**kwargs)
        self.embeddings_initializer = initializers.get(embeddings_initializer)
        self.embeddings_regularizer = regularizers.get(embeddings_regularizer)
        self.embeddings_constraint = constraints.get(embeddings_constraint)
        self.mask_zero = mask_zero
        self.supports_masking = bool(mask_zero)
        if weights is not None:
            self.build((None,))
            self.set_weights(weights if isinstance(weights, list) and len(weights) == 1 else [weights])

    def _build(self, input_shape: Any) -> None:
        self._variables = []
        self.embeddings = self.add_weight(
            (self.input_dim, self.output_dim),
            self.embeddings_initializer,
            "embeddings",
            regularizer=self.embeddings_regularizer,
            constraint=self.embeddings_constraint,
        )

    def _as_input(self, inputs: Any, name: str = "inputs") -> np.ndarray:
        """Indices as they came: casting them to the compute dtype would change large ones."""
        return require_array(inputs, name)

    def call(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> np.ndarray:
        return self._rows(self._indices(x))

    def _vjp(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> tuple[np.ndarray, Any]:
        """The inputs are indices: they have no gradient."""
        indices, shape = self._indices(x), self.embeddings.shape

        def pull(dy: np.ndarray) -> tuple[None, list]:
            xp = devices.module_of(dy)
            table = xp.zeros(shape, dy.dtype)
            xp.add.at(table, indices, dy)
            return None, [table]

        return self._rows(indices), pull

    def _rows(self, indices: np.ndarray) -> np.ndarray:
        return cast(np.take(self.embeddings.at(devices.home(indices)), indices, axis=0), self.storage_dtype)

    def _indices(self, x: np.ndarray) -> np.ndarray:
        """x as indices. ValueError for one outside the table."""
        if x.dtype.kind not in "iub" and not np.isfinite(x).all():
            raise ValueError(f'The indices given to layer "{self.name}" must be finite integers. Received: NaN or infinity')
        if x.size:
            low, high = x.min(), x.max()
            if not (low > -1 and high < self.input_dim):
                raise ValueError(
                    f'Index out of range in layer "{self.name}": expected indices in [0, {self.input_dim}). '
                    f"Received: smallest {low}, largest {high}"
                )
        return x.astype(np.intp, copy=False)

    def compute_mask(self, inputs: Any, mask: Any = None) -> np.ndarray | None:
        return require_array(inputs, "inputs") != 0 if self.mask_zero else None

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (*input_shape, self.output_dim)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "embeddings_initializer": initializers.serialize(self.embeddings_initializer),
            "embeddings_regularizer": regularizers.serialize(self.embeddings_regularizer),
            "activity_regularizer": regularizers.serialize(self.activity_regularizer),
            "embeddings_constraint": constraints.serialize(self.embeddings_constraint),
            "mask_zero": self.mask_zero,
            "quantization_config": None,
        }
