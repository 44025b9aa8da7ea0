# backward_threads.pxi: how the threads of pool.c share a backward pass.
#
# Each has some samples for the steps back and dx, and then, when all have met, some rows of dkernel and drecurrent: a row sums
# over all samples and steps as one thread would, so the bits are the same at any number of threads.


cdef struct BackTeam:
    const Backward *b
    Team team                           # threads and ends: how the samples are divided
    BackRoom *rooms                     # [threads]


cdef void choose_back_team(const Backward *b, BackTeam *back) noexcept nogil:
    """Settles how many threads the pass has, as choose_team does for a call, and which samples each."""
    cdef const Sequence *s = b.s
    cdef double work = 8.0 * s.F * (s.K * (s.C + s.F) + CELL_WORK) * s.S * s.N * s.T
    cdef double threads = min(work / WORK_A_THREAD, <double> fl_pool_size(), <double> s.N)
    back.b, back.team.whole, back.team.sharing, back.team.threads = b, s, BY_SAMPLES, 1
    if threads >= 2:
        back.team.threads = <int> threads
        divide(s, &back.team)


cdef Py_ssize_t plan_back_team(BackTeam *back, char *base) noexcept nogil:
    """Lays the workspace and behind it a BackRoom for each thread; returns the bytes they take. NULL: only that."""
    cdef Py_ssize_t at
    cdef BackRoom room
    at = padded(cut_back(back.b, NULL, &room))
    back.rooms = <BackRoom *> part(base, &at, back.team.threads * sizeof(BackRoom))
    return at


cdef void begin_back(const Backward *b, BackRoom *room) noexcept nogil:
    """Cuts the workspace, fills its tables and what no block overwrites."""
    cdef const Sequence *s = b.s
    cdef Py_ssize_t size = real_size(s)
    cut_back(b, b.workspace, room)
    lay_out_back(b, room)
    memset(room.h_rows, 0, h_rows_size(b))
    memset(room.x_rows, 0, x_rows_size(b))
    memset(room.dy, 0, s.N * s.S * s.F * size)


cdef void begin_back_team(BackTeam *back) noexcept nogil:
    """Gives each thread its samples, and its part of what the steps of several samples write at once."""
    cdef const Backward *b = back.b
    cdef const Sequence *s = b.s
    cdef BackRoom *room
    cdef Py_ssize_t first = 0, wide
    cdef int k
    begin_back(b, &back.rooms[0])
    for k in range(back.team.threads - 1, -1, -1):
        room = &back.rooms[k]
        first = back.team.ends[k - 1] if k > 0 else 0
        wide = b.steps * first * s.R
        room[0] = back.rooms[0]
        room.first, room.end, room.share, room.shares = first, back.team.ends[k], k, back.team.threads
        room.rows += first * s.S
        room.wide += wide
        room.wide_out += wide
        room.wide_product += wide * s.C * real_size(s)


cdef void run_back_share(void *argument, int k) noexcept nogil:
    cdef BackTeam *back = <BackTeam *> argument
    run_back(back.b, &back.rooms[k], fl_pool_meet)


cdef void run_back_team(BackTeam *back) noexcept nogil:
    """The whole backward pass: on the team's threads, or on this one where another call has them or the system gives none."""
    cdef BackRoom room
    if back.team.threads == 1 or fl_pool_enter(back.team.threads) == 1:
        begin_back(back.b, &room)
        run_back(back.b, &room, NULL)
        return
    begin_back_team(back)
    fl_pool_run(run_back_share, back, back.team.threads)
    fl_pool_leave()
