/* The loops where kernels spend their time, under names that are exported. Compiled with a plugin's vec.h and flags. */
#include "vec.h"

#include <lcm/ops.h>

#define EXPORT __attribute__((visibility("default")))

#include <lcm/simd/vector.h>
#include <lcm/simd/functions.h>
#include <lcm/simd/own.h>
#include <lcm/simd/threads.h>
#include <lcm/simd/tile.h>
#include <lcm/simd/int8_tile.h>
#include <lcm/simd/attention_tile.h>
#include <lcm/simd/attention_row.h>
#include <lcm/simd/attention.h>
#include <lcm/simd/attention_grad.h>

/* Functions of the kit that stand alone there too. */
#define ALSO(name, function) EXPORT __typeof__(function) name __attribute__((alias(#function)))

ALSO(loop_tile, tile_wide);
ALSO(loop_tile_in_place, tile_wide_in_place);
ALSO(loop_attention_scores, score_block);
ALSO(loop_attention_mix, mix);
ALSO(loop_attention_spread, spread);
ALSO(loop_attention_row_mix, row_all_mixed);

/* … and those that are part of others, by format. */
EXPORT void loop_rows_q8_0(const rounded_t *x, const strip_t *s, int64_t r, vf *total) {
  int8_rows(x, Q8_0, TILE_INT8, s, r, total);
}

EXPORT void loop_rows_q4_k(const rounded_t *x, const strip_t *s, int64_t r, vf *total) {
  int8_rows(x, Q4_K, TILE_INT8, s, r, total);
}

EXPORT void loop_rows_q6_k(const rounded_t *x, const strip_t *s, int64_t r, vf *total) {
  int8_rows(x, Q6_K, TILE_INT8, s, r, total);
}

EXPORT void loop_row_q8_0(const rounded_t *x, const place_t *p, vf *total) {
  int8_row(x, Q8_0, false, STREAMS, p, total);
}

EXPORT void loop_row_q4_0(const rounded_t *x, const place_t *p, vf *total) {
  int8_row(x, Q4_0, false, STREAMS, p, total);
}

EXPORT void loop_row_q4_k(const rounded_t *x, const place_t *p, vf *total) { int8_row(x, Q4_K, false, 1, p, total); }
