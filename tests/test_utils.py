"""Seeds, padding and one-hot labels, as in ``keras.utils``."""

from __future__ import annotations

import numpy as np
import pytest
from fit_models import data, small

from fastlstm import Sequential, layers
from fastlstm.utils import pad_sequences, set_random_seed, to_categorical


def test_the_examples_in_the_documentation_of_keras():
    sequences = [[1], [2, 3], [4, 5, 6]]
    assert pad_sequences(sequences).tolist() == [[0, 0, 1], [0, 2, 3], [4, 5, 6]]
    assert pad_sequences(sequences, value=-1).tolist() == [[-1, -1, 1], [-1, 2, 3], [4, 5, 6]]
    assert pad_sequences(sequences, padding="post").tolist() == [[1, 0, 0], [2, 3, 0], [4, 5, 6]]
    assert pad_sequences(sequences, maxlen=2).tolist() == [[0, 1], [2, 3], [5, 6]]
    assert pad_sequences(sequences, maxlen=2, truncating="post").tolist() == [[0, 1], [2, 3], [4, 5]]
    assert pad_sequences(sequences).dtype == np.int32
    expected = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    assert to_categorical([0, 1, 2, 3], num_classes=4).tolist() == expected


def test_sequences_of_vectors():
    rng = np.random.default_rng(0)
    given = [rng.standard_normal((n, 3)) for n in (2, 0, 5)]
    padded = pad_sequences(given, dtype="float32", padding="post", maxlen=4, truncating="post", value=9.0)
    assert (padded.shape, padded.dtype) == ((3, 4, 3), np.float32)
    np.testing.assert_array_equal(padded[0], np.concatenate([given[0], np.full((2, 3), 9.0)]).astype(np.float32))
    np.testing.assert_array_equal(padded[1], np.full((4, 3), 9.0))
    np.testing.assert_array_equal(padded[2], given[2][:4].astype(np.float32))


def test_the_edges_of_padding():
    assert pad_sequences([]).shape == (0, 0)
    assert pad_sequences([[], []]).shape == (2, 0)
    assert pad_sequences([[1, 2]], maxlen=0).shape == (1, 0)
    assert pad_sequences([["a"], ["b", "c"]], dtype=object, value="").tolist() == [["", "a"], ["b", "c"]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([[1]], None, "int32", "left"), "padding='left'"),
        (([[1]], None, "int32", "pre", "right"), "truncating='right'"),
        ((3,), "`sequences`"),
        (([1, 2],), "`sequences`"),
        (([[[1, 2]], [[1]]],), "`sequences`"),
    ],
)
def test_what_cannot_be_padded(arguments, words):
    with pytest.raises(ValueError, match=words):
        pad_sequences(*arguments)


def test_one_hot_shapes():
    labels = np.array([[2], [0]])
    assert to_categorical(labels).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert to_categorical([[1, 0], [0, 1]]).shape == (2, 2, 2)
    assert to_categorical(2).tolist() == [0, 0, 1]
    assert to_categorical([], 3).shape == (0, 3)


@pytest.mark.parametrize("labels", [[3], [-1]])
def test_labels_out_of_range(labels):
    with pytest.raises(ValueError, match="class numbers from 0 to 2"):
        to_categorical(labels, 3)


def test_a_seed_makes_a_training_repeatable():
    def trained():
        set_random_seed(812)
        model = Sequential([*small().layers[:1], layers.Dropout(0.5), layers.Dense(2)])
        model.compile("adam", "mse")
        model.fit(*data(), epochs=2, batch_size=4, verbose=0)
        return [*model.get_weights(), np.random.random(3)]  # noqa: NPY002

    for one, other in zip(trained(), trained(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, "1", None, True])
def test_what_is_no_seed(seed):
    with pytest.raises(ValueError, match="`seed`"):
        set_random_seed(seed)
