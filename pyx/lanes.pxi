# lanes.pxi: the time loop with rows in the lanes, for few units and several samples (include/fastlstm/row_lanes.h).
#
# x, h and c are transposed; masks become a lane each. Same arguments, results and bits as sequence.pxi's FUSED path.


cdef void run_lanes(const Sequence *s) noexcept nogil:
    """All T steps of the path LANES; see run()."""
    cdef LaneRoom room
    cdef Py_ssize_t step, time, size = s.kernels.bits // 8, W = s.kernels.lanes, R = (s.N + W - 1) // W * W
    cdef fl_lanes st
    cut_lanes(s, s.workspace, &room)
    if s.h0 == NULL:
        memset(room.h[0], 0, s.U * R * size)
    else:
        s.kernels.to_lanes(s.h0, s.U, s.N, s.U, R, room.h[0])
    if s.c0 == NULL:
        memset(room.c, 0, s.U * R * size)
    else:
        s.kernels.to_lanes(s.c0, s.U, s.N, s.U, R, room.c)
    memset(&st, 0, sizeof(st))
    st.features, st.units, st.padded_rows = s.D, s.U, R
    st.weights, st.bias, st.x, st.c = s.lane_weights, s.lane_bias, room.x, room.c
    st.activation, st.recurrent_activation, st.rounding = s.activation, s.recurrent_activation, s.rounding
    st.zero_output = s.zero_output_for_mask
    if s.mask != NULL and s.return_sequences:
        memset(room.output, 0, s.U * R * size)
        st.output = room.output
    for step in range(s.T):
        time = time_of(s, step)
        s.kernels.to_lanes(s.x + time * s.D * size, s.T * s.D, s.N, s.D, R, room.x)
        if s.mask != NULL:
            s.kernels.mask_lanes(s.mask + time, s.T, s.N, R, room.mask)
            st.mask = room.mask
        st.h, st.h_out = room.h[step & 1], room.h[(step + 1) & 1]
        s.kernels.step_lanes(&st)
        if s.return_sequences:
            s.kernels.from_lanes(st.h_out if st.output == NULL else st.output, R, s.N, s.U, s.y + step * s.U * size, s.T * s.U)
    s.kernels.from_lanes(room.h[s.T & 1], R, s.N, s.U, s.h, s.U)
    s.kernels.from_lanes(room.c, R, s.N, s.U, s.c, s.U)
    if not s.return_sequences:
        last_outputs(s)
