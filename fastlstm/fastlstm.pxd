# fastlstm.pxd: the C library (include/fastlstm/fastlstm.h, which says what every name means) for Cython projects.
#
#   from fastlstm.fastlstm cimport fastlstm_lstm_f32, fastlstm_lstm_step_f32
#
# Build with include_dirs=[fastlstm.get_include()], and one module with the macro FASTLSTM_IMPLEMENTATION. See docs/c_api.md.

cdef extern from "fastlstm/fastlstm.h" nogil:
    enum:
        FASTLSTM_ALIGNMENT

    ctypedef enum fastlstm_status:
        FASTLSTM_OK
        FASTLSTM_NULL_POINTER
        FASTLSTM_BAD_SIZE
        FASTLSTM_TOO_LARGE
        FASTLSTM_BAD_ACTIVATION
        FASTLSTM_BAD_PADDING
        FASTLSTM_MISALIGNED
        FASTLSTM_TOO_SMALL
        FASTLSTM_OVERLAP
        FASTLSTM_WRONG_ISA

    ctypedef enum fastlstm_activation:
        FASTLSTM_LINEAR
        FASTLSTM_TANH
        FASTLSTM_SIGMOID
        FASTLSTM_RELU
        FASTLSTM_RELU6
        FASTLSTM_LEAKY_RELU
        FASTLSTM_ELU
        FASTLSTM_SELU
        FASTLSTM_CELU
        FASTLSTM_EXPONENTIAL
        FASTLSTM_GELU
        FASTLSTM_HARD_SIGMOID
        FASTLSTM_SILU
        FASTLSTM_HARD_SILU
        FASTLSTM_HARD_TANH
        FASTLSTM_TANH_SHRINK
        FASTLSTM_HARD_SHRINK
        FASTLSTM_SOFT_SHRINK
        FASTLSTM_SOFTPLUS
        FASTLSTM_SOFTSIGN
        FASTLSTM_SQUAREPLUS
        FASTLSTM_SPARSE_PLUS
        FASTLSTM_SPARSE_SIGMOID
        FASTLSTM_LOG_SIGMOID
        FASTLSTM_MISH
        FASTLSTM_SOFTMAX
        FASTLSTM_LOG_SOFTMAX
        FASTLSTM_SPARSEMAX

    ctypedef enum fastlstm_padding:
        FASTLSTM_VALID
        FASTLSTM_SAME
        FASTLSTM_CAUSAL

    ctypedef struct fastlstm_lstm:
        ptrdiff_t features, units
        int activation, recurrent_activation
        int go_backwards, return_sequences, zero_output_for_mask

    ctypedef struct fastlstm_convlstm1d:
        ptrdiff_t rows, channels, filters, kernel_size, strides, dilation_rate
        int padding
        int activation, recurrent_activation
        int go_backwards, return_sequences, zero_output_for_mask

    ctypedef struct fastlstm_dense:
        ptrdiff_t features, units
        int activation

    ctypedef struct fastlstm_conv1d:
        ptrdiff_t rows, channels, filters, kernel_size, strides, dilation_rate
        int padding, activation

    ctypedef struct fastlstm_lstm_f32:
        fastlstm_lstm layer
        const void *packed

    ctypedef struct fastlstm_convlstm1d_f32:
        fastlstm_convlstm1d layer
        const void *packed

    ctypedef struct fastlstm_dense_f32:
        fastlstm_dense layer
        const void *packed

    ctypedef struct fastlstm_conv1d_f32:
        fastlstm_conv1d layer
        const void *packed

    ctypedef struct fastlstm_lstm_backward_weights_f32:
        fastlstm_lstm layer
        const void *packed

    ctypedef struct fastlstm_sequences_f32:
        ptrdiff_t batch, steps
        const float *x
        const unsigned char *mask
        const float *h0
        const float *c0
        float *y
        float *h
        float *c

    ctypedef struct fastlstm_gradients_f32:
        const float *dy
        const float *dh
        const float *dc
        float *dx
        float *dh0
        float *dc0
        float *dkernel
        float *drecurrent_kernel
        float *dbias

    ctypedef struct fastlstm_lstm_f64:
        fastlstm_lstm layer
        const void *packed

    ctypedef struct fastlstm_convlstm1d_f64:
        fastlstm_convlstm1d layer
        const void *packed

    ctypedef struct fastlstm_dense_f64:
        fastlstm_dense layer
        const void *packed

    ctypedef struct fastlstm_conv1d_f64:
        fastlstm_conv1d layer
        const void *packed

    ctypedef struct fastlstm_lstm_backward_weights_f64:
        fastlstm_lstm layer
        const void *packed

    ctypedef struct fastlstm_sequences_f64:
        ptrdiff_t batch, steps
        const double *x
        const unsigned char *mask
        const double *h0
        const double *c0
        double *y
        double *h
        double *c

    ctypedef struct fastlstm_gradients_f64:
        const double *dy
        const double *dh
        const double *dc
        double *dx
        double *dh0
        double *dc0
        double *dkernel
        double *drecurrent_kernel
        double *dbias

    fastlstm_lstm fastlstm_lstm_defaults(ptrdiff_t features, ptrdiff_t units)
    fastlstm_convlstm1d fastlstm_convlstm1d_defaults(ptrdiff_t rows, ptrdiff_t channels, ptrdiff_t filters,
                                                     ptrdiff_t kernel_size)
    fastlstm_dense fastlstm_dense_defaults(ptrdiff_t features, ptrdiff_t units)
    fastlstm_conv1d fastlstm_conv1d_defaults(ptrdiff_t rows, ptrdiff_t channels, ptrdiff_t filters, ptrdiff_t kernel_size)
    fastlstm_status fastlstm_lstm_check(const fastlstm_lstm *layer)
    fastlstm_status fastlstm_convlstm1d_check(const fastlstm_convlstm1d *layer)
    fastlstm_status fastlstm_dense_check(const fastlstm_dense *layer)
    fastlstm_status fastlstm_conv1d_check(const fastlstm_conv1d *layer)
    ptrdiff_t fastlstm_convlstm1d_output_rows(const fastlstm_convlstm1d *layer)
    ptrdiff_t fastlstm_conv1d_output_rows(const fastlstm_conv1d *layer)
    const char *fastlstm_status_text(fastlstm_status status)
    const char *fastlstm_isa()
    int fastlstm_flush_denormals(int mode)
    size_t fastlstm_lstm_packed_size_f32(const fastlstm_lstm *layer)
    size_t fastlstm_convlstm1d_packed_size_f32(const fastlstm_convlstm1d *layer)
    size_t fastlstm_dense_packed_size_f32(const fastlstm_dense *layer)
    size_t fastlstm_conv1d_packed_size_f32(const fastlstm_conv1d *layer)
    size_t fastlstm_lstm_backward_packed_size_f32(const fastlstm_lstm *layer)
    size_t fastlstm_lstm_workspace_size_f32(const fastlstm_lstm *layer, ptrdiff_t batch, ptrdiff_t steps)
    size_t fastlstm_convlstm1d_workspace_size_f32(const fastlstm_convlstm1d *layer, ptrdiff_t batch, ptrdiff_t steps)
    size_t fastlstm_conv1d_workspace_size_f32(const fastlstm_conv1d *layer)
    size_t fastlstm_lstm_backward_workspace_size_f32(const fastlstm_lstm *layer, ptrdiff_t batch, ptrdiff_t steps)
    size_t fastlstm_lstm_tape_size_f32(const fastlstm_lstm *layer, ptrdiff_t batch, ptrdiff_t steps)
    fastlstm_status fastlstm_lstm_pack_f32(fastlstm_lstm_f32 *out, const fastlstm_lstm *layer, const float *kernel,
                                           const float *recurrent_kernel, const float *bias, void *memory, size_t bytes)
    fastlstm_status fastlstm_convlstm1d_pack_f32(fastlstm_convlstm1d_f32 *out, const fastlstm_convlstm1d *layer,
                                                 const float *kernel, const float *recurrent_kernel, const float *bias,
                                                 void *memory, size_t bytes)
    fastlstm_status fastlstm_dense_pack_f32(fastlstm_dense_f32 *out, const fastlstm_dense *layer, const float *kernel,
                                            const float *bias, void *memory, size_t bytes)
    fastlstm_status fastlstm_conv1d_pack_f32(fastlstm_conv1d_f32 *out, const fastlstm_conv1d *layer, const float *kernel,
                                             const float *bias, void *memory, size_t bytes)
    fastlstm_status fastlstm_lstm_backward_pack_f32(fastlstm_lstm_backward_weights_f32 *out, const fastlstm_lstm *layer,
                                                    const float *kernel, const float *recurrent_kernel, void *memory,
                                                    size_t bytes)
    fastlstm_status fastlstm_lstm_step_f32(const fastlstm_lstm_f32 *lstm, ptrdiff_t batch, const float *x, float *h,
                                           float *c, void *workspace, size_t bytes)
    fastlstm_status fastlstm_convlstm1d_step_f32(const fastlstm_convlstm1d_f32 *conv, ptrdiff_t batch, const float *x,
                                                 float *h, float *c, void *workspace, size_t bytes)
    fastlstm_status fastlstm_lstm_run_f32(const fastlstm_lstm_f32 *lstm, const fastlstm_sequences_f32 *arrays,
                                          void *workspace, size_t bytes)
    fastlstm_status fastlstm_convlstm1d_run_f32(const fastlstm_convlstm1d_f32 *conv, const fastlstm_sequences_f32 *arrays,
                                                void *workspace, size_t bytes)
    fastlstm_status fastlstm_dense_run_f32(const fastlstm_dense_f32 *dense, ptrdiff_t count, const float *x, float *y)
    fastlstm_status fastlstm_conv1d_run_f32(const fastlstm_conv1d_f32 *conv, ptrdiff_t batch, const float *x, float *y,
                                            void *workspace, size_t bytes)
    fastlstm_status fastlstm_activate_f32(int activation, float *x, ptrdiff_t count, ptrdiff_t width)
    fastlstm_status fastlstm_lstm_record_f32(const fastlstm_lstm_f32 *lstm, const fastlstm_sequences_f32 *arrays, void *tape,
                                             size_t tape_bytes, void *workspace, size_t bytes)
    fastlstm_status fastlstm_lstm_backward_f32(const fastlstm_lstm_backward_weights_f32 *weights,
                                               const fastlstm_sequences_f32 *arrays, const void *tape, size_t tape_bytes,
                                               const fastlstm_gradients_f32 *gradients, void *workspace, size_t bytes)
    size_t fastlstm_lstm_packed_size_f64(const fastlstm_lstm *layer)
    size_t fastlstm_convlstm1d_packed_size_f64(const fastlstm_convlstm1d *layer)
    size_t fastlstm_dense_packed_size_f64(const fastlstm_dense *layer)
    size_t fastlstm_conv1d_packed_size_f64(const fastlstm_conv1d *layer)
    size_t fastlstm_lstm_backward_packed_size_f64(const fastlstm_lstm *layer)
    size_t fastlstm_lstm_workspace_size_f64(const fastlstm_lstm *layer, ptrdiff_t batch, ptrdiff_t steps)
    size_t fastlstm_convlstm1d_workspace_size_f64(const fastlstm_convlstm1d *layer, ptrdiff_t batch, ptrdiff_t steps)
    size_t fastlstm_conv1d_workspace_size_f64(const fastlstm_conv1d *layer)
    size_t fastlstm_lstm_backward_workspace_size_f64(const fastlstm_lstm *layer, ptrdiff_t batch, ptrdiff_t steps)
    size_t fastlstm_lstm_tape_size_f64(const fastlstm_lstm *layer, ptrdiff_t batch, ptrdiff_t steps)
    fastlstm_status fastlstm_lstm_pack_f64(fastlstm_lstm_f64 *out, const fastlstm_lstm *layer, const double *kernel,
                                           const double *recurrent_kernel, const double *bias, void *memory, size_t bytes)
    fastlstm_status fastlstm_convlstm1d_pack_f64(fastlstm_convlstm1d_f64 *out, const fastlstm_convlstm1d *layer,
                                                 const double *kernel, const double *recurrent_kernel, const double *bias,
                                                 void *memory, size_t bytes)
    fastlstm_status fastlstm_dense_pack_f64(fastlstm_dense_f64 *out, const fastlstm_dense *layer, const double *kernel,
                                            const double *bias, void *memory, size_t bytes)
    fastlstm_status fastlstm_conv1d_pack_f64(fastlstm_conv1d_f64 *out, const fastlstm_conv1d *layer, const double *kernel,
                                             const double *bias, void *memory, size_t bytes)
    fastlstm_status fastlstm_lstm_backward_pack_f64(fastlstm_lstm_backward_weights_f64 *out, const fastlstm_lstm *layer,
                                                    const double *kernel, const double *recurrent_kernel, void *memory,
                                                    size_t bytes)
    fastlstm_status fastlstm_lstm_step_f64(const fastlstm_lstm_f64 *lstm, ptrdiff_t batch, const double *x, double *h,
                                           double *c, void *workspace, size_t bytes)
    fastlstm_status fastlstm_convlstm1d_step_f64(const fastlstm_convlstm1d_f64 *conv, ptrdiff_t batch, const double *x,
                                                 double *h, double *c, void *workspace, size_t bytes)
    fastlstm_status fastlstm_lstm_run_f64(const fastlstm_lstm_f64 *lstm, const fastlstm_sequences_f64 *arrays,
                                          void *workspace, size_t bytes)
    fastlstm_status fastlstm_convlstm1d_run_f64(const fastlstm_convlstm1d_f64 *conv, const fastlstm_sequences_f64 *arrays,
                                                void *workspace, size_t bytes)
    fastlstm_status fastlstm_dense_run_f64(const fastlstm_dense_f64 *dense, ptrdiff_t count, const double *x, double *y)
    fastlstm_status fastlstm_conv1d_run_f64(const fastlstm_conv1d_f64 *conv, ptrdiff_t batch, const double *x, double *y,
                                            void *workspace, size_t bytes)
    fastlstm_status fastlstm_activate_f64(int activation, double *x, ptrdiff_t count, ptrdiff_t width)
    fastlstm_status fastlstm_lstm_record_f64(const fastlstm_lstm_f64 *lstm, const fastlstm_sequences_f64 *arrays, void *tape,
                                             size_t tape_bytes, void *workspace, size_t bytes)
    fastlstm_status fastlstm_lstm_backward_f64(const fastlstm_lstm_backward_weights_f64 *weights,
                                               const fastlstm_sequences_f64 *arrays, const void *tape, size_t tape_bytes,
                                               const fastlstm_gradients_f64 *gradients, void *workspace, size_t bytes)
