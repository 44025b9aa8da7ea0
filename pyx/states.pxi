# states.pxi: what happens to h, c and the outputs between the steps of sequence.pxi: the halo around h, masked samples, outputs,
# tape.
#
# Masks (keras-spec 6): a masked sample carries h and c; its output is a separate thing, the one before, or zeros.


cdef void states_into_halo(const Sequence *s, const char *start, char *h) noexcept nogil:
    """h [N,S+K-1,F] = start [N,S,F] (NULL: zeros) with zeros around each sample."""
    cdef Py_ssize_t n, size = real_size(s), row = s.F * size, halo = (s.S + s.K - 1) * row, left = (s.K - 1) // 2 * row
    if start == NULL or s.K > 1:
        memset(h, 0, s.N * halo)
    if start != NULL:
        for n in range(s.N):
            memcpy(h + n * halo + left, start + n * s.S * row, s.S * row)


cdef void states_from_halo(const Sequence *s, const char *h, char *out) noexcept nogil:
    """out [N,S,F] from h [N,S+K-1,F]."""
    cdef Py_ssize_t n, size = real_size(s), row = s.F * size, halo = (s.S + s.K - 1) * row, left = (s.K - 1) // 2 * row
    for n in range(s.N):
        memcpy(out + n * s.S * row, h + n * halo + left, s.S * row)


cdef const char *scaled_states(const Sequence *s, const Room *room, const char *h) noexcept nogil:
    """h [N,S+K-1,F] times the four masks: [4,N,S+K-1,F]."""
    cdef Py_ssize_t n, g, size = real_size(s), row = s.F * size, halo = (s.S + s.K - 1) * row, left = (s.K - 1) // 2 * row
    for g in range(4):
        for n in range(s.N):
            s.kernels.scale(room.scaled_h + (g * s.N + n) * halo + left, h + n * halo + left,
                            s.h_scales + (g * s.batch + n) * s.S * row, s.S * s.F, 0)
    return room.scaled_h


cdef Py_ssize_t valid_rows(const Sequence *s, const Room *room, Py_ssize_t step) noexcept nogil:
    """Lists in room.rows the rows that step ``step`` computes; returns how many they are."""
    cdef Py_ssize_t n, m, count = 0
    for n in range(s.N):
        if s.mask[n * s.T + time_of(s, step)]:
            for m in range(s.S):
                room.rows[count] = s.first_row + n * s.S + m
                count += 1
    return count


cdef void masked_samples(const Sequence *s, Py_ssize_t step, const char *h_from, char *h_to) noexcept nogil:
    """The samples that are masked at ``step`` keep h (copied over) and c; their outputs."""
    cdef Py_ssize_t n, halo = (s.S + s.K - 1) * s.F * real_size(s)
    for n in range(s.N):
        if not s.mask[n * s.T + time_of(s, step)]:
            memcpy(h_to + n * halo, h_from + n * halo, halo)
    if s.return_sequences:
        masked_outputs(s, step)


cdef void masked_outputs(const Sequence *s, Py_ssize_t step) noexcept nogil:
    """Outputs of the samples that are masked at ``step``: the previous one (zeros before the first), or zeros."""
    cdef Py_ssize_t n, row = s.S * s.F * real_size(s)
    cdef char *y
    for n in range(s.N):
        if s.mask[n * s.T + time_of(s, step)]:
            continue
        y = s.y + (n * s.T + step) * row
        if step == 0 or s.zero_output_for_mask:
            memset(y, 0, row)
        else:
            memcpy(y, y - row, row)


cdef void transposed_outputs(const Sequence *s, Py_ssize_t step, const char *h) noexcept nogil:
    """Channels first: y [N,T,F,S] of this step from h [N,S+K-1,F], for the samples that are not masked."""
    cdef Py_ssize_t n, size = real_size(s), slab = s.S * s.F
    for n in range(s.N):
        if s.mask == NULL or s.mask[n * s.T + time_of(s, step)]:
            s.kernels.to_lanes(h + (n * (s.S + s.K - 1) + (s.K - 1) // 2) * s.F * size, s.F, s.S, s.F, s.S,
                               s.y + (n * s.T + step) * slab * size)


cdef inline bint any_step(const unsigned char *mask, Py_ssize_t T) noexcept nogil:
    """True where one of the T steps of a sample is valid; eight at a time, so that ragged starts cost no mispredicted branch."""
    cdef uint64_t eight
    while T >= 8:
        memcpy(&eight, mask, 8)
        if eight:
            return True
        mask, T = mask + 8, T - 8
    while T > 0:
        if mask[T - 1]:
            return True
        T -= 1
    return False


cdef void last_outputs(const Sequence *s) noexcept nogil:
    """y without return_sequences: h where the sample had a valid step (with zero_output_for_mask: at its last step), else 0."""
    cdef Py_ssize_t n, slab = s.S * s.F * real_size(s)
    cdef bint valid
    if s.channels_first:
        for n in range(s.N):
            s.kernels.to_lanes(s.h + n * slab, s.F, s.S, s.F, s.S, s.y + n * slab)
    else:
        memcpy(s.y, s.h, s.N * slab)
    if s.mask == NULL:
        return
    for n in range(s.N):
        if s.zero_output_for_mask:
            valid = s.mask[n * s.T + time_of(s, s.T - 1)]
        else:
            valid = any_step(s.mask + n * s.T, s.T)
        if not valid:
            memset(s.y + n * slab, 0, slab)


cdef void tape_step(const Sequence *s, fl_step *st, Py_ssize_t step, bint carries) noexcept nogil:
    """Turns the pages of the tape: c is read from this step's and written to the next one's. carries: for masked samples too."""
    cdef Py_ssize_t n, slab = s.S * s.F * real_size(s)
    st.gates = s.tape_gates + step * s.batch * 4 * slab
    st.c, st.c_out = s.tape_c + step * s.batch * slab, s.tape_c + (step + 1) * s.batch * slab
    if s.mask != NULL and carries:
        for n in range(s.N):
            if not s.mask[n * s.T + time_of(s, step)]:
                memcpy(<char *> st.c_out + n * slab, <const char *> st.c + n * slab, slab)
