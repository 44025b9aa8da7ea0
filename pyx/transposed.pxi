# transposed.pxi: the weights of one layer as its backward pass wants them.


# Up to this many columns the product with a transposed kernel goes along the vectors of dz: in a panel most lanes would be empty.
cdef Py_ssize_t DOT_COLUMNS = 4
# And from so many units a column on: with fewer the panel costs no more.
cdef Py_ssize_t DOT_UNITS = 4


cdef inline int sums_by_dots(GateWeights weights, Py_ssize_t columns, bint by_blocks) noexcept:
    """fl_layout.dots of the product that gives dx."""
    if columns > DOT_COLUMNS:
        return 0
    if by_blocks:
        return FL_DOTS if weights.units >= weights.kernels.lanes else 0
    return FL_DOTS_OF_GROUPS if weights.units >= DOT_UNITS * columns else 0


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
    cdef bint padded_x, padded_h        # the panels of x and of h
    cdef readonly int dots_x            # fl_layout.dots of the panel of x

    def __cinit__(self, GateWeights weights not None, Py_ssize_t stride, bint gated_x, bint gated_h):
        cdef Py_ssize_t taps = weights.taps, channels = weights.channels, units = weights.units, k, at = 0
        self.stride, self.gated_x, self.gated_h = stride, gated_x, gated_h
        self.dots_x = sums_by_dots(weights, channels, gated_x or gated_h)
        recurrent = np.asarray(weights.recurrent_kernel).reshape(taps, units, 4, units)
        kernel = np.asarray(weights.kernel).reshape(taps, channels, 4, units)
        h = [self.flipped(weights, part, False) for part in self.parts(recurrent, gated_h)]
        phases = [part for p in range(stride) for part in self.parts(kernel[p::stride], gated_x)]
        x = [self.flipped(weights, part, self.dots_x != 0) for part in phases]
        widest = self.size(weights, np.empty((1, max(units, channels)), kernel.dtype), False)
        self.memory = Buffer(sum([self.size(weights, matrix, k >= len(h)) for k, matrix in enumerate(h + x)]) + widest)
        memset(self.memory.start, 0, self.memory.size)
        self.h_panel = <const char **> malloc((len(h) + len(x)) * sizeof(char *))
        if self.h_panel == NULL:
            raise MemoryError("cannot allocate the table of panels")
        self.x_panel = self.h_panel + len(h)
        self.padded_h, self.padded_x = self.layout_of(weights, h[0], False).padded, self.layout_of(weights, x[0], True).padded
        for k, matrix in enumerate(h + x):
            self.h_panel[k] = self.fill(weights, matrix, k >= len(h), &at)
        self.no_bias = self.memory.start + at

    def __dealloc__(self):
        free(self.h_panel)

    cdef list parts(self, kernel, bint gated):
        """kernel [K,A,4,F] as it is, or its four gates."""
        return [kernel[:, :, g : g + 1] for g in range(4)] if gated else [kernel]

    cdef object flipped(self, GateWeights weights, kernel, bint dots):
        """kernel [K,A,G,F] -> a matrix of A columns whose rows stand in the order of a window of dz (``read_windows``).

        The last tap first. All gates: [K*vectors*W, A], the vectors in the order of gate_backward.h; one: [blocks*K*W, A]. A
        single block that is not full has no rows for its padded lanes (see ``lanes_used``), unless the product sums along whole
        vectors (``dots``).
        """
        cdef Py_ssize_t lanes = weights.kernels.lanes, W = lanes if dots else min(weights.units, lanes)
        cdef Py_ssize_t blocks = (weights.units + W - 1) // W, group = 512 // (weights.kernels.bits * lanes), first
        taps, columns, gates = kernel.shape[:3]
        wide = np.zeros((*kernel.shape[:3], blocks * W), kernel.dtype)
        wide[..., : weights.units] = kernel
        wide = wide.reshape(taps, columns, gates, blocks, W)[::-1]
        rows = wide.size // columns if columns else 0  # -1 would not do where there are no features
        if gates == 1:
            return np.ascontiguousarray(wide[:, :, 0].transpose(2, 0, 3, 1).reshape(rows, columns))
        if self.gated_x or self.gated_h:
            group = 1
        parts = [wide[:, :, :, first : first + group] for first in range(0, blocks, group)]
        vectors = np.concatenate([part.reshape(taps, columns, 4 * part.shape[3], W) for part in parts], axis=2)
        return np.ascontiguousarray(vectors.transpose(0, 2, 3, 1).reshape(rows, columns))

    cdef fl_layout layout_of(self, GateWeights weights, matrix, bint of_x) except *:
        cdef fl_layout layout
        memset(&layout, 0, sizeof(layout))
        layout.columns = matrix.shape[1]
        layout.dots = self.dots_x if of_x else 0
        if layout.columns > 2 * weights.kernels.lanes and self.stride == 1:  # phases of a stride differ in depth
            layout.padded = gains_by_gaps(weights.kernels, &layout, matrix.shape[0])
        return layout

    cdef Py_ssize_t size(self, GateWeights weights, matrix, bint of_x) except -1:
        cdef fl_layout layout = self.layout_of(weights, matrix, of_x)
        return padded(weights.kernels.panel_size(&layout, matrix.shape[0]) * (weights.kernels.bits // 8))

    cdef char *fill(self, GateWeights weights, cnp.ndarray matrix, bint of_x, Py_ssize_t *at) except NULL:
        cdef fl_layout layout = self.layout_of(weights, matrix, of_x)
        cdef char *to = self.memory.start + at[0]
        weights.kernels.pack(&layout, (<object> matrix).shape[0], data(matrix), layout.columns, to)
        at[0] += self.size(weights, matrix, of_x)
        return to
