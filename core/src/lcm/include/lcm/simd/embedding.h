/* Embedding: from token ids to vectors, and what comes back.

   lcm_embedding, __<format>   out[r, :] = weight[ids[r], :]
   lcm_embedding_grad          weight_grad[i, :] = sum of out_grad[r, :] over the rows with ids[r] = i */
#ifndef LCM_SIMD_EMBEDDING_H
#define LCM_SIMD_EMBEDDING_H

#include <lcm/simd/formats.h>
#include <lcm/simd/rows.h>

typedef struct {
  const lcm_embedding_args *args;
  format_t format;
} embedding_t;

static void embedding_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const embedding_t *w = work;
  const lcm_embedding_args *a = w->args;
  const span_t s = span(piece, a->rows, rows_each(a->width));
  for (int64_t r = s.first; r < s.end; r++)
    decode(a->out + r * a->width, a->weight, w->format, a->ids[r] * a->width, a->width);
}

static int32_t embed(const lcm_embedding_args *a, format_t format) {
  const embedding_t work = {a, format};
  return in_parallel(spans(a->rows, rows_each(a->width)), embedding_piece, &work);
}

EXPORT int32_t lcm_embedding(const lcm_embedding_args *a) { return embed(a, F32); }

EXPORT int32_t lcm_embedding__bf16(const lcm_embedding_args *a) { return embed(a, BF16); }

EXPORT int32_t lcm_embedding__f16(const lcm_embedding_args *a) { return embed(a, F16); }

EXPORT int32_t lcm_embedding__q8_0(const lcm_embedding_args *a) { return embed(a, Q8_0); }

EXPORT int32_t lcm_embedding__q4_0(const lcm_embedding_args *a) { return embed(a, Q4_0); }

EXPORT int32_t lcm_embedding__q4_1(const lcm_embedding_args *a) { return embed(a, Q4_1); }

EXPORT int32_t lcm_embedding__q5_0(const lcm_embedding_args *a) { return embed(a, Q5_0); }

EXPORT int32_t lcm_embedding__q5_1(const lcm_embedding_args *a) { return embed(a, Q5_1); }

EXPORT int32_t lcm_embedding__iq4_nl(const lcm_embedding_args *a) { return embed(a, IQ4_NL); }

EXPORT int32_t lcm_embedding__mxfp4(const lcm_embedding_args *a) { return embed(a, MXFP4); }

EXPORT int32_t lcm_embedding__q2_k(const lcm_embedding_args *a) { return embed(a, Q2_K); }

EXPORT int32_t lcm_embedding__q3_k(const lcm_embedding_args *a) { return embed(a, Q3_K); }

EXPORT int32_t lcm_embedding__q4_k(const lcm_embedding_args *a) { return embed(a, Q4_K); }

EXPORT int32_t lcm_embedding__q5_k(const lcm_embedding_args *a) { return embed(a, Q5_K); }

EXPORT int32_t lcm_embedding__q6_k(const lcm_embedding_args *a) { return embed(a, Q6_K); }

EXPORT int32_t lcm_embedding__iq4_xs(const lcm_embedding_args *a) { return embed(a, IQ4_XS); }

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
