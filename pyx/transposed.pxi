# transposed.pxi: the weights of one layer as its backward pass wants them.


# Up to this many columns the product with a transposed kernel goes along the vectors of dz: in a panel most lanes would be empty.
cdef Py_ssize_t DOT_COLUMNS = 4


cdef inline bint sums_by_dots(GateWeights weights, Py_ssize_t columns) noexcept:
    return columns <= DOT_COLUMNS and weights.units >= weights.kernels.lanes


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

    def __cinit__(self, GateWeights weights not None, Py_ssize_t stride, bint gated_x, bint gated_h):
        cdef Py_ssize_t taps = weights.taps, channels = weights.channels, units = weights.units, k, at = 0
        self.stride, self.gated_x, self.gated_h = stride, gated_x, gated_h
        recurrent = np.asarray(weights.recurrent_kernel).reshape(taps, units, 4, units)
        kernel = np.asarray(weights.kernel).reshape(taps, channels, 4, units)
        h = [self.flipped(weights, part) for part in self.parts(recurrent, gated_h)]
        x = [self.flipped(weights, part) for p in range(stride) for part in self.parts(kernel[p::stride], gated_x)]
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

    cdef object flipped(self, GateWeights weights, kernel):
        """kernel [K,A,G,F] -> the matrix [blocks*K*G*W, A] whose rows stand in the order of a window of dz, last tap first.

        A single block that is not full has no rows for its padded lanes: [K*G*F, A] (see ``lanes_used``).
        """
        cdef Py_ssize_t W = min(weights.units, weights.kernels.lanes), blocks = (weights.units + W - 1) // W
        wide = np.zeros((*kernel.shape[:3], blocks * W), kernel.dtype)
        wide[..., : weights.units] = kernel
        wide = wide.reshape(*kernel.shape[:3], blocks, W)[::-1]
        rows = wide.size // kernel.shape[1] if kernel.shape[1] else 0  # -1 would not do where there are no features
        return np.ascontiguousarray(wide.transpose(3, 0, 2, 4, 1).reshape(rows, kernel.shape[1]))

    cdef fl_layout layout_of(self, GateWeights weights, matrix, bint of_x) except *:
        cdef fl_layout layout
        memset(&layout, 0, sizeof(layout))
        layout.columns = matrix.shape[1]
        layout.dots = of_x and sums_by_dots(weights, layout.columns)
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
