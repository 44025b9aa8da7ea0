/* pool.h: the threads that share one call. Called by threads.pxi.
 *
 * A call takes the whole pool (fl_pool_enter), runs one function on all its threads (fl_pool_run), and leaves it. Whoever finds the
 * pool taken works alone. Without POSIX threads (Windows) every call works alone.
 */
#ifndef FASTLSTM_POOL_H
#define FASTLSTM_POOL_H

/* More threads than this never share a call. */
#define FL_POOL_MOST 256

/* 1 where this build can use more than one thread. */
int fl_pool_exists(void);
/* How many threads a call may use, from 1 on; 1 until set. */
int fl_pool_size(void);
/* Sets it, and ends the threads that are then too many; waits for a call that uses them. */
void fl_pool_set_size(int threads);

/* Takes the pool for `threads` threads, the caller among them: `threads` where it is free and they could be started, else 1.
   More than 1 must be followed by fl_pool_leave on the same thread. */
int fl_pool_enter(int threads);
/* task(argument, part) for the parts 0 … threads - 1, each on a thread of its own, the caller taking part 0; returns when all have
   returned. `threads` as fl_pool_enter answered, more than 1. The threads round and flush subnormals as the caller does. */
void fl_pool_run(void (*task)(void *argument, int part), void *argument, int threads);
void fl_pool_leave(void);

/* Within a task: returns when all its threads have called it. */
void fl_pool_meet(void *unused);

#endif
