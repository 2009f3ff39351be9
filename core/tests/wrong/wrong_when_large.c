/* Sums are cut into blocks of 4096 products, and what is left after the first is forgotten. */
#include <lcm/ops.h>

int32_t lcm_abi(void) { return LCM_ABI; }

enum { BLOCK = 4096 };

int32_t lcm_linear(const lcm_linear_args *a) {
  const float *weight = a->weight;
  const int64_t inner = a->inputs < BLOCK ? a->inputs : BLOCK;
  for (int64_t r = 0; r < a->rows; r++)
    for (int64_t o = 0; o < a->outputs; o++) {
      float sum = 0;
      for (int64_t i = 0; i < inner; i++) sum += a->x[r * a->inputs + i] * weight[o * a->inputs + i];
      a->out[r * a->outputs + o] = sum + (a->bias ? a->bias[o] : 0);
    }
  return LCM_OK;
}
