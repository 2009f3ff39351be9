/* Panels: lines of a matrix, the rows of x or the columns of y, side by side in the order in which tiles read them.

   panel[k * width + i] = number k of line i, as f32; zeros where there is no line */
#ifndef LCM_SIMD_PANEL_H
#define LCM_SIMD_PANEL_H

#include <lcm/simd/formats.h>

/* The rows of x or the columns of y, along k. */
typedef struct {
  const void *at;
  format_t format;
  int64_t line, step; /* numbers from a line to the next, and from a k to the next; one of the two is 1 */
} lines_t;

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
  const format_t format = from->format;
  if (format == F32) pack(panel, width, from, F32, line, count, first, depth);
  else if (format == BF16) pack(panel, width, from, BF16, line, count, first, depth);
  else if (format == F16) pack(panel, width, from, F16, line, count, first, depth);
  else pack(panel, width, from, format, line, count, first, depth);
}

/* Panels of TILE_ROWS rows of x, and of TILE_COLUMNS columns of y, or LANES if that is enough. */
static void pack_x(float *panel, const lines_t *x, int64_t line, int64_t count, int64_t first, int64_t depth) {
  pack_any(panel, TILE_ROWS, x, line, count, first, depth);
}

static void pack_y(float *panel, const lines_t *y, int64_t line, int64_t count, int64_t first, int64_t depth) {
  if (count > LANES) pack_any(panel, TILE_COLUMNS, y, line, count, first, depth);
  else pack_any(panel, LANES, y, line, count, first, depth);
}

/* One side of a product: `count` lines from `first` on, as panels of `width` lines. */
typedef struct {
  lines_t lines;
  int64_t first, count, width;
  int64_t depth, step; /* numbers of a line, and how many of them are a step */
  float *panels;       /* [steps][panels][step, width] */
} side_t;

static int64_t side_size(const side_t *s) { return round_up(round_up(s->count, s->width) * s->depth, 16); }

/* The panel of a line and the ones after it, in the step that begins at number k and is `depth` long. */
static float *panel_at(const side_t *s, int64_t line, int64_t k, int64_t depth) {
  return s->panels + k * round_up(s->count, s->width) + line * depth;
}

/* A unit of packing is some lines, if they lie along memory, or else some k of all lines, which lie side by side
   there; of the latter a few are packed at a time, since each k is a page of its own. */
enum { UNIT_LINES = 128, UNIT_DEPTH = 64, A_FEW = 16 };

static int64_t unit_lines(const side_t *s) { return UNIT_LINES / s->width * s->width; } /* whole panels */

static int64_t units_of(const side_t *s) {
  if (!s->count) return 0;
  return s->lines.step == 1 ? pieces_of(s->count, unit_lines(s)) : pieces_of(s->depth, UNIT_DEPTH);
}

/* Lines i … last - 1, numbers k … end - 1, which all are of the step that begins at `start`. */
static void pack_part(const side_t *s, int64_t i, int64_t last, int64_t start, int64_t k, int64_t end) {
  const int64_t depth = least_of(s->step, s->depth - start);
  for (; i < last; i += s->width) {
    const int64_t count = least_of(s->width, last - i), width = s->width > TILE_ROWS && count <= LANES ? LANES : s->width;
    float *panel = panel_at(s, i, start, depth) + (k - start) * width;
    if (s->width == TILE_ROWS) pack_x(panel, &s->lines, s->first + i, count, k, end - k);
    else pack_y(panel, &s->lines, s->first + i, count, k, end - k);
  }
}

static void pack_unit(const side_t *s, int64_t unit) {
  const bool along = s->lines.step == 1;
  const int64_t lines = unit_lines(s), first = along ? unit * lines : 0;
  const int64_t last = along ? least_of(first + lines, s->count) : s->count;
  const int64_t begin = along ? 0 : unit * UNIT_DEPTH, end = along ? s->depth : least_of(begin + UNIT_DEPTH, s->depth);
  for (int64_t k = begin; k < end;) {
    const int64_t start = k / s->step * s->step, next = least_of(along ? end : k + A_FEW, least_of(end, start + s->step));
    pack_part(s, first, last, start, k, next);
    k = next;
  }
}

/* Lines that lie along memory, as f32: [count, depth]. */
static void decode_lines(float *to, const lines_t *from, int64_t line, int64_t count, int64_t first, int64_t depth) {
  for (int64_t i = 0; i < count; i++) decode(to + i * depth, from->at, from->format, (line + i) * from->line + first, depth);
}

#endif
