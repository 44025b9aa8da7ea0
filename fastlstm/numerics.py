"""Small numeric helpers in NumPy terms: which dtype to compute in, and erf / erfc without SciPy.

Used by ``activations``, ``regularizers`` and ``constraints``.

The coefficients below are Chebyshev series made with mpmath at 60 digits: the function is interpolated in n Chebyshev
nodes u_k = cos(pi (k+1/2)/n), c_j = 2/n * sum_k f(u_k) cos(pi j (k+1/2)/n), c_0 halved, and the series is cut where its
terms fall below 1e-16 of the sum (n is large enough that the interpolation error is below that too).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import settings
from .devices import as_array

# (1 + 2x) exp(x^2) erfc(x) on [0, inf), in u = (x - 3) / (x + 3); n = 48
_TAIL = (
    1.17756257419656,
    0.005353904539615676,
    -0.09377550342284209,
    0.05436652555744322,
    -0.018976596707845208,
    0.004453426061462712,
    -0.0006335531710553147,
    1.7661719523171593e-05,
    1.2841532864056671e-05,
    -2.0072285659059913e-06,
    -1.807522790414837e-07,
    7.549828343825093e-08,
    1.885668523838603e-09,
    -2.699519049798364e-09,
    -1.460079119939105e-11,
    1.0361607445969489e-10,
    1.475715976623473e-12,
    -4.277340064396911e-12,
    -2.07922492859799e-13,
    1.8134502003176963e-13,
    1.973425574544739e-14,
    -7.287943737592673e-15,
    -1.5169878690228116e-15,
    2.3514112258781403e-16,
    1.0006111691821667e-16,
)

# erf(x) / x for |x| <= 1, in u = 2 x^2 - 1; n = 30
_CENTRE = (
    0.9754769393826541,
    -0.14226120510371365,
    0.010035582187599796,
    -0.0005768764699767485,
    2.741993125219606e-05,
    -1.1043175507344507e-06,
    3.8488755420345036e-08,
    -1.1808582533875466e-09,
    3.2334215826050907e-11,
    -7.991015947004549e-13,
    1.7990725113961456e-14,
    -3.718635487818693e-16,
    7.103599003714253e-18,
)


def as_real(x: Any) -> tuple[np.ndarray, np.dtype]:
    """``x`` as an array in the dtype to compute in, and the dtype that a result shall have.

    float64 stays float64 and float32 stays float32; float16 and bfloat16 are computed in float32 and go back to 16 bits;
    integers and bool become float32; Python scalars and lists become ``settings.floatx()``. TypeError for anything
    that is not a real number.
    """
    if hasattr(x, "dtype"):
        x = as_array(x)
        result = x.dtype.newbyteorder("=")
    else:
        x = np.asarray(x)
        result = np.dtype("float32" if settings.floatx() == "bfloat16" else settings.floatx())
    if x.dtype.kind not in "fiub" and x.dtype.name != "bfloat16":
        raise TypeError(f"Expected an array of real numbers. Received: dtype={x.dtype}, shape={x.shape}")
    if x.dtype.kind in "iub" and result == x.dtype:
        result = np.dtype(np.float32)
    compute = np.dtype(np.float64 if result.itemsize >= 8 else np.float32)
    return x.astype(compute, copy=False), (compute if result.itemsize > 8 else result)


def _chebyshev(coefficients: tuple[float, ...], u: np.ndarray) -> np.ndarray:
    """Sum of c_j T_j(u) by Clenshaw's recurrence."""
    twice, b1, b2 = 2.0 * u, np.zeros_like(u), np.zeros_like(u)
    for c in coefficients[:0:-1]:
        b1, b2 = twice * b1 - b2 + c, b1
    return u * b1 - b2 + coefficients[0]


def _erfc_positive(x: np.ndarray) -> np.ndarray:
    """erfc for float64 x >= 0 (NaN stays NaN)."""
    x = np.minimum(x, 30.0)  # erfc is 0 in float64 from 27.3 on; keeps infinity out of the quotient
    head = np.trunc(x * 16.0) / 16.0  # head^2 is exact, so that exp(-x^2) keeps all its digits for large x
    gauss = np.exp(-head * head) * np.exp(-(x - head) * (x + head))
    return gauss * _chebyshev(_TAIL, (x - 3.0) / (x + 3.0)) / (1.0 + 2.0 * x)


def erf(x: Any) -> np.ndarray:
    """Error function, elementwise, any shape; computed in float64 (a few ulp), returned in the dtype of ``x``."""
    real, result = as_real(x)
    real = real.astype(np.float64, copy=False)
    with np.errstate(all="ignore"):
        size = np.abs(real)
        centre = real * _chebyshev(_CENTRE, 2.0 * np.square(np.minimum(size, 1.0)) - 1.0)
        return as_array(np.where(size <= 1.0, centre, np.copysign(1.0 - _erfc_positive(size), real)), result)


def erfc(x: Any) -> np.ndarray:
    """1 - erf(x) without cancellation, elementwise, any shape; computed in float64, returned in the dtype of ``x``."""
    real, result = as_real(x)
    real = real.astype(np.float64, copy=False)
    with np.errstate(all="ignore"):
        tail = _erfc_positive(np.abs(real))
        return as_array(np.where(real < 0.0, 2.0 - tail, tail), result)
