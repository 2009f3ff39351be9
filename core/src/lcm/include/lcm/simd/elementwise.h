/* Arrays, number by number: cut into pieces for the threads, and these into vectors. A kernel says only what
   becomes of one vector.

   lcm_add   out = x + y */
#ifndef LCM_SIMD_ELEMENTWISE_H
#define LCM_SIMD_ELEMENTWISE_H

#include <lcm/simd/threads.h>
#include <lcm/simd/vector.h>

#define INLINE static inline __attribute__((always_inline))

enum { PIECE = 1 << 15 }; /* numbers of an array, 128 KiB: some 10 µs of work */

typedef struct {
  int64_t first, end;
} span_t;

/* Things, so many to a piece. */
static int64_t spans(int64_t things, int64_t each) { return (things + each - 1) / each; }

static span_t span(int64_t piece, int64_t things, int64_t each) {
  const int64_t first = piece * each;
  return (span_t){first, things - first < each ? things : first + each};
}

/* n numbers, 0 < n <= LANES; a constant LANES needs no mask. */
INLINE vf vf_load_some(const float *p, int64_t n) { return n == LANES ? vf_load(p) : vf_load_first(p, n); }

INLINE void vf_store_some(float *p, vf x, int64_t n) {
  if (n == LANES) vf_store(p, x);
  else vf_store_first(p, x, n);
}

/* What is done with the numbers i … i + n - 1 of arrays, n <= LANES. */
typedef void vector_fn(const void *args, int64_t i, int64_t n);

/* All vectors of a piece of `count` numbers. */
INLINE void each_vector(int64_t piece, int64_t count, const void *args, vector_fn *run) {
  const span_t s = span(piece, count, PIECE);
  int64_t i = s.first;
  for (; i + LANES <= s.end; i += LANES) run(args, i, LANES);
  if (i < s.end) run(args, i, s.end - i);
}

INLINE void add_vector(const void *args, int64_t i, int64_t n) {
  const lcm_add_args *a = args;
  vf_store_some(a->out + i, vf_load_some(a->x + i, n) + vf_load_some(a->y + i, n), n);
}

static void add_piece(const void *work, int64_t piece, int worker) {
  (void)worker;
  const lcm_add_args a = *(const lcm_add_args *)work;
  each_vector(piece, a.count, &a, add_vector);
}

EXPORT int32_t lcm_add(const lcm_add_args *a) { return in_parallel(spans(a->count, PIECE), add_piece, a); }

#endif
