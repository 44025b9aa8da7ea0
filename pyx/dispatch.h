/* dispatch.h: which instruction sets this build has and this processor runs. Called by _core.pyx, once at import. */
#ifndef FASTLSTM_DISPATCH_H
#define FASTLSTM_DISPATCH_H

#include "fastlstm/arguments.h"

/* Number of instruction sets that this build knows for this architecture, from the plainest to the widest. */
int fl_isa_count(void);
/* Name of instruction set k (0 <= k < fl_isa_count()). */
const char *fl_isa_name(int k);
/* 1 if this processor and operating system run instruction set k. */
int fl_isa_usable(int k);
/* The table's row: bits is 32 or 64. */
const fl_kernels *fl_isa_kernels(int k, int bits);

/* Sets flush-to-zero for the calling thread; returns the mode to give to fl_restore_mode. */
unsigned long fl_flush_to_zero(void);
void fl_restore_mode(unsigned long mode);

#endif
