# lanes.pxi: the time loop with rows in the lanes, for few units and several samples (include/fastlstm/row_lanes.h).
#
# x, h and c are transposed; masks become a lane each. Same arguments, results and bits as sequence.pxi's FUSED path.


cdef struct LaneRoom:
    # The workspace of LANES: everything transposed, [width,R].
    char *x
    char *h[2]
    char *c
    char *output
    char *mask      # of as many steps as a real has bytes, an integer a row


cdef inline Py_ssize_t padded_batch(const Sequence *s) noexcept nogil:
    """R: the batch rounded up to whole vectors."""
    cdef Py_ssize_t W = s.kernels.lanes
    return (s.N + W - 1) // W * W


cdef Py_ssize_t cut_lanes(const Sequence *s, char *base, LaneRoom *room) noexcept nogil:
    """As ``cut``, for LANES."""
    cdef Py_ssize_t at = 0, k, row = padded_batch(s) * real_size(s)
    room.x = part(base, &at, s.C * row)
    for k in range(2):
        room.h[k] = part(base, &at, s.F * row)
    room.c = part(base, &at, s.F * row)
    room.output = part(base, &at, s.F * row)
    room.mask = part(base, &at, row)
    return at


cdef void run_lanes(const Sequence *s) noexcept nogil:
    """All T steps of the path LANES; see run()."""
    cdef LaneRoom room
    cdef Py_ssize_t step, time, block = -1, size = real_size(s), R = padded_batch(s)
    cdef int now = 0                    # which of the two buffers holds h
    cdef bint some = True, whole        # is any row valid in this step, is every one?
    cdef int64_t anybody = 0, everybody = 0
    cdef fl_lanes st
    cut_lanes(s, s.workspace, &room)
    if s.h0 == NULL:
        memset(room.h[0], 0, s.F * R * size)
    else:
        s.kernels.to_lanes(s.h0, s.F, s.N, s.F, R, room.h[0])
    if s.c0 == NULL:
        memset(room.c, 0, s.F * R * size)
    else:
        s.kernels.to_lanes(s.c0, s.F, s.N, s.F, R, room.c)
    memset(&st, 0, sizeof(st))
    st.features, st.units, st.padded_rows = s.C, s.F, R
    st.weights, st.bias, st.x, st.c = s.lane_weights, s.lane_bias, room.x, room.c
    st.activation, st.recurrent_activation, st.rounding = s.activation, s.recurrent_activation, s.rounding
    st.zero_output = s.zero_output_for_mask
    if s.mask != NULL and s.return_sequences:
        memset(room.output, 0, s.F * R * size)
        st.output = room.output
    for step in range(s.T):
        time = time_of(s, step)
        if s.mask != NULL:
            if block != time // size:
                block = time // size
                s.kernels.mask_bytes(s.mask, s.T, block * size, s.N, R, room.mask, &anybody, &everybody)
            st.mask_step = time - block * size
            some = (anybody >> 8 * st.mask_step & 255) != 0
            whole = everybody >> 8 * st.mask_step & 1
            st.mask_bytes = NULL if whole and st.output == NULL else room.mask
        if some:
            s.kernels.to_lanes(s.x + time * s.C * size, s.T * s.C, s.N, s.C, R, room.x)
            st.h, st.h_out = room.h[now], room.h[1 - now]
            now = 1 - now
            s.kernels.step_lanes(&st)
        elif s.return_sequences and s.zero_output_for_mask:
            memset(room.output, 0, s.F * R * size)
        if s.return_sequences:
            s.kernels.from_lanes(st.h_out if st.output == NULL else st.output, R, s.N, s.F, s.y + step * s.F * size, s.T * s.F)
    s.kernels.from_lanes(room.h[now], R, s.N, s.F, s.h, s.F)
    s.kernels.from_lanes(room.c, R, s.N, s.F, s.c, s.F)
    if not s.return_sequences:
        last_outputs(s)
