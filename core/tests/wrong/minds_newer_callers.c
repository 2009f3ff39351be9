/* Takes arguments of one size only, where they may be longer. */
#include <lcm/ops.h>
#include <math.h>

int32_t lcm_abi(void) { return LCM_ABI; }

int32_t lcm_silu(const lcm_silu_args *a) {
  if (a->size != sizeof *a) return LCM_INTERNAL;
  for (int64_t i = 0; i < a->count; i++) a->out[i] = a->x[i] / (1 + expf(-a->x[i]));
  return LCM_OK;
}
