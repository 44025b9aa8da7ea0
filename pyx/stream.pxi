# stream.pxi: the time loop of a single row, a stream (include/fastlstm/single_row.h): one call of the kernel for each stretch of
# steps without a masked one. Same arguments, results and bits as sequence.pxi's FUSED path.
#
# h is written where it will be wanted: into the outputs with return_sequences, into the tape in training, else into two
# buffers in turn; the next step reads it there.


cdef struct StreamRoom:
    # The workspace of STREAM.
    char *h[2]                          # [F] the first state, and the buffers in turn
    char *z                             # [block,z_row]
    char *last_h                        # where the last step left its states, for end_stream()
    char *last_c


cdef Py_ssize_t cut_stream(const Sequence *s, char *base, StreamRoom *room) noexcept nogil:
    """As ``cut``, for STREAM."""
    cdef Py_ssize_t at = 0, k
    for k in range(2):
        room.h[k] = part(base, &at, s.F * real_size(s))
    room.z = part(base, &at, s.block * z_row(s) * real_size(s))
    return at


cdef inline bint is_masked(const Sequence *s, Py_ssize_t step) noexcept nogil:
    return s.mask != NULL and not s.mask[time_of(s, step)]


cdef void begin_stream(const Sequence *s, StreamRoom *room) noexcept nogil:
    """Cuts the workspace and puts the first states where the first step reads them."""
    cdef Py_ssize_t row = s.F * real_size(s)
    cut_stream(s, s.workspace, room)
    room.last_h = room.h[0] if s.tape_h == NULL else s.tape_h
    room.last_c = s.c if s.tape_c == NULL else s.tape_c
    copy_state(s.h0, room.last_h, row)
    copy_state(s.c0, room.last_c, row)


cdef void masked_stream_step(const Sequence *s, Py_ssize_t step, char *h, char *c) noexcept nogil:
    """Outputs and tape of a masked step; h and c: the states before it."""
    cdef Py_ssize_t row = s.F * real_size(s)
    if s.return_sequences:
        masked_outputs(s, step)
    if s.tape_h != NULL:
        memcpy(h + row, h, row)
        memcpy(c + row, c, row)


cdef void stream_steps(const Sequence *s, StreamRoom *room, Py_ssize_t first_block, Py_ssize_t blocks,
                       void (*meet)(void *) noexcept nogil) noexcept nogil:
    """All T steps, of the ``blocks`` blocks of units from ``first_block`` on; ``meet``: see fl_stream, or NULL."""
    cdef Py_ssize_t step = 0, steps, row = s.F * real_size(s)
    cdef char *h = room.last_h
    cdef char *c = room.last_c
    cdef bint from_zeros = s.starts_from_zeros
    cdef fl_stream st
    memset(&st, 0, sizeof(st))
    st.units, st.features, st.z, st.z_rows = s.F, s.C, room.z, s.block
    st.x_panel, st.h_panel, st.bias_panel, st.padded = s.x_panel, s.h_panel, s.bias_panel, s.padded
    st.activation, st.recurrent_activation, st.rounding = s.activation, s.recurrent_activation, s.rounding
    st.x_step = -s.C if s.go_backwards else s.C
    st.first_block, st.blocks, st.meet = first_block, blocks, meet
    while step < s.T:
        if is_masked(s, step):
            if first_block == 0:
                masked_stream_step(s, step, h, c)
            if meet != NULL:
                meet(NULL)
            if s.tape_h != NULL:
                h, c = h + row, c + row
            step += 1
            continue
        steps, st.h_panel = 1, NULL if from_zeros else s.h_panel
        while not from_zeros and step + steps < s.T and not is_masked(s, step + steps):
            steps += 1
        from_zeros = False
        st.first, st.steps = step, steps
        st.x, st.h, st.c = s.x + time_of(s, step) * s.C * real_size(s), h, c
        if s.tape_h != NULL:
            st.h_out, st.c_out, st.h_step, st.c_step = h + row, c + row, s.F, s.F
            st.gates = s.tape_gates + step * 4 * row
            if s.return_sequences:
                st.y, st.y_step = s.y + step * row, s.F
            h, c = h + steps * row, c + steps * row
        elif s.return_sequences:
            st.h_out, st.h_step, st.c_out = s.y + step * row, s.F, c
            h = s.y + (step + steps - 1) * row
        else:
            st.h_out, st.c_out = room.h[0] if h == room.h[1] else room.h[1], c
            if steps & 1:
                h = <char *> st.h_out
        s.kernels.stream(&st)
        step += steps
    if first_block == 0:
        room.last_h, room.last_c = h, c


cdef void end_stream(const Sequence *s, const StreamRoom *room) noexcept nogil:
    """Final states, and the output without return_sequences."""
    cdef Py_ssize_t row = s.F * real_size(s)
    memcpy(s.h, room.last_h, row)
    if room.last_c != s.c:
        memcpy(s.c, room.last_c, row)
    if not s.return_sequences:
        last_outputs(s)


cdef void run_stream(const Sequence *s) noexcept nogil:
    """All T steps of the path STREAM (N = 1, an LSTM); see run()."""
    cdef StreamRoom room
    begin_stream(s, &room)
    stream_steps(s, &room, 0, unit_blocks(s), NULL)
    end_stream(s, &room)


cdef Py_ssize_t workspace_size(const Sequence *s) noexcept nogil:
    """Bytes that run(), run_lanes() or run_stream() needs in s.workspace."""
    cdef Room room
    cdef LaneRoom lane_room
    cdef StreamRoom stream_room
    if s.path == LANES:
        return cut_lanes(s, NULL, &lane_room)
    if s.path == STREAM:
        return cut_stream(s, NULL, &stream_room)
    return cut(s, NULL, &room)
