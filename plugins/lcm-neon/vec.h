/* Armv8-A NEON: 32 registers of 4 floats. */
#include <arm_neon.h>

#define LANES 4
#define TILE_ROWS 8 /* of the matrix product's tile in registers: 8 x 3 sums, 3 vectors of y, 1 of x */
#define TILE_VECTORS 3
#include <lcm/simd/types.h>

#define vf_load_first vf_load_first
static inline vf vf_load_first(const float *p, int64_t n) { /* ldr, ld1 {}[] */
  if (n == LANES) return (vf)vld1q_f32(p);
  float32x4_t x = vdupq_n_f32(0);
  if (n & 2) x = vcombine_f32(vld1_f32(p), vdup_n_f32(0));
  if (n == 3) x = vld1q_lane_f32(p + 2, x, 2);
  if (n == 1) x = vld1q_lane_f32(p, x, 0);
  return (vf)x;
}

#define vf_store_first vf_store_first
static inline void vf_store_first(float *p, vf x, int64_t n) { /* str, st1 {}[] */
  if (n == LANES) vst1q_f32(p, (float32x4_t)x);
  if (n == 2 || n == 3) vst1_f32(p, vget_low_f32((float32x4_t)x));
  if (n == 3) vst1q_lane_f32(p + 2, (float32x4_t)x, 2);
  if (n == 1) vst1q_lane_f32(p, (float32x4_t)x, 0);
}

#define vf_all_at vf_all_at
static inline vf vf_all_at(const float *p) { /* ldr, then a lane in fmla: ld1r would take a vector unit too */
  float x = *p;
  __asm__("" : "+w"(x));
  return (vf)vdupq_n_f32(x);
}

#define vf_max vf_max
static inline vf vf_max(vf a, vf b) { return (vf)vmaxq_f32((float32x4_t)a, (float32x4_t)b); } /* fmax */

#define vf_min vf_min
static inline vf vf_min(vf a, vf b) { return (vf)vminq_f32((float32x4_t)a, (float32x4_t)b); } /* fmin */

#define vf_sqrt vf_sqrt
static inline vf vf_sqrt(vf x) { return (vf)vsqrtq_f32((float32x4_t)x); } /* fsqrt */

#define vf_sum vf_sum
static inline float vf_sum(vf x) { return vaddvq_f32((float32x4_t)x); } /* faddp */

#define vf_largest vf_largest
static inline float vf_largest(vf x) { return vmaxvq_f32((float32x4_t)x); } /* fmaxv */

#define vi_sum vi_sum
static inline int32_t vi_sum(vi x) { return vaddvq_s32((int32x4_t)x); } /* addv */

#define vi_largest vi_largest
static inline int32_t vi_largest(vi x) { return vmaxvq_s32((int32x4_t)x); } /* smaxv */

#define vf_zip_low vf_zip_low
static inline vf vf_zip_low(vf a, vf b) { return (vf)vzip1q_f32((float32x4_t)a, (float32x4_t)b); } /* zip1 */

#define vf_zip_high vf_zip_high
static inline vf vf_zip_high(vf a, vf b) { return (vf)vzip2q_f32((float32x4_t)a, (float32x4_t)b); } /* zip2 */

#define vf_from_bf16 vf_from_bf16
static inline vf vf_from_bf16(const uint16_t *p) { return (vf)vshll_n_u16(vld1_u16(p), 16); } /* shll */

#define vf_from_f16 vf_from_f16
static inline vf vf_from_f16(const uint16_t *p) { /* fcvtl */
  return (vf)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}

#define f32_from_f16 f32_from_f16
static inline float f32_from_f16(uint16_t x) { /* fcvt */
  __fp16 half;
  memcpy(&half, &x, sizeof half);
  return half;
}

#define vi_dot vi_dot
#define DOT_BIAS 0
#define DOT_SIGNS
#ifdef __ARM_FEATURE_DOTPROD
static inline vi vi_dot(vi sum, vb a, vb b) { /* sdot */
  return (vi)vdotq_s32((int32x4_t)sum, (int8x16_t)a, (int8x16_t)b);
}

#define vi_dots vi_dots
static inline vi vi_dots(vi sum, const vb *w, const int8_t *x, const int count) { /* sdot by lanes of x */
  int32x4_t all = (int32x4_t)sum;
#pragma GCC unroll 2
  for (int j = 0; j < count; j += 4) {
    const int8x16_t four = vld1q_s8(x + 4 * j);
    all = vdotq_laneq_s32(all, (int8x16_t)w[j], four, 0);
    all = vdotq_laneq_s32(all, (int8x16_t)w[j + 1], four, 1);
    all = vdotq_laneq_s32(all, (int8x16_t)w[j + 2], four, 2);
    all = vdotq_laneq_s32(all, (int8x16_t)w[j + 3], four, 3);
  }
  return (vi)all;
}
#else
static inline vi vi_dot(vi sum, vb a, vb b) { /* smull, smull2, addp, sadalp: pairs stay below 2^15 */
  const int16x8_t low = vmull_s8(vget_low_s8((int8x16_t)a), vget_low_s8((int8x16_t)b));
  const int16x8_t high = vmull_high_s8((int8x16_t)a, (int8x16_t)b);
  return (vi)vpadalq_s16((int32x4_t)sum, vpaddq_s16(low, high));
}
#endif

#ifdef __ARM_FEATURE_MATMUL_INT8
#define vi_dot_pairs vi_dot_pairs
static inline vi vi_dot_pairs(vi sum, vb x, vb w) { /* smmla */
  return (vi)vmmlaq_s32((int32x4_t)sum, (int8x16_t)x, (int8x16_t)w);
}

static inline vb vb_quad(const void *p) { return (vb)vld1q_u8(p); } /* ldr */

static inline vf vf_zip_pairs_low(vf a, vf b) { return (vf)vzip1q_f64((float64x2_t)a, (float64x2_t)b); } /* zip1 */

static inline vf vf_zip_pairs_high(vf a, vf b) { return (vf)vzip2q_f64((float64x2_t)a, (float64x2_t)b); } /* zip2 */

static inline vf vf_pairs_of_rows(const int even, vf a, vf b) { /* zip1, zip2: a vector is two pairs */
  return even ? vf_zip_pairs_low(a, b) : vf_zip_pairs_high(a, b);
}
#endif

#define vb_look_up vb_look_up
static inline vb vb_look_up(const int8_t table[16], vb at) { /* tbl */
  return (vb)vqtbl1q_s8(vld1q_s8(table), (uint8x16_t)at);
}

#define vi_gather_quads vi_gather_quads
static inline vi vi_gather_quads(const uint8_t *p, int64_t step) { /* ldr */
  (void)step;
  return (vi)vld1q_u8(p);
}

#define vi_transpose_quads vi_transpose_quads
static inline void vi_transpose_quads(vi x[4]) { /* trn1, trn2 */
  const int64x2_t a = vreinterpretq_s64_s32(vtrn1q_s32((int32x4_t)x[0], (int32x4_t)x[1]));
  const int64x2_t b = vreinterpretq_s64_s32(vtrn2q_s32((int32x4_t)x[0], (int32x4_t)x[1]));
  const int64x2_t c = vreinterpretq_s64_s32(vtrn1q_s32((int32x4_t)x[2], (int32x4_t)x[3]));
  const int64x2_t d = vreinterpretq_s64_s32(vtrn2q_s32((int32x4_t)x[2], (int32x4_t)x[3]));
  x[0] = (vi)vtrn1q_s64(a, c);
  x[1] = (vi)vtrn1q_s64(b, d);
  x[2] = (vi)vtrn2q_s64(a, c);
  x[3] = (vi)vtrn2q_s64(b, d);
}

static inline uint16x4_t four_u8(const uint8_t *p) {
  uint32_t bytes;
  memcpy(&bytes, p, sizeof bytes);
  return vget_low_u16(vmovl_u8(vcreate_u8(bytes)));
}

#define vi_from_u8 vi_from_u8
static inline vi vi_from_u8(const uint8_t *p) { return (vi)vmovl_u16(four_u8(p)); } /* uxtl, uxtl */

#define vi_from_i8 vi_from_i8
static inline vi vi_from_i8(const uint8_t *p) { return vi_from_u8(p) << 24 >> 24; } /* uxtl, uxtl, shl, sshr */

#define vi_to_16 vi_to_16
static inline void vi_to_16(uint16_t *p, vi x) { vst1_u16(p, vmovn_u32((uint32x4_t)x)); } /* xtn */

#define vi_to_8 vi_to_8
static inline void vi_to_8(int8_t *p, vi x) { /* xtn, xtn */
  const uint16x4_t half = vmovn_u32((uint32x4_t)x);
  const uint8x8_t bytes = vmovn_u16(vcombine_u16(half, half));
  memcpy(p, &bytes, 4);
}
