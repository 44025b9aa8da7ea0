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
typedef float4 fl_piece; /* 16 bytes on their way */
/* Inside a loop that waits for other blocks. */
#define FL_WAITING()

/* One more at `place`, for the whole device, behind all that this block's threads wrote before its last barrier. */
__device__ __forceinline__ void arrive(unsigned int *place) {
  asm volatile("red.release.gpu.add.u32 [%0], 1;" ::"l"(place) : "memory");
}
/* How many have arrived; what they wrote before is there to be read behind the next barrier. */
__device__ __forceinline__ unsigned int arrivals(const unsigned int *place) {
  unsigned int count;
  asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(count) : "l"(place) : "memory");
  return count;
}
#endif
