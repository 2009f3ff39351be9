/* Products of matrices: a layer's weights with its inputs, and batches of pairs.

   lcm_linear        out = x weight^T + bias
   lcm_linear_grad   x_grad = out_grad weight;  weight_grad = out_grad^T x;  bias_grad = sum of out_grad's rows
   lcm_matmul        out = x y
   lcm_matmul_grad   x_grad = out_grad y^T;  y_grad = x^T out_grad */
#ifndef LCM_SIMD_LINEAR_H
#define LCM_SIMD_LINEAR_H

#include <lcm/simd/gemm.h>
#include <lcm/simd/skinny.h>

enum { FLIPPED_ROWS = 512 };

/* [lines, depth] and [depth, lines], in memory. */
static lines_t along(const void *at, int64_t depth) { return (lines_t){at, F32, depth, 1}; }

static lines_t across(const void *at, int64_t lines) { return (lines_t){at, F32, 1, lines}; }

/* The smaller of the two is packed beforehand: x, flipped, if its rows are much fewer, or if the weight has to be
   decoded. */
static int32_t linear(const lcm_linear_args *a, format_t format) {
  if (a->rows <= FEW_ROWS) return skinny(a, format);
  lines_t x = along(a->x, a->inputs), weight = along(a->weight, a->inputs);
  weight.format = format;
  product_t p = {.rows = a->rows, .columns = a->outputs, .depth = a->inputs, .x = x, .y = weight,
                 .out = a->out, .out_row = a->outputs, .bias = a->bias};
  if (is_in_blocks(format) || (2 * a->rows <= a->outputs && a->rows <= FLIPPED_ROWS))
    p = (product_t){.rows = a->outputs, .columns = a->rows, .depth = a->inputs, .x = weight, .y = x,
                    .out = a->out, .out_row = a->outputs, .bias = a->bias, .flipped = true};
  return gemm(&p);
}

EXPORT int32_t lcm_linear(const lcm_linear_args *a) { return linear(a, F32); }

EXPORT int32_t lcm_linear__bf16(const lcm_linear_args *a) { return linear(a, BF16); }

EXPORT int32_t lcm_linear__f16(const lcm_linear_args *a) { return linear(a, F16); }

EXPORT int32_t lcm_linear__q8_0(const lcm_linear_args *a) { return linear(a, Q8_0); }

EXPORT int32_t lcm_linear__q4_0(const lcm_linear_args *a) { return linear(a, Q4_0); }

EXPORT int32_t lcm_linear__q4_1(const lcm_linear_args *a) { return linear(a, Q4_1); }

EXPORT int32_t lcm_linear__q5_0(const lcm_linear_args *a) { return linear(a, Q5_0); }

EXPORT int32_t lcm_linear__q5_1(const lcm_linear_args *a) { return linear(a, Q5_1); }

EXPORT int32_t lcm_linear__iq4_nl(const lcm_linear_args *a) { return linear(a, IQ4_NL); }

EXPORT int32_t lcm_linear__mxfp4(const lcm_linear_args *a) { return linear(a, MXFP4); }

EXPORT int32_t lcm_linear__q2_k(const lcm_linear_args *a) { return linear(a, Q2_K); }

EXPORT int32_t lcm_linear__q3_k(const lcm_linear_args *a) { return linear(a, Q3_K); }

EXPORT int32_t lcm_linear__q4_k(const lcm_linear_args *a) { return linear(a, Q4_K); }

EXPORT int32_t lcm_linear__q5_k(const lcm_linear_args *a) { return linear(a, Q5_K); }

EXPORT int32_t lcm_linear__q6_k(const lcm_linear_args *a) { return linear(a, Q6_K); }

EXPORT int32_t lcm_linear__iq4_xs(const lcm_linear_args *a) { return linear(a, IQ4_XS); }

/* Columns of out_grad that one piece sums, each in the order of the rows. */
enum { SUM_COLUMNS = 4 * LANES };

static void bias_grad_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const lcm_linear_grad_args *a = work;
  const int64_t j = piece * SUM_COLUMNS, columns = least_of(SUM_COLUMNS, a->outputs - j);
  for (int64_t v = 0; v < columns; v += LANES) {
    const int64_t n = least_of(LANES, columns - v);
    vf sum = {0};
    for (int64_t i = 0; i < a->rows; i++) sum += vf_load_first(a->out_grad + i * a->outputs + j + v, n);
    vf_store_first(a->bias_grad + j + v, sum, n);
  }
}

EXPORT int32_t lcm_linear_grad(const lcm_linear_grad_args *a) {
  int32_t code = LCM_OK;
  if (a->x_grad) {
    const product_t p = {.rows = a->rows, .columns = a->inputs, .depth = a->outputs,
                         .x = along(a->out_grad, a->outputs), .y = across(a->weight, a->inputs),
                         .out = a->x_grad, .out_row = a->inputs};
    code = gemm(&p);
  }
  if (!code && a->weight_grad) {
    const product_t p = {.rows = a->outputs, .columns = a->inputs, .depth = a->rows,
                         .x = across(a->out_grad, a->outputs), .y = across(a->x, a->inputs),
                         .out = a->weight_grad, .out_row = a->inputs};
    code = gemm(&p);
  }
  if (!code && a->bias_grad) code = in_parallel(pieces_of(a->outputs, SUM_COLUMNS), bias_grad_piece, a);
  return code;
}

EXPORT int32_t lcm_matmul(const lcm_matmul_args *a) {
  const product_t p = {.rows = a->rows, .columns = a->columns, .depth = a->inner,
                       .x = along(a->x, a->inner), .y = across(a->y, a->columns),
                       .out = a->out, .out_row = a->columns};
  return gemm_batch(&p, &(batch_t){a->batch, a->rows * a->inner, a->inner * a->columns, a->rows * a->columns});
}

EXPORT int32_t lcm_matmul_grad(const lcm_matmul_grad_args *a) {
  const int64_t x = a->rows * a->inner, y = a->inner * a->columns, out = a->rows * a->columns;
  int32_t code = LCM_OK;
  if (a->x_grad) {
    const product_t p = {.rows = a->rows, .columns = a->inner, .depth = a->columns,
                         .x = along(a->out_grad, a->columns), .y = along(a->y, a->columns),
                         .out = a->x_grad, .out_row = a->inner};
    code = gemm_batch(&p, &(batch_t){a->batch, out, y, x});
  }
  if (!code && a->y_grad) {
    const product_t p = {.rows = a->inner, .columns = a->columns, .depth = a->rows,
                         .x = across(a->x, a->inner), .y = across(a->out_grad, a->columns),
                         .out = a->y_grad, .out_row = a->columns};
    code = gemm_batch(&p, &(batch_t){a->batch, x, out, y});
  }
  return code;
}

#endif
