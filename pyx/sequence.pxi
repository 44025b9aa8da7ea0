# sequence.pxi: THE time loop, for every kernel, dtype and instruction set. Runs without the GIL, allocates nothing.
#
# A Sequence holds plain pointers (byte addresses; strides and offsets count reals), so that one loop serves float and double. Its
# four paths differ only in how a step's pre-activations are made:
#   FUSED     x window and h window through one tile, cell in registers (fl_kernels.step)
#   HOISTED   x projected for a block of steps at once (fl_kernels.project), then as FUSED with h alone
#   PACKED    pre-activations into z by fl_kernels.project, then fl_kernels.cell_rows: takes every activation
#   BLAS      the same, with BLAS for both products
# and LANES (lanes.pxi), where the rows are transposed, has a loop of its own.
# Letters: N batch, T time, D input features, U units.

cdef enum Path:
    FUSED = 0
    HOISTED = 1
    PACKED = 2
    BLAS = 3
    LANES = 4


cdef struct Sequence:
    const fl_kernels *kernels
    Path path
    int activation, recurrent_activation, rounding
    bint go_backwards, return_sequences, zero_output_for_mask
    Py_ssize_t N, T, D, U
    Py_ssize_t block                    # time steps whose x is projected at once (HOISTED, BLAS), else 1
    const char *x                       # [N,T,D]
    const uint8_t *mask                 # [N,T] or NULL
    const char *h0                      # [N,U], or NULL for zeros
    const char *c0                      # [N,U], or NULL for zeros
    char *y                             # [N,T,U] with return_sequences, else [N,U]
    char *h                             # [N,U] final state
    char *c                             # [N,U] final state
    const void *x_panel                 # packed kernel, recurrent_kernel and bias: all paths but BLAS
    const void *h_panel
    const void *bias_panel
    const char *lane_weights            # LANES
    const char *lane_bias
    const char *kernel                  # plain [D,4U], [U,4U], [4U] (or NULL): BLAS
    const char *recurrent_kernel
    const char *bias
    char *workspace                     # workspace_size() bytes, 64-byte aligned


cdef struct Room:
    # The workspace, cut into its parts.
    char *h_other                       # [N,U] the other of the two h buffers
    char *z                             # [block,N,z_row]
    ptrdiff_t *rows                     # [N] row numbers to compute in this step
    ptrdiff_t *all_rows                 # [block*N] 0, 1, 2 …
    ptrdiff_t *state_offset             # [N]
    ptrdiff_t *x_offset                 # [N]
    ptrdiff_t *y_offset                 # [N]
    ptrdiff_t *z_offset                 # [block*N]
    ptrdiff_t *projected_offset         # [block*N] x rows of the block being projected


cdef inline Py_ssize_t padded(Py_ssize_t size) noexcept nogil:
    return (size + 63) // 64 * 64


cdef Py_ssize_t z_row(const Sequence *s) noexcept nogil:
    """Reals of one row of pre-activations: padded to whole blocks where the fused step reads it."""
    cdef Py_ssize_t W = s.kernels.lanes
    return (s.U + W - 1) // W * W * 4 if s.path == HOISTED else 4 * s.U


cdef Py_ssize_t cut(const Sequence *s, char *base, Room *room) noexcept nogil:
    """Lays the parts of the workspace from ``base`` on; returns the bytes they take. Call with NULL to ask for the size."""
    cdef Py_ssize_t size = s.kernels.bits // 8, at = 0, word = sizeof(ptrdiff_t)
    cdef Py_ssize_t z_rows = 0 if s.path == FUSED else s.block * s.N
    room.h_other = base + at
    at += padded(s.N * s.U * size)
    room.z = base + at
    at += padded(z_rows * z_row(s) * size)
    room.rows = <ptrdiff_t *> (base + at)
    at += padded(s.N * word)
    room.all_rows = <ptrdiff_t *> (base + at)
    at += padded(s.block * s.N * word)
    room.state_offset = <ptrdiff_t *> (base + at)
    at += padded(s.N * word)
    room.x_offset = <ptrdiff_t *> (base + at)
    at += padded(s.N * word)
    room.y_offset = <ptrdiff_t *> (base + at)
    at += padded(s.N * word)
    room.z_offset = <ptrdiff_t *> (base + at)
    at += padded(z_rows * word)
    room.projected_offset = <ptrdiff_t *> (base + at)
    at += padded(z_rows * word)
    return at


cdef struct LaneRoom:
    # The workspace of LANES: everything transposed, [width,R].
    char *x
    char *h[2]
    char *c
    char *output
    char *mask


cdef Py_ssize_t cut_lanes(const Sequence *s, char *base, LaneRoom *room) noexcept nogil:
    """As ``cut``, for LANES."""
    cdef Py_ssize_t size = s.kernels.bits // 8, W = s.kernels.lanes, R = (s.N + W - 1) // W * W
    cdef Py_ssize_t state = padded(s.U * R * size), x = padded(s.D * R * size)
    room.x = base
    room.h[0] = base + x
    room.h[1] = room.h[0] + state
    room.c = room.h[1] + state
    room.output = room.c + state
    room.mask = room.output + state
    return x + 4 * state + padded(R * size)


cdef Py_ssize_t workspace_size(const Sequence *s) noexcept nogil:
    """Bytes that run() needs in s.workspace."""
    cdef Room room
    cdef LaneRoom lane_room
    return cut_lanes(s, NULL, &lane_room) if s.path == LANES else cut(s, NULL, &room)


cdef inline Py_ssize_t time_of(const Sequence *s, Py_ssize_t step) noexcept nogil:
    return s.T - 1 - step if s.go_backwards else step


cdef void project_block(const Sequence *s, const Room *room, Py_ssize_t first, Py_ssize_t steps) noexcept nogil:
    """z [steps,N,z_row] = bias + x @ kernel for the steps from ``first`` on (processing order)."""
    cdef Py_ssize_t n, k, row, size = s.kernels.bits // 8, width = z_row(s)
    cdef fl_project p
    for k in range(steps):
        for n in range(s.N):
            room.projected_offset[k * s.N + n] = (n * s.T + time_of(s, first + k)) * s.D
    if s.path == HOISTED:
        memset(&p, 0, sizeof(p))
        p.layout.columns, p.layout.gates = s.U, 1
        p.count, p.rows = steps * s.N, room.all_rows
        p.x.panel, p.x.base, p.x.offset = s.x_panel, s.x, room.projected_offset
        p.x.runs, p.x.length, p.x.step = 1, s.D, 0
        p.init, p.z, p.z_offset, p.padded = s.bias_panel, room.z, room.z_offset, 1
        s.kernels.project(&p)
        return
    for row in range(steps * s.N):
        if s.bias != NULL:
            memcpy(room.z + row * width * size, s.bias, width * size)
        else:
            memset(room.z + row * width * size, 0, width * size)
    if steps > s.N:  # one product a sample over all steps; backwards, z's rows run against x's: a product a row
        for n in range(s.N):
            if s.go_backwards:
                for k in range(steps):
                    gemm(s.kernels.bits, 1, 4 * s.U, s.D, s.x + room.projected_offset[k * s.N + n] * size, s.D, s.kernel, 4 * s.U,
                         room.z + (k * s.N + n) * width * size, width)
            else:
                gemm(s.kernels.bits, steps, 4 * s.U, s.D, s.x + room.projected_offset[n] * size, s.D, s.kernel, 4 * s.U,
                     room.z + n * width * size, s.N * width)
    else:
        for k in range(steps):
            gemm(s.kernels.bits, s.N, 4 * s.U, s.D, s.x + room.projected_offset[k * s.N] * size, s.T * s.D, s.kernel, 4 * s.U,
                 room.z + k * s.N * width * size, width)


cdef Py_ssize_t masked_rows(const Sequence *s, const Room *room, Py_ssize_t step, const char *h_from,
                            char *h_to) noexcept nogil:
    """Lists the rows that step ``step`` computes; the others keep h (copied over) and c."""
    cdef Py_ssize_t n, count = 0, row = s.U * (s.kernels.bits // 8)
    for n in range(s.N):
        if s.mask[n * s.T + time_of(s, step)]:
            room.rows[count] = n
            count += 1
        else:
            memcpy(h_to + n * row, h_from + n * row, row)
    return count


cdef void masked_outputs(const Sequence *s, Py_ssize_t step) noexcept nogil:
    """Outputs of the rows that are masked at ``step``: the previous one (zeros before the first), or zeros."""
    cdef Py_ssize_t n, row = s.U * (s.kernels.bits // 8)
    cdef char *y
    for n in range(s.N):
        if s.mask[n * s.T + time_of(s, step)]:
            continue
        y = s.y + (n * s.T + step) * row
        if step == 0 or s.zero_output_for_mask:
            memset(y, 0, row)
        else:
            memcpy(y, y - row, row)


cdef void last_outputs(const Sequence *s) noexcept nogil:
    """y [N,U] without return_sequences: h where the row had a valid step (with zero_output_for_mask: at its last step), else 0."""
    cdef Py_ssize_t n, t, row = s.U * (s.kernels.bits // 8)
    cdef bint valid
    for n in range(s.N):
        valid = s.mask == NULL
        if not valid and s.zero_output_for_mask:
            valid = s.mask[n * s.T + time_of(s, s.T - 1)]
        elif not valid:
            for t in range(s.T):
                if s.mask[n * s.T + t]:
                    valid = True
                    break
        if valid:
            memcpy(s.y + n * row, s.h + n * row, row)
        else:
            memset(s.y + n * row, 0, row)


cdef inline void copy_or_zero(char *to, const char *start, Py_ssize_t size) noexcept nogil:
    if start == NULL:
        memset(to, 0, size)
    else:
        memcpy(to, start, size)


cdef void run(const Sequence *s) noexcept nogil:
    """All T steps. Reads x, mask, h0, c0 and the weights; writes y, h, c. T >= 1; N = 0 does nothing."""
    cdef Room room
    cdef Py_ssize_t n, step, k, size = s.kernels.bits // 8, state = s.N * s.U * size, width = z_row(s)
    cdef char *h[2]
    cdef fl_step st
    cdef fl_project p
    cut(s, s.workspace, &room)
    for n in range(s.N):
        room.state_offset[n], room.x_offset[n], room.y_offset[n] = n * s.U, n * s.T * s.D, n * s.T * s.U
    for k in range(s.block * s.N):
        room.all_rows[k] = k
        if s.path != FUSED:
            room.z_offset[k] = k * width
    # The last step must write s.h: step t writes h[(T - 1 - t) % 2] and reads the other.
    h[0], h[1] = s.h, room.h_other
    copy_or_zero(h[s.T & 1], s.h0, state)
    copy_or_zero(s.c, s.c0, state)

    memset(&st, 0, sizeof(st))
    st.units, st.state_offset, st.c = s.U, room.state_offset, s.c
    st.activation, st.recurrent_activation, st.rounding = s.activation, s.recurrent_activation, s.rounding
    st.h.panel, st.h.offset, st.h.runs, st.h.length = s.h_panel, room.state_offset, 1, s.U
    st.y_offset = room.y_offset
    if s.path == FUSED or s.path == PACKED:
        st.x.panel, st.x.offset, st.x.runs, st.x.length = s.x_panel, room.x_offset, 1, s.D
    if s.path == FUSED:
        st.init = <void *> s.bias_panel

    for step in range(s.T):
        k = step % s.block
        if k == 0 and (s.path == HOISTED or s.path == BLAS):
            project_block(s, &room, step, min(s.block, s.T - step))
        st.h.base, st.h_out = h[(s.T - step) & 1], h[(s.T - 1 - step) & 1]
        st.descending = step & 1  # what the last step touched last is still in the cache: begin there
        st.rows, st.count = room.all_rows, s.N
        if s.mask != NULL:
            st.count = masked_rows(s, &room, step, <const char *> st.h.base, <char *> st.h_out)
            st.rows = room.rows
            if s.return_sequences:
                masked_outputs(s, step)
        if st.count == 0:
            continue
        st.x.base = s.x + time_of(s, step) * s.D * size
        st.y = s.y + step * s.U * size if s.return_sequences else NULL
        if s.path == FUSED:
            s.kernels.step(&st)
            continue
        st.init, st.init_offset = room.z + k * s.N * width * size, room.z_offset
        if s.path == HOISTED:
            s.kernels.step(&st)
            continue
        if s.path == BLAS:
            gemm(s.kernels.bits, s.N, 4 * s.U, s.U, <const char *> st.h.base, s.U, s.recurrent_kernel, 4 * s.U,
                 <char *> st.init, width)
        else:
            memset(&p, 0, sizeof(p))
            p.layout.columns, p.layout.gates = s.U, 1
            p.count, p.rows, p.x, p.h = st.count, st.rows, st.x, st.h
            p.init, p.z, p.z_offset = s.bias_panel, st.init, room.z_offset
            s.kernels.project(&p)
        s.kernels.cell_rows(&st)
    if not s.return_sequences:
        last_outputs(s)
