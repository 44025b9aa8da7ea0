/* fastlstm.h: LSTM and ConvLSTM1D as Keras 3 defines them, for C11 and C++17, in headers alone.
 *
 * In one source file of a program:
 *   #define FASTLSTM_IMPLEMENTATION
 *   #include <fastlstm/fastlstm.h>
 * and in the others the second line alone. A translation unit has one instruction set, the one that its compiler flags allow
 * (-march=native, -mavx2 -mfma …; NEON on aarch64), else plain C. Before the first line:
 *   FASTLSTM_STATIC           functions are static: for a program of one file, which then holds only what it calls
 *   FASTLSTM_ONE_LANE         no vectors: for processors without vector registers (chosen by itself on Cortex-M)
 *   FASTLSTM_PROJECTION_BYTES what a workspace may hold of a single row's inputs, projected ahead (results do not depend on it)
 * To get the bits of the Python package, let no compiler fuse multiply-adds by itself: -ffp-contract=off.
 *
 * Contract of every function: it allocates nothing, keeps nothing, has no globals, starts no thread, prints nothing and leaves
 * errno and the floating-point mode alone; any number of threads may call it at once, each with a workspace of its own, and share
 * layers and packed weights. Nothing is written before the arguments have been found good. Arrays are C-contiguous. Arrays of one
 * call must not overlap one another, except where said. The caller owns all memory.
 *
 * Letters: N batch, T time steps, D features, U units; of a convolution R rows in, S rows out, C channels, F filters, K kernel
 * width. Weights have Keras' names, shapes and order of gates (i, f, c, o), as `layer.get_weights()` gives them.
 */
#ifndef FASTLSTM_H
#define FASTLSTM_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#if !defined(FASTLSTM_STATIC)
#define FASTLSTM_API extern
#elif defined(__GNUC__) || defined(__clang__)
#define FASTLSTM_API static __attribute__((unused))
#else
#define FASTLSTM_API static
#endif

/* What packed weights, workspaces and tapes must be aligned to, bytes. Arrays of numbers: as float or double. */
#define FASTLSTM_ALIGNMENT 64
/* Begins the declaration of such memory: FASTLSTM_ALIGNED static unsigned char workspace[4096]; */
#if defined(__cplusplus)
#define FASTLSTM_ALIGNED alignas(FASTLSTM_ALIGNMENT)
#else
#define FASTLSTM_ALIGNED _Alignas(FASTLSTM_ALIGNMENT)
#endif

typedef enum fastlstm_status {
  FASTLSTM_OK = 0,
  FASTLSTM_NULL_POINTER,   /* a pointer that must not be NULL is */
  FASTLSTM_BAD_SIZE,       /* a size below 1, or a convolution without a row of output */
  FASTLSTM_TOO_LARGE,      /* sizes whose product does not fit an address */
  FASTLSTM_BAD_ACTIVATION, /* no number of enum fastlstm_activation, or one over an axis where it must be elementwise */
  FASTLSTM_BAD_PADDING,    /* no number of enum fastlstm_padding, or FASTLSTM_CAUSAL for a ConvLSTM1D */
  FASTLSTM_MISALIGNED,     /* memory not aligned to FASTLSTM_ALIGNMENT, or numbers not aligned as such */
  FASTLSTM_TOO_SMALL,      /* memory of fewer bytes than the size that is asked for */
  FASTLSTM_OVERLAP,        /* arrays overlap that must not */
  FASTLSTM_WRONG_ISA       /* weights that were packed beforehand (export-c --one-lane) belong to another instruction set */
} fastlstm_status;

/* Keras' activations; the last three act over the last axis, all others on each number. */
typedef enum fastlstm_activation {
  FASTLSTM_LINEAR = 0,
  FASTLSTM_TANH,
  FASTLSTM_SIGMOID,
  FASTLSTM_RELU,
  FASTLSTM_RELU6,
  FASTLSTM_LEAKY_RELU,
  FASTLSTM_ELU,
  FASTLSTM_SELU,
  FASTLSTM_CELU,
  FASTLSTM_EXPONENTIAL,
  FASTLSTM_GELU,
  FASTLSTM_HARD_SIGMOID,
  FASTLSTM_SILU,
  FASTLSTM_HARD_SILU,
  FASTLSTM_HARD_TANH,
  FASTLSTM_TANH_SHRINK,
  FASTLSTM_HARD_SHRINK,
  FASTLSTM_SOFT_SHRINK,
  FASTLSTM_SOFTPLUS,
  FASTLSTM_SOFTSIGN,
  FASTLSTM_SQUAREPLUS,
  FASTLSTM_SPARSE_PLUS,
  FASTLSTM_SPARSE_SIGMOID,
  FASTLSTM_LOG_SIGMOID,
  FASTLSTM_MISH,
  FASTLSTM_SOFTMAX,
  FASTLSTM_LOG_SOFTMAX,
  FASTLSTM_SPARSEMAX
} fastlstm_activation;

typedef enum fastlstm_padding { FASTLSTM_VALID = 0, FASTLSTM_SAME, FASTLSTM_CAUSAL } fastlstm_padding;

/* ---- layers: sizes and options, plain values ------------------------------------------------------------------------ */
/* Fields have the names and meanings of Keras' arguments; flags are 0 or 1. */
typedef struct fastlstm_lstm {
  ptrdiff_t features, units;
  int activation, recurrent_activation; /* enum fastlstm_activation, elementwise */
  int go_backwards, return_sequences, zero_output_for_mask;
} fastlstm_lstm;

typedef struct fastlstm_convlstm1d {
  ptrdiff_t rows, channels, filters, kernel_size, strides, dilation_rate;
  int padding;                          /* FASTLSTM_VALID or FASTLSTM_SAME */
  int activation, recurrent_activation; /* enum fastlstm_activation, elementwise */
  int go_backwards, return_sequences, zero_output_for_mask;
} fastlstm_convlstm1d;

typedef struct fastlstm_dense {
  ptrdiff_t features, units;
  int activation; /* enum fastlstm_activation, any */
} fastlstm_dense;

typedef struct fastlstm_conv1d {
  ptrdiff_t rows, channels, filters, kernel_size, strides, dilation_rate;
  int padding, activation; /* any of their enums */
} fastlstm_conv1d;

/* Keras' defaults: tanh, sigmoid, all flags 0; strides and dilation 1, padding "valid"; linear for the last two. */
FASTLSTM_API fastlstm_lstm fastlstm_lstm_defaults(ptrdiff_t features, ptrdiff_t units);
FASTLSTM_API fastlstm_convlstm1d fastlstm_convlstm1d_defaults(ptrdiff_t rows, ptrdiff_t channels, ptrdiff_t filters,
                                                              ptrdiff_t kernel_size);
FASTLSTM_API fastlstm_dense fastlstm_dense_defaults(ptrdiff_t features, ptrdiff_t units);
FASTLSTM_API fastlstm_conv1d fastlstm_conv1d_defaults(ptrdiff_t rows, ptrdiff_t channels, ptrdiff_t filters,
                                                      ptrdiff_t kernel_size);

/* FASTLSTM_OK, or what is wrong with a layer. */
FASTLSTM_API fastlstm_status fastlstm_lstm_check(const fastlstm_lstm *layer);
FASTLSTM_API fastlstm_status fastlstm_convlstm1d_check(const fastlstm_convlstm1d *layer);
FASTLSTM_API fastlstm_status fastlstm_dense_check(const fastlstm_dense *layer);
FASTLSTM_API fastlstm_status fastlstm_conv1d_check(const fastlstm_conv1d *layer);

/* S, or 0 where there is none. */
FASTLSTM_API ptrdiff_t fastlstm_convlstm1d_output_rows(const fastlstm_convlstm1d *layer);
FASTLSTM_API ptrdiff_t fastlstm_conv1d_output_rows(const fastlstm_conv1d *layer);

/* A sentence in English; never NULL. */
FASTLSTM_API const char *fastlstm_status_text(fastlstm_status status);

/* The instruction set of the implementation: "avx512", "avx2", "neon", "generic" or "one_lane". */
FASTLSTM_API const char *fastlstm_isa(void);

/* Some processors are slow with subnormal numbers; no function here changes how they are treated, the caller may. For
   the calling thread, mode 3: results below the smallest normal number become 0 (1), and such inputs count as 0 (2); 0: neither.
   Returns the mode before, to be given back later. Where the processor has one switch for both, 1, 2 and 3 are the same; where it
   has none, or the compiler cannot reach it, nothing happens and 0 is returned. */
FASTLSTM_API int fastlstm_flush_denormals(int mode);

/* ---- float ---------------------------------------------------------------------------------------------------------- */
/* A layer with its packed weights. Filled by a pack function, read by the others; may be copied. `packed` belongs to the caller
   and must outlive the struct's use; its bytes depend on the layer and the instruction set alone, so that they may be stored,
   and both fields set by hand. */
typedef struct fastlstm_lstm_f32 {
  fastlstm_lstm layer;
  const void *packed;
} fastlstm_lstm_f32;

typedef struct fastlstm_convlstm1d_f32 {
  fastlstm_convlstm1d layer;
  const void *packed;
} fastlstm_convlstm1d_f32;

typedef struct fastlstm_dense_f32 {
  fastlstm_dense layer;
  const void *packed;
} fastlstm_dense_f32;

typedef struct fastlstm_conv1d_f32 {
  fastlstm_conv1d layer;
  const void *packed;
} fastlstm_conv1d_f32;

/* An LSTM's transposed weights, for the backward pass. */
typedef struct fastlstm_lstm_backward_weights_f32 {
  fastlstm_lstm layer;
  const void *packed;
} fastlstm_lstm_backward_weights_f32;

/* The arrays of one call. Rows of state: an LSTM's are [U], a ConvLSTM1D's [S,F]. */
typedef struct fastlstm_sequences_f32 {
  ptrdiff_t batch, steps;    /* N, T; at least 1 */
  const float *x;            /* [N,T,D] or [N,T,R,C] */
  const unsigned char *mask; /* [N,T], 0 where a step does not count; or NULL: all count. Masked inputs are not looked at. */
  const float *h0, *c0;      /* [N,state] before the first step, or NULL: zeros. h0 may be h, c0 may be c */
  float *y;                  /* out: [N,T,state] with return_sequences (in the order of processing), else [N,state]; or NULL */
  float *h, *c;              /* out: [N,state] behind the last step; or NULL */
} fastlstm_sequences_f32;

/* Cotangents in, gradients out. */
typedef struct fastlstm_gradients_f32 {
  const float *dy;                            /* as y, or NULL: zeros */
  const float *dh, *dc;                       /* [N,U] of the final states, or NULL: zeros */
  float *dx;                                  /* out: [N,T,D], or NULL */
  float *dh0, *dc0;                           /* out: [N,U], or NULL. dh0 may be dh, dc0 may be dc */
  float *dkernel, *drecurrent_kernel, *dbias; /* [D,4U], [U,4U], [4U]: the gradients are added to what stands there; or NULL */
} fastlstm_gradients_f32;

/* Bytes of packed weights; 0 where the layer's check fails. */
FASTLSTM_API size_t fastlstm_lstm_packed_size_f32(const fastlstm_lstm *layer);
FASTLSTM_API size_t fastlstm_convlstm1d_packed_size_f32(const fastlstm_convlstm1d *layer);
FASTLSTM_API size_t fastlstm_dense_packed_size_f32(const fastlstm_dense *layer);
FASTLSTM_API size_t fastlstm_conv1d_packed_size_f32(const fastlstm_conv1d *layer);
FASTLSTM_API size_t fastlstm_lstm_backward_packed_size_f32(const fastlstm_lstm *layer);

/* Bytes of a workspace for calls of `batch` samples and `steps` steps (1 for the step functions); 0 where the check fails. */
FASTLSTM_API size_t fastlstm_lstm_workspace_size_f32(const fastlstm_lstm *layer, ptrdiff_t batch, ptrdiff_t steps);
FASTLSTM_API size_t fastlstm_convlstm1d_workspace_size_f32(const fastlstm_convlstm1d *layer, ptrdiff_t batch, ptrdiff_t steps);
FASTLSTM_API size_t fastlstm_conv1d_workspace_size_f32(const fastlstm_conv1d *layer); /* 64 and more; one sample at a time */
FASTLSTM_API size_t fastlstm_lstm_backward_workspace_size_f32(const fastlstm_lstm *layer, ptrdiff_t batch, ptrdiff_t steps);
/* Bytes of what a backward pass needs of the forward: 6 numbers a sample, step and unit. */
FASTLSTM_API size_t fastlstm_lstm_tape_size_f32(const fastlstm_lstm *layer, ptrdiff_t batch, ptrdiff_t steps);

/* Pack: *out and memory [bytes] are written; the weights are read and not needed again. bias may be NULL: zeros.
   LSTM: kernel [D,4U], recurrent_kernel [U,4U], bias [4U]. ConvLSTM1D: [K,C,4F], [K,F,4F], [4F]. Dense: [D,U], [U].
   Conv1D: [K,C,F], [F]. */
FASTLSTM_API fastlstm_status fastlstm_lstm_pack_f32(fastlstm_lstm_f32 *out, const fastlstm_lstm *layer, const float *kernel,
                                                    const float *recurrent_kernel, const float *bias, void *memory, size_t bytes);
FASTLSTM_API fastlstm_status fastlstm_convlstm1d_pack_f32(fastlstm_convlstm1d_f32 *out, const fastlstm_convlstm1d *layer,
                                                          const float *kernel, const float *recurrent_kernel, const float *bias,
                                                          void *memory, size_t bytes);
FASTLSTM_API fastlstm_status fastlstm_dense_pack_f32(fastlstm_dense_f32 *out, const fastlstm_dense *layer, const float *kernel,
                                                     const float *bias, void *memory, size_t bytes);
FASTLSTM_API fastlstm_status fastlstm_conv1d_pack_f32(fastlstm_conv1d_f32 *out, const fastlstm_conv1d *layer, const float *kernel,
                                                      const float *bias, void *memory, size_t bytes);
FASTLSTM_API fastlstm_status fastlstm_lstm_backward_pack_f32(fastlstm_lstm_backward_weights_f32 *out, const fastlstm_lstm *layer,
                                                             const float *kernel, const float *recurrent_kernel, void *memory,
                                                             size_t bytes);

/* One time step: x [N,D] or [N,R,C] -> the new h, which is also the output. h and c [N,state]: in and out, in place.
   go_backwards and return_sequences do not matter. Same bits as run over the same steps. */
FASTLSTM_API fastlstm_status fastlstm_lstm_step_f32(const fastlstm_lstm_f32 *lstm, ptrdiff_t batch, const float *x, float *h,
                                                    float *c, void *workspace, size_t bytes);
FASTLSTM_API fastlstm_status fastlstm_convlstm1d_step_f32(const fastlstm_convlstm1d_f32 *conv, ptrdiff_t batch, const float *x,
                                                          float *h, float *c, void *workspace, size_t bytes);

/* All T steps. A sample's result has the same bits alone, in any batch, and in any cutting of its steps into calls. */
FASTLSTM_API fastlstm_status fastlstm_lstm_run_f32(const fastlstm_lstm_f32 *lstm, const fastlstm_sequences_f32 *arrays,
                                                   void *workspace, size_t bytes);
FASTLSTM_API fastlstm_status fastlstm_convlstm1d_run_f32(const fastlstm_convlstm1d_f32 *conv,
                                                         const fastlstm_sequences_f32 *arrays, void *workspace, size_t bytes);

/* x [M,D] -> y [M,U]: activation(x @ kernel + bias). */
FASTLSTM_API fastlstm_status fastlstm_dense_run_f32(const fastlstm_dense_f32 *dense, ptrdiff_t count, const float *x, float *y);
/* x [N,R,C] -> y [N,S,F]. */
FASTLSTM_API fastlstm_status fastlstm_conv1d_run_f32(const fastlstm_conv1d_f32 *conv, ptrdiff_t batch, const float *x, float *y,
                                                     void *workspace, size_t bytes);
/* x [count,width], in place; the activations over an axis take a row each. */
FASTLSTM_API fastlstm_status fastlstm_activate_f32(int activation, float *x, ptrdiff_t count, ptrdiff_t width);

/* As fastlstm_lstm_run_f32, and writes the tape. */
FASTLSTM_API fastlstm_status fastlstm_lstm_record_f32(const fastlstm_lstm_f32 *lstm, const fastlstm_sequences_f32 *arrays,
                                                      void *tape, size_t tape_bytes, void *workspace, size_t bytes);
/* Gradients of a recorded run. Of `arrays` batch, steps, x and mask are read, and must be what they were; no tape is changed. */
FASTLSTM_API fastlstm_status fastlstm_lstm_backward_f32(const fastlstm_lstm_backward_weights_f32 *weights,
                                                        const fastlstm_sequences_f32 *arrays, const void *tape, size_t tape_bytes,
                                                        const fastlstm_gradients_f32 *gradients, void *workspace, size_t bytes);

#ifdef __cplusplus
}
#endif

#include "fastlstm_f64.h"

#endif /* FASTLSTM_H */

#if defined(FASTLSTM_IMPLEMENTATION) && !defined(FASTLSTM_IMPLEMENTED)
#define FASTLSTM_IMPLEMENTED
#include "c_library.h"
#endif
