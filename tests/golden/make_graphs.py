"""Saves functional models with Keras 3 and stores what they answer, for tests/test_graph_golden.py.

``python tests/golden/make_graphs.py`` needs keras, jax and h5py, not fastlstm. Writes tests/data/graphs/NAME.keras, .h5,
.weights.h5 and .npz (in0, …, out0, …).
"""

import os
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np

L = keras.layers
DATA = Path(__file__).resolve().parent.parent / "data" / "graphs"
rng = np.random.default_rng(11)


def floats(*shape):
    return rng.standard_normal(shape).astype("float32")


def padded(*shape):
    """Indices whose last steps are 0; the first is never 0."""
    steps = np.arange(shape[1]) < rng.integers(1, shape[1] + 1, shape[0])[:, None]
    return (steps * rng.integers(1, 9, shape)).astype("int32")


def merges():
    """Every merge of two masked branches, of one and of arrays of another rank; the masks go on into LSTMs."""
    a, b, v = keras.Input((5,), dtype="int32"), keras.Input((5,), dtype="int32"), keras.Input((4,))
    table = L.Embedding(9, 4, mask_zero=True)
    one, two = table(a), table(b)
    plain = L.Dense(4, activation="tanh")(L.RepeatVector(5)(v))
    outputs = []
    for cls in (L.Add, L.Subtract, L.Multiply, L.Average, L.Maximum, L.Minimum, L.Concatenate):
        merged = cls()([one, two])
        outputs += [merged, L.LSTM(2)(merged)]
        if cls is not L.Subtract:
            outputs.append(L.LSTM(2)(cls()([one, plain])))
    outputs += [L.LSTM(2, return_sequences=True)(L.Concatenate(axis=1)([one, two])), L.Add()([plain, v, one])]
    outputs += [L.Dot(2)([one, two]), L.Dot((2, 1), normalize=True)([one, v]), L.Dot(1)([v, v])]
    return keras.Model([a, b, v], outputs, name="merges"), [padded(6, 5), padded(6, 5), floats(6, 4)]


def attention():
    """Attention of all kinds over masked sequences."""
    a, b, x = keras.Input((3,), dtype="int32"), keras.Input((5,), dtype="int32"), keras.Input((5, 4))
    table = L.Embedding(9, 4, mask_zero=True)
    query, value = table(a), table(b)
    outputs = [
        L.Attention()([query, value]),
        L.Attention(use_scale=True)([query, value, x]),
        L.Attention(score_mode="concat", use_scale=True)([query, value]),
        L.AdditiveAttention()([query, value]),
        L.Attention()([x, x], use_causal_mask=True),
        *L.Attention()([query, value], return_attention_scores=True),
    ]
    outputs.append(L.LSTM(3)(outputs[0]))
    model = keras.Model([a, b, x], outputs, name="attention")
    return model, [padded(6, 3), padded(6, 5), floats(6, 5, 4)]


def translator():
    """An encoder's states start a decoder; a mask beside an initial state; a layer used twice; models in the model."""
    source, target = keras.Input((6,), dtype="int32", name="source"), keras.Input((4,), dtype="int32", name="target")
    encoded, h, c = L.LSTM(5, return_sequences=True, return_state=True, name="encoder")(
        L.Embedding(9, 4, mask_zero=True, name="words")(source)
    )
    decoder = L.LSTM(5, return_sequences=True, name="decoder")
    embedded = L.Embedding(9, 3, mask_zero=True, name="other_words")(target)
    decoded = decoder(embedded, initial_state=[h, c])
    after = L.LSTM(3, name="after")(decoded)
    bidi = L.Bidirectional(L.LSTM(5, return_state=True), name="both")
    both, *states = bidi(embedded, initial_state=[h, c, c, h])
    z = keras.Input((5,), name="z")
    inner = keras.Model(z, [L.Dense(3, activation="tanh", name="d1")(z), L.Dense(2, name="d2")(z)], name="inner")
    stack = keras.Sequential([keras.Input((5,)), L.Dense(5, activation="relu"), L.Dense(5)], name="stack")
    first, second = inner(h)
    third, fourth = inner(stack(c))
    shared = L.TimeDistributed(stack, name="every_step")(encoded)
    outputs = [decoded, after, both, states[3], first, second, third, fourth, shared]
    return keras.Model([source, target], outputs, name="translator"), [padded(7, 6), padded(7, 4)]


def recurrent():
    """GRU and SimpleRNN of all kinds, masked, with states, in both directions."""
    x, h = keras.Input((6, 3)), keras.Input((4,))
    m = L.Masking()(x)
    outputs = [
        L.GRU(4)(m),
        L.GRU(4, reset_after=False, recurrent_activation="hard_sigmoid", return_sequences=True)(m),
        *L.GRU(4, return_state=True, go_backwards=True)(x, initial_state=[h]),
        L.GRU(3, use_bias=False, activation="relu", return_sequences=True, zero_output_for_mask=True)(m),
        L.SimpleRNN(4, return_sequences=True)(m),
        L.SimpleRNN(4, activation="relu")(x, initial_state=[h]),
        L.Bidirectional(L.GRU(3, return_sequences=True))(m),
        *L.Bidirectional(L.SimpleRNN(3, return_state=True), merge_mode="sum")(m),
    ]
    samples = floats(6, 6, 3)
    samples *= (np.arange(6) < rng.integers(1, 7, 6)[:, None])[..., None]
    return keras.Model([x, h], outputs, name="recurrent"), [samples, floats(6, 4)]


def glue():
    """The layers that are activations, and those that only act in training."""
    x = keras.Input((5, 4))
    y = L.PReLU(shared_axes=[1], alpha_initializer="random_normal")(x)
    outputs = [
        *(layer(x) for layer in (L.ReLU(1.0, 0.1, 0.2), L.LeakyReLU(0.2), L.ELU(1.3), L.Softmax(), L.Softmax(axis=1))),
        L.SpatialDropout1D(0.4)(L.GaussianNoise(0.3)(L.GaussianDropout(0.2)(y))),
        L.Cropping1D((1, 1))(L.ZeroPadding1D(2)(y)),
        L.Permute((2, 1))(L.UpSampling1D(2)(y)),
    ]
    return keras.Model(x, outputs, name="glue"), [floats(3, 5, 4)]


def rows():
    """ConvLSTM2D over one row, both ways round."""
    a, b = keras.Input((4, 1, 6, 2)), keras.Input((4, 6, 1, 2))
    first, _, c = L.ConvLSTM2D(3, (1, 3), padding="same", return_sequences=True, return_state=True)(a)
    both = L.Bidirectional(L.ConvLSTM2D(2, (3, 1), strides=(2, 1), activation="relu"))(b)
    outputs = [first, c, both, L.ConvLSTM2D(2, (1, 2))(first), L.Flatten()(L.ConvLSTM2D(2, (2, 1), dilation_rate=(2, 1))(b))]
    return keras.Model([a, b], outputs, name="rows"), [floats(3, 4, 1, 6, 2), floats(3, 4, 6, 1, 2)]


def main():
    DATA.mkdir(exist_ok=True)
    for case in (merges, attention, translator, recurrent, glue, rows):
        keras.utils.set_random_seed(5)
        model, inputs = case()
        for weight in model.weights:  # zeros would hide what is mixed up
            if not np.any(weight.numpy()):
                weight.assign(rng.normal(0, 0.3, weight.shape))
        path = DATA / case.__name__
        model.save(path.with_suffix(".keras"))
        model.save(path.with_suffix(".h5"))
        model.save_weights(path.with_suffix(".weights.h5"))
        outputs = model.predict(inputs if len(inputs) > 1 else inputs[0], verbose=0)
        arrays = {f"in{k}": x for k, x in enumerate(inputs)} | {f"out{k}": np.asarray(y) for k, y in enumerate(outputs)}
        np.savez_compressed(path.with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main()
