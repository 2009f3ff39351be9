/* Made for arguments that are longer by one member, which is read without a look at their size. */
#include <lcm/ops.h>
#include <math.h>

int32_t lcm_abi(void) { return LCM_ABI; }

typedef struct {
  lcm_silu_args old;
  float newer;
} newer_args;

int32_t lcm_silu(const lcm_silu_args *a) {
  const float newer = *(const volatile float *)&((const newer_args *)a)->newer;
  for (int64_t i = 0; i < a->count; i++) a->out[i] = a->x[i] / (1 + expf(-a->x[i]));
  return newer == 12345 ? LCM_INTERNAL : LCM_OK;
}
