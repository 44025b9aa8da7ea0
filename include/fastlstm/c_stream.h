/* c_stream.h: the time loop of a single row, in stretches of steps without a masked one (stream() of single_row.h). Same
 * results and bits as run_rows() of c_sequence.h.
 *
 * h is written where it will be wanted: into the outputs with return_sequences, into the tape where there is one, else into two
 * buffers in turn; the next step reads it there.
 */

/* How a single row goes on: where its states stand. */
typedef struct {
  real *h, *c;
} FL(row_states);

/* Points a stretch of `steps` steps from `step` on to its places, and `at` to the states behind it. */
FL_STATIC void FL(place_stretch)(const FL(sequences) * s, fl_stream *st, FL(row_states) * at, ptrdiff_t step, ptrdiff_t steps) {
  const ptrdiff_t F = s->shape->F;
  st->first = step;
  st->steps = steps;
  st->x = s->x + FL(time_of)(s, step) * s->shape->C;
  st->h = at->h;
  st->c = at->c;
  if (s->tape_h) {
    st->h_out = at->h + F;
    st->c_out = at->c + F;
    st->h_step = st->c_step = F;
    st->gates = s->tape_gates + step * 4 * F;
    if (FL(returns_sequences)(s)) {
      st->y = s->y + step * F;
      st->y_step = F;
    }
    at->h += steps * F;
    at->c += steps * F;
    return;
  }
  st->c_out = at->c;
  if (FL(returns_sequences)(s)) {
    st->h_out = s->y + step * F;
    st->h_step = F;
    at->h = s->y + (step + steps - 1) * F;
  } else {
    st->h_out = at->h == s->halo[1] ? s->halo[0] : s->halo[1];
    if (steps & 1) at->h = (real *)st->h_out;
  }
}

/* All T steps of one row. */
FL_STATIC void FL(run_row)(FL(sequences) * s) {
  const ptrdiff_t F = s->shape->F;
  FL(row_states) at = {s->tape_h ? s->tape_h : s->halo[0], s->tape_c ? s->tape_c : s->c};
  fl_stream st;
  FL(copy_state)(s->h0, at.h, F);
  FL(copy_state)(s->c0, at.c, F);
  memset(&st, 0, sizeof st);
  st.units = F;
  st.features = s->shape->C;
  st.z = s->z;
  st.z_rows = s->block < 1 ? 1 : s->block;
  st.x_panel = s->x_panel;
  st.h_panel = s->h_panel;
  st.bias_panel = s->bias_panel;
  st.padded = s->padded;
  st.activation = s->shape->activation;
  st.recurrent_activation = s->shape->recurrent_activation;
  st.x_step = s->shape->go_backwards ? -s->shape->C : s->shape->C;
  st.blocks = fl_ceil(F, FL_W);
  for (ptrdiff_t step = 0; step < s->T;) {
    ptrdiff_t steps = 0;
    while (step + steps < s->T && FL(is_valid)(s, 0, step + steps)) steps++;
    if (steps > 0) {
      FL(place_stretch)(s, &st, &at, step, steps);
      FL(stream)(&st);
      step += steps;
      continue;
    }
    if (FL(returns_sequences)(s)) FL(masked_outputs)(s, step);
    if (s->tape_h) {
      FL(copy_state)(at.h, at.h + F, F);
      FL(copy_state)(at.c, at.c + F, F);
      at.h += F;
      at.c += F;
    }
    step++;
  }
  FL(copy_state)(at.h, s->h, F);
  FL(copy_state)(at.c, s->c, F);
}
