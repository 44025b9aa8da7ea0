/* c_public.h: the functions of fastlstm.h that no dtype changes. Included by c_library.h once. */

FASTLSTM_API fastlstm_lstm fastlstm_lstm_defaults(ptrdiff_t features, ptrdiff_t units) {
  fastlstm_lstm layer;
  memset(&layer, 0, sizeof layer);
  layer.features = features;
  layer.units = units;
  layer.activation = FASTLSTM_TANH;
  layer.recurrent_activation = FASTLSTM_SIGMOID;
  return layer;
}

FASTLSTM_API fastlstm_convlstm1d fastlstm_convlstm1d_defaults(ptrdiff_t rows, ptrdiff_t channels, ptrdiff_t filters,
                                                              ptrdiff_t kernel_size) {
  fastlstm_convlstm1d layer;
  memset(&layer, 0, sizeof layer);
  layer.rows = rows;
  layer.channels = channels;
  layer.filters = filters;
  layer.kernel_size = kernel_size;
  layer.strides = layer.dilation_rate = 1;
  layer.activation = FASTLSTM_TANH;
  layer.recurrent_activation = FASTLSTM_SIGMOID;
  return layer;
}

FASTLSTM_API fastlstm_dense fastlstm_dense_defaults(ptrdiff_t features, ptrdiff_t units) {
  fastlstm_dense layer;
  memset(&layer, 0, sizeof layer);
  layer.features = features;
  layer.units = units;
  return layer;
}

FASTLSTM_API fastlstm_conv1d fastlstm_conv1d_defaults(ptrdiff_t rows, ptrdiff_t channels, ptrdiff_t filters,
                                                      ptrdiff_t kernel_size) {
  fastlstm_conv1d layer;
  memset(&layer, 0, sizeof layer);
  layer.rows = rows;
  layer.channels = channels;
  layer.filters = filters;
  layer.kernel_size = kernel_size;
  layer.strides = layer.dilation_rate = 1;
  return layer;
}

FASTLSTM_API fastlstm_status fastlstm_lstm_check(const fastlstm_lstm *layer) {
  fl_shape s;
  return fl_lstm_shape(layer, &s);
}

FASTLSTM_API fastlstm_status fastlstm_convlstm1d_check(const fastlstm_convlstm1d *layer) {
  fl_shape s;
  return fl_convlstm1d_shape(layer, &s);
}

FASTLSTM_API fastlstm_status fastlstm_dense_check(const fastlstm_dense *layer) {
  fl_shape s;
  return fl_dense_shape(layer, &s);
}

FASTLSTM_API fastlstm_status fastlstm_conv1d_check(const fastlstm_conv1d *layer) {
  fl_shape s;
  return fl_conv1d_shape(layer, &s);
}

FASTLSTM_API ptrdiff_t fastlstm_convlstm1d_output_rows(const fastlstm_convlstm1d *layer) {
  fl_shape s;
  return fl_convlstm1d_shape(layer, &s) ? 0 : s.S;
}

FASTLSTM_API ptrdiff_t fastlstm_conv1d_output_rows(const fastlstm_conv1d *layer) {
  fl_shape s;
  return fl_conv1d_shape(layer, &s) ? 0 : s.S;
}

FASTLSTM_API const char *fastlstm_status_text(fastlstm_status status) {
  switch (status) {
    case FASTLSTM_OK:
      return "done";
    case FASTLSTM_NULL_POINTER:
      return "a pointer is NULL that must not be";
    case FASTLSTM_BAD_SIZE:
      return "a size is below 1, or a convolution has no row of output";
    case FASTLSTM_TOO_LARGE:
      return "sizes are so large that an array would not fit the address space";
    case FASTLSTM_BAD_ACTIVATION:
      return "an activation is unknown, or acts over an axis where it must be elementwise";
    case FASTLSTM_BAD_PADDING:
      return "a padding is unknown, or causal where the layer has valid and same only";
    case FASTLSTM_MISALIGNED:
      return "memory is not aligned to FASTLSTM_ALIGNMENT bytes, or an array not to its numbers";
    case FASTLSTM_TOO_SMALL:
      return "memory has fewer bytes than its size function asks for";
    case FASTLSTM_OVERLAP:
      return "arrays overlap that must not";
    case FASTLSTM_WRONG_ISA:
      return "weights were packed for another instruction set";
  }
  return "no status of fastlstm";
}

FASTLSTM_API const char *fastlstm_isa(void) { return FL_ISA_TEXT; }

FASTLSTM_API int fastlstm_flush_denormals(int mode) {
#if defined(FL_X86_MODE)
  const unsigned before = _mm_getcsr();
  _mm_setcsr((before & ~0x8040u) | ((mode & 1) ? 0x8000u : 0u) | ((mode & 2) ? 0x40u : 0u));
  return ((before & 0x8000u) ? 1 : 0) | ((before & 0x40u) ? 2 : 0);
#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
  uint64_t before;
  __asm__ volatile("mrs %0, fpcr" : "=r"(before));
  __asm__ volatile("msr fpcr, %0" : : "r"((before & ~((uint64_t)1 << 24)) | (mode ? (uint64_t)1 << 24 : 0)));
  return (before >> 24) & 1 ? 3 : 0;
#elif defined(__arm__) && defined(__ARM_FP) && !defined(__SOFTFP__) && (defined(__GNUC__) || defined(__clang__))
  uint32_t before;
  __asm__ volatile("vmrs %0, fpscr" : "=r"(before));
  __asm__ volatile("vmsr fpscr, %0" : : "r"((before & ~((uint32_t)1 << 24)) | (mode ? (uint32_t)1 << 24 : 0)));
  return (before >> 24) & 1 ? 3 : 0;
#else
  (void)mode;
  return 0;
#endif
}
