/* c_lstm.h: the functions of fastlstm.h for LSTM, in terms of c_call.h. */

FASTLSTM_API size_t FL_PUBLIC(lstm_packed_size)(const fastlstm_lstm *layer) {
  fl_shape shape;
  return fl_lstm_shape(layer, &shape) ? 0 : FL(packed_bytes)(&shape);
}

FASTLSTM_API size_t FL_PUBLIC(lstm_workspace_size)(const fastlstm_lstm *layer, ptrdiff_t batch, ptrdiff_t steps) {
  fl_shape shape;
  return fl_lstm_shape(layer, &shape) ? 0 : FL(workspace_bytes)(&shape, batch, steps);
}

FASTLSTM_API fastlstm_status FL_PUBLIC(lstm_pack)(FL_PUBLIC(lstm) * out, const fastlstm_lstm *layer, const real *kernel,
                                                  const real *recurrent_kernel, const real *bias, void *memory, size_t bytes) {
  fl_shape shape;
  if (!out) return FASTLSTM_NULL_POINTER;
  fastlstm_status status = fl_lstm_shape(layer, &shape);
  if (status == FASTLSTM_OK) status = FL(pack_layer)(&shape, kernel, recurrent_kernel, bias, memory, bytes);
  if (status != FASTLSTM_OK) return status;
  out->layer = *layer;
  out->packed = memory;
  return FASTLSTM_OK;
}

FASTLSTM_API fastlstm_status FL_PUBLIC(lstm_run)(const FL_PUBLIC(lstm) * lstm, const FL_PUBLIC(sequences) * arrays,
                                                 void *workspace, size_t bytes) {
  fl_shape shape;
  if (!lstm || !arrays) return FASTLSTM_NULL_POINTER;
  const fastlstm_status status = fl_lstm_shape(&lstm->layer, &shape);
  return status ? status : FL(call)(&shape, lstm->packed, arrays, NULL, 0, workspace, bytes);
}

FASTLSTM_API fastlstm_status FL_PUBLIC(lstm_step)(const FL_PUBLIC(lstm) * lstm, ptrdiff_t batch, const real *x, real *h, real *c,
                                                  void *workspace, size_t bytes) {
  fl_shape shape;
  if (!lstm) return FASTLSTM_NULL_POINTER;
  const fastlstm_status status = fl_lstm_shape(&lstm->layer, &shape);
  return status ? status : FL(call_step)(&shape, lstm->packed, batch, x, h, c, workspace, bytes);
}
