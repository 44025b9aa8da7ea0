/* pool.c: the threads that share one call (pool.h). The only file that starts or wakes threads, and the only one with state.
 *
 * Workers sleep on a condition variable between calls; within a call they wait for each other by spinning for some microseconds,
 * then by sleeping. They never touch Python. They are started when a call first needs them and end when the pool shrinks, or with
 * the process. After a fork the child has none, and starts its own.
 */
#include "pool.h"

#if defined(_WIN32)

int fl_pool_exists(void) { return 0; }
int fl_pool_size(void) { return 1; }
void fl_pool_set_size(int threads) { (void)threads; }
int fl_pool_enter(int threads) { return (void)threads, 1; }
void fl_pool_run(void (*task)(void *argument, int part), void *argument, int threads) {
  for (int part = 0; part < threads; part++) task(argument, part);
}
void fl_pool_leave(void) {}
void fl_pool_meet(void *unused) { (void)unused; }

#else

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>

#include "dispatch.h"

/* Turns that a thread spins at most before it sleeps: 20 to 50 microseconds. */
#define SPIN_MOST 2000
#define SPIN_LEAST 8
/* Bytes of a worker's stack; the kernels need a tenth of it. */
#define STACK (512 * 1024)
#define LINE 64 /* bytes of a cache line: what is written at different times stands on different ones */

typedef struct {
  pthread_t thread;
  pthread_cond_t woken;
  unsigned long turn; /* of the last run that this worker was given; under `lock`, as `ends` */
  int ends;
} worker_t;

static pthread_mutex_t owner = PTHREAD_MUTEX_INITIALIZER; /* held by the call that has the pool */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;  /* guards what sleeping threads look at */
static pthread_cond_t released = PTHREAD_COND_INITIALIZER;
static worker_t workers[FL_POOL_MOST]; /* [0] is never used: part 0 is the caller's */
static int started = 1;                /* 1 + workers that run; changed by the owner alone */
static atomic_int size = 1;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* The run in hand; written by the owner before it wakes the workers. */
static struct {
  void (*task)(void *argument, int part);
  void *argument;
  int threads;
  unsigned long mode; /* of the caller's arithmetic */
} run;

static _Alignas(LINE) atomic_int arrived;   /* at the meeting to come */
static _Alignas(LINE) atomic_uint meetings; /* that have been */
static _Alignas(LINE) atomic_int working;   /* workers that have not finished */
static _Alignas(LINE) atomic_int sleepers;  /* on `released` */
static _Alignas(LINE)
    atomic_int spins = SPIN_MOST; /* how long to spin: halved where it was in vain, doubled where it was not, within a run */

static inline void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* Waits until `condition` holds. Whoever makes it hold calls release_sleepers() afterwards. */
#define WAIT_UNTIL(condition)                                                                          \
  do {                                                                                                 \
    const int most = atomic_load_explicit(&spins, memory_order_relaxed);                               \
    int turn = 0;                                                                                      \
    while (!(condition) && turn < most) pause_briefly(), turn++;                                       \
    if (turn < most) {                                                                                 \
      if (turn > 0 && most < SPIN_MOST) atomic_store_explicit(&spins, 2 * most, memory_order_relaxed); \
      break;                                                                                           \
    }                                                                                                  \
    if (most > SPIN_LEAST) atomic_store_explicit(&spins, most / 2, memory_order_relaxed);              \
    pthread_mutex_lock(&lock);                                                                         \
    atomic_fetch_add(&sleepers, 1);                                                                    \
    while (!(condition)) pthread_cond_wait(&released, &lock);                                          \
    atomic_fetch_sub(&sleepers, 1);                                                                    \
    pthread_mutex_unlock(&lock);                                                                       \
  } while (0)

/* Sequentially consistent, as the counts of sleepers and what they wait for: either the sleeper sees the news or this sees the
   sleeper. */
static void release_sleepers(void) {
  if (atomic_load(&sleepers) == 0) return;
  pthread_mutex_lock(&lock);
  pthread_cond_broadcast(&released);
  pthread_mutex_unlock(&lock);
}

void fl_pool_meet(void *unused) {
  (void)unused;
  const unsigned before = atomic_load(&meetings);
  if (atomic_fetch_add(&arrived, 1) + 1 < run.threads) {
    WAIT_UNTIL(atomic_load(&meetings) != before);
    return;
  }
  atomic_store(&arrived, 0);
  atomic_fetch_add(&meetings, 1);
  release_sleepers();
}

/* ---- workers -------------------------------------------------------------------------------------------------------- */
static void *work(void *argument) {
  worker_t *self = (worker_t *)argument;
  unsigned long done = 0;
  for (;;) {
    pthread_mutex_lock(&lock);
    while (self->turn == done && !self->ends) pthread_cond_wait(&self->woken, &lock);
    done = self->turn;
    const int ends = self->ends;
    pthread_mutex_unlock(&lock);
    if (ends) return NULL;
    fl_restore_mode(run.mode);
    run.task(run.argument, (int)(self - workers));
    if (atomic_fetch_sub(&working, 1) == 1) release_sleepers();
  }
}

/* Starts the worker number `started`; 0 where the system refuses. It takes no signals: those are for the program's own threads. */
static int start_worker(void) {
  worker_t *worker = &workers[started];
  pthread_attr_t attributes;
  sigset_t all, before;
  *worker = (worker_t){.woken = PTHREAD_COND_INITIALIZER};
  if (pthread_attr_init(&attributes)) return 0;
  pthread_attr_setstacksize(&attributes, STACK); /* where that is too little for the system, its own size stays */
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int failed = pthread_create(&worker->thread, &attributes, work, worker);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  if (failed) return 0;
  started++;
  return 1;
}

/* In the child after a fork, where only the forking thread lives on, whatever the others were at. */
static void start_afresh(void) {
  owner = lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
  released = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
  started = 1;
  arrived = working = sleepers = 0;
}
static void at_first(void) { pthread_atfork(NULL, NULL, start_afresh); }

/* ---- the doors ------------------------------------------------------------------------------------------------------ */
int fl_pool_exists(void) { return 1; }
int fl_pool_size(void) { return atomic_load_explicit(&size, memory_order_relaxed); }

void fl_pool_set_size(int threads) {
  pthread_mutex_lock(&owner);
  atomic_store(&size, threads);
  while (started > threads) {
    worker_t *last = &workers[started - 1];
    pthread_mutex_lock(&lock);
    last->ends = 1;
    pthread_cond_signal(&last->woken);
    pthread_mutex_unlock(&lock);
    pthread_join(last->thread, NULL);
    started--;
  }
  pthread_mutex_unlock(&owner);
}

int fl_pool_enter(int threads) {
  if (threads < 2 || threads > FL_POOL_MOST) return 1;
  pthread_once(&once, at_first);
  if (pthread_mutex_trylock(&owner)) return 1;
  /* The size may have shrunk since the caller looked. */
  while (threads <= fl_pool_size() && started < threads && start_worker()) continue;
  if (threads <= fl_pool_size() && started >= threads) return threads;
  pthread_mutex_unlock(&owner);
  return 1;
}

void fl_pool_run(void (*task)(void *argument, int part), void *argument, int threads) {
  const unsigned long mode = fl_flush_to_zero();
  fl_restore_mode(mode);
  run.task = task;
  run.argument = argument;
  run.threads = threads;
  run.mode = mode;
  atomic_store(&working, threads - 1);
  atomic_store(&spins, SPIN_MOST); /* anew for each run: who once spins too little never finds out that more would pay */
  pthread_mutex_lock(&lock);
  for (int part = 1; part < threads; part++) workers[part].turn++;
  pthread_mutex_unlock(&lock);
  for (int part = 1; part < threads; part++) pthread_cond_signal(&workers[part].woken);
  task(argument, 0);
  WAIT_UNTIL(atomic_load(&working) == 0);
}

void fl_pool_leave(void) { pthread_mutex_unlock(&owner); }

#endif
