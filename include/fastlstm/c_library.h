/* c_library.h: the implementation behind fastlstm.h, for the one instruction set that the compiler's flags name.
 *
 * Included by fastlstm.h where FASTLSTM_IMPLEMENTATION is defined. The kernels are those of the Python package, called directly
 * instead of through a table, so that a program with FASTLSTM_STATIC holds only what it uses. Short names of the templates are
 * undefined at the end.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#pragma GCC diagnostic push
#if defined(__cplusplus)
/* Compound literals of vectors, which gcc and clang take in C++ too. */
#pragma GCC diagnostic ignored "-Wpedantic"
#endif
#endif
#if defined(__GNUC__) && !defined(__clang__)
/* gcc 12 takes the "undefined" operands of its own intrinsics for forgotten ones. */
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

/* ---- the instruction set -------------------------------------------------------------------------------------------- */
#if defined(__GNUC__) || defined(__clang__)
#define FL_GNU_VECTORS 1
#endif
#if defined(FASTLSTM_ONE_LANE)
#define FL_ISA_ONE
#define FL_ISA_TEXT "one_lane"
#elif defined(FL_GNU_VECTORS) && defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && \
    defined(__AVX512VL__) && defined(__FMA__)
#define FL_ISA_AVX512
#define FL_ISA_TEXT "avx512"
#elif defined(FL_GNU_VECTORS) && defined(__AVX2__) && defined(__FMA__)
#define FL_ISA_AVX2
#define FL_ISA_TEXT "avx2"
#elif defined(FL_GNU_VECTORS) && defined(__aarch64__) && defined(__ARM_NEON)
#define FL_ISA_NEON
#define FL_ISA_TEXT "neon"
#elif defined(FL_GNU_VECTORS) && \
    (defined(__SSE2__) || defined(__ARM_NEON) || defined(__ALTIVEC__) || defined(__wasm_simd128__) || defined(__loongarch_sx))
#define FL_ISA_TEXT "generic" /* 16-byte vectors, as the compiler makes them */
#else
#define FL_ISA_ONE
#define FL_ISA_TEXT "one_lane"
#endif

#if defined(__x86_64__) || defined(_M_X64) || (defined(__i386__) && defined(__SSE2__))
#define FL_X86_MODE 1
#include <immintrin.h>
#elif defined(FL_ISA_NEON)
#include <arm_neon.h>
#endif

/* Bytes of projected x that a workspace may hold for a single row: a second-level cache's worth, or next to nothing. */
#ifndef FASTLSTM_PROJECTION_BYTES
#if defined(FL_ISA_ONE)
#define FASTLSTM_PROJECTION_BYTES 1
#else
#define FASTLSTM_PROJECTION_BYTES (256 * 1024)
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

#ifndef FL_ISA
#define FL_ISA native
#endif
#include "arguments.h"
#define FL_PUBLIC_PASTE_(name, dtype) fastlstm_##name##_##dtype
#define FL_PUBLIC_PASTE(name, dtype) FL_PUBLIC_PASTE_(name, dtype)
#define FL_PUBLIC(name) FL_PUBLIC_PASTE(name, FL_DTYPE)

#define FL_BITS 32
#include "real.h"
#include "c_base.h"
#include "c_public.h"
#include "c_templates.h"
#undef FL_BITS

#define FL_BITS 64
#include "real.h"
#include "c_templates.h"
#undef FL_BITS

#ifdef __cplusplus
}
#endif

/* ---- short names back to the program -------------------------------------------------------------------------------- */
#undef real
#undef ireal
#undef vec
#undef ivec
#undef vmask
#undef v_set
#undef v_iset
#undef v_load
#undef v_store
#undef v_load_n
#undef v_store_n
#undef v_fma
#undef v_min
#undef v_max
#undef v_abs
#undef v_copysign
#undef v_sqrt
#undef v_sum
#undef v_lt
#undef v_le
#undef v_eq
#undef v_select
#undef v_bits
#undef v_unbits
#undef v_shl
#undef v_shr
#undef v_poly
#undef v_exp
#undef v_expm1
#undef v_log
#undef v_log1p
#undef v_tanh
#undef v_sigmoid
#undef v_softplus
#undef v_erfc
#undef v_normal
#undef v_step
#undef v_between
#undef v_clip

#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif
