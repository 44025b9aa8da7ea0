# weights.pxi: memory for the kernels, and one layer's weights as they want them.

# Up to this many rows x is projected ahead: the panel of `kernel` is then read once a block instead of once a step.
cdef Py_ssize_t HOIST_ROWS = 3
# Panels of 64-byte vectors between these sizes get a gap of a cache line behind each row of 256 bytes. They come from a
# second-level cache, and rows 320 bytes apart come 1.2 times as fast as rows 256 bytes apart (docs/performance.md); beyond,
# the gaps cost more cache than they gain.
cdef Py_ssize_t PAD_FROM = 128 * 1024
cdef Py_ssize_t PAD_TO = 640 * 1024
# Up to this many times W units the weights are packed for rows in the lanes too.
cdef Py_ssize_t LANE_UNITS = 2


cdef class Buffer:
    """Aligned memory (64 bytes), freed with the object."""
    cdef char *start
    cdef void *block
    cdef Py_ssize_t size

    def __cinit__(self, Py_ssize_t size):
        self.block = malloc(size + 64)
        if self.block == NULL:
            raise MemoryError(f"cannot allocate {size} bytes")
        self.start = <char *> ((<uintptr_t> self.block + 63) // 64 * 64)
        self.size = size

    def __dealloc__(self):
        free(self.block)


cdef bint gains_by_gaps(const fl_kernels *kernels, const fl_layout *layout, Py_ssize_t depth) noexcept:
    """True where panels ``depth`` rows deep should be padded."""
    cdef Py_ssize_t size = kernels.bits // 8
    return kernels.lanes * size == 64 and PAD_FROM <= kernels.panel_size(layout, depth) * size <= PAD_TO


cdef Buffer taken(list spare, Py_ssize_t size):
    """A buffer of at least ``size`` bytes: the last of ``spare``, or a new one where it is too small or there is none."""
    cdef Buffer buffer
    try:
        buffer = spare.pop()
    except IndexError:
        return Buffer(size)
    return buffer if buffer.size >= size else Buffer(size)


cdef class GateWeights:
    """The weights of one layer: plain (BLAS) and packed into gate panels.

    LSTM: kernel [D,4U], recurrent_kernel [U,4U]; ConvLSTM1D: [K,C,4F], [K,F,4F]; bias [4U] or None; float32 or float64,
    C-contiguous. Also keeps the workspaces of finished calls for the next ones; concurrent calls never share one. ``last``: the
    layer's earlier weights, whose workspaces these take over.
    """
    cdef readonly cnp.ndarray kernel, recurrent_kernel, bias
    cdef const fl_kernels *kernels
    cdef readonly Py_ssize_t taps, channels, units
    cdef Buffer panels
    cdef char *x_panel
    cdef char *h_panel
    cdef char *bias_panel
    cdef bint padded                    # x_panel and h_panel are
    cdef char *lane_weights             # NULL where rows in the lanes never win: convolutions, many units
    cdef char *lane_bias
    cdef int zeros_ignored              # see ignores_zeros; below 0: not yet known
    cdef list spare
    cdef list spare_tapes               # memory of tapes that are gone
    cdef object back                    # BackwardPanels, once a call has needed them

    def __init__(self, kernel, recurrent_kernel, bias, GateWeights last=None):
        cdef int ndim = kernel.ndim
        if ndim not in (2, 3):
            raise ValueError(f"kernel: expected 2 or 3 axes, got {kernel.shape}")
        self.kernels = kernels_for(kernel.dtype)
        self.kernel = checked(kernel, kernel.dtype, ndim, "kernel")
        self.recurrent_kernel = checked(recurrent_kernel, kernel.dtype, ndim, "recurrent_kernel")
        self.bias = None if bias is None else checked(bias, kernel.dtype, 1, "bias")
        self.taps = kernel.shape[0] if ndim == 3 else 1
        self.channels, self.units = kernel.shape[ndim - 2], recurrent_kernel.shape[ndim - 2]
        if (self.units == 0 or kernel.shape[ndim - 1] != 4 * self.units or recurrent_kernel.shape[ndim - 1] != 4 * self.units
                or (ndim == 3 and (self.taps == 0 or recurrent_kernel.shape[0] != self.taps))):
            raise ValueError(f"kernel {kernel.shape} and recurrent_kernel {recurrent_kernel.shape} do not belong together")
        if bias is not None and bias.shape[0] != 4 * self.units:
            raise ValueError(f"bias: expected shape ({4 * self.units},), got {bias.shape}")
        self.zeros_ignored = -1
        self.spare, self.spare_tapes = ([], []) if last is None else (last.spare, last.spare_tapes)
        self.pack(ndim == 2 and self.units <= LANE_UNITS * self.kernels.lanes)

    cdef int pack(self, bint for_lanes) except -1:
        """Allocates and fills the panels."""
        cdef fl_layout layout
        cdef Py_ssize_t size = self.kernels.bits // 8, x_size, h_size, b_size, lane_size = 0, width = 4 * self.units
        cdef const void *bias = NULL if self.bias is None else data(self.bias)
        memset(&layout, 0, sizeof(layout))
        layout.columns, layout.gates = self.units, 1
        b_size = padded(self.kernels.panel_size(&layout, 1) * size)
        layout.padded = self.padded = gains_by_gaps(self.kernels, &layout, self.taps * (self.channels + self.units))
        x_size = padded(self.kernels.panel_size(&layout, self.taps * self.channels) * size)
        h_size = padded(self.kernels.panel_size(&layout, self.taps * self.units) * size)
        if for_lanes:
            lane_size = padded((self.channels + self.units) * width * size)
        self.panels = Buffer(x_size + h_size + b_size + lane_size + padded(width * size))
        self.x_panel = self.panels.start
        self.h_panel = self.x_panel + x_size
        self.bias_panel = self.h_panel + h_size
        self.kernels.pack(&layout, self.taps * self.channels, data(self.kernel), width, self.x_panel)
        self.kernels.pack(&layout, self.taps * self.units, data(self.recurrent_kernel), width, self.h_panel)
        layout.padded = 0
        if bias == NULL:
            memset(self.bias_panel, 0, b_size)
        else:
            self.kernels.pack(&layout, 1, bias, width, self.bias_panel)
        if for_lanes:
            self.lane_weights = self.bias_panel + b_size
            self.lane_bias = self.lane_weights + lane_size
            self.kernels.pack_lanes(self.channels, self.units, data(self.kernel), data(self.recurrent_kernel), bias,
                                    self.lane_weights, self.lane_bias)
        return 0

    cdef Path fused_path(self, Py_ssize_t batch, Py_ssize_t steps) noexcept:
        """How the fused kernel runs ``batch`` samples: by what its vectors compute, padding included. Same bits either way."""
        cdef Py_ssize_t W = self.kernels.lanes
        cdef Py_ssize_t panel_vectors = (self.units + W - 1) // W * batch, lane_vectors = (batch + W - 1) // W * self.units
        if self.lane_weights != NULL and 5 * lane_vectors <= 4 * panel_vectors:
            return LANES
        if self.kernel.ndim != 2 or batch > HOIST_ROWS:
            return FUSED
        return STREAM if batch == 1 else HOISTED if steps > 1 else FUSED

    cdef bint ignores_zeros(self) except -1:
        """True where a product of a state of zeros adds nothing but a plus sign to a zero: the recurrent kernel holds neither
        infinities nor NaN, and each column a number without a minus sign."""
        if self.zeros_ignored < 0:
            rows = np.asarray(self.recurrent_kernel).reshape(-1, 4 * self.units)
            self.zeros_ignored = bool(np.isfinite(rows).all() and not np.signbit(rows).all(axis=0).any())
        return self.zeros_ignored

    def backward_panels(self, Py_ssize_t stride, bint gated_x, bint gated_h):
        """The transposed kernels for the backward pass (see BackwardPanels), made at the first need."""
        cdef BackwardPanels back = self.back
        if back is None or back.gated_x != gated_x or back.gated_h != gated_h:
            back = self.back = BackwardPanels(self, stride, gated_x, gated_h)
        return back

    cdef Buffer take(self, Py_ssize_t size):
        """A workspace of at least ``size`` bytes: one that a finished call left, or a new one."""
        return taken(self.spare, size)

    cdef Buffer take_tape(self, Py_ssize_t size):
        """Memory for a tape: what the last one left, or new memory. Fresh pages would cost more than the tape's writing."""
        return taken(self.spare_tapes, size)
