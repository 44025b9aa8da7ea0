"""On packed panels a sequence has the same bits in any company: alone, in any batch, in any chunks, by every path and call.

"Same bits" is meant literally, signs of zeros included; of a NaN, whose sign and payload depend on the order in which a compiler
names the operands of an addition, only that it is one. The file runs once more in a process of its own for every other
instruction set of this machine; the last part compares the instruction sets with each other.
"""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from children import finished
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lstm_formulas import made

from fastlstm import Dense, _core, activations
from fastlstm.backends import cpu

CHILD = "FASTLSTM_TEST_BITWISE_CHILD"
ACTIVATIONS = ["tanh", "sigmoid", "relu", "hard_sigmoid", "softplus", "elu", "gelu", "linear"]
# |a - b| / max(1, |b|) between a processor's multiply-adds and two roundings in their place.
GENERIC = {"float32": 2e-6, "float64": 5e-15}

pytestmark = pytest.mark.usefixtures("packed_panels_throughout")


def assert_same_bits(got, want):
    """Arrays (or tuples of them) of one dtype, shape and content, to the last bit."""
    got, want = (a if isinstance(a, (tuple, list)) else [a] for a in (got, want))
    for a, b in zip(got, want, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        a, b = (np.where(np.isnan(one), np.array(np.nan, one.dtype), one) for one in (a, b))
        if a.tobytes() != b.tobytes():
            np.testing.assert_array_equal(a, b)
            raise AssertionError(f"equal numbers of other bits: {a!r} and {b!r}")


class Problem:
    """A layer with random weights, and a random batch for it: ``x``, ``states``, ``mask``."""

    def __init__(self, size, dtype, pair, flags, seed, mask=None):
        batch, steps, features, units = size
        use_bias, backwards, zero, sequences = flags
        rng = np.random.default_rng(seed)

        def draw(*shape, scale=1.0):
            return (scale * rng.standard_normal(shape)).astype(dtype)

        scale = 0.8 / np.sqrt(max(features, units))
        weights = [draw(features, 4 * units, scale=scale), draw(units, 4 * units, scale=scale), draw(4 * units)]
        self.weights = weights[: 2 + use_bias]
        self.kwargs = {"activation": pair[0], "recurrent_activation": pair[1], "dtype": dtype}
        self.kwargs |= {"go_backwards": backwards, "zero_output_for_mask": zero, "return_sequences": sequences}
        self.layer = made(self.weights, return_state=True, recurrent_initializer="zeros", **self.kwargs)
        self.x, self.states, self.backwards = draw(batch, steps, features), [draw(batch, units) for _ in "hc"], backwards
        self.mask = None if mask is None else rng.random((batch, steps)) < mask
        self.rng = rng

    def run(self, rows=slice(None), times=slice(None), states=None):
        """(output, h, c) of some rows and times."""
        states = states or [s[rows].copy() for s in self.states]
        mask = None if self.mask is None else self.mask[rows, times].copy()
        return self.layer(self.x[rows, times].copy(), states, mask)


# Batches that take every path: projected ahead (1 to 3 samples), fused tiles, rows in the lanes (few units, many samples).
sizes = st.tuples(st.integers(1, 40), st.integers(1, 9), st.integers(1, 40), st.one_of(st.integers(1, 8), st.integers(1, 70)))
problems = st.tuples(
    sizes,
    st.sampled_from(["float32", "float64", "float16"]),
    st.one_of(st.just(("tanh", "sigmoid")), st.tuples(*[st.sampled_from(ACTIVATIONS)] * 2)),
    st.tuples(*[st.booleans()] * 4),
    st.integers(0, 1000),
    st.sampled_from([None, 0.0, 0.3, 0.7, 1.0]),
)
few_examples = settings(max_examples=50 if CHILD in os.environ else 150)


# -- batches ------------------------------------------------------------------------------------------------------------------
@few_examples
@given(arguments=problems)
def test_a_sequence_alone_in_parts_and_permutations_of_the_batch(arguments):
    problem = Problem(*arguments)
    whole, count = problem.run(), len(problem.x)
    order = problem.rng.permutation(count)
    assert_same_bits(problem.run(order), [a[order] for a in whole])
    for row in {0, count // 2, count - 1}:
        assert_same_bits(problem.run([row]), [a[[row]] for a in whole])
    cut = int(problem.rng.integers(count + 1))
    for rows in (slice(0, cut), slice(cut, count), slice(0, count, 2), np.repeat(order[:3], 5)):
        assert_same_bits(problem.run(rows), [a[rows] for a in whole])


@few_examples
@given(arguments=problems, bad=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_bad_numbers_stay_in_their_row(arguments, bad):
    problem = Problem(*arguments)
    whole, row = problem.run(), int(problem.rng.integers(len(problem.x)))
    others = np.arange(len(problem.x)) != row
    problem.x[row] = bad
    problem.states[0][row], problem.states[1][row] = bad, bad
    assert_same_bits([a[others] for a in problem.run()], [a[others] for a in whole])


@few_examples
@given(arguments=problems, bad=st.sampled_from([np.nan, np.inf, 1e4]))
def test_what_stands_at_a_masked_step_does_not_count(arguments, bad):
    problem = Problem(*arguments)
    if problem.mask is None:
        problem.mask = np.ones(problem.x.shape[:2], bool)
    whole = problem.run()
    problem.x[~problem.mask] = bad
    assert_same_bits(problem.run(), whole)


# -- chunks -------------------------------------------------------------------------------------------------------------------
@few_examples
@given(arguments=problems, data=st.data())
def test_chunks_through_the_states(arguments, data):
    """States are exact; so are outputs, but for masked steps before the first valid one of a chunk (they begin at zero)."""
    problem = Problem(*arguments)
    y, h, c = problem.run()
    steps = problem.x.shape[1]
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, steps - 1)) if steps > 1 else st.just(set()))), steps]
    chunks = [slice(*pair) for pair in itertools.pairwise(cuts)]
    states, outputs, known = problem.states, [], []
    for times in reversed(chunks) if problem.backwards else chunks:
        out, *states = problem.run(times=times, states=states)
        valid = np.ones((len(out), times.stop - times.start), bool) if problem.mask is None else problem.mask[:, times]
        outputs.append(out)
        known.append(np.logical_or.accumulate(valid[:, ::-1] if problem.backwards else valid, axis=1))
    assert_same_bits(states, (h, c))
    if problem.layer.return_sequences:
        restarted = ~np.concatenate(known, axis=1)
        joined = np.concatenate(outputs, axis=1)
        assert_same_bits(joined[~restarted], y[~restarted])
        assert not joined[restarted].any()
    else:
        exact = known[-1].any(axis=1)
        assert_same_bits(outputs[-1][exact], y[exact])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("batch", "steps", "features", "units"), [(1, 400, 8, 64), (3, 150, 40, 70), (20, 60, 5, 6)])
def test_long_sequences(batch, steps, features, units, dtype):
    """More steps than one block of projected inputs holds, against one step at a time, which projects nothing ahead."""
    problem = Problem((batch, steps, features, units), dtype, ("tanh", "sigmoid"), (True, False, False, True), 3)
    states, outputs = problem.states, []
    for t in range(steps):
        out, *states = problem.run(times=slice(t, t + 1), states=states)
        outputs.append(out)
    assert_same_bits((np.concatenate(outputs, axis=1), *states), problem.run())


# -- paths and ways of calling ------------------------------------------------------------------------------------------------
def compiled(path, weights, x, states, mask, pair, flags):
    numbers = [cpu.ACTIVATION_NUMBERS[name] for name in pair]
    backwards, sequences, zero = flags
    prepared, (h, c) = cpu.prepare(weights), states
    return _core.lstm_forward(prepared, x, h, c, mask, numbers[0], numbers[1], 0, backwards, sequences, zero, path)


@few_examples
@given(arguments=problems)
def test_the_general_kernel_on_panels_has_the_bits_of_the_fused_one(arguments):
    problem = Problem(*arguments)
    config = problem.kwargs
    assume(config["dtype"] != "float16")
    flags = [config[name] for name in ("go_backwards", "return_sequences", "zero_output_for_mask")]
    pair = config["activation"], config["recurrent_activation"]
    given = problem.weights, problem.x, problem.states, problem.mask, pair, flags
    fused = compiled("fused", *given)
    assert_same_bits(compiled("packed", *given), fused)
    assert_same_bits(problem.run(), fused)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "sparsemax"])
@pytest.mark.parametrize("units", [1, 5, 16, 33, 70])
def test_activations_over_an_axis(name, units, dtype):
    problem = Problem((9, 4, 6, units), dtype, (name, "sigmoid"), (True, False, False, True), 5)
    mask = problem.rng.random((9, 4)) < 0.7
    for pair in ((name, "sigmoid"), ("tanh", name)):
        whole = compiled("packed", problem.weights, problem.x, problem.states, mask, pair, (False, True, False))
        for rows in ([4], [0, 8], [8, 2, 1, 5, 6]):
            states = [s[rows] for s in problem.states]
            part = compiled("packed", problem.weights, problem.x[rows], states, mask[rows], pair, (False, True, False))
            assert_same_bits(part, [a[rows] for a in whole])


@few_examples
@given(arguments=problems)
def test_every_way_of_calling(arguments):
    problem = Problem(*arguments)
    layer, x, states, mask = problem.layer, problem.x, problem.states, problem.mask
    layer._plan = None
    first = layer(x, states, mask)  # the long way, which makes the plan
    out = np.full_like(first[0], np.nan)
    assert_same_bits(layer(x, states, mask), first)
    assert_same_bits(layer(x, states, mask, out=out), first)
    assert_same_bits(out, first[0])
    wide = np.zeros((*x.shape[:2], 3 * x.shape[2]), x.dtype)
    wide[..., ::3] = x
    for array in (x, *states):
        array.flags.writeable = False
    swapped = x.astype(x.dtype.newbyteorder())
    numbers = None if mask is None else mask[..., None].astype(np.int8)
    for same in (wide[..., ::3], np.asfortranarray(x), swapped, x):
        assert_same_bits(layer(same, tuple(np.asfortranarray(s) for s in states), numbers), first)
    twin = type(layer).from_config(layer.get_config())
    twin.build(x.shape)
    twin.set_weights(layer.get_weights())
    assert_same_bits(twin(x, states, mask), first)


# -- Dense ----------------------------------------------------------------------------------------------------------------------
@few_examples
@given(
    st.tuples(st.integers(1, 300), st.integers(1, 70), st.integers(1, 140)),
    st.sampled_from(["float32", "float64", "float16"]),
    st.sampled_from(["linear", "relu", "tanh"]),
    st.booleans(),
    st.integers(0, 100),
)
def test_rows_of_dense(size, dtype, activation, use_bias, seed):
    rows, features, units = size
    layer = Dense(units, activation, use_bias=use_bias, bias_initializer="random_normal", dtype=dtype)
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, features)).astype(dtype)
    whole = layer(x)
    order = rng.permutation(rows)
    for part in ([rows // 2], slice(0, rows, 3), slice(rows // 3, rows), order):
        assert_same_bits(layer(x[part]), whole[part])
    x[order[0]] = np.nan
    assert_same_bits(layer(x)[order[1:]], whole[order[1:]])
    assert_same_bits(layer(x[:, None])[order[1:], 0], whole[order[1:]])


# -- the floating-point environment -----------------------------------------------------------------------------------------
TINY = np.full(64, 1e-40, np.float32)


def subnormals_count():
    """True where NumPy's arithmetic neither reads subnormals as zero nor flushes its results to zero."""
    products = TINY * np.ones(64, np.float32), np.full(64, 1e-20, np.float32) * np.full(64, 1e-20, np.float32)
    return all(product.all() for product in products) and np.float32(1e-40) * np.float32(1) != 0


def calls():
    """Every kind of call into the compiled kernels, those that raise among them."""
    x = np.full((20, 3, 4), 1e-40, np.float32)
    weights = [np.ones((4, 12), np.float32), np.ones((3, 12), np.float32)]
    for batch in (1, 2, 20):
        for kwargs in ({}, {"use_cudnn": False}, {"recurrent_activation": "softmax"}, {"dtype": "mixed_float16"}):
            layer = made(weights, **kwargs)
            for _ in range(2):
                yield lambda layer=layer, batch=batch: layer(x[:batch])
    layer, dense = made(weights), Dense(5)
    yield lambda: dense(x)
    for wrong in (lambda: layer(x[..., :2]), lambda: layer(x, [x, x]), lambda: layer(x, out=x), lambda: layer(x, mask=x[:3])):
        yield lambda wrong=wrong: refused(wrong)


def refused(call):
    with pytest.raises(ValueError, match=r"shape|axis|out"):
        call()


def check_environment():
    assert subnormals_count()
    for call in calls():
        call()
        assert subnormals_count()


def test_a_call_leaves_subnormal_arithmetic_as_it_was():
    check_environment()


def test_threads_leave_subnormal_arithmetic_as_it_was():
    passed = []
    threads = [threading.Thread(target=lambda: passed.append(check_environment())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(passed) == 4
    assert subnormals_count()


def test_subnormals_are_zero_inside_a_call():
    weights = [np.ones((4, 4), np.float32), np.ones((1, 4), np.float32)]
    layer = made(weights, activation="linear", recurrent_activation="linear")
    h, c = np.zeros((2, 20, 1), np.float32)
    for batch in (1, 20):
        x = np.full((batch, 1, 4), 1e-40, np.float32)
        c[...] = 1e-40
        assert not made(weights, return_state=True)(x, [h[:batch], c[:batch]])[2].any()
        assert not layer(x).any()


# -- instruction sets ---------------------------------------------------------------------------------------------------------
def fixed_results():
    """{name: array} of fixed random cases, for every activation at both places, on the fused and the general path."""
    rng, results = np.random.default_rng(0), {}
    sizes = [(1, 5, 7, 17), (4, 3, 5, 33), (7, 4, 9, 64), (33, 3, 3, 5)]
    for dtype, (batch, steps, features, units) in itertools.product(["float32", "float64"], sizes):
        shapes = [(features, 4 * units), (units, 4 * units), (4 * units,)]
        weights = [(0.3 * rng.standard_normal(shape)).astype(dtype) for shape in shapes]
        x, states = rng.standard_normal((batch, steps, features)).astype(dtype), np.zeros((2, batch, units), dtype)
        mask = rng.random((batch, steps)) < 0.8
        for name in cpu.ACTIVATION_NUMBERS:
            pairs = [(name, "sigmoid"), ("tanh", name)]
            paths = ["fused", "packed"] if activations.is_elementwise(activations.get(name)) else ["packed"]
            for pair, path in itertools.product(pairs, paths):
                y, h, c = compiled(path, weights, x, states, mask, pair, (False, True, False))
                results[f"{dtype} {pair} {path} {batch}"] = np.concatenate([a.ravel() for a in (y, h, c)])
        matrix = _core.PackedMatrix(weights[0], weights[2])
        results[f"{dtype} affine {batch}"] = matrix.affine(x.reshape(-1, features))
    return results


def child(code, isa, **variables):
    kept = {k: v for k, v in os.environ.items() if k not in ("FASTLSTM_ISA", "FASTLSTM_GEMM")}
    environment = kept | {"FASTLSTM_ISA": isa, "FASTLSTM_GEMM": "packed", "PYTHONPATH": os.pathsep.join(sys.path)} | variables
    return subprocess.run([sys.executable, *code], env=environment, capture_output=True, timeout=300, check=False)


def results_on(isa):
    code = "import io, sys, numpy, test_bitwise as t; f = io.BytesIO(); numpy.savez(f, **t.fixed_results())"
    done = child(["-W", "ignore", "-c", f"{code}; sys.stdout.buffer.write(f.getvalue())"], isa)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    with np.load(io.BytesIO(done.stdout)) as arrays:
        return dict(arrays)


only_outside = pytest.mark.skipif(CHILD in os.environ, reason="this is one of the processes that the test starts")


@only_outside
def test_avx2_and_avx512_give_the_same_bits():
    missing = {"avx2", "avx512"} - set(_core.isa_available())
    if missing:
        pytest.skip(f"this machine lacks {', '.join(sorted(missing))}")
    narrow, wide = results_on("avx2"), results_on("avx512")
    assert len(narrow) > 400
    assert [name for name in narrow if narrow[name].tobytes() != wide[name].tobytes()] == []


@only_outside
def test_generic_differs_by_rounding_alone():
    widest = _core.isa_available()[-1]
    if widest == "generic":
        pytest.skip("this machine has no other instruction set than generic")
    plain, fused = results_on("generic"), results_on(widest)
    worst = dict.fromkeys(GENERIC, 0.0)
    for name, values in plain.items():
        if ("'sigmoid') " not in name and "affine" not in name) or "exponential" in name or "log_softmax" in name:
            continue  # gates beyond 1, and states that are exponentials or logarithms, let errors grow from step to step
        dtype = name.split()[0]
        error = np.abs(values - fused[name]) / np.maximum(1, np.abs(fused[name]))
        worst[dtype] = max(worst[dtype], error.max())
        assert error.max() < GENERIC[dtype], (name, error.max())
    print(f"generic and {widest} differ by at most {worst}")


@only_outside
@pytest.mark.parametrize("isa", [isa for isa in _core.isa_available() if isa != _core.isa])
def test_this_file_on(isa, request):
    done = finished(request, lambda isa: child(["-m", "pytest", "-q", "-p", "no:cacheprovider", __file__], isa, **{CHILD: "1"}))
    text = done.stdout.decode()
    print(f"{isa}: {(text.strip().splitlines() or ['no output'])[-1]}")
    assert done.returncode == 0, text[-4000:]
    assert " passed" in text
