# plan.pxi: the short way into the kernels for a layer that is built: what does not change between calls is decided once.
#
# A CallPlan answers a call whose arrays are exactly what the kernels want, and returns None for any other (the caller then takes
# the long way through fastlstm.layers.recurrent, which converts, checks and explains). A BoundCall is a call with its arrays.

cdef inline bint fits(object array, int typenum, int ndim) noexcept:
    """An ndarray (no subclass) of this type and rank, C-contiguous, aligned, native."""
    return (type(array) is cnp.ndarray and cnp.PyArray_TYPE(<cnp.ndarray> array) == typenum
            and cnp.PyArray_NDIM(<cnp.ndarray> array) == ndim and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray> array))


cdef inline bint has_shape(object array, int ndim, const cnp.npy_intp *shape) noexcept:
    cdef cnp.npy_intp *dims = cnp.PyArray_DIMS(<cnp.ndarray> array)
    cdef int k
    for k in range(ndim):
        if dims[k] != shape[k]:
            return False
    return True


cdef class Counter:
    """A number that only grows: how often a Variable was written, or a cell changed. CallPlans read it without asking Python."""
    cdef readonly Py_ssize_t value

    def __init__(self, Py_ssize_t value=0):
        self.value = value

    def add(self):
        self.value += 1

    def __reduce__(self):
        return Counter, (self.value,)


cdef class CallPlan:
    """One layer's call: ``plan(x, initial_state, mask, out)`` -> the layer's result, or None where the plan does not apply.

    ``counters``: the Counters of the weights' Variables and of the cell; the plan lasts as long as they stay at ``counts``.
    ``states``: the two carried Variables of a stateful layer, or None. ``rows``: None for an LSTM, else (R, S, stride, dilation,
    pad_left, padded_rows), channels last. Bitwise the same results as lstm_forward and convlstm1d_forward.
    """
    cdef GateWeights weights
    cdef tuple counters, counts
    cdef object states
    cdef Path path
    cdef Geometry geometry
    cdef Py_ssize_t R
    cdef int typenum, activation, recurrent_activation
    cdef int axes                       # of x: 3, or 4 for a convolution; outputs and states have one or two fewer
    cdef bint go_backwards, return_sequences, return_state, zero_output_for_mask

    def __init__(self, GateWeights weights not None, tuple counters, tuple counts, states, rows, int activation,
                 int recurrent_activation, bint go_backwards, bint return_sequences, bint return_state, bint zero_output_for_mask,
                 str path):
        if len(counters) != len(counts) or not all(isinstance(counter, Counter) for counter in counters):
            raise TypeError("counters: expected Counters, as many as counts")
        self.weights, self.counters, self.counts, self.states, self.path = weights, counters, counts, states, path_named(path)
        self.R = 1 if rows is None else rows[0]
        self.geometry = geometry_of(None if rows is None else rows[1:], self.R, weights.taps)
        self.axes = 3 if rows is None else 4
        self.typenum = cnp.NPY_FLOAT32 if weights.kernels.bits == 32 else cnp.NPY_FLOAT64
        self.activation, self.recurrent_activation = activation, recurrent_activation
        self.go_backwards, self.return_sequences = go_backwards, return_sequences
        self.return_state, self.zero_output_for_mask = return_state, zero_output_for_mask

    cdef bint is_current(self) except -1:
        cdef Py_ssize_t k
        for k in range(len(self.counters)):
            if (<Counter> self.counters[k]).value != <Py_ssize_t> self.counts[k]:
                return False
        return True

    cdef bint point_to_input(self, Sequence *s, object x) noexcept:
        """N, T, R, C and x; False where x is not what the plan was made for."""
        cdef cnp.npy_intp *dims
        if not fits(x, self.typenum, self.axes):
            return False
        dims = cnp.PyArray_DIMS(<cnp.ndarray> x)
        s.N, s.T, s.R, s.C = dims[0], dims[1], self.R, dims[self.axes - 1]
        s.x = data(x)
        return s.N > 0 and s.T > 0 and s.C == self.weights.channels and (self.axes == 3 or dims[2] == self.R)

    cdef bint point_to_states(self, Sequence *s, object initial_state, const cnp.npy_intp *shape) except -1:
        """s.h0 and s.c0 from [h, c], from the carried states, or zeros; False where they do not fit."""
        cdef int ndim = self.axes - 1
        if initial_state is None:
            if self.states is None:
                return True
            initial_state = (self.states[0].value, self.states[1].value)
        elif not isinstance(initial_state, (list, tuple)) or len(initial_state) != 2:
            return False
        h, c = initial_state
        if not (fits(h, self.typenum, ndim) and fits(c, self.typenum, ndim) and has_shape(h, ndim, shape)
                and has_shape(c, ndim, shape)):
            return False
        s.h0, s.c0 = data(h), data(c)
        return True

    cdef object output_for(self, const Sequence *s, object out, const cnp.npy_intp *state_shape):
        """``out`` if it fits, a new array if it is None; None where ``out`` does not fit."""
        cdef cnp.npy_intp[4] shape
        cdef int ndim = self.axes - 1, k
        for k in range(ndim):
            shape[k] = state_shape[k]
        if self.return_sequences:
            for k in range(ndim, 1, -1):
                shape[k] = shape[k - 1]
            shape[1] = s.T
            ndim += 1
        if out is None:
            return cnp.PyArray_EMPTY(ndim, shape, self.typenum, 0)
        if not (fits(out, self.typenum, ndim) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray> out) and has_shape(out, ndim, shape)):
            return None
        return out

    cdef bint prepare(self, Sequence *s, object x, object initial_state, object mask, cnp.npy_intp *state_shape) except -1:
        """Fills ``s`` for a call, all but the outputs, and the shape of the states; False where the plan does not apply."""
        memset(s, 0, sizeof(Sequence))
        if not self.point_to_input(s, x) or not self.is_current():
            return False
        state_shape[0] = s.N
        state_shape[1], state_shape[2] = self.weights.units, 0
        if self.axes == 4:
            state_shape[1], state_shape[2] = self.geometry.rows, self.weights.units
        if not self.point_to_states(s, initial_state, state_shape):
            return False
        if mask is not None:
            if not fits(mask, cnp.NPY_BOOL, 2) or not has_shape(mask, 2, cnp.PyArray_DIMS(<cnp.ndarray> x)):
                return False
            s.mask = <const uint8_t *> data(mask)
        if self.states is not None and self.states[0].value.shape[0] != s.N:
            return False
        s.activation, s.recurrent_activation = self.activation, self.recurrent_activation
        s.go_backwards, s.return_sequences = self.go_backwards, self.return_sequences
        s.zero_output_for_mask = self.zero_output_for_mask
        return True

    cdef tuple final_states(self, Sequence *s, cnp.npy_intp *state_shape):
        """(h, c), new arrays that ``s`` writes to; (None, None) where nobody wants them."""
        if not self.return_state and self.states is None:
            return None, None
        h = cnp.PyArray_EMPTY(self.axes - 1, state_shape, self.typenum, 0)
        c = cnp.PyArray_EMPTY(self.axes - 1, state_shape, self.typenum, 0)
        s.h, s.c = data(h), data(c)
        return h, c

    cdef object result(self, object y, object h, object c):
        """What the layer returns; a stateful one keeps its states."""
        if self.states is not None:
            self.states[0].assign(h)
            self.states[1].assign(c)
        return (y, h, c) if self.return_state else y

    def __call__(self, x, initial_state, mask, out):
        cdef Sequence s
        cdef cnp.npy_intp[3] state_shape
        if not self.prepare(&s, x, initial_state, mask, state_shape):
            return None
        y = self.output_for(&s, out, state_shape)
        if y is None or (out is not None and np.may_share_memory(out, x)):
            return None
        h, c = self.final_states(&s, state_shape)
        s.y = data(y)
        start(self.weights, &s, &self.geometry, self.path)
        execute(self.weights, &s)
        return self.result(y, h, c)

    def record(self, x, initial_state, mask):
        """A call on a tape: (the layer's result, Tape), or None where the plan does not apply."""
        cdef Sequence s
        cdef cnp.npy_intp[3] state_shape
        cdef Tape tape
        if self.activation >= FL_ACT_ELEMENTWISE or self.recurrent_activation >= FL_ACT_ELEMENTWISE:
            return None
        if not self.prepare(&s, x, initial_state, mask, state_shape):
            return None
        tape = Tape(self.weights)
        tape.x_shape, tape.state_shape = x.shape, (self.weights.units,)
        if self.axes == 4:
            tape.state_shape = (self.geometry.rows, self.weights.units)
        y = self.output_for(&s, None, state_shape)
        h, c = self.final_states(&s, state_shape)
        s.y = data(y)
        start(self.weights, &s, &self.geometry, self.path)
        record(tape, &s)
        return self.result(y, h, c), tape

    cdef bint is_cotangent(self, object array, Tape tape, bint of_output) except -1:
        """None, or an array of exactly the shape of the output (or of a state) that ``tape`` recorded."""
        cdef int ndim = self.axes if of_output and self.return_sequences else self.axes - 1
        if array is None:
            return True
        if not fits(array, self.typenum, ndim):
            return False
        shape = (<object> array).shape
        return shape == ((tape.x_shape[:2] if ndim == self.axes else tape.x_shape[:1]) + tape.state_shape)

    def pull(self, Tape tape not None, dy):
        """(dx, dh0, dc0, [weights' gradients]) of a tape of ``record`` for a cotangent like the layer's result: an array or None,
        or with return_state three of them; None where they are not exactly what the kernels want."""
        cdef BackwardPanels panels
        if not self.return_state:
            dys = (dy, None, None)
        elif isinstance(dy, (tuple, list)) and len(dy) == 3:
            dys = tuple(dy)
        else:
            return None
        if not (self.is_cotangent(dys[0], tape, True) and self.is_cotangent(dys[1], tape, False)
                and self.is_cotangent(dys[2], tape, False)):
            return None
        panels = self.weights.backward_panels(self.geometry.stride, False, False)
        dx, dh0, dc0, dkernel, drecurrent, dbias = pulled(tape, panels, dys[0], dys[1], dys[2], True)
        return dx, dh0, dc0, [dkernel, drecurrent] if dbias is None else [dkernel, drecurrent, dbias]

    def bound(self, x, initial_state, y, h, c):
        """A BoundCall of x [N,T,D] and (h, c) [N,U] that writes y [N,T,U], h and c [N,U], for an LSTM without Variables and a
        plan with return_sequences. ValueError where an array is not exactly what the kernels want, or shares memory with x."""
        cdef BoundCall call = BoundCall.__new__(BoundCall)
        cdef cnp.npy_intp[3] state_shape
        if self.counters or self.states is not None or self.axes != 3 or not self.return_sequences:
            raise ValueError("a call can be bound to arrays for an LSTM that holds no Variables and returns sequences")
        if initial_state is None or not self.prepare(&call.s, x, initial_state, None, state_shape):
            raise ValueError("x or initial_state: not what the kernels want")
        results = (y, h, c)
        for k, array in enumerate(results):
            if not (fits(array, self.typenum, 3 if k == 0 else 2) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray> array)
                    and (k == 0 or has_shape(array, 2, state_shape))):
                raise ValueError("y, h or c: not what the kernels want")
            if any(np.may_share_memory(array, other) for other in (x, *initial_state, *results[:k])):
                raise ValueError("y, h or c: shares memory with another array of the call")
        if y.shape != (call.s.N, call.s.T, self.weights.units):
            raise ValueError(f"y: expected shape {(call.s.N, call.s.T, self.weights.units)}, got {y.shape}")
        call.s.y, call.s.h, call.s.c = data(y), data(h), data(c)
        call.weights, call.geometry, call.path = self.weights, self.geometry, self.path
        call.arrays = (x, *initial_state, *results)
        return call


cdef class BoundCall:
    """``call()`` reads and writes the arrays that ``CallPlan.bound`` was given, by one thread at a time."""
    cdef GateWeights weights
    cdef Sequence s
    cdef Geometry geometry
    cdef Path path
    cdef tuple arrays                   # kept alive: ``s`` points into them

    def __init__(self):
        raise TypeError("made by CallPlan.bound")

    def __call__(self):
        cdef Sequence s = self.s
        if self.weights is None:
            raise TypeError("made by CallPlan.bound")
        start(self.weights, &s, &self.geometry, self.path)
        execute(self.weights, &s)
