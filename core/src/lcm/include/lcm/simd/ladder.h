/* The ladder: out = x @ y, all [n, n], as one idea of optimisation after the other would do it. For lessons,
   and for `lcm bench ladder`; no op runs on it.

   lcm_ladder_naive_f32, _f64      three loops over single numbers
   lcm_ladder_blocked_f32, _f64    the same in tiles that stay in the cache; y is read along its rows
   lcm_ladder_simd_f64             sums in vector registers, over packed blocks (in f32, lcm_matmul does that)

   Each runs on the pool's threads and returns as a kernel does: with one thread it is the idea alone. */
#ifndef LCM_SIMD_LADDER_H
#define LCM_SIMD_LADDER_H

#include <lcm/ops.h>
#include <lcm/simd/limits.h>
#include <lcm/simd/threads.h>

/* Single numbers are meant: the compiler must not make vectors of them, nor turn the loops round. */
#ifdef __clang__
#define SCALAR
#define SCALAR_LOOP _Pragma("clang loop vectorize(disable) interleave(disable)")
#else
#define SCALAR __attribute__((optimize("no-tree-vectorize", "no-loop-interchange")))
#define SCALAR_LOOP
#endif

typedef struct {
  void *out;
  const void *x, *y;
  int64_t n;
  void *memory;
} ladder_work;

static int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t tiles_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

/* Naive: piece i is row i of out. */

SCALAR static void naive_f32_row(const void *work, int64_t i, int worker) {
  (void)worker;
  const ladder_work *w = work;
  const float *x = (const float *)w->x + i * w->n, *y = w->y;
  float *out = (float *)w->out + i * w->n;
  for (int64_t j = 0; j < w->n; j++) {
    float sum = 0;
    SCALAR_LOOP
    for (int64_t k = 0; k < w->n; k++) sum += x[k] * y[k * w->n + j];
    out[j] = sum;
  }
}

SCALAR static void naive_f64_row(const void *work, int64_t i, int worker) {
  (void)worker;
  const ladder_work *w = work;
  const double *x = (const double *)w->x + i * w->n, *y = w->y;
  double *out = (double *)w->out + i * w->n;
  for (int64_t j = 0; j < w->n; j++) {
    double sum = 0;
    SCALAR_LOOP
    for (int64_t k = 0; k < w->n; k++) sum += x[k] * y[k * w->n + j];
    out[j] = sum;
  }
}

/* Blocked: a piece is a tile of out. A tile of y, 16 or 32 KiB, is in the cache while 64 rows of x use it. */

enum { BLOCK = 64 };

SCALAR static void blocked_f32_tile(const void *work, int64_t piece, int worker) {
  (void)worker;
  const ladder_work *w = work;
  const float *x = w->x, *y = w->y;
  float *out = w->out;
  const int64_t n = w->n, across = tiles_of(n, BLOCK);
  const int64_t top = piece / across * BLOCK, bottom = lesser(top + BLOCK, n);
  const int64_t left = piece % across * BLOCK, right = lesser(left + BLOCK, n);
  for (int64_t i = top; i < bottom; i++) memset(out + i * n + left, 0, (size_t)(right - left) * sizeof *out);
  for (int64_t inner = 0; inner < n; inner += BLOCK)
    for (int64_t i = top; i < bottom; i++)
      for (int64_t k = inner; k < lesser(inner + BLOCK, n); k++) {
        const float factor = x[i * n + k];
        SCALAR_LOOP
        for (int64_t j = left; j < right; j++) out[i * n + j] += factor * y[k * n + j];
      }
}

SCALAR static void blocked_f64_tile(const void *work, int64_t piece, int worker) {
  (void)worker;
  const ladder_work *w = work;
  const double *x = w->x, *y = w->y;
  double *out = w->out;
  const int64_t n = w->n, across = tiles_of(n, BLOCK);
  const int64_t top = piece / across * BLOCK, bottom = lesser(top + BLOCK, n);
  const int64_t left = piece % across * BLOCK, right = lesser(left + BLOCK, n);
  for (int64_t i = top; i < bottom; i++) memset(out + i * n + left, 0, (size_t)(right - left) * sizeof *out);
  for (int64_t inner = 0; inner < n; inner += BLOCK)
    for (int64_t i = top; i < bottom; i++)
      for (int64_t k = inner; k < lesser(inner + BLOCK, n); k++) {
        const double factor = x[i * n + k];
        SCALAR_LOOP
        for (int64_t j = left; j < right; j++) out[i * n + j] += factor * y[k * n + j];
      }
}

/* SIMD, f64: a piece is PIECE_ROWS x PIECE_COLUMNS of out at most. Blocks of x and y are packed in the order
   in which tiles read them, padded with zeros: no tile has an edge, and every load is of what comes next. */

typedef double vd_anywhere __attribute__((vector_size(4 * LANES), aligned(8), may_alias));

enum {
  F64_COLUMNS = TILE_VECTORS * LANES / 2,
  PIECE_ROWS = 240 / TILE_ROWS * TILE_ROWS,
  PIECE_COLUMNS = 256 / F64_COLUMNS * F64_COLUMNS,
  DEPTH = 256, /* of a block: F64_COLUMNS of y, 32 KiB at most, stay in L1; all of x, 480 KiB, in L2 */
  PACKED = DEPTH * (PIECE_ROWS + PIECE_COLUMNS), /* doubles, for each worker */
};

/* to[tile][k][r] = x[tile * TILE_ROWS + r, k] */
static void pack_x_f64(double *to, const double *x, int64_t rows, int64_t depth, int64_t n) {
  for (int64_t tile = 0; tile < rows; tile += TILE_ROWS, to += TILE_ROWS * depth)
    for (int64_t line = 0; line < depth; line += 8) /* a cache line of each row at a time */
      for (int r = 0; r < TILE_ROWS; r++)
        for (int64_t k = line; k < lesser(line + 8, depth); k++)
          to[k * TILE_ROWS + r] = tile + r < rows ? x[(tile + r) * n + k] : 0;
}

/* to[tile][k][c] = y[k, tile * F64_COLUMNS + c] */
static void pack_y_f64(double *to, const double *y, int64_t columns, int64_t depth, int64_t n) {
  for (int64_t some = 0; some < depth; some += 32) /* rows: no more pages than the TLB holds */
    for (int64_t tile = 0; tile < columns; tile += F64_COLUMNS)
      for (int64_t k = some; k < lesser(some + 32, depth); k++) {
        double *row = to + tile * depth + k * F64_COLUMNS;
        for (int64_t c = 0; c < F64_COLUMNS; c++) row[c] = tile + c < columns ? y[k * n + tile + c] : 0;
      }
}

/* sum[TILE_ROWS, F64_COLUMNS] = x[depth, TILE_ROWS] transposed @ y[depth, F64_COLUMNS] */
static void tile_f64(double *sum, const double *x, const double *y, int64_t depth) {
  vd s[TILE_ROWS][TILE_VECTORS] = {0};
  for (int64_t k = 0; k < depth; k++, x += TILE_ROWS, y += F64_COLUMNS) {
    vd b[TILE_VECTORS];
    for (int v = 0; v < TILE_VECTORS; v++) b[v] = *(const vd_anywhere *)(y + v * LANES / 2);
#pragma GCC unroll 16
    for (int r = 0; r < TILE_ROWS; r++)
#pragma GCC unroll 4
      for (int v = 0; v < TILE_VECTORS; v++) s[r][v] += x[r] * b[v];
  }
  memcpy(sum, s, sizeof s);
}

/* The size of equal pieces of n, at most `most`, in whole units. */
static int64_t even_piece(int64_t n, int64_t most, int64_t unit) {
  return tiles_of(tiles_of(n, tiles_of(n, most)), unit) * unit;
}

static void simd_f64_piece(const void *work, int64_t piece, int worker) {
  const ladder_work *w = work;
  const int64_t n = w->n, height = even_piece(n, PIECE_ROWS, TILE_ROWS);
  const int64_t width = even_piece(n, PIECE_COLUMNS, F64_COLUMNS), across = tiles_of(n, width);
  const int64_t top = piece / across * height, rows = lesser(height, n - top);
  const int64_t left = piece % across * width, columns = lesser(width, n - left);
  double *x = (double *)w->memory + worker * PACKED, *y = x + DEPTH * PIECE_ROWS;
  double *out = (double *)w->out + top * n + left, sum[TILE_ROWS * F64_COLUMNS];
  for (int64_t i = 0; i < rows; i++) memset(out + i * n, 0, (size_t)columns * sizeof *out);
  for (int64_t inner = 0; inner < n; inner += DEPTH) {
    const int64_t depth = lesser(DEPTH, n - inner);
    pack_x_f64(x, (const double *)w->x + top * n + inner, rows, depth, n);
    pack_y_f64(y, (const double *)w->y + inner * n + left, columns, depth, n);
    for (int64_t j = 0; j < columns; j += F64_COLUMNS)
      for (int64_t i = 0; i < rows; i += TILE_ROWS) {
        tile_f64(sum, x + i * depth, y + j * depth, depth);
        for (int64_t r = 0; r < lesser(TILE_ROWS, rows - i); r++)
          for (int64_t c = 0; c < lesser(F64_COLUMNS, columns - j); c++)
            out[(i + r) * n + j + c] += sum[r * F64_COLUMNS + c];
      }
  }
}

EXPORT int32_t lcm_ladder_naive_f32(float *out, const float *x, const float *y, int64_t n) {
  return in_parallel(n, naive_f32_row, &(ladder_work){out, x, y, n, NULL});
}

EXPORT int32_t lcm_ladder_naive_f64(double *out, const double *x, const double *y, int64_t n) {
  return in_parallel(n, naive_f64_row, &(ladder_work){out, x, y, n, NULL});
}

EXPORT int32_t lcm_ladder_blocked_f32(float *out, const float *x, const float *y, int64_t n) {
  const int64_t across = tiles_of(n, BLOCK);
  return in_parallel(across * across, blocked_f32_tile, &(ladder_work){out, x, y, n, NULL});
}

EXPORT int32_t lcm_ladder_blocked_f64(double *out, const double *x, const double *y, int64_t n) {
  const int64_t across = tiles_of(n, BLOCK);
  return in_parallel(across * across, blocked_f64_tile, &(ladder_work){out, x, y, n, NULL});
}

EXPORT int32_t lcm_ladder_simd_f64(double *out, const double *x, const double *y, int64_t n) {
  if (n == 0) return LCM_OK;
  double *memory = scratch((size_t)workers() * PACKED * sizeof *memory);
  if (!memory) return LCM_NO_MEMORY;
  const ladder_work work = {out, x, y, n, memory};
  const int64_t down = tiles_of(n, even_piece(n, PIECE_ROWS, TILE_ROWS));
  return in_parallel(down * tiles_of(n, even_piece(n, PIECE_COLUMNS, F64_COLUMNS)), simd_f64_piece, &work);
}

#endif
