/* The kernels of lcm-sve: the kit's, with its vectors. */
#include "vec.h"

#include <lcm/simd/kernels.h>
