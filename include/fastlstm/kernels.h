/* kernels.h: includes the templates once for float and once for double, inside the target pragma of one instruction set.
 *
 * A kernels_<isa>.c of pyx/ defines FL_ISA (a word) and FL_ISA_<NAME>, then includes this file; that is all it does. The pragma form
 * is the one that gcc, clang and zig obey; the intrinsics' headers must stand before it.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(FL_ISA_AVX512) || defined(FL_ISA_AVX2)
#include <immintrin.h>
#elif defined(FL_ISA_NEON)
#include <arm_neon.h>
#endif

#include "arguments.h"

#if defined(FL_ISA_AVX512)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), apply_to = function)
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,prefer-vector-width=512")
#endif
#elif defined(FL_ISA_AVX2)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#endif

#define FL_BITS 32
#include "real.h"
#include "simd.h"
#include "vmath.h"
#include "vactivation.h"
#include "cell.h"
#include "gate_panel.h"
#include "gate_project.h"
#include "single_row.h"
#include "row_lanes.h"
#include "gate_backward.h"
#include "gate_dropout.h"
#include "table.h"
#undef FL_BITS

#define FL_BITS 64
#include "real.h"
#include "simd.h"
#include "vmath.h"
#include "vactivation.h"
#include "cell.h"
#include "gate_panel.h"
#include "gate_project.h"
#include "single_row.h"
#include "row_lanes.h"
#include "gate_backward.h"
#include "gate_dropout.h"
#include "table.h"
#undef FL_BITS

#if defined(FL_ISA_AVX512) || defined(FL_ISA_AVX2)
#if defined(__clang__)
#pragma clang attribute pop
#elif defined(__GNUC__)
#pragma GCC pop_options
#endif
#endif
