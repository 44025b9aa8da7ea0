"""Layer: what every layer has in common: name, dtype policy, variables, losses, config (terms of ``keras.layers.Layer``).

A subclass implements ``_build(input_shape)`` (calls ``add_weight``), ``call(x, mask=, training=)`` on an array already cast
to ``storage_dtype``, ``_vjp`` (the same with its backward), ``compute_output_shape`` and ``get_config``. Layers without state
and dropout are reentrant: a call
writes nothing to ``self``; activity losses are kept per thread.
"""

from __future__ import annotations

import collections
import threading
from typing import Any

import numpy as np

from .. import devices, dtypes, initializers, regularizers, selector
from ..arrays import cast, require_array
from ..serialization import to_snake_case
from ..variable import Variable
from . import activity
from .gradients import Form, Gradients, Pullback, cotangents, like, of_weights, with_activity_losses
from .moving import moved_call, moved_vjp
from .subclassing import UserClasses
from .symbolic import calls_of, is_symbolic, symbolic_call

_name_counts: collections.Counter = collections.Counter()
_name_lock = threading.Lock()
# Held while a first call builds a layer: threads that call one new layer at once must not each make its variables.
_build_lock = threading.RLock()


def auto_name(prefix: str) -> str:
    """ "lstm", then "lstm_1", "lstm_2" …: the names that Keras gives."""
    with _name_lock:
        count = _name_counts[prefix]
        _name_counts[prefix] += 1
    return f"{prefix}_{count}" if count else prefix


def shape_tuple(shape: Any) -> tuple:
    """``shape`` as a tuple. TypeError for what has no entries."""
    try:
        return tuple(shape)
    except TypeError:
        raise TypeError(f"The argument `input_shape` must be a tuple of sizes. Received: input_shape={shape!r}") from None


def _own(gradient: np.ndarray | None, dys: Any) -> np.ndarray | None:
    """``gradient`` as an array that its receiver may write into: layers that only move numbers hand on views of ``dys``."""
    if gradient is None:
        return None
    given = [dy for dy in (dys if isinstance(dys, list) else [dys]) if dy is not None]
    writeable = devices.is_on_gpu(gradient) or gradient.flags.writeable
    own = writeable and not any(np.may_share_memory(gradient, dy) for dy in given)
    return gradient if own else gradient.copy()


class Layer(UserClasses):
    """Base class.

    Args: ``name`` (str or None: made from the class name), ``dtype`` (policy name, dict or DTypePolicy; None: float32),
    ``trainable``, ``activity_regularizer``, ``autocast`` (accepted), ``input_shape``/``input_dim`` (legacy: lets Sequential
    build). ValueError for any other keyword.
    """

    supports_masking = False
    symbolic_only = True  # a symbolic call takes symbolic tensors only, no constants
    runs_on_gpu = False  # whether CuPy arrays are taken: the layer's NumPy code works on them, or it has kernels

    def __init__(
        self,
        *,
        activity_regularizer: Any = None,
        trainable: bool = True,
        dtype: Any = None,
        autocast: bool = True,
        name: str | None = None,
        **kwargs: Any,
    ):
        shape = kwargs.pop("input_shape", None)
        dim = kwargs.pop("input_dim", None)
        if kwargs:
            raise ValueError(f"Unrecognized keyword arguments passed to {type(self).__name__}: {kwargs}")
        if shape is None and dim is not None:
            shape = (dim,)
        if name is not None and (not isinstance(name, str) or "/" in name):
            raise ValueError(f"Argument `name` must be a string and cannot contain character `/`. Received: name={name!r}")
        self.name = name or auto_name(to_snake_case(type(self).__name__))
        self.dtype_policy = dtypes.get_policy(dtype)
        self.autocast = autocast
        self.activity_regularizer = regularizers.get(activity_regularizer)
        self.built = False
        self.input_shape_hint = None if shape is None else (None, *shape)
        self._trainable = bool(trainable)
        self._variables: list[Variable] = []
        self._layers: list[Layer] = []

    # -- dtypes ---------------------------------------------------------------------------------------------------
    @property
    def compute_dtype(self) -> str:
        return self.dtype_policy.compute_dtype

    @property
    def variable_dtype(self) -> str:
        return self.dtype_policy.variable_dtype

    dtype = variable_dtype

    @property
    def storage_dtype(self) -> np.dtype:
        """NumPy dtype of outputs: the compute dtype."""
        return self.dtype_policy.storage_dtype

    @property
    def arithmetic_dtype(self) -> np.dtype:
        """NumPy dtype to calculate in: float32 for the 16-bit policies."""
        return self.dtype_policy.arithmetic_dtype

    # -- variables ------------------------------------------------------------------------------------------------
    def add_weight(
        self,
        shape: tuple[int, ...],
        initializer: Any = None,
        name: str = "variable",
        *,
        path: str | None = None,
        trainable: bool = True,
        regularizer: Any = None,
        constraint: Any = None,
    ) -> Variable:
        """Creates a variable in the variable dtype. Initializer None means glorot_uniform."""
        initializer = initializers.get(initializer if initializer is not None else "glorot_uniform")
        dtype = dtypes.as_dtype(self.variable_dtype)
        drawn = "float64" if dtype == np.float64 else "float32"
        value = np.asarray(initializer(tuple(shape), dtype=drawn))
        if value.shape != tuple(shape):
            raise ValueError(f"The initializer of `{name}` returned shape {value.shape}, expected {tuple(shape)}")
        variable = Variable(
            value.astype(dtype), name, path or f"{self.name}/{name}", trainable, regularizers.get(regularizer), constraint
        )
        # Trainable ones first, as ``weights`` lists them; freezing one later does not move it.
        place = sum(v.trainable for v in self._variables) if trainable else len(self._variables)
        self._variables.insert(place, variable)
        return variable

    def weight_value(self, variable: Variable, place: str = "cpu") -> np.ndarray:
        """The values of a variable as the arithmetic sees them: rounded to the compute dtype, held in ``arithmetic_dtype``.

        ``place``: "gpu" for a CuPy array; the values move there once for each version.
        """
        return cast(variable.at(place).astype(self.storage_dtype, copy=False), self.arithmetic_dtype)

    @property
    def trainable(self) -> bool:
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = bool(value)
        for layer in self._layers:
            layer.trainable = value

    @property
    def weights(self) -> list[Variable]:
        """All variables: own trainable, own non-trainable, then those of inner layers. Empty before ``build``."""
        return self._variables + [v for layer in self._layers for v in layer.weights]

    @property
    def trainable_weights(self) -> list[Variable]:
        if not self._trainable:
            return []
        return [v for v in self._variables if v.trainable] + [v for layer in self._layers for v in layer.trainable_weights]

    @property
    def non_trainable_weights(self) -> list[Variable]:
        trainable = {id(v) for v in self.trainable_weights}
        return [v for v in self.weights if id(v) not in trainable]

    @property
    def variables(self) -> list[Any]:
        """``weights``, each layer's followed by the state of its seed generator: a copy of [seed, counter]."""
        seeds = getattr(self, "seed_generator", None)
        own = [*self._variables] if seeds is None else [*self._variables, seeds.state]
        return [*own, *(v for layer in self._layers for v in layer.variables)]

    trainable_variables = trainable_weights
    non_trainable_variables = non_trainable_weights

    def get_weights(self) -> list[np.ndarray]:
        """Copies of all weights, in ``weights`` order."""
        return [v.numpy() for v in self.weights]

    def set_weights(self, weights: list[np.ndarray]) -> None:
        """Overwrites all weights, in ``weights`` order. ValueError for a wrong count or shape (then nothing is written)."""
        variables = self.weights
        if not hasattr(weights, "__len__"):
            raise TypeError(f"The argument `weights` must be a list of arrays. Received: {type(weights).__name__}")
        if len(variables) != len(weights):
            raise ValueError(
                f"You called `set_weights(weights)` on layer '{self.name}' with a weight list of length {len(weights)}, "
                f"but the layer was expecting {len(variables)} weights."
            )
        arrays = [require_array(w if hasattr(w, "__array__") else np.asarray(w), "weights") for w in weights]
        for variable, array in zip(variables, arrays, strict=True):
            if variable.shape != array.shape:
                raise ValueError(
                    f"Layer {self.name} weight shape {variable.shape} is not compatible with provided weight shape {array.shape} "
                    f"for {variable.path}."
                )
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)

    def count_params(self) -> int:
        """Number of scalars in all weights. ValueError before ``build``."""
        if not self.built:
            raise ValueError(
                f"You tried to call `count_params` on layer '{self.name}', but the layer isn't built. "
                f"You can build it manually via: `layer.build(input_shape)`."
            )
        return sum(v.size for v in self.weights)

    # -- losses ---------------------------------------------------------------------------------------------------
    @property
    def losses(self) -> list[np.ndarray]:
        """Activity losses of this thread's last call, then regularisation losses of the trainable weights (keras-spec 9)."""
        penalties = [v.regularizer(v.latest) for v in self.trainable_weights if v.regularizer is not None]
        return self._activity_losses() + penalties

    def _activity_losses(self, seen: set[int] | None = None) -> list[np.ndarray]:
        """Those of this layer and the layers inside, of each layer once: ``seen`` are the ids of those that were asked."""
        seen = set() if seen is None else seen
        if id(self) in seen:
            return []
        seen.add(id(self))
        inner = [loss for layer in self._layers for loss in layer._activity_losses(seen)]
        return activity.losses_of(self) + inner

    def _record_activity(self, outputs: Any) -> None:
        """Stores reg(t)/N of each returned array t [N,…] for ``losses``."""
        activity.record(self, outputs)

    # -- build and call -------------------------------------------------------------------------------------------
    def build(self, input_shape: Any) -> None:
        """Creates the variables for inputs of ``input_shape`` (batch axis first; None where unknown). TypeError for no shape."""
        if self.built:
            return
        self._build(input_shape if isinstance(input_shape, list) else shape_tuple(input_shape))
        self.built = True

    def _build(self, input_shape: Any) -> None:
        """Default: no variables."""

    def build_once(self, input_shape: Any) -> None:
        """``build`` unless another thread has just done so; for first calls."""
        with _build_lock:
            if not self.built:
                self.build(input_shape)

    def _as_input(self, inputs: Any, name: str = "inputs") -> np.ndarray:
        """``inputs`` checked and cast to the storage dtype, C-contiguous."""
        return cast(require_array(inputs, name), self.storage_dtype)

    def check_runs_here(self, *inputs: Any) -> None:
        """TypeError where the layer does not run on a GPU and is asked to, by a CuPy array or by ``device("gpu")``."""
        if self.runs_on_gpu:
            return
        if any(devices.home(array) == "gpu" or selector.elsewhere(array) == "gpu" for array in inputs):
            raise TypeError(
                f'The layer "{self.name}" ({type(self).__name__}) does not run on a GPU: its inputs must be NumPy arrays, which '
                "cupy.asnumpy makes of CuPy arrays, and the device must not be 'gpu'"
            )

    def __call__(self, inputs: Any, mask: Any = None, training: bool = False) -> Any:
        """Runs the layer. ``mask`` [N,T] is used by layers that know masks, ``training`` switches dropout on.

        Of a symbolic tensor (``Input(…)``) it makes another one, for ``Model(inputs, outputs)``.
        """
        if is_symbolic(inputs):
            return symbolic_call(self, inputs, mask=mask, training=training)
        place = selector.elsewhere(inputs)
        if place is not None:
            return moved_call(self, place, inputs, mask=mask, training=training)
        self.check_runs_here(inputs)
        x = self._as_input(inputs)
        if not self.built:
            self.build_once(x.shape)
        outputs = self.call(x, mask=mask, training=bool(training))
        self._record_activity(outputs)
        return outputs

    def call(self, *args: Any, **kwargs: Any) -> Any:  # typed so that a subclass may have the arguments that it needs
        raise NotImplementedError(f"Layer {type(self).__name__} does not have a `call()` method implemented.")

    # -- gradients ------------------------------------------------------------------------------------------------
    def vjp(self, inputs: Any, mask: Any = None, training: bool = True) -> tuple[Any, Pullback]:
        """Runs the layer and returns ``(outputs, pullback)``; ``pullback(dy)`` returns Gradients.

        ``dy``: the cotangent of the output, an array of its shape, or a tuple like several outputs (None: no gradient).
        ``training=False`` switches dropout off. The weights count as they are now; a pullback may be called again. Penalties
        (``losses``) are not part of the gradients. ValueError for a ``dy`` of another shape, NotImplementedError for activations
        that are the caller's own functions.
        """
        place = selector.elsewhere(inputs)
        if place is not None:
            return moved_vjp(self, place, inputs, mask=mask, training=training)
        self.check_runs_here(inputs)
        inputs = devices.adopt(inputs)
        x = self._as_input(inputs)
        if not self.built:
            self.build_once(x.shape)
        given = require_array(inputs, "inputs")
        if np.may_share_memory(x, given):
            x = x.copy()  # the caller may write into it before the pullback is called
        outputs, pull = self._vjp(x, mask=mask, training=bool(training))
        self._record_activity(outputs)
        several = isinstance(outputs, (tuple, list))
        forms = [Form.of(y) for y in (outputs if several else (outputs,))]
        x_form, weights = Form.of(given), of_weights(self)

        def pullback(dy: Any) -> Gradients:
            dys: Any = cotangents(dy, forms)
            if not several:
                dys = forms[0].zeros() if dys[0] is None else dys[0]
            dx, dweights = pull(dys)
            return Gradients(_own(like(dx, x_form), dys), None, weights(dweights))

        return outputs, with_activity_losses(self, outputs, pullback)

    def _vjp(self, x: np.ndarray, mask: np.ndarray | None = None, training: bool = False) -> tuple[Any, Any]:
        """As ``call``, with a function dy -> (dx or None, the gradients of ``weights`` in order).

        dy is an array in the arithmetic dtype (of several outputs a list, None for zeros), not to be written into; dx and the
        gradients are in the arithmetic dtype, or in the dtype that ``gradients.like`` gives them.
        """
        raise NotImplementedError(f"Layer {type(self).__name__} has no gradients: it does not implement `_vjp`")

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask that goes on to the next layer: the same, where the layer supports masking, else None."""
        return mask if self.supports_masking else None

    def mask_after_call(self, inputs: Any, mask: Any) -> Any:
        """``compute_mask`` for the arguments of the call or ``vjp`` that this thread made last; models need not run again."""
        return self.compute_mask(inputs, mask)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Shape of the output for an input shape; None entries stay None. Default: the same."""
        return tuple(input_shape)

    # -- symbolic calls -------------------------------------------------------------------------------------------
    def symbolic_output_shape(self, shapes: Any, options: dict[str, Any]) -> Any:
        """Shape of what a call with these options returns; a list of shapes where it returns several arrays."""
        return self.compute_output_shape(shapes)

    def symbolic_dtype(self, inputs: Any) -> str:
        """Name of the dtype of what the layer makes of symbolic ``inputs``."""
        return self.compute_dtype

    @property
    def input(self) -> Any:
        """What the layer was called with in a model of symbolic tensors. AttributeError where it was not."""
        return self._first_call("input").inputs

    @property
    def output(self) -> Any:
        """What the layer returned there; ``Model(model.input, layer.output)`` is a model that ends at this layer."""
        return self._first_call("output").structure

    def _first_call(self, what: str) -> Any:
        nodes = calls_of(self)
        if not nodes:
            raise AttributeError(f'The layer "{self.name}" has never been called on a symbolic tensor and thus has no {what}')
        return nodes[0]

    # -- config ---------------------------------------------------------------------------------------------------
    def get_config(self) -> dict:
        """JSON-able constructor arguments, in Keras' key order."""
        config: dict[str, Any] = {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": dtypes.serialize_policy(self.dtype_policy),
        }
        if self.activity_regularizer is not None:
            config["activity_regularizer"] = regularizers.serialize(self.activity_regularizer)
        return config

    @classmethod
    def from_config(cls, config: dict) -> Any:
        """A new layer from ``get_config``'s dict; unknown keys raise ValueError."""
        return cls(**config)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} name={self.name}, built={self.built}>"
