/* c_backward.h: forward on a tape and the backward pass of an LSTM, in the panels of gate_backward.h. Same order of every sum,
 * and so the same bits, as pyx/backward.pxi.
 *
 * Blocks of time steps are taken from the last to the first. Within a block each step goes back once (step_back() writes its
 * dz, then the product with the transposed recurrent kernel gives dh of the step before); then three products serve the whole
 * block: dz with the transposed kernel (dx), and the columns of x and h with dz (weight gradients). Row step*N + n of a block's
 * panel is sample n.
 */

/* Rows of dz that a block should have; depth of one pass of the weight gradients' product; columns up to which dx sums along
   vectors, from so many units a column on. */
#undef FL_BACK_ROWS
#undef FL_BACK_DEPTH
#undef FL_DOT_COLUMNS
#undef FL_DOT_UNITS
#define FL_BACK_ROWS 256
#define FL_BACK_DEPTH 256
#define FL_DOT_COLUMNS 4
#define FL_DOT_UNITS 4

typedef struct {
  FL(sequences) s; /* sizes, x, mask, tape */
  const FL_PUBLIC(gradients) * g;
  const real *h_panel, *x_panel, *no_bias; /* transposed weights; zeros */
  fl_layout h_layout, x_layout;
  ptrdiff_t steps;               /* of a block */
  real *dh, *dc;                 /* [N,U] of the states behind the step that is next */
  real *dz;                      /* [blocks of units, steps*N, 4, W] */
  real *h_rows;                  /* [steps*N,U] h before each row's step, where a mask forbids to read the tape */
  real *x_rows;                  /* [steps*N,D] */
  real *dy;                      /* [N,U] what the outputs behind this step owe to this one (masks) */
  ptrdiff_t *rows, *all_rows;    /* [N], [steps*N] */
  ptrdiff_t *state_offset;       /* [N] */
  ptrdiff_t *dy_offset, *dz_row; /* [N] */
  ptrdiff_t *window;             /* [steps*N] where the row's dz begins */
  ptrdiff_t *dx_offset;          /* [steps*N] */
} FL(backward);

/* ---- transposed weights --------------------------------------------------------------------------------------------- */
FL_INLINE ptrdiff_t FL(back_lanes)(const fl_shape *s, int dots) { return s->F < FL_W && !dots ? s->F : FL_W; }
FL_INLINE ptrdiff_t FL(back_depth)(const fl_shape *s, int dots) { return fl_ceil(s->F, FL_W) * 4 * FL(back_lanes)(s, dots); }

FL_INLINE fl_layout FL(back_layout)(const fl_shape *s, ptrdiff_t columns, int of_x) {
  const int dots = of_x && columns <= FL_DOT_COLUMNS && s->F >= FL_DOT_UNITS * columns;
  fl_layout layout = {columns, 0, 0, dots ? FL_DOTS_OF_GROUPS : 0};
  if (columns > 2 * FL_W) layout.padded = FL(gains_by_gaps)(&layout, FL(back_depth)(s, 0));
  return layout;
}

FL_STATIC ptrdiff_t FL(cut_back_weights)(const fl_shape *shape, const void *memory, FL(backward) * b) {
  const ptrdiff_t size = (ptrdiff_t)sizeof(real);
  const fl_layout widest = {shape->F > shape->C ? shape->F : shape->C, 0, 0, 0};
  void *base = (void *)(uintptr_t)memory;
  ptrdiff_t at = 0;
  b->h_layout = FL(back_layout)(shape, shape->F, 0);
  b->x_layout = FL(back_layout)(shape, shape->C, 1);
  b->h_panel = (const real *)fl_part(base, &at, FL(panel_size)(&b->h_layout, FL(back_depth)(shape, b->h_layout.dots)) * size);
  b->x_panel = (const real *)fl_part(base, &at, FL(panel_size)(&b->x_layout, FL(back_depth)(shape, b->x_layout.dots)) * size);
  b->no_bias = (const real *)fl_part(base, &at, FL(panel_size)(&widest, 1) * size);
  return at;
}

/* Number `column` of row p of the transposed matrix: rows stand in the order of a row of dz, of whose vectors `used` lanes count. */
FL_INLINE real FL(transposed)(const fl_shape *s, ptrdiff_t used, const real *kernel, ptrdiff_t p, ptrdiff_t column) {
  ptrdiff_t group, at;
  const ptrdiff_t together = FL(dz_group)(s->F, 0, p / (4 * used), &group);
  const ptrdiff_t gate = FL(dz_gate)(p / used - 4 * group, together, &at), unit = (group + at) * FL_W + p % used;
  return unit < s->F ? kernel[column * 4 * s->F + gate * s->F + unit] : 0;
}

/* As pack() of gate_panel.h, of kernel [columns,4U] transposed. */
FL_STATIC void FL(pack_transposed)(const fl_shape *s, const fl_layout *layout, const real *kernel, real *out) {
  const ptrdiff_t depth = FL(back_depth)(s, layout->dots), used = FL(back_lanes)(s, layout->dots);
  const int vectors = FL(vectors)(layout);
  if (layout->dots) {
    for (ptrdiff_t k = 0; k < layout->columns * depth; k++) out[k] = FL(transposed)(s, used, kernel, k % depth, k / depth);
    return;
  }
  for (ptrdiff_t block = 0; block < FL(blocks)(layout); block++)
    for (ptrdiff_t p = 0; p < depth; p++) {
      for (int v = 0; v < vectors; v++, out += FL_W) {
        v_store(out, v_set(0));
        for (ptrdiff_t k = 0; k < FL(lanes)(layout, block, v); k++)
          out[k] = FL(transposed)(s, used, kernel, p, FL(column)(layout, block, v) + k);
      }
      for (ptrdiff_t k = FL(pitch)(vectors, layout->padded) - vectors * FL_W; k > 0; k--) *out++ = 0;
    }
}

/* ---- workspace ------------------------------------------------------------------------------------------------------ */
/* Cuts the workspace; returns its bytes. base NULL: only that. */
FL_STATIC ptrdiff_t FL(cut_back)(FL(backward) * b, void *base) {
  const ptrdiff_t N = b->s.N, F = b->s.shape->F, size = (ptrdiff_t)sizeof(real), word = (ptrdiff_t)sizeof(ptrdiff_t);
  const ptrdiff_t fitting = FL_BACK_ROWS / N;
  ptrdiff_t at = 0;
  b->steps = fitting < 1 ? 1 : fitting < b->s.T ? fitting : b->s.T;
  const ptrdiff_t depth = b->steps * N;
  b->dz = (real *)fl_part(base, &at, fl_ceil(F, FL_W) * depth * 4 * FL_W * size);
  b->h_rows = (real *)fl_part(base, &at, depth * F * size);
  b->x_rows = (real *)fl_part(base, &at, depth * b->s.shape->C * size);
  b->dh = (real *)fl_part(base, &at, N * F * size);
  b->dc = (real *)fl_part(base, &at, N * F * size);
  b->dy = (real *)fl_part(base, &at, N * F * size);
  b->rows = (ptrdiff_t *)fl_part(base, &at, N * word);
  b->all_rows = (ptrdiff_t *)fl_part(base, &at, depth * word);
  b->state_offset = (ptrdiff_t *)fl_part(base, &at, N * word);
  b->dy_offset = (ptrdiff_t *)fl_part(base, &at, N * word);
  b->dz_row = (ptrdiff_t *)fl_part(base, &at, N * word);
  b->window = (ptrdiff_t *)fl_part(base, &at, depth * word);
  b->dx_offset = (ptrdiff_t *)fl_part(base, &at, depth * word);
  return at;
}

FL_STATIC void FL(lay_out_back)(const FL(backward) * b) {
  const ptrdiff_t N = b->s.N, F = b->s.shape->F;
  for (ptrdiff_t n = 0; n < N; n++) {
    b->state_offset[n] = n * F;
    b->dy_offset[n] = n * b->s.T * F;
    b->dz_row[n] = n;
  }
  for (ptrdiff_t k = 0; k < b->steps * N; k++) {
    b->all_rows[k] = k;
    b->window[k] = k * 4 * FL_W;
  }
}

/* How a product reads rows of dz, in a panel of `depth` rows. */
FL_STATIC void FL(read_dz)(const fl_shape *s, fl_product *p, ptrdiff_t depth, int dots) {
  const ptrdiff_t used = FL(back_lanes)(s, dots);
  p->groups = 1;
  p->group_step = 0;
  p->runs = used < FL_W ? 4 : fl_ceil(s->F, FL_W); /* a block that is not full: its vectors are the runs */
  p->length = used < FL_W ? used : 4 * FL_W;
  p->step = used < FL_W ? FL_W : depth * 4 * FL_W;
  p->depth = FL(back_depth)(s, dots);
}

/* ---- one step back -------------------------------------------------------------------------------------------------- */
/* With masks: b->dy += cotangents of this step's outputs. A masked output is the one before, or zeros. */
FL_STATIC void FL(collect_outputs)(const FL(backward) * b, ptrdiff_t step) {
  const FL(sequences) *s = &b->s;
  const ptrdiff_t F = s->shape->F;
  for (ptrdiff_t n = 0; n < s->N; n++) {
    if (s->shape->zero_output_for_mask && !FL(is_valid)(s, n, step)) continue;
    if (s->shape->return_sequences)
      FL(add)(b->dy + n * F, b->g->dy + (n * s->T + step) * F, F);
    else if (step == s->T - 1)
      FL(add)(b->dy + n * F, b->g->dy + n * F, F);
  }
}

/* The samples that count at a step, into st->rows; dz of the others is 0. */
FL_STATIC void FL(valid_rows)(const FL(backward) * b, fl_step_back *st, ptrdiff_t step, ptrdiff_t in_block) {
  const FL(sequences) *s = &b->s;
  st->rows = b->rows;
  st->count = 0;
  for (ptrdiff_t n = 0; n < s->N; n++) {
    if (FL(is_valid)(s, n, step)) {
      b->rows[st->count++] = n;
      continue;
    }
    for (ptrdiff_t k = 0; k < fl_ceil(s->shape->F, FL_W); k++)
      memset(b->dz + (k * st->dz_depth + in_block * s->N + n) * 4 * FL_W, 0, 4 * FL_W * sizeof(real));
  }
}

/* dz of one step, then dh and dc of the step before. */
FL_STATIC void FL(back_step)(const FL(backward) * b, fl_step_back *st, fl_project *p, ptrdiff_t step, ptrdiff_t in_block) {
  const FL(sequences) *s = &b->s;
  const ptrdiff_t F = s->shape->F, page = s->N * F;
  const int collects = s->mask && b->g->dy;
  st->count = s->N;
  st->rows = b->all_rows;
  if (s->mask) FL(valid_rows)(b, st, step, in_block);
  st->dy = NULL;
  st->dy_offset = b->state_offset;
  if (collects) {
    FL(collect_outputs)(b, step);
    st->dy = b->dy;
  } else if (b->g->dy && s->shape->return_sequences) {
    st->dy = b->g->dy + step * F;
    st->dy_offset = b->dy_offset;
  } else if (b->g->dy && step == s->T - 1) {
    st->dy = b->g->dy;
  }
  st->gates = s->tape_gates + step * 4 * page;
  st->c_before = s->tape_c + step * page;
  st->c = s->tape_c + (step + 1) * page;
  st->dz = b->dz + in_block * s->N * 4 * FL_W;
  FL(step_back)(st);
  for (ptrdiff_t n = 0; n < s->N && collects; n++)
    if (FL(is_valid)(s, n, step)) FL(copy_state)(NULL, b->dy + n * F, F);
  p->count = st->count;
  p->rows = st->rows;
  p->x.base = st->dz;
  FL(project)(p);
}

/* ---- what a block gives --------------------------------------------------------------------------------------------- */
/* The rows of x and h that belong to the rows of dz; those of masked samples are zeros: 0 times a NaN would not be. */
FL_STATIC void FL(gather_block)(const FL(backward) * b, ptrdiff_t first, ptrdiff_t steps) {
  const FL(sequences) *s = &b->s;
  const ptrdiff_t F = s->shape->F, C = s->shape->C;
  for (ptrdiff_t k = 0; k < steps; k++)
    for (ptrdiff_t n = 0; n < s->N; n++) {
      const ptrdiff_t row = k * s->N + n;
      const int valid = FL(is_valid)(s, n, first + k);
      FL(copy_state)(valid ? s->x + (n * s->T + FL(time_of)(s, first + k)) * C : NULL, b->x_rows + row * C, C);
      if (s->mask) FL(copy_state)(valid ? s->tape_h + ((first + k) * s->N + n) * F : NULL, b->h_rows + row * F, F);
    }
}

/* out [count,4U] += rows [depth,count] transposed @ dz [depth,4U]. */
FL_STATIC void FL(weight_gradient)(const FL(backward) * b, const real *rows, ptrdiff_t count, ptrdiff_t depth, real *out) {
  fl_outer p;
  memset(&p, 0, sizeof p);
  p.units = b->s.shape->F;
  p.count = p.pitch = count;
  p.panel_depth = depth;
  p.z = out;
  for (ptrdiff_t at = 0; at < depth; at += p.depth) {
    p.depth = depth - at < FL_BACK_DEPTH ? depth - at : FL_BACK_DEPTH;
    p.panel = b->dz + at * 4 * FL_W;
    p.columns = rows + at * count;
    FL(outer)(&p);
  }
}

FL_STATIC void FL(input_gradient)(const FL(backward) * b, ptrdiff_t first, ptrdiff_t steps) {
  const FL(sequences) *s = &b->s;
  fl_project p;
  memset(&p, 0, sizeof p);
  p.layout = b->x_layout;
  p.count = steps * s->N;
  p.rows = b->all_rows;
  p.z = b->g->dx;
  p.z_offset = b->dx_offset;
  p.init = b->no_bias;
  p.x.panel = b->x_panel;
  p.x.base = b->dz;
  p.x.offset = b->window;
  p.x.padded = b->x_layout.padded;
  FL(read_dz)(s->shape, &p.x, p.count, p.layout.dots);
  for (ptrdiff_t k = 0; k < steps; k++)
    for (ptrdiff_t n = 0; n < s->N; n++) b->dx_offset[k * s->N + n] = (n * s->T + FL(time_of)(s, first + k)) * s->shape->C;
  FL(project)(&p);
}

FL_STATIC void FL(run_back)(const FL(backward) * b) {
  const FL(sequences) *s = &b->s;
  const ptrdiff_t F = s->shape->F;
  fl_step_back st;
  fl_project p;
  memset(&st, 0, sizeof st);
  st.units = F;
  st.gates_rows = s->N;
  st.c_offset = b->state_offset;
  st.dz_row = b->dz_row;
  st.dh = b->dh;
  st.dc = b->dc;
  st.dy_step = s->shape->return_sequences ? F : 0;
  st.activation = s->shape->activation;
  st.recurrent_activation = s->shape->recurrent_activation;
  memset(&p, 0, sizeof p);
  p.layout = b->h_layout;
  p.init = b->no_bias;
  p.z = b->dh;
  p.z_offset = b->state_offset;
  p.x.panel = b->h_panel;
  p.x.offset = b->window;
  p.x.padded = b->h_layout.padded;
  FL(copy_state)(NULL, b->dy, s->N * F);
  for (ptrdiff_t first = (s->T - 1) / b->steps * b->steps; first >= 0; first -= b->steps) {
    const ptrdiff_t steps = s->T - first < b->steps ? s->T - first : b->steps;
    st.dz_depth = steps * s->N;
    FL(read_dz)(s->shape, &p.x, st.dz_depth, 0);
    for (ptrdiff_t k = steps - 1; k >= 0; k--) FL(back_step)(b, &st, &p, first + k, k);
    FL(gather_block)(b, first, steps);
    if (b->g->dx) FL(input_gradient)(b, first, steps);
    const real *h_rows = s->mask ? b->h_rows : s->tape_h + first * s->N * F;
    if (b->g->drecurrent_kernel) FL(weight_gradient)(b, h_rows, F, st.dz_depth, b->g->drecurrent_kernel);
    if (b->g->dkernel) FL(weight_gradient)(b, b->x_rows, s->shape->C, st.dz_depth, b->g->dkernel);
    if (b->g->dbias) FL(sum_panel)(b->dz, F, 0, st.dz_depth, b->g->dbias);
  }
}
