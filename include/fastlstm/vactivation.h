/* vactivation.h: the activations of enum fl_activation on vectors, their derivatives, and softmax and its kin along a row.
 *
 * Before it: vmath.h. Used by the cell, where an activation is chosen by number, and by the general kernel.
 * Formulas and defaults are Keras' (leaky_relu slope 0.2, exact gelu, hard_sigmoid x/6 + 1/2); at a kink the derivatives take the
 * values of fastlstm/activations.py: the left side's, 0 at both ends of relu6, hard_sigmoid, sparse_sigmoid and the shrinks, 1 at
 * both ends of hard_tanh.
 *
 * NaN stays NaN. Infinity goes through the formula as in NumPy: where that multiplies infinity by 0 or divides it by itself the
 * result is NaN although a limit exists (silu, gelu, mish and hard_silu at -inf, softsign at both ends).
 */

#define v_step FL(vstep)
#define v_between FL(vbetween)
#define v_clip FL(vclip)

/* 1 where m, else 0; NaN where x is. */
FL_INLINE vec v_step(vmask m, vec x) { return v_select(v_eq(x, x), v_select(m, v_set(1), v_set(0)), x); }

/* 1 for low < x < high, else 0; NaN where x is. */
FL_INLINE vec v_between(real low, vec x, real high) {
  return v_select(v_lt(v_set(low), x), v_step(v_lt(x, v_set(high)), x), v_step(v_lt(x, x), x));
}

FL_INLINE vec v_clip(real low, vec x, real high) { return v_max(v_set(low), v_min(v_set(high), x)); }

/* (x + 3) / 6 rather than x / 6 + 1/2: no cancellation near -3. */
FL_INLINE vec FL(hard_sigmoid)(vec x) { return v_clip(0, (x + v_set(3)) * v_set(FL_PICK(0.16666667, 0.16666666666666666)), 1); }

/* |x| + sqrt(x^2 + 4), where x^2 is left out once it is all there is. */
FL_INLINE vec FL(squareplus_root)(vec x) {
  return v_select(v_lt(v_abs(x), v_set(1e10)), v_sqrt(v_fma(x, x, v_set(4))), v_abs(x));
}

FL_INLINE vec FL(squareplus)(vec x) {
  vec sum = FL(squareplus_root)(x) + v_abs(x);
  return v_select(v_lt(x, v_set(0)), v_set(2) / sum, v_set(0.5) * sum);
}

/* With e = exp(x): tanh(log(1 + e)) = n / (n + 2), n = e (e + 2). From x = 20 (40) on it is 1. */
FL_INLINE vec FL(mish_exp)(vec x) { return v_exp(v_min(v_set(FL_PICK(20.0, 40.0)), x)); }

FL_INLINE vec FL(mish)(vec x) {
  vec e = FL(mish_exp)(x);
  vec n = e * (e + v_set(2));
  return x * (n / (n + v_set(2)));
}

FL_INLINE vec FL(mish_grad)(vec x) {
  vec e = FL(mish_exp)(x);
  vec n = e * (e + v_set(2));
  vec t = n / (n + v_set(2));
  vec slope = (v_set(1) + t) * (v_set(2) / (n + v_set(2))); /* 1 - t^2 */
  return v_fma(v_min(v_set(FL_PICK(20.0, 40.0)), x) * slope, e / (v_set(1) + e), t);
}

FL_INLINE vec FL(elu)(vec x, real alpha, real scale) {
  vec below = v_set(alpha) * v_expm1(v_min(v_set(0), x));
  return v_set(scale) * v_select(v_lt(x, v_set(0)), below, x);
}

FL_INLINE vec FL(elu_grad)(vec x, real alpha, real scale) {
  vec below = v_set(alpha) * v_exp(v_min(v_set(0), x));
  return v_set(scale) * v_select(v_lt(v_set(0), x), v_set(1), below);
}

/* f(x) of an elementwise activation; x itself for any other id. */
FL_STATIC vec FL(activate_vec)(int id, vec x) {
  const vec zero = v_set(0), one = v_set(1), half = v_set(0.5);
  switch (id) {
    case FL_ACT_TANH:
      return v_tanh(x);
    case FL_ACT_SIGMOID:
      return v_sigmoid(x);
    case FL_ACT_RELU:
      return v_max(zero, x);
    case FL_ACT_RELU6:
      return v_clip(0, x, 6);
    case FL_ACT_LEAKY_RELU:
      return v_select(v_lt(x, zero), x * v_set((real)0.2), x);
    case FL_ACT_ELU:
    case FL_ACT_CELU:
      return FL(elu)(x, 1, 1);
    case FL_ACT_SELU:
      return FL(elu)(x, (real)1.6732632423543772, (real)1.0507009873554805);
    case FL_ACT_EXPONENTIAL:
      return v_exp(x);
    case FL_ACT_GELU: {
      vec gauss;
      return x * v_normal(x, &gauss);
    }
    case FL_ACT_HARD_SIGMOID:
      return FL(hard_sigmoid)(x);
    case FL_ACT_SILU:
      return x * v_sigmoid(x);
    case FL_ACT_HARD_SILU:
      return x * FL(hard_sigmoid)(x);
    case FL_ACT_HARD_TANH:
      return v_clip(-1, x, 1);
    case FL_ACT_TANH_SHRINK:
      return x - v_tanh(x);
    case FL_ACT_HARD_SHRINK:
      return v_select(v_le(v_abs(x), half), zero, x);
    case FL_ACT_SOFT_SHRINK:
      return v_copysign(v_max(zero, v_abs(x) - half), x);
    case FL_ACT_SOFTPLUS:
      return v_softplus(x);
    case FL_ACT_SOFTSIGN:
      return x / (one + v_abs(x));
    case FL_ACT_SQUAREPLUS:
      return FL(squareplus)(x);
    case FL_ACT_SPARSE_PLUS: {
      vec above = v_max(zero, x + one);
      return v_select(v_lt(x, one), v_set(0.25) * (above * above), x);
    }
    case FL_ACT_SPARSE_SIGMOID:
      return v_clip(0, half * (x + one), 1);
    case FL_ACT_LOG_SIGMOID:
      return -v_softplus(-x);
    case FL_ACT_MISH:
      return FL(mish)(x);
    default:
      return x;
  }
}

/* df/dx of an elementwise activation at x, given y = f(x); 1 for any other id. */
FL_STATIC vec FL(activate_grad_vec)(int id, vec x, vec y) {
  const vec zero = v_set(0), one = v_set(1), half = v_set(0.5);
  switch (id) {
    case FL_ACT_TANH:
      return one - y * y;
    case FL_ACT_SIGMOID:
      return y * (one - y);
    case FL_ACT_RELU:
      return v_step(v_lt(zero, x), x);
    case FL_ACT_RELU6:
      return v_between(0, x, 6);
    case FL_ACT_LEAKY_RELU:
      return v_max(v_set((real)0.2), v_step(v_lt(zero, x), x));
    case FL_ACT_ELU:
    case FL_ACT_CELU:
      return FL(elu_grad)(x, 1, 1);
    case FL_ACT_SELU:
      return FL(elu_grad)(x, (real)1.6732632423543772, (real)1.0507009873554805);
    case FL_ACT_EXPONENTIAL:
      return y;
    case FL_ACT_GELU: {
      vec gauss, cdf = v_normal(x, &gauss);
      return v_fma(x * gauss, v_set(FL_PICK(0.3989423, 0.3989422804014327)), cdf);
    }
    case FL_ACT_HARD_SIGMOID:
      return v_between(-3, x, 3) * v_set(FL_PICK(0.16666667, 0.16666666666666666));
    case FL_ACT_SILU: {
      vec s = v_sigmoid(x);
      return v_fma(x * s, v_sigmoid(-x), s);
    }
    case FL_ACT_HARD_SILU:
      return v_fma(v_between(-3, x, 3), v_clip(-3, x, 3) * v_set(FL_PICK(0.16666667, 0.16666666666666666)), FL(hard_sigmoid)(x));
    case FL_ACT_HARD_TANH:
      return v_step(v_le(v_abs(x), one), x);
    case FL_ACT_TANH_SHRINK: {
      vec t = v_tanh(x);
      return t * t;
    }
    case FL_ACT_HARD_SHRINK:
    case FL_ACT_SOFT_SHRINK:
      return v_step(v_lt(half, v_abs(x)), x);
    case FL_ACT_SOFTPLUS:
      return v_sigmoid(x);
    case FL_ACT_SOFTSIGN: {
      vec inverse = one / (one + v_abs(x));
      return inverse * inverse;
    }
    case FL_ACT_SQUAREPLUS:
      return half * (one + x / FL(squareplus_root)(x));
    case FL_ACT_SPARSE_PLUS:
      return v_clip(0, half * (x + one), 1);
    case FL_ACT_SPARSE_SIGMOID:
      return half * v_between(-1, x, 1);
    case FL_ACT_LOG_SIGMOID:
      return v_sigmoid(-x);
    case FL_ACT_MISH:
      return FL(mish_grad)(x);
    default:
      return one;
  }
}

/* ---- along a row ---------------------------------------------------------------------------------------------------- */

/* A row is walked in blocks of 16 lanes, whatever FL_W: column j adds to partial sum j mod 16, and the 16 are added pairwise, so
 * that a sum depends on n alone. Lanes behind the end read as `fill`, which every sum below must ignore. */
#undef FL_ROW_LANES
#undef FL_ROW_VECS
#define FL_ROW_LANES 16
#define FL_ROW_VECS (FL_ROW_LANES / FL_W)

FL_INLINE vec FL(row_load)(const real *z, ptrdiff_t j, ptrdiff_t n, real fill) {
  if (n - j >= FL_W) return v_load(z + j);
  real lanes[FL_W];
  for (ptrdiff_t k = 0; k < FL_W; k++) lanes[k] = fill;
  for (ptrdiff_t k = 0; j + k < n; k++) lanes[k] = z[j + k];
  return v_load(lanes);
}

FL_INLINE void FL(row_store)(real *z, ptrdiff_t j, ptrdiff_t n, vec a) {
  if (n - j >= FL_W)
    v_store(z + j, a);
  else if (n > j)
    v_store_n(z + j, a, n - j);
}

FL_INLINE real FL(row_total)(const vec *sums) {
  real lanes[FL_ROW_LANES];
  for (int v = 0; v < FL_ROW_VECS; v++) v_store(lanes + v * FL_W, sums[v]);
  for (int half = FL_ROW_LANES / 2; half > 0; half /= 2)
    for (int k = 0; k < half; k++) lanes[k] += lanes[k + half];
  return lanes[0];
}

/* The largest entry, NaN entries left out (-inf if there is no other). */
FL_INLINE real FL(row_max)(const real *z, ptrdiff_t n) {
  vec best = v_set(-(real)INFINITY);
  for (ptrdiff_t j = 0; j < n; j += FL_W) {
    vec x = FL(row_load)(z, j, n, -(real)INFINITY);
    best = v_max(x, best);
  }
  real lanes[FL_W], top;
  v_store(lanes, best);
  top = lanes[0];
  for (int k = 1; k < FL_W; k++) top = lanes[k] > top ? lanes[k] : top;
  return top;
}

/* softmax, or with `logarithm` its logarithm. NaN anywhere, +inf, or -inf everywhere make the whole row NaN, as in NumPy. */
FL_INLINE void FL(softmax_row)(real *z, ptrdiff_t n, int logarithm) {
  const vec top = v_set(FL(row_max)(z, n));
  vec sums[FL_ROW_VECS];
  for (int v = 0; v < FL_ROW_VECS; v++) sums[v] = v_set(0);
  for (ptrdiff_t j = 0; j < n; j += FL_ROW_LANES) {
    for (int v = 0; v < FL_ROW_VECS; v++) {
      vec shifted = FL(row_load)(z, j + v * FL_W, n, -(real)INFINITY) - top;
      vec e = v_exp(shifted);
      sums[v] = sums[v] + e;
      FL(row_store)(z, j + v * FL_W, n, logarithm ? shifted : e);
    }
  }
  const vec total = v_set(FL(row_total)(sums));
  const vec log_total = v_log(total);
  for (ptrdiff_t j = 0; j < n; j += FL_W) {
    vec a = FL(row_load)(z, j, n, 0);
    FL(row_store)(z, j, n, logarithm ? a - log_total : a / total);
  }
}

/* Sum and number of the entries above tau in a row whose largest entry is 0; NaN where any entry is not <= 0. */
FL_INLINE real FL(support)(const real *z, ptrdiff_t n, real tau, real *count) {
  const vec zero = v_set(0), level = v_set(tau);
  vec sums[FL_ROW_VECS], counts[FL_ROW_VECS];
  for (int v = 0; v < FL_ROW_VECS; v++) sums[v] = counts[v] = zero;
  for (ptrdiff_t j = 0; j < n; j += FL_ROW_LANES) {
    for (int v = 0; v < FL_ROW_VECS; v++) {
      vec x = FL(row_load)(z, j + v * FL_W, n, -(real)INFINITY);
      vmask below = v_le(x, level);
      sums[v] = sums[v] + v_select(below, zero, x);
      counts[v] = counts[v] + v_select(below, zero, v_set(1));
    }
  }
  *count = FL(row_total)(counts);
  return FL(row_total)(sums);
}

/* The Euclidean projection onto the simplex: max(z - tau, 0) with the tau that makes its sum 1.
 *
 * Newton's iteration on that convex, piecewise linear sum: tau = (sum of the entries above the last tau - 1) / their number. It
 * rises to the solution and ends when the number no longer falls. Each step halves the number or the excess of the sum, so there are at most
 * log2(n) + precision of them; a dozen in practice. NaN as for softmax. */
FL_INLINE void FL(sparsemax_row)(real *z, ptrdiff_t n) {
  const vec top = v_set(FL(row_max)(z, n));
  for (ptrdiff_t j = 0; j < n; j += FL_W) FL(row_store)(z, j, n, FL(row_load)(z, j, n, 0) - top);
  real tau = -1, last = (real)INFINITY, count;
  for (;;) {
    real sum = FL(support)(z, n, tau, &count);
    if (count >= last) break;
    last = count;
    tau = (sum - 1) / count;
  }
  const vec level = v_set(tau);
  for (ptrdiff_t j = 0; j < n; j += FL_W) FL(row_store)(z, j, n, v_max(v_set(0), FL(row_load)(z, j, n, 0) - level));
}

/* Any activation over n contiguous reals, in place; n >= 0. */
FL_STATIC void FL(activate_row)(int id, real *z, ptrdiff_t n) {
  if (n <= 0 || id == FL_ACT_LINEAR) return;
  if (id == FL_ACT_SOFTMAX || id == FL_ACT_LOG_SOFTMAX) {
    FL(softmax_row)(z, n, id == FL_ACT_LOG_SOFTMAX);
  } else if (id == FL_ACT_SPARSEMAX) {
    FL(sparsemax_row)(z, n);
  } else {
    ptrdiff_t j = 0;
    for (; j + FL_W <= n; j += FL_W) v_store(z + j, FL(activate_vec)(id, v_load(z + j)));
    if (j < n) v_store_n(z + j, FL(activate_vec)(id, v_load_n(z + j, n - j)), n - j);
  }
}
