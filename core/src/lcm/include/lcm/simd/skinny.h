/* x weight^T + bias for few rows of x, as in decoding: a weight is read once, from where it lies, and nothing
   is packed. Four rows of the weight are read side by side, which lie far apart, so that each is a long stream of
   memory; neighbours are 10 to 25 % slower. */
#ifndef LCM_SIMD_SKINNY_H
#define LCM_SIMD_SKINNY_H

#include <lcm/simd/elementwise.h>
#include <lcm/simd/panel.h>
#include <lcm/simd/threads.h>

enum {
  FEW_ROWS = 4,                /* more are faster packed */
  SKINNY_SIDE = 4,             /* of a tile: rows of x, and of the weight */
  SKINNY_PIECES = 2,           /* of the weight for each worker, but with at least */
  LEAST_NUMBERS = 48 * 1024,   /* so many numbers each: 10 to 20 µs */
  SKINNY_FETCH = 2048,         /* bytes ahead in each stream */
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

/* Rows of the weight that are met side by side: first, first + apart … */
typedef struct {
  int64_t first, apart;
} streams_t;

INLINE int64_t stream_row(streams_t s, int j) { return s.first + j * s.apart; }

/* sum[i, j] += x[r + i, k…] weight[row j, k…], for the n numbers from k on; if told to, what comes is fetched. */
INLINE void skinny_step(const skinny_t *a, const format_t format, const int rows, const int outputs, int64_t r,
                        streams_t o, int64_t k, int64_t n, const bool fetch, vf sum[SKINNY_SIDE][SKINNY_SIDE]) {
  vf x[SKINNY_SIDE];
  for (int i = 0; i < rows; i++) x[i] = vf_load_some(a->x + (r + i) * a->inputs + k, n);
  for (int j = 0; j < outputs; j++) {
    const int64_t at = stream_row(o, j) * a->inputs + k;
    const vf w = load_format(a->weight, format, at, n);
    if (fetch) __builtin_prefetch((const char *)number_at(a->weight, format, at) + SKINNY_FETCH);
    for (int i = 0; i < rows; i++) sum[i][j] = w * x[i] + sum[i][j];
  }
}

enum { LINE = 16 /* numbers; of f32 a line of the cache */ };

INLINE void skinny_numbers(const skinny_t *a, const format_t format, const int rows, const int outputs, int64_t r,
                           streams_t o, vf sum[SKINNY_SIDE][SKINNY_SIDE]) {
  int64_t k = 0;
  for (; k + LINE <= a->inputs; k += LINE)
#pragma GCC unroll 4
    for (int v = 0; v < LINE; v += LANES) skinny_step(a, format, rows, outputs, r, o, k + v, LANES, v == 0, sum);
  for (; k < a->inputs; k += LANES)
    skinny_step(a, format, rows, outputs, r, o, k, least_of(LANES, a->inputs - k), true, sum);
}

enum { DECODED = 256 /* numbers of a row of blocks that are decoded at a time */ };

/* The same for all k, of a weight in blocks. */
INLINE void skinny_blocks(const skinny_t *a, const int rows, const int outputs, int64_t r, streams_t o,
                          vf sum[SKINNY_SIDE][SKINNY_SIDE]) {
  for (int64_t k = 0; k < a->inputs; k += DECODED) {
    float part[SKINNY_SIDE][DECODED];
    const int64_t n = least_of(DECODED, a->inputs - k);
    for (int j = 0; j < outputs; j++) decode(part[j], a->weight, a->format, stream_row(o, j) * a->inputs + k, n);
    for (int64_t v = 0; v < n; v += LANES)
      for (int i = 0; i < rows; i++) {
        const vf x = vf_load(a->x + (r + i) * a->inputs + k + v);
        for (int j = 0; j < outputs; j++) sum[i][j] = vf_load(part[j] + v) * x + sum[i][j];
      }
  }
}

/* out[r + i, row j] for as many rows and outputs as the constants say. */
INLINE void skinny_tile(const skinny_t *a, const format_t format, const int rows, const int outputs, int64_t r,
                        streams_t o) {
  vf sum[SKINNY_SIDE][SKINNY_SIDE] = {0};
  if (is_in_blocks(format)) skinny_blocks(a, rows, outputs, r, o, sum);
  else skinny_numbers(a, format, rows, outputs, r, o, sum);
  for (int i = 0; i < rows; i++) {
    vf lanes[LANES] = {0};
    for (int j = 0; j < outputs; j++) lanes[j] = sum[i][j];
    const vf sums = vf_sums(lanes);
    for (int j = 0; j < outputs; j++)
      a->out[(r + i) * a->outputs + stream_row(o, j)] = sums[j] + (a->bias ? a->bias[stream_row(o, j)] : 0);
  }
}

/* All rows of some outputs. */
INLINE void skinny_outputs(const skinny_t *a, const format_t format, const int outputs, streams_t o) {
  int64_t r = 0;
  for (; r + 4 <= a->rows; r += 4) skinny_tile(a, format, 4, outputs, r, o);
  if (a->rows - r == 3) skinny_tile(a, format, 3, outputs, r, o);
  else if (a->rows - r == 2) skinny_tile(a, format, 2, outputs, r, o);
  else if (a->rows - r == 1) skinny_tile(a, format, 1, outputs, r, o);
}

INLINE void skinny_piece_of(const skinny_t *a, const format_t format, int64_t piece) {
  const int64_t begin = piece * a->each, end = least_of(begin + a->each, a->outputs);
  const int64_t apart = (end - begin) / SKINNY_SIDE;
  for (int64_t i = 0; i < apart; i++) skinny_outputs(a, format, SKINNY_SIDE, (streams_t){begin + i, apart});
  for (int64_t o = begin + SKINNY_SIDE * apart; o < end; o++) skinny_outputs(a, format, 1, (streams_t){o, 0});
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
  const int64_t least = LEAST_NUMBERS / (a->inputs + 1), share = pieces_of(a->outputs, SKINNY_PIECES * workers());
  const skinny_t work = {.x = a->x, .weight = a->weight, .bias = a->bias, .out = a->out, .rows = a->rows,
                         .inputs = a->inputs, .outputs = a->outputs,
                         .each = round_up(most_of(share, most_of(least, 1)), SKINNY_SIDE), .format = format};
  return in_parallel(pieces_of(a->outputs, work.each), skinny_piece, &work);
}

#endif
