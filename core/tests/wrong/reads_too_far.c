/* Vectors of 4 are loaded whole; what lies behind the end is not used, but read. */
#include <lcm/ops.h>

int32_t lcm_abi(void) { return LCM_ABI; }

int32_t lcm_sum_squares(const lcm_sum_squares_args *a) {
  float sum = 0;
  for (int64_t i = 0; i < (a->count + 3) / 4 * 4; i++) {
    const float x = *(const volatile float *)(a->x + i);
    if (i < a->count) sum += x * x;
  }
  *a->out = sum;
  return LCM_OK;
}
