/* Strips of weights: 32 numbers of LANES rows, 4 of each row in a vector, as small whole numbers with their
   scales; from blocks as they are stored, row by row, or from interleaved ones. These are one block of each of
   16 rows, the same bytes in another order: each field of a block is cut into units; the first unit of every row
   comes first, then every row's second.

   strip(format, …)                             of an interleaved block
   head_of_rows(format, …), strip_of_rows(…)    of LANES rows as they are stored */
#ifndef LCM_SIMD_STRIPS_H
#define LCM_SIMD_STRIPS_H

#include <lcm/simd/formats.h>

enum { ROWS = 16, STRIP = 32 };

/* Numbers of LANES rows, 4 of each in a vector: w[j] has numbers 4 j … 4 j + 3. What they stand for is
   (w - BIAS) scale - minimum, where scale[0] is of the first 16, and scale[1] of the others. */
typedef struct {
  vb w[STRIP / 4];
  vf scale[2], minimum;
} strip_t;

INLINE int32_t bias_of(const format_t format) {
  return format == Q8_0 ? DOT_BIAS : format == Q4_0 ? 8 : format == Q5_0 ? 16 : format == Q6_K ? 32 : 0;
}

/* Of a strip, with a scale for each. */
INLINE int parts_of(const format_t format) { return format == Q6_K ? 2 : 1; }

INLINE bool has_minimum(const format_t format) {
  return format == Q4_1 || format == Q5_1 || format == Q4_K || format == Q5_K;
}

INLINE bool has_fifth_bits(const format_t format) { return format == Q5_0 || format == Q5_1; }

INLINE vf halves(const uint8_t *p) { return vf_from_f16((const uint16_t *)p); }

enum { FETCH = 2048 /* bytes ahead: 512 to 2,048 were good, 4,096 were not */ };

/* Units of four bytes of LANES rows. */
INLINE vi units(const uint8_t *p) {
  vi x;
  __builtin_prefetch(p + FETCH);
  memcpy(&x, p, sizeof x);
  return x;
}

/* The lower halves of the lanes are f16. */
INLINE vf low_halves(vi x) {
  uint16_t p[LANES];
  vi_to_16(p, x);
  return vf_from_f16(p);
}

INLINE vb low_bits(vi x, int shift, int32_t mask) { return (vb)((x >> shift) & vi_all(mask * 0x01010101)); }

/* As scale_of and minimum_of, for LANES rows. */
INLINE void scales_of_rows(const uint8_t *s, int n, vi *scale, vi *minimum) {
  if (n < 4) {
    *scale = vi_from_u8(s + n * ROWS) & 63;
    *minimum = vi_from_u8(s + (n + 4) * ROWS) & 63;
  } else {
    const vi low = vi_from_u8(s + (n + 4) * ROWS);
    *scale = (low & 15) | vi_from_u8(s + (n - 4) * ROWS) >> 6 << 4;
    *minimum = low >> 4 | vi_from_u8(s + n * ROWS) >> 6 << 4;
  }
}

/* Bit i of the lanes is the highest of number i of the strip. */
INLINE void add_fifth_bits(strip_t *s, vi bits) {
#pragma GCC unroll 8
  for (int j = 0; j < 8; j++) s->w[j] |= (vb)(vi_spread_bits(bits >> (4 * j)) << 4);
}

/* Strip n of an interleaved block, for LANES rows from `row` on. */
INLINE strip_t strip(const format_t format, const uint8_t *b, int n, int row) {
  strip_t s = {0};
  const uint8_t *b2 = b + 2 * row, *b4 = b + 4 * row; /* these rows in fields whose units are of 2 and 4 bytes */
  if (format == Q8_0) {
    s.scale[0] = halves(b2);
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) s.w[j] = (vb)units(b4 + 2 * ROWS + j * 4 * ROWS);
  } else if (format < IQ4_NL) {
    const int bits = has_minimum(format) ? 4 : 2, q = has_fifth_bits(format) ? bits + 4 : bits;
    s.scale[0] = halves(b2);
    if (has_minimum(format)) s.minimum = -halves(b2 + 2 * ROWS);
#pragma GCC unroll 8
    for (int j = 0; j < 4; j++) {
      const vi x = units(b4 + q * ROWS + j * 4 * ROWS);
      s.w[j] = low_bits(x, 0, 15);
      s.w[j + 4] = low_bits(x, 4, 15);
    }
    if (has_fifth_bits(format)) add_fifth_bits(&s, units(b4 + bits * ROWS));
  } else if (format == Q4_K || format == Q5_K) {
    const int q = format == Q4_K ? 16 : 48;
    vi scale, minimum;
    scales_of_rows(b + row + 4 * ROWS, n, &scale, &minimum);
    s.scale[0] = halves(b2) * numbers(scale);
    s.minimum = halves(b2 + 2 * ROWS) * numbers(minimum);
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
      s.w[j] = low_bits(units(b4 + q * ROWS + (n / 2 * 8 + j) * 4 * ROWS), n % 2 * 4, 15);
      if (format == Q5_K) s.w[j] |= low_bits(units(b4 + 16 * ROWS + j * 4 * ROWS), n, 1) << 4;
    }
  } else {
    const int half_of_it = n / 4, quarter = n % 4;
    for (int i = 0; i < 2; i++)
      s.scale[i] = halves(b2) * numbers(vi_from_i8(b + row + (2 + 2 * n + i) * ROWS));
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
      const vi low = units(b4 + 18 * ROWS + (16 * half_of_it + 8 * (quarter % 2) + j) * 4 * ROWS);
      const vi high = units(b4 + 146 * ROWS + (8 * half_of_it + j) * 4 * ROWS);
      s.w[j] = low_bits(low, quarter / 2 * 4, 15) | low_bits(high, 2 * quarter, 3) << 4;
    }
  }
  return s;
}

/* Units u … u + 3 of four bytes, each of LANES rows that are `row` bytes apart. */
INLINE void units_of_rows(const uint8_t *p, int64_t row, vi x[4]) {
  for (int i = 0; i < 4; i++) x[i] = vi_gather_quads(p + i * row, 4 * row);
  vi_transpose_quads(x);
}

/* The f16 that each row has there. */
INLINE vf halves_of_rows(const uint8_t *p, int64_t row) {
  uint16_t x[LANES];
  for (int i = 0; i < LANES; i++) memcpy(&x[i], p + i * row, sizeof x[i]);
  return vf_from_f16(x);
}

INLINE vi words_of_rows(const uint8_t *p, int64_t row) {
  vi x;
  for (int i = 0; i < LANES; i++) memcpy((char *)&x + 4 * i, p + i * row, 4);
  return x;
}

/* What the strips of a block share: d, m, and scales of 6 or 8 bits. */
typedef struct {
  vf d, m;
  vi scales[4];
} head_t;

/* Of the blocks as they are stored: that at b, and those of the next LANES - 1 rows, `row` bytes apart. */
INLINE head_t head_of_rows(const format_t format, const uint8_t *b, int64_t row) {
  head_t h = {0};
  if (format == Q4_K || format == Q5_K) {
    units_of_rows(b, row, h.scales); /* d and m, then 12 bytes of scales and minima */
    h.d = low_halves(h.scales[0]);
    h.m = low_halves(h.scales[0] >> 16);
  } else if (format == Q6_K) {
    units_of_rows(b + 192, row, h.scales);
    h.d = halves_of_rows(b + 208, row);
  } else {
    h.d = halves_of_rows(b, row);
    if (has_minimum(format)) h.m = -halves_of_rows(b + 2, row);
  }
  return h;
}

/* Strip n of these blocks. */
INLINE strip_t strip_of_rows(const format_t format, const uint8_t *b, int64_t row, int n, const head_t *h) {
  strip_t s = {0};
  vi x[4];
  s.scale[0] = h->d;
  if (format == Q8_0) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; j += 4) {
      units_of_rows(b + 2 + 4 * j, row, x);
#pragma GCC unroll 8
      for (int u = 0; u < 4; u++) s.w[j + u] = (vb)x[u];
    }
  } else if (format < IQ4_NL) {
    const int bits = has_minimum(format) ? 4 : 2, q = has_fifth_bits(format) ? bits + 4 : bits;
    if (has_minimum(format)) s.minimum = h->m;
    units_of_rows(b + q, row, x);
#pragma GCC unroll 8
    for (int j = 0; j < 4; j++) {
      s.w[j] = low_bits(x[j], 0, 15);
      s.w[j + 4] = low_bits(x[j], 4, 15);
    }
    if (has_fifth_bits(format)) add_fifth_bits(&s, words_of_rows(b + bits, row));
  } else if (format == Q4_K || format == Q5_K) {
    const int at = n % 4 * 8;
    const vi first = h->scales[1] >> at, second = h->scales[2] >> at, third = h->scales[3] >> at;
    const vi scale = n < 4 ? first & 63 : (third & 15) | (first >> 6 & 3) << 4;
    const vi minimum = n < 4 ? second & 63 : (third >> 4 & 15) | (second >> 6 & 3) << 4;
    s.scale[0] = h->d * numbers(scale);
    s.minimum = h->m * numbers(minimum);
#pragma GCC unroll 8
    for (int j = 0; j < 8; j += 4) {
      units_of_rows(b + (format == Q4_K ? 16 : 48) + n / 2 * 32 + 4 * j, row, x);
#pragma GCC unroll 8
      for (int u = 0; u < 4; u++) s.w[j + u] = low_bits(x[u], n % 2 * 4, 15);
      if (format == Q4_K) continue;
      units_of_rows(b + 16 + 4 * j, row, x);
#pragma GCC unroll 8
      for (int u = 0; u < 4; u++) s.w[j + u] |= low_bits(x[u], n, 1) << 4;
    }
  } else {
    const int half_of_it = n / 4, quarter = n % 4;
    const vi both = h->scales[n / 2] >> (n % 2 * 16);
    s.scale[0] = h->d * numbers(both << 24 >> 24);
    s.scale[1] = h->d * numbers(both << 16 >> 24);
#pragma GCC unroll 8
    for (int j = 0; j < 8; j += 4) {
      units_of_rows(b + half_of_it * 64 + quarter % 2 * 32 + 4 * j, row, x);
#pragma GCC unroll 8
      for (int u = 0; u < 4; u++) s.w[j + u] = low_bits(x[u], quarter / 2 * 4, 15);
      units_of_rows(b + 128 + half_of_it * 32 + 4 * j, row, x);
#pragma GCC unroll 8
      for (int u = 0; u < 4; u++) s.w[j + u] |= low_bits(x[u], 2 * quarter, 3) << 4;
    }
  }
  return s;
}

#endif
