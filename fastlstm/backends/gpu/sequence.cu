/* sequence.cu: all time steps of an LSTM or a ConvLSTM1D in one launch. Each block holds the kernels' columns of a few units in shared
 * memory from the first step to the last; between two steps the blocks whose rows meet wait for each other: see tiles.cuh. A quad of
 * columns is the gates of a unit, and each cell of a tile is finished by one thread.
 */

struct sequence_io {
  cell_io cell; /* the first step; the strides below lead to the next ones */
  tiling tiles;
  const real *z, *bias;         /* shares of the inputs [T,M,4U], or NULL; [4U], or NULL */
  const real *x, *kernel;       /* turned inputs [T,groups,C,x_pitch] and [K,C,4U], or NULL: z has their share */
  const real *recurrent_kernel; /* [K,U,4U] */
  real *exchange;               /* turned h [2][groups,U,pitch]: that of step t stands in t % 2 */
  long long gates_step;         /* reals from one step's tape to the next one's, 0 without a tape */
  int steps, h_slots, c_slots;  /* h and c of step t stand t % slots places of [M,U] behind cell.h_in and cell.c_in */
  int channels, x_pitch;
};

/* weights [channel][tap][unit] of the block's units; zeros behind the last unit. */
FL_INLINE void load_columns(const sequence_io &io, const real *kernel, int channels, quad *weights) {
  const int units = io.cell.units, bits = io.tiles.quad_bits, count = channels * io.tiles.taps * 4 << bits;
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    const int unit = i & ((1 << bits) - 1), g = i >> bits & 3, row = i >> bits >> 2, u = (blockIdx.x << bits) + unit;
    const size_t source = (size_t)(row % io.tiles.taps) * channels + row / io.tiles.taps;
    weights[(row << bits) + unit].of[g] = u < units ? kernel[(source * 4 + g) * units + u] : 0;
  }
}

/* A cell that this thread finishes: what it needs beside the products, on its way while they are made. */
struct cell_ahead {
  real z[4];
  cell_before before;
  bool mine;
};

template <int ROWS>
FL_INLINE void look_ahead(const sequence_io &io, const cell_io &cell, const worker &me, int step, int group, int tile,
                          cell_ahead ahead[ROWS]) {
  FL_UNROLL
  for (int j = 0; j < ROWS; j++) {
    const int number = threadIdx.x + j * blockDim.x, row = tile * io.tiles.thread_rows * ROWS + (number >> io.tiles.quad_bits);
    const int m = group * io.tiles.group_rows + row;
    const int u = (blockIdx.x << io.tiles.quad_bits) + (number & ((1 << io.tiles.quad_bits) - 1));
    ahead[j].mine = number < me.threads * ROWS && row < io.tiles.group_rows && m < cell.rows && u < cell.units;
    if (!ahead[j].mine) continue;
    ahead[j].before = look_up(cell, m, u);
    FL_UNROLL
    for (int g = 0; g < 4; g++) {
      const size_t column = (size_t)g * cell.units + u;
      ahead[j].z[g] = io.bias ? io.bias[column] : 0;
      if (io.z) ahead[j].z[g] += io.z[((size_t)step * cell.rows + m) * 4 * cell.units + column];
    }
  }
}

/* row_zero: where row 0 of all groups would stand among the group's rows in `exchange`. */
template <int ROWS>
FL_INLINE void finish_tile(const sequence_io &io, const cell_io &cell, const worker &me, const real *parts, real *row_zero,
                           cell_ahead ahead[ROWS]) {
  const int cells = me.threads * ROWS, slices = part_count(me);
  FL_UNROLL
  for (int j = 0; j < ROWS; j++) {
    if (!ahead[j].mine) continue;
    const quad *part = (const quad *)parts + threadIdx.x + j * blockDim.x;
    for (int slice = 0; slice < slices; slice++) {
      const quad sums = part[slice * cells];
      FL_UNROLL
      for (int g = 0; g < 4; g++) ahead[j].z[g] += sums.of[g];
    }
    row_zero[(size_t)ahead[j].before.u * io.tiles.pitch + ahead[j].before.m] = finish_cell(cell, ahead[j].before, ahead[j].z);
  }
}

/* The cell's arrays of step t. */
FL_INLINE cell_io cell_of_step(const sequence_io &io, int t) {
  cell_io cell = io.cell;
  const size_t state = (size_t)cell.rows * cell.units;
  cell.h_in = io.cell.h_in + t % io.h_slots * state;
  cell.h_out = io.cell.h_out + (t + 1) % io.h_slots * state;
  cell.c_in = io.cell.c_in + t % io.c_slots * state;
  cell.c_out = io.cell.c_out + (t + 1) % io.c_slots * state;
  if (cell.y) cell.y += (size_t)t * cell.sample_rows * cell.units;
  if (cell.gates) cell.gates += t * io.gates_step;
  if (cell.mask) cell.mask += (size_t)t * (cell.rows / cell.sample_rows);
  return cell;
}

/* shared: weights of the recurrent kernel, of the kernel if there is x, two slabs, in whose place the parts stand later on. */
template <int ROWS, int TAPS>
FL_INLINE void run_sequence(const sequence_io &io) {
  FL_SHARED(shared);
  const worker me = worker_of<ROWS>(io.tiles);
  const int units = io.cell.units, channels = io.x ? io.channels : 0;
  quad *weights = (quad *)shared, *x_weights = weights + ((size_t)units * io.tiles.taps << io.tiles.quad_bits);
  real *slabs = (real *)(x_weights + ((size_t)channels * io.tiles.taps << io.tiles.quad_bits));
  const size_t group_h = (size_t)units * io.tiles.pitch, group_x = (size_t)channels * io.x_pitch;
  int turn = 0;
  load_columns(io, io.recurrent_kernel, units, weights);
  if (channels) load_columns(io, io.kernel, channels, x_weights);
  for (int t = 0; t < io.steps; t++) {
    const cell_io cell = cell_of_step(io, t);
    const real *before = io.exchange + t % 2 * io.tiles.groups * group_h;
    real *after = io.exchange + (t + 1) % 2 * io.tiles.groups * group_h;
    for (int number = blockIdx.y; number < io.tiles.groups * io.tiles.group_tiles; number += gridDim.y) {
      const int group = number / io.tiles.group_tiles, tile = number % io.tiles.group_tiles,
                row = tile * io.tiles.thread_rows * ROWS;
      cell_ahead ahead[ROWS];
      real sums[ROWS * 4];
      FL_UNROLL
      for (int j = 0; j < ROWS * 4; j++) sums[j] = 0;
      look_ahead<ROWS>(io, cell, me, t, group, tile, ahead);
      if (channels)
        multiply<ROWS, TAPS>(io.tiles, me, io.x + ((size_t)t * io.tiles.groups + group) * group_x + row, channels, io.x_pitch,
                             x_weights, slabs, &turn, sums);
      wait_for_tiles(io.tiles, number, tile, t);
      multiply<ROWS, TAPS>(io.tiles, me, before + group * group_h + row, units, io.tiles.pitch, weights, slabs, &turn, sums);
      __syncthreads(); /* the last slab has been read */
      store_parts<ROWS>(io.tiles, me, sums, slabs);
      __syncthreads(); /* the parts are complete */
      finish_tile<ROWS>(io, cell, me, slabs, after + group * group_h + io.tiles.pad - group * io.tiles.group_rows, ahead);
      tell_others(io.tiles, number);
    }
  }
}

extern "C" __global__ void __launch_bounds__(256, 1) sequence_row(const sequence_io io) { run_sequence<1, 1>(io); }
extern "C" __global__ void __launch_bounds__(256, 1) sequence_rows(const sequence_io io) { run_sequence<4, 1>(io); }
extern "C" __global__ void __launch_bounds__(256, 1) sequence_taps3(const sequence_io io) { run_sequence<4, 3>(io); }
extern "C" __global__ void __launch_bounds__(256, 1) sequence_taps5(const sequence_io io) { run_sequence<4, 5>(io); }
extern "C" __global__ void __launch_bounds__(256, 1) sequence_taps(const sequence_io io) { run_sequence<4, 0>(io); }
