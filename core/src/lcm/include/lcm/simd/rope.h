/* Rotary positions, and the cache of keys and values.

   lcm_rope          for each pair (a, b) of a head: (a cos - b sin, b cos + a sin), with row t's position
                     start + t; pairs are (x[i], x[i + half]), or (x[2 i], x[2 i + 1]) when interleaved
   lcm_rope_grad     x_grad: out_grad turned back;  cos_grad: sum of g_a a + g_b b, sin_grad: g_b a - g_a b
   lcm_cache_write   cache[b, start[b] + t] = x[b, t], as f32, f16 or q8_0 */
#ifndef LCM_SIMD_ROPE_H
#define LCM_SIMD_ROPE_H

#include <lcm/simd/encode.h>
#include <lcm/simd/rows.h>

/* What both directions need; back: by the negative angle. */
typedef struct {
  float *out;
  const float *x, *cos, *sin;
  const int32_t *start;
  int64_t batch, rows, heads, width, half;
  bool interleaved, back;
} rope_t;

/* Pairs of lanes as one number each, to move numbers between the two without a shuffle. */
typedef uint64_t vpairs __attribute__((vector_size(4 * LANES)));
typedef uint32_t vhalf __attribute__((vector_size(2 * LANES)));

INLINE vf swap_pairs(vf x) { return (vf)((vpairs)x << 32 | (vpairs)x >> 32); }

/* x0 x0 x1 x1 …, of n <= LANES / 2 numbers; the others are zero, and are not touched in memory. */
INLINE vf twice(const float *p, int64_t n) {
  vhalf x = {0};
  if (n == LANES / 2) memcpy(&x, p, sizeof x);
  else memcpy(&x, p, (size_t)n * sizeof *p);
  const vpairs wide = __builtin_convertvector(x, vpairs);
  return (vf)(wide << 32 | wide);
}

static void turn_pairs(const rope_t *a, const float *x, float *out, const float *c, const float *s) {
  const vi minus = (vi)(a->back ? (vpairs){0} + (UINT64_C(1) << 63) : (vpairs){0} + (UINT64_C(1) << 31));
  for (int64_t i = 0; i < 2 * a->half; i += LANES) {
    const int64_t n = lanes_left(i, 2 * a->half);
    const vf y = vf_load_some(x + i, n), sines = (vf)((vi)twice(s + i / 2, n / 2) ^ minus);
    vf_store_some(out + i, y * twice(c + i / 2, n / 2) + swap_pairs(y) * sines, n);
  }
}

static void turn_halves(const rope_t *a, const float *x, float *out, const float *c, const float *s) {
  const float sign = a->back ? -1 : 1;
  for (int64_t i = 0; i < a->half; i += LANES) {
    const int64_t n = lanes_left(i, a->half);
    const vf p = vf_load_some(x + i, n), q = vf_load_some(x + a->half + i, n);
    const vf cosines = vf_load_some(c + i, n), sines = vf_load_some(s + i, n) * sign;
    vf_store_some(out + i, p * cosines - q * sines, n);
    vf_store_some(out + a->half + i, q * cosines + p * sines, n);
  }
}

/* Rows of a piece: of all batches together. */
static void rope_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const rope_t *a = work;
  const int64_t turned = 2 * a->half, rest = a->width - turned;
  const span_t rows = span(piece, a->batch * a->rows, rows_each(a->heads * a->width));
  for (int64_t r = rows.first; r < rows.end; r++) {
    const int64_t position = a->start[r / a->rows] + r % a->rows;
    const float *c = a->cos + position * a->half, *s = a->sin + position * a->half;
    for (int64_t head = 0; head < a->heads; head++) {
      const int64_t at = (r * a->heads + head) * a->width;
      if (a->interleaved) turn_pairs(a, a->x + at, a->out + at, c, s);
      else turn_halves(a, a->x + at, a->out + at, c, s);
      if (rest) memcpy(a->out + at + turned, a->x + at + turned, (size_t)rest * sizeof(float));
    }
  }
}

static int32_t turn(const rope_t *a) {
  return in_parallel(spans(a->batch * a->rows, rows_each(a->heads * a->width)), rope_piece, a);
}

EXPORT int32_t lcm_rope(const lcm_rope_args *a) {
  const rope_t work = {a->out, a->x, a->cos, a->sin, a->start, a->batch, a->rows,
                       a->heads, a->width, a->half, a->interleaved, false};
  return turn(&work);
}

/* The gradients of one pair's cos and sin, summed over the heads of a row. */
static void table_grad_row(const lcm_rope_grad_args *a, int64_t row, float *cos_grad, float *sin_grad) {
  const int64_t step = a->interleaved ? 2 : 1, other = a->interleaved ? 1 : a->half;
  for (int64_t head = 0; head < a->heads; head++) {
    const float *x = a->x + (row * a->heads + head) * a->width, *g = a->out_grad + (x - a->x);
    for (int64_t i = 0; i < a->half; i++) {
      const int64_t at = i * step;
      if (cos_grad) cos_grad[i] += g[at] * x[at] + g[at + other] * x[at + other];
      if (sin_grad) sin_grad[i] += g[at + other] * x[at] - g[at] * x[at + other];
    }
  }
}

/* Every batch has a row of a position, or none: whose piece the position is in adds them all. */
static int64_t positions_each(const lcm_rope_grad_args *a) {
  return rows_each(a->batch * a->heads * a->half);
}

static void table_grad_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const lcm_rope_grad_args *a = work;
  const span_t s = span(piece, a->positions, positions_each(a));
  for (int64_t position = s.first; position < s.end; position++) {
    float *cos_grad = a->cos_grad ? a->cos_grad + position * a->half : NULL;
    float *sin_grad = a->sin_grad ? a->sin_grad + position * a->half : NULL;
    if (cos_grad) memset(cos_grad, 0, (size_t)a->half * sizeof *cos_grad);
    if (sin_grad) memset(sin_grad, 0, (size_t)a->half * sizeof *sin_grad);
    for (int64_t b = 0; b < a->batch; b++) {
      const int64_t t = position - a->start[b];
      if (t >= 0 && t < a->rows) table_grad_row(a, b * a->rows + t, cos_grad, sin_grad);
    }
  }
}

EXPORT int32_t lcm_rope_grad(const lcm_rope_grad_args *a) {
  const rope_t work = {a->x_grad, a->out_grad, a->cos, a->sin, a->start, a->batch, a->rows,
                       a->heads, a->width, a->half, a->interleaved, true};
  const int32_t code = a->x_grad ? turn(&work) : LCM_OK;
  if (code || !(a->cos_grad || a->sin_grad)) return code;
  return in_parallel(spans(a->positions, positions_each(a)), table_grad_piece, a);
}

typedef struct {
  const lcm_cache_write_args *args;
  format_t format;
} cache_write_t;

/* A sequence's rows lie side by side in the cache too. */
static void cache_write_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const format_t format = ((const cache_write_t *)work)->format;
  const lcm_cache_write_args *a = ((const cache_write_t *)work)->args;
  const int64_t row = a->heads * a->width;
  const span_t s = span(piece, a->batch * a->rows, rows_each(row));
  for (int64_t r = s.first; r < s.end; r++) {
    const int64_t b = r / a->rows, place = b * a->capacity + a->start[b] + r % a->rows;
    char *to = (char *)a->cache + place * row / numbers_of(format) * size_of(format);
    encode(to, format, a->x + r * row, row);
  }
}

static int32_t cache_write(const lcm_cache_write_args *a, format_t format) {
  const int64_t pieces = spans(a->batch * a->rows, rows_each(a->heads * a->width));
  return in_parallel(pieces, cache_write_piece, &(cache_write_t){a, format});
}

EXPORT int32_t lcm_cache_write(const lcm_cache_write_args *a) { return cache_write(a, F32); }

EXPORT int32_t lcm_cache_write__f16(const lcm_cache_write_args *a) { return cache_write(a, F16); }

EXPORT int32_t lcm_cache_write__q8_0(const lcm_cache_write_args *a) { return cache_write(a, Q8_0); }

#endif
