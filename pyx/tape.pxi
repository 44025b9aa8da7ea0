# tape.pxi: the doors of training: a forward pass that keeps a tape, and the backward pass over it.


cdef class BackwardPanels:
    """The transposed kernels of one layer, flipped and packed for the backward pass; made once per version of the weights.

    ``gated_x``, ``gated_h``: one panel for each gate instead of one for all, for dropout masks of their own.
    """
    cdef Buffer memory
    cdef char *no_bias
    cdef const char **h_panel
    cdef const char **x_panel
    cdef readonly Py_ssize_t stride
    cdef readonly bint gated_x, gated_h

    def __cinit__(self, GateWeights weights not None, Py_ssize_t stride, bint gated_x, bint gated_h):
        cdef Py_ssize_t taps = weights.taps, channels = weights.channels, units = weights.units, k, at = 0
        self.stride, self.gated_x, self.gated_h = stride, gated_x, gated_h
        recurrent = np.asarray(weights.recurrent_kernel).reshape(taps, units, 4, units)
        kernel = np.asarray(weights.kernel).reshape(taps, channels, 4, units)
        h = [self.flipped(weights, part) for part in self.parts(recurrent, gated_h)]
        x = [self.flipped(weights, part) for p in range(stride) for part in self.parts(kernel[p::stride], gated_x)]
        widest = self.size(weights, np.empty((1, max(units, channels)), kernel.dtype))
        self.memory = Buffer(sum([self.size(weights, matrix) for matrix in h + x]) + widest)
        memset(self.memory.start, 0, self.memory.size)
        self.h_panel = <const char **> malloc((len(h) + len(x)) * sizeof(char *))
        if self.h_panel == NULL:
            raise MemoryError("cannot allocate the table of panels")
        self.x_panel = self.h_panel + len(h)
        for k, matrix in enumerate(h + x):
            self.h_panel[k] = self.fill(weights, matrix, &at)
        self.no_bias = self.memory.start + at

    def __dealloc__(self):
        free(self.h_panel)

    cdef list parts(self, kernel, bint gated):
        """kernel [K,A,4,F] as it is, or its four gates."""
        return [kernel[:, :, g : g + 1] for g in range(4)] if gated else [kernel]

    cdef object flipped(self, GateWeights weights, kernel):
        """kernel [K,A,G,F] -> the matrix [blocks*K*G*W, A] whose rows stand in the order of a window of dz, last tap first."""
        cdef Py_ssize_t W = weights.kernels.lanes, blocks = (weights.units + W - 1) // W
        wide = np.zeros((*kernel.shape[:3], blocks * W), kernel.dtype)
        wide[..., : weights.units] = kernel
        wide = wide.reshape(*kernel.shape[:3], blocks, W)[::-1]
        rows = wide.size // kernel.shape[1] if kernel.shape[1] else 0  # -1 would not do where there are no features
        return np.ascontiguousarray(wide.transpose(3, 0, 2, 4, 1).reshape(rows, kernel.shape[1]))

    cdef Py_ssize_t size(self, GateWeights weights, matrix) except -1:
        cdef fl_layout layout
        layout.columns, layout.gates, layout.padded = matrix.shape[1], 0, 0
        return padded(weights.kernels.panel_size(&layout, matrix.shape[0]) * (weights.kernels.bits // 8))

    cdef char *fill(self, GateWeights weights, cnp.ndarray matrix, Py_ssize_t *at) except NULL:
        cdef fl_layout layout
        cdef char *to = self.memory.start + at[0]
        layout.columns, layout.gates, layout.padded = (<object> matrix).shape[1], 0, 0
        weights.kernels.pack(&layout, (<object> matrix).shape[0], data(matrix), layout.columns, to)
        at[0] += self.size(weights, matrix)
        return to


cdef class Tape:
    """What a backward pass needs of the forward: 4 gates, c and h of every step, x and the mask. No backward changes it."""
    cdef Sequence s
    cdef GateWeights weights
    cdef readonly object x, mask, gates, c, h, x_scales, h_scales
    cdef tuple state_shape

    @property
    def nbytes(self):
        """Bytes that the tape holds beside x and the mask: 6 numbers per sample, step and unit."""
        return self.gates.nbytes + self.c.nbytes + self.h.nbytes


def record_forward(GateWeights weights not None, x, h0, c0, mask, rows, int activation, int recurrent_activation, int rounding,
                   bint go_backwards, bint return_sequences, bint zero_output_for_mask, str path, x_scales, h_scales):
    """As lstm_forward (rows None, x [N,T,D]) and convlstm1d_forward (channels last), and the tape: y, h, c, tape.

    x_scales [4,N,D] or [4,N,R,C], h_scales [4,N,U] or [4,N,S,F]: dropout masks of the gates i, f, c, o, or None.
    """
    cdef Tape tape = Tape()
    cdef bint conv = rows is not None
    cdef cnp.ndarray gates, tape_c, tape_h
    dtype = weights.kernel.dtype
    x = checked(x, dtype, 4 if conv else 3, "x")
    if x.shape[x.ndim - 1] != weights.channels or weights.kernel.ndim != (3 if conv else 2):
        raise ValueError(f"x: expected {weights.channels} features, got {x.shape}")
    cdef Geometry g = geometry_of(rows, x.shape[2] if conv else 1, weights.taps)
    if activation >= FL_ACT_ELEMENTWISE or recurrent_activation >= FL_ACT_ELEMENTWISE:
        raise ValueError("the tape takes elementwise activations only")
    tape.weights, tape.x, tape.mask = weights, x.copy(), None if mask is None else mask.copy()
    tape.state_shape = (weights.units,)
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
    M = x.shape[0] * g.rows
    tape.gates = gates = np.empty((x.shape[1], M, 4 * weights.units), dtype)
    tape.c = tape_c = np.empty((x.shape[1] + 1, M, weights.units), dtype)
    tape.h = tape_h = np.empty((x.shape[1] + 1, M, weights.units), dtype)
    tape.s.tape_gates, tape.s.tape_c, tape.s.tape_h = data(gates), data(tape_c), data(tape_h)
    y, h, c = forward(weights, tape.x, h0, c0, tape.mask, tape.state_shape, &g, activation, recurrent_activation, rounding,
                      go_backwards, return_sequences, zero_output_for_mask, False, path, &tape.s)
    return y, h, c, tape


def run_backward(Tape tape not None, BackwardPanels panels not None, dy, dh, dc, bint inputs):
    """Cotangents dy (like y), dh, dc (like the states; each may be None) -> dx or None, dh0, dc0, dkernel, drecurrent, dbias."""
    cdef Backward b
    cdef GateWeights weights = tape.weights
    cdef Buffer workspace
    cdef BackRoom room
    cdef unsigned long mode
    cdef cnp.ndarray dx = None, dh0, dc0, dkernel, drecurrent, dbias
    dtype = weights.kernel.dtype
    N, T = tape.x.shape[:2]
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
    dh0 = np.zeros(shape, dtype) if dh is None else dh.copy()
    dc0 = np.zeros(shape, dtype) if dc is None else dc.copy()
    dkernel, drecurrent = np.zeros_like(weights.kernel), np.zeros_like(weights.recurrent_kernel)
    dbias = None if weights.bias is None else np.zeros_like(weights.bias)
    if inputs:
        dx = np.empty_like(tape.x)
    if N == 0:
        return dx, dh0, dc0, dkernel, drecurrent, dbias
    memset(&b, 0, sizeof(b))
    b.s = &tape.s
    b.dy = NULL if dy is None else data(dy)
    b.dh, b.dc, b.dx = data(dh0), data(dc0), data(dx) if inputs else NULL
    b.dkernel, b.drecurrent, b.dbias = data(dkernel), data(drecurrent), NULL if dbias is None else data(dbias)
    b.h_panel, b.x_panel, b.no_bias = panels.h_panel, panels.x_panel, panels.no_bias
    plan_back(b.s, &b)
    workspace = weights.take(cut_back(&b, NULL, &room))
    b.workspace = workspace.start
    with nogil:
        mode = fl_flush_to_zero()
        run_back(&b)
        fl_restore_mode(mode)
    weights.spare.append(workspace)
    return dx, dh0, dc0, dkernel, drecurrent, dbias
