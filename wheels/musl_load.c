/* musl_load.c: loads an extension module under musl without a Python, and runs what of it needs none: dispatch.c and pool.c.
 *
 * Arguments: a library that defines all of Python that the module asks for, the module. Prints the instruction sets ("avx2 1": its
 * name, whether it is usable here) and then "threads 4" where four threads have each run their part. Used by musl.py.
 */
#include <dlfcn.h>
#include <stdio.h>

#define THREADS 4

static int ran[THREADS];

static void task(void *unused, int part) {
  (void)unused;
  ran[part]++;
}

static void *need(void *module, const char *name) {
  void *found = dlsym(module, name);
  if (!found) printf("%s is not exported\n", name);
  return found;
}

int main(int count, char **arguments) {
  if (count != 3 || !dlopen(arguments[1], RTLD_NOW | RTLD_GLOBAL)) return puts("no stand-in for Python"), 1;
  void *module = dlopen(arguments[2], RTLD_NOW);
  if (!module) return puts(dlerror()), 1;
  int (*isa_count)(void) = need(module, "fl_isa_count"), (*usable)(int) = need(module, "fl_isa_usable");
  const char *(*name)(int) = need(module, "fl_isa_name");
  void (*set_size)(int) = need(module, "fl_pool_set_size"), (*leave)(void) = need(module, "fl_pool_leave");
  int (*enter)(int) = need(module, "fl_pool_enter");
  void (*run)(void (*)(void *, int), void *, int) = need(module, "fl_pool_run");
  if (!isa_count || !usable || !name || !set_size || !leave || !enter || !run) return 1;
  for (int k = 0; k < isa_count(); k++) printf("%s %d\n", name(k), usable(k));
  set_size(THREADS);
  const int threads = enter(THREADS);
  if (threads < 2) return puts("no threads"), 1;
  run(task, 0, threads);
  leave();
  int sum = 0;
  for (int k = 0; k < THREADS; k++) sum += ran[k] == 1;
  printf("threads %d\n", sum);
  return 0;
}
