/* kernels_neon.c: the neon rows of the table. */
#if defined(__aarch64__)
#define FL_ISA neon
#define FL_ISA_NEON
#include "fastlstm/kernels.h"
#else
typedef int fl_no_neon_here;
#endif
