"""What tests/c/valgrind.sh runs: each kernel of the extension once, forward and backward, with arrays of exactly their size."""

import numpy as np

import fastlstm


def main() -> None:
    rng = np.random.default_rng(0)
    for dtype in ("float32", "float64"):
        for units, count, steps in ((3, 1, 4), (9, 5, 3), (17, 1, 30), (33, 4, 2), (4, 20, 3)):
            layer = fastlstm.LSTM(units, return_sequences=True, dtype=dtype)
            x = rng.normal(size=(count, steps, 5)).astype(dtype)
            y, pullback = layer.vjp(x, mask=rng.random((count, steps)) < 0.8)
            assert np.isfinite(pullback(y).inputs).all()
            assert np.isfinite(layer(x)).all()
        for padding, strides in (("valid", 1), ("same", 2)):
            layer = fastlstm.ConvLSTM1D(5, 3, padding=padding, strides=strides, return_sequences=True, dtype=dtype)
            y, pullback = layer.vjp(rng.normal(size=(2, 3, 9, 2)).astype(dtype))
            assert np.isfinite(pullback(y).inputs).all()
        dense = fastlstm.Dense(7, "softmax", dtype=dtype)
        assert np.allclose(dense(rng.normal(size=(11, 6)).astype(dtype)).sum(axis=1), 1)
    print("ran each kernel once on", fastlstm.config()["isa"])


if __name__ == "__main__":
    main()
