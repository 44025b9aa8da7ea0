"""The memory of a ConvLSTM1D's call beside input and output: a workspace for one step, whatever the number of steps.

Each case runs in a process of its own, which reads its highest resident size before and after one call.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Not getrusage: on Linux its figure begins at the resident size of the process that started this one.
STATUS = Path("/proc/self/status")
if not STATUS.exists() or "VmHWM" not in STATUS.read_text():
    pytest.skip("the highest resident size of a process is read from /proc/self/status, VmHWM", allow_module_level=True)

# Written once, so that all pages are there before the call; the warm-up makes plan, panels and a workspace for this batch.
CODE = """
import json, sys
import numpy as np
from fastlstm import ConvLSTM1D

steps, options, mask = int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3] == "True"
N, R, C, F, K = 2, 64, 8, 16, 3
layer = ConvLSTM1D(F, K, **options)
first = layer.data_format == "channels_first"
x = np.empty((N, steps, C, R) if first else (N, steps, R, C), np.float32)
x[...] = 0.5
valid = np.arange(steps) % 3 > np.zeros((N, 1)) if mask else None
layer(x[:, :2].copy(), mask=None if valid is None else valid[:, :2].copy())
shape = layer.compute_output_shape(x.shape)
out = np.empty(shape, np.float32)
out[...] = 0
def highest():
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = highest()
result = layer(x, mask=valid, out=out)
after = highest()
assert result is out and np.isfinite(out).all() and out.any()
print(after - before, x.nbytes, out.nbytes)
"""
SHORT, LONG = 50, 4000


def growth(steps, options, mask=False):
    """Bytes by which the highest resident size grew in one call, and the sizes of input and output."""
    command = [sys.executable, "-c", CODE, str(steps), options, str(mask)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "FASTLSTM_GEMM": "packed"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [int(number) for number in done.stdout.split()]


@pytest.mark.parametrize(
    ("options", "mask"),
    [
        ({"padding": "same", "return_sequences": True}, False),
        ({"padding": "same", "return_sequences": True, "go_backwards": True}, True),
        ({"padding": "valid", "strides": 2, "return_sequences": True}, False),
        ({"padding": "same"}, False),
        ({"padding": "same", "data_format": "channels_first"}, False),
        ({"padding": "same", "return_sequences": True, "activation": "softmax"}, False),
    ],
    ids=str,
)
def test_the_workspace_does_not_grow_with_the_steps(options, mask):
    """N*(R+K)*(C+F) reals are 13 KB here: 1 MiB leaves room for pages that the allocator takes, and none for 4000 steps."""
    short, _, _ = growth(SHORT, json.dumps(options), mask)
    long, x_bytes, out_bytes = growth(LONG, json.dumps(options), mask)
    print(f"{options}: {short} bytes for {SHORT} steps, {long} for {LONG}; input {x_bytes}, output {out_bytes}")
    assert x_bytes > 15 * 1024**2
    assert max(short, long) <= 1024**2


def test_a_copy_of_the_input_would_be_seen():
    """The measure itself: channels first with return_sequences has no short way for ``out``, so the output exists twice."""
    grown, _, out_bytes = growth(LONG, json.dumps({"padding": "same", "data_format": "channels_first", "return_sequences": True}))
    assert grown >= 0.9 * out_bytes
