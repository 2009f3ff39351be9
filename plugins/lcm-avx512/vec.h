/* AVX-512 (F, BW, DQ, VL): 32 registers of 16 floats; tails by masks. */
#include <immintrin.h>

#define LANES 16
#define TILE_ROWS 14
#define TILE_VECTORS 2
#include <lcm/simd/types.h>

static inline __mmask16 first_lanes(int64_t n) { return (__mmask16)((1u << n) - 1); }

#define vf_load_first vf_load_first
static inline vf vf_load_first(const float *p, int64_t n) { /* vmovups {z} */
  return (vf)_mm512_maskz_loadu_ps(first_lanes(n), p);
}

#define vf_store_first vf_store_first
static inline void vf_store_first(float *p, vf x, int64_t n) { /* vmovups {k} */
  _mm512_mask_storeu_ps(p, first_lanes(n), (__m512)x);
}

#define vf_max vf_max
static inline vf vf_max(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); } /* vmaxps */

#define vf_min vf_min
static inline vf vf_min(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); } /* vminps */

#define vf_sqrt vf_sqrt
static inline vf vf_sqrt(vf x) { return (vf)_mm512_sqrt_ps((__m512)x); } /* vsqrtps */

#define vf_sum vf_sum
static inline float vf_sum(vf x) { return _mm512_reduce_add_ps((__m512)x); } /* vextractf64x4, vaddps, … */

#define vf_largest vf_largest
static inline float vf_largest(vf x) { return _mm512_reduce_max_ps((__m512)x); } /* vextractf64x4, vmaxps, … */

#define vi_sum vi_sum
static inline int32_t vi_sum(vi x) { return _mm512_reduce_add_epi32((__m512i)x); } /* vextracti64x4, vpaddd, … */

#define vi_largest vi_largest
static inline int32_t vi_largest(vi x) { return _mm512_reduce_max_epi32((__m512i)x); } /* vextracti64x4, vpmaxsd, … */

#define vf_scale vf_scale
static inline vf vf_scale(vf x, vf n) { return (vf)_mm512_scalef_ps((__m512)x, (__m512)n); } /* vscalefps */

#define vf_scale_down vf_scale

static inline __m512i zip_order(int first) { /* of 32 numbers: first, 16 + first, first + 1, … */
  const __m512i pairs = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  return _mm512_add_epi32(pairs, _mm512_set1_epi32(first));
}

#define vf_zip_low vf_zip_low
static inline vf vf_zip_low(vf a, vf b) { /* vpermt2ps */
  return (vf)_mm512_permutex2var_ps((__m512)a, zip_order(0), (__m512)b);
}

#define vf_zip_high vf_zip_high
static inline vf vf_zip_high(vf a, vf b) { /* vpermt2ps */
  return (vf)_mm512_permutex2var_ps((__m512)a, zip_order(8), (__m512)b);
}

#define vf_from_bf16 vf_from_bf16
static inline vf vf_from_bf16(const uint16_t *p) { /* vpmovzxwd, vpslld */
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
  return (vf)_mm512_slli_epi32(wide, 16);
}

#define vf_from_f16 vf_from_f16
static inline vf vf_from_f16(const uint16_t *p) { /* vcvtph2ps */
  return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

#define f32_from_f16 f32_from_f16
static inline float f32_from_f16(uint16_t x) { return _cvtsh_ss(x); } /* vcvtph2ps */

#define vi_dot vi_dot
#define vi_dot_small vi_dot_small
#ifdef __AVX512VNNI__
#define DOT_BIAS 128
static inline vi vi_dot_small(vi sum, vb a, vb b) { /* vpdpbusd */
  return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
}

static inline vi vi_dot(vi sum, vb a, vb b) { return vi_dot_small(sum, a ^ (int8_t)-128, b); } /* vpxord, vpdpbusd */
#else
#define DOT_BIAS 0
static inline vi vi_dot_small(vi sum, vb a, vb b) { /* vpmaddubsw, vpmaddwd */
  const __m512i pairs = _mm512_maddubs_epi16((__m512i)a, (__m512i)b);
  return sum + (vi)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
}

static inline vi vi_dot(vi sum, vb a, vb b) { /* vpabsb, vpmovb2m, vpsubb {k}, …: pairs stay below 2^15 */
  const __mmask64 minus = _mm512_movepi8_mask((__m512i)a);
  const __m512i turned = _mm512_mask_sub_epi8((__m512i)b, minus, _mm512_setzero_si512(), (__m512i)b);
  return vi_dot_small(sum, (vb)_mm512_abs_epi8((__m512i)a), (vb)turned);
}
#endif

#ifdef __AMX_INT8__
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TILE_OF_ROWS 16
#define TILES 4 /* of sums, at a time */

/* Linux lends tiles to processes that ask for them: ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA. */
static bool tiles_allowed(void) {
  static atomic_int asked; /* 1: yes, 2: no */
  if (!atomic_load(&asked)) atomic_store(&asked, syscall(SYS_arch_prctl, 0x1023, 18) ? 2 : 1);
  return atomic_load(&asked) == 1;
}

/* Tiles 0 to 3 for sums; 4 and 6 for 16 rows of x, 5 and 7 for as many units of 4 bytes of 16 outputs. */
static inline void tiles_begin(int units) { /* ldtilecfg */
  const uint16_t of_x = (uint16_t)(4 * units);
  const uint8_t of_w = (uint8_t)units;
  struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
  } shapes = {.palette = 1, .bytes = {64, 64, 64, 64, of_x, 64, of_x, 64}, .rows = {16, 16, 16, 16, 16, of_w, 16, of_w}};
  __asm__ volatile("" : : "r"(&shapes) : "memory"); /* GCC 12 takes the next line for a look at 8 bytes of it */
  _tile_loadconfig(&shapes);
}

static inline void tiles_end(void) { _tile_release(); } /* tilerelease */

#define TILE_DOT(i, of_x, of_w)              \
  if (count > i) {                           \
    _tile_zero(i);                           \
    _tile_loadd(of_x, x[i], line);           \
    _tile_loadd(of_w, w[i], 64);             \
    _tile_dpbssd(i, of_x, of_w);             \
  }

/* sums[i][r] is that of the products of row r at x[i], rows `line` bytes apart, with w[i]. */
static inline void tile_dots(vi sums[][16], const int count, const int8_t *const x[], int64_t line,
                             const vb *const w[]) { /* tdpbssd; several at a time, since each takes 50 cycles */
  TILE_DOT(0, 4, 5)
  TILE_DOT(1, 6, 7)
  TILE_DOT(2, 4, 5)
  TILE_DOT(3, 6, 7)
  if (count > 0) _tile_stored(0, sums[0], 64);
  if (count > 1) _tile_stored(1, sums[1], 64);
  if (count > 2) _tile_stored(2, sums[2], 64);
  if (count > 3) _tile_stored(3, sums[3], 64);
}
#endif

#define vb_look_up vb_look_up
static inline vb vb_look_up(const int8_t table[16], vb at) { /* vbroadcasti32x4, vpshufb */
  const __m512i four_times = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table));
  return (vb)_mm512_shuffle_epi8(four_times, (__m512i)at);
}

#define vi_spread_bits vi_spread_bits
static inline vi vi_spread_bits(vi x) { /* vpermd: of an index it looks at the lowest four bits */
  const __m512i of_four = _mm512_setr_epi32(
      0, 0x00000001, 0x00000100, 0x00000101, 0x00010000, 0x00010001, 0x00010100, 0x00010101, 0x01000000, 0x01000001,
      0x01000100, 0x01000101, 0x01010000, 0x01010001, 0x01010100, 0x01010101);
  return (vi)_mm512_permutexvar_epi32((__m512i)x, of_four);
}

#define vi_gather_quads vi_gather_quads
static inline vi vi_gather_quads(const uint8_t *p, int64_t step) { /* vmovdqu, vinserti32x4 */
  __m512i x = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)p));
  x = _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *)(p + step)), 1);
  x = _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *)(p + 2 * step)), 2);
  return (vi)_mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *)(p + 3 * step)), 3);
}

#define vi_transpose_quads vi_transpose_quads
static inline void vi_transpose_quads(vi x[4]) { /* vpunpckldq, vpunpckhdq, vpunpcklqdq, vpunpckhqdq */
  const __m512i a = _mm512_unpacklo_epi32((__m512i)x[0], (__m512i)x[1]);
  const __m512i b = _mm512_unpackhi_epi32((__m512i)x[0], (__m512i)x[1]);
  const __m512i c = _mm512_unpacklo_epi32((__m512i)x[2], (__m512i)x[3]);
  const __m512i d = _mm512_unpackhi_epi32((__m512i)x[2], (__m512i)x[3]);
  x[0] = (vi)_mm512_unpacklo_epi64(a, c);
  x[1] = (vi)_mm512_unpackhi_epi64(a, c);
  x[2] = (vi)_mm512_unpacklo_epi64(b, d);
  x[3] = (vi)_mm512_unpackhi_epi64(b, d);
}

#define vi_from_u8 vi_from_u8
static inline vi vi_from_u8(const uint8_t *p) { /* vpmovzxbd */
  return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
}

#define vi_from_i8 vi_from_i8
static inline vi vi_from_i8(const uint8_t *p) { /* vpmovsxbd */
  return (vi)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p));
}

#define vi_to_8 vi_to_8
static inline void vi_to_8(int8_t *p, vi x) { /* vpmovdb */
  _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8((__m512i)x));
}

#define vi_to_16 vi_to_16
static inline void vi_to_16(uint16_t *p, vi x) { /* vpmovdw */
  _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16((__m512i)x));
}
