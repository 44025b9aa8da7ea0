# threads.pxi: how one call is shared among the threads of pool.c.
#
#   by samples  a share of a batch is a Sequence of its own, whose pointers begin at its samples; it runs as a smaller batch would
#   by units    a single row: each thread has some of the blocks of units
#   by rows     a convolution with fewer samples than threads: each thread has some of the rows
# In the last two, threads run the same steps side by side and meet behind each. Every number comes from the chain of operations
# that one thread would have used, so the bits are the same.

# Multiply-adds that a thread must find to do: to wake it costs 5 to 50 microseconds.
cdef double WORK_A_THREAD = 4e6
# The same in one step, where threads meet behind each: a meeting costs a fifth of a microsecond and more.
cdef double WORK_A_STEP = 1e5
# What the cell of one unit costs beside its products, in multiply-adds of one gate.
cdef Py_ssize_t CELL_WORK = 20


cdef enum Sharing:
    BY_SAMPLES = 0
    BY_UNITS = 1
    BY_ROWS = 2


cdef struct Team:
    # The threads of one call, and what each has to do.
    const Sequence *whole
    int threads
    Sharing sharing
    Py_ssize_t[FL_POOL_MOST] ends       # BY_SAMPLES: behind which sample each one's share ends
    Sequence *shares                    # BY_SAMPLES: [threads]
    StreamRoom stream                   # BY_UNITS
    Room *rooms                         # BY_ROWS: [threads]


cdef int choose_team(const Sequence *s, Team *team) noexcept nogil:
    """Settles sharing and threads: no more threads than are allowed, than the call has parts, and than find enough to do."""
    cdef double step = 4.0 * s.F * (s.K * (s.C + s.F) + CELL_WORK) * s.S * s.N
    cdef double most = min(step * s.T / WORK_A_THREAD, <double> fl_pool_size()), side_by_side = min(most, step / WORK_A_STEP)
    team.whole, team.threads, team.sharing = s, 1, BY_SAMPLES
    if s.path == BLAS:
        return 1  # BLAS has threads of its own
    if s.path == STREAM:
        team.sharing, most = BY_UNITS, min(side_by_side, <double> unit_blocks(s))
    elif s.path == LANES:
        most = min(most, <double> ((s.N + s.kernels.lanes - 1) // s.kernels.lanes))
    elif s.S > 1 and s.x_scales == NULL and s.h_scales == NULL and s.N < <Py_ssize_t> side_by_side:
        team.sharing, most = BY_ROWS, min(side_by_side, <double> (s.N * s.S))
    else:
        most = min(most, <double> s.N)
    if most >= 2:
        team.threads = <int> most
        if team.sharing == BY_SAMPLES:
            divide(s, team)
    return team.threads


cdef Py_ssize_t valid_steps(const Sequence *s, Py_ssize_t n) noexcept nogil:
    """How many steps of sample ``n`` are not masked."""
    cdef Py_ssize_t t, count = 0
    for t in range(s.T):
        count += s.mask[n * s.T + t]
    return count


cdef void divide(const Sequence *s, Team *team) noexcept nogil:
    """team.ends: shares that have about the same number of steps to compute."""
    cdef Py_ssize_t W = s.kernels.lanes, vectors = (s.N + W - 1) // W, n, total = 0, done = 0
    cdef int k
    for k in range(team.threads):
        team.ends[k] = (k + 1) * s.N // team.threads
        if s.path == LANES:  # whole vectors, in which masked steps are computed too
            team.ends[k] = min((k + 1) * vectors // team.threads * W, s.N)
    if s.mask == NULL or s.path == LANES or s.path == STREAM:
        return
    for n in range(s.N):
        total += valid_steps(s, n)
    n = 0
    for k in range(team.threads - 1):
        while n < s.N and done * team.threads < total * (k + 1):
            done += valid_steps(s, n)
            n += 1
        team.ends[k] = n


cdef void give_share(GateWeights weights, const Sequence *s, Py_ssize_t first, Py_ssize_t count, Sequence *share) noexcept:
    """Makes ``share`` the ``count`` samples from ``first`` on."""
    cdef Py_ssize_t size = real_size(s), state = first * s.S * s.F * size, steps = s.T if s.return_sequences else 1
    share[0] = s[0]
    share.N = count
    share.x = s.x + first * s.T * s.R * s.C * size
    share.y = s.y + steps * state
    share.h, share.c = s.h + state, s.c + state
    if s.mask != NULL:
        share.mask = s.mask + first * s.T
    if s.h0 != NULL:
        share.h0 = s.h0 + state
    if s.c0 != NULL:
        share.c0 = s.c0 + state
    if s.x_scales != NULL:
        share.x_scales = s.x_scales + first * s.R * s.C * size
    if s.h_scales != NULL:
        share.h_scales = s.h_scales + state
    if s.tape_gates != NULL:  # its pages are the whole batch's, in which rows are known by their numbers
        share.first_row, share.tape_c, share.tape_h = first * s.S, s.tape_c + state, s.tape_h + state
    elif s.path != PACKED and count > 0:
        share.batch, share.path = count, weights.fused_path(count, s.T)
    if count > 0:
        settle_block(share, share.path == HOISTED or share.path == STREAM)


cdef Py_ssize_t plan_team(GateWeights weights, const Sequence *s, Team *team, char *base) noexcept:
    """Lays what the threads need from ``base`` on; returns the bytes it takes. Call with NULL to ask for the size."""
    if team.sharing == BY_SAMPLES:
        return plan_shares(weights, s, team, base)
    if team.sharing == BY_ROWS:
        return plan_rooms(s, team, base)
    return workspace_size(s)


cdef Py_ssize_t plan_shares(GateWeights weights, const Sequence *s, Team *team, char *base) noexcept:
    """BY_SAMPLES: the shares, and a workspace for each."""
    cdef Py_ssize_t at = 0, first = 0, size
    cdef Sequence one
    cdef Sequence *share
    cdef int k
    team.shares = <Sequence *> part(base, &at, team.threads * sizeof(Sequence))
    for k in range(team.threads):
        share = &one if base == NULL else &team.shares[k]
        give_share(weights, s, first, team.ends[k] - first, share)
        size = workspace_size(share) if share.N > 0 else 0
        share.workspace = part(base, &at, size)
        first = team.ends[k]
    return at


cdef Py_ssize_t plan_rooms(const Sequence *s, Team *team, char *base) noexcept nogil:
    """BY_ROWS: behind the workspace of the whole, a Room for each thread with an x and a list of rows of its own."""
    cdef Py_ssize_t at = padded(workspace_size(s)), x_bytes = x_copies(s) * s.N * s.padded_rows * s.C * real_size(s)
    cdef Room *room
    cdef int k
    team.rooms = <Room *> part(base, &at, team.threads * sizeof(Room))
    for k in range(1, team.threads):
        if base == NULL:
            at += padded(x_bytes) + padded(s.N * s.S * sizeof(ptrdiff_t))
            continue
        room = &team.rooms[k]
        cut(s, base, room)
        room.x = part(base, &at, x_bytes)
        room.rows = <ptrdiff_t *> part(base, &at, s.N * s.S * sizeof(ptrdiff_t))
        memset(room.x, 0, x_bytes)
    return at


cdef void run_alone(const Sequence *s) noexcept nogil:
    """All T steps on this thread."""
    if s.path == LANES:
        run_lanes(s)
    elif s.path == STREAM:
        run_stream(s)
    else:
        run(s)


cdef void run_share(void *argument, int k) noexcept nogil:
    """What thread number ``k`` of a Team has to do."""
    cdef Team *team = <Team *> argument
    cdef const Sequence *s = team.whole
    cdef Py_ssize_t blocks = unit_blocks(s), first = k * blocks // team.threads
    if team.sharing == BY_UNITS:
        stream_steps(s, &team.stream, first, (k + 1) * blocks // team.threads - first, fl_pool_meet)
    elif team.sharing == BY_ROWS:
        run_steps(s, &team.rooms[k], k, team.threads, fl_pool_meet)
    elif team.shares[k].N > 0:
        run_alone(&team.shares[k])


cdef bint run_team(Team *team) noexcept nogil:
    """Runs the call on its threads; False, with nothing done, where another call has them or the system gives none."""
    if fl_pool_enter(team.threads) == 1:
        return False
    if team.sharing == BY_UNITS:
        begin_stream(team.whole, &team.stream)
    elif team.sharing == BY_ROWS:
        begin_run(team.whole, &team.rooms[0])
    fl_pool_run(run_share, team, team.threads)
    if team.sharing == BY_UNITS:
        end_stream(team.whole, &team.stream)
    elif team.sharing == BY_ROWS:
        end_run(team.whole, &team.rooms[0])
    fl_pool_leave()
    return True


def set_num_threads(int threads):
    """How many threads a call may use: from 1 to ``max_threads()``."""
    if not 1 <= threads <= max_threads():
        raise ValueError(f"threads: expected 1 to {max_threads()}, got {threads}")
    with nogil:
        fl_pool_set_size(threads)


def num_threads():
    """How many threads a call may use."""
    return fl_pool_size()


def max_threads():
    """How many threads this build can use at most: 1 where it has none."""
    return FL_POOL_MOST if fl_pool_exists() else 1


def set_thread_work(double a_thread, double a_step):
    """Sets what a thread must find to do, in multiply-adds, in all and in a step; returns what was set. For tests."""
    global WORK_A_THREAD, WORK_A_STEP
    before = WORK_A_THREAD, WORK_A_STEP
    WORK_A_THREAD, WORK_A_STEP = a_thread, a_step
    return before
