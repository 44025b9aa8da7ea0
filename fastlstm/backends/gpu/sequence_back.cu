/* sequence_back.cu: all steps back of an LSTM or a ConvLSTM1D in one launch, up to dz: see tiles.cuh. The gradients of weights and inputs
 * are products over all steps, made elsewhere.
 *
 * A quad of columns is four units, the channels are the 4U pre-activations. At least four slices, so that a thread finishes at most
 * ROWS cells.
 */

struct sequence_back_io {
  back_io cell; /* step 0: all arrays hold every step; dh, dc, doutput [M,U]: behind the last step in, dh0, dc0 out */
  tiling tiles;
  packed turned_kernel; /* the recurrent kernel: channels 4U, columns U, taps in reverse */
  real *exchange;       /* turned dz [2][groups,4U,pitch]: that of step t stands in t % 2 */
  int steps;
};

/* The arrays of step t; of step -1: what leads to dh0. */
FL_INLINE back_io back_of_step(const sequence_back_io &io, int t) {
  back_io cell = io.cell;
  const size_t state = (size_t)cell.rows * cell.units, samples = cell.rows / cell.sample_rows;
  if (cell.mask) {
    cell.mask_after = t + 1 < io.steps ? cell.mask + (t + 1) * samples : (const unsigned char *)0;
    if (t >= 0) cell.mask += t * samples;
  }
  if (t < 0) return cell;
  cell.gates += t * 4 * state;
  cell.dz += t * 4 * state;
  cell.c_before += t * state;
  cell.c += t * state;
  if (cell.dy) cell.dy += (size_t)t * cell.sample_rows * cell.units;
  return cell;
}

struct back_ahead {
  back_before before;
  bool mine;
};

/* The cells of this thread in a tile; of step -1 dh and the mask behind it alone. */
template <int ROWS>
FL_INLINE void look_ahead_back(const sequence_back_io &io, const back_io &cell, const worker &me, int step, int group, int tile,
                               back_ahead ahead[ROWS]) {
  const int bits = io.tiles.quad_bits + 2;
  FL_UNROLL
  for (int j = 0; j < ROWS; j++) {
    const int number = threadIdx.x + j * blockDim.x, row = tile * io.tiles.thread_rows * ROWS + (number >> bits);
    const int m = group * io.tiles.group_rows + row, u = (blockIdx.x << bits) + (number & ((1 << bits) - 1));
    ahead[j].mine = number < me.threads * ROWS * 4 && row < io.tiles.group_rows && m < cell.rows && u < cell.units;
    if (!ahead[j].mine) continue;
    if (step >= 0) {
      ahead[j].before = look_up_back(cell, m, u);
    } else {
      ahead[j].before.m = m;
      ahead[j].before.u = u;
      ahead[j].before.dh = cell.dh[(size_t)m * cell.units + u];
      ahead[j].before.counts_after = !cell.mask_after || cell.mask_after[m / cell.sample_rows];
    }
  }
}

/* parts: NULL where no step is behind this one; row_zero: as in finish_tile. */
template <int ROWS>
FL_INLINE void finish_tile_back(const sequence_back_io &io, const back_io &cell, const worker &me, int step, const real *parts,
                                real *row_zero, const back_ahead ahead[ROWS]) {
  const int cells = me.threads * ROWS * 4, slices = part_count(me), units = cell.units;
  FL_UNROLL
  for (int j = 0; j < ROWS; j++) {
    if (!ahead[j].mine) continue;
    const back_before &before = ahead[j].before;
    real product = 0, dz[4];
    for (int slice = 0; parts && slice < slices; slice++) product += parts[slice * cells + threadIdx.x + j * blockDim.x];
    if (step < 0) {
      if (before.counts_after) cell.dh[(size_t)before.m * units + before.u] = product;
      continue;
    }
    finish_back(cell, before, parts != 0, product, dz);
    FL_UNROLL
    for (int g = 0; g < 4; g++) row_zero[((size_t)g * units + before.u) * io.tiles.pitch + before.m] = dz[g];
  }
}

/* shared: as in run_sequence. */
template <int ROWS, int TAPS, bool STREAMED>
FL_INLINE void run_back(const sequence_back_io &io) {
  FL_SHARED(shared);
  const tiling &tiles = io.tiles;
  const worker me = worker_of<ROWS>(tiles);
  const int rows = io.turned_kernel.channels * tiles.taps;
  quad *weights = (quad *)shared;
  real *slabs = (real *)(weights + ((size_t)(STREAMED ? tiles.slab * tiles.taps : rows) << tiles.quad_bits));
  const size_t group_dz = (size_t)io.turned_kernel.channels * tiles.pitch;
  int turn = 0;
  if (!STREAMED) load_weights(tiles, io.turned_kernel, 0, rows, weights);
  for (int t = io.steps - 1; t >= -1; t--) {
    const back_io cell = back_of_step(io, t);
    const bool first = t == io.steps - 1;
    const real *behind = io.exchange + (t + 1) % 2 * tiles.groups * group_dz;
    real *here = io.exchange + (t & 1) * tiles.groups * group_dz;
    for (int number = blockIdx.y; number < tiles.groups * tiles.group_tiles; number += gridDim.y) {
      const int group = number / tiles.group_tiles, tile = number % tiles.group_tiles, row = tile * tiles.thread_rows * ROWS;
      back_ahead ahead[ROWS];
      real sums[ROWS * 4];
      FL_UNROLL
      for (int j = 0; j < ROWS * 4; j++) sums[j] = 0;
      look_ahead_back<ROWS>(io, cell, me, t, group, tile, ahead);
      if (!first) {
        wait_for_tiles(tiles, number, tile, io.steps - 1 - t);
        multiply<ROWS, TAPS, STREAMED>(tiles, me, behind + group * group_dz + row, tiles.pitch, io.turned_kernel, weights, slabs,
                                       &turn, sums);
        store_parts<ROWS>(tiles, me, sums, slabs);
      }
      finish_tile_back<ROWS>(io, cell, me, t, first ? (const real *)0 : slabs,
                             here + group * group_dz + tiles.pad - group * tiles.group_rows, ahead);
      tell_others(tiles, number);
    }
  }
}

extern "C" __global__ void __launch_bounds__(256, 1) back_row(const sequence_back_io io) { run_back<1, 1, false>(io); }
extern "C" __global__ void __launch_bounds__(256, 1) back_rows(const sequence_back_io io) { run_back<4, 1, false>(io); }
extern "C" __global__ void __launch_bounds__(256, 1) back_taps3(const sequence_back_io io) { run_back<4, 3, false>(io); }
extern "C" __global__ void __launch_bounds__(256, 1) back_taps5(const sequence_back_io io) { run_back<4, 5, false>(io); }
extern "C" __global__ void __launch_bounds__(256, 1) back_taps(const sequence_back_io io) { run_back<4, 0, false>(io); }
extern "C" __global__ void __launch_bounds__(256, 1) streamed_back_row(const sequence_back_io io) { run_back<1, 1, true>(io); }
extern "C" __global__ void __launch_bounds__(256, 1) streamed_back_rows(const sequence_back_io io) { run_back<4, 1, true>(io); }
extern "C" __global__ void __launch_bounds__(256, 1) streamed_back_taps3(const sequence_back_io io) { run_back<4, 3, true>(io); }
extern "C" __global__ void __launch_bounds__(256, 1) streamed_back_taps5(const sequence_back_io io) { run_back<4, 5, true>(io); }
extern "C" __global__ void __launch_bounds__(256, 1) streamed_back_taps(const sequence_back_io io) { run_back<4, 0, true>(io); }
