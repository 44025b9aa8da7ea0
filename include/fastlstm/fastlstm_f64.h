/* fastlstm_f64.h: the second half of fastlstm.h: the types and functions of double, word for word those of float, where they are
 * described. Included by fastlstm.h only.
 */
#ifndef FASTLSTM_F64_H
#define FASTLSTM_F64_H

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fastlstm_lstm_f64 {
  fastlstm_lstm layer;
  const void *packed;
} fastlstm_lstm_f64;

typedef struct fastlstm_convlstm1d_f64 {
  fastlstm_convlstm1d layer;
  const void *packed;
} fastlstm_convlstm1d_f64;

typedef struct fastlstm_dense_f64 {
  fastlstm_dense layer;
  const void *packed;
} fastlstm_dense_f64;

typedef struct fastlstm_conv1d_f64 {
  fastlstm_conv1d layer;
  const void *packed;
} fastlstm_conv1d_f64;

typedef struct fastlstm_lstm_backward_weights_f64 {
  fastlstm_lstm layer;
  const void *packed;
} fastlstm_lstm_backward_weights_f64;

typedef struct fastlstm_sequences_f64 {
  ptrdiff_t batch, steps;
  const double *x;
  const unsigned char *mask;
  const double *h0, *c0;
  double *y;
  double *h, *c;
} fastlstm_sequences_f64;

typedef struct fastlstm_gradients_f64 {
  const double *dy;
  const double *dh, *dc;
  double *dx;
  double *dh0, *dc0;
  double *dkernel, *drecurrent_kernel, *dbias;
} fastlstm_gradients_f64;
FASTLSTM_API size_t fastlstm_lstm_packed_size_f64(const fastlstm_lstm *layer);
FASTLSTM_API size_t fastlstm_convlstm1d_packed_size_f64(const fastlstm_convlstm1d *layer);
FASTLSTM_API size_t fastlstm_dense_packed_size_f64(const fastlstm_dense *layer);
FASTLSTM_API size_t fastlstm_conv1d_packed_size_f64(const fastlstm_conv1d *layer);
FASTLSTM_API size_t fastlstm_lstm_backward_packed_size_f64(const fastlstm_lstm *layer);
FASTLSTM_API size_t fastlstm_lstm_workspace_size_f64(const fastlstm_lstm *layer, ptrdiff_t batch, ptrdiff_t steps);
FASTLSTM_API size_t fastlstm_convlstm1d_workspace_size_f64(const fastlstm_convlstm1d *layer, ptrdiff_t batch, ptrdiff_t steps);
FASTLSTM_API size_t fastlstm_conv1d_workspace_size_f64(const fastlstm_conv1d *layer);
FASTLSTM_API size_t fastlstm_lstm_backward_workspace_size_f64(const fastlstm_lstm *layer, ptrdiff_t batch, ptrdiff_t steps);
FASTLSTM_API size_t fastlstm_lstm_tape_size_f64(const fastlstm_lstm *layer, ptrdiff_t batch, ptrdiff_t steps);
FASTLSTM_API fastlstm_status fastlstm_lstm_pack_f64(fastlstm_lstm_f64 *out, const fastlstm_lstm *layer, const double *kernel,
                                                    const double *recurrent_kernel, const double *bias, void *memory,
                                                    size_t bytes);
FASTLSTM_API fastlstm_status fastlstm_convlstm1d_pack_f64(fastlstm_convlstm1d_f64 *out, const fastlstm_convlstm1d *layer,
                                                          const double *kernel, const double *recurrent_kernel,
                                                          const double *bias, void *memory, size_t bytes);
FASTLSTM_API fastlstm_status fastlstm_dense_pack_f64(fastlstm_dense_f64 *out, const fastlstm_dense *layer, const double *kernel,
                                                     const double *bias, void *memory, size_t bytes);
FASTLSTM_API fastlstm_status fastlstm_conv1d_pack_f64(fastlstm_conv1d_f64 *out, const fastlstm_conv1d *layer,
                                                      const double *kernel, const double *bias, void *memory, size_t bytes);
FASTLSTM_API fastlstm_status fastlstm_lstm_backward_pack_f64(fastlstm_lstm_backward_weights_f64 *out, const fastlstm_lstm *layer,
                                                             const double *kernel, const double *recurrent_kernel, void *memory,
                                                             size_t bytes);
FASTLSTM_API fastlstm_status fastlstm_lstm_step_f64(const fastlstm_lstm_f64 *lstm, ptrdiff_t batch, const double *x, double *h,
                                                    double *c, void *workspace, size_t bytes);
FASTLSTM_API fastlstm_status fastlstm_convlstm1d_step_f64(const fastlstm_convlstm1d_f64 *conv, ptrdiff_t batch, const double *x,
                                                          double *h, double *c, void *workspace, size_t bytes);
FASTLSTM_API fastlstm_status fastlstm_lstm_run_f64(const fastlstm_lstm_f64 *lstm, const fastlstm_sequences_f64 *arrays,
                                                   void *workspace, size_t bytes);
FASTLSTM_API fastlstm_status fastlstm_convlstm1d_run_f64(const fastlstm_convlstm1d_f64 *conv,
                                                         const fastlstm_sequences_f64 *arrays, void *workspace, size_t bytes);
FASTLSTM_API fastlstm_status fastlstm_dense_run_f64(const fastlstm_dense_f64 *dense, ptrdiff_t count, const double *x, double *y);
FASTLSTM_API fastlstm_status fastlstm_conv1d_run_f64(const fastlstm_conv1d_f64 *conv, ptrdiff_t batch, const double *x, double *y,
                                                     void *workspace, size_t bytes);
FASTLSTM_API fastlstm_status fastlstm_activate_f64(int activation, double *x, ptrdiff_t count, ptrdiff_t width);
FASTLSTM_API fastlstm_status fastlstm_lstm_record_f64(const fastlstm_lstm_f64 *lstm, const fastlstm_sequences_f64 *arrays,
                                                      void *tape, size_t tape_bytes, void *workspace, size_t bytes);
FASTLSTM_API fastlstm_status fastlstm_lstm_backward_f64(const fastlstm_lstm_backward_weights_f64 *weights,
                                                        const fastlstm_sequences_f64 *arrays, const void *tape, size_t tape_bytes,
                                                        const fastlstm_gradients_f64 *gradients, void *workspace, size_t bytes);

#ifdef __cplusplus
}
#endif

#endif /* FASTLSTM_F64_H */
