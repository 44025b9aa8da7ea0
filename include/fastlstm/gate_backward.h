/* gate_backward.h: the backward pass in terms of panels.
 *
 * step_back() turns the cotangents of h and c behind a step into those of the four pre-activations and writes them as a panel,
 * [blocks][depth][4][W], depth = the rows of a block of time steps. That one layout serves all products that follow: with the
 * transposed kernels by project() of gate_project.h (a row of dz is a run of 4W in each block), and as the packed matrix itself by
 * outer() for the weight gradients. Padded lanes are stored as 0.
 *
 * Which vector stands where: a group of FL_GROUP blocks (64 bytes of units; the last may have fewer) holds all its vectors of the
 * first gate, then all of the next. The products along a row of dz so take gates and units in one order, whatever FL_W, and
 * dh and dx have the same bits on every instruction set. by_blocks, for gates with dropout masks of their own, where each gate is read
 * by itself: the four vectors of a block side by side.
 */

/* The group of block `block`: its first block, and how many it has. */
FL_INLINE ptrdiff_t FL(dz_group)(ptrdiff_t units, int by_blocks, ptrdiff_t block, ptrdiff_t *first) {
  *first = block;
  if (FL_GROUP == 1 || by_blocks) return 1;
  *first -= block & (FL_GROUP - 1);
  const ptrdiff_t left = (units + FL_W - 1) / FL_W - *first;
  return left < FL_GROUP ? left : FL_GROUP;
}
/* The gate of vector `number` of a group of `together` blocks, and, at, whose of its blocks it is. */
FL_INLINE ptrdiff_t FL(dz_gate)(ptrdiff_t number, ptrdiff_t together, ptrdiff_t *at) {
  ptrdiff_t gate = 0;
  if (together == FL_GROUP) {
    *at = number & (FL_GROUP - 1);
    return number / FL_GROUP;
  }
  for (; number >= together; gate++) number -= together;
  *at = number;
  return gate;
}

/* From one vector of a row to the next: the next block of the group, or the first one of the next gate. */
FL_INLINE void FL(dz_next)(ptrdiff_t together, ptrdiff_t *gate, ptrdiff_t *at) {
  if (++*at < together) return;
  *at = 0;
  ++*gate;
}

/* Fetches what a later row or step will read of n units from u on: where the tape of a step is large, a few rows ahead; else the same row
 * of the step to come, whose pages lie before these, where no processor looks for them by itself. */
FL_INLINE void FL(fetch_tape)(const fl_step_back *s, ptrdiff_t k, ptrdiff_t u, ptrdiff_t n) {
  const int large = s->gates_rows > 64;
  const ptrdiff_t row = s->rows[large && k + 8 < s->count ? k + 8 : k];
  const ptrdiff_t page = large ? 0 : s->gates_rows * s->units, dy_page = large ? 0 : s->dy_step;
  const real *gates = (const real *)s->gates + 4 * (u * s->gates_rows + row * n) - 4 * page;
  for (int g = 0; g < 4; g++) FL_PREFETCH(gates + g * n);
  FL_PREFETCH((const real *)s->c_before + s->c_offset[row] + u - page);
  if (large) FL_PREFETCH((const real *)s->c + s->c_offset[row] + u);
  if (s->dy) FL_PREFETCH((const real *)s->dy + s->dy_offset[row] + u - dy_page);
}

FL_INLINE void FL(step_back_block)(int kind, const fl_step_back *s, ptrdiff_t block) {
  const ptrdiff_t u = block * FL_W, left = s->units - u, n = left < FL_W ? left : FL_W;
  ptrdiff_t first;
  const ptrdiff_t together = FL(dz_group)(s->units, s->by_blocks, block, &first);
  const ptrdiff_t step = s->dz_depth * 4 * FL_W, place = block - first;
  real *to[4], *start = (real *)s->dz + first * step;
  FL_UNROLL
  for (int g = 0; g < 4; g++) {
    if (together == FL_GROUP)
      to[g] = start + g * FL_GROUP / 4 * step + (g * FL_GROUP % 4 + place) * FL_W;
    else
      to[g] = start + (g * together + place) / 4 * step + (g * together + place) % 4 * FL_W;
  }
  for (ptrdiff_t k = 0; k < s->count; k++) {
    const ptrdiff_t row = s->rows[k], at = s->c_offset[row] + u;
    const real *gates = (const real *)s->gates + 4 * (u * s->gates_rows + row * n);
    vec tape[4], dz[4];
    FL(fetch_tape)(s, k, u, n);
    for (int g = 0; g < 4; g++) tape[g] = v_load_n(gates + g * n, n);
    vec dh = v_load_n((const real *)s->dh + at, n), dc = v_load_n((const real *)s->dc + at, n);
    if (s->dy) dh = dh + v_load_n((const real *)s->dy + s->dy_offset[row] + u, n);
    FL(cell_back)(kind, s->activation, s->recurrent_activation, tape, v_load_n((const real *)s->c_before + at, n),
                  v_load_n((const real *)s->c + at, n), dh, &dc, dz);
    v_store_n((real *)s->dc + at, dc, n);
    const ptrdiff_t dz_row = s->dz_row[row] * 4 * FL_W;
#if FL_GROUP > 2
    for (int g = 0; g < 4; g++) v_store(to[g] + dz_row, dz[g]);
#else /* gates 2 and 3 stand to each other as 0 and 1 do: of four pointers most would live on the stack */
    real *low = to[0] + dz_row, *high = to[2] + dz_row;
    v_store(low, dz[0]);
    v_store(low + together * FL_W, dz[1]);
    v_store(high, dz[2]);
    v_store(high + together * FL_W, dz[3]);
#endif
  }
}

FL_STATIC void FL(step_back)(const fl_step_back *s) {
  for (ptrdiff_t block = 0; block * FL_W < s->units; block++) {
    if (s->activation == FL_ACT_TANH && s->recurrent_activation == FL_ACT_SIGMOID)
      FL(step_back_block)(FL_CELL_TANH_SIGMOID, s, block);
    else
      FL(step_back_block)(FL_CELL_ANY, s, block);
  }
}

/* ---- weight gradients ----------------------------------------------------------------------------------------------- */
/* z of B blocks and M rows from row `first` on: a sum of its own, added to z at the end, so that rounding errors grow with the depth
 * of a call and the number of calls, not with their product. The M values of a turn are neighbours: one pointer serves them all. */
FL_INLINE void FL(outer_tile)(int B, int M, const fl_outer *s, ptrdiff_t first, ptrdiff_t block) {
  const fl_layout layout = {s->units, 1, 0, 0};
  const ptrdiff_t stride = s->panel_depth * 4 * FL_W, pitch = s->pitch;
  const real *a = (const real *)s->columns + first, *w = (const real *)s->panel + block * stride, *end = w + s->depth * 4 * FL_W;
  real *z = (real *)s->z + first * 4 * s->units;
  vec acc[FL_TILE_BLOCKS][FL_TILE_ROWS][4];
  FL_UNROLL
  for (int b = 0; b < B; b++) {
    FL_UNROLL
    for (int m = 0; m < M; m++) {
      FL_UNROLL
      for (int g = 0; g < 4; g++) acc[b][m][g] = v_set(0);
    }
  }
  for (; w != end; w += 4 * FL_W, a += pitch) {
    FL_UNROLL
    for (int b = 0; b < B; b++) {
      vec value[FL_TILE_ROWS];
      FL_UNROLL
      for (int m = 0; m < M; m++) value[m] = v_set(a[m]);
      FL_UNROLL
      for (int g = 0; g < 4; g++) {
        const vec wg = v_load(w + b * stride + g * FL_W);
        FL_UNROLL
        for (int m = 0; m < M; m++) acc[b][m][g] = v_fma(value[m], wg, acc[b][m][g]);
      }
    }
  }
  FL_UNROLL
  for (int b = 0; b < B; b++) {
    ptrdiff_t group, at;
    const ptrdiff_t together = FL(dz_group)(s->units, s->by_blocks, block + b, &group);
    ptrdiff_t gate = FL(dz_gate)(4 * (block + b - group), together, &at);
    FL_UNROLL
    for (int g = 0; g < 4; g++) {
      const ptrdiff_t n = FL(lanes)(&layout, group + at, gate);
      real *to = z + FL(column)(&layout, group + at, gate);
      FL_UNROLL
      for (int m = 0; m < M; m++, to += 4 * s->units) v_store_n(to, v_load_n(to, n) + acc[b][m][g], n);
      FL(dz_next)(together, &gate, &at);
    }
  }
}

#define FL_OUTER_TILE(B, M)                                                                 \
  FL_STATIC void FL(outer_##B##x##M)(const fl_outer *s, ptrdiff_t first, ptrdiff_t block) { \
    FL(outer_tile)(B, M, s, first, block);                                                  \
  }
#define FL_OUTER_CASE(B, M)               \
  case 16 * B + M:                        \
    FL(outer_##B##x##M)(s, first, block); \
    break;
FL_FOR_TILES(FL_OUTER_TILE)

FL_STATIC void FL(outer)(const fl_outer *s) {
  const fl_layout layout = {s->units, 1, 0, 0};
  const ptrdiff_t blocks = FL(blocks)(&layout);
  for (ptrdiff_t block = 0; block < blocks;) {
    const int B = FL(blocks_at_once)(s->count, blocks - block);
    for (ptrdiff_t first = 0; first < s->count;) {
      const int M = FL(rows_at_once)(s->count - first, FL_WIDE_ROWS);
      switch (16 * B + M) { FL_FOR_TILES(FL_OUTER_CASE) }
      first += M;
    }
    block += B;
  }
}

/* sums [4U] += the rows of a panel [blocks][depth][4][W]: the gradient of the bias. */
FL_STATIC void FL(sum_panel)(const void *panel, ptrdiff_t units, int by_blocks, ptrdiff_t depth, void *sums) {
  const fl_layout layout = {units, 1, 0, 0};
  const real *row = (const real *)panel;
  for (ptrdiff_t block = 0; block < FL(blocks)(&layout); block++) {
    vec sum[4] = {v_set(0), v_set(0), v_set(0), v_set(0)};
    for (ptrdiff_t r = 0; r < depth; r++, row += 4 * FL_W)
      for (int g = 0; g < 4; g++) sum[g] = sum[g] + v_load(row + g * FL_W);
    ptrdiff_t group, at;
    const ptrdiff_t together = FL(dz_group)(units, by_blocks, block, &group);
    ptrdiff_t gate = FL(dz_gate)(4 * (block - group), together, &at);
    for (int g = 0; g < 4; g++) {
      const ptrdiff_t n = FL(lanes)(&layout, group + at, gate);
      real *to = (real *)sums + FL(column)(&layout, group + at, gate);
      v_store_n(to, v_load_n(to, n) + sum[g], n);
      FL(dz_next)(together, &gate, &at);
    }
  }
}

FL_STATIC void FL(add)(void *a, const void *b, ptrdiff_t n) {
  for (ptrdiff_t k = 0; k < n; k += FL_W) {
    const ptrdiff_t m = n - k < FL_W ? n - k : FL_W;
    v_store_n((real *)a + k, v_load_n((const real *)a + k, m) + v_load_n((const real *)b + k, m), m);
  }
}
