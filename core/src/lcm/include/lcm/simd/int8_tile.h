/* Products of whole numbers: rows of rounded x with strips of weights.

   int8_row(…)     one row of x with LANES rows of weights, from where they lie
   unpack(…)       the strips of LANES rows of weights, each row of x after the other can use
   int8_rows(…)    many rows of x with them */
#ifndef LCM_SIMD_INT8_TILE_H
#define LCM_SIMD_INT8_TILE_H

#include <lcm/simd/rounded.h>

enum {
  TILE_INT8 = TILE_ROWS > 8 || PAIRS ? 8 : 4, /* rows of x that meet a strip in registers */
  STREAMS = 4,                                /* of weights that one row of x meets side by side */
};

/* What the minima of a strip of weights take from the total of a row of x, whose numbers for it are at `place`. */
INLINE vf take_minima(const rounded_t *x, const format_t format, const strip_t *s, vf total, int64_t place) {
  for (int i = 0; has_minimum(format) && i < parts_of(format); i++)
    total -= s->minimum[i] * x->sum[i * x->all + place];
  return total;
}

/* What the sums of products with both halves of the strip add to it. */
INLINE vf add_scaled(const rounded_t *x, const format_t format, const strip_t *s, vf total, int64_t place,
                     const vf first, const vf second) {
  const float scale = x->scale[place];
  if (parts_of(format) == 2) return total + (first * s->scale[0] + second * s->scale[1]) * scale;
  return total + first * (s->scale[0] * scale);
}

/* What the strip, which has what is too much or not, adds but for its minima. */
INLINE vf add_strip(const rounded_t *x, const format_t format, const bool biased, const strip_t *s, vf total,
                    int64_t place) {
  const int parts = parts_of(format), count = STRIP / 4 / parts;
  const int8_t *whole = x->whole + place * STRIP;
  vf sum[2];
  for (int i = 0; i < parts; i++) {
    const vi start = vi_all(biased && bias_of(format) ? x->start[i * x->all + place] : COUNTED);
    const vb *w = s->w + i * count;
    sum[i] = counted((has_sign(format) ? vi_dots : vi_dots_small)(start, w, whole + i * STRIP / 2, count));
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

/* Strip n of these blocks; what will be read so much later is fetched meanwhile, a share with each strip: that of a
   whole group, or of LANES rows where all of a group are met `together`. */
INLINE void strip_at(strip_t *s, const format_t format, const bool stored, const blocks_t *b, int n,
                     const bool together, const int ahead) {
  const int64_t of_a_row = size_of(format) * STRIP / numbers_of(format);
  const uint8_t *share = b->at + (n * ROWS + (together ? b->row : 0)) * of_a_row + ahead;
  for (int64_t i = 0; !stored && i < (together ? LANES : ROWS) * of_a_row; i += 64) __builtin_prefetch(share + i);
  strip_of(s, format, stored, b, n);
}

/* LANES outputs for each of so many places, which are streams of memory of their own, of the only row of x. */
INLINE void int8_row(const rounded_t *x, const format_t format, const bool stored, const int count,
                     const place_t *places, vf *total) {
  const int strips = (int)(numbers_of(format) / STRIP);
  vf sum[STREAMS], minima[STREAMS]; /* apart, so that neither waits for the other */
  for (int i = 0; i < count; i++) sum[i] = minima[i] = vf_all(0);
  for (int64_t b = 0; b < places->blocks; b++) {
#pragma GCC unroll 8
    for (int i = 0; i < count; i++) {
      const blocks_t block = blocks_at(format, stored, &places[i], b);
#pragma GCC unroll 8
      for (int n = 0; n < strips; n++) {
        strip_t s;
        strip_at(&s, format, stored, &block, n, count > 1, count == 1 ? FETCH : FETCH / 2);
        sum[i] = add_strip(x, format, true, &s, sum[i], b * strips + n);
        minima[i] = take_minima(x, format, &s, minima[i], b * strips + n);
      }
    }
  }
  for (int i = 0; i < count; i++) total[i] = has_minimum(format) ? sum[i] + minima[i] : sum[i];
}

#ifdef vi_dot_pairs
INLINE void to_halves(vf halves[2], vf x) {
  halves[0] = vf_zip_pairs_low(x, x);
  halves[1] = vf_zip_pairs_high(x, x);
}

/* The strip for products of pairs of rows. */
INLINE void pair_up(strip_t *s, const format_t format) {
#pragma GCC unroll 4
  for (int j = 0; j < STRIP / 4; j += 2) {
    const vf a = (vf)s->w[j], b = (vf)s->w[j + 1];
    s->w[j] = (vb)vf_zip_low(a, b);
    s->w[j + 1] = (vb)vf_zip_high(a, b);
  }
  for (int i = parts_of(format) - 1; i >= 0; i--) {
    to_halves(s->scale + 2 * i, s->scale[i]);
    if (has_minimum(format)) to_halves(s->minimum + 2 * i, s->minimum[i]);
  }
}

/* What a strip adds to the totals of two rows of x, the first of which has its numbers at `place`; [0] is of the
   lower half of the outputs. As add_scaled. */
INLINE void add_pair(const rounded_t *x, const format_t format, const strip_t *s, vf total[2], int64_t place) {
  const int parts = parts_of(format), count = STRIP / 8 / parts;
  const int8_t *whole = x->whole + place * STRIP;
  const vf scale = (vf)vb_quad(x->scale + 2 * place);
#pragma GCC unroll 2
  for (int half = 0; half < 2; half++) {
    vf sum[2];
    for (int i = 0; i < parts; i++) {
      vi dots = vi_all(COUNTED);
#pragma GCC unroll 4
      for (int j = i * count; j < (i + 1) * count; j++)
        dots = vi_dot_pairs(dots, vb_quad(whole + 16 * j), s->w[2 * j + half]);
      sum[i] = counted(dots);
    }
    if (parts == 2) total[half] += (sum[0] * s->scale[half] + sum[1] * s->scale[2 + half]) * scale;
    else total[half] += sum[0] * (s->scale[half] * scale);
    for (int i = 0; has_minimum(format) && i < parts; i++)
      total[half] -= s->minimum[2 * i + half] * (vf)vb_quad(x->sum + 2 * (i * x->all + place));
  }
}
#endif

/* The strips of these rows, for int8_rows or for tiles; what is too much is taken away where products take signs. */
INLINE void unpack(strip_t *to, const format_t format, const bool stored, const bool tiles, const place_t *p) {
  const int strips = (int)(numbers_of(format) / STRIP);
  const int8_t bias = (int8_t)((tiles || SIGNS) && !has_sign(format) ? bias_of(format) : 0);
  for (int64_t b = 0; b < p->blocks; b++) {
    const blocks_t block = blocks_at(format, stored, p, b);
    for (int n = 0; n < strips; n++) {
      strip_t s;
      strip_at(&s, format, stored, &block, n, false, FETCH);
      for (int j = 0; j < STRIP / 4; j++) s.w[j] -= bias;
#ifdef vi_dot_pairs
      pair_up(&s, format);
#endif
      *to++ = s;
    }
  }
}

/* LANES outputs, o …, of a few rows of x from row r on. */
INLINE void int8_rows(const rounded_t *x, const format_t format, const int rows, const strip_t *s, int64_t r,
                      vf total[TILE_INT8]) {
  const rounded_t own = *x; /* known to change no more */
  const int64_t place = strip_place(x, r, 0);
#ifdef vi_dot_pairs
  const int pairs = (rows + 1) / 2;
  vf all[TILE_INT8 / 2][2]; /* in registers */
  for (int i = 0; i < pairs; i++) all[i][0] = all[i][1] = vf_all(0);
  for (int64_t n = 0; n < own.strips; n++)
#pragma GCC unroll 4
    for (int i = 0; i < pairs; i++) add_pair(&own, format, s + n, all[i], place + n * GROUP + 2 * i);
  for (int i = 0; i < rows; i++) total[i] = vf_pairs_of_rows(i % 2 == 0, all[i / 2][0], all[i / 2][1]);
#else
  vf all[TILE_INT8]; /* in registers */
  for (int i = 0; i < rows; i++) all[i] = vf_all(0);
  for (int64_t n = 0; n < own.strips; n++)
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++) {
      const int64_t at = place + n * GROUP + i;
      all[i] = take_minima(&own, format, s + n, add_strip(&own, format, !SIGNS, s + n, all[i], at), at);
    }
  for (int i = 0; i < rows; i++) total[i] = all[i];
#endif
}

#ifdef TILE_OF_ROWS
/* A few strips' share of TILE_OF_ROWS rows, by tiles. */
INLINE void add_tiles(const rounded_t *x, const format_t format, const int strips, const strip_t *s, int64_t r,
                      int64_t n, vf total[TILE_OF_ROWS]) {
  const int parts = parts_of(format), count = strips * parts;
  const vb *w[TILES];
  const int8_t *whole[TILES];
  vi sum[TILES][TILE_OF_ROWS];
  for (int i = 0; i < count; i++) {
    w[i] = s[n + i / parts].w + i % parts * STRIP / 8;
    whole[i] = x->whole + strip_place(x, r, n + i / parts) * STRIP + i % parts * STRIP / 2;
  }
  tile_dots(sum, count, whole, STRIP, w);
  for (int k = 0; k < strips; k++)
#pragma GCC unroll 16
    for (int i = 0; i < TILE_OF_ROWS; i++) {
      const int64_t at = strip_place(x, r, n + k) + i;
      const vf first = numbers(sum[k * parts][i]), second = numbers(sum[k * parts + parts - 1][i]);
      total[i] = take_minima(x, format, s + n + k, add_scaled(x, format, s + n + k, total[i], at, first, second), at);
    }
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
