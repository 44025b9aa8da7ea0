# sequence.pxi: THE time loop, of LSTM and ConvLSTM1D, for every kernel, dtype and instruction set. Runs without the GIL,
# allocates nothing.
#
# An LSTM is a ConvLSTM1D with one row and kernel width 1. A Sequence holds plain pointers (byte addresses; strides and offsets
# count reals), so that one loop serves float and double. Its paths differ only in how a step's pre-activations are made:
#   FUSED     x window and h window through one tile, cell in registers (fl_kernels.step)
#   HOISTED   LSTM, few rows: x projected for a block of steps at once (fl_kernels.project), then as FUSED with h alone
#   PACKED    pre-activations into z by fl_kernels.project, then fl_kernels.cell_rows: takes every activation
#   BLAS      the same, with BLAS for both products (a product a tap for convolutions: no im2row)
# LANES (lanes.pxi), where the rows are transposed, and STREAM (stream.pxi), a single row, have loops of their own; LSTM only.
#
# Windows instead of im2col: in a channels-last buffer with its padding in place, the K*C values that feed output row m are one
# run from m*stride*C on (dilation > 1: K runs of C). So x is read in place, or copied a step at a time where it needs padding or
# comes channels first, and h lives in two buffers with a halo of K - 1 rows a sample, used in turn.
# Letters: N batch, T time, R rows in, S rows out, C channels in (LSTM: D), F filters (LSTM: U), K kernel width.

cdef enum Path:
    FUSED = 0
    HOISTED = 1
    PACKED = 2
    BLAS = 3
    LANES = 4
    STREAM = 5


cdef struct Sequence:
    const fl_kernels *kernels
    Path path
    int activation, recurrent_activation, rounding
    bint go_backwards, return_sequences, zero_output_for_mask, channels_first
    bint starts_from_zeros              # the first step's h is zeros, and its product may be left out (see ignores_zeros)
    Py_ssize_t N, T, R, S, C, F, K, stride, dilation
    Py_ssize_t pad_left, padded_rows    # rows of zeros before a sample's R, rows with all padding
    Py_ssize_t batch, first_row         # the whole batch's N, and of its rows the first one that is here (threads.pxi)
    Py_ssize_t block                    # time steps whose x is projected at once (HOISTED, STREAM, BLAS of an LSTM), else 1
    const char *x                       # [N,T,R,C], or [N,T,C,R] channels first
    bint x_by_steps                     # of a tape: x is [T,N,C] instead, in the order of processing
    const uint8_t *mask                 # [N,T] or NULL
    const char *h0                      # [N,S,F], or NULL for zeros
    const char *c0                      # [N,S,F], or NULL for zeros
    char *y                             # [N,T,S,F] with return_sequences, else [N,S,F]; [N,T,F,S] channels first
    char *h                             # [N,S,F] final state
    char *c                             # [N,S,F] final state
    const void *x_panel                 # packed kernel, recurrent_kernel and bias: all paths but BLAS
    const void *h_panel
    const void *bias_panel
    int padded                          # x_panel and h_panel are
    const char *lane_weights            # LANES
    const char *lane_bias
    const char *kernel                  # plain [K,C,4F], [K,F,4F], [4F] (or NULL): BLAS
    const char *recurrent_kernel
    const char *bias
    const char *x_scales                # four dropout masks [N,R,C] / [N,S,F] (gates i, f, c, o), or NULL; FUSED with a tape only
    const char *h_scales
    char *tape_gates                    # T pages of M*4F, [T+1,M,F], [T+1,M,F] for the backward pass, or NULL
    char *tape_c
    char *tape_h
    char *workspace                     # workspace_size() bytes, 64-byte aligned


cdef struct Room:
    # The workspace, cut into its parts. M = N*S rows are computed a step.
    char *h[2]                          # [N,S+K-1,F] each
    char *x                             # [N,padded_rows,C] a step's x where it cannot be read in place; one for each gate's mask
    char *scaled_h                      # [4,N,S+K-1,F] h times each gate's mask
    char *z                             # [block*M,z_row]
    ptrdiff_t *rows                     # [M] row numbers to compute in this step
    ptrdiff_t *all_rows                 # [block*M] the numbers of the rows: from first_row on
    # By row number, so that [first_row+M], of which the last M are in use:
    ptrdiff_t *c_offset
    ptrdiff_t *h_window                 # where a row's K*F values of h begin
    ptrdiff_t *h_offset                 # where its own F begin
    ptrdiff_t *x_offset
    ptrdiff_t *y_offset
    ptrdiff_t *z_offset                 # [first_row+block*M]
    ptrdiff_t *projected_offset         # [first_row+block*M] x rows of the block being projected


cdef inline Py_ssize_t padded(Py_ssize_t size) noexcept nogil:
    return (size + 63) // 64 * 64


cdef inline Py_ssize_t real_size(const Sequence *s) noexcept nogil:
    return s.kernels.bits // 8


cdef inline Py_ssize_t unit_blocks(const Sequence *s) noexcept nogil:
    """Vectors that a row's units fill."""
    return (s.F + s.kernels.lanes - 1) // s.kernels.lanes


cdef inline bint copies_x(const Sequence *s) noexcept nogil:
    """True where a step's x must be padded or transposed before the kernels can read windows of it."""
    return s.x_scales != NULL or s.padded_rows != s.R or (s.channels_first and s.R > 1 and s.C > 1)


cdef inline Py_ssize_t x_copies(const Sequence *s) noexcept nogil:
    """Copies of a step's x: none, one, or one for each gate."""
    return 4 if s.x_scales != NULL else 1 if copies_x(s) else 0


cdef Py_ssize_t z_row(const Sequence *s) noexcept nogil:
    """Reals of one row of pre-activations: padded to whole blocks where the fused step reads it."""
    cdef Py_ssize_t W = s.kernels.lanes
    return (s.F + W - 1) // W * W * 4 if s.path == HOISTED or s.path == STREAM else 4 * s.F


cdef inline char *part(char *base, Py_ssize_t *at, Py_ssize_t size) noexcept nogil:
    """The next ``size`` bytes of the workspace."""
    cdef Py_ssize_t start = at[0]
    at[0] += padded(size)
    return base + start


cdef Py_ssize_t cut(const Sequence *s, char *base, Room *room) noexcept nogil:
    """Lays the parts of the workspace from ``base`` on; returns the bytes they take. Call with NULL to ask for the size."""
    cdef Py_ssize_t size = real_size(s), at = 0, M = s.N * s.S, word = sizeof(ptrdiff_t), offsets = (s.first_row + M) * word
    cdef Py_ssize_t z_rows = 0 if s.path == FUSED else s.block * M, k
    for k in range(2):
        room.h[k] = part(base, &at, s.N * (s.S + s.K - 1) * s.F * size)
    room.x = part(base, &at, x_copies(s) * s.N * s.padded_rows * s.C * size)
    room.scaled_h = part(base, &at, 4 * s.N * (s.S + s.K - 1) * s.F * size if s.h_scales != NULL else 0)
    room.z = part(base, &at, z_rows * z_row(s) * size)
    room.rows = <ptrdiff_t *> part(base, &at, M * word)
    room.all_rows = <ptrdiff_t *> part(base, &at, s.block * M * word)
    room.c_offset = <ptrdiff_t *> part(base, &at, offsets)
    room.h_window = <ptrdiff_t *> part(base, &at, offsets)
    room.h_offset = <ptrdiff_t *> part(base, &at, offsets)
    room.x_offset = <ptrdiff_t *> part(base, &at, offsets)
    room.y_offset = <ptrdiff_t *> part(base, &at, offsets)
    room.z_offset = <ptrdiff_t *> part(base, &at, (s.first_row + z_rows) * word)
    room.projected_offset = <ptrdiff_t *> part(base, &at, (s.first_row + z_rows) * word)
    return at


cdef void lay_out(const Sequence *s, const Room *room) noexcept nogil:
    """Fills the offset tables: where each of the M rows finds its x, h, c, z and puts its output."""
    cdef Py_ssize_t n, m, k, row = s.first_row, width = z_row(s), halo_rows = s.S + s.K - 1
    cdef Py_ssize_t sample = s.padded_rows * s.C if copies_x(s) else s.T * s.R * s.C
    for n in range(s.N):
        for m in range(s.S):
            room.c_offset[row] = (n * s.S + m) * s.F
            room.h_window[row] = (n * halo_rows + m) * s.F
            room.h_offset[row] = (n * halo_rows + m + (s.K - 1) // 2) * s.F
            room.x_offset[row] = n * sample + m * s.stride * s.C
            room.y_offset[row] = (n * s.T * s.S + m) * s.F
            row += 1
    for k in range(s.block * s.N * s.S):
        room.all_rows[k] = s.first_row + k
        if s.path != FUSED:
            room.z_offset[s.first_row + k] = k * width


cdef inline Py_ssize_t time_of(const Sequence *s, Py_ssize_t step) noexcept nogil:
    return s.T - 1 - step if s.go_backwards else step


cdef const char *step_input(const Sequence *s, const Room *room, Py_ssize_t time) noexcept nogil:
    """Where the windows of step ``time`` begin: in the caller's x, or in a padded, channels-last copy of this step."""
    cdef Py_ssize_t n, gate, size = real_size(s), sample = s.R * s.C
    cdef const char *x = s.x + time * sample * size
    cdef char *to
    if not copies_x(s):
        return x
    if s.x_scales != NULL:
        for gate in range(4):
            for n in range(s.N):
                s.kernels.scale(room.x + ((gate * s.N + n) * s.padded_rows + s.pad_left) * s.C * size,
                                x + n * s.T * sample * size, s.x_scales + (gate * s.batch + n) * sample * size, sample, 0)
        return room.x
    for n in range(s.N):
        to = room.x + (n * s.padded_rows + s.pad_left) * s.C * size
        if s.channels_first:
            s.kernels.to_lanes(x + n * s.T * sample * size, s.R, s.C, s.R, s.C, to)
        else:
            memcpy(to, x + n * s.T * sample * size, sample * size)
    return room.x


cdef void project_block(const Sequence *s, const Room *room, Py_ssize_t first, Py_ssize_t steps) noexcept nogil:
    """LSTM: z [steps,N,z_row] = bias + x @ kernel for the steps from ``first`` on (processing order)."""
    cdef Py_ssize_t n, k, size = real_size(s), width = z_row(s)
    cdef fl_project p
    cdef ptrdiff_t *offset = room.projected_offset + s.first_row
    for k in range(steps):
        for n in range(s.N):
            offset[k * s.N + n] = (n * s.T + time_of(s, first + k)) * s.C
    if s.path == HOISTED:
        memset(&p, 0, sizeof(p))
        p.layout.columns, p.layout.gates = s.F, 1
        p.count, p.rows = steps * s.N, room.all_rows
        p.x.panel, p.x.base, p.x.offset = s.x_panel, s.x, room.projected_offset
        p.x.groups, p.x.runs, p.x.length, p.x.depth, p.x.padded = 1, 1, s.C, s.C, s.padded
        p.init, p.z, p.z_offset, p.padded = s.bias_panel, room.z, room.z_offset, 1
        s.kernels.project(&p)
        return
    fill_bias(s, room.z, steps * s.N)
    if steps > s.N and not s.go_backwards:  # one product a sample over all steps
        for n in range(s.N):
            gemm(s.kernels.bits, steps, 4 * s.F, s.C, s.x + offset[n] * size, s.C, s.kernel, 4 * s.F,
                 room.z + n * width * size, s.N * width)
    else:
        for k in range(steps):
            gemm(s.kernels.bits, s.N, 4 * s.F, s.C, s.x + offset[k * s.N] * size, s.T * s.C, s.kernel, 4 * s.F,
                 room.z + k * s.N * width * size, width)


cdef void fill_bias(const Sequence *s, char *z, Py_ssize_t rows) noexcept nogil:
    """z [rows,4F] = bias, or zeros without one."""
    cdef Py_ssize_t row, width = 4 * s.F * real_size(s)
    for row in range(rows):
        if s.bias != NULL:
            memcpy(z + row * width, s.bias, width)
        else:
            memset(z + row * width, 0, width)


cdef void blas_windows(const Sequence *s, const char *x, Py_ssize_t sample, Py_ssize_t channels, Py_ssize_t stride,
                       Py_ssize_t dilation, const char *kernel, char *z) noexcept nogil:
    """z [N,S,4F] += windows of x (``sample`` reals apart) @ kernel [K,channels,4F]: one product a sample and tap."""
    cdef Py_ssize_t n, k, size = real_size(s)
    for n in range(s.N):
        for k in range(s.K):
            gemm(s.kernels.bits, s.S, 4 * s.F, channels, x + (n * sample + k * dilation * channels) * size, stride * channels,
                 kernel + k * channels * 4 * s.F * size, 4 * s.F, z + n * s.S * 4 * s.F * size, 4 * s.F)


cdef void blas_step(const Sequence *s, const Room *room, const fl_step *st, Py_ssize_t k) noexcept nogil:
    """Completes the pre-activations of one step in z: the h product, and for convolutions bias and x product before it."""
    cdef char *z = <char *> st.init
    cdef Py_ssize_t sample = s.padded_rows * s.C if copies_x(s) else s.T * s.R * s.C
    if s.K == 1 and s.S == 1 and s.R == 1:
        gemm(s.kernels.bits, s.N, 4 * s.F, s.F, <const char *> st.h.base, s.F, s.recurrent_kernel, 4 * s.F, z, 4 * s.F)
        return
    fill_bias(s, z, s.N * s.S)
    blas_windows(s, <const char *> st.x.base, sample, s.C, s.stride, s.dilation, s.kernel, z)
    blas_windows(s, <const char *> st.h.base, (s.S + s.K - 1) * s.F, s.F, 1, 1, s.recurrent_kernel, z)


cdef void first_step(const Sequence *s, const Room *room, fl_step *st) noexcept nogil:
    """What all steps have in common."""
    memset(st, 0, sizeof(fl_step))
    st.units, st.c_offset, st.h_offset, st.y_offset = s.F, room.c_offset, room.h_offset, room.y_offset
    st.c, st.c_out = s.c, s.c
    st.gates_rows = s.batch * s.S
    st.activation, st.recurrent_activation, st.rounding = s.activation, s.recurrent_activation, s.rounding
    st.h.panel, st.h.offset, st.h.depth, st.h.padded = s.h_panel, room.h_window, s.K * s.F, s.padded
    st.h.groups, st.h.runs, st.h.length = 1, 1, s.K * s.F
    if s.path == FUSED or s.path == PACKED:
        st.x.panel, st.x.offset, st.x.depth, st.x.groups, st.x.padded = s.x_panel, room.x_offset, s.K * s.C, 1, s.padded
        st.x.runs, st.x.length, st.x.step = s.K, s.C, s.dilation * s.C
        if s.dilation == 1:  # the taps are one run
            st.x.runs, st.x.length = 1, s.K * s.C
    if s.path == FUSED:
        st.init = <void *> s.bias_panel
    if s.x_scales != NULL:
        st.x.gate_step = s.N * s.padded_rows * s.C
    if s.h_scales != NULL:
        st.h.gate_step = s.N * (s.S + s.K - 1) * s.F


cdef void one_step(const Sequence *s, const Room *room, fl_step *st, Py_ssize_t k) noexcept nogil:
    """Pre-activations and cell of one step, on the path of ``s``; ``k`` counts steps within the projected block."""
    cdef fl_project p
    if s.path == FUSED:
        if s.x_scales != NULL or s.h_scales != NULL:
            s.kernels.step_gated(st)
        else:
            s.kernels.step(st)
        return
    st.init, st.init_offset = room.z + k * s.N * s.S * z_row(s) * real_size(s), room.z_offset
    if s.path == HOISTED:
        s.kernels.step(st)
        return
    if s.path == BLAS:
        blas_step(s, room, st, k)
    else:
        memset(&p, 0, sizeof(p))
        p.layout.columns, p.layout.gates = s.F, 1
        p.count, p.rows, p.x, p.h = st.count, st.rows, st.x, st.h
        p.init, p.z, p.z_offset = s.bias_panel, st.init, room.z_offset
        s.kernels.project(&p)
    s.kernels.cell_rows(st)


cdef inline void copy_state(const char *start, char *to, Py_ssize_t size) noexcept nogil:
    """to = start (NULL: zeros)."""
    if start == NULL:
        memset(to, 0, size)
    else:
        memcpy(to, start, size)


cdef void begin_run(const Sequence *s, Room *room) noexcept nogil:
    """Cuts the workspace, fills its tables, and puts the first states where the first step reads them."""
    cdef Py_ssize_t size = real_size(s), states = s.N * s.S * s.F * size
    cut(s, s.workspace, room)
    lay_out(s, room)
    # Step t reads h[t % 2] and writes the other.
    states_into_halo(s, s.h0, room.h[0])
    if s.K > 1:
        states_into_halo(s, NULL, room.h[1])
    copy_state(s.c0, s.c, states)
    memset(room.x, 0, x_copies(s) * s.N * s.padded_rows * s.C * size)
    if s.h_scales != NULL:
        memset(room.scaled_h, 0, 4 * s.N * (s.S + s.K - 1) * s.F * size)
    if s.tape_c != NULL:
        memcpy(s.tape_c, s.c, states)
        states_from_halo(s, room.h[0], s.tape_h)


cdef void run_steps(const Sequence *s, const Room *room, int share, int shares,
                    void (*meet)(void *) noexcept nogil) noexcept nogil:
    """All T steps, of each step's rows the share number ``share``. Several threads (threads.pxi) have a Room each, which differ
    in x and rows alone, and ``meet`` behind each step; share 0 does what is not a row's. meet NULL: one thread."""
    cdef Py_ssize_t step, k, first, page = s.batch * s.S * s.F * real_size(s)
    cdef bint projects_ahead = s.path == HOISTED or (s.path == BLAS and s.K == 1 and s.S == 1 and s.R == 1)
    cdef bint leads = share == 0
    cdef fl_step st
    first_step(s, room, &st)
    for step in range(s.T):
        k = step % s.block
        if k == 0 and projects_ahead:
            project_block(s, room, step, min(s.block, s.T - step))
        st.h.base, st.h_out = room.h[step & 1], room.h[(step + 1) & 1]
        st.h.panel = NULL if s.starts_from_zeros and step == 0 else s.h_panel
        st.descending = step & 1  # what the last step touched last is still in the cache: begin there
        st.rows, st.count = room.all_rows, s.N * s.S
        if s.mask != NULL:
            st.rows, st.count = room.rows, valid_rows(s, room, step)
            if leads:
                masked_samples(s, step, <const char *> st.h.base, <char *> st.h_out)
        if s.tape_c != NULL:
            tape_step(s, &st, step, leads)
        if meet != NULL:
            first = st.count * share // shares
            st.rows, st.count = st.rows + first, st.count * (share + 1) // shares - first
        if st.count > 0:
            if s.h_scales != NULL:
                st.h.base = scaled_states(s, room, <const char *> st.h.base)
            if not projects_ahead:
                st.x.base = step_input(s, room, time_of(s, step))
            st.y = NULL
            if s.return_sequences and not s.channels_first:
                st.y = s.y + step * s.S * s.F * real_size(s)
            one_step(s, room, &st, k)
        if meet != NULL:
            meet(NULL)
        if leads and s.return_sequences and s.channels_first:
            transposed_outputs(s, step, <const char *> st.h_out)
        if leads and s.tape_c != NULL:
            states_from_halo(s, <const char *> st.h_out, s.tape_h + (step + 1) * page)


cdef void end_run(const Sequence *s, const Room *room) noexcept nogil:
    """Final states, and the output without return_sequences."""
    cdef Py_ssize_t size = real_size(s), slab = s.S * s.F
    if s.tape_c != NULL:
        memcpy(s.c, s.tape_c + s.T * s.batch * slab * size, s.N * slab * size)
    states_from_halo(s, room.h[s.T & 1], s.h)
    if not s.return_sequences:
        last_outputs(s)


cdef void run(const Sequence *s) noexcept nogil:
    """All T steps. Reads x, mask, h0, c0 and the weights; writes y, h, c. T >= 1; N = 0 does nothing."""
    cdef Room room
    begin_run(s, &room)
    run_steps(s, &room, 0, 1, NULL)
    end_run(s, &room)
