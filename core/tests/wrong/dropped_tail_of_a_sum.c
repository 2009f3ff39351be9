/* What does not fill a vector of 16 is not added up. */
#include <lcm/ops.h>

int32_t lcm_abi(void) { return LCM_ABI; }

int32_t lcm_sum_squares(const lcm_sum_squares_args *a) {
  float sum = 0;
  for (int64_t i = 0; i < a->count / 16 * 16; i++) sum += a->x[i] * a->x[i];
  *a->out = sum;
  return LCM_OK;
}
