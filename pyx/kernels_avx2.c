/* kernels_avx2.c: the avx2 rows of the table. */
#if defined(__x86_64__) || defined(_M_X64)
#define FL_ISA avx2
#define FL_ISA_AVX2
#include "fastlstm/kernels.h"
#else
typedef int fl_no_avx2_here;
#endif
