/* table.h: the row of the table that the templates above it made, for one instruction set and dtype. Included last by kernels.h. */

FL_STATIC void FL(activate_row_)(int id, void *z, ptrdiff_t n) { FL(activate_row)(id, (real *)z, n); }

FL_STATIC void FL(activate_grad_)(int id, const void *x, const void *y, void *dy_dx, ptrdiff_t n) {
  for (ptrdiff_t k = 0; k < n; k += FL_W) {
    const ptrdiff_t m = n - k < FL_W ? n - k : FL_W;
    v_store_n((real *)dy_dx + k, FL(activate_grad_vec)(id, v_load_n((const real *)x + k, m), v_load_n((const real *)y + k, m)),
              m);
  }
}

FL_STATIC void FL(round_storage_)(int rounding, void *x, ptrdiff_t n) {
  for (ptrdiff_t k = 0; k < n; k += FL_W) {
    const ptrdiff_t m = n - k < FL_W ? n - k : FL_W;
    v_store_n((real *)x + k, FL(round_storage)(rounding, v_load_n((const real *)x + k, m)), m);
  }
}

/* What this processor can do at best: the yardstick of the benchmarks. */
FL_STATIC void FL(spin_fma)(ptrdiff_t rounds, void *lanes) {
  vec a[12];
  const vec x = v_set(FL_PICK(0.999, 0.999)), y = v_set(FL_PICK(0.001, 0.001));
  FL_UNROLL
  for (int k = 0; k < 12; k++) a[k] = v_load((real *)lanes + k * FL_W);
  for (ptrdiff_t r = 0; r < rounds; r++) {
    FL_UNROLL
    for (int k = 0; k < 12; k++) a[k] = v_fma(a[k], x, y);
  }
  FL_UNROLL
  for (int k = 0; k < 12; k++) v_store((real *)lanes + k * FL_W, a[k]);
}

#define FL_WORD_(isa) #isa
#define FL_WORD(isa) FL_WORD_(isa)
extern const fl_kernels FL(kernels);
const fl_kernels FL(kernels) = {
    .isa = FL_WORD(FL_ISA),
    .bits = FL_BITS,
    .lanes = FL_W,
    .panel_size = FL(panel_size),
    .pack = FL(pack),
    .project = FL(project),
    .step = FL(step),
    .stream = FL(stream),
    .cell_rows = FL(cell_rows),
    .step_back = FL(step_back),
    .outer = FL(outer),
    .step_gated = FL(step_gated),
    .outer_gated = FL(outer_gated),
    .scale = FL(scale),
    .sum_panel = FL(sum_panel),
    .add = FL(add),
    .pack_lanes = FL(pack_lanes),
    .to_lanes = FL(to_lanes),
    .mask_bytes = FL(mask_bytes),
    .from_lanes = FL(from_lanes),
    .step_lanes = FL(step_lanes),
    .activate_row = FL(activate_row_),
    .activate_grad = FL(activate_grad_),
    .round_storage = FL(round_storage_),
    .spin_fma = FL(spin_fma),
};
