/* Embedding: from token ids to vectors, and what comes back.

   lcm_embedding, __bf16, __f16   out[r, :] = weight[ids[r], :]
   lcm_embedding_grad             weight_grad[i, :] = sum of out_grad[r, :] over the rows with ids[r] = i */
#ifndef LCM_SIMD_EMBEDDING_H
#define LCM_SIMD_EMBEDDING_H

#include <lcm/simd/rows.h>

typedef void row_fn(float *out, const void *weight, int64_t row, int64_t width);

typedef struct {
  const lcm_embedding_args *args;
  row_fn *copy;
} embedding_t;

static void row_of_f32(float *out, const void *weight, int64_t row, int64_t width) {
  memcpy(out, (const float *)weight + row * width, (size_t)width * sizeof *out);
}

typedef vf decode_fn(const uint16_t *p);

INLINE void row_of_16_bits(float *out, const uint16_t *x, int64_t width, decode_fn *decode) {
  int64_t i = 0;
  for (; i + LANES <= width; i += LANES) vf_store(out + i, decode(x + i));
  uint16_t rest[LANES] = {0};
  memcpy(rest, x + i, (size_t)(width - i) * sizeof *x);
  vf_store_first(out + i, decode(rest), width - i);
}

static void row_of_bf16(float *out, const void *weight, int64_t row, int64_t width) {
  row_of_16_bits(out, (const uint16_t *)weight + row * width, width, vf_from_bf16);
}

static void row_of_f16(float *out, const void *weight, int64_t row, int64_t width) {
  row_of_16_bits(out, (const uint16_t *)weight + row * width, width, vf_from_f16);
}

static void embedding_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const embedding_t *w = work;
  const lcm_embedding_args *a = w->args;
  const span_t s = span(piece, a->rows, rows_each(a->width));
  for (int64_t r = s.first; r < s.end; r++) w->copy(a->out + r * a->width, a->weight, a->ids[r], a->width);
}

static int32_t embed(const lcm_embedding_args *a, row_fn *copy) {
  const embedding_t work = {a, copy};
  return in_parallel(spans(a->rows, rows_each(a->width)), embedding_piece, &work);
}

EXPORT int32_t lcm_embedding(const lcm_embedding_args *a) { return embed(a, row_of_f32); }

EXPORT int32_t lcm_embedding__bf16(const lcm_embedding_args *a) { return embed(a, row_of_bf16); }

EXPORT int32_t lcm_embedding__f16(const lcm_embedding_args *a) { return embed(a, row_of_f16); }

static void zero_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const lcm_embedding_grad_args *a = work;
  const span_t s = span(piece, a->vocabulary * a->width, PIECE);
  memset(a->weight_grad + s.first, 0, (size_t)(s.end - s.first) * sizeof(float));
}

/* Columns of a piece: its part of every row is added by nobody else, in the order of the rows. */
static int64_t columns_each(const lcm_embedding_grad_args *a) {
  const int64_t most = a->rows * a->width <= PIECE ? a->width : spans(a->width, 16);
  return most < 64 ? 64 : spans(most, LANES) * LANES;
}

static void scatter_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const lcm_embedding_grad_args *a = work;
  const span_t s = span(piece, a->width, columns_each(a));
  for (int64_t r = 0; r < a->rows; r++) {
    const float *from = a->out_grad + r * a->width;
    float *to = a->weight_grad + a->ids[r] * a->width;
    for (int64_t i = s.first; i < s.end; i += LANES) {
      const int64_t n = lanes_left(i, s.end);
      vf_store_some(to + i, vf_load_some(to + i, n) + vf_load_some(from + i, n), n);
    }
  }
}

EXPORT int32_t lcm_embedding_grad(const lcm_embedding_grad_args *a) {
  if (!a->weight_grad) return LCM_OK;
  const int32_t code = in_parallel(spans(a->vocabulary * a->width, PIECE), zero_piece, a);
  return code ? code : in_parallel(spans(a->width, columns_each(a)), scatter_piece, a);
}

#endif
