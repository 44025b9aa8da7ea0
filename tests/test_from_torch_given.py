"""What ``LSTM.from_torch`` takes: state dicts, modules, files, prefixes, checkpoints; and what it refuses, in words."""

from __future__ import annotations

import io

import numpy as np
import pytest
from torch_formulas import CLOSE, X, random_state, run, single

from fastlstm import LSTM
from fastlstm.io.safetensors import write_safetensors


# -- what can be given -------------------------------------------------------------------------------------------------
class Tensor:
    """What of a torch.Tensor on another device that is being trained is asked for; NumPy alone must not see it."""

    def __init__(self, array, detached=False, moved=False, dtype=None):
        self.array, self.detached, self.moved, self.dtype = array, detached, moved, dtype or f"torch.{array.dtype}"

    @property
    def shape(self):
        return self.array.shape

    def detach(self):
        return Tensor(self.array, True, self.moved, self.dtype)

    def cpu(self):
        return Tensor(self.array, self.detached, True, self.dtype)

    def float(self):
        return Tensor(self.array.astype("f4"), self.detached, self.moved)

    def __array__(self, dtype=None, copy=None):
        assert self.detached
        assert self.moved
        assert self.dtype != "torch.bfloat16"
        return self.array


class Exchanged:
    """An array of a library that speaks DLPack alone."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class Module:
    def __init__(self, state):
        self.state = state

    def state_dict(self):
        return self.state


class Network(Module):
    """A module with modules in it, as torch.nn.Module names them; "rnn" says what axis comes first."""

    def __init__(self, state, batch_first):
        super().__init__(state)
        self.rnn = Module(state)
        self.rnn.batch_first = batch_first

    def named_modules(self):
        return iter([("", self), ("rnn", self.rnn)])


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_module_says_which_axis_comes_first(batch_first):
    network = Network(single(prefix="rnn."), batch_first)
    x = X if batch_first else X.swapaxes(0, 1)
    y, _, _ = run(single(), X)
    got = LSTM.from_torch(network, return_sequences=True)(x)
    np.testing.assert_allclose(got if batch_first else got.swapaxes(0, 1), y, **CLOSE)
    got = LSTM.from_torch(network, return_sequences=True, batch_first=True)(X)
    np.testing.assert_allclose(got, y, **CLOSE)


def test_tensors_without_importing_their_library():
    expected = LSTM.from_torch(single()).get_weights()
    half = {name: Tensor(array.astype("f4"), dtype="torch.bfloat16") for name, array in single().items()}
    givens = [
        {name: Tensor(array) for name, array in single().items()},
        {name: Exchanged(array) for name, array in single().items()},
        Module(single()),
        {"state": {"deep": {"er": single()}}, "epoch": 3, 4: "x", "list": [single()]},
    ]
    for given in givens:
        for got, want in zip(LSTM.from_torch(given).get_weights(), expected, strict=True):
            np.testing.assert_array_equal(got, want)
    assert LSTM.from_torch(half).dtype == "float32"


@pytest.mark.parametrize("given", [None, 3, [1, 2], np.zeros(3)])
def test_what_cannot_be_given(given):
    with pytest.raises(TypeError, match="must be a path, a binary file object, a dict"):
        LSTM.from_torch(given)


def test_a_file_that_holds_something_else(tmp_path):
    write_safetensors(path := tmp_path / "x.safetensors", {"dense.weight": np.zeros((2, 2)), "dense.bias": np.zeros(2)})
    with pytest.raises(ValueError, match=r"x\.safetensors: holds no weights of an LSTM .*: 'dense\.bias', 'dense\.weight'"):
        LSTM.from_torch(path)
    for name in ("lstm._all_weight_values.0.param", "layers.0.layer_fw.cell.igates.weight"):
        with pytest.raises(ValueError, match="Quantised weights are not read"):
            LSTM.from_torch({name: np.zeros(2)})
    with pytest.raises(ValueError, match=r"is neither \.safetensors nor a zip archive"):
        LSTM.from_torch(io.BytesIO(b"hello"))
    with pytest.raises(FileNotFoundError):
        LSTM.from_torch(tmp_path / "none.pt")


def test_prefixes():
    both = {**single(prefix="a.rnn."), **single(prefix="b.rnn.", seed=1)}
    gru = {"g.weight_ih_l0": np.zeros((12, 3)), "g.weight_hh_l0": np.zeros((12, 4))}
    rnn = {"r.weight_ih_l0": np.zeros((4, 3)), "r.weight_hh_l0": np.zeros((4, 4))}
    with pytest.raises(ValueError, match=r"holds 2 LSTMs; choose one by `prefix`\. Prefixes of LSTMs in it: 'a.rnn', 'b.rnn'"):
        LSTM.from_torch({**both, **gru})
    with pytest.raises(ValueError, match="2 LSTMs have the prefix 'rnn'"):
        LSTM.from_torch(both, prefix="rnn")
    with pytest.raises(ValueError, match=r"no LSTMs have the prefix 'g'\. Prefixes .*: 'a.rnn', 'b.rnn'; 'g' is a GRU"):
        LSTM.from_torch({**both, **gru}, prefix="g")
    with pytest.raises(ValueError, match=r"holds no LSTM, but a GRU \('g'\), an RNN \('r'\)"):
        LSTM.from_torch({**gru, **rnn})
    chosen = LSTM.from_torch(both, prefix="b.rnn").get_weights()[0]
    np.testing.assert_array_equal(chosen, single(seed=1)["weight_ih_l0"].T)
    assert type(LSTM.from_torch({**single(prefix="a."), **gru, **rnn})) is LSTM
    # An empty prefix is a prefix too.
    np.testing.assert_array_equal(
        LSTM.from_torch({**both, **single(seed=2)}, prefix="").get_weights()[0], single(seed=2)["weight_ih_l0"].T
    )


def but(state, **changes):
    """The state with some entries replaced, or removed where the new value is None."""
    return {name: array for name, array in {**state, **changes}.items() if array is not None}


WRONG = {
    "bias": (but(single(), bias_hh_l0=None), "has no 'bias_hh_l0'"),
    "recurrent": (but(single(), weight_hh_l0=None), "has no 'weight_hh_l0'"),
    "a layer": ({**single(), "weight_ih_l2": np.zeros((16, 4))}, "has no 'weight_ih_l1'"),
    "a direction": (but(single(directions=2, layers=2), weight_ih_l1_reverse=None), "has no 'weight_ih_l1_reverse'"),
    "a prefix": ({"m.weight_ih_l0": np.zeros((16, 3))}, r"has no 'm\.weight_hh_l0'"),
    "rows": (
        but(single(), weight_ih_l0=np.zeros((15, 3))),
        r"shape \(15, 3\), expected \(16, 3\) for 4 units",
    ),
    "recurrent rows": (
        but(single(), weight_hh_l0=np.zeros((12, 4))),
        r"'weight_hh_l0' has shape \(12, 4\), expected",
    ),
    "a vector": (but(single(), weight_ih_l0=np.zeros(16)), r"'weight_ih_l0' has shape \(16,\), expected a matrix"),
    "bias shape": (but(single(), bias_ih_l0=np.zeros(8)), r"'bias_ih_l0' has shape \(8,\), expected \(16,\)"),
    "inputs": (
        but(single(layers=2), weight_ih_l1=np.zeros((16, 8))),
        r"_ih_l1' has shape \(16, 8\), expected \(16, 4\)",
    ),
    "empty": (but(single(), weight_ih_l0=np.zeros((16, 0))), r"'weight_ih_l0' has shape \(16, 0\)"),
    "projection": (but(single(proj=2), weight_hr_l0=np.zeros((3, 4))), r"expected \(16, 3\) for 4 units .*proj_size 3"),
    "too wide": (random_state(3, 2, proj=3), r"'weight_hr_l0' has shape \(3, 2\), expected fewer rows than columns"),
    "integers": (but(single(), weight_hh_l0=np.zeros((16, 4), "i1")), "'weight_hh_l0' has dtype int8"),
    "twice": ({**single(), "weight_ih": np.zeros((16, 3))}, r"has both 'weight_ih(_l0)?' and 'weight_ih(_l0)?'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_weights(name, tmp_path):
    state, message = WRONG[name]
    with pytest.raises(ValueError, match=f"the state dict: .*{message}"):
        LSTM.from_torch(state)
    write_safetensors(path := tmp_path / "x.safetensors", state)
    with pytest.raises(ValueError, match=f"{path}: .*{message}"):
        LSTM.from_torch(path)


def test_dicts_that_hold_themselves():
    state = {"a": {}}
    state["a"]["b"] = state
    with pytest.raises(ValueError, match="holds no weights of an LSTM"):
        LSTM.from_torch(state)
    wide = {}
    for _ in range(8):
        wide = {str(k): wide for k in range(10)} | {"x": np.zeros(1)}
    with pytest.raises(ValueError, match="has more than 200000 entries"):
        LSTM.from_torch(wide)
