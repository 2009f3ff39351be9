/* The tail's mask is one lane too wide: one number too many is written, with nothing wrong in the result. */
#include <lcm/ops.h>
#include <math.h>

int32_t lcm_abi(void) { return LCM_ABI; }

int32_t lcm_silu(const lcm_silu_args *a) {
  const int64_t written = a->count + (a->count % 8 != 0);
  for (int64_t i = 0; i < written; i++) a->out[i] = i < a->count ? a->x[i] / (1 + expf(-a->x[i])) : 0;
  return LCM_OK;
}
