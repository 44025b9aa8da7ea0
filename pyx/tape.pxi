# tape.pxi: the doors of training: a forward pass that keeps a tape, and the backward pass over it.


cdef class Tape:
    """What a backward pass needs of the forward: 4 gates, c and h of every step, copies of x and mask. No backward changes it.

    Its memory goes back to the layer's weights, for the next tape, when the last reference to it is gone.
    """
    cdef Sequence s
    cdef GateWeights weights
    cdef Buffer memory
    cdef char *x                        # [N,T,R,C], or by_steps [T,N,C]
    cdef bint by_steps
    cdef readonly object x_scales, h_scales
    cdef readonly tuple x_shape, state_shape

    def __cinit__(self, GateWeights weights not None):
        self.weights = weights
        memset(&self.s, 0, sizeof(self.s))

    def __dealloc__(self):
        if self.memory is not None and self.weights is not None:
            self.weights.spare_tapes[:] = [self.memory]  # one is enough for a loop of forward and backward

    cdef int attach(self, Sequence *s) except -1:
        """Points ``s`` (sizes, x and mask set) to the tape's pages, and to the tape's copies of x and mask."""
        cdef Py_ssize_t size = self.weights.kernels.bits // 8, at = 0, M = s.N * s.S, U = self.weights.units
        cdef Py_ssize_t x_size = s.N * s.T * s.R * s.C * size, mask_size = 0 if s.mask == NULL else s.N * s.T
        cdef Py_ssize_t parts = padded(x_size) + padded(mask_size) + padded(s.T * M * 4 * U * size)
        cdef char *base
        self.memory = self.weights.take_tape(parts + 2 * padded((s.T + 1) * M * U * size))
        base = self.memory.start
        self.x = part(base, &at, x_size)
        self.by_steps = s.R == 1 and s.K == 1 and s.mask == NULL and s.x_scales == NULL and s.h_scales == NULL
        if self.by_steps:
            self.turn_input(s)
        else:
            memcpy(self.x, s.x, x_size)
        if s.mask != NULL:
            memcpy(base + at, s.mask, mask_size)
            s.mask = <const uint8_t *> part(base, &at, mask_size)
        s.tape_gates = part(base, &at, s.T * M * 4 * U * size)
        s.tape_c = part(base, &at, (s.T + 1) * M * U * size)
        s.tape_h = part(base, &at, (s.T + 1) * M * U * size)
        return 0

    cdef void turn_input(self, const Sequence *s) noexcept nogil:
        """The tape's x [T,N,C]: rows in the order in which the weight gradients want them."""
        cdef Py_ssize_t step, n, row = s.C * real_size(s)
        for step in range(s.T):
            for n in range(s.N):
                memcpy(self.x + (step * s.N + n) * row, s.x + (n * s.T + time_of(s, step)) * row, row)

    cdef void keep(self, const Sequence *s) noexcept:
        """Remembers ``s`` as it ran, without what belongs to others."""
        self.s = s[0]
        self.s.x, self.s.x_by_steps = self.x, self.by_steps
        self.s.y = self.s.h = self.s.c = self.s.workspace = NULL
        self.s.h0 = self.s.c0 = NULL

    cdef object pages(self, const char *start, Py_ssize_t count):
        """A copy of [count,*state_shape before it] numbers from ``start`` on."""
        cdef cnp.ndarray out = np.empty((count, self.x_shape[0], *self.state_shape), self.weights.kernel.dtype)
        memcpy(data(out), start, out.nbytes)
        return out

    @property
    def c(self):
        """The cell states, a copy [T+1,N,U] or [T+1,N,S,F]: before the first step, behind it, behind the second …"""
        return self.pages(self.s.tape_c, self.s.T + 1)

    @property
    def h(self):
        """The hidden states, as ``c``."""
        return self.pages(self.s.tape_h, self.s.T + 1)

    @property
    def inputs(self):
        """The inputs, a copy."""
        N, T = self.x_shape[:2]
        shape = (T, N, *self.x_shape[2:]) if self.by_steps else self.x_shape
        cdef cnp.ndarray out = np.empty(shape, self.weights.kernel.dtype)
        memcpy(data(out), self.x, out.nbytes)
        if not self.by_steps:
            return out
        return (<object> out)[::-1 if self.s.go_backwards else 1].swapaxes(0, 1).copy()

    @property
    def is_masked(self):
        """True where a mask belongs to the tape."""
        return self.s.mask != NULL

    @property
    def nbytes(self):
        """Bytes that the tape holds beside x and the mask: 6 numbers per sample, step and unit."""
        return (6 * self.s.T + 2) * self.s.N * self.s.S * self.s.F * (self.weights.kernels.bits // 8)


def record_forward(GateWeights weights not None, x, h0, c0, mask, rows, int activation, int recurrent_activation, int rounding,
                   bint go_backwards, bint return_sequences, bint zero_output_for_mask, str path, x_scales, h_scales):
    """As lstm_forward (rows None, x [N,T,D]) and convlstm1d_forward (channels last), and the tape: y, h, c, tape.

    x_scales [4,N,D] or [4,N,R,C], h_scales [4,N,U] or [4,N,S,F]: dropout masks of the gates i, f, c, o, or None.
    """
    cdef Tape tape = Tape(weights)
    cdef bint conv = rows is not None
    dtype = weights.kernel.dtype
    x = checked(x, dtype, 4 if conv else 3, "x")
    if x.shape[x.ndim - 1] != weights.channels or weights.kernel.ndim != (3 if conv else 2):
        raise ValueError(f"x: expected {weights.channels} features, got {x.shape}")
    cdef Geometry g = geometry_of(rows, x.shape[2] if conv else 1, weights.taps)
    if activation >= FL_ACT_ELEMENTWISE or recurrent_activation >= FL_ACT_ELEMENTWISE:
        raise ValueError("the tape takes elementwise activations only")
    tape.x_shape, tape.state_shape = x.shape, (weights.units,)
    if conv:
        tape.state_shape = (g.rows, weights.units)
    tape.x_scales, tape.h_scales = x_scales, h_scales
    if x_scales is not None:
        if (<object> checked(x_scales, dtype, x.ndim, "x_scales")).shape != (4, x.shape[0], *x.shape[2:]):
            raise ValueError(f"x_scales: expected shape {(4, x.shape[0], *x.shape[2:])}, got {x_scales.shape}")
        tape.s.x_scales = data(x_scales)
    if h_scales is not None:
        if (<object> checked(h_scales, dtype, x.ndim, "h_scales")).shape != (4, x.shape[0], *tape.state_shape):
            raise ValueError(f"h_scales: expected shape {(4, x.shape[0], *tape.state_shape)}, got {h_scales.shape}")
        tape.s.h_scales = data(h_scales)
    y, h, c = forward(weights, x, h0, c0, mask, tape.state_shape, &g, activation, recurrent_activation, rounding,
                      go_backwards, return_sequences, zero_output_for_mask, False, path, tape)
    return y, h, c, tape


cdef inline cnp.ndarray zeros_like(cnp.ndarray a):
    return cnp.PyArray_ZEROS(cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a), cnp.PyArray_TYPE(a), 0)


def run_backward(Tape tape not None, BackwardPanels panels not None, dy, dh, dc, bint inputs):
    """Cotangents dy (like y), dh, dc (like the states; each may be None) -> dx or None, dh0, dc0, dkernel, drecurrent, dbias."""
    cdef GateWeights weights = tape.weights
    dtype = weights.kernel.dtype
    N, T = tape.x_shape[:2]
    shape = (N, *tape.state_shape)
    y_shape = (N, T, *tape.state_shape) if tape.s.return_sequences else shape
    if dy is not None and (<object> checked(dy, dtype, len(y_shape), "dy")).shape != y_shape:
        raise ValueError(f"dy: expected shape {y_shape}, got {dy.shape}")
    for name, cotangent in (("dh", dh), ("dc", dc)):
        if cotangent is not None and (<object> checked(cotangent, dtype, len(shape), name)).shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {cotangent.shape}")
    gated = tape.x_scales is not None, tape.h_scales is not None
    if N and (panels.stride != tape.s.stride or gated != (panels.gated_x, panels.gated_h)):
        raise ValueError("the panels were made for another stride or other dropout masks")
    return pulled(tape, panels, dy, dh, dc, inputs)


cdef tuple pulled(Tape tape, BackwardPanels panels, dy, dh, dc, bint inputs):
    """``run_backward`` of arrays that fit."""
    cdef Backward b
    cdef GateWeights weights = tape.weights
    cdef Buffer workspace
    cdef BackTeam back
    cdef unsigned long mode
    cdef cnp.npy_intp[4] x_shape, shape
    cdef int k, ndim = len(tape.x_shape), typenum = cnp.PyArray_TYPE(weights.kernel)
    cdef cnp.ndarray dx = None, dh0, dc0, dkernel, drecurrent, dbias
    for k in range(ndim):
        x_shape[k] = tape.x_shape[k]
    shape[0] = x_shape[0]
    for k in range(ndim - 2):
        shape[k + 1] = tape.state_shape[k]
    dh0 = cnp.PyArray_ZEROS(ndim - 1, shape, typenum, 0) if dh is None else dh.copy()
    dc0 = cnp.PyArray_ZEROS(ndim - 1, shape, typenum, 0) if dc is None else dc.copy()
    dkernel, drecurrent = zeros_like(weights.kernel), zeros_like(weights.recurrent_kernel)
    dbias = None if weights.bias is None else zeros_like(weights.bias)
    if inputs:
        dx = cnp.PyArray_EMPTY(ndim, x_shape, typenum, 0)
    if x_shape[0] == 0:
        return dx, dh0, dc0, dkernel, drecurrent, dbias
    memset(&b, 0, sizeof(b))
    b.s = &tape.s
    b.dy = NULL if dy is None else data(dy)
    b.dh, b.dc, b.dx = data(dh0), data(dc0), data(dx) if inputs else NULL
    b.dkernel, b.drecurrent, b.dbias = data(dkernel), data(drecurrent), NULL if dbias is None else data(dbias)
    b.h_panel, b.x_panel, b.no_bias = panels.h_panel, panels.x_panel, panels.no_bias
    b.padded_h, b.padded_x, b.dots_x = panels.padded_h, panels.padded_x, panels.dots_x
    plan_back(b.s, &b)
    choose_back_team(&b, &back)
    workspace = weights.take(plan_back_team(&back, NULL))
    b.workspace = workspace.start
    plan_back_team(&back, workspace.start)
    with nogil:
        mode = fl_flush_to_zero()
        run_back_team(&back)
        fl_restore_mode(mode)
    weights.spare.append(workspace)
    return dx, dh0, dc0, dkernel, drecurrent, dbias
