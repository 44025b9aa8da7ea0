/* step.cu: one time step in one launch: the convolutions over the windows of x and h, then the cell. An LSTM has one row a sample
 * and one tap; all its samples then make one tile of rows.
 *
 * A block computes blockDim.x units of blockDim.y * FL_STEP_ROWS rows of one sample. It walks the channels in slices of
 * FL_STEP_DEPTH: the slice of the rows (with the halo that the taps need) and of the kernel stand in shared memory, the four gates
 * of each row in registers.
 */
#define FL_STEP_ROWS 4
#define FL_STEP_DEPTH 32

struct convolution {
  const real *a;      /* [samples,R,C]; NULL: the term is absent */
  const real *kernel; /* [K,C,4U] */
  geometry g;
};

/* rows [reach][FL_STEP_DEPTH] = channels `channel`… of the rows that the block's windows cover; zeros outside. */
FL_INLINE void load_rows(const convolution &p, const real *sample, int first, int reach, int channel, real *rows) {
  const int threads = blockDim.x * blockDim.y;
  for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < reach * FL_STEP_DEPTH; i += threads) {
    const int row = first + i / FL_STEP_DEPTH, c = channel + i % FL_STEP_DEPTH;
    const bool inside = row >= 0 && row < p.g.rows_in && c < p.g.channels;
    rows[i] = inside ? sample[(size_t)row * p.g.channels + c] : 0;
  }
}

/* weights [depth][4][blockDim.x] = the block's units of tap `tap`, channels `channel`… */
FL_INLINE void load_weights(const convolution &p, int units, int tap, int channel, int depth, real *weights) {
  const int width = blockDim.x, threads = width * blockDim.y;
  for (int i = threadIdx.y * width + threadIdx.x; i < depth * 4 * width; i += threads) {
    const int u = blockIdx.x * width + i % width, g = i / width % 4, c = channel + i / (4 * width);
    weights[i] = u < units ? p.kernel[(((size_t)tap * p.g.channels + c) * 4 + g) * units + u] : 0;
  }
}

/* sums [row][gate] += the convolution's share. shared: rows, then weights. */
FL_INLINE void convolve(const convolution &p, int units, int sample, real *shared, real sums[FL_STEP_ROWS][4]) {
  const int tile = blockDim.y * FL_STEP_ROWS, reach = (tile - 1) * p.g.stride + (p.g.taps - 1) * p.g.dilation + 1;
  const int first = blockIdx.y * tile * p.g.stride - p.g.pad, width = blockDim.x;
  const real *a = p.a + (size_t)sample * p.g.rows_in * p.g.channels;
  real *rows = shared, *weights = shared + (size_t)reach * FL_STEP_DEPTH;
  for (int channel = 0; channel < p.g.channels; channel += FL_STEP_DEPTH) {
    const int depth = p.g.channels - channel < FL_STEP_DEPTH ? p.g.channels - channel : FL_STEP_DEPTH;
    __syncthreads(); /* the slice before has been read */
    load_rows(p, a, first, reach, channel, rows);
    for (int tap = 0; tap < p.g.taps; tap++) {
      if (tap) __syncthreads(); /* the tap before has been read */
      load_weights(p, units, tap, channel, depth, weights);
      __syncthreads();
      const real *row = rows + ((size_t)threadIdx.y * FL_STEP_ROWS * p.g.stride + (size_t)tap * p.g.dilation) * FL_STEP_DEPTH;
      for (int c = 0; c < depth; c++) {
        const real *w = weights + (size_t)c * 4 * width + threadIdx.x;
        FL_UNROLL
        for (int r = 0; r < FL_STEP_ROWS; r++) {
          const real value = row[(size_t)r * p.g.stride * FL_STEP_DEPTH + c];
          FL_UNROLL
          for (int g = 0; g < 4; g++) sums[r][g] = v_fma(value, w[g * width], sums[r][g]);
        }
      }
    }
  }
}

/* z: pre-activations [M,4U] that are there already, or NULL; bias [4U] or NULL. Grid: (unit tiles, row tiles, samples). */
extern "C" __global__ void __launch_bounds__(256, 1)
    step_forward(const cell_io io, const convolution x, const convolution h, const real *z, const real *bias) {
  FL_SHARED(shared);
  const int u = blockIdx.x * blockDim.x + threadIdx.x, sample = blockIdx.z, rows_out = h.g.rows_out;
  const int row0 = (blockIdx.y * blockDim.y + threadIdx.y) * FL_STEP_ROWS;
  real sums[FL_STEP_ROWS][4];
  for (int r = 0; r < FL_STEP_ROWS; r++)
    for (int g = 0; g < 4; g++) {
      const bool inside = u < io.units && row0 + r < rows_out;
      const size_t column = (size_t)g * io.units + u, m = (size_t)sample * rows_out + row0 + r;
      sums[r][g] = (inside && bias ? bias[column] : 0) + (inside && z ? z[m * 4 * io.units + column] : 0);
    }
  if (x.a) convolve(x, io.units, sample, shared, sums);
  convolve(h, io.units, sample, shared, sums);
  if (u >= io.units) return;
  for (int r = 0; r < FL_STEP_ROWS && row0 + r < rows_out; r++)
    finish_cell(io, look_up(io, sample * rows_out + row0 + r, u), sums[r]);
}
