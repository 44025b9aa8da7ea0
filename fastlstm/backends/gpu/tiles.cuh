/* tiles.cuh: what the kernels of sequence.cu and sequence_back.cu share: products of tiles of rows, and the waits between blocks.
 *
 * Rows come in groups that share nothing: a sample of a ConvLSTM1D, some samples of an LSTM (one tap). A group is cut into tiles.
 * Grid: (blocks of columns, tiles). Where a launch is more than one step it is cooperative, so that all blocks are resident and the
 * waiting ends. A block takes the tiles blockIdx.y, blockIdx.y + gridDim.y … in turn. Columns come in quads: the gates of a unit, or
 * four units. In a tile a thread sums one quad of ROWS rows over a slice of the channels; then the slices are put together.
 *
 * A block's weights stand in shared memory from the first step to the last, or, STREAMED, a slab of them at a time.
 *
 * What goes from step to step is turned so that a channel's rows lie side by side, with the zeros around a sample that the taps need:
 * from there a slab of channels is copied into shared memory as it is.
 */
#define FL_LANES 32
#define FL_FULL_WARP 0xffffffffu
#define FL_PIECES 4 /* of 16 bytes, that a thread has on their way to shared memory at once */
#define FL_APART 32 /* the counters of two tiles do not share a line */

struct tiling {
  unsigned int *arrived; /* [tiles][FL_APART] zeros: how many blocks have ended a step of the tile, in the first of each */
  int taps, pad, pitch;  /* turned arrays: [groups][channels][pitch], the rows behind `pad` zeros */
  int groups, group_rows, group_tiles;
  int quad_bits, thread_rows; /* a block has 2^quad_bits quads of columns; its tiles have thread_rows * ROWS rows */
  int slab, slab_pitch;       /* channels of a slab, and reals from one to the next, a multiple of 4 */
};

/* Four reals side by side: of columns, or of rows. */
struct __align__(16) quad {
  real of[4];
};

/* What this thread does in every tile: one quad of the block, ROWS rows, every slices-th channel; and the pieces that it copies. */
struct worker {
  int quad, row, slice, slice_bits, threads; /* 2^slice_bits slices, of `threads` each */
  int piece_channel[FL_PIECES], piece_at[FL_PIECES];
};

/* Quads vary fastest, 8 of them, then rows, then the other quads, so that a warp reads few rows and few quads. */
template <int ROWS>
FL_INLINE worker worker_of(const tiling &tiles) {
  worker me;
  const int low = tiles.quad_bits < 3 ? tiles.quad_bits : 3, in_row = tiles.slab_pitch * (int)sizeof(real) / 16,
            thread = threadIdx.x;
  me.threads = tiles.thread_rows << tiles.quad_bits;
  me.slice_bits = 0;
  while (me.threads << me.slice_bits < (int)blockDim.x) me.slice_bits++;
  me.slice = thread / me.threads;
  const int rest = (thread % me.threads) >> low;
  me.row = rest % tiles.thread_rows * ROWS;
  me.quad = (thread & ((1 << low) - 1)) + (rest / tiles.thread_rows << low);
  FL_UNROLL
  for (int j = 0; j < FL_PIECES; j++) {
    const int piece = thread + j * blockDim.x;
    me.piece_channel[j] = piece / in_row;
    me.piece_at[j] = piece % in_row * (16 / (int)sizeof(real));
  }
  return me;
}

/* sums [ROWS][4] += the products of CHANNELS channels, whose loads all stand first. TAPS: 0 where their number is tiles.taps. */
template <int ROWS, int TAPS, int CHANNELS>
FL_INLINE void add_channels(const tiling &tiles, const real *row, int row_step, const quad *weight, int weight_step,
                            real sums[ROWS * 4]) {
  if constexpr (ROWS % 4 == 0 && TAPS > 0) {
    constexpr int QUADS = (ROWS + TAPS + 2) / 4; /* of the rows that ROWS windows of TAPS rows cover */
    quad value[CHANNELS][QUADS], w[CHANNELS][TAPS];
    FL_UNROLL
    for (int k = 0; k < CHANNELS; k++) {
      FL_UNROLL
      for (int j = 0; j < QUADS; j++) value[k][j] = ((const quad *)(row + k * row_step))[j];
      FL_UNROLL
      for (int tap = 0; tap < TAPS; tap++) w[k][tap] = weight[k * weight_step + (tap << tiles.quad_bits)];
    }
    FL_UNROLL
    for (int k = 0; k < CHANNELS; k++) FL_UNROLL
    for (int tap = 0; tap < TAPS; tap++) FL_UNROLL
    for (int j = 0; j < ROWS * 4; j++)
      sums[j] = v_fma(value[k][(j / 4 + tap) / 4].of[(j / 4 + tap) % 4], w[k][tap].of[j % 4], sums[j]);
  } else {
    real value[CHANNELS][ROWS];
    quad w[CHANNELS];
    for (int tap = 0; tap < (TAPS > 0 ? TAPS : tiles.taps); tap++) {
      FL_UNROLL
      for (int k = 0; k < CHANNELS; k++) {
        w[k] = weight[k * weight_step + (tap << tiles.quad_bits)];
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
FL_INLINE void add_products(const tiling &tiles, const worker &me, const real *slab, const quad *weights, int depth,
                            real sums[ROWS * 4]) {
  constexpr int CHANNELS = TAPS == 1 ? 4 : 2; /* enough that the loads of one warp hide behind the products of another */
  const int taps = TAPS > 0 ? TAPS : tiles.taps, row_step = tiles.slab_pitch << me.slice_bits;
  const int weight_step = taps << (tiles.quad_bits + me.slice_bits);
  const real *row = slab + me.slice * tiles.slab_pitch + me.row;
  const quad *weight = weights + (me.slice * taps << tiles.quad_bits) + me.quad;
  int left = (depth - me.slice + (1 << me.slice_bits) - 1) >> me.slice_bits;
  for (; left >= CHANNELS; left -= CHANNELS, row += CHANNELS * row_step, weight += CHANNELS * weight_step)
    add_channels<ROWS, TAPS, CHANNELS>(tiles, row, row_step, weight, weight_step, sums);
  for (; left > 0; left--, row += row_step, weight += weight_step)
    add_channels<ROWS, TAPS, 1>(tiles, row, row_step, weight, weight_step, sums);
}

/* Weights as they are read: [channels][taps][quads], quads of all columns side by side. */
struct packed {
  const quad *at;
  int channels, quads;
};

/* weights [rows][2^quad_bits] = the block's quads of `rows` rows (a tap of a channel each); zeros behind the last quad. */
FL_INLINE void load_weights(const tiling &tiles, const packed &kernel, int first, int rows, quad *weights) {
  const int bits = tiles.quad_bits, count = rows << bits;
#pragma unroll 4
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    const int column = (blockIdx.x << bits) + (i & ((1 << bits) - 1));
    const quad none = {{0, 0, 0, 0}};
    weights[i] = column < kernel.quads ? kernel.at[(size_t)(first + (i >> bits)) * kernel.quads + column] : none;
  }
}

/* sums += all channels of `source` [channels][pitch]. While one slab is multiplied, the next one is on its way; slabs: room for two;
 * `turn`: which of them is free. weights: all of the block's, or, STREAMED, room for those of a slab. */
template <int ROWS, int TAPS, bool STREAMED>
FL_INLINE void multiply(const tiling &tiles, const worker &me, const real *source, int pitch, const packed &kernel, quad *weights,
                        real *slabs, int *turn, real sums[ROWS * 4]) {
  fl_piece pieces[FL_PIECES];
  for (int first = -tiles.slab; first < kernel.channels; first += tiles.slab) {
    const int next = first + tiles.slab, here = kernel.channels - first < tiles.slab ? kernel.channels - first : tiles.slab;
    const int there = kernel.channels - next < tiles.slab ? kernel.channels - next : tiles.slab;
    real *slab = slabs + *turn * tiles.slab * tiles.slab_pitch;
    if (first >= 0) {
      if (STREAMED) {
        __syncthreads(); /* the weights before have been read */
        load_weights(tiles, kernel, first * tiles.taps, here * tiles.taps, weights);
      }
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
    if (first >= 0)
      add_products<ROWS, TAPS>(tiles, me, slab, STREAMED ? weights : weights + ((size_t)first * tiles.taps << tiles.quad_bits),
                               here, sums);
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

/* parts [slices that are left][cell][4] = the sums of each slice, or of the slices of a warp, in the place of the slabs. Cell: row * quads
 * + quad. */
template <int ROWS>
FL_INLINE void store_parts(const tiling &tiles, const worker &me, real sums[ROWS * 4], real *parts) {
  lane_share share = {0, ROWS * 4, true};
  sum_over_lanes<ROWS * 4, FL_LANES / 2>(sums, me.threads, &share);
  __syncthreads(); /* the last slab has been read */
  const int slice = me.threads < FL_LANES ? (int)threadIdx.x / FL_LANES : me.slice;
  quad *cells = (quad *)parts + (size_t)slice * me.threads * ROWS + me.quad + (me.row << tiles.quad_bits);
  FL_UNROLL
  for (int j = 0; share.mine && j < ROWS * 4; j++) {
    const int value = share.first + j;
    if (j % 4 == 0 && j + 4 <= share.count)
      cells[value / 4 << tiles.quad_bits] = {{sums[j], sums[j + 1], sums[j + 2], sums[j + 3]}};
    else if (share.count < 4 && j < share.count)
      cells[value / 4 << tiles.quad_bits].of[value % 4] = sums[j];
  }
  __syncthreads(); /* the parts are complete */
}

/* How many parts there are of each sum. */
FL_INLINE int part_count(const worker &me) { return (int)blockDim.x / (me.threads < FL_LANES ? FL_LANES : me.threads); }

/* Whether a tile's step needs what other blocks write in the same launch. */
FL_INLINE bool meets_others(const tiling &tiles) {
  return tiles.arrived && (gridDim.x > 1 || (tiles.taps > 1 && tiles.group_tiles > 1));
}

/* Returns when all blocks of the tile and of its neighbours in the group have ended `times` steps. */
FL_INLINE void wait_for_tiles(const tiling &tiles, int number, int tile, unsigned int times) {
  if (threadIdx.x < 3 && times && meets_others(tiles)) {
    const int to = (int)threadIdx.x - 1, other = tile + to;
    if (!to || (tiles.taps > 1 && other >= 0 && other < tiles.group_tiles))
      while (arrivals(tiles.arrived + (size_t)(number + to) * FL_APART) < times * gridDim.x) FL_WAITING();
  }
  __syncthreads(); /* behind this the others' h may be read */
}

FL_INLINE void tell_others(const tiling &tiles, int number) {
  __syncthreads(); /* the tile is complete, and its parts have been read */
  if (threadIdx.x == 0 && meets_others(tiles)) arrive(tiles.arrived + (size_t)number * FL_APART);
}
