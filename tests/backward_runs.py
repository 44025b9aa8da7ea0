"""Problems for the compiled backward passes, and their float64 truth: the reference backend's backward.

That one has its own truth in test_reference_backward. Used by test_backward.py and test_backward_layers.py.
"""

from __future__ import annotations

import numpy as np

from fastlstm import _core, activations
from fastlstm.backends import cpu, cpu_training, reference
from fastlstm.spec import ConvLSTM1DSpec, RecurrentSpec

# Largest |a - b| / max(1, |b|) to float64.
TOLERANCES = {"float32": 1e-4, "float64": 1e-11}
OUTPUTS = ("y", "h", "c")
GRADIENTS = ("dx", "dh0", "dc0", "dkernel", "drecurrent_kernel", "dbias")
ELEMENTWISE = [name for name in cpu.ACTIVATION_NUMBERS if activations.is_elementwise(activations.get(name))]
LANES = {"avx512": (16, 8), "avx2": (8, 4)}.get(_core.isa, (4, 2))  # of float32 and of float64
BLOCK_ROWS = 256  # rows of dz in one block of time steps; also the depth of one pass of the weight gradients
FLAGS = [
    {"return_sequences": s, "go_backwards": b, "zero_output_for_mask": z}
    for s in (True, False)
    for b in (False, True)
    for z in (False, True)
]


def widths(*sizes):
    """``sizes``, a function of the lanes W each, for both float types: sorted, each once."""
    return sorted({size(lanes) for size in sizes for lanes in LANES} - {0})


UNITS = widths(lambda w: 1, lambda w: w - 1, lambda w: w, lambda w: w + 1, lambda w: 2 * w + 1)
CHANNELS = widths(lambda w: 1, lambda w: 3, lambda w: w, lambda w: 2 * w, lambda w: 2 * w + 1, lambda w: 5 * w)


def drawer(*seed):
    """``draw(shape, scale)``: normal numbers that float32 holds exactly, as float64."""
    rng = np.random.default_rng(seed)
    return lambda shape, scale=1.0: (rng.standard_normal(shape) * scale).astype(np.float32).astype(np.float64)


def lstm_spec(units, activation="tanh", recurrent_activation="sigmoid", **flags):
    functions = activations.get(activation), activations.get(recurrent_activation)
    return RecurrentSpec(units, *functions, storage="float64", **flags)


def conv_spec(filters, taps, activation="tanh", recurrent_activation="sigmoid", **options):
    functions = activations.get(activation), activations.get(recurrent_activation)
    return ConvLSTM1DSpec(filters, *functions, storage="float64", kernel_size=taps, **options)


def lstm_arrays(units, count, steps, features, bias=True, seed=0, scale=1.0):
    """(weights, x, h, c) of values that float32 holds exactly; weights small enough that errors do not grow."""
    draw = drawer(seed, units, count, steps, features)
    weights = [draw((features, 4 * units), scale * max(features, 1) ** -0.5), draw((units, 4 * units), 0.7 * scale * units**-0.5)]
    weights += [draw((4 * units,), scale)] if bias else []
    return weights, draw((count, steps, features)), draw((count, units), scale), draw((count, units), scale)


def conv_arrays(spec, count, steps, rows, channels, bias=True, seed=0, scale=1.0):
    taps, filters = spec.kernel_size, spec.units
    draw = drawer(seed, filters, count, steps, rows, channels, taps)
    weights = [draw((taps, channels, 4 * filters), scale * (taps * channels) ** -0.5)]
    weights += [draw((taps, filters, 4 * filters), 0.7 * scale * (taps * filters) ** -0.5)]
    weights += [draw((4 * filters,), scale)] if bias else []
    state = (count, spec.rows(rows).rows_out, filters)
    x, h, c = draw((count, steps, rows, channels)), draw(state, scale), draw(state, scale)
    if spec.channels_first:
        x, h, c = (np.ascontiguousarray(a.swapaxes(-1, -2)) for a in (x, h, c))
    return weights, x, h, c


def random_mask(count, steps, seed=0):
    return np.random.default_rng([seed, count, steps]).random((count, steps)) < 0.6


def dropout_masks(arrays, inputs, recurrent, seed=0):
    """DropoutMasks with that many (0, 1 or 4) of the inputs and of h."""
    rng = np.random.default_rng([seed, inputs, recurrent])
    shapes = [arrays[1][:, 0].shape] * inputs, [arrays[2].shape] * recurrent
    return reference.DropoutMasks(*[[rng.choice([0.0, 1.25], shape, p=[0.2, 0.8]) for shape in of] for of in shapes])


class Runner:
    """One recorded forward of a backend in one float type; calling it runs the backward: (dx, dh0, dc0, dkernel, …), flat."""

    def __init__(self, backend, spec, arrays, mask=None, dtype="float64", dropout=None):
        weights, *rest = arrays
        self.verb = "convlstm1d" if isinstance(spec, ConvLSTM1DSpec) else "lstm"
        self.backend, self.spec, self.dtype = backend, spec, dtype
        if dropout is not None:
            dropout = reference.DropoutMasks(*[[scale.astype(dtype) for scale in scales] for scales in dropout])
        self.weights = backend.prepare([w.astype(dtype) for w in weights])
        forward = getattr(backend, f"{self.verb}_forward")
        *self.outputs, self.tape = forward(spec, self.weights, *(a.astype(dtype) for a in rest), mask, dropout, record=True)

    def __call__(self, *cotangents):
        given = [None if a is None else a.astype(self.dtype) for a in cotangents]
        *states, weights = getattr(self.backend, f"{self.verb}_backward")(self.spec, self.weights, self.tape, *given)
        return [*states, *weights]


def cotangents_for(outputs, present="yhc", seed=0):
    """[dy, dh, dc], None where ``present`` does not name it."""
    draw = drawer(seed, 77)
    return [draw(a.shape) if name in present else None for name, a in zip("yhc", outputs, strict=True)]


def compare(got, want, dtype, names):
    """Every array of the shape and float type it should have, and within the tolerance."""
    assert len(got) == len(want)
    for name, a, b in zip(names, got, want, strict=False):
        assert a.shape == b.shape, f"{name}: {a.shape}, expected {b.shape}"
        assert a.dtype == dtype, f"{name}: {a.dtype}"
        assert np.isfinite(b).all(), f"{name}: the reference has {b[~np.isfinite(b)]}"
        error = (np.abs(a - b) / np.maximum(1, np.abs(b))).max(initial=0)
        assert error <= TOLERANCES[dtype], f"{name} {dtype}: off by {error:.2e}"


def check(spec, arrays, mask=None, dropout=None, present="yhc"):
    """The compiled backward in both float types against the reference in float64; returns that."""
    truth = Runner(reference, spec, arrays, mask, dropout=dropout)
    cotangents = cotangents_for(truth.outputs, present)
    want = truth(*cotangents)
    for dtype in TOLERANCES:
        ran = Runner(cpu, spec, arrays, mask, dtype, dropout)
        assert isinstance(ran.tape, cpu_training.CpuTape)  # not the NumPy tape of what cannot be compiled
        compare(ran.outputs, truth.outputs, dtype, OUTPUTS)
        compare(ran(*cotangents), want, dtype, GRADIENTS)
    return want
