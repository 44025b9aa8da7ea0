# gather.pxi: the rows of h and x that a block of the backward pass multiplies with its dz, copied to where the weight gradients
# read them. An LSTM without masks and dropout reads its tape instead.


cdef void gather_block(const Backward *b, const BackRoom *room, Py_ssize_t first, Py_ssize_t steps) noexcept nogil:
    """h_rows and x_rows of the steps from ``first`` on; x of masked samples counts as zeros, NaN included."""
    cdef const Sequence *s = b.s
    cdef Py_ssize_t k, n, at
    for k in range(steps):
        for n in range(room.first, room.end):
            at = (k * s.N + n) * b.Q + b.L
            if not reads_tape(b):
                gather_states(b, room, n, first + k, at + (s.K - 1) // 2)
            if not s.x_by_steps:
                gather_inputs(b, room, n, first + k, at)


cdef void gather_states(const Backward *b, const BackRoom *room, Py_ssize_t n, Py_ssize_t step, Py_ssize_t at) noexcept nogil:
    """The S rows of h before one step of one sample, into h_rows from row ``at`` on."""
    cdef const Sequence *s = b.s
    cdef Py_ssize_t k, size = real_size(s), slab = s.S * s.F
    cdef const char *h = s.tape_h + (step * s.N + n) * slab * size
    if not is_valid(s, n, step):  # dz is 0 there, but 0 times a NaN would not be
        for k in range(copies(s.h_scales)):
            memset(room.h_rows + (k * b.height + at) * s.F * size, 0, slab * size)
        return
    if s.h_scales == NULL:
        memcpy(room.h_rows + at * s.F * size, h, slab * size)
        return
    for k in range(4):
        s.kernels.scale(room.h_rows + (k * b.height + at) * s.F * size, h, s.h_scales + (k * s.N + n) * slab * size, slab, 0)


cdef void gather_inputs(const Backward *b, const BackRoom *room, Py_ssize_t n, Py_ssize_t step, Py_ssize_t at) noexcept nogil:
    """The R rows of x at one step of one sample, into x_rows by phase, from row ``at`` on."""
    cdef const Sequence *s = b.s
    cdef Py_ssize_t k, j, size = real_size(s), row = s.C * size, copy = s.stride * b.height * row
    cdef const char *x = s.x + (n * s.T + time_of(s, step)) * s.R * row
    cdef char *to
    for j in range(s.R):
        to = room.x_rows + ((j + s.pad_left) % s.stride * b.height + at + (j + s.pad_left) // s.stride) * row
        for k in range(copies(s.x_scales)):
            if not is_valid(s, n, step):
                memset(to + k * copy, 0, row)
            elif s.x_scales == NULL:
                memcpy(to, x + j * row, row)
            else:
                s.kernels.scale(to + k * copy, x + j * row, s.x_scales + ((k * s.N + n) * s.R + j) * row, s.C, 0)
