/* sequence.cu: time steps of an LSTM or a ConvLSTM1D, all of them in one launch or one: see tiles.cuh. A quad of columns is the gates of
 * a unit, and each cell of a tile is finished by one thread.
 */

struct sequence_io {
  cell_io cell; /* step 0; the strides below lead to the next ones */
  tiling tiles;
  packed recurrent_kernel, kernel; /* of h; of x, without channels where z has their share */
  const real *z, *bias;            /* shares of the inputs [T,M,4U], or NULL; [4U], or NULL */
  const real *x;                   /* turned inputs [T,groups,C,x_pitch] */
  real *exchange;                  /* turned h [2][groups,U,pitch]: that of step t stands in t % 2 */
  int begin, end;                  /* the steps of this launch */
  int h_slots, c_slots;            /* h and c of step t stand t % slots places of [M,U] behind cell.h_in and cell.c_in */
  int x_pitch;
};

/* bias [2^quad_bits] = the block's units'; zeros where there is none. */
FL_INLINE void load_bias(const sequence_io &io, quad *bias) {
  for (int i = threadIdx.x; i < 4 << io.tiles.quad_bits; i += blockDim.x) {
    const int u = (blockIdx.x << io.tiles.quad_bits) + i / 4;
    bias[i / 4].of[i % 4] = io.bias && u < io.cell.units ? io.bias[i % 4 * io.cell.units + u] : 0;
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
    for (int g = 0; g < 4; g++) ahead[j].z[g] = io.z ? io.z[(((size_t)step * cell.rows + m) * 4 + g) * cell.units + u] : 0;
  }
}

/* bias: of the block's units; row_zero: where row 0 of all groups would stand among the group's rows in `exchange`. */
template <int ROWS>
FL_INLINE void finish_tile(const sequence_io &io, const cell_io &cell, const worker &me, const quad *bias, const real *parts,
                           real *row_zero, cell_ahead ahead[ROWS]) {
  const int cells = me.threads * ROWS, slices = part_count(me);
  FL_UNROLL
  for (int j = 0; j < ROWS; j++) {
    if (!ahead[j].mine) continue;
    const int number = threadIdx.x + j * blockDim.x;
    const quad *part = (const quad *)parts + number, first = bias[number & ((1 << io.tiles.quad_bits) - 1)];
    FL_UNROLL
    for (int g = 0; g < 4; g++) ahead[j].z[g] += first.of[g];
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
  if (cell.gates) cell.gates += t * 4 * state;
  if (cell.mask) cell.mask += (size_t)t * (cell.rows / cell.sample_rows);
  return cell;
}

/* shared: the bias, weights (of the recurrent kernel, then of the kernel; or of a slab), two slabs, in whose place the parts stand later. */
template <int ROWS, int TAPS, bool STREAMED>
FL_INLINE void run_sequence(const sequence_io &io) {
  FL_SHARED(shared);
  const tiling &tiles = io.tiles;
  const worker me = worker_of<ROWS>(tiles);
  const int h_rows = io.recurrent_kernel.channels * tiles.taps, x_rows = io.kernel.channels * tiles.taps;
  const int kept = STREAMED ? tiles.slab * tiles.taps : h_rows + x_rows;
  quad *bias = (quad *)shared, *weights = bias + (1 << tiles.quad_bits),
       *x_weights = STREAMED ? weights : weights + ((size_t)h_rows << tiles.quad_bits);
  real *slabs = (real *)(weights + ((size_t)kept << tiles.quad_bits));
  const size_t group_h = (size_t)io.recurrent_kernel.channels * tiles.pitch, group_x = (size_t)io.kernel.channels * io.x_pitch;
  int turn = 0;
  load_bias(io, bias);
  if (!STREAMED) {
    load_weights(tiles, io.recurrent_kernel, 0, h_rows, weights);
    load_weights(tiles, io.kernel, 0, x_rows, x_weights);
  }
  for (int t = io.begin; t < io.end; t++) {
    const cell_io cell = cell_of_step(io, t);
    const real *before = io.exchange + t % 2 * tiles.groups * group_h;
    real *after = io.exchange + (t + 1) % 2 * tiles.groups * group_h;
    for (int number = blockIdx.y; number < tiles.groups * tiles.group_tiles; number += gridDim.y) {
      const int group = number / tiles.group_tiles, tile = number % tiles.group_tiles, row = tile * tiles.thread_rows * ROWS;
      cell_ahead ahead[ROWS];
      real sums[ROWS * 4];
      FL_UNROLL
      for (int j = 0; j < ROWS * 4; j++) sums[j] = 0;
      look_ahead<ROWS>(io, cell, me, t, group, tile, ahead);
      if (x_rows)
        multiply<ROWS, TAPS, STREAMED>(tiles, me, io.x + ((size_t)t * tiles.groups + group) * group_x + row, io.x_pitch,
                                       io.kernel, x_weights, slabs, &turn, sums);
      wait_for_tiles(tiles, number, tile, t);
      multiply<ROWS, TAPS, STREAMED>(tiles, me, before + group * group_h + row, tiles.pitch, io.recurrent_kernel, weights, slabs,
                                     &turn, sums);
      store_parts<ROWS>(tiles, me, sums, slabs);
      finish_tile<ROWS>(io, cell, me, bias, slabs, after + group * group_h + tiles.pad - group * tiles.group_rows, ahead);
      tell_others(tiles, number);
    }
  }
}

extern "C" __global__ void __launch_bounds__(256, 1) sequence_row(const sequence_io io) { run_sequence<1, 1, false>(io); }
extern "C" __global__ void __launch_bounds__(256, 1) sequence_rows(const sequence_io io) { run_sequence<4, 1, false>(io); }
extern "C" __global__ void __launch_bounds__(256, 1) sequence_taps3(const sequence_io io) { run_sequence<4, 3, false>(io); }
extern "C" __global__ void __launch_bounds__(256, 1) sequence_taps5(const sequence_io io) { run_sequence<4, 5, false>(io); }
extern "C" __global__ void __launch_bounds__(256, 1) sequence_taps(const sequence_io io) { run_sequence<4, 0, false>(io); }
extern "C" __global__ void __launch_bounds__(256, 1) streamed_row(const sequence_io io) { run_sequence<1, 1, true>(io); }
extern "C" __global__ void __launch_bounds__(256, 1) streamed_rows(const sequence_io io) { run_sequence<4, 1, true>(io); }
extern "C" __global__ void __launch_bounds__(256, 1) streamed_taps3(const sequence_io io) { run_sequence<4, 3, true>(io); }
extern "C" __global__ void __launch_bounds__(256, 1) streamed_taps5(const sequence_io io) { run_sequence<4, 5, true>(io); }
extern "C" __global__ void __launch_bounds__(256, 1) streamed_taps(const sequence_io io) { run_sequence<4, 0, true>(io); }
