/* Products of whole numbers: rows of rounded x with strips of weights.

   int8_row(…)     one row of x with LANES rows of weights, from where they lie
   unpack(…)       the strips of LANES rows of weights, each row of x after the other can use
   int8_rows(…)    many rows of x with them */
#ifndef LCM_SIMD_INT8_TILE_H
#define LCM_SIMD_INT8_TILE_H

#include <lcm/simd/rounded.h>

#ifdef DOT_SIGNS
enum { SIGNS = 1 };
#else
enum { SIGNS = 0 };
#endif

enum {
  TILE_INT8 = TILE_ROWS > 6 ? 8 : 4, /* rows of x that meet a strip in registers, of 32 or 16 */
  STREAMS = 4,                     /* of weights that one row of x meets side by side */
};

/* What the sums of products with both halves of a strip of weights add to the total of a row of x, whose numbers
   for this strip are at `place`. */
INLINE vf add_scaled(const rounded_t *x, const format_t format, const strip_t *s, vf total, int64_t place,
                     const vi first, const vi second) {
  const int parts = parts_of(format);
  const float scale = x->scale[place];
  if (parts == 2) total += (numbers(first) * s->scale[0] + numbers(second) * s->scale[1]) * scale;
  else total += numbers(first) * (s->scale[0] * scale);
  for (int i = 0; has_minimum(format) && i < parts; i++) total -= s->minimum[i] * x->sum[i * x->all + place];
  return total;
}

/* What the strip, which has what is too much or not, adds to the total of row r, whose strip n meets it, with its
   numbers at `place`. */
INLINE vf add_strip(const rounded_t *x, const format_t format, const bool biased, const strip_t *s, vf total,
                    int64_t r, int64_t n, int64_t place) {
  const int parts = parts_of(format), count = STRIP / 4 / parts;
  const int8_t *whole = x->whole + (r * x->strips + n) * STRIP;
  vi sum[2];
  for (int i = 0; i < parts; i++) {
    const vi start = biased && bias_of(format) ? vi_all(x->start[i * x->all + place]) : vi_all(0);
    sum[i] = (has_sign(format) ? vi_dots : vi_dots_small)(start, s->w + i * count, whole + i * STRIP / 2, count);
  }
  return add_scaled(x, format, s, total, place, sum[0], sum[parts - 1]);
}

/* The weights of LANES outputs: where they lie, from row `row` of an interleaved group on, or as they are stored. */
typedef struct {
  const uint8_t *at;
  int64_t blocks; /* of a row */
  int64_t line;   /* bytes from a row to the next, as they are stored; 0: they are interleaved */
  int row;
} place_t;

INLINE void fetch(const uint8_t *p, int64_t size) {
  for (int64_t i = 0; i < size; i += 64) __builtin_prefetch(p + i, 0, 2);
}

/* Blocks number b of these rows. */
INLINE blocks_t blocks_at(const format_t format, const bool stored, const place_t *p, int64_t b) {
  const uint8_t *at = p->at + b * size_of(format) * (stored ? 1 : ROWS);
  if (stored) fetch(p->at + LANES * (p->line + b * size_of(format)), LANES * size_of(format)); /* the next rows' */
  return blocks_of(format, stored, at, p->line, p->row);
}

enum { FETCH = 2048 /* bytes ahead; half of it in each of several streams */ };

/* Strip n of these blocks; what will be read so much later is fetched meanwhile, a share with each strip. */
INLINE void strip_at(strip_t *s, const format_t format, const bool stored, const blocks_t *b, int n, const int ahead) {
  const int64_t share = ROWS * size_of(format) * STRIP / numbers_of(format);
  for (int64_t i = 0; !stored && i < share; i += 64) __builtin_prefetch(b->at + n * share + i + ahead);
  strip_of(s, format, stored, b, n);
}

/* LANES outputs for each of so many places, which are streams of memory of their own, of the only row of x. */
INLINE void int8_row(const rounded_t *x, const format_t format, const bool stored, const int count,
                     const place_t *places, vf *total) {
  const int strips = (int)(numbers_of(format) / STRIP);
  vf sum[STREAMS];
  for (int i = 0; i < count; i++) sum[i] = vf_all(0);
  for (int64_t b = 0; b < places->blocks; b++) {
#pragma GCC unroll 8
    for (int i = 0; i < count; i++) {
      const blocks_t block = blocks_at(format, stored, &places[i], b);
#pragma GCC unroll 8
      for (int n = 0; n < strips; n++) {
        strip_t s;
        strip_at(&s, format, stored, &block, n, count == 1 ? FETCH : FETCH / 2);
        sum[i] = add_strip(x, format, true, &s, sum[i], 0, b * strips + n, b * strips + n);
      }
    }
  }
  for (int i = 0; i < count; i++) total[i] = sum[i];
}

/* The strips of these rows, for int8_rows or for tiles; what is too much is taken away where products take signs. */
INLINE void unpack(strip_t *to, const format_t format, const bool stored, const bool tiles, const place_t *p) {
  const int strips = (int)(numbers_of(format) / STRIP);
  const int8_t bias = (int8_t)((tiles || SIGNS) && !has_sign(format) ? bias_of(format) : 0);
  for (int64_t b = 0; b < p->blocks; b++) {
    const blocks_t block = blocks_at(format, stored, p, b);
    for (int n = 0; n < strips; n++) {
      strip_t s;
      strip_at(&s, format, stored, &block, n, FETCH);
      for (int j = 0; j < STRIP / 4; j++) s.w[j] -= bias;
      *to++ = s;
    }
  }
}

/* LANES outputs, o …, of a few rows of x from row r on. */
INLINE void int8_rows(const rounded_t *x, const format_t format, const int rows, const strip_t *s, int64_t r,
                      vf total[TILE_INT8]) {
  const int64_t place = strip_place(x, r, 0);
  for (int i = 0; i < rows; i++) total[i] = vf_all(0);
  for (int64_t n = 0; n < x->strips; n++)
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
      total[i] = add_strip(x, format, !SIGNS, s + n, total[i], r + i, n, place + n * GROUP + i);
}

#ifdef TILE_OF_ROWS
/* A few strips' share of TILE_OF_ROWS rows, by tiles. */
INLINE void add_tiles(const rounded_t *x, const format_t format, const int strips, const strip_t *s, int64_t r,
                      int64_t n, vf total[TILE_OF_ROWS]) {
  const int parts = parts_of(format), count = strips * parts;
  const vb *w[TILES];
  vi sum[TILES][TILE_OF_ROWS];
  for (int i = 0; i < count; i++) w[i] = s[n + i / parts].w + i % parts * STRIP / 8;
  tile_dots(sum, count, x->whole + (r * x->strips + n) * STRIP, x->strips * STRIP, STRIP / parts, w);
  for (int k = 0; k < strips; k++)
#pragma GCC unroll 16
    for (int i = 0; i < TILE_OF_ROWS; i++)
      total[i] = add_scaled(x, format, s + n + k, total[i], strip_place(x, r, n + k) + i, sum[k * parts][i],
                            sum[k * parts + parts - 1][i]);
}

/* LANES outputs, o …, of TILE_OF_ROWS rows of x from row r on. */
INLINE void int8_tiles(const rounded_t *x, const format_t format, const strip_t *s, int64_t r,
                       vf total[TILE_OF_ROWS]) {
  const int together = TILES / parts_of(format);
  const rounded_t own = *x; /* known to change no more */
  vf all[TILE_OF_ROWS];     /* in registers */
  int64_t n = 0;
#pragma GCC unroll 16
  for (int i = 0; i < TILE_OF_ROWS; i++) all[i] = vf_all(0);
  for (; n + together <= own.strips; n += together) add_tiles(&own, format, together, s, r, n, all);
  for (; n < own.strips; n++) add_tiles(&own, format, 1, s, r, n, all);
#pragma GCC unroll 16
  for (int i = 0; i < TILE_OF_ROWS; i++) total[i] = all[i];
}
#endif

#endif
