/* prelude.cuh: what templates and kernels need where there is no system header: integer types, INFINITY, NAN.
 *
 * First text of the CUDA source that kernels.py joins; FL_BITS (32 or 64) stands before it. The same source runs on a CPU through
 * a shim, which brings these names with it and defines FL_CPU_CUDA.
 */
#define FL_CUDA
#define FL_ISA cuda
#define FL_ISA_ONE

#ifndef FL_CPU_CUDA
typedef unsigned char uint8_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
typedef decltype((char *)0 - (char *)0) ptrdiff_t;
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)

#pragma nv_diag_suppress 177 /* of the templates only a part is used */

/* The dynamic shared memory of the block, as reals. */
extern __shared__ __align__(16) char fl_shared[];
#define FL_SHARED(name) real *name = (real *)fl_shared
/* A load that does not look into this processor's own cache: for what other blocks wrote during this launch. */
#define FL_LOAD_FRESH(p) __ldcg(p)
/* Inside a loop that waits for other blocks. */
#define FL_WAITING()
#endif
