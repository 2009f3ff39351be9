/* Panels: lines of a matrix, numbers of any format, side by side as f32 in the order in which a tile reads them.

   pack_x, pack_y   panel[k * width + i] = number k of line i;  zeros where there is no line */
#ifndef LCM_SIMD_PANEL_H
#define LCM_SIMD_PANEL_H

#include <lcm/simd/tile.h>

typedef enum { F32, BF16, F16 } format_t;

/* The rows of x or the columns of y, along k. */
typedef struct {
  const void *at;
  format_t format;
  int64_t line, step; /* numbers from a line to the next, and from a k to the next; one of the two is 1 */
} lines_t;

INLINE int64_t least_of(int64_t a, int64_t b) { return a < b ? a : b; }

/* Numbers i … i + n - 1, n <= LANES; zeros up to LANES. */
INLINE vf load_format(const void *at, const format_t format, int64_t i, int64_t n) {
  if (format == F32) return vf_load_first((const float *)at + i, n);
  uint16_t some[LANES] = {0};
  const uint16_t *from = (const uint16_t *)at + i;
  if (n < LANES) from = memcpy(some, from, (size_t)n * sizeof *from);
  return format == BF16 ? vf_from_bf16(from) : vf_from_f16(from);
}

/* n numbers, from `first` on, of lines `line` … `line` + count - 1; `lanes`, a constant, are stored of each k. */
INLINE void pack_along(float *panel, const int width, const int lanes, const lines_t *from, const format_t format,
                       int64_t line, int64_t count, int64_t first, int64_t n) {
  vf v[LANES] = {0};
#pragma GCC unroll 16
  for (int i = 0; i < LANES; i++)
    if (i < count) v[i] = load_format(from->at, format, (line + i) * from->line + first, n);
  vf_transpose(v);
#pragma GCC unroll 16
  for (int k = 0; k < LANES; k++)
    if (k < n) vf_store_first(panel + k * width, v[k], lanes);
}

INLINE void pack(float *panel, const int width, const lines_t *from, const format_t format, int64_t line,
                 int64_t count, int64_t first, int64_t depth) {
#pragma GCC unroll 4
  for (int g = 0; g < width; g += LANES) {
    const int lanes = width - g < LANES ? width - g : LANES;
    const int64_t left = count - g, lines = left < 0 ? 0 : left < lanes ? left : lanes;
    if (from->step == 1) {
      int64_t k = 0;
      if (lines == lanes)
        for (; k + LANES <= depth; k += LANES)
          pack_along(panel + k * width + g, width, lanes, from, format, line + g, lanes, first + k, LANES);
      for (; k < depth; k += LANES)
        pack_along(panel + k * width + g, width, lanes, from, format, line + g, lines, first + k,
                   least_of(LANES, depth - k));
    } else
      for (int64_t k = 0; k < depth; k++) {
        const vf v = load_format(from->at, format, (first + k) * from->step + line + g, lines);
        vf_store_first(panel + k * width + g, v, lanes);
      }
  }
}

INLINE void pack_any(float *panel, const int width, const lines_t *from, int64_t line, int64_t count, int64_t first,
                     int64_t depth) {
  if (from->format == F32) pack(panel, width, from, F32, line, count, first, depth);
  else if (from->format == BF16) pack(panel, width, from, BF16, line, count, first, depth);
  else pack(panel, width, from, F16, line, count, first, depth);
}

/* [depth, TILE_ROWS] */
static void pack_x(float *panel, const lines_t *x, int64_t line, int64_t count, int64_t first, int64_t depth) {
  pack_any(panel, TILE_ROWS, x, line, count, first, depth);
}

/* [depth, TILE_COLUMNS], or [depth, LANES] if that is enough */
static void pack_y(float *panel, const lines_t *y, int64_t line, int64_t count, int64_t first, int64_t depth) {
  if (count > LANES) pack_any(panel, TILE_COLUMNS, y, line, count, first, depth);
  else pack_any(panel, LANES, y, line, count, first, depth);
}

#endif
