/* Nothing wrong: sizes that it cannot do are refused. */
#include <lcm/ops.h>
#include <math.h>

int32_t lcm_abi(void) { return LCM_ABI; }

const char *lcm_error(void) { return "count above 40"; }

int32_t lcm_silu(const lcm_silu_args *a) {
  if (a->count > 40) return LCM_UNSUPPORTED;
  for (int64_t i = 0; i < a->count; i++) a->out[i] = a->x[i] / (1 + expf(-a->x[i]));
  return LCM_OK;
}
