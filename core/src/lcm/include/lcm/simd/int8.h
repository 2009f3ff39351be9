/* x8 weight^T + bias, where x8 is x rounded to whole numbers of 8 bits, with a scale for each 32 of them; so the
   product is one of whole numbers too, but for the scales. Weights are read interleaved: from where they lie, or
   16 rows at a time as they are needed.

   lcm_linear_int8__<format>, __<format>_x16 */
#ifndef LCM_SIMD_INT8_H
#define LCM_SIMD_INT8_H

#include <lcm/simd/interleaved.h>
#include <lcm/simd/threads.h>

enum { TILE_INT8 = LANES == 16 ? 8 : 4 /* rows of x that meet a strip in registers */ };

typedef struct {
  const lcm_linear_int8_args *args;
  format_t format;
  bool interleaved;
  int8_t *whole;  /* [rows, inputs]: x / scale */
  float *scale;   /* [rows, inputs / 32] */
  int32_t *sum;   /* [rows, inputs / 16]: of these whole numbers */
  uint8_t *own;   /* for each worker: 16 rows of the weight, interleaved */
  int64_t group;  /* bytes of 16 rows of the weight */
  int64_t each;   /* groups in a piece */
} int8_work_t;

/* The whole numbers nearest to 32 numbers over their scale, which is their largest over 127: 0 if that is too
   small to be one; not a number if one of them is not. */
static void round_strip(const float *x, int8_t *whole, float *scale, int32_t *sum) {
  vi largest = {0};
  for (int i = 0; i < STRIP; i += LANES) {
    const vi size = (vi)vf_load(x + i) & 0x7fffffff;
    largest = (vi)vf_pick(size > largest, (vf)size, (vf)largest);
  }
  int32_t bits = 0;
  for (int i = 0; i < LANES; i++) bits = largest[i] > bits ? largest[i] : bits;
  memcpy(scale, &bits, sizeof bits);
  *scale /= 127;
  const bool is_zero = *scale < 0x1p-126f;
  for (int half = 0; half < 2; half++) {
    vi total = {0};
    for (int i = half * STRIP / 2; i < (half + 1) * STRIP / 2; i += LANES) {
      const vf nearest = (vf_load(x + i) / (is_zero ? INFINITY : *scale) + 0x1.8p23f) - 0x1.8p23f;
      vi_to_8(whole + i, __builtin_convertvector(nearest, vi));
      total += vi_from_i8((const uint8_t *)whole + i);
    }
    sum[half] = 0;
    for (int i = 0; i < LANES; i++) sum[half] += total[i];
  }
}

enum { ROUNDED_EACH = 1 << 14 /* numbers of x in a piece, or one row */ };

static int64_t rounded_rows(const lcm_linear_int8_args *a) { return 1 + ROUNDED_EACH / (a->inputs + 1); }

static void round_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const int8_work_t *w = work;
  const lcm_linear_int8_args *a = w->args;
  const int64_t each = rounded_rows(a), end = least_of((piece + 1) * each, a->rows);
  for (int64_t s = piece * each * a->inputs / STRIP; s < end * a->inputs / STRIP; s++)
    round_strip(a->x + s * STRIP, w->whole + s * STRIP, w->scale + s, w->sum + 2 * s);
}

INLINE vb four_bytes(const int8_t *p) {
  int32_t bits;
  memcpy(&bits, p, sizeof bits);
  return (vb)vi_all(bits);
}

INLINE vi add_products(const format_t format, vi sum, const vb *w, const int8_t *x, const int count) {
#pragma GCC unroll 8
  for (int j = 0; j < count; j++)
    sum = (format == Q8_0 ? vi_dot : vi_dot_small)(sum, w[j], four_bytes(x + 4 * j));
  return sum;
}

/* The strip's share of one row: 32 numbers of x, which begin at number k. */
INLINE vf add_strip(const int8_work_t *w, const format_t format, const strip_t *s, vf total, int64_t k) {
  const int8_t *x = w->whole + k;
  const float scale = w->scale[k / STRIP];
  const int32_t *sum = w->sum + k / (STRIP / 2);
  if (format == Q6_K) {
    const vi first = add_products(format, vi_all(-bias_of(format) * sum[0]), s->w, x, 4);
    const vi second = add_products(format, vi_all(-bias_of(format) * sum[1]), s->w + 4, x + 16, 4);
    return total + (numbers(first) * s->scale[0] + numbers(second) * s->scale[1]) * scale;
  }
  const int32_t both = sum[0] + sum[1];
  const vi all = add_products(format, vi_all(-bias_of(format) * both), s->w, x, 8);
  total += numbers(all) * (s->scale[0] * scale);
  return has_minimum(format) ? total - s->minimum * (scale * (float)both) : total;
}

INLINE void fetch(const uint8_t *p, int64_t size) {
  for (int64_t i = 0; i < size; i += 64) __builtin_prefetch(p + i, 0, 2);
}

/* Where the weights of LANES outputs lie: from row `row` of an interleaved group on, or as they are stored. */
typedef struct {
  const uint8_t *at;
  int64_t line; /* bytes from a row to the next, as they are stored; 0: they are interleaved */
  int row;
} place_t;

/* Strip n of the blocks at `block`, for some rows of x, whose numbers begin at k, k + inputs … */
INLINE void int8_strip(const int8_work_t *w, const format_t format, const int rows, const bool stored,
                       const place_t *p, const uint8_t *block, const head_t *head, int n, int64_t k,
                       vf total[TILE_INT8]) {
  const strip_t s = stored ? strip_of_rows(format, block, p->line, n, head) : strip(format, block, n, p->row);
#pragma GCC unroll 8
  for (int i = 0; i < rows; i++) total[i] = add_strip(w, format, &s, total[i], k + i * w->args->inputs);
}

/* Rows r … of x and LANES outputs, o … */
INLINE void int8_tile(const int8_work_t *w, const format_t format, const int rows, const bool stored,
                      const place_t *p, int64_t r, int64_t o) {
  const lcm_linear_int8_args *a = w->args;
  const int64_t blocks = a->inputs / numbers_of(format), size = size_of(format) * (stored ? 1 : ROWS);
  const int strips = (int)(numbers_of(format) / STRIP);
  vf total[TILE_INT8] = {0};
  for (int64_t b = 0; b < blocks; b++) {
    const uint8_t *block = p->at + b * size;
    const int64_t k = r * a->inputs + b * numbers_of(format);
    head_t head;
    if (stored) {
      fetch(p->at + LANES * (p->line + b * size), LANES * size);
      head = head_of_rows(format, block, p->line);
    }
    if (rows == 1) {
#pragma GCC unroll 8
      for (int n = 0; n < strips; n++) int8_strip(w, format, rows, stored, p, block, &head, n, k + n * STRIP, total);
    } else
      for (int n = 0; n < strips; n++) int8_strip(w, format, rows, stored, p, block, &head, n, k + n * STRIP, total);
  }
  const int64_t count = least_of(LANES, a->outputs - o);
  const vf bias = a->bias ? vf_load_first(a->bias + o, count) : vf_all(0);
  for (int i = 0; i < rows; i++) vf_store_first(a->out + (r + i) * a->outputs + o, total[i] + bias, count);
}

/* All rows of x and the outputs of a group, o …; one that is read as it is stored is whole. */
INLINE void int8_group(const int8_work_t *w, const format_t format, const bool stored, const uint8_t *group,
                       int64_t o) {
  const lcm_linear_int8_args *a = w->args;
  const int64_t line = a->inputs / numbers_of(format) * size_of(format);
  for (int row = 0; row < ROWS && o + row < a->outputs; row += LANES) {
    const place_t p = stored ? (place_t){group + row * line, line, 0} : (place_t){group, 0, row};
    int64_t r = 0;
    if (!stored) {
      for (; r + TILE_INT8 <= a->rows; r += TILE_INT8) int8_tile(w, format, TILE_INT8, stored, &p, r, o + row);
      for (; r + 2 <= a->rows; r += 2) int8_tile(w, format, 2, stored, &p, r, o + row);
    }
    for (; r < a->rows; r++) int8_tile(w, format, 1, stored, &p, r, o + row);
  }
}

INLINE void int8_any(const int8_work_t *w, const bool stored, const uint8_t *group, int64_t o) {
  switch (w->format) {
    case Q8_0: int8_group(w, Q8_0, stored, group, o); break;
    case Q4_0: int8_group(w, Q4_0, stored, group, o); break;
    case Q4_1: int8_group(w, Q4_1, stored, group, o); break;
    case Q4_K: int8_group(w, Q4_K, stored, group, o); break;
    case Q5_K: int8_group(w, Q5_K, stored, group, o); break;
    case Q6_K: int8_group(w, Q6_K, stored, group, o); break;
    default: break;
  }
}

/* One row of x takes the weights as they are stored; for more it pays to interleave them first. */
static void int8_piece(const void *work, int64_t piece, int worker) {
  const int8_work_t *w = work;
  const lcm_linear_int8_args *a = w->args;
  const int64_t end = least_of((piece + 1) * w->each, pieces_of(a->outputs, ROWS));
  uint8_t *own = w->own + worker * w->group;
  for (int64_t g = piece * w->each; g < end; g++) {
    const uint8_t *group = (const uint8_t *)a->weight + g * w->group;
    const int64_t o = g * ROWS, outputs = least_of(ROWS, a->outputs - o);
    if (w->interleaved) {
      int8_any(w, false, group, o);
    } else if (a->rows == 1 && outputs == ROWS) {
      int8_any(w, true, group, o);
    } else {
      interleave_group(own, group, w->format, a->inputs / numbers_of(w->format), outputs);
      int8_any(w, false, own, o);
    }
  }
}

enum { INT8_PIECES = 16 /* of the weight */, LEAST_BYTES = 64 * 1024 };

static int32_t linear_int8(const lcm_linear_int8_args *a, format_t format, bool interleaved) {
  const int64_t numbers = a->rows * a->inputs, strips = numbers / STRIP;
  int8_work_t w = {.args = a, .format = format, .interleaved = interleaved,
                   .group = ROWS * a->inputs / numbers_of(format) * size_of(format)};
  const int64_t own = interleaved ? 0 : workers() * w.group;
  const int64_t of_strips = strips * (int64_t)(sizeof(float) + 2 * sizeof(int32_t));
  uint8_t *memory = scratch((size_t)(numbers + of_strips + own));
  if (!memory) return LCM_NO_MEMORY;
  w.scale = (float *)memory;
  w.sum = (int32_t *)(w.scale + strips);
  w.whole = (int8_t *)(w.sum + 2 * strips);
  w.own = (uint8_t *)w.whole + numbers;
  const int64_t groups = pieces_of(a->outputs, ROWS), bytes = w.group * most_of(1, a->rows / 2) + 1;
  w.each = most_of(pieces_of(LEAST_BYTES, bytes), pieces_of(groups, INT8_PIECES * workers()));
  const int32_t code = in_parallel(pieces_of(a->rows, rounded_rows(a)), round_piece, &w);
  return code ? code : in_parallel(pieces_of(groups, w.each), int8_piece, &w);
}

EXPORT int32_t lcm_linear_int8__q8_0(const lcm_linear_int8_args *a) { return linear_int8(a, Q8_0, false); }

EXPORT int32_t lcm_linear_int8__q8_0_x16(const lcm_linear_int8_args *a) { return linear_int8(a, Q8_0, true); }

EXPORT int32_t lcm_linear_int8__q4_0(const lcm_linear_int8_args *a) { return linear_int8(a, Q4_0, false); }

EXPORT int32_t lcm_linear_int8__q4_0_x16(const lcm_linear_int8_args *a) { return linear_int8(a, Q4_0, true); }

EXPORT int32_t lcm_linear_int8__q4_1(const lcm_linear_int8_args *a) { return linear_int8(a, Q4_1, false); }

EXPORT int32_t lcm_linear_int8__q4_1_x16(const lcm_linear_int8_args *a) { return linear_int8(a, Q4_1, true); }

EXPORT int32_t lcm_linear_int8__q4_k(const lcm_linear_int8_args *a) { return linear_int8(a, Q4_K, false); }

EXPORT int32_t lcm_linear_int8__q4_k_x16(const lcm_linear_int8_args *a) { return linear_int8(a, Q4_K, true); }

EXPORT int32_t lcm_linear_int8__q5_k(const lcm_linear_int8_args *a) { return linear_int8(a, Q5_K, false); }

EXPORT int32_t lcm_linear_int8__q5_k_x16(const lcm_linear_int8_args *a) { return linear_int8(a, Q5_K, true); }

EXPORT int32_t lcm_linear_int8__q6_k(const lcm_linear_int8_args *a) { return linear_int8(a, Q6_K, false); }

EXPORT int32_t lcm_linear_int8__q6_k_x16(const lcm_linear_int8_args *a) { return linear_int8(a, Q6_K, true); }

#endif
