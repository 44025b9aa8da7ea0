/* sequence.cu: all time steps of an LSTM or a ConvLSTM1D in one launch. Each block holds the kernels' columns of a few units in shared
 * memory from the first step to the last; between two steps the blocks whose rows meet wait for each other.
 *
 * Rows come in groups that share nothing: a sample of a ConvLSTM1D, some samples of an LSTM (one tap). A group is cut into tiles.
 * Grid: (blocks of units, tiles), launched cooperatively, so that all blocks are resident and the waiting ends. A block takes the
 * tiles blockIdx.y, blockIdx.y + gridDim.y … in turn. In it a thread sums, for one unit and ROWS rows, the four gates over a slice of
 * the channels; the sums of the slices are put together, and each cell of the tile is finished by one thread.
 *
 * h goes from step to step through `exchange`, turned so that a channel's rows lie side by side, with the zeros around a sample that
 * the taps need: from there a slab of channels is copied into shared memory as it is.
 */
#define FL_LANES 32
#define FL_FULL_WARP 0xffffffffu
#define FL_PIECES 4 /* of 16 bytes, that a thread has on their way to shared memory at once */

#define FL_APART 32 /* the counters of two tiles do not share a line */

struct sequence_io {
  cell_io cell;                 /* the first step; the strides below lead to the next ones */
  const real *z, *bias;         /* shares of the inputs [T,M,4U], or NULL; [4U], or NULL */
  const real *x, *kernel;       /* turned inputs [T,groups,C,x_pitch] and [K,C,4U], or NULL: z has their share */
  const real *recurrent_kernel; /* [K,U,4U] */
  real *exchange;               /* [2][groups,U,pitch]: h of step t stands in t % 2, its rows behind `pad` zeros */
  unsigned int
      *arrived; /* [tiles][FL_APART] zeros: how many blocks of units have ended a step of the tile, in the first of each */
  long long gates_step;        /* reals from one step's tape to the next one's, 0 without a tape */
  int steps, h_slots, c_slots; /* h and c of step t stand t % slots places of [M,U] behind cell.h_in and cell.c_in */
  int channels, taps, pad, pitch, x_pitch;
  int groups, group_rows, group_tiles;
  int unit_bits, thread_rows; /* a block has 2^unit_bits units; its tiles have thread_rows * ROWS rows */
  int slab, slab_pitch;       /* channels of a slab, and reals from one to the next, a multiple of 4 */
};

/* Four reals side by side: of the gates of a unit, or of rows. */
struct __align__(16) quad {
  real of[4];
};

/* What this thread does in every tile: one unit of the block, ROWS rows, every slices-th channel; and the pieces that it copies. */
struct worker {
  int unit, row, slice, slice_bits, threads; /* 2^slice_bits slices, of `threads` each */
  int piece_channel[FL_PIECES], piece_at[FL_PIECES];
};

/* Units vary fastest, 8 of them, then rows, then the other units, so that a warp reads few rows and few units. */
template <int ROWS>
FL_INLINE worker worker_of(const sequence_io &io) {
  worker me;
  const int low = io.unit_bits < 3 ? io.unit_bits : 3, in_row = io.slab_pitch * (int)sizeof(real) / 16, thread = threadIdx.x;
  me.threads = io.thread_rows << io.unit_bits;
  me.slice_bits = 0;
  while (me.threads << me.slice_bits < (int)blockDim.x) me.slice_bits++;
  me.slice = thread / me.threads;
  const int rest = (thread % me.threads) >> low;
  me.row = rest % io.thread_rows * ROWS;
  me.unit = (thread & ((1 << low) - 1)) + (rest / io.thread_rows << low);
  FL_UNROLL
  for (int j = 0; j < FL_PIECES; j++) {
    const int piece = thread + j * blockDim.x;
    me.piece_channel[j] = piece / in_row;
    me.piece_at[j] = piece % in_row * (16 / (int)sizeof(real));
  }
  return me;
}

/* weights [channel][tap][unit] of the block's units; zeros behind the last unit. */
FL_INLINE void load_columns(const sequence_io &io, const real *kernel, int channels, quad *weights) {
  const int units = io.cell.units, bits = io.unit_bits, count = channels * io.taps * 4 << bits;
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    const int unit = i & ((1 << bits) - 1), g = i >> bits & 3, row = i >> bits >> 2, u = (blockIdx.x << bits) + unit;
    const size_t source = (size_t)(row % io.taps) * channels + row / io.taps;
    weights[(row << bits) + unit].of[g] = u < units ? kernel[(source * 4 + g) * units + u] : 0;
  }
}

/* sums [ROWS][4] += the products of CHANNELS channels, whose loads all stand first. TAPS: 0 where their number is io.taps. */
template <int ROWS, int TAPS, int CHANNELS>
FL_INLINE void add_channels(const sequence_io &io, const real *row, int row_step, const quad *weight, int weight_step,
                            real sums[ROWS * 4]) {
  if constexpr (ROWS % 4 == 0 && TAPS > 0) {
    constexpr int QUADS = (ROWS + TAPS + 2) / 4; /* of the rows that ROWS windows of TAPS rows cover */
    quad value[CHANNELS][QUADS], w[CHANNELS][TAPS];
    FL_UNROLL
    for (int k = 0; k < CHANNELS; k++) {
      FL_UNROLL
      for (int j = 0; j < QUADS; j++) value[k][j] = ((const quad *)(row + k * row_step))[j];
      FL_UNROLL
      for (int tap = 0; tap < TAPS; tap++) w[k][tap] = weight[k * weight_step + (tap << io.unit_bits)];
    }
    FL_UNROLL
    for (int k = 0; k < CHANNELS; k++) FL_UNROLL
    for (int tap = 0; tap < TAPS; tap++) FL_UNROLL
    for (int j = 0; j < ROWS * 4; j++)
      sums[j] = v_fma(value[k][(j / 4 + tap) / 4].of[(j / 4 + tap) % 4], w[k][tap].of[j % 4], sums[j]);
  } else {
    real value[CHANNELS][ROWS];
    quad w[CHANNELS];
    for (int tap = 0; tap < (TAPS > 0 ? TAPS : io.taps); tap++) {
      FL_UNROLL
      for (int k = 0; k < CHANNELS; k++) {
        w[k] = weight[k * weight_step + (tap << io.unit_bits)];
        FL_UNROLL
        for (int r = 0; r < ROWS; r++) value[k][r] = row[k * row_step + r + tap];
      }
      FL_UNROLL
      for (int k = 0; k < CHANNELS; k++) FL_UNROLL
      for (int j = 0; j < ROWS * 4; j++) sums[j] = v_fma(value[k][j / 4], w[k].of[j % 4], sums[j]);
    }
  }
}

/* sums [ROWS][4] += the products of a slab's channels of this slice: every 2^slice_bits-th. */
template <int ROWS, int TAPS>
FL_INLINE void add_products(const sequence_io &io, const worker &me, const real *slab, const quad *weights, int depth,
                            real sums[ROWS * 4]) {
  constexpr int CHANNELS = TAPS == 1 ? 4 : 2; /* enough that the loads of one warp hide behind the products of another */
  const int taps = TAPS > 0 ? TAPS : io.taps, row_step = io.slab_pitch << me.slice_bits;
  const int weight_step = taps << (io.unit_bits + me.slice_bits);
  const real *row = slab + me.slice * io.slab_pitch + me.row;
  const quad *weight = weights + (me.slice * taps << io.unit_bits) + me.unit;
  int left = (depth - me.slice + (1 << me.slice_bits) - 1) >> me.slice_bits;
  for (; left >= CHANNELS; left -= CHANNELS, row += CHANNELS * row_step, weight += CHANNELS * weight_step)
    add_channels<ROWS, TAPS, CHANNELS>(io, row, row_step, weight, weight_step, sums);
  for (; left > 0; left--, row += row_step, weight += weight_step)
    add_channels<ROWS, TAPS, 1>(io, row, row_step, weight, weight_step, sums);
}

/* sums += all channels of `source` [channels][pitch]. While one slab is multiplied, the next one is on its way; slabs: room for two;
 * `turn`: which of them is free. */
template <int ROWS, int TAPS>
FL_INLINE void multiply(const sequence_io &io, const worker &me, const real *source, int channels, int pitch, const quad *weights,
                        real *slabs, int *turn, real sums[ROWS * 4]) {
  fl_piece pieces[FL_PIECES];
  for (int first = -io.slab; first < channels; first += io.slab) {
    const int next = first + io.slab, here = channels - first < io.slab ? channels - first : io.slab;
    const int there = channels - next < io.slab ? channels - next : io.slab;
    real *slab = slabs + *turn * io.slab * io.slab_pitch;
    if (first >= 0) {
      FL_UNROLL
      for (int j = 0; j < FL_PIECES; j++)
        if (me.piece_channel[j] < here) ((fl_piece *)slab)[threadIdx.x + j * blockDim.x] = pieces[j];
      __syncthreads(); /* the slab is complete; and the one before has been read, so that the next may stand there */
      *turn ^= 1;
    }
    FL_UNROLL
    for (int j = 0; j < FL_PIECES; j++)
      if (me.piece_channel[j] < there)
        pieces[j] = FL_LOAD_FRESH((const fl_piece *)(source + (size_t)(next + me.piece_channel[j]) * pitch + me.piece_at[j]));
    if (first >= 0) add_products<ROWS, TAPS>(io, me, slab, weights + ((size_t)first * io.taps << io.unit_bits), here, sums);
  }
}

/* Which of COUNT values a lane is left with, and whether another lane has them too. */
struct lane_share {
  int first, count;
  bool mine;
};

/* Adds up the COUNT values of the lanes whose numbers differ by `apart` and multiples of it, up to HALF; a lane is left with the sums
 * of its share of them. One level of halving for each call, so that the values stay in registers. */
template <int COUNT, int HALF>
FL_INLINE void sum_over_lanes(real values[], int apart, lane_share *share) {
  if constexpr (HALF > 0) {
    if (HALF < apart) return;
    constexpr int LEFT = COUNT * HALF / FL_LANES;
    const bool upper = (threadIdx.x & HALF) != 0;
    if constexpr (LEFT > 0) {
      FL_UNROLL
      for (int j = 0; j < LEFT; j++) {
        const real kept = upper ? values[j + LEFT] : values[j], given = upper ? values[j] : values[j + LEFT];
        values[j] = kept + __shfl_xor_sync(FL_FULL_WARP, given, HALF);
      }
      share->first += upper ? LEFT : 0;
      share->count = LEFT;
    } else {
      values[0] += __shfl_xor_sync(FL_FULL_WARP, values[0], HALF);
      share->mine = share->mine && !upper;
    }
    sum_over_lanes<COUNT, HALF / 2>(values, apart, share);
  }
}

/* parts [slices that are left][cell][4] = the sums of each slice, or of the slices of a warp. Cell: row * units + unit. */
template <int ROWS>
FL_INLINE void store_parts(const sequence_io &io, const worker &me, real sums[ROWS * 4], real *parts) {
  lane_share share = {0, ROWS * 4, true};
  sum_over_lanes<ROWS * 4, FL_LANES / 2>(sums, me.threads, &share);
  if (!share.mine) return;
  const int slice = me.threads < FL_LANES ? (int)threadIdx.x / FL_LANES : me.slice;
  quad *cells = (quad *)parts + (size_t)slice * me.threads * ROWS + me.unit + (me.row << io.unit_bits);
  FL_UNROLL
  for (int j = 0; j < ROWS * 4; j++) {
    const int value = share.first + j;
    if (j % 4 == 0 && j + 4 <= share.count)
      cells[value / 4 << io.unit_bits] = {{sums[j], sums[j + 1], sums[j + 2], sums[j + 3]}};
    else if (share.count < 4 && j < share.count)
      cells[value / 4 << io.unit_bits].of[value % 4] = sums[j];
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
    const int number = threadIdx.x + j * blockDim.x, row = tile * io.thread_rows * ROWS + (number >> io.unit_bits);
    const int m = group * io.group_rows + row, unit = number & ((1 << io.unit_bits) - 1), u = (blockIdx.x << io.unit_bits) + unit;
    ahead[j].mine = number < me.threads * ROWS && row < io.group_rows && m < cell.rows && u < cell.units;
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
  const int cells = me.threads * ROWS, slices = (int)blockDim.x / (me.threads < FL_LANES ? FL_LANES : me.threads);
  FL_UNROLL
  for (int j = 0; j < ROWS; j++) {
    if (!ahead[j].mine) continue;
    const quad *part = (const quad *)parts + threadIdx.x + j * blockDim.x;
    for (int slice = 0; slice < slices; slice++) {
      const quad sums = part[slice * cells];
      FL_UNROLL
      for (int g = 0; g < 4; g++) ahead[j].z[g] += sums.of[g];
    }
    row_zero[(size_t)ahead[j].before.u * io.pitch + ahead[j].before.m] = finish_cell(cell, ahead[j].before, ahead[j].z);
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

/* Whether a tile's step needs what other blocks have written. */
FL_INLINE bool meets_others(const sequence_io &io) { return gridDim.x > 1 || (io.taps > 1 && io.group_tiles > 1); }

/* Returns when all blocks of the tile and of its neighbours in the group have ended `times` steps. */
FL_INLINE void wait_for_tiles(const sequence_io &io, int number, int tile, unsigned int times) {
  if (threadIdx.x < 3 && times && meets_others(io)) {
    const int to = (int)threadIdx.x - 1, other = tile + to;
    if (!to || (io.taps > 1 && other >= 0 && other < io.group_tiles))
      while (arrivals(io.arrived + (size_t)(number + to) * FL_APART) < times * gridDim.x) FL_WAITING();
  }
  __syncthreads(); /* behind this the others' h may be read */
}

FL_INLINE void tell_others(const sequence_io &io, int number) {
  __syncthreads(); /* the tile is complete, and its parts have been read */
  if (threadIdx.x == 0 && meets_others(io)) arrive(io.arrived + (size_t)number * FL_APART);
}

/* shared: weights of the recurrent kernel, of the kernel if there is x, two slabs, in whose place the parts stand later on. */
template <int ROWS, int TAPS>
FL_INLINE void run_sequence(const sequence_io &io) {
  FL_SHARED(shared);
  const worker me = worker_of<ROWS>(io);
  const int units = io.cell.units, channels = io.x ? io.channels : 0;
  quad *weights = (quad *)shared, *x_weights = weights + ((size_t)units * io.taps << io.unit_bits);
  real *slabs = (real *)(x_weights + ((size_t)channels * io.taps << io.unit_bits));
  const size_t group_h = (size_t)units * io.pitch, group_x = (size_t)channels * io.x_pitch;
  int turn = 0;
  load_columns(io, io.recurrent_kernel, units, weights);
  if (channels) load_columns(io, io.kernel, channels, x_weights);
  for (int t = 0; t < io.steps; t++) {
    const cell_io cell = cell_of_step(io, t);
    const real *before = io.exchange + t % 2 * io.groups * group_h;
    real *after = io.exchange + (t + 1) % 2 * io.groups * group_h;
    for (int number = blockIdx.y; number < io.groups * io.group_tiles; number += gridDim.y) {
      const int group = number / io.group_tiles, tile = number % io.group_tiles, row = tile * io.thread_rows * ROWS;
      cell_ahead ahead[ROWS];
      real sums[ROWS * 4];
      FL_UNROLL
      for (int j = 0; j < ROWS * 4; j++) sums[j] = 0;
      look_ahead<ROWS>(io, cell, me, t, group, tile, ahead);
      if (channels)
        multiply<ROWS, TAPS>(io, me, io.x + ((size_t)t * io.groups + group) * group_x + row, channels, io.x_pitch, x_weights,
                             slabs, &turn, sums);
      wait_for_tiles(io, number, tile, t);
      multiply<ROWS, TAPS>(io, me, before + group * group_h + row, units, io.pitch, weights, slabs, &turn, sums);
      __syncthreads(); /* the last slab has been read */
      store_parts<ROWS>(io, me, sums, slabs);
      __syncthreads(); /* the parts are complete */
      finish_tile<ROWS>(io, cell, me, slabs, after + group * group_h + io.pad - group * io.group_rows, ahead);
      tell_others(io, number);
    }
  }
}

extern "C" __global__ void __launch_bounds__(256, 1) sequence_row(const sequence_io io) { run_sequence<1, 1>(io); }
extern "C" __global__ void __launch_bounds__(256, 1) sequence_rows(const sequence_io io) { run_sequence<4, 1>(io); }
extern "C" __global__ void __launch_bounds__(256, 1) sequence_taps3(const sequence_io io) { run_sequence<4, 3>(io); }
extern "C" __global__ void __launch_bounds__(256, 1) sequence_taps5(const sequence_io io) { run_sequence<4, 5>(io); }
extern "C" __global__ void __launch_bounds__(256, 1) sequence_taps(const sequence_io io) { run_sequence<4, 0>(io); }
