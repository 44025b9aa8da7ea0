/* library.c: the C library alone, for programs of several files. */
#define FASTLSTM_IMPLEMENTATION
#include <fastlstm/fastlstm.h>
