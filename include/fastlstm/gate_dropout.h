/* gate_dropout.h: the products of a step whose four gates have dropout masks of their own (training; keras-spec 8).
 *
 * Each gate then multiplies its own scaled copy of x and h: gate g reads its rows `g * gate_step` reals further on. The rest is
 * gate_panel.h and gate_backward.h: the same panels, the same chains, the same cell.
 */

#undef FL_GATED_ROWS
#undef FL_FOR_GATED
#if FL_WIDE_ROWS > 3
#define FL_GATED_ROWS 4
#define FL_FOR_GATED(make) make(1) make(2) make(3) make(4)
#else
#define FL_GATED_ROWS 2
#define FL_FOR_GATED(make) make(1) make(2)
#endif

/* acc += one product with a row a gate; the part may have one row for all (gate_step 0). M is a constant. */
FL_INLINE void FL(add_gated)(int M, const fl_product *part, const ptrdiff_t *rows, ptrdiff_t block, vec acc[][FL_TILE_ROWS][4]) {
  const ptrdiff_t gate = part->gate_step, pitch = FL(pitch)(4, part->padded);
  const real *w = (const real *)part->panel + block * part->depth * pitch;
  for (ptrdiff_t run = 0; run < part->runs; run++) {
    const real *row[FL_GATED_ROWS];
    FL_UNROLL
    for (int m = 0; m < M; m++) row[m] = (const real *)part->base + part->offset[rows[m]] + run * part->step;
    for (ptrdiff_t p = 0; p < part->length; p++, w += pitch) {
      FL_UNROLL
      for (int g = 0; g < 4; g++) {
        const vec wg = v_load(w + g * FL_W);
        FL_UNROLL
        for (int m = 0; m < M; m++) acc[0][m][g] = v_fma(v_set(row[m][p + g * gate]), wg, acc[0][m][g]);
      }
    }
  }
}

#define FL_GATED_TILE(M)                                                                   \
  FL_STATIC void FL(gated_##M)(const fl_step *s, const ptrdiff_t *rows, ptrdiff_t block) { \
    vec acc[FL_TILE_BLOCKS][FL_TILE_ROWS][4], z[FL_TILE_BLOCKS][FL_TILE_ROWS][4];          \
    FL(load_panel)(1, M, 4, s->init, s->init_offset, rows, block, acc);                    \
    FL(add_gated)(M, &s->x, rows, block, acc);                                             \
    FL(add_gated)(M, &s->h, rows, block, acc);                                             \
    FL(spill)(1, M, 4, acc, z);                                                            \
    if (s->activation == FL_ACT_TANH && s->recurrent_activation == FL_ACT_SIGMOID)         \
      FL(finish)(FL_CELL_TANH_SIGMOID, 1, M, s, rows, block, z);                           \
    else                                                                                   \
      FL(finish)(FL_CELL_ANY, 1, M, s, rows, block, z);                                    \
  }
#define FL_GATED_CASE(M)           \
  case M:                          \
    FL(gated_##M)(s, rows, block); \
    break;
FL_FOR_GATED(FL_GATED_TILE)

/* One time step, as step(), with a row a gate. */
FL_STATIC void FL(step_gated)(const fl_step *s) {
  for (ptrdiff_t block = 0; block * FL_W < s->units; block++)
    for (ptrdiff_t first = 0; first < s->count;) {
      const ptrdiff_t *rows = s->rows + first;
      const int M = FL(rows_at_once)(s->count - first, FL_GATED_ROWS);
      switch (M) { FL_FOR_GATED(FL_GATED_CASE) }
      first += M;
    }
}

FL_INLINE void FL(outer_gated_tile)(int M, const fl_outer *s, ptrdiff_t first, ptrdiff_t block) {
  const fl_layout layout = {s->units, 1, 0, 0};
  const ptrdiff_t pitch = s->pitch, gate = s->gate_step;
  const real *a = (const real *)s->columns + first, *w = (const real *)s->panel + block * s->panel_depth * 4 * FL_W;
  const real *end = w + s->depth * 4 * FL_W;
  real *z = (real *)s->z + first * 4 * s->units;
  vec acc[FL_GATED_ROWS][4];
  FL_UNROLL
  for (int m = 0; m < M; m++) {
    FL_UNROLL
    for (int g = 0; g < 4; g++) acc[m][g] = v_set(0);
  }
  for (; w != end; w += 4 * FL_W, a += pitch) {
    FL_UNROLL
    for (int g = 0; g < 4; g++) {
      const vec wg = v_load(w + g * FL_W);
      FL_UNROLL
      for (int m = 0; m < M; m++) acc[m][g] = v_fma(v_set(a[m + g * gate]), wg, acc[m][g]);
    }
  }
  FL_UNROLL
  for (int m = 0; m < M; m++) {
    FL_UNROLL
    for (int g = 0; g < 4; g++) {
      real *to = z + m * 4 * s->units + FL(column)(&layout, block, g);
      const ptrdiff_t n = FL(lanes)(&layout, block, g);
      if (n > 0) v_store_n(to, v_load_n(to, n) + acc[m][g], n);
    }
  }
}

#define FL_OUTER_GATED_CASE(M)                \
  case M:                                     \
    FL(outer_gated_tile)(M, s, first, block); \
    break;

/* Weight gradients, as outer(), with columns of their own for each gate. */
FL_STATIC void FL(outer_gated)(const fl_outer *s) {
  for (ptrdiff_t block = 0; block * FL_W < s->units; block++)
    for (ptrdiff_t first = 0; first < s->count;) {
      const int M = FL(rows_at_once)(s->count - first, FL_GATED_ROWS);
      switch (M) { FL_FOR_GATED(FL_OUTER_GATED_CASE) }
      first += M;
    }
}

/* out = a*b, or out += a*b */
FL_STATIC void FL(scale)(void *out, const void *a, const void *b, ptrdiff_t n, int adds) {
  for (ptrdiff_t k = 0; k < n; k += FL_W) {
    const ptrdiff_t m = n - k < FL_W ? n - k : FL_W;
    const vec product = v_load_n((const real *)a + k, m) * v_load_n((const real *)b + k, m);
    v_store_n((real *)out + k, adds ? v_load_n((real *)out + k, m) + product : product, m);
  }
}
