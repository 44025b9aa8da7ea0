"""TorchLSTM and ProjectedLSTM: outputs against PyTorch's formulas in float64, gradients against differences, masks, layouts."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from central_differences import check_layer
from torch_formulas import CLOSE, FLOAT32, D, N, T, U, one_direction, random_state, run

import fastlstm
from fastlstm import LSTM, Bidirectional, TorchLSTM, selector
from fastlstm.layers import ProjectedLSTM


@pytest.fixture(params=["reference", "cpu"], autouse=True)
def backend(request):
    with selector.use_backend(request.param):
        yield request.param


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


X = draw(N, T, D)
OPTIONS = [
    {"layers": layers, "directions": directions, "proj": proj, "bias": bias}
    for layers in (1, 2, 3)
    for directions in (1, 2)
    for proj, bias in ((0, True), (2, False), (3, True))
]
FLAGS = {"return_sequences": True, "return_state": True}


def states(options, count=N, seed=3):
    kinds = options["layers"] * options["directions"]
    return draw(kinds, count, options["proj"] or U, seed=seed), draw(kinds, count, U, seed=seed + 1)


# -- outputs -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("lengths", [None, [5, 1, 3]], ids=["whole", "lengths"])
def test_against_the_formulas(options, lengths):
    state, start = random_state(D, U, **options), states(options)
    layer = LSTM.from_torch(state, **FLAGS, state_layout="torch")
    assert type(layer) is TorchLSTM
    for given in (None, start):
        expected = run(state, X, *(given or ()), lengths=lengths)
        for got, want in zip(layer(X, given, lengths=lengths), expected, strict=True):
            assert got.dtype == np.float64
            np.testing.assert_allclose(got, want, **CLOSE)
        recorded, _ = layer.vjp(X, given, lengths=lengths)
        for got, want in zip(recorded, expected, strict=True):
            np.testing.assert_allclose(got, want, **CLOSE)


@pytest.mark.parametrize("options", OPTIONS[::4], ids=str)
def test_float32(options):
    state, start = random_state(D, U, **options), states(options)
    layer = LSTM.from_torch({name: array.astype("f4") for name, array in state.items()}, **FLAGS, state_layout="torch")
    for got, want in zip(layer(X, start), run(state, X, *start), strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, **FLOAT32)


@pytest.mark.parametrize("options", OPTIONS[1::3], ids=str)
def test_layouts_of_states(options):
    state, (h, c) = random_state(D, U, **options), states(options)
    flat = [part[k] for k in range(len(h)) for part in (h, c)]
    torch = LSTM.from_torch(state, **FLAGS, state_layout="torch")
    y, h_n, c_n = torch(X, (h, c))
    layer = LSTM.from_torch(state, **FLAGS)
    for given in (flat, [h, c], (h, c)):
        ours, *finals = layer(X, given)
        np.testing.assert_array_equal(ours, y)
        np.testing.assert_array_equal(np.stack(finals[::2]), h_n)
        np.testing.assert_array_equal(np.stack(finals[1::2]), c_n)
    for got, want in zip(torch(X, flat), (y, h_n, c_n), strict=True):
        np.testing.assert_array_equal(got, want)
    shapes = [(None if size == N else size, *rest) for size, *rest in [a.shape for a in (ours, *finals)]]
    assert [tuple(shape) for shape in layer.compute_output_shape((None, T, D))] == shapes
    assert [tuple(shape) for shape in torch.compute_output_shape((N, T, D))] == [a.shape for a in (y, h_n, c_n)]


def test_in_pieces_through_the_states():
    """A sequence in two calls, the states handed on, gives what one call gives."""
    for options in OPTIONS:
        if options["directions"] == 1:
            layer = LSTM.from_torch(random_state(D, U, **options), **FLAGS, state_layout="torch")
            y, h, c = layer(X)
            one, *kept = layer(X[:, :2])
            two, *ends = layer(X[:, 2:], kept)
            np.testing.assert_allclose(np.concatenate([one, two], axis=1), y, **CLOSE)
            np.testing.assert_allclose(ends[0], h, **CLOSE)
            np.testing.assert_allclose(ends[1], c, **CLOSE)


@pytest.mark.parametrize("options", OPTIONS[::5], ids=str)
def test_time_first(options):
    state, start = random_state(D, U, **options), states(options)
    layer = LSTM.from_torch(state, **FLAGS, batch_first=False, state_layout="torch")
    y, h_n, c_n = run(state, X, *start, lengths=[5, 1, 3])
    for outputs in (layer(X.swapaxes(0, 1), start, lengths=[5, 1, 3]), layer.vjp(X.swapaxes(0, 1), start, lengths=[5, 1, 3])[0]):
        for got, want in zip(outputs, (y.swapaxes(0, 1), h_n, c_n), strict=True):
            np.testing.assert_allclose(got, want, **CLOSE)
    assert tuple(layer.compute_output_shape((T, None, D))[0]) == (T, None, y.shape[2])
    last = LSTM.from_torch(state, batch_first=False)
    assert last.compute_output_shape((T, N, D)) == last(X.swapaxes(0, 1)).shape == (N, y.shape[2])


def test_the_last_output_of_each_direction():
    """As Keras' Bidirectional has it: the backward one is that of the first step. With lengths: of the last step that counts."""
    for options in OPTIONS:
        state = random_state(D, U, **options)
        for lengths in (None, [5, 1, 3]):
            _, h_n, _ = run(state, X, lengths=lengths)
            expected = np.concatenate(list(h_n[-options["directions"] :]), axis=-1)
            np.testing.assert_allclose(LSTM.from_torch(state)(X, lengths=lengths), expected, **CLOSE)


def test_a_mask_is_what_lengths_say():
    layer = LSTM.from_torch(random_state(D, U, layers=2, directions=2), **FLAGS)
    mask = np.arange(T) < np.array([[5], [1], [3]])
    for got, want in zip(layer(X, mask=mask), layer(X, lengths=[5, 1, 3]), strict=True):
        np.testing.assert_array_equal(got, want)
    assert layer.compute_mask(X, mask)[0] is mask
    assert layer.compute_mask(X, mask)[1:] == [None] * 8


def test_numbers_behind_the_end_do_not_count():
    for options in OPTIONS[::3]:
        layer = LSTM.from_torch(random_state(D, U, **options), **FLAGS)
        spoiled = X.copy()
        spoiled[1, 1:] = np.nan
        for got, want in zip(layer(spoiled, lengths=[5, 1, 3]), layer(X, lengths=[5, 1, 3]), strict=True):
            np.testing.assert_array_equal(got, want)


def test_sequences_of_no_steps():
    """A length of 0, which PyTorch refuses: outputs 0, and the states stay as they are."""
    for options in OPTIONS:
        start = states(options)
        layer = LSTM.from_torch(random_state(D, U, **options), **FLAGS, state_layout="torch")
        y, h, c = layer(X, start, lengths=[5, 0, 3])
        assert not y[1].any()
        np.testing.assert_array_equal(h[:, 1], start[0][:, 1])
        np.testing.assert_array_equal(c[:, 1], start[1][:, 1])


@pytest.mark.parametrize("given", [[1], [draw(N, U)], [draw(N, U)] * 3, (draw(3, N, U), draw(3, N, U)), draw(2, N, U), "hc"])
def test_bad_states(given):
    layer = LSTM.from_torch(random_state(D, U, layers=2), **FLAGS)
    with pytest.raises(ValueError, match="The argument `initial_state`"):
        layer(X, given)


def test_bad_arguments():
    for options in (
        {"units": 0},
        {"units": 2, "num_layers": 0},
        {"units": 2, "num_layers": 1001},
        {"units": 2, "proj_size": 2.5},
    ):
        with pytest.raises(ValueError, match="Received"):
            TorchLSTM(**options)
    with pytest.raises(ValueError, match="state_layout"):
        TorchLSTM(2, state_layout="onnx")
    with pytest.raises(ValueError, match="smaller than `units`"):
        TorchLSTM(2, proj_size=2)
    with pytest.raises(ValueError, match="must be float32 or float64"):
        ProjectedLSTM(3, 2, dtype="float16")
    with pytest.raises(ValueError, match="expected ndim=3"):
        TorchLSTM(2)(np.zeros((2, 3)))
    layer = LSTM.from_torch(random_state(D, U, proj=2))
    with pytest.raises(ValueError, match="to have value 3"):
        layer(draw(N, T, 4))
    with pytest.raises(ValueError, match="has no time steps"):
        layer(draw(N, 0, 3))
    with pytest.raises(ValueError, match=r"must hold h of shape \(3, 2\)"):
        layer(X, [draw(N, 3), draw(N, U)])


# -- gradients ---------------------------------------------------------------------------------------------------------
def prepared(options, **flags):
    return LSTM.from_torch(random_state(2, 3, **{**options, "proj": min(options["proj"], 2)}), **flags)


@pytest.mark.parametrize("options", OPTIONS[:12], ids=str)
def test_gradients(options):
    layer = prepared(options, **FLAGS)
    kinds, size = options["layers"] * options["directions"], min(options["proj"], 2) or 3
    start = [draw(2, width, seed=k) for k in range(kinds) for width in (size, 3)]
    check_layer(layer, draw(2, 3, 2), lengths=np.array([3, 2]), initial_state=start)


@pytest.mark.parametrize("options", OPTIONS[1:12:4], ids=str)
@pytest.mark.parametrize("flags", [{}, {"return_sequences": True}, {"return_state": True}], ids=str)
def test_gradients_without_states(options, flags):
    check_layer(prepared(options, **flags), draw(2, 3, 2))


@pytest.mark.parametrize("options", OPTIONS[4::5], ids=str)
def test_gradients_in_the_layout_of_pytorch(options):
    layer = prepared(options, **FLAGS, state_layout="torch", batch_first=False)
    kinds, size = options["layers"] * options["directions"], min(options["proj"], 2) or 3
    start = (draw(kinds, 2, size), draw(kinds, 2, 3))
    check_layer(layer, draw(3, 2, 2), initial_state=start, lengths=np.array([1, 3]))


MASKS = {"left": [[0, 1, 1, 1], [0, 0, 0, 1]], "holes": [[1, 0, 0, 1], [0, 1, 0, 1]], "none": [[0, 0, 0, 0], [1, 1, 1, 0]]}


def projected(**flags):
    layer = ProjectedLSTM(3, 2, dtype="float64", **flags)
    layer.build((None, None, 2))
    layer.set_weights([draw(*v.shape, seed=9) * 0.6 for v in layer.weights])
    return layer


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("zero", [False, True])
def test_projections_and_masks(mask, backwards, zero):
    """Steps that do not count are as if they were not there; their outputs are 0, or what came before them."""
    layer = projected(**FLAGS, go_backwards=backwards, zero_output_for_mask=zero)
    x, valid, (h, c) = draw(2, 4, 2), np.array(MASKS[mask], bool), (draw(2, 2), draw(2, 3))
    y, h_n, c_n = layer(x, [h, c], valid)
    kernel, recurrent, bias, projection = layer.get_weights()
    weights = (kernel.T, recurrent.T, bias, np.zeros_like(bias), projection.T)
    for n in range(2):
        steps = x[n, valid[n]]
        out, last_h, last_c = one_direction(steps, weights, h[n], c[n], backwards)
        np.testing.assert_allclose(h_n[n], last_h, **CLOSE)
        np.testing.assert_allclose(c_n[n], last_c, **CLOSE)
        counted, before = iter(out[::-1] if backwards else out), np.zeros(2)
        for t, counts in enumerate(valid[n, ::-1] if backwards else valid[n]):
            before = next(counted) if counts else (np.zeros(2) if zero else before)
            np.testing.assert_allclose(y[n, t], before, **CLOSE)
    check_layer(layer, x, initial_state=[h, c], mask=valid)
    check_layer(projected(go_backwards=backwards, zero_output_for_mask=zero), x, mask=valid)


def test_one_state_for_all_samples():
    layer = projected(**FLAGS)
    x, start = draw(3, 4, 2), [draw(1, 2), draw(1, 3)]
    for got, want in zip(layer(x, start), layer(x, [np.repeat(s, 3, axis=0) for s in start]), strict=True):
        np.testing.assert_array_equal(got, want)
    check_layer(layer, x, initial_state=start)


def test_new_weights_count_at_once():
    layer, x, start = projected(), draw(2, 4, 2), [draw(2, 2), draw(2, 3)]
    before = layer(x), layer(x, start)
    _, pullback = layer.vjp(x, start)
    kept = pullback(np.ones((2, 2)))
    layer.recurrent_kernel.assign(layer.recurrent_kernel.value * 2)
    fresh = projected()
    fresh.set_weights(layer.get_weights())
    for now, new, old in zip((layer(x), layer(x, start)), (fresh(x), fresh(x, start)), before, strict=True):
        np.testing.assert_array_equal(now, new)
        assert np.abs(now - old).max() > 1e-3
    np.testing.assert_array_equal(pullback(np.ones((2, 2))).inputs, kept.inputs)
    layer.return_sequences = True
    assert layer(x).shape == (2, 4, 2)


def test_frozen_layers():
    layer = LSTM.from_torch(random_state(D, U, layers=2, directions=2, proj=2), trainable=False)
    y, pullback = layer.vjp(X)
    assert pullback(np.ones_like(y)).weights == [None] * 16
    assert layer.trainable_weights == []
    assert len(layer.weights) == 16


# -- as a layer --------------------------------------------------------------------------------------------------------
def test_layers_of_keras():
    for options in OPTIONS:
        layer = LSTM.from_torch(random_state(D, U, **options), return_sequences=True, state_layout="torch")
        if options["proj"]:
            with pytest.raises(ValueError, match="no layer for the projection"):
                layer.as_layers()
            continue
        stack = layer.as_layers()
        assert {type(one) for one in stack} == {Bidirectional if options["directions"] == 2 else LSTM}
        assert len(stack) == options["layers"]
        np.testing.assert_allclose(fastlstm.Sequential(stack)(X), layer(X), **CLOSE)
    with pytest.raises(ValueError, match="has no weights yet"):
        TorchLSTM(2).as_layers()


def test_config():
    layer = LSTM.from_torch(random_state(D, U, layers=2, directions=2, proj=3), return_state=True, name="speech")
    again = TorchLSTM.from_config(layer.get_config())
    again.build((None, None, D))
    again.set_weights(layer.get_weights())
    assert again.get_config() == layer.get_config()
    for got, want in zip(again(X), layer(X), strict=True):
        np.testing.assert_array_equal(got, want)
    assert [v.path for v in again.weights][:2] == ["speech/l0/forward_l0/kernel", "speech/l0/forward_l0/recurrent_kernel"]


def test_in_a_model(tmp_path):
    """A Sequential counts its weights, trains them, and a .keras file holds them (for fastlstm; Keras has no such layer)."""
    pytest.importorskip("h5py", reason="writing .keras files needs h5py")
    for options in ({"layers": 2, "directions": 2, "proj": 2}, {"layers": 3}):
        layer = LSTM.from_torch(random_state(D, U, **options), return_sequences=True, state_layout="torch", dtype="float32")
        model = fastlstm.Sequential([fastlstm.Input((None, D)), fastlstm.Masking(), layer, fastlstm.Dense(1)])
        told = []
        model.summary(print_fn=lambda line, told=told: told.append(str(line)))
        shape = f"(None, None, {layer.compute_output_shape((None, None, D))[2]})"
        assert any(f"{layer.name} (TorchLSTM)" in line and shape in line for line in "\n".join(told).split("\n"))
        x = X.astype("f4")
        x[1, 2:] = 0
        y = model(x)
        np.testing.assert_array_equal(y, model.layers[-1](layer(x, lengths=[5, 2, 5])))
        model.save(tmp_path / "m.keras")
        np.testing.assert_array_equal(fastlstm.load_model(tmp_path / "m.keras")(x), y)
        before = copy.deepcopy(layer.get_weights())
        model.compile("sgd", "mse")
        model.fit(x, np.ones_like(y), epochs=1, verbose=0)
        assert all((one != other).any() for one, other in zip(before, layer.get_weights(), strict=True))


def test_symbolic():
    layer = LSTM.from_torch(random_state(D, U, layers=2), **FLAGS)
    x = fastlstm.Input((T, D), dtype="float64")
    y, *finals = layer(x)
    assert (y.shape, len(finals)) == ((None, T, U), 4)
    model = fastlstm.Model(x, [y, *finals])
    for got, want in zip(model(X), layer(X), strict=True):
        np.testing.assert_allclose(got, want, **CLOSE)
    with pytest.raises(ValueError, match="Among symbolic tensors"):
        layer(x, lengths=[1])
