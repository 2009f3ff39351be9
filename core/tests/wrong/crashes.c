/* Dies of one size. */
#include <lcm/ops.h>
#include <math.h>
#include <signal.h>

int32_t lcm_abi(void) { return LCM_ABI; }

int32_t lcm_silu(const lcm_silu_args *a) {
  if (a->count == 33) raise(SIGSEGV);
  for (int64_t i = 0; i < a->count; i++) a->out[i] = a->x[i] / (1 + expf(-a->x[i]));
  return LCM_OK;
}

int32_t lcm_swiglu(const lcm_swiglu_args *a) {
  for (int64_t i = 0; i < a->count; i++) a->out[i] = a->gate[i] / (1 + expf(-a->gate[i])) * a->up[i];
  return LCM_OK;
}
