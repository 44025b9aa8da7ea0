# matrix.pxi: products with a packed matrix, for Dense and the other glue layers: the same panels and chains as the gates, so
# that a row's result does not depend on the batch it came in.

cdef enum:
    ROWS_AT_ONCE = 256


cdef class PackedMatrix:
    """matrix [K,n] and bias [n] (or None), packed: ``affine(x [M,K])`` -> x @ matrix + bias [M,n], float32 or float64."""
    cdef const fl_kernels *kernels
    cdef readonly Py_ssize_t depth, columns
    cdef readonly object dtype
    cdef fl_layout layout
    cdef Buffer panels
    cdef char *bias_panel

    def __init__(self, matrix, bias):
        cdef Py_ssize_t size, panel
        self.dtype = matrix.dtype
        self.kernels = kernels_for(self.dtype)
        matrix = checked(matrix, self.dtype, 2, "matrix")
        self.depth, self.columns = matrix.shape[0], matrix.shape[1]
        self.layout.columns, self.layout.gates = self.columns, 0
        size = self.kernels.bits // 8
        panel = padded(self.kernels.panel_size(&self.layout, self.depth) * size)
        self.panels = Buffer(panel + padded(self.kernels.panel_size(&self.layout, 1) * size))
        self.bias_panel = self.panels.start + panel
        self.kernels.pack(&self.layout, self.depth, data(matrix), self.columns, self.panels.start)
        if bias is None:
            memset(self.bias_panel, 0, self.kernels.panel_size(&self.layout, 1) * size)
        else:
            if (<object> checked(bias, self.dtype, 1, "bias")).shape[0] != self.columns:
                raise ValueError(f"bias: expected shape ({self.columns},), got {bias.shape}")
            self.kernels.pack(&self.layout, 1, data(bias), self.columns, self.bias_panel)

    def affine(self, x):
        """x [M,K], C-contiguous -> a new array [M,n]."""
        cdef Py_ssize_t M, first, k, size = self.kernels.bits // 8
        cdef cnp.ndarray z
        cdef const char *from_x
        cdef char *to_z
        cdef fl_project p
        cdef ptrdiff_t[ROWS_AT_ONCE] rows, x_offset, z_offset
        cdef unsigned long mode
        x = checked(x, self.dtype, 2, "x")
        M = x.shape[0]
        if x.shape[1] != self.depth:
            raise ValueError(f"x: expected shape (M, {self.depth}), got {x.shape}")
        z = np.empty((M, self.columns), self.dtype)
        from_x, to_z = data(x), data(z)
        memset(&p, 0, sizeof(p))
        p.layout, p.rows, p.z_offset, p.init = self.layout, rows, z_offset, self.bias_panel
        p.x.panel, p.x.offset, p.x.runs, p.x.length = self.panels.start, x_offset, 1, self.depth
        for k in range(ROWS_AT_ONCE):
            rows[k], x_offset[k], z_offset[k] = k, k * self.depth, k * self.columns
        with nogil:
            mode = fl_flush_to_zero()
            first = 0
            while first < M:
                p.count = min(<Py_ssize_t> ROWS_AT_ONCE, M - first)
                p.x.base, p.z = from_x + first * self.depth * size, to_z + first * self.columns * size
                self.kernels.project(&p)
                first += ROWS_AT_ONCE
            fl_restore_mode(mode)
        return z
