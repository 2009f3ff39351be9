/* Ops on rows: each row passes through the first cache, and is read there as often as its formula asks.

   lcm_rms_norm          out = c s weight,         with c = x, s = 1 / sqrt(mean(c^2) + eps)
   lcm_layer_norm        out = c s weight + bias,  with c = x - mean(x), the same s
   lcm_rms_norm_grad     x_grad = s (h - c s^2 mean(h c)), with h = out_grad weight
   lcm_layer_norm_grad   x_grad = s (h - mean(h) - c s^2 mean(h c));  weight_grad = sum of out_grad c s
   lcm_softmax           out = exp(x - max(x)) / sum(exp(x - max(x)))
   lcm_softmax_grad      x_grad = out (out_grad - sum(out_grad out)) */
#ifndef LCM_SIMD_NORM_H
#define LCM_SIMD_NORM_H

#include <lcm/simd/functions.h>
#include <lcm/simd/rows.h>

/* Rows of x and what is made of them, for both norms. */
typedef struct {
  const float *x, *weight, *bias, *out_grad;
  float *out, *x_grad, *weight_grad, *bias_grad;
  float *sums; /* [pieces, 2, width]: of the weight's and the bias's gradients */
  int64_t rows, width, each;
  float eps;
  bool centre; /* layer_norm; else the mean is not taken away, and there is no bias */
} norm_t;

typedef struct {
  const float *x;
  float mean;
} centred_t;

INLINE vf centred_square(const void *row, int64_t i, int64_t n) {
  const centred_t *r = row;
  const vf c = vf_load_some(r->x + i, n) - r->mean;
  return c * c;
}

static void norm_row(const norm_t *a, const float *x, float *out) {
  const int64_t width = a->width;
  const float *const weight = a->weight, *const bias = a->bias;
  const centred_t row = {x, a->centre ? mean_of(x, width) : 0};
  const float scale = 1 / sqrtf(row_sum(&row, width, centred_square) / (float)width + a->eps);
  for (int64_t i = 0; i < width; i += LANES) {
    const int64_t n = lanes_left(i, width);
    const vf y = (vf_load_some(x + i, n) - row.mean) * scale * vf_load_some(weight + i, n);
    vf_store_some(out + i, bias ? y + vf_load_some(bias + i, n) : y, n);
  }
}

static void norm_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const norm_t *a = work;
  const span_t s = span(piece, a->rows, a->each);
  for (int64_t r = s.first; r < s.end; r++) norm_row(a, a->x + r * a->width, a->out + r * a->width);
}

EXPORT int32_t lcm_rms_norm(const lcm_rms_norm_args *a) {
  const norm_t work = {.x = a->x, .weight = a->weight, .out = a->out, .rows = a->rows, .width = a->width,
                       .each = rows_each(a->width), .eps = a->eps};
  return in_parallel(spans(work.rows, work.each), norm_piece, &work);
}

EXPORT int32_t lcm_layer_norm(const lcm_layer_norm_args *a) {
  const norm_t work = {.x = a->x, .weight = a->weight, .bias = a->bias, .out = a->out, .rows = a->rows,
                       .width = a->width, .each = rows_each(a->width), .eps = a->eps, .centre = true};
  return in_parallel(spans(work.rows, work.each), norm_piece, &work);
}

/* x_grad's row, and sums[0] += out_grad c s;  sums[1] += out_grad. Between the loops x_grad holds h: computed
   twice, it might be rounded once only, and h - mean(h) be no zero where the width is 1. */
static void norm_grad_row(const norm_t *a, int64_t r, float *sums) {
  const int64_t width = a->width;
  const float *x = a->x + r * width, *g = a->out_grad + r * width;
  float *const x_grad = a->x_grad ? a->x_grad + r * width : NULL;
  float *const weight_sum = a->weight_grad ? sums : NULL;
  float *const bias_sum = a->bias_grad ? sums + width : NULL;
  const float *const weight = a->weight, mean = a->centre ? mean_of(x, width) : 0;
  vf c_c = {0}, h_sum = {0}, h_c = {0};
  for (int64_t i = 0; i < width; i += LANES) {
    const int64_t n = lanes_left(i, width);
    const vf c = vf_first(vf_load_some(x + i, n) - mean, n, 0);
    c_c += c * c;
    if (!x_grad) continue;
    const vf h = vf_load_some(g + i, n) * vf_load_some(weight + i, n);
    vf_store_some(x_grad + i, h, n);
    h_c += h * c;
    h_sum += h;
  }
  const float scale = 1 / sqrtf(vf_sum(c_c) / (float)width + a->eps);
  const float mean_h = a->centre ? vf_sum(h_sum) / (float)width : 0;
  const float slope = scale * scale * (vf_sum(h_c) / (float)width);
  for (int64_t i = 0; i < width; i += LANES) {
    const int64_t n = lanes_left(i, width);
    const vf c = vf_load_some(x + i, n) - mean, grad = vf_load_some(g + i, n);
    if (x_grad) vf_store_some(x_grad + i, (vf_load_some(x_grad + i, n) - mean_h - c * slope) * scale, n);
    if (weight_sum) vf_store_some(weight_sum + i, vf_load_some(weight_sum + i, n) + grad * (c * scale), n);
    if (bias_sum) vf_store_some(bias_sum + i, vf_load_some(bias_sum + i, n) + grad, n);
  }
}

static void norm_grad_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const norm_t *a = work;
  const span_t s = span(piece, a->rows, a->each);
  float *sums = a->sums + 2 * piece * a->width;
  memset(sums, 0, 2 * (size_t)a->width * sizeof *sums);
  for (int64_t r = s.first; r < s.end; r++) norm_grad_row(a, r, sums);
}

/* out[i] = the sum of all pieces' sums[i] */
static void add_pieces(float *out, const float *sums, int64_t pieces, int64_t width) {
  for (int64_t i = 0; i < width; i += LANES) {
    const int64_t n = lanes_left(i, width);
    vf sum = {0};
    for (int64_t p = 0; p < pieces; p++) sum += vf_load_some(sums + 2 * p * width + i, n);
    vf_store_some(out + i, sum, n);
  }
}

static int32_t norm_grad(norm_t a) {
  a.each = rows_each_summed(a.rows, a.width);
  const int64_t pieces = spans(a.rows, a.each);
  a.sums = scratch((size_t)(2 * pieces * a.width) * sizeof *a.sums);
  if (!a.sums) return LCM_NO_MEMORY;
  const int32_t code = in_parallel(pieces, norm_grad_piece, &a);
  if (code) return code;
  if (a.weight_grad) add_pieces(a.weight_grad, a.sums, pieces, a.width);
  if (a.bias_grad) add_pieces(a.bias_grad, a.sums + a.width, pieces, a.width);
  return LCM_OK;
}

EXPORT int32_t lcm_rms_norm_grad(const lcm_rms_norm_grad_args *a) {
  return norm_grad((norm_t){.x = a->x, .weight = a->weight, .out_grad = a->out_grad, .x_grad = a->x_grad,
                            .weight_grad = a->weight_grad, .rows = a->rows, .width = a->width,
                            .eps = a->eps});
}

EXPORT int32_t lcm_layer_norm_grad(const lcm_layer_norm_grad_args *a) {
  return norm_grad((norm_t){.x = a->x, .weight = a->weight, .out_grad = a->out_grad, .x_grad = a->x_grad,
                            .weight_grad = a->weight_grad, .bias_grad = a->bias_grad, .rows = a->rows,
                            .width = a->width, .eps = a->eps, .centre = true});
}

typedef struct {
  const float *x;
  float *out, largest;
} softmax_t;

/* exp(x - largest), which out keeps. */
INLINE vf kept_power(const void *row, int64_t i, int64_t n) {
  const softmax_t *r = row;
  const vf power = vf_exp_negative(vf_load_some(r->x + i, n) - r->largest);
  vf_store_some(r->out + i, power, n);
  return power;
}

static void softmax_row(const float *x, float *out, int64_t width) {
  const softmax_t row = {x, out, largest_of(x, width)};
  const float scale = 1 / row_sum(&row, width, kept_power);
  for (int64_t i = 0; i < width; i += LANES) {
    const int64_t n = lanes_left(i, width);
    vf_store_some(out + i, vf_load_some(out + i, n) * scale, n);
  }
}

static void softmax_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const lcm_softmax_args *a = work;
  const span_t s = span(piece, a->rows, rows_each(a->width));
  for (int64_t r = s.first; r < s.end; r++) softmax_row(a->x + r * a->width, a->out + r * a->width, a->width);
}

EXPORT int32_t lcm_softmax(const lcm_softmax_args *a) {
  return in_parallel(spans(a->rows, rows_each(a->width)), softmax_piece, a);
}

typedef struct {
  const float *y, *g;
} shares_t;

INLINE vf share_term(const void *row, int64_t i, int64_t n) {
  const shares_t *r = row;
  return vf_load_some(r->g + i, n) * vf_load_some(r->y + i, n);
}

static void softmax_grad_row(const float *y, const float *g, float *x_grad, int64_t width) {
  const shares_t row = {y, g};
  const float share = row_sum(&row, width, share_term);
  for (int64_t i = 0; i < width; i += LANES) {
    const int64_t n = lanes_left(i, width);
    vf_store_some(x_grad + i, vf_load_some(y + i, n) * (vf_load_some(g + i, n) - share), n);
  }
}

static void softmax_grad_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const lcm_softmax_grad_args *a = work;
  const span_t s = span(piece, a->rows, rows_each(a->width));
  for (int64_t r = s.first; r < s.end; r++) {
    const int64_t at = r * a->width;
    softmax_grad_row(a->out + at, a->out_grad + at, a->x_grad + at, a->width);
  }
}

EXPORT int32_t lcm_softmax_grad(const lcm_softmax_grad_args *a) {
  if (!a->x_grad) return LCM_OK;
  return in_parallel(spans(a->rows, rows_each(a->width)), softmax_grad_piece, a);
}

#endif
