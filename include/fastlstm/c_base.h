/* c_base.h: of the C library what no dtype changes: layers, their checks and geometry, memory, the floating-point mode.
 *
 * Included by c_library.h once. An LSTM is a ConvLSTM1D of one row and kernel width 1, Dense a Conv1D of these: a fl_shape
 * holds either.
 */

/* The same numbers on both sides; tests/test_c_library.py compares the names between these. */
#if defined(__cplusplus)
#define FL_ASSERT(truth) static_assert(truth, #truth)
#else
#define FL_ASSERT(truth) _Static_assert(truth, #truth)
#endif
FL_ASSERT((int)FASTLSTM_TANH == (int)FL_ACT_TANH && (int)FASTLSTM_SIGMOID == (int)FL_ACT_SIGMOID);
FL_ASSERT((int)FASTLSTM_MISH == (int)FL_ACT_MISH && (int)FASTLSTM_SPARSEMAX == (int)FL_ACT_COUNT - 1);

/* A layer: R rows in, S out, C channels, F units, K taps, and the zeros around a sample's rows. */
typedef struct {
  ptrdiff_t R, S, C, F, K, stride, dilation, pad_left, padded_rows;
  int activation, recurrent_activation;
  int go_backwards, return_sequences, zero_output_for_mask;
} fl_shape;

/* ---- sizes ---------------------------------------------------------------------------------------------------------- */
/* No array may have more bytes: sums of up to 16 of them fit a ptrdiff_t. */
#define FL_MOST_BYTES (PTRDIFF_MAX / 16)

FL_INLINE ptrdiff_t fl_ceil(ptrdiff_t a, ptrdiff_t b) { return a / b + (a % b != 0); }

/* a*b for a, b >= 0, or -1 where it is more than FL_MOST_BYTES, or a or b is -1 already. */
FL_INLINE ptrdiff_t fl_times(ptrdiff_t a, ptrdiff_t b) {
  if (a < 0 || b < 0) return -1;
  return b > 0 && a > FL_MOST_BYTES / b ? -1 : a * b;
}

/* a+b likewise. */
FL_INLINE ptrdiff_t fl_plus(ptrdiff_t a, ptrdiff_t b) { return a < 0 || b < 0 || a > FL_MOST_BYTES - b ? -1 : a + b; }

/* Rows out and the zeros around them, by TensorFlow's rule for "same" (an odd row goes to the right); "causal": all left. */
FL_STATIC fastlstm_status fl_geometry(fl_shape *s, int padding) {
  const ptrdiff_t reach = fl_plus(fl_times(s->K - 1, s->dilation), 1);
  if (reach < 0) return FASTLSTM_TOO_LARGE;
  s->pad_left = 0;
  if (padding == FASTLSTM_VALID) {
    if (s->R < reach) return FASTLSTM_BAD_SIZE;
    s->S = (s->R - reach) / s->stride + 1;
    s->padded_rows = s->R;
  } else if (padding == FASTLSTM_SAME) {
    s->S = fl_ceil(s->R, s->stride);
    const ptrdiff_t covered = fl_plus(fl_times(s->S - 1, s->stride), reach);
    if (covered < 0) return FASTLSTM_TOO_LARGE;
    const ptrdiff_t total = covered > s->R ? covered - s->R : 0;
    s->pad_left = total / 2;
    s->padded_rows = s->R + total;
  } else if (padding == FASTLSTM_CAUSAL) {
    s->pad_left = reach - 1;
    s->padded_rows = fl_plus(s->R, reach - 1);
    if (s->padded_rows < 0) return FASTLSTM_TOO_LARGE;
    s->S = fl_ceil(s->R, s->stride);
  } else {
    return FASTLSTM_BAD_PADDING;
  }
  return FASTLSTM_OK;
}

/* What is left to check of a shape whose sizes are at least 1: activations, and that its weights fit. `gates`: 4, or 1. */
FL_STATIC fastlstm_status fl_check_shape(const fl_shape *s, int gates) {
  const int most = gates == 4 ? (int)FL_ACT_ELEMENTWISE : (int)FL_ACT_COUNT;
  if (s->activation < 0 || s->activation >= most) return FASTLSTM_BAD_ACTIVATION;
  if (s->recurrent_activation < 0 || s->recurrent_activation >= most) return FASTLSTM_BAD_ACTIVATION;
  /* 64 lanes more than there are columns: blocks are padded; 16 more rows: so may those of a block be. */
  const ptrdiff_t columns = fl_times(fl_plus(s->F, 64), 8 * 4 * 2);
  const ptrdiff_t back = fl_times(fl_plus(s->C, 64), 8 * 4 * 2); /* the transposed weights' columns */
  const ptrdiff_t depth = fl_times(s->K, fl_plus(s->C, s->F));
  if (fl_times(columns, depth) < 0 || fl_times(back, fl_times(fl_plus(s->F, 64), s->K)) < 0) return FASTLSTM_TOO_LARGE;
  return FASTLSTM_OK;
}

FL_STATIC fastlstm_status fl_lstm_shape(const fastlstm_lstm *layer, fl_shape *s) {
  if (!layer) return FASTLSTM_NULL_POINTER;
  if (layer->features < 1 || layer->units < 1) return FASTLSTM_BAD_SIZE;
  memset(s, 0, sizeof *s);
  s->R = s->S = s->K = s->stride = s->dilation = s->padded_rows = 1;
  s->C = layer->features;
  s->F = layer->units;
  s->activation = layer->activation;
  s->recurrent_activation = layer->recurrent_activation;
  s->go_backwards = layer->go_backwards != 0;
  s->return_sequences = layer->return_sequences != 0;
  s->zero_output_for_mask = layer->zero_output_for_mask != 0;
  return fl_check_shape(s, 4);
}

/* The sizes that the two convolutions have in common, into a cleared shape. */
FL_STATIC fastlstm_status fl_convolution_sizes(ptrdiff_t rows, ptrdiff_t channels, ptrdiff_t filters, ptrdiff_t kernel_size,
                                               ptrdiff_t strides, ptrdiff_t dilation_rate, fl_shape *s) {
  if (rows < 1 || channels < 1 || filters < 1 || kernel_size < 1 || strides < 1 || dilation_rate < 1) return FASTLSTM_BAD_SIZE;
  memset(s, 0, sizeof *s);
  s->R = rows;
  s->C = channels;
  s->F = filters;
  s->K = kernel_size;
  s->stride = strides;
  s->dilation = dilation_rate;
  return FASTLSTM_OK;
}

FL_STATIC fastlstm_status fl_convlstm1d_shape(const fastlstm_convlstm1d *layer, fl_shape *s) {
  if (!layer) return FASTLSTM_NULL_POINTER;
  fastlstm_status status = fl_convolution_sizes(layer->rows, layer->channels, layer->filters, layer->kernel_size, layer->strides,
                                                layer->dilation_rate, s);
  if (status != FASTLSTM_OK) return status;
  if (layer->padding == FASTLSTM_CAUSAL) return FASTLSTM_BAD_PADDING;
  s->activation = layer->activation;
  s->recurrent_activation = layer->recurrent_activation;
  s->go_backwards = layer->go_backwards != 0;
  s->return_sequences = layer->return_sequences != 0;
  s->zero_output_for_mask = layer->zero_output_for_mask != 0;
  status = fl_geometry(s, layer->padding);
  return status ? status : fl_check_shape(s, 4);
}

FL_STATIC fastlstm_status fl_conv1d_shape(const fastlstm_conv1d *layer, fl_shape *s) {
  if (!layer) return FASTLSTM_NULL_POINTER;
  fastlstm_status status = fl_convolution_sizes(layer->rows, layer->channels, layer->filters, layer->kernel_size, layer->strides,
                                                layer->dilation_rate, s);
  if (status != FASTLSTM_OK) return status;
  s->activation = layer->activation;
  status = fl_geometry(s, layer->padding);
  return status ? status : fl_check_shape(s, 1);
}

FL_STATIC fastlstm_status fl_dense_shape(const fastlstm_dense *layer, fl_shape *s) {
  if (!layer) return FASTLSTM_NULL_POINTER;
  if (layer->features < 1 || layer->units < 1) return FASTLSTM_BAD_SIZE;
  memset(s, 0, sizeof *s);
  s->R = s->S = s->K = s->stride = s->dilation = s->padded_rows = 1;
  s->C = layer->features;
  s->F = layer->units;
  s->activation = layer->activation;
  return fl_check_shape(s, 1);
}

/* Whether a call of N samples and T steps has arrays that fit; `size`: bytes of a number. */
FL_STATIC fastlstm_status fl_check_call(const fl_shape *s, ptrdiff_t N, ptrdiff_t T, int size) {
  if (N < 1 || T < 1) return FASTLSTM_BAD_SIZE;
  const ptrdiff_t samples = fl_times(N, size), times = fl_times(samples, T);
  const ptrdiff_t in = fl_times(s->padded_rows, s->C), halo = fl_times(fl_plus(s->S, s->K), fl_plus(s->F, 64));
  if (fl_times(times, in) < 0 || fl_times(fl_times(fl_plus(times, samples), 4), halo) < 0) return FASTLSTM_TOO_LARGE;
  if (fl_times(fl_times(N, s->S), (ptrdiff_t)sizeof(ptrdiff_t)) < 0) return FASTLSTM_TOO_LARGE;
  return FASTLSTM_OK;
}

/* ---- memory --------------------------------------------------------------------------------------------------------- */
/* The next `size` bytes of the memory at base; NULL where base is: only the size is asked for. */
FL_INLINE void *fl_part(void *base, ptrdiff_t *at, ptrdiff_t size) {
  void *start = base ? (char *)base + *at : NULL;
  *at += fl_ceil(size, FASTLSTM_ALIGNMENT) * FASTLSTM_ALIGNMENT;
  return start;
}

/* FASTLSTM_OK for memory of at least `needed` bytes, aligned. */
FL_INLINE fastlstm_status fl_check_memory(const void *memory, size_t bytes, size_t needed) {
  if (!memory) return FASTLSTM_NULL_POINTER;
  if ((uintptr_t)memory % FASTLSTM_ALIGNMENT) return FASTLSTM_MISALIGNED;
  return bytes < needed ? FASTLSTM_TOO_SMALL : FASTLSTM_OK;
}

/* An array of a call: `alignment` of its numbers; bytes 0 or start NULL: there is none. */
typedef struct {
  const void *start;
  size_t bytes;
  size_t alignment;
} fl_array;

FL_INLINE int fl_overlap(const fl_array *a, const fl_array *b) {
  const uintptr_t from_a = (uintptr_t)a->start, from_b = (uintptr_t)b->start;
  if (!a->start || !b->start || !a->bytes || !b->bytes) return 0;
  return from_a < from_b ? from_b - from_a < a->bytes : from_a - from_b < b->bytes;
}

/* Alignment of all; no overlap of an array that is written (the first `outs` ones) with any other. For k < same, out k may be
   the k-th of the arrays behind the outs. */
FL_STATIC fastlstm_status fl_check_arrays(const fl_array *arrays, int outs, int count, int same) {
  for (int k = 0; k < count; k++)
    if (arrays[k].start && (uintptr_t)arrays[k].start % arrays[k].alignment) return FASTLSTM_MISALIGNED;
  for (int k = 0; k < outs; k++)
    for (int j = k + 1; j < count; j++) {
      if (k < same && j == outs + k && arrays[k].start == arrays[j].start) continue;
      if (fl_overlap(&arrays[k], &arrays[j])) return FASTLSTM_OVERLAP;
    }
  return FASTLSTM_OK;
}
