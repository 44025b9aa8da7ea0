/* elementwise.cu: kernels with a thread for each number: the cell behind a GEMM, its backward, activations, windows of rows. */

/* A step whose products are done: z = projected + recurrent + bias. Each of the two holds gate g of unit u in row m at
 * m*row + g*gate + u, so that products made gate by gate need not be put together. */
struct z_part {
  const real *z; /* or NULL */
  long long row, gate;
};

FL_INLINE real z_at(const z_part &part, int m, int g, int u) { return part.z ? part.z[m * part.row + g * part.gate + u] : 0; }

extern "C" __global__ void cell_forward(const cell_io io, const z_part projected, const z_part recurrent, const real *bias) {
  for (size_t k = thread_number(); k < (size_t)io.rows * io.units; k += thread_count()) {
    const int m = (int)(k / io.units), u = (int)(k % io.units);
    real z[4];
    for (int g = 0; g < 4; g++) {
      z[g] = z_at(projected, m, g, u) + z_at(recurrent, m, g, u);
      if (bias) z[g] += bias[g * io.units + u];
    }
    finish_cell(io, look_up(io, m, u), z);
  }
}

/* products [M,U]: cotangents of h from the step behind, or NULL. */
extern "C" __global__ void cell_backward(const back_io io, const real *products) {
  for (size_t k = thread_number(); k < (size_t)io.rows * io.units; k += thread_count()) {
    real dz[4];
    finish_back(io, look_up_back(io, (int)(k / io.units), (int)(k % io.units)), products != 0, products ? products[k] : 0, dz);
  }
}

/* y = f(x) of an elementwise activation; y may be x. */
extern "C" __global__ void activate(const real *x, real *y, long long count, int activation) {
  for (size_t k = thread_number(); k < (size_t)count; k += thread_count()) y[k] = FL(activate_vec)(activation, x[k]);
}

/* The rows of a convolution: R in, S out, K taps, C channels; input row of output row s at tap k: s*stride + k*dilation - pad. */
struct geometry {
  int rows_in, rows_out, channels, taps, stride, dilation, pad;
};

/* out [B,S,K,C] = the windows of a [B,R,C], zeros where they reach over its ends. */
extern "C" __global__ void gather_windows(const real *a, real *out, long long batch, const geometry g) {
  const size_t count = (size_t)batch * g.rows_out * g.taps * g.channels;
  for (size_t i = thread_number(); i < count; i += thread_count()) {
    const int channel = (int)(i % g.channels);
    const size_t window = i / g.channels;
    const int tap = (int)(window % g.taps), s = (int)(window / g.taps % g.rows_out);
    const size_t b = window / g.taps / g.rows_out;
    const int row = s * g.stride + tap * g.dilation - g.pad;
    out[i] = row >= 0 && row < g.rows_in ? a[(b * g.rows_in + row) * g.channels + channel] : 0;
  }
}

/* a [B,R,C] = the sum of all places of the windows [B,S,K,C] that lie on each row: the adjoint of gather_windows. */
extern "C" __global__ void scatter_windows(const real *windows, real *a, long long batch, const geometry g) {
  const size_t count = (size_t)batch * g.rows_in * g.channels;
  for (size_t i = thread_number(); i < count; i += thread_count()) {
    const int channel = (int)(i % g.channels), row = (int)(i / g.channels % g.rows_in);
    const size_t b = i / g.channels / g.rows_in;
    real sum = 0;
    for (int tap = 0; tap < g.taps; tap++) {
      const int from = row + g.pad - tap * g.dilation;
      if (from < 0 || from % g.stride || from / g.stride >= g.rows_out) continue;
      sum += windows[((b * g.rows_out + from / g.stride) * g.taps + tap) * g.channels + channel];
    }
    a[i] = sum;
  }
}
