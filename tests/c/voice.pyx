# voice.pyx: what another project's module may look like; built by tests/test_example_c.py.
from libc.stdlib cimport free
from libc.string cimport memset

from fastlstm.fastlstm cimport (
    FASTLSTM_ALIGNMENT,
    FASTLSTM_OK,
    fastlstm_lstm,
    fastlstm_lstm_defaults,
    fastlstm_lstm_f32,
    fastlstm_lstm_pack_f32,
    fastlstm_lstm_packed_size_f32,
    fastlstm_lstm_run_f32,
    fastlstm_lstm_workspace_size_f32,
    fastlstm_sequences_f32,
    fastlstm_status,
    fastlstm_status_text,
)


cdef extern from "<stdlib.h>":
    void *aligned_alloc(size_t alignment, size_t size)


cdef int check(fastlstm_status status) except -1:
    if status != FASTLSTM_OK:
        raise ValueError(fastlstm_status_text(status).decode())
    return 0


def run(float[:, :, ::1] x, float[:, ::1] kernel, float[:, ::1] recurrent_kernel, float[::1] bias):
    """x [1,T,D] -> the last output [U], a list."""
    cdef fastlstm_lstm layer = fastlstm_lstm_defaults(x.shape[2], recurrent_kernel.shape[0])
    cdef size_t packed_bytes = fastlstm_lstm_packed_size_f32(&layer)
    cdef size_t bytes = fastlstm_lstm_workspace_size_f32(&layer, 1, x.shape[1])
    cdef void *packed = aligned_alloc(FASTLSTM_ALIGNMENT, packed_bytes)
    cdef void *workspace = aligned_alloc(FASTLSTM_ALIGNMENT, bytes)
    cdef fastlstm_lstm_f32 lstm
    cdef fastlstm_sequences_f32 arrays
    cdef float[64] y
    if packed == NULL or workspace == NULL or layer.units > 64:
        raise MemoryError()
    memset(&arrays, 0, sizeof(arrays))
    arrays.batch, arrays.steps, arrays.x, arrays.y = 1, x.shape[1], &x[0, 0, 0], y
    try:
        check(fastlstm_lstm_pack_f32(&lstm, &layer, &kernel[0, 0], &recurrent_kernel[0, 0], &bias[0], packed, packed_bytes))
        with nogil:
            status = fastlstm_lstm_run_f32(&lstm, &arrays, workspace, bytes)
        check(status)
    finally:
        free(packed)
        free(workspace)
    return [y[k] for k in range(layer.units)]
