/* row_lanes.h: the fused step for few units: rows in the lanes, weights broadcast.
 *
 * A gate panel gives each of W lanes a unit; with U = 4 and W = 16 three quarters of the work would be padding. Here each lane is a row
 * (a sample), so x, h and c are kept transposed, [D][R], [U][R], [U][R], R = rows rounded up to W. Each pre-activation is the same chain of
 * multiply-adds as in gate_panel.h (bias, x ascending, h ascending), so the bits are the same too.
 */

/* Row vectors of a tile: 4 accumulators each. */
#undef FL_LANE_VECTORS
#if defined(FL_ISA_AVX512) || defined(FL_ISA_NEON)
#define FL_LANE_VECTORS 4
#else
#define FL_LANE_VECTORS 2
#endif

/* Packs kernel [D,4U] and recurrent_kernel [U,4U] into [U][D+U][4], gates side by side, and bias [4U] (or NULL) into [U][4]. */
FL_STATIC void FL(pack_lanes)(ptrdiff_t features, ptrdiff_t units, const void *kernel, const void *recurrent_kernel,
                              const void *bias, void *weights, void *lane_bias) {
  real *out = (real *)weights;
  for (ptrdiff_t u = 0; u < units; u++) {
    for (ptrdiff_t p = 0; p < features + units; p++) {
      const real *row =
          p < features ? (const real *)kernel + p * 4 * units : (const real *)recurrent_kernel + (p - features) * 4 * units;
      for (int g = 0; g < 4; g++) *out++ = row[g * units + u];
    }
    for (int g = 0; g < 4; g++) ((real *)lane_bias)[4 * u + g] = bias ? ((const real *)bias)[g * units + u] : 0;
  }
}

/* out [width][R] = rows [count][width] transposed; row n begins at base + n*stride. Lanes from `count` on get zeros. */
FL_STATIC void FL(to_lanes)(const void *base, ptrdiff_t stride, ptrdiff_t count, ptrdiff_t width, ptrdiff_t R, void *out) {
  for (ptrdiff_t n = 0; n < R; n++) {
    const real *row = (const real *)base + n * stride;
    real *to = (real *)out + n;
    for (ptrdiff_t k = 0; k < width; k++) to[k * R] = n < count ? row[k] : 0;
  }
}

/* rows [count][width] = in [width][R] transposed back; row n begins at base + n*stride. */
FL_STATIC void FL(from_lanes)(const void *in, ptrdiff_t R, ptrdiff_t count, ptrdiff_t width, void *base, ptrdiff_t stride) {
  for (ptrdiff_t n = 0; n < count; n++) {
    const real *from = (const real *)in + n;
    real *row = (real *)base + n * stride;
    for (ptrdiff_t k = 0; k < width; k++) row[k] = from[k * R];
  }
}

/* out [R] = 1 where the row's mask byte is set, else 0; the byte of row n stands at mask + n*stride. Returns how many are set. */
FL_STATIC ptrdiff_t FL(mask_lanes)(const unsigned char *mask, ptrdiff_t stride, ptrdiff_t count, ptrdiff_t R, void *out) {
  ptrdiff_t set = 0;
  for (ptrdiff_t n = 0; n < count; n++) {
    const int valid = mask[n * stride] != 0;
    ((real *)out)[n] = (real)valid;
    set += valid;
  }
  for (ptrdiff_t n = count; n < R; n++) ((real *)out)[n] = 0;
  return set;
}

/* The cell of V row vectors of one unit, which begin at `at` in the state arrays and at lane `first`; masked rows keep h and c. */
FL_INLINE void FL(finish_lanes)(int kind, int V, const fl_lanes *s, ptrdiff_t at, ptrdiff_t first, vec z[][4]) {
  FL_UNROLL
  for (int v = 0; v < V; v++, at += FL_W, first += FL_W) {
    const vec old_c = v_load((real *)s->c + at);
    vec c = old_c, h;
    FL(cell)(kind, s->activation, s->recurrent_activation, s->rounding, z[v], &c, &h);
    if (s->mask) {
      const vmask valid = v_lt(v_set(0), v_load((const real *)s->mask + first));
      if (s->output) {
        real *output = (real *)s->output + at;
        v_store(output, v_select(valid, h, s->zero_output ? v_set(0) : v_load(output)));
      }
      c = v_select(valid, c, old_c);
      h = v_select(valid, h, v_load((const real *)s->h + at));
    }
    v_store((real *)s->c + at, c);
    v_store((real *)s->h_out + at, h);
  }
}

FL_INLINE void FL(lane_tile)(int kind, int V, const fl_lanes *s, ptrdiff_t unit, ptrdiff_t first) {
  vec acc[FL_LANE_VECTORS][4];
  const real *w = (const real *)s->weights + unit * (s->features + s->units) * 4;
  const real *bias = (const real *)s->bias + 4 * unit;
  FL_UNROLL
  for (int v = 0; v < V; v++) {
    FL_UNROLL
    for (int g = 0; g < 4; g++) acc[v][g] = v_set(bias[g]);
  }
  for (int part = 0; part < 2; part++) {
    const ptrdiff_t depth = part ? s->units : s->features;
    const real *a = (const real *)(part ? s->h : s->x) + first;
    for (ptrdiff_t p = 0; p < depth; p++, a += s->padded_rows, w += 4) {
      vec x[FL_LANE_VECTORS];
      FL_UNROLL
      for (int v = 0; v < V; v++) x[v] = v_load(a + v * FL_W);
      FL_UNROLL
      for (int g = 0; g < 4; g++) {
        const vec wg = v_set(w[g]);
        FL_UNROLL
        for (int v = 0; v < V; v++) acc[v][g] = v_fma(x[v], wg, acc[v][g]);
      }
    }
  }
  FL(finish_lanes)(kind, V, s, unit * s->padded_rows + first, first, acc);
}

FL_INLINE void FL(lane_rows)(int kind, const fl_lanes *s) {
  for (ptrdiff_t first = 0; first < s->padded_rows;) {
    const ptrdiff_t left = (s->padded_rows - first) / FL_W;
    const int V = left < FL_LANE_VECTORS ? (int)left : FL_LANE_VECTORS;
    for (ptrdiff_t unit = 0; unit < s->units; unit++) switch (V) {
        case 1:
          FL(lane_tile)(kind, 1, s, unit, first);
          break;
        case 2:
          FL(lane_tile)(kind, 2, s, unit, first);
          break;
#if FL_LANE_VECTORS == 4
        case 3:
          FL(lane_tile)(kind, 3, s, unit, first);
          break;
        default:
          FL(lane_tile)(kind, 4, s, unit, first);
          break;
#endif
      }
    first += V * FL_W;
  }
}

/* One time step of all rows; masked rows keep h and c. */
FL_STATIC void FL(step_lanes)(const fl_lanes *s) {
  if (s->activation == FL_ACT_TANH && s->recurrent_activation == FL_ACT_SIGMOID)
    FL(lane_rows)(FL_CELL_TANH_SIGMOID, s);
  else
    FL(lane_rows)(FL_CELL_ANY, s);
}
