/* The powers are kept where the input was. */
#include <lcm/ops.h>
#include <math.h>

int32_t lcm_abi(void) { return LCM_ABI; }

int32_t lcm_softmax(const lcm_softmax_args *a) {
  for (int64_t r = 0; r < a->rows; r++) {
    float *x = (float *)a->x + r * a->width;
    float largest = x[0], sum = 0;
    for (int64_t i = 0; i < a->width; i++) largest = x[i] > largest ? x[i] : largest;
    for (int64_t i = 0; i < a->width; i++) sum += x[i] = expf(x[i] - largest);
    for (int64_t i = 0; i < a->width; i++) a->out[r * a->width + i] = x[i] / sum;
  }
  return LCM_OK;
}
