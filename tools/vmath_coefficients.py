"""Derives every constant of include/fastlstm/vmath.h with mpmath and prints it. Run by hand; nothing imports it.

Each polynomial is a weighted minimax fit (Remez exchange on a dense grid), its coefficients then rounded to the dtype.
Printed above each: its largest weighted error, in exact arithmetic, as a power of two.

    python tools/vmath_coefficients.py
"""

from collections.abc import Callable

import mpmath as mp
import numpy as np

mp.mp.dps = 60
GRID = 1500


def rounded(value: mp.mpf, bits: int) -> mp.mpf:
    """``value`` as the nearest number of the dtype: float32 for 24 bits, float64 for 53."""
    with mp.workprec(bits):
        return +value


def solve(points: list, values: list, weights: list) -> list:
    """Coefficients whose weighted error has the same size and alternating sign at all ``points``."""
    size = len(points)
    system = mp.matrix(size, size)
    for i, (x, w) in enumerate(zip(points, weights, strict=True)):
        for power in range(size - 1):
            system[i, power] = w * x**power
        system[i, size - 1] = (-1) ** i
    return list(mp.lu_solve(system, mp.matrix([v * w for v, w in zip(values, weights, strict=True)])))[:-1]


def extrema(errors: list, count: int) -> list[int]:
    """Indices of ``count`` grid points, the largest error of each run of one sign, in order."""
    best: list[int] = []
    for i, error in enumerate(errors):
        if best and (errors[best[-1]] < 0) == (error < 0):
            if abs(error) > abs(errors[best[-1]]):
                best[-1] = i
        else:
            best.append(i)
    while len(best) > count:  # the smaller end goes
        best.pop(0 if abs(errors[best[0]]) < abs(errors[best[-1]]) else -1)
    return best


def fit(grid: list, values: list, weights: list, degree: int) -> list:
    """Remez exchange: coefficients, ascending, with the smallest largest weighted error on the grid."""
    count = degree + 2
    chosen = [round((GRID - 1) * (i + 0.5) / count) for i in range(count)]  # the grid itself is Chebyshev-spaced
    for _ in range(40):
        coefficients = solve([grid[i] for i in chosen], [values[i] for i in chosen], [weights[i] for i in chosen])
        errors = [w * (mp.polyval(coefficients[::-1], x) - v) for x, v, w in zip(grid, values, weights, strict=True)]
        following = extrema(errors, count)
        if len(following) < count or following == chosen:
            break
        chosen = following
    return coefficients


def polynomial(function: Callable, weight: Callable, degree: int, low: mp.mpf, high: mp.mpf, bits: int) -> list:
    """Rounded coefficients, ascending, of the minimax fit to ``function`` on [low, high] for the error times ``weight``."""
    grid = [(low + high) / 2 - (high - low) / 2 * mp.cos(mp.pi * (i + mp.mpf("0.5")) / GRID) for i in range(GRID)]
    values, weights = [function(x) for x in grid], [abs(weight(x)) for x in grid]
    exact = fit(grid, values, weights, degree)
    for name, coefficients in (("exact", exact), ("rounded", [rounded(c, bits) for c in exact])):
        worst = max(abs(mp.polyval(coefficients[::-1], x) - v) * w for x, v, w in zip(grid, values, weights, strict=True))
        print(f"  {name} coefficients: largest weighted error 2^{float(mp.log(worst, 2)):.1f}")
    return coefficients


def show(name: str, values: list, bits: int) -> None:
    """One C initializer, shortest decimals that round to the same number."""
    kind = np.float32 if bits == 24 else np.float64
    suffix = "f" if bits == 24 else ""
    texts = [np.format_float_scientific(kind(v), unique=True, trim="0") + suffix for v in map(float, values)]
    print(f"  {name} = {{{', '.join(texts)}}}")


def expm1_tail(degree: int, bits: int) -> None:
    """(expm1(r) - r) / r^2 on |r| <= ln2/2, weighted for the relative error of expm1(r). The constant is 1/2, exactly."""
    edge = mp.log(2) / 2 * mp.mpf("1.0001")

    def function(r: mp.mpf) -> mp.mpf:
        return (mp.expm1(r) - r - r * r / 2) / r**3

    rest = polynomial(function, lambda r: r**3 / mp.expm1(r), degree - 1, -edge, edge, bits)
    show("expm1", [mp.mpf(1) / 2, *rest], bits)


def log_tail(degree: int, bits: int) -> None:
    """(2 atanh(s) - 2 s) / s^3 in w = s^2, s = f / (2 + f), 1 + f in [sqrt(1/2), sqrt(2)]; error relative to 2 atanh(s)."""
    edge = ((mp.sqrt(2) - 1) / (mp.sqrt(2) + 1)) ** 2 * mp.mpf("1.0001")
    show(
        "log",
        polynomial(lambda w: 2 * (mp.atanh(mp.sqrt(w)) / mp.sqrt(w) - 1) / w, lambda w: w / 2, degree, mp.mpf(0), edge, bits),
        bits,
    )


def erfc_factor(degree: int, shift: mp.mpf, limit: mp.mpf, bits: int) -> None:
    """(z + shift) exp(z^2) erfc(z) in u = 1 - 2 shift / (z + shift) = (z - shift) / (z + shift), 0 <= z <= limit, relative."""

    def function(u: mp.mpf) -> mp.mpf:
        z = shift * (1 + u) / (1 - u)
        return (z + shift) * mp.exp(z * z) * mp.erfc(z)

    high = (limit - shift) / (limit + shift)
    show("erfc", polynomial(function, lambda u: 1 / function(u), degree, mp.mpf(-1), high, bits), bits)


def two_parts(value: mp.mpf, head_bits: int, bits: int) -> list:
    """``value`` as head (few bits, so that its products with small integers are exact) + rest."""
    scale = mp.mpf(2) ** (head_bits - 1 - int(mp.floor(mp.log(value, 2))))
    head = mp.floor(value * scale) / scale
    return [head, rounded(value - head, bits)]


def main() -> None:
    # degrees: expm1, log, erfc; shift and limit of erfc; bits left to k in ln2's head
    for bits, expm1_degree, log_degree, erfc_degree, shift, limit, k_bits in (
        (24, 4, 2, 9, mp.mpf(3), mp.mpf("10.5"), 8),
        (53, 9, 6, 22, mp.mpf(4), mp.mpf("27.5"), 11),
    ):
        print(f"float{32 if bits == 24 else 64}")
        show("ln2 head, rest", two_parts(mp.log(2), bits - k_bits, bits), bits)
        show("ln2, log2(e)", [mp.log(2), 1 / mp.log(2)], bits)
        expm1_tail(expm1_degree, bits)
        log_tail(log_degree, bits)
        erfc_factor(erfc_degree, shift, limit, bits)


if __name__ == "__main__":
    main()
