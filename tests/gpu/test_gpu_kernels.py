"""Every kernel of the GPU backend, run on this processor, against the NumPy reference in float64.

Both orders of threads, both float types, all three ways through the steps, tile remainders, masks, dropout masks, activations,
geometries.
"""

from __future__ import annotations

import itertools

import fake_cupy
import numpy as np
import pytest
import shim
from gpu_runs import check, conv_spec, lstm_spec, on_device, problem
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from fastlstm import activations
from fastlstm.backends import gpu, reference
from fastlstm.backends.cpu import ACTIVATION_NUMBERS
from fastlstm.backends.gpu import kernels, plans, structs

MODES = list(itertools.product([False, True], repeat=3))
# What a device must have or lack, or a spec say, so that a layer takes each way.
WAYS = {
    "persistent": ({"MultiProcessorCount": 16}, {}),
    "direct": ({"CooperativeLaunch": 0, "MultiProcessorCount": 132}, {}),
    "general": ({}, {"use_cudnn": False}),
}
KERNELS = {"persistent": "sequence_", "direct": "streamed_", "general": "cell_forward"}
ELEMENTWISE = [name for name in ACTIVATION_NUMBERS if activations.is_elementwise(activations.get(name))]
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def flags_of(mode):
    return dict(zip(("return_sequences", "go_backwards", "zero_output_for_mask"), mode, strict=True))


@pytest.fixture(params=WAYS)
def way(request, limits):
    """Name of a way through the steps and the flags of a spec that takes it on the device that is set up."""
    limits |= WAYS[request.param][0]
    yield request.param, WAYS[request.param][1]
    ran = {name for name in fake_cupy.launches if name.startswith(tuple(KERNELS.values())) and "back" not in name}
    assert ran
    assert all(name.startswith(KERNELS[request.param]) for name in ran)
    assert ("cell_backward" in fake_cupy.launches) == (request.param != "persistent")


def test_structs_have_the_sizes_of_the_compiler(cupy):
    for bits in (32, 64):
        library = kernels._compiled(bits, None).library
        for name, dtype in structs.BY_NAME.items():
            assert library.size(name) == dtype.itemsize, name


# -- LSTM -----------------------------------------------------------------------------------------------------------------
@dtypes
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_lstm_with_every_combination_of_flags(order, way, dtype, mode):
    for bias, masked in itertools.product([False, True], repeat=2):
        spec = lstm_spec(6, **flags_of(mode), **way[1])
        check(spec, dtype, problem(spec, 3, 5, 4, masked=masked, bias=bias))


@dtypes
def test_lstm_with_every_remainder_of_tiles(order, way, dtype):
    sizes = [(1, 1), (1, 33), (2, 8), (3, 5), (7, 2), (8, 16), (9, 40), (17, 3), (33, 7), (40, 32)]
    for number, (count, units) in enumerate(sizes):
        spec = lstm_spec(units, **flags_of(MODES[number % 8]), **way[1])
        check(spec, dtype, problem(spec, count, 3, 1 + 11 * (number % 4), masked=number % 2 == 0))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_lstm_with_every_activation_at_both_places(way, cupy, name):
    for both in ((name, "sigmoid"), ("tanh", name)):
        spec = lstm_spec(5, *both, return_sequences=True, **way[1])
        given = problem(spec, 3, 1 if name == "exponential" else 3, 4, masked=True)
        check(spec, "float64", given._replace(weights=[0.3 * w for w in given.weights]))


@dtypes
@pytest.mark.parametrize("dropout", [(1, 0), (4, 0), (0, 4), (4, 4), (1, 4)], ids=str)
def test_lstm_with_dropout_masks(cupy, limits, dtype, dropout):
    for properties, flags in WAYS.values():
        limits.clear()
        limits |= properties
        fake_cupy.launches.clear()
        spec = lstm_spec(6, return_sequences=True, go_backwards=True, **flags)
        check(spec, dtype, problem(spec, 3, 4, 5, masked=True, dropout=dropout))
        ran = {name for name in fake_cupy.launches if name.startswith(tuple(KERNELS.values())) and "back" not in name}
        assert ran == {"cell_forward"} or not dropout[1]


@settings(max_examples=25, deadline=None)
@drawn(
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 6), st.integers(1, 40), st.integers(1, 40)),
    mode=st.sampled_from(MODES),
    options=st.tuples(st.booleans(), st.booleans(), st.sampled_from(["float32", "float64"]), st.sampled_from(list(WAYS))),
    seed=st.integers(0, 100),
)
def test_lstm_of_any_size(sizes, mode, options, seed):
    masked, bias, dtype, name = options
    properties, flags = WAYS[name]
    with fake_cupy.installed(), fake_cupy.with_limits(properties):
        spec = lstm_spec(sizes[3], **flags_of(mode), **flags)
        check(spec, dtype, problem(spec, *sizes[:3], masked=masked, bias=bias, seed=seed))


# -- ConvLSTM1D -----------------------------------------------------------------------------------------------------------
GEOMETRIES = [(1, 1), (2, 1), (3, 1), (1, 2), (1, 3)]  # strides and dilation


@dtypes
@pytest.mark.parametrize("taps", range(1, 7))
def test_convlstm1d_with_every_geometry(order, way, dtype, taps):
    for number, (padding, (strides, dilation)) in enumerate(itertools.product(["same", "valid"], GEOMETRIES)):
        options = {"strides": strides, "dilation_rate": dilation, "padding": padding, "channels_first": number % 3 == 2}
        spec = conv_spec(5, taps, return_sequences=number % 2 == 0, **options, **way[1])
        check(spec, dtype, problem(spec, 2, 3, 3, rows=(taps - 1) * dilation + 1 + number % 4, masked=True))


@dtypes
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_convlstm1d_with_every_combination_of_flags(cupy, way, dtype, mode):
    for bias, masked in itertools.product([False, True], repeat=2):
        spec = conv_spec(6, 3, padding="same", **flags_of(mode), **way[1])
        check(spec, dtype, problem(spec, 3, 4, 2, rows=5, masked=masked, bias=bias))


@dtypes
def test_convlstm1d_with_every_remainder_of_tiles(order, way, dtype):
    """Filters beyond one tile of 32, channels beyond one slice of 32, rows beyond one tile."""
    for number, (rows, channels, filters) in enumerate(
        [(1, 1, 1), (33, 2, 9), (40, 33, 7), (5, 65, 33), (70, 3, 40), (9, 32, 32)]
    ):
        taps, strides = 1 + (number + 2) % 5, 1 + number % 2
        spec = conv_spec(filters, taps, padding="same", strides=strides, **flags_of(MODES[number]), **way[1])
        check(spec, dtype, problem(spec, 2, 2, channels, rows=rows, masked=number % 2 == 0))


@dtypes
@pytest.mark.parametrize("dropout", [(4, 0), (0, 4), (4, 4)], ids=str)
@pytest.mark.parametrize("first", [False, True], ids=["channels_last", "channels_first"])
def test_convlstm1d_with_dropout_masks(cupy, dtype, dropout, first):
    spec = conv_spec(4, 3, padding="same", strides=2, return_sequences=True, channels_first=first)
    check(spec, dtype, problem(spec, 2, 3, 3, masked=True, dropout=dropout))


@settings(max_examples=25, deadline=None)
@drawn(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 40), st.integers(1, 40), st.integers(1, 5)),
    extra=st.integers(0, 40),
    geometry=st.tuples(st.sampled_from(GEOMETRIES), st.sampled_from(["same", "valid"]), st.booleans()),
    mode=st.sampled_from(MODES),
    options=st.tuples(st.booleans(), st.booleans(), st.sampled_from(["float32", "float64"]), st.sampled_from(list(WAYS))),
)
def test_convlstm1d_of_any_size(sizes, extra, geometry, mode, options):
    count, steps, channels, filters, taps = sizes
    (strides, dilation), padding, first = geometry
    masked, bias, dtype, name = options
    properties, more = WAYS[name]
    flags = {"strides": strides, "dilation_rate": dilation, "padding": padding, "channels_first": first, **flags_of(mode)}
    with fake_cupy.installed(), fake_cupy.with_limits(properties):
        spec = conv_spec(filters, taps, **flags, **more)
        rows = (taps - 1) * dilation + 1 + extra
        check(spec, dtype, problem(spec, count, steps, channels, rows=rows, masked=masked, bias=bias))


def test_taps_that_reach_far(cupy, way):
    spec = conv_spec(3, 2, padding="same", dilation_rate=1500, **way[1])
    check(spec, "float64", problem(spec, 1, 2, 2, rows=2000))


def test_each_instance_is_compiled_alone(cupy):
    """The source of one has no other; together they have all; and it runs."""
    plain, every = (shim.KERNEL.findall(kernels.source(32, only)) for only in ("", None))
    assert {"activate", "cell_forward", "cell_backward", "gather_windows"} < set(plain)
    instances = [name for name in every if name not in plain]
    assert {"sequence_rows", "streamed_back_taps5"} < set(instances)
    assert all(shim.KERNEL.findall(kernels.source(32, name)) == [name] for name in instances)
    kernels.apart = True
    spec = lstm_spec(5, return_sequences=True)
    check(spec, "float32", problem(spec, 2, 3, 4))


# -- numbers --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", WAYS)
def test_16_bit_storage_is_rounded_at_every_step(cupy, limits, storage, name):
    """h, c and y have at most 16 bits, and are those of the reference up to a rare rounding the other way."""
    pytest.importorskip("ml_dtypes")
    limits |= WAYS[name][0]
    spec = lstm_spec(9, return_sequences=True, storage=storage, **WAYS[name][1])
    weights, *arrays = problem(spec, 4, 6, 5, masked=True)[:5]
    want = reference.lstm_forward(spec, reference.prepare([w.astype("f4") for w in weights]), *[_single(a) for a in arrays])
    got = gpu.lstm_forward(spec, gpu.prepare(on_device(weights, "float32")), *[on_device(a, "float32") for a in arrays])
    step = 2.0 ** (-10 if storage == "float16" else -7)
    for a, b in zip(got, want, strict=True):
        values = a.get()
        np.testing.assert_array_equal(values, reference._round(spec, values))
        np.testing.assert_allclose(values, b, rtol=4 * step, atol=4 * step)


def _single(a):
    return a if a is None or a.dtype == bool else a.astype(np.float32)


@pytest.mark.parametrize("name", WAYS)
def test_nan_at_masked_steps_reaches_nothing(cupy, limits, name):
    limits |= WAYS[name][0]
    spec = lstm_spec(6, return_sequences=True, **WAYS[name][1])
    clean = problem(spec, 4, 5, 3, masked=True)
    spoilt = clean.x.copy()
    spoilt[~clean.mask] = np.nan
    check(spec, "float64", clean._replace(x=spoilt))
    conv = conv_spec(4, 3, padding="same", return_sequences=True, **WAYS[name][1])
    clean = problem(conv, 4, 5, 3, masked=True)
    spoilt = clean.x.copy()
    spoilt[~clean.mask] = np.nan
    check(conv, "float64", clean._replace(x=spoilt))


@pytest.mark.parametrize("name", WAYS)
def test_nan_stays_in_its_sample(cupy, limits, name):
    limits |= WAYS[name][0]
    spec = lstm_spec(7, return_sequences=True, **WAYS[name][1])
    weights, x, h, c, *_ = problem(spec, 9, 4, 5)
    spoilt = x.copy()
    spoilt[4, 1] = np.nan
    prepared = gpu.prepare(on_device(weights, "float32"))
    clean, other = (gpu.lstm_forward(spec, prepared, *(on_device(a, "float32") for a in (one, h, c))) for one in (x, spoilt))
    others = np.arange(9) != 4
    for a, b in zip(clean, other, strict=True):
        np.testing.assert_array_equal(a.get()[others], b.get()[others])
        assert np.isnan(b.get()[4]).any()


@dtypes
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_activate(order, dtype, name):
    x = np.concatenate([np.linspace(-9, 9, 301), [0.0, -0.0, np.nan, 1e30, -1e30]]).astype(dtype)
    got = gpu.activate(activations.get(name), on_device(x, dtype)).get()
    want = activations.get(name)(x.astype(np.float64))
    np.testing.assert_allclose(got, want, rtol=2e-6 if dtype == "float32" else 1e-14, atol=1e-6 if dtype == "float32" else 1e-14)


def test_activations_over_an_axis_run_on_the_device(cupy):
    for both in (("softmax", "sigmoid"), ("tanh", "log_softmax"), ("sparsemax", "sigmoid")):
        spec = lstm_spec(5, *both, return_sequences=True)
        assert gpu.kernel_for(spec, np.empty((2, 3, 4)))[0] == "stepwise"
        check(spec, "float64", problem(spec, 2, 2, 4, masked=True))
    spec = conv_spec(4, 3, "softmax", padding="same", channels_first=True)
    check(spec, "float64", problem(spec, 2, 3, 2, masked=True))
    assert not any(name.startswith(tuple(KERNELS.values())) for name in fake_cupy.launches)


def test_empty_batch_and_no_features(cupy):
    spec = lstm_spec(3, return_sequences=True)
    check(spec, "float32", problem(spec, 0, 4, 5))
    check(spec, "float32", problem(spec, 2, 4, 0))


# -- refusals -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "change", "error"),
    [
        ("x", lambda a: a[..., :3], ValueError),
        ("x", lambda a: a[:, :0], ValueError),
        ("x", lambda a: a[0], ValueError),
        ("x", lambda a: a.astype(np.float64), ValueError),
        ("x", lambda a: a.astype(np.float16), TypeError),
        ("x", lambda a: a.get(), TypeError),
        ("h", lambda a: a[:1], ValueError),
        ("c", lambda a: a[:, :4], ValueError),
        ("c", lambda a: a.astype(np.float64), ValueError),
        ("mask", lambda a: a[:1], ValueError),
        ("mask", lambda a: a.astype(np.int32), ValueError),
    ],
)
def test_arrays_that_do_not_fit_are_refused(cupy, name, change, error):
    """Everything that memory safety depends on."""
    spec = lstm_spec(5)
    weights, x, h, c, mask, *_ = problem(spec, 2, 3, 4, masked=True)
    arrays = {key: on_device(value, "float32") for key, value in {"x": x, "h": h, "c": c, "mask": mask}.items()}
    prepared = gpu.prepare(on_device(weights, "float32"))
    gpu.lstm_forward(spec, prepared, **arrays)
    with pytest.raises(error, match=f"`{name}`"):
        gpu.lstm_forward(spec, prepared, **arrays | {name: change(arrays[name])})


def test_weights_that_do_not_belong_together_are_refused(cupy):
    kernel, recurrent, bias = on_device(problem(lstm_spec(5), 1, 1, 4).weights, "float32")
    for bad in ((kernel[:, :16], recurrent, bias), (kernel, recurrent, bias[:19]), (kernel.astype(np.float64), recurrent, bias)):
        with pytest.raises(ValueError, match="does not belong"):
            gpu.prepare(bad)
    with pytest.raises(TypeError, match="must be a CuPy array"):
        gpu.prepare((kernel, recurrent.get(), bias))
    with pytest.raises(ValueError, match="recurrent_kernel must have shape"):
        gpu.lstm_forward(
            lstm_spec(7),
            gpu.prepare((kernel, recurrent, bias)),
            *(on_device(a, "float32") for a in problem(lstm_spec(7), 1, 1, 4)[1:4]),
        )


# -- plans ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["persistent", "direct"])
def test_results_of_a_repeated_call_are_the_callers_own(cupy, limits, name):
    """A plan's arrays are used again; what an earlier call returned stays as it was."""
    limits |= WAYS[name][0]
    spec = lstm_spec(5, return_sequences=True)
    given = [problem(spec, 3, 4, 2, masked=True, seed=seed) for seed in range(2)]
    prepared = gpu.prepare(on_device(given[0].weights, "float32"))
    arrays = [on_device([one.x, one.h, one.c, one.mask], "float32") for one in given]
    first = gpu.lstm_forward(spec, prepared, *arrays[0])
    kept = [a.get().copy() for a in first]
    second = gpu.lstm_forward(spec, prepared, *arrays[1])
    assert len(prepared.plans) == 1
    for a, b, old in zip(first, second, kept, strict=True):
        np.testing.assert_array_equal(a.get(), old)
        assert not np.array_equal(b.get(), old)


def test_few_plans_are_kept_and_none_of_large_calls(cupy, limits, monkeypatch):
    limits |= WAYS["persistent"][0]
    spec = lstm_spec(3)
    prepared = gpu.prepare(on_device(problem(spec, 1, 1, 2).weights, "float32"))

    def call(count):
        gpu.lstm_forward(spec, prepared, *on_device(list(problem(spec, count, 2, 2)[1:4]), "float32"))

    for count in range(1, 12):
        call(count)
    assert len(prepared.plans) == plans.KEPT
    monkeypatch.setattr(plans, "KEPT_BYTES", 100)
    call(20)
    assert all(key[1].samples != 20 for key in prepared.plans)
