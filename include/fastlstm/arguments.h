/* arguments.h: what the kernels offer, as plain C: activation ids, the arguments of a step, and the table of one instruction set.
 *
 * Includes only <stddef.h>. No allocation, no globals, no threads: the caller owns all memory.
 * Letters: N batch, T time, D input features, U units, P depth of a product, W lanes; 4 gates in Keras order i, f, c, o.
 */
#ifndef FASTLSTM_ARGUMENTS_H
#define FASTLSTM_ARGUMENTS_H

#include <stddef.h>
#include <stdint.h>

/* Activations by number; the names are Keras' (fastlstm.activations). Elementwise up to FL_ACT_ELEMENTWISE, then over a row. */
enum fl_activation {
  FL_ACT_LINEAR = 0,
  FL_ACT_TANH,
  FL_ACT_SIGMOID,
  FL_ACT_RELU,
  FL_ACT_RELU6,
  FL_ACT_LEAKY_RELU,
  FL_ACT_ELU,
  FL_ACT_SELU,
  FL_ACT_CELU,
  FL_ACT_EXPONENTIAL,
  FL_ACT_GELU,
  FL_ACT_HARD_SIGMOID,
  FL_ACT_SILU,
  FL_ACT_HARD_SILU,
  FL_ACT_HARD_TANH,
  FL_ACT_TANH_SHRINK,
  FL_ACT_HARD_SHRINK,
  FL_ACT_SOFT_SHRINK,
  FL_ACT_SOFTPLUS,
  FL_ACT_SOFTSIGN,
  FL_ACT_SQUAREPLUS,
  FL_ACT_SPARSE_PLUS,
  FL_ACT_SPARSE_SIGMOID,
  FL_ACT_LOG_SIGMOID,
  FL_ACT_MISH,
  FL_ACT_ELEMENTWISE,
  FL_ACT_SOFTMAX = FL_ACT_ELEMENTWISE,
  FL_ACT_LOG_SOFTMAX,
  FL_ACT_SPARSEMAX,
  FL_ACT_COUNT
};

/* 16-bit storage: h, c and outputs are rounded to it at every step, the arithmetic stays float32. */
enum fl_rounding { FL_ROUND_NONE = 0, FL_ROUND_FLOAT16, FL_ROUND_BFLOAT16 };

/* ---- the table ------------------------------------------------------------------------------------------------------
 * One fl_kernels per instruction set and dtype. Pointers to reals are void *: the table's `bits` says float or double. Offsets count
 * reals. No function allocates, keeps or frees anything; none may be given overlapping inputs and outputs, except where said.
 */

/* Column order of a packed matrix. gates = 1: [P,4U] with columns = U, block b holds units b*W… of all four gates.
   gates = 0: [P,n] with columns = n, block b holds columns 4*b*W….
   padded = 1 (vectors of 64 bytes only): 64 bytes are left free behind each row of a block, which some processors fetch faster. */
/* dots = 1 (plain matrices of few columns): the panel is [n][P], a column after the other, and a product sums along vectors of P, which must
   divide by the lanes in every run. Its sums are not the chains of the other layouts. FL_DOTS_OF_GROUPS: the rows are rows of dz in groups
   (gate_backward.h); a group of the product is a tap, a run a block of 4W; the sums are the same on every instruction set. */
enum { FL_DOTS = 1, FL_DOTS_OF_GROUPS = 2 };
typedef struct {
  ptrdiff_t columns;
  int gates, padded, dots;
} fl_layout;

/* One term of a pre-activation: row r is `groups` groups of `runs` runs of `length` reals, from base + offset[r]; the
   runs of a group begin `step` apart, the groups `group_step`. panel: packed matrix; its blocks are `depth` rows each, of which this product takes the
   first groups*runs*length; padded: its layout's. NULL: the term is absent. gate_step: for step_gated, where the next gate's copy of the rows begins. */
typedef struct {
  const void *panel;
  const void *base;
  const ptrdiff_t *offset;
  ptrdiff_t runs, length, step;
  ptrdiff_t groups, group_step;
  ptrdiff_t depth, gate_step;
  int padded;
} fl_product;

/* One time step of `count` rows, whose numbers stand in rows[count]; offsets are indexed by row number. */
typedef struct {
  ptrdiff_t units, count;
  const ptrdiff_t *rows;
  fl_product x, h;              /* x.panel NULL: init holds x's share already; h.panel NULL: h is zeros, which a panel of finite
                                   numbers, one of each column without a minus sign, multiplies to nothing */
  void *init;                   /* bias panel [blocks][4][W], or z rows (padded for step, flat [4U] for cell_rows) */
  const ptrdiff_t *init_offset; /* [rows], or NULL where init is one bias panel */
  const void *c;                /* c in */
  void *c_out, *h_out;          /* c_out may be c; h.base must not be h_out */
  const ptrdiff_t *c_offset, *h_offset;
  void *y; /* a second place for h, or NULL */
  const ptrdiff_t *y_offset;
  void *
      gates; /* the tape of the backward pass [blocks][gates_rows][4][lanes of the block]: per gate its value, or its pre-activation
                  where the derivative needs that (keeps_gate in cell.h); or NULL */
  ptrdiff_t gates_rows;
  int activation, recurrent_activation, rounding;
  int descending; /* take the blocks from the last to the first */
} fl_step;

/* `steps` consecutive time steps of one row. A step reads what the one before wrote; the pointers are those of the first one, the
   *_step say how far on the next one's are. */
typedef struct {
  ptrdiff_t units, steps, features;
  const void *x_panel, *h_panel, *bias_panel; /* h_panel NULL, with one step: see fl_step */
  const void *x, *h, *c;
  void *h_out, *c_out; /* h_out must not be h; c_out may be c */
  void *y;             /* a second place for h, or NULL */
  void *gates;         /* as in fl_step, gates_rows = 1; or NULL */
  ptrdiff_t x_step, y_step;
  ptrdiff_t h_step, c_step; /* of h_out and c_out; 0: the next step writes where this one read */
  ptrdiff_t first;          /* number of the first step: even and odd ones take the blocks in turned order */
  void *z;                  /* workspace: z_rows padded z rows */
  ptrdiff_t z_rows;         /* at least 1 */
  int padded;               /* x_panel and h_panel are */
  int activation, recurrent_activation, rounding;
  /* The blocks of units that this call computes: all of them, or a part where several calls share the row, each on a thread of its
     own. They share all memory, z too, and `meet`, called behind every step, returns when all have called it. NULL where one call
     does all. */
  ptrdiff_t first_block, blocks;
  void (*meet)(void *meeting);
  void *meeting;
} fl_stream;

/* z rows of `count` rows: init (bias panel) + x + h (either may be absent; both padded or neither). padded = 1: z row is [blocks][4][W]; 0: columns of the unpacked matrix. */
typedef struct {
  fl_layout layout;
  ptrdiff_t count;
  const ptrdiff_t *rows;
  fl_product x, h;
  const void *init; /* bias panel */
  void *z;
  const ptrdiff_t *z_offset;
  int padded;
} fl_project;

/* One time step back, for `count` rows: from what is known of h and c behind the step to what is known of them before it, without
   the product with the recurrent kernel: dz is its input. */
typedef struct {
  ptrdiff_t units, count;
  const ptrdiff_t *rows;
  const void *gates; /* as fl_step wrote them */
  ptrdiff_t gates_rows;
  const void *c_before, *c; /* the cell state before and behind the step */
  const ptrdiff_t *c_offset;
  const void *dy; /* cotangent of the output, or NULL */
  const ptrdiff_t *dy_offset;
  ptrdiff_t dy_step; /* how far before dy the step before has its own (a hint: it is fetched ahead) */
  const void *dh;    /* cotangent of h behind the step */
  void *dc;          /* cotangent of c: behind the step in, before it out */
  void *dz;          /* out: panel [blocks][dz_depth][4][W]; row r's vectors stand at dz_row[r] of each block */
  const ptrdiff_t *dz_row;
  ptrdiff_t dz_depth;
  int by_blocks; /* the order of the vectors in a row of dz: see gate_backward.h */
  int activation, recurrent_activation;
} fl_step_back;

/* One time step with rows in the lanes; padded_rows is a multiple of the table's lanes. */
typedef struct {
  ptrdiff_t features, units, padded_rows;
  const void *weights;    /* [U][D+U][4], from pack_lanes */
  const void *bias;       /* [U][4] */
  const void *x, *h;      /* [D][R], [U][R] */
  void *c, *h_out;        /* [U][R]: c in and out, h out; h must not be h_out */
  const void *mask_bytes; /* [R], from mask_bytes: the row counts where its byte `mask_step` is not 0; or NULL: all do */
  int mask_step;
  void *output;    /* [U][R], with a mask: the previous output in, this step's out; or NULL */
  int zero_output; /* the output of a masked row is 0 instead of the previous one */
  int activation, recurrent_activation, rounding;
} fl_lanes;

/* z [count,4U] += columns of a matrix, transposed, @ panel: the gradient of a weight matrix. Row r of z takes the `depth` values
   columns[r], columns[pitch + r], columns[2*pitch + r] …; the panel's blocks are panel_depth rows each, of which the first `depth` count. */
typedef struct {
  ptrdiff_t units, count, depth, pitch, panel_depth;
  ptrdiff_t gate_step; /* for outer_gated: where the next gate's copy of the columns begins */
  int by_blocks;       /* as in fl_step_back; outer_gated takes the panel so in any case */
  const void *columns, *panel;
  void *z;
} fl_outer;

typedef struct {
  const char *isa;
  int bits, lanes;
  ptrdiff_t (*panel_size)(const fl_layout *layout, ptrdiff_t depth);
  void (*pack)(const fl_layout *layout, ptrdiff_t depth, const void *matrix, ptrdiff_t stride, void *panel);
  void (*project)(const fl_project *);
  void (*step)(const fl_step *);
  void (*stream)(const fl_stream *);
  void (*cell_rows)(const fl_step *);
  void (*step_back)(const fl_step_back *);
  void (*outer)(const fl_outer *);
  void (*step_gated)(const fl_step *);
  void (*outer_gated)(const fl_outer *);
  void (*scale)(void *out, const void *a, const void *b, ptrdiff_t n, int adds); /* out = a*b, or out += a*b */
  void (*sum_panel)(const void *panel, ptrdiff_t units, int by_blocks, ptrdiff_t depth,
                    void *sums);                    /* sums [4U] += rows of [blocks][depth][4][W] */
  void (*add)(void *a, const void *b, ptrdiff_t n); /* a += b */
  void (*pack_lanes)(ptrdiff_t features, ptrdiff_t units, const void *kernel, const void *recurrent_kernel, const void *bias,
                     void *weights, void *lane_bias);
  void (*to_lanes)(const void *base, ptrdiff_t stride, ptrdiff_t count, ptrdiff_t width, ptrdiff_t padded_rows, void *out);
  void (*mask_bytes)(const unsigned char *mask, ptrdiff_t T, ptrdiff_t first, ptrdiff_t count, ptrdiff_t padded_rows, void *bytes,
                     int64_t *any, int64_t *all);
  void (*from_lanes)(const void *in, ptrdiff_t padded_rows, ptrdiff_t count, ptrdiff_t width, void *base, ptrdiff_t stride);
  void (*step_lanes)(const fl_lanes *);
  void (*activate_row)(int id, void *z, ptrdiff_t n);                                    /* in place */
  void (*activate_grad)(int id, const void *x, const void *y, void *dy_dx, ptrdiff_t n); /* dy_dx may be x or y */
  void (*round_storage)(int rounding, void *x, ptrdiff_t n);                             /* in place */
  void (*spin_fma)(ptrdiff_t rounds,
                   void *lanes); /* 12 independent chains of `rounds` multiply-adds on lanes[12][lanes], for timing */
} fl_kernels;

#endif /* FASTLSTM_ARGUMENTS_H */
