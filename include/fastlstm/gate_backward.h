/* gate_backward.h: the backward pass in terms of panels.
 *
 * step_back() turns the cotangents of h and c behind a step into those of the four pre-activations and writes them as a panel,
 * [blocks][depth][4][W], depth = the rows of a block of time steps. That one layout serves all three products that follow, each by
 * project() of gate_panel.h: with the transposed recurrent kernel (rows of dz as runs of 4W), with the transposed kernel likewise, and
 * as the packed matrix itself for the weight gradients (rows of x and h transposed). Padded lanes are stored as 0.
 */

FL_INLINE void FL(step_back_row)(int kind, const fl_step_back *s, ptrdiff_t row) {
  const ptrdiff_t at = s->c_offset[row], blocks = (s->units + FL_W - 1) / FL_W;
  const real *gates = (const real *)s->gates + s->gates_offset[row];
  const real *dy = s->dy ? (const real *)s->dy + s->dy_offset[row] : NULL;
  for (ptrdiff_t block = 0; block < blocks; block++) {
    const ptrdiff_t u = block * FL_W, left = s->units - u, n = left < FL_W ? left : FL_W;
    real *dz_row = (real *)s->dz + (block * s->dz_depth + s->dz_row[row]) * 4 * FL_W;
    vec tape[4], dz[4];
    for (int g = 0; g < 4; g++) tape[g] = v_load_n(gates + g * s->units + u, n);
    vec dh = v_load_n((const real *)s->dh + at + u, n), dc = v_load_n((const real *)s->dc + at + u, n);
    if (dy) dh = dh + v_load_n(dy + u, n);
    FL(cell_back)(kind, s->activation, s->recurrent_activation, tape, v_load_n((const real *)s->c_before + at + u, n),
                  v_load_n((const real *)s->c + at + u, n), dh, &dc, dz);
    v_store_n((real *)s->dc + at + u, dc, n);
    for (int g = 0; g < 4; g++) v_store(dz_row + g * FL_W, dz[g]);
  }
}

FL_STATIC void FL(step_back)(const fl_step_back *s) {
  const int fast = s->activation == FL_ACT_TANH && s->recurrent_activation == FL_ACT_SIGMOID;
  for (ptrdiff_t k = 0; k < s->count; k++) {
    if (fast)
      FL(step_back_row)(FL_CELL_TANH_SIGMOID, s, s->rows[k]);
    else
      FL(step_back_row)(FL_CELL_ANY, s, s->rows[k]);
  }
}

/* sums [4U] += the rows of a panel [blocks][depth][4][W]: the gradient of the bias. */
FL_STATIC void FL(sum_panel)(const void *panel, ptrdiff_t units, ptrdiff_t depth, void *sums) {
  const fl_layout layout = {units, 1};
  const real *row = (const real *)panel;
  for (ptrdiff_t block = 0; block < FL(blocks)(&layout); block++) {
    vec sum[4];
    for (int g = 0; g < 4; g++) sum[g] = v_load_n((real *)sums + FL(column)(&layout, block, g), FL(lanes)(&layout, block, g));
    for (ptrdiff_t r = 0; r < depth; r++, row += 4 * FL_W)
      for (int g = 0; g < 4; g++) sum[g] = sum[g] + v_load(row + g * FL_W);
    for (int g = 0; g < 4; g++) v_store_n((real *)sums + FL(column)(&layout, block, g), sum[g], FL(lanes)(&layout, block, g));
  }
}

FL_STATIC void FL(add)(void *a, const void *b, ptrdiff_t n) {
  for (ptrdiff_t k = 0; k < n; k += FL_W) {
    const ptrdiff_t m = n - k < FL_W ? n - k : FL_W;
    v_store_n((real *)a + k, v_load_n((const real *)a + k, m) + v_load_n((const real *)b + k, m), m);
  }
}

/* out [width][out_stride] = rows [rows][width] transposed, 16 by 16 so that both sides stay in the cache. */
FL_STATIC void FL(transpose)(const void *base, ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t width, void *out,
                             ptrdiff_t out_stride) {
  for (ptrdiff_t r0 = 0; r0 < rows; r0 += 16)
    for (ptrdiff_t k0 = 0; k0 < width; k0 += 16) {
      const ptrdiff_t r1 = r0 + 16 < rows ? r0 + 16 : rows, k1 = k0 + 16 < width ? k0 + 16 : width;
      for (ptrdiff_t k = k0; k < k1; k++)
        for (ptrdiff_t r = r0; r < r1; r++) ((real *)out)[k * out_stride + r] = ((const real *)base)[r * stride + k];
    }
}
