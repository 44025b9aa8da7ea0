/* real.h: the dtype of a template.
 *
 * Include it with FL_BITS defined as 32 or 64 (and, in a dispatched build, FL_ISA as a word) before simd.h, vmath.h, cell.h
 * and gate_panel.h. Including the five again with another FL_BITS makes the second dtype; every name that they define
 * passes through FL(), so that fl_tanh_f32_avx512 and fl_tanh_f64_avx512 live in one translation unit.
 *
 * FL_CUDA: the text is part of a CUDA source (fastlstm/backends/gpu/prelude.cuh defines it), one lane a thread.
 *
 * Terms: real (float or double), ireal (signed integer of the same size). No other file asks which dtype it is compiled for,
 * except for constants whose value depends on the precision (FL_PICK).
 */

#ifndef FL_ISA
#define FL_ISA native
#endif

#undef FL_DTYPE
#undef FL_PICK
#if FL_BITS == 32
#define FL_DTYPE f32
#define FL_PICK(single_, double_) single_##f
#elif FL_BITS == 64
#define FL_DTYPE f64
#define FL_PICK(single_, double_) double_
#else
#error "define FL_BITS as 32 or 64 before including fastlstm/real.h"
#endif

#ifndef FL
#define FL_PASTE_(name, dtype, isa) fl_##name##_##dtype##_##isa
#define FL_PASTE(name, dtype, isa) FL_PASTE_(name, dtype, isa)
#define FL(name) FL_PASTE(name, FL_DTYPE, FL_ISA)

#if defined(FL_CUDA)
#define FL_INLINE static __device__ __forceinline__
#define FL_STATIC static __device__ __noinline__
#elif defined(__GNUC__) || defined(__clang__)
#define FL_INLINE static inline __attribute__((always_inline, unused))
#define FL_STATIC static __attribute__((noinline, unused))
#elif defined(_MSC_VER)
#define FL_INLINE static __forceinline
#define FL_STATIC static
#else
#define FL_INLINE static inline
#define FL_STATIC static
#endif

/* Compile-time unrolling of the loops whose accumulators must stay in registers. */
#if defined(__clang__) || defined(__CUDACC__)
#define FL_UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define FL_UNROLL _Pragma("GCC unroll 16")
#else
#define FL_UNROLL
#endif

/* Templates write real, vec, v_load …; each is a macro for the mangled name. (The argument of FL() must not be a macro itself.) */
#define real FL(real_t)
#define ireal FL(ireal_t)
#endif /* FL */

#if FL_BITS == 32
typedef float real;
typedef int32_t ireal;
#else
typedef double real;
typedef int64_t ireal;
#endif
