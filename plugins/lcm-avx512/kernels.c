/* The kernels of lcm-avx512: the kit's, with its vectors. */
#include "vec.h"

#include <lcm/simd/kernels.h>
