"""GRU and SimpleRNN, alone and in Bidirectional, against Keras 3.15.1 (JAX): outputs, states, penalties and gradients.

``data/plain_recurrent.json`` names layers drawn at random; ``plain_recurrent.npz`` holds under ``<id>/<name>`` the input ``x``,
``mask``, ``init0…``, weights ``w0…``, cotangents ``R0…`` of all outputs, and what Keras made of them: ``out0…``, ``loss0…``,
``gx``, ``ginit0…``, ``gw0…``. The masked ones were unrolled there, with zeros put in by hand for ``zero_output_for_mask``
(keras-spec 6).
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from golden_cases import DATA, GRADIENT_TOLERANCE, TOLERANCE, distance, flatten

import fastlstm

CASES = json.loads((DATA / "plain_recurrent.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def arrays():
    with np.load(DATA / "plain_recurrent.npz") as stored:
        return dict(stored)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_plain_layers_against_keras(case, arrays):
    own = {key.partition("/")[2]: value for key, value in arrays.items() if key.startswith(f"{case['id']}/")}

    def numbered(prefix):
        return [
            own[f"{prefix}{k}"] for k in range(sum(name.startswith(prefix) and name[len(prefix) :].isdigit() for name in own))
        ]

    layer = getattr(fastlstm, case["layer"])(**case["arguments"])
    if case["bidirectional"] is not None:
        layer = fastlstm.Bidirectional(layer, **case["bidirectional"])
    layer.build(own["x"].shape)
    layer.set_weights(numbered("w"))
    outputs, pullback = layer.vjp(own["x"], initial_state=numbered("init") or None, mask=own.get("mask"), training=False)
    cotangents = numbered("R")
    answer = pullback(tuple(cotangents) if isinstance(outputs, tuple) else cotangents[0])

    def check(got, want, allowed):
        assert len(got) == len(want)
        for one, expected in zip(got, want, strict=True):
            assert one.shape == expected.shape
            assert distance(one, expected) <= allowed

    check(flatten(outputs), numbered("out"), TOLERANCE["float32"])
    check(layer.losses, numbered("loss"), TOLERANCE["float32"])
    check([answer.inputs, *answer.weights], [own["gx"], *numbered("gw")], GRADIENT_TOLERANCE["float32"])
    check(answer.initial_state or [], numbered("ginit"), GRADIENT_TOLERANCE["float32"])
