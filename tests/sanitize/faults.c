/* Kernels with one fault each: what a check that stays silent would have to find. FAULT is the one to build. */
#include <lcm/ops.h>

#define LANES 4
#include <lcm/simd/types.h>

#define EXPORT __attribute__((visibility("default")))

#include <lcm/simd/threads.h>

EXPORT int32_t lcm_abi(void) { return LCM_ABI; }

static int32_t none(const lcm_silu_args *a) {
  for (int64_t i = 0; i < a->count; i++) a->out[i] = a->x[i];
  return LCM_OK;
}

static int32_t reads_behind_the_end(const lcm_silu_args *a) {
  volatile float x = a->x[a->count];
  return (void)x, none(a);
}

static int32_t writes_before_the_start(const lcm_silu_args *a) {
  a->out[-1] = 0;
  return none(a);
}

static int32_t reads_what_is_freed(const lcm_silu_args *a) {
  float *volatile memory = malloc(64);
  free(memory);
  volatile float x = memory[0];
  return (void)x, none(a);
}

static int32_t overflows(const lcm_silu_args *a) {
  volatile int32_t many = INT32_MAX;
  many = many + (int32_t)(a->count > 0);
  return none(a);
}

static int32_t shifts_too_far(const lcm_silu_args *a) {
  volatile int32_t by = 32, one = 1;
  one = one << by;
  return none(a);
}

static int64_t done;

static void count_without_a_lock(const void *work, int64_t piece, int worker) {
  (void)work, (void)piece, (void)worker;
  done++;
}

static int32_t races(const lcm_silu_args *a) {
  const int32_t code = in_parallel(1000, count_without_a_lock, NULL);
  return code ? code : none(a);
}

EXPORT int32_t lcm_silu(const lcm_silu_args *a) { return FAULT(a); }
