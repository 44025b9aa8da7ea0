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

/* bytes [R]: the mask bytes of each row in the FL_BITS/8 steps from `first` on, side by side in one integer, the first step's lowest.
 *
 * mask [count][T]; steps past the end and the lanes from `count` on are 0. One load a row for several steps: gathered step by step, the
 * bytes of a narrow layer cost as much as a tenth of its arithmetic.
 * any, all: as the rows' integers; a step's byte of `any` is 0 where no row takes part, the lowest bit of `all` is set only where all do. */
FL_STATIC void FL(mask_bytes)(const unsigned char *mask, ptrdiff_t T, ptrdiff_t first, ptrdiff_t count, ptrdiff_t R, void *bytes,
                              int64_t *any, int64_t *all) {
  enum { STEPS = FL_BITS / 8 };
  ireal *out = (ireal *)bytes, some = 0, everybody = (ireal)-1;
  const int whole = T >= STEPS;
  const ptrdiff_t from = whole && first + STEPS > T ? T - STEPS : first; /* the last, short block is read from further ahead */
  const int before = 8 * (int)(first - from);
  mask += from;
  for (ptrdiff_t n = 0; n < count; n++, mask += T) {
    uint64_t word = 0;
    FL_UNROLL
    for (int k = 0; k < STEPS; k++) /* a single load where whole */
      if (whole || k < T) word |= (uint64_t)mask[k] << 8 * k;
    out[n] = (ireal)(word >> before);
    some |= out[n];
    everybody &= out[n];
  }
  for (ptrdiff_t n = count; n < R; n++) out[n] = 0;
  *any = some;
  *all = everybody;
}

/* Which lanes of mask bytes have one in place `step`: laid into the fraction of 2.0, it makes the number larger. */
FL_INLINE vmask FL(has_byte)(const ireal *bytes, int step) {
  const ivec byte = v_shr(v_bits(v_load((const real *)bytes)), 8 * step) & v_iset(255);
  return v_lt(v_set(2), v_unbits(byte | v_bits(v_set(2))));
}

/* The cell of V row vectors of one unit, which begin at `at` in the state arrays; rows that are not valid keep h and c. */
FL_INLINE void FL(finish_lanes)(int kind, int V, const fl_lanes *s, ptrdiff_t at, const vmask *valid, vec z[][4]) {
  FL_UNROLL
  for (int v = 0; v < V; v++, at += FL_W) {
    const vec old_c = v_load((real *)s->c + at);
    vec c = old_c, h;
    FL(cell)(kind, s->activation, s->recurrent_activation, s->rounding, z[v], &c, &h);
    if (s->mask_bytes) {
      if (s->output) {
        real *output = (real *)s->output + at;
        v_store(output, v_select(valid[v], h, s->zero_output ? v_set(0) : v_load(output)));
      }
      c = v_select(valid[v], c, old_c);
      h = v_select(valid[v], h, v_load((const real *)s->h + at));
    }
    v_store((real *)s->c + at, c);
    v_store((real *)s->h_out + at, h);
  }
}

FL_INLINE void FL(lane_tile)(int kind, int V, const fl_lanes *s, ptrdiff_t unit, ptrdiff_t first, const vmask *valid) {
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
  FL(finish_lanes)(kind, V, s, unit * s->padded_rows + first, valid, acc);
}

FL_INLINE void FL(lane_rows)(int kind, const fl_lanes *s) {
  for (ptrdiff_t first = 0; first < s->padded_rows;) {
    const ptrdiff_t left = (s->padded_rows - first) / FL_W;
    const int V = left < FL_LANE_VECTORS ? (int)left : FL_LANE_VECTORS;
    vmask valid[FL_LANE_VECTORS];
    if (s->mask_bytes)
      for (int v = 0; v < V; v++) valid[v] = FL(has_byte)((const ireal *)s->mask_bytes + first + v * FL_W, s->mask_step);
    for (ptrdiff_t unit = 0; unit < s->units; unit++) switch (V) {
        case 1:
          FL(lane_tile)(kind, 1, s, unit, first, valid);
          break;
        case 2:
          FL(lane_tile)(kind, 2, s, unit, first, valid);
          break;
#if FL_LANE_VECTORS == 4
        case 3:
          FL(lane_tile)(kind, 3, s, unit, first, valid);
          break;
        default:
          FL(lane_tile)(kind, 4, s, unit, first, valid);
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
