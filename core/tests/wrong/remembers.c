/* Every call adds up from the other end. */
#include <lcm/ops.h>

int32_t lcm_abi(void) { return LCM_ABI; }

int32_t lcm_sum_squares(const lcm_sum_squares_args *a) {
  static int calls;
  const int turned = calls++ % 2;
  float sum = 0;
  for (int64_t i = 0; i < a->count; i++) {
    const float x = a->x[turned ? a->count - 1 - i : i];
    sum += x * x;
  }
  *a->out = sum;
  return LCM_OK;
}
