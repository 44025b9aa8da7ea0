"""The merging layers, Dot and the attentions: values, masks and gradients against formulas and central differences."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from central_differences import check, flatten, gradient

import fastlstm
from fastlstm import (
    Add,
    AdditiveAttention,
    Attention,
    Average,
    Concatenate,
    Dot,
    Input,
    Maximum,
    Minimum,
    Model,
    Multiply,
    Subtract,
    layers,
)

F64 = {"dtype": "float64"}
M1 = np.array([[1, 1, 0, 0], [1, 0, 1, 0]], bool)
M2 = np.array([[1, 0, 1, 0], [1, 1, 0, 0]], bool)


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def check_list_layer(layer, xs, **keywords):
    """``layer.vjp`` of a list of arrays against differences of its call."""
    training = keywords.pop("training", False)
    layer.build([x.shape for x in xs])
    start = copy.deepcopy(layer)
    outputs, pullback = layer.vjp(xs, training=training, **keywords)
    listed = flatten(outputs)
    dys = [draw(*y.shape, seed=5) for y in listed]

    def loss():
        ran = flatten(copy.deepcopy(start)(xs, training=training, **keywords))
        return sum(float(np.sum(y * dy)) for y, dy in zip(ran, dys, strict=True))

    answer = pullback(dys[0] if len(dys) == 1 else tuple(dys))
    for k, (x, dx) in enumerate(zip(xs, answer.inputs, strict=True)):
        check(dx, gradient(loss, x), f"input {k}")
    for variable, dw in zip(start.weights, answer.weights, strict=True):
        check(dw, gradient(loss, variable), variable.path)
    return outputs


SIMPLE = {
    Add: lambda a, b, c: a + b + c,
    Average: lambda a, b, c: (a + b + c) / 3,
    Multiply: lambda a, b, c: a * b * c,
    Maximum: lambda a, b, c: np.maximum(np.maximum(a, b), c),
    Minimum: lambda a, b, c: np.minimum(np.minimum(a, b), c),
}


@pytest.mark.parametrize("cls", SIMPLE)
@pytest.mark.parametrize("shapes", [[(2, 4, 3)] * 3, [(2, 4, 3), (2, 1, 3), (2, 3)], [(2, 3), (2, 4, 3), (2, 1)]], ids=str)
def test_number_by_number(cls, shapes):
    """Arrays of fewer axes get axes of 1 after the batch, as in Keras."""
    xs = [draw(*shape, seed=k) for k, shape in enumerate(shapes)]
    ndim = max(map(len, shapes))
    wide = [x.reshape(2, *[1] * (ndim - x.ndim), *x.shape[1:]) for x in xs]
    y = check_list_layer(cls(**F64), xs)
    np.testing.assert_allclose(y, SIMPLE[cls](*wide), rtol=1e-14)
    assert cls().compute_output_shape(shapes) == y.shape
    assert cls().compute_output_shape([(None, *shape[1:]) for shape in shapes]) == (None, *y.shape[1:])


def test_subtract():
    a, b = draw(2, 3), draw(2, 3, seed=1)
    np.testing.assert_array_equal(check_list_layer(Subtract(**F64), [a, b]), a - b)
    with pytest.raises(ValueError, match="list of 2"):
        Subtract()([a, b, a])


def test_one_array_and_equal_arrays():
    a = draw(2, 3)
    np.testing.assert_array_equal(Add(**F64)([a]), a)
    y, pullback = Maximum(**F64).vjp([a, a.copy()])
    np.testing.assert_array_equal(y, a)
    for dx in pullback(np.ones_like(a)).inputs:
        np.testing.assert_array_equal(dx, 0.5)


@pytest.mark.parametrize("masks", [[M1, M2], [M1, None], [None, M2], None], ids=["both", "first", "second", "none"])
@pytest.mark.parametrize("cls", [Add, Multiply, Maximum, Minimum, Average, Subtract])
def test_masks(cls, masks):
    """The rules of Keras 3.15, written out: a product takes 1 for what is masked, an extreme takes the other array."""
    xs = [draw(2, 4, 3), draw(2, 4, 3, seed=1)]
    y = check_list_layer(cls(**F64), xs, mask=masks)
    m, n = (None if one is None else one[..., None] for one in (masks or [None, None]))
    a, b = xs
    if cls is Multiply:
        want = (a if m is None else np.where(m, a, 1)) * (b if n is None else np.where(n, b, 1))
        want = want if m is None or n is None else np.where(m | n, want, 0)
    elif cls in (Maximum, Minimum):
        new = b if n is None else np.where(n, b, a)
        want = SIMPLE[cls](a if m is None else np.where(m, a, new), new, new)
    else:
        want = {Add: a + b, Average: (a + b) / 2, Subtract: a - b}[cls]
    np.testing.assert_allclose(y, want, rtol=1e-14)
    after = cls().compute_mask(xs, masks)
    if masks is None or None in [None if one is None else 0 for one in masks]:
        assert after is None
    else:
        np.testing.assert_array_equal(after, M1 | M2)


@pytest.mark.parametrize("axis", [-1, 1, 2, -2])
def test_concatenate(axis):
    xs = [draw(2, 4, 3), draw(2, 4, 3, seed=1)]
    y = check_list_layer(Concatenate(axis=axis, **F64), xs)
    np.testing.assert_array_equal(y, np.concatenate(xs, axis=axis))
    assert Concatenate(axis=axis).compute_output_shape([(None, 4, 3)] * 2)[1:] == y.shape[1:]


def test_concatenate_masks():
    xs = [draw(2, 4, 3), draw(2, 4, 3, seed=1)]
    layer = Concatenate()
    np.testing.assert_array_equal(layer.compute_mask(xs, [M1, M2]), M1 | M2)
    np.testing.assert_array_equal(layer.compute_mask(xs, [M1, None]), np.ones((2, 4), bool))
    assert layer.compute_mask(xs, [None, None]) is None
    over_time = Concatenate(axis=1).compute_mask(xs, [M1, M2])
    np.testing.assert_array_equal(over_time, np.concatenate([M1, M2], axis=1))


def test_concatenate_keeps_integers():
    ids = np.array([[1, 2]], np.int32)
    y = Concatenate()([ids, ids])
    assert y.dtype == np.int32
    mixed = Concatenate()([ids, np.ones((1, 2), np.float64)])
    assert mixed.dtype == np.float32


@pytest.mark.parametrize(
    ("axes", "shapes", "subscripts"),
    [
        (1, [(2, 3), (2, 3)], "na,na->n"),
        (-1, [(2, 3, 4), (2, 5, 4)], "nak,nbk->nab"),
        ((1, 2), [(2, 3, 5), (2, 4, 3)], "nka,nbk->nab"),
        ((2, 1), [(2, 3, 4), (2, 4)], "nak,nk->na"),
        ((1, 1), [(2, 4), (2, 4, 3)], "nk,nka->na"),
        ((-2, -1), [(2, 3, 4), (2, 3)], "nka,nk->na"),
    ],
    ids=str,
)
@pytest.mark.parametrize("normalize", [False, True])
def test_dot(axes, shapes, subscripts, normalize):
    xs = [draw(*shape, seed=k) for k, shape in enumerate(shapes)]
    layer = Dot(axes, normalize=normalize, **F64)
    y = check_list_layer(layer, xs)
    pair = (axes, axes) if isinstance(axes, int) else axes
    wanted = xs
    if normalize:
        wanted = [x / np.linalg.norm(x, axis=axis, keepdims=True) for x, axis in zip(xs, pair, strict=True)]
    want = np.einsum(subscripts, *wanted)
    np.testing.assert_allclose(y, want.reshape(y.shape), rtol=1e-12)
    assert layer.compute_output_shape(shapes) == y.shape
    assert layer.compute_mask(xs, [M1, M1]) is None


def formula(query, value, key, masks, causal, scores):
    """Attention in five lines: scores, masks, softmax, product."""
    s = scores(query, key)
    valid = np.ones(s.shape, bool) if masks is None or masks[1] is None else np.broadcast_to(masks[1][:, None], s.shape)
    valid = valid & np.tri(*s.shape[1:], dtype=bool) if causal else valid
    e = np.where(valid, np.exp(s - s.max(axis=-1, keepdims=True)), 0)
    weights = e / e.sum(axis=-1, keepdims=True)
    y = weights @ value
    return (y if masks is None or masks[0] is None else np.where(masks[0][..., None], y, 0)), weights


QM, VM = np.array([[1, 1, 0], [1, 0, 0]], bool), np.array([[1, 1, 0, 0], [1, 0, 1, 1]], bool)


@pytest.mark.parametrize("with_key", [False, True])
@pytest.mark.parametrize("masks", [None, [QM, VM], [None, VM], [QM, None]], ids=["none", "both", "value", "query"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["dot", "scaled dot", "concat", "scaled concat", "additive", "additive unscaled"])
def test_attention(kind, causal, masks, with_key):
    query, value, key = draw(2, 3, 4), draw(2, 4, 4, seed=1), draw(2, 4, 4, seed=2)
    xs = [query, value, key] if with_key else [query, value]
    if kind.startswith("additive"):
        layer = AdditiveAttention(use_scale=kind == "additive", **F64)
    else:
        layer = Attention(use_scale="scaled" in kind, score_mode=kind.split()[-1], **F64)
    layer.build([x.shape for x in xs])
    layer.set_weights([draw(*v.shape, seed=3) + 0.5 for v in layer.weights])
    scale = layer.weights[0].value if layer.weights and kind != "concat" else 1.0
    sums = lambda q, k: q[:, :, None] + k[:, None]  # noqa: E731
    scores = {
        "dot": lambda q, k: q @ k.swapaxes(1, 2),
        "scaled dot": lambda q, k: scale * (q @ k.swapaxes(1, 2)),
        "concat": lambda q, k: layer.weights[-1].value * np.tanh(sums(q, k)).sum(-1),
        "scaled concat": lambda q, k: layer.weights[-1].value * np.tanh(scale * sums(q, k)).sum(-1),
        "additive": lambda q, k: (scale * np.tanh(sums(q, k))).sum(-1),
        "additive unscaled": lambda q, k: np.tanh(sums(q, k)).sum(-1),
    }[kind]
    options = {"mask": masks, "use_causal_mask": causal, "return_attention_scores": True}
    y, weights = check_list_layer(layer, xs, **options)
    want, shares = formula(query, value, key if with_key else value, masks, causal, scores)
    np.testing.assert_allclose(weights, shares, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(y, want, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(layer(xs, mask=masks, use_causal_mask=causal), y)
    after = layer.compute_mask(xs, masks)
    assert after is None if masks is None or masks[0] is None else (after == QM).all()


def test_attention_drops_out_in_training_only():
    xs = [draw(2, 3, 4), draw(2, 4, 4, seed=1)]
    layer = Attention(dropout=0.5, seed=3, **F64)
    check_list_layer(layer, xs, training=True)
    np.testing.assert_array_equal(Attention(dropout=0.5, seed=3, **F64)(xs), Attention(**F64)(xs))
    assert (Attention(dropout=0.5, seed=3, **F64)(xs, training=True, return_attention_scores=True)[1] == 0).any()


@pytest.mark.parametrize("dtype", ["float16", "float32", "mixed_bfloat16"])
@pytest.mark.parametrize("cls", [Add, Multiply, Concatenate, Attention, AdditiveAttention, lambda **k: Dot(-1, **k)])
def test_dtypes(cls, dtype):
    pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    layer = cls(dtype=dtype)
    xs = [draw(2, 3, 4), draw(2, 3, 4, seed=1)]
    y = layer(xs)
    assert y.dtype == layer.storage_dtype
    wide = cls(dtype="float64")
    wide.build([x.shape for x in xs])
    wide.set_weights([v.value.astype(np.float64) for v in layer.weights])
    np.testing.assert_allclose(y.astype(np.float64), wide(xs), rtol=0.05, atol=0.05)


CASES = [
    *(cls(name="m") for cls in (Add, Average, Multiply, Maximum, Minimum, Subtract)),
    Concatenate(axis=1, name="c"),
    Dot((1, 2), normalize=True, name="d"),
    Attention(use_scale=True, score_mode="concat", dropout=0.2, seed=3, name="a"),
    AdditiveAttention(use_scale=False, dropout=0.1, name="b"),
]


@pytest.mark.parametrize("layer", CASES, ids=lambda layer: type(layer).__name__)
def test_config(layer):
    config = layer.get_config()
    assert list(config)[:3] == ["name", "trainable", "dtype"]
    assert type(layer).from_config(config).get_config() == config
    assert layers.deserialize(layers.serialize(layer)).get_config() == config


def test_functions():
    a, b = draw(2, 3).astype(np.float32), draw(2, 3, seed=1).astype(np.float32)
    np.testing.assert_array_equal(layers.add([a, b]), a + b)
    np.testing.assert_array_equal(layers.subtract([a, b]), a - b)
    np.testing.assert_array_equal(layers.multiply([a, b]), a * b)
    np.testing.assert_array_equal(layers.average([a, b]), (a + b) / 2)
    np.testing.assert_array_equal(layers.maximum([a, b]), np.maximum(a, b))
    np.testing.assert_array_equal(layers.minimum([a, b]), np.minimum(a, b))
    np.testing.assert_array_equal(layers.concatenate([a, b], axis=0), np.concatenate([a, b]))
    np.testing.assert_allclose(layers.dot([a, b], axes=1), (a * b).sum(1, keepdims=True), rtol=1e-6)
    x, y = Input((3,)), Input((3,))
    np.testing.assert_array_equal(Model([x, y], layers.add([x, y]))([a, b]), a + b)


def test_attention_in_a_model():
    q, v = Input((3, 4)), Input((4, 4))
    y, scores = Attention()([q, v], return_attention_scores=True)
    assert (y.shape, scores.shape) == ((None, 3, 4), (None, 3, 4))
    xs = [draw(2, 3, 4).astype(np.float32), draw(2, 4, 4).astype(np.float32)]
    got = Model([q, v], [y, scores])(xs)
    for one, want in zip(got, Attention()(xs, return_attention_scores=True), strict=True):
        np.testing.assert_array_equal(one, want)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Add()(draw(2, 3)), ValueError, "must be a list"),
        (lambda: Add()([]), ValueError, "at least 1"),
        (lambda: Add()([draw(2, 3), draw(2, 4)]), ValueError, "incompatible shapes"),
        (lambda: Add()([draw(2, 3), draw(3, 3)]), ValueError, "batch"),
        (lambda: Add()([draw(2, 3), [[1, 2, 3]]]), ValueError, r"inputs\[1\]"),
        (lambda: Add()([draw(2, 3)] * 2, mask=[M1]), ValueError, "list of 2 masks"),
        (lambda: Add()([draw(2, 3)] * 2, surprise=1), TypeError, "surprise"),
        (lambda: Add().build((2, 3)), ValueError, "list of inputs"),
        (lambda: Concatenate()([draw(2, 3), draw(2, 3, 1)]), ValueError, "one shape"),
        (lambda: Concatenate(axis=1)([draw(2, 3, 4), draw(2, 3, 5)]), ValueError, "one shape"),
        (lambda: Concatenate(axis=5)([draw(2, 3)] * 2), ValueError, "axis 5"),
        (lambda: Dot("a"), TypeError, "axes"),
        (lambda: Dot((1, 2, 3)), ValueError, "axes"),
        (lambda: Dot(0)([draw(2, 3)] * 2), ValueError, "batch"),
        (lambda: Dot(1)([draw(2, 3), draw(2, 4)]), ValueError, "one size"),
        (lambda: Attention(score_mode="sum"), ValueError, "score_mode"),
        (lambda: Attention()([draw(2, 3, 4)]), ValueError, "2 to 3"),
        (lambda: Attention()([draw(2, 3, 4), draw(2, 3, 5)]), ValueError, "query"),
    ],
)
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_exports():
    for name in ("Add", "Concatenate", "Dot", "Attention", "AdditiveAttention"):
        assert getattr(fastlstm, name) is getattr(layers, name)
