/* AVX2 with FMA and F16C: 16 registers of 8 floats; tails by vectors of masks. */
#include <immintrin.h>

#define LANES 8
#define TILE_ROWS 6
#define TILE_VECTORS 2
#include <lcm/simd/types.h>

static inline __m256i first_lanes(int64_t n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane);
}

#define vf_load_first vf_load_first
static inline vf vf_load_first(const float *p, int64_t n) { /* vmaskmovps */
  return (vf)_mm256_maskload_ps(p, first_lanes(n));
}

#define vf_store_first vf_store_first
static inline void vf_store_first(float *p, vf x, int64_t n) { /* vmaskmovps */
  _mm256_maskstore_ps(p, first_lanes(n), (__m256)x);
}

#define vf_pick vf_pick
static inline vf vf_pick(vi mask, vf a, vf b) { /* vblendvps */
  return (vf)_mm256_blendv_ps((__m256)b, (__m256)a, (__m256)mask);
}

#define vf_max vf_max
static inline vf vf_max(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); } /* vmaxps */

#define vf_min vf_min
static inline vf vf_min(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); } /* vminps */

#define vf_sqrt vf_sqrt
static inline vf vf_sqrt(vf x) { return (vf)_mm256_sqrt_ps((__m256)x); } /* vsqrtps */

#define vf_zip_low vf_zip_low
static inline vf vf_zip_low(vf a, vf b) { /* vunpcklps, vunpckhps, vinsertf128 */
  const __m256 even = _mm256_unpacklo_ps((__m256)a, (__m256)b), odd = _mm256_unpackhi_ps((__m256)a, (__m256)b);
  return (vf)_mm256_permute2f128_ps(even, odd, 0x20);
}

#define vf_zip_high vf_zip_high
static inline vf vf_zip_high(vf a, vf b) { /* vunpcklps, vunpckhps, vperm2f128 */
  const __m256 even = _mm256_unpacklo_ps((__m256)a, (__m256)b), odd = _mm256_unpackhi_ps((__m256)a, (__m256)b);
  return (vf)_mm256_permute2f128_ps(even, odd, 0x31);
}

#define vf_sum vf_sum
static inline float vf_sum(vf x) { /* vextractf128, vaddps, … */
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

#define vf_largest vf_largest
static inline float vf_largest(vf x) { /* vextractf128, vmaxps, … */
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

#define vi_sum vi_sum
static inline int32_t vi_sum(vi x) { /* vextracti128, vpaddd, … */
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128((__m256i)x), _mm256_extracti128_si256((__m256i)x, 1));
  const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
}

#define vi_largest vi_largest
static inline int32_t vi_largest(vi x) { /* vextracti128, vpmaxsd, … */
  const __m128i four = _mm_max_epi32(_mm256_castsi256_si128((__m256i)x), _mm256_extracti128_si256((__m256i)x, 1));
  const __m128i two = _mm_max_epi32(four, _mm_unpackhi_epi64(four, four));
  return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 1)));
}

#define vf_from_bf16 vf_from_bf16
static inline vf vf_from_bf16(const uint16_t *p) { /* vpmovzxwd, vpslld */
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
  return (vf)_mm256_slli_epi32(wide, 16);
}

#define vf_from_f16 vf_from_f16
static inline vf vf_from_f16(const uint16_t *p) { /* vcvtph2ps */
  return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

#define f32_from_f16 f32_from_f16
static inline float f32_from_f16(uint16_t x) { return _cvtsh_ss(x); } /* vcvtph2ps */

#define vi_dot_small vi_dot_small
static inline vi vi_dot_small(vi sum, vb a, vb b) { /* vpmaddubsw, vpmaddwd */
  const __m256i pairs = _mm256_maddubs_epi16((__m256i)a, (__m256i)b);
  return sum + (vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

#define vi_dot vi_dot
#define DOT_BIAS 0
static inline vi vi_dot(vi sum, vb a, vb b) { /* vpabsb, vpsignb, …: pairs stay below 2^15 */
  const __m256i turned = _mm256_sign_epi8((__m256i)b, (__m256i)a);
  return vi_dot_small(sum, (vb)_mm256_abs_epi8((__m256i)a), (vb)turned);
}

#define vb_look_up vb_look_up
static inline vb vb_look_up(const int8_t table[16], vb at) { /* vbroadcasti128, vpshufb */
  const __m256i twice = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table));
  return (vb)_mm256_shuffle_epi8(twice, (__m256i)at);
}

#define vi_gather_quads vi_gather_quads
static inline vi vi_gather_quads(const uint8_t *p, int64_t step) { /* vmovdqu, vinserti128 */
  const __m256i x = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)p));
  return (vi)_mm256_inserti128_si256(x, _mm_loadu_si128((const __m128i *)(p + step)), 1);
}

#define vi_transpose_quads vi_transpose_quads
static inline void vi_transpose_quads(vi x[4]) { /* vpunpckldq, vpunpckhdq, vpunpcklqdq, vpunpckhqdq */
  const __m256i a = _mm256_unpacklo_epi32((__m256i)x[0], (__m256i)x[1]);
  const __m256i b = _mm256_unpackhi_epi32((__m256i)x[0], (__m256i)x[1]);
  const __m256i c = _mm256_unpacklo_epi32((__m256i)x[2], (__m256i)x[3]);
  const __m256i d = _mm256_unpackhi_epi32((__m256i)x[2], (__m256i)x[3]);
  x[0] = (vi)_mm256_unpacklo_epi64(a, c);
  x[1] = (vi)_mm256_unpackhi_epi64(a, c);
  x[2] = (vi)_mm256_unpacklo_epi64(b, d);
  x[3] = (vi)_mm256_unpackhi_epi64(b, d);
}

#define vi_from_u8 vi_from_u8
static inline vi vi_from_u8(const uint8_t *p) { /* vpmovzxbd */
  return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
}

#define vi_from_i8 vi_from_i8
static inline vi vi_from_i8(const uint8_t *p) { /* vpmovsxbd */
  return (vi)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p));
}

static inline __m128i halves_of_lanes(vi x) { /* vpshufb, vpermq */
  const __m256i low = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1, 0, 1, 4, 5, 8, 9, 12,
                                       13, -1, -1, -1, -1, -1, -1, -1, -1);
  return _mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_shuffle_epi8((__m256i)x, low), 8));
}

#define vi_to_16 vi_to_16
static inline void vi_to_16(uint16_t *p, vi x) { _mm_storeu_si128((__m128i *)p, halves_of_lanes(x)); }

#define vi_to_8 vi_to_8
static inline void vi_to_8(int8_t *p, vi x) { /* and vpshufb */
  const __m128i low = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, -1, -1, -1, -1, -1, -1, -1, -1);
  _mm_storel_epi64((__m128i *)p, _mm_shuffle_epi8(halves_of_lanes(x), low));
}
