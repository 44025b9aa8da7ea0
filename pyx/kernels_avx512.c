/* kernels_avx512.c: the avx512 rows of the table. */
#if defined(__x86_64__) || defined(_M_X64)
#define FL_ISA avx512
#define FL_ISA_AVX512
#include "fastlstm/kernels.h"
#else
typedef int fl_no_avx512_here;
#endif
