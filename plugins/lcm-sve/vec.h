/* SVE with vectors of one length, which -msve-vector-bits says: 32 registers of 4, 8 or 16 floats; tails by
   predicates. A vector of C and one of SVE are the same, and turn into each other where they are passed. */
#include <arm_sve.h>

#define LANES (__ARM_FEATURE_SVE_BITS / 32)
#define TILE_ROWS 8
#define TILE_VECTORS 3
#include <lcm/simd/types.h>

#define ALL svptrue_b32()

static inline svbool_t first_lanes(int64_t n) { return svwhilelt_b32_s64(0, n); }

#define vf_load_first vf_load_first
static inline vf vf_load_first(const float *p, int64_t n) { return svld1_f32(first_lanes(n), p); } /* ld1w {z} */

#define vf_store_first vf_store_first
static inline void vf_store_first(float *p, vf x, int64_t n) { svst1_f32(first_lanes(n), p, x); } /* st1w {p} */

#if LANES == 4 /* where compilers take NEON for what is plain C */
#define vf_all_at vf_all_at
static inline vf vf_all_at(const float *p) { /* ldr, then a lane in fmla: ld1r would take a vector unit too */
  float x = *p;
  __asm__("" : "+w"(x));
  return x - (vf){0};
}
#endif

#define vf_max vf_max
static inline vf vf_max(vf a, vf b) { return svmax_f32_x(ALL, a, b); } /* fmax */

#define vf_min vf_min
static inline vf vf_min(vf a, vf b) { return svmin_f32_x(ALL, a, b); } /* fmin */

#define vf_sqrt vf_sqrt
static inline vf vf_sqrt(vf x) { return svsqrt_f32_x(ALL, x); } /* fsqrt */

#define vf_scale vf_scale
static inline vf vf_scale(vf x, vf n) { return svscale_f32_x(ALL, x, svcvt_s32_f32_x(ALL, n)); } /* fcvtzs, fscale */

#define vf_scale_down vf_scale

#define vf_sum vf_sum
static inline float vf_sum(vf x) { return svaddv_f32(ALL, x); } /* faddv: pairs of neighbours, then their pairs */

#define vf_largest vf_largest
static inline float vf_largest(vf x) { return svmaxv_f32(ALL, x); } /* fmaxv */

#define vi_sum vi_sum
static inline int32_t vi_sum(vi x) { return (int32_t)svaddv_s32(ALL, x); } /* saddv */

#define vi_largest vi_largest
static inline int32_t vi_largest(vi x) { return svmaxv_s32(ALL, x); } /* smaxv */

#define vf_zip_low vf_zip_low
static inline vf vf_zip_low(vf a, vf b) { return svzip1_f32(a, b); } /* zip1 */

#define vf_zip_high vf_zip_high
static inline vf vf_zip_high(vf a, vf b) { return svzip2_f32(a, b); } /* zip2 */

#define vf_from_bf16 vf_from_bf16
static inline vf vf_from_bf16(const uint16_t *p) { /* ld1h, lsl */
  return svreinterpret_f32_u32(svlsl_n_u32_x(ALL, svld1uh_u32(ALL, p), 16));
}

#define vf_from_f16 vf_from_f16
static inline vf vf_from_f16(const uint16_t *p) { /* ld1h, fcvt */
  return svcvt_f32_f16_x(ALL, svreinterpret_f16_u32(svld1uh_u32(ALL, p)));
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
static inline vi vi_dot(vi sum, vb a, vb b) { return svdot_s32(sum, a, b); } /* sdot */

static inline svint8_t quad(const int8_t *p) { return svld1rq_s8(svptrue_b8(), p); } /* ld1rqb */

#define vi_dots vi_dots
static inline vi vi_dots(vi sum, const vb *w, const int8_t *x, const int count) { /* sdot by lanes of x */
#pragma GCC unroll 2
  for (int j = 0; j < count; j += 4) {
    const svint8_t four = quad(x + 4 * j);
    sum = svdot_lane_s32(sum, w[j], four, 0);
    sum = svdot_lane_s32(sum, w[j + 1], four, 1);
    sum = svdot_lane_s32(sum, w[j + 2], four, 2);
    sum = svdot_lane_s32(sum, w[j + 3], four, 3);
  }
  return sum;
}

#ifdef __ARM_FEATURE_SVE_MATMUL_INT8
#define vi_dot_pairs vi_dot_pairs
static inline vi vi_dot_pairs(vi sum, vb x, vb w) { return svmmla_s32(sum, x, w); } /* smmla */

static inline vb vb_quad(const void *p) { return quad(p); } /* ld1rqb */

static inline svfloat64_t twos(svfloat32_t x) { return svreinterpret_f64_f32(x); }

static inline vf vf_zip_pairs_low(vf a, vf b) { /* zip1 */
  return svreinterpret_f32_f64(svzip1_f64(twos(a), twos(b)));
}

static inline vf vf_zip_pairs_high(vf a, vf b) { /* zip2 */
  return svreinterpret_f32_f64(svzip2_f64(twos(a), twos(b)));
}

static inline vf vf_pairs_of_rows(const int even, vf a, vf b) { /* uzp1, uzp2 */
  return svreinterpret_f32_f64(even ? svuzp1_f64(twos(a), twos(b)) : svuzp2_f64(twos(a), twos(b)));
}
#endif

#define vb_look_up vb_look_up
static inline vb vb_look_up(const int8_t table[16], vb at) { /* tbl */
  return svtbl_s8(quad(table), svreinterpret_u8_s8(at));
}

#define vi_gather_quads vi_gather_quads
static inline vi vi_gather_quads(const uint8_t *p, int64_t step) { /* ld1rqb, sel */
  svint32_t x = svreinterpret_s32_s8(quad((const int8_t *)p));
#pragma GCC unroll 4
  for (int i = 1; i < LANES / 4; i++)
    x = svsel_s32(first_lanes(4 * i), x, svreinterpret_s32_s8(quad((const int8_t *)p + i * step)));
  return x;
}

#define vi_transpose_quads vi_transpose_quads
static inline void vi_transpose_quads(vi x[4]) { /* trn1, trn2 */
  const svint64_t a = svreinterpret_s64_s32(svtrn1_s32(x[0], x[1])), b = svreinterpret_s64_s32(svtrn2_s32(x[0], x[1]));
  const svint64_t c = svreinterpret_s64_s32(svtrn1_s32(x[2], x[3])), d = svreinterpret_s64_s32(svtrn2_s32(x[2], x[3]));
  x[0] = svreinterpret_s32_s64(svtrn1_s64(a, c));
  x[1] = svreinterpret_s32_s64(svtrn1_s64(b, d));
  x[2] = svreinterpret_s32_s64(svtrn2_s64(a, c));
  x[3] = svreinterpret_s32_s64(svtrn2_s64(b, d));
}

#define vi_from_u8 vi_from_u8
static inline vi vi_from_u8(const uint8_t *p) { return svld1ub_s32(ALL, p); } /* ld1b */

#define vi_from_i8 vi_from_i8
static inline vi vi_from_i8(const uint8_t *p) { return svld1sb_s32(ALL, (const int8_t *)p); } /* ld1sb */

#define vi_to_8 vi_to_8
static inline void vi_to_8(int8_t *p, vi x) { svst1b_s32(ALL, p, x); } /* st1b */

#define vi_to_16 vi_to_16
static inline void vi_to_16(uint16_t *p, vi x) { svst1h_u32(ALL, p, svreinterpret_u32_s32(x)); } /* st1h */
