/* The matrix product's tile: TILE_ROWS x TILE_VECTORS vectors of the result, which stay in registers.

   tile(t, rows, vectors)   out[i,j] (+)= sum over k of x[i,k] y[k,j] (+ bias[j])
   pack(…)                  lines of a matrix as a panel: panel[k,i] = line i, number k

   A matrix is seen as lines, the rows of x and the columns of y, with k along each. */
#ifndef LCM_SIMD_TILE_H
#define LCM_SIMD_TILE_H

#include <lcm/simd/vector.h>
#include <stdbool.h>

#define INLINE static inline __attribute__((always_inline))

enum { TILE_COLUMNS = TILE_VECTORS * LANES };

typedef enum { F32, BF16, F16 } format_t;

typedef struct {
  const void *at;
  int64_t line, step; /* numbers from a line to the next, and from a k to the next; one of the two is 1 */
} lines_t;

typedef struct {
  int64_t rows, columns, depth; /* at most TILE_ROWS, at most TILE_COLUMNS, any */
  const float *x;               /* x[i,k] = x[i * x_row + k * x_step] */
  int64_t x_row, x_step;
  const float *y;               /* [depth, TILE_COLUMNS] */
  float *out;                   /* out[i,j] = out[i * out_row + j] */
  int64_t out_row;
  bool add;                     /* to what out holds */
  const float *bias;            /* [columns], or NULL */
} tile_t;

/* The first `rows` rows and `vectors` vectors of a tile, both constants: 2 loads of y and 14 of x are 28
   multiply-adds with AVX-512. */
INLINE void tile(const tile_t *t, const int rows, const int vectors, const int64_t x_row, const int64_t x_step) {
  vf sum[TILE_ROWS][TILE_VECTORS] = {0};
  const float *x = t->x, *y = t->y;
  for (int64_t k = t->depth; k > 0; k--, x += x_step, y += TILE_COLUMNS) {
    vf yk[TILE_VECTORS];
    for (int j = 0; j < vectors; j++) yk[j] = vf_load(y + j * LANES);
    for (int i = 0; i < rows; i++) {
      const vf xk = vf_all(x[i * x_row]);
      for (int j = 0; j < vectors; j++) sum[i][j] = xk * yk[j] + sum[i][j];
    }
  }
#pragma GCC unroll 2
  for (int j = 0; j < vectors; j++) {
    const int64_t left = t->columns - j * LANES, n = left < LANES ? left : LANES;
    const vf bias = t->bias ? vf_load_first(t->bias + j * LANES, n) : vf_all(0);
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
      if (i >= t->rows) break;
      float *out = t->out + i * t->out_row + j * LANES;
      const vf before = t->add ? vf_load_first(out, n) + bias : bias;
      vf_store_first(out, sum[i][j] + before, n);
    }
  }
}

/* A tile of packed x, of as many rows and vectors as it needs. */
INLINE void tile_packed(const tile_t *t, const int vectors) {
  if (t->rows <= 2) tile(t, 2, vectors, 1, TILE_ROWS);
  else if (TILE_ROWS > 4 && t->rows <= 4) tile(t, 4, vectors, 1, TILE_ROWS);
  else if (TILE_ROWS > 6 && t->rows <= 6) tile(t, 6, vectors, 1, TILE_ROWS);
  else if (TILE_ROWS > 8 && t->rows <= 8) tile(t, 8, vectors, 1, TILE_ROWS);
  else if (TILE_ROWS > 10 && t->rows <= 10) tile(t, 10, vectors, 1, TILE_ROWS);
  else if (TILE_ROWS > 12 && t->rows <= 12) tile(t, 12, vectors, 1, TILE_ROWS);
  else tile(t, TILE_ROWS, vectors, 1, TILE_ROWS);
}

static void tile_wide(const tile_t *t) { tile_packed(t, TILE_VECTORS); }

static void tile_narrow(const tile_t *t) { tile_packed(t, 1); }

/* x as it lies in memory, k along its rows: nothing is packed. */
static void tile_direct(const tile_t *t) { tile(t, TILE_ROWS, TILE_VECTORS, t->x_row, 1); }

static void tile_direct_narrow(const tile_t *t) { tile(t, TILE_ROWS, 1, t->x_row, 1); }

/* Numbers i … i + n - 1, n <= LANES, of an array in some format; zeros up to LANES. */
INLINE vf load_format(const void *at, const format_t format, int64_t i, int64_t n) {
  if (format == F32) return vf_load_first((const float *)at + i, n);
  uint16_t some[LANES] = {0};
  const uint16_t *from = (const uint16_t *)at + i;
  if (n < LANES) from = memcpy(some, from, (size_t)n * sizeof *from);
  return format == BF16 ? vf_from_bf16(from) : vf_from_f16(from);
}

/* panel[k * width + i] = number first + k of line `line` + i; zero for i from `count` to width - 1. */
INLINE void pack(float *panel, const int width, const lines_t *from, const format_t format, int64_t line,
                 int64_t count, int64_t first, int64_t depth) {
  for (int g = 0; g < width; g += LANES) {
    const int64_t left = count - g, lines = left < 0 ? 0 : left < LANES ? left : LANES;
    const int lanes = width - g < LANES ? width - g : LANES;
    if (from->step == 1)
      for (int64_t k = 0; k < depth; k += LANES) {
        const int64_t n = depth - k < LANES ? depth - k : LANES;
        vf v[LANES] = {0};
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
          if (i < lines) v[i] = load_format(from->at, format, (line + g + i) * from->line + first + k, n);
        vf_transpose(v);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
          if (i < n) vf_store_first(panel + (k + i) * width + g, v[i], lanes);
      }
    else
      for (int64_t k = 0; k < depth; k++) {
        const vf v = load_format(from->at, format, (first + k) * from->step + line + g, lines);
        vf_store_first(panel + k * width + g, v, lanes);
      }
  }
}

#endif
