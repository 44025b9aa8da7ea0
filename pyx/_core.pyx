# _core: where Python and C meet. Arrays -> pointers -> one nogil call -> arrays; every check of shapes and dtypes that memory
# safety depends on stands here, the friendly ones stand in fastlstm.layers. Used by fastlstm.backends.cpu only.
"""Compiled kernels of fastlstm (see ``backends.cpu``)."""

import os
import time

cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_GetName, PyCapsule_GetPointer
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uint8_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcpy, memset

import numpy as np

cnp.import_array()

cdef extern from "fastlstm/arguments.h":
    enum: FL_ACT_ELEMENTWISE, FL_ACT_COUNT
    enum: FL_DOTS, FL_DOTS_OF_GROUPS

    ctypedef struct fl_layout:
        ptrdiff_t columns
        int gates, padded, dots

    ctypedef struct fl_product:
        const void *panel
        const void *base
        const ptrdiff_t *offset
        ptrdiff_t runs, length, step
        ptrdiff_t groups, group_step
        ptrdiff_t depth, gate_step
        int padded

    ctypedef struct fl_step:
        ptrdiff_t units, count
        const ptrdiff_t *rows
        fl_product x, h
        void *init
        const ptrdiff_t *init_offset
        const void *c
        void *c_out
        void *h_out
        const ptrdiff_t *c_offset
        const ptrdiff_t *h_offset
        void *y
        const ptrdiff_t *y_offset
        void *gates
        ptrdiff_t gates_rows
        int activation, recurrent_activation, rounding
        int descending

    ctypedef struct fl_stream:
        ptrdiff_t units, steps, features
        const void *x_panel
        const void *h_panel
        const void *bias_panel
        const void *x
        const void *h
        const void *c
        void *h_out
        void *c_out
        void *y
        void *gates
        ptrdiff_t x_step, y_step
        ptrdiff_t h_step, c_step
        ptrdiff_t first
        void *z
        ptrdiff_t z_rows
        int padded
        int activation, recurrent_activation, rounding
        ptrdiff_t first_block, blocks
        void (*meet)(void *meeting) noexcept nogil
        void *meeting

    ctypedef struct fl_project:
        fl_layout layout
        ptrdiff_t count
        const ptrdiff_t *rows
        fl_product x, h
        const void *init
        void *z
        const ptrdiff_t *z_offset
        int padded

    ctypedef struct fl_step_back:
        ptrdiff_t units, count
        const ptrdiff_t *rows
        const void *gates
        ptrdiff_t gates_rows
        const void *c_before
        const void *c
        const ptrdiff_t *c_offset
        const void *dy
        const ptrdiff_t *dy_offset
        ptrdiff_t dy_step
        const void *dh
        void *dc
        void *dz
        const ptrdiff_t *dz_row
        ptrdiff_t dz_depth
        int by_blocks
        int activation, recurrent_activation

    ctypedef struct fl_outer:
        ptrdiff_t units, count, depth, pitch, panel_depth, gate_step
        int by_blocks
        const void *columns
        const void *panel
        void *z

    ctypedef struct fl_lanes:
        ptrdiff_t features, units, padded_rows
        const void *weights
        const void *bias
        const void *x
        const void *h
        void *c
        void *h_out
        const void *mask_bytes
        int mask_step
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
        void (*stream)(const fl_stream *) noexcept nogil
        void (*cell_rows)(const fl_step *) noexcept nogil
        void (*step_back)(const fl_step_back *) noexcept nogil
        void (*outer)(const fl_outer *) noexcept nogil
        void (*step_gated)(const fl_step *) noexcept nogil
        void (*outer_gated)(const fl_outer *) noexcept nogil
        void (*scale)(void *out, const void *a, const void *b, ptrdiff_t n, int adds) noexcept nogil
        void (*sum_panel)(const void *panel, ptrdiff_t units, int by_blocks, ptrdiff_t depth, void *sums) noexcept nogil
        void (*add)(void *a, const void *b, ptrdiff_t n) noexcept nogil
        void (*pack_lanes)(ptrdiff_t features, ptrdiff_t units, const void *kernel, const void *recurrent_kernel,
                           const void *bias, void *weights, void *lane_bias) noexcept nogil
        void (*to_lanes)(const void *base, ptrdiff_t stride, ptrdiff_t count, ptrdiff_t width, ptrdiff_t padded_rows,
                         void *out) noexcept nogil
        void (*mask_bytes)(const unsigned char *mask, ptrdiff_t T, ptrdiff_t first, ptrdiff_t count, ptrdiff_t padded_rows,
                           void *bytes, int64_t *any, int64_t *all) noexcept nogil
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

cdef extern from "pool.h":
    enum: FL_POOL_MOST
    int fl_pool_exists() nogil
    int fl_pool_size() nogil
    void fl_pool_set_size(int threads) nogil
    int fl_pool_enter(int threads) nogil
    void fl_pool_run(void (*task)(void *argument, int part) noexcept nogil, void *argument, int threads) nogil
    void fl_pool_leave() nogil
    void fl_pool_meet(void *unused) noexcept nogil

include "blas.pxi"
include "sequence.pxi"
include "states.pxi"
include "lanes.pxi"
include "stream.pxi"

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


include "weights.pxi"
include "threads.pxi"
include "forward.pxi"
include "backward.pxi"
include "gather.pxi"
include "backward_threads.pxi"
include "transposed.pxi"
include "tape.pxi"
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
