/* SVE with vectors of one length, which -msve-vector-bits says: 32 registers of 4, 8 or 16 floats; tails by predicates. */
#include <arm_sve.h>

#define LANES (__ARM_FEATURE_SVE_BITS / 32)
#define TILE_ROWS 8
#define TILE_VECTORS 3
#include <lcm/simd/types.h>

typedef svfloat32_t sve_f32 __attribute__((arm_sve_vector_bits(__ARM_FEATURE_SVE_BITS)));

static inline svbool_t first_lanes(int64_t n) { return svwhilelt_b32_s64(0, n); }

#define vf_load_first vf_load_first
static inline vf vf_load_first(const float *p, int64_t n) { /* ld1w {z} */
  return svld1_f32(first_lanes(n), p);
}

#define vf_store_first vf_store_first
static inline void vf_store_first(float *p, vf x, int64_t n) { /* st1w {p} */
  svst1_f32(first_lanes(n), p, x);
}

#define vf_sqrt vf_sqrt
static inline vf vf_sqrt(vf x) { return svsqrt_f32_x(svptrue_b32(), x); } /* fsqrt */
