/* misuse.c: what the C library answers to arguments that are wrong, and that it writes nothing then. Run by
 * tests/test_c_misuse.py; each check that fails is a line on stderr, exit code 1.
 */
#define FASTLSTM_IMPLEMENTATION
#include <fastlstm/fastlstm.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { D = 3, U = 5, N = 2, T = 4, ROOM = 1 << 16 };

FASTLSTM_ALIGNED static unsigned char packed[ROOM], back_packed[ROOM], workspace[ROOM], tape[ROOM], small_packed[64];
static float kernel[D * 4 * U], recurrent_kernel[U * 4 * U], bias[4 * U];
static float x[N * T * D], y[N * T * U + 1], h[N * U], c[N * U], dx[N * T * D], dy[N * T * U];
static unsigned char mask[N * T];
static int failures;

static void expect(int line, fastlstm_status want, fastlstm_status got) {
  if (want == got) return;
  fprintf(stderr, "line %d: expected \"%s\", got \"%s\"\n", line, fastlstm_status_text(want), fastlstm_status_text(got));
  failures++;
}
#define EXPECT(want, got) expect(__LINE__, FASTLSTM_##want, got)

static void truth(int line, int holds) {
  if (holds) return;
  fprintf(stderr, "line %d: not true\n", line);
  failures++;
}
#define TRUE(what) truth(__LINE__, (what) != 0)

static fastlstm_sequences_f32 good_arrays(void) {
  fastlstm_sequences_f32 a;
  memset(&a, 0, sizeof a);
  a.batch = N;
  a.steps = T;
  a.x = x;
  a.mask = mask;
  a.y = y;
  a.h = h;
  a.c = c;
  return a;
}

static void layers(void) {
  fastlstm_lstm lstm = fastlstm_lstm_defaults(D, U);
  EXPECT(OK, fastlstm_lstm_check(&lstm));
  EXPECT(NULL_POINTER, fastlstm_lstm_check(NULL));
  TRUE(lstm.activation == FASTLSTM_TANH && lstm.recurrent_activation == FASTLSTM_SIGMOID);
  lstm.activation = FASTLSTM_SOFTMAX;
  EXPECT(BAD_ACTIVATION, fastlstm_lstm_check(&lstm));
  lstm.activation = -1;
  EXPECT(BAD_ACTIVATION, fastlstm_lstm_check(&lstm));
  lstm.activation = FASTLSTM_MISH;
  EXPECT(OK, fastlstm_lstm_check(&lstm));
  lstm.recurrent_activation = 1000;
  EXPECT(BAD_ACTIVATION, fastlstm_lstm_check(&lstm));
  TRUE(fastlstm_lstm_packed_size_f32(&lstm) == 0 && fastlstm_lstm_workspace_size_f64(&lstm, 1, 1) == 0);
  TRUE(fastlstm_lstm_tape_size_f32(&lstm, 1, 1) == 0 && fastlstm_lstm_backward_workspace_size_f32(&lstm, 1, 1) == 0);
  lstm = fastlstm_lstm_defaults(0, U);
  EXPECT(BAD_SIZE, fastlstm_lstm_check(&lstm));
  lstm = fastlstm_lstm_defaults(D, -1);
  EXPECT(BAD_SIZE, fastlstm_lstm_check(&lstm));
  lstm = fastlstm_lstm_defaults(PTRDIFF_MAX, PTRDIFF_MAX);
  EXPECT(TOO_LARGE, fastlstm_lstm_check(&lstm));
  lstm = fastlstm_lstm_defaults(1, PTRDIFF_MAX / 64);
  EXPECT(TOO_LARGE, fastlstm_lstm_check(&lstm));
  lstm = fastlstm_lstm_defaults(D, U);
  TRUE(fastlstm_lstm_workspace_size_f32(&lstm, 0, 1) == 0 && fastlstm_lstm_workspace_size_f32(&lstm, 1, 0) == 0);
  TRUE(fastlstm_lstm_workspace_size_f32(&lstm, PTRDIFF_MAX / 2, 3) == 0);
  TRUE(fastlstm_lstm_workspace_size_f32(&lstm, 3, PTRDIFF_MAX / 2) == 0);
  TRUE(fastlstm_lstm_workspace_size_f32(NULL, 1, 1) == 0 && fastlstm_lstm_packed_size_f64(NULL) == 0);
}

static void convolutions(void) {
  fastlstm_convlstm1d conv = fastlstm_convlstm1d_defaults(10, 2, 3, 3);
  EXPECT(OK, fastlstm_convlstm1d_check(&conv));
  EXPECT(NULL_POINTER, fastlstm_convlstm1d_check(NULL));
  TRUE(fastlstm_convlstm1d_output_rows(&conv) == 8);
  conv.padding = FASTLSTM_SAME;
  conv.strides = 3;
  TRUE(fastlstm_convlstm1d_output_rows(&conv) == 4);
  conv.padding = FASTLSTM_CAUSAL;
  EXPECT(BAD_PADDING, fastlstm_convlstm1d_check(&conv));
  TRUE(fastlstm_convlstm1d_output_rows(&conv) == 0 && fastlstm_convlstm1d_packed_size_f32(&conv) == 0);
  conv.padding = 17;
  EXPECT(BAD_PADDING, fastlstm_convlstm1d_check(&conv));
  conv.padding = FASTLSTM_VALID;
  conv.dilation_rate = 5;
  EXPECT(BAD_SIZE, fastlstm_convlstm1d_check(&conv)); /* a reach of 11 in 10 rows */
  conv.dilation_rate = PTRDIFF_MAX;
  EXPECT(TOO_LARGE, fastlstm_convlstm1d_check(&conv));
  conv.dilation_rate = 0;
  EXPECT(BAD_SIZE, fastlstm_convlstm1d_check(&conv));
  conv.dilation_rate = 1;
  conv.strides = 0;
  EXPECT(BAD_SIZE, fastlstm_convlstm1d_check(&conv));
  fastlstm_conv1d plain = fastlstm_conv1d_defaults(10, 2, 3, 4);
  plain.padding = FASTLSTM_CAUSAL;
  plain.activation = FASTLSTM_SOFTMAX;
  EXPECT(OK, fastlstm_conv1d_check(&plain));
  TRUE(fastlstm_conv1d_output_rows(&plain) == 10);
  plain.rows = PTRDIFF_MAX;
  EXPECT(TOO_LARGE, fastlstm_conv1d_check(&plain));
  EXPECT(NULL_POINTER, fastlstm_conv1d_check(NULL));
  TRUE(fastlstm_conv1d_workspace_size_f32(&plain) == 0);
  fastlstm_dense dense = fastlstm_dense_defaults(4, 0);
  EXPECT(BAD_SIZE, fastlstm_dense_check(&dense));
  dense.units = 2;
  dense.activation = 99;
  EXPECT(BAD_ACTIVATION, fastlstm_dense_check(&dense));
  EXPECT(NULL_POINTER, fastlstm_dense_check(NULL));
  EXPECT(BAD_ACTIVATION, fastlstm_activate_f32(28, x, 1, 3));
  EXPECT(BAD_SIZE, fastlstm_activate_f32(FASTLSTM_RELU, x, 0, 3));
  EXPECT(NULL_POINTER, fastlstm_activate_f32(FASTLSTM_RELU, NULL, 1, 3));
}

static void packing(fastlstm_lstm_f32 *lstm) {
  const fastlstm_lstm layer = fastlstm_lstm_defaults(D, U);
  const size_t bytes = fastlstm_lstm_packed_size_f32(&layer);
  TRUE(bytes > 0 && bytes <= ROOM && bytes % FASTLSTM_ALIGNMENT == 0);
  EXPECT(NULL_POINTER, fastlstm_lstm_pack_f32(NULL, &layer, kernel, recurrent_kernel, bias, packed, bytes));
  EXPECT(NULL_POINTER, fastlstm_lstm_pack_f32(lstm, NULL, kernel, recurrent_kernel, bias, packed, bytes));
  EXPECT(NULL_POINTER, fastlstm_lstm_pack_f32(lstm, &layer, NULL, recurrent_kernel, bias, packed, bytes));
  EXPECT(NULL_POINTER, fastlstm_lstm_pack_f32(lstm, &layer, kernel, NULL, bias, packed, bytes));
  EXPECT(NULL_POINTER, fastlstm_lstm_pack_f32(lstm, &layer, kernel, recurrent_kernel, bias, NULL, bytes));
  EXPECT(MISALIGNED, fastlstm_lstm_pack_f32(lstm, &layer, kernel, recurrent_kernel, bias, packed + 4, bytes));
  EXPECT(TOO_SMALL, fastlstm_lstm_pack_f32(lstm, &layer, kernel, recurrent_kernel, bias, packed, bytes - 1));
  EXPECT(MISALIGNED, fastlstm_lstm_pack_f32(lstm, &layer, (const float *)(const void *)((const char *)kernel + 1),
                                            recurrent_kernel, bias, packed, bytes));
  EXPECT(OVERLAP,
         fastlstm_lstm_pack_f32(lstm, &layer, (const float *)(const void *)packed, recurrent_kernel, bias, packed, bytes));
  for (size_t k = 0; k < bytes; k++) TRUE(packed[k] == 0); /* nothing was written */
  EXPECT(OK, fastlstm_lstm_pack_f32(lstm, &layer, kernel, recurrent_kernel, NULL, packed, bytes));
  EXPECT(OK, fastlstm_lstm_pack_f32(lstm, &layer, kernel, recurrent_kernel, bias, packed, ROOM));
  TRUE(lstm->packed == packed && lstm->layer.units == U);
}

static void running(fastlstm_lstm_f32 lstm) {
  lstm.layer.return_sequences = 1;
  const size_t bytes = fastlstm_lstm_workspace_size_f32(&lstm.layer, N, T);
  fastlstm_sequences_f32 a = good_arrays();
  TRUE(bytes > 0 && bytes <= ROOM);
  EXPECT(NULL_POINTER, fastlstm_lstm_run_f32(NULL, &a, workspace, bytes));
  EXPECT(NULL_POINTER, fastlstm_lstm_run_f32(&lstm, NULL, workspace, bytes));
  EXPECT(NULL_POINTER, fastlstm_lstm_run_f32(&lstm, &a, NULL, bytes));
  EXPECT(TOO_SMALL, fastlstm_lstm_run_f32(&lstm, &a, workspace, bytes - 1));
  EXPECT(MISALIGNED, fastlstm_lstm_run_f32(&lstm, &a, workspace + 8, bytes));
  a.x = NULL;
  EXPECT(NULL_POINTER, fastlstm_lstm_run_f32(&lstm, &a, workspace, bytes));
  a = good_arrays();
  a.batch = 0;
  EXPECT(BAD_SIZE, fastlstm_lstm_run_f32(&lstm, &a, workspace, bytes));
  a.batch = PTRDIFF_MAX;
  EXPECT(TOO_LARGE, fastlstm_lstm_run_f32(&lstm, &a, workspace, bytes));
  a = good_arrays();
  a.h = y + 3; /* inside y */
  EXPECT(OVERLAP, fastlstm_lstm_run_f32(&lstm, &a, workspace, bytes));
  a = good_arrays();
  a.x = (const float *)(const void *)workspace;
  EXPECT(OVERLAP, fastlstm_lstm_run_f32(&lstm, &a, workspace, bytes));
  a = good_arrays();
  a.h0 = h + 1; /* not h itself */
  EXPECT(OVERLAP, fastlstm_lstm_run_f32(&lstm, &a, workspace, bytes));
  a.h0 = c; /* the other state */
  EXPECT(OVERLAP, fastlstm_lstm_run_f32(&lstm, &a, workspace, bytes));
  a.h0 = h;
  a.c0 = c;
  for (int k = 0; k < N * T * U; k++) TRUE(y[k] == 0);
  EXPECT(OK, fastlstm_lstm_run_f32(&lstm, &a, workspace, bytes));
  a.y = (float *)(void *)((char *)y + 1);
  EXPECT(MISALIGNED, fastlstm_lstm_run_f32(&lstm, &a, workspace, bytes));
  a = good_arrays();
  lstm.packed = packed + 1;
  EXPECT(MISALIGNED, fastlstm_lstm_run_f32(&lstm, &a, workspace, bytes));
  lstm.packed = NULL;
  EXPECT(NULL_POINTER, fastlstm_lstm_run_f32(&lstm, &a, workspace, bytes));
  lstm.packed = packed;
  lstm.layer.activation = FASTLSTM_LOG_SOFTMAX;
  EXPECT(BAD_ACTIVATION, fastlstm_lstm_run_f32(&lstm, &a, workspace, bytes));
  lstm.layer.activation = FASTLSTM_TANH;
  EXPECT(NULL_POINTER, fastlstm_lstm_step_f32(&lstm, N, x, NULL, c, workspace, bytes));
  EXPECT(NULL_POINTER, fastlstm_lstm_step_f32(&lstm, N, x, h, NULL, workspace, bytes));
  EXPECT(NULL_POINTER, fastlstm_lstm_step_f32(&lstm, N, NULL, h, c, workspace, bytes));
  EXPECT(OVERLAP, fastlstm_lstm_step_f32(&lstm, N, x, h, h, workspace, bytes));
  EXPECT(OVERLAP, fastlstm_lstm_step_f32(&lstm, N, h, h, c, workspace, bytes));
  EXPECT(OK, fastlstm_lstm_step_f32(&lstm, N, x, h, c, workspace, fastlstm_lstm_workspace_size_f32(&lstm.layer, N, 1)));
}

static void training(fastlstm_lstm_f32 lstm) {
  lstm.layer.return_sequences = 1;
  const fastlstm_lstm *layer = &lstm.layer;
  const size_t bytes = fastlstm_lstm_workspace_size_f32(layer, N, T), tape_bytes = fastlstm_lstm_tape_size_f32(layer, N, T);
  const size_t back = fastlstm_lstm_backward_packed_size_f32(layer),
               room = fastlstm_lstm_backward_workspace_size_f32(layer, N, T);
  fastlstm_lstm_backward_weights_f32 weights;
  fastlstm_sequences_f32 a = good_arrays();
  fastlstm_gradients_f32 g;
  memset(&g, 0, sizeof g);
  TRUE(tape_bytes >= sizeof(float) * 6 * N * T * U && tape_bytes <= ROOM && back <= ROOM && room <= ROOM);
  EXPECT(NULL_POINTER, fastlstm_lstm_backward_pack_f32(NULL, layer, kernel, recurrent_kernel, back_packed, back));
  EXPECT(TOO_SMALL, fastlstm_lstm_backward_pack_f32(&weights, layer, kernel, recurrent_kernel, back_packed, back - 1));
  EXPECT(OK, fastlstm_lstm_backward_pack_f32(&weights, layer, kernel, recurrent_kernel, back_packed, back));
  EXPECT(NULL_POINTER, fastlstm_lstm_record_f32(&lstm, &a, NULL, tape_bytes, workspace, bytes));
  EXPECT(TOO_SMALL, fastlstm_lstm_record_f32(&lstm, &a, tape, tape_bytes - 1, workspace, bytes));
  EXPECT(MISALIGNED, fastlstm_lstm_record_f32(&lstm, &a, tape + 4, tape_bytes, workspace, bytes));
  EXPECT(OVERLAP, fastlstm_lstm_record_f32(&lstm, &a, workspace, ROOM, workspace, bytes));
  EXPECT(OK, fastlstm_lstm_record_f32(&lstm, &a, tape, tape_bytes, workspace, bytes));
  EXPECT(OK, fastlstm_lstm_backward_f32(&weights, &a, tape, tape_bytes, &g, workspace, room)); /* nothing is wanted */
  g.dy = dy;
  g.dx = dx;
  EXPECT(OK, fastlstm_lstm_backward_f32(&weights, &a, tape, tape_bytes, &g, workspace, room));
  EXPECT(NULL_POINTER, fastlstm_lstm_backward_f32(&weights, &a, NULL, tape_bytes, &g, workspace, room));
  EXPECT(NULL_POINTER, fastlstm_lstm_backward_f32(&weights, &a, tape, tape_bytes, NULL, workspace, room));
  EXPECT(TOO_SMALL, fastlstm_lstm_backward_f32(&weights, &a, tape, tape_bytes - 64, &g, workspace, room));
  EXPECT(TOO_SMALL, fastlstm_lstm_backward_f32(&weights, &a, tape, tape_bytes, &g, workspace, room - 1));
  EXPECT(OVERLAP, fastlstm_lstm_backward_f32(&weights, &a, tape, tape_bytes, &g, tape, ROOM));
  g.dx = dy;
  EXPECT(OVERLAP, fastlstm_lstm_backward_f32(&weights, &a, tape, tape_bytes, &g, workspace, room));
  g.dx = x;
  EXPECT(OVERLAP, fastlstm_lstm_backward_f32(&weights, &a, tape, tape_bytes, &g, workspace, room));
  a.x = NULL;
  EXPECT(NULL_POINTER, fastlstm_lstm_backward_f32(&weights, &a, tape, tape_bytes, &g, workspace, room));
}

static void glue(void) {
  const fastlstm_dense layer = fastlstm_dense_defaults(D, 2);
  const size_t bytes = fastlstm_dense_packed_size_f32(&layer);
  fastlstm_dense_f32 dense;
  EXPECT(TOO_SMALL, fastlstm_dense_pack_f32(&dense, &layer, kernel, bias, small_packed, 64));
  EXPECT(OK, fastlstm_dense_pack_f32(&dense, &layer, kernel, bias, packed, bytes));
  EXPECT(BAD_SIZE, fastlstm_dense_run_f32(&dense, 0, x, y));
  EXPECT(NULL_POINTER, fastlstm_dense_run_f32(&dense, 1, NULL, y));
  EXPECT(OVERLAP, fastlstm_dense_run_f32(&dense, 1, x, x));
  EXPECT(OK, fastlstm_dense_run_f32(&dense, N * T, x, y));
  fastlstm_conv1d conv_layer = fastlstm_conv1d_defaults(T, D, 2, 2);
  conv_layer.padding = FASTLSTM_CAUSAL;
  const size_t room = fastlstm_conv1d_workspace_size_f32(&conv_layer);
  fastlstm_conv1d_f32 conv;
  EXPECT(OK, fastlstm_conv1d_pack_f32(&conv, &conv_layer, kernel, bias, packed, fastlstm_conv1d_packed_size_f32(&conv_layer)));
  EXPECT(NULL_POINTER, fastlstm_conv1d_run_f32(&conv, N, x, y, NULL, room));
  EXPECT(TOO_SMALL, fastlstm_conv1d_run_f32(&conv, N, x, y, workspace, room - 1));
  EXPECT(OVERLAP, fastlstm_conv1d_run_f32(&conv, N, x, x, workspace, room));
  EXPECT(OK, fastlstm_conv1d_run_f32(&conv, N, x, y, workspace, room));
}

/* The switch gives back what it found, and works where there is one: a sum of subnormals stays, or becomes 0. */
static void denormals(void) {
  volatile float tiny = 1e-39f, sum;
  const int before = fastlstm_flush_denormals(0);
  TRUE(fastlstm_flush_denormals(0) == 0);
  sum = tiny + tiny;
  TRUE(sum != 0);
  fastlstm_flush_denormals(3);
  sum = tiny + tiny;
  const int flushing = fastlstm_flush_denormals(before);
  TRUE(flushing == 3 ? sum == 0 : flushing == 0);
#if defined(__SSE2__) || defined(__aarch64__)
  TRUE(flushing == 3);
#endif
  TRUE(fastlstm_flush_denormals(before) == before);
}

int main(void) {
  fastlstm_lstm_f32 lstm;
  memset(&lstm, 0, sizeof lstm);
  for (int k = 0; k <= FASTLSTM_WRONG_ISA + 1; k++) TRUE(strlen(fastlstm_status_text((fastlstm_status)k)) > 3);
  layers();
  convolutions();
  packing(&lstm);
  running(lstm);
  training(lstm);
  glue();
  denormals();
  return failures ? 1 : 0;
}
