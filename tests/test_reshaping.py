"""Reshape, Permute, RepeatVector, UpSampling1D, ZeroPadding1D, Cropping1D: values index by index, dtypes, configs, errors."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from fastlstm import (
    Cropping1D,
    Embedding,
    Permute,
    RepeatVector,
    Reshape,
    Sequential,
    UpSampling1D,
    ZeroPadding1D,
    layers,
)


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def numbered(*shape, dtype=np.float32):
    """All different, none 0."""
    return np.arange(1, 1 + int(np.prod(shape)), dtype=dtype).reshape(shape)


# -- values -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("target", "resolved"),
    [
        ((24,), (24,)),
        ((4, 6), (4, 6)),
        ([2, -1], (2, 12)),
        ((-1,), (24,)),
        ((None, 8), (3, 8)),
        ((2, 3, -1, 2), (2, 3, 2, 2)),
        ((24, -1), (24, 1)),
    ],
)
def test_reshape(target, resolved):
    layer, x = Reshape(target), numbered(5, 2, 12)
    y = layer(x)
    assert y.shape == layer.compute_output_shape(x.shape) == (5, *resolved)
    assert y.ravel().tolist() == x.ravel().tolist()
    assert layer(x[:0]).shape == (0, *resolved)
    assert layer.compute_output_shape((None, 2, 12)) == (None, *resolved)
    assert layer.compute_output_shape((None, None, 12)) == (None, *(None if n in (-1, None) else n for n in target))


def test_reshape_of_scalars():
    assert Reshape((1, 1))(numbered(3)).shape == (3, 1, 1)
    assert Reshape(())(numbered(3, 1)).shape == (3,)


def test_permute():
    x = numbered(2, 3, 4, 5)
    for dims in itertools.permutations((1, 2, 3)):
        layer = Permute(dims)
        y = layer(x)
        assert y.shape == layer.compute_output_shape(x.shape)
        assert y.flags.c_contiguous
        for index in np.ndindex(x.shape):
            assert y[index[0], index[dims[0]], index[dims[1]], index[dims[2]]] == x[index]
    assert Permute((2, 1)).compute_output_shape((None, None, 7)) == (None, 7, None)


def test_repeat_vector():
    x, layer = numbered(2, 3), RepeatVector(4)
    y = layer(x)
    assert y.shape == layer.compute_output_shape(x.shape) == (2, 4, 3)
    for k in range(4):
        assert y[:, k].tolist() == x.tolist()
    assert layer.compute_output_shape((None, 3)) == (None, 4, 3)


def test_up_sampling():
    x = numbered(2, 3, 2)
    for size in (1, 2, 5):
        layer = UpSampling1D(size)
        y = layer(x)
        assert y.shape == layer.compute_output_shape(x.shape) == (2, 3 * size, 2)
        for t in range(3 * size):
            assert y[:, t].tolist() == x[:, t // size].tolist()
    assert UpSampling1D().compute_output_shape((None, 3, 2)) == (None, 6, 2)
    assert UpSampling1D().compute_output_shape((None, None, 2)) == (None, None, 2)


@pytest.mark.parametrize(("padding", "ends"), [(1, (1, 1)), (0, (0, 0)), ((2, 0), (2, 0)), ([1, 3], (1, 3))])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_zero_padding(padding, ends, data_format):
    x = numbered(2, 3, 4)
    layer = ZeroPadding1D(padding, data_format)
    y = layer(x)
    axis = 1 if data_format == "channels_last" else 2
    assert y.shape == layer.compute_output_shape(x.shape)
    assert y.shape[axis] == x.shape[axis] + sum(ends)
    inside = np.moveaxis(y, axis, 0)[ends[0] : ends[0] + x.shape[axis]]
    assert inside.tolist() == np.moveaxis(x, axis, 0).tolist()
    assert np.count_nonzero(y) == x.size
    unknown = [2, 3, 4]
    unknown[axis] = None
    assert layer.compute_output_shape(tuple(unknown)) == tuple(unknown)


@pytest.mark.parametrize(("cropping", "ends"), [((1, 1), (1, 1)), (2, (2, 2)), (0, (0, 0)), ((3, 0), (3, 0)), ([0, 4], (0, 4))])
def test_cropping(cropping, ends):
    x, layer = numbered(2, 6, 3), Cropping1D(cropping)
    y = layer(x)
    assert y.shape == layer.compute_output_shape(x.shape) == (2, 6 - sum(ends), 3)
    assert y.tolist() == x[:, ends[0] : 6 - ends[1]].tolist()
    assert layer.compute_output_shape((None, None, 3)) == (None, None, 3)
    np.testing.assert_array_equal(layer(ZeroPadding1D(cropping)(x)), x)


# -- what they share ----------------------------------------------------------------------------------------------------
def all_layers(**kwargs):
    return [
        (Reshape((4, 3), **kwargs), (2, 3, 4)),
        (Permute((2, 1), **kwargs), (2, 3, 4)),
        (RepeatVector(2, **kwargs), (2, 3)),
        (UpSampling1D(3, **kwargs), (2, 3, 4)),
        (ZeroPadding1D((2, 1), **kwargs), (2, 3, 4)),
        (Cropping1D((0, 1), **kwargs), (2, 3, 4)),
    ]


def by_name(value):
    return value.name if isinstance(value, layers.Layer) else ""


@pytest.mark.parametrize(("layer", "shape"), all_layers(), ids=by_name)
def test_integers_stay_and_floats_are_cast(layer, shape):
    big = numbered(*shape, dtype=np.int64) + 2**60  # float64 would round them
    y = layer(big)
    assert y.dtype == np.int64
    assert set(y.ravel().tolist()) <= set(big.ravel().tolist()) | {0}
    assert layer(big.astype(np.float64)).dtype == np.float32


@pytest.mark.parametrize(("layer", "shape"), all_layers(dtype="mixed_float16"), ids=by_name)
def test_sixteen_bits(layer, shape):
    x = numbered(*shape)
    y = layer(x)
    assert y.dtype == np.float16
    assert set(y.ravel().tolist()) <= set(x.ravel().tolist()) | {0}


@pytest.mark.parametrize(("layer", "shape"), all_layers(), ids=by_name)
def test_mask_ends_here(layer, shape):
    """As in Keras, where none of them supports masking."""
    mask = np.ones(shape[:2], bool)
    assert not layer.supports_masking
    assert layer.compute_mask(numbered(*shape), mask) is None
    np.testing.assert_array_equal(layer(numbered(*shape), mask=~mask), layer(numbered(*shape)))


@pytest.mark.parametrize(("layer", "shape"), all_layers()[1:], ids=by_name)  # Reshape takes any number of axes
def test_wrong_number_of_axes(layer, shape):
    with pytest.raises(ValueError, match=f"expected ndim={len(shape)}, found ndim=4"):
        layer(np.zeros((2, 1, 1, 1), np.float32))
    with pytest.raises(ValueError, match=f"{len(shape)} axes"):
        layer.compute_output_shape((2, 3, 4, 5))


@pytest.mark.parametrize(
    ("layer", "own"),
    [
        (Reshape([-1, 3]), {"target_shape": (-1, 3)}),
        (Permute([2, 1]), {"dims": (2, 1)}),
        (RepeatVector(3), {"n": 3}),
        (UpSampling1D(), {"size": 2}),
        (ZeroPadding1D(), {"padding": (1, 1), "data_format": "channels_last"}),
        (Cropping1D(2), {"cropping": (2, 2)}),
    ],
    ids=by_name,
)
def test_configs(layer, own):
    config = layer.get_config()
    assert list(config) == ["name", "trainable", "dtype", *own]
    assert {k: config[k] for k in own} == own
    again = layers.deserialize(json.loads(json.dumps(layers.serialize(layer))))
    assert json.dumps(again.get_config()) == json.dumps(config)
    assert again.get_config() == config  # tuples again, not lists


def test_in_a_model():
    """Shapes that go up and down, and indices that stay integers until the Embedding."""
    model = Sequential(
        [Reshape((2, 3)), Permute((2, 1)), Embedding(300, 4), Reshape((6, 4)), UpSampling1D(2), Cropping1D((3, 4))]
    )
    ids = np.arange(288, 300).reshape(2, 6)
    y = model(ids)
    assert y.shape == (2, 5, 4)
    assert model.output_shape == (None, 5, 4)
    table = model.layers[2].get_weights()[0]
    sequence = np.repeat(ids.reshape(2, 2, 3).transpose(0, 2, 1).reshape(2, 6), 2, axis=1)[:, 3:8]
    np.testing.assert_array_equal(y, table[sequence])


# -- errors -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Reshape((-1, -1)), ValueError, "at most one"),
        (lambda: Reshape((None, -1)), ValueError, "at most one"),
        (lambda: Reshape((-2, 3)), ValueError, "`target_shape`"),
        (lambda: Reshape((2.5,)), ValueError, "`target_shape`"),
        (lambda: Reshape(4), ValueError, "`target_shape`"),
        (lambda: Permute((0, 1)), ValueError, "`dims`"),
        (lambda: Permute((1, 3)), ValueError, "`dims`"),
        (lambda: Permute((1, 1)), ValueError, "`dims`"),
        (lambda: RepeatVector(2.0), TypeError, "`n`"),
        (lambda: RepeatVector(True), TypeError, "`n`"),
        (lambda: RepeatVector(0), ValueError, "`n`"),
        (lambda: UpSampling1D("2"), TypeError, "`size`"),
        (lambda: UpSampling1D(-1), ValueError, "`size`"),
        (lambda: ZeroPadding1D(-1), ValueError, "`padding`"),
        (lambda: ZeroPadding1D((1, 2, 3)), ValueError, "`padding`"),
        (lambda: ZeroPadding1D(1, "last"), ValueError, "`data_format`"),
        (lambda: Cropping1D((1,)), ValueError, "`cropping`"),
        (lambda: Cropping1D(1.5), ValueError, "`cropping`"),
    ],
)
def test_bad_arguments(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_sizes_that_do_not_fit():
    x = numbered(2, 6)
    for target in ((4,), (4, -1), (0, -1), (7,)):
        with pytest.raises(ValueError, match="total size"):
            Reshape(target)(x)
        with pytest.raises(ValueError, match="total size"):
            Reshape(target).compute_output_shape((None, 6))
    for steps in (1, 2):
        with pytest.raises(ValueError, match="at least one step"):
            Cropping1D()(numbered(2, steps, 3))
        with pytest.raises(ValueError, match="at least one step"):
            Cropping1D().compute_output_shape((None, steps, 3))
