"""Runs the vector functions of the compiled module on every instruction set, each in a process of its own.

``INPUTS`` goes in, ``results(isa)`` comes out, both arrays by name. Used by test_vmath and test_vmath_rows.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

# In the order of enum fl_activation.
NAMES = (
    "linear tanh sigmoid relu relu6 leaky_relu elu selu celu exponential gelu hard_sigmoid silu hard_silu hard_tanh tanh_shrink "
    "hard_shrink soft_shrink softplus softsign squareplus sparse_plus sparse_sigmoid log_sigmoid mish"
).split()
SOFTMAX, LOG_SOFTMAX, SPARSEMAX = range(len(NAMES), len(NAMES) + 3)
FLOAT16, BFLOAT16 = 1, 2
DTYPES = ("f4", "f8")
TINY = {"f4": 2.0**-126, "f8": 2.0**-1022}  # the smallest normal numbers
RANGE = {"f4": 90.0, "f8": 720.0}

# Computes for the arrays of an .npz, under the names that the tests ask for. argv: input, output.
WORKER = """
import sys
import numpy as np
from fastlstm import _core

data, out = np.load(sys.argv[1]), {}
for key in data.files:
    kind, dtype = key.split("_")[:2]
    x = data[key]
    if kind == "points":
        for number in range(25):
            y = out[f"value_{dtype}_{number}"] = _core.activate(number, x)
            out[f"slope_{dtype}_{number}"] = _core.activate_grad(number, x, y)
    elif kind == "dense":
        for number in (1, 2, 9):
            out[f"dense_{dtype}_{number}"] = _core.activate(number, x)
    elif kind == "row":
        for number in (25, 26, 27):
            out[f"{key}_{number}"] = _core.activate(number, x[None])[0]
    elif kind == "tail":
        for number in range(25):
            out[f"tail_{dtype}_{number}"] = np.stack([np.r_[_core.activate(number, x[:n]), 0 * x[n:]] for n in range(len(x) + 1)])
    elif kind == "storage":
        for rounding in (0, 1, 2):
            out[f"storage_{dtype}_{rounding}"] = _core.round_storage(rounding, x)
out["isa"] = np.array(_core.isa)
np.savez(sys.argv[2], **out)
"""


# -- what goes in ---------------------------------------------------------------------------------------------------------
def points(dtype):
    rng = np.random.default_rng(7)
    wide = rng.uniform(-RANGE[dtype], RANGE[dtype], 150)
    small = 10.0 ** rng.uniform(-20, 0.5, 200) * rng.choice([-1, 1], 200)
    return np.concatenate([rng.normal(0, 1, 300), rng.normal(0, 6, 300), wide, small, [0.0, 1e4, -1e4]]).astype(dtype)


SPECIAL = np.array([np.nan, -np.inf, np.inf])
KINKS = np.array([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, 6.0])


RUN = 20000


def dense():
    """A four-thousandth of all float32 numbers, and runs of neighbours where the roundings are least lucky, of both signs."""
    every = np.arange(0, 2**32, 4099, dtype=np.uint64).astype(np.uint32).view("f4")
    starts = (3.4e-4, 0.062, 0.12535, 0.5187, 3.95, 8.11, 16.63, 87.0)
    near = np.concatenate([np.float32(x).view("u4") + np.arange(RUN, dtype="u4") for x in starts]).view("f4")
    return np.concatenate([every, near, -near])


ROWS = {
    "ordinary": lambda rng, n: rng.normal(0, 3, n),
    "narrow": lambda rng, n: rng.normal(0, 0.02, n),
    "wide": lambda rng, n: rng.normal(0, 1000, n),
    "equal": lambda rng, n: np.full(n, 7.5),
    "cascade": lambda rng, n: -(2.0 ** -np.arange(n) % 1),
}
LENGTHS = (1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 100, 1000)
ODD_ROWS = {
    "nan": [1, np.nan, 2],
    "infinity": [np.inf, 1, 2],
    "nothing": [-np.inf] * 20,
    "some": [*[-np.inf] * 20, 3, 3],
}


def storage():
    """Every float16, the numbers halfway between two of them and their neighbours, and random bits."""
    half = np.arange(2**16, dtype="u4").astype("u2").view("f2").astype("f4")
    half = np.sort(half[np.isfinite(half)])
    middle = (half[1:] + half[:-1]) / 2
    bits = np.random.default_rng(3).integers(0, 2**32, 200000, dtype="u4").view("f4")
    edge = np.array([65519.996, 65520, 65536, 3.4e38, 1e-45, 2.0**-25, 2.0**-24, np.inf, np.nan, 0], "f4")
    beside = [np.nextafter(middle, np.float32(s)) for s in (np.inf, -np.inf)]
    return np.concatenate([half, middle, *beside, bits, edge, -edge])


def inputs():
    rng = np.random.default_rng(11)
    result = {"dense_f4": dense(), "storage_f4": storage(), "storage_f8": rng.normal(0, 1, 10)}
    for dtype in DTYPES:
        result[f"points_{dtype}"] = np.concatenate([points(dtype), SPECIAL, KINKS]).astype(dtype)
        result[f"tail_{dtype}"] = points(dtype)[:35]
        for name, row in ROWS.items():
            for n in LENGTHS:
                result[f"row_{dtype}_{name}_{n}"] = row(rng, n).astype(dtype)
        for name, row in ODD_ROWS.items():
            result[f"row_{dtype}_{name}"] = np.array(row, dtype)
    return result


INPUTS = inputs()


@functools.cache
def results(isa):
    """What that instruction set made of INPUTS: names as in WORKER, and which ``isa`` really ran."""
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "in.npz"), Path(folder, "out.npz")
        np.savez(given, **INPUTS)
        command = [sys.executable, "-c", WORKER, str(given), str(made)]
        subprocess.run(command, check=True, timeout=300, env={**os.environ, "FASTLSTM_ISA": isa})
        with np.load(made) as data:
            return dict(data)
