/* The kernels of lcm-neon: the kit's, with its vectors. */
#include "vec.h"

#include <lcm/simd/kernels.h>
