"""fit against Keras: the same samples in the same order give the same losses, metrics and weights (golden/make_fit.py)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fastlstm import Sequential

DATA = Path(__file__).parent / "data"
STORED = json.loads((DATA / "fit.json").read_text("utf-8"))["cases"]


@pytest.fixture(scope="module")
def arrays():
    with np.load(DATA / "fit.npz") as stored:
        return dict(stored)


@pytest.mark.parametrize("case", list(STORED))
def test_fit_ends_where_keras_ends(case, arrays):
    told = STORED[case]
    part = {key.removeprefix(f"{case}/"): value for key, value in arrays.items() if key.startswith(f"{case}/")}
    model = Sequential.from_config(told["config"])
    count = sum(key.startswith("before/") for key in part)
    model.set_weights([part[f"before/{k}"] for k in range(count)])
    model.set_compile_config(told["compile_config"], "fit.json")
    given = {key: part[key] for key in ("x", "y", "sample_weight") if key in part}
    if "val_x" in part:
        given["validation_data"] = tuple(part[key] for key in ("val_x", "val_y", "val_weight") if key in part)
    arguments = dict(told["arguments"])
    if "class_weight" in arguments:
        arguments["class_weight"] = {int(k): w for k, w in arguments["class_weight"].items()}
    history = model.fit(**given, **arguments, shuffle=False, verbose=0).history
    assert set(told["history"]) <= set(history)
    for key, values in told["history"].items():
        np.testing.assert_allclose(history[key], values, rtol=2e-5, atol=2e-6, err_msg=key)
    for k, weight in enumerate(model.get_weights()):
        np.testing.assert_allclose(weight, part[f"after/{k}"], rtol=1e-4, atol=2e-5, err_msg=model.weights[k].path)
    assert any(not np.array_equal(part[f"before/{k}"], part[f"after/{k}"]) for k in range(count))
