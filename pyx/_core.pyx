# _core: where Python and C meet. Arrays -> pointers -> one nogil call -> arrays; every check of shapes and dtypes that memory
# safety depends on stands here, the friendly ones stand in fastlstm.layers. Used by fastlstm.backends.cpu only.
"""Compiled kernels of fastlstm (see ``backends.cpu``)."""

import os
import time

cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_GetName, PyCapsule_GetPointer
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport uint8_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcpy, memset

import numpy as np

cnp.import_array()

cdef extern from "fastlstm/fastlstm.h":
    enum: FL_ACT_ELEMENTWISE, FL_ACT_COUNT

    ctypedef struct fl_layout:
        ptrdiff_t columns
        int gates

    ctypedef struct fl_product:
        const void *panel
        const void *base
        const ptrdiff_t *offset
        ptrdiff_t runs, length, step

    ctypedef struct fl_step:
        ptrdiff_t units, count
        const ptrdiff_t *rows
        fl_product x, h
        void *init
        const ptrdiff_t *init_offset
        void *c
        void *h_out
        const ptrdiff_t *state_offset
        void *y
        const ptrdiff_t *y_offset
        int activation, recurrent_activation, rounding
        int descending

    ctypedef struct fl_project:
        fl_layout layout
        ptrdiff_t count
        const ptrdiff_t *rows
        fl_product x, h
        const void *init
        void *z
        const ptrdiff_t *z_offset
        int padded

    ctypedef struct fl_lanes:
        ptrdiff_t features, units, padded_rows
        const void *weights
        const void *bias
        const void *x
        const void *h
        void *c
        void *h_out
        const void *mask
        void *output
        int zero_output
        int activation, recurrent_activation, rounding

    ctypedef struct fl_kernels:
        const char *isa
        int bits, lanes
        ptrdiff_t (*panel_size)(const fl_layout *layout, ptrdiff_t depth) noexcept nogil
        void (*pack)(const fl_layout *layout, ptrdiff_t depth, const void *matrix, ptrdiff_t stride,
                     void *panel) noexcept nogil
        void (*project)(const fl_project *) noexcept nogil
        void (*step)(const fl_step *) noexcept nogil
        void (*cell_rows)(const fl_step *) noexcept nogil
        void (*pack_lanes)(ptrdiff_t features, ptrdiff_t units, const void *kernel, const void *recurrent_kernel, const void *bias,
                           void *weights, void *lane_bias) noexcept nogil
        void (*to_lanes)(const void *base, ptrdiff_t stride, ptrdiff_t count, ptrdiff_t width, ptrdiff_t padded_rows,
                         void *out) noexcept nogil
        void (*mask_lanes)(const unsigned char *mask, ptrdiff_t stride, ptrdiff_t count, ptrdiff_t padded_rows,
                           void *out) noexcept nogil
        void (*from_lanes)(const void *inp, ptrdiff_t padded_rows, ptrdiff_t count, ptrdiff_t width, void *base,
                           ptrdiff_t stride) noexcept nogil
        void (*step_lanes)(const fl_lanes *) noexcept nogil
        void (*activate_row)(int id, void *z, ptrdiff_t n) noexcept nogil
        void (*activate_grad)(int id, const void *x, const void *y, void *dy_dx, ptrdiff_t n) noexcept nogil
        void (*round_storage)(int rounding, void *x, ptrdiff_t n) noexcept nogil
        void (*spin_fma)(ptrdiff_t rounds, void *lanes) noexcept nogil

cdef extern from "dispatch.h":
    int fl_isa_count() nogil
    const char *fl_isa_name(int k) nogil
    int fl_isa_usable(int k) nogil
    const fl_kernels *fl_isa_kernels(int k, int bits) nogil
    unsigned long fl_flush_to_zero() nogil
    void fl_restore_mode(unsigned long mode) nogil

include "blas.pxi"
include "sequence.pxi"
include "lanes.pxi"

# ---- the instruction set, chosen once at import ---------------------------------------------------------------------


def isa_available():
    """Names of the instruction sets that this processor runs, from the plainest to the widest."""
    return [fl_isa_name(k).decode() for k in range(fl_isa_count()) if fl_isa_usable(k)]


cdef int choose_isa() except -1:
    cdef int k, best = 0
    forced = os.environ.get("FASTLSTM_ISA")
    available = isa_available()
    if forced and forced not in available:
        raise ImportError(f"FASTLSTM_ISA={forced!r} cannot be used: this build and processor offer {', '.join(available)}")
    for k in range(fl_isa_count()):
        if fl_isa_usable(k) and (not forced or fl_isa_name(k).decode() == forced):
            best = k
    return best


cdef int ISA = choose_isa()
isa = fl_isa_name(ISA).decode()


cdef const fl_kernels *kernels_for(object dtype) except NULL:
    if dtype == np.float32:
        return fl_isa_kernels(ISA, 32)
    if dtype == np.float64:
        return fl_isa_kernels(ISA, 64)
    raise TypeError(f"expected float32 or float64, got {dtype}")


cdef cnp.ndarray checked(object array, object dtype, int ndim, str name):
    """``array`` as a C-contiguous, aligned ndarray of ``dtype`` with ``ndim`` axes, or an error."""
    if (not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != ndim
            or not (array.flags.c_contiguous and array.flags.aligned)):
        got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{name}: expected a C-contiguous array of {dtype} with {ndim} axes, got {got}")
    return array


cdef inline char *data(cnp.ndarray array) noexcept:
    return <char *> cnp.PyArray_DATA(array)


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


# ---- LSTM -----------------------------------------------------------------------------------------------------------

# Bytes of projected x that a block of time steps may fill, so that it stays in a second-level cache beside the panels.
cdef Py_ssize_t PROJECTION_BYTES = 256 * 1024
# Up to this many rows x is projected ahead: the panel of `kernel` is then read once a block instead of once a step.
cdef Py_ssize_t HOIST_ROWS = 3
# Up to this many times W units the weights are packed for rows in the lanes too.
cdef Py_ssize_t LANE_UNITS = 2


cdef class LSTMWeights:
    """The weights of one layer as the kernels want them: plain (BLAS) and packed into gate panels.

    kernel [D,4U], recurrent_kernel [U,4U], bias [4U] or None; float32 or float64, C-contiguous. Also keeps the workspaces
    of finished calls for the next ones; concurrent calls never share one.
    """
    cdef readonly cnp.ndarray kernel, recurrent_kernel, bias
    cdef const fl_kernels *kernels
    cdef readonly Py_ssize_t features, units
    cdef Buffer panels
    cdef char *x_panel
    cdef char *h_panel
    cdef char *bias_panel
    cdef char *lane_weights             # NULL where U is too large for rows in the lanes ever to win
    cdef char *lane_bias
    cdef list spare

    def __init__(self, kernel, recurrent_kernel, bias):
        cdef fl_layout layout
        cdef Py_ssize_t x_size, h_size, b_size, size, lane_size = 0
        self.kernels = kernels_for(kernel.dtype)
        self.kernel = checked(kernel, kernel.dtype, 2, "kernel")
        self.recurrent_kernel = checked(recurrent_kernel, kernel.dtype, 2, "recurrent_kernel")
        self.features, self.units = kernel.shape[0], recurrent_kernel.shape[0]
        self.bias = None if bias is None else checked(bias, kernel.dtype, 1, "bias")
        if kernel.shape[1] != 4 * self.units or recurrent_kernel.shape[1] != 4 * self.units or self.units == 0:
            raise ValueError(f"kernel {kernel.shape} and recurrent_kernel {recurrent_kernel.shape} do not belong together")
        if bias is not None and bias.shape[0] != 4 * self.units:
            raise ValueError(f"bias: expected shape ({4 * self.units},), got {bias.shape}")
        self.spare = []
        layout.columns, layout.gates = self.units, 1
        size = self.kernels.bits // 8
        x_size = padded(self.kernels.panel_size(&layout, self.features) * size)
        h_size = padded(self.kernels.panel_size(&layout, self.units) * size)
        b_size = padded(self.kernels.panel_size(&layout, 1) * size)
        if self.units <= LANE_UNITS * self.kernels.lanes:
            lane_size = padded((self.features + self.units) * self.units * 4 * size)
        self.panels = Buffer(x_size + h_size + b_size + lane_size + padded(4 * self.units * size))
        self.x_panel = self.panels.start
        self.h_panel = self.x_panel + x_size
        self.bias_panel = self.h_panel + h_size
        self.kernels.pack(&layout, self.features, data(self.kernel), 4 * self.units, self.x_panel)
        self.kernels.pack(&layout, self.units, data(self.recurrent_kernel), 4 * self.units, self.h_panel)
        if self.bias is None:
            memset(self.bias_panel, 0, b_size)
        else:
            self.kernels.pack(&layout, 1, data(self.bias), 4 * self.units, self.bias_panel)
        if lane_size:
            self.lane_weights = self.bias_panel + b_size
            self.lane_bias = self.lane_weights + lane_size
            self.kernels.pack_lanes(self.features, self.units, data(self.kernel), data(self.recurrent_kernel),
                                    NULL if self.bias is None else data(self.bias), self.lane_weights, self.lane_bias)

    cdef Path fused_path(self, Py_ssize_t batch, Py_ssize_t steps) noexcept:
        """How the fused kernel runs ``batch`` samples: by what its vectors compute, padding included. Same bits either way."""
        cdef Py_ssize_t W = self.kernels.lanes
        cdef Py_ssize_t panel_vectors = (self.units + W - 1) // W * batch, lane_vectors = (batch + W - 1) // W * self.units
        if self.lane_weights != NULL and 5 * lane_vectors <= 4 * panel_vectors:
            return LANES
        return HOISTED if batch <= HOIST_ROWS and steps > 1 else FUSED

    cdef Buffer take(self, Py_ssize_t size):
        cdef Buffer buffer
        try:
            buffer = self.spare.pop()
        except IndexError:
            return Buffer(size)
        return buffer if buffer.size >= size else Buffer(size)


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


cdef void start(LSTMWeights weights, Sequence *s, Path path) noexcept:
    """Points ``s`` (N, T, D, U set) to the weights and settles its path and block."""
    s.kernels = weights.kernels
    s.x_panel, s.h_panel, s.bias_panel = weights.x_panel, weights.h_panel, weights.bias_panel
    s.lane_weights, s.lane_bias = weights.lane_weights, weights.lane_bias
    s.kernel, s.recurrent_kernel = data(weights.kernel), data(weights.recurrent_kernel)
    s.bias = NULL if weights.bias is None else data(weights.bias)
    s.path = weights.fused_path(s.N, s.T) if path == FUSED else path
    s.block = 1
    if s.path == HOISTED or s.path == BLAS:
        s.block = max(1, min(s.T, PROJECTION_BYTES // (s.N * z_row(s) * (s.kernels.bits // 8))))


cdef int execute(LSTMWeights weights, Sequence *s) except -1:
    """Runs ``s`` without the GIL, flushing subnormals; where s.h or s.c is NULL nobody wants the final states."""
    cdef Py_ssize_t state = padded(s.N * s.U * (s.kernels.bits // 8)), size = workspace_size(s)
    cdef Buffer workspace = weights.take(size + 2 * state)
    cdef unsigned long mode
    if s.mask != NULL and memchr(s.mask, 0, s.N * s.T) == NULL:
        s.mask = NULL  # nothing is masked
    s.workspace = workspace.start
    if s.h == NULL:
        s.h = workspace.start + size
    if s.c == NULL:
        s.c = workspace.start + size + state
    with nogil:
        mode = fl_flush_to_zero()
        if s.path == LANES:
            run_lanes(s)
        else:
            run(s)
        fl_restore_mode(mode)
    weights.spare.append(workspace)
    return 0


cdef object check_call(LSTMWeights weights, x, h0, c0, mask, int activation, int recurrent_activation, object path):
    """What memory safety depends on; ValueError otherwise. Returns x as an ndarray."""
    dtype = weights.kernel.dtype
    x = checked(x, dtype, 3, "x")
    if x.shape[2] != weights.features or x.shape[1] < 1:
        raise ValueError(f"x: expected shape (N, T >= 1, {weights.features}), got {x.shape}")
    for name, state in (("h", h0), ("c", c0)):
        if state is not None and (<object> checked(state, dtype, 2, name)).shape != (x.shape[0], weights.units):
            raise ValueError(f"{name}: expected shape ({x.shape[0]}, {weights.units}), got {state.shape}")
    if mask is not None and (<object> checked(mask, np.bool_, 2, "mask")).shape != x.shape[:2]:
        raise ValueError(f"mask: expected shape {x.shape[:2]}, got {mask.shape}")
    if not (0 <= activation < FL_ACT_COUNT and 0 <= recurrent_activation < FL_ACT_COUNT):
        raise ValueError(f"unknown activation number {activation} or {recurrent_activation}")
    if path == "fused" and (activation >= FL_ACT_ELEMENTWISE or recurrent_activation >= FL_ACT_ELEMENTWISE):
        raise ValueError("the fused kernel takes elementwise activations only")
    return x


def lstm_forward(LSTMWeights weights not None, x, h0, c0, mask, int activation, int recurrent_activation, int rounding,
                 bint go_backwards, bint return_sequences, bint zero_output_for_mask, str path):
    """x [N,T,D], h0 and c0 [N,U] (None: zeros), mask [N,T] bool or None -> y [N,T,U] or [N,U], h [N,U], c [N,U].

    path: "fused", "packed" or "blas". Activations by number (fastlstm.h). Releases the GIL for the whole sequence.
    """
    cdef Sequence s
    x = check_call(weights, x, h0, c0, mask, activation, recurrent_activation, path)
    memset(&s, 0, sizeof(s))
    s.N, s.T, s.D, s.U = x.shape[0], x.shape[1], x.shape[2], weights.units
    cdef cnp.ndarray h = np.empty((s.N, s.U), x.dtype), c = np.empty((s.N, s.U), x.dtype)
    cdef cnp.ndarray y = np.empty((s.N, s.T, s.U), x.dtype) if return_sequences else np.empty((s.N, s.U), x.dtype)
    if s.N == 0:
        return y, h, c
    s.activation, s.recurrent_activation, s.rounding = activation, recurrent_activation, rounding
    s.go_backwards, s.return_sequences, s.zero_output_for_mask = go_backwards, return_sequences, zero_output_for_mask
    s.x = data(x)
    s.h0 = NULL if h0 is None else data(h0)
    s.c0 = NULL if c0 is None else data(c0)
    s.mask = NULL if mask is None else <const uint8_t *> data(mask)
    s.y, s.h, s.c = data(y), data(h), data(c)
    start(weights, &s, path_named(path))
    execute(weights, &s)
    return y, h, c


include "plan.pxi"
include "matrix.pxi"

# ---- small doors: activations, rounding, the yardstick --------------------------------------------------------------


def activate(int id, x):
    """A new array of x's shape: activation number ``id`` on every number (over the last axis for softmax and its kin)."""
    cdef cnp.ndarray out = np.array(x, order="C", copy=True)
    cdef const fl_kernels *kernels = kernels_for(out.dtype)
    cdef Py_ssize_t n = out.size, row = n, k
    cdef char *z = data(out)
    if not 0 <= id < FL_ACT_COUNT:
        raise ValueError(f"unknown activation number {id}")
    if id >= FL_ACT_ELEMENTWISE:
        if x.ndim == 0:
            raise ValueError("softmax and its kin need at least one axis")
        row = x.shape[x.ndim - 1]
    if n == 0:
        return out
    with nogil:
        for k in range(n // row):
            kernels.activate_row(id, z + k * row * (kernels.bits // 8), row)
    return out


def activate_grad(int id, x, y):
    """dy/dx of an elementwise activation at pre-activations x, given y = activate(id, x)."""
    cdef cnp.ndarray out = np.empty_like(x, order="C")
    cdef const fl_kernels *kernels = kernels_for(out.dtype)
    if not 0 <= id < FL_ACT_ELEMENTWISE:
        raise ValueError(f"activation number {id} is not elementwise")
    x, y = checked(x, out.dtype, x.ndim, "x"), checked(y, out.dtype, x.ndim, "y")
    if y.shape != x.shape:
        raise ValueError(f"y: expected shape {x.shape}, got {y.shape}")
    kernels.activate_grad(id, data(x), data(y), data(out), x.size)
    return out


def round_storage(int rounding, x):
    """A new float32 array, rounded to float16 (rounding = 1) or bfloat16 (2)."""
    cdef cnp.ndarray out = np.array(x, order="C", copy=True)
    kernels_for(out.dtype).round_storage(rounding, data(out), out.size)
    return out


def peak_gflops(dtype="float32", double seconds=0.02):
    """1e9 float operations a second that the chosen instruction set does at best, in 12 chains of multiply-adds."""
    cdef const fl_kernels *kernels = kernels_for(np.dtype(dtype))
    cdef Buffer lanes = Buffer(12 * 64)
    cdef Py_ssize_t rounds = 100000
    cdef double best = 0, start, taken, spent = 0
    memset(lanes.start, 0, 12 * 64)
    while spent < seconds:
        start = time.perf_counter()
        with nogil:
            kernels.spin_fma(rounds, lanes.start)
        taken = time.perf_counter() - start
        spent += taken
        best = max(best, 12.0 * kernels.lanes * 2 * rounds / taken / 1e9)
    return best
