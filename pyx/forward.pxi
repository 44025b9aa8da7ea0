# forward.pxi: the doors of the forward pass: checks, a Sequence filled, one nogil call.

# Bytes of projected x that a block of time steps may fill, so that it stays in a second-level cache beside the panels.
cdef Py_ssize_t PROJECTION_BYTES = 256 * 1024


cdef struct Geometry:
    # The rows of a convolution; all 1 (pad_left 0) for an LSTM.
    Py_ssize_t rows, stride, dilation, pad_left, padded_rows


cdef Geometry geometry_of(object rows, Py_ssize_t R, Py_ssize_t taps) except *:
    """From (rows out, stride, dilation, pad_left, padded_rows), or None for an LSTM. ValueError where windows leave the rows."""
    cdef Geometry g
    if rows is None:
        g.rows, g.stride, g.dilation, g.pad_left, g.padded_rows = 1, 1, 1, 0, 1
        return g
    g.rows, g.stride, g.dilation, g.pad_left, g.padded_rows = rows
    if (min(g.rows, g.stride, g.dilation) < 1 or g.pad_left < 0 or g.pad_left + R > g.padded_rows
            or (g.rows - 1) * g.stride + (taps - 1) * g.dilation + 1 > g.padded_rows):
        raise ValueError(f"impossible geometry of a convolution: {rows} for {R} rows and {taps} taps")
    return g


cdef Path path_named(str path) except? BLAS:
    """FUSED (which start() refines), PACKED or BLAS of a caller's word; reads BLAS from SciPy where it is asked for."""
    if path == "fused":
        return FUSED
    if path == "packed":
        return PACKED
    if path == "blas":
        load_blas()
        return BLAS
    raise ValueError(f"unknown path {path!r}: expected fused, packed or blas")


# A workspace of up to this many bytes is on the stack.
cdef enum: STACK_BYTES = 16384
# Multiply-adds of a call that keeps the GIL: two or three microseconds on AVX-512, some tens on a small processor.
cdef double SHORT_WORK = 2e5


cdef void start(GateWeights weights, Sequence *s, const Geometry *g, Path path) noexcept:
    """Points ``s`` (N, T, R, C set) to the weights and settles its geometry, path and block."""
    s.kernels = weights.kernels
    s.F, s.K = weights.units, weights.taps
    s.S, s.stride, s.dilation, s.pad_left, s.padded_rows = g.rows, g.stride, g.dilation, g.pad_left, g.padded_rows
    s.x_panel, s.h_panel, s.bias_panel, s.padded = weights.x_panel, weights.h_panel, weights.bias_panel, weights.padded
    s.lane_weights, s.lane_bias = weights.lane_weights, weights.lane_bias
    s.kernel, s.recurrent_kernel = data(weights.kernel), data(weights.recurrent_kernel)
    s.bias = NULL if weights.bias is None else data(weights.bias)
    if path == BLAS and s.T * s.R * s.C >= (1 << 31):
        path = PACKED  # BLAS counts in ints: a sample's stride would not fit
    s.path = weights.fused_path(s.N, s.T) if path == FUSED else path
    s.batch = s.N
    settle_block(s, s.path == HOISTED or s.path == STREAM or (s.path == BLAS and weights.kernel.ndim == 2))


cdef void settle_block(Sequence *s, bint projects_ahead) noexcept:
    """How many steps' x are projected at once."""
    s.block = 1
    if projects_ahead:
        s.block = max(1, min(s.T, PROJECTION_BYTES // (s.N * z_row(s) * real_size(s))))


cdef int execute(GateWeights weights, Sequence *s) except -1:
    """Runs ``s``, flushing subnormals, without the GIL unless it is short; s.h, s.c: NULL where nobody wants the states."""
    cdef Py_ssize_t state = padded(s.N * s.S * s.F * real_size(s)), size = workspace_size(s)
    cdef char[STACK_BYTES + 64] on_stack
    cdef Buffer workspace = None
    cdef Team team
    if s.mask != NULL and memchr(s.mask, 0, s.N * s.T) == NULL:
        s.mask = NULL  # nothing is masked
    if s.h0 == NULL and s.tape_c == NULL and (s.path == FUSED or s.path == HOISTED or s.path == STREAM):
        s.starts_from_zeros = weights.ignores_zeros()
    team.threads = 1 if fl_pool_size() == 1 else choose_team(s, &team)
    if team.threads > 1:
        size = max(size, plan_team(weights, s, &team, NULL))
    if size + 2 * state <= STACK_BYTES:
        s.workspace = <char *> ((<uintptr_t> on_stack + 63) // 64 * 64)
    else:
        workspace = weights.take(size + 2 * state)
        s.workspace = workspace.start
    if s.h == NULL:
        s.h = s.workspace + size
    if s.c == NULL:
        s.c = s.workspace + size + state
    if team.threads > 1:
        plan_team(weights, s, &team, s.workspace)
    if is_short(s):
        flush_and_run(s, &team)
    else:
        with nogil:
            flush_and_run(s, &team)
    if workspace is not None:
        weights.spare.append(workspace)
    return 0


cdef inline bint is_short(const Sequence *s) noexcept:
    """True where a call is over so soon that others lose nothing when it keeps the GIL: to give and take it costs 50 ns."""
    return 4.0 * s.F * s.K * (s.C + s.F) * s.S * s.N * s.T < SHORT_WORK and s.path != BLAS


cdef void flush_and_run(const Sequence *s, Team *team) noexcept nogil:
    cdef unsigned long mode = fl_flush_to_zero()
    if team.threads == 1 or not run_team(team):
        run_alone(s)
    fl_restore_mode(mode)


cdef object forward(GateWeights weights, x, h0, c0, mask, tuple state_shape, const Geometry *g, int activation,
                    int recurrent_activation, int rounding, bint go_backwards, bint return_sequences, bint zero_output_for_mask,
                    bint channels_first, str path, Tape tape):
    """Checks what memory safety depends on, runs, and returns (y, h, c); states are [N,*state_shape], channels last.

    ``tape``: None, or a Tape that this call is recorded on.
    """
    cdef Sequence s
    cdef int ndim = 1 + len(state_shape)
    dtype = weights.kernel.dtype
    if x.shape[1] < 1:
        raise ValueError(f"x: expected at least one time step, got {x.shape}")
    for name, state in (("h", h0), ("c", c0)):
        if state is not None and (<object> checked(state, dtype, ndim, name)).shape != (x.shape[0], *state_shape):
            raise ValueError(f"{name}: expected shape {(x.shape[0], *state_shape)}, got {state.shape}")
    if mask is not None and (<object> checked(mask, np.bool_, 2, "mask")).shape != x.shape[:2]:
        raise ValueError(f"mask: expected shape {x.shape[:2]}, got {mask.shape}")
    if not (0 <= activation < FL_ACT_COUNT and 0 <= recurrent_activation < FL_ACT_COUNT):
        raise ValueError(f"unknown activation number {activation} or {recurrent_activation}")
    if path == "fused" and (activation >= FL_ACT_ELEMENTWISE or recurrent_activation >= FL_ACT_ELEMENTWISE):
        raise ValueError("the fused kernel takes elementwise activations only")
    memset(&s, 0, sizeof(s))
    if tape is not None:
        s.x_scales, s.h_scales = tape.s.x_scales, tape.s.h_scales
    s.N, s.T = x.shape[0], x.shape[1]
    s.channels_first = channels_first
    s.R, s.C = (1, x.shape[2]) if x.ndim == 3 else (x.shape[3], x.shape[2]) if channels_first else (x.shape[2], x.shape[3])
    cdef cnp.ndarray h = np.empty((s.N, *state_shape), dtype), c = np.empty((s.N, *state_shape), dtype)
    output_shape = state_shape[::-1] if channels_first else state_shape
    cdef cnp.ndarray y = np.empty((s.N, s.T, *output_shape) if return_sequences else (s.N, *output_shape), dtype)
    if tape is not None:
        tape.s.return_sequences = return_sequences
    if s.N == 0:
        return y, h, c
    s.activation, s.recurrent_activation, s.rounding = activation, recurrent_activation, rounding
    s.go_backwards, s.return_sequences, s.zero_output_for_mask = go_backwards, return_sequences, zero_output_for_mask
    s.x = data(x)
    s.h0 = NULL if h0 is None else data(h0)
    s.c0 = NULL if c0 is None else data(c0)
    s.mask = NULL if mask is None else <const uint8_t *> data(mask)
    s.y, s.h, s.c = data(y), data(h), data(c)
    start(weights, &s, g, path_named(path))
    if tape is not None:
        record(tape, &s)
    else:
        execute(weights, &s)
    return y, h, c


cdef int record(Tape tape, Sequence *s) except -1:
    """As ``execute``, on a tape; ``s`` is started."""
    tape.attach(s)
    if s.path == LANES or s.x_scales != NULL or s.h_scales != NULL:
        s.path, s.block = FUSED, 1
    execute(tape.weights, s)
    tape.keep(s)
    return 0


def lstm_forward(GateWeights weights not None, x, h0, c0, mask, int activation, int recurrent_activation, int rounding,
                 bint go_backwards, bint return_sequences, bint zero_output_for_mask, str path):
    """x [N,T,D], h0 and c0 [N,U] (None: zeros), mask [N,T] bool or None -> y [N,T,U] or [N,U], h [N,U], c [N,U].

    path: "fused", "packed" or "blas". Activations by number (arguments.h). Releases the GIL for the whole sequence.
    """
    cdef Geometry g = geometry_of(None, 1, 1)
    x = checked(x, weights.kernel.dtype, 3, "x")
    if weights.kernel.ndim != 2 or x.shape[2] != weights.channels:
        raise ValueError(f"x: expected shape (N, T, {weights.channels}), got {x.shape}")
    return forward(weights, x, h0, c0, mask, (weights.units,), &g, activation, recurrent_activation, rounding, go_backwards,
                   return_sequences, zero_output_for_mask, False, path, None)


def convlstm1d_forward(GateWeights weights not None, x, h0, c0, mask, tuple rows, int activation, int recurrent_activation,
                       int rounding, bint go_backwards, bint return_sequences, bint zero_output_for_mask, bint channels_first,
                       str path):
    """x [N,T,R,C], h0 and c0 [N,S,F] -> y [N,T,S,F] or [N,S,F], h and c [N,S,F]; channels first: x [N,T,C,R], y with F before S.

    rows: (S, stride, dilation, pad_left, padded_rows). States are channels last in both formats. Otherwise as lstm_forward.
    """
    x = checked(x, weights.kernel.dtype, 4, "x")
    cdef Py_ssize_t R = x.shape[3] if channels_first else x.shape[2]
    if weights.kernel.ndim != 3 or x.shape[2 if channels_first else 3] != weights.channels:
        raise ValueError(f"x: expected {weights.channels} channels, got {x.shape}")
    cdef Geometry g = geometry_of(rows, R, weights.taps)
    return forward(weights, x, h0, c0, mask, (g.rows, weights.units), &g, activation, recurrent_activation, rounding,
                   go_backwards, return_sequences, zero_output_for_mask, channels_first, path, None)
