/* No instruction set: vectors of 4 floats, and every primitive as C has it. */
#define LANES 4
#define TILE_ROWS 4
#define TILE_VECTORS 2
#include <lcm/simd/types.h>
