/* The kit's kernels as plain C: what a new processor begins with. */
#include "vec.h"

#include <lcm/simd/kernels.h>
