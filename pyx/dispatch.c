/* dispatch.c: the table of instruction sets, and the cpuid behind it.
 *
 * Own cpuid + xgetbv, because __builtin_cpu_supports answers 0 when linked by zig.
 */
#include "dispatch.h"

#include <stdint.h>

#if defined(__x86_64__) || defined(_M_X64)
#define FL_X86 1
#include <immintrin.h>
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

extern const fl_kernels fl_kernels_f32_generic, fl_kernels_f64_generic;
#if defined(FL_X86)
extern const fl_kernels fl_kernels_f32_avx2, fl_kernels_f64_avx2;
extern const fl_kernels fl_kernels_f32_avx512, fl_kernels_f64_avx512;
#elif defined(__aarch64__)
extern const fl_kernels fl_kernels_f32_neon, fl_kernels_f64_neon;
#endif

static int always(void) { return 1; }

#if defined(FL_X86)
static void cpuid(unsigned leaf, unsigned sub, unsigned r[4]) {
#if defined(_MSC_VER)
  __cpuidex((int *)r, (int)leaf, (int)sub);
#else
  __cpuid_count(leaf, sub, r[0], r[1], r[2], r[3]);
#endif
}

/* The register state that the operating system saves (xcr0), or 0 without xgetbv. */
static uint64_t saved_state(void) {
  unsigned r[4];
  cpuid(1, 0, r);
  if (!((r[2] >> 27) & 1)) return 0;
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return ((uint64_t)high << 32) | low;
#endif
}

static unsigned features7(void) {
  unsigned r[4];
  cpuid(0, 0, r);
  if (r[0] < 7) return 0;
  cpuid(7, 0, r);
  return r[1];
}

static int has_avx2(void) {
  unsigned r[4];
  cpuid(1, 0, r);
  const int fma = (r[2] >> 12) & 1;
  return fma && (saved_state() & 0x6) == 0x6 && ((features7() >> 5) & 1);
}

static int has_avx512(void) {
  const unsigned f = features7();
  const int f_dq_bw_vl = ((f >> 16) & 1) && ((f >> 17) & 1) && ((f >> 30) & 1) && ((f >> 31) & 1);
  return has_avx2() && f_dq_bw_vl && (saved_state() & 0xe6) == 0xe6;
}
#endif

static const struct {
  const char *name;
  int (*usable)(void);
  const fl_kernels *f32, *f64;
} isas[] = {
    {"generic", always, &fl_kernels_f32_generic, &fl_kernels_f64_generic},
#if defined(FL_X86)
    {"avx2", has_avx2, &fl_kernels_f32_avx2, &fl_kernels_f64_avx2},
    {"avx512", has_avx512, &fl_kernels_f32_avx512, &fl_kernels_f64_avx512},
#elif defined(__aarch64__)
    {"neon", always, &fl_kernels_f32_neon, &fl_kernels_f64_neon},
#endif
};

int fl_isa_count(void) { return (int)(sizeof isas / sizeof *isas); }
const char *fl_isa_name(int k) { return isas[k].name; }
int fl_isa_usable(int k) { return isas[k].usable(); }
const fl_kernels *fl_isa_kernels(int k, int bits) { return bits == 32 ? isas[k].f32 : isas[k].f64; }

unsigned long fl_flush_to_zero(void) {
#if defined(FL_X86)
  const unsigned mode = _mm_getcsr();
  _mm_setcsr(mode | 0x8040); /* flush results (FTZ) and read subnormals as zero (DAZ) */
  return mode;
#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
  uint64_t mode;
  __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
  __asm__ volatile("msr fpcr, %0" : : "r"(mode | ((uint64_t)1 << 24)));
  return (unsigned long)mode;
#else
  return 0;
#endif
}

void fl_restore_mode(unsigned long mode) {
#if defined(FL_X86)
  _mm_setcsr((unsigned)mode);
#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
  __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)mode));
#else
  (void)mode;
#endif
}
