/* cell.h: the LSTM cell. The equations stand here and in backends/reference.py, nowhere else.
 *
 *   i = rec(z_i)   f = rec(z_f)   g = act(z_c)   o = rec(z_o)
 *   c' = f*c + i*g                h' = o*act(c')
 *
 * Written with real/vec, v_fma, v_tanh, v_sigmoid and FL(activate_vec) alone, so that one text serves every instruction set, both dtypes
 * and one-lane compilers. Includes nothing. Called by gate_panel.h (pre-activations in registers) and by its general path (in rows).
 */

/* FL_CELL_TANH_SIGMOID: both activations inlined. FL_CELL_ANY: one switch per activation. */
#ifndef FL_CELL_ANY
#define FL_CELL_ANY 0
#define FL_CELL_TANH_SIGMOID 1
#endif

/* New c and h of W units in one row. z: pre-activations of the gates i, f, c, o. */
FL_INLINE void FL(cell)(int kind, int activation, int recurrent_activation, int rounding, const vec z[4], vec *c, vec *h) {
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
  *c = new_c;
  *h = o * squashed;
  if (rounding != FL_ROUND_NONE) *h = FL(round_storage)(rounding, *h);
}
