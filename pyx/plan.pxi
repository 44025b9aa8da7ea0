# plan.pxi: the short way into the kernels for a layer that is built: what does not change between calls is decided once.
#
# A CallPlan answers a call whose arrays are exactly what the kernels want, and returns None for any other (the caller then takes
# the long way through fastlstm.layers.recurrent, which converts, checks and explains). Includes: _core.pyx's start() and execute().

cdef inline bint fits(object array, int typenum, int ndim) noexcept:
    """An ndarray (no subclass) of this type and rank, C-contiguous, aligned, native."""
    return (type(array) is np.ndarray and cnp.PyArray_TYPE(<cnp.ndarray> array) == typenum
            and cnp.PyArray_NDIM(<cnp.ndarray> array) == ndim and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray> array))


cdef inline bint has_shape(object array, Py_ssize_t first, Py_ssize_t second) noexcept:
    cdef cnp.npy_intp *dims = cnp.PyArray_DIMS(<cnp.ndarray> array)
    return dims[0] == first and dims[1] == second


cdef class CallPlan:
    """One layer's call: ``plan(x, initial_state, mask, out)`` -> the layer's result, or None where the plan does not apply.

    ``variables``: the weights' Variables; the plan lasts as long as their ``versions`` stay what they were. ``states``: the two
    carried Variables of a stateful layer, or None. Bitwise the same results as lstm_forward.
    """
    cdef LSTMWeights weights
    cdef tuple variables, versions
    cdef object states
    cdef Path path
    cdef int typenum, activation, recurrent_activation
    cdef bint go_backwards, return_sequences, return_state, zero_output_for_mask

    def __init__(self, LSTMWeights weights not None, tuple variables, tuple versions, states, int activation,
                 int recurrent_activation, bint go_backwards, bint return_sequences, bint return_state, bint zero_output_for_mask, str path):
        self.weights, self.variables, self.states, self.path = weights, variables, states, path_named(path)
        self.versions = versions
        self.typenum = cnp.NPY_FLOAT32 if weights.kernels.bits == 32 else cnp.NPY_FLOAT64
        self.activation, self.recurrent_activation = activation, recurrent_activation
        self.go_backwards, self.return_sequences = go_backwards, return_sequences
        self.return_state, self.zero_output_for_mask = return_state, zero_output_for_mask

    cdef bint is_current(self) except -1:
        cdef Py_ssize_t k
        for k in range(len(self.variables)):
            if self.variables[k].version != self.versions[k]:
                return False
        return True

    cdef bint point_to_states(self, Sequence *s, object initial_state) except -1:
        """s.h0 and s.c0 from [h, c], from the carried states, or zeros; False where they do not fit."""
        if initial_state is None:
            if self.states is None:
                return True
            initial_state = (self.states[0].value, self.states[1].value)
        elif not isinstance(initial_state, (list, tuple)) or len(initial_state) != 2:
            return False
        h, c = initial_state
        if not (fits(h, self.typenum, 2) and fits(c, self.typenum, 2) and has_shape(h, s.N, s.U) and has_shape(c, s.N, s.U)):
            return False
        s.h0, s.c0 = data(h), data(c)
        return True

    cdef object output_for(self, const Sequence *s, object out):
        """``out`` if it fits, a new array if it is None; None where ``out`` does not fit."""
        cdef cnp.npy_intp shape[3]
        cdef int ndim = 3 if self.return_sequences else 2
        shape[0], shape[1], shape[2] = s.N, s.T, s.U
        if not self.return_sequences:
            shape[1] = s.U
        if out is None:
            return cnp.PyArray_EMPTY(ndim, shape, self.typenum, 0)
        if not (fits(out, self.typenum, ndim) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray> out)
                and has_shape(out, shape[0], shape[1]) and cnp.PyArray_DIMS(<cnp.ndarray> out)[ndim - 1] == s.U):
            return None
        return out

    def __call__(self, x, initial_state, mask, out):
        cdef Sequence s
        cdef cnp.npy_intp *dims
        cdef cnp.npy_intp state_shape[2]
        cdef object h = None, c = None
        if not fits(x, self.typenum, 3) or not self.is_current():
            return None
        memset(&s, 0, sizeof(s))
        dims = cnp.PyArray_DIMS(<cnp.ndarray> x)
        s.N, s.T, s.D, s.U = dims[0], dims[1], dims[2], self.weights.units
        if s.N == 0 or s.T == 0 or s.D != self.weights.features or not self.point_to_states(&s, initial_state):
            return None
        if mask is not None:
            if not fits(mask, cnp.NPY_BOOL, 2) or not has_shape(mask, s.N, s.T):
                return None
            s.mask = <const uint8_t *> data(mask)
        if self.states is not None and self.states[0].value.shape[0] != s.N:
            return None
        y = self.output_for(&s, out)
        if y is None or (out is not None and np.may_share_memory(out, x)):
            return None
        if self.return_state or self.states is not None:
            state_shape[0], state_shape[1] = s.N, s.U
            h = cnp.PyArray_EMPTY(2, state_shape, self.typenum, 0)
            c = cnp.PyArray_EMPTY(2, state_shape, self.typenum, 0)
            s.h, s.c = data(h), data(c)
        s.activation, s.recurrent_activation = self.activation, self.recurrent_activation
        s.go_backwards, s.return_sequences = self.go_backwards, self.return_sequences
        s.zero_output_for_mask = self.zero_output_for_mask
        s.x, s.y = data(x), data(y)
        start(self.weights, &s, self.path)
        execute(self.weights, &s)
        if self.states is not None:
            self.states[0].assign(h)
            self.states[1].assign(c)
        return (y, h, c) if self.return_state else y
