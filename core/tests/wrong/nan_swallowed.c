/* A comparison that is false for NaN leads to 0. */
#include <lcm/ops.h>
#include <math.h>

int32_t lcm_abi(void) { return LCM_ABI; }

int32_t lcm_silu(const lcm_silu_args *a) {
  for (int64_t i = 0; i < a->count; i++) {
    const float x = a->x[i];
    a->out[i] = x > -100 ? x / (1 + expf(-x)) : x == -INFINITY ? NAN : 0;
  }
  return LCM_OK;
}
