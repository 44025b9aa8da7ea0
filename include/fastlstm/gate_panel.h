/* gate_panel.h: packed weights and the micro-kernel that multiplies rows with them.
 *
 * A weight matrix [P,4U] is packed once into panels [blocks][P][4][W], zero-padded: block b holds W units of all four gates, so that one
 * pass over a panel makes the complete pre-activations of W units for a tile of rows in registers, and the cell can follow
 * without a gate buffer. A plain matrix [P,n] is packed the same way, 4W consecutive columns a block (fl_layout says which).
 *
 * Numerics: each pre-activation is one chain of fused multiply-adds, bias first, then x in ascending order, then h in ascending order,
 * whatever the tile, the batch or the split of the work; latency is hidden by several rows or several blocks side by side.
 * Rows are pointers (base + offset), so they may come from several samples, skip masked ones and overlap (windows of a convolution).
 */

/* Rows of a tile, and blocks side by side for a single row: a tile of B blocks, M rows and V vectors has B*M*V accumulators, which must fit
 * the register file beside the V weights and a broadcast. FL_TILE_ROWS is the most of any tile. */
#undef FL_WIDE_ROWS
#undef FL_TILE_ROWS
#undef FL_TILE_BLOCKS
#define FL_TILE_ROWS 8
#if defined(FL_ISA_AVX512) || defined(FL_ISA_NEON)
#define FL_WIDE_ROWS 6
#define FL_TILE_BLOCKS 3
#elif defined(FL_ISA_AVX2)
#define FL_WIDE_ROWS 3
#define FL_TILE_BLOCKS 2
#else
#define FL_WIDE_ROWS 2
#define FL_TILE_BLOCKS 1
#endif

/* The gap behind each row of a padded panel, reals. */
#undef FL_PAD
#define FL_PAD (FL_VECTOR_BYTES == 64 ? 64 / (FL_BITS / 8) : 0)

/* Blocks that a row of dz takes gate by gate (gate_backward.h): 64 bytes of each gate, whatever the instruction set. */
#undef FL_GROUP
#if FL_VECTOR_BYTES < 16
#define FL_GROUP 1
#else
#define FL_GROUP (64 / FL_VECTOR_BYTES)
#endif

/* ---- layout --------------------------------------------------------------------------------------------------------- */
/* Vectors of a block: 4, or fewer where a plain matrix has no more columns. */
FL_INLINE int FL(vectors)(const fl_layout *layout) {
  return layout->gates || layout->columns > 2 * FL_W ? 4 : layout->columns > FL_W ? 2 : 1;
}
/* How many of the W lanes of vector `gate` in block `block` exist. */
FL_INLINE ptrdiff_t FL(lanes)(const fl_layout *layout, ptrdiff_t block, ptrdiff_t gate) {
  ptrdiff_t first = layout->gates ? block * FL_W : (4 * block + gate) * FL_W;
  ptrdiff_t left = layout->columns - first;
  return left <= 0 ? 0 : left < FL_W ? left : FL_W;
}
/* Column of the unpacked matrix where vector `gate` of block `block` begins. */
FL_INLINE ptrdiff_t FL(column)(const fl_layout *layout, ptrdiff_t block, ptrdiff_t gate) {
  return layout->gates ? gate * layout->columns + block * FL_W : (4 * block + gate) * FL_W;
}
FL_INLINE ptrdiff_t FL(blocks)(const fl_layout *layout) {
  ptrdiff_t wide = layout->gates ? FL_W : 4 * FL_W;
  return (layout->columns + wide - 1) / wide;
}

/* From one row of a block to the next, reals. */
FL_INLINE ptrdiff_t FL(pitch)(int vectors, int padded) { return vectors * FL_W + (padded ? FL_PAD : 0); }

/* Number of reals that pack() writes for a matrix of `depth` rows. */
FL_STATIC ptrdiff_t FL(panel_size)(const fl_layout *layout, ptrdiff_t depth) {
  if (layout->dots) return layout->columns * depth;
  return FL(blocks)(layout) * depth * FL(pitch)(FL(vectors)(layout), layout->padded);
}

/* Packs matrix [depth, all columns] (row stride `stride` reals) into panel [blocks][depth][vectors][W], each row of a block padded. */
FL_STATIC void FL(pack)(const fl_layout *layout, ptrdiff_t depth, const void *matrix, ptrdiff_t stride, void *panel) {
  real *out = (real *)panel;
  const int vectors = FL(vectors)(layout);
  if (layout->dots) {
    for (ptrdiff_t k = 0; k < layout->columns * depth; k++) out[k] = ((const real *)matrix)[k % depth * stride + k / depth];
    return;
  }
  for (ptrdiff_t block = 0; block < FL(blocks)(layout); block++)
    for (ptrdiff_t p = 0; p < depth; p++) {
      for (int gate = 0; gate < vectors; gate++, out += FL_W) {
        const ptrdiff_t n = FL(lanes)(layout, block, gate);
        const real *from = (const real *)matrix + p * stride + (n ? FL(column)(layout, block, gate) : 0);
        v_store(out, v_load_n(from, n)); /* of a loop over k < n, gcc 12 makes loads that reach beyond the matrix */
      }
      for (ptrdiff_t k = FL(pitch)(vectors, layout->padded) - vectors * FL_W; k > 0; k--) *out++ = 0;
    }
}

/* ---- the micro-kernel ----------------------------------------------------------------------------------------------- */
/* acc[b][m][g] += row[m] * panel of block b; B blocks of `panel_stride` reals, whose rows begin `pitch` apart, M rows, V vectors, `depth`
 * values a row. B, M, V and pitch are constants. */
FL_INLINE void FL(multiply)(int B, int M, int V, vec acc[][FL_TILE_ROWS][4], const real *const row[], const real *panel,
                            ptrdiff_t panel_stride, ptrdiff_t pitch, ptrdiff_t depth) {
  /* Counted up to 0 from the ends of the rows, which leaves no limit to be kept in a register: five rows have none to spare. */
  const real *end[FL_TILE_ROWS], *panel_end = panel + depth * pitch;
  FL_UNROLL
  for (int m = 0; m < M; m++) end[m] = row[m] + depth;
  for (ptrdiff_t p = -depth; p != 0; p++) {
    FL_UNROLL
    for (int b = 0; b < B; b++) {
      const real *w = panel_end + b * panel_stride + p * pitch;
#if FL_WIDE_ROWS > 3
      vec wg[4];
      FL_UNROLL
      for (int g = 0; g < V; g++) wg[g] = v_load(w + g * FL_W);
      FL_UNROLL
      for (int m = 0; m < M; m++) {
        const vec a = v_set(end[m][p]);
        FL_UNROLL
        for (int g = 0; g < V; g++) acc[b][m][g] = v_fma(a, wg[g], acc[b][m][g]);
      }
#else /* sixteen registers: the weights pass through one (wide tiles hold the rows' values, narrow ones the weights) */
      if (V == 4) {
        vec a[FL_TILE_ROWS];
        FL_UNROLL
        for (int m = 0; m < M; m++) a[m] = v_set(end[m][p]);
        FL_UNROLL
        for (int g = 0; g < V; g++) {
          const vec wg = v_load(w + g * FL_W);
          FL_UNROLL
          for (int m = 0; m < M; m++) acc[b][m][g] = v_fma(a[m], wg, acc[b][m][g]);
        }
      } else {
        vec wg[4];
        FL_UNROLL
        for (int g = 0; g < V; g++) wg[g] = v_load(w + g * FL_W);
        FL_UNROLL
        for (int m = 0; m < M; m++) {
          const vec a = v_set(end[m][p]);
          FL_UNROLL
          for (int g = 0; g < V; g++) acc[b][m][g] = v_fma(a, wg[g], acc[b][m][g]);
        }
      }
#endif
    }
  }
}

/* acc = what stands in panel-ordered rows (bias panel, padded z): row m begins at init + init_offset[rows[m]]. */
FL_INLINE void FL(load_panel)(int B, int M, int V, const void *init, const ptrdiff_t *init_offset, const ptrdiff_t *rows,
                              ptrdiff_t block, vec acc[][FL_TILE_ROWS][4]) {
  FL_UNROLL
  for (int m = 0; m < M; m++) {
    const real *start = (const real *)init + (init_offset ? init_offset[rows[m]] : 0) + block * V * FL_W;
    FL_UNROLL
    for (int b = 0; b < B; b++) {
      FL_UNROLL
      for (int g = 0; g < V; g++) acc[b][m][g] = v_load(start + (V * b + g) * FL_W);
    }
  }
}

/* acc += one product. B, M, V and padded are constants. */
FL_INLINE void FL(add_runs)(int B, int M, int V, int padded, const fl_product *part, const ptrdiff_t *rows, ptrdiff_t block,
                            vec acc[][FL_TILE_ROWS][4]) {
  const real *pointer[FL_TILE_ROWS];
  const ptrdiff_t pitch = FL(pitch)(V, padded), stride = part->depth * pitch;
  const real *panel = (const real *)part->panel + block * stride;
  for (ptrdiff_t group = 0; group < part->groups; group++)
    for (ptrdiff_t run = 0; run < part->runs; run++, panel += part->length * pitch) {
      const real *base = (const real *)part->base + group * part->group_step + run * part->step;
      FL_UNROLL
      for (int m = 0; m < M; m++) pointer[m] = base + part->offset[rows[m]];
      FL(multiply)(B, M, V, acc, pointer, panel, stride, pitch, part->length);
    }
}
FL_INLINE void FL(add_product)(int B, int M, int V, const fl_product *part, const ptrdiff_t *rows, ptrdiff_t block,
                               vec acc[][FL_TILE_ROWS][4]) {
  if (part->panel == NULL) return;
  if (FL_PAD && V == 4 && part->padded)
    FL(add_runs)(B, M, V, 1, part, rows, block, acc);
  else
    FL(add_runs)(B, M, V, 0, part, rows, block, acc);
}

/* acc += 0, as the product of a state of zeros would leave it: -0 becomes +0 (see fl_step). */
FL_INLINE void FL(add_zeros)(int B, int M, vec acc[][FL_TILE_ROWS][4]) {
  FL_UNROLL
  for (int b = 0; b < B; b++) {
    FL_UNROLL
    for (int m = 0; m < M; m++) {
      FL_UNROLL
      for (int g = 0; g < 4; g++) acc[b][m][g] = acc[b][m][g] + v_set(0);
    }
  }
}

/* z = acc, so that what follows may index it freely without pulling the accumulators out of their registers. */
FL_INLINE void FL(spill)(int B, int M, int V, vec acc[][FL_TILE_ROWS][4], vec z[][FL_TILE_ROWS][4]) {
  FL_UNROLL
  for (int b = 0; b < B; b++) {
    FL_UNROLL
    for (int m = 0; m < M; m++) {
      FL_UNROLL
      for (int g = 0; g < V; g++) z[b][m][g] = acc[b][m][g];
    }
  }
}

/* ---- fused step: the cell follows in the same pass ------------------------------------------------------------------ */
/* Writes the tape of the n units of one row from unit u on, a multiple of W; z is as FL(cell) left it. */
FL_INLINE void FL(record)(const fl_step *s, ptrdiff_t row, ptrdiff_t u, ptrdiff_t n, const vec z[4]) {
  real *gates = (real *)s->gates + 4 * (u * s->gates_rows + row * n);
  for (int g = 0; g < 4; g++, gates += n) {
    if (n == FL_W)
      v_store(gates, z[g]);
    else
      v_store_n(gates, z[g], n);
  }
}

FL_INLINE void FL(finish)(int kind, int B, int M, const fl_step *s, const ptrdiff_t *rows, ptrdiff_t block,
                          vec z[][FL_TILE_ROWS][4]) {
  for (int b = 0; b < B; b++) {
    const ptrdiff_t u = (block + b) * FL_W, left = s->units - u, n = left < FL_W ? left : FL_W;
    for (int m = 0; m < M; m++) {
      const real *c_row = (const real *)s->c + s->c_offset[rows[m]] + u;
      real *c_out = (real *)s->c_out + s->c_offset[rows[m]] + u, *h_row = (real *)s->h_out + s->h_offset[rows[m]] + u;
      real *y_row = s->y ? (real *)s->y + s->y_offset[rows[m]] + u : NULL;
      vec h, c = n == FL_W ? v_load(c_row) : v_load_n(c_row, n);
      FL(cell)(kind, s->activation, s->recurrent_activation, s->rounding, z[b][m], &c, &h);
      if (s->gates) FL(record)(s, rows[m], u, n, z[b][m]);
      if (n == FL_W) {
        v_store(c_out, c);
        v_store(h_row, h);
        if (y_row) v_store(y_row, h);
      } else {
        v_store_n(c_out, c, n);
        v_store_n(h_row, h, n);
        if (y_row) v_store_n(y_row, h, n);
      }
    }
  }
}

/* One function a tile size, so that each gets its own registers; which sizes exist depends on the register file. */
#undef FL_FOR_TILES
#if FL_WIDE_ROWS == 6
#define FL_FOR_TILES(make) make(1, 1) make(1, 2) make(1, 3) make(1, 4) make(1, 5) make(1, 6) make(2, 1) make(3, 1)
#elif FL_WIDE_ROWS == 3
#define FL_FOR_TILES(make) make(1, 1) make(1, 2) make(1, 3) make(2, 1)
#else
#define FL_FOR_TILES(make) make(1, 1) make(1, 2)
#endif

#define FL_STEP_TILE(B, M)                                                                      \
  FL_STATIC void FL(step_##B##x##M)(const fl_step *s, const ptrdiff_t *rows, ptrdiff_t block) { \
    vec acc[FL_TILE_BLOCKS][FL_TILE_ROWS][4], z[FL_TILE_BLOCKS][FL_TILE_ROWS][4];               \
    FL(load_panel)(B, M, 4, s->init, s->init_offset, rows, block, acc);                         \
    FL(add_product)(B, M, 4, &s->x, rows, block, acc);                                          \
    FL(add_product)(B, M, 4, &s->h, rows, block, acc);                                          \
    if (s->h.panel == NULL) FL(add_zeros)(B, M, acc);                                           \
    FL(spill)(B, M, 4, acc, z);                                                                 \
    if (s->activation == FL_ACT_TANH && s->recurrent_activation == FL_ACT_SIGMOID)              \
      FL(finish)(FL_CELL_TANH_SIGMOID, B, M, s, rows, block, z);                                \
    else                                                                                        \
      FL(finish)(FL_CELL_ANY, B, M, s, rows, block, z);                                         \
  }
#define FL_STEP_CASE(B, M)              \
  case 16 * B + M:                      \
    FL(step_##B##x##M)(s, rows, block); \
    break;
FL_FOR_TILES(FL_STEP_TILE)

/* Blocks to take at once: several only where one row alone would leave the pipeline waiting for its own sums. */
FL_INLINE int FL(blocks_at_once)(ptrdiff_t rows, ptrdiff_t blocks_left) {
  return rows > 1 ? 1 : blocks_left < FL_TILE_BLOCKS ? (int)blocks_left : FL_TILE_BLOCKS;
}
/* Rows of the next tile: as even a split as `most` rows a tile allow (8 rows by 6: 4 + 4, not 6 + 2). */
FL_INLINE int FL(rows_at_once)(ptrdiff_t left, int most) {
  const ptrdiff_t tiles = (left + most - 1) / most;
  return (int)((left + tiles - 1) / tiles);
}

/* One time step of s->count rows: new c (in place), h and, where asked for, y. */
FL_STATIC void FL(step)(const fl_step *s) {
  const ptrdiff_t blocks = (s->units + FL_W - 1) / FL_W;
  for (ptrdiff_t done = 0; done < blocks;) {
    const int B = FL(blocks_at_once)(s->count, blocks - done);
    const ptrdiff_t block = s->descending ? blocks - done - B : done;
    for (ptrdiff_t first = 0; first < s->count;) {
      const ptrdiff_t *rows = s->rows + first;
      const int M = FL(rows_at_once)(s->count - first, FL_WIDE_ROWS);
      switch (16 * B + M) { FL_FOR_TILES(FL_STEP_CASE) }
      first += M;
    }
    done += B;
  }
}
