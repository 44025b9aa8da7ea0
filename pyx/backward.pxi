# backward.pxi: the time loop backwards, of LSTM and ConvLSTM1D, in the panels of include/fastlstm/gate_backward.h.
#
# Blocks of time steps are taken from the last to the first. Within a block each step goes back once (fl_kernels.step_back writes
# its dz, then the product with the transposed recurrent kernel gives dh of the step before); then three products serve the whole
# block: dz with the transposed kernel (dx), and the columns of x and h with dz (weight gradients). No im2col: a convolution's
# rows are windows of dz, and a tap of a weight gradient is a shift of the rows of x and h.
#
# Row r = (step*N + n)*Q + L + m of a block's panel is row m of sample n; the L rows before and those behind the S rows of a
# sample are zeros (the halo of the flipped windows). LSTM: L = 0, Q = 1. Strided inputs are copied by phase (row modulo
# stride). The order of every sum depends on N, T and the sizes alone.

# Rows of dz that a block should have: enough for the products to be efficient, few enough for the second-level cache.
cdef Py_ssize_t BACK_ROWS = 256
# Depth of one pass of the weight gradients' product.
cdef Py_ssize_t BACK_DEPTH = 256


cdef struct Backward:
    const Sequence *s                   # the forward: sizes, flags, x, mask, tape
    const char *dy                      # like y of the forward, or NULL
    char *dh                            # [N,S,F] in: behind the last step, out: before the first
    char *dc
    char *dx                            # [N,T,R,C], or NULL
    char *dkernel                       # [K,C,4F]
    char *drecurrent                    # [K,F,4F]
    char *dbias                         # [4F], or NULL
    const char **h_panel                # transposed recurrent_kernel [blocks,K,4,W] x [F], or four of [blocks,K,W] (h_scales)
    const char **x_panel                # transposed kernel by phase [blocks,taps,4,W] x [C], or four of each (x_scales)
    bint padded_h, padded_x             # how the panels are laid out (fl_layout)
    int dots_x
    const char *no_bias                 # a bias panel of zeros, as wide as F and C need
    Py_ssize_t steps                    # of a block
    Py_ssize_t L, Q                     # see above
    Py_ssize_t height                   # rows of x and h that a block may touch: its own and a margin
    char *workspace


cdef struct BackRoom:
    char *dz                            # [blocks, steps*N*Q, 4, W]
    char *h_rows                        # [height, F] h before each row's step (an LSTM reads its tape instead); one for each mask
    char *x_rows                        # [stride, height, C]; one for each mask
    char *product                       # [M,F] with h_scales: one gate's part of dh, before its mask
    char *wide_product                  # [steps*N*R,C] with x_scales: one gate's part of dx, before its mask
    char *dy                            # [N,S,F] what the outputs behind this step owe to this one (masks)
    ptrdiff_t *rows                     # [M]
    ptrdiff_t *all_rows                 # [max(M, steps*N*R)]
    ptrdiff_t *state_offset             # [M]
    ptrdiff_t *dy_offset                # [M]
    ptrdiff_t *dz_row                   # [M]
    ptrdiff_t *window                   # [M] where the flipped window of dz begins
    ptrdiff_t *wide                     # [steps*N*R] where the windows of dz of a phase's rows begin
    ptrdiff_t *wide_out                 # [steps*N*R] where their dx goes
    ptrdiff_t *dense                    # [steps*N*R] 0, C, 2C …
    # Of the threads that share the work (backward_threads.pxi), what falls to this one:
    Py_ssize_t first, end               # its samples
    int share, shares                   # its number, and how many there are: the gradients' rows are divided among them


cdef inline Py_ssize_t most(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return a if a > b else b


cdef inline Py_ssize_t copies(const char *scales) noexcept nogil:
    """Copies of what enters a product: one, or one for each gate's dropout mask."""
    return 1 if scales == NULL else 4


cdef inline Py_ssize_t lanes_used(const Sequence *s) noexcept nogil:
    """Numbers of a vector of dz that enter a product: all W, but for few units only as many as there are."""
    return min(s.F, <Py_ssize_t> s.kernels.lanes)


cdef void read_windows(const Sequence *s, fl_product *p, Py_ssize_t taps, Py_ssize_t dilation, bint gated, int dots,
                       Py_ssize_t depth) noexcept nogil:
    """Sets how a product reads its windows of dz: ``taps`` rows of all four gates, or of one where ``gated``.

    ``dots``: as in fl_layout; ``depth``: rows of a block of dz."""
    cdef Py_ssize_t W = s.kernels.lanes, used = W if dots else lanes_used(s), blocks = unit_blocks(s)
    if gated:
        p.groups, p.group_step = blocks, depth * 4 * W
        p.runs, p.length, p.step = taps, used, dilation * 4 * W
    else:
        p.groups, p.group_step = taps, dilation * 4 * W
        p.runs, p.length, p.step = blocks, 4 * W, depth * 4 * W
        if used < W:  # one block: its vectors are the runs
            p.runs, p.length, p.step = 4, used, W
        elif blocks == 1 and dilation == 1 and not dots:
            p.groups, p.length = 1, taps * 4 * W
    p.depth = blocks * taps * used * (1 if gated else 4)


cdef inline bint goes_by_blocks(const Sequence *s) noexcept nogil:
    """How the vectors stand in a row of dz (gate_backward.h): products with a gate each want them so."""
    return s.x_scales != NULL or s.h_scales != NULL


cdef void plan_back(const Sequence *s, Backward *b) noexcept nogil:
    """Settles L, Q, steps and height."""
    cdef Py_ssize_t rows_of_phase = (s.padded_rows + s.stride - 1) // s.stride
    b.L = most(s.K - 1 - (s.K - 1) // 2, (s.K - 1) * s.dilation // s.stride)
    b.Q = b.L + most(s.S + s.K - 1, rows_of_phase)
    b.steps = most(1, min(s.T, BACK_ROWS // (s.N * b.Q)))
    b.height = b.steps * s.N * b.Q + s.K * s.dilation


cdef inline bint reads_tape(const Backward *b) noexcept nogil:
    """True where h of a block stands in the tape as the products want it: an unmasked LSTM without recurrent dropout."""
    return b.Q == 1 and b.s.h_scales == NULL and b.s.mask == NULL


cdef inline Py_ssize_t h_rows_size(const Backward *b) noexcept nogil:
    """Bytes of BackRoom.h_rows: none where the tape is read instead."""
    return 0 if reads_tape(b) else copies(b.s.h_scales) * b.s.F * b.height * real_size(b.s)


cdef inline Py_ssize_t x_rows_size(const Backward *b) noexcept nogil:
    """Bytes of BackRoom.x_rows: none where the tape is read instead."""
    return 0 if b.s.x_by_steps else copies(b.s.x_scales) * b.s.stride * b.s.C * b.height * real_size(b.s)


cdef Py_ssize_t cut_back(const Backward *b, char *base, BackRoom *room) noexcept nogil:
    """As ``cut``, for the backward pass."""
    cdef const Sequence *s = b.s
    cdef Py_ssize_t size = real_size(s), at = 0, M = s.N * s.S, word = sizeof(ptrdiff_t)
    cdef Py_ssize_t wide = b.steps * s.N * s.R
    room.dz = part(base, &at, unit_blocks(s) * b.steps * s.N * b.Q * 4 * s.kernels.lanes * size)
    room.h_rows = part(base, &at, h_rows_size(b))
    room.x_rows = part(base, &at, x_rows_size(b))
    room.product = part(base, &at, M * s.F * size if s.h_scales != NULL else 0)
    room.wide_product = part(base, &at, wide * s.C * size if s.x_scales != NULL else 0)
    room.dy = part(base, &at, M * s.F * size)
    room.rows = <ptrdiff_t *> part(base, &at, M * word)
    room.all_rows = <ptrdiff_t *> part(base, &at, most(M, wide) * word)
    room.state_offset = <ptrdiff_t *> part(base, &at, M * word)
    room.dy_offset = <ptrdiff_t *> part(base, &at, M * word)
    room.dz_row = <ptrdiff_t *> part(base, &at, M * word)
    room.window = <ptrdiff_t *> part(base, &at, M * word)
    room.wide = <ptrdiff_t *> part(base, &at, wide * word)
    room.wide_out = <ptrdiff_t *> part(base, &at, wide * word)
    room.dense = <ptrdiff_t *> part(base, &at, wide * word)
    room.first, room.end, room.share, room.shares = 0, s.N, 0, 1
    return at


cdef void lay_out_back(const Backward *b, const BackRoom *room) noexcept nogil:
    """Fills the offset tables that all steps share; dz rows and windows are those of a block's first step."""
    cdef const Sequence *s = b.s
    cdef Py_ssize_t n, m, row = 0, k, vectors = 4 * s.kernels.lanes
    for n in range(s.N):
        for m in range(s.S):
            room.state_offset[row] = row * s.F
            room.dy_offset[row] = (n * s.T * s.S + m) * s.F
            room.dz_row[row] = n * b.Q + b.L + m
            room.window[row] = (n * b.Q + b.L + m + (s.K - 1) // 2 - (s.K - 1)) * vectors
            row += 1
    for k in range(most(row, b.steps * s.N * s.R)):
        room.all_rows[k] = k
    for k in range(b.steps * s.N * s.R):
        room.dense[k] = k * s.C


cdef inline bint is_valid(const Sequence *s, Py_ssize_t n, Py_ssize_t step) noexcept nogil:
    return s.mask == NULL or s.mask[n * s.T + time_of(s, step)]


cdef void collect_outputs(const Backward *b, const BackRoom *room, Py_ssize_t step) noexcept nogil:
    """With masks: room.dy += cotangents of this step's outputs. A masked output is the one before, or zeros (keras-spec 6.2)."""
    cdef const Sequence *s = b.s
    cdef Py_ssize_t n, size = real_size(s), slab = s.S * s.F
    cdef const char *dy
    for n in range(room.first, room.end):
        if s.zero_output_for_mask and not is_valid(s, n, step):
            continue
        if s.return_sequences:
            dy = b.dy + (n * s.T + step) * slab * size
        elif step == s.T - 1:
            dy = b.dy + n * slab * size
        else:
            continue
        s.kernels.add(room.dy + n * slab * size, dy, slab)


cdef void step_back(const Backward *b, const BackRoom *room, fl_step_back *st, fl_project *p, Py_ssize_t step,
                    Py_ssize_t in_block) noexcept nogil:
    """dz of one step, then dh and dc of the step before."""
    cdef const Sequence *s = b.s
    cdef Py_ssize_t n, m, size = real_size(s), slab = s.S * s.F, M = s.N * s.S, first = in_block * s.N * b.Q
    cdef Py_ssize_t vectors = 4 * s.kernels.lanes, k
    cdef bint collects = s.mask != NULL and b.dy != NULL
    st.count, st.rows = (room.end - room.first) * s.S, room.all_rows + room.first * s.S
    if s.mask != NULL:
        st.count, st.rows = 0, room.rows
        for n in range(room.first, room.end):
            if is_valid(s, n, step):
                for m in range(s.S):
                    room.rows[st.count] = n * s.S + m
                    st.count += 1
            else:
                for k in range(unit_blocks(s)):
                    memset(room.dz + (k * st.dz_depth + first + n * b.Q) * vectors * size, 0, b.Q * vectors * size)
    st.dy, st.dy_offset = NULL, room.state_offset
    if collects:
        collect_outputs(b, room, step)
        st.dy = room.dy
    elif b.dy != NULL and s.return_sequences:
        st.dy, st.dy_offset = b.dy + step * slab * size, room.dy_offset
    elif b.dy != NULL and step == s.T - 1:
        st.dy = b.dy
    st.gates = s.tape_gates + step * M * 4 * s.F * size
    st.c_before, st.c = s.tape_c + step * M * s.F * size, s.tape_c + (step + 1) * M * s.F * size
    st.dz = room.dz + first * vectors * size
    s.kernels.step_back(st)
    if collects:
        for n in range(room.first, room.end):
            if is_valid(s, n, step):
                memset(room.dy + n * slab * size, 0, slab * size)
    p.count, p.rows, p.x.base, p.x.panel, p.z = st.count, st.rows, st.dz, b.h_panel[0], b.dh
    if s.h_scales == NULL:
        s.kernels.project(p)
        return
    p.z = room.product
    for k in range(4):
        p.x.panel, p.x.base = b.h_panel[k], <const char *> st.dz + k * s.kernels.lanes * size
        s.kernels.project(p)
        for n in range(p.count):
            m = p.rows[n] * s.F * size
            s.kernels.scale(b.dh + m, room.product + m, s.h_scales + (k * M * s.F * size + m), s.F, k > 0)


cdef void weight_gradient(const Backward *b, const BackRoom *room, const char *rows, Py_ssize_t count, Py_ssize_t depth,
                          Py_ssize_t gate_step, char *out, Py_ssize_t before) noexcept nogil:
    """out [count,4F] += rows [depth,count] transposed @ dz [depth,4F]; each gate has its own rows, unless ``gate_step`` is 0.

    Of all gradients' rows, of which there are ``before`` before these, this thread has a share: never a part of a sum.
    """
    cdef const Sequence *s = b.s
    cdef Py_ssize_t at = 0, size = real_size(s), total = s.K * (s.F + s.C)
    cdef Py_ssize_t first = most(0, total * room.share // room.shares - before)
    cdef Py_ssize_t end = min(count, total * (room.share + 1) // room.shares - before)
    cdef fl_outer p
    if first >= end:
        return
    p.by_blocks = goes_by_blocks(s)
    p.units, p.count, p.pitch, p.panel_depth, p.gate_step = s.F, end - first, count, depth, gate_step
    p.z = out + first * 4 * s.F * size
    while at < depth:
        p.depth = min(BACK_DEPTH, depth - at)
        p.panel, p.columns = room.dz + at * 4 * s.kernels.lanes * size, rows + (at * count + first) * size
        if gate_step:
            s.kernels.outer_gated(&p)
        else:
            s.kernels.outer(&p)
        at += p.depth


cdef void input_gradient(const Backward *b, const BackRoom *room, Py_ssize_t first, Py_ssize_t steps,
                         Py_ssize_t depth) noexcept nogil:
    """dx of the steps from ``first`` on: windows of dz with the flipped kernel; with a stride, phase by phase."""
    cdef const Sequence *s = b.s
    cdef Py_ssize_t k, n, j, p, taps, size = real_size(s), vectors = 4 * s.kernels.lanes, padded_row
    cdef fl_project pr
    for p in range(s.stride):
        taps = (s.K - p + s.stride - 1) // s.stride if p < s.K else 0
        memset(&pr, 0, sizeof(pr))
        pr.layout.columns, pr.layout.dots = s.C, b.dots_x
        pr.rows, pr.z_offset, pr.init = room.all_rows, room.wide_out, b.no_bias
        pr.x.offset = room.wide
        read_windows(s, &pr.x, taps, s.dilation, s.x_scales != NULL, b.dots_x, depth)
        pr.x.padded = b.padded_x
        for k in range(steps):
            for n in range(room.first, room.end):
                j = (p + s.stride - s.pad_left % s.stride) % s.stride  # the first row of this phase
                while j < s.R:
                    padded_row = (j + s.pad_left) // s.stride - most(taps - 1, 0) * s.dilation
                    room.wide[pr.count] = ((k * s.N + n) * b.Q + b.L + padded_row) * vectors
                    room.wide_out[pr.count] = ((n * s.T + time_of(s, first + k)) * s.R + j) * s.C
                    pr.count += 1
                    j += s.stride
        pr.x.base, pr.z = room.dz, b.dx
        if s.x_scales == NULL:
            pr.x.panel = b.x_panel[p]
            s.kernels.project(&pr)
        else:
            masked_input_gradient(b, room, &pr, p)


cdef void masked_input_gradient(const Backward *b, const BackRoom *room, fl_project *pr, Py_ssize_t phase) noexcept nogil:
    """dx rows of one phase: the sum of the four gates' products, each times its dropout mask."""
    cdef const Sequence *s = b.s
    cdef Py_ssize_t g, k, n, j, at, size = real_size(s)
    cdef const char *dz = <const char *> pr.x.base
    cdef char *dx = <char *> pr.z
    cdef fl_project one = pr[0]
    one.z, one.z_offset = room.wide_product, room.dense
    for g in range(4):
        one.x.panel, one.x.base = b.x_panel[4 * phase + g], dz + g * s.kernels.lanes * size
        s.kernels.project(&one)
        for k in range(pr.count):
            n = room.wide_out[k] // (s.T * s.R * s.C)
            j = room.wide_out[k] % (s.R * s.C)
            at = ((g * s.N + n) * s.R * s.C + j) * size
            s.kernels.scale(dx + room.wide_out[k] * size, room.wide_product + k * s.C * size, s.x_scales + at, s.C, g > 0)


cdef void weight_gradients(const Backward *b, const BackRoom *room, Py_ssize_t first, Py_ssize_t depth) noexcept nogil:
    """What one block adds to dkernel, drecurrent and dbias; ``first``: its first step."""
    cdef const Sequence *s = b.s
    cdef Py_ssize_t k, tap, size = real_size(s), before = 0
    cdef const char *h_rows = room.h_rows
    cdef const char *x_rows = room.x_rows
    cdef Py_ssize_t x_step = 0 if s.x_scales == NULL else s.stride * b.height * s.C
    cdef Py_ssize_t h_step = 0 if s.h_scales == NULL else b.height * s.F
    if reads_tape(b):
        h_rows = s.tape_h + first * s.N * s.F * size
    if s.x_by_steps:
        x_rows = s.x + first * s.N * s.C * size
    for k in range(s.K):
        tap = k * s.dilation
        weight_gradient(b, room, h_rows + k * s.F * size, s.F, depth, h_step,
                        b.drecurrent + k * s.F * 4 * s.F * size, before)
        weight_gradient(b, room, x_rows + (tap % s.stride * b.height + tap // s.stride) * s.C * size, s.C, depth, x_step,
                        b.dkernel + k * s.C * 4 * s.F * size, before + s.F)
        before += s.F + s.C
    if b.dbias != NULL and room.share == room.shares - 1:
        s.kernels.sum_panel(room.dz, s.F, goes_by_blocks(s), depth, b.dbias)


cdef void run_back(const Backward *b, const BackRoom *room, void (*meet)(void *) noexcept nogil) noexcept nogil:
    """All T steps backwards, of what falls to ``room``. The gradients' arrays hold zeros (they are added to; dx is overwritten).

    Several threads have a BackRoom each, and ``meet`` between what goes by samples and what goes by rows of the gradients.
    """
    cdef const Sequence *s = b.s
    cdef fl_step_back st
    cdef fl_project p
    cdef Py_ssize_t size = real_size(s), vectors = 4 * s.kernels.lanes, blocks = unit_blocks(s), first, steps, k, depth = -1
    memset(&st, 0, sizeof(st))
    st.units, st.gates_rows, st.c_offset, st.dz_row = s.F, s.N * s.S, room.state_offset, room.dz_row
    st.dh, st.dc, st.dy_step = b.dh, b.dc, s.S * s.F if s.return_sequences else 0
    st.activation, st.recurrent_activation, st.by_blocks = s.activation, s.recurrent_activation, goes_by_blocks(s)
    memset(&p, 0, sizeof(p))
    p.layout.columns, p.init, p.z, p.z_offset = s.F, b.no_bias, b.dh, room.state_offset
    p.x.offset, p.x.padded = room.window, b.padded_h
    first = (s.T - 1) // b.steps * b.steps
    while first >= 0:
        steps = min(b.steps, s.T - first)
        if depth != steps * s.N * b.Q:  # the halo rows move with the depth
            depth = steps * s.N * b.Q
            st.dz_depth = depth
            read_windows(s, &p.x, s.K, 1, s.h_scales != NULL, 0, depth)
            if room.share == 0:
                memset(room.dz, 0, blocks * depth * vectors * size)
            if meet != NULL:
                meet(NULL)
        for k in range(steps - 1, -1, -1):
            step_back(b, room, &st, &p, first + k, k)
        gather_block(b, room, first, steps)
        if b.dx != NULL:
            input_gradient(b, room, first, steps, depth)
        if meet != NULL:
            meet(NULL)
        weight_gradients(b, room, first, depth)
        if meet != NULL:
            meet(NULL)
        first -= b.steps
