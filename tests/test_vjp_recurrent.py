"""``vjp`` of LSTM, ConvLSTM1D, their cells and Bidirectional against central differences in float64: the layers' part of it.

What a backend calculates is tested in test_reference_backward and test_golden; here: states, dropout, wrappers, frozen weights,
what a pullback keeps, and errors.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
from central_differences import check, check_layer, flatten, gradient

import fastlstm
from fastlstm import LSTM, Bidirectional, ConvLSTM1D, LSTMCell, layers, selector
from fastlstm.layers.convlstm1d import ConvLSTM1DCell

F64 = {"dtype": "float64"}
N, T, D, U = 2, 4, 3, 2
CLOSE = {"rtol": 0, "atol": 1e-12}
MASK = np.array([[0, 1, 1, 0], [1, 0, 0, 1]], bool)
SHAPES = {"LSTM": (N, T, D), "ConvLSTM1D": (N, T, 3, 2)}
STATES = {"LSTM": (N, U), "ConvLSTM1D": (N, 2, U)}


@pytest.fixture(params=["reference", "auto"], autouse=True)
def backend(request):
    """Every test runs on the reference backend, and on the one that is chosen for a gradient without being told."""
    if request.param == "auto":
        yield
    else:
        with selector.use_backend(request.param):
            yield


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def make(kind, **options):
    """A float64 layer of U units or filters, built, with random weights."""
    layer = LSTM(U, **{**F64, **options}) if kind == "LSTM" else ConvLSTM1D(U, 2, **{**F64, **options})
    return filled(layer, SHAPES[kind])


def filled(layer, shape, seed=3):
    layer.build(shape)
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(0, 0.6, v.shape) for v in layer.weights])
    return layer


both = pytest.mark.parametrize("kind", ["LSTM", "ConvLSTM1D"])


# -- layers ---------------------------------------------------------------------------------------------------------------
@both
@pytest.mark.parametrize("options", [{}, {"return_sequences": True}, {"go_backwards": True, "return_state": True}], ids=str)
def test_states_and_masks(kind, options):
    state = [draw(*STATES[kind], seed=k) for k in (1, 2)]
    check_layer(make(kind, **options), draw(*SHAPES[kind]), initial_state=state, mask=MASK)


@both
def test_without_initial_state_there_is_no_gradient_of_it(kind):
    check_layer(make(kind, return_state=True, return_sequences=True), draw(*SHAPES[kind]))


@both
def test_one_state_for_all_samples_gets_the_sum(kind):
    state = [draw(1, *STATES[kind][1:], seed=1), draw(*STATES[kind], seed=2)]
    _, answer = check_layer(make(kind), draw(*SHAPES[kind]), initial_state=state)
    assert [g.shape for g in answer.initial_state] == [s.shape for s in state]


@both
def test_none_in_dy_is_zeros(kind):
    layer, x = make(kind, return_state=True), draw(*SHAPES[kind])
    outputs, pullback = layer.vjp(x)
    dys = [draw(*y.shape, seed=k) for k, y in enumerate(outputs)]
    for present in ((0,), (1, 2), (2,), ()):
        some = pullback(tuple(dy if k in present else None for k, dy in enumerate(dys)))
        full = pullback(tuple(dy if k in present else np.zeros_like(dy) for k, dy in enumerate(dys)))
        np.testing.assert_array_equal(some.inputs, full.inputs)
        np.testing.assert_array_equal(some.weights[0], full.weights[0])
        assert some.inputs.any() == bool(present)
    assert not pullback(None).inputs.any()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("LSTM", {"dropout": 0.4}),
        ("LSTM", {"recurrent_dropout": 0.4}),
        ("LSTM", {"dropout": 0.4, "recurrent_dropout": 0.3}),
        ("ConvLSTM1D", {"dropout": 0.4, "recurrent_dropout": 0.3}),
    ],
    ids=str,
)
def test_dropout(kind, options):
    """``training`` is True by default; the masks are those that a call would draw; training=False draws none."""
    layer, x = make(kind, seed=8, return_sequences=True, **options), draw(*SHAPES[kind])
    check_layer(layer, x, mask=MASK)
    called, traced = copy.deepcopy(layer), copy.deepcopy(layer)
    np.testing.assert_allclose(traced.vjp(x)[0], called(x, training=True), **CLOSE)
    np.testing.assert_allclose(traced.vjp(x, training=False)[0], called(x), **CLOSE)
    np.testing.assert_array_equal(traced.variables[-1], called.variables[-1])
    if kind == "LSTM":
        check_layer(layer, x, mask=MASK, training=False)


def test_implementation_1_has_four_input_masks():
    check_layer(make("LSTM", seed=8, dropout=0.4, implementation=1), draw(N, T, D))


@both
def test_stateful(kind):
    """A vjp stores the states as a call does; what came in is a constant, not a path for gradients."""
    called, traced = (make(kind, stateful=True) for _ in range(2))
    for k in range(2):
        x = draw(*SHAPES[kind], seed=k)
        np.testing.assert_allclose(traced.vjp(x)[0], called(x), **CLOSE)
        for got, want in zip(traced.states, called.states, strict=True):
            np.testing.assert_allclose(got.value, want.value, **CLOSE)
    start = [state.numpy() for state in called.states]
    x = draw(*SHAPES[kind], seed=5)
    y, pullback = traced.vjp(x)
    plain = make(kind)
    want_y, want = plain.vjp(x, initial_state=start)
    np.testing.assert_allclose(y, want_y, **CLOSE)
    traced.reset_state()
    dy = draw(*y.shape, seed=6)
    got, expected = pullback(dy), want(dy)
    assert got.initial_state is None
    np.testing.assert_allclose(got.inputs, expected.inputs, **CLOSE)
    np.testing.assert_allclose(got.weights[1], expected.weights[1], **CLOSE)


@both
@pytest.mark.parametrize("backwards", [False, True])
def test_masked_inputs_get_exactly_zero_even_where_they_are_nan(kind, backwards):
    layer, x = make(kind, return_sequences=True, go_backwards=backwards), draw(*SHAPES[kind])
    valid = MASK.reshape(N, T, *[1] * (x.ndim - 2))
    y, pullback = layer.vjp(np.where(valid, x, np.nan), mask=MASK)
    answer = pullback(draw(*y.shape, seed=1))
    assert not answer.inputs[~MASK].any()
    assert answer.inputs[MASK].all()
    assert all(np.isfinite(w).all() for w in answer.weights)


def test_layer_arguments_by_position_and_a_build_at_the_first_vjp():
    layer = LSTM(U, **F64)
    state = [draw(N, U, seed=1), draw(N, U, seed=2)]
    y, pullback = layer.vjp(draw(N, T, D), state, MASK, False)
    np.testing.assert_allclose(y, layer(draw(N, T, D), state, MASK), **CLOSE)
    assert len(pullback(np.ones_like(y)).initial_state) == 2


# -- cells ----------------------------------------------------------------------------------------------------------------
CELLS = {"LSTM": lambda **o: LSTMCell(U, **F64, **o), "ConvLSTM1D": lambda **o: ConvLSTM1DCell(U, 2, **F64, **o)}


@both
@pytest.mark.parametrize("options", [{}, {"use_bias": False}, {"dropout": 0.4, "recurrent_dropout": 0.3, "seed": 1}], ids=str)
def test_cells(kind, options):
    """dy as one tuple of three; nested as the outputs are; the two cotangents of h add up."""
    shape = SHAPES[kind]
    cell, x = filled(CELLS[kind](**options), (shape[0], *shape[2:])), draw(shape[0], *shape[2:])
    states = [draw(*STATES[kind], seed=k) for k in (1, 2)]
    (h, (h2, _)), _ = check_layer(cell, x, states)
    np.testing.assert_array_equal(h, h2)
    _, pullback = cell.vjp(x, states)
    dys = [draw(*h.shape, seed=k) for k in (3, 4, 5)]
    flat = pullback(tuple(dys))
    for dy in ((dys[0], [dys[1], dys[2]]), (dys[0] + dys[1], [None, dys[2]]), [None, (dys[0] + dys[1], dys[2])]):
        np.testing.assert_allclose(pullback(dy).inputs, flat.inputs, **CLOSE)
        np.testing.assert_allclose(pullback(dy).initial_state[1], flat.initial_state[1], **CLOSE)
    np.testing.assert_array_equal(pullback((dys[0], None)).inputs, pullback((dys[0], None, None)).inputs)
    for dy in (dys[0], tuple(dys[:2]), (dys[0], [dys[1]])):
        with pytest.raises(ValueError, match="`dy`"):
            pullback(dy)


def test_cell_in_inference_drops_nothing():
    cell = filled(LSTMCell(U, dropout=0.5, seed=1, **F64), (N, D))
    x, states = draw(N, D), [draw(N, U), draw(N, U)]
    np.testing.assert_allclose(cell.vjp(x, states, training=False)[0][0], cell(x, states)[0], **CLOSE)
    np.testing.assert_allclose(cell.vjp(x, states)[0][0], cell(x, states, training=True)[0], **CLOSE)
    assert np.abs(cell(x, states)[0] - cell(x, states, training=True)[0]).max() > 1e-3


# -- Bidirectional --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("merge", ["concat", "sum", "mul", "ave", None])
def test_bidirectional(merge, sequences):
    layer = Bidirectional(LSTM(U, return_sequences=sequences, **F64), merge_mode=merge, **F64)
    check_layer(filled(layer, (N, T, D)), draw(N, T, D), mask=MASK)


@pytest.mark.parametrize(("kind", "merge"), [("LSTM", "concat"), ("LSTM", None), ("ConvLSTM1D", "concat")])
def test_bidirectional_with_states(kind, merge):
    inner = make(kind, return_sequences=True, return_state=True, seed=3, dropout=0.3)
    layer = filled(Bidirectional(inner, merge_mode=merge, **F64), SHAPES[kind])
    states = [draw(*STATES[kind], seed=k) for k in range(4)]
    outputs, answer = check_layer(layer, draw(*SHAPES[kind]), initial_state=states, mask=MASK)
    assert len(outputs) == (6 if merge is None else 5)
    assert len(answer.initial_state) == 4


def test_bidirectional_of_two_sizes_and_frozen_halves():
    layer = Bidirectional(LSTM(2, **F64), backward_layer=LSTM(3, go_backwards=True, **F64), **F64)
    filled(layer, (N, T, D))
    check_layer(layer, draw(N, T, D))
    layer.backward_layer.trainable = False
    check_layer(layer, draw(N, T, D), frozen=(3, 4, 5))
    layer.trainable = False
    check_layer(layer, draw(N, T, D), frozen=range(6))


def test_bidirectional_cotangents_may_be_none():
    layer = filled(Bidirectional(LSTM(U, return_state=True, **F64), merge_mode=None, **F64), (N, T, D))
    outputs, pullback = layer.vjp(draw(N, T, D))
    backward_only = pullback((None, draw(N, U), None, None, None, None))
    assert not any(g.any() for g in backward_only.weights[:3])
    assert all(g.any() for g in backward_only.weights[3:])
    assert len(outputs) == 6
    assert not pullback(None).inputs.any()


# -- what a pullback keeps --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["LSTM", "ConvLSTM1D", "Bidirectional"])
def test_later_writes_change_nothing(kind):
    """Weights, inputs, states and outputs may be written into before the pullback is called, and it may be called again."""
    layer = make("LSTM" if kind == "Bidirectional" else kind, return_sequences=True, return_state=True)
    shape, count = SHAPES.get(kind, (N, T, D)), 2
    if kind == "Bidirectional":
        layer, count = filled(Bidirectional(layer, merge_mode="mul", **F64), shape), 4
    x, states, mask = draw(*shape), [draw(*STATES.get(kind, (N, U)), seed=k) for k in range(count)], MASK.copy()
    outputs, pullback = layer.vjp(x, initial_state=states, mask=mask)
    dys = tuple(draw(*y.shape, seed=9) for y in outputs)
    first = pullback(dys)
    layer.set_weights([w + 1 for w in layer.get_weights()])
    for array in (x, *states, *outputs):
        array += 1
    mask[:] = True
    layer.vjp(x)
    second = pullback(dys)
    for got, want in zip(
        (second.inputs, *second.initial_state, *second.weights), (first.inputs, *first.initial_state, *first.weights), strict=True
    ):
        np.testing.assert_array_equal(got, want)


@both
def test_frozen_weights(kind):
    layer, x = make(kind), draw(*SHAPES[kind])
    before = layer(x)
    layer.cell.recurrent_kernel.trainable = False
    np.testing.assert_array_equal(layer(x), before)  # freezing moves no weight to another place
    check_layer(layer, x, frozen=(1,))
    layer.trainable = False
    check_layer(layer, x, frozen=(0, 1, 2))


@both
def test_integers_have_no_gradient(kind):
    x = np.arange(np.prod(SHAPES[kind])).reshape(SHAPES[kind]) % 3
    state = [np.ones(STATES[kind], np.int64), np.ones(STATES[kind])]
    y, pullback = make(kind).vjp(x, initial_state=state)
    answer = pullback(np.ones_like(y))
    assert answer.inputs is None
    assert answer.initial_state[0] is None
    assert answer.initial_state[1].dtype == np.float64
    assert answer.weights[0].any()


@pytest.mark.parametrize(
    ("policy", "inputs", "weights"),
    [("float32", "float32", "float32"), ("mixed_float16", "float32", "float32"), ("float16", "float32", "float32")],
)
def test_dtypes(policy, inputs, weights):
    layer = LSTM(U, dtype=policy, return_state=True)
    outputs, pullback = layer.vjp(draw(N, T, D).astype("float16" if policy == "float16" else "float32"))
    assert {y.dtype.name for y in outputs} == {layer.compute_dtype}
    answer = pullback(outputs)
    assert answer.inputs.dtype == inputs
    assert {w.dtype.name for w in answer.weights} == {weights}


def test_activity_losses_are_those_of_the_forward():
    layer = make("LSTM", activity_regularizer="l2")
    y, _ = layer.vjp(draw(N, T, D))
    np.testing.assert_allclose(layer.losses[0], 0.01 * np.sum(y**2) / N)


def test_the_backend_that_was_asked_for_runs():
    """The reference backend gives the gradients in ``use_backend``; the answer is the same, to rounding, without."""
    layer, x = make("LSTM", return_sequences=True), draw(N, T, D)
    answers = []
    for forced in (True, False):
        if forced:
            with selector.use_backend("reference"):
                y, pullback = layer.vjp(x, mask=MASK)
        else:
            y, pullback = layer.vjp(x, mask=MASK)
        answers.append(pullback(draw(*y.shape, seed=1)))
    for got, want in zip((answers[1].inputs, *answers[1].weights), (answers[0].inputs, *answers[0].weights), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


def test_a_sum_of_two_calls_adds_up():
    """The same layer twice in one loss: its gradients add up, as tapes belong to pullbacks and not to the layer."""
    layer = make("LSTM")
    a, b = draw(N, T, D), draw(N, T, D, seed=1)
    (y1, one), (y2, two) = layer.vjp(a), layer.vjp(b)
    dy = draw(*y1.shape, seed=2)
    got = two(dy).weights[0] + one(dy).weights[0]
    check(got, gradient(lambda: float(np.sum((layer(a) + layer(b)) * dy)), writable(layer.cell.kernel)), "kernel")
    assert y2.shape == y1.shape


class writable:
    """A variable as ``gradient`` wants it: reads and writes of single entries, each of which makes a new version."""

    def __init__(self, variable):
        self.variable, self.shape = variable, variable.shape

    def __getitem__(self, index):
        return float(self.variable[index])

    def __setitem__(self, index, value):
        self.variable[index] = value


# -- errors ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("dy", "words"),
    [
        (np.ones((N, U)), r"`dy`.*tuple of 3"),
        ((np.ones((N, U)),) * 2, r"`dy`.*tuple of 3"),
        ((np.ones((N, T, U)), None, None), r"`dy`.*\(2, 2\).*\(2, 4, 2\)"),
        ((None, None, np.ones((N, 1))), "`dy`"),
    ],
)
def test_a_wrong_cotangent_is_refused(dy, words):
    _, pullback = make("LSTM", return_state=True).vjp(draw(N, T, D))
    with pytest.raises(ValueError, match=words):
        pullback(dy)


@both
def test_a_wrong_call_is_refused_as_in_a_call(kind):
    layer, x = make(kind), draw(*SHAPES[kind])
    for wrong in (
        {"sequences": x[0]},
        {"sequences": x, "mask": MASK[:, :2]},
        {"sequences": x, "initial_state": [x, x]},
        {"sequences": x, "initial_state": [x[:, 0]]},
        {"sequences": x.tolist()},
    ):
        with pytest.raises((ValueError, IndexError)) as called:
            layer(**wrong)
        with pytest.raises(type(called.value)) as traced:
            layer.vjp(**wrong)
        assert str(traced.value) == str(called.value)


def test_use_cudnn_true_is_refused():
    with pytest.raises(ValueError, match="use_cudnn=True"):
        LSTM(2, use_cudnn=True).vjp(draw(N, T, D))


@pytest.mark.parametrize("role", ["activation", "recurrent_activation"])
def test_a_callers_own_activation_is_named(role):
    def wave(x):
        return np.sin(x)

    layer = make("LSTM", **{role: wave})
    with pytest.raises(NotImplementedError, match="wave"):
        layer.vjp(draw(N, T, D))
    assert all(np.isfinite(y).all() for y in flatten(layer(draw(N, T, D))))


OBJECTS = [
    layers.LeakyReLU(0.1, **F64),
    layers.ReLU(max_value=0.9, negative_slope=0.3, threshold=0.2, **F64),
    layers.ELU(0.5, **F64),
    layers.Softmax(**F64),
    layers.Activation("softsign", **F64),
]


@both
@pytest.mark.parametrize("role", ["activation", "recurrent_activation"])
@pytest.mark.parametrize("activation", OBJECTS, ids=lambda layer: type(layer).__name__)
def test_layers_as_activations(kind, role, activation):
    layer = make(kind, return_sequences=True, **{role: activation})
    check_layer(layer, draw(*SHAPES[kind]), mask=MASK)
    check_layer(filled(Bidirectional(layer, **F64), SHAPES[kind]), draw(*SHAPES[kind]))


def test_a_layer_with_weights_as_activation_is_named():
    layer = make("LSTM", activation=layers.PReLU(**F64))
    layer(draw(N, T, D))
    with pytest.raises(NotImplementedError, match="PReLU"):
        layer.vjp(draw(N, T, D))


def test_threshold_needs_its_arguments():
    with pytest.raises(TypeError, match="threshold"):
        make("LSTM", activation=fastlstm.activations.threshold).vjp(draw(N, T, D))
