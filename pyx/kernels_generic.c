/* kernels_generic.c: the generic rows of the table. */
#define FL_ISA generic
#include "fastlstm/kernels.h"
