/* sequence.cu: all time steps of an LSTM in one launch. Each block holds the recurrent kernel's columns of a few units in shared
 * memory from the first step to the last; between two steps the blocks that share samples wait for each other.
 *
 * Grid: (blocks of units, groups of samples), launched cooperatively, so that all blocks are resident and the waiting ends. A warp
 * computes one unit of ROWS samples: its lanes share the sum over the U old h and then exchange the parts, and each of the first
 * ROWS lanes runs one cell.
 */
#define FL_LANES 32
#define FL_FULL_WARP 0xffffffffu

struct sequence_io {
  cell_io cell;                 /* the first step; the strides below lead to the next ones */
  const real *z;                /* [T,N,4U] input projections, bias included */
  const real *recurrent_kernel; /* [U,4U] */
  unsigned int *arrived;        /* [groups] zeros: how many times blocks of a group came to the end of a step */
  long long gates_step;         /* reals from one step's tape to the next one's, 0 without a tape */
  int steps, h_slots, c_slots;  /* h and c of step t stand t % slots places of [N,U] behind cell.h_in and cell.c_in */
  int block_units, group_rows;
};

struct __align__(16) gate_weights {
  real gate[4];
};

/* weights [unit][U] of the block's units; zeros behind the last unit. */
FL_INLINE void load_recurrent(const sequence_io &io, gate_weights *weights) {
  const int units = io.cell.units, columns = io.block_units;
  for (int i = threadIdx.x; i < units * 4 * columns; i += blockDim.x) {
    const int unit = i % columns, g = i / columns % 4, k = i / columns / 4, u = blockIdx.x * columns + unit;
    weights[unit * units + k].gate[g] = u < units ? io.recurrent_kernel[((size_t)k * 4 + g) * units + u] : 0;
  }
}

/* Lane l is left with the sum over all lanes of value l % COUNT. */
template <int COUNT>
FL_INLINE real sum_over_lanes(real values[COUNT], int lane) {
  int left = COUNT;
  FL_UNROLL
  for (int half = FL_LANES / 2; half > 0; half /= 2) {
    if (half >= COUNT) {
      FL_UNROLL
      for (int j = 0; j < COUNT; j++) values[j] += __shfl_xor_sync(FL_FULL_WARP, values[j], half);
    } else {
      left /= 2;
      FL_UNROLL
      for (int j = 0; j < COUNT / 2; j++) {
        if (j >= left) continue;
        const bool upper = (lane & half) != 0;
        const real kept = upper ? values[j + left] : values[j], given = upper ? values[j] : values[j + left];
        values[j] = kept + __shfl_xor_sync(FL_FULL_WARP, given, half);
      }
    }
  }
  return values[0];
}

/* One step of the ROWS samples whose h stand in `h` [ROWS][U], for one unit: the sums over U, then the cells. */
template <int ROWS>
FL_INLINE void unit_step(const sequence_io &io, const cell_io &cell, const real *z, const gate_weights *weights, const real *h,
                         int first, int end, int u) {
  const int lane = threadIdx.x % FL_LANES, units = cell.units, m = first + lane;
  const bool mine = lane < ROWS && m < end && u < units;
  real sums[ROWS * 4], pre[4];
  for (int g = 0; g < 4; g++) pre[g] = mine ? z[((size_t)m * 4 + g) * units + u] : 0; /* on its way while the sums are made */
  FL_UNROLL
  for (int j = 0; j < ROWS * 4; j++) sums[j] = 0;
  for (int k = lane; k < units; k += FL_LANES) {
    const gate_weights w = weights[k];
    FL_UNROLL
    for (int r = 0; r < ROWS; r++) {
      const real value = h[r * units + k];
      FL_UNROLL
      for (int g = 0; g < 4; g++) sums[r * 4 + g] = v_fma(value, w.gate[g], sums[r * 4 + g]);
    }
  }
  const real total = sum_over_lanes<ROWS * 4>(sums, lane);
  FL_UNROLL
  for (int g = 0; g < 4; g++) pre[g] += __shfl_sync(FL_FULL_WARP, total, lane % ROWS * 4 + g);
  if (mine) finish_cell(cell, m, u, pre);
}

/* The cell's arrays of step t. */
FL_INLINE cell_io cell_of_step(const sequence_io &io, int t) {
  cell_io cell = io.cell;
  const size_t state = (size_t)cell.rows * cell.units;
  cell.h_in = io.cell.h_in + t % io.h_slots * state;
  cell.h_out = io.cell.h_out + (t + 1) % io.h_slots * state;
  cell.c_in = io.cell.c_in + t % io.c_slots * state;
  cell.c_out = io.cell.c_out + (t + 1) % io.c_slots * state;
  if (cell.y) cell.y += (size_t)t * cell.units;
  if (cell.gates) cell.gates += t * io.gates_step;
  if (cell.mask) cell.mask += (size_t)t * cell.rows;
  return cell;
}

/* Thread 0 returns when all blocks of the group have come here for the `times`th time; the barrier before the next tile holds the
 * others until then. */
FL_INLINE void wait_for_group(unsigned int *arrived, unsigned int times) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    atomicAdd(arrived, 1u);
    while (*(volatile unsigned int *)arrived < times * gridDim.x) FL_WAITING();
    __threadfence();
  }
}

/* blockDim.x is a multiple of 32 * block_units; shared: weights [block_units][U][4], then h [parts * ROWS][U]. */
template <int ROWS>
FL_INLINE void run_sequence(const sequence_io &io) {
  FL_SHARED(shared);
  gate_weights *weights = (gate_weights *)shared;
  const int units = io.cell.units, warp = threadIdx.x / FL_LANES, unit = warp % io.block_units, part = warp / io.block_units;
  const int tile = blockDim.x / FL_LANES / io.block_units * ROWS;
  real *h = shared + (size_t)io.block_units * units * 4;
  const int begin = blockIdx.y * io.group_rows;
  const int end = begin + io.group_rows < io.cell.rows ? begin + io.group_rows : io.cell.rows;
  load_recurrent(io, weights);
  for (int t = 0; t < io.steps; t++) {
    const cell_io cell = cell_of_step(io, t);
    for (int first = begin; first < end; first += tile) {
      __syncthreads(); /* the tile before has been read, and the step before is complete */
      for (int i = threadIdx.x; i < tile * units; i += blockDim.x)
        h[i] = first + i / units < end ? FL_LOAD_FRESH(cell.h_in + (size_t)first * units + i) : 0;
      __syncthreads();
      unit_step<ROWS>(io, cell, io.z + (size_t)t * cell.rows * 4 * units, weights + unit * units, h + part * ROWS * units,
                      first + part * ROWS, end, blockIdx.x * io.block_units + unit);
    }
    if (t + 1 < io.steps) wait_for_group(io.arrived + blockIdx.y, t + 1);
  }
}

extern "C" __global__ void __launch_bounds__(256) sequence_1(const sequence_io io) { run_sequence<1>(io); }
extern "C" __global__ void __launch_bounds__(256) sequence_2(const sequence_io io) { run_sequence<2>(io); }
extern "C" __global__ void __launch_bounds__(256) sequence_4(const sequence_io io) { run_sequence<4>(io); }
extern "C" __global__ void __launch_bounds__(256) sequence_8(const sequence_io io) { run_sequence<8>(io); }
