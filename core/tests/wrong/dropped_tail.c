/* What does not fill a vector of 8 is not written. */
#include <lcm/ops.h>
#include <math.h>

int32_t lcm_abi(void) { return LCM_ABI; }

int32_t lcm_silu(const lcm_silu_args *a) {
  for (int64_t i = 0; i < a->count / 8 * 8; i++) a->out[i] = a->x[i] / (1 + expf(-a->x[i]));
  return LCM_OK;
}
