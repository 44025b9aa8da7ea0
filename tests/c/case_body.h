/* case_body.h: the cases of cases.c for one dtype: REAL, TYPE(name) of the library, OWN(name) of this file. */

typedef struct {
  REAL *x, *h0, *c0, *y, *h, *c;
  unsigned char *mask;
  size_t states, outputs; /* numbers */
} OWN(call);

static REAL *OWN(numbers)(size_t count, int wanted) { return (REAL *)read_bytes(count * sizeof(REAL), wanted); }

/* An array of results, full of what no result is. */
static REAL *OWN(results)(size_t count) {
  REAL *memory = (REAL *)memory_of(count * sizeof(REAL));
  for (size_t k = 0; k < count; k++) memory[k] = (REAL)12345;
  return memory;
}

static fastlstm_lstm OWN(lstm_of_head)(void) {
  fastlstm_lstm layer = fastlstm_lstm_defaults(size_of(CHANNELS), size_of(FILTERS));
  layer.activation = (int)head[ACTIVATION];
  layer.recurrent_activation = (int)head[RECURRENT_ACTIVATION];
  layer.go_backwards = is_set(GO_BACKWARDS);
  layer.return_sequences = is_set(RETURN_SEQUENCES);
  layer.zero_output_for_mask = is_set(ZERO_OUTPUT);
  return layer;
}

static fastlstm_convlstm1d OWN(conv_of_head)(void) {
  fastlstm_convlstm1d layer =
      fastlstm_convlstm1d_defaults(size_of(ROWS), size_of(CHANNELS), size_of(FILTERS), size_of(KERNEL_SIZE));
  layer.strides = size_of(STRIDES);
  layer.dilation_rate = size_of(DILATION_RATE);
  layer.padding = (int)head[PADDING];
  layer.activation = (int)head[ACTIVATION];
  layer.recurrent_activation = (int)head[RECURRENT_ACTIVATION];
  layer.go_backwards = is_set(GO_BACKWARDS);
  layer.return_sequences = is_set(RETURN_SEQUENCES);
  layer.zero_output_for_mask = is_set(ZERO_OUTPUT);
  return layer;
}

/* x, mask, states; `row`: numbers of a time step of x, `state`: of a sample's state. */
static OWN(call) OWN(read_call)(size_t row, size_t state, TYPE(sequences) * arrays) {
  const size_t N = (size_t)head[BATCH], T = (size_t)head[STEPS];
  OWN(call) call;
  memset(arrays, 0, sizeof *arrays);
  call.states = N * state;
  call.outputs = is_set(RETURN_SEQUENCES) ? T * call.states : call.states;
  call.x = OWN(numbers)(N * T * row, 1);
  call.mask = (unsigned char *)read_bytes(N * T, is_set(HAS_MASK));
  call.h0 = OWN(numbers)(call.states, is_set(HAS_STATES));
  call.c0 = OWN(numbers)(call.states, is_set(HAS_STATES));
  call.y = OWN(results)(call.outputs);
  call.h = OWN(results)(call.states);
  call.c = OWN(results)(call.states);
  if (is_set(IN_PLACE)) {
    memcpy(call.h, call.h0, call.states * sizeof(REAL));
    memcpy(call.c, call.c0, call.states * sizeof(REAL));
  }
  arrays->batch = size_of(BATCH);
  arrays->steps = size_of(STEPS);
  arrays->x = call.x;
  arrays->mask = call.mask;
  arrays->h0 = is_set(IN_PLACE) ? call.h : call.h0;
  arrays->c0 = is_set(IN_PLACE) ? call.c : call.c0;
  arrays->y = head[LEAVE_OUT] & 1 ? NULL : call.y;
  arrays->h = head[LEAVE_OUT] & 2 ? NULL : call.h;
  arrays->c = head[LEAVE_OUT] & 4 ? NULL : call.c;
  return call;
}

static void OWN(write_call)(OWN(call) * call) {
  write_head((call->outputs + 2 * call->states) * sizeof(REAL));
  write_bytes(call->y, call->outputs * sizeof(REAL));
  write_bytes(call->h, call->states * sizeof(REAL));
  write_bytes(call->c, call->states * sizeof(REAL));
}

static void OWN(free_call)(OWN(call) * call) {
  free(call->x);
  free(call->mask);
  free(call->h0);
  free(call->c0);
  free(call->y);
  free(call->h);
  free(call->c);
}

/* The states before the first step, where the step functions go on from. */
static void OWN(begin_states)(OWN(call) * call) {
  for (size_t k = 0; k < call->states; k++) {
    call->h[k] = call->h0 ? call->h0[k] : 0;
    call->c[k] = call->c0 ? call->c0[k] : 0;
  }
}

/* x [N,row] of step t, gathered, since x is [N,T,row]. */
static void OWN(gather_step)(const OWN(call) * call, size_t row, size_t t, REAL *step) {
  const size_t N = (size_t)head[BATCH], T = (size_t)head[STEPS];
  for (size_t n = 0; n < N; n++) memcpy(step + n * row, call->x + (n * T + t) * row, row * sizeof(REAL));
}

static void OWN(scatter_output)(OWN(call) * call, size_t t) {
  const size_t N = (size_t)head[BATCH], T = (size_t)head[STEPS], state = call->states / N;
  for (size_t n = 0; n < N; n++)
    if (is_set(RETURN_SEQUENCES))
      memcpy(call->y + (n * T + t) * state, call->h + n * state, state * sizeof(REAL));
    else
      memcpy(call->y + n * state, call->h + n * state, state * sizeof(REAL));
}

static void OWN(run_lstm)(void) {
  const fastlstm_lstm layer = OWN(lstm_of_head)();
  const size_t D = (size_t)layer.features, U = (size_t)layer.units;
  REAL *kernel = OWN(numbers)(D * 4 * U, 1), *recurrent = OWN(numbers)(U * 4 * U, 1),
       *bias = OWN(numbers)(4 * U, is_set(HAS_BIAS));
  TYPE(sequences) arrays;
  OWN(call) call = OWN(read_call)(D, U, &arrays);
  const size_t packed_bytes = TYPE(lstm_packed_size)(&layer);
  const ptrdiff_t steps = head[OPERATION] == LSTM_STEPS ? 1 : arrays.steps;
  const size_t bytes = TYPE(lstm_workspace_size)(&layer, arrays.batch, steps);
  void *packed = aligned_of(packed_bytes), *workspace = aligned_of(bytes);
  TYPE(lstm) lstm;
  check(TYPE(lstm_pack)(&lstm, &layer, kernel, recurrent, bias, packed, packed_bytes));
  free(kernel);
  free(recurrent);
  free(bias);
  if (head[OPERATION] == LSTM_RUN) {
    check(TYPE(lstm_run)(&lstm, &arrays, workspace, bytes));
  } else {
    REAL *step = OWN(results)((size_t)head[BATCH] * D);
    OWN(begin_states)(&call);
    for (size_t t = 0; t < (size_t)head[STEPS]; t++) {
      OWN(gather_step)(&call, D, t, step);
      check(TYPE(lstm_step)(&lstm, arrays.batch, step, call.h, call.c, workspace, bytes));
      OWN(scatter_output)(&call, t);
    }
    free(step);
  }
  OWN(write_call)(&call);
  OWN(free_call)(&call);
  free_aligned(packed);
  free_aligned(workspace);
}

static void OWN(run_convlstm1d)(void) {
  const fastlstm_convlstm1d layer = OWN(conv_of_head)();
  const size_t C = (size_t)layer.channels, F = (size_t)layer.filters, K = (size_t)layer.kernel_size;
  const size_t row = (size_t)layer.rows * C, S = (size_t)fastlstm_convlstm1d_output_rows(&layer);
  REAL *kernel = OWN(numbers)(K * C * 4 * F, 1), *recurrent = OWN(numbers)(K * F * 4 * F, 1);
  REAL *bias = OWN(numbers)(4 * F, is_set(HAS_BIAS));
  TYPE(sequences) arrays;
  OWN(call) call = OWN(read_call)(row, S * F, &arrays);
  const size_t packed_bytes = TYPE(convlstm1d_packed_size)(&layer);
  const ptrdiff_t steps = head[OPERATION] == CONV_STEPS ? 1 : arrays.steps;
  const size_t bytes = TYPE(convlstm1d_workspace_size)(&layer, arrays.batch, steps);
  void *packed = aligned_of(packed_bytes), *workspace = aligned_of(bytes);
  TYPE(convlstm1d) conv;
  check(TYPE(convlstm1d_pack)(&conv, &layer, kernel, recurrent, bias, packed, packed_bytes));
  free(kernel);
  free(recurrent);
  free(bias);
  if (head[OPERATION] == CONV_RUN) {
    check(TYPE(convlstm1d_run)(&conv, &arrays, workspace, bytes));
  } else {
    REAL *step = OWN(results)((size_t)head[BATCH] * row);
    OWN(begin_states)(&call);
    for (size_t t = 0; t < (size_t)head[STEPS]; t++) {
      OWN(gather_step)(&call, row, t, step);
      check(TYPE(convlstm1d_step)(&conv, arrays.batch, step, call.h, call.c, workspace, bytes));
      OWN(scatter_output)(&call, t);
    }
    free(step);
  }
  OWN(write_call)(&call);
  OWN(free_call)(&call);
  free_aligned(packed);
  free_aligned(workspace);
}

/* Forward on a tape, then the gradients: y, h, c, dx, dh0, dc0, dkernel, drecurrent_kernel, dbias. */
static void OWN(run_backward)(void) {
  const fastlstm_lstm layer = OWN(lstm_of_head)();
  const size_t D = (size_t)layer.features, U = (size_t)layer.units;
  REAL *kernel = OWN(numbers)(D * 4 * U, 1), *recurrent = OWN(numbers)(U * 4 * U, 1),
       *bias = OWN(numbers)(4 * U, is_set(HAS_BIAS));
  const int64_t left_out = head[LEAVE_OUT];
  head[LEAVE_OUT] = 0;
  TYPE(sequences) arrays;
  OWN(call) call = OWN(read_call)(D, U, &arrays);
  REAL *dy = OWN(numbers)(call.outputs, !(left_out & 1)), *dh = OWN(numbers)(call.states, !(left_out & 2));
  REAL *dc = OWN(numbers)(call.states, !(left_out & 4));
  const size_t sizes[] = {(size_t)head[BATCH] * (size_t)head[STEPS] * D, call.states, call.states, D * 4 * U, U * 4 * U, 4 * U};
  REAL *out[6];
  size_t total = 0;
  for (int k = 0; k < 6; k++) {
    out[k] = OWN(results)(sizes[k]);
    total += sizes[k];
    for (size_t j = 0; j < sizes[k] && k >= 3; j++) out[k][j] = is_set(IN_PLACE) ? (REAL)k : 0; /* these are added to */
  }
  const size_t packed_bytes = TYPE(lstm_packed_size)(&layer), back_bytes = TYPE(lstm_backward_packed_size)(&layer);
  const size_t bytes = TYPE(lstm_workspace_size)(&layer, arrays.batch, arrays.steps);
  const size_t tape_bytes = TYPE(lstm_tape_size)(&layer, arrays.batch, arrays.steps);
  const size_t room_bytes = TYPE(lstm_backward_workspace_size)(&layer, arrays.batch, arrays.steps);
  void *packed = aligned_of(packed_bytes), *back_packed = aligned_of(back_bytes), *workspace = aligned_of(bytes);
  void *tape = aligned_of(tape_bytes), *room = aligned_of(room_bytes);
  TYPE(lstm) lstm;
  TYPE(lstm_backward_weights) weights;
  check(TYPE(lstm_pack)(&lstm, &layer, kernel, recurrent, bias, packed, packed_bytes));
  check(TYPE(lstm_backward_pack)(&weights, &layer, kernel, recurrent, back_packed, back_bytes));
  check(TYPE(lstm_record)(&lstm, &arrays, tape, tape_bytes, workspace, bytes));
  TYPE(gradients) gradients = {dy, dh, dc, out[0], out[1], out[2], out[3], out[4], out[5]};
  if (is_set(IN_PLACE) && dh && dc) {
    memcpy(out[1], dh, call.states * sizeof(REAL));
    memcpy(out[2], dc, call.states * sizeof(REAL));
    gradients.dh = out[1];
    gradients.dc = out[2];
  }
  check(TYPE(lstm_backward)(&weights, &arrays, tape, tape_bytes, &gradients, room, room_bytes));
  write_head((call.outputs + 2 * call.states + total) * sizeof(REAL));
  write_bytes(call.y, call.outputs * sizeof(REAL));
  write_bytes(call.h, call.states * sizeof(REAL));
  write_bytes(call.c, call.states * sizeof(REAL));
  for (int k = 0; k < 6; k++) {
    write_bytes(out[k], sizes[k] * sizeof(REAL));
    free(out[k]);
  }
  OWN(free_call)(&call);
  void *taken[] = {packed, back_packed, workspace, tape, room};
  for (int k = 0; k < 5; k++) free_aligned(taken[k]);
  REAL *read[] = {kernel, recurrent, bias, dy, dh, dc};
  for (int k = 0; k < 6; k++) free(read[k]);
}

/* Dense, Conv1D, an activation over rows: y alone. */
static void OWN(run_glue)(void) {
  const size_t N = (size_t)head[BATCH], C = (size_t)head[CHANNELS], F = (size_t)head[FILTERS], K = (size_t)head[KERNEL_SIZE];
  size_t rows = 1, out_rows = 1;
  fastlstm_dense dense = fastlstm_dense_defaults(size_of(CHANNELS), size_of(FILTERS));
  fastlstm_conv1d conv = fastlstm_conv1d_defaults(size_of(ROWS), size_of(CHANNELS), size_of(FILTERS), size_of(KERNEL_SIZE));
  dense.activation = conv.activation = (int)head[ACTIVATION];
  conv.strides = size_of(STRIDES);
  conv.dilation_rate = size_of(DILATION_RATE);
  conv.padding = (int)head[PADDING];
  if (head[OPERATION] == ACTIVATE) {
    REAL *x = OWN(numbers)(N * C, 1);
    check(TYPE(activate)((int)head[ACTIVATION], x, size_of(BATCH), size_of(CHANNELS)));
    write_head(N * C * sizeof(REAL));
    write_bytes(x, N * C * sizeof(REAL));
    free(x);
    return;
  }
  const int is_conv = head[OPERATION] == CONV1D;
  if (is_conv) rows = (size_t)head[ROWS], out_rows = (size_t)fastlstm_conv1d_output_rows(&conv);
  REAL *kernel = OWN(numbers)((is_conv ? K : 1) * C * F, 1), *bias = OWN(numbers)(F, is_set(HAS_BIAS));
  REAL *x = OWN(numbers)(N * rows * C, 1), *y = OWN(results)(N * out_rows * F);
  const size_t packed_bytes = is_conv ? TYPE(conv1d_packed_size)(&conv) : TYPE(dense_packed_size)(&dense);
  void *packed = aligned_of(packed_bytes);
  if (is_conv) {
    TYPE(conv1d) layer;
    const size_t bytes = TYPE(conv1d_workspace_size)(&conv);
    void *workspace = aligned_of(bytes);
    check(TYPE(conv1d_pack)(&layer, &conv, kernel, bias, packed, packed_bytes));
    check(TYPE(conv1d_run)(&layer, size_of(BATCH), x, y, workspace, bytes));
    free_aligned(workspace);
  } else {
    TYPE(dense) layer;
    check(TYPE(dense_pack)(&layer, &dense, kernel, bias, packed, packed_bytes));
    check(TYPE(dense_run)(&layer, size_of(BATCH), x, y));
  }
  write_head(N * out_rows * F * sizeof(REAL));
  write_bytes(y, N * out_rows * F * sizeof(REAL));
  free_aligned(packed);
  free(kernel);
  free(bias);
  free(x);
  free(y);
}

static void OWN(run_case)(void) {
  switch (head[OPERATION]) {
    case LSTM_RUN:
    case LSTM_STEPS:
      OWN(run_lstm)();
      break;
    case CONV_RUN:
    case CONV_STEPS:
      OWN(run_convlstm1d)();
      break;
    case LSTM_BACKWARD:
      OWN(run_backward)();
      break;
    default:
      OWN(run_glue)();
  }
}
