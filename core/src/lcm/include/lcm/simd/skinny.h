/* x weight^T + bias for few rows of x, as in decoding: a weight is read once, from where it lies, and nothing
   is packed. Four rows of the weight are read side by side, and the four after them fetched ahead: one stream
   alone is 8 to 20 % slower, and without fetching another 5 to 8 %. */
#ifndef LCM_SIMD_SKINNY_H
#define LCM_SIMD_SKINNY_H

#include <lcm/simd/elementwise.h>
#include <lcm/simd/panel.h>
#include <lcm/simd/threads.h>

enum {
  FEW_ROWS = 4,                /* more are faster packed */
  SKINNY_SIDE = 4,             /* of a tile: rows of x, and of the weight */
  SKINNY_PIECES = 16,          /* of the weight, but with at least, */
  LEAST_NUMBERS = 48 * 1024,   /* 10 to 20 µs, */
  MOST_NUMBERS = 256 * 1024,   /* and at most so many numbers each */
};

typedef struct {
  const float *x;     /* [rows, inputs] */
  const void *weight; /* [outputs, inputs] */
  const float *bias;  /* [outputs], or NULL */
  float *out;         /* [rows, outputs] */
  int64_t rows, inputs, outputs;
  int64_t each; /* outputs in a piece */
  format_t format;
} skinny_t;

/* sum[i, j] += x[r + i, k…] weight[o + j, k…], for the n numbers from k on. */
INLINE void skinny_step(const skinny_t *a, const format_t format, const int rows, const int outputs, int64_t r,
                        int64_t o, int64_t k, int64_t n, vf sum[SKINNY_SIDE][SKINNY_SIDE]) {
  vf x[SKINNY_SIDE];
  for (int i = 0; i < rows; i++) x[i] = vf_load_some(a->x + (r + i) * a->inputs + k, n);
  for (int j = 0; j < outputs; j++) {
    const vf w = load_format(a->weight, format, (o + j) * a->inputs + k, n);
    __builtin_prefetch(number_at(a->weight, format, (o + j + SKINNY_SIDE) * a->inputs + k));
    for (int i = 0; i < rows; i++) sum[i][j] = w * x[i] + sum[i][j];
  }
}

INLINE void skinny_numbers(const skinny_t *a, const format_t format, const int rows, const int outputs, int64_t r,
                           int64_t o, vf sum[SKINNY_SIDE][SKINNY_SIDE]) {
  int64_t k = 0;
  for (; k + LANES <= a->inputs; k += LANES) skinny_step(a, format, rows, outputs, r, o, k, LANES, sum);
  if (k < a->inputs) skinny_step(a, format, rows, outputs, r, o, k, a->inputs - k, sum);
}

enum { DECODED = 256 /* numbers of a row of blocks that are decoded at a time */ };

/* The same for all k, of a weight in blocks. */
INLINE void skinny_blocks(const skinny_t *a, const int rows, const int outputs, int64_t r, int64_t o,
                          vf sum[SKINNY_SIDE][SKINNY_SIDE]) {
  for (int64_t k = 0; k < a->inputs; k += DECODED) {
    float part[SKINNY_SIDE][DECODED];
    const int64_t n = least_of(DECODED, a->inputs - k);
    for (int j = 0; j < outputs; j++) decode(part[j], a->weight, a->format, (o + j) * a->inputs + k, n);
    for (int64_t v = 0; v < n; v += LANES)
      for (int i = 0; i < rows; i++) {
        const vf x = vf_load(a->x + (r + i) * a->inputs + k + v);
        for (int j = 0; j < outputs; j++) sum[i][j] = vf_load(part[j] + v) * x + sum[i][j];
      }
  }
}

/* out[r + i, o + j] for as many rows and outputs as the constants say. */
INLINE void skinny_tile(const skinny_t *a, const format_t format, const int rows, const int outputs, int64_t r,
                        int64_t o) {
  vf sum[SKINNY_SIDE][SKINNY_SIDE] = {0};
  if (is_in_blocks(format)) skinny_blocks(a, rows, outputs, r, o, sum);
  else skinny_numbers(a, format, rows, outputs, r, o, sum);
  for (int i = 0; i < rows; i++) {
    vf lanes[LANES] = {0};
    for (int j = 0; j < outputs; j++) lanes[j] = sum[i][j];
    const vf bias = a->bias ? vf_load_first(a->bias + o, outputs) : vf_all(0);
    vf_store_first(a->out + (r + i) * a->outputs + o, vf_sums(lanes) + bias, outputs);
  }
}

/* All rows of some outputs. */
INLINE void skinny_outputs(const skinny_t *a, const format_t format, const int outputs, int64_t o) {
  int64_t r = 0;
  for (; r + 4 <= a->rows; r += 4) skinny_tile(a, format, 4, outputs, r, o);
  if (a->rows - r == 3) skinny_tile(a, format, 3, outputs, r, o);
  else if (a->rows - r == 2) skinny_tile(a, format, 2, outputs, r, o);
  else if (a->rows - r == 1) skinny_tile(a, format, 1, outputs, r, o);
}

INLINE void skinny_piece_of(const skinny_t *a, const format_t format, int64_t piece) {
  const int64_t end = (piece + 1) * a->each < a->outputs ? (piece + 1) * a->each : a->outputs;
  int64_t o = piece * a->each;
  for (; o + SKINNY_SIDE <= end; o += SKINNY_SIDE) skinny_outputs(a, format, SKINNY_SIDE, o);
  for (; o < end; o++) skinny_outputs(a, format, 1, o);
}

static void skinny_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const skinny_t *a = work;
  const format_t format = a->format;
  if (format == F32) skinny_piece_of(a, F32, piece);
  else if (format == BF16) skinny_piece_of(a, BF16, piece);
  else if (format == F16) skinny_piece_of(a, F16, piece);
  else skinny_piece_of(a, format, piece);
}

static int32_t skinny(const lcm_linear_args *a, format_t format) {
  const int64_t numbers = most_of(LEAST_NUMBERS, least_of(MOST_NUMBERS, a->inputs * a->outputs / SKINNY_PIECES));
  const int64_t rows = numbers / (a->inputs + 1) / SKINNY_SIDE;
  const skinny_t work = {.x = a->x, .weight = a->weight, .bias = a->bias, .out = a->out, .rows = a->rows,
                         .inputs = a->inputs, .outputs = a->outputs,
                         .each = SKINNY_SIDE * (rows ? rows : 1), .format = format};
  return in_parallel((a->outputs + work.each - 1) / work.each, skinny_piece, &work);
}

#endif
