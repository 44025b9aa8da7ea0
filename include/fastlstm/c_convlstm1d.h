/* c_convlstm1d.h: the functions of fastlstm.h for ConvLSTM1D, in terms of c_call.h. */

FASTLSTM_API size_t FL_PUBLIC(convlstm1d_packed_size)(const fastlstm_convlstm1d *layer) {
  fl_shape shape;
  return fl_convlstm1d_shape(layer, &shape) ? 0 : FL(packed_bytes)(&shape);
}

FASTLSTM_API size_t FL_PUBLIC(convlstm1d_workspace_size)(const fastlstm_convlstm1d *layer, ptrdiff_t batch, ptrdiff_t steps) {
  fl_shape shape;
  return fl_convlstm1d_shape(layer, &shape) ? 0 : FL(workspace_bytes)(&shape, batch, steps);
}

FASTLSTM_API fastlstm_status FL_PUBLIC(convlstm1d_pack)(FL_PUBLIC(convlstm1d) * out, const fastlstm_convlstm1d *layer,
                                                        const real *kernel, const real *recurrent_kernel, const real *bias,
                                                        void *memory, size_t bytes) {
  fl_shape shape;
  if (!out) return FASTLSTM_NULL_POINTER;
  fastlstm_status status = fl_convlstm1d_shape(layer, &shape);
  if (status == FASTLSTM_OK) status = FL(pack_layer)(&shape, kernel, recurrent_kernel, bias, memory, bytes);
  if (status != FASTLSTM_OK) return status;
  out->layer = *layer;
  out->packed = memory;
  return FASTLSTM_OK;
}

FASTLSTM_API fastlstm_status FL_PUBLIC(convlstm1d_run)(const FL_PUBLIC(convlstm1d) * conv, const FL_PUBLIC(sequences) * arrays,
                                                       void *workspace, size_t bytes) {
  fl_shape shape;
  if (!conv || !arrays) return FASTLSTM_NULL_POINTER;
  const fastlstm_status status = fl_convlstm1d_shape(&conv->layer, &shape);
  return status ? status : FL(call)(&shape, conv->packed, arrays, NULL, 0, workspace, bytes);
}

FASTLSTM_API fastlstm_status FL_PUBLIC(convlstm1d_step)(const FL_PUBLIC(convlstm1d) * conv, ptrdiff_t batch, const real *x,
                                                        real *h, real *c, void *workspace, size_t bytes) {
  fl_shape shape;
  if (!conv) return FASTLSTM_NULL_POINTER;
  const fastlstm_status status = fl_convlstm1d_shape(&conv->layer, &shape);
  return status ? status : FL(call_step)(&shape, conv->packed, batch, x, h, c, workspace, bytes);
}
