/* single_row.h: consecutive time steps of one row: a single stream, the case in which nothing but the weights is large.
 *
 * The arithmetic is step()'s of gate_panel.h, chain by chain; what differs is the way. The steps follow one another without going back
 * to the caller, and a tile's cell follows in registers, so that the next tile's products begin while the cell waits for its own.
 *   near     panels that a first-level cache holds: x window and h window through the same tiles; x's part of a step does not wait for
 *            the step before
 *   hoisted  larger ones: x projected for a block of steps at once, then h's panel step by step
 * Letters as in arguments.h.
 */

/* The size of x's and h's panels together that counts as near. */
#undef FL_NEAR_REALS
#define FL_NEAR_REALS (40 * 1024 / (FL_BITS / 8))
/* A panel of h from here on is taken block by block: four chains of 64 bytes keep up with the cache it comes from, and what the last
 * block leaves in a first-level cache is worth more than further chains. */
#undef FL_FAR_REALS
#define FL_FAR_REALS (FL_VECTOR_BYTES == 64 ? 80 * 1024 / (FL_BITS / 8) : PTRDIFF_MAX)
/* A block up to this size stays there while the first half of the next one comes in. */
#undef FL_KEPT_REALS
#define FL_KEPT_REALS (32 * 1024 / (FL_BITS / 8))
/* Blocks of a tile: 4 accumulators each, beside a broadcast; the weights come straight from memory. */
#undef FL_ROW_BLOCKS
#if FL_VECTOR_BYTES >= 32 || defined(FL_ISA_NEON)
#define FL_ROW_BLOCKS 3
#else
#define FL_ROW_BLOCKS 1
#endif
/* Rows that are projected at once. */
#undef FL_CHUNK
#define FL_CHUNK 48

/* Where a step reads and writes. init: bias panel, or the step's projected row. */
typedef struct {
  const real *init, *x, *h, *c;
  real *h_out, *c_out, *y, *gates;
} FL(place_t);

/* Behind a step: the pointers of the next one; the other calls that share the row. */
FL_INLINE void FL(move_on)(const fl_stream *s, FL(place_t) * at) {
  real *last_h = (real *)at->h, *last_c = (real *)at->c;
  at->x += s->x_step;
  at->h = at->h_out;
  at->h_out = s->h_step ? at->h_out + s->h_step : last_h;
  at->c = at->c_out;
  at->c_out = s->c_step ? at->c_out + s->c_step : last_c;
  if (at->y) at->y += s->y_step;
  if (at->gates) at->gates += 4 * s->units;
  if (s->meet) s->meet(s->meeting);
}

/* ---- one tile of one step ------------------------------------------------------------------------------------------- */
/* acc[b] += row[depth] @ blocks of `stride` reals from `panel` on, whose rows begin `pitch` apart. With `ahead`, the first half of
 * another block is fetched meanwhile. */
FL_INLINE void FL(multiply_row)(int B, vec acc[][4], const real *row, const real *panel, ptrdiff_t stride, ptrdiff_t pitch,
                                ptrdiff_t depth, const real *ahead) {
  const real *end = row + depth, *panel_end = panel + depth * pitch;
  for (ptrdiff_t p = -depth; p != 0; p++) {
    const vec a = v_set(end[p]);
    FL_UNROLL
    for (int b = 0; b < B; b++) {
      FL_UNROLL
      for (int g = 0; g < 4; g++) acc[b][g] = v_fma(a, v_load(panel_end + p * pitch + b * stride + g * FL_W), acc[b][g]);
    }
    if (ahead && (p & 1)) {
      FL_UNROLL
      for (int g = 0; g < 4; g++) FL_PREFETCH(ahead + g * FL_W);
      ahead += pitch;
    }
  }
}

/* The cell with any activations and rounding: one function for all tiles, which would be long otherwise. */
FL_STATIC void FL(any_cell)(const fl_stream *s, vec z[4], vec *c, vec *h) {
  FL(cell)(FL_CELL_ANY, s->activation, s->recurrent_activation, s->rounding, z, c, h);
}

/* The cell of the units from u on, one block. */
FL_INLINE void FL(finish_row)(const fl_stream *s, const FL(place_t) * at, ptrdiff_t u, vec z[4]) {
  const ptrdiff_t left = s->units - u, n = left < FL_W ? left : FL_W;
  vec h, c = n == FL_W ? v_load(at->c + u) : v_load_n(at->c + u, n);
  if (s->activation == FL_ACT_TANH && s->recurrent_activation == FL_ACT_SIGMOID && s->rounding == FL_ROUND_NONE)
    FL(cell)(FL_CELL_TANH_SIGMOID, FL_ACT_TANH, FL_ACT_SIGMOID, FL_ROUND_NONE, z, &c, &h);
  else
    FL(any_cell)(s, z, &c, &h);
  if (at->gates)
    for (int g = 0; g < 4; g++) v_store_n(at->gates + 4 * u + g * n, z[g], n);
  if (n == FL_W) {
    v_store(at->c_out + u, c);
    v_store(at->h_out + u, h);
    if (at->y) v_store(at->y + u, h);
  } else {
    v_store_n(at->c_out + u, c, n);
    v_store_n(at->h_out + u, h, n);
    if (at->y) v_store_n(at->y + u, h, n);
  }
}

/* One step of the B blocks from `block` on; x's window first where `takes_x`. B and padded are constants. ahead: see multiply_row(). */
FL_INLINE void FL(row_tile)(int B, int padded, int takes_x, const fl_stream *s, const FL(place_t) * at, ptrdiff_t block,
                            const real *ahead) {
  const ptrdiff_t pitch = FL(pitch)(4, padded), x_stride = s->features * pitch, h_stride = s->units * pitch;
  vec acc[FL_ROW_BLOCKS][4];
  FL_UNROLL
  for (int b = 0; b < B; b++) {
    FL_UNROLL
    for (int g = 0; g < 4; g++) acc[b][g] = v_load(at->init + ((block + b) * 4 + g) * FL_W);
  }
  if (takes_x) FL(multiply_row)(B, acc, at->x, (const real *)s->x_panel + block * x_stride, x_stride, pitch, s->features, NULL);
  if (s->h_panel) {
    FL(multiply_row)(B, acc, at->h, (const real *)s->h_panel + block * h_stride, h_stride, pitch, s->units, ahead);
  } else {
    FL_UNROLL
    for (int b = 0; b < B; b++) {
      FL_UNROLL
      for (int g = 0; g < 4; g++) acc[b][g] = acc[b][g] + v_set(0);
    }
  }
  FL_UNROLL
  for (int b = 0; b < B; b++) {
    vec z[4]; /* a copy, whose address may be taken without pulling the sums out of their registers */
    FL_UNROLL
    for (int g = 0; g < 4; g++) z[g] = acc[b][g];
    FL(finish_row)(s, at, (block + b) * FL_W, z);
  }
}

/* One function a tile, so that each gets its own registers. */
#undef FL_FOR_ROWS
#if FL_ROW_BLOCKS == 3
#define FL_FOR_ROWS(make) make(1) make(2) make(3)
#else
#define FL_FOR_ROWS(make) make(1)
#endif
#define FL_ROW_TILE(B)                                                                                       \
  FL_STATIC void FL(row_##B##x1)(const fl_stream *s, const FL(place_t) * at, ptrdiff_t block, int takes_x) { \
    if (FL_PAD && s->padded)                                                                                 \
      FL(row_tile)(B, 1, takes_x, s, at, block, NULL);                                                       \
    else                                                                                                     \
      FL(row_tile)(B, 0, takes_x, s, at, block, NULL);                                                       \
  }
#define FL_ROW_CASE(B)                      \
  case B:                                   \
    FL(row_##B##x1)(s, at, block, takes_x); \
    break;
FL_FOR_ROWS(FL_ROW_TILE)

FL_STATIC void FL(row_ahead)(const fl_stream *s, const FL(place_t) * at, ptrdiff_t block, const real *ahead) {
  if (FL_PAD && s->padded)
    FL(row_tile)(1, 1, 0, s, at, block, ahead);
  else
    FL(row_tile)(1, 0, 0, s, at, block, ahead);
}

/* One step, several blocks at once, in turned order where `turned`: what the step before touched last is still at hand. */
FL_INLINE void FL(row_tiles)(int takes_x, const fl_stream *s, const FL(place_t) * at, int turned) {
  for (ptrdiff_t done = 0; done < s->blocks;) {
    const int B = FL(rows_at_once)(s->blocks - done, FL_ROW_BLOCKS);
    const ptrdiff_t block = s->first_block + (turned ? s->blocks - done - B : done);
    switch (B) { FL_FOR_ROWS(FL_ROW_CASE) }
    done += B;
  }
}

/* The same, block by block. `keeps`: the first block is still in the first-level cache, so that the next one can come beside it. */
FL_INLINE void FL(row_blocks)(int takes_x, const fl_stream *s, const FL(place_t) * at, int turned, int keeps) {
  const ptrdiff_t first = s->first_block + (turned ? s->blocks - 1 : 0), step = turned ? -1 : 1;
  if (keeps) FL(row_ahead)(s, at, first, (const real *)s->h_panel + (first + step) * s->units * FL(pitch)(4, s->padded));
  for (ptrdiff_t k = keeps; k < s->blocks; k++) FL(row_1x1)(s, at, first + k * step, takes_x);
}

/* z rows [rows][blocks][4][W] of the steps from x on; of each row the blocks that are this call's. */
FL_INLINE void FL(project_rows)(const fl_stream *s, const real *x, ptrdiff_t rows, real *z) {
  const ptrdiff_t width = (s->units + FL_W - 1) / FL_W * 4 * FL_W, before = s->first_block * 4 * FL_W;
  const ptrdiff_t behind = s->units - s->first_block * FL_W, own = s->blocks * FL_W;
  ptrdiff_t number[FL_CHUNK], x_offset[FL_CHUNK], z_offset[FL_CHUNK];
  fl_project p;
  memset(&p, 0, sizeof p);
  p.layout.columns = behind < own ? behind : own;
  p.layout.gates = p.padded = 1;
  p.rows = number;
  p.z_offset = z_offset;
  p.init = (const real *)s->bias_panel + before;
  p.x.panel = (const real *)s->x_panel + s->first_block * s->features * FL(pitch)(4, s->padded);
  p.x.offset = x_offset;
  p.x.runs = p.x.groups = 1;
  p.x.length = p.x.depth = s->features;
  p.x.padded = s->padded;
  for (ptrdiff_t k = 0; k < FL_CHUNK; k++) number[k] = k, x_offset[k] = k * s->x_step, z_offset[k] = k * width;
  for (ptrdiff_t first = 0; first < rows; first += FL_CHUNK) {
    p.count = rows - first < FL_CHUNK ? rows - first : FL_CHUNK;
    p.x.base = x + first * s->x_step;
    p.z = z + first * width + before;
    FL(project)(&p);
  }
}

/* ---- a stretch of steps --------------------------------------------------------------------------------------------- */
/* s->steps steps of one row. */
FL_STATIC void FL(stream)(const fl_stream *s) {
  const ptrdiff_t width = (s->units + FL_W - 1) / FL_W * 4 * FL_W;
  const ptrdiff_t panel = s->blocks * 4 * FL_W * s->units; /* what of h's comes through this call's caches */
  const int far = panel >= FL_FAR_REALS, keeps = s->blocks > 1 && s->units * 4 * FL_W <= FL_KEPT_REALS;
  FL(place_t)
  at = {(const real *)s->bias_panel,
        (const real *)s->x,
        (const real *)s->h,
        (const real *)s->c,
        (real *)s->h_out,
        (real *)s->c_out,
        (real *)s->y,
        (real *)s->gates};
  if (width * (s->features + s->units) <= FL_NEAR_REALS) {
    for (ptrdiff_t step = 0; step < s->steps; step++) {
      FL(row_tiles)(1, s, &at, 0);
      FL(move_on)(s, &at);
    }
    return;
  }
  if (s->steps == 1) { /* nothing to hoist */
    if (far)
      FL(row_blocks)(1, s, &at, 0, 0);
    else
      FL(row_tiles)(1, s, &at, 0);
    FL(move_on)(s, &at);
    return;
  }
  for (ptrdiff_t first = 0; first < s->steps; first += s->z_rows) {
    const ptrdiff_t steps = s->steps - first < s->z_rows ? s->steps - first : s->z_rows;
    FL(project_rows)(s, at.x, steps, (real *)s->z);
    for (ptrdiff_t step = 0; step < steps; step++) {
      const int turned = (int)((s->first + first + step) & 1);
      at.init = (const real *)s->z + step * width;
      if (far)
        FL(row_blocks)(0, s, &at, turned, keeps && step > 0);
      else
        FL(row_tiles)(0, s, &at, turned);
      FL(move_on)(s, &at);
    }
  }
}
