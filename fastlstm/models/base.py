"""Model: what Sequential and functional models have in common: files, look-up of layers, states (terms of ``keras.Model``).

In terms of Trainer; ``Model(inputs, outputs)`` makes a ``functional.Functional``, as in Keras.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

from ..layers import LAYERS, Layer
from ..training.trainer import Trainer
from .summary import summary_lines

_thread = threading.local()


def last_masks() -> weakref.WeakKeyDictionary:
    """The mask that came out of this thread's last call of each model."""
    if not hasattr(_thread, "masks"):
        _thread.masks = weakref.WeakKeyDictionary()
    return _thread.masks


class Model(Trainer):
    """A model: layers put together. ``Model(inputs, outputs, name=None)`` with symbolic tensors is a functional one.

    ValueError without ``inputs`` and ``outputs``, and for what is no symbolic tensor.
    """

    runs_on_gpu = True  # each layer says for itself whether it does

    supports_masking = True

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls is not Model:
            return super().__new__(cls)
        from .functional import Functional

        return super().__new__(Functional)

    @classmethod
    def from_config(cls, config: Any) -> Any:
        """A new functional model of ``get_config``'s dict. Fresh weights."""
        from .functional import Functional

        return Functional.from_config(config)

    @property
    def layers(self) -> list[Layer]:
        """The layers of the model, each once; of a class derived from Model those in its attributes."""
        return list(self._layers)

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """The layer of that name, or at that place in ``layers``. ValueError unless exactly one is given and found."""
        if (name is None) == (index is None):
            raise ValueError(f"Provide either a layer name or a layer index. Received: name={name!r}, index={index!r}")
        layers = self.layers
        if index is not None:
            if not -len(layers) <= index < len(layers):
                raise ValueError(f"Was asked to retrieve the layer at index {index}, but the model only has {len(layers)} layers")
            return layers[index]
        for layer in self._layers:
            if layer.name == name:
                return layer
        raise ValueError(f"No such layer: {name!r}. Existing layers are: {[layer.name for layer in layers]}")

    @property
    def stateful(self) -> bool:
        """True if any layer carries its state from call to call."""
        return any(getattr(layer, "stateful", False) for layer in self._layers)

    @property
    def time_major(self) -> bool:
        """Whether the model holds layers that old files had with ``time_major=True``: axis 0 of its inputs is time."""
        return any(getattr(layer, "time_major", False) for layer in self._layers)

    def mask_after_call(self, inputs: Any, mask: Any) -> Any:
        """As the layers said in the call: running them again would draw dropout and carry states a second time."""
        return last_masks().get(self)

    # -- files ------------------------------------------------------------------------------------------------------
    def save(self, filepath: Any, overwrite: bool = True) -> None:
        """Writes a ``.keras`` file that Keras 3 and ``load_model`` open: layers, weights, and what ``compile`` was told.

        ``filepath``: a path that ends in ".keras", or a binary file object; or a path that ends in ".npz" or ".safetensors", for
        a file with the same contents that ``load_model`` opens without h5py. The file appears complete or not at all. The state
        of the optimizer and carried states are not in it. ValueError for another suffix and before build, FileExistsError
        with ``overwrite=False``, OSError where it cannot be written, ImportError without h5py.
        """
        from .writing import save_model

        save_model(self, filepath, overwrite)

    def save_weights(self, filepath: Any, overwrite: bool = True) -> None:
        """Writes the weights alone to a ".weights.h5" file; errors as of ``save``."""
        from .writing import save_weights

        save_weights(self, filepath, overwrite)

    def load_weights(self, filepath: Any, skip_mismatch: bool = False, by_name: bool = False) -> None:
        """Takes the weights of a ".weights.h5", ".h5" or ".keras" file of a model of the same layers, whatever its version.

        ``skip_mismatch``: layers that do not fit keep theirs, with a warning. ``by_name`` (files of Keras 1 and 2 only): the
        layers that have the name of one in the file, else all in order.
        ValueError, naming the file, where it is damaged or does not fit (the model is then as it was).
        """
        from .saving import load_weights

        load_weights(self, filepath, skip_mismatch, by_name)

    def to_json(self, **kwargs: Any) -> str:
        """The layers, and what ``compile`` was told, as a JSON text, which ``model_from_json`` of Keras and of fastlstm read.

        ``kwargs`` go to ``json.dumps``. The weights are not in it. ValueError before the model is built.
        """
        import json

        from .writing import model_config

        if not self.built:
            raise ValueError(f'The model "{self.name}" must be built first: call `model.build(shape)`')
        return json.dumps(model_config(self), **kwargs)

    # -- reports ----------------------------------------------------------------------------------------------------
    def _summary_columns(self) -> tuple[list | None, list[str] | None]:
        """Output shapes of ``layers`` (None before build) and what each is connected to (None: the one before)."""
        return None, None

    def summary(self, *, line_length: int | None = None, print_fn: Callable[[str], Any] | None = None) -> None:
        """Prints a table of the layers, their output shapes and numbers of parameters, one line at a time by ``print_fn``."""
        for line in summary_lines(self, *self._summary_columns(), line_length):
            (print_fn or print)(line)


LAYERS["Functional"] = Model  # whose from_config makes a Functional, which is loaded when one is needed
