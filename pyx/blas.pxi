# blas.pxi: matrix products through SciPy's BLAS, found at run time.
#
# scipy.linalg.cython_blas is never cimported (that would make SciPy a hard dependency, and importing it costs 120 ms): its
# function pointers are read from the capsules of its __pyx_capi__ when a call needs them first. Used by sequence.pxi.

ctypedef void (*sgemm_t)(char *, char *, int *, int *, int *, float *, float *, int *, float *, int *, float *, float *,
                         int *) noexcept nogil
ctypedef void (*dgemm_t)(char *, char *, int *, int *, int *, double *, double *, int *, double *, int *, double *, double *,
                         int *) noexcept nogil

# Written once, under the GIL, by load_blas(); read by gemm().
cdef sgemm_t blas_sgemm = NULL
cdef dgemm_t blas_dgemm = NULL


cdef void *capsule_pointer(object capi, str name) except NULL:
    capsule = capi[name]
    return PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule))


def load_blas():
    """Reads BLAS from SciPy; ImportError without SciPy. Idempotent."""
    global blas_sgemm, blas_dgemm
    if blas_sgemm == NULL:
        from scipy.linalg import cython_blas

        blas_dgemm = <dgemm_t> capsule_pointer(cython_blas.__pyx_capi__, "dgemm")
        blas_sgemm = <sgemm_t> capsule_pointer(cython_blas.__pyx_capi__, "sgemm")


cdef void gemm(int bits, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const char *a, Py_ssize_t lda, const char *b, Py_ssize_t ldb,
               char *c, Py_ssize_t ldc) noexcept nogil:
    """c [m,n] += a [m,k] @ b [k,n], all row-major with row strides in reals: C' = B' @ A' in BLAS' column-major words."""
    cdef int M = <int> m, N = <int> n, K = <int> k, LDA = <int> lda, LDB = <int> ldb, LDC = <int> ldc
    cdef float one32 = 1
    cdef double one64 = 1
    if m == 0 or n == 0 or k == 0:
        return
    if bits == 32:
        blas_sgemm(b"N", b"N", &N, &M, &K, &one32, <float *> b, &LDB, <float *> a, &LDA, &one32, <float *> c, &LDC)
    else:
        blas_dgemm(b"N", b"N", &N, &M, &K, &one64, <double *> b, &LDB, <double *> a, &LDA, &one64, <double *> c, &LDC)
