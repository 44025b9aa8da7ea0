/* gate_project.h: pre-activations in rows: z = init + x @ panel + h @ panel, by the tiles of gate_panel.h, and the cell of such rows.
 *
 * project() serves whatever wants a product with a packed matrix: x projected ahead, the general path, Dense, Conv1D, the backward
 * pass. cell_rows() is the general path's cell: it takes every activation, those over a row too.
 */

FL_INLINE void FL(store_z)(int B, int M, int V, const fl_project *s, const ptrdiff_t *rows, ptrdiff_t block,
                           vec z[][FL_TILE_ROWS][4]) {
  for (int b = 0; b < B; b++)
    for (int m = 0; m < M; m++) {
      real *row = (real *)s->z + s->z_offset[rows[m]];
      for (int g = 0; g < V; g++) {
        if (s->padded) {
          v_store(row + (4 * (block + b) + g) * FL_W, z[b][m][g]);
          continue;
        }
        const ptrdiff_t n = FL(lanes)(&s->layout, block + b, g);
        real *to = row + FL(column)(&s->layout, block + b, g);
        if (n == FL_W)
          v_store(to, z[b][m][g]);
        else if (n > 0)
          v_store_n(to, z[b][m][g], n);
      }
    }
}

FL_INLINE void FL(project_tile)(int B, int M, int V, int padded, const fl_project *s, const ptrdiff_t *rows, ptrdiff_t block) {
  vec acc[FL_TILE_BLOCKS][FL_TILE_ROWS][4], z[FL_TILE_BLOCKS][FL_TILE_ROWS][4];
  FL(load_panel)(B, M, V, s->init, NULL, rows, block, acc);
  if (s->x.panel) FL(add_runs)(B, M, V, padded, &s->x, rows, block, acc);
  if (s->h.panel) FL(add_runs)(B, M, V, padded, &s->h, rows, block, acc);
  FL(spill)(B, M, V, acc, z);
  FL(store_z)(B, M, V, s, rows, block, z);
}

#define FL_PROJECT_TILE(B, M)                                                                         \
  FL_STATIC void FL(project_##B##x##M)(const fl_project *s, const ptrdiff_t *rows, ptrdiff_t block) { \
    FL(project_tile)(B, M, 4, 0, s, rows, block);                                                     \
  }
#define FL_PROJECT_CASE(B, M)              \
  case 16 * B + M:                         \
    FL(project_##B##x##M)(s, rows, block); \
    break;
FL_FOR_TILES(FL_PROJECT_TILE)
#if FL_VECTOR_BYTES == 64 /* of five rows at most: with a sixth, compilers put a weight on the stack */
#undef FL_FOR_PADDED
#define FL_FOR_PADDED(make) make(1, 1) make(1, 2) make(1, 3) make(1, 4) make(1, 5) make(2, 1) make(3, 1)
#define FL_PADDED_TILE(B, M)                                                                         \
  FL_STATIC void FL(padded_##B##x##M)(const fl_project *s, const ptrdiff_t *rows, ptrdiff_t block) { \
    FL(project_tile)(B, M, 4, 1, s, rows, block);                                                    \
  }
#define FL_PADDED_CASE(B, M)              \
  case 16 * B + M:                        \
    FL(padded_##B##x##M)(s, rows, block); \
    break;
FL_FOR_PADDED(FL_PADDED_TILE)
#endif

/* Narrow matrices: one block of V < 4 vectors, so more rows fit. */
#undef FL_FOR_NARROW
#define FL_FOR_NARROW(make)                                                                                                \
  make(1, 1) make(1, 2) make(1, 3) make(1, 4) make(1, 5) make(1, 6) make(1, 7) make(1, 8) make(2, 1) make(2, 2) make(2, 3) \
      make(2, 4) make(2, 5)
#define FL_NARROW_TILE(V, M) \
  FL_STATIC void FL(narrow_##V##x##M)(const fl_project *s, const ptrdiff_t *rows) { FL(project_tile)(1, M, V, 0, s, rows, 0); }
#define FL_NARROW_CASE(V, M)       \
  case 16 * V + M:                 \
    FL(narrow_##V##x##M)(s, rows); \
    break;
FL_FOR_NARROW(FL_NARROW_TILE)

FL_STATIC void FL(project_narrow)(const fl_project *s, int V) {
  for (ptrdiff_t first = 0; first < s->count;) {
    const ptrdiff_t *rows = s->rows + first;
    const int M = FL(rows_at_once)(s->count - first, V == 1 ? 8 : 5);
    switch (16 * V + M) { FL_FOR_NARROW(FL_NARROW_CASE) }
    first += M;
  }
}

/* ---- few columns: along the vectors of a row ------------------------------------------------------------------------- */
#undef FL_DOT_ROWS
#define FL_DOT_ROWS (FL_WIDE_ROWS > 3 ? 8 : 4)

/* z of M rows and one column, x's product only. M is a constant. */
FL_INLINE void FL(dot_tile)(int M, const fl_project *s, const ptrdiff_t *rows, ptrdiff_t column) {
  const fl_product *part = &s->x;
  const real *w = (const real *)part->panel + column * part->depth;
  vec acc[FL_DOT_ROWS];
  FL_UNROLL
  for (int m = 0; m < M; m++) acc[m] = v_set(0);
  for (ptrdiff_t group = 0; group < part->groups; group++)
    for (ptrdiff_t run = 0; run < part->runs; run++) {
      const real *base = (const real *)part->base + group * part->group_step + run * part->step, *row[FL_DOT_ROWS];
      FL_UNROLL
      for (int m = 0; m < M; m++) row[m] = base + part->offset[rows[m]];
      for (ptrdiff_t p = 0; p < part->length; p += FL_W, w += FL_W) {
        const vec wp = v_load(w);
        FL_UNROLL
        for (int m = 0; m < M; m++) acc[m] = v_fma(v_load(row[m] + p), wp, acc[m]);
      }
    }
  for (int m = 0; m < M; m++) ((real *)s->z)[s->z_offset[rows[m]] + column] = v_sum(acc[m]) + ((const real *)s->init)[column];
}

#if FL_GROUP > 1
/* Dots of rows of dz: as many partial sums as a vector of 64 bytes has lanes, whatever FL_W. */
#undef FL_DOT_GROUP_ROWS
#define FL_DOT_GROUP_ROWS (FL_WIDE_ROWS == 2 ? 2 : 4)

/* acc[][i] += the products of `count` blocks, from block `first` of the runs on; vector v of a group of Q blocks belongs to i = v mod Q.
 * M and Q are constants, `count` is a multiple of Q. */
FL_INLINE void FL(dot_blocks)(int M, int Q, ptrdiff_t step, const real *const start[], ptrdiff_t first, ptrdiff_t count,
                              const real **w, vec acc[][FL_GROUP]) {
  const int together = Q == 3 ? 3 : 1; /* blocks whose vectors come back to i = 0 */
  for (ptrdiff_t block = first; block < first + count; block += together) {
    FL_UNROLL
    for (int k = 0; k < together; k++) {
      FL_UNROLL
      for (int v = 0; v < 4; v++, *w += FL_W) {
        const vec wp = v_load(*w);
        FL_UNROLL
        for (int m = 0; m < M; m++) {
          vec *sum = &acc[m][(4 * k + v) % Q];
          *sum = v_fma(v_load(start[m] + (block + k) * step + v * FL_W), wp, *sum);
        }
      }
    }
  }
}

/* As dot_tile(). The groups of the product are its taps, the runs its blocks. */
FL_INLINE void FL(dot_group_tile)(int M, const fl_project *s, const ptrdiff_t *rows, ptrdiff_t column) {
  const fl_product *part = &s->x;
  const ptrdiff_t whole = part->runs / FL_GROUP * FL_GROUP;
  const real *w = (const real *)part->panel + column * part->depth;
  vec acc[FL_DOT_GROUP_ROWS][FL_GROUP];
  FL_UNROLL
  for (int m = 0; m < M; m++) {
    FL_UNROLL
    for (int i = 0; i < FL_GROUP; i++) acc[m][i] = v_set(0);
  }
  for (ptrdiff_t tap = 0; tap < part->groups; tap++) {
    const real *start[FL_DOT_GROUP_ROWS];
    FL_UNROLL
    for (int m = 0; m < M; m++) start[m] = (const real *)part->base + part->offset[rows[m]] + tap * part->group_step;
    FL(dot_blocks)(M, FL_GROUP, part->step, start, 0, whole, &w, acc);
    switch (part->runs - whole) {
      case 1:
        FL(dot_blocks)(M, 1, part->step, start, whole, 1, &w, acc);
        break;
#if FL_GROUP == 4
      case 2:
        FL(dot_blocks)(M, 2, part->step, start, whole, 2, &w, acc);
        break;
      case 3:
        FL(dot_blocks)(M, 3, part->step, start, whole, 3, &w, acc);
        break;
#endif
    }
  }
  FL_UNROLL
  for (int m = 0; m < M; m++) {
    FL_UNROLL
    for (int half = FL_GROUP / 2; half > 0; half /= 2) {
      FL_UNROLL
      for (int i = 0; i < half; i++) acc[m][i] = acc[m][i] + acc[m][i + half];
    }
    ((real *)s->z)[s->z_offset[rows[m]] + column] = v_sum(acc[m][0]) + ((const real *)s->init)[column];
  }
}

FL_STATIC void FL(project_group_dots)(const fl_project *s) {
  for (ptrdiff_t column = 0; column < s->layout.columns; column++) {
    ptrdiff_t first = 0;
    for (; s->count - first >= FL_DOT_GROUP_ROWS; first += FL_DOT_GROUP_ROWS)
      FL(dot_group_tile)(FL_DOT_GROUP_ROWS, s, s->rows + first, column);
    for (; first < s->count; first++) FL(dot_group_tile)(1, s, s->rows + first, column);
  }
}
#endif

FL_STATIC void FL(project_dots)(const fl_project *s) {
#if FL_GROUP > 1
  if (s->layout.dots == FL_DOTS_OF_GROUPS) {
    FL(project_group_dots)(s);
    return;
  }
#endif
  for (ptrdiff_t column = 0; column < s->layout.columns; column++) {
    ptrdiff_t first = 0;
    for (; s->count - first >= FL_DOT_ROWS; first += FL_DOT_ROWS) FL(dot_tile)(FL_DOT_ROWS, s, s->rows + first, column);
    for (; first < s->count; first++) FL(dot_tile)(1, s, s->rows + first, column);
  }
}

/* z rows of s->count rows: init + x @ panel (+ h @ panel), flat (columns as in the unpacked matrix) or padded [blocks][4][W]. */
FL_STATIC void FL(project)(const fl_project *s) {
  const ptrdiff_t blocks = FL(blocks)(&s->layout);
  const int padded = FL_PAD && (s->x.panel ? s->x.padded : s->h.padded);
  if (s->layout.dots) {
    FL(project_dots)(s);
    return;
  }
  if (FL(vectors)(&s->layout) < 4) {
    FL(project_narrow)(s, FL(vectors)(&s->layout));
    return;
  }
  for (ptrdiff_t block = 0; block < blocks;) {
    const int B = FL(blocks_at_once)(s->count, blocks - block);
    for (ptrdiff_t first = 0; first < s->count;) {
      const ptrdiff_t *rows = s->rows + first;
      const int M = FL(rows_at_once)(s->count - first, padded ? 5 : FL_WIDE_ROWS);
#if FL_VECTOR_BYTES == 64
      if (padded) switch (16 * B + M) {
          FL_FOR_PADDED(FL_PADDED_CASE)
        }
      else
#endif
        switch (16 * B + M) { FL_FOR_TILES(FL_PROJECT_CASE) }
      first += M;
    }
    block += B;
  }
}

/* ---- the general path's cell: pre-activations in rows [4U] ---------------------------------------------------------- */
/* Overwrites the z rows. Takes every activation, those over a row (softmax …) too. */
FL_STATIC void FL(cell_rows)(const fl_step *s) {
  const ptrdiff_t U = s->units;
  const int fast = s->activation == FL_ACT_TANH && s->recurrent_activation == FL_ACT_SIGMOID;
  const int over_row = s->activation >= FL_ACT_ELEMENTWISE || s->recurrent_activation >= FL_ACT_ELEMENTWISE;
  for (ptrdiff_t k = 0; k < s->count; k++) {
    const ptrdiff_t row = s->rows[k];
    real *z = (real *)s->init + s->init_offset[row];
    const real *c = (const real *)s->c + s->c_offset[row];
    real *c_out = (real *)s->c_out + s->c_offset[row], *h = (real *)s->h_out + s->h_offset[row],
         *y = s->y ? (real *)s->y + s->y_offset[row] : NULL;
    if (over_row) {
      FL(activate_row)(s->recurrent_activation, z, U);
      FL(activate_row)(s->recurrent_activation, z + U, U);
      FL(activate_row)(s->activation, z + 2 * U, U);
      FL(activate_row)(s->recurrent_activation, z + 3 * U, U);
      for (ptrdiff_t u = 0; u < U; u += FL_W) {
        const ptrdiff_t n = U - u < FL_W ? U - u : FL_W;
        const vec new_c = v_fma(v_load_n(z + U + u, n), v_load_n(c + u, n), v_load_n(z + u, n) * v_load_n(z + 2 * U + u, n));
        const vec rounded = FL(round_storage)(s->rounding, new_c);
        v_store_n(c_out + u, rounded, n);
        v_store_n(z + u, rounded, n);
      }
      FL(activate_row)(s->activation, z, U);
      for (ptrdiff_t u = 0; u < U; u += FL_W) {
        const ptrdiff_t n = U - u < FL_W ? U - u : FL_W;
        v_store_n(h + u, FL(round_storage)(s->rounding, v_load_n(z + 3 * U + u, n) * v_load_n(z + u, n)), n);
      }
    } else {
      for (ptrdiff_t u = 0; u < U; u += FL_W) {
        const ptrdiff_t n = U - u < FL_W ? U - u : FL_W;
        vec gates[4] = {v_load_n(z + u, n), v_load_n(z + U + u, n), v_load_n(z + 2 * U + u, n), v_load_n(z + 3 * U + u, n)};
        vec new_h, new_c = v_load_n(c + u, n);
        FL(cell)(fast ? FL_CELL_TANH_SIGMOID : FL_CELL_ANY, s->activation, s->recurrent_activation, s->rounding, gates, &new_c,
                 &new_h);
        if (s->gates) FL(record)(s, row, u, n, gates);
        v_store_n(c_out + u, new_c, n);
        v_store_n(h + u, new_h, n);
      }
    }
    if (y) memcpy(y, h, (size_t)U * sizeof(real));
  }
}
