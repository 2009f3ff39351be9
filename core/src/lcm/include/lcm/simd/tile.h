/* The matrix product's tile: TILE_ROWS x TILE_VECTORS vectors of the result, which stay in registers.

   out[i,j] (+)= sum over k of x[i,k] y[k,j] (+ bias[j]), or flipped: out[j,i] (+)= … (+ bias[i])

   tile_wide, tile_narrow         x packed, k first; y TILE_COLUMNS or LANES columns wide
   tile_flipped, …_narrow         the same, flipped
   tile_direct, …_narrow          flipped, of TILE_ROWS rows of x as they lie in memory */
#ifndef LCM_SIMD_TILE_H
#define LCM_SIMD_TILE_H

#include <stdbool.h>

#define INLINE static inline __attribute__((always_inline))

enum { TILE_COLUMNS = TILE_VECTORS * LANES };

typedef struct {
  int64_t rows, columns, depth; /* at most TILE_ROWS, at most TILE_COLUMNS, any */
  const float *x;               /* [depth, TILE_ROWS], or TILE_ROWS rows with x_row numbers from one to the next */
  int64_t x_row;
  const float *y;               /* [depth, TILE_COLUMNS], or [depth, LANES] if that is enough */
  const float *ahead;           /* what will be read soon: fetched while this is computed, */
  int64_t ahead_step;           /* so many numbers for each k */
  float *out;                   /* with out_row numbers from a row to the next */
  int64_t out_row;
  bool add;                     /* to what out holds */
  const float *bias;            /* or NULL */
} tile_t;

INLINE void fetch_out(const float *out, int64_t out_row, const int rows, const int vectors) {
#pragma GCC unroll 32
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
    for (int j = 0; j < vectors; j++) __builtin_prefetch(out + i * out_row + j * LANES, 1);
}

/* The sums to out, where it lies or to what it holds. */
INLINE void store_sums(float *out, vf sum, int64_t n, const bool add) {
  vf_store_first(out, add ? sum + vf_load_first(out, n) : sum, n);
}

INLINE void store_tile(const tile_t t, vf sum[TILE_ROWS][TILE_VECTORS], const int rows, const int vectors,
                       const bool add) {
#pragma GCC unroll 2
  for (int j = 0; j < vectors; j++) {
    const int64_t left = t.columns - j * LANES, n = left < LANES ? left : LANES;
    const vf bias = t.bias ? vf_load_first(t.bias + j * LANES, n) : vf_all(0);
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
      if (i < rows - 1 || rows == t.rows) /* rows was rounded up to even */
        store_sums(t.out + i * t.out_row + j * LANES, sum[i][j] + bias, n, add);
  }
}

/* Column j of the sums is row j of out. */
INLINE void store_flipped(const tile_t t, vf sum[TILE_ROWS][TILE_VECTORS], const int vectors, const bool add) {
#pragma GCC unroll 2
  for (int j = 0; j < vectors; j++)
#pragma GCC unroll 4
    for (int i = 0; i < TILE_ROWS; i += LANES) {
      const int64_t left = t.rows - i, n = left < 0 ? 0 : left < LANES ? left : LANES;
      const vf bias = t.bias ? vf_load_first(t.bias + i, n) : vf_all(0);
      vf turned[LANES] = {0};
#pragma GCC unroll 16
      for (int r = 0; r < LANES; r++)
        if (i + r < TILE_ROWS) turned[r] = sum[i + r][j];
      vf_transpose(turned);
#pragma GCC unroll 16
      for (int c = 0; c < LANES; c++)
        if (j * LANES + c < t.columns) store_sums(t.out + (j * LANES + c) * t.out_row + i, turned[c] + bias, n, add);
    }
}

/* `rows` rows and `vectors` vectors of a tile, which are constants: with AVX-512, 2 loads of y and 14 of x are
   28 multiply-adds. */
INLINE void tile(const tile_t *args, const int rows, const int vectors, const int64_t x_row, const int64_t x_step,
                 const bool flipped) {
  const tile_t t = *args; /* a copy, which no store can change */
  vf sum[TILE_ROWS][TILE_VECTORS] = {0};
  const float *x = t.x, *y = t.y, *ahead = t.ahead;
  if (!flipped) fetch_out(t.out, t.out_row, rows, vectors);
  for (int64_t k = t.depth; k > 0; k--, x += x_step, y += vectors * LANES, ahead += t.ahead_step) {
    __builtin_prefetch(ahead, 0, 2);
    vf yk[TILE_VECTORS];
    for (int j = 0; j < vectors; j++) yk[j] = vf_load(y + j * LANES);
    for (int i = 0; i < rows; i++) {
      const vf xk = vf_all(x[i * x_row]);
      for (int j = 0; j < vectors; j++) sum[i][j] = xk * yk[j] + sum[i][j];
    }
  }
  if (flipped && t.add) store_flipped(t, sum, vectors, true);
  else if (flipped) store_flipped(t, sum, vectors, false);
  else if (t.add) store_tile(t, sum, rows, vectors, true);
  else store_tile(t, sum, rows, vectors, false);
}

/* As many rows as there are, rounded up to even. */
INLINE void tile_of_rows(const tile_t *t, const int vectors) {
  if (t->rows <= 2) tile(t, 2, vectors, 1, TILE_ROWS, false);
  else if (TILE_ROWS > 4 && t->rows <= 4) tile(t, 4, vectors, 1, TILE_ROWS, false);
  else if (TILE_ROWS > 6 && t->rows <= 6) tile(t, 6, vectors, 1, TILE_ROWS, false);
  else if (TILE_ROWS > 8 && t->rows <= 8) tile(t, 8, vectors, 1, TILE_ROWS, false);
  else if (TILE_ROWS > 10 && t->rows <= 10) tile(t, 10, vectors, 1, TILE_ROWS, false);
  else if (TILE_ROWS > 12 && t->rows <= 12) tile(t, 12, vectors, 1, TILE_ROWS, false);
  else tile(t, TILE_ROWS, vectors, 1, TILE_ROWS, false);
}

static void tile_wide(const tile_t *t) { tile_of_rows(t, TILE_VECTORS); }

static void tile_narrow(const tile_t *t) { tile_of_rows(t, 1); }

static void tile_flipped(const tile_t *t) { tile(t, TILE_ROWS, TILE_VECTORS, 1, TILE_ROWS, true); }

static void tile_flipped_narrow(const tile_t *t) { tile(t, TILE_ROWS, 1, 1, TILE_ROWS, true); }

static void tile_direct(const tile_t *t) { tile(t, TILE_ROWS, TILE_VECTORS, t->x_row, 1, true); }

static void tile_direct_narrow(const tile_t *t) { tile(t, TILE_ROWS, 1, t->x_row, 1, true); }

#endif
