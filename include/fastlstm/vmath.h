/* vmath.h: exp, expm1, log, log1p, tanh, sigmoid, erfc on vectors of reals, and the rounding to 16-bit storage.
 *
 * Before it: real.h, simd.h and <math.h>. Used by vactivation.h and by the cell; one template for every instruction set and dtype.
 * Each function is one fixed sequence of correctly rounded operations (no estimates of reciprocals), so that all instruction sets
 * with a fused v_fma give the same bits. The constants come from tools/vmath_coefficients.py.
 *
 * Accuracy in ulp of a normal result, on every instruction set; measured over all of float32 and over samples of float64:
 *   v_tanh, v_sigmoid, v_exp            2 in float32 (1.98, 2.00, 1.1), 2.5 in float64 (2.2, 2.0, 1.1)
 *   v_expm1                             2.5 (2.2)
 *   v_log, v_log1p, v_softplus          2 (0.9, 1.4, 1.7)
 *   v_erfc, in the tail too             9 (8.5)
 * NaN stays NaN everywhere.
 * Results below the smallest normal number may come as 0 (calls run with flush-to-zero anyway).
 *
 * The common idea: x = k ln2 + r with an integer k and |r| <= ln2/2. Adding 1.5 * 2^23 (2^52 for double) rounds x / ln2 to k and
 * leaves k in the low bits; shifted up into the exponent they are 2^k.
 */

#define v_poly FL(vpoly)
#define v_exp FL(vexp)
#define v_expm1 FL(vexpm1)
#define v_log FL(vlog)
#define v_log1p FL(vlog1p)
#define v_tanh FL(vtanh)
#define v_sigmoid FL(vsigmoid)
#define v_softplus FL(vsoftplus)
#define v_erfc FL(verfc)
#define v_normal FL(vnormal)

#undef FL_MANTISSA
#undef FL_EXPONENT_BIAS
#undef FL_MAGIC
#if FL_BITS == 32
#define FL_MANTISSA 23
#define FL_EXPONENT_BIAS 127
#else
#define FL_MANTISSA 52
#define FL_EXPONENT_BIAS 1023
#endif
#define FL_MAGIC FL_PICK(12582912.0, 6755399441055744.0)

/* log2(e); ln2; ln2 as a head whose products with every k are exact, so that they are also without a fused v_fma, and the rest. */
#undef FL_LOG2E
#undef FL_LN2
#undef FL_LN2_HEAD
#undef FL_LN2_REST
#define FL_LOG2E FL_PICK(1.442695, 1.4426950408889634)
#define FL_LN2 FL_PICK(0.6931472, 0.6931471805599453)
#define FL_LN2_HEAD FL_PICK(0.69314575, 0.6931471805598903)
#define FL_LN2_REST FL_PICK(1.4286068e-06, 5.497923018708371e-14)

/* Whether v_fma rounds once. */
#undef FL_FUSED
#if defined(FL_ISA_AVX512) || defined(FL_ISA_AVX2) || defined(FL_ISA_NEON)
#define FL_FUSED 1
#elif defined(FL_ISA_ONE) && (defined(FL_CUDA) || defined(FP_FAST_FMA))
#define FL_FUSED 1
#else
#define FL_FUSED 0
#endif

/* Sum of c[j] x^j, j < n. Pairs of terms, then Horner in x2 = x * x: no more operations than Horner in x, half the latency. */
FL_INLINE vec v_poly(const real *c, int n, vec x, vec x2) {
  vec sum = n % 2 ? v_set(c[n - 1]) : v_fma(v_set(c[n - 1]), x, v_set(c[n - 2]));
  FL_UNROLL
  for (int j = n - (n % 2 ? 3 : 4); j >= 0; j -= 2) sum = v_fma(sum, x2, v_fma(v_set(c[j + 1]), x, v_set(c[j])));
  return sum;
}

/* The sum of two bit patterns, modulo the word. */
FL_INLINE ivec FL(add_bits)(ivec a, ivec b) {
#if defined(FL_ISA_ONE) && FL_BITS == 32
  return (ireal)((uint32_t)a + (uint32_t)b);
#elif defined(FL_ISA_ONE)
  return (ireal)((uint64_t)a + (uint64_t)b);
#else
  return a + b;
#endif
}

/* (exp(a r) - 1) / a for |a r| <= ln2/2 and a constant a of +-1 or +-2, by which the coefficients are scaled without rounding.
 * The leading term is r itself: relative accuracy down to the smallest r. */
FL_INLINE vec FL(expm1_reduced)(real a, vec r) {
#if FL_BITS == 32
  real c[] = {5.0e-01f, 1.666655e-01f, 4.1666854e-02f, 8.366041e-03f, 1.3898223e-03f};
#else
  real c[] = {5.0e-01,
              1.6666666666666602e-01,
              4.166666666662e-02,
              8.333333333388393e-03,
              1.3888888920499873e-03,
              1.9841269709323933e-04,
              2.4801516361177214e-05,
              2.755742509069734e-06,
              2.7622221176202503e-07,
              2.504589672598464e-08};
#endif
  const int n = (int)(sizeof c / sizeof c[0]);
  vec r2 = r * r;
  real power = a;
  FL_UNROLL
  for (int j = 0; j < n; j++) {
    c[j] *= power;
    power *= a;
  }
#if FL_FUSED
  return v_fma(r2, v_poly(c, n, r, r2), r);
#else /* every product is rounded, save that by c[0], a power of 2: outside the polynomial it costs v_tanh less */
  return r + (v_set(c[0]) * r2 + r2 * (r * v_poly(c + 1, n - 1, r, r2)));
#endif
}

/* exp(x): inf above the largest number's logarithm, 0 where the result would not be normal. */
FL_INLINE vec v_exp(vec x) {
  vec shifted = v_fma(x, v_set(FL_LOG2E), v_set(FL_MAGIC));
  vec k = shifted - v_set(FL_MAGIC);
  vec r = v_fma(k, v_set(-FL_LN2_REST), v_fma(k, v_set(-FL_LN2_HEAD), x));
  vec reduced = v_set(1) + FL(expm1_reduced)(1, r);
  /* k goes into the exponent by addition: 2^128, which the last half step below overflow needs, is no float of its own. */
  vec y = v_unbits(FL(add_bits)(v_bits(reduced), v_shl(v_bits(shifted), FL_MANTISSA)));
  y = v_select(v_lt(x, v_set(FL_PICK(88.72284, 709.7827128933841))), y, x + v_set((real)INFINITY));
  return v_select(v_lt(x, v_set(FL_PICK(-87.33654, -708.3964185322641))), v_set(0), y);
}

/* exp(x) - 1, with relative accuracy around 0. */
FL_INLINE vec v_expm1(vec x) {
  const vec magic = v_set(FL_MAGIC + (FL_EXPONENT_BIAS - 1));
  vec y = v_max(v_set(FL_PICK(-20.0, -40.0)), v_min(v_set(FL_PICK(89.0, 710.0)), x)); /* -1 and inf are reached there */
  vec shifted = v_fma(y, v_set(FL_LOG2E), magic);
  vec k = shifted - magic;
  vec r = v_fma(k, v_set(-FL_LN2_REST), v_fma(k, v_set(-FL_LN2_HEAD), y));
  vec half = v_unbits(v_shl(v_bits(shifted), FL_MANTISSA)); /* 2^k / 2, which unlike 2^k stays finite */
  vec half_result = v_fma(half, FL(expm1_reduced)(1, r), half - v_set(0.5));
  return v_select(v_lt(v_abs(x), v_set((real)1e-20)), x, half_result + half_result);
}

/* 1 / (1 + exp(-x)). Both sides of the quotient times 2^-23 (2^-52), so that the denominator stays finite until the quotient has
 * passed through all subnormal numbers and is 0. */
FL_INLINE vec v_sigmoid(vec x) {
  const vec unit = v_set(FL_PICK(1.1920929e-07, 2.220446049250313e-16));
  const vec magic = v_set(FL_MAGIC + (FL_EXPONENT_BIAS - FL_MANTISSA));
  vec y = v_max(v_set(FL_PICK(-104.3, -745.4)), v_min(v_set(FL_PICK(40.0, 80.0)), x)); /* 0 and 1 are reached there */
  vec shifted = v_fma(y, v_set(-FL_LOG2E), magic);
  vec k = shifted - magic;
  vec r = v_fma(k, v_set(FL_LN2_REST), v_fma(k, v_set(FL_LN2_HEAD), y));
  vec scale = v_unbits(v_shl(v_bits(shifted), FL_MANTISSA));
  /* In this order, because adding 1 to a large scale first would cost half an ulp more. */
  return unit / (scale + v_fma(-scale, FL(expm1_reduced)(-1, r), unit));
}

/* With e = exp(-2|x|): (1 - e) / 2 over (1 + e) / 2, and the sign of x.
 * No case for small |x|: there k = 0 and the numerator is expm1_reduced itself, which keeps the relative accuracy. ln2 needs one
 * part only: the error k * 1e-9 (1e-17) of the exponent weighs e in the quotient, which is small when k is not. */
FL_INLINE vec v_tanh(vec x) {
  const vec magic = v_set(FL_MAGIC + FL_EXPONENT_BIAS);
  vec y = v_min(v_set(FL_PICK(10.0, 20.0)), v_abs(x)); /* 1 is reached there */
  vec shifted = v_fma(y, v_set(-2 * FL_LOG2E), magic);
  vec k = shifted - magic;
  vec r = v_fma(k, v_set(FL_LN2 / 2), y);
  vec scale = v_unbits(v_shl(v_bits(shifted), FL_MANTISSA));
  vec m = FL(expm1_reduced)(-2, r); /* e = scale - 2 scale m */
  vec head = v_fma(scale, v_set(-0.5), v_set(0.5));
  vec below = v_fma(-scale, m, v_set(1) - head); /* not 1 - above: one rounding less */
  vec above = v_fma(scale, m, head);
  return v_unbits(v_bits(above) | (v_bits(x) & FL(sign_bit)())) / below;
}

/* The biased exponent k + 127 (1023) of x > 0 for the form 2^k (1 + f), 1 + f in [sqrt(1/2), sqrt(2)). */
FL_INLINE ivec FL(log_exponent)(vec x) {
  const real one = 1, low = FL_PICK(0.70710677, 0.7071067811865476);
  return v_shr(v_bits(x) + (v_bits(v_set(one)) - v_bits(v_set(low))), FL_MANTISSA);
}

/* k ln2 + log(1 + f) by s = f / (2 + f): log(1 + f) = f - f^2/2 + s (f^2/2 + 2/3 s^2 + 2/5 s^4 + ...). */
FL_INLINE vec FL(log_reduced)(ivec exponent, vec f) {
#if FL_BITS == 32
  const real c[] = {6.6666776e-01f, 3.9977536e-01f, 2.9871863e-01f};
#else
  const real c[] = {6.666666666666734e-01,  3.999999999941432e-01,  2.857142874247478e-01, 2.222219856350139e-01,
                    1.8183564865639493e-01, 1.5314035865688447e-01, 1.4796105103924778e-01};
#endif
  const real unit = FL_PICK(8388608.0, 4503599627370496.0); /* or-ing an integer into its low bits adds it */
  vec k = v_unbits(exponent | v_bits(v_set(unit))) - v_set(unit + FL_EXPONENT_BIAS);
  vec s = f / (v_set(2) + f);
  vec w = s * s;
  vec half_square = v_set(0.5) * f * f;
  vec series = w * v_poly(c, (int)(sizeof c / sizeof c[0]), w, w * w);
  vec rest = v_fma(s, half_square + series, k * v_set(FL_LN2_REST));
  return v_fma(k, v_set(FL_LN2_HEAD), f - (half_square - rest));
}

/* log(x); -inf for 0 and subnormal x, NaN below 0. */
FL_INLINE vec v_log(vec x) {
  ivec exponent = FL(log_exponent)(x);
  vec scaled = v_unbits(v_bits(x) - v_shl(exponent - v_iset(FL_EXPONENT_BIAS), FL_MANTISSA));
  vec y = FL(log_reduced)(exponent, scaled - v_set(1));
  vec low = v_select(v_lt(x, v_set(0)), v_set((real)NAN), v_set(-(real)INFINITY));
  y = v_select(v_lt(x, v_set(FL_PICK(1.17549435e-38, 2.2250738585072014e-308))), low, y);
  return v_select(v_lt(x, v_set((real)INFINITY)), y, x);
}

/* log(1 + x) for -1 < x < 2^126 (2^1022), with relative accuracy around 0; outside it is undefined, NaN excepted. */
FL_INLINE vec v_log1p(vec x) {
  ivec exponent = FL(log_exponent)(v_set(1) + x);
  vec scale = v_unbits(v_shl(v_iset(2 * FL_EXPONENT_BIAS) - exponent, FL_MANTISSA)); /* 2^-k; 1 + f = (1 + x) / 2^k */
  return FL(log_reduced)(exponent, v_fma(x, scale, scale - v_set(1)));
}

/* log(1 + exp(x)). */
FL_INLINE vec v_softplus(vec x) { return v_max(v_set(0), x) + v_log1p(v_exp(-v_abs(x))); }

/* a^2 - square, where square is a * a rounded: what the rounding lost, to the last bit. */
FL_INLINE vec FL(square_error)(vec a, vec square) {
#if FL_FUSED
  return v_fma(a, a, -square);
#else
  /* a = head + rest, both short enough for exact products. */
  vec head = v_unbits(v_bits(a) & v_shl(v_iset((ireal)-1), (FL_MANTISSA + 2) / 2));
  vec rest = a - head;
  return ((head * head - square) + (head + head) * rest) + rest * rest;
#endif
}

/* erfc(z) / exp(-z^2) for 0 <= z <= 10.5 (27.5), as a polynomial in u = (z - shift) / (z + shift) over z + shift. */
FL_INLINE vec FL(erfc_factor)(vec z) {
#if FL_BITS == 32
  const real shift = 3;
  const real c[] = {1.0740069e+00f, -8.833945e-01f,  5.9022826e-01f, -3.104659e-01f,  1.1952939e-01f,
                    -2.684052e-02f, -1.2282907e-03f, 3.081036e-03f,  -4.7966398e-04f, -3.2350165e-04f};
#else
  const real shift = 4;
  const real c[] = {1.095995661000491e+00,   -9.765487290808821e-01,  7.732087022652367e-01,  -5.40853831313225e-01,
                    3.30851587878025e-01,    -1.7401093724029118e-01, 7.638151490911403e-02,  -2.6370053334608186e-02,
                    6.112055657169458e-03,   -2.8095891584616745e-04, -4.550526914364878e-04, 1.7681308568653166e-04,
                    -3.63513942440591e-06,   -1.8861777600175976e-05, 4.694307056823899e-06,  1.4260682202883172e-06,
                    -8.459757785187474e-07,  -7.793174870413908e-08,  1.239205948160943e-07,  2.564762061168388e-09,
                    -1.5395215506979615e-08, -3.648207391274079e-10,  1.023813654086059e-09};
#endif
  vec inverse = v_set(1) / (z + v_set(shift));
  vec u = v_fma(v_set(-2 * shift), inverse, v_set(1));
  return v_poly(c, (int)(sizeof c / sizeof c[0]), u, u * u) * inverse;
}

/* 1 - erf(z). */
FL_INLINE vec v_erfc(vec z) {
  vec size = v_min(v_set(FL_PICK(10.5, 27.5)), v_abs(z)); /* 0 is reached before */
  vec square = size * size;
  vec gauss = v_exp(-square);
  gauss = v_fma(gauss, -FL(square_error)(size, square), gauss);
  vec tail = gauss * FL(erfc_factor)(size);
  return v_select(v_lt(z, v_set(0)), v_set(2) - tail, tail);
}

/* The normal distribution function erfc(-x / sqrt(2)) / 2, and exp(-x^2/2), which it needs anyway. x^2/2 is taken from x itself:
 * the rounding of x / sqrt(2) would grow with x^2. */
FL_INLINE vec v_normal(vec x, vec *gauss) {
  const vec half = v_set(0.5);
  vec size = v_min(v_set(FL_PICK(14.5, 38.5)), v_abs(x));
  vec square = size * size;
  vec g = v_exp(-half * square);
  g = v_fma(g, -half * FL(square_error)(size, square), g);
  vec tail = half * g * FL(erfc_factor)(size * v_set(FL_PICK(0.70710677, 0.7071067811865476)));
  *gauss = g;
  return v_select(v_lt(x, v_set(0)), tail, v_set(1) - tail);
}

#if FL_BITS == 32
/* x to the nearest float16 (ties to even), as float: inf from 65520 on, subnormals kept, NaN stays NaN. */
FL_INLINE vec FL(round_float16)(vec x) {
  vec size = v_min(v_set(65536), v_abs(x));
  /* Beside 2^(e + 13) a number of exponent e keeps 10 bits of mantissa; below 2^-14 the step stays 2^-24. */
  ivec exponent = v_bits(size) & v_iset(0x7f800000);
  vec coarse = v_max(v_set(0.5f), v_unbits(FL(add_bits)(exponent, v_iset(13 << FL_MANTISSA))));
  vec y = (size + coarse) - coarse;
  return v_copysign(v_select(v_le(v_set(65536), y), v_set((real)INFINITY), y), x);
}

/* x to the nearest bfloat16 (ties to even), as float. NaN becomes quiet, or cutting it to 16 bits could leave inf. */
FL_INLINE vec FL(round_bfloat16)(vec x) {
  ivec bits = v_bits(x);
  ivec up = v_iset(0x7fff) + (v_shr(bits, 16) & v_iset(1));
  vec y = v_unbits(FL(add_bits)(bits, up) & v_shl(v_iset(-1), 16));
  return v_select(v_eq(x, x), y, x + x);
}
#endif

/* x as it comes back from the storage of enum fl_rounding. float64 is never stored in 16 bits. */
FL_INLINE vec FL(round_storage)(int rounding, vec x) {
#if FL_BITS == 32
  if (rounding == FL_ROUND_FLOAT16) return FL(round_float16)(x);
  if (rounding == FL_ROUND_BFLOAT16) return FL(round_bfloat16)(x);
#else
  (void)rounding;
#endif
  return x;
}
