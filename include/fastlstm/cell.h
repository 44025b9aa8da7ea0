/* cell.h: the LSTM cell. The equations stand here and in backends/reference.py, nowhere else.
 *
 *   i = rec(z_i)   f = rec(z_f)   g = act(z_c)   o = rec(z_o)
 *   c' = f*c + i*g                h' = o*act(c')
 *
 * Written with real/vec, v_fma, v_tanh, v_sigmoid and FL(activate_vec) alone, so that one text serves every instruction set, both dtypes
 * and one-lane compilers. Includes nothing. Called by gate_panel.h, single_row.h (pre-activations in registers) and gate_project.h (in rows).
 */

/* FL_CELL_TANH_SIGMOID: both activations inlined. FL_CELL_ANY: one switch per activation. */
#ifndef FL_CELL_ANY
#define FL_CELL_ANY 0
#define FL_CELL_TANH_SIGMOID 1
#endif

/* 1 where an activation's derivative is a function of its value, so that the tape need not keep the pre-activation. */
FL_INLINE int FL(keeps_gate)(int activation) {
  return activation == FL_ACT_TANH || activation == FL_ACT_SIGMOID || activation == FL_ACT_LINEAR || activation == FL_ACT_RELU ||
         activation == FL_ACT_RELU6 || activation == FL_ACT_EXPONENTIAL;
}

/* New c and h of W units in one row. z: pre-activations of the gates i, f, c, o in; out: what the tape keeps of each gate. */
FL_INLINE void FL(cell)(int kind, int activation, int recurrent_activation, int rounding, vec z[4], vec *c, vec *h) {
  vec i, f, g, o, squashed, new_c;
  if (kind == FL_CELL_TANH_SIGMOID) {
    i = v_sigmoid(z[0]);
    f = v_sigmoid(z[1]);
    g = v_tanh(z[2]);
    o = v_sigmoid(z[3]);
    new_c = v_fma(f, *c, i * g);
    if (rounding != FL_ROUND_NONE) new_c = FL(round_storage)(rounding, new_c);
    squashed = v_tanh(new_c);
  } else {
    i = FL(activate_vec)(recurrent_activation, z[0]);
    f = FL(activate_vec)(recurrent_activation, z[1]);
    g = FL(activate_vec)(activation, z[2]);
    o = FL(activate_vec)(recurrent_activation, z[3]);
    new_c = v_fma(f, *c, i * g);
    if (rounding != FL_ROUND_NONE) new_c = FL(round_storage)(rounding, new_c);
    squashed = FL(activate_vec)(activation, new_c);
  }
  if (FL(keeps_gate)(recurrent_activation)) {
    z[0] = i;
    z[1] = f;
    z[3] = o;
  }
  if (FL(keeps_gate)(activation)) z[2] = g;
  *c = new_c;
  *h = o * squashed;
  if (rounding != FL_ROUND_NONE) *h = FL(round_storage)(rounding, *h);
}

/* The cell backwards, of W units in one row.
 *
 *   da = dh * o,  dc = dc + da * act'(c),  do = dh * act(c),  di = dc*g,  df = dc*c_before,  dg = dc*i,  dc_before = dc*f
 *
 * tape: what FL(cell) left of the gates; dz: cotangents of the four pre-activations; dc: in behind, out before the step. */
FL_INLINE void FL(cell_back)(int kind, int activation, int recurrent_activation, const vec tape[4], vec c_before, vec c, vec dh,
                             vec *dc, vec dz[4]) {
  vec gate[4], slope[4], squashed, slope_c;
  if (kind == FL_CELL_TANH_SIGMOID) {
    for (int k = 0; k < 4; k++) {
      gate[k] = tape[k];
      slope[k] = k == 2 ? v_set(1) - gate[k] * gate[k] : gate[k] * (v_set(1) - gate[k]);
    }
    squashed = v_tanh(c);
    slope_c = v_set(1) - squashed * squashed;
  } else {
    for (int k = 0; k < 4; k++) {
      const int id = k == 2 ? activation : recurrent_activation;
      gate[k] = FL(keeps_gate)(id) ? tape[k] : FL(activate_vec)(id, tape[k]);
      slope[k] = FL(activate_grad_vec)(id, tape[k], gate[k]);
    }
    squashed = FL(activate_vec)(activation, c);
    slope_c = FL(activate_grad_vec)(activation, c, squashed);
  }
  const vec total = v_fma(dh * gate[3], slope_c, *dc);
  dz[0] = total * gate[2] * slope[0];
  dz[1] = total * c_before * slope[1];
  dz[2] = total * gate[0] * slope[2];
  dz[3] = dh * squashed * slope[3];
  *dc = total * gate[1];
}
