"""Writes the recordings of examples/speakers.npz as the raw numbers that examples/c/speakers.c reads. Needs NumPy alone.

Usage: python speakers_data.py OUT. A 32-bit count, then for each recording its floats and its speaker as a 32-bit number.
"""

import sys
from pathlib import Path

import numpy as np


def main(to: str) -> None:
    with np.load(Path(__file__).parent.parent / "speakers.npz") as data:
        x, y = data["x"], data["y"]
    rows = np.empty(len(x), [("x", np.float32, x[0].size), ("y", np.int32)])
    rows["x"], rows["y"] = x.reshape(len(x), -1), y
    Path(to).write_bytes(np.int32(len(x)).tobytes() + rows.tobytes())


if __name__ == "__main__":
    main(sys.argv[1])
