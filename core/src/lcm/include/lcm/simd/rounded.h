/* x rounded to whole numbers of 8 bits, with a scale for each 32 of them, for products of whole numbers. */
#ifndef LCM_SIMD_ROUNDED_H
#define LCM_SIMD_ROUNDED_H

#include <lcm/simd/strips.h>
#include <lcm/simd/threads.h>

typedef struct {
  const float *x;
  int64_t rows, strips; /* strips of a row: its numbers / 32 */
  int64_t all;          /* strips of all rows, made up to whole groups */
  int group;            /* rows whose numbers for a strip lie side by side: 1, or GROUP */
  int bias;             /* what the weights have too much */
  int parts;            /* of a strip that have scales of their own in the weights */
  int8_t *whole;        /* [groups, strips, group, 32]: x / scale; in pairs of rows, 8 numbers of each in turn */
  float *scale;         /* [groups, strips, group], in pairs twice each */
  float *sum;           /* [parts, groups, strips, group], in pairs twice each: of whole * scale */
  int32_t *start;       /* [parts, groups, strips, group]: COUNTED less bias times the sum of whole */
} rounded_t;

enum { GROUP = 16 };

/* What sums of products count from: the bits of 1.5 * 2^23, where the last place of a float is 1, and a strip's sum
   is below 2^22. So it is turned into a float by one subtraction, which has more units than a conversion. */
enum { COUNTED = 0x4b400000 };

INLINE vf counted(vi sum) { return (vf)sum - 0x1.8p23f; }

/* Where the numbers for strip n of row r are, one of many: what a tile of rows meets lies together, strip by strip. */
INLINE int64_t strip_place(const rounded_t *x, int64_t r, int64_t n) {
  return (r / GROUP * x->strips + n) * GROUP + r % GROUP;
}

/* Where number i of a strip is, of two rows that take turns. */
INLINE int64_t place_in_pair(int64_t place, int i) {
  return place / 2 * 2 * STRIP + i / 8 * 16 + place % 2 * 8 + i % 8;
}

INLINE void put(float *to, bool twice, int64_t place, float x) {
  if (twice) to[2 * place] = to[2 * place + 1] = x;
  else to[place] = x;
}

/* The whole numbers nearest to 32 numbers over their scale, which is their largest over 127: 0 if that is too
   small to be one; not a number if one of them is not. */
static void round_strip(const rounded_t *w, int64_t r, int64_t n) {
  const float *x = w->x + (r * w->strips + n) * STRIP;
  const bool in_pairs = PAIRS && w->group > 1;
  const int64_t place = w->group == 1 ? n : strip_place(w, r, n);
  vi largest = {0};
  for (int i = 0; i < STRIP; i += LANES) {
    const vi size = (vi)vf_load(x + i) & 0x7fffffff;
    largest = (vi)vf_pick(size > largest, (vf)size, (vf)largest);
  }
  const int32_t bits = vi_largest(largest);
  float scale;
  memcpy(&scale, &bits, sizeof bits);
  scale /= 127;
  const float by = scale < 0x1p-126f ? INFINITY : scale;
  vi sums[2] = {{0}, {0}};
  for (int i = 0; i < STRIP; i += LANES) {
    const vf nearest = (vf_load(x + i) / by + 0x1.8p23f) - 0x1.8p23f;
    int8_t *whole = w->whole + (in_pairs ? place_in_pair(place, i) : place * STRIP + i);
    vi_to_8(whole, __builtin_convertvector(nearest, vi));
    sums[i * 2 / STRIP] += vi_from_i8((const uint8_t *)whole);
  }
  put(w->scale, in_pairs, place, scale);
  const int32_t sum[2] = {vi_sum(w->parts == 1 ? sums[0] + sums[1] : sums[0]), w->parts == 1 ? 0 : vi_sum(sums[1])};
  for (int i = 0; i < w->parts; i++) {
    put(w->sum + (i * w->all << in_pairs), in_pairs, place, scale * (float)sum[i]);
    w->start[i * w->all + place] = COUNTED - w->bias * sum[i];
  }
}

enum { STRIPS_EACH = 1 << 9 /* in a piece */ };

static void round_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const rounded_t *w = work;
  const int64_t end = least_of((piece + 1) * STRIPS_EACH, w->rows * w->strips);
  for (int64_t s = piece * STRIPS_EACH; s < end; s++) round_strip(w, s / w->strips, s % w->strips);
}

static int32_t round_all(const rounded_t *w) {
  return in_parallel(pieces_of(w->rows * w->strips, STRIPS_EACH), round_piece, w);
}

#endif
