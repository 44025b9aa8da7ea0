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
        memset(&self.layout, 0, sizeof(self.layout))
        self.layout.columns = self.columns
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
        """x [M,K], C-contiguous -> a new array [M,n]: x @ matrix + bias."""
        x = checked(x, self.dtype, 2, "x")
        if x.shape[1] != self.depth:
            raise ValueError(f"x: expected shape (M, {self.depth}), got {x.shape}")
        z = np.empty((x.shape[0], self.columns), self.dtype)
        self.project_windows(x, z, x.shape[0], 1, 1, self.depth, 1, 1, 1)
        return z

    def windows(self, x, Py_ssize_t rows, Py_ssize_t taps, Py_ssize_t stride, Py_ssize_t dilation):
        """x [N,R,C], C-contiguous, taps*C = K -> [N,rows,n]: row m is the ``taps`` rows m*stride, m*stride + dilation … laid end
        to end, @ matrix + bias. A one-dimensional convolution of an input that is padded already."""
        x = checked(x, self.dtype, 3, "x")
        if min(rows, taps, stride, dilation) < 1 or taps * x.shape[2] != self.depth:
            raise ValueError(f"x: {taps} taps of {x.shape[2]} channels do not make the depth {self.depth}")
        if (rows - 1) * stride + (taps - 1) * dilation + 1 > x.shape[1]:
            raise ValueError(f"x: {x.shape[1]} rows are too few for {rows} windows of {taps} taps")
        z = np.empty((x.shape[0], rows, self.columns), self.dtype)
        self.project_windows(x, z, x.shape[0], x.shape[1], rows, x.shape[2], taps, stride, dilation)
        return z

    cdef int project_windows(self, cnp.ndarray x, cnp.ndarray z, Py_ssize_t N, Py_ssize_t R, Py_ssize_t S, Py_ssize_t C,
                             Py_ssize_t taps, Py_ssize_t stride, Py_ssize_t dilation) except -1:
        """z [N,S,n] from x [N,R,C]; rows are taken ROWS_AT_ONCE at a time, so that the offsets fit on the stack."""
        cdef Py_ssize_t first = 0, k, row
        cdef char *from_x = data(x)
        cdef char *to_z = data(z)
        cdef fl_project p
        cdef ptrdiff_t[ROWS_AT_ONCE] rows, x_offset, z_offset
        cdef unsigned long mode
        memset(&p, 0, sizeof(p))
        p.layout, p.rows, p.z_offset, p.init = self.layout, rows, z_offset, self.bias_panel
        p.x.panel, p.x.base, p.x.offset, p.z = self.panels.start, from_x, x_offset, to_z
        p.x.groups, p.x.depth = 1, self.depth
        p.x.runs, p.x.length, p.x.step = taps, C, dilation * C
        if dilation == 1:  # the taps are one run
            p.x.runs, p.x.length = 1, taps * C
        with nogil:
            mode = fl_flush_to_zero()
            while first < N * S:
                p.count = min(<Py_ssize_t> ROWS_AT_ONCE, N * S - first)
                for k in range(p.count):
                    row = first + k
                    rows[k], x_offset[k], z_offset[k] = k, (row // S * R + row % S * stride) * C, row * self.columns
                self.kernels.project(&p)
                first += p.count
            fl_restore_mode(mode)
        return 0
