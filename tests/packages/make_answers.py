"""Runs the models of packages in the programs they were made for and keeps some numbers of their answers in answers.json.

``python make_answers.py FOLDER``, where `make test-packages` put the packages into FOLDER. Needs tf_keras (Keras 2),
onnxruntime or torch, not fastlstm; what the one at hand cannot answer stays in the file as it was.
"""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
from packages_inputs import (
    CHARACTERS,
    CHARS2VEC,
    ETHNICOLR,
    PEOPLE,
    RNNMORPH,
    SILERO,
    VOCABULARY,
    ethnicolr_input,
    kept,
    rnnmorph_inputs,
    silero_inputs,
    wave,
    whole,
)

ANSWERS = Path(__file__).with_name("answers.json")


def outputs(y):
    return [np.asarray(one) for one in (y if isinstance(y, (list, tuple)) else [y])]


def in_keras(packages):
    import tf_keras as keras

    layers = keras.layers
    found = {}
    for name in ETHNICOLR:
        model = keras.models.load_model(packages / "ethnicolr" / "models" / name, compile=False)
        found[f"ethnicolr/{name}"] = outputs(model(ethnicolr_input(packages, name, PEOPLE), training=False))
    for size in CHARS2VEC:
        path = packages / "chars2vec" / "trained_models" / f"eng_{size}" / "weights.h5"
        x = keras.Input((None, CHARACTERS))
        hidden = layers.LSTM(size, recurrent_activation="hard_sigmoid", return_sequences=True)(x)
        model = keras.Model(x, layers.LSTM(size, recurrent_activation="hard_sigmoid")(hidden))
        model.load_weights(path)
        found[f"chars2vec/{size}"] = outputs(model(wave(2, 7, CHARACTERS)))
    found["textgenrnn"] = outputs(textgenrnn(keras, packages)(whole(VOCABULARY, 2, 40)))
    for name in RNNMORPH:
        found[f"rnnmorph/{name}"] = rnnmorph(keras, packages, name)
    return found


def textgenrnn(keras, packages):
    """As the package makes it; its attention layer has one weight."""
    layers = keras.layers

    class AttentionWeightedAverage(layers.Layer):
        def build(self, shape):
            self.W = self.add_weight(shape=(shape[2], 1), name=f"{self.name}_W")

        def call(self, x):
            logits = (x @ self.W)[..., 0]
            e = keras.backend.exp(logits - keras.backend.max(logits, axis=-1, keepdims=True))
            weights = e / (keras.backend.sum(e, axis=1, keepdims=True) + 1e-7)
            return keras.backend.sum(x * weights[..., None], axis=1)

    x = keras.Input((40,), name="input")
    e = layers.Embedding(VOCABULARY, 100, name="embedding")(x)
    one = layers.LSTM(128, return_sequences=True, name="rnn_1")(e)
    two = layers.LSTM(128, return_sequences=True, name="rnn_2")(one)
    mean = AttentionWeightedAverage(name="attention")(layers.concatenate([e, one, two], name="rnn_concat"))
    model = keras.Model(x, layers.Dense(VOCABULARY, activation="softmax", name="output")(mean))
    model.load_weights(packages / "textgenrnn" / "textgenrnn_weights.hdf5", by_name=True)
    return model


def rnnmorph(keras, packages, name):
    class ReversedLSTM(keras.layers.LSTM):
        def __init__(self, units, **config):
            super().__init__(units, **{**config, "go_backwards": True})

        def call(self, inputs, **options):
            return keras.backend.reverse(super().call(inputs, **options), 1)

    language, kind = name.split("/")
    folder = packages / "rnnmorph" / "models" / language
    text = (folder / f"{kind}_model.json").read_text("utf-8")
    model = keras.models.model_from_json(text, custom_objects={"ReversedLSTM": ReversedLSTM})
    model.load_weights(folder / f"{kind}_model.h5")
    grammemes = next(x.shape[-1] for x in model.inputs if x.name == "grammemes")
    return outputs(model(rnnmorph_inputs([x.name for x in model.inputs], grammemes), training=False))


def in_onnxruntime(packages):
    import onnxruntime

    found = {}
    for name in SILERO:
        session = onnxruntime.InferenceSession(packages / "silero_vad" / "data" / name, providers=["CPUExecutionProvider"])
        found[f"silero_vad/{name}"] = outputs(session.run(None, silero_inputs(name)))
    return found


def in_torch(packages):
    """torch.nn.LSTM with the weights of the .safetensors."""
    import torch

    data = (packages / "silero_vad" / "data" / "silero_vad_16k.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    state = {}
    for name, told in json.loads(data[8:start]).items():
        part = next((part for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if name.endswith(part)), None)
        if part is not None:
            begin, end = told["data_offsets"]
            numbers = np.frombuffer(data[start + begin : start + end], "<f4").reshape(told["shape"])
            state[f"{part}_l0"] = torch.from_numpy(numbers.copy())
    lstm = torch.nn.LSTM(128, 128, batch_first=True)
    lstm.load_state_dict(state)
    with torch.inference_mode():
        return {"silero_vad/silero_vad_16k.safetensors": outputs(lstm(torch.from_numpy(wave(2, 5, 128)))[0])}


def main(folder):
    packages = Path(folder).resolve()
    answers = json.loads(ANSWERS.read_text("utf-8")) if ANSWERS.exists() else {}
    for module, run in (("tf_keras", in_keras), ("onnxruntime", in_onnxruntime), ("torch", in_torch)):
        if importlib.util.find_spec(module) is None:
            print(f"{module} is not there: its answers stay as they were")
            continue
        for name, arrays in run(packages).items():
            answers[name] = {"by": module, "outputs": [{"shape": y.shape, "kept": kept(y).tolist()} for y in arrays]}
    ANSWERS.write_text(json.dumps(answers, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
