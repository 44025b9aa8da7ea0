/* cell.cuh: one unit of one row: the cell of include/fastlstm/cell.h between global arrays, masks and outputs included.
 *
 * Used by all kernels that end in a cell. Letters: M rows of a step (N samples, S rows each; an LSTM has S = 1), U units. The structs
 * are filled by structs.py and passed by value.
 */

struct cell_io {
  const real *h_in, *c_in;   /* [M,U] */
  real *h_out, *c_out;       /* [M,U]; c_out may be c_in, h_out must not be h_in */
  real *output;              /* [M,U] output of the step before in, of this one out; NULL: not carried (no mask) */
  real *y;                   /* a second place for the output, or NULL: row r of sample n stands at n*y_stride + r*U */
  real *gates;               /* [M,4,U] the tape, or NULL */
  const unsigned char *mask; /* [N] 0: the step does not count for the sample; NULL: all count */
  long long y_stride;
  int rows, units, sample_rows; /* M, U, S */
  int zero_output, activation, recurrent_activation, rounding;
};

/* What a step finds for unit u of row m, as it was loaded: a processor goes on behind a load until somebody computes with it. So it is
 * looked up before the products are made, and nothing is computed with it until they are there. */
struct cell_before {
  real c, h, output; /* h and output: where a mask is given */
  int m, u, sample;
  unsigned char counts; /* the mask's value */
};

FL_INLINE cell_before look_up(const cell_io &io, int m, int u) {
  const size_t at = (size_t)m * io.units + u;
  cell_before before = {io.c_in[at], 0, 0, m, u, m / io.sample_rows, 1};
  if (io.mask) {
    before.counts = io.mask[before.sample];
    before.h = io.h_in[at];
    if (!io.zero_output) before.output = io.output[at];
  }
  return before;
}

/* Ends a step. z: the pre-activations of i, f, c, o. Returns the new h. */
FL_INLINE real finish_cell(const cell_io &io, const cell_before &before, real z[4]) {
  const size_t row = before.m, at = row * io.units + before.u;
  real c = before.c, h = before.h, output = before.output;
  if (before.counts) {
    if (io.activation == FL_ACT_TANH && io.recurrent_activation == FL_ACT_SIGMOID)
      FL(cell)(FL_CELL_TANH_SIGMOID, FL_ACT_TANH, FL_ACT_SIGMOID, io.rounding, z, &c, &h);
    else
      FL(cell)(FL_CELL_ANY, io.activation, io.recurrent_activation, io.rounding, z, &c, &h);
    output = h;
    if (io.gates)
      for (int g = 0; g < 4; g++) io.gates[(row * 4 + g) * io.units + before.u] = z[g];
  }
  io.c_out[at] = c;
  io.h_out[at] = h;
  if (io.output) io.output[at] = output;
  if (io.y) io.y[before.sample * io.y_stride + (row - (size_t)before.sample * io.sample_rows) * io.units + before.u] = output;
  return h;
}

struct back_io {
  const real *gates;               /* [M,4,U] as finish_cell wrote them */
  const real *c_before, *c;        /* [M,U] around the step */
  const real *dy;                  /* cotangent of the step's output, placed as cell_io.y; or NULL */
  real *dh, *dc, *doutput;         /* [M,U] cotangents behind the step in, of what the step hands on unchanged out */
  real *dz;                        /* [M,4,U] out */
  const unsigned char *mask;       /* [N] of this step, or NULL */
  const unsigned char *mask_after; /* [N] of the step behind, or NULL: where 0, dh counts and not the product */
  long long dy_stride;
  int rows, units, sample_rows;
  int zero_output, activation, recurrent_activation;
};

/* What a step back finds for unit u of row m; as cell_before. */
struct back_before {
  real gates[4], c_before, c, dh, dc, doutput, dy;
  int m, u, sample;
  unsigned char counts, counts_after; /* values of the two masks */
};

FL_INLINE back_before look_up_back(const back_io &io, int m, int u) {
  const size_t row = m, at = row * io.units + u;
  back_before before = {
      {0, 0, 0, 0}, io.c_before[at], io.c[at], io.dh[at], io.dc[at], io.doutput[at], 0, m, u, m / io.sample_rows, 1, 1};
  if (io.mask) before.counts = io.mask[before.sample];
  if (io.mask_after) before.counts_after = io.mask_after[before.sample];
  if (io.dy) before.dy = io.dy[before.sample * io.dy_stride + (row - (size_t)before.sample * io.sample_rows) * io.units + u];
  for (int g = 0; g < 4; g++) before.gates[g] = io.gates[(row * 4 + g) * io.units + u];
  return before;
}

/* One step back, up to dz. product: the cotangent of h that came through the recurrent kernel from the step behind, if there is one. */
FL_INLINE void finish_back(const back_io &io, const back_before &before, bool has_product, real product, real dz[4]) {
  const size_t row = before.m, at = row * io.units + before.u;
  const real dh = has_product && before.counts_after ? product : before.dh;
  real dc = before.dc, doutput = before.doutput + before.dy;
  for (int g = 0; g < 4; g++) dz[g] = 0;
  if (before.counts) {
    const int kind = io.activation == FL_ACT_TANH && io.recurrent_activation == FL_ACT_SIGMOID;
    FL(cell_back)(kind, io.activation, io.recurrent_activation, before.gates, before.c_before, before.c, dh + doutput, &dc, dz);
  }
  if (before.counts || io.zero_output) doutput = 0;
  io.dh[at] = dh;
  io.dc[at] = dc;
  io.doutput[at] = doutput;
  for (int g = 0; g < 4; g++) io.dz[(row * 4 + g) * io.units + before.u] = dz[g];
}

/* Number of this thread in the grid, and of all threads. */
FL_INLINE size_t thread_number() { return (size_t)blockIdx.x * blockDim.x + threadIdx.x; }
FL_INLINE size_t thread_count() { return (size_t)gridDim.x * blockDim.x; }
