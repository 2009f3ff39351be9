/* Embedding: from token ids to vectors, and what comes back.

   lcm_embedding, __<format>, __<format>_x16   out[r, :] = weight[ids[r], :]
   lcm_embedding_grad   weight_grad[i, :] = sum of out_grad[r, :] over the rows with ids[r] = i */
#ifndef LCM_SIMD_EMBEDDING_H
#define LCM_SIMD_EMBEDDING_H

#include <lcm/simd/formats.h>
#include <lcm/simd/rows.h>
#include <lcm/simd/strips.h>

typedef struct {
  const lcm_embedding_args *args;
  format_t format;
  bool interleaved;
} embedding_t;

/* Row r of interleaved blocks: a lane of the strips that it has together with its neighbours. */
INLINE void decode_lane(float *to, const void *weight, const format_t format, int64_t r, int64_t width) {
  const int64_t blocks = width / numbers_of(format), size = ROWS * size_of(format);
  const int lane = (int)(r % LANES), row = (int)(r % ROWS) - lane, bias = has_sign(format) ? 0 : bias_of(format);
  const uint8_t *at = (const uint8_t *)weight + r / ROWS * blocks * size;
  for (int64_t b = 0; b < blocks; b++) {
    const blocks_t block = blocks_of(format, false, at + b * size, 0, row);
    for (int n = 0; n < numbers_of(format) / STRIP; n++, to += STRIP) {
      strip_t s;
      strip_of(&s, format, false, &block, n);
      for (int i = 0; i < STRIP; i++) {
        const int part = i * parts_of(format) / STRIP;
        const float minimum = has_minimum(format) ? s.minimum[part][lane] : 0;
        to[i] = (float)(s.w[i / 4][4 * lane + i % 4] - bias) * s.scale[part][lane] - minimum;
      }
    }
  }
}

static void decode_any_lane(float *to, const lcm_embedding_args *a, format_t format, int64_t r) {
#define USE(format) decode_lane(to, a->weight, format, r, a->width)
  WITH_FORMAT(format, USE)
#undef USE
}

static void embedding_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const embedding_t *w = work;
  const lcm_embedding_args *a = w->args;
  const span_t s = span(piece, a->rows, rows_each(a->width));
  for (int64_t r = s.first; r < s.end; r++) {
    float *to = a->out + r * a->width;
    if (w->interleaved) decode_any_lane(to, a, w->format, a->ids[r]);
    else decode(to, a->weight, w->format, a->ids[r] * a->width, a->width);
  }
}

static int32_t embed(const lcm_embedding_args *a, format_t format, bool interleaved) {
  const embedding_t work = {a, format, interleaved};
  return in_parallel(spans(a->rows, rows_each(a->width)), embedding_piece, &work);
}

EXPORT int32_t lcm_embedding(const lcm_embedding_args *a) { return embed(a, F32, false); }

EXPORT int32_t lcm_embedding__bf16(const lcm_embedding_args *a) { return embed(a, BF16, false); }

EXPORT int32_t lcm_embedding__f16(const lcm_embedding_args *a) { return embed(a, F16, false); }

EXPORT int32_t lcm_embedding__q8_0(const lcm_embedding_args *a) { return embed(a, Q8_0, false); }

EXPORT int32_t lcm_embedding__q4_0(const lcm_embedding_args *a) { return embed(a, Q4_0, false); }

EXPORT int32_t lcm_embedding__q4_1(const lcm_embedding_args *a) { return embed(a, Q4_1, false); }

EXPORT int32_t lcm_embedding__q5_0(const lcm_embedding_args *a) { return embed(a, Q5_0, false); }

EXPORT int32_t lcm_embedding__q5_1(const lcm_embedding_args *a) { return embed(a, Q5_1, false); }

EXPORT int32_t lcm_embedding__iq4_nl(const lcm_embedding_args *a) { return embed(a, IQ4_NL, false); }

EXPORT int32_t lcm_embedding__mxfp4(const lcm_embedding_args *a) { return embed(a, MXFP4, false); }

EXPORT int32_t lcm_embedding__q2_k(const lcm_embedding_args *a) { return embed(a, Q2_K, false); }

EXPORT int32_t lcm_embedding__q3_k(const lcm_embedding_args *a) { return embed(a, Q3_K, false); }

EXPORT int32_t lcm_embedding__q4_k(const lcm_embedding_args *a) { return embed(a, Q4_K, false); }

EXPORT int32_t lcm_embedding__q5_k(const lcm_embedding_args *a) { return embed(a, Q5_K, false); }

EXPORT int32_t lcm_embedding__q6_k(const lcm_embedding_args *a) { return embed(a, Q6_K, false); }

EXPORT int32_t lcm_embedding__iq4_xs(const lcm_embedding_args *a) { return embed(a, IQ4_XS, false); }

EXPORT int32_t lcm_embedding__q8_0_x16(const lcm_embedding_args *a) { return embed(a, Q8_0, true); }

EXPORT int32_t lcm_embedding__q4_0_x16(const lcm_embedding_args *a) { return embed(a, Q4_0, true); }

EXPORT int32_t lcm_embedding__q4_1_x16(const lcm_embedding_args *a) { return embed(a, Q4_1, true); }

EXPORT int32_t lcm_embedding__q5_0_x16(const lcm_embedding_args *a) { return embed(a, Q5_0, true); }

EXPORT int32_t lcm_embedding__q5_1_x16(const lcm_embedding_args *a) { return embed(a, Q5_1, true); }

EXPORT int32_t lcm_embedding__iq4_nl_x16(const lcm_embedding_args *a) { return embed(a, IQ4_NL, true); }

EXPORT int32_t lcm_embedding__mxfp4_x16(const lcm_embedding_args *a) { return embed(a, MXFP4, true); }

EXPORT int32_t lcm_embedding__q2_k_x16(const lcm_embedding_args *a) { return embed(a, Q2_K, true); }

EXPORT int32_t lcm_embedding__q3_k_x16(const lcm_embedding_args *a) { return embed(a, Q3_K, true); }

EXPORT int32_t lcm_embedding__q4_k_x16(const lcm_embedding_args *a) { return embed(a, Q4_K, true); }

EXPORT int32_t lcm_embedding__q5_k_x16(const lcm_embedding_args *a) { return embed(a, Q5_K, true); }

EXPORT int32_t lcm_embedding__q6_k_x16(const lcm_embedding_args *a) { return embed(a, Q6_K, true); }

EXPORT int32_t lcm_embedding__iq4_xs_x16(const lcm_embedding_args *a) { return embed(a, IQ4_XS, true); }

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
