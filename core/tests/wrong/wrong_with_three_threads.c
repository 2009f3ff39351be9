/* The rows are dealt out in equal parts, and there are some left. */
#include <lcm/ops.h>
#include <math.h>

int32_t lcm_abi(void) { return LCM_ABI; }

static int32_t threads = 1;

void lcm_set_threads(int32_t wanted) { threads = wanted; }

int32_t lcm_silu(const lcm_silu_args *a) {
  const int64_t part = threads < 3 ? a->count : a->count / threads;
  for (int64_t i = 0; i < (threads < 3 ? part : part * threads); i++) a->out[i] = a->x[i] / (1 + expf(-a->x[i]));
  return LCM_OK;
}
