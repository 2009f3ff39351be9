/* Results come in blocks of 8 rows and 4096 columns; what is left over of both is forgotten. */
#include <lcm/ops.h>

int32_t lcm_abi(void) { return LCM_ABI; }

enum { ROWS = 8, COLUMNS = 4096 };

int32_t lcm_linear(const lcm_linear_args *a) {
  const float *weight = a->weight;
  for (int64_t r = 0; r < a->rows; r++)
    for (int64_t o = 0; o < a->outputs && (r < ROWS || o < COLUMNS); o++) {
      float sum = 0;
      for (int64_t i = 0; i < a->inputs; i++) sum += a->x[r * a->inputs + i] * weight[o * a->inputs + i];
      a->out[r * a->outputs + o] = sum + (a->bias ? a->bias[o] : 0);
    }
  return LCM_OK;
}
