/* Strips of weights: 32 numbers of LANES rows, 4 of each row in a vector, as small whole numbers with their
   scales. What a block of a format consists of stands in blocks.h.

   strip_<format>(stored, b, n)       strip n of these blocks; of those of 32 numbers, the only one
   strip_of(format, stored, b, n)     the same of any format that has strips */
#ifndef LCM_SIMD_STRIPS_H
#define LCM_SIMD_STRIPS_H

#include <lcm/simd/fields.h>

enum { STRIP = 32 };

/* Numbers of LANES rows, 4 of each in a vector: w[j] has numbers 4 j … 4 j + 3. What they stand for is
   (w - BIAS) scale - minimum. Where a strip has two parts, [0] is of its first 16 numbers, [1] of the others. */
typedef struct {
  vb w[STRIP / 4];
  vf scale[2], minimum[2];
} strip_t;

/* Of a strip, with a scale and a minimum for each. */
INLINE int parts_of(const format_t format) { return format == Q6_K ? 2 : 1; }

/* Whether numbers are below 0; else they are small, and count from -BIAS. */
INLINE bool has_sign(const format_t format) { return format == Q8_0; }

INLINE int32_t bias_of(const format_t format) {
  switch (format) {
    case Q8_0: return DOT_BIAS;
    case Q4_0: return 8;
    case Q5_0: return 16;
    case Q6_K: return 32;
    default: return 0;
  }
}

/* Of each byte the bits from `from` on, of which `mask` remains, as bits `to` … */
INLINE vb bits_at(vi x, int from, int32_t mask, const int to) {
  return (vb)(((x >> from) & vi_all(mask * 0x01010101)) << to);
}

/* Numbers that lie as 4 bits in the 16 bytes at p: in the low halves, then in the high ones. */
INLINE void set_nibbles(strip_t *s, const bool stored, const blocks_t *b, int p) {
  vi x[4];
  quads(x, stored, b, p);
#pragma GCC unroll 4
  for (int j = 0; j < 4; j++) {
    s->w[j] = bits_at(x[j], 0, 15, 0);
    s->w[j + 4] = bits_at(x[j], 4, 15, 0);
  }
}

/* Fifth bits, from the four bytes at p: bit i is the highest of number i. */
INLINE void add_fifth_bits(strip_t *s, const bool stored, const blocks_t *b, int p) {
  const vi bits = word_at(stored, b, p);
#pragma GCC unroll 8
  for (int j = 0; j < 8; j++) s->w[j] |= (vb)(vi_spread_bits(bits >> (4 * j)) << 4);
}

/* The lowest bits of the numbers: those of the 32 bytes at p from bit `from` on, of which `mask` remains. */
INLINE void set_bits(strip_t *s, const bool stored, const blocks_t *b, int p, int from, int32_t mask) {
#pragma GCC unroll 8
  for (int j = 0; j < 8; j += 4) {
    vi x[4];
    quads(x, stored, b, p + 4 * j);
#pragma GCC unroll 4
    for (int u = 0; u < 4; u++) s->w[j + u] = bits_at(x[u], from, mask, 0);
  }
}

/* In the same way their bits from `to` on, which are 0. */
INLINE void add_bits(strip_t *s, const bool stored, const blocks_t *b, int p, int from, int32_t mask, const int to) {
#pragma GCC unroll 8
  for (int j = 0; j < 8; j += 4) {
    vi x[4];
    quads(x, stored, b, p + 4 * j);
#pragma GCC unroll 4
    for (int u = 0; u < 4; u++) s->w[j + u] |= bits_at(x[u], from, mask, to);
  }
}

/* Blocks of 32. */

INLINE void strip_q8_0(strip_t *s, const bool stored, const blocks_t *b) {
#pragma GCC unroll 8
  for (int j = 0; j < 8; j += 4) {
    vi x[4];
    quads(x, stored, b, 2 + 4 * j);
    memcpy(&s->w[j], x, sizeof x);
  }
  s->scale[0] = b->d;
}

INLINE void strip_q4_0(strip_t *s, const bool stored, const blocks_t *b) {
  set_nibbles(s, stored, b, 2);
  s->scale[0] = b->d;
}

INLINE void strip_q4_1(strip_t *s, const bool stored, const blocks_t *b) {
  set_nibbles(s, stored, b, 4);
  s->scale[0] = b->d;
  s->minimum[0] = -b->m;
}

INLINE void strip_q5_0(strip_t *s, const bool stored, const blocks_t *b) {
  set_nibbles(s, stored, b, 6);
  add_fifth_bits(s, stored, b, 2);
  s->scale[0] = b->d;
}

INLINE void strip_q5_1(strip_t *s, const bool stored, const blocks_t *b) {
  set_nibbles(s, stored, b, 8);
  add_fifth_bits(s, stored, b, 4);
  s->scale[0] = b->d;
  s->minimum[0] = -b->m;
}

/* Blocks of 256. */

/* Scale and minimum of q4_k and q5_k: as scale_of and minimum_of. */
INLINE void set_six_bits(strip_t *s, const bool stored, const blocks_t *b, int n) {
  vi scale, minimum;
  if (n < 4) {
    scale = scale_byte(Q4_K, stored, b, 4 + n) & 63;
    minimum = scale_byte(Q4_K, stored, b, 8 + n) & 63;
  } else {
    const vi low = scale_byte(Q4_K, stored, b, 8 + n);
    scale = (low & 15) | scale_byte(Q4_K, stored, b, n) >> 6 << 4;
    minimum = low >> 4 | scale_byte(Q4_K, stored, b, 4 + n) >> 6 << 4;
  }
  s->scale[0] = b->d * numbers(scale);
  s->minimum[0] = b->m * numbers(minimum);
}

INLINE void strip_q4_k(strip_t *s, const bool stored, const blocks_t *b, int n) {
  set_bits(s, stored, b, 16 + n / 2 * 32, n % 2 * 4, 15);
  set_six_bits(s, stored, b, n);
}

INLINE void strip_q5_k(strip_t *s, const bool stored, const blocks_t *b, int n) {
  set_bits(s, stored, b, 48 + n / 2 * 32, n % 2 * 4, 15);
  add_bits(s, stored, b, 16, n, 1, 4);
  set_six_bits(s, stored, b, n);
}

INLINE void strip_q6_k(strip_t *s, const bool stored, const blocks_t *b, int n) {
  set_bits(s, stored, b, n / 4 * 64 + n % 2 * 32, n % 4 / 2 * 4, 15);
  add_bits(s, stored, b, 128 + n / 4 * 32, n % 4 * 2, 3, 4);
  for (int i = 0; i < 2; i++) s->scale[i] = b->d * numbers(signed_scale_byte(Q6_K, stored, b, 2 * n + i));
}

INLINE void strip_of(strip_t *s, const format_t format, const bool stored, const blocks_t *b, int n) {
  switch (format) {
    case Q8_0: strip_q8_0(s, stored, b); break;
    case Q4_0: strip_q4_0(s, stored, b); break;
    case Q4_1: strip_q4_1(s, stored, b); break;
    case Q5_0: strip_q5_0(s, stored, b); break;
    case Q5_1: strip_q5_1(s, stored, b); break;
    case Q4_K: strip_q4_k(s, stored, b, n); break;
    case Q5_K: strip_q5_k(s, stored, b, n); break;
    case Q6_K: strip_q6_k(s, stored, b, n); break;
    default: break;
  }
}

#endif
