/* c_training.h: the functions of fastlstm.h for the training of an LSTM: tape, transposed weights, backward pass
 * (c_backward.h).
 */

FASTLSTM_API size_t FL_PUBLIC(lstm_tape_size)(const fastlstm_lstm *layer, ptrdiff_t batch, ptrdiff_t steps) {
  fl_shape shape;
  FL(sequences) s;
  if (fl_lstm_shape(layer, &shape) || fl_check_call(&shape, batch, steps, (int)sizeof(real))) return 0;
  memset(&s, 0, sizeof s);
  s.shape = &shape;
  s.N = batch;
  s.T = steps;
  return (size_t)FL(cut_tape)(&s, NULL);
}

FASTLSTM_API fastlstm_status FL_PUBLIC(lstm_record)(const FL_PUBLIC(lstm) * lstm, const FL_PUBLIC(sequences) * arrays, void *tape,
                                                    size_t tape_bytes, void *workspace, size_t bytes) {
  fl_shape shape;
  if (!lstm || !arrays || !tape) return FASTLSTM_NULL_POINTER;
  const fastlstm_status status = fl_lstm_shape(&lstm->layer, &shape);
  return status ? status : FL(call)(&shape, lstm->packed, arrays, tape, tape_bytes, workspace, bytes);
}

FASTLSTM_API size_t FL_PUBLIC(lstm_backward_packed_size)(const fastlstm_lstm *layer) {
  fl_shape shape;
  FL(backward) b;
  return fl_lstm_shape(layer, &shape) ? 0 : (size_t)FL(cut_back_weights)(&shape, NULL, &b);
}

FASTLSTM_API fastlstm_status FL_PUBLIC(lstm_backward_pack)(FL_PUBLIC(lstm_backward_weights) * out, const fastlstm_lstm *layer,
                                                           const real *kernel, const real *recurrent_kernel, void *memory,
                                                           size_t bytes) {
  fl_shape shape;
  FL(backward) b;
  if (!out || !kernel || !recurrent_kernel) return FASTLSTM_NULL_POINTER;
  fastlstm_status status = fl_lstm_shape(layer, &shape);
  if (status) return status;
  const size_t needed = (size_t)FL(cut_back_weights)(&shape, NULL, &b), columns = (size_t)(4 * shape.F) * sizeof(real);
  if ((status = fl_check_memory(memory, bytes, needed)) != FASTLSTM_OK) return status;
  const fl_array arrays[] = {{memory, needed, FASTLSTM_ALIGNMENT},
                             {kernel, (size_t)shape.C * columns, sizeof(real)},
                             {recurrent_kernel, (size_t)shape.F * columns, sizeof(real)}};
  if ((status = fl_check_arrays(arrays, 1, 3, 0)) != FASTLSTM_OK) return status;
  memset(memory, 0, needed);
  FL(cut_back_weights)(&shape, memory, &b);
  FL(pack_transposed)(&shape, &b.h_layout, recurrent_kernel, (real *)(uintptr_t)b.h_panel);
  FL(pack_transposed)(&shape, &b.x_layout, kernel, (real *)(uintptr_t)b.x_panel);
  out->layer = *layer;
  out->packed = memory;
  return FASTLSTM_OK;
}

FASTLSTM_API size_t FL_PUBLIC(lstm_backward_workspace_size)(const fastlstm_lstm *layer, ptrdiff_t batch, ptrdiff_t steps) {
  fl_shape shape;
  FL(backward) b;
  if (fl_lstm_shape(layer, &shape) || fl_check_call(&shape, batch, steps, (int)sizeof(real))) return 0;
  memset(&b, 0, sizeof b);
  b.s.shape = &shape;
  b.s.N = batch;
  b.s.T = steps;
  return (size_t)FL(cut_back)(&b, NULL);
}

/* The arguments of a backward pass: NULL, alignment, sizes of memory, overlaps. */
FL_STATIC fastlstm_status FL(check_back)(FL(backward) * b, const void *packed, const void *tape, size_t tape_bytes,
                                         const void *workspace, size_t bytes) {
  const fl_shape *shape = b->s.shape;
  const FL_PUBLIC(gradients) *g = b->g;
  fastlstm_status status = fl_check_call(shape, b->s.N, b->s.T, (int)sizeof(real));
  if (status) return status;
  if (!b->s.x || !packed) return FASTLSTM_NULL_POINTER;
  if ((uintptr_t)packed % FASTLSTM_ALIGNMENT) return FASTLSTM_MISALIGNED;
  const size_t needed = (size_t)FL(cut_back)(b, NULL), tape_needed = (size_t)FL(cut_tape)(&b->s, NULL);
  if ((status = fl_check_memory(workspace, bytes, needed)) != FASTLSTM_OK) return status;
  if ((status = fl_check_memory(tape, tape_bytes, tape_needed)) != FASTLSTM_OK) return status;
  const size_t one = sizeof(real), state = (size_t)(b->s.N * shape->F) * one, columns = (size_t)(4 * shape->F) * one;
  const size_t times = (size_t)b->s.T, samples = (size_t)b->s.N, x = times * samples * (size_t)shape->C * one;
  const fl_array arrays[] = {{g->dh0, state, one},
                             {g->dc0, state, one},
                             {g->dx, x, one},
                             {g->dkernel, (size_t)shape->C * columns, one},
                             {g->drecurrent_kernel, (size_t)shape->F * columns, one},
                             {g->dbias, columns, one},
                             {workspace, needed, 1},
                             {g->dh, state, one},
                             {g->dc, state, one},
                             {g->dy, shape->return_sequences ? times * state : state, one},
                             {b->s.x, x, one},
                             {b->s.mask, times * samples, 1},
                             {tape, tape_needed, 1},
                             {packed, (size_t)FL(cut_back_weights)(shape, NULL, b), 1}};
  return fl_check_arrays(arrays, 7, (int)(sizeof arrays / sizeof *arrays), 2);
}

FASTLSTM_API fastlstm_status FL_PUBLIC(lstm_backward)(const FL_PUBLIC(lstm_backward_weights) * weights,
                                                      const FL_PUBLIC(sequences) * arrays, const void *tape, size_t tape_bytes,
                                                      const FL_PUBLIC(gradients) * gradients, void *workspace, size_t bytes) {
  fl_shape shape;
  FL(backward) b;
  if (!weights || !arrays || !gradients) return FASTLSTM_NULL_POINTER;
  fastlstm_status status = fl_lstm_shape(&weights->layer, &shape);
  if (status) return status;
  memset(&b, 0, sizeof b);
  b.s.shape = &shape;
  b.s.N = arrays->batch;
  b.s.T = arrays->steps;
  b.s.x = arrays->x;
  b.s.mask = arrays->mask;
  b.g = gradients;
  if ((status = FL(check_back)(&b, weights->packed, tape, tape_bytes, workspace, bytes)) != FASTLSTM_OK) return status;
  const ptrdiff_t states = b.s.N * shape.F;
  FL(cut_back_weights)(&shape, weights->packed, &b);
  FL(cut_tape)(&b.s, (void *)(uintptr_t)tape); /* read only from here on */
  FL(cut_back)(&b, workspace);
  FL(lay_out_back)(&b);
  FL(copy_state)(gradients->dh, b.dh, states);
  FL(copy_state)(gradients->dc, b.dc, states);
  if (b.s.mask && !memchr(b.s.mask, 0, (size_t)(b.s.N * b.s.T))) b.s.mask = NULL;
  FL(run_back)(&b);
  if (gradients->dh0) FL(copy_state)(b.dh, gradients->dh0, states);
  if (gradients->dc0) FL(copy_state)(b.dc, gradients->dc0, states);
  return FASTLSTM_OK;
}
