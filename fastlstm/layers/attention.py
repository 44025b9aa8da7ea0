"""Attention, AdditiveAttention and Dot: products of whole arrays, sample by sample (terms of ``keras.layers``).

In terms of SeveralInputs. Letters: N batch, Q steps of the query, V steps of values and keys, D features.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import cast
from ..random import SeedGenerator, dropout_mask
from ..spec import clip_rate
from ..variable import Variable
from .several import SeveralInputs

Scores = tuple[np.ndarray, Any]  # the scores [N,Q,V], and dscores -> (dquery, dkey, dweights)


class Attention(SeveralInputs):
    """[query [N,Q,D], value [N,V,E]] (or with key [N,V,D]) -> softmax(scores) @ value [N,Q,E], as ``keras.layers.Attention``.

    ``score_mode``: "dot" (query @ key, times a weight with ``use_scale``) or "concat" (weight * sum of tanh(query + key));
    ``dropout``: of the softmax, in training. Call: ``layer([q, v], mask=[q_mask, v_mask], return_attention_scores=False,
    use_causal_mask=False)``: masked values do not count, outputs of masked queries are 0; with scores the tuple
    (output, scores [N,Q,V]). ValueError for another ``score_mode``, another number of arrays, and shapes that do not fit.
    """

    _least, _most = 2, 3
    _options = ("return_attention_scores", "use_causal_mask")

    def __init__(
        self, use_scale: Any = False, score_mode: Any = "dot", dropout: Any = 0.0, seed: int | None = None, **kwargs: Any
    ):
        super().__init__(**kwargs)
        if score_mode not in ("dot", "concat"):
            raise ValueError(
                f"Invalid value for argument `score_mode`. Expected 'dot' or 'concat'. Received: score_mode={score_mode!r}"
            )
        clip_rate(dropout, "dropout")
        self.use_scale, self.score_mode, self.dropout, self.seed = use_scale, score_mode, dropout, seed
        if dropout > 0:
            self.seed_generator = SeedGenerator(seed)
        self.scale: Variable | None = None
        self.concat_score_weight: Variable | None = None

    def _build(self, input_shape: Any) -> None:
        self.compute_output_shape(input_shape)
        self._variables = []
        if self.use_scale:
            self.scale = self.add_weight((), "ones", "scale")
        if self.score_mode == "concat":
            self.concat_score_weight = self.add_weight((), "ones", "concat_score_weight")

    def compute_output_shape(self, input_shape: Any) -> tuple:
        self._check_list(input_shape, "inputs")
        query, value, key = (*input_shape, input_shape[1])[:3] if len(input_shape) == 2 else input_shape
        shapes = [tuple(shape) for shape in input_shape]
        fits = all(len(shape) == 3 for shape in shapes)
        fits = fits and all(None in pair or pair[0] == pair[1] for pair in ((query[2], key[2]), (value[1], key[1])))
        if not fits:
            raise ValueError(
                f"Layer {self.name!r} needs a query [N,Q,D], a value [N,V,E] and a key [N,V,D]. Received: shapes {shapes}"
            )
        return (*query[:-1], value[-1])

    def symbolic_output_shape(self, shapes: Any, options: dict[str, Any]) -> Any:
        output = self.compute_output_shape(shapes)
        return [output, (*output[:-1], shapes[-1][1])] if options.get("return_attention_scores") else output

    def _as_masks(self, mask: Any, count: int) -> Any:
        given = [*mask, None] if isinstance(mask, (list, tuple)) and len(mask) == 2 and count == 3 else mask
        return super()._as_masks(given, count)

    def call(self, x: Any, mask: Any = None, training: bool = False, **options: Any) -> Any:
        return self._vjp(x, mask, training, **options)[0]

    def _vjp(
        self,
        x: Any,
        mask: Any = None,
        training: bool = False,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> tuple[Any, Any]:
        query, value, *rest = (cast(one, self.arithmetic_dtype) for one in x)
        key = rest[0] if rest else value
        with np.errstate(all="ignore"):
            scores, back = self._scores(query, key)
            weights = _softmax(self._masked(scores, None if mask is None else mask[1], use_causal_mask))
        scale = self._dropped(weights.shape, training)
        shares = weights if scale is None else weights * scale
        q_mask = None if mask is None or mask[0] is None else mask[0][..., None]
        with np.errstate(all="ignore"):
            y = shares @ value
        y = y if q_mask is None else np.where(q_mask, y, y.dtype.type(0))

        def pull(dys: Any) -> tuple[list, list]:
            dy, dscores_out = dys if return_attention_scores else (dys, 0)
            dy = dy if q_mask is None else np.where(q_mask, dy, dy.dtype.type(0))
            with np.errstate(all="ignore"):
                dshares = dy @ value.swapaxes(1, 2) + dscores_out
                dvalue = shares.swapaxes(1, 2) @ dy
                dweights = dshares if scale is None else dshares * scale
                dscores = weights * (dweights - (dweights * weights).sum(axis=-1, keepdims=True))
                dquery, dkey, gradients = back(dscores)
            return ([dquery, dvalue, dkey] if rest else [dquery, dvalue + dkey]), gradients

        output = cast(y, self.storage_dtype)
        return ((output, cast(shares, self.storage_dtype)) if return_attention_scores else output), pull

    def _scores(self, query: np.ndarray, key: np.ndarray) -> Scores:
        scale = None if self.scale is None else self.weight_value(self.scale).copy()
        if self.score_mode == "dot":
            product = query @ key.swapaxes(1, 2)

            def of_products(ds: np.ndarray) -> tuple:
                dp = ds if scale is None else ds * scale
                return dp @ key, dp.swapaxes(1, 2) @ query, [] if scale is None else [np.asarray((ds * product).sum())]

            return (product if scale is None else product * scale), of_products
        assert self.concat_score_weight is not None
        weight = self.weight_value(self.concat_score_weight).copy()
        sums = query[:, :, None] + key[:, None]  # [N,Q,V,D]
        squashed = np.tanh(sums if scale is None else scale * sums)

        def of_sums(ds: np.ndarray) -> tuple:
            dz = (ds * weight)[..., None] * (1 - squashed * squashed)
            gradients = [] if scale is None else [np.asarray((dz * sums).sum())]
            gradients.append(np.asarray((ds * squashed.sum(axis=-1)).sum()))
            dz = dz if scale is None else dz * scale
            return dz.sum(axis=2), dz.sum(axis=1), gradients

        return weight * squashed.sum(axis=-1), of_sums

    def _masked(self, scores: np.ndarray, v_mask: Any, causal: bool) -> np.ndarray:
        """Scores of steps that do not count, far below all others."""
        valid = None if v_mask is None else v_mask[:, None]
        if causal:
            earlier = np.tri(scores.shape[1], scores.shape[2], dtype=bool)[None]
            valid = earlier if valid is None else valid & earlier
        low = scores.dtype.type(65504.0 if self.compute_dtype == "float16" else 1e9)
        return scores if valid is None else np.where(valid, scores, scores - low)

    def _dropped(self, shape: tuple[int, ...], training: bool) -> np.ndarray | None:
        if not training or not self.dropout > 0:
            return None
        return dropout_mask(self.seed_generator, shape, float(self.dropout), self.arithmetic_dtype)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        masks = self._as_masks(mask, len(inputs))
        return None if masks is None else masks[0]

    def get_config(self) -> dict:
        own = {"use_scale": self.use_scale, "score_mode": self.score_mode, "dropout": self.dropout, "seed": self.seed}
        return {**super().get_config(), **own}


class AdditiveAttention(Attention):
    """Attention with scores sum(scale * tanh(query + key)); weights: scale [D] (with ``use_scale``). Otherwise as Attention."""

    def __init__(self, use_scale: Any = True, dropout: Any = 0.0, **kwargs: Any):
        super().__init__(use_scale=use_scale, dropout=dropout, **kwargs)

    def _build(self, input_shape: Any) -> None:
        self.compute_output_shape(input_shape)
        self._variables = []
        if self.use_scale:
            self.scale = self.add_weight((int(input_shape[0][-1]),), "glorot_uniform", "scale")

    def _scores(self, query: np.ndarray, key: np.ndarray) -> Scores:
        scale = None if self.scale is None else self.weight_value(self.scale).copy()
        squashed = np.tanh(query[:, :, None] + key[:, None])  # [N,Q,V,D]

        def back(ds: np.ndarray) -> tuple:
            dt = np.broadcast_to(ds[..., None], squashed.shape)
            gradients = [] if scale is None else [(dt * squashed).sum(axis=(0, 1, 2))]
            dz = (dt if scale is None else dt * scale) * (1 - squashed * squashed)
            return dz.sum(axis=2), dz.sum(axis=1), gradients

        return (squashed if scale is None else squashed * scale).sum(axis=-1), back

    def get_config(self) -> dict:
        config = super().get_config()
        del config["score_mode"]
        return config


def _softmax(scores: np.ndarray) -> np.ndarray:
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


class Dot(SeveralInputs):
    """Of two arrays the sums of products along one axis each, sample by sample, as ``keras.layers.Dot``.

    ``axes``: one axis, or a pair; never the batch. ``normalize``: both are first divided by their length along it. [N,…a…] and
    [N,…b…] give [N,…,…]; where no axis is left, [N,1]. The mask ends here. TypeError, ValueError for ``axes`` that are none.
    """

    _least = _most = 2

    def __init__(self, axes: Any, normalize: Any = False, **kwargs: Any):
        super().__init__(**kwargs)
        if not isinstance(axes, int):
            if not isinstance(axes, (list, tuple)):
                raise TypeError(f"The argument `axes` must be an integer or a pair of integers. Received: axes={axes!r}")
            if len(axes) != 2 or not all(isinstance(axis, int) for axis in axes):
                raise ValueError(f"The argument `axes` must hold two integers. Received: axes={axes!r}")
        self.axes, self.normalize = axes, normalize

    def _pair(self, shapes: Any) -> tuple[int, int]:
        """The axis of each array, counted from the front. ValueError for axes that are not there or of different sizes."""
        given = (self.axes, self.axes) if isinstance(self.axes, int) else tuple(self.axes)
        axes = tuple(
            axis % len(shape) if -len(shape) <= axis < len(shape) else 0 for axis, shape in zip(given, shapes, strict=True)
        )
        sizes = [shape[axis] for axis, shape in zip(axes, shapes, strict=True)]
        if 0 in axes or (None not in sizes and sizes[0] != sizes[1]):
            raise ValueError(
                f"Layer {self.name!r} cannot multiply along axes={self.axes}: expected two axes of one size, not the batch. "
                f"Received: shapes {[tuple(shape) for shape in shapes]}"
            )
        return axes[0], axes[1]

    def compute_output_shape(self, input_shape: Any) -> tuple:
        self._check_list(input_shape, "inputs")
        first, second = self._pair(input_shape)
        one, other = list(input_shape[0]), list(input_shape[1])
        del one[first], other[second]
        shape = (*one, *other[1:])
        return shape if len(shape) > 1 else (*shape, 1)

    def call(self, xs: Any, mask: Any = None, training: bool = False) -> np.ndarray:
        return self._vjp(xs, mask, training)[0]

    def _vjp(self, xs: Any, mask: Any = None, training: bool = False) -> tuple[np.ndarray, Any]:
        axes = self._pair([x.shape for x in xs])
        rows, backs = [], []
        for x, axis in zip(xs, axes, strict=True):
            x = np.moveaxis(cast(x, self.arithmetic_dtype), axis, -1)
            scale = None
            if self.normalize:
                # Keras divides by at least 1e-12.
                length = np.sqrt(np.maximum(np.square(x).sum(axis=-1, keepdims=True), 1e-24)).astype(x.dtype)
                scale, x = length, x / length
            rows.append(x.reshape(len(x), -1, x.shape[-1]))
            backs.append((x, scale, axis))
        shape = self.compute_output_shape([x.shape for x in xs])
        with np.errstate(all="ignore"):
            y = (rows[0] @ rows[1].swapaxes(1, 2)).reshape(shape)

        def pull(dy: np.ndarray) -> tuple[list, list]:
            dz = dy.reshape(len(dy), rows[0].shape[1], rows[1].shape[1])
            slopes = [dz @ rows[1], dz.swapaxes(1, 2) @ rows[0]]
            return [_back(d, *back) for d, back in zip(slopes, backs, strict=True)], []

        return cast(y, self.storage_dtype), pull

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        return None

    def get_config(self) -> dict:
        return {**super().get_config(), "axes": self.axes, "normalize": self.normalize}


def _back(d: np.ndarray, x: np.ndarray, length: np.ndarray | None, axis: int) -> np.ndarray:
    """The gradient of rows as that of the array they were taken from; x: the array, its axis last, divided by ``length``."""
    d = d.reshape(x.shape)
    if length is not None:
        floor = length <= 1e-12
        d = np.where(floor, d, d - x * (d * x).sum(axis=-1, keepdims=True)) / length
    return np.moveaxis(d, -1, axis)


def dot(inputs: Any, axes: Any = -1, **kwargs: Any) -> Any:
    """``Dot(axes, **kwargs)(inputs)``."""
    return Dot(axes=axes, **kwargs)(inputs)
