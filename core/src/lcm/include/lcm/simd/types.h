/* Vectors of LANES floats, as the compilers' extension of C has them: `a * b + c` is one instruction or two. */
#ifndef LCM_SIMD_TYPES_H
#define LCM_SIMD_TYPES_H

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
/* Four bytes where the others have a number. */
typedef int8_t vb __attribute__((vector_size(4 * LANES)));
/* The same, anywhere in memory. */
typedef float vf_anywhere __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#endif
