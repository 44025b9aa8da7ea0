/* cpu_cuda.h: enough of CUDA to run the kernels of fastlstm/backends/gpu on a CPU, for tests of their logic.
 *
 * Each thread of a block is a fiber with a stack of its own; a scheduler runs warp after warp, in rising or falling order, each as
 * far as it gets without the others, so that a missing barrier shows. Blocks run one after the other; those of a cooperative launch are all alive at once, as on a device, so that they may wait
 * for each other. Every block has its own dynamic shared memory, filled with NaN. What goes wrong comes back as a message: a barrier
 * that not all threads reach, a shuffle in a divergent warp, a wait that never ends. Races between the threads of a warp, launch
 * limits and speed stay unseen.
 */
#pragma once
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

struct dim3 {
  unsigned x, y, z;
};

namespace cpu_cuda {
namespace { /* each compiled source has fibers of its own */
constexpr size_t STACK = 64 * 1024;
constexpr unsigned WARP = 32;
enum State { READY, AT_BARRIER, AT_SHUFFLE, WAITING, DONE };

struct Block;
struct Fiber {
  ucontext_t context;
  jmp_buf place;
  void *stack;
  bool started = false;
  State state = DONE;
  dim3 thread;
  unsigned number;
  Block *block;
  uint64_t offered;
};
struct Block {
  dim3 index;
  std::vector<char> shared;
  std::vector<Fiber *> fibers;
};

inline std::vector<Fiber *> &pool() {
  static std::vector<Fiber *> fibers;
  return fibers;
}
inline Fiber *current;
inline jmp_buf scheduler;
inline ucontext_t first_return;
inline dim3 grid_size, block_size;
inline void (*body)(void **);
inline void **arguments;
inline std::string failure;
inline unsigned long additions; /* by atomicAdd: what a waiting thread waits for */

/* A fiber lives for ever: it runs the body, hands back, and runs the next one when it is called again. */
inline void live() {
  for (;;) {
    body(arguments);
    current->state = DONE;
    if (!_setjmp(current->place)) _longjmp(scheduler, 1);
  }
}

inline void resume(Fiber *fiber) {
  current = fiber;
  if (_setjmp(scheduler)) return;
  if (fiber->started) _longjmp(fiber->place, 1);
  fiber->started = true;
  setcontext(&fiber->context);
}

/* Hands back to the scheduler until the state is READY again (WAITING: until the next turn). */
inline void pause_as(State state) {
  Fiber *self = current;
  self->state = state;
  if (!_setjmp(self->place)) _longjmp(scheduler, 1);
}

inline Fiber *fiber_at(size_t number) {
  while (pool().size() <= number) {
    Fiber *fiber = new Fiber;
    fiber->stack = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack;
    fiber->context.uc_stack.ss_size = STACK;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, live, 0);
    pool().push_back(fiber);
  }
  return pool()[number];
}

/* Frees the threads of a block that stand at a barrier which all others have reached. False on an error. */
inline bool release(Block &block, bool *progress) {
  unsigned done = 0, barrier = 0;
  for (Fiber *f : block.fibers) done += f->state == DONE, barrier += f->state == AT_BARRIER;
  if (barrier && barrier + done == block.fibers.size()) {
    if (done) {
      failure = "__syncthreads was reached by " + std::to_string(barrier) + " threads of a block; the others had returned";
      return false;
    }
    for (Fiber *f : block.fibers) f->state = READY;
    *progress = true;
  }
  return true;
}

/* Runs the threads of one warp as far as they get without the others: to a barrier, to a wait, or to their end. False on an error. */
inline bool run_warp(Block &block, size_t first, bool reversed, bool *progress) {
  const size_t count = std::min<size_t>(WARP, block.fibers.size() - first);
  for (size_t shuffling = 1; shuffling;) {
    shuffling = 0;
    for (size_t t = 0; t < count; t++) {
      Fiber *fiber = block.fibers[first + (reversed ? count - 1 - t : t)];
      if (fiber->state == READY || fiber->state == WAITING) {
        fiber->state = READY;
        resume(fiber);
        if (fiber->state != WAITING) *progress = true;
      }
      shuffling += fiber->state == AT_SHUFFLE;
    }
    if (shuffling && shuffling != count) {
      failure =
          "a shuffle was reached by " + std::to_string(shuffling) + " of the " + std::to_string(count) + " threads of a warp";
      return false;
    }
    if (shuffling)
      for (size_t t = 0; t < count; t++) block.fibers[first + t]->state = READY;
  }
  return true;
}

/* Runs the blocks together until all their threads have returned: always the first warp that can go on, counted by its number, then by
 * its block's. That is as far apart as barriers and waits let the threads come. */
inline void run(std::vector<Block> &blocks, bool reversed) {
  const size_t warps = (blocks[0].fibers.size() + WARP - 1) / WARP, count = warps * blocks.size();
  std::vector<char> runnable(count, 1);
  std::vector<unsigned long> seen(count, ~0ul); /* of a warp that waits: how many atomic additions there were when it looked */
  for (size_t k = 0; k < count;) {
    const size_t place = reversed ? count - 1 - k : k, w = place / blocks.size(), b = place % blocks.size();
    k++;
    if (!runnable[place] || seen[place] == additions) continue;
    bool progress = false, released = false;
    Block &block = blocks[b];
    if (!run_warp(block, w * WARP, reversed, &progress) || !release(block, &released)) return;
    runnable[place] = 0;
    seen[place] = ~0ul;
    for (size_t t = w * WARP; t < block.fibers.size() && t < (w + 1) * WARP; t++)
      if (block.fibers[t]->state == WAITING) runnable[place] = 1, seen[place] = additions;
    if (released)
      for (size_t other = 0; other < warps; other++)
        runnable[other * blocks.size() + b] = 1, seen[other * blocks.size() + b] = ~0ul;
    if (progress) k = 0;
  }
  for (Block &block : blocks)
    for (Fiber *f : block.fibers)
      if (f->state != DONE) failure = "the blocks wait for each other without end";
}

inline Block make_block(dim3 index, size_t shared, size_t first_fiber) {
  Block block;
  block.index = index;
  block.shared.assign(shared + 64, (char)0xff);
  const unsigned threads = block_size.x * block_size.y * block_size.z;
  for (unsigned t = 0; t < threads; t++) {
    Fiber *fiber = fiber_at(first_fiber + t);
    fiber->state = READY;
    fiber->number = t;
    fiber->thread = {t % block_size.x, t / block_size.x % block_size.y, t / block_size.x / block_size.y};
    block.fibers.push_back(fiber);
  }
  return block;
}

/* A launch; "" or what went wrong. Fibers that an error left behind are never used again. */
inline const char *launch(void (*function)(void **), const unsigned *grid, const unsigned *block, size_t shared, int cooperative,
                          int reversed, void **args) {
  grid_size = {grid[0], grid[1], grid[2]};
  block_size = {block[0], block[1], block[2]};
  body = function;
  arguments = args;
  failure.clear();
  const size_t count = (size_t)grid[0] * grid[1] * grid[2], threads = (size_t)block[0] * block[1] * block[2];
  std::vector<Block> blocks;
  for (size_t k = 0; k < count && failure.empty(); k++) {
    const size_t b = reversed && !cooperative ? count - 1 - k : k;
    const dim3 index = {(unsigned)(b % grid[0]), (unsigned)(b / grid[0] % grid[1]), (unsigned)(b / grid[0] / grid[1])};
    blocks.push_back(make_block(index, shared, cooperative ? k * threads : 0));
    if (cooperative && k + 1 < count) continue;
    for (Block &one : blocks)
      for (Fiber *f : one.fibers) f->block = &one;
    run(blocks, reversed);
    blocks.clear();
  }
  if (!failure.empty()) pool().clear();
  return failure.c_str();
}

/* Every lane of the warp offers a value and gets that of lane `source`. */
template <class T>
T shuffle(T value, unsigned source) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle moves at most 8 bytes");
  Fiber *self = current;
  memcpy(&self->offered, &value, sizeof(T));
  pause_as(AT_SHUFFLE);
  T got = value;
  const unsigned from = self->number / WARP * WARP + source;
  if (from < self->block->fibers.size()) memcpy(&got, &self->block->fibers[from]->offered, sizeof(T));
  pause_as(AT_SHUFFLE); /* nobody offers anew before all have read */
  return got;
}

template <class T>
struct plain {
  using type = T;
};
template <class T>
struct plain<const T> {
  using type = T;
};
template <class... A, size_t... I>
void apply(void (*f)(A...), void **args, std::index_sequence<I...>) {
  f(*static_cast<typename plain<A>::type *>(args[I])...);
}
template <class... A>
void unpack(void (*f)(A...), void **args) {
  apply(f, args, std::index_sequence_for<A...>{});
}
/* A kernel with its arguments behind pointers, as drivers take them. */
template <auto F>
void call(void **args) {
  unpack(F, args);
}

inline int atomic_add(unsigned *p, unsigned v) {
  const unsigned before = *p;
  additions++;
  *p += v;
  return before;
}
}  // namespace
}  // namespace cpu_cuda

#define FL_CPU_CUDA
#define FL_SHARED(name) real *name = (real *)(((uintptr_t)cpu_cuda::current->block->shared.data() + 15) & ~(uintptr_t)15)
#define FL_LOAD_FRESH(p) (*(p))
struct __attribute__((aligned(16), may_alias)) fl_piece {
  char bytes[16];
};
#define FL_WAITING() cpu_cuda::pause_as(cpu_cuda::WAITING)
#define __global__
#define __device__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define threadIdx cpu_cuda::current->thread
#define blockIdx cpu_cuda::current->block->index
#define blockDim cpu_cuda::block_size
#define gridDim cpu_cuda::grid_size
#define __syncthreads() cpu_cuda::pause_as(cpu_cuda::AT_BARRIER)
#define __shfl_xor_sync(mask, value, lanes) cpu_cuda::shuffle(value, (cpu_cuda::current->number % cpu_cuda::WARP) ^ (lanes))
#define __shfl_sync(mask, value, lane) cpu_cuda::shuffle(value, lane)
inline void arrive(unsigned *place) { cpu_cuda::atomic_add(place, 1); }
inline unsigned arrivals(const unsigned *place) { return *(const volatile unsigned *)place; }
