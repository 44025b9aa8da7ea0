/* exported.c: runs an exported model on samples from stdin. Built by tests/test_export_c.py with -DHEADER='"name.h"'
 * -DMODEL=name -DREAL=float and, where there is a step function, -DHAS_STEP; for each sample writes run's y, then step's y of
 * every step. -DALONE: with the library in the same file.
 */
#if defined(ALONE)
#define FASTLSTM_IMPLEMENTATION
#define FASTLSTM_STATIC
#endif
#include HEADER
#include <stdio.h>
#include <stdlib.h>

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

static void check(fastlstm_status status) {
  if (status == FASTLSTM_OK) return;
  fprintf(stderr, "exported: %s\n", fastlstm_status_text(status));
  exit(1);
}

int main(void) {
  const size_t bytes = JOIN(MODEL, _memory_size)();
  if (bytes > MEMORY_BYTES) {
    fprintf(stderr, "exported: %zu bytes, more than %d\n", bytes, MEMORY_BYTES);
    return 1;
  }
  void *memory = aligned_alloc(FASTLSTM_ALIGNMENT, bytes);
  REAL *x = (REAL *)malloc(INPUTS * sizeof(REAL)), *y = (REAL *)malloc(OUTPUTS * sizeof(REAL));
  MODEL model;
  if (!memory || !x || !y) return 1;
  if (JOIN(MODEL, _init)(&model, (char *)memory + 1, bytes) != FASTLSTM_MISALIGNED) return 2;
  if (JOIN(MODEL, _init)(&model, memory, bytes - 1) != FASTLSTM_TOO_SMALL) return 3;
  if (JOIN(MODEL, _init)(&model, NULL, bytes) != FASTLSTM_NULL_POINTER) return 4;
  check(JOIN(MODEL, _init)(&model, memory, bytes));
  while (fread(x, sizeof(REAL), INPUTS, stdin) == INPUTS) {
    check(JOIN(MODEL, _run)(&model, x, y));
    fwrite(y, sizeof(REAL), OUTPUTS, stdout);
#if defined(HAS_STEP)
    JOIN(MODEL, _reset)(&model);
    for (size_t t = 0; t < STEPS; t++) {
      check(JOIN(MODEL, _step)(&model, x + t * (INPUTS / STEPS), y));
      fwrite(y, sizeof(REAL), STEP_OUTPUTS, stdout);
    }
#endif
  }
  fprintf(stderr, "%zu\n", bytes);
  free(memory);
  free(x);
  free(y);
  return fflush(stdout) ? 1 : 0;
}
