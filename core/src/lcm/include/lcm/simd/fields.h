/* Fields of blocks of LANES rows, a lane for each row; of blocks as they are stored, row by row, or of interleaved
   ones. These are one block of each of 16 rows, the same bytes in another order: each field of a block is cut into
   units; the first unit of every row comes first, then every row's second. So what lies at byte p of a block lies
   at 16 p of an interleaved one.

   byte_at(…), half_at(…), word_at(…), quads(…)    1, 2, 4 and 16 bytes of a block
   scale_byte(…), signed_scale_byte(…)             a byte of its scales, which all its strips share */
#ifndef LCM_SIMD_FIELDS_H
#define LCM_SIMD_FIELDS_H

#include <lcm/simd/formats.h>

enum { ROWS = 16 };

/* A block of each of LANES rows. */
typedef struct {
  const uint8_t *at;
  int64_t line; /* bytes from a row to the next, as they are stored */
  int row;      /* of an interleaved group, from where on they are the rows */
  vf d, m;      /* what scales and minima are multiplied with, if they are not such themselves */
  vi scales[4]; /* as they are stored: 16 bytes from byte scales_at(format) on */
} blocks_t;

INLINE bool has_minimum(const format_t format) {
  return format == Q4_1 || format == Q5_1 || format == Q2_K || format == Q4_K || format == Q5_K;
}

/* Where d lies, an f16, but of mxfp4 an exponent; m is behind it. */
INLINE int d_at(const format_t format) {
  return format == Q2_K ? 80 : format == Q3_K ? 108 : format == Q6_K ? 208 : 0;
}

/* Where 16 bytes begin in a block of 256, with all its scales. */
INLINE int scales_at(const format_t format) { return format == Q3_K ? 94 : format == Q6_K ? 192 : 0; }

/* Units of four bytes of LANES interleaved rows. */
INLINE vi units(const uint8_t *p) {
  vi x;
  memcpy(&x, p, sizeof x);
  return x;
}

/* Bytes p … p + 15, four in each vector. */
INLINE void quads(vi x[4], const bool stored, const blocks_t *b, int p) {
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++)
    x[i] = stored ? vi_gather_quads(b->at + p + i * b->line, 4 * b->line)
                  : units(b->at + 4 * b->row + (p + 4 * i) * ROWS);
  if (stored) vi_transpose_quads(x);
}

INLINE vi word_at(const bool stored, const blocks_t *b, int p) {
  if (!stored) return units(b->at + 4 * b->row + p * ROWS);
  vi x;
  for (int i = 0; i < LANES; i++) memcpy((char *)&x + 4 * i, b->at + p + i * b->line, 4);
  return x;
}

INLINE vf half_at(const bool stored, const blocks_t *b, int p) {
  if (!stored) return vf_from_f16((const uint16_t *)(b->at + 2 * b->row + p * ROWS));
  uint16_t x[LANES];
  for (int i = 0; i < LANES; i++) memcpy(&x[i], b->at + p + i * b->line, sizeof x[i]);
  return vf_from_f16(x);
}

INLINE vi byte_at(const bool stored, const blocks_t *b, int p) {
  if (!stored) return vi_from_u8(b->at + b->row + p * ROWS);
  uint8_t x[LANES];
  for (int i = 0; i < LANES; i++) x[i] = b->at[p + i * b->line];
  return vi_from_u8(x);
}

/* Byte i of those with the scales. */
INLINE vi scale_byte(const format_t format, const bool stored, const blocks_t *b, int i) {
  if (!stored) return byte_at(stored, b, scales_at(format) + i);
  return (b->scales[i / 4] >> (i % 4 * 8)) & 255;
}

INLINE vi signed_scale_byte(const format_t format, const bool stored, const blocks_t *b, int i) {
  if (!stored) return vi_from_i8(b->at + b->row + (scales_at(format) + i) * ROWS);
  return b->scales[i / 4] << (24 - i % 4 * 8) >> 24;
}

/* The f16 at p, which may lie among the scales. */
INLINE vf shared_half(const format_t format, const bool stored, const blocks_t *b, int p) {
  const int i = p - scales_at(format);
  if (!stored || numbers_of(format) == 32 || i < 0 || i >= 16) return half_at(stored, b, p);
  uint16_t x[LANES];
  vi_to_16(x, b->scales[i / 4] >> (i % 4 * 8));
  return vf_from_f16(x);
}

/* The blocks of LANES rows: the first begins at `at`, or they are from row `row` on of the interleaved one there. */
INLINE blocks_t blocks_of(const format_t format, const bool stored, const uint8_t *at, int64_t line, int row) {
  blocks_t b = {.at = at, .line = line, .row = row};
  if (stored && numbers_of(format) == 256) quads(b.scales, stored, &b, scales_at(format));
  b.d = format == MXFP4 ? vf_scale(vf_all(1), numbers(byte_at(stored, &b, 0) - 128))
                        : shared_half(format, stored, &b, d_at(format));
  if (has_minimum(format)) b.m = shared_half(format, stored, &b, d_at(format) + 2);
  return b;
}

#endif
