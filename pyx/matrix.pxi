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
        x = self.checked_windows(x, rows, taps, stride, dilation)
        z = np.empty((x.shape[0], rows, self.columns), self.dtype)
        self.project_windows(x, z, x.shape[0], x.shape[1], rows, x.shape[2], taps, stride, dilation)
        return z

    cdef cnp.ndarray checked_windows(self, x, Py_ssize_t rows, Py_ssize_t taps, Py_ssize_t stride, Py_ssize_t dilation):
        """x, once no window leaves it."""
        x = checked(x, self.dtype, 3, "x")
        if min(rows, taps, stride, dilation) < 1 or taps * x.shape[2] != self.depth:
            raise ValueError(f"x: {taps} taps of {x.shape[2]} channels do not make the depth {self.depth}")
        if (rows - 1) * stride + (taps - 1) * dilation + 1 > x.shape[1]:
            raise ValueError(f"x: {x.shape[1]} rows are too few for {rows} windows of {taps} taps")
        return x

    def bound(self, x, z, Py_ssize_t taps, Py_ssize_t stride, Py_ssize_t dilation):
        """A BoundProduct: ``windows`` of x [N,R,C] into z [N,rows,n]; rows and 1 tap of x [M,1,K] are ``affine``."""
        cdef BoundProduct product = BoundProduct.__new__(BoundProduct)
        z = checked(z, self.dtype, 3, "z")
        x = self.checked_windows(x, z.shape[1], taps, stride, dilation)
        if z.shape[0] != x.shape[0] or z.shape[2] != self.columns or not z.flags.writeable or np.may_share_memory(x, z):
            raise ValueError(f"z: expected a writable array ({x.shape[0]}, rows, {self.columns}) beside x, got {z.shape}")
        product.matrix, product.x, product.z = self, x, z
        product.taps, product.stride, product.dilation = taps, stride, dilation
        return product

    cdef int project_windows(self, cnp.ndarray x, cnp.ndarray z, Py_ssize_t N, Py_ssize_t R, Py_ssize_t S, Py_ssize_t C,
                             Py_ssize_t taps, Py_ssize_t stride, Py_ssize_t dilation) except -1:
        """z [N,S,n] from x [N,R,C], without the GIL unless it is short."""
        cdef fl_project p
        memset(&p, 0, sizeof(p))
        p.layout, p.init = self.layout, self.bias_panel
        p.x.panel, p.x.base, p.z = self.panels.start, data(x), data(z)
        p.x.groups, p.x.depth = 1, self.depth
        p.x.runs, p.x.length, p.x.step = taps, C, dilation * C
        if dilation == 1:  # the taps are one run
            p.x.runs, p.x.length = 1, taps * C
        if <double> N * S * self.depth * self.columns < SHORT_WORK:
            project_rows(self.kernels, &p, N, S, R * C, stride * C)
        else:
            with nogil:
                project_rows(self.kernels, &p, N, S, R * C, stride * C)
        return 0


cdef void project_rows(const fl_kernels *kernels, fl_project *p, Py_ssize_t N, Py_ssize_t S, Py_ssize_t sample,
                       Py_ssize_t step) noexcept nogil:
    """N samples of S rows, a sample ``sample`` and a row ``step`` reals after the one before; ROWS_AT_ONCE at a time, so that the
    offsets fit on the stack."""
    cdef ptrdiff_t[ROWS_AT_ONCE] rows, x_offset, z_offset
    cdef Py_ssize_t first = 0, k, row
    cdef unsigned long mode = fl_flush_to_zero()
    p.rows, p.x.offset, p.z_offset = rows, x_offset, z_offset
    while first < N * S:
        p.count = min(<Py_ssize_t> ROWS_AT_ONCE, N * S - first)
        for k in range(p.count):
            row = first + k
            rows[k], x_offset[k], z_offset[k] = k, row // S * sample + row % S * step, row * p.layout.columns
        kernels.project(p)
        first += p.count
    fl_restore_mode(mode)


cdef class BoundProduct:
    """``call()`` reads and writes the arrays that ``PackedMatrix.bound`` was given, by one thread at a time."""
    cdef PackedMatrix matrix
    cdef cnp.ndarray x, z
    cdef Py_ssize_t taps, stride, dilation

    def __init__(self):
        raise TypeError("made by PackedMatrix.bound")

    def __call__(self):
        cdef cnp.npy_intp *from_x
        if self.matrix is None:
            raise TypeError("made by PackedMatrix.bound")
        from_x = cnp.PyArray_DIMS(self.x)
        self.matrix.project_windows(self.x, self.z, from_x[0], from_x[1], cnp.PyArray_DIMS(self.z)[1], from_x[2], self.taps,
                                    self.stride, self.dilation)
