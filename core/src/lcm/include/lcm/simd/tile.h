/* The matrix product's tile: TILE_ROWS x TILE_VECTORS vectors of the result, which stay in registers.

   out[i,j] (+)= sum over k of x[i,k] y[k,j] (+ bias[j]), or flipped: out[j,i] (+)= … (+ bias[i]) */
#ifndef LCM_SIMD_TILE_H
#define LCM_SIMD_TILE_H

#include <stdbool.h>

#define INLINE static inline __attribute__((always_inline))

INLINE int64_t least_of(int64_t a, int64_t b) { return a < b ? a : b; }

INLINE int64_t most_of(int64_t a, int64_t b) { return a > b ? a : b; }

INLINE int64_t pieces_of(int64_t size, int64_t piece) { return (size + piece - 1) / piece; }

INLINE int64_t round_up(int64_t size, int64_t unit) { return pieces_of(size, unit) * unit; }

enum { TILE_COLUMNS = TILE_VECTORS * LANES };

typedef struct {
  int64_t rows, columns, depth; /* at most TILE_ROWS, at most TILE_COLUMNS, any */
  const float *x;               /* [depth, TILE_ROWS]; or in place, TILE_ROWS rows, x_row numbers from one to the next */
  int64_t x_row;
  const float *y;               /* [depth, TILE_COLUMNS], or [depth, LANES] if that is enough */
  const float *ahead;           /* what will be read soon is fetched while this is computed, */
  int64_t ahead_step;           /* so many numbers for each k */
  float *out;
  int64_t out_row;              /* numbers from a row of out to the next */
  const float *bias;            /* or NULL */
  bool add;                     /* to what out holds */
  bool fetch_out;               /* out lies in memory that is far away */
} tile_t;

INLINE void fetch_out(const float *out, int64_t out_row, const int rows, const int vectors) {
#pragma GCC unroll 32
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
    for (int j = 0; j < vectors; j++) __builtin_prefetch(out + i * out_row + j * LANES, 1);
}

/* The sums to out, where it lies or to what it holds. */
INLINE void store_sums(float *out, vf sum, int64_t n, const bool add) {
  vf_store_first(out, add ? sum + vf_load_first(out, n) : sum, n);
}

INLINE void store_tile(const tile_t t, vf sum[TILE_ROWS][TILE_VECTORS], const int rows, const int vectors,
                       const bool add) {
#pragma GCC unroll 4
  for (int j = 0; j < vectors; j++) {
    const int64_t n = most_of(0, least_of(t.columns - j * LANES, LANES));
    const vf bias = t.bias ? vf_load_first(t.bias + j * LANES, n) : vf_all(0);
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
      if (i < rows - 1 || rows == t.rows) /* rows was rounded up to even */
        store_sums(t.out + i * t.out_row + j * LANES, sum[i][j] + bias, n, add);
  }
}

/* Column j of the sums is row j of out. */
INLINE void store_flipped(const tile_t t, vf sum[TILE_ROWS][TILE_VECTORS], const int vectors, const bool add) {
#pragma GCC unroll 4
  for (int j = 0; j < vectors; j++)
#pragma GCC unroll 4
    for (int i = 0; i < TILE_ROWS; i += LANES) {
      const int64_t n = most_of(0, least_of(t.rows - i, LANES));
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

/* Rows in place that share a pointer: an address adds 1, 2 or 4 times one of two numbers to it. */
enum { POINTER_ROWS = 5, POINTERS = (TILE_ROWS + POINTER_ROWS - 1) / POINTER_ROWS };

/* `rows` rows and `vectors` vectors of a tile, which are constants: with AVX-512, 2 loads of y and 14 of x are
   28 multiply-adds. */
INLINE void tile(const tile_t *args, const int rows, const int vectors, const bool in_place, const bool flipped) {
  const tile_t t = *args; /* a copy, which no store can change */
  const int64_t x_row = in_place ? t.x_row : 1, x_step = in_place ? 1 : TILE_ROWS;
  const int each = in_place ? POINTER_ROWS : TILE_ROWS;
  const float *x[POINTERS], *y = t.y, *ahead = t.ahead;
  vf sum[TILE_ROWS][TILE_VECTORS] = {0};
  for (int g = 0; g * each < rows; g++) x[g] = t.x + g * each * x_row;
  if (t.fetch_out && !flipped) fetch_out(t.out, t.out_row, rows, vectors);
  for (int64_t k = t.depth; k > 0; k--) {
    __builtin_prefetch(ahead, 0, 2);
    vf yk[TILE_VECTORS];
    for (int j = 0; j < vectors; j++) yk[j] = vf_load(y + j * LANES);
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
      const vf xk = vf_all_at(&x[i / each][i % each * x_row]);
      for (int j = 0; j < vectors; j++) sum[i][j] = xk * yk[j] + sum[i][j];
    }
    for (int g = 0; g * each < rows; g++) x[g] += x_step;
    y += vectors * LANES;
    ahead += t.ahead_step;
  }
  if (flipped && t.add) store_flipped(t, sum, vectors, true);
  else if (flipped) store_flipped(t, sum, vectors, false);
  else if (t.add) store_tile(t, sum, rows, vectors, true);
  else store_tile(t, sum, rows, vectors, false);
}

/* Packed rows, as many as there are, rounded up to even. */
INLINE void tile_of_rows(const tile_t *t, const int vectors) {
  if (t->rows <= 2) tile(t, 2, vectors, false, false);
  else if (TILE_ROWS > 4 && t->rows <= 4) tile(t, 4, vectors, false, false);
  else if (TILE_ROWS > 6 && t->rows <= 6) tile(t, 6, vectors, false, false);
  else if (TILE_ROWS > 8 && t->rows <= 8) tile(t, 8, vectors, false, false);
  else if (TILE_ROWS > 10 && t->rows <= 10) tile(t, 10, vectors, false, false);
  else if (TILE_ROWS > 12 && t->rows <= 12) tile(t, 12, vectors, false, false);
  else tile(t, TILE_ROWS, vectors, false, false);
}

/* Each is a function of its own, for which the compiler can keep all sums in registers. */
static void tile_wide(const tile_t *t) { tile(t, TILE_ROWS, TILE_VECTORS, false, false); }
static void tile_wide_rest(const tile_t *t) { tile_of_rows(t, TILE_VECTORS); }
static void tile_wide_in_place(const tile_t *t) { tile(t, TILE_ROWS, TILE_VECTORS, true, false); }
static void tile_narrow(const tile_t *t) { tile_of_rows(t, 1); }
static void tile_narrow_in_place(const tile_t *t) { tile(t, TILE_ROWS, 1, true, false); }
static void tile_wide_flipped(const tile_t *t) { tile(t, TILE_ROWS, TILE_VECTORS, false, true); }
static void tile_wide_flipped_in_place(const tile_t *t) { tile(t, TILE_ROWS, TILE_VECTORS, true, true); }
static void tile_narrow_flipped(const tile_t *t) { tile(t, TILE_ROWS, 1, false, true); }
static void tile_narrow_flipped_in_place(const tile_t *t) { tile(t, TILE_ROWS, 1, true, true); }

/* In place: only TILE_ROWS rows. */
static void compute_tile(const tile_t *t, bool in_place, bool flipped) {
  const bool wide = t->columns > LANES;
  if (wide && flipped) in_place ? tile_wide_flipped_in_place(t) : tile_wide_flipped(t);
  else if (flipped) in_place ? tile_narrow_flipped_in_place(t) : tile_narrow_flipped(t);
  else if (!wide) in_place ? tile_narrow_in_place(t) : tile_narrow(t);
  else if (in_place) tile_wide_in_place(t);
  else t->rows == TILE_ROWS ? tile_wide(t) : tile_wide_rest(t);
}

#endif
