/* Strips of weights: 32 numbers of LANES rows, 4 of each row in a vector, as small whole numbers with their
   scales. What a block of a format consists of stands in blocks.h.

   strip_<format>(s, stored, b, n)       strip n of these blocks; of those of 32 numbers, the only one
   strip_of(s, format, stored, b, n)     the same of any format in blocks */
#ifndef LCM_SIMD_STRIPS_H
#define LCM_SIMD_STRIPS_H

#include <lcm/simd/fields.h>

enum { STRIP = 32 };

/* Numbers of LANES rows, 4 of each in a vector: w[j] has numbers 4 j … 4 j + 3. What they stand for is
   (w - BIAS) scale - minimum. Where a strip has two parts, [0] is of its first 16 numbers, [1] of the others.
   For products of pairs of rows, 8 numbers of each row are in a vector, which has half the rows, and so it is with
   the rest: [2 i] and [2 i + 1] are the halves. */
typedef struct {
  vb w[STRIP / 4];
  vf scale[2 << PAIRS], minimum[2 << PAIRS];
} strip_t;

/* Of a strip, with a scale and a minimum for each. */
INLINE int parts_of(const format_t format) { return format == Q2_K || format == Q3_K || format == Q6_K ? 2 : 1; }

/* Whether numbers are below 0; else they are small, and count from -BIAS. */
INLINE bool has_sign(const format_t format) { return format == Q8_0 || format == IQ4_NL || format == IQ4_XS; }

INLINE int32_t bias_of(const format_t format) {
  switch (format) {
    case Q8_0: case IQ4_NL: case IQ4_XS: return DOT_BIAS;
    case Q3_K: return 4;
    case Q4_0: return 8;
    case MXFP4: return 12;
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

/* The same, where they say which number of a table is meant. */
INLINE void set_looked_up(strip_t *s, const bool stored, const blocks_t *b, int p, const int8_t table[16]) {
  set_nibbles(s, stored, b, p);
#pragma GCC unroll 8
  for (int j = 0; j < 8; j++) s->w[j] = vb_look_up(table, s->w[j]);
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

INLINE void strip_iq4_nl(strip_t *s, const bool stored, const blocks_t *b) {
  set_looked_up(s, stored, b, 2, IQ4);
  s->scale[0] = b->d;
}

/* FP4, counted from -12. */
static const int8_t FP4_FROM_LEAST[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

INLINE void strip_mxfp4(strip_t *s, const bool stored, const blocks_t *b) {
  set_looked_up(s, stored, b, 1, FP4_FROM_LEAST);
  s->scale[0] = b->d;
}

/* Blocks of 256. */

INLINE void strip_q2_k(strip_t *s, const bool stored, const blocks_t *b, int n) {
  set_bits(s, stored, b, 16 + n / 4 * 32, n % 4 * 2, 3);
  for (int i = 0; i < 2; i++) {
    const vi both = scale_byte(Q2_K, stored, b, 2 * n + i);
    s->scale[i] = b->d * numbers(both & 15);
    s->minimum[i] = b->m * numbers(both >> 4);
  }
}

/* Bytes 2 to 9 of those with scales have the lower four bits of two scales each, 10 to 13 the upper two of four. */
INLINE void strip_q3_k(strip_t *s, const bool stored, const blocks_t *b, int n) {
  set_bits(s, stored, b, 32 + n / 4 * 32, n % 4 * 2, 3);
  add_bits(s, stored, b, 0, n, 1, 2);
  for (int i = 0; i < 2; i++) {
    const int k = 2 * n + i;
    const vi low = scale_byte(Q3_K, stored, b, 2 + k % 8) >> (k / 8 * 4) & 15;
    const vi high = scale_byte(Q3_K, stored, b, 10 + k % 4) >> (k / 4 * 2) & 3;
    s->scale[i] = b->d * numbers((low | high << 4) - 32);
  }
}

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

INLINE void strip_iq4_xs(strip_t *s, const bool stored, const blocks_t *b, int n) {
  set_looked_up(s, stored, b, 8 + n * 16, IQ4);
  const vi low = scale_byte(IQ4_XS, stored, b, 4 + n / 2) >> (n % 2 * 4) & 15;
  const vi high = scale_byte(IQ4_XS, stored, b, 2 + n / 4) >> (n % 4 * 2) & 3;
  s->scale[0] = b->d * numbers((low | high << 4) - 32);
}

INLINE void strip_of(strip_t *s, const format_t format, const bool stored, const blocks_t *b, int n) {
  switch (format) {
    case Q8_0: strip_q8_0(s, stored, b); break;
    case Q4_0: strip_q4_0(s, stored, b); break;
    case Q4_1: strip_q4_1(s, stored, b); break;
    case Q5_0: strip_q5_0(s, stored, b); break;
    case Q5_1: strip_q5_1(s, stored, b); break;
    case IQ4_NL: strip_iq4_nl(s, stored, b); break;
    case MXFP4: strip_mxfp4(s, stored, b); break;
    case Q2_K: strip_q2_k(s, stored, b, n); break;
    case Q3_K: strip_q3_k(s, stored, b, n); break;
    case Q4_K: strip_q4_k(s, stored, b, n); break;
    case Q5_K: strip_q5_k(s, stored, b, n); break;
    case Q6_K: strip_q6_k(s, stored, b, n); break;
    case IQ4_XS: strip_iq4_xs(s, stored, b, n); break;
    default: break;
  }
}

/* use(…) for each format in blocks, with the format known to the compiler. */
#define WITH_FORMAT(format, use)     \
  switch (format) {                  \
    case Q8_0: use(Q8_0); break;     \
    case Q4_0: use(Q4_0); break;     \
    case Q4_1: use(Q4_1); break;     \
    case Q5_0: use(Q5_0); break;     \
    case Q5_1: use(Q5_1); break;     \
    case IQ4_NL: use(IQ4_NL); break; \
    case MXFP4: use(MXFP4); break;   \
    case Q2_K: use(Q2_K); break;     \
    case Q3_K: use(Q3_K); break;     \
    case Q4_K: use(Q4_K); break;     \
    case Q5_K: use(Q5_K); break;     \
    case Q6_K: use(Q6_K); break;     \
    case IQ4_XS: use(IQ4_XS); break; \
    default: break;                  \
  }

#endif
