/* Losses, and the sum of squares that gradients are clipped by.

   lcm_cross_entropy        out = mean over rows of log(sum(exp(logits))) - logits[target]
   lcm_cross_entropy_grad   logits_grad = (exp(logits) / sum(exp(logits)) - (1 at target)) out_grad / rows
   lcm_sum_squares          out = sum(x^2)
   lcm_sum_squares_grad     x_grad = 2 x out_grad

   A row passes from memory once, in blocks: the first cache holds one while its largest number is found and
   its powers are summed. The gradient passes twice, and the second time comes from the second cache. */
#ifndef LCM_SIMD_LOSS_H
#define LCM_SIMD_LOSS_H

#include <float.h>
#include <lcm/simd/functions.h>
#include <lcm/simd/rows.h>

enum { POWERS_BLOCK = 32 * LANES };

typedef struct {
  const float *x;
  float largest;
} powers_t;

INLINE vf power_term(const void *row, int64_t i, int64_t n) {
  const powers_t *p = row;
  return vf_exp_negative(vf_load_some(p->x + i, n) - p->largest);
}

/* The sum of exp(x - largest), and the largest number, but -FLT_MAX if all are -infinity. */
static float sum_of_powers(const float *x, int64_t width, float *largest) {
  float sum = 0;
  *largest = -FLT_MAX;
  for (int64_t i = 0; i < width; i += POWERS_BLOCK) {
    const int64_t n = width - i < POWERS_BLOCK ? width - i : POWERS_BLOCK;
    const float top = largest_of(x + i, n);
    if (top > *largest) { /* rare: the powers of a block need not wait for its largest number */
      sum *= vf_exp_negative(vf_all(*largest - top))[0];
      *largest = top;
    }
    const powers_t powers = {x + i, *largest};
    sum += row_sum(&powers, n, power_term);
  }
  return sum;
}

typedef struct {
  const lcm_cross_entropy_args *args;
  double *losses; /* [pieces] */
} cross_entropy_t;

static int64_t rows_kept(const int32_t *targets, int64_t rows, int64_t ignore_index) {
  int64_t kept = 0;
  for (int64_t r = 0; r < rows; r++) kept += targets[r] != ignore_index;
  return kept;
}

static void cross_entropy_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const cross_entropy_t *w = work;
  const lcm_cross_entropy_args *a = w->args;
  const span_t s = span(piece, a->rows, rows_each(a->classes));
  vf losses = {0};
  for (int64_t first = s.first; first < s.end; first += LANES) { /* a row is a lane of its log */
    vf sums = vf_all(1), rest = {0};
    for (int64_t r = first; r < s.end && r < first + LANES; r++) {
      if (a->targets[r] == a->ignore_index) continue;
      const float *x = a->logits + r * a->classes;
      float largest;
      sums[r - first] = sum_of_powers(x, a->classes, &largest);
      rest[r - first] = largest - x[a->targets[r]];
    }
    losses += vf_log(sums) + rest;
  }
  w->losses[piece] = vf_sum(losses);
}

EXPORT int32_t lcm_cross_entropy(const lcm_cross_entropy_args *a) {
  const int64_t pieces = spans(a->rows, rows_each(a->classes));
  const cross_entropy_t work = {a, scratch((size_t)pieces * sizeof(double))};
  if (!work.losses) return LCM_NO_MEMORY;
  const int32_t code = in_parallel(pieces, cross_entropy_piece, &work);
  if (code) return code;
  const int64_t kept = rows_kept(a->targets, a->rows, a->ignore_index);
  double loss = 0;
  for (int64_t i = 0; i < pieces; i++) loss += work.losses[i];
  *a->out = (float)(loss / (double)(kept ? kept : 1));
  return LCM_OK;
}

typedef struct {
  const lcm_cross_entropy_grad_args *args;
  float share; /* of a row in the loss's gradient */
} cross_entropy_grad_t;

static void cross_entropy_grad_row(const float *x, float *x_grad, int64_t width, int32_t target,
                                   float share) {
  float largest;
  const float scale = share / sum_of_powers(x, width, &largest);
  for (int64_t i = 0; i < width; i += LANES) {
    const int64_t n = lanes_left(i, width);
    vf_store_some(x_grad + i, vf_exp_negative(vf_load_some(x + i, n) - largest) * scale, n);
  }
  x_grad[target] -= share;
}

static void cross_entropy_grad_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const cross_entropy_grad_t *w = work;
  const lcm_cross_entropy_grad_args *a = w->args;
  const span_t s = span(piece, a->rows, rows_each(a->classes));
  for (int64_t r = s.first; r < s.end; r++) {
    const float *x = a->logits + r * a->classes;
    float *x_grad = a->logits_grad + r * a->classes;
    if (a->targets[r] == a->ignore_index) memset(x_grad, 0, (size_t)a->classes * sizeof *x_grad);
    else cross_entropy_grad_row(x, x_grad, a->classes, a->targets[r], w->share);
  }
}

EXPORT int32_t lcm_cross_entropy_grad(const lcm_cross_entropy_grad_args *a) {
  if (!a->logits_grad) return LCM_OK;
  const int64_t kept = rows_kept(a->targets, a->rows, a->ignore_index);
  const cross_entropy_grad_t work = {a, *a->out_grad / (float)(kept ? kept : 1)};
  return in_parallel(spans(a->rows, rows_each(a->classes)), cross_entropy_grad_piece, &work);
}

typedef struct {
  const lcm_sum_squares_args *args;
  double *sums; /* [pieces] */
} sum_squares_t;

INLINE vf square_term(const void *row, int64_t i, int64_t n) {
  const vf x = vf_load_some((const float *)row + i, n);
  return x * x;
}

static void sum_squares_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const sum_squares_t *w = work;
  const span_t s = span(piece, w->args->count, PIECE);
  w->sums[piece] = row_sum(w->args->x + s.first, s.end - s.first, square_term);
}

EXPORT int32_t lcm_sum_squares(const lcm_sum_squares_args *a) {
  const int64_t pieces = spans(a->count, PIECE);
  const sum_squares_t work = {a, scratch((size_t)pieces * sizeof(double))};
  if (!work.sums) return LCM_NO_MEMORY;
  const int32_t code = in_parallel(pieces, sum_squares_piece, &work);
  if (code) return code;
  double sum = 0;
  for (int64_t i = 0; i < pieces; i++) sum += work.sums[i];
  *a->out = (float)sum;
  return LCM_OK;
}

INLINE void sum_squares_grad_vector(const void *args, int64_t i, int64_t n) {
  const lcm_sum_squares_grad_args *a = args;
  vf_store_some(a->x_grad + i, vf_load_some(a->x + i, n) * (2 * *a->out_grad), n);
}

static void sum_squares_grad_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const lcm_sum_squares_grad_args a = *(const lcm_sum_squares_grad_args *)work;
  each_vector(piece, a.count, &a, sum_squares_grad_vector);
}

EXPORT int32_t lcm_sum_squares_grad(const lcm_sum_squares_grad_args *a) {
  return a->x_grad ? in_parallel(spans(a->count, PIECE), sum_squares_grad_piece, a) : LCM_OK;
}

#endif
