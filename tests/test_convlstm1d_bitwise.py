"""ConvLSTM1D on packed panels: a sequence has the same bits alone, in any batch, in any chunks, on every path and by every call.

The file runs once more in a process of its own for every other instruction set of this machine; the last part compares them.
"""

from __future__ import annotations

import functools
import io
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from children import finished
from convlstm_formulas import made
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bitwise import ACTIVATIONS, GENERIC, assert_same_bits

from fastlstm import _core, activations
from fastlstm.backends import cpu

CHILD = "FASTLSTM_TEST_CONVLSTM1D_BITWISE_CHILD"
GEOMETRIES = [{}, {"strides": 2}, {"strides": 3}, {"dilation_rate": 2}, {"dilation_rate": 3}]


class Problem:
    """A layer with random weights, and a random batch for it: ``x``, ``states``, ``mask``."""

    def __init__(self, size, geometry, padding, data_format, dtype, pair, flags, seed, mask=None):
        batch, steps, rows, channels, filters, taps = size
        use_bias, backwards, zero, sequences = flags
        rng = np.random.default_rng(seed)

        def draw(*shape, scale=1.0):
            return (scale * rng.standard_normal(shape)).astype(dtype)

        rows += (taps - 1) * geometry.get("dilation_rate", 1)
        scale = 0.8 / np.sqrt(taps * max(channels, filters))
        shapes = (taps, channels, 4 * filters), (taps, filters, 4 * filters)
        self.weights = [*(draw(*shape, scale=scale) for shape in shapes), draw(4 * filters)][: 2 + use_bias]
        kwargs = {"activation": pair[0], "recurrent_activation": pair[1], "dtype": dtype, "return_sequences": sequences}
        kwargs |= {"go_backwards": backwards, "zero_output_for_mask": zero, "padding": padding, "data_format": data_format}
        self.layer = made(self.weights, rows=rows, return_state=True, recurrent_initializer="zeros", **kwargs, **geometry)
        self.backwards, first = backwards, data_format == "channels_first"
        self.x = draw(batch, steps, *((channels, rows) if first else (rows, channels)))
        self.states = [draw(*self.layer.cell.state_shape(batch)) for _ in "hc"]
        self.mask = None if mask is None else rng.random((batch, steps)) < mask
        self.rng = rng

    def run(self, rows=slice(None), times=slice(None), states=None):
        """(output, h, c) of some samples and times."""
        states = states or [s[rows].copy() for s in self.states]
        mask = None if self.mask is None else self.mask[rows, times].copy()
        return self.layer(self.x[rows, times].copy(), states, mask)

    def compiled(self, path):
        """(output, h, c) of a path by name; channels last, float32 or float64."""
        spec = self.layer.spec
        numbers = [cpu.ACTIVATION_NUMBERS[name] for name in spec.activation_names()]
        flags = spec.go_backwards, spec.return_sequences, spec.zero_output_for_mask, False
        rows = tuple(spec.rows(self.x.shape[2])[1:])
        return _core.convlstm1d_forward(
            cpu.prepare(self.weights), self.x, *self.states, self.mask, rows, *numbers, 0, *flags, path
        )


problems = st.tuples(
    st.tuples(*[st.integers(1, n) for n in (9, 6, 14, 12)], st.one_of(st.integers(1, 8), st.integers(1, 40)), st.integers(1, 6)),
    st.sampled_from(GEOMETRIES),
    st.sampled_from(["same", "valid"]),
    st.sampled_from(["channels_last", "channels_first"]),
    st.sampled_from(["float32", "float64", "float16"]),
    st.one_of(st.just(("tanh", "sigmoid")), st.tuples(*[st.sampled_from(ACTIVATIONS)] * 2)),
    st.tuples(*[st.booleans()] * 4),
    st.integers(0, 1000),
    st.sampled_from([None, 0.0, 0.3, 0.7, 1.0]),
)
few_examples = settings(max_examples=30 if CHILD in os.environ else 100)

pytestmark = pytest.mark.usefixtures("packed_panels_throughout")


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
def test_bad_numbers_stay_in_their_sample(arguments, bad):
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


# -- paths and ways of calling ------------------------------------------------------------------------------------------------
@few_examples
@given(arguments=problems)
def test_the_general_kernel_on_panels_has_the_bits_of_the_fused_one(arguments):
    problem = Problem(*arguments)
    fused = problem.run()
    if problem.layer.dtype != "float16" and problem.layer.data_format == "channels_last":
        assert_same_bits(problem.compiled("fused"), fused)
        assert_same_bits(problem.compiled("packed"), fused)


@few_examples
@given(arguments=problems)
def test_channels_first_has_the_bits_of_channels_last(arguments):
    problem = Problem(*arguments)
    layer = problem.layer
    other = {"channels_last": "channels_first", "channels_first": "channels_last"}[layer.data_format]
    twin = type(layer).from_config({**layer.get_config(), "data_format": other})
    x, states = problem.x.swapaxes(2, 3), [s.swapaxes(1, 2) for s in problem.states]
    twin.build(x.shape)
    twin.set_weights(layer.get_weights())
    assert_same_bits([np.ascontiguousarray(a.swapaxes(-1, -2)) for a in twin(x, states, problem.mask)], problem.run())


@few_examples
@given(arguments=problems)
def test_every_way_of_calling(arguments):
    problem = Problem(*arguments)
    layer, x, states, mask = problem.layer, problem.x, problem.states, problem.mask
    first = layer(x, states, mask)  # the long way, which makes the plan
    out = np.full_like(first[0], np.nan)
    assert_same_bits(layer(x, states, mask), first)
    assert_same_bits(layer(x, states, mask, out=out), first)
    assert_same_bits(out, first[0])
    wide = np.zeros((*x.shape[:3], 3 * x.shape[3]), x.dtype)
    wide[..., ::3] = x
    for array in (x, *states):
        array.flags.writeable = False
    swapped = x.astype(x.dtype.newbyteorder())
    numbers = None if mask is None else mask[..., None].astype(np.int8)
    for same in (wide[..., ::3], np.asfortranarray(x), swapped, x):
        assert_same_bits(layer(same, tuple(np.asfortranarray(s) for s in states), numbers), first)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "sparsemax"])
@pytest.mark.parametrize("filters", [1, 5, 16, 33])
def test_activations_over_the_filters(name, filters, dtype):
    for pair in ((name, "sigmoid"), ("tanh", name)):
        size = (9, 4, 6, 3, filters, 3)
        problem = Problem(size, {}, "same", "channels_last", dtype, pair, (True, False, False, True), 5, 0.7)
        whole = problem.compiled("packed")
        x, states, mask = problem.x, problem.states, problem.mask
        for rows in ([4], [0, 8], [8, 2, 1, 5, 6]):
            problem.x, problem.states, problem.mask = x[rows], [s[rows] for s in states], mask[rows]
            assert_same_bits(problem.compiled("packed"), [a[rows] for a in whole])


# -- instruction sets ---------------------------------------------------------------------------------------------------------
def fixed_results():
    """{name: array} of fixed random cases, for every activation at both places, on the fused and the general path."""
    results = {}
    sizes = [(1, 4, 7, 3, 17, 3), (4, 3, 12, 5, 33, 2), (3, 3, 9, 1, 5, 5)]
    for number, (dtype, size) in enumerate(itertools.product(["float32", "float64"], sizes)):
        for name in cpu.ACTIVATION_NUMBERS:
            for pair in ((name, "sigmoid"), ("tanh", name)):
                flags = (True, False, False, True)
                problem = Problem(size, GEOMETRIES[number % 5], "same", "channels_last", dtype, pair, flags, number, 0.8)
                paths = ["fused", "packed"] if activations.is_elementwise(activations.get(name)) else ["packed"]
                for path in paths:
                    results[f"{dtype} {pair} {path} {size}"] = np.concatenate([a.ravel() for a in problem.compiled(path)])
    return results


def child(code, isa, **variables):
    kept = {k: v for k, v in os.environ.items() if k not in ("FASTLSTM_ISA", "FASTLSTM_GEMM")}
    environment = kept | {"FASTLSTM_ISA": isa, "FASTLSTM_GEMM": "packed", "PYTHONPATH": os.pathsep.join(sys.path)} | variables
    return subprocess.run([sys.executable, *code], env=environment, capture_output=True, timeout=300, check=False)


@functools.cache
def results_on(isa):
    code = "import io, sys, numpy, test_convlstm1d_bitwise as t; f = io.BytesIO(); numpy.savez(f, **t.fixed_results())"
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
    assert len(narrow) > 300
    assert [name for name in narrow if narrow[name].tobytes() != wide[name].tobytes()] == []


@only_outside
def test_generic_differs_by_rounding_alone():
    widest = _core.isa_available()[-1]
    if widest == "generic":
        pytest.skip("this machine has no other instruction set than generic")
    plain, fused = results_on("generic"), results_on(widest)
    worst = dict.fromkeys(GENERIC, 0.0)
    for name, values in plain.items():
        if "'sigmoid') " not in name or "exponential" in name or "log_softmax" in name:
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
