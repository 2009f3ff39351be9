/* Rows of numbers: how many make a piece of work, their sums, their largest number. */
#ifndef LCM_SIMD_ROWS_H
#define LCM_SIMD_ROWS_H

#include <lcm/simd/elementwise.h>

/* Rows of a piece. */
static int64_t rows_each(int64_t width) { return width < PIECE ? PIECE / (width ? width : 1) : 1; }

/* The same where every piece leaves sums as wide as a row: there are at most 64, cheap to add. */
static int64_t rows_each_summed(int64_t rows, int64_t width) {
  const int64_t each = rows_each(width), least = spans(rows, 64);
  return each < least ? least : each;
}

INLINE int64_t lanes_left(int64_t i, int64_t width) { return width - i < LANES ? width - i : LANES; }

/* The first n lanes of x, and `rest` in the others. */
INLINE vf vf_first(vf x, int64_t n, float rest) {
  vi lane;
  for (int i = 0; i < LANES; i++) lane[i] = i;
  return n == LANES ? x : vf_pick(lane < (int32_t)n, x, vf_all(rest));
}

/* What is summed: of the numbers i … i + n - 1 of a row; lanes from n on do not count. */
typedef vf term_fn(const void *row, int64_t i, int64_t n);

/* The sum of a row's terms. Four sums: each would wait four cycles for its own addition before. */
INLINE float row_sum(const void *row, int64_t width, term_fn *term) {
  vf sum[4] = {0};
  int64_t i = 0;
  for (; i + 4 * LANES <= width; i += 4 * LANES)
    for (int k = 0; k < 4; k++) sum[k] += term(row, i + k * LANES, LANES);
  for (; i + LANES <= width; i += LANES) sum[0] += term(row, i, LANES);
  if (i < width) sum[1] += vf_first(term(row, i, width - i), width - i, 0);
  return vf_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

INLINE vf number_term(const void *row, int64_t i, int64_t n) {
  return vf_load_some((const float *)row + i, n);
}

static float mean_of(const float *x, int64_t width) { return row_sum(x, width, number_term) / (float)width; }

/* The largest number of a row, -infinity if there is none; a NaN may go unseen. */
static float largest_of(const float *x, int64_t width) {
  vf most[4] = {vf_all(-INFINITY), vf_all(-INFINITY), vf_all(-INFINITY), vf_all(-INFINITY)};
  int64_t i = 0;
  for (; i + 4 * LANES <= width; i += 4 * LANES)
    for (int k = 0; k < 4; k++) most[k] = vf_max(most[k], vf_load(x + i + k * LANES));
  for (; i + LANES <= width; i += LANES) most[0] = vf_max(most[0], vf_load(x + i));
  if (i < width) most[1] = vf_max(most[1], vf_first(vf_load_first(x + i, width - i), width - i, -INFINITY));
  return vf_largest(vf_max(vf_max(most[0], most[1]), vf_max(most[2], most[3])));
}

#endif
