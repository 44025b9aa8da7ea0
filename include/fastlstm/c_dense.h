/* c_dense.h: the functions of fastlstm.h for Dense, Conv1D and activations: products with a packed matrix (gate_project.h), the
 * layers around the recurrent ones. Same panels, chains and bits as pyx/matrix.pxi.
 */

/* Rows that are multiplied at once: their offsets stand on the stack. */
#undef FL_ROWS_AT_ONCE
#define FL_ROWS_AT_ONCE 32

FL_INLINE fl_layout FL(matrix_layout)(const fl_shape *s) {
  const fl_layout layout = {s->F, 0, 0, 0};
  return layout;
}

/* [matrix panel | bias panel]; returns their bytes, and in *bias where the second begins. */
FL_STATIC ptrdiff_t FL(cut_matrix)(const fl_shape *s, ptrdiff_t *bias) {
  const fl_layout layout = FL(matrix_layout)(s);
  const ptrdiff_t size = (ptrdiff_t)sizeof(real);
  ptrdiff_t at = 0;
  fl_part(NULL, &at, FL(panel_size)(&layout, s->K * s->C) * size);
  *bias = at;
  fl_part(NULL, &at, FL(panel_size)(&layout, 1) * size);
  return at;
}

FL_STATIC fastlstm_status FL(pack_matrix)(const fl_shape *s, const real *kernel, const real *bias, void *memory, size_t bytes) {
  const fl_layout layout = FL(matrix_layout)(s);
  ptrdiff_t at;
  const size_t needed = (size_t)FL(cut_matrix)(s, &at), columns = (size_t)s->F * sizeof(real);
  if (!kernel) return FASTLSTM_NULL_POINTER;
  fastlstm_status status = fl_check_memory(memory, bytes, needed);
  if (status) return status;
  const fl_array arrays[] = {{memory, needed, FASTLSTM_ALIGNMENT},
                             {kernel, (size_t)(s->K * s->C) * columns, sizeof(real)},
                             {bias, columns, sizeof(real)}};
  if ((status = fl_check_arrays(arrays, 1, 3, 0)) != FASTLSTM_OK) return status;
  FL(pack)(&layout, s->K * s->C, kernel, s->F, memory);
  if (bias)
    FL(pack)(&layout, 1, bias, s->F, (char *)memory + at);
  else
    memset((char *)memory + at, 0, needed - (size_t)at);
  return FASTLSTM_OK;
}

/* y [count*S,F] = activation(windows of x @ matrix + bias); a sample's rows begin `sample` numbers apart. */
FL_STATIC void FL(multiply_windows)(const fl_shape *s, const void *packed, ptrdiff_t count, ptrdiff_t sample, const real *x,
                                    real *y) {
  ptrdiff_t rows[FL_ROWS_AT_ONCE], x_offset[FL_ROWS_AT_ONCE], z_offset[FL_ROWS_AT_ONCE], bias;
  fl_project p;
  memset(&p, 0, sizeof p);
  FL(cut_matrix)(s, &bias);
  p.layout = FL(matrix_layout)(s);
  p.rows = rows;
  p.z_offset = z_offset;
  p.init = (const char *)packed + bias;
  p.x.panel = packed;
  p.x.base = x;
  p.x.offset = x_offset;
  p.x.groups = 1;
  p.x.depth = s->K * s->C;
  p.x.runs = s->dilation == 1 ? 1 : s->K;
  p.x.length = s->dilation == 1 ? s->K * s->C : s->C;
  p.x.step = s->dilation * s->C;
  p.z = y;
  for (ptrdiff_t first = 0; first < count * s->S; first += FL_ROWS_AT_ONCE) {
    p.count = count * s->S - first < FL_ROWS_AT_ONCE ? count * s->S - first : FL_ROWS_AT_ONCE;
    for (ptrdiff_t k = 0; k < p.count; k++) {
      rows[k] = k;
      x_offset[k] = (first + k) / s->S * sample + (first + k) % s->S * s->stride * s->C;
      z_offset[k] = (first + k) * s->F;
    }
    FL(project)(&p);
    for (ptrdiff_t k = 0; k < p.count; k++) FL(activate_row)(s->activation, y + z_offset[k], s->F);
  }
}

/* ---- Dense ---------------------------------------------------------------------------------------------------------- */
FASTLSTM_API size_t FL_PUBLIC(dense_packed_size)(const fastlstm_dense *layer) {
  fl_shape s;
  ptrdiff_t bias;
  return fl_dense_shape(layer, &s) ? 0 : (size_t)FL(cut_matrix)(&s, &bias);
}

FASTLSTM_API fastlstm_status FL_PUBLIC(dense_pack)(FL_PUBLIC(dense) * out, const fastlstm_dense *layer, const real *kernel,
                                                   const real *bias, void *memory, size_t bytes) {
  fl_shape s;
  if (!out) return FASTLSTM_NULL_POINTER;
  fastlstm_status status = fl_dense_shape(layer, &s);
  if (status == FASTLSTM_OK) status = FL(pack_matrix)(&s, kernel, bias, memory, bytes);
  if (status != FASTLSTM_OK) return status;
  out->layer = *layer;
  out->packed = memory;
  return FASTLSTM_OK;
}

FASTLSTM_API fastlstm_status FL_PUBLIC(dense_run)(const FL_PUBLIC(dense) * dense, ptrdiff_t count, const real *x, real *y) {
  fl_shape s;
  ptrdiff_t bias;
  if (!dense || !dense->packed || !x || !y) return FASTLSTM_NULL_POINTER;
  fastlstm_status status = fl_dense_shape(&dense->layer, &s);
  if (status == FASTLSTM_OK) status = fl_check_call(&s, count, 1, (int)sizeof(real));
  if (status) return status;
  const fl_array arrays[] = {{y, (size_t)(count * s.F) * sizeof(real), sizeof(real)},
                             {x, (size_t)(count * s.C) * sizeof(real), sizeof(real)},
                             {dense->packed, (size_t)FL(cut_matrix)(&s, &bias), FASTLSTM_ALIGNMENT}};
  if ((status = fl_check_arrays(arrays, 1, 3, 0)) != FASTLSTM_OK) return status;
  FL(multiply_windows)(&s, dense->packed, count, s.C, x, y);
  return FASTLSTM_OK;
}

/* ---- Conv1D --------------------------------------------------------------------------------------------------------- */
FASTLSTM_API size_t FL_PUBLIC(conv1d_packed_size)(const fastlstm_conv1d *layer) {
  fl_shape s;
  ptrdiff_t bias;
  return fl_conv1d_shape(layer, &s) ? 0 : (size_t)FL(cut_matrix)(&s, &bias);
}

/* One sample with its zeros, where it has any. */
FASTLSTM_API size_t FL_PUBLIC(conv1d_workspace_size)(const fastlstm_conv1d *layer) {
  fl_shape s;
  if (fl_conv1d_shape(layer, &s) || fl_check_call(&s, 1, 1, (int)sizeof(real))) return 0;
  const ptrdiff_t bytes = s.padded_rows == s.R ? 1 : s.padded_rows * s.C * (ptrdiff_t)sizeof(real);
  return (size_t)(fl_ceil(bytes, FASTLSTM_ALIGNMENT) * FASTLSTM_ALIGNMENT);
}

FASTLSTM_API fastlstm_status FL_PUBLIC(conv1d_pack)(FL_PUBLIC(conv1d) * out, const fastlstm_conv1d *layer, const real *kernel,
                                                    const real *bias, void *memory, size_t bytes) {
  fl_shape s;
  if (!out) return FASTLSTM_NULL_POINTER;
  fastlstm_status status = fl_conv1d_shape(layer, &s);
  if (status == FASTLSTM_OK) status = FL(pack_matrix)(&s, kernel, bias, memory, bytes);
  if (status != FASTLSTM_OK) return status;
  out->layer = *layer;
  out->packed = memory;
  return FASTLSTM_OK;
}

FASTLSTM_API fastlstm_status FL_PUBLIC(conv1d_run)(const FL_PUBLIC(conv1d) * conv, ptrdiff_t batch, const real *x, real *y,
                                                   void *workspace, size_t bytes) {
  fl_shape s;
  ptrdiff_t bias;
  if (!conv || !conv->packed || !x || !y) return FASTLSTM_NULL_POINTER;
  fastlstm_status status = fl_conv1d_shape(&conv->layer, &s);
  if (status == FASTLSTM_OK) status = fl_check_call(&s, batch, 1, (int)sizeof(real));
  if (status) return status;
  const ptrdiff_t sample = s.R * s.C;
  const size_t needed = FL_PUBLIC(conv1d_workspace_size)(&conv->layer);
  if ((status = fl_check_memory(workspace, bytes, needed)) != FASTLSTM_OK) return status;
  const fl_array arrays[] = {{y, (size_t)(batch * s.S * s.F) * sizeof(real), sizeof(real)},
                             {workspace, needed, 1},
                             {x, (size_t)(batch * sample) * sizeof(real), sizeof(real)},
                             {conv->packed, (size_t)FL(cut_matrix)(&s, &bias), FASTLSTM_ALIGNMENT}};
  if ((status = fl_check_arrays(arrays, 2, 4, 0)) != FASTLSTM_OK) return status;
  if (s.padded_rows == s.R) {
    FL(multiply_windows)(&s, conv->packed, batch, sample, x, y);
    return FASTLSTM_OK;
  }
  real *copy = (real *)workspace;
  memset(copy, 0, (size_t)(s.padded_rows * s.C) * sizeof(real));
  for (ptrdiff_t n = 0; n < batch; n++) {
    FL(copy_state)(x + n * sample, copy + s.pad_left * s.C, sample);
    FL(multiply_windows)(&s, conv->packed, 1, 0, copy, y + n * s.S * s.F);
  }
  return FASTLSTM_OK;
}

/* ---- activations ---------------------------------------------------------------------------------------------------- */
FASTLSTM_API fastlstm_status FL_PUBLIC(activate)(int activation, real *x, ptrdiff_t count, ptrdiff_t width) {
  if (!x) return FASTLSTM_NULL_POINTER;
  if (count < 1 || width < 1) return FASTLSTM_BAD_SIZE;
  if (activation < 0 || activation >= (int)FL_ACT_COUNT) return FASTLSTM_BAD_ACTIVATION;
  if (fl_times(fl_times(count, width), (ptrdiff_t)sizeof(real)) < 0) return FASTLSTM_TOO_LARGE;
  if ((uintptr_t)x % sizeof(real)) return FASTLSTM_MISALIGNED;
  for (ptrdiff_t k = 0; k < count; k++) FL(activate_row)(activation, x + k * width, width);
  return FASTLSTM_OK;
}
