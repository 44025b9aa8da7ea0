/* cases.c: runs calls of the C library that come on stdin and writes the results to stdout. Driven by tests/c_programs.py.
 *
 * A case: a head of 64-bit integers (enum head), then its arrays in the file's dtype, in the order in which case_body.h reads
 * them. An answer: the number of bytes, then the arrays. Every array has memory of its own and of exactly its size, so that a
 * sanitizer sees each step beside it. Exit code 1 with a line on stderr where a status is not FASTLSTM_OK or the input is cut
 * short.
 */
#define FASTLSTM_IMPLEMENTATION
#include <fastlstm/fastlstm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#include <fcntl.h>
#include <io.h>
#endif

enum head {
  OPERATION, /* enum operation */
  BITS,
  BATCH,
  STEPS,
  ROWS,
  CHANNELS, /* or features */
  FILTERS,  /* or units */
  KERNEL_SIZE,
  STRIDES,
  DILATION_RATE,
  PADDING,
  ACTIVATION,
  RECURRENT_ACTIVATION,
  GO_BACKWARDS,
  RETURN_SEQUENCES,
  ZERO_OUTPUT,
  HAS_BIAS,
  HAS_MASK,
  HAS_STATES,
  IN_PLACE,  /* h0 is h, c0 is c; backward: dh0 is dh, dc0 is dc too, and gradients of weights are added to 3, 4 and 5 */
  LEAVE_OUT, /* bits: 1 y, 2 h, 4 c are NULL; backward: 1 dy, 2 dh, 4 dc */
  HEAD_SIZE
};

enum operation { LSTM_RUN, LSTM_STEPS, CONV_RUN, CONV_STEPS, LSTM_BACKWARD, DENSE, CONV1D, ACTIVATE };

static int64_t head[HEAD_SIZE];

static void fail(const char *what) {
  fprintf(stderr, "cases: %s\n", what);
  exit(1);
}

static void check(fastlstm_status status) {
  if (status != FASTLSTM_OK) fail(fastlstm_status_text(status));
}

/* Memory of exactly `bytes` bytes; freed by the end of the process only where it is not given to free(). */
static void *memory_of(size_t bytes) {
  void *memory = malloc(bytes ? bytes : 1);
  if (!memory) fail("no memory");
  return memory;
}

/* Memory aligned for the library: exactly `bytes` bytes, the sizes being multiples of the alignment. */
static void *aligned_of(size_t bytes) {
  if (bytes == 0 || bytes % FASTLSTM_ALIGNMENT) fail("a size function answered what it should not");
#if defined(_WIN32)
  void *memory = _aligned_malloc(bytes, FASTLSTM_ALIGNMENT);
#else
  void *memory = aligned_alloc(FASTLSTM_ALIGNMENT, bytes);
#endif
  if (!memory) fail("no memory");
  memset(memory, 0xff, bytes); /* NaNs: nothing may depend on what memory held before */
  return memory;
}

static void free_aligned(void *memory) {
#if defined(_WIN32)
  _aligned_free(memory);
#else
  free(memory);
#endif
}

/* Reads exactly `bytes` bytes into new memory; NULL where `wanted` is 0. */
static void *read_bytes(size_t bytes, int wanted) {
  if (!wanted) return NULL;
  void *memory = memory_of(bytes);
  if (fread(memory, 1, bytes, stdin) != bytes) fail("the input ends early");
  return memory;
}

static void write_bytes(const void *memory, size_t bytes) {
  if (fwrite(memory, 1, bytes, stdout) != bytes) fail("cannot write");
}

static void write_head(size_t bytes) {
  const int64_t count = (int64_t)bytes;
  write_bytes(&count, sizeof count);
}

static int is_set(int what) { return head[what] != 0; }
static ptrdiff_t size_of(int what) { return (ptrdiff_t)head[what]; }

#define REAL float
#define TYPE(name) fastlstm_##name##_f32
#define OWN(name) name##_f32
#include "case_body.h"
#undef REAL
#undef TYPE
#undef OWN
#define REAL double
#define TYPE(name) fastlstm_##name##_f64
#define OWN(name) name##_f64
#include "case_body.h"

int main(void) {
#if defined(_WIN32)
  _setmode(_fileno(stdin), _O_BINARY);
  _setmode(_fileno(stdout), _O_BINARY);
#endif
  for (;;) {
    const size_t got = fread(head, 1, sizeof head, stdin);
    if (got == 0) break;
    if (got != sizeof head) fail("the input ends early");
    if (head[BITS] == 32)
      run_case_f32();
    else
      run_case_f64();
  }
  fprintf(stderr, "%s\n", fastlstm_isa());
  return fflush(stdout) ? 1 : 0;
}
