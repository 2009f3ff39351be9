/* No instruction set: vectors of 4 floats, and every primitive as C has it; the tile is that of processors with 32
   registers, and bytes are multiplied in pairs of rows. */
#define LANES 4
#define TILE_ROWS 8
#define TILE_VECTORS 3
#include <lcm/simd/types.h>

#define DOT_SIGNS

#define vi_dot_pairs vi_dot_pairs
static inline vi vi_dot_pairs(vi sum, vb x, vb w) {
  for (int i = 0; i < 32; i++) sum[i / 8] += x[i / 16 * 8 + i % 8] * w[i / 8 % 2 * 8 + i % 8];
  return sum;
}

static inline vb vb_quad(const void *p) {
  vb x;
  memcpy(&x, p, sizeof x);
  return x;
}

static inline vf vf_zip_pairs_low(vf a, vf b) { return (vf){a[0], a[1], b[0], b[1]}; }

static inline vf vf_zip_pairs_high(vf a, vf b) { return (vf){a[2], a[3], b[2], b[3]}; }

static inline vf vf_pairs_of_rows(const int even, vf a, vf b) {
  return even ? vf_zip_pairs_low(a, b) : vf_zip_pairs_high(a, b);
}
