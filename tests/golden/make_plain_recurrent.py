"""Runs the layers of tests/data/plain_recurrent.json with Keras 3 for tests/test_plain_golden.py:
``python tests/golden/make_plain_recurrent.py``.

Needs keras and jax, not fastlstm. Reads inputs, weights and cotangents from tests/data/plain_recurrent.npz and writes what Keras
makes of them back into it. JAX honours neither the rule for the outputs of masked steps in its scan nor ``zero_output_for_mask``
when unrolled (keras-spec 6): layers with a mask are unrolled, and the zeros put in here.
"""

import json
import os
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import keras
import numpy as np

DATA = Path(__file__).resolve().parent.parent / "data"


def numbered(own, prefix):
    count = sum(name.startswith(prefix) and name[len(prefix) :].isdigit() for name in own)
    return [own[f"{prefix}{k}"] for k in range(count)]


def make(case, own):
    layer = getattr(keras.layers, case["layer"])(**case["arguments"], unroll="mask" in own)
    if case["bidirectional"] is not None:
        layer = keras.layers.Bidirectional(layer, **case["bidirectional"])
    layer.build(own["x"].shape)
    layer.set_weights(numbered(own, "w"))
    return layer


def zeroed(case, outputs, mask):
    """The outputs with zeros at masked steps, where the layer says so."""
    arguments = case["arguments"]
    sequences = arguments.get("return_sequences", False)
    on = sequences if case["bidirectional"] is not None else arguments.get("zero_output_for_mask", False)
    if mask is None or not on:
        return outputs
    order = mask[:, ::-1] if arguments.get("go_backwards") else mask
    valid = (order if sequences else order[:, -1]) != 0
    unmerged = case["bidirectional"] is not None and case["bidirectional"]["merge_mode"] is None
    count = 2 if unmerged else 1
    return [jnp.where(valid[..., None], y, 0) for y in outputs[:count]] + outputs[count:]


def run(case, own):
    layer, mask = make(case, own), own.get("mask")
    given, cotangents = numbered(own, "init"), numbered(own, "R")
    fixed = [v.value for v in layer.non_trainable_variables]

    def loss(weights, x, states):
        keywords = {} if mask is None else {"mask": jnp.asarray(mask != 0)}
        if given:
            keywords["initial_state"] = states
        made, _ = layer.stateless_call(weights, fixed, x, **keywords)
        outputs = zeroed(case, jax.tree.leaves(made), mask)
        return sum(jnp.sum(y * r) for y, r in zip(outputs, cotangents, strict=True)), outputs

    arguments = ([v.value for v in layer.trainable_variables], jnp.asarray(own["x"]), [jnp.asarray(a) for a in given])
    (_, outputs), (weights, x, states) = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(*arguments)
    penalties = [v.regularizer(v.value) for v in layer.trainable_variables if v.regularizer is not None]
    found = {"gx": x}
    for name, arrays in (("out", outputs), ("loss", penalties), ("gw", weights), ("ginit", states)):
        found |= {f"{name}{k}": array for k, array in enumerate(arrays)}
    return found


def main():
    cases = json.loads((DATA / "plain_recurrent.json").read_text("utf-8"))
    with np.load(DATA / "plain_recurrent.npz") as stored:
        arrays = dict(stored)
    for case in cases:
        own = {key.partition("/")[2]: value for key, value in arrays.items() if key.startswith(f"{case['id']}/")}
        arrays |= {f"{case['id']}/{name}": np.asarray(array, np.float32) for name, array in run(case, own).items()}
    np.savez_compressed(DATA / "plain_recurrent.npz", **arrays)


if __name__ == "__main__":
    main()
