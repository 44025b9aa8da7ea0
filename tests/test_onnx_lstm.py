"""ONNX's operators LSTM and DynamicQuantizeLSTM against the equations of the standard, written out here in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytest.importorskip("onnx", reason="ONNX models are parsed by the package onnx")

import onnx_graphs as og

import fastlstm
from fastlstm import selector
from fastlstm.backends import cpu
from fastlstm.models.onnx.lstm import dequantized

NAMES = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
T, N, D, U = 5, 4, 3, 6
TOLERANCE = {"float32": 2e-6, "float64": 1e-13}


# -- the truth --------------------------------------------------------------------------------------------------------------
def softplus(z):
    return np.log1p(np.exp(z))


FUNCTIONS = {
    "Sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "Tanh": np.tanh,
    "Relu": lambda z: np.maximum(z, 0),
    "Softsign": lambda z: z / (1 + abs(z)),
    "Softplus": softplus,
    "Affine": lambda z, a, b: a * z + b,
    "LeakyRelu": lambda z, a=0.01: np.where(z >= 0, z, a * z),
    "ThresholdedRelu": lambda z, a=1.0: np.where(z > a, z, 0),
    "ScaledTanh": lambda z, a, b: a * np.tanh(b * z),
    "HardSigmoid": lambda z, a=0.2, b=0.5: np.clip(a * z + b, 0, 1),
    "Elu": lambda z, a=1.0: np.where(z >= 0, z, a * (np.exp(z) - 1)),
}


def one_direction(given, k, reverse, functions, clip=None, input_forget=False):
    """Y [T,N,U], Y_h and Y_c [N,U] of direction k, sample by sample and step by step, all in float64."""
    f_, g_, h_ = functions
    arrays = {name: None if a is None else np.asarray(a, "f8") for name, a in given.items()}
    steps, batch = arrays["X"].shape[:2]
    units = arrays["R"].shape[2]
    w, r = (np.split(arrays[name][k], 4) for name in "WR")
    b = np.zeros(8 * units) if arrays.get("B") is None else arrays["B"][k]
    b = np.split(b[: 4 * units] + b[4 * units :], 4)
    p = np.zeros((3, units)) if arrays.get("P") is None else arrays["P"][k].reshape(3, units)
    lengths = given.get("sequence_lens")
    limit = (lambda z: z) if clip is None else (lambda z: np.clip(z, -clip, clip))
    y, ends = np.zeros((steps, batch, units)), np.zeros((2, batch, units))
    for n in range(batch):
        length = steps if lengths is None else int(lengths[n])
        h, c = (np.zeros(units) if arrays.get(s) is None else arrays[s][k, n] for s in ("initial_h", "initial_c"))
        for t in reversed(range(length)) if reverse else range(length):
            z = [w[q] @ arrays["X"][t, n] + r[q] @ h + b[q] for q in range(4)]  # i, o, f, c
            i = f_(limit(z[0] + p[0] * c))
            f = 1 - i if input_forget else f_(limit(z[2] + p[2] * c))
            c = f * c + i * g_(limit(z[3]))
            o = f_(limit(z[1] + p[1] * c))
            h = o * h_(c)
            y[t, n] = h
        if length:
            ends[:, n] = h, c
    return y, *ends


def expected(given, direction, functions=None, **options):
    reverse = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    functions = functions or [(FUNCTIONS["Sigmoid"], np.tanh, np.tanh)] * len(reverse)
    found = [one_direction(given, k, back, functions[k], **options) for k, back in enumerate(reverse)]
    y, h, c = (np.stack(part) for part in zip(*found, strict=True))
    return [y.transpose(1, 0, 2, 3), h, c]


# -- models -----------------------------------------------------------------------------------------------------------------
def drawn(direction="forward", dtype="float32", seed=0, left_out=(), size=(T, N, D, U)):
    """Random inputs by name, those in ``left_out`` None."""
    rng, d = np.random.default_rng(seed), 1 + (direction == "bidirectional")
    t, n, i, u = size
    shapes = [(t, n, i), (d, 4 * u, i), (d, 4 * u, u), (d, 8 * u), (n,), (d, n, u), (d, n, u), (d, 3 * u)]
    given = {name: rng.normal(size=shape).astype(dtype) for name, shape in zip(NAMES, shapes, strict=True)}
    given["sequence_lens"] = np.array([t, 0, 2, 1] * n, np.int32)[:n]
    return given | dict.fromkeys(left_out)


def lstm(given, constants="WRBP", outputs=("Y", "Y_h", "Y_c"), opset=14, **attributes):
    """A model of the node; the inputs named in ``constants`` lie in the file."""
    names = [name for name in NAMES if name in given]
    node = og.helper.make_node(
        "LSTM", [name if given[name] is not None else "" for name in names], list(outputs), "rnn", **attributes
    )
    there = {name: array for name, array in given.items() if array is not None}
    float_type = og.helper.np_dtype_to_tensor_dtype(given["X"].dtype)
    return og.model(
        [node],
        {name: array for name, array in there.items() if name not in constants},
        [og.value(name, float_type) for name in outputs if name],
        {name: array for name, array in there.items() if name in constants},
        opset,
    )


def answers(given, constants="WRBP", **options):
    model = og.load(lstm(given, constants, **options))
    return og.as_list(model({name: array for name, array in given.items() if array is not None and name not in constants}))


def close(got, wanted, dtype="float32"):
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == dtype
        assert a.shape == b.shape
        assert np.abs(a - b).max(initial=0) <= TOLERANCE[dtype] * max(1, np.abs(b).max(initial=0))


@pytest.fixture(params=["reference", "cpu"])
def backend(request):
    with selector.use_backend(request.param):
        yield request.param


# -- directions, lengths, states ------------------------------------------------------------------------------------------
PLAIN = ("sequence_lens", "P")
DIRECTIONS = ["forward", "reverse", "bidirectional"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    "left_out", [PLAIN, ("P",), ("B", "P"), (*PLAIN, "initial_h"), (*PLAIN, "initial_c"), ("B", *PLAIN, *NAMES[5:7])]
)
def test_directions(backend, direction, left_out, dtype):
    """With and without lengths (0 among them), bias and states; weights in the file."""
    given = drawn(direction, dtype, left_out=left_out)
    close(answers(given, direction=direction, hidden_size=U), expected(given, direction), dtype)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_weights_as_inputs(direction):
    given = drawn(direction, left_out=("P",))
    close(answers(given, constants="", direction=direction), expected(given, direction))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("left_out", [(), ("P",), PLAIN])
def test_layout_1(direction, left_out):
    """The batch first in X, Y and all states."""
    given = drawn(direction, left_out=left_out)
    y, h, c = expected(given, direction)
    turned = given | {name: given[name].swapaxes(0, 1) for name in ("X", "initial_h", "initial_c")}
    got = answers(turned, direction=direction, layout=1)
    close(got, [y.transpose(2, 0, 1, 3), h.swapaxes(0, 1), c.swapaxes(0, 1)])


@pytest.mark.parametrize("outputs", [("Y",), ("", "Y_h"), ("", "", "Y_c"), ("Y", "", "Y_c")])
def test_outputs_may_be_left_out(outputs):
    given = drawn(left_out=("P",))
    whole = dict(zip(("Y", "Y_h", "Y_c"), expected(given, "forward"), strict=True))
    close(answers(given, outputs=outputs), [whole[name] for name in outputs if name])


def test_a_sequence_of_length_0_has_zeros_for_states():
    """As in onnxruntime; the standard does not say."""
    given = drawn(left_out=("P",))
    y, h, c = answers(given)
    assert given["sequence_lens"][1] == 0
    for array in (y[:, :, 1], h[:, 1], c[:, 1]):
        np.testing.assert_array_equal(array, np.zeros_like(array))
    assert np.abs(given["initial_h"][:, 1]).min() > 0


def test_all_lengths_0():
    given = drawn("bidirectional", left_out=("P",)) | {"sequence_lens": np.zeros(N, np.int32)}
    for array in answers(given, direction="bidirectional"):
        np.testing.assert_array_equal(array, np.zeros_like(array))


def test_padding_is_not_looked_at(backend):
    """NaN behind the end of a sequence."""
    given = drawn("bidirectional", left_out=("P",))
    spoilt = given["X"].copy()
    for n, length in enumerate(given["sequence_lens"]):
        spoilt[length:, n] = np.nan
    close(answers(given | {"X": spoilt}, direction="bidirectional"), expected(given, "bidirectional"))


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("batch", [0, 1])
def test_no_steps_and_no_samples(steps, batch):
    given = drawn(left_out=("P",), size=(steps, batch, D, U))
    given["sequence_lens"] = np.full(batch, steps, np.int32)
    y, h, c = answers(given)
    assert y.shape == (steps, 1, batch, U)
    assert h.shape == c.shape == (1, batch, U)
    if steps and batch:
        close([y, h, c], expected(given, "forward"))


# -- what the kernels do not have -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("peepholes", "clip", "input_forget"), list(itertools.product([False, True], [None, 0.4], [0, 1])))
def test_peepholes_clip_and_input_forget(direction, peepholes, clip, input_forget, dtype):
    given = drawn(direction, dtype, left_out=() if peepholes else ("P",))
    attributes = {"direction": direction, "input_forget": input_forget} | ({} if clip is None else {"clip": clip})
    wanted = expected(given, direction, clip=None if clip is None else float(np.float32(clip)), input_forget=bool(input_forget))
    close(answers(given, **attributes), wanted, dtype)


ACTIVATIONS = [
    (["Sigmoid", "Relu", "Tanh"], [], []),
    (["Relu", "Relu", "Relu"], [], []),
    (["HardSigmoid", "LeakyRelu", "Elu"], [], []),
    (["HardSigmoid", "LeakyRelu", "Elu"], [0.3, 0.2, 0.7], [0.4]),
    (["Softsign", "Softplus", "Softsign"], [], []),
    (["Sigmoid", "Softplus", "Softplus"], [], []),
    (["Sigmoid", "Softsign", "Softsign"], [], []),
    (["Sigmoid", "Affine", "ScaledTanh"], [0.5, 0.6], [0.1, 1.3]),
    (["Sigmoid", "Affine", "Affine"], [1.0, 1.0], [0.0, 0.0]),
    (["HardSigmoid", "ScaledTanh", "ScaledTanh"], [1 / 6, 1.0, 1.0], [0.5, 1.0, 1.0]),
    (["Sigmoid", "ThresholdedRelu", "Tanh"], [], []),
    (["Sigmoid", "ThresholdedRelu", "Tanh"], [0.2], []),
    (["Sigmoid", "Elu", "Elu"], [], []),
    (["Sigmoid", "LeakyRelu", "LeakyRelu"], [0.2, 0.2], []),
    (["sigmoid", "TANH", "tanh"], [], []),
]
PARAMETERS = {"Affine": 2, "ScaledTanh": 2, "HardSigmoid": 2, "LeakyRelu": 1, "ThresholdedRelu": 1, "Elu": 1}


def bound(names, alphas, betas):
    """The functions of ``names`` with their parameters taken in order."""
    known = {name.lower(): name for name in FUNCTIONS}
    alphas, betas, found = [float(np.float32(a)) for a in alphas], [float(np.float32(b)) for b in betas], []
    for name in (known[name.lower()] for name in names):
        values = [alphas.pop(0)] if PARAMETERS.get(name, 0) > 0 and alphas else []
        values += [betas.pop(0)] if PARAMETERS.get(name, 0) > 1 and betas else []
        found.append(lambda z, name=name, values=values: FUNCTIONS[name](z, *values))
    return [tuple(found[k : k + 3]) for k in range(0, len(found), 3)]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("names", "alphas", "betas"), ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_activations(backend, direction, names, alphas, betas, dtype):
    """Both directions with the same functions: on the kernels where Keras has them, with ONNX's parameters and defaults."""
    given = drawn(direction, dtype, left_out=("P",))
    given = {k: a if a is None or k == "sequence_lens" else a / 2 for k, a in given.items()}
    d = 1 + (direction == "bidirectional")
    attributes = {"activation_alpha": alphas * d, "activation_beta": betas * d, "activations": names * d, "direction": direction}
    got = answers(given, **{key: told for key, told in attributes.items() if told})
    close(got, expected(given, direction, bound(names * d, alphas * d, betas * d)), dtype)


def test_each_direction_has_functions_of_its_own():
    given = drawn("bidirectional", "float64", left_out=("P",))
    names, alphas, betas = ["HardSigmoid", "Tanh", "Elu", "Sigmoid", "LeakyRelu", "Affine"], [0.3, 0.5, 0.1, 0.8], [0.4, 0.2]
    got = answers(given, direction="bidirectional", activations=names, activation_alpha=alphas, activation_beta=betas)
    close(got, expected(given, "bidirectional", bound(names, alphas, betas)), "float64")


# -- which code runs --------------------------------------------------------------------------------------------------------
def runs_steps(monkeypatch, given, **attributes):
    from fastlstm.models.onnx import lstm as module

    taken = []
    monkeypatch.setattr(module, "run_steps", lambda *a, whole=module.run_steps: taken.append(1) or whole(*a))
    answers(given, **attributes)
    return bool(taken)


@pytest.mark.parametrize(
    ("attributes", "stepwise"),
    [
        ({}, False),
        ({"activations": ["Sigmoid", "Softsign", "Softsign"]}, False),
        ({"activations": ["HardSigmoid", "Tanh", "Tanh"], "activation_alpha": [1 / 6], "activation_beta": [0.5]}, False),
        ({"activations": ["HardSigmoid", "Tanh", "Tanh"]}, True),  # 0.2 x + 0.5 is Keras 2's
        ({"activations": ["Sigmoid", "Tanh", "Relu"]}, True),
        ({"clip": 1.0}, True),
        ({"input_forget": 1}, True),
        ({"direction": "reverse"}, False),
    ],
)
def test_the_kernels_run_what_they_can(monkeypatch, attributes, stepwise):
    assert runs_steps(monkeypatch, drawn(left_out=("P",)), **attributes) is stepwise


def test_weights_are_prepared_once(monkeypatch):
    prepared = []
    monkeypatch.setattr(cpu, "prepare", lambda *a, whole=cpu.prepare: prepared.append(1) or whole(*a))
    given = drawn("bidirectional", left_out=PLAIN)
    model = og.load(lstm(given, direction="bidirectional"))
    for _ in range(3):
        model([given[name] for name in ("X", "initial_h", "initial_c")])
    assert len(prepared) == 2


@pytest.mark.parametrize("gemm", [cpu.GEMM, "packed"], ids=["as_set", "packed"])
def test_a_stream_is_the_whole_sequence(monkeypatch, gemm):
    """One step after the other through the states gives the whole, and a batch its samples: on gate panels the same bits, the
    same numbers where FASTLSTM_GEMM and FASTLSTM_ISA lead to BLAS, which chooses its order of a sum by the shape."""
    monkeypatch.setattr(cpu, "GEMM", gemm)
    given = drawn(left_out=PLAIN, size=(9, 3, 8, 16))
    one = given | {"X": given["X"][:1, :1], "initial_h": given["initial_h"][:, :1], "initial_c": given["initial_c"][:, :1]}
    model, step = og.load(lstm(given)), og.load(lstm(one))
    whole = model([given["X"], given["initial_h"], given["initial_c"]])
    same_bits = fastlstm.LSTM(16).explain(np.zeros((1, 1, 8), np.float32)).kernel == "fused"
    assert same_bits or gemm != "packed"
    tolerance = 0 if same_bits else TOLERANCE["float32"]
    for n in range(3):
        h, c = (given[name][:, n : n + 1] for name in ("initial_h", "initial_c"))
        for t in range(9):
            y, h, c = step([given["X"][t : t + 1, n : n + 1], h, c])
            np.testing.assert_allclose(y[0, :, 0], whole[0][t, :, n], rtol=0, atol=tolerance)
        np.testing.assert_allclose([h[:, 0], c[:, 0]], [end[:, n] for end in whole[1:]], rtol=tolerance, atol=tolerance)


def test_float16_is_computed_in_float32():
    given = drawn(left_out=PLAIN)
    small = {name: None if a is None else a.astype(np.float16) for name, a in given.items()}
    got = answers(small, opset=14)
    wanted = expected(small, "forward")
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == np.float16
        np.testing.assert_allclose(a, b, rtol=2**-10, atol=1e-6)


# -- against the reference evaluator of the package onnx ------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(8))
def test_against_the_reference_evaluator(seed):
    """It knows forward LSTMs with peepholes, and neither lengths nor other functions."""
    rng = np.random.default_rng(seed)
    size = tuple(int(n) for n in rng.integers(1, 9, 4))
    given = drawn(seed=seed, left_out=("sequence_lens",) if seed % 2 else PLAIN, size=size)
    proto = lstm(given, hidden_size=size[3])
    feeds = {name: array for name, array in given.items() if array is not None and name not in "WRBP"}
    for a, b in zip(og.as_list(og.load(proto)(feeds)), og.reference(proto, feeds), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-6)


# -- DynamicQuantizeLSTM ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("left_out", [PLAIN, ("P",), ()])
def test_quantized_weights_become_floats(direction, per_column, dtype, left_out):
    """W [D,I,4U] and R [D,U,4U] of bytes, with a scale and a zero point for each direction or each column."""
    given, rng = drawn(direction, left_out=left_out), np.random.default_rng(3)
    d, full = len(given["W"]), dict(given)
    for name in "WR":
        shape = given[name].swapaxes(1, 2).shape
        low = np.iinfo(dtype).min
        full[f"{name}_scale"] = rng.uniform(0.005, 0.02, (d, shape[2]) if per_column else (d,)).astype("f4")
        full[f"{name}_zero_point"] = rng.integers(low + 100, low + 150, (d, shape[2]) if per_column else (d,)).astype(dtype)
        full[name] = rng.integers(low, low + 256, shape).astype(dtype)
        scale, zero = (full[f"{name}_{key}"].astype("f8").reshape(d, 1, -1) for key in ("scale", "zero_point"))
        given[name] = ((full[name].astype("f8") - zero) * scale).swapaxes(1, 2)
    order = (*NAMES, "W_scale", "W_zero_point", "R_scale", "R_zero_point")
    live = {n: full[n] for n in ("X", "sequence_lens", "initial_h", "initial_c") if full[n] is not None}
    node = og.helper.make_node(
        "DynamicQuantizeLSTM",
        [n if full[n] is not None else "" for n in order],
        ["Y", "Y_h", "Y_c"],
        domain="com.microsoft",
        direction=direction,
        hidden_size=U,
    )
    held = {n: full[n] for n in order if n not in live and full[n] is not None}
    model = og.load(og.model([node], live, ["Y", "Y_h", "Y_c"], held, domains=("com.microsoft",)))
    close(model(live), expected(given, direction))


def test_dequantized_by_hand():
    matrix = np.array([[[10, 20, 30, 40], [0, 5, 255, 128]]], np.uint8)  # [1, 2, 4]
    scale, zero = np.array([[1, 2, 0.5, 0.25]], "f4"), np.array([[10, 0, 30, 128]], np.uint8)
    np.testing.assert_array_equal(dequantized(matrix, scale, zero, 1), [[[0, -10], [40, 10], [0, 112.5], [-22, 0]]])
    with pytest.raises(ValueError, match="does not fit"):
        dequantized(matrix, scale[:, :3], zero, 1)


# -- what makes no sense --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "attributes", "message"),
    [
        ({}, {"direction": "sideways"}, "its direction 'sideways' is not one of"),
        ({}, {"direction": "bidirectional"}, "does not fit 2 directions"),
        ({}, {"layout": 2}, "its layout 2 is not 0 or 1"),
        ({}, {"hidden_size": 7}, "its hidden_size is 7, its R of shape .* has 6 units"),
        ({}, {"clip": -1.0}, "its clip -1.0 is not a threshold"),
        ({}, {"activations": ["Sigmoid", "Tanh"]}, "has 2 activations, expected three for each of 1 directions"),
        ({}, {"activations": ["Sigmoid", "Tanh", "Swish"]}, "its activation 'Swish' is not one of"),
        ({}, {"activations": ["Sigmoid", "Affine", "Tanh"]}, "Affine needs activation_alpha, which has no default"),
        ({}, {"activations": ["Sigmoid", "ScaledTanh", "Tanh"], "activation_alpha": [1.0]}, "ScaledTanh needs activation_beta"),
        ({"W": np.zeros((1, 20, 3), "f4")}, {}, r"its W of shape \(1, 20, 3\) does not fit"),
        ({"B": np.zeros((1, 40), "f4")}, {}, r"its B of shape \(1, 40\) does not fit"),
        ({"P": np.zeros((1, 20), "f4")}, {}, r"its P of shape \(1, 20\) does not fit"),
    ],
)
def test_refused_before_anything_runs(changes, attributes, message):
    with pytest.raises(ValueError, match=rf"<file object>: .*node 'rnn' \(LSTM\): .*{message}"):
        og.load(lstm(drawn(left_out=("P",)) | changes, **attributes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequence_lens": np.array([5, 0, 2, 6], "i4")}, "its sequence_lens must be 4 numbers of 0 to 5"),
        ({"sequence_lens": np.array([5, 0, 2, -1], "i4")}, "its sequence_lens must be 4 numbers of 0 to 5"),
        ({"sequence_lens": np.array([5, 0, 2], "i4")}, "its sequence_lens must be 4 numbers"),
        ({"initial_h": np.zeros((1, 4, 5), "f4")}, r"its initial_h must have the shape \(1, 4, 6\)"),
        ({"initial_c": np.zeros((2, 4, 6), "f4")}, r"its initial_c must have the shape \(1, 4, 6\)"),
        ({"X": np.zeros((5, 4, 2), "f4")}, "its X must have three axes, the last one 3 long"),
    ],
)
def test_refused_in_a_call(changes, message):
    with pytest.raises(ValueError, match=rf"<file object>: node 'rnn' \(LSTM\): .*{message}"):
        answers(drawn(left_out=("P",)) | changes)


def test_a_graph_that_keras_could_have_made(backend):
    """The same weights in fastlstm.LSTM: the same bits."""
    given = drawn(left_out=PLAIN, size=(7, 2, 4, 9))
    layer = fastlstm.LSTM(9, return_sequences=True)
    layer.build((None, None, 4))
    order = np.concatenate([np.arange(9) + 9 * gate for gate in (0, 2, 3, 1)])  # i, o, f, c -> i, f, c, o
    bias = given["B"][0, :36] + given["B"][0, 36:]
    layer.set_weights([given["W"][0].T[:, order], given["R"][0].T[:, order], bias[order]])
    y = layer(given["X"].swapaxes(0, 1), initial_state=[given["initial_h"][0], given["initial_c"][0]])
    np.testing.assert_array_equal(answers(given)[0][:, 0].swapaxes(0, 1), y)
