/* c_call.h: what the functions of LSTM and ConvLSTM1D share: the checks of all arguments, then the loops of c_sequence.h and
 * c_stream.h. Called by c_lstm.h, c_convlstm1d.h and c_backward.h with the shape of a layer that has been checked.
 */

/* Cuts a tape; returns its bytes. memory NULL: only that. */
FL_STATIC ptrdiff_t FL(cut_tape)(FL(sequences) * s, void *memory) {
  const ptrdiff_t page = s->N * s->shape->S * s->shape->F * (ptrdiff_t)sizeof(real);
  ptrdiff_t at = 0;
  s->tape_gates = (real *)fl_part(memory, &at, s->T * 4 * page);
  s->tape_c = (real *)fl_part(memory, &at, (s->T + 1) * page);
  s->tape_h = (real *)fl_part(memory, &at, (s->T + 1) * page);
  return at;
}

/* Runs a call whose arguments are good; packed, workspace and tape (or NULL) are not cut yet. */
FL_STATIC void FL(run_call)(FL(sequences) * s, const void *packed, void *workspace, void *tape) {
  FL(cut_weights)(s->shape, (void *)(uintptr_t)packed, s);
  FL(cut)(s, workspace);
  if (tape) FL(cut_tape)(s, tape);
  if (!s->h) s->h = s->own_h;
  if (!s->c) s->c = s->own_c;
  if (s->mask && !memchr(s->mask, 0, (size_t)(s->N * s->T))) s->mask = NULL; /* nothing is masked */
  if (FL(is_single_row)(s))
    FL(run_row)(s);
  else
    FL(run_rows)(s);
  if (s->y && !s->shape->return_sequences) FL(last_outputs)(s);
}

/* The arguments of a call: sizes, NULL, alignment, overlaps. `tape` NULL: none is wanted. */
FL_STATIC fastlstm_status FL(check_run)(FL(sequences) * s, const void *packed, const void *workspace, size_t bytes,
                                        const void *tape, size_t tape_bytes) {
  const fl_shape *shape = s->shape;
  fastlstm_status status = fl_check_call(shape, s->N, s->T, (int)sizeof(real));
  if (status) return status;
  if (!s->x || !packed) return FASTLSTM_NULL_POINTER;
  if ((uintptr_t)packed % FASTLSTM_ALIGNMENT) return FASTLSTM_MISALIGNED;
  FL(sequences) probe = *s;
  const size_t needed = (size_t)FL(cut)(&probe, NULL), weights = (size_t)FL(cut_weights)(shape, NULL, &probe);
  const size_t tape_needed = tape ? (size_t)FL(cut_tape)(&probe, NULL) : 0;
  if ((status = fl_check_memory(workspace, bytes, needed)) != FASTLSTM_OK) return status;
  if (tape && (status = fl_check_memory(tape, tape_bytes, tape_needed)) != FASTLSTM_OK) return status;
  const size_t state = (size_t)(s->N * shape->S * shape->F) * sizeof(real), times = (size_t)s->T, one = sizeof(real);
  const fl_array arrays[] = {{s->h, state, one},
                             {s->c, state, one},
                             {s->y, shape->return_sequences ? times * state : state, one},
                             {workspace, needed, 1},
                             {tape, tape_needed, 1},
                             {s->h0, state, one},
                             {s->c0, state, one},
                             {s->x, times * (size_t)(s->N * shape->R * shape->C) * sizeof(real), one},
                             {s->mask, times * (size_t)s->N, 1},
                             {packed, weights, 1}};
  return fl_check_arrays(arrays, 5, (int)(sizeof arrays / sizeof *arrays), 2);
}

/* ---- behind the doors ----------------------------------------------------------------------------------------------- */
FL_STATIC size_t FL(packed_bytes)(const fl_shape *shape) {
  FL(sequences) s;
  return (size_t)FL(cut_weights)(shape, NULL, &s);
}

/* 0 where such a call cannot be. */
FL_STATIC size_t FL(workspace_bytes)(const fl_shape *shape, ptrdiff_t N, ptrdiff_t T) {
  FL(sequences) s;
  if (fl_check_call(shape, N, T, (int)sizeof(real))) return 0;
  memset(&s, 0, sizeof s);
  s.shape = shape;
  s.N = N;
  s.T = T;
  return (size_t)FL(cut)(&s, NULL);
}

FL_STATIC fastlstm_status FL(pack_layer)(const fl_shape *shape, const real *kernel, const real *recurrent_kernel,
                                         const real *bias, void *memory, size_t bytes) {
  const size_t needed = FL(packed_bytes)(shape), columns = (size_t)(4 * shape->F) * sizeof(real);
  if (!kernel || !recurrent_kernel) return FASTLSTM_NULL_POINTER;
  fastlstm_status status = fl_check_memory(memory, bytes, needed);
  if (status) return status;
  const fl_array arrays[] = {{memory, needed, FASTLSTM_ALIGNMENT},
                             {kernel, (size_t)(shape->K * shape->C) * columns, sizeof(real)},
                             {recurrent_kernel, (size_t)(shape->K * shape->F) * columns, sizeof(real)},
                             {bias, columns, sizeof(real)}};
  status = fl_check_arrays(arrays, 1, 4, 0);
  if (status == FASTLSTM_OK) FL(pack_weights)(shape, kernel, recurrent_kernel, bias, memory);
  return status;
}

/* A call. `tape` NULL: none is wanted. */
FL_STATIC fastlstm_status FL(call)(const fl_shape *shape, const void *packed, const FL_PUBLIC(sequences) * arrays, void *tape,
                                   size_t tape_bytes, void *workspace, size_t bytes) {
  FL(sequences) s;
  memset(&s, 0, sizeof s);
  s.shape = shape;
  s.N = arrays->batch;
  s.T = arrays->steps;
  s.x = arrays->x;
  s.mask = arrays->mask;
  s.h0 = arrays->h0;
  s.c0 = arrays->c0;
  s.y = arrays->y;
  s.h = arrays->h;
  s.c = arrays->c;
  const fastlstm_status status = FL(check_run)(&s, packed, workspace, bytes, tape, tape_bytes);
  if (status == FASTLSTM_OK) FL(run_call)(&s, packed, workspace, tape);
  return status;
}

/* One step of x [N,R,C], h and c [M,F] in place. */
FL_STATIC fastlstm_status FL(call_step)(const fl_shape *shape, const void *packed, ptrdiff_t N, const real *x, real *h, real *c,
                                        void *workspace, size_t bytes) {
  FL_PUBLIC(sequences) arrays;
  if (!h || !c) return FASTLSTM_NULL_POINTER;
  memset(&arrays, 0, sizeof arrays);
  arrays.batch = N;
  arrays.steps = 1;
  arrays.x = x;
  arrays.h0 = arrays.h = h;
  arrays.c0 = arrays.c = c;
  return FL(call)(shape, packed, &arrays, NULL, 0, workspace, bytes);
}
