/* What this machine can do at best, for reports to compare kernels with. Who calls takes the time.

   lcm_limit_fma_f32(rounds)      multiply-adds on vectors that stay in registers, by all threads
   lcm_limit_fma_f64(rounds)        -> how many operations that were: 2 for each number and multiply-add
   lcm_limit_read(x, count)       x[0] ^ x[1] ^ … ^ x[count - 1], read once by all threads in 4 streams each */
#ifndef LCM_SIMD_LIMITS_H
#define LCM_SIMD_LIMITS_H

#include <lcm/ops.h>
#include <lcm/simd/threads.h>
#include <lcm/simd/vector.h>

typedef double vd __attribute__((vector_size(4 * LANES))); /* LANES / 2 doubles */

enum {
  FMA_CHAINS = 12,      /* independent sums: more than a core's multiply-adds in flight, fewer than its registers */
  FMA_PIECES = 4,       /* for each thread: one that comes late does not hold up the others */
  READ_STREAMS = 4,     /* one stream alone reads 8-20 % slower */
  READ_PIECE = 4 << 20, /* numbers: 16 MiB */
};

typedef struct {
  int64_t rounds;
  float *end; /* [pieces, LANES]: what a piece came to, so that it must be computed */
} fma_work;

static void fma_f32_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const fma_work *w = work;
  const vf half = (vf){0} + 0.5f;
  vf sum[FMA_CHAINS];
  for (int c = 0; c < FMA_CHAINS; c++) sum[c] = (vf){0} + (float)(c + 2); /* not 1, where it would stay */
  for (int64_t i = 0; i < w->rounds; i++)
    for (int c = 0; c < FMA_CHAINS; c++) sum[c] = sum[c] * half + half; /* towards 1, never denormal */
  for (int c = 1; c < FMA_CHAINS; c++) sum[0] += sum[c];
  memcpy(w->end + piece * LANES, sum, sizeof *sum);
}

static void fma_f64_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const fma_work *w = work;
  const vd half = (vd){0} + 0.5;
  vd sum[FMA_CHAINS];
  for (int c = 0; c < FMA_CHAINS; c++) sum[c] = (vd){0} + (double)(c + 2);
  for (int64_t i = 0; i < w->rounds; i++)
    for (int c = 0; c < FMA_CHAINS; c++) sum[c] = sum[c] * half + half;
  for (int c = 1; c < FMA_CHAINS; c++) sum[0] += sum[c];
  memcpy(w->end + piece * LANES, sum, sizeof *sum);
}

static int64_t fma_operations(piece_fn *run, int64_t rounds, int lanes) {
  const int64_t pieces = FMA_PIECES * workers();
  const fma_work work = {rounds, scratch((size_t)pieces * LANES * sizeof(float))};
  if (!work.end || in_parallel(pieces, run, &work)) return 0;
  return 2 * rounds * FMA_CHAINS * lanes * pieces;
}

EXPORT int64_t lcm_limit_fma_f32(int64_t rounds) { return fma_operations(fma_f32_piece, rounds, LANES); }

EXPORT int64_t lcm_limit_fma_f64(int64_t rounds) { return fma_operations(fma_f64_piece, rounds, LANES / 2); }

typedef struct {
  const int32_t *x;
  int64_t count;
  int32_t *found; /* [pieces] */
} read_work;

static void read_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const read_work *w = work;
  const int32_t *x = w->x + piece * READ_PIECE;
  const int64_t left = w->count - piece * READ_PIECE, count = left < READ_PIECE ? left : READ_PIECE;
  const int64_t vectors = count / (READ_STREAMS * LANES), stream = vectors * LANES;
  vi sum[READ_STREAMS] = {0};
  for (int64_t i = 0; i < stream; i += LANES)
    for (int s = 0; s < READ_STREAMS; s++) sum[s] ^= (vi)vf_load((const float *)(x + s * stream + i));
  int32_t found = 0;
  for (int s = 0; s < READ_STREAMS; s++)
    for (int i = 0; i < LANES; i++) found ^= sum[s][i];
  for (int64_t i = READ_STREAMS * stream; i < count; i++) found ^= x[i];
  w->found[piece] = found;
}

EXPORT int32_t lcm_limit_read(const int32_t *x, int64_t count) {
  const int64_t pieces = (count + READ_PIECE - 1) / READ_PIECE;
  const read_work work = {x, count, scratch((size_t)pieces * sizeof(int32_t))};
  if (!work.found || in_parallel(pieces, read_piece, &work)) return 0;
  int32_t all = 0;
  for (int64_t i = 0; i < pieces; i++) all ^= work.found[i];
  return all;
}

#endif
