/* Number formats of weights: where a number lies, and how some of them become f32. */
#ifndef LCM_SIMD_FORMATS_H
#define LCM_SIMD_FORMATS_H

#include <lcm/simd/blocks.h>

typedef enum {
  F32, BF16, F16,
  Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL, MXFP4, /* blocks of 32 */
  Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_XS,        /* blocks of 256 */
} format_t;

INLINE bool is_in_blocks(format_t format) { return format >= Q8_0; }

INLINE int64_t numbers_of(format_t format) { return format >= Q2_K ? 256 : format >= Q8_0 ? 32 : 1; }

/* Of a block, or of a number. */
INLINE int64_t size_of(format_t format) {
  switch (format) {
    case F32: return 4;
    case BF16: case F16: return 2;
    case Q8_0: return 34;
    case Q4_0: case IQ4_NL: return 18;
    case Q4_1: return 20;
    case Q5_0: return 22;
    case Q5_1: return 24;
    case MXFP4: return 17;
    case Q2_K: return 84;
    case Q3_K: return 110;
    case Q4_K: return 144;
    case Q5_K: return 176;
    case Q6_K: return 210;
    case IQ4_XS: return 136;
  }
  return 0;
}

/* Where number i lies, or the block that holds it. */
INLINE const void *number_at(const void *at, format_t format, int64_t i) {
  return (const char *)at + i / numbers_of(format) * size_of(format);
}

INLINE vf load_block(const void *at, const format_t format, int64_t i) {
  const uint8_t *b = number_at(at, format, i);
  const int j = (int)(i % numbers_of(format));
  switch (format) {
    case Q8_0: return block_q8_0(b, j);
    case Q4_0: return block_q4_0(b, j);
    case Q4_1: return block_q4_1(b, j);
    case Q5_0: return block_q5_0(b, j);
    case Q5_1: return block_q5_1(b, j);
    case IQ4_NL: return block_iq4_nl(b, j);
    case MXFP4: return block_mxfp4(b, j);
    case Q2_K: return block_q2_k(b, j);
    case Q3_K: return block_q3_k(b, j);
    case Q4_K: return block_q4_k(b, j);
    case Q5_K: return block_q5_k(b, j);
    case Q6_K: return block_q6_k(b, j);
    case IQ4_XS: return block_iq4_xs(b, j);
    default: return (vf){0};
  }
}

INLINE void decode_blocks(float *to, const void *at, const format_t format, int64_t i, int64_t n) {
  for (int64_t k = 0; k < n; k += LANES) vf_store(to + k, load_block(at, format, i + k));
}

/* Numbers i … i + n - 1 of a block format, both multiples of LANES. */
static void decode_any_blocks(float *to, const void *at, format_t format, int64_t i, int64_t n) {
  switch (format) {
    case Q8_0: decode_blocks(to, at, Q8_0, i, n); break;
    case Q4_0: decode_blocks(to, at, Q4_0, i, n); break;
    case Q4_1: decode_blocks(to, at, Q4_1, i, n); break;
    case Q5_0: decode_blocks(to, at, Q5_0, i, n); break;
    case Q5_1: decode_blocks(to, at, Q5_1, i, n); break;
    case IQ4_NL: decode_blocks(to, at, IQ4_NL, i, n); break;
    case MXFP4: decode_blocks(to, at, MXFP4, i, n); break;
    case Q2_K: decode_blocks(to, at, Q2_K, i, n); break;
    case Q3_K: decode_blocks(to, at, Q3_K, i, n); break;
    case Q4_K: decode_blocks(to, at, Q4_K, i, n); break;
    case Q5_K: decode_blocks(to, at, Q5_K, i, n); break;
    case Q6_K: decode_blocks(to, at, Q6_K, i, n); break;
    case IQ4_XS: decode_blocks(to, at, IQ4_XS, i, n); break;
    default: break;
  }
}

/* Numbers i … i + n - 1, n <= LANES; zeros up to LANES. Of a block format LANES of them, i a multiple of LANES. */
INLINE vf load_format(const void *at, const format_t format, int64_t i, int64_t n) {
  if (format == F32) return vf_load_first((const float *)at + i, n);
  if (is_in_blocks(format)) {
    float all[LANES];
    decode_any_blocks(all, at, format, i, LANES);
    return vf_load(all);
  }
  uint16_t some[LANES] = {0};
  const uint16_t *from = (const uint16_t *)at + i;
  if (n < LANES) from = memcpy(some, from, (size_t)n * sizeof *from);
  return format == BF16 ? vf_from_bf16(from) : vf_from_f16(from);
}

INLINE void decode_numbers(float *to, const void *at, const format_t format, int64_t i, int64_t n) {
  int64_t k = 0;
  for (; k + LANES <= n; k += LANES) vf_store(to + k, load_format(at, format, i + k, LANES));
  if (k < n) vf_store_first(to + k, load_format(at, format, i + k, n - k), n - k);
}

/* Numbers i … i + n - 1 as f32; of a block format both are multiples of LANES. */
static void decode(float *to, const void *at, format_t format, int64_t i, int64_t n) {
  if (format == F32) memcpy(to, (const float *)at + i, (size_t)n * sizeof *to);
  else if (format == BF16) decode_numbers(to, at, BF16, i, n);
  else if (format == F16) decode_numbers(to, at, F16, i, n);
  else decode_any_blocks(to, at, format, i, n);
}

#endif
