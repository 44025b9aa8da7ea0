/* c_sequence.h: the time loop of the C library, for any number of rows: step() of gate_panel.h, x window and h window through
 * one tile.
 *
 * An LSTM is a ConvLSTM1D of one row and kernel width 1. In a channels-last buffer with its zeros in place, the K*C values that
 * feed output row m are one run from m*stride*C on (dilation > 1: K runs of C); so x is read in place, or copied a step at a
 * time where it needs zeros around it, and h lives in two buffers with a halo of K-1 rows a sample, used in turn. The order of
 * operations is that of pyx/sequence.pxi, and so are the bits. A single row has a loop of its own: c_stream.h. Letters as in
 * fastlstm.h; M = N*S rows.
 */

/* A call, and the workspace cut into its parts. */
typedef struct {
  const fl_shape *shape;
  ptrdiff_t N, T;
  const real *x;             /* [N,T,R,C] */
  const unsigned char *mask; /* [N,T] or NULL */
  const real *h0, *c0;       /* [M,F] or NULL: zeros */
  real *y;                   /* [N,T,S,F] with return_sequences, else [M,F]; or NULL */
  real *h, *c;               /* [M,F] */
  const real *x_panel, *h_panel, *bias_panel;
  int padded;                         /* x_panel and h_panel are */
  real *tape_gates, *tape_c, *tape_h; /* T pages of M*4F, [T+1,M,F], [T+1,M,F]; or NULL */
  real *halo[2];                      /* [N,S+K-1,F] each: h */
  real *copy;                         /* [N,padded_rows,C] a step's x, where it needs zeros around it */
  real *z;                            /* single row: [block,blocks of units,4,W] */
  ptrdiff_t block;                    /* single row: steps whose x is projected at once */
  real *own_h, *own_c;                /* [M,F] where the caller wants none */
  ptrdiff_t *rows, *all_rows;         /* [M] the rows of this step, and all */
  ptrdiff_t *c_offset, *h_window, *h_offset, *x_offset, *y_offset; /* [M] by row number */
} FL(sequences);

/* ---- weights -------------------------------------------------------------------------------------------------------- */
/* Panels of 64-byte vectors between these sizes gain by a gap behind each row (docs/performance.md); no bit depends on it. */
#undef FL_GAPS_FROM
#undef FL_GAPS_TO
#define FL_GAPS_FROM (128 * 1024)
#define FL_GAPS_TO (640 * 1024)

FL_STATIC int FL(gains_by_gaps)(const fl_layout *layout, ptrdiff_t depth) {
  const ptrdiff_t bytes = FL(panel_size)(layout, depth) * (ptrdiff_t)sizeof(real);
  return FL_VECTOR_BYTES == 64 && bytes >= FL_GAPS_FROM && bytes <= FL_GAPS_TO;
}

/* Layout and parts of the packed weights; returns their bytes. memory NULL: only that. */
FL_STATIC ptrdiff_t FL(cut_weights)(const fl_shape *shape, void *memory, FL(sequences) * s) {
  fl_layout layout = {shape->F, 1, 0, 0};
  const ptrdiff_t size = (ptrdiff_t)sizeof(real), bias = FL(panel_size)(&layout, 1) * size;
  ptrdiff_t at = 0;
  layout.padded = s->padded = FL(gains_by_gaps)(&layout, shape->K * (shape->C + shape->F));
  s->x_panel = (const real *)fl_part(memory, &at, FL(panel_size)(&layout, shape->K * shape->C) * size);
  s->h_panel = (const real *)fl_part(memory, &at, FL(panel_size)(&layout, shape->K * shape->F) * size);
  s->bias_panel = (const real *)fl_part(memory, &at, bias);
  return at;
}

FL_STATIC void FL(pack_weights)(const fl_shape *shape, const real *kernel, const real *recurrent_kernel, const real *bias,
                                void *memory) {
  FL(sequences) s;
  const ptrdiff_t columns = 4 * shape->F;
  fl_layout layout = {shape->F, 1, 0, 0};
  FL(cut_weights)(shape, memory, &s);
  if (bias)
    FL(pack)(&layout, 1, bias, columns, (void *)(uintptr_t)s.bias_panel);
  else
    memset((void *)(uintptr_t)s.bias_panel, 0, (size_t)FL(panel_size)(&layout, 1) * sizeof(real));
  layout.padded = s.padded;
  FL(pack)(&layout, shape->K * shape->C, kernel, columns, (void *)(uintptr_t)s.x_panel);
  FL(pack)(&layout, shape->K * shape->F, recurrent_kernel, columns, (void *)(uintptr_t)s.h_panel);
}

/* ---- workspace ------------------------------------------------------------------------------------------------------ */
FL_INLINE int FL(is_single_row)(const FL(sequences) * s) {
  const fl_shape *shape = s->shape;
  return s->N == 1 && shape->R == 1 && shape->padded_rows == 1 && shape->S == 1 && shape->K == 1;
}

/* Steps whose x a single row projects at once: as many as FASTLSTM_PROJECTION_BYTES hold; none where stream() projects none. */
FL_INLINE ptrdiff_t FL(projected_steps)(const FL(sequences) * s) {
  const ptrdiff_t width = fl_ceil(s->shape->F, FL_W) * 4 * FL_W;
  const ptrdiff_t room = (ptrdiff_t)FASTLSTM_PROJECTION_BYTES / (width * (ptrdiff_t)sizeof(real));
  if (s->T == 1 || width * (s->shape->C + s->shape->F) <= FL_NEAR_REALS) return 0;
  return room < 1 ? 1 : room < s->T ? room : s->T;
}

/* Cuts the workspace; returns the bytes it takes. base NULL: only that. */
FL_STATIC ptrdiff_t FL(cut)(FL(sequences) * s, void *base) {
  const fl_shape *shape = s->shape;
  const ptrdiff_t size = (ptrdiff_t)sizeof(real), word = (ptrdiff_t)sizeof(ptrdiff_t), M = s->N * shape->S;
  const ptrdiff_t states = M * shape->F * size, halo = s->N * (shape->S + shape->K - 1) * shape->F * size;
  ptrdiff_t at = 0;
  for (int k = 0; k < 2; k++) s->halo[k] = (real *)fl_part(base, &at, halo);
  s->own_h = (real *)fl_part(base, &at, states);
  s->own_c = (real *)fl_part(base, &at, states);
  if (FL(is_single_row)(s)) {
    s->block = FL(projected_steps)(s);
    s->z = (real *)fl_part(base, &at, s->block * fl_ceil(shape->F, FL_W) * 4 * FL_W * size);
    return at;
  }
  s->copy = (real *)fl_part(base, &at, shape->padded_rows == shape->R ? 0 : s->N * shape->padded_rows * shape->C * size);
  s->rows = (ptrdiff_t *)fl_part(base, &at, M * word);
  s->all_rows = (ptrdiff_t *)fl_part(base, &at, M * word);
  s->c_offset = (ptrdiff_t *)fl_part(base, &at, M * word);
  s->h_window = (ptrdiff_t *)fl_part(base, &at, M * word);
  s->h_offset = (ptrdiff_t *)fl_part(base, &at, M * word);
  s->x_offset = (ptrdiff_t *)fl_part(base, &at, M * word);
  s->y_offset = (ptrdiff_t *)fl_part(base, &at, M * word);
  return at;
}

/* Where each of the M rows finds its x, h, c and puts its output. */
FL_STATIC void FL(lay_out)(const FL(sequences) * s) {
  const fl_shape *shape = s->shape;
  const ptrdiff_t halo_rows = shape->S + shape->K - 1;
  const ptrdiff_t sample = shape->padded_rows == shape->R ? s->T * shape->R * shape->C : shape->padded_rows * shape->C;
  for (ptrdiff_t n = 0, row = 0; n < s->N; n++)
    for (ptrdiff_t m = 0; m < shape->S; m++, row++) {
      s->all_rows[row] = row;
      s->c_offset[row] = row * shape->F;
      s->h_window[row] = (n * halo_rows + m) * shape->F;
      s->h_offset[row] = (n * halo_rows + m + (shape->K - 1) / 2) * shape->F;
      s->x_offset[row] = n * sample + m * shape->stride * shape->C;
      s->y_offset[row] = (n * s->T * shape->S + m) * shape->F;
    }
}

/* ---- states and outputs --------------------------------------------------------------------------------------------- */
FL_INLINE ptrdiff_t FL(time_of)(const FL(sequences) * s, ptrdiff_t step) {
  return s->shape->go_backwards ? s->T - 1 - step : step;
}
FL_INLINE int FL(is_valid)(const FL(sequences) * s, ptrdiff_t n, ptrdiff_t step) {
  return s->mask == NULL || s->mask[n * s->T + FL(time_of)(s, step)] != 0;
}
FL_INLINE int FL(returns_sequences)(const FL(sequences) * s) { return s->y != NULL && s->shape->return_sequences; }

/* to [count] = from (NULL: zeros), which may be `to` itself. */
FL_INLINE void FL(copy_state)(const real *from, real *to, ptrdiff_t count) {
  if (from == NULL)
    memset(to, 0, (size_t)count * sizeof(real));
  else if (from != to)
    memcpy(to, from, (size_t)count * sizeof(real));
}

/* The S rows of each sample between h [N,S+K-1,F] and states [N,S,F], one way or the other. */
FL_STATIC void FL(into_halo)(const FL(sequences) * s, const real *states, real *h) {
  const ptrdiff_t F = s->shape->F, halo = (s->shape->S + s->shape->K - 1) * F, slab = s->shape->S * F;
  memset(h, 0, (size_t)(s->N * halo) * sizeof(real));
  if (states == NULL) return;
  for (ptrdiff_t n = 0; n < s->N; n++) FL(copy_state)(states + n * slab, h + n * halo + (s->shape->K - 1) / 2 * F, slab);
}
FL_STATIC void FL(from_halo)(const FL(sequences) * s, const real *h, real *states) {
  const ptrdiff_t F = s->shape->F, halo = (s->shape->S + s->shape->K - 1) * F, slab = s->shape->S * F;
  for (ptrdiff_t n = 0; n < s->N; n++) FL(copy_state)(h + n * halo + (s->shape->K - 1) / 2 * F, states + n * slab, slab);
}

/* Outputs of the samples that are masked at `step`: the previous one (zeros before the first), or zeros. */
FL_STATIC void FL(masked_outputs)(const FL(sequences) * s, ptrdiff_t step) {
  const ptrdiff_t slab = s->shape->S * s->shape->F;
  for (ptrdiff_t n = 0; n < s->N; n++)
    if (!FL(is_valid)(s, n, step)) {
      real *y = s->y + (n * s->T + step) * slab;
      FL(copy_state)(step == 0 || s->shape->zero_output_for_mask ? NULL : y - slab, y, slab);
    }
}

/* y without return_sequences: h where the sample had a valid step (with zero_output_for_mask: at its last step), else zeros. */
FL_STATIC void FL(last_outputs)(const FL(sequences) * s) {
  const ptrdiff_t slab = s->shape->S * s->shape->F;
  for (ptrdiff_t n = 0; n < s->N; n++) {
    int valid = FL(is_valid)(s, n, s->T - 1);
    for (ptrdiff_t t = 0; t < s->T && !valid && !s->shape->zero_output_for_mask; t++) valid = FL(is_valid)(s, n, t);
    FL(copy_state)(valid ? s->h + n * slab : NULL, s->y + n * slab, slab);
  }
}

/* ---- the steps ------------------------------------------------------------------------------------------------------ */
/* Where the windows of a step begin: in the caller's x, or in a copy of this step with zeros around each sample. */
FL_STATIC const real *FL(step_input)(const FL(sequences) * s, ptrdiff_t time) {
  const fl_shape *shape = s->shape;
  const ptrdiff_t sample = shape->R * shape->C;
  const real *x = s->x + time * sample;
  if (shape->padded_rows == shape->R) return x;
  for (ptrdiff_t n = 0; n < s->N; n++)
    FL(copy_state)(x + n * s->T * sample, s->copy + (n * shape->padded_rows + shape->pad_left) * shape->C, sample);
  return s->copy;
}

/* What all steps have in common. */
FL_STATIC void FL(first_step)(const FL(sequences) * s, fl_step *st) {
  const fl_shape *shape = s->shape;
  const int one_run = shape->dilation == 1;
  memset(st, 0, sizeof *st);
  st->units = shape->F;
  st->activation = shape->activation;
  st->recurrent_activation = shape->recurrent_activation;
  st->init = (void *)(uintptr_t)s->bias_panel;
  st->x.panel = s->x_panel;
  st->x.offset = s->x_offset;
  st->x.depth = shape->K * shape->C;
  st->x.runs = one_run ? 1 : shape->K;
  st->x.length = one_run ? shape->K * shape->C : shape->C;
  st->x.step = shape->dilation * shape->C;
  st->h.panel = s->h_panel;
  st->h.offset = s->h_window;
  st->h.length = st->h.depth = shape->K * shape->F;
  st->x.groups = st->h.groups = st->h.runs = 1;
  st->x.padded = st->h.padded = s->padded;
  st->c = st->c_out = s->c;
  st->c_offset = s->c_offset;
  st->h_offset = s->h_offset;
  st->y_offset = s->y_offset;
  st->gates_rows = s->N * shape->S;
}

/* The masked samples of a step: they keep h and c; their outputs. Leaves the others in st->rows. */
FL_STATIC void FL(leave_out_masked)(const FL(sequences) * s, fl_step *st, ptrdiff_t step) {
  const ptrdiff_t S = s->shape->S, slab = S * s->shape->F, halo = (S + s->shape->K - 1) * s->shape->F;
  st->rows = s->rows;
  st->count = 0;
  for (ptrdiff_t n = 0; n < s->N; n++) {
    if (FL(is_valid)(s, n, step)) {
      for (ptrdiff_t m = 0; m < S; m++) s->rows[st->count++] = n * S + m;
      continue;
    }
    FL(copy_state)((const real *)st->h.base + n * halo, (real *)st->h_out + n * halo, halo);
    if (s->tape_c) FL(copy_state)((const real *)st->c + n * slab, (real *)st->c_out + n * slab, slab);
  }
  if (FL(returns_sequences)(s)) FL(masked_outputs)(s, step);
}

/* All T steps of any number of rows. */
FL_STATIC void FL(run_rows)(FL(sequences) * s) {
  const ptrdiff_t M = s->N * s->shape->S, slab = s->shape->S * s->shape->F, page = M * s->shape->F;
  fl_step st;
  FL(lay_out)(s);
  FL(into_halo)(s, s->h0, s->halo[0]);
  FL(into_halo)(s, NULL, s->halo[1]);
  FL(copy_state)(s->c0, s->c, page);
  if (s->shape->padded_rows != s->shape->R)
    memset(s->copy, 0, (size_t)(s->N * s->shape->padded_rows * s->shape->C) * sizeof(real));
  if (s->tape_c) {
    FL(copy_state)(s->c, s->tape_c, page);
    FL(from_halo)(s, s->halo[0], s->tape_h);
  }
  FL(first_step)(s, &st);
  for (ptrdiff_t step = 0; step < s->T; step++) {
    st.h.base = s->halo[step & 1];
    st.h_out = s->halo[(step + 1) & 1];
    st.descending = (int)(step & 1); /* what the last step touched last is still in the cache */
    st.y = FL(returns_sequences)(s) ? s->y + step * slab : NULL;
    if (s->tape_c) {
      st.gates = s->tape_gates + step * 4 * page;
      st.c = s->tape_c + step * page;
      st.c_out = s->tape_c + (step + 1) * page;
    }
    st.rows = s->all_rows;
    st.count = M;
    if (s->mask) FL(leave_out_masked)(s, &st, step);
    if (st.count > 0) {
      st.x.base = FL(step_input)(s, FL(time_of)(s, step));
      FL(step)(&st);
    }
    if (s->tape_h) FL(from_halo)(s, s->halo[(step + 1) & 1], s->tape_h + (step + 1) * page);
  }
  if (s->tape_c) FL(copy_state)(s->tape_c + s->T * page, s->c, page);
  FL(from_halo)(s, s->halo[s->T & 1], s->h);
}
